"""kod run"""

from __future__ import annotations

import click

from node.cli import Call, Command, node_option


@click.command(
    cls=Command,
    examples="""
        kod run --node 00
        kod run --node 01 --once
        kod run --node 01 --moved
    """,
)
@node_option()
@click.option("--once", is_flag=True, help="Until nothing moves any more; exit 1 if something could not be applied.")
@click.option("--moved", is_flag=True, help="The database was moved: the same node goes on where it is now.")
@click.option("--copy", is_flag=True, help="It is a copy for a test: it begins a life of its own in another network.")
@click.pass_obj
def command(call: Call, code: str, once: bool, moved: bool, copy: bool) -> int:
    """Runs a node: sends and receives until SIGTERM. Refuses where the database is not the one that the node lived in,
    or is older than the node: --moved and --copy say what became of it, `kod recover` rebuilds it."""
    if moved and copy:
        raise click.UsageError("--moved or --copy: it was one or the other")
    network = call.network(code)
    from node.config import filled_in
    from node.service import run

    return run(filled_in(network, code), code, once=once, moved=moved, copy=copy)

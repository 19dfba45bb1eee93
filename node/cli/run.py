"""kod run"""

from __future__ import annotations

import click

from node.cli import Call, Command, node_option


@click.command(
    cls=Command,
    examples="""
        kod run --node 00
        kod run --node 01 --once
    """,
)
@node_option()
@click.option("--once", is_flag=True, help="Until nothing moves any more; exit 1 if something could not be applied.")
@click.option("--moved", is_flag=True, help="The database was moved here: it is the same node, elsewhere.")
@click.option("--copy", is_flag=True, help="The database is a copy or was restored: a new incarnation of the node.")
@click.pass_obj
def command(call: Call, code: str, once: bool, moved: bool, copy: bool) -> int:
    """Runs a node: sends and receives until SIGTERM."""
    if moved and copy:
        raise click.UsageError("--moved and --copy contradict each other: is the old database still in use?")
    network = call.network(code)
    from node.config import filled_in
    from node.service import run

    options = {name: True for name, given in (("once", once), ("moved", moved), ("copy", copy)) if given}
    return run(filled_in(network, code), code, **options)

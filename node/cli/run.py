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
@click.pass_obj
def command(call: Call, code: str, once: bool) -> int:
    """Runs a node: sends and receives until SIGTERM."""
    network = call.network(code)
    from node.config import filled_in
    from node.service import run

    return run(filled_in(network, code), code, once=once)

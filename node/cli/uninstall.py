"""kod uninstall"""

from __future__ import annotations

from contextlib import closing

import click

from node.cli import Call, Command, node_option


@click.command(cls=Command, examples="kod uninstall --node 00")
@node_option()
@click.pass_obj
def command(call: Call, code: str) -> None:
    """Takes the registers and triggers out of the node's database again; the data stays."""
    network = call.network(code)
    from node.opened import connect

    with closing(connect(network, code)) as database, database.daemon_lock(code):
        database.uninstall()
    click.echo(f"node {code}: registers and triggers are taken out, the data is as it was")

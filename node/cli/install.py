"""kod install"""

from __future__ import annotations

from contextlib import closing

import click

from node.cli import Call, Command, node_option
from node.report import print_problem, progress


@click.command(
    cls=Command,
    examples="""
        kod install --node 00
        kod install --node 00 --stamp-existing
    """,
)
@node_option()
@click.option("--stamp-existing", is_flag=True, help="Stamps the rows that are there already, in portions; resumable.")
@click.option("--stamps-only", is_flag=True, help="The stamp register alone, without what КОД needs beside it.")
@click.pass_obj
def command(call: Call, code: str, stamp_existing: bool, stamps_only: bool) -> int:
    """Puts the registers and the capture triggers into the node's database. May be run again at any time: it adapts
    to tables that have changed. Exit 1 if a type cannot take part yet."""
    network = call.network(code)
    from node.hooks.dating import dates_by_hooks
    from node.opened import open_node

    settings = network.nodes[code]
    database, structure = open_node(network, code)
    refused = [m for m in structure.mismatches if m.effect == "refused"]
    with closing(database):
        installed = database.install(settings, structure, stamps_only=stamps_only)
        for text in installed.done:
            click.echo(text)
        if not installed.done:
            click.echo(f"node {code}: all of it was there already")
        if stamp_existing:
            with progress("stamping") as show, dates_by_hooks(network, code, database, structure) as dates:
                stamped = database.stamp_existing(structure, show, settings.portion_items_max, dates.by_type)
            click.echo(f"{stamped} items stamped")
            for text in dates.faults:
                print_problem(text, "these items are stamped as if there were no such hook")
    for mismatch in refused:
        print_problem(f"{mismatch.type} takes no part: {mismatch.text}", mismatch.hint)
    return 1 if refused else 0

"""kod explain"""

from __future__ import annotations

from contextlib import closing

import click

from node.cli import Call, Command, json_option, node_option, type_names
from node.report import print_facts, print_json, print_table


@click.command(
    cls=Command,
    examples="""
        kod explain --node 00 Document.Order 10248
        kod explain --node 00 InformationRegister.Price '[{"Catalog.Product":11},{"date":"2026-11-01"}]'
    """,
)
@node_option()
@json_option
@click.argument("type_name", metavar="TYPE")
@click.argument("key")
@click.pass_obj
def command(call: Call, code: str, as_json: bool, type_name: str, key: str) -> int:
    """Tells the story of one item: its stamp and version, its addressees and by which rule, with which message it went
    to each, where it waits; also parked at a neighbour, if that one's database can be reached from here.

    KEY is a bare value, a JSON array of values, or КОД's array of pairs. Exit 1 if nothing is known of the item."""
    network = call.network(code)
    type_names(network.nodes[code].exchange, type_name)
    from node.explaining import explain
    from node.opened import open_node
    from serializers.keys import Item, read

    database, structure = open_node(network, code)
    with closing(database):
        type_names(structure.types, type_name)
        item = Item(type_name, read(structure[type_name], key))
        told = explain(network, code, database, structure, item)
    known = bool(told["exists"] or told["stamp"] or told["parked"])
    if as_json:
        print_json(told)
        return 0 if known else 1
    addressees, parked = told.pop("addressees"), told.pop("parked")
    told["seen"] = ", ".join(f"{origin} {stamp}" for origin, stamp in told["seen"].items()) or None
    print_facts({name.replace("_", " "): value for name, value in told.items()})
    for waiting in parked:
        click.echo(
            f"waits in message {waiting['id']} from {waiting['from']}, parked here: {waiting['reason']}"
            f" (kod parked --node {code} show {waiting['id']})"
        )
    click.echo()
    print_table(
        ("to", "rule", "state"), [(a["node"], a["rule"], a["state"]) for a in addressees], empty="no neighbours"
    )
    for at, waiting in [(a["node"], waiting) for a in addressees for waiting in a["parked_there"] or ()]:
        click.echo(f"waits at {at} in message {waiting['id']}, parked there: {waiting['reason']}")
    return 0 if known else 1

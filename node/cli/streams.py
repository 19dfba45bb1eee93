"""kod streams"""

from __future__ import annotations

from contextlib import closing

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_json, print_table


@click.command(
    cls=Command,
    examples="""
        kod streams --node 00
        kod streams --node 00 --send 8 --receive 2
        kod streams --node 00 --receive 0
        kod streams --node 00 --reset
    """,
)
@node_option()
@click.option("--send", type=click.IntRange(min=0), help="Streams that send at once; 0 stops sending.")
@click.option("--receive", type=click.IntRange(min=0), help="Streams that receive at once; 0 stops receiving.")
@click.option("--reset", is_flag=True, help="Returns to what nodes.yaml says.")
@json_option
@click.pass_obj
def command(call: Call, code: str, send: int | None, receive: int | None, reset: bool, as_json: bool) -> None:
    """Shows or sets the maxima. They are kept in the node's database and go before nodes.yaml; a running daemon
    follows within two seconds."""
    if reset and (send is not None or receive is not None):
        raise click.UsageError("--reset goes alone: it returns both to nodes.yaml")
    network = call.network(code)
    from node.opened import connect

    settings = network.nodes[code]
    with closing(connect(network, code)) as database:
        if reset or send is not None or receive is not None:
            database.set_streams(send=send, receive=receive, reset=reset)
        figures = database.figures()
    rows = [
        ("send", figures.send_streams_max, settings.send_streams_max),
        ("receive", figures.receive_streams_max, settings.receive_streams_max),
    ]
    if as_json:
        found: dict[str, object] = {"node": code}
        for name, own, general in rows:
            found[f"{name}_streams_max"] = general if own is None else own
            found[f"{name}_streams_max_set"] = own is not None
        print_json(found)
        return
    print_table(
        ("streams", "maximum", "from"),
        [
            (name, general if own is None else own, "nodes.yaml" if own is None else "kod streams")
            for name, own, general in rows
        ],
    )

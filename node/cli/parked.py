"""kod parked"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_json, print_problem, print_table
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dispatcher.ports import Figures, Parked
    from schemas.network import Network


@click.command(
    cls=Command,
    examples="""
        kod parked --node 00
        kod parked --node 00 --json
        kod parked --node 00 show 3
    """,
)
@node_option()
@json_option
@click.argument("what", metavar="[show ID]", nargs=-1)
@click.pass_obj
def command(call: Call, code: str, as_json: bool, what: tuple[str, ...]) -> None:
    """Lists messages that could not be applied, and why; `show ID` prints one whole. They are tried again by
    themselves: when something they may wait for arrives, and from time to time."""
    if what and (len(what) != 2 or what[0] != "show"):
        raise click.UsageError(f"{' '.join(what)!r} is not understood: `show ID`, or nothing for the list")
    network = call.network(code)
    figures, parked = _parked(network, code)
    if what:
        _show(parked, what[1], code)
        return
    lines = [_line(one) for one in parked]
    if as_json:
        print_json(lines)
    else:
        print_table(
            ("id", "from", "message", "reason", "since", "attempts"),
            [[line[c] for c in ("id", "from", "message", "reason", "since", "attempts")] for line in lines],
            empty="nothing is parked",
        )
    for neighbour, link in figures.links.items():
        if link.get("fault"):
            print_problem(f"the link from {neighbour}: {link['fault']}", f"kod status --node {code}")


def _parked(network: Network, code: str) -> tuple[Figures, Sequence[Parked]]:
    from node.opened import open_node

    database, structure = open_node(network, code)
    with closing(database):
        figures = database.figures()
        if not figures.parked:
            return figures, ()
        with closing(database.store(network.nodes[code], structure)) as store:
            store.start(network.topology.neighbours(code))
            return figures, store.parked()


def _line(parked: Parked) -> dict[str, Any]:
    from schemas.stamp import digits

    return {
        "id": parked.id,
        "from": parked.node,
        "message": parked.name,
        "reason": parked.reason,
        "since": digits(parked.since),
        "waits_for": None,
        "attempts": parked.attempts,
    }


def _show(parked: Sequence[Parked], wanted: str, code: str) -> None:
    found = next((one for one in parked if str(one.id) == wanted), None)
    if found is None:
        raise ConfigError(
            f"no message {wanted!r} is parked at node {code}", hint=f"kod parked --node {code} lists them"
        )
    import orjson

    print_problem(f"{found.name}: {found.reason}")
    click.echo(orjson.dumps(orjson.loads(found.payload), option=orjson.OPT_INDENT_2).decode())

"""kod parked"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_json, print_problem, print_table
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dispatcher.ports import Parked
    from node.databases import Database
    from schemas.network import Network
    from serializers.keys import Item

_SHOWN = ("id", "from", "message", "reason", "since", "attempts")


@click.command(
    cls=Command,
    examples="""
        kod parked --node 00
        kod parked --node 00 show 3
        kod parked --node 00 retry
        kod parked --node 00 discard 3
    """,
)
@node_option()
@json_option
@click.argument("what", metavar="[show ID | retry [ID…] | discard ID]", nargs=-1)
@click.pass_obj
def command(call: Call, code: str, as_json: bool, what: tuple[str, ...]) -> None:
    """Lists messages that could not be applied, and why. They are tried again by themselves, when something they may
    wait for arrives and from time to time; `retry` does so at once, `discard` throws one away, `show` prints it.

    What was no message of its link (broken, or another's) is listed too, and never tried: it goes from the list when
    its sender has sent everything again."""
    act, ids = _understood(what)
    network = call.network(code)
    from node.opened import connect

    with closing(connect(network, code)) as database:
        if act == "retry":
            _retry(database, ids, code)
        elif act == "discard":
            _discard(database, ids[0], code)
        elif act == "show":
            _show(database.parked(), ids[0], code)
        else:
            parked = database.parked()
            _list([_line(one, _keys_of(database, network, code, parked)) for one in parked], as_json)
            for neighbour, link in database.figures().links.items():
                if link.get("fault"):
                    print_problem(f"the link from {neighbour}: {link['fault']}", f"kod status --node {code}")


def _understood(what: tuple[str, ...]) -> tuple[str, list[int]]:
    act, ids = (what[0], what[1:]) if what else ("list", ())
    fits = {"list": len(ids) == 0, "show": len(ids) == 1, "discard": len(ids) == 1, "retry": True}
    if not fits.get(act, False) or not all(number.isdecimal() for number in ids):
        raise click.UsageError(f"{' '.join(what)!r} is not understood: `show ID`, `retry [ID…]` or `discard ID`")
    return act, [int(number) for number in ids]


def _list(lines: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(lines)
    else:
        print_table(_SHOWN, [[line[column] for column in _SHOWN] for line in lines], empty="nothing is parked")


def _keys_of(database: Database, network: Network, code: str, parked: Sequence[Parked]) -> Callable[[Item], str]:
    """How keys are written; as they are kept where the node's structure cannot be told, which may be why they wait."""
    from node.opened import structure_of
    from serializers.keys import written

    try:
        structure = structure_of(database, network, code, []) if any(one.waits_for for one in parked) else None
    except ConfigError:
        structure = None

    def key_of(item: Item) -> str:
        item_type = structure.types.get(item.type) if structure is not None else None
        return written([f.prop for f in item_type.key], item.key) if item_type is not None else item.key

    return key_of


def _line(parked: Parked, key_of: Callable[[Item], str]) -> dict[str, Any]:
    from schemas.stamp import digits

    return {
        "id": parked.id,
        "from": parked.node,
        "message": parked.name,
        "reason": parked.reason,
        "since": digits(parked.since),
        "waits_for": [{"type": item.type, "key": key_of(item)} for item in parked.waits_for] or None,
        "attempts": max(0, parked.attempts),
        "refused": parked.refused,
    }


def _retry(database: Database, ids: Sequence[int], code: str) -> None:
    known = {one.id: one for one in database.parked()} if ids else {}
    for wanted in ids:
        if wanted not in known:
            raise _not_there(wanted, code)
        if known[wanted].refused:
            raise ConfigError(
                f"message {wanted} cannot be tried: {known[wanted].reason}",
                hint=f"what its sender meant comes again by itself; kod parked --node {code} discard {wanted}",
            )
    count = database.retry_parked(ids)
    click.echo(f"{count} message(s) will be tried again by the running daemon, or when it starts")


def _discard(database: Database, parked_id: int, code: str) -> None:
    if not database.discard_parked(parked_id):
        raise _not_there(parked_id, code)
    click.echo(f"message {parked_id} is discarded: what it says does not arrive by it")


def _show(parked: Sequence[Parked], wanted: int, code: str) -> None:
    found = next((one for one in parked if one.id == wanted), None)
    if found is None:
        raise _not_there(wanted, code)
    import orjson

    print_problem(f"{found.name}: {found.reason}")
    try:
        click.echo(orjson.dumps(orjson.loads(found.payload), option=orjson.OPT_INDENT_2).decode())
    except orjson.JSONDecodeError:
        click.echo(found.payload.decode(errors="replace"))


def _not_there(parked_id: int, code: str) -> ConfigError:
    return ConfigError(f"no message {parked_id} is parked at node {code}", hint=f"kod parked --node {code} lists them")

"""kod collisions"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_facts, print_json, print_problem, print_table
from schemas.errors import ConfigError, MessageError

if TYPE_CHECKING:
    from schemas.structure import Structure
    from serializers.keys import Item


@click.command(
    cls=Command,
    examples="""
        kod collisions --node 00
        kod collisions --node 00 show 17
        kod collisions --node 00 restore 17
    """,
)
@node_option()
@json_option
@click.argument("what", metavar="[show ID | restore ID]", nargs=-1)
@click.pass_obj
def command(call: Call, code: str, as_json: bool, what: tuple[str, ...]) -> int:
    """Lists the journal of collisions: the item, both versions, who won, when. `show ID` shows what they have
    differently and both values whole. `restore ID` puts the losing version back, as an ordinary change that is made
    now (a deletion that lost deletes the item); exit 1 where the database does not take it."""
    act, wanted = _understood(what)
    network = call.network(code)
    from node.journal import differing, lines_of, restore
    from node.opened import open_node

    database, structure = open_node(network, code)
    with closing(database):
        if act == "restore":
            return _restored(lambda: restore(database, structure, wanted, code), structure, wanted)
        lines = lines_of(database, structure)
    if act == "list":
        _print_list(lines, as_json)
        return 0
    found = next((line for line in lines if line["id"] == wanted), None)
    if found is None:
        raise ConfigError(
            f"there is no collision '{wanted}' in the journal of node {code}", hint="kod collisions lists it"
        )
    _print_one({**found, "differences": differing(found, structure)}, as_json)
    return 0


def _understood(what: tuple[str, ...]) -> tuple[str, int]:
    if not what:
        return "list", 0
    if len(what) == 2 and what[0] in ("show", "restore") and what[1].isdecimal():
        return what[0], int(what[1])
    raise click.UsageError(f"{' '.join(what)!r} is not understood: `show ID`, `restore ID`, or nothing for the list")


def _restored(restore: Callable[[], Item], structure: Structure, wanted: int) -> int:
    from serializers.keys import written

    try:
        item = restore()
    except MessageError as error:
        hint = error.hint or "what it refers to has to be here first; `kod collisions show` shows it"
        print_problem(f"collision {wanted} cannot be restored: {error.text}", hint)
        return 1
    key = written([f.prop for f in structure[item.type].key], item.key)
    click.echo(f"{item.type} {key} is as the version that lost; it travels as a change made now")
    return 0


def _print_list(lines: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json([{k: v for k, v in line.items() if k not in ("winner_value", "loser_value")} for line in lines])
        return
    print_table(
        ("id", "at", "type", "key", "winner", "loser", "policy"),
        [
            (
                line["id"],
                line["at"],
                line["type"],
                line["key"],
                _version(line["winner"]),
                _version(line["loser"]),
                line["policy"],
            )
            for line in lines
        ],
        empty="no collisions",
    )


def _print_one(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(line)
        return
    values = {name: line.pop(f"{name}_value") for name in ("winner", "loser")}
    versions = {name: _version(line[name]) for name in values}
    differences = line.pop("differences")
    print_facts({**line, **versions})
    if differences:
        click.echo()
        names = ("property", "winner", "loser")
        print_table(names, [[_shown(one[name]) for name in names] for one in differences])
    import orjson

    for name, value in values.items():
        text = "deleted" if value is None else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        click.echo(f"\n{name} ({versions[name]})\n{text}")


def _shown(value: Any) -> Any:
    """Rows as one line of JSON; a text as it is."""
    if not isinstance(value, dict | list):
        return value
    import orjson

    return orjson.dumps(value).decode()


def _version(version: Mapping[str, Any]) -> str:
    return f"{version['stamp']} {version['origin']}"

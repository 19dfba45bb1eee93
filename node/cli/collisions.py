"""kod collisions"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_facts, print_json, print_table
from schemas.errors import ConfigError


@click.command(
    cls=Command,
    examples="""
        kod collisions --node 00
        kod collisions --node 00 show 17
    """,
)
@node_option()
@json_option
@click.argument("what", metavar="[show ID]", nargs=-1)
@click.pass_obj
def command(call: Call, code: str, as_json: bool, what: tuple[str, ...]) -> None:
    """Lists the journal of collisions: the item, both versions, who won, when. `show ID` shows both values whole."""
    wanted = _wanted(what)
    network = call.network(code)
    from node.journal import lines_of
    from node.opened import open_node

    database, structure = open_node(network, code)
    with closing(database):
        lines = lines_of(database, structure)
    if wanted is None:
        _print_list(lines, as_json)
        return
    found = next((line for line in lines if str(line["id"]) == wanted), None)
    if found is None:
        raise ConfigError(
            f"there is no collision {wanted!r} in the journal of node {code}", hint="kod collisions lists it"
        )
    _print_one(found, as_json)


def _wanted(what: tuple[str, ...]) -> str | None:
    if not what:
        return None
    if len(what) == 2 and what[0] == "show":
        return what[1]
    raise click.UsageError(f"{' '.join(what)!r} is not understood: `show ID`, or nothing for the list")


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
    print_facts({**line, **versions})
    import orjson

    for name, value in values.items():
        text = "deleted" if value is None else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        click.echo(f"\n{name} ({versions[name]})\n{text}")


def _version(version: Mapping[str, Any]) -> str:
    return f"{version['stamp']} {version['origin']}"

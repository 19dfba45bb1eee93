"""kod compare"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node.cli import Call, Command, json_option, node_option, type_names
from node.report import print_json, print_table

if TYPE_CHECKING:
    from node.comparing import Comparison, Difference

ROWS_MAX = 50
"""Differences shown to people: more of them say nothing more."""


@click.command(
    cls=Command,
    examples="""
        kod compare --node 00 --with 01
        kod compare --node 00 --with 01 --type Document.Order --json
        kod compare --node 00 --with 01 --repair
    """,
)
@node_option()
@click.option("--with", "other", metavar="CODE", required=True, help="The other node.")
@click.option("--type", "type_name", metavar="TYPE", help="This type only.")
@click.option("--repair", is_flag=True, help="Sends again what differs, from the node that has the newer version.")
@json_option
@click.pass_obj
def command(call: Call, code: str, other: str, type_name: str | None, repair: bool, as_json: bool) -> int:
    """Compares what both nodes should have, by digests over the properties that both have. What is on its way between
    them, and what waits in a parked message, is listed apart; the latter is not repaired. Exit 1 if they differ or
    something is parked, 3 unless both databases can be reached."""
    if code == other:
        raise click.UsageError(f"--with names the same node, {code}")
    network = call.network(code)
    from node.comparing import compare
    from node.config import node_settings

    node_settings(network, other)
    if type_name is not None:
        type_names(network.nodes[code].exchange, type_name)
    found = compare(network, code, other, type_name, repair=repair)
    if as_json:
        print_json(
            {
                "node": code,
                "with": other,
                "items": found.items,
                "types": found.per_type,
                "differences": [d.as_dict() for d in found.lasting],
                "on_their_way": [d.as_dict() for d in found.on_their_way],
                "parked": [d.as_dict() for d in found.parked],
                "left_out": found.left_out,
                "repaired": found.repaired,
            }
        )
        return _exit_code(found)
    _print_rows(found.lasting, code, other)
    if found.on_their_way:
        click.echo("on their way:")
        _print_rows(found.on_their_way, code, other)
    if found.parked:
        click.echo("waiting in parked messages (kod parked):")
        _print_parked(found.parked)
    for name, reason in found.left_out.items():
        click.echo(f"not compared: {name}, {reason}")
    agree = "they agree" if not found.parked else "the rest agrees"
    verdict = f"{len(found.lasting)} differ" if found.lasting else agree
    waiting = f"{len(found.on_their_way)} on their way" + (f", {len(found.parked)} parked" if found.parked else "")
    click.echo(f"{found.items} items at {code} and {other}: {verdict}, {waiting}")
    if repair:
        click.echo(f"{found.repaired} items sent again")
    return _exit_code(found)


def _exit_code(found: Comparison) -> int:
    """What is on its way arrives by itself; what is parked may need a person."""
    return 1 if found.lasting or found.parked else 0


def _print_parked(differences: list[Difference]) -> None:
    rows = [(d.item.type, d.written_key, w) for d in differences[:ROWS_MAX] for w in d.parked]
    for name, key, waiting in rows:
        click.echo(f"{name} {key} waits, parked at {waiting.node}: {waiting.reason} (message {waiting.id})")
    _say_more(differences)


def _print_rows(differences: list[Difference], code: str, other: str) -> None:
    rows = [d.as_dict() for d in differences[:ROWS_MAX]]
    if rows:
        print_table(
            ("type", "key", "only at", f"stamp at {code}", f"stamp at {other}"),
            [(r["type"], r["key"], r["only_at"], r["stamps"][code], r["stamps"][other]) for r in rows],
        )
    _say_more(differences)


def _say_more(differences: list[Difference]) -> None:
    if len(differences) > ROWS_MAX:
        click.echo(f"… and {len(differences) - ROWS_MAX} more; --json lists them all")

"""kod history"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from node.cli import Call, Command, json_option, node_option, type_names
from node.report import print_json, print_table, progress
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from node.databases import Database
    from schemas.stamp import Stamp

LOOK_EVERY_S = 0.2
REASON = "kod history"
_SHOWN = ("id", "to", "reason", "type", "from", "state", "sent", "passed", "total", "everything_since")


@click.command(
    cls=Command,
    examples="""
        kod history --node 00 --to 01
        kod history --node 00 --to 01 --type Document.Order --from 20260101 --wait
        kod history --node 00 --list
        kod history --node 00 --cancel 3
    """,
)
@node_option()
@click.option("--to", metavar="CODE", help="The neighbour that lacks something.")
@click.option("--type", "type_name", metavar="TYPE", help="Of this type only.")
@click.option("--from", "down_to", metavar="STAMP", help="Down to this stamp (20260101…), from the freshest on.")
@click.option("--wait", is_flag=True, help="Until it is done, with a bar; a daemon has to run.")
@click.option("--list", "listed", is_flag=True, help="Lists what goes by history, and what has ended.")
@click.option("--cancel", "cancelled", metavar="ID", type=int, help="Ends one: what it has not sent stays unsent.")
@json_option
@click.pass_obj
def command(
    call: Call,
    code: str,
    to: str | None,
    type_name: str | None,
    down_to: str | None,
    wait: bool,
    listed: bool,
    cancelled: int | None,
    as_json: bool,
) -> int:
    """Queues the sending of what a neighbour lacks, from fresh to old, behind live changes. What it has is not sent
    again. The running daemon begins within a second; without one it is sent when the node runs next."""
    if sum((to is not None, listed, cancelled is not None)) != 1:
        raise click.UsageError("one of --to CODE, --list and --cancel ID is needed")
    if to is None and (type_name or down_to or wait):
        raise click.UsageError("--type, --from and --wait go with --to")
    network = call.network(code)
    from node.opened import connect, open_node

    if to is None:
        with closing(connect(network, code)) as database:
            return _list(database, as_json) if cancelled is None else _cancel(database, code, cancelled)
    neighbours = network.topology.neighbours(code)
    if to not in neighbours:
        raise ConfigError(f"{to} is no neighbour of {code}", hint=f"its neighbours: {', '.join(neighbours) or 'none'}")
    from schemas.stamp import parse

    stamp = parse(down_to) if down_to else None
    database, structure = open_node(network, code)
    with closing(database):
        return _add(database, to, type_names(structure.types, type_name) if type_name else None, stamp, wait, as_json)


def _add(database: Database, to: str, type_name: str | None, down_to: Stamp | None, wait: bool, as_json: bool) -> int:
    number = database.history_add(to, type_name, down_to, REASON)
    found = _wait(database, number) if wait else _facts(database)[number]
    if as_json:
        print_json(found)
    elif wait:
        click.echo(f"history {number} to {to} is {found['state']}: {found['sent']} items sent")
    else:
        click.echo(f"history {number} to {to} is queued: {found['total']} items are looked at")
    return 0 if not wait or found["state"] == "done" else 1


def _facts(database: Database) -> dict[int, dict[str, Any]]:
    from node.histories import facts

    return {one.id: facts(one) for one in database.figures().histories}


def _wait(database: Database, number: int) -> dict[str, Any]:
    from node.histories import done_and_total

    with progress("sent to") as show:
        while True:
            found = _facts(database).get(number)
            if found is None:
                raise ConfigError(f"history {number} is not there any more", hint="kod history --list")
            if found["state"] == "open":
                done, total = done_and_total(found)
                show(found["to"], min(done, total - 1), total)
                time.sleep(LOOK_EVERY_S)
                continue
            show(found["to"], *done_and_total(found))
            return found


def _list(database: Database, as_json: bool) -> int:
    lines = list(_facts(database).values())
    if as_json:
        print_json(lines)
    else:
        print_table(
            [name.replace("_", " ") for name in _SHOWN],
            [[line[name] for name in _SHOWN] for line in lines],
            empty="nothing goes by history",
        )
    return 0


def _cancel(database: Database, code: str, number: int) -> int:
    if not database.history_cancel(number):
        raise ConfigError(f"no history {number} is open at node {code}", hint=f"kod history --node {code} --list")
    click.echo(f"history {number} is cancelled: what it has not sent stays unsent")
    return 0

"""kod status"""

from __future__ import annotations

from typing import Any

import click

from node.cli import Call, Command, json_option, node_option
from node.histories import progress_line
from node.report import print_error, print_facts, print_json, print_problem, print_table
from schemas.errors import ConfigError, UnavailableError

UNAVAILABLE = 3


@click.command(
    cls=Command,
    examples="""
        kod status
        kod status --node 00
        kod status --node 00 --json | jq .boundary_lag_ms
    """,
)
@node_option(needed=False, help="This node only (KOD_NODE); all that can be reached unless given.")
@json_option
@click.pass_obj
def command(call: Call, code: str | None, as_json: bool) -> int:
    """Shows the boundary and how far it is behind, items waiting, the last session, each neighbour both ways, parked
    messages and collisions. Exit 3 if the node, or the bus, cannot be reached."""
    network = call.network(code)
    from node.status import status_of

    if code:
        status = status_of(network, code)
        if as_json:
            print_json(status.facts)
        else:
            _print_node(status.facts)
        return _bus_away(status.bus_error)
    found: list[dict[str, Any]] = []
    bus_error = None
    for node in network.nodes:
        try:
            status = status_of(network, node)
        except (UnavailableError, ConfigError) as error:
            print_problem(f"node {node} is left out: {error.text}", error.hint)
            continue
        found.append(status.facts)
        bus_error = bus_error or status.bus_error
    if as_json:
        print_json(found)
    else:
        _print_nodes(found)
    return _bus_away(bus_error)


def _bus_away(error: UnavailableError | None) -> int:
    if error is None:
        return 0
    print_error(error)
    return UNAVAILABLE


def _print_nodes(found: list[dict[str, Any]]) -> None:
    print_table(
        ("node", "name", "boundary", "behind ms", "waiting", "queue", "parked", "collisions", "missing"),
        [
            (
                facts["node"],
                facts["name"],
                facts["boundary"],
                facts["boundary_lag_ms"],
                facts["items_waiting"],
                sum(link["queue_messages"] or 0 for link in facts["links"]),
                facts["parked"],
                facts["collisions"],
                ", ".join(f"from {link['node']}" for link in facts["links"] if link["fault"]),
            )
            for facts in found
        ],
        empty="no node's database can be reached from here",
    )


def _of_hooks(facts: dict[str, Any]) -> dict[str, str]:
    """What hooks keep, where they keep anything."""
    held, deferred = facts["held"], facts["deferred"]
    said = {}
    if held["items"]:
        said["held"] = f"{held['items']} items: {held['reason']}"
    if deferred["waiting"]:
        said["deferred"] = f"{deferred['waiting']} works wait, the oldest {deferred['oldest_ms']} ms"
        if deferred["failing"]:
            said["deferred"] += f"; {deferred['failing']} failed: {deferred['reason']}"
    return said


def _print_node(facts: dict[str, Any]) -> None:
    session = facts["last_session"]
    apart = ("links", "last_session", "held", "deferred", "stamped")
    said = {name.replace("_", " "): v for name, v in facts.items() if name not in apart}
    if session:
        size = f"messages {session['messages']}, items {session['items']}, took {session['took_ms']} ms"
        said["last session"] = f"{session['stamp']}  {size}"
    said |= _of_hooks(facts)
    if waiting := facts["stamped"]["waiting"]:
        since = facts["stamped"]["everything_since"]
        said["stamped"] = f"{waiting} rows that were there go from fresh to old; those since {since} are under way"
    print_facts(said)
    click.echo()
    columns = (
        "node",
        "sent_messages",
        "sent_items",
        "received_messages",
        "received_items",
        "rejected_items",
        "queue_messages",
        "queue_bytes",
        "queue_wait_ms",
        "end_to_end_ms",
    )
    print_table(
        [c.replace("_", " ") for c in columns],
        [[link[c] for c in columns] for link in facts["links"]],
        empty="no neighbours",
    )
    for link in facts["links"]:
        for history in link["history"]:
            click.echo(progress_line(link["node"], history))
        if link["package_is"] in ("older", "other"):
            which = "an earlier package of this node's" if link["package_is"] == "older" else "another package"
            click.echo(f"{link['node']} works with {which}, {link['package']}, since {link['package_since']}")
        if link["fault"]:
            print_problem(f"the link from {link['node']}: {link['fault']}")

"""How a node is doing: the registers' figures and the bus's backlog, in the words of contract.md.

Computed beside the daemon, from the database and the bus alone, so that it is there too when no daemon runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

from dispatcher.ports import Backlog, Figures, HookFigures
from node.config import filled_in
from node.databases import Database
from node.histories import facts
from node.opened import open_node
from schemas.errors import UnavailableError
from schemas.network import Network, NodeSettings
from schemas.stamp import Stamp, digits
from schemas.structure import Structure

_COUNTERS = ("sent_messages", "sent_items", "received_messages", "received_items", "rejected_items")


class Status(NamedTuple):
    """A node's status, and what could not be found out for it."""

    facts: dict[str, Any]
    bus_error: UnavailableError | None


def status_of(network: Network, code: str) -> Status:
    """Raises UnavailableError when the database cannot be reached; without the bus its figures are null."""
    database, structure = open_node(network, code, [])  # hooks that are being mended do not keep anybody from looking
    with closing(database):
        figures = database.figures()
        try:
            queues: Mapping[str, Backlog] = backlogs(network, code, database, structure, figures)
            bus_error = None
        except UnavailableError as error:
            queues, bus_error = {}, error
        dialect = database.dialect
    facts = describe(network, network.nodes[code], figures, queues, now_ms=time.time_ns() // 1_000_000)
    if dialect == "sqlite":
        facts["note"] = "SQLite has one writer: messages are applied one at a time here"
    if dialect == "mariadb":
        facts["note"] = "over MariaDB messages are applied one at a time"
    return Status(facts, bus_error)


def backlogs(
    network: Network, code: str, database: Database, structure: Structure, figures: Figures
) -> dict[str, Backlog]:
    """What has come from each neighbour and is not applied. Raises UnavailableError."""
    from node.buses import open_bus

    opened = filled_in(network, code)
    neighbours = network.topology.neighbours(code)
    with closing(open_bus(opened.bus, network.name, code, neighbours, opened.kafka)) as bus:
        if not opened.bus.startswith("folder:"):  # a folder has only what is not applied: it needs no positions
            bus.open(_positions(network, code, database, structure, figures))
        return {neighbour: bus.backlog(neighbour) for neighbour in neighbours}


def _positions(
    network: Network, code: str, database: Database, structure: Structure, figures: Figures
) -> dict[str, int | None]:
    """The bus's positions, as the node's database keeps them."""
    neighbours = network.topology.neighbours(code)
    known = {
        n: figures.links[n]["received_position"] for n in neighbours if "received_position" in figures.links.get(n, {})
    }
    if len(known) == len(neighbours):
        return known
    with closing(database.store(network.nodes[code], structure)) as store:
        store.start(neighbours)
        return {neighbour: store.incoming(neighbour).position for neighbour in neighbours}


def describe(
    network: Network, settings: NodeSettings, figures: Figures, queues: Mapping[str, Backlog], *, now_ms: int
) -> dict[str, Any]:
    """The figures as contract.md names them; everything in it is JSON."""
    send, receive = figures.send_streams_max, figures.receive_streams_max
    neighbours = network.topology.neighbours(settings.code)
    links = [_link(n, figures, queues.get(n), now_ms) for n in neighbours]
    return {
        "node": settings.code,
        "name": settings.name,
        "boundary": digits(figures.boundary) if figures.boundary is not None else None,
        "boundary_lag_ms": _lag_ms(figures, now_ms),
        "items_waiting": figures.items_waiting,
        "missed": figures.missed,
        "send_streams_max": settings.send_streams_max if send is None else send,
        "receive_streams_max": settings.receive_streams_max if receive is None else receive,
        "last_session": _last_session(figures.last_session),
        "links": links,
        "parked": figures.parked,
        "collisions": figures.collisions,
        "bus_ahead_ms": figures.bus_ahead_ms,
        "clock_off": abs(figures.bus_ahead_ms or 0) > settings.clock_skew_max_s * 1000,
        "package": figures.package,
        "draining": figures.draining,
        "held": {"items": figures.hooks.held, "reason": figures.hooks.held_reason},
        "deferred": _deferred(figures.hooks, now_ms),
        "stamped": _stamped(figures),
    }


def _stamped(figures: Figures) -> dict[str, Any]:
    """Rows that were stamped while links were there, from fresh to old: how many wait for their turn, and what has
    had it."""
    following = figures.stamped_next
    return {
        "waiting": figures.stamped_waiting,
        "everything_since": None if following is None else digits(Stamp(following + 1)),
    }


def _deferred(figures: HookFigures, now_ms: int) -> dict[str, Any]:
    """The queue of work that hooks have put off."""
    oldest = figures.deferred_oldest
    return {
        "waiting": figures.deferred,
        "failing": figures.deferred_failing,
        "oldest_ms": None if oldest is None else max(0, now_ms - oldest),
        "reason": figures.deferred_reason,
    }


def _lag_ms(figures: Figures, now_ms: int) -> int:
    if not figures.items_waiting or figures.oldest_waiting is None:
        return 0
    return max(0, now_ms - figures.oldest_waiting)


def _last_session(raw: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not raw or raw.get("stamp") is None:
        return None
    stamp = raw["stamp"]
    return {
        "stamp": digits(Stamp(stamp)) if isinstance(stamp, int) else stamp,
        **{name: raw.get(name, 0) for name in ("messages", "items", "took_ms")},
    }


def _link(node: str, figures: Figures, queue: Backlog | None, now_ms: int) -> dict[str, Any]:
    raw = figures.links.get(node, {})
    link: dict[str, Any] = {"node": node, **{name: raw.get(name) or 0 for name in _COUNTERS}}
    link["queue_messages"] = queue.messages if queue else None
    link["queue_bytes"] = queue.size_bytes if queue else None
    link["queue_wait_ms"] = _wait_ms(queue, now_ms) if queue else None
    link["end_to_end_ms"] = raw.get("end_to_end_ms")
    link["pending"] = raw.get("pending") or 0
    link["fault"] = raw.get("fault")
    link |= _package(raw, figures.package)
    link["history"] = [facts(one) for one in figures.histories if one.node == node and one.state == "open"]
    return link


def _package(raw: Mapping[str, Any], own: str | None) -> dict[str, Any]:
    """The package that the neighbour works with: `same` as the one here, `older` (this node had it once), or `other`,
    one that this node never had: a newer one, mostly. `package_since`: since when it says so."""
    package, since, was = raw.get("package"), raw.get("package_since"), raw.get("package_was")
    kind = None if package is None or own is None else "same" if package == own else "other" if was is None else "older"
    return {
        "package": package,
        "package_is": kind,
        "package_since": digits(Stamp(since)) if since is not None else None,
    }


def _wait_ms(queue: Backlog, now_ms: int) -> int:
    return max(0, now_ms - queue.oldest_ms) if queue.messages and queue.oldest_ms is not None else 0

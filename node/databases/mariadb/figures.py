"""What `kod status` asks of the registers."""

from __future__ import annotations

import orjson

from dispatcher.ports import LINK_FIGURES, Figures
from node.databases.mariadb import history
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.hooked import hook_tables
from node.databases.stamped import WAITS, stamp_of
from schemas.stamp import Stamp, digits

# What was stamped and waits for the node to be started for the first time has no mark, and no cursor yet. What is older
# than the node's life was there before: once there is a boundary, nothing lags behind because of it.
_WAITING = """SELECT COUNT(*), MIN(CASE WHEN stamp >= life THEN stamp WHEN boundary IS NULL THEN life END) FROM
    (SELECT incarnation * 1000 AS life, boundary FROM kod_node) node, (
    SELECT type, item_key, MIN(stamp) AS stamp FROM (
        SELECT type, item_key, at AS stamp FROM kod_log
        UNION ALL
        SELECT g.type, g.item_key, g.stamp FROM kod_register g
        WHERE g.mark > 0 AND g.mark > (SELECT MIN(position) FROM kod_outgoing)
          AND EXISTS (SELECT 1 FROM kod_outgoing o WHERE o.position < g.mark AND NOT o.node <=> g.source)
        UNION ALL
        SELECT g.type, g.item_key, g.stamp FROM kod_register g
        WHERE g.mark = 0 AND NOT EXISTS (SELECT 1 FROM kod_outgoing)
          AND EXISTS (SELECT 1 FROM kod_node WHERE kept_at IS NULL)
        UNION ALL
        SELECT g.type, g.item_key, g.stamp FROM kod_pending p
        JOIN kod_register g ON g.type = p.type AND g.item_key = p.item_key) every
    GROUP BY type, item_key) item"""


def figures(connection: Connection) -> Figures:
    boundary, missed, facts, send, receive, bus_ahead_ms, draining, package = connection.one(
        "SELECT boundary, missed, last_session_facts, send_streams_max, receive_streams_max, bus_ahead_ms, draining,"
        " (SELECT fingerprint FROM kod_packages ORDER BY since DESC LIMIT 1) FROM kod_node"
    )
    waiting, oldest = connection.one(_WAITING)
    stamped, lowest = connection.one(
        f"SELECT COUNT(*), MIN(mark) FROM kod_register FORCE INDEX (by_mark) WHERE {WAITS}"
    )
    cursors = history.histories(connection, ended=True)
    waiting += stamped + sum(max(1, cursor.total - cursor.passed) for cursor in cursors if cursor.state == "open")
    last_session = orjson.loads(facts) if facts else None
    if last_session:
        last_session["stamp"] = digits(Stamp(last_session["stamp"]))
    (collisions,) = connection.one("SELECT COUNT(*) FROM kod_collisions")
    (parked,) = connection.one("SELECT COUNT(*) FROM kod_parked")
    rows = connection.rows(
        "SELECT o.node, o.messages, o.items, COALESCE(i.messages, 0), COALESCE(i.items, 0), COALESCE(i.rejected, 0),"
        " i.end_to_end_ms, o.position, (SELECT COUNT(*) FROM kod_pending p WHERE p.node = o.node), i.fault,"
        " o.last_session, o.arrived, i.package, i.package_since, k.since"
        " FROM kod_outgoing o LEFT JOIN kod_incoming i ON i.node = o.node"
        " LEFT JOIN kod_packages k ON k.fingerprint = i.package ORDER BY o.node"
    )
    return Figures(
        boundary=Stamp(boundary) if boundary is not None else None,
        items_waiting=waiting,
        oldest_waiting=Stamp(oldest) if oldest is not None else None,
        missed=missed,
        last_session=last_session,
        links={node: dict(zip(LINK_FIGURES, values, strict=True)) for node, *values in rows},
        parked=parked,
        collisions=collisions,
        send_streams_max=send,
        receive_streams_max=receive,
        histories=cursors,
        bus_ahead_ms=bus_ahead_ms,
        draining=draining,
        package=package,
        hooks=hook_tables(connection, {}).figures(),
        stamped_waiting=stamped,
        stamped_next=stamp_of(lowest),
    )

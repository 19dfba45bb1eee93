"""What `kod status` asks of the registers."""

from __future__ import annotations

from dispatcher.ports import LINK_FIGURES, Figures
from node.databases.postgresql import history
from node.databases.postgresql.connecting import Connection
from node.databases.postgresql.hooked import hook_tables
from node.databases.stamped import WAITS, stamp_of
from schemas.stamp import Stamp, digits

_NODE = """
SELECT boundary, missed, send_streams_max, receive_streams_max, (SELECT count(*) FROM kod.collisions),
  (SELECT count(*) FROM kod.parked), bus_ahead_ms, draining,
  (SELECT fingerprint FROM kod.packages ORDER BY since DESC LIMIT 1) FROM kod.node"""

# What was stamped and waits for the node to be started for the first time has no mark, and no cursor yet. What is older
# than the node's life was there before: once there is a boundary, nothing lags behind because of it.
_WAITING = """
SELECT count(*), min(CASE WHEN stamp >= life THEN stamp WHEN boundary IS NULL THEN life END) FROM
  (SELECT incarnation * 1000 AS life, boundary FROM kod.node) node, (
  SELECT type, key, min(stamp) AS stamp FROM (
    SELECT type, key, at AS stamp FROM kod.log
    UNION ALL
    SELECT r.type, r.key, r.stamp FROM kod.register r
    WHERE r.mark > 0 AND r.mark > (SELECT min(position) FROM kod.outgoing)
      AND EXISTS (SELECT FROM kod.outgoing o WHERE o.position < r.mark AND o.node IS DISTINCT FROM r.source)
    UNION ALL
    SELECT r.type, r.key, r.stamp FROM kod.register r
    WHERE r.mark = 0 AND NOT EXISTS (SELECT FROM kod.outgoing) AND EXISTS (SELECT FROM kod.node WHERE kept_at IS NULL)
    UNION ALL
    SELECT r.type, r.key, r.stamp FROM kod.pending p JOIN kod.register r ON r.type = p.type AND r.key = p.key
  ) every GROUP BY type, key
) item"""

_STAMPED = f"SELECT count(*), min(mark) FROM kod.register WHERE {WAITS}"

_LINKS = """
SELECT o.node, o.messages, o.items, coalesce(i.messages, 0), coalesce(i.items, 0), coalesce(i.rejected, 0),
  i.end_to_end_ms, o.position, (SELECT count(*) FROM kod.pending p WHERE p.node = o.node), i.fault,
  o.last_session, o.arrived, i.package, i.package_since, k.since
FROM kod.outgoing o LEFT JOIN kod.incoming i ON i.node = o.node
LEFT JOIN kod.packages k ON k.fingerprint = i.package ORDER BY o.node"""

# Addressees of one session bear the same stamp: they are added up.
_LAST_SESSION = """
SELECT CAST(last_session_facts ->> 'stamp' AS bigint), sum(CAST(last_session_facts ->> 'messages' AS bigint))::bigint,
  sum(CAST(last_session_facts ->> 'items' AS bigint))::bigint,
  max(CAST(last_session_facts ->> 'took_ms' AS bigint))::bigint
FROM kod.outgoing WHERE last_session_facts IS NOT NULL GROUP BY 1 ORDER BY 1 DESC LIMIT 1"""


def figures(connection: Connection) -> Figures:
    row = connection.execute(_NODE).fetchone()
    boundary, missed, send, receive, collisions, parked, bus_ahead_ms, draining, package = row or (
        None,
        0,
        None,
        None,
        0,
        0,
        None,
        None,
        None,
    )
    waiting, oldest = connection.execute(_WAITING).fetchone() or (0, None)
    stamped, lowest = connection.execute(_STAMPED).fetchone() or (0, None)
    cursors = history.histories(connection, ended=True)
    waiting += stamped + sum(max(1, cursor.total - cursor.passed) for cursor in cursors if cursor.state == "open")
    last = connection.execute(_LAST_SESSION).fetchone()
    facts = None
    if last:
        facts = {"stamp": digits(Stamp(last[0])), "messages": last[1], "items": last[2], "took_ms": last[3]}
    return Figures(
        boundary=Stamp(boundary) if boundary is not None else None,
        items_waiting=waiting,
        oldest_waiting=Stamp(oldest) if oldest is not None else None,
        missed=missed,
        last_session=facts,
        links={
            node: dict(zip(LINK_FIGURES, values, strict=True))
            for node, *values in connection.execute(_LINKS).fetchall()
        },
        parked=parked,
        collisions=collisions,
        send_streams_max=send,
        receive_streams_max=receive,
        histories=cursors,
        bus_ahead_ms=bus_ahead_ms,
        draining=draining,
        package=package,
        hooks=hook_tables(connection.execute, None).figures(),
        stamped_waiting=stamped,
        stamped_next=stamp_of(lowest),
    )

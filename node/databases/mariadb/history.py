"""History cursors over MariaDB: adding, walking and ending them (dispatcher.history)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dispatcher.ports import History, HistoryPhase, Joined, Passed, Place
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.registers import NOW_MS, type_ids
from schemas.stamp import Stamp

_HISTORY = """SELECT h.id, h.node, h.type, h.down_to, h.reason, h.state, h.phase, h.at_stamp, h.at_type, h.at_key,
        h.bottom, h.passed, h.sent, h.total, COALESCE(o.history = h.id, 0), h.begun, h.ended
    FROM kod_history h LEFT JOIN kod_outgoing o ON o.node = h.node"""

_JOINED = """SELECT o.node, o.joined, o.joined_session, h.phase, h.at_stamp, h.at_type, h.at_key
    FROM kod_outgoing o LEFT JOIN kod_history h ON h.id = o.history WHERE o.joined IS NOT NULL"""


def histories(connection: Connection, *, ended: bool = False) -> list[History]:
    where = "" if ended else " WHERE h.state = 'open'"
    rows = connection.rows(f"{_HISTORY}{where} ORDER BY h.id")
    names = {number: name for name, number in type_ids(connection).items()} if rows else {}
    return [_history(row, names) for row in rows]


def _history(row: Sequence[Any], names: Mapping[int, str]) -> History:
    number, node, type_id, down_to, reason, state, phase, stamp, at_type, key, bottom, *rest = row
    passed, sent, total, joins, begun, ended = rest
    return History(
        number,
        node,
        None if type_id is None else names[type_id],
        None if down_to is None else Stamp(down_to),
        reason,
        state,
        HistoryPhase(phase),
        None if stamp is None else Place(Stamp(stamp), names[at_type], key.decode()),
        bottom,
        passed,
        sent,
        total,
        bool(joins),
        Stamp(begun),
        None if ended is None else Stamp(ended),
    )


def joined(connection: Connection, names: Mapping[int, str]) -> dict[str, Joined]:
    """The links that history has not brought everything yet."""
    found = {}
    for node, mark, session, phase, stamp, at_type, key in connection.rows(_JOINED):
        living = phase is None or phase == HistoryPhase.ITEMS
        place = Place(Stamp(stamp), names[at_type], key.decode()) if living and stamp is not None else None
        found[node] = Joined(mark, place, all_passed=not living, session=session)
    return found


def add(connection: Connection, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
    """One more cursor; in the caller's transaction."""
    type_id = type_ids(connection).get(type_name) if type_name is not None else None
    same = "node = %s AND type <=> %s"
    (waiting,) = connection.one(
        f"SELECT MAX(id) FROM kod_history WHERE {same} AND down_to <=> %s AND state = 'open' AND phase = 0"
        " AND at_stamp IS NULL",
        (node, type_id, down_to),
    )
    if waiting is not None:
        return int(waiting)
    (total,) = connection.one(
        "SELECT COUNT(*) FROM kod_register WHERE (%s IS NULL OR type = %s) AND (%s IS NULL OR stamp >= %s)",
        (type_id, type_id, down_to, down_to),
    )
    connection.run(
        f"INSERT INTO kod_history (node, type, down_to, reason, total, begun) SELECT %s, %s, %s, %s, %s, {NOW_MS}",
        (node, type_id, down_to, reason, total),
    )
    (number,) = connection.one("SELECT LAST_INSERT_ID()")
    connection.run(
        f"DELETE FROM kod_history WHERE {same} AND reason = %s AND state <> 'open' AND id NOT IN"
        " (SELECT history FROM kod_outgoing WHERE history IS NOT NULL)",
        (node, type_id, reason),
    )
    if type_name is None and down_to is None:
        _go_on(connection, node, int(number))
    return int(number)


def _go_on(connection: Connection, node: str, number: int) -> None:
    """Where the cursor that the link waits for was cancelled, the new one goes on where that one was."""
    old = connection.rows(
        "SELECT h.phase, h.at_stamp, h.at_type, h.at_key, h.bottom, h.passed, h.sent, h.total FROM kod_outgoing o"
        " JOIN kod_history h ON h.id = o.history WHERE o.node = %s AND o.joined IS NOT NULL AND h.state <> 'open'",
        (node,),
    )
    if old:
        connection.run(
            "UPDATE kod_history SET phase = %s, at_stamp = %s, at_type = %s, at_key = %s, bottom = %s, passed = %s,"
            " sent = %s, total = %s WHERE id = %s",
            (*old[0], number),
        )
        connection.run("UPDATE kod_outgoing SET history = %s WHERE node = %s", (number, node))


def begin_again(connection: Connection, node: str, reason: str) -> None:
    """The link is served from the largest mark on; what is there already goes by a cursor of its own, if anything
    is. Cursors that were open are replaced: nothing is known any more of what they brought."""
    connection.run(
        f"UPDATE kod_history SET state = 'replaced', ended = {NOW_MS} WHERE node = %s AND state = 'open'", (node,)
    )
    (top,) = connection.one("SELECT top_mark FROM kod_node")
    connection.run("UPDATE kod_outgoing SET position = %s, joined = NULL, history = NULL WHERE node = %s", (top, node))
    if connection.rows("SELECT 1 FROM kod_register LIMIT 1"):
        number = add(connection, node, None, None, reason)
        connection.run(
            "UPDATE kod_outgoing SET joined = position, history = %s,"
            " joined_session = (SELECT last_session FROM kod_node) WHERE node = %s",
            (number, node),
        )


def cancel(connection: Connection, number: int) -> bool:
    """Whether it was open. A link that waits for it is known to have what went, and no more."""
    return (
        connection.run(
            f"UPDATE kod_history SET state = 'cancelled', ended = {NOW_MS} WHERE id = %s AND state = 'open'", (number,)
        )
        > 0
    )


def done(connection: Connection, number: int) -> None:
    connection.run(
        f"UPDATE kod_history SET state = 'done', ended = {NOW_MS} WHERE id = %s AND state = 'open'", (number,)
    )
    for node, position in connection.rows("SELECT node, position FROM kod_outgoing WHERE history = %s", (number,)):
        connection.run("UPDATE kod_outgoing SET joined = NULL, history = NULL WHERE node = %s", (node,))
        forget_ahead(connection, node, position)


def forget_ahead(connection: Connection, node: str, position: int) -> None:
    """What went before its turn and has its turn behind it: the mark itself says that the neighbour has it. Of a link
    that catches up marks say so only after the one at which it began."""
    connection.run(
        "DELETE a FROM kod_ahead a STRAIGHT_JOIN kod_register g"
        " ON g.type = a.type AND g.item_key = a.item_key AND g.mark BETWEEN 0 AND %s WHERE a.node = %s"
        " AND a.mark > COALESCE((SELECT joined FROM kod_outgoing WHERE node = %s), -2) AND a.mark <= %s",
        (position, node, node, position),
    )


def record(connection: Connection, move: Passed, numbers: Mapping[str, int]) -> None:
    place = move.place
    connection.run(
        "UPDATE kod_history SET phase = %s, at_stamp = %s, at_type = %s, at_key = %s, bottom = %s,"
        " passed = passed + %s, sent = sent + %s WHERE id = %s AND state = 'open'",
        (
            int(move.phase),
            place.stamp if place else None,
            numbers[place.type] if place else None,
            place.key.encode() if place else None,
            move.bottom,
            move.looked_at,
            move.sent,
            move.id,
        ),
    )

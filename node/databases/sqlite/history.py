"""History cursors over SQLite: adding, walking and ending them (dispatcher.history)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from dispatcher.ports import History, HistoryPhase, Joined, Passed, Place
from schemas.stamp import Stamp

_HISTORY = """SELECT h.id, h.node, h.type, h.down_to, h.reason, h.state, h.phase, h.at_stamp, h.at_type, h.at_key,
        h.bottom, h.passed, h.sent, h.total, coalesce(o.history = h.id, 0), h.begun, h.ended
    FROM kod_history h LEFT JOIN kod_outgoing o ON o.node = h.node"""

_JOINED = """SELECT o.node, o.joined, o.joined_session, h.phase, h.at_stamp, h.at_type, h.at_key
    FROM kod_outgoing o LEFT JOIN kod_history h ON h.id = o.history WHERE o.joined IS NOT NULL"""


def histories(connection: sqlite3.Connection, *, ended: bool = False) -> list[History]:
    where = "" if ended else " WHERE h.state = 'open'"
    rows = connection.execute(f"{_HISTORY}{where} ORDER BY h.id").fetchall()
    names = dict(connection.execute("SELECT id, name FROM kod_types").fetchall()) if rows else {}
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
        None if stamp is None else Place(Stamp(stamp), names[at_type], key),
        bottom,
        passed,
        sent,
        total,
        bool(joins),
        Stamp(begun),
        None if ended is None else Stamp(ended),
    )


def joined(connection: sqlite3.Connection, names: Mapping[int, str]) -> dict[str, Joined]:
    """The links that history has not brought everything yet."""
    found = {}
    for node, mark, session, phase, stamp, at_type, key in connection.execute(_JOINED):
        living = phase is None or phase == HistoryPhase.ITEMS
        place = Place(Stamp(stamp), names[at_type], key) if living and stamp is not None else None
        found[node] = Joined(mark, place, all_passed=not living, session=session)
    return found


def add(
    connection: sqlite3.Connection,
    node: str,
    type_name: str | None,
    down_to: Stamp | None,
    reason: str,
    now_sql: str,
) -> int:
    """One more cursor; in the caller's transaction."""
    values = {"node": node, "type": type_name, "down_to": down_to, "reason": reason}
    same = """node = :node AND type IS (SELECT id FROM kod_types WHERE name = :type)"""
    waiting = connection.execute(
        f"SELECT max(id) FROM kod_history WHERE {same} AND down_to IS :down_to AND state = 'open' "
        "AND phase = 0 AND at_stamp IS NULL",
        values,
    ).fetchone()
    if waiting[0] is not None:
        return int(waiting[0])
    cursor = connection.execute(
        "INSERT INTO kod_history (node, type, down_to, reason, total, begun) "
        "SELECT :node, t.id, :down_to, :reason, (SELECT count(*) FROM kod_register g "
        "WHERE (t.id IS NULL OR g.type = t.id) AND (:down_to IS NULL OR g.stamp >= :down_to)), "
        f"{now_sql} FROM (SELECT (SELECT id FROM kod_types WHERE name = :type) AS id) t",
        values,
    )
    number = cursor.lastrowid
    assert number is not None
    connection.execute(
        f"DELETE FROM kod_history WHERE {same} AND reason = :reason AND state <> 'open' AND id NOT IN "
        "(SELECT history FROM kod_outgoing WHERE history IS NOT NULL)",
        values,
    )
    if type_name is None and down_to is None:
        _go_on(connection, node, number)
    return number


def _go_on(connection: sqlite3.Connection, node: str, number: int) -> None:
    """Where the cursor that the link waits for was cancelled, the new one goes on where that one was."""
    old = connection.execute(
        "SELECT h.id FROM kod_outgoing o JOIN kod_history h ON h.id = o.history "
        "WHERE o.node = ? AND o.joined IS NOT NULL AND h.state <> 'open'",
        (node,),
    ).fetchone()
    if old is None:
        return
    connection.execute(
        "UPDATE kod_history SET (phase, at_stamp, at_type, at_key, bottom, passed, sent, total) = "
        "(SELECT phase, at_stamp, at_type, at_key, bottom, passed, sent, total FROM kod_history WHERE id = ?) "
        "WHERE id = ?",
        (old[0], number),
    )
    connection.execute("UPDATE kod_outgoing SET history = ? WHERE node = ?", (number, node))


def begin_again(connection: sqlite3.Connection, node: str, reason: str, now_sql: str) -> None:
    """The link is served from the largest mark on; what is there already goes by a cursor of its own, if anything
    is. Cursors that were open are replaced: nothing is known any more of what they brought."""
    connection.execute(
        f"UPDATE kod_history SET state = 'replaced', ended = {now_sql} WHERE node = ? AND state = 'open'", (node,)
    )
    connection.execute(
        "UPDATE kod_outgoing SET position = n.top_mark, joined = NULL, history = NULL FROM kod_node n WHERE node = ?",
        (node,),
    )
    if connection.execute("SELECT EXISTS (SELECT 1 FROM kod_register)").fetchone()[0]:
        number = add(connection, node, None, None, reason, now_sql)
        connection.execute(
            "UPDATE kod_outgoing SET joined = position, joined_session = n.last_session, history = ? "
            "FROM kod_node n WHERE node = ?",
            (number, node),
        )


def cancel(connection: sqlite3.Connection, number: int, now_sql: str) -> bool:
    """Whether it was open. A link that waits for it is known to have what went, and no more."""
    return (
        connection.execute(
            f"UPDATE kod_history SET state = 'cancelled', ended = {now_sql} WHERE id = ? AND state = 'open'", (number,)
        ).rowcount
        > 0
    )


def done(connection: sqlite3.Connection, number: int, now_sql: str) -> None:
    connection.execute(
        f"UPDATE kod_history SET state = 'done', ended = {now_sql} WHERE id = ? AND state = 'open'", (number,)
    )
    row = connection.execute(
        "UPDATE kod_outgoing SET joined = NULL, history = NULL WHERE history = ? RETURNING node, position", (number,)
    ).fetchone()
    if row is not None:
        forget_ahead(connection, *row)


def forget_ahead(connection: sqlite3.Connection, node: str, position: int) -> None:
    """What went before its turn and has its turn behind it: the mark itself says that the neighbour has it. Of a link
    that catches up marks say so only after the one at which it began."""
    connection.execute(
        "DELETE FROM kod_ahead WHERE node = :node "
        "AND mark > coalesce((SELECT joined FROM kod_outgoing WHERE node = :node), -2) AND mark <= :position "
        "AND (SELECT g.mark FROM kod_register g WHERE g.type = kod_ahead.type AND g.key = kod_ahead.key) "
        "BETWEEN 0 AND :position",
        {"node": node, "position": position},
    )


def record(connection: sqlite3.Connection, move: Passed, type_ids: Mapping[str, int]) -> None:
    place = move.place
    connection.execute(
        "UPDATE kod_history SET phase = ?, at_stamp = ?, at_type = ?, at_key = ?, bottom = ?, passed = passed + ?, "
        "sent = sent + ? WHERE id = ? AND state = 'open'",
        (
            move.phase,
            place.stamp if place else None,
            type_ids[place.type] if place else None,
            place.key if place else None,
            move.bottom,
            move.looked_at,
            move.sent,
            move.id,
        ),
    )

"""History cursors over PostgreSQL: adding, walking and ending them (dispatcher.history)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dispatcher.ports import History, HistoryPhase, Joined, Passed, Place
from node.databases.postgresql.connecting import Connection, Statement, Transaction
from node.databases.postgresql.registers import NOW_MS, TypeIds
from schemas.stamp import Stamp

_HISTORIES = """
SELECT h.id, h.node, (SELECT name FROM kod.types t WHERE t.id = h.type), h.down_to, h.reason, h.state, h.phase,
  h.at_stamp, (SELECT name FROM kod.types t WHERE t.id = h.at_type), h.at_key, h.bottom, h.passed, h.sent, h.total,
  coalesce(o.history = h.id, false), h.begun, h.ended
FROM kod.history h LEFT JOIN kod.outgoing o ON o.node = h.node"""
OPEN = f"{_HISTORIES} WHERE h.state = 'open' ORDER BY h.id"
ALL = f"{_HISTORIES} ORDER BY h.id"

# A link's columns that say what history has brought to it: `o` is the link, `h` its cursor.
JOINED = (
    "o.joined, o.joined_session, h.phase, h.at_stamp, (SELECT name FROM kod.types t WHERE t.id = h.at_type), h.at_key"
)

# One that waits for the same and has not begun is enough. $1 node, $2 type, $3 down to
_WAITING = """
SELECT max(h.id) FROM kod.history h WHERE h.node = $1 AND h.state = 'open' AND h.phase = 0 AND h.at_stamp IS NULL
  AND h.type IS NOT DISTINCT FROM (SELECT id FROM kod.types WHERE name = $2)
  AND h.down_to IS NOT DISTINCT FROM $3::bigint"""

_ADD = f"""
INSERT INTO kod.history (node, type, down_to, reason, total, begun)
SELECT $1, t.id, $3::bigint, $4,
  (SELECT count(*) FROM kod.register r WHERE (t.id IS NULL OR r.type = t.id)
                                         AND ($3::bigint IS NULL OR r.stamp >= $3::bigint)), {NOW_MS}
FROM (SELECT (SELECT id FROM kod.types WHERE name = $2) AS id) t RETURNING id"""

# The latest of each kind is kept for people; and what a link waits for, cancelled or not.
_FORGET = """
DELETE FROM kod.history h WHERE h.node = $1 AND h.reason = $3 AND h.state <> 'open'
  AND h.type IS NOT DISTINCT FROM (SELECT id FROM kod.types WHERE name = $2)
  AND NOT EXISTS (SELECT FROM kod.outgoing o WHERE o.history = h.id)"""

# Where the cursor that the link waits for was cancelled, the new one ($2) goes on where that one was.
_GO_ON = """
WITH old AS (
  SELECT h.* FROM kod.outgoing o JOIN kod.history h ON h.id = o.history
  WHERE o.node = $1 AND o.joined IS NOT NULL AND h.state <> 'open'
), moved AS (
  UPDATE kod.history n SET phase = old.phase, at_stamp = old.at_stamp, at_type = old.at_type, at_key = old.at_key,
    bottom = old.bottom, passed = old.passed, sent = old.sent, total = old.total
  FROM old WHERE n.id = $2::bigint RETURNING n.id
)
UPDATE kod.outgoing o SET history = moved.id FROM moved WHERE o.node = $1"""

_REPLACED = f"UPDATE kod.history SET state = 'replaced', ended = {NOW_MS} WHERE node = $1 AND state = 'open'"
_FROM_THE_TOP = """
UPDATE kod.outgoing SET position = n.top_mark, joined = NULL, history = NULL FROM kod.node n WHERE node = $1
RETURNING (SELECT EXISTS (SELECT FROM kod.register))"""
_JOIN = """
UPDATE kod.outgoing SET joined = position, joined_session = n.last_session, history = $2::bigint
FROM kod.node n WHERE node = $1"""

_CANCEL = f"""
UPDATE kod.history SET state = 'cancelled', ended = {NOW_MS} WHERE id = $1::bigint AND state = 'open' RETURNING id"""
_DONE = f"UPDATE kod.history SET state = 'done', ended = {NOW_MS} WHERE id = $1::bigint AND state = 'open'"
_ALL_THERE = """
UPDATE kod.outgoing SET joined = NULL, history = NULL WHERE history = $1::bigint RETURNING node, position"""

_PASSED = """
UPDATE kod.history SET phase = $2::integer, at_stamp = $3::bigint, at_type = $4::smallint, at_key = $5,
  bottom = $6::bigint, passed = passed + $7::bigint, sent = sent + $8::bigint
WHERE id = $1::bigint AND state = 'open'"""

# What went before its turn and has its turn behind it: the mark itself says that the neighbour has it. Of a link that
# catches up marks say so only after the one at which it began.
AHEAD_NO_MORE = """
DELETE FROM kod.ahead a USING kod.register r, kod.outgoing o
WHERE a.node = $1 AND o.node = $1 AND a.mark > coalesce(o.joined, -2) AND a.mark <= $2::bigint
  AND r.type = a.type AND r.key = a.key AND r.mark BETWEEN 0 AND $2::bigint"""


def history_of(row: Sequence[Any]) -> History:
    """A row of OPEN or ALL."""
    number, node, name, down_to, reason, state, phase, stamp, at_type, key, *rest, begun, ended = row
    place = None if stamp is None else Place(Stamp(stamp), at_type, key)
    bottom, passed, sent, total, joins = rest
    phase = HistoryPhase(phase)
    return History(
        number, node, name, down_to, reason, state, phase, place, bottom, passed, sent, total, joins, begun, ended
    )


def joined_of(row: Sequence[Any]) -> Joined | None:
    """The columns of JOINED."""
    mark, session, phase, stamp, at_type, key = row
    if mark is None:
        return None
    living = phase is None or phase == HistoryPhase.ITEMS
    place = Place(Stamp(stamp), at_type, key) if living and stamp is not None else None
    return Joined(mark, place, all_passed=not living, session=session)


def histories(connection: Connection, *, ended: bool = False) -> list[History]:
    return [history_of(row) for row in connection.execute(ALL if ended else OPEN).fetchall()]


def add(transaction: Transaction, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
    """One more cursor; in the caller's transaction."""
    since = None if down_to is None else str(down_to)
    (waiting,) = transaction.one(Statement(_WAITING, (node, type_name, since)))
    if waiting is not None:
        return int(waiting)
    (number,) = transaction.one(Statement(_ADD, (node, type_name, since, reason)))
    transaction.run(Statement(_FORGET, (node, type_name, reason)))
    if type_name is None and down_to is None:
        transaction.run(Statement(_GO_ON, (node, str(number))))
    return int(number)


def begin_again(transaction: Transaction, node: str, reason: str) -> None:
    """The link is served from the largest mark on; what is there already goes by a cursor of its own, if anything
    is. Cursors that were open are replaced: nothing is known any more of what they brought."""
    transaction.run(Statement(_REPLACED, (node,)))
    (anything,) = transaction.one(Statement(_FROM_THE_TOP, (node,)))
    if anything:
        number = add(transaction, node, None, None, reason)
        transaction.run(Statement(_JOIN, (node, str(number))))


def cancel(connection: Connection, number: int) -> bool:
    """Whether it was open. A link that waits for it is known to have what went, and no more."""
    return connection.execute(_CANCEL, (str(number),)).fetchone() is not None


def done(transaction: Transaction, number: int) -> None:
    _, links = transaction.run(Statement(_DONE, (str(number),)), Statement(_ALL_THERE, (str(number),)))
    for node, position in links:
        transaction.run(Statement(AHEAD_NO_MORE, (node, str(position))))


def passed(move: Passed, ids: TypeIds) -> Statement:
    place = move.place
    values = (
        move.id,
        int(move.phase),
        place.stamp if place else None,
        ids.id(place.type) if place else None,
        place.key if place else None,
        move.bottom,
        move.looked_at,
        move.sent,
    )
    return Statement(_PASSED, [None if value is None else str(value) for value in values])

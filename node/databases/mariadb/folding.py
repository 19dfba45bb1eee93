"""The fold: what capture wrote becomes versions in the register, and every item folded gets a new mark.

Log rows are deleted in the transaction that takes them in, each by its number (found by the primary key, one after
another): a deletion of a range would lock the gaps into which applications append. A number that is given is no order:
what is visible in the log now is taken, and what is committed later has its row still there.

A new version is newer than the one that it replaces and than this node's own in its history: where collisions are not
settled by `newest`, an older version may have won over a newer one of this node.
"""

from __future__ import annotations

from collections.abc import Mapping

from dispatcher.ports import Folded
from node.databases.mariadb.capture import LEFT
from node.databases.mariadb.connection import Connection, Row
from node.databases.mariadb.reading import Reading
from serializers.keys import Item

_AGAIN = "SELECT EXISTS (SELECT 1 FROM kod_rights) OR EXISTS (SELECT 1 FROM kod_walks)"

# A hint that makes each row of the first table be looked up in the second by its key.
_TAKE = "DELETE g FROM kod_taken t STRAIGHT_JOIN kod_log g FORCE INDEX (PRIMARY) ON g.id = t.id"

_SEEN = """CASE WHEN NOT f.local OR g.stamp IS NULL OR (g.seen IS NULL AND g.origin = %s) THEN g.seen
    ELSE NULLIF(JSON_REMOVE(JSON_SET(COALESCE(g.seen, '{{}}'), CONCAT('$."', g.origin, '"'), g.stamp),
        CONCAT('$."', %s, '"')), '{{}}') END""".replace("{{}}", "{}")

_VERSIONS = f"""INSERT INTO kod_register (type, item_key, stamp, origin, seen, mark, known, source, gone, kept)
    SELECT f.type, f.item_key,
        CASE WHEN g.stamp IS NULL THEN f.at WHEN NOT f.local THEN g.stamp
             ELSE GREATEST(f.at, g.stamp + 1,
                 COALESCE(CAST(JSON_VALUE(g.seen, CONCAT('$."', %s, '"')) AS INTEGER), 0) + 1) END,
        CASE WHEN f.local THEN %s ELSE COALESCE(g.origin, %s) END,
        {_SEEN},
        %s + f.n,
        CASE WHEN g.gone THEN NULL WHEN g.mark BETWEEN %s AND %s THEN g.mark ELSE g.known END,
        CASE WHEN f.local THEN NULL ELSE g.source END,
        CASE WHEN f.local THEN f.gone ELSE COALESCE(g.gone, f.gone) END,
        CASE WHEN f.local AND f.gone THEN NULL ELSE g.kept END
    FROM kod_folding f LEFT JOIN kod_register g ON g.type = f.type AND g.item_key = f.item_key
    ON DUPLICATE KEY UPDATE stamp = VALUES(stamp), origin = VALUES(origin), seen = VALUES(seen), mark = VALUES(mark),
        known = VALUES(known), source = VALUES(source), gone = VALUES(gone), kept = VALUES(kept)"""


def fold(connection: Connection, reading: Reading, type_names: Mapping[int, str]) -> Folded:
    """Folds all that the log shows, inside the caller's transaction."""
    (again,) = connection.one(_AGAIN)
    rows = connection.rows("SELECT id, type, item_key, at, local, gone FROM kod_log")
    if not rows:
        return Folded(0, 0, bool(again))
    _take(connection, rows)
    gathered = _gathered(rows)
    feared = [
        (place, Item(type_names[type_id], key.decode()))
        for place, (type_id, key, _, local, gone) in enumerate(gathered)
        if gone and local
    ]
    existing = reading.existing([item for _, item in feared])
    for place, item in feared:  # a row that says "gone" may have been followed by others: the table knows
        gathered[place] = (*gathered[place][:4], 0 if item in existing else gathered[place][4])
    views = {number for number, name in type_names.items() if reading.is_view(name)}
    if views:
        gathered = _without_what_never_was(connection, gathered, views)
    gathered = [(*row[:4], int(row[4] > 0)) for row in gathered]
    return _give_versions(connection, gathered, again=bool(again))


def _without_what_never_was(connection: Connection, gathered: list[Row], views: set[int]) -> list[Row]:
    """A row of a table behind a view may have been written without having been in the view, before or after."""
    kept = []
    for row in gathered:
        if row[0] in views and row[3] and row[4] not in (0, LEFT):
            known = "SELECT 1 FROM kod_register WHERE type = %s AND item_key = %s AND NOT gone"
            if not connection.rows(known, row[:2]):
                continue
        kept.append(row)
    return kept


def _take(connection: Connection, rows: tuple[Row, ...]) -> None:
    connection.run("DELETE FROM kod_taken")
    connection.many("INSERT INTO kod_taken (id) VALUES (%s)", [(row[0],) for row in rows])
    connection.run(_TAKE)


def _gathered(rows: tuple[Row, ...]) -> list[Row]:
    """(type, key, at, local, gone) of each item, in the order of the latest changes."""
    found: dict[tuple[int, bytes], tuple[int, int, int]] = {}
    for _, type_id, key, at, local, gone in rows:
        before = found.get((type_id, key))
        found[type_id, key] = (
            (at, local, gone) if before is None else (max(at, before[0]), max(local, before[1]), max(gone, before[2]))
        )
    ordered = sorted((at, type_id, key, local, gone) for (type_id, key), (at, local, gone) in found.items())
    return [(type_id, key, at, local, gone) for at, type_id, key, local, gone in ordered]


def _give_versions(connection: Connection, gathered: list[Row], *, again: bool) -> Folded:
    connection.run("DELETE FROM kod_folding")
    connection.many(
        "INSERT INTO kod_folding (n, type, item_key, at, local, gone) VALUES (%s, %s, %s, %s, %s, %s)",
        [(n, *row) for n, row in enumerate(gathered, 1)],
    )
    top, origin, boundary = connection.one("SELECT top_mark, origin, boundary FROM kod_node")
    # of a link that catches up, marks say what it has only after the one at which it began
    served, since = connection.one("SELECT COALESCE(MIN(position), -1), COALESCE(MAX(joined) + 1, 0) FROM kod_outgoing")
    connection.run(_VERSIONS, (origin, origin, origin, origin, origin, top, since, served))
    connection.run(
        "UPDATE kod_types t JOIN (SELECT type, MAX(n) AS last FROM kod_folding GROUP BY type) f ON f.type = t.id"
        " SET t.top_mark = %s + f.last",
        (top,),
    )
    missed = _missed(connection, boundary)
    connection.run("UPDATE kod_node SET top_mark = %s, missed = missed + %s", (top + len(gathered), missed))
    return Folded(sum(1 for row in gathered if row[3]), missed, again)


def _missed(connection: Connection, boundary: int | None) -> int:
    if boundary is None:
        return 0
    (missed,) = connection.one(
        "SELECT COUNT(*) FROM kod_folding f STRAIGHT_JOIN kod_register g ON g.type = f.type AND g.item_key = f.item_key"
        " WHERE f.local AND f.at <= %s AND g.stamp <= %s",
        (boundary, boundary),
    )
    return int(missed)

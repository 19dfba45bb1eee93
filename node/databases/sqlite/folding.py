"""The fold: what capture wrote becomes versions in the register, and every item folded gets a new mark.

Log rows are deleted in the transaction that takes them in, so each is folded exactly once. SQLite has one writer:
inside a write transaction nothing can be added meanwhile.

A new version is newer than the one that it replaces and than this node's own in its history: where collisions are not
settled by `newest`, an older version may have won over a newer one of this node.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from dispatcher.ports import Folded
from node.databases.sqlite.reading import Reading
from serializers.keys import Item

_THERE = """SELECT EXISTS (SELECT 1 FROM kod_log),
    EXISTS (SELECT 1 FROM kod_rights) OR EXISTS (SELECT 1 FROM kod_walks)"""

_GATHER = """INSERT INTO temp.kod_folding (type, key, at, local, gone)
    SELECT type, key, max(at), max(local), max(gone) FROM kod_log GROUP BY type, key ORDER BY max(at), type, key"""

_VERSIONS = """INSERT INTO kod_register (type, key, stamp, origin, seen, mark, known, source, gone, kept)
    SELECT f.type, f.key,
        CASE WHEN g.stamp IS NULL THEN f.at WHEN NOT f.local THEN g.stamp
             ELSE max(f.at, g.stamp + 1, coalesce(json_extract(g.seen, '$."' || :origin || '"'), 0) + 1) END,
        CASE WHEN f.local THEN :origin ELSE coalesce(g.origin, :origin) END,
        CASE WHEN NOT f.local OR g.stamp IS NULL OR (g.seen IS NULL AND g.origin = :origin) THEN g.seen
             ELSE nullif(json_remove(json_set(
                 coalesce(g.seen, '{}'), '$."' || g.origin || '"', g.stamp), '$."' || :origin || '"'), '{}') END,
        :top + f.rowid,
        CASE WHEN g.gone THEN NULL WHEN g.mark BETWEEN :since AND :served THEN g.mark ELSE g.known END,
        CASE WHEN f.local THEN NULL ELSE g.source END,
        CASE WHEN f.local THEN f.gone ELSE coalesce(g.gone, f.gone) END,
        CASE WHEN f.local AND f.gone THEN NULL ELSE g.kept END
    FROM temp.kod_folding f LEFT JOIN kod_register g ON g.type = f.type AND g.key = f.key
    WHERE true
    ON CONFLICT (type, key) DO UPDATE SET stamp = excluded.stamp, origin = excluded.origin, seen = excluded.seen,
        mark = excluded.mark, known = excluded.known, source = excluded.source, gone = excluded.gone,
        kept = excluded.kept"""


def fold(connection: sqlite3.Connection, reading: Reading, type_names: Mapping[int, str]) -> Folded:
    """Folds all that the log has, inside the caller's write transaction."""
    there, again = connection.execute(_THERE).fetchone()
    if not there:
        return Folded(0, 0, bool(again))
    connection.execute("DELETE FROM temp.kod_folding")
    count = connection.execute(_GATHER).rowcount
    connection.execute("DELETE FROM kod_log")
    _look_whether_gone(connection, reading, type_names)
    top, origin, boundary = connection.execute("SELECT top_mark, origin, boundary FROM kod_node").fetchone()
    # of a link that catches up, marks say what it has only after the one at which it began
    served, since = connection.execute(
        "SELECT coalesce(min(position), -1), coalesce(max(joined) + 1, 0) FROM kod_outgoing"
    ).fetchone()
    connection.execute(_VERSIONS, {"origin": origin, "top": top, "served": served, "since": since})
    connection.execute(
        "UPDATE kod_types SET top_mark = :top + f.last "
        "FROM (SELECT type, max(rowid) AS last FROM temp.kod_folding GROUP BY type) f WHERE f.type = kod_types.id",
        {"top": top},
    )
    (items,) = connection.execute("SELECT count(*) FROM temp.kod_folding WHERE local").fetchone()
    missed = _missed(connection, boundary)
    connection.execute("UPDATE kod_node SET top_mark = ?, missed = missed + ?", (top + count, missed))
    return Folded(items, missed, bool(again))


def _look_whether_gone(connection: sqlite3.Connection, reading: Reading, type_names: Mapping[int, str]) -> None:
    """A log row that says "gone" may have been followed by others, or only feared a REPLACE: the table knows."""
    rows = connection.execute("SELECT rowid, type, key FROM temp.kod_folding WHERE gone AND local").fetchall()
    items = {rowid: Item(type_names[type_id], key) for rowid, type_id, key in rows}
    existing = reading.existing(list(items.values()))
    connection.executemany(
        "UPDATE temp.kod_folding SET gone = 0 WHERE rowid = ?",
        [(rowid,) for rowid, item in items.items() if item in existing],
    )


def _missed(connection: sqlite3.Connection, boundary: int | None) -> int:
    if boundary is None:
        return 0
    (missed,) = connection.execute(
        "SELECT count(*) FROM temp.kod_folding f JOIN kod_register g ON g.type = f.type AND g.key = f.key "
        "WHERE f.local AND f.at <= ?1 AND g.stamp <= ?1",
        (boundary,),
    ).fetchone()
    return int(missed)

"""Rights that change: what notes it in the application's transaction, and how the sender looks at items again.

    [ triggers ] -> kod_rights -> look again -> pending …

An access table bears triggers that append the item's key. A view has none: the tables that it is made of (SQLite's own
authorizer tells them while the view is compiled, or `access_from` declares them) bear triggers that note the type
alone, and the type's items are then walked through, from fresh to old, by a cursor in kod_walks. A type's own tables
are the exception: whatever changes there and travels is a change of the item; only what does not travel is noted.

The triggers fire whoever writes, КОД too: rights that come from another node are rights.

A row that vanishes from an access table appends nothing: what a node has got it keeps (rule 4).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dispatcher.ports import Again, Content, Outgoing
from node.databases.sqlite.lexical import Form, affinity_of, any_of, key_array_sql, quoted
from node.databases.sqlite.reading import TypeReading
from schemas.errors import ConfigError
from schemas.structure import ItemType, Reference, Structure
from serializers.keys import Item

WALKED_AT_ONCE = 10
"""Rows of the register that a walk passes in one step, as a multiple of the items that it may find."""

PREFIX = "kod_capture_rights_"

# --- triggers -----------------------------------------------------------------------------------------------------


def triggers(connection: sqlite3.Connection, structure: Structure, type_ids: Mapping[str, int]) -> dict[str, str]:
    """Every trigger that notes changes of rights, by name."""
    found: dict[str, str] = {}
    for item_type in structure.types.values():
        if item_type.access is None or item_type.table is None or not _kind(connection, item_type.access):
            continue
        number = type_ids[item_type.name]
        if _kind(connection, item_type.access) == "table":
            found.update(_row_triggers(connection, item_type, number))
        for table, columns, own in _sources(connection, item_type):
            found.update(_source_triggers(number, table, columns, own=own))
    return found


def unseen(connection: sqlite3.Connection, item_type: ItemType) -> str:
    """Why changes of a type's rights may go unnoticed, in words; empty where all of them are seen."""
    if item_type.access is None or item_type.access_from or _kind(connection, item_type.access) != "view":
        return ""
    return "" if tables_of(connection, item_type.access) else "is made of no table that could be found"


def _kind(connection: sqlite3.Connection, name: str) -> str:
    row = connection.execute(
        "SELECT type FROM sqlite_master WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE", (name,)
    ).fetchone()
    return row[0] if row else ""


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()}


def access_columns(connection: sqlite3.Connection, item_type: ItemType) -> list[str]:
    """The access table's columns that hold the item's key: named like the columns, or like the properties."""
    columns = _columns(connection, item_type.access or "")
    return [f.column.name if f.column is not None and f.column.name in columns else f.name for f in item_type.key]


def _row_triggers(connection: sqlite3.Connection, item_type: ItemType, number: int) -> dict[str, str]:
    assert item_type.access is not None
    columns = _columns(connection, item_type.access)
    names = access_columns(connection, item_type)
    missing = [name for name in (*names, "node") if name not in columns]
    if missing:
        raise ConfigError(
            f"{item_type.name}: access {item_type.access} has no column {', '.join(missing)}",
            hint="it needs the item's key columns, under their names, and `node`",
        )
    forms = [Form.of(f) for f in item_type.key]
    values = [
        f"NEW.{quoted(name)}"
        if affinity_of(columns[name]) == form.affinity or form.affinity == "BLOB"
        else f"CAST(NEW.{quoted(name)} AS {form.affinity})"
        for name, form in zip(names, forms, strict=True)
    ]
    there = " AND ".join(f"NEW.{quoted(name)} IS NOT NULL" for name in names) if item_type.is_object else "1"
    insert = f"INSERT INTO kod_rights (type, key) SELECT {number}, {key_array_sql(forms, values)} WHERE {there}"
    changed = any_of([_differs(name) for name in (*names, "node")])
    return dict(
        (
            _trigger(number, item_type.access, "insert", "INSERT", "", insert),
            _trigger(number, item_type.access, "update", "UPDATE", changed, insert),
        )
    )


def _differs(column: str) -> str:
    return f"OLD.{quoted(column)} IS NOT NEW.{quoted(column)} COLLATE BINARY"


def _trigger(number: int, table: str, act: str, event: str, condition: str, body: str) -> tuple[str, str]:
    name = f"{PREFIX}{number}_{table}_{act}"
    when = f"\nWHEN {condition}" if condition else ""
    return name, f"CREATE TRIGGER {quoted(name)} AFTER {event} ON {quoted(table)}{when}\nBEGIN\n  {body};\nEND"


def _sources(connection: sqlite3.Connection, item_type: ItemType) -> Iterator[tuple[str, Sequence[str], bool]]:
    """The tables that rights are made of, the columns on which they hang, and whether the table is the type's own."""
    assert item_type.access is not None
    for name in item_type.access_from:
        if _kind(connection, name) != "table":
            raise ConfigError(f"{item_type.name}: access_from: there is no table {name}", hint="which table is meant?")
        yield name, list(_columns(connection, name)), False
    if item_type.access_from or _kind(connection, item_type.access) != "view":
        return
    own = {(item_type.table or "").lower(): {f.column.name for f in item_type.held if f.column}}
    for section in item_type.sections:
        links = {column for column, _ in section.link}
        own[section.table.lower()] = links | {f.column.name for f in section.fields if f.column}
    for table, columns in tables_of(connection, item_type.access).items():
        if table.lower() in own:
            yield table, sorted(columns - own[table.lower()]), True
        else:
            yield table, sorted(columns), False


def tables_of(connection: sqlite3.Connection, view: str) -> dict[str, set[str]]:
    """The tables that a view reads, however deep, each with the columns that it uses."""
    read: dict[str, set[str]] = {}

    def note(action: int, table: str | None, column: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and table:
            read.setdefault(table, set()).update({column} if column else ())
        return sqlite3.SQLITE_OK

    connection.set_authorizer(note)
    try:
        connection.execute(f"SELECT * FROM {quoted(view)} LIMIT 0").fetchall()
    except sqlite3.OperationalError:
        return {}  # what cannot be compiled here cannot be looked into
    finally:
        connection.set_authorizer(None)
    found = {}
    for table, columns in read.items():
        if _kind(connection, table) == "table":
            found[table] = columns & set(_columns(connection, table))
    return dict(sorted(found.items()))


def _source_triggers(number: int, table: str, columns: Sequence[str], *, own: bool) -> dict[str, str]:
    noted = f"NOT EXISTS (SELECT 1 FROM kod_rights WHERE type = {number} AND key IS NULL)"
    body = f"INSERT INTO kod_rights (type) SELECT {number} WHERE {noted}"
    made = []
    if columns:
        made.append(_trigger(number, table, "changed", "UPDATE", any_of([_differs(c) for c in columns]), body))
    if not own:
        made.append(_trigger(number, table, "appeared", "INSERT", "", body))
        made.append(_trigger(number, table, "vanished", "DELETE", "", body))
    return dict(made)


def all_again(connection: sqlite3.Connection, structure: Structure, type_ids: Mapping[str, int]) -> None:
    """Rights may have changed while nothing noted it: all that is known already is looked at again."""
    connection.executemany(
        "INSERT INTO kod_rights (type) SELECT ?1 WHERE EXISTS (SELECT 1 FROM kod_register WHERE type = ?1)",
        [(type_ids[item_type.name],) for item_type in structure.types.values() if item_type.access],
    )


_MORE = "SELECT EXISTS (SELECT 1 FROM kod_rights) OR EXISTS (SELECT 1 FROM kod_walks)"

# --- the sender's side --------------------------------------------------------------------------------------------

NOTHING = -2
"""Below every mark."""
LAST = 2**63 - 1
"""Above every stamp."""

# What a node lacks: it was looked at before (else its own turn comes, or history comes to it), and the node is not
# known to hold it.
LACKS = """NOT g.gone AND g.mark > -2 AND g.mark <= :after AND g.source IS NOT :node
    AND NOT EXISTS (SELECT 1 FROM kod_presence p WHERE p.type = g.type AND p.key = g.key AND p.node = :node
        AND p.since <= :session)
    AND NOT EXISTS (SELECT 1 FROM kod_pending p WHERE p.node = :node AND p.type = g.type AND p.key = g.key)
    AND NOT (g.mark <= :joined AND (g.stamp, g.type, g.key) < (:stamp, :type, :below))"""


def served(link: Outgoing, type_ids: Mapping[str, int]) -> dict[str, Any]:
    """A link as LACKS wants it: also the mark up to which history comes, and down to where it is. One that was
    cancelled comes to nothing more."""
    values = {"node": link.node, "after": link.position, "session": link.last_session or 0}
    joined = link.joined
    if joined is None or joined.all_passed or not link.catching_up:
        return {**values, "joined": NOTHING, "stamp": 0, "type": 0, "below": ""}
    place = joined.passed
    if place is None:
        return {**values, "joined": joined.mark, "stamp": LAST, "type": 0, "below": ""}
    return {**values, "joined": joined.mark, "stamp": place.stamp, "type": type_ids[place.type], "below": place.key}


def look_again(connection: sqlite3.Connection, type_names: Mapping[int, str], items_max: int) -> Again:
    rows = connection.execute(
        "SELECT rowid, type, key, follow FROM kod_rights WHERE key IS NOT NULL LIMIT ?", (items_max,)
    ).fetchall()
    if not rows:
        return _walk(connection, type_names, items_max)
    connection.executemany("DELETE FROM kod_rights WHERE rowid = ?", [(row[0],) for row in rows])
    found: dict[Item, bool] = {}
    for _, number, key, follow in rows:
        if number in type_names:
            item = Item(type_names[number], key)
            found[item] = found.get(item, False) or bool(follow)
    return Again(list(found), [item for item, follow in found.items() if follow], more=True)


def _walk(connection: sqlite3.Connection, type_names: Mapping[int, str], items_max: int) -> Again:
    """The next items of a type that was noted without a key. One that is noted again while it is being walked through
    has to be passed once more as far as it was passed."""
    noted = connection.execute("SELECT DISTINCT type FROM kod_rights").fetchall()
    if noted:
        connection.execute("DELETE FROM kod_rights")
        connection.executemany(
            "INSERT INTO kod_walks (type, below) SELECT ?, top_mark + 1 FROM kod_node WHERE true "
            "ON CONFLICT (type) DO UPDATE SET again_from = below, down_to = 0",
            noted,
        )
    walk = connection.execute("SELECT type, below, down_to FROM kod_walks ORDER BY type LIMIT 1").fetchone()
    if walk is None:
        return Again((), (), more=False)
    number, below, down_to = walk
    scanned = items_max * WALKED_AT_ONCE
    window = "FROM kod_register WHERE mark > 0 AND mark > :down_to AND mark < :below ORDER BY mark DESC LIMIT :scanned"
    values = {"down_to": down_to, "below": below, "scanned": scanned, "type": number, "limit": items_max + 1}
    found = connection.execute(  # SQLite stops where it has found enough of the type
        f"SELECT type, key, mark, gone FROM (SELECT type, key, mark, gone {window}) WHERE type = :type "
        "ORDER BY mark DESC LIMIT :limit",
        values,
    ).fetchall()
    taken = found[:items_max]
    if len(found) > len(taken):
        edge = taken[-1][2]
    else:
        count, lowest = connection.execute(f"SELECT count(*), min(mark) FROM (SELECT mark {window})", values).fetchone()
        edge = lowest if count == scanned else None
    if edge is not None:
        connection.execute("UPDATE kod_walks SET below = ? WHERE type = ?", (edge, number))
    else:
        connection.execute("DELETE FROM kod_walks WHERE type = ? AND again_from IS NULL", (number,))
        connection.execute(
            "UPDATE kod_walks SET below = (SELECT top_mark + 1 FROM kod_node), down_to = again_from - 1, "
            "again_from = NULL WHERE type = ?",
            (number,),
        )
        # what was applied while there was one neighbour, or stamped before, has no mark: the walk did not meet it
        connection.execute(
            "INSERT INTO kod_rights (type, key) SELECT type, key FROM kod_register g WHERE type = ? AND mark = 0 "
            "AND NOT gone AND EXISTS (SELECT 1 FROM kod_outgoing o WHERE o.node IS NOT g.source)",
            (number,),
        )
    (more,) = connection.execute(_MORE).fetchone()
    return Again([Item(type_names[number], key) for _, key, _, gone in taken if not gone], (), bool(more))


def owned_by(reading: TypeReading, reference: Reference, owner: TypeReading) -> str:
    """SELECT key of the items of a type that belong to the asked owners."""
    by_key = {column: f"k.a{position}" for position, column in enumerate(owner.key_columns)}
    source = "temp.kod_asked k"
    if set(by_key) != set(reference.target_columns):
        source += f" CROSS JOIN {owner.table} o ON {owner.joined('o')}"
        by_key = {column: f"o.{quoted(column)}" for column in reference.target_columns}
    tied = " AND ".join(
        f"r.{quoted(ours)} = {by_key[theirs]}"
        for ours, theirs in zip(reference.columns, reference.target_columns, strict=True)
    )
    return f"SELECT DISTINCT {reading.key_of_row('r')} AS key FROM {source} CROSS JOIN {reading.table} r ON {tied}"


def is_empty(content: Content) -> bool:
    """Nothing is there: no object, or a record set without records."""
    return content.text is None or content.text.endswith(b'"Records":[]}')

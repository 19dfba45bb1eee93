"""Capture: the triggers that append to the log what was written, in the writer's own transaction.

    application writes -> [ kod_log ] -> fold -> register -> …

They run in the application's connection: pure SQL, no function of ours, no conflict clause (the outer statement's
would override it), no lock beyond SQLite's one. KOD's own writes are passed over: the marker row in kod_applying.

`INSERT OR REPLACE` and `UPDATE OR REPLACE` remove other rows without a DELETE trigger unless the writing program has
set recursive_triggers, so rows that equal NEW in a unique index are noted before (sqlite.org/lang_conflict.html). That
is needed only for unique columns without the item's key among them: else the row that goes is the item that comes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from node.databases.sqlite import rights
from node.databases.sqlite.lexical import Form, any_of, key_array_sql, quoted
from node.databases.sqlite.reflection import UniqueIndex, folded, reflect, unique_indexes
from schemas.structure import Base, Field, ItemType, Section, Structure

NOW_SQL = "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"
"""Milliseconds since 1970 by the clock of the machine on which the application writes."""

PREFIX = "kod_capture_"


@dataclass(frozen=True, slots=True)
class _Captured:
    """A table whose rows belong to items: in which columns it bears their key, and how it is written."""

    type_id: int
    table: str
    columns: tuple[str, ...]
    forms: tuple[Form, ...]
    travelling: tuple[str, ...]
    """Only changes of these columns count."""
    vanishes: bool
    """A deleted row may be the end of its item (an object's root)."""
    nullable: bool
    """A row with NULL there belongs to no item (a section's link)."""
    ordered_by_rowid: bool = False
    """Nothing else says in which order its rows travel."""
    view: str = ""
    """The table is behind this view: its rows are items only where they are in the view. `root_key` is the view's."""
    root: str = ""
    """Set where the link is not by the object's key: the key is then looked up in this table, by `columns`."""
    root_columns: tuple[str, ...] = ()
    root_key: tuple[str, ...] = ()

    def key(self, row: str) -> str:
        if not self.root:
            return key_array_sql(self.forms, [f"{row}.{quoted(c)}" for c in self.columns])
        key = key_array_sql(self.forms, [f"o.{quoted(c)}" for c in self.root_key])
        linked = " AND ".join(
            f"o.{quoted(theirs)} = {row}.{quoted(ours)}"
            for ours, theirs in zip(self.columns, self.root_columns, strict=True)
        )
        return f"(SELECT {key} FROM {quoted(self.root)} o WHERE {linked})"


def triggers(
    connection: sqlite3.Connection, structure: Structure, type_ids: Mapping[str, int], now_sql: str = NOW_SQL
) -> dict[str, str]:
    """Every trigger that this structure needs in this database, by name."""
    found: dict[str, str] = {}
    views = {folded(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
    tables = [one for t in structure.types.values() for one in _captured(t, type_ids[t.name])]
    tables = [captured for captured in tables if folded(captured.table) not in views]
    indexes = unique_indexes(connection, [captured.table for captured in tables])
    for captured in tables:
        found.update(_triggers_of(connection, captured, indexes[captured.table], now_sql))
    return found | rights.triggers(connection, structure, type_ids)


def installed(connection: sqlite3.Connection) -> dict[str, str]:
    """The triggers of ours that are there, by name."""
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND substr(name, 1, ?) = ?", (len(PREFIX), PREFIX)
    )
    return dict(rows.fetchall())


def _captured(item_type: ItemType, type_id: int) -> list[_Captured]:
    if item_type.table is None:
        return []
    bases = [_captured_base(item_type, type_id, base) for base in item_type.bases]
    root = _Captured(
        type_id=type_id,
        table=item_type.table,
        columns=_columns(item_type.key),
        forms=tuple(Form.of(f) for f in item_type.key),
        travelling=_columns(item_type.held),
        vanishes=item_type.is_object,
        nullable=False,
        ordered_by_rowid=not item_type.is_object and not item_type.record_key,
    )
    return [*bases, root, *(_captured_section(root, section) for section in (*item_type.sections, *item_type.sources))]


def _captured_base(item_type: ItemType, type_id: int, base: Base) -> _Captured:
    """A table behind a view: each of its columns may be one of the view's, or decide whether a row is in it."""
    return _Captured(
        type_id=type_id,
        table=base.table,
        columns=base.columns,
        forms=tuple(Form.of(f) for f in item_type.key),
        travelling=(),
        vanishes=True,
        nullable=True,
        view=item_type.table or "",
        root_key=_columns(item_type.key),
    )


def _captured_section(root: _Captured, section: Section) -> _Captured:
    ours = {theirs: own for own, theirs in section.link}
    links = tuple(own for own, _ in section.link)
    common = replace(
        root,
        table=section.table,
        travelling=links + _columns(section.fields),
        vanishes=False,
        nullable=True,
        ordered_by_rowid=not section.order and not section.primary_key,
    )
    if set(ours) == set(root.columns):
        return replace(common, columns=tuple(ours[column] for column in root.columns))
    return replace(
        common,
        columns=links,
        root=root.table,
        root_columns=tuple(theirs for _, theirs in section.link),
        root_key=root.columns,
    )


def _columns(fields: Sequence[Field]) -> tuple[str, ...]:
    return tuple(f.column.name for f in fields if f.column is not None)


def _triggers_of(
    connection: sqlite3.Connection, captured: _Captured, indexes: Sequence[UniqueIndex], now_sql: str
) -> dict[str, str]:
    evicting = [index for index in indexes if _evicts_others(index, captured)]
    if captured.view:
        return _triggers_behind_view(connection, captured, evicting, now_sql)
    new, old = (
        _logged(captured, "NEW", now_sql, gone=False),
        _logged(captured, "OLD", now_sql, gone=captured.vanishes),
    )
    moved = any_of([_differs(column) for column in captured.columns])
    found = {
        "insert": ("AFTER INSERT", "", [new]),
        "update": ("AFTER UPDATE", _changes(captured), [new, f"{old} AND ({moved})"]),
        "delete": ("AFTER DELETE", "", [old]),
    }
    if evicting:
        evicted = [_evicted(captured, index, now_sql) for index in evicting]
        found["evict"] = ("BEFORE INSERT", "", evicted)
        found["evict_update"] = (
            "BEFORE UPDATE",
            any_of([_differs(column) for index in evicting for column, _ in index.columns]),
            evicted,
        )
    return dict(_trigger(captured, name, *parts) for name, parts in found.items())


def _triggers_behind_view(
    connection: sqlite3.Connection, captured: _Captured, evicting: Sequence[UniqueIndex], now_sql: str
) -> dict[str, str]:
    """An item is concerned where it is in the view before the write, or after it. What is not there again after it
    may be gone: the fold looks."""
    was_new, was_old = (_logged(captured, row, now_sql, gone=True) for row in ("NEW", "OLD"))
    new, old = (_logged(captured, row, now_sql, gone=False) for row in ("NEW", "OLD"))
    (table,) = reflect(connection, [captured.table]).values()
    changed = any_of([_differs(column.name) for column in table.columns])
    evicted = [_evicted(captured, index, now_sql) for index in evicting]
    parts = {
        "was_insert": ("BEFORE INSERT", "", [was_new, *evicted]),
        "was_update": ("BEFORE UPDATE", changed, [was_old, was_new, *evicted]),
        "was_delete": ("BEFORE DELETE", "", [was_old]),
        "insert": ("AFTER INSERT", "", [new]),
        "update": ("AFTER UPDATE", changed, [new, old]),
        "delete": ("AFTER DELETE", "", [old]),
    }
    return dict(_trigger(captured, name, *of) for name, of in parts.items())


def _trigger(captured: _Captured, act: str, event: str, condition: str, body: Sequence[str]) -> tuple[str, str]:
    name = f"{PREFIX}{captured.type_id}_{captured.table}_{act}"
    when = "NOT EXISTS (SELECT 1 FROM kod_applying)" + (f" AND ({condition})" if condition else "")
    statements = "".join(f"\n  {statement};" for statement in body)
    return name, (
        f"CREATE TRIGGER {quoted(name)} {event} ON {quoted(captured.table)}\nWHEN {when}\nBEGIN{statements}\nEND"
    )


def _logged(captured: _Captured, row: str, now_sql: str, *, gone: bool) -> str:
    there = " AND ".join(f"{row}.{quoted(c)} IS NOT NULL" for c in captured.columns) if captured.nullable else "1"
    if captured.view:
        there += f" AND {_in_view(captured, row)}"
    if captured.root:  # the object may be gone already: then its own trigger has noted it
        there += f" AND {captured.key(row)} IS NOT NULL"
    return (
        f"INSERT INTO kod_log (type, key, at, gone, local) "
        f"SELECT {captured.type_id}, {captured.key(row)}, {now_sql}, {int(gone)}, 1 WHERE {there}"
    )


def _in_view(captured: _Captured, row: str) -> str:
    tied = " AND ".join(
        f"v.{quoted(theirs)} = {row}.{quoted(ours)}"
        for ours, theirs in zip(captured.columns, captured.root_key, strict=True)
    )
    return f"EXISTS (SELECT 1 FROM {quoted(captured.view)} v WHERE {tied})"


def _differs(column: str) -> str:
    """1 and 1.0 are equal in SQLite, and written differently."""
    old, new = f"OLD.{quoted(column)}", f"NEW.{quoted(column)}"
    return f"{old} IS NOT {new} COLLATE BINARY OR typeof({old}) <> typeof({new})"


def _changes(captured: _Captured) -> str:
    """An UPDATE that leaves all that travels as it was is none. Not `UPDATE OF`: `SET rowid = …` evades it."""
    order = ["OLD.rowid <> NEW.rowid"] if captured.ordered_by_rowid else []
    return any_of([*order, *(_differs(column) for column in captured.travelling)])


def _evicts_others(index: UniqueIndex, captured: _Captured) -> bool:
    return bool(index.columns) and not set(captured.columns) <= {column for column, _ in index.columns}


def _evicted(captured: _Captured, index: UniqueIndex, now_sql: str) -> str:
    equal = " AND ".join(
        f"e.{quoted(column)} = NEW.{quoted(column)} COLLATE {quoted(collation)}" for column, collation in index.columns
    )
    there = "".join(f" AND e.{quoted(c)} IS NOT NULL" for c in captured.columns) if captured.nullable else ""
    there += f" AND {_in_view(captured, 'e')}" if captured.view else ""
    return (
        f"INSERT INTO kod_log (type, key, at, gone, local) "
        f"SELECT {captured.type_id}, {captured.key('e')}, {now_sql}, {int(captured.vanishes)}, 1 "
        f"FROM {quoted(captured.table)} e WHERE {equal}{there}"
    )

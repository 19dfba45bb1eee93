"""What tables there are, in the words of schemas.tables."""

from __future__ import annotations

import re
import sqlite3
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from node.databases.sqlite.lexical import affinity_of, xml_of
from schemas.tables import Column, ForeignKey, Table

_DIGITS = re.compile(r"\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", re.ASCII)


def table_names(connection: sqlite3.Connection) -> Sequence[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') "
        r"AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE 'kod\_%' ESCAPE '\' ORDER BY name"
    )
    return [name for (name,) in rows]


def reflect(connection: sqlite3.Connection, names: Iterable[str]) -> Mapping[str, Table]:
    """The tables of these names, spelled as they were asked for: SQLite's names know no upper and lower case."""
    asked = {folded(name): name for name in names}
    kinds = {
        folded(name): (name, kind == "view", sql or "")
        for name, kind, sql in connection.execute(
            "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view')"
        )
    }
    found = {asked[key]: of for key, of in kinds.items() if key in asked}
    own_names = [own_name for own_name, *_ in found.values()]
    foreign = _rows(connection, _FOREIGN_KEYS, own_names)
    columns = _rows(connection, _COLUMNS, {*own_names, *(target for rows in foreign.values() for target, *_ in rows)})
    uniques = unique_indexes(connection, own_names)
    return {
        name: _table(
            name,
            view,
            sql,
            columns[own_name],
            _foreign_keys(foreign.get(own_name, ()), columns, own_name, asked),
            uniques[own_name],
        )
        for name, (own_name, view, sql) in found.items()
    }


_Row = tuple[Any, ...]

# One statement for all tables: a PRAGMA for each of hundreds is most of a start.
_COLUMNS = """SELECT j.value, x.name, x.type, x."notnull", x.pk, x.hidden
    FROM json_each(?) j CROSS JOIN pragma_table_xinfo(j.value) x ORDER BY j.id, x.cid"""
_FOREIGN_KEYS = """SELECT j.value, x."table", x.id, x."from", x."to", x.on_delete
    FROM json_each(?) j CROSS JOIN pragma_foreign_key_list(j.value) x ORDER BY j.id, x.id DESC, x.seq"""
_INDEXES = """SELECT j.value, i.name, i.origin, i.partial, x.cid, x.name, x.coll
    FROM json_each(?) j CROSS JOIN pragma_index_list(j.value) i CROSS JOIN pragma_index_xinfo(i.name) x
    WHERE i."unique" AND x.key ORDER BY j.id, i.seq, x.seqno"""


def _rows(connection: sqlite3.Connection, sql: str, names: Iterable[str]) -> dict[str, list[_Row]]:
    found: dict[str, list[_Row]] = {}
    for name, *row in connection.execute(sql, (orjson.dumps(list(names)).decode(),)):
        found.setdefault(name, []).append(tuple(row))
    return found


def folded(name: str) -> str:
    """As SQLite compares names: upper and lower case of ASCII letters only."""
    return name.translate(_LOWER)


_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def _table(
    name: str,
    view: bool,
    sql: str,
    rows: Sequence[_Row],
    foreign_keys: tuple[ForeignKey, ...],
    indexes: Sequence[UniqueIndex],
) -> Table:
    primary_key = _primary_key(rows)
    alias = _rowid_alias(rows, primary_key, sql)
    return Table(
        name=name,
        columns=tuple(
            _column(column, native, bool(notnull) or column in primary_key, hidden in (2, 3), column == alias)
            for column, native, notnull, _, hidden in rows
            if hidden != 1
        ),
        primary_key=primary_key,
        foreign_keys=foreign_keys,
        uniques=tuple(
            tuple(column for column, _ in index.columns)
            for index in indexes
            if not index.primary and not index.partial and not index.expression
        ),
        view=view,
    )


def _primary_key(rows: Sequence[_Row]) -> tuple[str, ...]:
    return tuple(column for _, column in sorted((pk, column) for column, _, _, pk, _ in rows if pk))


def _rowid_alias(rows: Sequence[_Row], key: Sequence[str], sql: str) -> str | None:
    """The column that SQLite fills by itself: exactly `INTEGER PRIMARY KEY`, in a table with rowids."""
    if len(key) != 1 or re.search(r"\)[^)]*\bWITHOUT\s+ROWID\b[^)]*$", sql, re.IGNORECASE):
        return None
    return next((name for name, native, *_ in rows if name == key[0] and native.upper() == "INTEGER"), None)


def _column(name: str, native: str, not_null: bool, computed: bool, generated_key: bool) -> Column:
    native = native.lower()
    xml = xml_of(native)
    digits = _DIGITS.search(native) if xml == "decimal" else None
    return Column(
        name=name,
        native=native,
        xml=xml,
        nullable=not not_null,
        computed=computed,
        generated_key=generated_key,
        digits=(int(digits[1]), int(digits[2] or 0)) if digits else None,
        why_inexact=_why_inexact(xml, affinity_of(native)),
    )


def _why_inexact(xml: str, affinity: str) -> str:
    if xml == "decimal" and affinity in ("NUMERIC", "REAL", "INTEGER"):
        return "SQLite keeps it as a floating-point number: digits after the fifteenth are lost; TEXT would keep them"
    if xml == "string" and affinity in ("NUMERIC", "REAL", "INTEGER"):
        return "SQLite makes numbers of texts of digits in a column of this type ('007' is refused); TEXT keeps them"
    if xml == "json" and affinity == "NUMERIC":
        return "SQLite turns a JSON text that is only a number into a number (1.50 becomes 1.5); TEXT keeps it"
    if xml in ("float", "double"):
        return "SQLite has no NaN (a message with one is refused) and no negative zero"
    return ""


def _foreign_keys(
    rows: Iterable[_Row], columns: Mapping[str, Sequence[_Row]], name: str, asked: Mapping[str, str]
) -> tuple[ForeignKey, ...]:
    """`rows`: SQLite lists the last declared first, so they come from the highest number down."""
    grouped: dict[int, list[_Row]] = {}
    for row in rows:
        grouped.setdefault(row[1], []).append(row)
    found = []
    for pairs in grouped.values():
        target, _, _, _, on_delete = pairs[0]
        there = columns.get(target, ())
        # REFERENCES t: its primary key
        target_columns = _spelled([pair[3] for pair in pairs if pair[3] is not None], there) or _primary_key(there)
        if len(target_columns) == len(pairs):
            found.append(
                ForeignKey(
                    columns=_spelled([pair[2] for pair in pairs], columns[name]),
                    target=asked.get(folded(target), target),
                    target_columns=target_columns,
                    on_delete="" if on_delete in ("NO ACTION", "RESTRICT") else on_delete,
                )
            )
    return tuple(found)


def _spelled(names: Iterable[str], rows: Iterable[_Row]) -> tuple[str, ...]:
    """Names of columns as their table has them."""
    known: dict[str, str] = {folded(row[0]): row[0] for row in rows}
    return tuple(known.get(folded(name), name) for name in names)


def followed_columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """By table, in lower case: columns whose changes the database carries on into other rows (ON UPDATE)."""
    found: dict[str, set[str]] = {}
    for target, column in connection.execute(
        """SELECT x."table", x."to" FROM sqlite_master m CROSS JOIN pragma_foreign_key_list(m.name) x
        WHERE m.type = 'table' AND x.on_update IN ('CASCADE', 'SET NULL', 'SET DEFAULT') AND x."to" IS NOT NULL"""
    ):
        found.setdefault(folded(target), set()).add(folded(column))
    return found


class UniqueIndex:
    """A unique index: (column, collation) of its columns."""

    def __init__(self, columns: Sequence[tuple[str, str]], *, primary: bool, partial: bool, expression: bool) -> None:
        self.columns = tuple(columns)
        self.primary = primary
        self.partial = partial
        self.expression = expression
        """It is over an expression: only its plain columns are in `columns`."""


def unique_indexes(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, list[UniqueIndex]]:
    """The unique indexes of tables, each one's primary key's first; an INTEGER PRIMARY KEY has none and is added."""
    names = list(dict.fromkeys(names))
    rows = _rows(connection, _INDEXES, names)
    found = {name: _unique_indexes(rows.get(name, ())) for name in names}
    without = [name for name, indexes in found.items() if not any(index.primary for index in indexes)]
    for name, columns in _rows(connection, _COLUMNS, without).items():
        if key := _primary_key(columns):
            binary = [(column, "BINARY") for column in key]
            found[name].insert(0, UniqueIndex(binary, primary=True, partial=False, expression=False))
    return found


def _unique_indexes(rows: Iterable[_Row]) -> list[UniqueIndex]:
    by_name: dict[str, list[_Row]] = {}
    for index, *row in rows:
        by_name.setdefault(index, []).append(tuple(row))
    found = [
        UniqueIndex(
            [(column, collation) for *_, column, collation in its if column is not None],
            primary=its[0][0] == "pk",
            partial=bool(its[0][1]),
            expression=any(cid == -2 for _, _, cid, _, _ in its),
        )
        for its in by_name.values()
    ]
    return sorted(found, key=lambda index: (not index.primary, index.columns))

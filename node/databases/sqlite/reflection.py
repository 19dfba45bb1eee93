"""What tables there are, in the words of schemas.tables."""

from __future__ import annotations

import re
import sqlite3
import string
from collections.abc import Iterable, Mapping, Sequence

from node.databases.sqlite.lexical import affinity_of, quoted, xml_of
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
    return {
        name: _table(connection, name, *kinds[folded], asked=asked) for folded, name in asked.items() if folded in kinds
    }


def folded(name: str) -> str:
    """As SQLite compares names: upper and lower case of ASCII letters only."""
    return name.translate(_LOWER)


_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def _table(
    connection: sqlite3.Connection, name: str, own_name: str, view: bool, sql: str, *, asked: Mapping[str, str]
) -> Table:
    rows = connection.execute(f"PRAGMA table_xinfo({quoted(own_name)})").fetchall()
    keyed = sorted((pk, column) for _, column, _, _, _, pk, _ in rows if pk)
    primary_key = tuple(column for _, column in keyed)
    alias = _rowid_alias(rows, primary_key, sql)
    return Table(
        name=name,
        columns=tuple(
            _column(column, native, bool(notnull) or column in primary_key, hidden in (2, 3), column == alias)
            for _, column, native, notnull, _, _, hidden in rows
            if hidden != 1
        ),
        primary_key=primary_key,
        foreign_keys=_foreign_keys(connection, own_name, [row[1] for row in rows], asked),
        uniques=_uniques(connection, own_name),
        view=view,
    )


def _rowid_alias(
    rows: Sequence[tuple[int, str, str, int, object, int, int]], key: Sequence[str], sql: str
) -> str | None:
    """The column that SQLite fills by itself: exactly `INTEGER PRIMARY KEY`, in a table with rowids."""
    if len(key) != 1 or re.search(r"\)[^)]*\bWITHOUT\s+ROWID\b[^)]*$", sql, re.IGNORECASE):
        return None
    return next((name for _, name, native, *_ in rows if name == key[0] and native.upper() == "INTEGER"), None)


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
    connection: sqlite3.Connection, name: str, columns: Sequence[str], asked: Mapping[str, str]
) -> tuple[ForeignKey, ...]:
    own = {folded(column): column for column in columns}
    grouped: dict[int, list[tuple[str, str, str | None, str]]] = {}
    for number, _, target, column, target_column, _, on_delete, _ in connection.execute(
        f"PRAGMA foreign_key_list({quoted(name)})"
    ).fetchall():
        grouped.setdefault(number, []).append((target, column, target_column, on_delete))
    found = []
    for _, pairs in sorted(grouped.items(), reverse=True):  # SQLite lists the last declared first
        target = pairs[0][0]
        target_rows = connection.execute(f"PRAGMA table_xinfo({quoted(target)})").fetchall()
        theirs = {folded(row[1]): row[1] for row in target_rows}
        target_columns = [theirs.get(folded(t), t) for _, _, t, _ in pairs if t is not None]
        if not target_columns:  # REFERENCES t: its primary key
            target_columns = [row[1] for row in sorted(target_rows, key=lambda row: row[5]) if row[5]]
        if len(target_columns) == len(pairs):
            found.append(
                ForeignKey(
                    columns=tuple(own.get(folded(c), c) for _, c, _, _ in pairs),
                    target=asked.get(folded(target), target),
                    target_columns=tuple(target_columns),
                    on_delete="" if pairs[0][3] in ("NO ACTION", "RESTRICT") else pairs[0][3],
                )
            )
    return tuple(found)


def _uniques(connection: sqlite3.Connection, name: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(column for column, _ in index.columns)
        for index in unique_indexes(connection, name)
        if not index.primary and not index.partial and not index.expression
    )


class UniqueIndex:
    """A unique index: (column, collation) of its columns."""

    def __init__(self, columns: Sequence[tuple[str, str]], *, primary: bool, partial: bool, expression: bool) -> None:
        self.columns = tuple(columns)
        self.primary = primary
        self.partial = partial
        self.expression = expression
        """It is over an expression: only its plain columns are in `columns`."""


def unique_indexes(connection: sqlite3.Connection, name: str) -> list[UniqueIndex]:
    """The unique indexes of a table, the primary key's first; an INTEGER PRIMARY KEY has none and is added."""
    found = []
    for _, index, unique, origin, partial in connection.execute(f"PRAGMA index_list({quoted(name)})").fetchall():
        if not unique:
            continue
        rows = connection.execute(f"PRAGMA index_xinfo({quoted(index)})").fetchall()
        keyed = [(cid, column, collation) for _, cid, column, _, collation, key in rows if key]
        found.append(
            UniqueIndex(
                [(column, collation) for _, column, collation in keyed if column is not None],
                primary=origin == "pk",
                partial=bool(partial),
                expression=any(cid == -2 for cid, _, _ in keyed),
            )
        )
    if not any(index.primary for index in found):
        rows = connection.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
        key = [row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5]]
        if key:
            found.append(UniqueIndex([(c, "BINARY") for c in key], primary=True, partial=False, expression=False))
    return sorted(found, key=lambda index: (not index.primary, index.columns))

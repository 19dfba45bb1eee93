"""What is unique in an object's table besides its key, and how such a value is freed for the moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from node.databases.sqlite.lexical import affinity_of, quoted
from node.databases.sqlite.reflection import UniqueIndex, unique_indexes
from schemas.structure import ItemType
from schemas.tables import Table

_ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT")


class Uniqueness:
    """For each unique index of the table: columns by which a row can be put out of others' way, the best first."""

    def __init__(self, indexes: Sequence[Sequence[tuple[str, str]]]) -> None:
        self._indexes = tuple(tuple(columns) for columns in indexes)

    @classmethod
    def of(cls, connection: sqlite3.Connection, item_type: ItemType, table: Table) -> Uniqueness | None:
        """None where two items of the type cannot get into each other's way. `table` is the type's."""
        assert item_type.table is not None
        key = {f.column.name for f in item_type.key if f.column}
        indexes = _indexes(connection, item_type.table, key)
        in_sections = any(_indexes(connection, s.table, {own for own, _ in s.link}) for s in item_type.sections)
        if not indexes and not in_sections:
            return None
        followed = _followed(connection, item_type.table)
        free = {
            column.name: "NULL" if column.nullable else _placeholder(column.native)
            for column in sorted(table.columns, key=lambda column: not column.nullable)
            if not column.computed
            and column.name not in {*key, *table.primary_key}
            and column.name.lower() not in followed
        }
        names = [{name for name, _ in index.columns} for index in indexes]
        return cls([[(column, value) for column, value in free.items() if column in own] for own in names])

    def released(self, arriving: frozenset[str] | None) -> Iterator[tuple[str, str]]:
        """(column, SQL of a value that nobody else has) for each index; of a row to be updated only columns that get
        their value back with what arrives, of one to be deleted (None) any."""
        found: dict[str, str] = {}
        for columns in self._indexes:
            able = [(column, value) for column, value in columns if arriving is None or column in arriving]
            if able:
                found.setdefault(*able[0])
        yield from found.items()


def _indexes(connection: sqlite3.Connection, table: str, key: set[str]) -> list[UniqueIndex]:
    """Those in which rows of different items may clash."""
    return [i for i in unique_indexes(connection, table) if not i.primary and not key <= {c for c, _ in i.columns}]


def _placeholder(native: str) -> str:
    """Random, so that it meets neither what is there nor what arrives; of the class that a STRICT table asks for."""
    return {"TEXT": "hex(randomblob(16))", "BLOB": "randomblob(16)"}.get(affinity_of(native), "random()")


def _followed(connection: sqlite3.Connection, table: str) -> set[str]:
    """Columns, in lower case, whose changes the database carries on into other rows (ON UPDATE), uncaptured."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    found = set()
    for (name,) in names:
        for _, _, target, _, column, on_update, *_ in connection.execute(
            f"PRAGMA foreign_key_list({quoted(name)})"
        ).fetchall():
            if target.lower() == table.lower() and on_update in _ACTIONS and column is not None:
                found.add(column.lower())
    return found

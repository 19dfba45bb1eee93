"""What is unique in an object's table besides its key, and how such a value is freed for the moment."""

from __future__ import annotations

from collections.abc import Sequence

from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import quoted
from node.databases.mariadb.reflection import quoted_table
from schemas.structure import ItemType
from schemas.tables import Column, Table


class Uniqueness:
    """For each unique index of the table: columns by which a row can be put out of others' way, the best first."""

    def __init__(self, item_type: ItemType, table: Table, sections: Sequence[Table], followed: frozenset[str]) -> None:
        """`followed`: columns whose changes the server carries on into other rows (ON UPDATE), uncaptured."""
        key = {f.column.name for f in item_type.key if f.column}
        self._table = quoted_table(table.name)
        able = [
            column
            for column in sorted(table.columns, key=lambda column: not column.nullable)
            if not column.computed and column.name not in {*key, *table.primary_key} and column.name not in followed
        ]
        self._indexes = [
            [column for column in able if column.name in unique] for unique in table.uniques if not key <= set(unique)
        ]
        links = {s.table: {own for own, _ in s.link} for s in item_type.sections}
        keys = [(s, unique) for s in sections for unique in (*s.uniques, s.primary_key)]
        self.concerned = bool(self._indexes) or any(u and not links[s.name] & set(u) for s, u in keys)
        """Whether two items of the type can get into each other's way."""

    def released(self, connection: Connection, arriving: frozenset[str] | None) -> dict[str, str]:
        """Column -> SQL of a value that nobody else has (`k.n` is the row's number), for each index. Of a row to be
        updated only columns that get their value back with what arrives, of one to be deleted (None) any."""
        found: dict[str, str] = {}
        for columns in self._indexes:
            for column in columns:
                value = self._free(connection, column) if arriving is None or column.name in arriving else None
                if value is not None:
                    found.setdefault(column.name, value)
                    break
        return found

    def _free(self, connection: Connection, column: Column) -> str | None:
        if column.nullable:
            return "NULL"
        if column.native.startswith(("varchar", "char", "text", "tinytext", "mediumtext", "longtext")):
            length = column.length or 64
            return f"LEFT(SHA2(CONCAT(k.n, RAND(), r.{quoted(column.name)}), 256), {length})"
        if column.xml == "base64Binary":
            return "UNHEX(MD5(CONCAT(k.n, RAND())))"
        if column.xml in ("integer", "decimal", "double"):
            upwards = "unsigned" in column.native
            extreme = "MAX" if upwards else "MIN"
            (value,) = connection.one(f"SELECT {extreme}({quoted(column.name)}) FROM {self._table}")
            return f"{value or 0} {'+' if upwards else '-'} 1 {'+' if upwards else '-'} k.n"
        return None

"""Rows on their way into a table: a temporary one whose columns are the table's own, with their types and collations.

What comes as JSON is put there first, in one statement; then rows of the table that are to change, to be added or to go
are found by joins, set by set. Three more columns: kod_n (the row's number), kod_item (the item among those that are
asked for), kod_shape (which properties came with it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import Form, differs, placeholder, quoted, stored
from node.databases.mariadb.reflection import quoted_table
from schemas.errors import RefusedError
from schemas.structure import Field

Shape = tuple[str, ...]
"""The names of the properties that a row has, in the fields' order."""


class Staging:
    """The way into one table for rows of some fields; `link` are columns that are no properties of a row."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        table: str,
        fields: Sequence[Field],
        primary_key: Sequence[str],
        link: Sequence[str] = (),
    ) -> None:
        self._connection = connection
        self.name = name
        self.table = quoted_table(table)
        self.fields = tuple(f for f in fields if f.column is not None)
        self.link = tuple(link)
        self.column_of = {f.name: f.column.name for f in self.fields if f.column}
        self.form_of = {f.column.name: Form.of(f) for f in self.fields if f.column}
        self._stored = [(f.name, stored(Form.of(f))) for f in self.fields]
        self._names = frozenset(self.column_of)
        self._order = tuple(self.column_of)
        self._made = False
        self.primary_key = tuple(primary_key)
        self.by_key = bool(primary_key) and set(primary_key) <= {*self.form_of, *self.link}
        """Rows can be told apart by the table's primary key."""
        self.shapes: list[Shape] = []

    def fill(self, rows: Sequence[tuple[int, Mapping[str, Any]]], where: str) -> None:
        """(number of the item, row) each. Raises RefusedError that names the property and what its value is."""
        self.shapes = []
        places: dict[Shape, int] = {}
        staged = []
        for n, (item, row) in enumerate(rows):
            shape = self._order if row.keys() >= self._names else tuple(f for f in self._order if f in row)
            place = places.setdefault(shape, len(places))
            staged.append((n, item, place, *self._values(row, where)))
        self.shapes = list(places)
        self._make()
        self._connection.run(f"DELETE FROM {self.name}")
        empty = [c for c in self.link if c not in self.form_of]  # such columns have no default, not even NULL
        marks = "".join(f", {placeholder(form)}" for form in self.form_of.values()) + ", %s" * len(empty)
        columns = "".join(f", {quoted(c)}" for c in (*self.form_of, *empty))
        nulls = (None,) * len(empty)
        self._made = False  # where it refuses a row, its table may have got wider meanwhile: it is made anew then
        self._connection.many(
            f"INSERT INTO {self.name} (kod_n, kod_item, kod_shape{columns}) VALUES (%s, %s, %s{marks})",
            [(*row, *nulls) for row in staged],
        )
        self._made = True

    def stored_values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """By column what the database is given of a row. Raises ValueError for what it cannot hold."""
        return {self.column_of[name]: store(row[name]) for name, store in self._stored if name in row}

    def _values(self, row: Mapping[str, Any], where: str) -> list[Any]:
        try:
            return [store(row.get(name)) for name, store in self._stored]
        except ValueError:
            raise self._fault(row, where) from None

    def _fault(self, row: Mapping[str, Any], where: str) -> RefusedError:
        for field, (name, store) in zip(self.fields, self._stored, strict=True):
            try:
                store(row.get(name))
            except ValueError as error:
                return RefusedError(
                    f"{where}.{name} has to be {field.prop.xml}, and is {error}",
                    hint="is the sender's package the same? compare `kod schema check` at both nodes",
                )
        raise AssertionError("some value was refused")

    def _make(self) -> None:
        """On the far side of a join that finds nothing columns may be null, as absent properties are. (With `WHERE
        FALSE` the server would make an inner join of it; the one row that comes is deleted with the others.)"""
        if self._made:
            return
        columns = "".join(f", r.{quoted(c)}" for c in (*self.form_of, *(c for c in self.link if c not in self.form_of)))
        index = f", INDEX kod_by_key ({', '.join(map(quoted, self.primary_key))})" if self.by_key else ""
        self._connection.run(f"DROP TEMPORARY TABLE IF EXISTS {self.name}")
        self._connection.run(
            f"CREATE TEMPORARY TABLE {self.name} (kod_n INT NOT NULL PRIMARY KEY, kod_item INT NOT NULL,"
            f" kod_shape INT NOT NULL, INDEX kod_by_item (kod_item){index}) ENGINE = InnoDB"
            f" SELECT 0 AS kod_n, 0 AS kod_item, 0 AS kod_shape{columns}"
            f" FROM (SELECT 1) d LEFT JOIN {self.table} r ON FALSE"
        )
        self._made = True

    # --- from here into the table (alias `x` is the staged row, `t` the table's)

    def equal(self, columns: Sequence[str]) -> str:
        return " AND ".join(f"t.{quoted(c)} = x.{quoted(c)}" for c in columns) or "TRUE"

    def insert(
        self, shape: int, without: Sequence[str] = (), *, absent_by: Sequence[str] = (), condition: str = ""
    ) -> None:
        """Adds rows; `without` stay empty for now. `absent_by`: only those that are not there by these columns."""
        columns = [c for c in (*self._columns_of(shape), *self.link) if c not in without]
        listed = ", ".join(map(quoted, columns))
        values = ", ".join(f"x.{quoted(c)}" for c in columns)
        rows = f"{self.name} x"
        where = f"x.kod_shape = {shape}{condition}"
        if absent_by:
            rows += f" LEFT JOIN {self.table} t ON {self.equal(absent_by)}"
            where += f" AND t.{quoted(absent_by[0])} IS NULL"
        self._connection.run(
            f"INSERT INTO {self.table} ({listed}) SELECT {values} FROM {rows} WHERE {where} ORDER BY x.kod_n"
        )

    def update(self, shape: int, by: Sequence[str], keep: Sequence[str]) -> None:
        """Changes rows that are there by columns `by` and differ; columns of `keep` are not touched."""
        changing = [c for c in dict.fromkeys((*self._columns_of(shape), *self.link)) if c not in keep]
        if not changing:
            return
        sets = ", ".join(f"t.{quoted(c)} = x.{quoted(c)}" for c in changing)
        different = " OR ".join(self._differs(c) for c in changing)
        self._connection.run(
            f"UPDATE {self.name} x STRAIGHT_JOIN {self.table} t ON {self.equal(by)} SET {sets}"
            f" WHERE x.kod_shape = {shape} AND ({different})"
        )

    def _differs(self, column: str) -> str:
        own, incoming = f"t.{quoted(column)}", f"x.{quoted(column)}"
        form = self.form_of.get(column)
        return differs(form, own, incoming) if form else f"NOT (CAST({own} AS BINARY) <=> CAST({incoming} AS BINARY))"

    def _columns_of(self, shape: int) -> list[str]:
        return [self.column_of[name] for name in self.shapes[shape]]

    def clashes(self, by: Sequence[str]) -> bool:
        """Whether two of the staged rows are one to the table, by the collations of these columns."""
        listed = ", ".join(map(quoted, by))
        return bool(self._connection.rows(f"SELECT 1 FROM {self.name} GROUP BY {listed} HAVING COUNT(*) > 1 LIMIT 1"))

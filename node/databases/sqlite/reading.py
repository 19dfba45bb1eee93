"""Items as JSON text, made by SQLite: the root, its sections aggregated; a record set whole.

Items are asked for through a temporary table (kod_asked), so that one statement a type answers for all of them. A
key's value may stand there in several spellings (lexical.variants): SQLite has no type for times.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import orjson

from dispatcher.ports import Content
from node.databases.sqlite.lexical import (
    Form,
    all_of,
    json_sql,
    key_array_sql,
    key_sql,
    object_sql,
    quoted,
    spelled_variously,
    stored_key,
    variants,
)
from schemas.errors import MessageError
from schemas.structure import Field, ItemType, Reference, Section, Structure
from serializers import beside
from serializers.keys import Item

CHUNK = 1_000
"""Items read by one statement: contents come as a stream."""


class TypeReading:
    """The SQL that reads one type; compiled once."""

    def __init__(self, item_type: ItemType) -> None:
        self.item_type = item_type
        self.key_forms = tuple(Form.of(f) for f in item_type.key) if item_type.table else ()
        self.key_columns = tuple(f.column.name for f in item_type.key if f.column)
        self.spelled_variously = any(map(spelled_variously, self.key_forms))
        self._stored = tuple(stored_key(form) for form in self.key_forms)

    def bindings(self, key: str) -> Iterable[tuple[Any, ...]]:
        """What the key's columns may hold, as SQLite keeps it."""
        values = self.values(key)
        if not self.spelled_variously:
            return (tuple([store(value) for store, value in zip(self._stored, values, strict=True)]),)
        return product(*(variants(form, value) for form, value in zip(self.key_forms, values, strict=True)))

    def values(self, key: str) -> list[Any]:
        found: list[Any] = orjson.loads(key)
        if len(found) != len(self.key_columns):
            raise MessageError(f"{self.item_type.name}: {key} is not its key")
        return found

    def key_of_row(self, row: str) -> str:
        """SQL for the key's text of a row of the root table."""
        return key_array_sql(self.key_forms, [f"{row}.{quoted(c)}" for c in self.key_columns])

    def joined(self, row: str, asked: str = "k") -> str:
        """SQL that ties a row of the root table to the asked key; in a filter NULL equals NULL."""
        equal = "=" if self.item_type.is_object else "IS"
        return all_of(
            f"{row}.{quoted(column)} {equal} {asked}.a{number}" for number, column in enumerate(self.key_columns)
        )

    @cached_property
    def table(self) -> str:
        assert self.item_type.table is not None
        return quoted(self.item_type.table)

    @cached_property
    def contents(self) -> str:
        """SELECT n, JSON text (as bytes): of an object, or of the records of a set, comma-separated."""
        if self.item_type.is_object:
            pairs = [(f.name, self._value(f, "r")) for f in self.item_type.held]
            pairs += [(s.name, self._section(s)) for s in self.item_type.sections]
            text = object_sql(pairs)
            rows = f"temp.kod_asked k CROSS JOIN {self.table} r ON {self.joined('r')}"
            return f"SELECT k.n, CAST({text} AS BLOB) FROM {rows}"
        names = self.item_type.key_names
        record = object_sql((f.name, self._value(f, "r")) for f in self.item_type.held if f.name not in names)
        # a view's rows have no rowid: there all columns tell them apart
        own = () if not self.item_type.view else [f.column.name for f in self.item_type.held if f.column]
        order = _order(self.item_type.record_key or own, "r")
        rows = f"SELECT {record} AS j FROM {self.table} r WHERE {self.joined('r')}{order}"
        return f"SELECT k.n, (SELECT CAST(group_concat(j, ',') AS BLOB) FROM ({rows})) FROM temp.kod_asked k"

    def _value(self, field: Field, row: str) -> str:
        assert field.column is not None
        value = f"{row}.{quoted(field.column.name)}"
        form = Form.of(field)
        # a key's value stands in the item as it stands in its key, byte for byte
        return key_sql(form, value) if field in self.item_type.key else json_sql(form, value)

    def _section(self, section: Section) -> str:
        held = [f for f in section.fields if f.column is not None]
        row = object_sql((f.name, json_sql(Form.of(f), f"s.{quoted(f.column.name)}")) for f in held if f.column)
        linked = " AND ".join(f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        own_key = [c for c in section.primary_key if c not in {own for own, _ in section.link}]
        order = _order([*section.order, *(c for c in own_key if c not in section.order)], "s")
        rows = f"SELECT {row} AS j FROM {quoted(section.table)} s WHERE {linked}{order}"
        return f"'[' || coalesce((SELECT group_concat(j, ',') FROM ({rows})), '') || ']'"

    @cached_property
    def existing(self) -> str:
        """SELECT n of the asked keys that have a row."""
        return f"SELECT DISTINCT k.n FROM temp.kod_asked k CROSS JOIN {self.table} r ON {self.joined('r')}"

    def source_of(self, reference: Reference) -> str:
        """FROM … for the rows of asked items that bear a reference: alias `r`, or `s` for a section's."""
        rows = f"temp.kod_asked k CROSS JOIN {self.table} r ON {self.joined('r')}"
        if reference.section is None:
            return rows
        section = next(s for s in self.item_type.sections if s.name == reference.section)
        linked = " AND ".join(f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        return f"{rows} JOIN {quoted(section.table)} s ON {linked}"


def _order(columns: Sequence[str], row: str) -> str:
    if not columns:  # nothing tells the rows apart: in the order in which they were written
        return f" ORDER BY {row}.rowid"
    return " ORDER BY " + ", ".join(f"{row}.{quoted(c)} COLLATE BINARY" for c in columns)


class Reading:
    """Reads items over one connection. What is asked for stands in its temporary table: not for two threads at once."""

    def __init__(self, connection: sqlite3.Connection, structure: Structure, type_ids: Mapping[str, int]) -> None:
        self._connection = connection
        self._type_ids = type_ids
        self.types = {name: TypeReading(item_type) for name, item_type in structure.types.items()}
        self._asked: list[Item] | None = None
        width = max((len(t.key) for t in structure.types.values()), default=1)
        self._width = max(width, 1)
        columns = ", ".join(f"a{number}" for number in range(self._width))
        connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS kod_asked (n INTEGER, type INTEGER, key TEXT, {columns})")

    def ask(self, items: Sequence[Item]) -> None:
        """Puts items into kod_asked: n is the place in `items`."""
        if items == self._asked:
            return
        self._asked = list(items)
        self._connection.execute("DELETE FROM temp.kod_asked")
        width = self._width
        rows: list[tuple[Any, ...]] = []
        for n, (type_name, key) in enumerate(items):
            type_id = self._type_ids.get(type_name, -1)
            reading = self.types.get(type_name)
            if reading is None or reading.item_type.table is None:
                rows.append((n, type_id, key, *[None] * width))
                continue
            padding = [None] * (width - len(reading.key_columns))
            rows.extend((n, type_id, key, *values, *padding) for values in reading.bindings(key))
        marks = ", ".join("?" * (3 + width))
        self._connection.executemany(f"INSERT INTO temp.kod_asked VALUES ({marks})", rows)

    def begin(self) -> None:
        """A transaction has begun: what was asked for in another may have been rolled back."""
        self._asked = None

    def existing(self, items: Sequence[Item]) -> frozenset[Item]:
        """Those of `items` that have a row in their table (a type without a table: that are kept and not gone)."""
        found: set[Item] = set()
        for type_name, of_type in by_type(items).items():
            self.ask(of_type)
            reading = self.types.get(type_name)
            if reading is None or reading.item_type.table is None:
                statement = (
                    "SELECT k.n FROM temp.kod_asked k JOIN kod_register g ON g.type = k.type AND g.key = k.key "
                    "WHERE NOT g.gone"
                )
            else:
                statement = reading.existing
            found.update(of_type[n] for (n,) in self._connection.execute(statement))
        return frozenset(found)

    def contents(self, items: Sequence[Item]) -> Iterator[Content]:
        """The items' values in the order asked for; None for an object that is not there."""
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            texts: dict[Item, bytes | None] = {}
            for type_name, of_type in by_type(chunk).items():
                texts.update(self._of_type(type_name, of_type))
            for item in chunk:
                yield Content(item, texts.get(item))

    def _of_type(self, type_name: str, items: Sequence[Item]) -> dict[Item, bytes | None]:
        self.ask(items)
        reading = self.types.get(type_name)
        if reading is None or reading.item_type.table is None:
            rows = self._connection.execute(
                "SELECT k.n, CAST(g.kept AS BLOB) FROM temp.kod_asked k "
                "JOIN kod_register g ON g.type = k.type AND g.key = k.key WHERE NOT g.gone"
            )
            return {items[n]: text for n, text in rows}
        if reading.item_type.is_object:
            found = {items[n]: _utf8(text) for n, text in self._connection.execute(reading.contents)}
            return self._with_kept(type_name, items, found)
        records: dict[Item, list[bytes]] = {item: [] for item in items}
        for n, text in self._connection.execute(reading.contents):
            if text is not None:
                records[items[n]].append(_utf8(text))
        sets = {item: _record_set(reading.item_type, item.key, texts) for item, texts in records.items()}
        return self._with_kept(type_name, items, sets)

    def _with_kept(self, type_name: str, items: Sequence[Item], found: dict[Item, bytes]) -> dict[Item, bytes | None]:
        """Adds what arrived and has no column here, so that nothing is cut on its way through this node."""
        type_id = self._type_ids.get(type_name, -1)
        # by itself SQLite takes the primary key, and walks all items of the type
        (any_kept,) = self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM kod_register INDEXED BY kod_register_kept"
            " WHERE type = ? AND kept IS NOT NULL)",
            (type_id,),
        ).fetchone()
        if any_kept:
            rows = self._connection.execute(
                "SELECT DISTINCT k.n, CAST(g.kept AS BLOB) FROM temp.kod_asked k "
                "JOIN kod_register g ON g.type = k.type AND g.key = k.key WHERE g.kept IS NOT NULL"
            ).fetchall()
            for n, kept in rows:
                text = found.get(items[n])
                if text is not None and beside.bears_rows(kept):
                    found[items[n]] = beside.put_back(self.types[type_name].item_type, text, kept)
                elif text is not None:
                    found[items[n]] = text[:-1] + b"," + kept[1:]
        return dict(found)


def referring_values(reference: Reference, row: str) -> list[str]:
    """SQL for what a reference's columns hold; NULL where a composite holds something else."""
    within = reference.within
    if within is None:
        return [f"{row}.{quoted(column)}" for column in reference.columns]
    column, says = f"{row}.{quoted(within.column)}", "'" + within.says.replace("'", "''") + "'"
    if not within.json:
        return [f"CASE WHEN {column} = {says} THEN {row}.{quoted(reference.columns[0])} END"]
    of_type = f"json_valid({column}) AND json_extract({column}, '$.\"#type\"') = {says}"
    return [f"CASE WHEN {of_type} THEN json_extract({column}, '$.\"#value\"') END"]


def by_type(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.type, []).append(item)
    return found


def _record_set(item_type: ItemType, key: str, records: Sequence[bytes]) -> bytes:
    filtered = orjson.dumps(dict(zip(item_type.key_names, orjson.loads(key), strict=True)))
    return b'{"Filter":' + filtered + b',"Records":[' + b",".join(records) + b"]}"


def _utf8(text: bytes) -> bytes:
    """SQLite lets in text that is no UTF-8; in JSON it would stop the link. What cannot be read becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("utf-8", "replace").encode()
    return text

"""Items as JSON text, made by MariaDB.

Items are asked for through temporary tables, one a type, whose columns are those of the key with their types and
collations: so that tables are entered by index. What a collation takes for equal ('a' and 'A', 'a' and 'a ') is told
apart afterwards, byte by byte. A section's rows come one by one and are put together here: GROUP_CONCAT cuts what is
longer than its limit with a warning only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson

from dispatcher.ports import Content
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import (
    Form,
    json_sql,
    key_array_sql,
    key_sql,
    literal,
    object_sql,
    placeholder,
    quoted,
    stored,
)
from node.databases.mariadb.reflection import quoted_table
from schemas.errors import MessageError
from schemas.structure import Field, ItemType, Reference, Section, Structure
from serializers import beside
from serializers.keys import Item

CHUNK = 1_000
"""Items read by one statement: contents come as a stream."""


class TypeReading:
    """The SQL that reads one type; compiled once."""

    def __init__(self, item_type: ItemType, type_id: int) -> None:
        self.item_type = item_type
        self.type_id = type_id
        has_table = item_type.table is not None
        self.key_forms = tuple(Form.of(f) for f in item_type.key) if has_table else ()
        self.key_columns = tuple(f.column.name for f in item_type.key if f.column) if has_table else ()
        self._stored = tuple(stored(form) for form in self.key_forms)
        self.asked = f"kod_asked_{type_id}"

    def bindings(self, key: str) -> list[Any]:
        """What the key's columns may hold. Raises MessageError for what they cannot."""
        values = orjson.loads(key)
        if len(values) != len(self.key_columns):
            raise MessageError(f"{self.item_type.name}: {key} is not its key")
        try:
            return [store(value) for store, value in zip(self._stored, values, strict=True)]
        except ValueError as error:
            names = ", ".join(self.item_type.key_names)
            raise MessageError(f"{self.item_type.name}.{names}: the key cannot be held here: it is {error}") from None

    def key_of_row(self, row: str) -> str:
        """SQL for the key's text of a row of the root table."""
        return key_array_sql(self.key_forms, [f"{row}.{quoted(c)}" for c in self.key_columns])

    def joined(self, row: str, asked: str = "k") -> str:
        """SQL that ties a row of the root table to the asked key; in a filter NULL equals NULL."""
        equal = "=" if self.item_type.is_object else "<=>"
        parts = []
        for number, (column, form) in enumerate(zip(self.key_columns, self.key_forms, strict=True)):
            own, wanted = f"{row}.{quoted(column)}", f"{asked}.a{number}"
            parts.append(f"{own} {equal} {wanted}")
            if form.is_text:
                parts.append(f"CAST({own} AS BINARY) {equal} CAST({wanted} AS BINARY)")
        return " AND ".join(parts) or "TRUE"

    @cached_property
    def table(self) -> str:
        assert self.item_type.table is not None
        return quoted_table(self.item_type.table)

    @cached_property
    def rows(self) -> str:
        """FROM … for the rows of asked items: alias `r`."""
        return f"{self.asked} k STRAIGHT_JOIN {self.table} r ON {self.joined('r')}"

    @cached_property
    def create_asked(self) -> str:
        columns = "".join(f", r.{quoted(c)} AS a{number}" for number, c in enumerate(self.key_columns))
        return (
            f"CREATE TEMPORARY TABLE {self.asked} (n INT NOT NULL PRIMARY KEY) ENGINE = InnoDB"
            f" SELECT 0 AS n{columns} FROM {self.table} r WHERE FALSE"
        )

    @cached_property
    def insert_asked(self) -> str:
        marks = "".join(f", {placeholder(form)}" for form in self.key_forms)
        columns = "".join(f", a{number}" for number in range(len(self.key_columns)))
        return f"INSERT INTO {self.asked} (n{columns}) VALUES (%s{marks})"

    @cached_property
    def contents(self) -> str:
        """SELECT n, JSON text: of an object without its sections, or of each record of a set."""
        if self.item_type.is_object:
            return f"SELECT k.n, {object_sql((f.name, self._value(f)) for f in self.item_type.held)} FROM {self.rows}"
        names = self.item_type.key_names
        record = object_sql((f.name, self._value(f)) for f in self.item_type.held if f.name not in names)
        order = _order("k.n", self.item_type.record_key, "r")
        return f"SELECT k.n, {record} FROM {self.rows}{order}"

    def _value(self, field: Field) -> str:
        assert field.column is not None
        value, form = f"r.{quoted(field.column.name)}", Form.of(field)
        return key_sql(form, value) if field in self.item_type.key else json_sql(form, value)

    def section(self, section: Section) -> str:
        """SELECT n, JSON text of each row of a section of the asked objects."""
        held = [f for f in section.fields if f.column is not None]
        row = object_sql((f.name, json_sql(Form.of(f), f"s.{quoted(f.column.name)}")) for f in held if f.column)
        own_key = [c for c in section.primary_key if c not in {own for own, _ in section.link}]
        order = _order("k.n", [*section.order, *(c for c in own_key if c not in section.order)], "s")
        return f"SELECT k.n, {row} FROM {self.source_of_section(section)}{order}"

    @cached_property
    def sections(self) -> list[tuple[Section, str]]:
        return [(section, self.section(section)) for section in self.item_type.sections]

    def source_of_section(self, section: Section) -> str:
        """FROM … for a section's rows of asked objects: aliases `r` and `s`."""
        linked = " AND ".join(f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        return f"{self.rows} STRAIGHT_JOIN {quoted_table(section.table)} s ON {linked}"

    @cached_property
    def existing(self) -> str:
        """SELECT n of the asked keys that have a row."""
        return f"SELECT DISTINCT k.n FROM {self.rows}"

    def source_of(self, reference: Reference) -> str:
        """FROM … for the rows of asked items that bear a reference: alias `r`, or `s` for a section's."""
        if reference.section is None:
            return self.rows
        return self.source_of_section(next(s for s in self.item_type.sections if s.name == reference.section))


def _order(first: str, columns: Sequence[str], row: str) -> str:
    return " ORDER BY " + ", ".join([first, *(f"{row}.{quoted(c)}" for c in columns)])


class Reading:
    """Reads items over one connection. What is asked for stands in its temporary tables: not for two threads at
    once."""

    def __init__(self, connection: Connection, structure: Structure, type_ids: Mapping[str, int]) -> None:
        self._connection = connection
        self._type_ids = type_ids
        self.types = {name: TypeReading(t, type_ids.get(name, -1)) for name, t in structure.types.items()}
        self._asked: dict[str, list[Item]] = {}
        self._made: set[str] = set()

    def begin(self) -> None:
        """A transaction has begun: what was asked for in another may have been rolled back."""
        self._asked = {}

    def ask(self, items: Sequence[Item]) -> None:
        """Puts items of any types into kod_asked (n is the place in `items`): for the registers."""
        if not self._remember("", items):
            rows = [(n, self._type_ids.get(name, -1), key.encode()) for n, (name, key) in enumerate(items)]
            self._connection.run("DELETE FROM kod_asked")
            self._connection.many("INSERT INTO kod_asked (n, type, item_key) VALUES (%s, %s, %s)", rows)

    def ask_typed(self, type_name: str, items: Sequence[Item]) -> TypeReading:
        """Puts items of one type, which has a table, into that type's own; what reads them."""
        reading = self.types[type_name]
        if not self._remember(type_name, items):
            if type_name not in self._made:
                self._connection.run(f"DROP TEMPORARY TABLE IF EXISTS {reading.asked}")
                self._connection.run(reading.create_asked)
            rows = [(n, *reading.bindings(item.key)) for n, item in enumerate(items)]
            self._connection.run(f"DELETE FROM {reading.asked}")
            self._made.discard(type_name)  # where it refuses a key, the key's column may have got wider meanwhile
            self._connection.many(reading.insert_asked, rows)
            self._made.add(type_name)
        return reading

    def _remember(self, where: str, items: Sequence[Item]) -> bool:
        """Whether they stand there already."""
        if items == self._asked.get(where):
            return True
        self._asked[where] = list(items)
        return False

    def has_table(self, type_name: str) -> bool:
        reading = self.types.get(type_name)
        return reading is not None and reading.item_type.table is not None

    def is_view(self, type_name: str) -> bool:
        return type_name in self.types and self.types[type_name].item_type.view

    def existing(self, items: Sequence[Item], *, locked: bool = False) -> frozenset[Item]:
        """Those of `items` that have a row in their table (a type without a table: that are kept and not gone).
        `locked`: it stays until the transaction ends."""
        found: set[Item] = set()
        for type_name, of_type in by_type(items).items():
            if self.has_table(type_name):
                reading = self.ask_typed(type_name, of_type)
                share = " LOCK IN SHARE MODE" if locked else ""
                found.update(of_type[n] for (n,) in self._connection.rows(reading.existing + share))
            else:
                self.ask(of_type)
                kept = f"SELECT k.n FROM {REGISTERED} WHERE NOT g.gone"
                found.update(of_type[n] for (n,) in self._connection.rows(kept))
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
        if not self.has_table(type_name):
            self.ask(items)
            rows = self._connection.rows(f"SELECT k.n, g.kept FROM {REGISTERED} WHERE NOT g.gone")
            return {items[n]: text.encode() if text is not None else None for n, text in rows}
        reading = self.ask_typed(type_name, items)
        parts: dict[Item, list[bytes]] = {}
        for n, text in self._connection.rows(reading.contents):
            parts.setdefault(items[n], []).append(_whole(text, items[n]))
        if not reading.item_type.is_object:
            sets = {item: _record_set(reading.item_type, item.key, parts.get(item, ())) for item in items}
            return self._with_kept(type_name, items, sets)
        found = {item: texts[0] for item, texts in parts.items()}
        for section, sql in reading.sections:
            found = self._with_section(section, sql, items, found)
        return self._with_kept(type_name, items, found)

    def _with_section(
        self, section: Section, sql: str, items: Sequence[Item], found: dict[Item, bytes]
    ) -> dict[Item, bytes]:
        rows: dict[Item, list[bytes]] = {}
        for n, text in self._connection.rows(sql):
            rows.setdefault(items[n], []).append(_whole(text, items[n]))
        head = orjson.dumps(section.name) + b":["
        return {
            item: text[:-1] + (b"," if len(text) > 2 else b"") + head + b",".join(rows.get(item, ())) + b"]}"
            for item, text in found.items()
        }

    def _with_kept(self, type_name: str, items: Sequence[Item], found: dict[Item, bytes]) -> dict[Item, bytes | None]:
        """Adds what arrived and has no column here, so that nothing is cut on its way through this node."""
        type_id = self._type_ids.get(type_name, -1)
        if self._connection.rows("SELECT 1 FROM kod_register WHERE type = %s AND has_kept = 1 LIMIT 1", (type_id,)):
            self.ask(items)
            for n, kept in self._connection.rows(f"SELECT k.n, g.kept FROM {REGISTERED} WHERE g.has_kept = 1"):
                text = found.get(items[n])
                if text is not None and beside.bears_rows(kept.encode()):
                    found[items[n]] = beside.put_back(self.types[type_name].item_type, text, kept.encode())
                elif text is not None and len(kept) > 2:
                    found[items[n]] = text[:-1] + b"," + kept.encode()[1:]
        return dict(found)


REGISTERED = "kod_asked k STRAIGHT_JOIN kod_register g ON g.type = k.type AND g.item_key = k.item_key"
"""FROM …: what the register has (alias `g`) of what was asked for by `ask`."""


def referring_values(reference: Reference, row: str, target: TypeReading) -> list[str]:
    """SQL for what a reference's columns hold; NULL where a composite holds something else."""
    within = reference.within
    if within is None:
        return [f"{row}.{quoted(column)}" for column in reference.columns]
    column, says = f"{row}.{quoted(within.column)}", literal(within.says)
    if within.json:
        of_type = f"JSON_VALID({column}) AND JSON_VALUE({column}, '$.\"#type\"') = {says}"
        value = f"JSON_VALUE({column}, '$.\"#value\"')"
    else:
        of_type, value = f"{column} = {says}", f"{row}.{quoted(reference.columns[0])}"
    if target.key_forms[0].xml == "integer":  # compared as texts no index would be used
        value = f"CAST({value} AS SIGNED)"
    return [f"CASE WHEN {of_type} THEN {value} END"]


def by_type(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.type, []).append(item)
    return found


def _whole(text: str | None, item: Item) -> bytes:
    """CONCAT and JSON_QUOTE give NULL for what is longer than the server's max_allowed_packet: never to be cut."""
    if text is None:
        raise MessageError(
            f"{item.type} {item.key} is larger than the server lets through", hint="raise max_allowed_packet"
        )
    return text.encode()


def _record_set(item_type: ItemType, key: str, records: Sequence[bytes]) -> bytes:
    filtered = orjson.dumps(dict(zip(item_type.key_names, orjson.loads(key), strict=True)))
    return b'{"Filter":' + filtered + b',"Records":[' + b",".join(records) + b"]}"

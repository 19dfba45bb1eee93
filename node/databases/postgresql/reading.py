"""Items as JSON text, made by the database.

A type compiles to one statement. It takes keys and gives, for each item that is there, its number among them and its
`#value`, compact. Every table is entered by index, key by key: OFFSET 0 is a fence behind which the planner cannot
take a few thousand keys for a reason to read the whole table. Fields are named columns of a subselect, because a
function takes a hundred arguments at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from node.databases.postgresql.connecting import Statement, Transaction, literal
from node.databases.postgresql.keys import key_columns, key_text, keys_parameter, typed_keys
from node.databases.postgresql.lexical import value
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import ITEMS, TypeIds
from schemas.structure import Field, ItemType, Reference, Section, Structure, Within
from serializers import beside
from serializers.keys import Item, key_value

ITEMS_AT_ONCE = 1000

KEPT = f"""
SELECT i.n::int, r.kept FROM {ITEMS} i JOIN kod.register r ON r.type = i.type AND r.key = i.key
WHERE r.kept IS NOT NULL AND r.kept <> '{{}}'"""


class Reader:
    """Reads items of all types of a structure."""

    def __init__(self, structure: Structure, type_ids: TypeIds, with_kept: set[str]) -> None:
        self._types = structure.types
        self._ids = type_ids
        self._with_kept = with_kept
        """Types some items of which have properties that are kept beside the register; may grow."""
        self._compiled: dict[tuple[str, tuple[int, ...], bool], str] = {}

    def contents(self, transaction: Transaction, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | None]]:
        """The items' values in the order asked for, a thousand at once."""
        for start in range(0, len(items), ITEMS_AT_ONCE):
            some = items[start : start + ITEMS_AT_ONCE]
            yield from zip(some, self.read(transaction, some), strict=True)

    def read(self, transaction: Transaction, items: Sequence[Item]) -> list[bytes | None]:
        """The items' values, in one round trip; None for what is not there."""
        texts: list[bytes | None] = [None] * len(items)
        groups = self._groups(items)
        sets_kept = {name for name in self._with_kept if not self._types[name].is_object and self._types[name].table}
        sets = [place for place, item in enumerate(items) if item.type in sets_kept] if sets_kept else []
        kept = [Statement(KEPT, self._ids.items([items[place] for place in sets]), raw=True)] if sets else []
        results = transaction.run(*(statement for statement, _ in groups), *kept)
        for (_, places), rows in zip(groups, results, strict=False):
            for number, text in rows:
                texts[places[number - 1]] = text
        for place in self._sets(items):
            texts[place] = record_set(self._types[items[place].type], items[place].key, texts[place])
        for number, text in results[-1] if sets else ():
            item_type = self._types[items[sets[number - 1]].type]
            texts[sets[number - 1]] = beside.put_back(item_type, texts[sets[number - 1]] or b"{}", text)
        if self._with_kept:
            self._put_rows_back(items, texts)
        return texts

    def _sets(self, items: Sequence[Item]) -> Iterator[int]:
        """The places of record sets with a table here."""
        names = {name for name in {item.type for item in items} if not self._types[name].is_object}
        for place, item in enumerate(items) if names else ():
            if item.type in names and self._types[item.type].table is not None:
                yield place

    def _put_rows_back(self, items: Sequence[Item], texts: list[bytes | None]) -> None:
        for place, (item, text) in enumerate(zip(items, texts, strict=True)):
            if item.type in self._with_kept and text is not None and beside.bears_rows(text):
                texts[place] = beside.put_back(self._types[item.type], text)

    def _groups(self, items: Sequence[Item]) -> list[tuple[Statement, list[int]]]:
        places: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for name, its in _places(items).items():
            if self._types[name].is_object:
                places[name, ()] = its
                continue
            for place in its:
                places.setdefault((name, nulls(self._types[name], items[place].key)), []).append(place)
        return [
            (self._statement(name, pattern, [items[place].key for place in its]), its)
            for (name, pattern), its in places.items()
        ]

    def _statement(self, name: str, pattern: tuple[int, ...], keys: list[str]) -> Statement:
        item_type = self._types[name]
        kept = name in self._with_kept
        sql = self._compiled.get((name, pattern, kept))
        if sql is None:
            sql = compile_reading(item_type, self._ids.id(name), pattern, kept=kept)
            self._compiled[name, pattern, kept] = sql
        texts = item_type.table is None
        return Statement(sql, (orjson.dumps(keys).decode() if texts else keys_parameter(item_type, keys),), raw=True)


def _places(items: Sequence[Item]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.type, []).append(place)
    return places


def nulls(item_type: ItemType, key: str) -> tuple[int, ...]:
    """Which of a key's values are null: each such pattern has its own statement, so that the others use an index."""
    if item_type.is_object or "null" not in key:
        return ()
    return tuple(position for position, element in enumerate(orjson.loads(key)) if element is None)


def matches(item_type: ItemType, table: str, keys: str, pattern: tuple[int, ...]) -> str:
    """SQL for "a row of `table` belongs to the item whose typed key is `keys`"."""
    parts = []
    for position, field in enumerate(item_type.key):
        assert field.column is not None
        column = f"{table}.{quoted(field.column.name)}"
        parts.append(f"{column} IS NULL" if position in pattern else f"{column} = {keys}.k{position}")
    return " AND ".join(parts) or "true"


def referring_values(source: ItemType, reference: Reference, row: str, target: ItemType) -> list[str]:
    """SQL for what a reference's columns hold; NULL where a composite holds something else. A composite in a column of
    text that should be JSON may hold anything: nothing is looked for in it (`kod check` says so)."""
    within = reference.within
    if within is None:
        return [f"{row}.{quoted(column)}" for column in reference.columns]
    column, says = f"{row}.{quoted(within.column)}", literal(within.says)
    native = key_columns(target)[0].native
    if not within.json:
        return [f"CASE WHEN {column} = {says} THEN CAST({row}.{quoted(reference.columns[0])} AS {native}) END"]
    if not is_json(source, within):
        return [f"CAST(NULL AS {native})"]
    return [f"CASE WHEN {column} ->> '#type' = {says} THEN CAST({column} ->> '#value' AS {native}) END"]


def is_json(source: ItemType, within: Within) -> bool:
    fields = (*source.fields, *(f for s in source.sections for f in s.fields))
    return any(f.name == within.own and f.column is not None and f.column.xml == "json" for f in fields)


def record_set(item_type: ItemType, key: str, records: bytes | None) -> bytes:
    """The value of a record set whose records, as JSON texts with commas, are these."""
    head = b'{"Filter":' + orjson.dumps(key_value(item_type, key)) + b',"Records":['
    return head + (records or b"") + b"]}"


def compile_reading(item_type: ItemType, type_id: int, pattern: tuple[int, ...] = (), *, kept: bool = False) -> str:
    if item_type.table is None:
        return _kept_whole(type_id)
    table = quoted_table(item_type.table)
    keys = typed_keys(item_type, "$1")
    found = f"(SELECT * FROM {table} t WHERE {matches(item_type, 't', 'k', pattern)} OFFSET 0) t"
    if not item_type.is_object:
        key_names = set(item_type.key_names)
        records = [field for field in item_type.held if field.name not in key_names]
        order = ", ".join(f"t.{quoted(c)}" for c in item_type.record_key)
        rows = f"SELECT {_row(records, 't')} FROM {table} t WHERE {matches(item_type, 't', 'k', pattern)}"
        rows += f" ORDER BY {order}" if order else ""
        return f"SELECT k.n::int, (SELECT string_agg(row_to_json(l.*)::text, ',') FROM ({rows}) l) FROM {keys} k"
    row = f"LATERAL (SELECT {_row(item_type.held, 't')}) r"
    value_text = _object(item_type, type_id, kept=kept)
    return f"SELECT k.n::int, {value_text} FROM {keys} k CROSS JOIN LATERAL {found}, {row}"


def compile_all(item_type: ItemType, type_id: int, *, kept: bool) -> str:
    """SQL for every item of a type: its key's text, and its value (of a record set: its records)."""
    assert item_type.table is not None
    table = quoted_table(item_type.table)
    columns = [f"t.{quoted(column.name)}" for column in key_columns(item_type)]
    key = key_text(item_type.key, columns)
    if item_type.is_object:
        row = f"LATERAL (SELECT {_row(item_type.held, 't')}) r"
        return f"SELECT {key}, {_object(item_type, type_id, kept=kept)} FROM {table} t, {row}"
    key_names = set(item_type.key_names)
    records = [field for field in item_type.held if field.name not in key_names]
    order = ", ".join(f"t.{quoted(c)}" for c in item_type.record_key)
    aggregated = f"string_agg(row_to_json(l.*)::text, ','{f' ORDER BY {order}' if order else ''})"
    by_set = f" GROUP BY {', '.join(columns)}" if columns else " HAVING count(*) > 0"
    return f"SELECT {key}, {aggregated} FROM {table} t, LATERAL (SELECT {_row(records, 't')}) l{by_set}"


def _object(item_type: ItemType, type_id: int, *, kept: bool) -> str:
    """The JSON text of an object whose own fields are the row `r`, made of its row `t`."""
    text = "row_to_json(r.*)::text"
    if not item_type.sections and not kept:
        return text
    parts = [f"left({text}, -1)", *(_section(section) for section in item_type.sections)]
    parts += [_kept(item_type, type_id)] if kept else []
    return f"{' || '.join(parts)} || '}}'"


def _row(fields: Sequence[Field], table: str) -> str:
    return ", ".join(
        f"{value(f'{table}.{quoted(f.column.name)}', f.column, f.prop)} AS {quoted(f.name)}"
        for f in fields
        if f.column is not None
    )


def _section(section: Section) -> str:
    """The rows of an object as JSON text, with a comma and their name before them."""
    link = " AND ".join(f"s.{quoted(column)} = t.{quoted(root)}" for column, root in section.link)
    order = ", ".join(f"s.{quoted(column)}" for column in section.order)
    held = [field for field in section.fields if field.column is not None]
    rows = f"SELECT {_row(held, 's')} FROM {quoted_table(section.table)} s WHERE {link}"
    rows += f" ORDER BY {order}" if order else ""
    name = literal("," + orjson.dumps(section.name).decode() + ":[")
    return f"coalesce((SELECT {name} || string_agg(row_to_json(l.*)::text, ',') || ']' FROM ({rows}) l), {name} || ']')"


def _kept(item_type: ItemType, type_id: int) -> str:
    """What is kept of an object beside the register, with a comma before it."""
    key = key_text(item_type.key, [f"t.{quoted(column.name)}" for column in key_columns(item_type)])
    return (
        "coalesce((SELECT ',' || nullif(substr(g.kept, 2, length(g.kept) - 2), '') FROM kod.register g"
        f" WHERE g.type = {type_id} AND g.key = {key}), '')"
    )


def _kept_whole(type_id: int) -> str:
    return (
        "SELECT k.n::int, g.kept FROM json_array_elements_text($1::json) WITH ORDINALITY k(key, n) CROSS JOIN LATERAL"
        f" (SELECT kept FROM kod.register g WHERE g.type = {type_id} AND g.key = k.key AND NOT g.gone LIMIT 1) g"
    )

"""Items into the database, from JSON, set by set.

A type compiles to parts of one statement: deletions, updates of rows that differ, insertions, sections merged by their
primary key. Rows come as JSON arrays, one parameter each, parsed once. Types of one rank (they may refer to each other
in a circle) are one statement, because foreign keys are checked at a statement's end; so is a whole message that both
deletes and writes, so that what frees a unique value, or a reference, may come from either side. Within a statement,
what deletes comes before what updates, and that before what inserts: a gate in each part counts what the earlier parts
have done, which makes the server do them first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from node.databases.postgresql import shapes
from node.databases.postgresql.connecting import Statement
from node.databases.postgresql.keys import keys_parameter, typed_keys
from node.databases.postgresql.lexical import differs, from_recordset, recordset_type
from node.databases.postgresql.reading import matches, nulls
from node.databases.postgresql.reflection import quoted, quoted_table
from schemas.errors import ConfigError
from schemas.package import Property
from schemas.structure import Field, ItemType, Section, Structure
from schemas.tables import Column, Table
from serializers.keys import Item, key_value

# Places in a part's SQL. Names of tables and columns cannot have NUL in them.
GATE, KEY, STAYING = "\0gate\0", "\0key\0", "\0staying\0"
SOURCE = "\0source{}\0"
FIRST = SOURCE.format(0)

DELETE, UPDATE, INSERT, MERGE_OLD, MERGE_NEW = range(5)


class Written(NamedTuple):
    """An item to be written; `value` is None where it is to be deleted."""

    item: Item
    value: Mapping[str, Any] | None
    existed: bool


@dataclass(eq=False, slots=True)
class Source:
    """Rows as JSON, read once for all the parts that need them."""

    columns: str
    """As json_to_recordset describes them."""
    rows: Sequence[Any]
    table: str = ""
    """Where rows that may be there already are merged by their primary key: their table."""
    same: str = ""
    """SQL for "`x`, one of these rows, is the row `t` of that table"."""


@dataclass(slots=True)
class Part:
    """A data-modifying part of a statement: SQL with places for the names of its sources (SOURCE), for the condition
    that makes it wait (GATE), for the rows of its table that the statement merges (STAYING), and for its parameter,
    if it has one (KEY)."""

    phase: int
    sql: str
    sources: Sequence[Source] = ()
    key: str | None = None
    table: str = ""
    """The table whose rows must not be deleted where another part merges them: they may have moved from one item of
    the message to another, and all parts see the rows as they were before the statement."""


class Writer:
    """Writes items of all types of a structure that have a table."""

    def __init__(self, structure: Structure, tables: Mapping[str, Table]) -> None:
        self._types = structure.types
        self._tables = tables
        self._upserts: dict[tuple[str, frozenset[str]], _Upsert] = {}

    def statements(self, written: Sequence[Written]) -> list[Statement]:
        """What writes these items, in the order in which it has to be run."""
        by_type: dict[str, list[Written]] = {}
        for one in written:
            if self._types[one.item.type].table is not None:
                by_type.setdefault(one.item.type, []).append(one)
        for name, its in by_type.items():
            shapes.check(self._types[name], [one.value for one in its if one.value is not None])
        by_rank: dict[int, list[Part]] = {}
        for name in sorted(by_type, key=lambda name: self._types[name].rank):
            by_rank.setdefault(self._types[name].rank, []).extend(self._parts(self._types[name], by_type[name]))
        deletions = sum(one.value is None for one in written)
        if 0 < deletions < len(written):
            return [_statement([part for rank in sorted(by_rank) for part in by_rank[rank]])]
        return [_statement(by_rank[rank]) for rank in sorted(by_rank, reverse=deletions > 0)]  # children go first

    def unreadable(self, written: Sequence[Written]) -> str | None:
        """The property whose value the database could not read, as far as it can be told."""
        for one in written:
            if one.value is not None and self._types[one.item.type].table is not None:
                found = shapes.unreadable(self._types[one.item.type], [one.value])
                if found:
                    return found
        return None

    def twins(self, one: Written) -> str | None:
        """What is said of an item two of whose rows have one key; None when there are none."""
        item_type = self._types[one.item.type]
        places: list[tuple[str, Sequence[Field], set[str]]] = [
            (s.name, s.fields, set(s.primary_key) - {own for own, _ in s.link}) for s in item_type.sections
        ]
        if not item_type.is_object:
            places = [("Records", item_type.fields, set(item_type.record_key))]
        for name, fields, key in places if one.value is not None else ():
            names = [f.name for f in fields if f.column is not None and f.column.name in key]
            rows = [tuple(str(row.get(n)) for n in names) for row in (one.value or {}).get(name) or ()]
            if key and len(names) == len(key) and len(set(rows)) < len(rows):
                what = f"two rows of {name} have one {', '.join(names)}"
                return f"{one.item.type} {one.item.key} cannot be written: {what}"
        return None

    def releasing(self, written: Sequence[Written]) -> list[Statement]:
        """What frees the unique values of rows that are about to be updated: where they are exchanged between rows,
        each new one would clash with one that is still there."""
        statements = []
        for name in dict.fromkeys(one.item.type for one in written):
            item_type = self._types[name]
            keys = [one.item.key for one in written if one.item.type == name and one.existed and one.value is not None]
            if item_type.table is None or not keys:
                continue
            for unique in item_type.uniques:
                released = _released(self._tables[item_type.table], unique)
                if released:
                    statements.append(Statement(_release(item_type, released), (keys_parameter(item_type, keys),)))
        return statements

    def has_uniques(self, written: Sequence[Written]) -> bool:
        return any(one.existed and one.value is not None and self._types[one.item.type].uniques for one in written)

    def _parts(self, item_type: ItemType, written: Sequence[Written]) -> Iterable[Part]:
        if not item_type.is_object:
            return self._record_set_parts(item_type, written)
        parts = _deletion(item_type, [one.item.key for one in written if one.value is None])
        by_names: dict[tuple[str, ...], list[Written]] = {}
        for one in written:
            if one.value is not None:
                by_names.setdefault(tuple(one.value), []).append(one)
        groups: dict[frozenset[str], list[Written]] = {}
        for names, group in by_names.items():
            groups.setdefault(frozenset(names), []).extend(group)
        for present, group in groups.items():
            parts += self._upsert(item_type, present).parts(group)
        return parts

    def _upsert(self, item_type: ItemType, present: frozenset[str]) -> _Upsert:
        upsert = self._upserts.get((item_type.name, present))
        if upsert is None:
            upsert = self._upserts[item_type.name, present] = _Upsert(item_type, present, self._tables)
        return upsert

    def _record_set_parts(self, item_type: ItemType, written: Sequence[Written]) -> list[Part]:
        by_pattern: dict[tuple[int, ...], list[Written]] = {}
        for one in written:
            by_pattern.setdefault(nulls(item_type, one.item.key), []).append(one)
        assert item_type.table is not None
        table = self._tables[item_type.table]
        return [part for pattern, its in by_pattern.items() for part in _record_sets(item_type, table, pattern, its)]


def _statement(parts: Sequence[Part]) -> Statement:
    """One statement of all parts. Each part waits for those of earlier phases."""
    parts = sorted(parts, key=lambda part: part.phase)
    parameters: list[str] = []
    expressions: list[str] = []
    names: dict[int, str] = {}
    for source in (source for part in parts for source in part.sources):
        if id(source) not in names:
            names[id(source)] = f"s{len(names)}"
            parameters.append(_json(source.rows))
            rows = f"json_to_recordset(${len(parameters)}::json) AS x({source.columns})"
            expressions.append(f"{names[id(source)]} AS MATERIALIZED (SELECT * FROM {rows})")
    staying = _staying(parts, names)
    for number, part in enumerate(parts):
        sql = part.sql.replace(GATE, _gate(parts, part.phase)).replace(STAYING, staying.get(part.table, ""))
        for position, source in enumerate(part.sources):
            sql = sql.replace(SOURCE.format(position), names[id(source)])
        if part.key is not None:
            parameters.append(part.key)
            sql = sql.replace(KEY, f"${len(parameters)}")
        expressions.append(f"p{number} AS ({sql} RETURNING 1)")
    return Statement(f"WITH {', '.join(expressions)} SELECT", parameters)


def _staying(parts: Sequence[Part], names: Mapping[int, str]) -> dict[str, str]:
    """For each table, SQL that excepts from a deletion of its rows `t` those that any part merges."""
    sources = {id(source): source for part in parts for source in part.sources if source.same}
    excepted: dict[str, str] = {}
    for number, source in sources.items():
        condition = f" AND NOT EXISTS (SELECT FROM {names[number]} x WHERE {source.same})"
        excepted[source.table] = excepted.get(source.table, "") + condition
    return excepted


def _gate(parts: Sequence[Part], phase: int) -> str:
    earlier = [f"(SELECT count(*) FROM p{number})" for number, part in enumerate(parts) if part.phase < phase]
    return f"{' + '.join(earlier)} >= 0" if earlier else "true"


def _released(table: Table, unique: Sequence[str]) -> tuple[str, str] | None:
    """A column of a unique constraint and SQL for a value that nobody else has; None where there is no such."""
    columns = [column for column in table.columns if column.name in unique and not column.computed]
    for column in columns:
        if column.nullable:
            return column.name, "NULL"
    for column in columns:
        name = quoted(column.name)
        if column.native.startswith(("text", "character varying")):
            return column.name, f"left(md5(k.n::text || t.{name}), {column.length or 32})"
        if column.xml in ("integer", "decimal"):
            return column.name, f"(SELECT min({name}) FROM {quoted_table(table.name)}) - k.n"
    return None


def _release(item_type: ItemType, released: tuple[str, str]) -> str:
    assert item_type.table is not None
    column, value = released
    return (
        f"UPDATE {quoted_table(item_type.table)} t SET {quoted(column)} = {value}"
        f" FROM {typed_keys(item_type, '$1')} k WHERE {matches(item_type, 't', 'k', ())}"
    )


def _described(fields: Iterable[Field]) -> str:
    return _typed([(f.name, f.column, f.prop) for f in fields if f.column is not None])


def _read(f: Field, alias: str) -> str:
    assert f.column is not None
    return from_recordset(f"{alias}.{quoted(f.name)}", f.column, f.prop)


def _columns(fields: Iterable[Field]) -> str:
    return ", ".join(quoted(f.column.name) for f in fields if f.column is not None)


def _overriding(fields: Iterable[Field]) -> str:
    """Identity columns take a given value only when told so."""
    return " OVERRIDING SYSTEM VALUE" if any(f.column is not None and f.column.generated_key for f in fields) else ""


def _json(rows: Sequence[Any]) -> str:
    return orjson.dumps(rows).decode()


def _deletion(item_type: ItemType, keys: Sequence[str]) -> list[Part]:
    if not keys:
        return []
    assert item_type.table is not None
    root, typed = quoted_table(item_type.table), typed_keys(item_type, KEY)
    parameter = keys_parameter(item_type, keys)
    parts = []
    for section in item_type.sections:
        table = quoted_table(section.table)
        link = " AND ".join(f"t.{quoted(column)} = r.{quoted(root_column)}" for column, root_column in section.link)
        belonging = f"{matches(item_type, 'r', 'k', ())} AND {link}"
        sql = f"DELETE FROM {table} t USING {typed} k, {root} r WHERE {belonging}{STAYING}"
        parts.append(Part(DELETE, sql, key=parameter, table=table))
    parts.append(
        Part(DELETE, f"DELETE FROM {root} t USING {typed} k WHERE {matches(item_type, 't', 'k', ())}", key=parameter)
    )
    return parts


class _Upsert:
    """Objects of one type whose values have the same properties present."""

    def __init__(self, item_type: ItemType, present: frozenset[str], tables: Mapping[str, Table]) -> None:
        assert item_type.table is not None
        self._type = item_type
        self._fields = [f for f in item_type.held if f.name in present]
        self._sections = [_Section(item_type, s, tables) for s in item_type.sections if s.name in present]
        names = {f.name for f in self._fields}
        self._whole = names == present  # nothing else is in the values: they are parameters as they are
        self._names = tuple(names)
        table = quoted_table(item_type.table)
        self._columns = _described(self._fields)
        self._insert = (
            f"INSERT INTO {table} ({_columns(self._fields)}){_overriding(self._fields)}"
            f" SELECT {', '.join(_read(f, 'x') for f in self._fields)} FROM {FIRST} x WHERE {GATE}"
        )
        keys = set(item_type.key_names)
        changing = [f for f in self._fields if f.name not in keys]
        by_key = " AND ".join(
            f"t.{quoted(f.column.name)} = {_read(f, 'x')}" for f in item_type.key if f.column is not None
        )
        different = " OR ".join(differs("t", _read(f, "x"), f.column) for f in changing if f.column is not None)
        assigned = ", ".join(f"{quoted(f.column.name)} = {_read(f, 'x')}" for f in changing if f.column is not None)
        self._update = (
            f"UPDATE {table} AS t SET {assigned} FROM {FIRST} x WHERE {by_key} AND ({different}) AND {GATE}"
            if changing
            else ""
        )

    def parts(self, group: Sequence[Written]) -> list[Part]:
        new = [self._row(one.value) for one in group if one.value is not None and not one.existed]
        old = [self._row(one.value) for one in group if one.value is not None and one.existed]
        parts = []
        if old and self._update:
            parts.append(Part(UPDATE, self._update, [Source(self._columns, old)]))
        if new:
            parts.append(Part(INSERT, self._insert, [Source(self._columns, new)]))
        for section in self._sections:
            parts += section.parts(group)
        return parts

    def _row(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        return value if self._whole else {name: value[name] for name in self._names}


Link = Sequence[tuple[str, Column, Property]]
"""The columns by which rows belong to their item, with the names of their values in JSON."""


class _Rows:
    """Rows that belong to items (a section's to objects, records to their set) by the columns of a link: those that
    are not there any more go, those that differ change, new ones come. By primary key; where there is none, or where
    it does not travel, all are replaced."""

    def __init__(self, table: Table, link: Link, fields: Sequence[Field], pattern: tuple[int, ...] = ()) -> None:
        self._table = quoted_table(table.name)
        self._link = link
        self._fields = [(f.name, f.column, f.prop) for f in fields if f.column is not None]
        self._pattern = pattern
        self._key = table.primary_key
        held = {column.name for _, column, _ in (*link, *self._fields)}
        self._by_key = bool(self._key) and held.issuperset(self._key)
        self.link_in_key = {column.name for _, column, _ in link} <= set(self._key)
        self._delete = self._compile_delete()
        self._compiled: dict[frozenset[str], _RowStatements] = {}

    def _compile_delete(self) -> str:
        owners = _reads(self._link, "o")
        conditions = (
            f"t.{quoted(c.name)} IS NULL" if position in self._pattern else f"t.{quoted(c.name)} = {owners[c.name]}"
            for position, (_, c, _) in enumerate(self._link)
        )
        linked = " AND ".join(conditions) or "true"
        return f"DELETE FROM {self._table} t USING {FIRST} o WHERE {linked}{STAYING}"

    def _same(self) -> str:
        key = [one for one in (*self._link, *self._fields) if one[1].name in self._key]
        return " AND ".join(f"t.{quoted(name)} = {read}" for name, read in _reads(key, "x").items())

    def _for(self, present: frozenset[str]) -> _RowStatements:
        """For rows with these properties; columns of the others are left alone."""
        compiled = self._compiled.get(present)
        if compiled is None:
            columns = [*self._link, *(one for one in self._fields if one[0] in present)]
            insert = self._compile_insert(columns)
            there = f" AND NOT EXISTS (SELECT FROM {self._table} t WHERE {self._same()})" if self._by_key else ""
            update = self._compile_update(columns) if self._by_key else ""
            compiled = _RowStatements(_typed(columns), insert, insert + there, update)
            self._compiled[present] = compiled
        return compiled

    def _compile_insert(self, columns: Link) -> str:
        reads = _reads(columns, "x")
        overriding = any(column.generated_key for _, column, _ in columns)
        return (
            f"INSERT INTO {self._table} ({', '.join(map(quoted, reads))})"
            f"{' OVERRIDING SYSTEM VALUE' if overriding else ''} SELECT {', '.join(reads.values())}"
            f" FROM {FIRST} x WHERE {GATE}"
        )

    def _compile_update(self, columns: Link) -> str:
        reads = _reads(columns, "x")
        changing = [column for _, column, _ in columns if column.name not in self._key]
        assigned = ", ".join(f"{quoted(c.name)} = {reads[c.name]}" for c in changing)
        different = " OR ".join(differs("t", reads[c.name], c) for c in changing)
        if not changing:
            return ""
        return f"UPDATE {self._table} t SET {assigned} FROM {FIRST} x WHERE {self._same()} AND ({different}) AND {GATE}"

    def parts(self, owners: Sequence[Any], merged: Sequence[Any], new: Sequence[Any] = ()) -> list[Part]:
        """`owners` of which there may be rows already; `merged` all their rows; `new` rows that cannot be there."""
        parts = []
        same = self._same() if self._by_key else ""
        for present, rows in _by_present(merged).items():
            compiled = self._for(present)
            source = Source(compiled.columns, rows, self._table, same)
            if compiled.update:
                parts.append(Part(MERGE_OLD, compiled.update, [source]))
            parts.append(Part(MERGE_NEW, compiled.missing, [source]))
        for present, rows in _by_present(new).items():
            compiled = self._for(present)
            parts.append(Part(MERGE_NEW, compiled.insert, [Source(compiled.columns, rows)]))
        if owners:
            parts.append(Part(DELETE, self._delete, [Source(_typed(self._link), owners)], table=self._table))
        return parts


@dataclass(frozen=True, slots=True)
class _RowStatements:
    columns: str
    insert: str
    missing: str
    """Inserts those that are not there."""
    update: str
    """Updates those that are there and differ; empty where there is nothing to update, or no primary key."""


def _by_present(rows: Sequence[Mapping[str, Any]]) -> dict[frozenset[str], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    if len(groups) == 1:
        ((names, its),) = groups.items()
        return {frozenset(names): its}
    found: dict[frozenset[str], list[Mapping[str, Any]]] = {}
    for names, its in groups.items():
        found.setdefault(frozenset(names), []).extend(its)
    return found


def _typed(columns: Link) -> str:
    """Of no columns (the filter of a constant) there has to be one to describe, too."""
    return ", ".join(f"{quoted(n)} {recordset_type(column, prop)}" for n, column, prop in columns) or '"#" text'


def _reads(columns: Link, alias: str) -> dict[str, str]:
    return {column.name: from_recordset(f"{alias}.{quoted(name)}", column, prop) for name, column, prop in columns}


class _Section:
    """A section's rows as the values of objects bear them."""

    def __init__(self, item_type: ItemType, section: Section, tables: Mapping[str, Table]) -> None:
        by_column = {f.column.name: f for f in item_type.held if f.column is not None}
        table = tables[section.table]
        self._name = section.name
        self._link: list[tuple[str, str]] = []
        link = []
        for number, (column_name, root) in enumerate(section.link):
            root_field, column = by_column.get(root), table.column(column_name)
            if root_field is None or column is None:
                raise ConfigError(
                    f"{item_type.name}: the section {section.name!r} hangs on {root!r}, which does not travel",
                    hint="let it travel, or let the section's foreign key refer to the primary key",
                )
            self._link.append((f"#{number}", root_field.name))
            link.append((f"#{number}", column, root_field.prop))
        self._rows = _Rows(table, link, section.fields)

    def parts(self, group: Sequence[Written]) -> list[Part]:
        new: list[Any] = []
        merged: list[Any] = []
        owners: list[Any] = []
        for one in group:
            assert one.value is not None
            link = {name: one.value[prop] for name, prop in self._link}
            if one.existed:
                owners.append(link)
            # where the link is in their key, rows of a new object cannot be there yet
            target = merged if one.existed or not self._rows.link_in_key else new
            target.extend([{**link, **row} for row in one.value[self._name] or ()])
        return self._rows.parts(owners, merged, new)


def _record_sets(item_type: ItemType, table: Table, pattern: tuple[int, ...], written: Sequence[Written]) -> list[Part]:
    """Record sets whose filters are null at the same places."""
    owners = [key_value(item_type, one.item.key) for one in written]
    records = [
        {**owner, **record}
        for owner, one in zip(owners, written, strict=True)
        if one.value is not None
        for record in one.value["Records"]
    ]
    keys = set(item_type.key_names)
    fields = [f for f in item_type.held if f.name not in keys]
    link = [(f.name, f.column, f.prop) for f in item_type.key if f.column is not None]
    return _Rows(table, link, fields, pattern).parts(owners, records)

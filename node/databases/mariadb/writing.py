"""Items from JSON into tables: upserts with the parents first, deletions with the children first.

MariaDB checks a foreign key row by row and defers none. So types that may refer to each other in a circle are written
together: new rows first, with NULL where they refer to the circle; then what they refer to. Where such a column must
not be null, rows are added in an order in which each finds its target. Only rows that differ are touched; a section's
rows and a set's records are merged by their primary key; columns of absent properties are left alone. Unique values are
freed first where one item of a message takes over what another holds. FOREIGN_KEY_CHECKS stays on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pymysql

from dispatcher.ports import Accepted, Taken
from node.databases.mariadb import capture
from node.databases.mariadb.connection import DUPLICATE, Connection, number_of, translate
from node.databases.mariadb.lexical import placeholder, quoted
from node.databases.mariadb.parking import referring
from node.databases.mariadb.reading import Reading, TypeReading
from node.databases.mariadb.reflection import quoted_table
from node.databases.mariadb.staging import Staging
from node.databases.mariadb.triggers import edges
from node.databases.mariadb.uniqueness import Uniqueness
from schemas.errors import ConflictError, DanglingError, MessageError, RefusedError
from schemas.structure import ItemType, Reference, Section, Structure
from schemas.tables import Table
from serializers.keys import Item, key_text


class TypeWriting:
    """What writes one type."""

    def __init__(
        self,
        connection: Connection,
        item_type: ItemType,
        reading: TypeReading,
        tables: Mapping[str, Table],
        circle: frozenset[str],
        followed: frozenset[str],
    ) -> None:
        """`circle`: types of the same rank; references to them are set after all of them are there."""
        assert item_type.table is not None
        self.item_type = item_type
        self.reading = reading
        self.table = tables[item_type.table]
        name = f"kod_rows_{reading.type_id}"
        self.root = Staging(connection, f"{name}_0", item_type.table, item_type.held, self.table.primary_key)
        self.sections = [
            (
                s,
                tables[s.table],
                Staging(connection, f"{name}_{n}", s.table, s.fields, s.primary_key, [own for own, _ in s.link]),
            )
            for n, s in enumerate(item_type.sections, 1)
        ]
        self.collated = any(form.is_text for form in reading.key_forms)
        """The server compares its keys by a collation, which may take different ones for equal."""
        self.unique = Uniqueness(item_type, self.table, [t for _, t, _ in self.sections], followed)
        circular = [r for r in item_type.references if r.section is None and r.target in circle and not r.within]
        nullable = {c.name for c in self.table.columns if c.nullable}
        key = set(reading.key_columns)
        self.later = [c for r in circular if set(r.columns) <= nullable - key for c in r.columns]
        """Columns that refer into the circle and may be null for a moment."""
        self.at_once = [r for r in circular if not set(r.columns) <= nullable - key]
        """References into the circle that have to be there from the first."""

    def taken(self, connection: Connection, item: Item, value: Mapping[str, Any]) -> list[Taken]:
        """Which of the item's unique values other items have."""
        try:
            row = self.root.stored_values(value)
        except ValueError:
            return []
        names = {column: name for name, column in self.root.column_of.items()}
        found = []
        for unique in self.item_type.uniques:
            if any(row.get(column) is None for column in unique):
                continue
            same = " AND ".join(f"r.{quoted(column)} = {placeholder(self.root.form_of[column])}" for column in unique)
            rows = connection.rows(
                f"SELECT {self.reading.key_of_row('r')} FROM {self.reading.table} r WHERE {same}",
                [row[column] for column in unique],
            )
            properties = tuple(names[column] for column in unique)
            found += [Taken(properties, Item(item.type, key)) for (key,) in rows if key != item.key]
        for section, _, staging in self.sections:
            found += self._taken_in_section(connection, item, section, staging, value.get(section.name))
        return found

    def _taken_in_section(
        self, connection: Connection, item: Item, section: Section, staging: Staging, rows: Any
    ) -> list[Taken]:
        found: dict[Taken, None] = {}
        names = {column: name for name, column in staging.column_of.items()}
        linked = " AND ".join(f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        joined = f"SELECT {self.reading.key_of_row('r')} FROM {staging.table} s JOIN {self.reading.table} r ON {linked}"
        for values in rows if section.uniques and isinstance(rows, list) else ():
            try:
                row = staging.stored_values(values)
            except (ValueError, TypeError):
                continue
            for unique in section.uniques:
                if any(row.get(column) is None for column in unique):
                    continue
                same = " AND ".join(f"s.{quoted(column)} = {placeholder(staging.form_of[column])}" for column in unique)
                properties = tuple(f"{section.name}.{names[column]}" for column in unique)
                for (key,) in connection.rows(f"{joined} WHERE {same}", [row[column] for column in unique]):
                    if key != item.key:
                        found[Taken(properties, Item(item.type, key))] = None
        return list(found)


class Writing:
    """Writes items over one connection, inside the caller's transaction."""

    def __init__(
        self, connection: Connection, structure: Structure, reading: Reading, type_ids: Mapping[str, int]
    ) -> None:
        self._connection = connection
        self._reading = reading
        tables = {name: structure.tables[name] for name in capture.tables_of(structure)}
        followed: dict[str, set[str]] = {}
        for edge in edges(connection, [connection.database]):
            if edge.on_update in ("CASCADE", "SET NULL"):
                followed.setdefault(edge.target, set()).update(edge.target_columns)
        ranks: dict[int, set[str]] = {}
        for name, item_type in structure.types.items():
            ranks.setdefault(item_type.rank, set()).add(name)
        self.types = {
            name: TypeWriting(
                connection,
                item_type,
                reading.types[name],
                tables,
                frozenset(ranks[item_type.rank]),
                frozenset(followed.get(item_type.table, ())),
            )
            for name, item_type in structure.types.items()
            if item_type.table in tables and name in type_ids and item_type.table is not None
        }
        self._cascading = _cascading(structure, tables)

    def write(self, accepted: Sequence[Accepted]) -> None:
        """All of them. Unique values may pass from one item of the message to another, whichever comes first."""
        written = [one for one in accepted if one.write and one.item.type in self.types]
        holding = [one for one in written if one.existed and self.types[one.item.type].unique.concerned]
        if not holding:
            self._write(written)
            return
        self._connection.run("SAVEPOINT kod_write")
        try:
            self._write(written)
        except MessageError as clash:
            if not isinstance(clash.__cause__, pymysql.err.Error) or number_of(clash.__cause__) != DUPLICATE:
                raise
            self._connection.run("ROLLBACK TO SAVEPOINT kod_write")
            self._reading.begin()  # what is asked for was rolled back too
            try:
                self._release(holding)
            except MessageError:  # a CHECK, say, that lets no other value in
                raise clash from clash.__cause__
            self._write(written)
        self._connection.run("RELEASE SAVEPOINT kod_write")

    def _release(self, holding: Sequence[Accepted]) -> None:
        """Frees the unique values of rows that are about to be updated or deleted, for those that are to get them."""
        for name, of_type in _by_type(holding).items():
            writing = self.types[name]
            if not writing.item_type.is_object:
                continue
            with _named(name):
                self._delete_sections(writing, [a.item for a in of_type if a.value is None])
                batches: dict[frozenset[str] | None, list[Item]] = {}
                for one in of_type:
                    batches.setdefault(self._arriving(writing, one), []).append(one.item)
                for arriving, items in batches.items():
                    released = writing.unique.released(self._connection, arriving)
                    if released:
                        sets = ", ".join(f"r.{quoted(column)} = {value}" for column, value in released.items())
                        reading = self._reading.ask_typed(name, items)
                        self._connection.run(f"UPDATE {reading.rows} SET {sets}")

    def _arriving(self, writing: TypeWriting, one: Accepted) -> frozenset[str] | None:
        if one.value is None:
            return None
        return frozenset(column for name, column in writing.root.column_of.items() if name in one.value)

    def _write(self, written: Sequence[Accepted]) -> None:
        """Upserts in the order of rank, then deletions in the opposite order."""
        written = self._renamed(written)
        by_rank: dict[int, list[Accepted]] = {}
        for one in written:
            by_rank.setdefault(self.types[one.item.type].item_type.rank, []).append(one)
        for rank in sorted(by_rank):
            self._upsert([one for one in by_rank[rank] if one.value is not None])
        deleted = frozenset(one.item for one in written if one.value is None)
        for rank in sorted(by_rank, reverse=True):
            self._delete([one for one in by_rank[rank] if one.value is None], deleted)

    def _renamed(self, written: Sequence[Accepted]) -> Sequence[Accepted]:
        """Where a new item's key is to the collation the same as that of one that goes ('abc' became 'ABC'), the row
        gets the new key; what is left to write."""
        for name, of_type in _by_type(written).items():
            writing = self.types[name]
            gone = {one.item.key for one in of_type if one.value is None and one.existed}
            fresh = [one for one in of_type if one.value is not None and not one.existed]
            if not (gone and fresh and writing.item_type.is_object and writing.collated):
                continue
            with _named(name):
                renamed = self._rename(writing, fresh, gone)
            old = {Item(name, key) for key in renamed.values()}
            written = [
                one._replace(existed=True) if one.item.type == name and one.item.key in renamed else one
                for one in written
                if one.item not in old
            ]
        return written

    def _rename(self, writing: TypeWriting, fresh: Sequence[Accepted], gone: Collection[str]) -> dict[str, str]:
        """New key -> the one that the row had."""
        reading, staging = writing.reading, writing.root
        staging.fill([(n, one.value or {}) for n, one in enumerate(fresh)], writing.item_type.name)
        rows = self._connection.rows(
            f"SELECT x.kod_item, {reading.key_of_row('t')} FROM {staging.name} x STRAIGHT_JOIN {staging.table} t"
            f" ON {staging.equal(reading.key_columns)}"
        )
        found = {n: key for n, key in rows if key in gone}
        # InnoDB lets nobody change the case of what is referred to, and sections come whole
        self._delete_sections(writing, [Item(writing.item_type.name, key) for key in found.values()])
        sets = ", ".join(f"t.{quoted(c)} = x.{quoted(c)}" for c in reading.key_columns)
        self._connection.many(
            f"UPDATE {staging.name} x STRAIGHT_JOIN {staging.table} t ON {staging.equal(reading.key_columns)}"
            f" SET {sets} WHERE x.kod_item = %s",
            [(n,) for n in found],
        )
        return {fresh[n].item.key: key for n, key in found.items()}

    # --- objects

    def _upsert(self, accepted: Sequence[Accepted]) -> None:
        """Items of one rank: they may refer to each other."""
        by_type = _by_type(accepted)
        objects = [name for name in self._in_order(list(by_type)) if self.types[name].item_type.is_object]
        several = len(accepted) > 1
        for name in objects:
            with _named(name):
                self._insert(self.types[name], by_type[name], several=several)
        for name in objects:
            with _named(name):
                self._update(self.types[name], by_type[name], several=several)
        for name in objects:
            for section, table, staging in self.types[name].sections:
                with _named(f"{name}.{section.name}"):
                    self._merge_section(self.types[name], section, table, staging, by_type[name])
        for name, of_type in by_type.items():
            if name not in objects:
                with _named(name):
                    self._merge_records(self.types[name], of_type)

    def _in_order(self, names: Sequence[str]) -> list[str]:
        """Types whose rows must have their targets at once come after them."""
        ordered: list[str] = []
        left = list(names)
        while left:
            ready = [
                name
                for name in left
                if not any(r.target in left and r.target != name for r in self.types[name].at_once)
            ] or left  # a circle of columns that must not be null: the server refuses it, with its reason
            ordered += ready
            left = [name for name in left if name not in ready]
        return ordered

    def _insert(self, writing: TypeWriting, accepted: Sequence[Accepted], *, several: bool) -> None:
        ordered = _targets_first(writing, accepted)
        staging = writing.root
        staging.fill([(int(a.existed), a.value or {}) for a in ordered], writing.item_type.name)
        if all(a.existed for a in accepted):
            return
        try:
            for shape in range(len(staging.shapes)):
                staging.insert(shape, writing.later if several else (), condition=" AND x.kod_item = 0")
        except pymysql.err.IntegrityError as error:
            if number_of(error) == DUPLICATE and str(error.args[1]).endswith("'PRIMARY'"):
                raise self._taken(writing) from error
            raise

    def _taken(self, writing: TypeWriting) -> MessageError | ConflictError:
        """A row of that key came meanwhile; or another key is the same to the table's collation."""
        staging, key = writing.root, writing.reading.key_columns
        found = self._connection.rows(
            f"SELECT {writing.reading.key_of_row('t')}, {writing.reading.key_of_row('x')} FROM {staging.name} x"
            f" STRAIGHT_JOIN {staging.table} t ON {staging.equal(key)} WHERE x.kod_item = 0"
        )
        for own, incoming in found:
            if own != incoming:
                return MessageError(
                    f"{incoming} cannot be added: to the collation of {writing.table.name} it is the same as {own}",
                    hint=f"a collation that tells them apart for {', '.join(key)}: utf8mb4_nopad_bin",
                )
        if staging.clashes(key):
            return MessageError(
                f"two keys of the message are the same to the collation of {writing.table.name}",
                hint=f"a collation that tells them apart for {', '.join(key)}: utf8mb4_nopad_bin",
            )
        return ConflictError("somebody else was faster: the key is taken already")

    def _update(self, writing: TypeWriting, accepted: Sequence[Accepted], *, several: bool) -> None:
        if not (any(a.existed for a in accepted) or (several and writing.later)):
            return
        key = writing.reading.key_columns
        for shape in range(len(writing.root.shapes)):
            writing.root.update(shape, key, keep=key)

    def _merge_section(
        self, writing: TypeWriting, section: Section, table: Table, staging: Staging, accepted: Sequence[Accepted]
    ) -> None:
        concerned = [a for a in accepted if a.value is not None and section.name in a.value]
        if not concerned:
            return
        where = f"{writing.item_type.name}.{section.name}"
        rows = [(n, row) for n, a in enumerate(concerned) for row in _rows(where, (a.value or {})[section.name])]
        existed = any(a.existed for a in concerned)
        if not rows and not existed:
            return
        staging.fill(rows, where)
        reading = self._reading.ask_typed(writing.item_type.name, [a.item for a in concerned])
        tied = ", ".join(f"x.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        self._connection.run(f"UPDATE {reading.rows} STRAIGHT_JOIN {staging.name} x ON x.kod_item = k.n SET {tied}")
        self._merge(staging, section.primary_key, _section_rows(reading, section))

    def _merge(
        self,
        staging: Staging,
        primary_key: Sequence[str],
        belonging: str,
        refuse: Callable[[], None] | None = None,
    ) -> None:
        """What belongs to the asked items (FROM `belonging`, alias `t`) becomes what is staged."""
        if not staging.by_key:  # nothing tells the rows apart: all are replaced
            self._connection.run(f"DELETE t FROM {belonging}")
            for shape in range(len(staging.shapes)):
                staging.insert(shape)
            return
        columns = {column: name for name, column in staging.column_of.items()}
        for present in staging.shapes:
            if any(c in columns and columns[c] not in present for c in primary_key):
                raise RefusedError("a row comes without its key")
        self._connection.run(
            f"DELETE t FROM {belonging} LEFT JOIN {staging.name} x FORCE INDEX (kod_by_key)"
            f" ON {staging.equal(primary_key)} WHERE x.kod_n IS NULL"
        )
        if refuse is not None:
            refuse()
        for shape in range(len(staging.shapes)):
            staging.update(shape, primary_key, keep=())
        try:
            for shape in range(len(staging.shapes)):
                staging.insert(shape, absent_by=primary_key)
        except pymysql.err.IntegrityError as error:
            if number_of(error) != DUPLICATE or not str(error.args[1]).endswith("'PRIMARY'"):
                raise
            if staging.clashes(primary_key):
                raise RefusedError("two rows have keys that are the same to the table's collation") from error
            raise ConflictError("somebody else was faster: the key is taken already") from error

    # --- record sets

    def _merge_records(self, writing: TypeWriting, accepted: Sequence[Accepted]) -> None:
        name = writing.item_type.name
        reading = self._reading.ask_typed(name, [a.item for a in accepted])
        names = writing.item_type.key_names
        rows = [(n, record) for n, a in enumerate(accepted) for record in _records(name, names, a)]
        writing.root.fill(rows, name)
        keys = {a.item.key for a in accepted}
        self._merge(
            writing.root,
            writing.table.primary_key,
            _own_rows(reading),
            (lambda: self._refuse_others(writing, keys)) if writing.collated else None,
        )

    def _refuse_others(self, writing: TypeWriting, keys: Collection[str]) -> None:
        """A record whose primary key is to the collation the same as one of a set that is not in the message: its set
        would lose it without a word."""
        staging, primary_key = writing.root, writing.table.primary_key
        if not set(writing.reading.key_columns) & set(primary_key):
            return  # the record's key is its own: it may come over from another set
        rows = self._connection.rows(
            f"SELECT DISTINCT {writing.reading.key_of_row('t')} FROM {staging.name} x STRAIGHT_JOIN {staging.table} t"
            f" ON {staging.equal(primary_key)}"
        )
        for (key,) in rows:
            if key not in keys:
                raise MessageError(
                    f"a record set cannot be written: to the collation of {writing.table.name} records of it are the"
                    f" same as some of {key}",
                    hint="a collation that tells them apart: utf8mb4_nopad_bin",
                )

    # --- deletions

    def _delete(self, accepted: Sequence[Accepted], deleted: frozenset[Item]) -> None:
        """Items of one rank."""
        by_type = _by_type(accepted)
        for name, of_type in by_type.items():
            writing = self.types[name]
            if not writing.item_type.is_object:
                with _named(name):
                    empty = [Accepted(a.item, a.version, a.seen, {"Records": []}, a.existed) for a in of_type]
                    self._merge_records(writing, empty)
        objects = {
            name: [a.item for a in by_type[name] if a.existed]
            for name in reversed(self._in_order(list(by_type)))
            if self.types[name].item_type.is_object
        }
        for name, items in objects.items():
            if items:
                self._refuse_cascade(self.types[name], items, deleted)
        for name, items in objects.items():
            with _named(name):
                self._delete_sections(self.types[name], items)
                self._detach(self.types[name], items)
        for name, items in objects.items():
            if items:
                with _named(name):
                    self._delete_roots(self.types[name], items)

    def _detach(self, writing: TypeWriting, items: Sequence[Item]) -> None:
        """Rows that go together may refer to each other."""
        if items and writing.later:
            reading = self._reading.ask_typed(writing.item_type.name, items)
            sets = ", ".join(f"r.{quoted(column)} = NULL" for column in writing.later)
            self._connection.run(f"UPDATE {reading.rows} SET {sets}")

    def _delete_roots(self, writing: TypeWriting, items: Sequence[Item]) -> None:
        name = writing.item_type.name
        left = list(items)
        own = [r for r in writing.at_once if r.target == name]
        while own and left:  # those first to which no other one refers
            reading = self._reading.ask_typed(name, left)
            free = [left[n] for (n,) in self._connection.rows(_unreferred(reading, own))]
            if not free or len(free) == len(left):
                break
            self._connection.run(f"DELETE r FROM {self._reading.ask_typed(name, free).rows}")
            left = [item for item in left if item not in free]
        self._connection.run(f"DELETE r FROM {self._reading.ask_typed(name, left).rows}")

    def _delete_sections(self, writing: TypeWriting, items: Sequence[Item]) -> None:
        if not items:
            return
        for section, _, _ in writing.sections:
            reading = self._reading.ask_typed(writing.item_type.name, items)
            self._connection.run(f"DELETE s FROM {reading.source_of_section(section)}")

    def _refuse_cascade(self, writing: TypeWriting, items: Sequence[Item], deleted: frozenset[Item]) -> None:
        """ON DELETE CASCADE and SET NULL would change other items here, unstamped."""
        target = writing.item_type.name
        for source, reference in self._cascading.get(target, ()):
            self._reading.ask_typed(target, items)
            for n, key in self._connection.rows(referring(self._reading, target, source, reference)):
                if Item(source, key) not in deleted:
                    raise DanglingError(
                        f"{target} {items[n].key} cannot be deleted: {source} {key} still refers to it",
                        hint=f"delete that, or change its {', '.join(reference.columns)}",
                    )


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Says of which type a message's fault is."""
    try:
        yield
    except pymysql.err.Error as error:
        meaning = translate(error)
        if isinstance(meaning, MessageError):
            raise type(meaning)(f"{what}: {meaning.text}", hint=meaning.hint) from error
        raise meaning from error


def _by_type(accepted: Sequence[Accepted]) -> dict[str, list[Accepted]]:
    found: dict[str, list[Accepted]] = {}
    for one in accepted:
        found.setdefault(one.item.type, []).append(one)
    return found


def _rows(where: str, rows: Any) -> list[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RefusedError(f"{where} has to be a list of rows")
    return rows


def _records(name: str, key_names: Sequence[str], accepted: Accepted) -> Iterator[Mapping[str, Any]]:
    filtered = dict(zip(key_names, orjson.loads(accepted.item.key), strict=True))
    for record in _rows(f"{name}.Records", (accepted.value or {}).get("Records")):
        yield {**record, **filtered}


def _section_rows(reading: TypeReading, section: Section) -> str:
    """FROM …: a section's rows of asked objects, alias `t`."""
    linked = " AND ".join(f"t.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
    return f"{reading.rows} STRAIGHT_JOIN {quoted_table(section.table)} t ON {linked}"


def _own_rows(reading: TypeReading) -> str:
    """FROM …: the records of asked sets, alias `t`."""
    return f"{reading.asked} k STRAIGHT_JOIN {reading.table} t ON {reading.joined('t')}"


def _targets_first(writing: TypeWriting, accepted: Sequence[Accepted]) -> list[Accepted]:
    """New rows in an order in which each finds the row of its own type that it has to refer to."""
    own = [r for r in writing.at_once if r.target == writing.item_type.name]
    if not own:
        return list(accepted)
    names = {column: name for name, column in writing.root.column_of.items()}
    by_key = {a.item.key: a for a in accepted}

    def targets(one: Accepted) -> list[str]:
        keys = []
        for reference in own:
            by_target = dict(zip(reference.target_columns, reference.columns, strict=True))
            columns = [by_target.get(c) for c in writing.reading.key_columns]
            if one.value is not None and all(c is not None and names.get(c) in one.value for c in columns):
                keys.append(key_text([one.value[names[c]] for c in columns if c is not None]))
        return keys

    ordered: dict[str, Accepted] = {}
    left = dict(by_key)
    while left:
        ready = [k for k, a in left.items() if not any(t in left and t != k for t in targets(a))] or list(left)
        ordered.update({key: left.pop(key) for key in ready})
    return list(ordered.values())


def _unreferred(reading: TypeReading, references: Sequence[Reference]) -> str:
    """SELECT n of asked objects to which no other row of their table refers by these references."""
    same = " AND ".join(f"c.{quoted(column)} = r.{quoted(column)}" for column in reading.key_columns)
    conditions = []
    for reference in references:
        tied = " AND ".join(
            f"c.{quoted(own)} = r.{quoted(theirs)}"
            for own, theirs in zip(reference.columns, reference.target_columns, strict=True)
        )
        conditions.append(f"NOT EXISTS (SELECT 1 FROM {reading.table} c WHERE {tied} AND NOT ({same}))")
    return f"SELECT k.n FROM {reading.rows} WHERE {' AND '.join(conditions)}"


def _cascading(structure: Structure, tables: Mapping[str, Table]) -> dict[str, list[tuple[str, Reference]]]:
    """By target type: references (of a type) by which the server itself changes rows when their target goes."""
    found: dict[str, list[tuple[str, Reference]]] = {}
    for item_type in structure.types.values():
        names: dict[str | None, str | None] = {s.name: s.table for s in item_type.sections}
        names[None] = item_type.table
        for reference in item_type.references:
            table = tables.get(names.get(reference.section) or "")
            if table and any(fk.columns == reference.columns and fk.on_delete for fk in table.foreign_keys):
                found.setdefault(reference.target, []).append((item_type.name, reference))
    return found

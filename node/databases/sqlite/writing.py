"""Items from JSON into tables: upserts with the parents first, deletions with the children first.

Only rows that differ are touched; a section's rows and a set's records are merged by their primary key; columns of
absent properties are left alone. References that no order of writing satisfies, circles say, are checked at the end of
the transaction (defer_foreign_keys). Unique values are freed first where one item of a message takes over what another
holds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

from dispatcher.ports import Accepted, Taken
from node.databases.sqlite.lexical import Form, Stored, all_of, any_of, quoted, stored, stored_as_is, stored_key
from node.databases.sqlite.parking import referring
from node.databases.sqlite.reading import Reading, TypeReading
from node.databases.sqlite.reflection import followed_columns, unique_indexes
from node.databases.sqlite.uniqueness import Uniqueness
from schemas.errors import DanglingError, DuplicateError, MessageError
from schemas.structure import Field, ItemType, Reference, Section, Structure
from schemas.tables import Table
from serializers.keys import Item

Row = tuple[Any, ...]


class _Columns:
    """Columns that travel, in an order: their properties, and how values get into them.

    Most values can be given to SQLite as they are; which of a row's cannot is remembered by the row's Python types.
    """

    def __init__(self, fields: Iterable[Field]) -> None:
        held = [f for f in fields if f.column is not None]
        self.names = tuple(f.name for f in held)
        self.columns = tuple(f.column.name for f in held if f.column)
        self.forms = tuple(Form.of(f) for f in held)
        self.stores = tuple(stored(form) for form in self.forms)
        self.name_set = frozenset(self.names)
        self._get = itemgetter(*self.names) if len(self.names) > 1 else None
        self._converted: dict[tuple[type, ...], tuple[tuple[int, Stored], ...]] = {}

    def values(self, item: Item, value: Mapping[str, Any]) -> list[Any]:
        """What SQLite is to hold. Raises MessageError that names the property and what its value is."""
        row = list(self._get(value)) if self._get else [value[name] for name in self.names]
        types = tuple(map(type, row))
        converted = self._converted.get(types)
        if converted is None:
            converted = self._converted[types] = tuple(
                (n, self.stores[n])
                for n, (kind, form) in enumerate(zip(types, self.forms, strict=True))
                if not stored_as_is(form, kind)
            )
        try:
            for n, store in converted:
                row[n] = store(row[n])
        except ValueError:
            raise self._fault(item, value) from None
        return row

    def _fault(self, item: Item, value: Mapping[str, Any]) -> MessageError:
        for name, form, store in zip(self.names, self.forms, self.stores, strict=True):
            try:
                store(value[name])
            except ValueError as error:
                return MessageError(
                    f"{item.type} {item.key}: {name} has to be {form.xml}, and is {error}",
                    hint="is the sender's package the same? compare `kod schema check` at both nodes",
                )
        raise AssertionError("some value was refused")


class _Rows:
    """A table into which rows are inserted, updated where they differ, and deleted: its statements."""

    def __init__(self, table: str, columns: _Columns, key: Sequence[str], *, nulls: bool, moves: bool = False) -> None:
        self.columns = columns
        self.key = tuple(key)
        """The columns that tell rows apart; their values follow the others'."""
        self._table = quoted(table)
        self._equal = "IS" if nulls else "="
        self._moves = moves
        """A row may come over from another object: its key is its own, without the object's."""

    @cached_property
    def insert(self) -> str:
        names = [*self.columns.columns, *(c for c in self.key if c not in self.columns.columns)]
        listed, marks = ", ".join(map(quoted, names)), ", ".join(f"?{n}" for n in range(1, len(names) + 1))
        return f"INSERT INTO {self._table} ({listed}) VALUES ({marks})"

    @cached_property
    def update(self) -> str:
        """Values of the columns, then those of the key. Empty where there is nothing but the key."""
        changing = [(n, c, f) for n, (c, f) in enumerate(self._places, 1) if c not in self.key]
        if not changing:
            return ""
        sets = ", ".join(f"{quoted(c)} = ?{n}" for n, c, _ in changing)
        differs = any_of([_differs(c, n, f) for n, c, f in changing])
        return f"UPDATE {self._table} SET {sets} WHERE {self._keyed(len(self._places) + 1)} AND ({differs})"

    @cached_property
    def delete(self) -> str:
        return f"DELETE FROM {self._table} WHERE {self._keyed(1)}"

    @property
    def _places(self) -> list[tuple[str, Form]]:
        return list(zip(self.columns.columns, self.columns.forms, strict=True))

    def _keyed(self, first: int) -> str:
        return all_of(f"{quoted(c)} {self._equal} ?{n}" for n, c in enumerate(self.key, first))


def _differs(column: str, number: int, form: Form) -> str:
    # BINARY, for 'a' and 'A' are equal in a column declared NOCASE, and are not the same
    differs = f"{quoted(column)} IS NOT ?{number} COLLATE BINARY"
    if form.affinity == "BLOB":  # no affinity: 5 and 5.0 are equal, and are not the same
        differs += f" OR typeof({quoted(column)}) <> typeof(?{number})"
    return differs


class _Merging:
    """Rows that belong to an item, a section's or a set's records: merged by what tells them apart."""

    def __init__(
        self, table: str, fields: Iterable[Field], link: Sequence[str], primary_key: Sequence[str], *, nulls: bool
    ) -> None:
        self.fields = tuple(f for f in fields if f.column is not None)
        self._table_name = table
        self._nulls = nulls
        self._narrower: dict[tuple[str, ...], _Merging] = {}
        self.columns = _Columns(self.fields)
        self.link = tuple(link)
        own_key = [c for c in primary_key if c not in self.link]
        self.places = tuple(self.columns.columns.index(c) for c in own_key if c in self.columns.columns)
        """Where a row's own part of the primary key stands among its values."""
        self.by_key = bool(primary_key) and len(self.places) == len(own_key)
        self.moves = self.by_key and not set(self.link) & set(primary_key)
        """Its key is its own, without the object's: a row may come over from another object."""
        self.rows = _Rows(table, self.columns, [*self.link, *own_key] if self.by_key else self.link, nulls=nulls)
        self.table = quoted(table)
        self.primary_key = tuple(primary_key)
        self.own_key = tuple(own_key)
        self.equal = "IS" if nulls else "="

    def for_row(self, row: Mapping[str, Any]) -> _Merging:
        """For exactly the properties that a row has: the columns of the others are left alone."""
        if row.keys() >= self.columns.name_set:
            return self
        present = tuple([name for name in self.columns.names if name in row])
        found = self._narrower.get(present)
        if found is None:
            fields = [f for f in self.fields if f.name in present]
            found = _Merging(self._table_name, fields, self.link, self.primary_key, nulls=self._nulls)
            if found.by_key != self.by_key:
                raise ValueError("a row without its key")
            self._narrower[present] = found
        return found

    @cached_property
    def insert(self) -> str:
        names = [*self.columns.columns, *self.link]
        listed, marks = ", ".join(map(quoted, names)), ", ".join(f"?{n}" for n in range(1, len(names) + 1))
        statement = f"INSERT INTO {self.table} ({listed}) VALUES ({marks})"
        if self.moves:
            sets = ", ".join(f"{quoted(c)} = excluded.{quoted(c)}" for c in names if c not in self.primary_key)
            statement += f" ON CONFLICT ({', '.join(map(quoted, self.primary_key))}) DO UPDATE SET {sets}"
        return statement

    def there(self, root: TypeReading | None, targets: Sequence[str]) -> str:
        """SELECT n, own key (or the values) of the rows that the asked items have now."""
        listed = ", ".join(f"s.{quoted(c)}" for c in (self.own_key if self.by_key else self.columns.columns)) or "1"
        if root is None:  # a record set: the asked values are the filter's
            linked = all_of(f"s.{quoted(c)} IS k.a{n}" for n, c in enumerate(self.link))
            return f"SELECT k.n, {listed} FROM temp.kod_asked k CROSS JOIN {self.table} s ON {linked}"
        linked = " AND ".join(
            f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in zip(self.link, targets, strict=True)
        )
        return (
            f"SELECT k.n, {listed} FROM temp.kod_asked k CROSS JOIN {root.table} r ON {root.joined('r')} "
            f"JOIN {self.table} s ON {linked}"
        )


class TypeWriting:
    """What writes one type; statements are made once for each set of properties that arrives."""

    def __init__(
        self, item_type: ItemType, reading: TypeReading, primary_key: Sequence[str], unique: Uniqueness | None
    ) -> None:
        """`unique`: None where nothing but the key is."""
        assert item_type.table is not None
        self.item_type = item_type
        self.reading = reading
        self.unique = unique
        self.table = item_type.table
        self.own = tuple(f for f in item_type.held if f not in item_type.key)
        """Fields with a column, without the key's."""
        self.sections = {s.name: (s, _merging(s)) for s in item_type.sections}
        self.records = _Merging(self.table, self.own, reading.key_columns, primary_key, nulls=True)
        self.deleting = _Rows(self.table, _Columns(()), reading.key_columns, nulls=False)
        self._own_names = tuple(f.name for f in self.own)
        self._own_set = frozenset(self._own_names)
        self._rows: dict[tuple[str, ...], _Rows] = {}

    def arriving(self, value: Mapping[str, Any] | None) -> frozenset[str] | None:
        """The columns that a value will set; None, of a deletion: all go."""
        if value is None:
            return None
        return frozenset([f.column.name for f in self.own if f.column and f.name in value])

    def rows(self, value: Mapping[str, Any]) -> _Rows:
        """Statements for exactly the properties that are present."""
        present = (
            self._own_names if value.keys() >= self._own_set else tuple([n for n in self._own_names if n in value])
        )
        found = self._rows.get(present)
        if found is None:
            columns = _Columns(f for f in self.own if f.name in present)
            found = self._rows[present] = _Rows(self.table, columns, self.reading.key_columns, nulls=False)
        return found

    def taken(self, connection: sqlite3.Connection, item: Item, value: Mapping[str, Any]) -> list[Taken]:
        """Which of the item's unique values other items have."""
        columns = _Columns(f for f in self.item_type.held if f.name in value)
        try:
            row = dict(zip(columns.columns, columns.values(item, value), strict=True))
        except MessageError:
            return []
        names = dict(zip(columns.columns, columns.names, strict=True))
        found = []
        for unique in self.item_type.uniques:
            if any(row.get(column) is None for column in unique):
                continue
            same = " AND ".join(f"r.{quoted(column)} = ?" for column in unique)
            rows = connection.execute(
                f"SELECT {self.reading.key_of_row('r')} FROM {self.reading.table} r WHERE {same}",
                [row[column] for column in unique],
            )
            properties = tuple(names[column] for column in unique)
            found += [Taken(properties, Item(item.type, key)) for (key,) in rows if key != item.key]
        for section, merging in self.sections.values():
            found += self._taken_in_section(connection, item, section, merging, value.get(section.name))
        return found

    def _taken_in_section(
        self, connection: sqlite3.Connection, item: Item, section: Section, merging: _Merging, rows: Any
    ) -> list[Taken]:
        found: dict[Taken, None] = {}
        linked = " AND ".join(f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        joined = f"SELECT {self.reading.key_of_row('r')} FROM {merging.table} s JOIN {self.reading.table} r ON {linked}"
        for exactly, values in _row_values(merging, item, section.name, rows) if section.uniques and rows else ():
            row = dict(zip(exactly.columns.columns, values, strict=True))
            names = dict(zip(exactly.columns.columns, exactly.columns.names, strict=True))
            for unique in section.uniques:
                if any(row.get(column) is None for column in unique):
                    continue
                same = " AND ".join(f"s.{quoted(column)} = ?" for column in unique)
                properties = tuple(f"{section.name}.{names[column]}" for column in unique)
                for (key,) in connection.execute(f"{joined} WHERE {same}", [row[column] for column in unique]):
                    if key != item.key:
                        found[Taken(properties, Item(item.type, key))] = None
        return list(found)


def _merging(section: Section) -> _Merging:
    return _Merging(section.table, section.fields, [own for own, _ in section.link], section.primary_key, nulls=False)


class Writing:
    """Writes items over one connection, inside the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, structure: Structure, reading: Reading) -> None:
        self._connection = connection
        self._reading = reading
        tables = structure.tables
        indexes = unique_indexes(connection, _tables_of(structure))
        followed = followed_columns(connection)
        self.types: dict[str, TypeWriting] = {}
        for name, item_type in structure.types.items():
            if item_type.table is not None:
                primary = [i for i in indexes[item_type.table] if i.primary]
                primary_key = [column for column, _ in primary[0].columns] if primary else []
                table = tables[item_type.table]
                unique = Uniqueness.of(item_type, table, indexes, followed) if item_type.is_object else None
                self.types[name] = TypeWriting(item_type, reading.types[name], primary_key, unique)
        self._cascading = _cascading(structure, tables)

    def write(self, accepted: Sequence[Accepted]) -> None:
        """All of them, whatever refers to what, and whichever way unique values pass from one item to another.

        Most messages can be written with every reference right after every row. Only where one cannot are references
        checked at the transaction's end: that PRAGMA makes SQLite prepare every statement of the connection anew
        (OP_Expire), which costs more than a small message itself.
        """
        self._connection.execute("SAVEPOINT kod_write")
        try:
            self._write(accepted)
        except MessageError as refused:
            if not (_is_unique_clash(refused) or _is_broken_reference(refused)):
                raise
            self._begin_again()
            self._connection.execute("PRAGMA defer_foreign_keys = ON")  # until this transaction ends
            self._write_in_any_order(accepted)
        self._connection.execute("RELEASE kod_write")

    def _begin_again(self) -> None:
        self._connection.execute("ROLLBACK TO kod_write")
        self._reading.begin()  # what is asked for was rolled back too

    def _write_in_any_order(self, accepted: Sequence[Accepted]) -> None:
        try:
            self._write(accepted)
        except MessageError as clash:
            holding = [one for one in accepted if one.write and one.existed and self._is_exclusive(one.item.type)]
            if not holding or not _is_unique_clash(clash):
                raise
            self._begin_again()
            try:
                self._release(holding)
            except MessageError:  # a CHECK, say, that lets no other value in
                raise clash from clash.__cause__
            self._write(accepted)

    def _is_exclusive(self, type_name: str) -> bool:
        """Two items of the type may get into each other's way."""
        return type_name in self.types and self.types[type_name].unique is not None

    def _release(self, holding: Sequence[Accepted]) -> None:
        """Frees the unique values of rows that are about to be updated or deleted, for those that are to get them.

        The rows themselves stay until the end: deleted at once they would take along, by ON DELETE, rows that the
        message is only about to detach from them."""
        by_type: dict[str, list[Accepted]] = {}
        for one in holding:
            by_type.setdefault(one.item.type, []).append(one)
        for name, of_type in by_type.items():
            writing = self.types[name]
            keys = self._stored_keys(writing, [a.item for a in of_type])
            self._delete_sections(writing, [a for a in of_type if a.value is None], keys)
            keyed = " AND ".join(f"{quoted(c)} = ?" for c in writing.reading.key_columns)
            batches: dict[str, list[tuple[Item, list[Any]]]] = {}
            for one in of_type:
                for column, free in writing.unique.released(writing.arriving(one.value)) if writing.unique else ():
                    statement = f"UPDATE {writing.reading.table} SET {quoted(column)} = {free} WHERE {keyed}"
                    batches.setdefault(statement, []).append((one.item, list(keys[one.item])))
            for statement, batch in batches.items():
                self._many(statement, batch)

    def _write(self, accepted: Sequence[Accepted]) -> None:
        """Upserts in the order of rank, then deletions in the opposite order."""
        by_rank: dict[int, dict[str, list[Accepted]]] = {}
        for one in accepted:
            writing = self.types.get(one.item.type)
            if one.write and writing is not None:
                by_rank.setdefault(writing.item_type.rank, {}).setdefault(one.item.type, []).append(one)
        for rank in sorted(by_rank):
            for name, of_type in by_rank[rank].items():
                self._upsert(self.types[name], [a for a in of_type if a.value is not None])
        deleted = frozenset(one.item for one in accepted if one.write and one.value is None)
        for rank in sorted(by_rank, reverse=True):
            for name, of_type in by_rank[rank].items():
                gone = [a for a in of_type if a.value is None]
                if gone:
                    self._delete(self.types[name], gone, deleted)

    # --- objects

    def _upsert(self, writing: TypeWriting, accepted: Sequence[Accepted]) -> None:
        if not accepted:
            return
        if not writing.item_type.is_object:
            self._merge_records(writing, accepted)
            return
        keys = self._stored_keys(writing, [a.item for a in accepted])
        batches: dict[str, list[tuple[Item, list[Any]]]] = {}
        for one in accepted:
            assert one.value is not None
            rows = writing.rows(one.value)
            statement = rows.update if one.existed else rows.insert
            if statement:
                row = rows.columns.values(one.item, one.value)
                row.extend(keys[one.item])
                batches.setdefault(statement, []).append((one.item, row))
        for statement, batch in batches.items():
            self._many(statement, batch)
        for section, merging in writing.sections.values():
            self._merge_section(writing, section, merging, accepted, keys)

    def _stored_keys(self, writing: TypeWriting, items: Sequence[Item]) -> dict[Item, Row]:
        """The key's values as the rows have them, or are to have them."""
        reading = writing.reading
        keys = {item: tuple(next(iter(reading.bindings(item.key)))) for item in items}
        if reading.spelled_variously:
            stores = [stored_key(form) for form in reading.key_forms]
            for item in items:
                keys[item] = tuple(s(v) for s, v in zip(stores, reading.values(item.key), strict=True))
            self._reading.ask(items)
            columns = ", ".join(f"r.{quoted(c)}" for c in reading.key_columns)
            for n, *values in self._connection.execute(
                f"SELECT k.n, {columns} FROM temp.kod_asked k CROSS JOIN {reading.table} r ON {reading.joined('r')}"
            ):
                keys[items[n]] = tuple(values)
        return keys

    def _merge_section(
        self,
        writing: TypeWriting,
        section: Section,
        merging: _Merging,
        accepted: Sequence[Accepted],
        keys: Mapping[Item, Row],
    ) -> None:
        concerned = [a for a in accepted if a.value is not None and section.name in a.value]
        links = self._links(writing, section, concerned, keys)
        incoming = {
            a.item: _row_values(merging, a.item, section.name, a.value[section.name] if a.value else None)
            for a in concerned
        }
        existed = [a.item for a in concerned if a.existed]
        there: dict[Item, list[Row]] = {}
        if existed:
            self._reading.ask(existed)
            for n, *row in self._connection.execute(merging.there(writing.reading, [t for _, t in section.link])):
                there.setdefault(existed[n], []).append(tuple(row))
        self._merge(merging, incoming, there, links)

    def _links(
        self, writing: TypeWriting, section: Section, accepted: Sequence[Accepted], keys: Mapping[Item, Row]
    ) -> dict[Item, Row]:
        """What the section's link columns hold for each object."""
        places = {c: n for n, c in enumerate(writing.reading.key_columns)}
        targets = [theirs for _, theirs in section.link]
        if all(t in places for t in targets):
            order = [places[t] for t in targets]
            return {a.item: tuple(keys[a.item][n] for n in order) for a in accepted}
        items = [a.item for a in accepted]
        self._reading.ask(items)
        columns = ", ".join(f"r.{quoted(t)}" for t in targets)
        rows = self._connection.execute(
            f"SELECT k.n, {columns} FROM temp.kod_asked k CROSS JOIN {writing.reading.table} r "
            f"ON {writing.reading.joined('r')}"
        )
        return {items[n]: tuple(values) for n, *values in rows}

    # --- record sets

    def _merge_records(self, writing: TypeWriting, accepted: Sequence[Accepted]) -> None:
        items = [a.item for a in accepted]
        merging = writing.records
        reading = writing.reading
        stores = [stored_key(form) for form in reading.key_forms]
        links = {i: tuple(s(v) for s, v in zip(stores, reading.values(i.key), strict=True)) for i in items}
        incoming = {
            a.item: _row_values(merging, a.item, "Records", a.value.get("Records") if a.value else None)
            for a in accepted
        }
        there: dict[Item, list[Row]] = {}
        others: list[tuple[Item, list[Any]]] = []
        self._reading.ask(items)
        listed = "".join(f", s.{quoted(c)}" for c in merging.link)
        statement = merging.there(None, ()).replace("SELECT k.n, ", f"SELECT k.n{listed}, ", 1)
        width = len(merging.link)
        for n, *row in self._connection.execute(statement):
            item, link = items[n], tuple(row[:width])
            if item not in there:
                links[item] = link  # as the rows spell it that are there
            if links[item] == link:
                there.setdefault(item, []).append(tuple(row[width:]))
            else:
                others.append((item, list(link)))
        linked = all_of(f"{quoted(c)} IS ?" for c in merging.link)
        self._many(f"DELETE FROM {merging.table} WHERE {linked}", others)
        self._merge(merging, incoming, there, links)

    # --- rows

    def _merge(
        self,
        merging: _Merging,
        incoming: Mapping[Item, list[tuple[_Merging, list[Any]]]],
        there: Mapping[Item, list[Row]],
        links: Mapping[Item, Row],
    ) -> None:
        batches: dict[str, list[tuple[Item, list[Any]]]] = {}
        deleted: list[tuple[Item, list[Any]]] = []
        for item, rows in incoming.items():
            old, link = there.get(item, ()), links[item]
            if not merging.by_key:
                if old and _same_rows(old, [row for _, row in rows]):
                    continue
                if old:
                    deleted.append((item, list(link)))
                for exactly, row in rows:
                    batches.setdefault(exactly.insert, []).append((item, [*row, *link]))
                continue
            absent = set(old) if merging.own_key else {()} if old else set()  # the link may be the whole key
            for exactly, row in rows:
                own = tuple([row[n] for n in exactly.places])
                if own not in absent:
                    batches.setdefault(exactly.insert, []).append((item, [*row, *link]))
                elif exactly.rows.update:
                    batches.setdefault(exactly.rows.update, []).append((item, [*row, *link, *own]))
                absent.discard(own)
            deleted += [(item, [*link, *own]) for own in absent]
        self._many(merging.rows.delete, deleted)
        for statement in sorted(batches, reverse=True):  # updates before inserts: they may free unique values
            self._many(statement, batches[statement])

    def _delete(self, writing: TypeWriting, accepted: Sequence[Accepted], deleted: frozenset[Item]) -> None:
        items = [a.item for a in accepted if a.existed]
        if not writing.item_type.is_object:
            empty = [Accepted(a.item, a.version, a.seen, {"Records": []}, a.existed) for a in accepted]
            self._merge_records(writing, empty)
            return
        if not items:
            return
        self._refuse_cascade(writing, items, deleted)
        keys = self._stored_keys(writing, items)
        existing = [Accepted(a.item, a.version, a.seen, {}, a.existed) for a in accepted if a.existed]
        self._delete_sections(writing, existing, keys)
        self._many(writing.deleting.delete, [(i, list(key)) for i, key in keys.items()])

    def _delete_sections(self, writing: TypeWriting, accepted: Sequence[Accepted], keys: Mapping[Item, Row]) -> None:
        for section, merging in writing.sections.values():
            links = self._links(writing, section, accepted, keys)
            linked = " AND ".join(f"{quoted(c)} = ?" for c in merging.link)
            self._many(f"DELETE FROM {merging.table} WHERE {linked}", [(i, list(link)) for i, link in links.items()])

    def _refuse_cascade(self, writing: TypeWriting, items: Sequence[Item], deleted: frozenset[Item]) -> None:
        """ON DELETE CASCADE and SET NULL would change other items here, unstamped: KOD's writes are not captured."""
        target = writing.item_type.name
        for source, reference in self._cascading.get(target, ()):
            self._reading.ask(items)
            rows = self._connection.execute(referring(self._reading, target, source, reference))
            for n, key in rows.fetchall():
                if Item(source, key) not in deleted:
                    raise DanglingError(
                        f"{target} {items[n].key} cannot be deleted: {source} {key} still refers to it",
                        hint=f"delete that, or change its {', '.join(reference.columns)}",
                    )

    def _many(self, statement: str, rows: Sequence[tuple[Item, list[Any]]]) -> None:
        """One statement for many rows. Raises MessageError that names the item whose row was refused."""
        if not rows:
            return
        self._connection.execute("SAVEPOINT kod_rows")
        try:
            self._connection.executemany(statement, [row for _, row in rows])
        except (sqlite3.IntegrityError, sqlite3.OperationalError, OverflowError) as error:
            self._connection.execute("ROLLBACK TO kod_rows")
            fault = self._refused(statement, rows, error)
            self._connection.execute("ROLLBACK TO kod_rows")
            self._connection.execute("RELEASE kod_rows")
            if fault is None:
                raise
            raise fault from error
        self._connection.execute("RELEASE kod_rows")

    def _refused(self, statement: str, rows: Sequence[tuple[Item, list[Any]]], error: Exception) -> MessageError | None:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
            return None  # busy, full, read-only: not the message's fault
        for item, row in rows:
            try:
                self._connection.execute(statement, row)
            except (sqlite3.IntegrityError, sqlite3.OperationalError, OverflowError) as found:
                return _kind(found)(f"{item.type} {item.key} cannot be written: {in_words(found)}")
        return None


def _row_values(merging: _Merging, item: Item, name: str, rows: Any) -> list[tuple[_Merging, list[Any]]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MessageError(f"{item.type} {item.key}: {name} has to be a list of rows")
    found = []
    for row in rows:
        try:
            exactly = merging.for_row(row)
        except ValueError as error:
            raise MessageError(f"{item.type} {item.key}: {name}: {error}") from None
        found.append((exactly, exactly.columns.values(item, row)))
    return found


def _same_rows(old: Sequence[Row], new: Sequence[Sequence[Any]]) -> bool:
    return sorted(map(repr, old)) == sorted(repr(tuple(row)) for row in new)


def in_words(error: Exception) -> str:
    """A constraint's violation as people say it, with the table and the columns."""
    text = str(error)
    kind, _, where = text.partition(": ")
    if kind == "UNIQUE constraint failed":
        return f"another row has the same {where} already (unique)"
    if kind == "NOT NULL constraint failed":
        return f"{where} must not be empty (not null)"
    if kind == "CHECK constraint failed":
        return f"it breaks the rule {where} (check)"
    if kind == "FOREIGN KEY constraint failed":
        return "a row that it refers to is not there, or rows still refer to it (foreign key)"
    return text


def _kind(error: Exception) -> type[MessageError]:
    if isinstance(error, sqlite3.IntegrityError) and _is_unique(error):
        return DuplicateError
    code = error.sqlite_errorcode if isinstance(error, sqlite3.IntegrityError) else None
    return DanglingError if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY else MessageError


def _is_unique(error: sqlite3.IntegrityError) -> bool:
    return error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE


def _is_unique_clash(error: MessageError) -> bool:
    cause = error.__cause__
    return isinstance(cause, sqlite3.IntegrityError) and _is_unique(cause)


def _is_broken_reference(error: MessageError) -> bool:
    cause = error.__cause__
    return isinstance(cause, sqlite3.IntegrityError) and cause.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY


def broken_references(connection: sqlite3.Connection) -> str:
    """Which references are broken in this transaction, in words. Slow: asked only when a COMMIT has failed."""
    rows = connection.execute("PRAGMA foreign_key_check").fetchmany(3)
    if not rows:
        return "a reference is broken (foreign key)"
    names = []
    for table, _, parent, number in rows:
        keys = connection.execute(f"PRAGMA foreign_key_list({quoted(table)})").fetchall()
        columns = ", ".join(key[3] for key in keys if key[0] == number)
        names.append(f"{table} ({columns}) refers to a row of {parent} that is not there")
    return "; ".join(dict.fromkeys(names)) + " (foreign key)"


def _tables_of(structure: Structure) -> Iterator[str]:
    for item_type in structure.types.values():
        if item_type.table is not None:
            yield from (item_type.table, *(section.table for section in item_type.sections))


def _cascading(structure: Structure, reflected: Mapping[str, Table]) -> dict[str, list[tuple[str, Reference]]]:
    """By target type: references (of a type) by which the database itself changes rows when their target goes."""
    found: dict[str, list[tuple[str, Reference]]] = {}
    for item_type in structure.types.values():
        tables: dict[str | None, str | None] = {s.name: s.table for s in item_type.sections}
        tables[None] = item_type.table
        for reference in item_type.references:
            table = tables.get(reference.section)
            if table is not None and reference.columns in _cascading_columns(reflected[table]):
                found.setdefault(reference.target, []).append((item_type.name, reference))
    return found


def _cascading_columns(table: Table) -> set[tuple[str, ...]]:
    return {fk.columns for fk in table.foreign_keys if fk.on_delete}

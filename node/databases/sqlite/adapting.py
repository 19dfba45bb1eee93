"""node.databases.adapted.Registers over SQLite, inside the transaction of `kod install`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import orjson

from dispatcher.ports import Accepted
from node.databases.adapted import Adopted, Entry
from node.databases.sqlite import rights
from node.databases.sqlite.reading import Reading, TypeReading
from node.databases.sqlite.writing import Writing
from schemas.stamp import EARLIEST, Stamp
from schemas.structure import ItemType, Structure
from serializers.keys import Item
from serializers.message import Version

_OF_ITEMS = ("kod_log", "kod_register", "kod_presence", "kod_rights", "kod_ahead", "kod_pending", "kod_ways")


class SqliteRegisters:
    def __init__(self, connection: sqlite3.Connection, structure: Structure, now_sql: str) -> None:
        self._connection = connection
        self._structure = structure
        self._now_sql = now_sql

    def types(self) -> Mapping[str, str | None]:
        return dict(self._connection.execute("SELECT name, key FROM kod_types ORDER BY id").fetchall())

    def _id(self, name: str) -> int:
        (number,) = self._connection.execute("SELECT id FROM kod_types WHERE name = ?", (name,)).fetchone()
        return int(number)

    def rename(self, old: str, new: str) -> None:
        self._connection.execute("UPDATE kod_types SET name = ? WHERE name = ?", (new, old))
        self._connection.execute("UPDATE kod_collisions SET type = ? WHERE type = ?", (new, old))

    def note_key(self, name: str, key: str) -> None:
        self._connection.execute("UPDATE kod_types SET key = ? WHERE name = ?", (key, name))

    def forget(self, name: str) -> int:
        number = (self._id(name),)
        gone = "type = ? AND kept IS NULL AND NOT gone"
        for table in ("kod_ahead", "kod_pending"):
            self._connection.execute(
                f"DELETE FROM {table} WHERE (type, key) IN (SELECT type, key FROM kod_register WHERE {gone})", number
            )
        self._connection.execute("DELETE FROM kod_log WHERE type = ? AND local", number)
        self._connection.execute("UPDATE kod_types SET stamped = 0 WHERE id = ?", number)
        return self._connection.execute(f"DELETE FROM kod_register WHERE {gone}", number).rowcount

    def forget_wholly(self, name: str) -> int:
        number = (self._id(name),)
        (count,) = self._connection.execute("SELECT count(*) FROM kod_register WHERE type = ?", number).fetchone()
        for table in (*_OF_ITEMS, "kod_walks", "kod_history"):
            self._connection.execute(f"DELETE FROM {table} WHERE type = ?", number)
        self._connection.execute("UPDATE kod_types SET stamped = 0, key = NULL WHERE id = ?", number)
        return int(count)

    def entries(self, name: str) -> Mapping[str, Entry]:
        rows = self._connection.execute(
            "SELECT key, stamp, origin, seen, kept FROM kod_register WHERE type = ? AND NOT gone", (self._id(name),)
        )
        return {
            key: Entry(Version(Stamp(stamp), origin), orjson.loads(seen) if seen else {}, kept=kept)
            for key, stamp, origin, seen, kept in rows
        }

    def logged(self, name: str) -> frozenset[str]:
        rows = self._connection.execute("SELECT DISTINCT key FROM kod_log WHERE type = ? AND local", (self._id(name),))
        return frozenset(key for (key,) in rows)

    def pairs(self, old: ItemType, new: ItemType) -> Iterable[tuple[str, str]]:
        before, now = TypeReading(old), TypeReading(new)
        return self._connection.execute(
            f"SELECT DISTINCT {before.key_of_row('r')}, {now.key_of_row('r')} FROM {now.table} r"
        ).fetchall()

    def put(self, name: str, entries: Mapping[str, Entry], moved: Mapping[str, Sequence[str]]) -> None:
        number = self._id(name)
        held = self._connection.execute(
            "SELECT node, key, since, drawn_by FROM kod_presence WHERE type = ?", (number,)
        ).fetchall()
        for table in _OF_ITEMS:
            self._connection.execute(f"DELETE FROM {table} WHERE type = ?", (number,))
        self._connection.executemany(
            "INSERT INTO kod_register (type, key, stamp, origin, seen, mark, kept) "
            "VALUES (?, ?, ?, coalesce(nullif(?, ''), (SELECT origin FROM kod_node)), ?, -1, ?)",
            [
                (number, key, one.version.stamp, one.version.origin, _text(one.seen), one.kept)
                for key, one in entries.items()
            ],
        )
        self._connection.executemany(
            f"INSERT INTO kod_log (type, key, at, gone, local) VALUES (?, ?, coalesce(?, {self._now_sql}), 0, ?)",
            [
                (number, key, None if one.changed else one.version.stamp, int(one.changed))
                for key, one in entries.items()
            ],
        )
        self._connection.executemany(
            "INSERT INTO kod_presence (node, type, key, since, drawn_by) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(node, number, key, since, drawn) for node, old, since, drawn in held for key in moved.get(old, ())],
        )
        if self._structure[name].access:
            rights.all_again(self._connection, self._structure, {name: number})

    def kept(self, name: str) -> Mapping[Item, str]:
        rows = self._connection.execute(
            "SELECT key, kept FROM kod_register WHERE type = ? AND kept IS NOT NULL AND NOT gone", (self._id(name),)
        )
        return {Item(name, key): kept for key, kept in rows}

    def _reading(self) -> Reading:
        ids = dict(self._connection.execute("SELECT name, id FROM kod_types").fetchall())
        return Reading(self._connection, self._structure, ids)

    def contents(self, items: Sequence[Item]) -> Mapping[Item, bytes | None]:
        return {content.item: content.text for content in self._reading().contents(items)}

    def adopt(self, adopted: Sequence[Adopted]) -> None:
        if not adopted:
            return
        self._connection.execute("INSERT INTO kod_applying (one) VALUES (1)")
        writing = Writing(self._connection, self._structure, self._reading())
        writing.write([Accepted(a.item, Version(EARLIEST, ""), {}, a.value, a.existed) for a in adopted])
        self._connection.execute("DELETE FROM kod_applying")
        self._connection.executemany(
            "UPDATE kod_register SET kept = ? WHERE type = ? AND key = ?",
            [(a.kept, self._id(a.item.type), a.item.key) for a in adopted],
        )


def _text(seen: Mapping[str, Stamp]) -> str | None:
    return orjson.dumps(dict(seen)).decode() if seen else None

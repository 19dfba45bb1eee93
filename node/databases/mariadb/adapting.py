"""node.databases.adapted.Registers over MariaDB, in a transaction after `kod install` has made the triggers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson

from dispatcher.ports import Accepted
from node.databases.adapted import Adopted, Entry
from node.databases.mariadb import registers, rights
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.reading import Reading, TypeReading
from node.databases.mariadb.writing import Writing
from schemas.stamp import EARLIEST, Stamp
from schemas.structure import ItemType, Structure
from serializers.keys import Item
from serializers.message import Version

_OF_ITEMS = ("kod_log", "kod_register", "kod_presence", "kod_rights", "kod_ahead", "kod_pending", "kod_ways")


class MariadbRegisters:
    def __init__(self, connection: Connection, structure: Structure) -> None:
        self._connection = connection
        self._structure = structure
        self._whole: Reading | None = None

    def types(self) -> Mapping[str, str | None]:
        return {name: key for name, key in self._connection.rows("SELECT name, `key` FROM kod_types ORDER BY id")}  # noqa: C416 - typed

    def _id(self, name: str) -> int:
        (number,) = self._connection.one("SELECT id FROM kod_types WHERE name = %s", (name,))
        return int(number)

    def rename(self, old: str, new: str) -> None:
        self._connection.run("UPDATE kod_types SET name = %s WHERE name = %s", (new, old))
        self._connection.run("UPDATE kod_collisions SET type = %s WHERE type = %s", (new, old))

    def note_key(self, name: str, key: str) -> None:
        self._connection.run("UPDATE kod_types SET `key` = %s WHERE name = %s", (key, name))

    def forget(self, name: str) -> int:
        number = self._id(name)
        rows = self._connection.rows(
            "SELECT type, item_key FROM kod_register WHERE type = %s AND kept IS NULL AND NOT gone", (number,)
        )
        for table in ("kod_ahead", "kod_pending", "kod_register"):
            self._connection.many(f"DELETE FROM {table} WHERE type = %s AND item_key = %s", rows)
        self._connection.run("DELETE FROM kod_log WHERE type = %s AND local", (number,))
        self._connection.run("UPDATE kod_types SET stamped = 0 WHERE id = %s", (number,))
        return len(rows)

    def forget_wholly(self, name: str) -> int:
        number = (self._id(name),)
        (count,) = self._connection.one("SELECT COUNT(*) FROM kod_register WHERE type = %s", number)
        for table in (*_OF_ITEMS, "kod_walks", "kod_history"):
            self._connection.run(f"DELETE FROM {table} WHERE type = %s", number)
        self._connection.run("UPDATE kod_types SET stamped = 0, `key` = NULL WHERE id = %s", number)
        return int(count)

    def entries(self, name: str) -> Mapping[str, Entry]:
        rows = self._connection.rows(
            "SELECT item_key, stamp, origin, seen, kept FROM kod_register WHERE type = %s AND NOT gone",
            (self._id(name),),
        )
        return {
            key.decode(): Entry(Version(Stamp(stamp), origin), orjson.loads(seen) if seen else {}, kept=kept)
            for key, stamp, origin, seen, kept in rows
        }

    def logged(self, name: str) -> frozenset[str]:
        rows = self._connection.rows(
            "SELECT DISTINCT item_key FROM kod_log WHERE type = %s AND local", (self._id(name),)
        )
        return frozenset(key.decode() for (key,) in rows)

    def pairs(self, old: ItemType, new: ItemType) -> Iterable[tuple[str, str]]:
        before, now = TypeReading(old, 0), TypeReading(new, 0)
        rows = self._connection.rows(
            f"SELECT DISTINCT CAST({before.key_of_row('r')} AS BINARY), CAST({now.key_of_row('r')} AS BINARY)"
            f" FROM {now.table} r"
        )
        return [(one.decode(), other.decode()) for one, other in rows]

    def put(self, name: str, entries: Mapping[str, Entry], moved: Mapping[str, Sequence[str]]) -> None:
        number = self._id(name)
        held = self._connection.rows(
            "SELECT node, item_key, since, drawn_by FROM kod_presence WHERE type = %s", (number,)
        )
        for table in _OF_ITEMS:
            self._connection.run(f"DELETE FROM {table} WHERE type = %s", (number,))
        origin, now = self._connection.one(f"SELECT origin, {registers.NOW_MS} FROM kod_node")
        self._connection.many(
            "INSERT INTO kod_register (type, item_key, stamp, origin, seen, mark, kept)"
            " VALUES (%s, %s, %s, %s, %s, -1, %s)",
            [
                (number, key.encode(), one.version.stamp, one.version.origin or origin, _text(one.seen), one.kept)
                for key, one in entries.items()
            ],
        )
        self._connection.many(
            "INSERT INTO kod_log (type, item_key, at, gone, local) VALUES (%s, %s, %s, 0, %s)",
            [
                (number, key.encode(), now if one.changed else one.version.stamp, int(one.changed))
                for key, one in entries.items()
            ],
        )
        self._connection.many(
            "INSERT IGNORE INTO kod_presence (node, type, item_key, since, drawn_by) VALUES (%s, %s, %s, %s, %s)",
            [
                (node, number, key.encode(), since, drawn)
                for node, old, since, drawn in held
                for key in moved.get(old.decode(), ())
            ],
        )
        if self._structure[name].access:
            rights.all_again(self._connection, self._structure, {name: number})

    def kept(self, name: str) -> Mapping[Item, str]:
        rows = self._connection.rows(
            "SELECT item_key, kept FROM kod_register WHERE type = %s AND has_kept = 1 AND NOT gone", (self._id(name),)
        )
        return {Item(name, key.decode()): kept for key, kept in rows}

    def _reading(self) -> Reading:
        if self._whole is None:
            for sql in registers.TEMPORARY:
                self._connection.run(sql)
            self._whole = Reading(self._connection, self._structure, registers.type_ids(self._connection))
        return self._whole

    def contents(self, items: Sequence[Item]) -> Mapping[Item, bytes | None]:
        return {content.item: content.text for content in self._reading().contents(items)}

    def adopt(self, adopted: Sequence[Adopted]) -> None:
        if not adopted:
            return
        ids = registers.type_ids(self._connection)
        self._connection.run("INSERT INTO kod_applying (connection) VALUES (CONNECTION_ID())")
        writing = Writing(self._connection, self._structure, self._reading(), ids)
        writing.write([Accepted(a.item, Version(EARLIEST, ""), {}, a.value, a.existed) for a in adopted])
        self._connection.run("DELETE FROM kod_applying WHERE connection = CONNECTION_ID()")
        self._connection.many(
            "UPDATE kod_register SET kept = %s WHERE type = %s AND item_key = %s",
            [(a.kept, ids[a.item.type], a.item.key.encode()) for a in adopted],
        )


def _text(seen: Mapping[str, Stamp]) -> str | None:
    return orjson.dumps(dict(seen)).decode() if seen else None

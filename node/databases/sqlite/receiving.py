"""dispatcher.ports.ReceivingView over SQLite: one write transaction; the whole database is locked by it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dispatcher.ports import Accepted, Collision, Kept, Letter, Local, ParkedItem, Reason, Received, Taken, Waiting
from node.databases.sqlite import naming, parking
from node.databases.sqlite.folding import fold
from node.databases.sqlite.hooked import hook_tables
from node.databases.sqlite.reading import Reading
from node.databases.sqlite.writing import Writing
from node.databases.type_names import TypeNames
from node.databases.ways import WayTables
from schemas.errors import MessageError
from schemas.stamp import Stamp
from schemas.structure import Names, Structure
from serializers import beside
from serializers.keys import Item
from serializers.message import Version

_REGISTER = """INSERT INTO kod_register (type, key, stamp, origin, seen, mark, source, gone, kept)
    VALUES (:type, :key, :stamp, :origin, :seen, :mark, :source, :gone, :kept)
    ON CONFLICT (type, key) DO UPDATE SET stamp = excluded.stamp, origin = excluded.origin, seen = excluded.seen,
        source = excluded.source, kept = excluded.kept,
        known = CASE WHEN gone THEN NULL ELSE known END,
        mark = CASE WHEN gone AND NOT excluded.gone AND excluded.mark < 0 THEN -1 ELSE mark END,
        gone = excluded.gone"""
"""`mark` -1: has to be marked, and no neighbour but the source is known to have it. An item that was gone is as new."""


class SqliteReceivingView:
    def __init__(
        self,
        connection: sqlite3.Connection,
        structure: Structure,
        reading: Reading,
        writing: Writing,
        type_ids: Mapping[str, int],
        *,
        sender: str,
        forward: bool,
        limited: frozenset[str],
        now_sql: str,
    ) -> None:
        self._connection = connection
        self._structure = structure
        self._reading = reading
        self._writing = writing
        self._type_ids = type_ids
        self._type_names = TypeNames({type_id: name for name, type_id in type_ids.items()})
        self._sender = sender
        self._forward = forward
        self._limited = limited
        self._now_sql = now_sql
        self.folded = False
        self.hooked = hook_tables(connection, type_ids)
        self.ways = WayTables(self.hooked)

    def lock(self, items: Sequence[Item], *, beside: Sequence[Item] = ()) -> Mapping[Item, Local]:
        """Nothing to lock row by row: BEGIN IMMEDIATE has locked them all."""
        unknown = sorted({item.type for item in items if item.type not in self._type_ids})
        if unknown:
            raise MessageError(
                f"type {', '.join(unknown)} is not known here", hint="add it to the package and run `kod install`"
            )
        if self._connection.execute("SELECT 1 FROM kod_log WHERE local LIMIT 1").fetchone():
            self.folded = fold(self._connection, self._reading, self._type_names).items > 0
        self._note_holder([item for item in items if item.type in self._limited])
        return self._local(items)

    def _note_holder(self, items: Sequence[Item]) -> None:
        owners = [item for item in items if item.type in self._structure.owning]
        self._connection.executemany(  # what belongs to an owner that was here already has to follow it
            "INSERT INTO kod_rights (type, key, follow) SELECT :type, :key, 1 "
            "WHERE EXISTS (SELECT 1 FROM kod_register WHERE type = :type AND key = :key AND NOT gone) AND NOT EXISTS "
            "(SELECT 1 FROM kod_presence WHERE type = :type AND key = :key AND node = :node)",
            [{"type": self._type_ids[item.type], "key": item.key, "node": self._sender} for item in owners],
        )
        self._connection.executemany(
            "INSERT INTO kod_presence (node, type, key, since) VALUES (?, ?, ?, 0) "
            "ON CONFLICT (type, key, node) DO UPDATE SET since = 0 WHERE since IS NULL OR since > 0",
            [(self._sender, self._type_ids[item.type], item.key) for item in items],
        )

    def _local(self, items: Sequence[Item]) -> dict[Item, Local]:
        existing = self._reading.existing(items)
        self._reading.ask(items)
        found: dict[Item, Local] = {}
        for n, stamp, origin, seen, mark, source in self._connection.execute(
            "SELECT DISTINCT k.n, g.stamp, g.origin, g.seen, g.mark, g.source FROM temp.kod_asked k "
            "JOIN kod_register g ON g.type = k.type AND g.key = k.key"
        ):
            item = items[n]
            seen_there = orjson.loads(seen) if seen else {}
            found[item] = Local(Version(Stamp(stamp), origin), seen_there, item in existing, mark, source)
        found.update({item: Local(None, {}, True) for item in existing if item not in found})
        return found

    def names(self, names: Names) -> Mapping[Any, str]:
        return naming.names(self._connection, names, self._type_ids)

    def contents(self, items: Sequence[Item]) -> Mapping[Item, bytes | None]:
        return {content.item: content.text for content in self._reading.contents(items)}

    def write(self, accepted: Sequence[Accepted]) -> None:
        self._connection.execute("INSERT INTO kod_applying (one) VALUES (1)")
        self._writing.write(accepted)
        self._connection.execute("DELETE FROM kod_applying")
        self._connection.executemany(  # the sender has what it sends: it was to get an older version
            "DELETE FROM kod_pending WHERE node = ? AND type = ? AND key = ?",
            [(self._sender, self._type_ids[a.item.type], a.item.key) for a in accepted if a.item.type in self._limited],
        )
        kept = self._kept(accepted)
        self._connection.executemany(
            _REGISTER,
            [
                {
                    "type": self._type_ids[one.item.type],
                    "key": one.item.key,
                    "stamp": one.version.stamp,
                    "origin": one.version.origin,
                    "seen": _seen_text(one.seen, one.version.origin),
                    "mark": -1 if self._forward else 0,
                    "source": self._sender,
                    "gone": one.value is None and self._is_object(one.item.type),
                    "kept": kept.get(one.item),
                }
                for one in accepted
            ],
        )
        if self._forward:
            self._mark_again([(one.item, one.version.stamp) for one in accepted])

    def _is_object(self, type_name: str) -> bool:
        item_type = self._structure.types.get(type_name)
        return item_type is None or item_type.is_object

    def _mark_again(self, items: Sequence[tuple[Item, int]]) -> None:
        self._connection.executemany(
            "INSERT INTO kod_log (type, key, at, gone, local) VALUES (?, ?, ?, 0, 0)",
            [(self._type_ids[item.type], item.key, at) for item, at in items],
        )

    def _kept(self, accepted: Sequence[Accepted]) -> dict[Item, str]:
        """What has no column here, as JSON: whole values of types without a table, properties of the others."""
        found: dict[Item, str] = {}
        for one in accepted:
            if one.value is None:
                if not one.write and (spared := self._kept_before(one.item)):  # a deletion that is not carried out
                    found[one.item] = orjson.dumps(spared).decode()
                continue
            writing = self._writing.types.get(one.item.type)
            if writing is None:
                found[one.item] = orjson.dumps(one.value).decode()
                continue
            old = self._kept_before(one.item) if one.existed else {}
            kept = beside.kept(writing.item_type, one.value, old)
            if kept:
                found[one.item] = orjson.dumps(kept).decode()
        return found

    def _kept_before(self, item: Item) -> dict[str, Any]:
        row = self._connection.execute(
            "SELECT kept FROM kod_register WHERE type = ? AND key = ?", (self._type_ids[item.type], item.key)
        ).fetchone()
        return orjson.loads(row[0]) if row and row[0] else {}

    def keep(self, kept: Sequence[Kept]) -> None:
        """A row that was never stamped gets its version, (0, this origin), here."""
        self._connection.executemany(
            "INSERT INTO kod_register (type, key, stamp, origin, seen, mark) "
            "VALUES (?, ?, 0, (SELECT origin FROM kod_node), ?, -1) "
            "ON CONFLICT (type, key) DO UPDATE SET seen = excluded.seen",
            [(self._type_ids[k.item.type], k.item.key, _seen_text(k.seen, "")) for k in kept],
        )

    def answer_back(self, node: str, items: Sequence[Item]) -> None:
        self._connection.executemany(
            "INSERT INTO kod_pending (node, type, key, mark) SELECT :node, g.type, g.key, g.mark FROM kod_register g "
            "WHERE g.type = :type AND g.key = :key AND g.mark > -2 "
            # its turn may be over, and not recorded yet: of what does not go everywhere it went by without the node
            "AND (:limited OR NOT (g.mark > (SELECT position FROM kod_outgoing WHERE node = :node) "
            "AND g.source IS NOT :node)) "
            "ON CONFLICT (node, type, key) DO UPDATE SET mark = excluded.mark",
            [
                {
                    "node": node,
                    "type": self._type_ids[item.type],
                    "key": item.key,
                    "limited": item.type in self._limited,
                }
                for item in items
            ],
        )

    def doubt(self, items: Sequence[Item]) -> None:
        self._connection.executemany(
            "UPDATE kod_register SET source = NULL WHERE type = ? AND key = ? AND source = ?",
            [(self._type_ids[item.type], item.key, self._sender) for item in items],
        )
        self.answer_back(self._sender, items)

    def journal(self, collisions: Sequence[Collision]) -> None:
        self._connection.executemany(
            "INSERT INTO kod_collisions (type, key, winner_stamp, winner_origin, winner_text, loser_stamp, "
            f"loser_origin, loser_text, policy, sender, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {self._now_sql})",
            [
                (
                    *c.item,
                    *c.winner,
                    c.winner_text.decode() if c.winner_text is not None else None,
                    *c.loser,
                    c.loser_text.decode() if c.loser_text is not None else None,
                    c.policy,
                    c.sender,
                )
                for c in collisions
            ],
        )

    def received(self, received: Received) -> None:
        values = {
            "node": received.node,
            "incarnation": received.incarnation,
            "session": received.session,
            "number": received.number,
            "completed": received.session if received.completes else None,
            "position": received.position,
            "counted": int(bool(received.items or received.rejected)),  # end marks are left out
            "items": received.items,
            "rejected": received.rejected,
            "size": received.size_bytes,
            "end_to_end": received.end_to_end_ms,
        }
        self._connection.execute(
            "INSERT INTO kod_incoming (node, incarnation, session, completed, position, messages, items, rejected, "
            "size_bytes, end_to_end_ms) VALUES (:node, :incarnation, :session, :completed, :position, :counted, "
            ":items, :rejected, :size, :end_to_end) "
            "ON CONFLICT (node) DO UPDATE SET incarnation = excluded.incarnation, "
            # what comes late, of an older session, does not bring that one back
            "session = CASE WHEN incarnation IS excluded.incarnation "
            "THEN max(coalesce(session, 0), excluded.session) ELSE excluded.session END, "
            "completed = coalesce(excluded.completed, completed), "
            "position = coalesce(excluded.position, position), messages = messages + excluded.messages, "
            "items = items + excluded.items, rejected = rejected + excluded.rejected, "
            "size_bytes = size_bytes + excluded.size_bytes, "
            "end_to_end_ms = coalesce(excluded.end_to_end_ms, end_to_end_ms)",
            values,
        )
        if received.completes:
            self._connection.execute("DELETE FROM kod_received WHERE node = :node AND session <= :session", values)
        else:
            self._connection.execute("INSERT OR IGNORE INTO kod_received VALUES (:node, :session, :number)", values)

    def park(self, letter: Letter, reason: Reason, items: Sequence[ParkedItem] = (), *, refused: bool = False) -> None:
        parking.park(self._connection, letter, reason, items, self._now_sql, refused=refused)

    def waiting(self) -> Sequence[Waiting]:
        return parking.waiting(self._connection, self._sender)

    def taken(self, values: Mapping[Item, Mapping[str, Any]]) -> Mapping[Item, Sequence[Taken]]:
        return {
            item: self._writing.types[item.type].taken(self._connection, item, value)
            for item, value in values.items()
            if item.type in self._writing.types
        }

    def unpark(self, parked_id: int) -> None:
        parking.unpark(self._connection, parked_id)

    def there(self, items: Sequence[Item]) -> frozenset[Item]:
        return self._reading.existing(items)

    def referred(
        self, items: Sequence[Item], *, besides: Sequence[Item], only_unchecked: bool = False
    ) -> frozenset[Item]:
        wanted = Structure.unchecked_to if only_unchecked else Structure.references_to
        return parking.referred(self._reading, self._connection, self._structure, items, besides, wanted)

    def touch(self, items: Sequence[Item]) -> None:
        self._connection.executemany(
            f"INSERT INTO kod_log (type, key, at, gone, local) VALUES (?, ?, {self._now_sql}, ?, 1)",
            [(self._type_ids[item.type], item.key, self._may_be_gone(item)) for item in items],
        )

    def _may_be_gone(self, item: Item) -> bool:
        """The fold looks whether its row is there."""
        return self._is_object(item.type) and self._structure[item.type].table is not None


def _seen_text(seen: Mapping[str, Stamp], without: str) -> str | None:
    others = {origin: stamp for origin, stamp in seen.items() if origin != without}
    return orjson.dumps(others).decode() if others else None

"""dispatcher.ports.ReceivingView over MariaDB: one transaction (READ COMMITTED).

No lock is waited for: where an application holds one, ConflictError says so, and all of it is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dispatcher.ports import Accepted, Collision, Kept, Letter, Local, ParkedItem, Reason, Received, Taken, Waiting
from node.databases.mariadb import naming, parking
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.folding import fold
from node.databases.mariadb.hooked import hook_tables
from node.databases.mariadb.reading import REGISTERED, Reading, by_type
from node.databases.mariadb.registers import NOW_MS
from node.databases.mariadb.writing import Writing
from node.databases.type_names import TypeNames
from node.databases.ways import WayTables
from schemas.errors import MessageError
from schemas.stamp import Stamp
from schemas.structure import Names, Structure
from serializers import beside
from serializers.keys import Item
from serializers.message import Version

# `mark` -1: has to be marked, and no neighbour but the source is known to have it. An item that was gone is as new.
# The assignments are made one after another: `gone` comes last, the others look at what it was.
_REGISTER = """INSERT INTO kod_register (type, item_key, stamp, origin, seen, mark, source, gone, kept)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON DUPLICATE KEY UPDATE stamp = VALUES(stamp), origin = VALUES(origin), seen = VALUES(seen),
        source = VALUES(source), kept = VALUES(kept), known = IF(gone, NULL, known),
        mark = IF(gone AND NOT VALUES(gone) AND VALUES(mark) < 0, -1, mark), gone = VALUES(gone)"""

_RECEIVED = """INSERT INTO kod_incoming (node, incarnation, session, completed, position, messages, items, rejected,
        size_bytes, end_to_end_ms) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON DUPLICATE KEY UPDATE
        session = IF(incarnation <=> VALUES(incarnation), GREATEST(COALESCE(session, 0), VALUES(session)),
            VALUES(session)),
        incarnation = VALUES(incarnation), completed = COALESCE(VALUES(completed), completed),
        position = COALESCE(VALUES(position), position), messages = messages + VALUES(messages),
        items = items + VALUES(items), rejected = rejected + VALUES(rejected),
        size_bytes = size_bytes + VALUES(size_bytes), end_to_end_ms = COALESCE(VALUES(end_to_end_ms), end_to_end_ms)"""
"""What comes late, of an older session, does not bring that one back."""


class MariadbReceivingView:
    def __init__(
        self,
        connection: Connection,
        structure: Structure,
        reading: Reading,
        writing: Writing,
        type_ids: Mapping[str, int],
        *,
        sender: str,
        forward: bool,
        limited: frozenset[str],
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
        self.folded = False
        self.hooked = hook_tables(connection, type_ids)
        self.ways = WayTables(self.hooked)

    def lock(self, items: Sequence[Item], *, beside: Sequence[Item] = ()) -> Mapping[Item, Local]:
        """`beside` needs no locks of its own: nothing here waits, and a reference that cannot be checked is tried
        again."""
        unknown = sorted({item.type for item in items if item.type not in self._type_ids})
        if unknown:
            raise MessageError(
                f"type {', '.join(unknown)} is not known here", hint="add it to the package and run `kod install`"
            )
        existing = self._lock_rows(items)
        if self._connection.rows("SELECT 1 FROM kod_log WHERE local LIMIT 1"):
            self.folded = fold(self._connection, self._reading, self._type_names).items > 0
        self._note_holder([item for item in items if item.type in self._limited])
        return self._local(items, existing)

    def _lock_rows(self, items: Sequence[Item]) -> frozenset[Item]:
        """Those that have a row; it is locked, with its sections' rows."""
        found: set[Item] = set()
        without_table = []
        for type_name, of_type in by_type(items).items():
            if not self._reading.has_table(type_name):
                without_table += of_type
                continue
            reading = self._reading.ask_typed(type_name, of_type)
            for (n,) in self._connection.rows(f"SELECT k.n FROM {reading.rows} FOR UPDATE"):
                found.add(of_type[n])
            for section, _ in reading.sections:
                self._connection.rows(f"SELECT k.n FROM {reading.source_of_section(section)} FOR UPDATE")
        return frozenset(found) | self._reading.existing(without_table)

    def _note_holder(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.type in self._structure.owning:  # what belongs to an owner that was here has to follow it
                known = (self._type_ids[item.type], item.key.encode())
                self._connection.run(
                    "INSERT INTO kod_rights (type, item_key, follow) SELECT g.type, g.item_key, 1 FROM kod_register g"
                    " WHERE g.type = %s AND g.item_key = %s AND NOT g.gone AND NOT EXISTS (SELECT 1 FROM kod_presence p"
                    " WHERE p.type = g.type AND p.item_key = g.item_key AND p.node = %s)",
                    (*known, self._sender),
                )
        self._connection.many(
            "INSERT INTO kod_presence (node, type, item_key, since) VALUES (%s, %s, %s, 0)"
            " ON DUPLICATE KEY UPDATE since = 0",
            [(self._sender, self._type_ids[item.type], item.key.encode()) for item in items],
        )

    def _local(self, items: Sequence[Item], existing: frozenset[Item]) -> dict[Item, Local]:
        self._reading.ask(items)
        found: dict[Item, Local] = {}
        for n, stamp, origin, seen, mark, source in self._connection.rows(
            f"SELECT k.n, g.stamp, g.origin, g.seen, g.mark, g.source FROM {REGISTERED}"
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
        kept = self._kept(accepted)
        self._connection.run("INSERT INTO kod_applying (connection) VALUES (CONNECTION_ID())")
        self._writing.write(accepted)
        self._connection.run("DELETE FROM kod_applying WHERE connection = CONNECTION_ID()")
        self._connection.many(  # the sender has what it sends: it was to get an older version
            "DELETE FROM kod_pending WHERE node = %s AND type = %s AND item_key = %s",
            [
                (self._sender, self._type_ids[one.item.type], one.item.key.encode())
                for one in accepted
                if one.item.type in self._limited
            ],
        )
        mark = -1 if self._forward else 0
        self._connection.many(
            _REGISTER,
            [
                (
                    self._type_ids[one.item.type],
                    one.item.key.encode(),
                    one.version.stamp,
                    one.version.origin,
                    _seen_text(one.seen, one.version.origin),
                    mark,
                    self._sender,
                    int(one.value is None and self._is_object(one.item.type)),
                    kept.get(one.item),
                )
                for one in accepted
            ],
        )
        if self._forward:
            self._connection.many(
                "INSERT INTO kod_log (type, item_key, at, gone, local) VALUES (%s, %s, %s, 0, 0)",
                [(self._type_ids[one.item.type], one.item.key.encode(), one.version.stamp) for one in accepted],
            )

    def _is_object(self, type_name: str) -> bool:
        item_type = self._structure.types.get(type_name)
        return item_type is None or item_type.is_object

    def _kept(self, accepted: Sequence[Accepted]) -> dict[Item, str]:
        """What has no column here, as JSON: whole values of types without a table, properties of the others."""
        found: dict[Item, str] = {}
        before = self._kept_before([one.item for one in accepted if one.existed or not one.write])
        for one in accepted:
            if one.value is None:
                if not one.write and one.item in before:  # a deletion that is not carried out
                    found[one.item] = orjson.dumps(before[one.item]).decode()
                continue
            writing = self._writing.types.get(one.item.type)
            if writing is None:
                found[one.item] = orjson.dumps(one.value).decode()
                continue
            old = before.get(one.item, {}) if one.existed else {}
            kept = beside.kept(writing.item_type, one.value, old)
            if kept:
                found[one.item] = orjson.dumps(kept).decode()
        return found

    def _kept_before(self, items: Sequence[Item]) -> dict[Item, dict[str, Any]]:
        if not items:
            return {}
        self._reading.ask(items)
        rows = self._connection.rows(f"SELECT k.n, g.kept FROM {REGISTERED} WHERE g.has_kept = 1")
        return {items[n]: orjson.loads(kept) for n, kept in rows}

    def keep(self, kept: Sequence[Kept]) -> None:
        """A row that was never stamped gets its version, (0, this origin), here."""
        (origin,) = self._connection.one("SELECT origin FROM kod_node")
        self._connection.many(
            "INSERT INTO kod_register (type, item_key, stamp, origin, seen, mark) VALUES (%s, %s, 0, %s, %s, -1)"
            " ON DUPLICATE KEY UPDATE seen = VALUES(seen)",
            [(self._type_ids[k.item.type], k.item.key.encode(), origin, _seen_text(k.seen, "")) for k in kept],
        )

    def answer_back(self, node: str, items: Sequence[Item]) -> None:
        for item in items:
            self._connection.run(
                "INSERT INTO kod_pending (node, type, item_key, mark)"
                " SELECT %s, g.type, g.item_key, g.mark FROM kod_register g WHERE g.type = %s AND g.item_key = %s"
                " AND g.mark > -2"
                # its turn may be over, and not recorded yet: of what does not go everywhere it went by without the node
                " AND (%s OR NOT (g.mark > (SELECT position FROM kod_outgoing WHERE node = %s)"
                " AND NOT g.source <=> %s))"
                " ON DUPLICATE KEY UPDATE mark = VALUES(mark)",
                (node, self._type_ids[item.type], item.key.encode(), item.type in self._limited, node, node),
            )

    def doubt(self, items: Sequence[Item]) -> None:
        self._connection.many(
            "UPDATE kod_register SET source = NULL WHERE type = %s AND item_key = %s AND source = %s",
            [(self._type_ids[item.type], item.key.encode(), self._sender) for item in items],
        )
        self.answer_back(self._sender, items)

    def journal(self, collisions: Sequence[Collision]) -> None:
        self._connection.many(
            "INSERT INTO kod_collisions (type, item_key, winner_stamp, winner_origin, winner_text, loser_stamp,"
            " loser_origin, loser_text, policy, sender, at)"
            f" SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {NOW_MS}",
            [
                (
                    c.item.type,
                    c.item.key.encode(),
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
        self._connection.run(
            _RECEIVED,
            (
                received.node,
                received.incarnation,
                received.session,
                received.session if received.completes else None,
                received.position,
                int(bool(received.items or received.rejected)),  # end marks are left out
                received.items,
                received.rejected,
                received.size_bytes,
                received.end_to_end_ms,
            ),
        )
        if received.completes:
            done = (received.node, received.session)
            self._connection.run("DELETE FROM kod_received WHERE node = %s AND session <= %s", done)
        else:
            self._connection.run(
                "INSERT INTO kod_received (node, session, number) VALUES (%s, %s, %s)"
                " ON DUPLICATE KEY UPDATE number = VALUES(number)",
                (received.node, received.session, received.number),
            )

    def park(self, letter: Letter, reason: Reason, items: Sequence[ParkedItem] = (), *, refused: bool = False) -> None:
        parking.park(self._connection, letter, reason, items, refused=refused)

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
        return self._reading.existing(items, locked=True)

    def referred(
        self, items: Sequence[Item], *, besides: Sequence[Item], only_unchecked: bool = False
    ) -> frozenset[Item]:
        wanted = Structure.unchecked_to if only_unchecked else Structure.references_to
        return parking.referred(self._reading, self._connection, self._structure, items, besides, wanted)

    def touch(self, items: Sequence[Item]) -> None:
        self._connection.many(
            f"INSERT INTO kod_log (type, item_key, at, gone, local) SELECT %s, %s, {NOW_MS}, %s, 1",
            [(self._type_ids[item.type], item.key.encode(), self._may_be_gone(item)) for item in items],
        )

    def _may_be_gone(self, item: Item) -> bool:
        """The fold looks whether its row is there."""
        item_type = self._structure[item.type]
        return item_type.is_object and item_type.table is not None


def _seen_text(seen: Mapping[str, Stamp], without: str) -> str | None:
    others = {origin: stamp for origin, stamp in seen.items() if origin != without}
    return orjson.dumps(others).decode() if others else None

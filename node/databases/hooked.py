"""dispatcher.ports.Hooked: what hooks need of a node's database, the same for every dialect.

    held      items that a fault of their own keeps from a neighbour, and why
    owned     by which owners hooks have items go, for the way from an owner to what belongs to it
    deferred  work that hooks have put off: a durable queue

The dialects give the statement's way to the server (`Driver`) and the names of their registers; of their own, these
tables have a column `item_key`, and no other peculiarity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from dispatcher.ports import Change, Deferred, HeldBack, HookFigures, Rows
from schemas.errors import MessageError
from schemas.stamp import Stamp
from serializers.keys import Item

_ENDS = re.compile(r"\s*(begin|start|commit|end|rollback|savepoint|release|abort|prepare\s+transaction)\b", re.I)

RETRY_MS = 30_000
ROWS_AT_ONCE = 200


class Driver(Protocol):
    """A dialect's statements, with parameters `:name`, in the transaction that it stands for."""

    def ours(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """A statement of КОД's own; the rows that it gives."""
        ...

    def theirs(self, sql: str, parameters: Mapping[str, Any], *, stamps: bool) -> Rows:
        """A hook's; dispatcher.ports.Hooked.run."""
        ...


class Names(NamedTuple):
    """A dialect's own."""

    registers: str
    """Before a register's name: `kod_`, `kod.`"""
    key: str
    """The column of a key in the registers."""
    keys_are_bytes: bool = False
    upsert: Literal["ON CONFLICT", "ON DUPLICATE KEY"] = "ON CONFLICT"


class HookTables:
    def __init__(self, driver: Driver, names: Names, type_ids: Mapping[str, int]) -> None:
        self._driver = driver
        self._names = names
        self._type_ids = type_ids

    def run(self, sql: str, parameters: Mapping[str, Any], *, stamps: bool = True) -> Rows:
        if _ENDS.match(sql):
            raise MessageError("a hook neither begins nor ends transactions: all that it does is in its caller's")
        return self._driver.theirs(sql, parameters, stamps=stamps)

    # --- what is held back

    def hold_back(self, node: str, held: Sequence[tuple[Change, str]], now: Stamp) -> None:
        rows = [
            (node, self._type_ids[change.item.type], self._key(change.item.key), change.mark, reason)
            for change, reason in held
        ]
        columns = ("node", "type", "item_key", "mark", "reason", "since", "next_at")
        for some in _portions(rows):
            self._put(
                f"{self._names.registers}held",
                columns,
                ("node", "type", "item_key"),
                ("mark", "reason", "next_at"),
                [(*row, int(now), now + RETRY_MS) for row in some],
            )

    def try_held(self, now: Stamp, *, all_of_them: bool = False) -> int:
        registers, key = self._names.registers, self._names.key
        due = {"due": 2**62 if all_of_them else int(now)}
        same = f"g.type = {registers}held.type AND g.{key} = {registers}held.item_key"
        newest = f"SELECT g.mark FROM {registers}register g WHERE {same}"
        self._run(
            f"DELETE FROM {registers}held WHERE next_at <= :due AND mark <> coalesce(({newest}), -99)",
            due,
        )
        same = f"p.node = h.node AND p.type = h.type AND p.{key} = h.item_key"
        pending = f"SELECT 1 FROM {registers}pending p WHERE {same}"
        self._run(
            f"INSERT INTO {registers}pending (node, type, {key}, mark) SELECT h.node, h.type, h.item_key, h.mark"
            f" FROM {registers}held h WHERE h.next_at <= :due AND NOT EXISTS ({pending})",
            due,
        )
        self._run(
            f"UPDATE {registers}held SET next_at = :later WHERE next_at <= :due", {**due, "later": now + RETRY_MS}
        )
        ((count,),) = self._run(f"SELECT count(*) FROM {registers}held")
        return int(count)

    def let_go(self, node: str, items: Sequence[Item]) -> None:
        for item in items:
            self._run(
                f"DELETE FROM {self._names.registers}held WHERE node = :node AND type = :type AND item_key = :key",
                {"node": node, **self._item(item)},
            )

    def held(self, item: Item | None = None, *, items_max: int = 100) -> Sequence[HeldBack]:
        registers = self._names.registers
        one = "" if item is None else "WHERE h.type = :type AND h.item_key = :key"
        rows = self._run(
            f"SELECT h.node, t.name, h.item_key, h.reason, h.since FROM {registers}held h"
            f" JOIN {registers}types t ON t.id = h.type {one} ORDER BY h.since, h.node, h.item_key LIMIT {items_max:d}",
            {} if item is None else self._item(item),
        )
        return [
            HeldBack(node, Item(name, self._text(key)), reason, Stamp(since)) for node, name, key, reason, since in rows
        ]

    # --- owners

    def note_owners(self, owners: Mapping[Item, Item | None]) -> None:
        table = f"{self._names.registers}owned"
        for item in (item for item, owner in owners.items() if owner is None):
            self._run(f"DELETE FROM {table} WHERE type = :type AND item_key = :key", self._item(item))
        rows = [
            (*self._item(item).values(), *self._item(owner).values())
            for item, owner in owners.items()
            if owner is not None
        ]
        columns = ("type", "item_key", "owner_type", "owner_key")
        for some in _portions(rows):
            self._put(table, columns, columns[:2], columns[2:], some)

    def owned(self, owners: Sequence[Item], *, items_max: int) -> Sequence[Item]:
        found: list[Item] = []
        names = {number: name for name, number in self._type_ids.items()}
        for owner in owners:
            if len(found) >= items_max:
                break
            rows = self._run(
                f"SELECT type, item_key FROM {self._names.registers}owned"
                f" WHERE owner_type = :type AND owner_key = :key LIMIT {items_max:d}",
                self._item(owner),
            )
            found += [Item(names[number], self._text(key)) for number, key in rows if number in names]
        return found

    def routed_by(self, fingerprint: str, types: Sequence[str]) -> bool:
        registers, key = self._names.registers, self._names.key
        ((known,),) = self._run(f"SELECT hooks FROM {registers}node")
        if known == fingerprint:
            return False
        self._run(f"UPDATE {registers}node SET hooks = :hooks", {"hooks": fingerprint})
        for name in types:
            self._run(
                f"INSERT INTO {registers}rights (type, {key}) SELECT t.id, NULL FROM {registers}types t"
                f" WHERE t.id = :type AND EXISTS (SELECT 1 FROM {registers}register g WHERE g.type = t.id)",
                {"type": self._type_ids[name]},
            )
        return True

    # --- work that is put off

    def defer(self, type_name: str, text: str, now: Stamp) -> None:
        self._run(
            f"INSERT INTO {self._names.registers}deferred (type, work, since, attempts, next_at)"
            " VALUES (:type, :work, :since, 0, 0)",
            {"type": type_name, "work": text, "since": int(now)},
        )

    def deferred(self, now: Stamp, *, all_of_them: bool = False, items_max: int = 100) -> Sequence[Deferred]:
        rows = self._run(
            f"SELECT id, type, work, since, attempts, reason FROM {self._names.registers}deferred"
            f" WHERE next_at <= :due ORDER BY id LIMIT {items_max:d}",
            {"due": 2**62 if all_of_them else int(now)},
        )
        return [
            Deferred(number, name, work, Stamp(since), attempts, reason)
            for number, name, work, since, attempts, reason in rows
        ]

    def done(self, deferred_id: int) -> None:
        self._run(f"DELETE FROM {self._names.registers}deferred WHERE id = :id", {"id": deferred_id})

    def failed(self, deferred_id: int, reason: str, next_at: Stamp) -> None:
        self._run(
            f"UPDATE {self._names.registers}deferred SET attempts = attempts + 1, reason = :reason,"
            " next_at = :next WHERE id = :id",
            {"id": deferred_id, "reason": reason, "next": int(next_at)},
        )

    # --- what other registers need

    def nodes_of(self, register: str, link: str, type_name: str, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Keys of a type's items, and their nodes."""
        if type_name not in self._type_ids:
            return []
        asked = {f"k{n}": self._key(key) for n, key in enumerate(keys)}
        rows = self._run(
            f"SELECT item_key, node FROM {self._names.registers}{register} WHERE link = :link AND type = :type"
            f" AND item_key IN ({', '.join(f':{name}' for name in asked)})",
            {"link": link, "type": self._type_ids[type_name], **asked},
        )
        return [(self._text(key), str(node)) for key, node in rows]

    def put_items(self, register: str, columns: Sequence[str], rows: Sequence[tuple[Item, tuple[Any, ...]]]) -> None:
        """New rows: an item, and values of `columns`."""
        values = [(*self._item(item).values(), *others) for item, others in rows if item.type in self._type_ids]
        unique = ("type", "item_key", *columns)
        for some in _portions(values):
            self._put(f"{self._names.registers}{register}", unique, unique, unique[-1:], some)

    def note_rights(self, items: Sequence[Item]) -> None:
        registers, key = self._names.registers, self._names.key
        for item in items:
            self._run(f"INSERT INTO {registers}rights (type, {key}) VALUES (:type, :key)", self._item(item))

    # --- status

    def figures(self) -> HookFigures:
        registers = self._names.registers
        ((held,),) = self._run(f"SELECT count(*) FROM {registers}held")
        first = self._run(f"SELECT reason FROM {registers}held ORDER BY since LIMIT 1") if held else ()
        ((deferred, failing, oldest),) = self._run(
            "SELECT count(*), coalesce(sum(CASE WHEN attempts > 0 THEN 1 ELSE 0 END), 0), min(since)"
            f" FROM {registers}deferred"
        )
        last = (
            self._run(f"SELECT reason FROM {registers}deferred WHERE attempts > 0 ORDER BY next_at DESC LIMIT 1")
            if failing
            else ()
        )
        return HookFigures(
            held=int(held),
            held_reason=first[0][0] if first else None,
            deferred=int(deferred),
            deferred_failing=int(failing),
            deferred_oldest=None if oldest is None else Stamp(oldest),
            deferred_reason=last[0][0] if last else None,
        )

    # --- statements

    def _run(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        return self._driver.ours(sql, parameters or {})

    def _put(
        self,
        table: str,
        columns: Sequence[str],
        unique: Sequence[str],
        changing: Sequence[str],
        rows: Sequence[Sequence[Any]],
    ) -> None:
        values = {f"v{n}_{m}": value for n, row in enumerate(rows) for m, value in enumerate(row)}
        places = ", ".join(f"({', '.join(f':v{n}_{m}' for m in range(len(columns)))})" for n in range(len(rows)))
        if self._names.upsert == "ON CONFLICT":
            sets = ", ".join(f"{column} = excluded.{column}" for column in changing)
            conflict = f"ON CONFLICT ({', '.join(unique)}) DO UPDATE SET {sets}"
        else:
            sets = ", ".join(f"{column} = VALUES({column})" for column in changing)
            conflict = f"ON DUPLICATE KEY UPDATE {sets}"
        self._run(f"INSERT INTO {table} ({', '.join(columns)}) VALUES {places} {conflict}", values)

    def _item(self, item: Item) -> dict[str, Any]:
        return {"type": self._type_ids[item.type], "key": self._key(item.key)}

    def _key(self, key: str) -> str | bytes:
        return key.encode() if self._names.keys_are_bytes else key

    @staticmethod
    def _text(key: str | bytes) -> str:
        return key.decode() if isinstance(key, bytes) else key


def _portions(rows: Sequence[tuple[Any, ...]]) -> Iterable[Sequence[tuple[Any, ...]]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]

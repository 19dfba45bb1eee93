"""Hooks as the flow asks for them: dispatcher.hooks.Hooks, and their step of dispatcher.turning.

Here is where a hook's errors, and what it must not give back, become a MessageError that names it.
"""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import orjson

from dispatcher.hooks import Found, Side
from dispatcher.ports import Accepted, Clock, Content, Hooked, NodeView, ReceivingView, SendingView
from dispatcher.turning import Batch, Turnable
from node.hooks import Change, Collision, Hooks, Key, Value, Version
from node.hooks.loading import Loaded, line_within, overrides, place
from schemas.errors import ConflictError, KodError, MessageError, UnavailableError
from schemas.stamp import Stamp, digits
from schemas.structure import ItemType, Structure
from serializers.keys import Item, key_of, key_value

_READS = re.compile(r"[\s(]*(select|with|values|table|show|explain|pragma)\b", re.IGNORECASE)


class HookError(MessageError):
    """A hook raised, or gave back what it must not."""


class Database:
    """`db`, as node.hooks describes it: of a hook that reads, that writes, and that applies."""

    def __init__(self, hooked: Callable[[], Hooked], node: str) -> None:
        self._hooked = hooked
        self.node = node

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        if not _READS.match(sql):
            raise MessageError("`query` only reads", hint="`execute` writes, where a hook may")
        found = self._hooked().run(sql, parameters)
        return [dict(zip(found.names, row, strict=True)) for row in found.rows]


class WritingDatabase(Database):
    def execute(self, sql: str, /, **parameters: Any) -> int:
        return self._hooked().run(sql, parameters).changed

    def execute_unstamped(self, sql: str, /, **parameters: Any) -> int:
        return self._hooked().run(sql, parameters, stamps=False).changed


class ApplyingDatabase(WritingDatabase):
    def __init__(self, hooked: Hooked, node: str, sender: str, put_off: Callable[[Any], None]) -> None:
        super().__init__(lambda: hooked, node)
        self.sender = sender
        self.defer = put_off


class Written(NamedTuple):
    """An item that is being applied, as its hooks see it."""

    type: str
    change: Change


class BoundHooks:
    """The hooks of a node."""

    def __init__(self, loaded: Loaded, structure: Structure, node: NodeView, clock: Clock) -> None:
        self._loaded = loaded
        self._structure = structure
        self._node = node.code
        self._nodes = frozenset((node.code, *node.towards, *node.neighbours))
        self._clock = clock
        self._known = {name: hooks for name, hooks in loaded.by_type.items() if name in structure.types}
        with_table = {name for name in self._known if structure[name].table is not None}
        self.owner = self._overriding("owner", self._known)
        self.addressees = self._overriding("addressees", self._known)
        # a type without a table here is passed on as it came: whoever has one turns it
        self.outgoing_types = self._overriding("on_write_to_message", with_table)
        self.incoming_types = self._overriding("on_read_from_message", with_table)
        self.unlike = self.outgoing_types | self.incoming_types
        self._before = self._overriding("before_write", with_table)
        self._after = self._overriding("on_message_applied", with_table)
        self.writes = self._before | self._after
        self.defers = self._overriding("deferred", self._known)
        self.settles = self._overriding("settle_collision", with_table)

    def _overriding(self, name: str, types: Iterable[str]) -> frozenset[str]:
        return frozenset(type_name for type_name in types if overrides(self._known[type_name], name))

    @property
    def routes(self) -> list[str]:
        """Types whose way hooks decide on."""
        return sorted(self.owner | self.addressees)

    # --- where items go

    def owners(self, view: SendingView, items: Sequence[Item]) -> Found:
        return self._of_each(view, items, "owner", self._owner)

    def nodes(self, view: SendingView, items: Sequence[Item]) -> Found:
        return self._of_each(view, items, "addressees", self._seen_at)

    def _of_each(
        self, view: SendingView, items: Sequence[Item], name: str, ask: Callable[[Hooks, Value, Database], Any]
    ) -> Found:
        db = Database(lambda: view.hooked, self._node)
        found: dict[Item, Any] = {}
        faults: dict[Item, str] = {}
        for item, text in list(view.contents(items)):
            if text is None:
                continue
            try:
                with self._guarded(item.type, name):
                    found[item] = ask(self._known[item.type], orjson.loads(text), db)
            except HookError as error:
                faults[item] = error.text
        return Found(found, faults)

    def _owner(self, hooks: Hooks, value: Value, db: Database) -> Item | None:
        key = hooks.owner(value, db)
        if key is None:
            return None
        if not isinstance(key, Key):
            raise TypeError(f"it gave {_kind(key)}, and has to give a Key or None")
        if key.type not in self._structure.types:
            raise ValueError(f"there is no type {key.type!r}")
        return Item(key.type, key_of(self._structure[key.type], _plain(dict(key.properties))))

    def _seen_at(self, hooks: Hooks, value: Value, db: Database) -> frozenset[str]:
        nodes = hooks.addressees(value, db)
        if isinstance(nodes, str) or not isinstance(nodes, Iterable):
            raise TypeError(f"it gave {_kind(nodes)}, and has to give the codes of nodes")
        found = frozenset(nodes)
        strange = sorted(map(repr, found - self._nodes))
        if strange:
            raise ValueError(f"{', '.join(strange)} is no node of this network")
        return found

    # --- on the way

    def write_to_message(self, view: SendingView, item_type: ItemType, one: Turnable, db: Database) -> None:
        with self._guarded(item_type.name, "on_write_to_message"):
            one.value = self._turned(item_type, one.value, self._known[item_type.name].on_write_to_message, db)

    def read_from_message(self, view: ReceivingView, item_type: ItemType, one: Turnable, db: Database) -> None:
        with self._guarded(item_type.name, "on_read_from_message"):
            one.value = self._turned(item_type, one.value, self._known[item_type.name].on_read_from_message, db)

    def _turned(
        self, item_type: ItemType, value: Value, turn: Callable[[Value, Database], Value], db: Database
    ) -> Value:
        key = key_of(item_type, value)
        result = _value(turn(value, db))
        if key_of(item_type, result) != key:
            raise ValueError("it changed the key")
        return result

    def database(self, view: SendingView | ReceivingView) -> Database:
        return Database(lambda: view.hooked, self._node)

    # --- when it arrives

    def before_write(self, view: ReceivingView, sender: str, accepted: Sequence[Accepted]) -> Sequence[Written]:
        here = view.contents([one.item for one in accepted if one.existed])
        written = [Written(one.item.type, self._change(one, here.get(one.item))) for one in accepted]
        for type_name, change in written:
            if type_name in self._before:
                with self._guarded(type_name, "before_write"):
                    before: Callable[..., Any] = self._known[type_name].before_write
                    if (given := before(change, self._applying(view, sender, type_name))) is not None:
                        raise TypeError(f"it gave {_kind(given)}: it cannot change the item, only let it be or raise")
        return written

    def _change(self, one: Accepted, before: bytes | None) -> Change:
        return Change(
            key=key_value(self._structure[one.item.type], one.item.key),
            value=None if one.value is None else orjson.loads(orjson.dumps(one.value)),
            before=None if before is None else orjson.loads(before),
            node=one.version.origin.partition(".")[0],
        )

    def applied(self, view: ReceivingView, sender: str, written: Sequence[Written]) -> None:
        for type_name, some in groupby(sorted(written, key=lambda one: one.type), key=lambda one: one.type):
            if type_name in self._after:
                with self._guarded(type_name, "on_message_applied"):
                    self._known[type_name].on_message_applied(
                        [one.change for one in some], self._applying(view, sender, type_name)
                    )

    def _applying(self, view: ReceivingView, sender: str, type_name: str) -> ApplyingDatabase:
        def put_off(work: Any) -> None:
            if type_name not in self.defers:
                raise TypeError(f"{type_name} has no hook `deferred` to put work off to")
            view.hooked.defer(type_name, orjson.dumps(work, default=_lexical).decode(), self._clock.now())

        return ApplyingDatabase(view.hooked, self._node, sender, put_off)

    def settle(
        self, view: ReceivingView, sender: str, item: Item, ours: Side, theirs: Side
    ) -> Mapping[str, Any] | None:
        item_type = self._structure[item.type]
        collision = Collision(key_value(item_type, item.key), _version(ours), _version(theirs))
        with self._guarded(item.type, "settle_collision"):
            given = self._known[item.type].settle_collision(collision, self._applying(view, sender, item.type))
            if given is None:
                return None
            result = _value(given)
            if key_of(item_type, result) != item.key:
                raise ValueError("it changed the key")
            known = {*(ours.value or {}), *(theirs.value or {})}
            if strange := sorted(result.keys() - known):
                raise ValueError(f"neither version has {', '.join(strange)}")
            return result

    def work(self, hooked: Callable[[], Hooked], type_name: str, text: str) -> None:
        if type_name not in self.defers:
            raise MessageError(f"{type_name} has no hook `deferred` any more", hint="put it back into the hooks")
        with self._guarded(type_name, "deferred"):
            self._known[type_name].deferred(orjson.loads(text), WritingDatabase(hooked, self._node))

    # --- what was there before

    def dates(
        self, type_name: str, contents: Iterable[Content], view: Hooked
    ) -> Iterator[tuple[str, Stamp | None, str]]:
        """Of each item its key, the moment that its hook gives, and why it gives none."""
        db = Database(lambda: view, self._node)
        for item, text in contents:
            if text is None:
                continue
            try:
                with self._guarded(type_name, "date"):
                    yield item.key, _moment(self._known[type_name].date(orjson.loads(text), db)), ""
            except HookError as error:
                yield item.key, None, error.text

    # --- errors

    @contextmanager
    def _guarded(self, type_name: str, name: str) -> Iterator[None]:
        try:
            yield
        except (ConflictError, UnavailableError):
            raise
        except (Exception, SystemExit) as error:
            line = line_within(self._loaded.path, error)
            where = place(self._loaded.path, line) if line is not None else self._loaded.where(type_name, name)
            what = error.text if isinstance(error, KodError) else f"{type(error).__name__}: {error}"
            raise HookError(f"hook {type_name}.{name} ({where}): {what}") from error


class HookStep:
    """The hooks on an item's way between the node's form and the wire's."""

    def __init__(self, hooks: BoundHooks) -> None:
        self._hooks = hooks

    @cached_property
    def types(self) -> frozenset[str]:
        return self._hooks.outgoing_types | self._hooks.incoming_types

    def outgoing(self, view: SendingView, batch: Batch) -> None:
        if batch.item_type.name in self._hooks.outgoing_types:
            db = self._hooks.database(view)
            for one in batch.living:
                try:
                    self._hooks.write_to_message(view, batch.item_type, one, db)
                except HookError as error:
                    one.fault = error.text

    def incoming(self, view: ReceivingView, batch: Batch) -> None:
        if batch.item_type.name in self._hooks.incoming_types:
            db = self._hooks.database(view)
            for one in batch.living:
                self._hooks.read_from_message(view, batch.item_type, one, db)


def _version(side: Side) -> Version:
    value = None if side.value is None else dict(side.value)
    return Version(value, digits(side.version.stamp), side.version.origin.partition(".")[0])


def _value(given: Any) -> Value:
    """What a hook gave as an item's value, as JSON has it."""
    if not isinstance(given, dict):
        raise TypeError(f"it gave {_kind(given)}, and has to give the item's value, a dict")
    plain: Value = _plain(given)
    return plain


def _plain(given: Any) -> Any:
    return orjson.loads(orjson.dumps(given, default=_lexical))


def _lexical(value: Any) -> Any:
    """What rows of a query have and JSON has not, in XML's form. (Dates and moments orjson writes itself.)"""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(f"{_kind(value)} cannot travel")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _moment(given: Any) -> Stamp | None:
    if given is None:
        return None
    if isinstance(given, str):
        given = datetime.datetime.fromisoformat(given)
    if isinstance(given, datetime.date) and not isinstance(given, datetime.datetime):
        given = datetime.datetime.combine(given, datetime.time())
    if not isinstance(given, datetime.datetime):
        raise TypeError(f"it gave {_kind(given)}, and has to give a moment, a date or their text")
    utc = given if given.tzinfo is not None else given.replace(tzinfo=datetime.UTC)
    return Stamp(max(0, int(utc.timestamp() * 1000)))

"""Turning: items between this node's own form and the wire's, where no SQL made at compile time can do it.

    capture -> [ select -> review -> read -> TURN -> complete -> group -> split -> publish ]     own form -> wire's
    publish … bus … -> receive -> [ TURN -> settle -> apply ]                                     wire's -> own form

A row of steps, each for the types that it concerns: in their order on the way out, in the reverse order on the way in,
so that a step meets on its way in what it left on its way out. Steps work on Python values, some items of one type at a
time. Items of other types stay the text that the database made of them, and pay nothing.

Keys, references, digests, collisions, the journal and parked items are in the node's own form, messages in the wire's.

What cannot be turned is at fault by itself. On its way out that item is held, nothing else; on its way in its message
is parked, since a message is applied whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import orjson

from dispatcher.ports import Content, ReceivingView, SendingView
from schemas.errors import MessageError
from schemas.structure import ItemType, Structure
from serializers.keys import Item, key_value
from serializers.message import Incoming, Message

ITEMS_AT_ONCE = 200
"""Items that are values in memory at once, on the way out."""


@dataclass(slots=True)
class Turnable:
    """An item on its way through the steps. The value is its own: a step may change it, or put another in its place."""

    value: dict[str, Any]
    """As `#value` has it; of a deletion the key's properties, as in `#deleted`."""
    gone: bool = False
    item: Item | None = None
    """On its way out, as the registers have it. On its way in its key is not known before all steps are through."""
    fault: str | None = None
    """Set by a step: why it cannot be turned, and which step says so. Later steps do not get it."""


class Batch(NamedTuple):
    """Items of one type, in the order in which they travel."""

    item_type: ItemType
    items: Sequence[Turnable]

    @property
    def living(self) -> list[Turnable]:
        """Those that have a value, and not only a key."""
        return [one for one in self.items if not one.gone]


class Step(Protocol):
    """One kind of turning. Whatever is wrong with an item becomes its `fault`; a MessageError is one of all of them."""

    @property
    def types(self) -> frozenset[str]:
        """Those that it concerns."""
        ...

    def outgoing(self, view: SendingView, batch: Batch) -> None:
        """Own form -> wire's, in the snapshot that the values were read in."""
        ...

    def incoming(self, view: ReceivingView, batch: Batch) -> None:
        """Wire's -> own form, in the transaction of the message, before anything of it is locked. May be asked again
        for the same items: when a transaction is tried again, and of what is parked."""
        ...


class Outgoing(NamedTuple):
    """What became of a content on its way out: its text, of a deletion that of its key; or why it is held."""

    text: bytes
    fault: str | None = None


class Turning:
    """The steps of a node."""

    def __init__(self, structure: Structure, steps: Iterable[Step] = ()) -> None:
        self._structure = structure
        self._steps = [step for step in steps if step.types]

    @cached_property
    def types(self) -> frozenset[str]:
        """Types with a step; the others need not come here."""
        return frozenset(name for step in self._steps for name in step.types if name in self._structure.types)

    @cached_property
    def _named(self) -> dict[str, str]:
        """All names under which items of these types arrive, old ones too, and what the types are called here."""
        old = {old: name for old, name in self._structure.formerly.items() if name in self.types}
        return old | {name: name for name in self.types}

    def outgoing(self, view: SendingView, contents: Sequence[Content]) -> list[Outgoing]:
        """For each content, in their order; a text of None is a deletion."""
        turnables = [self._turnable(content) if content.item.type in self.types else None for content in contents]
        for batch in self._batches((content.item.type, one) for content, one in zip(contents, turnables, strict=True)):
            for step in self._steps:
                if batch.item_type.name in step.types:
                    batch = _without_faults(batch)
                    try:
                        step.outgoing(view, batch)
                    except MessageError as error:
                        for one in batch.items:
                            one.fault = _in_words(error)
        return [self._turned(content, one) for content, one in zip(contents, turnables, strict=True)]

    def incoming(self, view: ReceivingView, message: Message) -> Message:
        """The message in this node's own form; the one given stays as it is.

        Raises MessageError where an item cannot be turned.
        """
        named = self._named
        if named.keys().isdisjoint(item.type for item in message.items):
            return message
        turnables = [_copied(item) if item.type in named else None for item in message.items]
        typed = ((named[item.type], one) for item, one in zip(message.items, turnables, strict=True) if one is not None)
        for batch in self._batches(typed):
            for step in reversed(self._steps):
                if batch.item_type.name in step.types:
                    step.incoming(view, batch)
                    if faults := [one.fault for one in batch.items if one.fault is not None]:
                        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
                        raise MessageError(faults[0] + more)
        items = (_replaced(item, one) for item, one in zip(message.items, turnables, strict=True))
        return Message(message.header, tuple(items))

    def incoming_as_far(self, view: ReceivingView, message: Message) -> Message:
        """As `incoming`, without the items of the types that cannot be turned."""
        try:
            return self.incoming(view, message)
        except MessageError:
            return Message(message.header, tuple(item for item in message.items if item.type not in self._named))

    def _batches(self, typed: Iterable[tuple[str, Turnable | None]]) -> list[Batch]:
        by_type: dict[str, list[Turnable]] = {}
        for name, one in typed:
            if one is not None:
                by_type.setdefault(name, []).append(one)
        return [Batch(self._structure[name], its) for name, its in by_type.items()]

    def _turnable(self, content: Content) -> Turnable:
        if content.text is None:
            return Turnable(self._key(content.item), gone=True, item=content.item)
        return Turnable(orjson.loads(content.text), item=content.item)

    def _turned(self, content: Content, turned: Turnable | None) -> Outgoing:
        if turned is not None:
            return Outgoing(b"", turned.fault) if turned.fault is not None else Outgoing(orjson.dumps(turned.value))
        return Outgoing(orjson.dumps(self._key(content.item)) if content.text is None else content.text)

    def _key(self, item: Item) -> dict[str, Any]:
        return key_value(self._structure[item.type], item.key)


def _without_faults(batch: Batch) -> Batch:
    return Batch(batch.item_type, [one for one in batch.items if one.fault is None])


def _in_words(error: MessageError) -> str:
    return error.text + (f" (try: {error.hint})" if error.hint else "")


def _copied(item: Incoming) -> Turnable:
    value: Mapping[str, Any] = (item.deleted if item.value is None else item.value) or {}
    return Turnable(orjson.loads(orjson.dumps(value)), gone=item.value is None)


def _replaced(item: Incoming, turned: Turnable | None) -> Incoming:
    if turned is None:
        return item
    return item._replace(deleted=turned.value) if turned.gone else item._replace(value=turned.value)

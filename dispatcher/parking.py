"""Parking: what cannot be applied waits here, whole, with its reason, and blocks nothing else.

    receive -> settle -> apply
                   \\-> PARK -> tried again when something else was applied, and from time to time

A message waits for what it refers to, for an upgrade, or for a person. A newer state of its items heals it by itself:
tried again, they are repeats. A deletion that something here still refers to waits until what may free it is applied;
then the reference wins, and the node that holds the reference writes the item again (correctness.md).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from dispatcher.applying import apply
from dispatcher.events import event
from dispatcher.ports import Clock, NodeView, Parked, Store
from dispatcher.review import limited_from
from schemas.errors import ConflictError, MessageError
from schemas.structure import Structure
from serializers.keys import key_text
from serializers.message import Incoming, Message, Version, read_message

log = logging.getLogger(__name__)

RETRY_S = 30.0
FORCE_ATTEMPTS = 20
"""After so many attempts a blocked deletion no longer waits for other parked messages that may free it."""


class Parking:
    """The messages of a node that wait, of all its links. Safe to use from several threads."""

    def __init__(self, node: NodeView, structure: Structure, store: Store, clock: Clock) -> None:
        self._node = node
        self._structure = structure
        self._store = store
        self._clock = clock
        self._turn = threading.Lock()
        self._next_retry = 0
        self._due = True
        """Something was applied since the last retry, or nobody has looked yet."""
        self._catching_up: set[str] = set()
        """Neighbours whose sessions do not bring everything in order: what frees a deletion may still come."""
        self._waiting = True
        """There may be parked messages."""

    def added(self) -> None:
        self._waiting = True

    def catching_up(self, node: str, catching_up: bool) -> None:
        (self._catching_up.add if catching_up else self._catching_up.discard)(node)

    def applied(self) -> None:
        """Something was applied: what waits may have waited for it."""
        self._due = True

    def retry(self) -> bool:
        """Tries what waits, if there is any and it is time; whether anything was applied."""
        if not self._waiting or not (self._due or self._clock.now() >= self._next_retry):
            return False
        with self._turn:
            self._due = False
            self._next_retry = self._clock.now() + int(RETRY_S * 1000)
            return self._retry()

    def _retry(self) -> bool:
        parked = list(self._store.parked())
        self._waiting = bool(parked)
        moved = False
        progress = bool(parked)
        while progress:
            left = [one for one in parked if not self._try([one])]
            progress = len(left) < len(parked)
            moved |= progress
            parked = left
        for node in dict.fromkeys(one.node for one in parked):
            moved |= self._last_resort([one for one in parked if one.node == node])
        if moved:
            self._due = True  # what was applied may free others
        return moved

    def _last_resort(self, parked: Sequence[Parked]) -> bool:
        """One by one nothing of the link goes: all in one transaction; and where a deletion stands against a
        reference, the reference wins, once nothing else of the link waits that may take the reference away."""
        if len(parked) > 1 and self._try(parked):
            return True
        items = {one.id: self._items(one) for one in parked}
        newest: dict[tuple[str, str], Version] = {}
        for key, item in (pair for pairs in items.values() for pair in pairs):
            newest[key] = max(item.version, newest.get(key, item.version))
        changing = [
            one.id
            for one in parked
            if any(item.value is not None and item.version == newest[key] for key, item in items[one.id])
        ]
        deleting = [one for one in parked if any(item.value is None for _, item in items[one.id])]
        if parked[0].node in self._catching_up:
            return False
        ripe = [one for one in deleting if one.attempts >= FORCE_ATTEMPTS or not set(changing) - {one.id}]
        return any(self._try([one], reference_wins=True) for one in ripe)

    def _items(self, parked: Parked) -> list[tuple[tuple[str, str], Incoming]]:
        try:
            return [(self._key_of(item), item) for item in read_message(parked.payload).items]
        except MessageError:
            return []

    def _try(self, parked: Sequence[Parked], *, reference_wins: bool = False) -> bool:
        """Applies them in one transaction; whether that could be done."""
        sender = parked[0].node
        limited = limited_from(sender, self._node, self._structure)
        try:
            messages = [read_message(one.payload) for one in parked]
            message = _joined(messages, self._key_of)
            incarnation = self._store.incoming(sender).incarnation or 0
            proves = all(one.header.incarnation >= incarnation for one in messages)
            with self._store.receiving(sender, forward=self._node.forwards, limited=limited) as view:
                apply(
                    message,
                    view,
                    self._node,
                    self._structure,
                    self._store.origin,
                    reference_wins=reference_wins,
                    proves=proves,
                )
                for one in parked:
                    view.unpark(one.id)
        except ConflictError:
            self._due = True
            return False
        except MessageError as error:
            if len(parked) == 1:
                self._store.parked_again(parked[0].id, error.text)
            return False
        for one in parked:
            event(log, logging.INFO, "parked message applied", node=sender, message=one.name)
        return True

    def _key_of(self, item: Incoming) -> tuple[str, str]:
        value = (item.deleted if item.value is None else item.value) or {}
        item_type = self._structure.types.get(item.type)
        source = value.get("Filter", value) if item_type is not None and not item_type.is_object else value
        names = item_type.key_names if item_type is not None else ()
        return item.type, key_text([source.get(name) for name in names])


def _joined(messages: Sequence[Message], key_of: Callable[[Incoming], tuple[str, str]]) -> Message:
    """Several messages as one; of an item that is in more than one of them, the newest version."""
    if len(messages) == 1:
        return messages[0]
    newest: dict[tuple[str, str], Incoming] = {}
    for message in messages:
        for item in message.items:
            key = key_of(item)
            if key not in newest or newest[key].version < item.version:
                newest[key] = item
    return Message(messages[-1].header, tuple(newest.values()))

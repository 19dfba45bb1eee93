"""Items that wait in a node's parked messages, for `kod explain` and `kod compare`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

from dispatcher import kinds
from dispatcher.ports import ReceivingView, SendingView
from dispatcher.turning import Turning
from node.databases import Database, Story
from schemas.errors import MessageError
from schemas.stamp import digits
from schemas.structure import Structure
from serializers.keys import Item, key_of
from serializers.message import Incoming, Message, Version, read_message


class Waiting(NamedTuple):
    """A version of an item in a message that is parked at `node`."""

    node: str
    id: int
    sender: str
    reason: str
    version: Version

    def is_new_to(self, story: Story) -> bool:
        """Whether the node would learn anything by it: it neither has the version nor has seen it."""
        known = dict(story.seen or {})
        if story.stamp is not None and story.origin is not None:
            known[story.origin] = max(story.stamp, known.get(story.origin, story.stamp))
        return known.get(self.version.origin, -1) < self.version.stamp

    def as_dict(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "id": self.id,
            "from": self.sender,
            "reason": self.reason,
            "stamp": digits(self.version.stamp),
        }


def waiting_items(code: str, database: Database, structure: Structure) -> Mapping[Item, Sequence[Waiting]]:
    """What is in the messages that are parked at a node. A message that cannot be read names no items."""
    found: dict[Item, list[Waiting]] = defaultdict(list)
    waiting = database.parked()
    turning = Turning(structure, kinds.steps(structure))
    with database.looking(structure) if waiting and turning.types else nullcontext() as view:
        for parked in waiting:
            try:
                message = read_message(parked.payload)
            except MessageError:
                continue
            for incoming in message.items:
                item = _item(incoming, message, structure, turning, view)
                if item is not None:
                    one = Waiting(code, parked.id, parked.node, parked.reason, incoming.version)
                    found[item].append(one)
    return found


def _item(
    incoming: Incoming, message: Message, structure: Structure, turning: Turning, view: SendingView | None
) -> Item | None:
    """With the key that it has here; that of the wire where there is none (a predefined item without counterpart)."""
    alone = Message(message.header, (incoming,))
    own = turning.incoming_as_far(cast(ReceivingView, view), alone).items if view is not None else (incoming,)
    for one in own or (incoming,):
        value = one.deleted if one.value is None else one.value
        try:
            if (item_type := structure.named(one.type)) is None:  # perhaps why it waits
                return None
            return Item(item_type.name, key_of(item_type, value or {}, on_wire=True))
        except MessageError:  # a strange key: perhaps why it waits
            return None
    return None

"""Items that wait in a node's parked messages, for `kod explain` and `kod compare`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from node.databases import Database, Story
from schemas.errors import MessageError
from schemas.stamp import digits
from schemas.structure import Structure
from serializers.keys import Item, key_of
from serializers.message import Version, read_message


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
    for parked in database.parked():
        try:
            items = read_message(parked.payload).items
        except MessageError:
            continue
        for item in items:
            value = item.deleted if item.value is None else item.value
            item_type = structure.named(item.type)
            try:
                key = key_of(item_type, value or {}) if item_type is not None else None
            except MessageError:
                key = None
            if item_type is None or key is None:  # perhaps why it waits
                continue
            found[Item(item_type.name, key)].append(Waiting(code, parked.id, parked.node, parked.reason, item.version))
    return found

"""The story of one item, for `kod explain`: its version, where it goes and by which rule, and where it waits.

Says what review (dispatcher.review) decides, with reasons; it reads and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.review import limited_types
from node.databases import Database, Story
from node.waiting import waiting_items
from schemas.network import Network
from schemas.stamp import digits
from schemas.structure import ItemType, Routing, Structure
from serializers.keys import Item, written


def explain(network: Network, code: str, database: Database, structure: Structure, item: Item) -> dict[str, Any]:
    """The story as JSON; `addressees` has for each neighbour the rule, and how far the item is with it;
    `parked` the messages with it that could not be applied here yet."""
    item_type = structure[item.type]
    story = database.story(item)
    links = database.figures().links
    parent = network.topology.parent(code)
    parked = waiting_items(code, database, structure).get(item, ())
    return {
        "node": code,
        "type": item.type,
        "key": written([f.prop for f in item_type.key], item.key),
        "exists": story.exists,
        "deleted": story.gone,
        "stamp": digits(story.stamp) if story.stamp is not None else None,
        "origin": story.origin,
        "seen": {origin: digits(stamp) for origin, stamp in (story.seen or {}).items()},
        "came_from": story.source,
        "waits_for_review": story.waiting_in_log,
        "parked": [waiting.as_dict() for waiting in parked],
        "addressees": [
            {
                "node": neighbour,
                "rule": _rule(neighbour, parent, item_type, structure, story),
                "state": _state(neighbour, story, links.get(neighbour, {})),
            }
            for neighbour in network.topology.neighbours(code)
        ],
    }


def _rule(neighbour: str, parent: str | None, item_type: ItemType, structure: Structure, story: Story) -> str:
    if neighbour == story.source:
        return "it came from there: not sent back"
    if neighbour == parent:
        return "everything goes to the parent"
    if item_type.routing is Routing.REFERENCE_DATA:
        return "reference data goes to every node"
    if item_type.name not in limited_types(structure):
        return "it goes where its owner goes, and that is everywhere"
    if neighbour in story.holders:
        return "that node holds it, so it is kept up to date"
    owner = item_type.owner_reference
    if item_type.routing is Routing.DEPENDENT and owner is not None:
        return f"it goes where its owner ({owner.target} in {', '.join(owner.columns)}) goes"
    if item_type.access:
        return f"it goes where {item_type.access} says that it is to be seen"
    return "independent, without access: it goes to the parent alone"


def _state(neighbour: str, story: Story, link: Mapping[str, Any]) -> str:
    if story.waiting_in_log:
        return "waits for review"
    if story.stamp is None:
        return "has no stamp: it was there before КОД, and has not changed since" if story.exists else "unknown here"
    if neighbour in story.pending_for:
        return "waits to be sent out of turn"
    if neighbour == story.source:
        return "has it: it came from there"
    if neighbour in story.ahead_of:
        return "was sent ahead of its turn"
    if story.mark > int(link.get("position") or 0):
        return "waits to be sent" + (f" (the link stands still: {link['fault']})" if link.get("fault") else "")
    if story.mark == 0:
        return "is not to be sent: it was applied when there was nobody to pass it on to"
    return "reviewed: sent if it goes there"

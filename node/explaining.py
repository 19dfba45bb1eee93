"""The story of one item, for `kod explain`: its version, where it goes and by which rule, and where it waits.

Says what review (dispatcher.review) decides, with reasons; it reads and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.ports import Change, History, NodeView
from dispatcher.review import Facts, facts_of, limited_types
from node.databases import Database, Held, Story
from node.histories import everything_since
from node.service import node_view
from node.waiting import waiting_items
from schemas.network import Network
from schemas.stamp import EARLIEST, digits
from schemas.structure import ItemType, Routing, Structure
from serializers.keys import Item, written
from serializers.message import Version


def explain(network: Network, code: str, database: Database, structure: Structure, item: Item) -> dict[str, Any]:
    """The story as JSON; `addressees` has for each neighbour the rule, and how far the item is with it;
    `parked` the messages with it that could not be applied here yet."""
    item_type = structure[item.type]
    story = database.story(item)
    figures = database.figures()
    links = figures.links
    histories = {one.node: one for one in figures.histories if one.state == "open" and one.joins}
    node = node_view(network.topology, code)
    facts = _facts(database, structure, item, story)
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
                "rule": _rule(neighbour, node, item, structure, story, facts),
                "state": _state(neighbour, story, links.get(neighbour, {}), histories.get(neighbour)),
                **_held(story.holders.get(neighbour)),
            }
            for neighbour in node.neighbours
        ],
    }


def _facts(database: Database, structure: Structure, item: Item, story: Story) -> Facts:
    version = Version(story.stamp or EARLIEST, story.origin or "")
    change = Change(item, version, None, story.mark, story.source, story.gone)
    with database.looking(structure) as view:
        return facts_of([change], view, structure, limited_types(structure))


def _held(held: Held | None) -> dict[str, Any]:
    """Since which session, and by what, a neighbour holds an item that does not go everywhere."""
    if held is None:
        return {"held_since": None, "held_by": None}
    if held.since == 0:
        return {"held_since": None, "held_by": "received"}
    return {"held_since": digits(held.since) if held.since is not None else None, "held_by": "sent"}


def _rule(neighbour: str, node: NodeView, item: Item, structure: Structure, story: Story, facts: Facts) -> str:
    item_type = structure[item.type]
    if neighbour == story.source:
        return "it came from there: not sent back"
    if neighbour == node.parent:
        return "everything goes to the parent"
    if item_type.routing is Routing.REFERENCE_DATA:
        return "reference data goes to every node"
    if item_type.name not in limited_types(structure):
        return "it goes where its owner goes, and that is everywhere"
    return (
        _right(neighbour, node, item, structure, facts)
        or _owner(neighbour, node, item, structure, facts)
        or _holding(story.holders.get(neighbour))
        or f"not there: {_where(item_type)}"
    )


def _right(neighbour: str, node: NodeView, item: Item, structure: Structure, facts: Facts) -> str:
    seen_at = sorted(n for n in facts.access.get(item, ()) if node.towards.get(n) == neighbour)
    return f"{structure[item.type].access} says that it is to be seen at {', '.join(seen_at)}" if seen_at else ""


def _owner(neighbour: str, node: NodeView, item: Item, structure: Structure, facts: Facts) -> str:
    """The nearest owner that goes there, over any number of levels."""
    step, passed = facts.owners.get(item), {item}
    while step is not None and step not in passed:
        passed.add(step)
        name = f"it goes with its owner {step.type} {written([f.prop for f in structure[step.type].key], step.key)}"
        if step.type not in limited_types(structure):
            return f"{name}, which goes to every node"
        if right := _right(neighbour, node, step, structure, facts):
            return f"{name}: {right}"
        if neighbour in facts.holders.get(step, ()):
            return f"{name}, which that node holds"
        step = facts.owners.get(step)
    return ""


def _holding(held: Held | None) -> str:
    if held is None:
        return ""
    if held.since == 0:
        return "it came from there once, so it is kept up to date there"
    since = f" since session {digits(held.since)}" if held.since is not None else ""
    drawn = f"drawn by a reference of {held.drawn_by}: " if held.drawn_by else ""
    return f"{drawn}that node holds it{since}, so it is kept up to date"


def _where(item_type: ItemType) -> str:
    owner = item_type.owner_reference
    if item_type.routing is Routing.DEPENDENT and owner is not None:
        return f"it goes where its owner ({owner.target} in {', '.join(owner.columns)}) goes"
    if item_type.access:
        return f"it goes where {item_type.access} says that it is to be seen"
    return "independent, without access: it goes to the parent alone"


def _state(neighbour: str, story: Story, link: Mapping[str, Any], history: History | None) -> str:
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
    if history is not None and story.mark <= int(link.get("position") or 0):
        since = everything_since(history)
        if since is None or story.stamp < since:
            return (
                f"goes by history, from fresh to old (kod history --list): {history.passed} of {history.total} passed"
            )
    if story.mark > int(link.get("position") or 0):
        return "waits to be sent" + (f" (the link stands still: {link['fault']})" if link.get("fault") else "")
    if story.mark == 0:
        return "is not to be sent: it was applied when there was nobody to pass it on to"
    return "reviewed: sent if it goes there"

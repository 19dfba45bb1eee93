"""The story of one item, for `kod explain`: its version, where it goes and by which rule, and where it waits.

Says what review (dispatcher.review) decides, with reasons; it reads and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import orjson

from dispatcher.manifest import Went
from dispatcher.ports import Change, Figures, NodeView
from dispatcher.review import Facts, facts_of, fault_of, limited_types
from node.clock import SystemClock
from node.databases import Database, Held, Story
from node.histories import everything_since
from node.hooks.bound import BoundHooks
from node.opened import hooks_of, open_node
from node.service import node_view
from node.waiting import waiting_items
from schemas.errors import ConfigError, UnavailableError
from schemas.network import Network
from schemas.stamp import EARLIEST, Stamp, digits
from schemas.structure import ItemType, Routing, Structure
from serializers.keys import Item, written
from serializers.message import Version, message_name

NODES_AT_ONCE = 8
"""Neighbours' databases that are asked side by side."""


def explain(network: Network, code: str, database: Database, structure: Structure, item: Item) -> dict[str, Any]:
    """The story as JSON; `addressees` has for each neighbour the rule, how far the item is with it, and with which
    message it went; `parked` the messages with it that could not be applied here yet, `parked_there` those at the
    neighbour, null where its database cannot be reached from here."""
    item_type = structure[item.type]
    story = database.story(item)
    figures = database.figures()
    node = node_view(network.topology, code)
    hooks = BoundHooks(hooks_of(network, code), structure, node, SystemClock())
    facts, held = _facts(database, structure, item, story, hooks)
    rules = {n: _rule(n, node, item, structure, story, facts, hooks) for n in node.neighbours}
    concerned = [n for n in node.neighbours if rules[n] is not None and n != story.source]
    there = _parked_there(network, item, concerned) if story.stamp is not None else {}
    parked = waiting_items(code, database, structure).get(item, ())
    return {
        "node": code,
        "type": item.type,
        "key": written([f.prop for f in item_type.key], item.key),
        **_predefined(database, structure, item),
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
                "rule": rules[neighbour] or f"not there: {_where(item_type, hooks)}",
                "state": f"held: {held[neighbour]}"
                if neighbour in held
                else _state(code, neighbour, story, figures, goes=rules[neighbour] is not None),
                "sent": _sent(code, neighbour, story.went.get(neighbour)),
                "parked_there": there.get(neighbour),
                **_held(story.holders.get(neighbour)),
            }
            for neighbour in node.neighbours
        ],
    }


def _predefined(database: Database, structure: Structure, item: Item) -> dict[str, Any]:
    """The name by which the other nodes know an item that has a key of its own at each."""
    names = structure[item.type].predefined
    if names is None:
        return {}
    with database.looking(structure) as view:
        return {"predefined": view.names(names).get(orjson.loads(item.key)[0])}


def _facts(
    database: Database, structure: Structure, item: Item, story: Story, hooks: BoundHooks
) -> tuple[Facts, dict[str, str]]:
    """What review has to know of the item, and by neighbour why it is held back."""
    version = Version(story.stamp or EARLIEST, story.origin or "")
    change = Change(item, version, None, story.mark, story.source, story.gone)
    with database.looking(structure) as view:
        facts = facts_of([change], view, structure, limited_types(structure), hooks)
        return facts, {one.node: one.reason for one in view.hooked.held(item)}


def _held(held: Held | None) -> dict[str, Any]:
    """Since which session, and by what, a neighbour holds an item that does not go everywhere."""
    if held is None:
        return {"held_since": None, "held_by": None}
    if held.since == 0:
        return {"held_since": None, "held_by": "received"}
    return {"held_since": digits(held.since) if held.since is not None else None, "held_by": "sent"}


def _parked_there(network: Network, item: Item, nodes: Sequence[str]) -> dict[str, list[dict[str, Any]] | None]:
    """What waits in a neighbour's own parked messages."""

    def ask(node: str) -> list[dict[str, Any]] | None:
        try:
            database, structure = open_node(network, node)
            with closing(database):
                found = waiting_items(node, database, structure).get(item, ()) if item.type in structure.types else ()
        except (UnavailableError, ConfigError):
            return None
        return [waiting.as_dict() for waiting in found]

    with ThreadPoolExecutor(NODES_AT_ONCE) as executor:
        return dict(zip(nodes, executor.map(ask, nodes), strict=True))


def _sent(code: str, neighbour: str, went: Went | None) -> dict[str, Any] | None:
    """The session, which is the moment at which it began, and the message with which this version went."""
    if went is None:
        return None
    session = Stamp(went.session)
    return {
        "session": digits(session),
        "number": went.number,
        "message": message_name(code, neighbour, session, went.number),
    }


def _rule(
    neighbour: str,
    node: NodeView,
    item: Item,
    structure: Structure,
    story: Story,
    facts: Facts,
    hooks: BoundHooks,
) -> str | None:
    """None where it does not go."""
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
        _right(neighbour, node, item, structure, facts, hooks)
        or _owner(neighbour, node, item, structure, facts, hooks)
        or _holding(story.holders.get(neighbour))
        or _undecided(item, facts)
        or None
    )


def _right(neighbour: str, node: NodeView, item: Item, structure: Structure, facts: Facts, hooks: BoundHooks) -> str:
    seen_at = sorted(n for n in facts.access.get(item, ()) if node.towards.get(n) == neighbour)
    by = structure[item.type].access
    if item.type in hooks.addressees:
        by = f"the hook {item.type}.addressees"
    return f"{by} says that it is to be seen at {', '.join(seen_at)}" if seen_at else ""


def _undecided(item: Item, facts: Facts) -> str:
    fault = fault_of(item, facts)
    return f"not decided: {fault}" if fault is not None else ""


def _owner(neighbour: str, node: NodeView, item: Item, structure: Structure, facts: Facts, hooks: BoundHooks) -> str:
    """The nearest owner that goes there, over any number of levels."""
    step, passed = facts.owners.get(item), {item}
    said_by = f" (so says the hook {item.type}.owner)" if item.type in hooks.owner else ""
    while step is not None and step not in passed:
        passed.add(step)
        key = written([f.prop for f in structure[step.type].key], step.key)
        name = f"it goes with its owner {step.type} {key}{said_by}"
        if step.type not in limited_types(structure):
            return f"{name}, which goes to every node"
        if right := _right(neighbour, node, step, structure, facts, hooks):
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


def _where(item_type: ItemType, hooks: BoundHooks) -> str:
    if item_type.name in hooks.owner:
        return f"it goes where its owner goes, which the hook {item_type.name}.owner tells"
    if item_type.name in hooks.addressees:
        return f"it goes where the hook {item_type.name}.addressees says that it is to be seen"
    owner = item_type.owner_reference
    if item_type.routing is Routing.DEPENDENT and owner is not None:
        return f"it goes where its owner ({owner.target} in {', '.join(owner.columns)}) goes"
    if item_type.access:
        return f"it goes where {item_type.access} says that it is to be seen"
    return "independent, without access: it goes to the parent alone"


def _state(code: str, neighbour: str, story: Story, figures: Figures, *, goes: bool) -> str:
    """Where the item is on its way to a neighbour."""
    link = figures.links.get(neighbour, {})
    position = int(link.get("position") or 0)
    if story.waiting_in_log:
        return "waits for review"
    if story.stamp is None:
        return "has no stamp: it was there before КОД, and has not changed since" if story.exists else "unknown here"
    if neighbour in story.pending_for:
        return "waits to be sent out of turn"
    if neighbour == story.source:
        return "has it: it came from there"
    if not goes:
        return "does not go there"
    went = _went(code, neighbour, story)
    if neighbour in story.ahead_of:
        return f"was sent ahead of its turn{went}"
    if story.mark < -1:
        return "was there before КОД, and waits for its turn since it was stamped: from fresh to old (kod status)"
    if story.mark > position:
        return f"waits to be sent: its mark is {story.mark}, the link has been served up to {position}"
    return _by_history(neighbour, story, figures, position) or (f"sent{went}" if went else _sent_long_ago(story))


def _went(code: str, neighbour: str, story: Story) -> str:
    sent = _sent(code, neighbour, story.went.get(neighbour))
    return f" in session {sent['session']}, message {sent['message']}" if sent else ""


def _by_history(neighbour: str, story: Story, figures: Figures, position: int) -> str | None:
    """What an open cursor still comes to; what has no mark, and was brought by one whose sessions are forgotten."""
    of_all = [one for one in figures.histories if one.node == neighbour and one.type is None and one.down_to is None]
    for one in of_all:
        since = everything_since(one)
        ahead = since is None or (story.stamp is not None and story.stamp < since)
        if one.state == "open" and one.joins and story.mark <= position and ahead:
            return f"goes by history, from fresh to old (kod history --list): {one.passed} of {one.total} passed"
    if story.mark <= 0 and neighbour not in story.went and any(one.state == "done" for one in of_all):
        return "was brought by history, in a session that is not remembered any more"
    return None


def _sent_long_ago(story: Story) -> str:
    if story.mark <= 0:
        return (
            "has no mark, so it waits for nothing: it goes with what refers to it, when it changes, or by kod history"
        )
    return "sent, in a session that is not remembered any more"

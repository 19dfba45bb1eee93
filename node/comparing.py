"""Whether two nodes have the same: digests over the properties that both have, and what is still on its way.

A difference is on its way where the two sides have different versions and the newer one still waits: in a log, behind
a link's position, in its pending items, or on the bus. One that a parked message would change waits, and is told apart.
Everything else that differs is a difference.

Where hooks turn values on their way, two nodes agree where one has what the hooks make of the other's, in either
direction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import orjson

from dispatcher import kinds
from dispatcher.ports import Content, ReceivingView, SendingView
from dispatcher.review import everywhere
from dispatcher.turning import ITEMS_AT_ONCE, Turning
from node.clock import SystemClock
from node.databases import Database, Story
from node.hooks.bound import BoundHooks, HookStep
from node.opened import hooks_of, open_node
from node.service import node_view
from node.status import backlogs
from node.waiting import Waiting, waiting_items
from schemas.errors import MessageError, UnavailableError
from schemas.network import Network
from schemas.stamp import EARLIEST
from schemas.structure import ItemType, Structure
from schemas.topology import Topology
from serializers.digest import digest, same
from serializers.keys import Item, key_of, written
from serializers.message import Header, Incoming, Message, Version


@dataclass(frozen=True, slots=True)
class Difference:
    """An item that the two nodes have differently. `only_at` names the node that alone has it."""

    item: Item
    own: tuple[Item, ...]
    """As each of the two knows it: predefined items have keys of the node's own."""
    written_key: str
    only_at: str | None
    on_its_way: bool
    stamps: Mapping[str, int | None]
    parked: tuple[Waiting, ...] = ()
    """Versions that one of the two has not got yet, in messages that are parked there."""

    def as_dict(self) -> dict[str, Any]:
        from schemas.stamp import Stamp, digits

        return {
            "type": self.item.type,
            "key": self.written_key,
            "only_at": self.only_at,
            "stamps": {n: None if s is None else digits(Stamp(s)) for n, s in self.stamps.items()},
            **({"parked": [waiting.as_dict() for waiting in self.parked]} if self.parked else {}),
        }


@dataclass
class Comparison:
    items: int = 0
    """Items that both should have and that were compared."""
    per_type: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Types that were not compared, and why."""
    repaired: int = 0

    @property
    def lasting(self) -> list[Difference]:
        return [d for d in self.differences if not d.on_its_way and not d.parked]

    @property
    def on_their_way(self) -> list[Difference]:
        return [d for d in self.differences if d.on_its_way and not d.parked]

    @property
    def parked(self) -> list[Difference]:
        return [d for d in self.differences if d.parked]


@dataclass(frozen=True)
class _Side:
    code: str
    database: Database
    structure: Structure
    hooks: BoundHooks

    @cached_property
    def turning(self) -> Turning:
        """As a daemon turns items on their way."""
        return Turning(self.structure, [HookStep(self.hooks), *kinds.steps(self.structure)])


def compare(
    network: Network, one: str, other: str, only_type: str | None = None, *, repair: bool = False
) -> Comparison:
    """Compares what both nodes should have. Raises UnavailableError unless both databases can be reached."""
    with ExitStack() as stack:
        sides = []
        for code in (one, other):
            database, structure = open_node(network, code)
            stack.enter_context(closing(database))
            hooks = BoundHooks(hooks_of(network, code), structure, node_view(network.topology, code), SystemClock())
            sides.append(_Side(code, database, structure, hooks))
        comparison = Comparison()
        moving = _Moving(network, sides)
        for name in sides[0].structure.types.keys() | sides[1].structure.types.keys():
            if only_type is None or name == only_type:
                _compare_type(comparison, name, sides, moving)
        comparison.differences.sort(key=lambda d: d.item)
        if repair:
            comparison.repaired = _repair(comparison.lasting, sides, network)
        return comparison


def _compare_type(comparison: Comparison, name: str, sides: list[_Side], moving: _Moving) -> None:
    types = [side.structure.types.get(name) for side in sides]
    reason = next(
        (f"node {s.code} takes no part in it" for s, t in zip(sides, types, strict=True) if not t or not t.table), None
    )
    if reason:
        comparison.left_out[name] = reason
        return
    first, second = types
    assert first is not None
    assert second is not None
    on_wire = first.on_wire is not None or second.on_wire is not None
    shown = [t.on_wire or t if on_wire else t for t in (first, second)]
    common = _common(*shown)
    own_keys: list[dict[str, str]] = [{}, {}]
    digests: list[dict[str, str]] = [{}, {}]
    for number, (side, t) in enumerate(zip(sides, shown, strict=True)):
        for content, own_key in _contents(side, name, t):
            found = _digest(t, content.text, common)
            if found is not None:
                digests[number][content.item.key] = found
                own_keys[number][content.item.key] = own_key
    keys = digests[0].keys() | digests[1].keys()
    if name not in everywhere(sides[0].structure):
        topology = moving.network.topology
        keys = {key for key in keys if _meant_for_both(Item(name, key), digests, sides, topology)}
    different = [key for key in keys if digests[0].get(key) != digests[1].get(key)]
    if any(name in side.hooks.unlike for side in sides):
        at_both = [key for key in different if all(key in of_side for of_side in digests)]
        pairs = [[Item(name, its[key]) for key in at_both] for its in own_keys]
        alike = {key for key, is_alike in zip(at_both, _turned_alike(sides, *pairs), strict=True) if is_alike}
        different = [key for key in different if key not in alike]
    comparison.items += len(keys)
    comparison.per_type[name] = len(keys)
    for key in different:
        present = [key in of_side for of_side in digests]
        only_at = None if all(present) else sides[present.index(True)].code
        own = [Item(name, its.get(key, key)) for its in own_keys]
        comparison.differences.append(_difference(Item(name, key), own, shown[0], only_at, sides, moving))


def _common(one: ItemType, other: ItemType) -> frozenset[str]:
    """The properties and sections that both nodes hold."""

    def held(t: ItemType) -> set[str]:
        sections = {f"{s.name}.{f.name}" for s in t.sections for f in s.fields if f.column}
        return {f.name for f in t.held} | {s.name for s in t.sections} | sections

    return frozenset(held(one) & held(other))


def _limited(value: Mapping[str, Any], common: frozenset[str], *, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, inner in value.items():
        if f"{prefix}{name}" not in common:
            continue
        rows = isinstance(inner, list)
        found[name] = [_limited(row, common, prefix=f"{name}.") for row in inner] if rows else inner
    return found


def _shown(value: Mapping[str, Any], item_type: ItemType, common: frozenset[str]) -> dict[str, Any]:
    """A value without what only one side has."""
    if item_type.is_object:
        return _limited(value, common)
    records = [_limited(record, common) for record in value.get("Records", [])]
    return {"Filter": value.get("Filter", {}), "Records": records}


def _digest(item_type: ItemType, text: bytes | None, common: frozenset[str]) -> str | None:
    if text is None:
        return None
    value = _shown(orjson.loads(text), item_type, common)
    if not item_type.is_object and not value["Records"]:
        return None  # an empty set is as good as none
    return digest(item_type, value)


def _meant_for_both(item: Item, digests: list[dict[str, str]], sides: list[_Side], topology: Topology) -> bool:
    """Whether the node that lacks an item should have it: it is above the other one, to which everything goes, or it
    knows the item, since what a node once had is kept up to date there for ever."""
    lacking = [side for side, found in zip(sides, digests, strict=True) if item.key not in found]
    if not lacking:
        return True
    (holder,) = [side.code for side in sides if side is not lacking[0]]
    return _is_above(lacking[0].code, holder, topology) or _known(lacking[0].database.story(item))


def _is_above(code: str, other: str, topology: Topology) -> bool:
    step: str | None = topology.parent(other)
    while step is not None and step != code:
        step = topology.parent(step)
    return step is not None


def _known(story: Story) -> bool:
    return story.exists or story.stamp is not None


def _contents(side: _Side, name: str, shown: ItemType) -> Iterable[tuple[Content, str]]:
    """The items of a type as both can be compared, each with its key at this node: in the wire's form, where that is
    another one."""
    turning = Turning(side.structure, kinds.steps(side.structure))
    if name not in turning.types:
        yield from ((content, content.item.key) for content in side.database.contents(side.structure, name))
        return
    with side.database.looking(side.structure) as view:
        for some in batched(side.database.contents(side.structure, name), ITEMS_AT_ONCE):
            for content, turned in zip(some, turning.outgoing(view, some), strict=True):
                if turned.fault is None:  # what cannot be sent from here the other one cannot have
                    item = Item(name, key_of(shown, orjson.loads(turned.text), on_wire=True))
                    yield Content(item, turned.text), content.item.key
                else:
                    yield content, content.item.key


def _turned_alike(sides: Sequence[_Side], ones: Sequence[Item], others: Sequence[Item]) -> Iterator[bool]:
    """For items that both nodes have: whether one has what hooks make of the other's."""
    one, other = sides
    with one.database.looking(one.structure) as view, other.database.looking(other.structure) as other_view:
        for start in range(0, len(ones), ITEMS_AT_ONCE):
            its = list(view.contents(ones[start : start + ITEMS_AT_ONCE]))
            theirs = list(other_view.contents(others[start : start + ITEMS_AT_ONCE]))
            there = _arrives(one, view, its, other, other_view, theirs)
            back = _arrives(other, other_view, theirs, one, view, its)
            yield from (either[0] or either[1] for either in zip(there, back, strict=True))


def _arrives(
    sender: _Side,
    view: SendingView,
    sent: Sequence[Content],
    receiver: _Side,
    its_view: SendingView,
    held: Sequence[Content],
) -> Iterator[bool]:
    """For each item, whether the receiver has what it would write if the sender's came now."""
    header = Header(sender.code, receiver.code, 0, EARLIEST, 1)
    for content, outgoing, own in zip(sent, sender.turning.outgoing(view, sent), held, strict=True):
        if content.text is None or own.text is None or outgoing.fault is not None:
            yield False
            continue
        name = content.item.type
        incoming = Incoming(name, Version(EARLIEST, ""), {}, orjson.loads(outgoing.text), None)
        try:
            arrived = receiver.turning.incoming(cast(ReceivingView, its_view), Message(header, (incoming,)))
        except MessageError:
            yield False
        else:
            yield same(receiver.structure[name], arrived.items[0].value, orjson.loads(own.text))


def batched(contents: Iterable[Content], size: int) -> Iterator[list[Content]]:
    some: list[Content] = []
    for content in contents:
        some.append(content)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _difference(
    item: Item, own: Sequence[Item], item_type: ItemType, only_at: str | None, sides: list[_Side], moving: _Moving
) -> Difference:
    stories = [side.database.story(one) for side, one in zip(sides, own, strict=True)]
    parked = tuple(
        waiting
        for waits, story, one in zip(moving.parked, stories, own, strict=True)
        for waiting in waits.get(one, ())
        if waiting.is_new_to(story)
    )
    return Difference(
        item=item,
        own=tuple(own),
        written_key=written([f.prop for f in item_type.key], item.key),
        only_at=only_at,
        on_its_way=not parked and moving.on_its_way(stories),
        stamps={side.code: story.stamp for side, story in zip(sides, stories, strict=True)},
        parked=parked,
    )


class _Moving:
    """What may still be on its way between two nodes."""

    def __init__(self, network: Network, sides: list[_Side]) -> None:
        self.sides = sides
        one, other = (side.code for side in sides)
        topology = network.topology
        self.towards = [topology.towards(one, other), topology.towards(other, one)]
        self.network = network
        self.parked = [waiting_items(side.code, side.database, side.structure) for side in sides]
        figures = [side.database.figures() for side in sides]
        self.positions = [one.links for one in figures]
        self.histories = [{h.node for h in one.histories if h.state == "open"} for one in figures]
        self._between: bool | None = None

    def on_its_way(self, stories: list[Story]) -> bool:
        """Whether a version that one of them lacks waits at its side, or something is on the links between."""
        waits = any(self._waits(story, number) for number, story in enumerate(stories))
        same = (stories[0].stamp, stories[0].origin) == (stories[1].stamp, stories[1].origin)
        return waits or (not same and self.between)

    def _waits(self, story: Story, number: int) -> bool:
        neighbour = self.towards[number]
        if story.waiting_in_log or neighbour in story.pending_for:
            return True
        if neighbour is None or story.source == neighbour:
            return False
        if (neighbour in self.histories[number] and story.stamp is not None) or story.mark < -1:
            return True  # it goes by history, or since it was stamped
        return story.mark > int(self.positions[number].get(neighbour, {}).get("position") or 0)

    @property
    def between(self) -> bool:
        """Whether anything lies on the bus, or waits at a node, on the way between the two."""
        if self._between is None:
            self._between = any(self._busy(code) for code in self._way())
        return self._between

    def _way(self) -> Iterable[str]:
        step: str | None = self.sides[0].code
        while step is not None:
            yield step
            step = self.network.topology.towards(step, self.sides[1].code)

    def _busy(self, code: str) -> bool:
        try:
            database, structure = open_node(self.network, code)
            with closing(database):
                at_an_end = code in (side.code for side in self.sides)
                figures = database.figures()
                waiting = 0 if at_an_end else figures.items_waiting
                queues = backlogs(self.network, code, database, structure, figures)
        except UnavailableError:
            return True  # nobody can say: then nothing is proven lost
        return waiting > 0 or any(queue.messages for queue in queues.values())


def _repair(differences: list[Difference], sides: list[_Side], network: Network) -> int:
    """What lastingly differs becomes a new version of the node that has the newer one (the parent's side of two
    equal ones), and so goes out again."""
    lists: dict[str, list[Item]] = {side.code: [] for side in sides}
    for difference in differences:
        better = _better(difference, sides, network)
        place = [side.code for side in sides].index(better)
        lists[better].append(difference.own[place])
    for side in sides:
        if lists[side.code]:
            side.database.stamp_again(lists[side.code])
    return sum(map(len, lists.values()))


def _better(difference: Difference, sides: list[_Side], network: Network) -> str:
    one, other = (side.code for side in sides)
    stamps = [difference.stamps[one] or -1, difference.stamps[other] or -1]
    if stamps[0] != stamps[1]:
        return one if stamps[0] > stamps[1] else other
    if difference.only_at is not None:
        return difference.only_at
    return one if network.topology.towards(other, one) == network.topology.parent(other) else other

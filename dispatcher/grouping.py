"""Grouping: what refers to each other goes in one message, because a message is applied in one transaction.

    capture -> [ select -> review -> complete -> GROUP -> split -> publish ] -> receive

A group too large for a message is cut along the order of its references into successive phases, which become
successive sessions; only what refers in a circle stays together (where that is more than the bus takes in one message,
it travels in parts). Deletions come last, children before parents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from schemas.graph import circles
from serializers.keys import Item


class Group(NamedTuple):
    """Items that must be applied in one transaction, and how large they are."""

    items: tuple[Item, ...]
    size_bytes: int


Phase = list[Group]
"""Groups that may be applied in parallel, once the phase before is applied."""


@dataclass(frozen=True, slots=True)
class Limits:
    items_max: int
    bytes_max: int

    def hold(self, items: int, size_bytes: int) -> bool:
        return items <= self.items_max and size_bytes <= self.bytes_max


def group(
    items: Sequence[Item],
    ties: Sequence[tuple[Item, Item]],
    sizes: Mapping[Item, int],
    limits: Limits,
    *,
    gone: frozenset[Item] = frozenset(),
    rank: Callable[[str], int] = lambda _: 0,
    exclusive: frozenset[str] = frozenset(),
) -> list[Phase]:
    """Phases of groups. `ties` are (item, target it refers to), both among `items`.

    `gone` are deletions: they form the last phases. Only where a type has unique values (`exclusive`) and both
    deletions and other changes of it are here, they share a message if it is large enough: a value may pass from one
    item to the other.
    """
    living = [item for item in items if item not in gone]
    tied = _tie_exclusive(items, gone, exclusive)
    targets: dict[Item, list[Item]] = {}
    for item, target in ties:
        targets.setdefault(item, []).append(target)
    phases: list[Phase] = [[]]
    together: set[Item] = set()
    for members in _components([*living, *(i for i in items if i in gone and i in tied)], [*ties, *tied.items()]):
        if len(members) == 1 and members[0] not in gone:  # most are
            phases[0].append(Group((members[0],), sizes[members[0]]))
            continue
        size = sum(sizes[item] for item in members)
        if limits.hold(len(members), size) or not any(i in gone for i in members):
            together.update(i for i in members if i in gone)
            _add(phases, members, targets, sizes, limits, size)
        else:  # values cannot be passed on within one message: the deletions follow in their own
            _add_cut(phases, [i for i in members if i not in gone], targets, sizes, limits)
    deletions = [item for item in items if item in gone and item not in together]
    return [phase for phase in (*phases, *_deletion_phases(deletions, sizes, limits, rank)) if phase]


def _tie_exclusive(items: Sequence[Item], gone: frozenset[Item], exclusive: frozenset[str]) -> dict[Item, Item]:
    """Ties every change of an exclusive type that also has deletions to one of these deletions."""
    hubs: dict[str, Item] = {}
    living = {item.type for item in items if item not in gone}
    for item in items:
        if item in gone and item.type in exclusive and item.type in living:
            hubs.setdefault(item.type, item)
    return {item: hubs[item.type] for item in items if item.type in hubs}


def _add(
    phases: list[Phase],
    members: list[Item],
    targets: Mapping[Item, Sequence[Item]],
    sizes: Mapping[Item, int],
    limits: Limits,
    size: int,
) -> None:
    if limits.hold(len(members), size) or len(members) == 1:
        phases[0].append(Group(tuple(members), size))
    else:
        _add_cut(phases, members, targets, sizes, limits)


def _components(items: Sequence[Item], ties: Sequence[tuple[Item, Item]]) -> list[list[Item]]:
    """Union-find; components and their members in the order of `items`."""
    leader: dict[Item, Item] = {}

    def find(item: Item) -> Item:
        while (above := leader.get(item, item)) != item:
            leader[item] = leader.get(above, above)  # path halving
            item = above
        return item

    known = set(items)
    for item, target in ties:
        if item in known and target in known:
            a, b = find(item), find(target)
            if a != b:
                leader[a] = b
    if not leader:
        return [[item] for item in items]
    tied = {*leader, *leader.values()}
    members: dict[Item, list[Item]] = {}
    for item in items:
        if item in tied:
            members.setdefault(find(item), []).append(item)
        else:
            members[item] = [item]
    return list(members.values())


@dataclass(slots=True)
class _Draft:
    """A group that is being filled, and the phase that it goes in."""

    phase: int
    items: list[Item] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, items: Sequence[Item], size_bytes: int) -> None:
        self.items.extend(items)
        self.size_bytes += size_bytes


def _add_cut(
    phases: list[Phase],
    members: Sequence[Item],
    targets: Mapping[Item, Sequence[Item]],
    sizes: Mapping[Item, int],
    limits: Limits,
) -> None:
    """Cuts a tie that is too large, along the order of its references: a circle joins the group of what it refers to
    while that has room, and else goes in a phase after it. A circle itself stays together, however large."""
    inside = set(members)
    tied = {item: [t for t in targets.get(item, ()) if t in inside and t != item] for item in members}
    drafts: list[_Draft] = []
    draft_of: dict[Item, _Draft] = {}
    for circle in circles(tied):  # targets come first
        size = sum(sizes[item] for item in circle)
        draft = _joined(circle, size, tied, draft_of, limits)
        if not draft.items:
            drafts.append(draft)
        draft.add(circle, size)
        draft_of.update(dict.fromkeys(circle, draft))
    for draft in drafts:
        phases.extend([] for _ in range(draft.phase + 1 - len(phases)))
        phases[draft.phase].append(Group(tuple(draft.items), draft.size_bytes))


def _joined(
    circle: Sequence[Item],
    size: int,
    tied: Mapping[Item, Sequence[Item]],
    draft_of: Mapping[Item, _Draft],
    limits: Limits,
) -> _Draft:
    """The draft that the circle goes in: that of the latest of what it refers to, or a new one after it."""
    last: _Draft | None = None
    several = False
    for item in circle:
        for target in tied[item]:
            draft = draft_of.get(target)  # none: in this circle
            if draft is None or draft is last:
                continue
            if last is None or draft.phase > last.phase:
                last, several = draft, False
            elif draft.phase == last.phase:
                several = True
    if last is None:
        return _Draft(0)
    has_room = limits.hold(len(last.items) + len(circle), last.size_bytes + size)
    return last if has_room and not several else _Draft(last.phase + 1)


def _deletion_phases(
    deletions: Sequence[Item], sizes: Mapping[Item, int], limits: Limits, rank: Callable[[str], int]
) -> list[Phase]:
    """One message with all deletions, or, where that is too large, one for each rank: the highest rank first.

    What is gone cannot be asked any more what it referred to, so deletions of one rank stay together.
    """
    if not deletions:
        return []
    ordered = sorted(deletions, key=lambda item: -rank(item.type))
    size = sum(sizes[item] for item in ordered)
    if limits.hold(len(ordered), size):
        return [[Group(tuple(ordered), size)]]
    return [
        [Group(tuple(members), sum(sizes[i] for i in members))]
        for members in (list(run) for _, run in groupby(ordered, key=lambda item: rank(item.type)))
    ]

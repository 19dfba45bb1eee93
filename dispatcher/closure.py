"""Closure over references, "control of referential integrity": what an addressee needs besides the changes.

    capture -> [ select -> review -> COMPLETE -> group -> split -> publish ] -> receive

With the items go those that they refer to, unless the addressee is known to have them; repeated until nothing new
appears, so that no reference is broken at any node at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dispatcher.ports import Change, Tie
from serializers.keys import Item


@dataclass(frozen=True, slots=True)
class Completed:
    """`drawn` are the items that references drew in; `ties` all references (item, target) among what goes."""

    drawn: tuple[Change, ...]
    ties: tuple[tuple[Item, Item], ...]


def complete(
    items: Sequence[Item], ties_of: Callable[[Sequence[Item]], Iterable[Tie]], *, had_by: frozenset[str]
) -> Completed:
    """`ties_of` gives the references to items that the addressees are not known to have; what came from one of them
    (`had_by`, all of one class) they have."""
    going = set(items)
    drawn: list[Change] = []
    ties: list[tuple[Item, Item]] = []
    step: Sequence[Item] = items
    while step:
        new: list[Item] = []
        for tie in ties_of(step):
            target = tie.target
            if target.source in had_by:
                continue
            if target.item not in going:
                going.add(target.item)
                drawn.append(target)
                new.append(target.item)
            if target.item != tie.item:
                ties.append((tie.item, target.item))
        step = new
    return Completed(tuple(drawn), tuple(ties))

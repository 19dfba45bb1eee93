"""Review: to which neighbours each changed item goes.

    capture -> [ select -> REVIEW -> complete -> group -> split -> publish ] -> receive

The rules, in this order (system.md, Sending): (1) from a child everything goes to the parent; (2) reference data
goes to every node; (3.1) independent data goes to the nodes whose users have rights to it; (3.2) dependent data goes
where its owner goes; (4) what was once sent to a node is sent to it again for ever. Not back to where the version
came from. A right of any node in a child's subtree addresses that child.

`facts_of` asks the database, set by set; `review` decides and touches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from dispatcher.hooks import NO_HOOKS, Hooks
from dispatcher.ports import Change, NodeView, SendingView
from schemas.structure import ItemType, Routing, Structure
from serializers.keys import Item


@dataclass(frozen=True, slots=True)
class Facts:
    """What review has to know of items whose way depends on more than their type."""

    owners: Mapping[Item, Item | None] = field(default_factory=dict)
    access: Mapping[Item, frozenset[str]] = field(default_factory=dict)
    holders: Mapping[Item, frozenset[str]] = field(default_factory=dict)
    faults: Mapping[Item, str] = field(default_factory=dict)
    """Items of which hooks could not tell their owner, or where they are to be seen, and why."""


def everywhere(structure: Structure) -> frozenset[str]:
    """Types that go to every child: reference data, and what always has such an owner."""
    found = {t.name for t in structure.types.values() if t.routing is Routing.REFERENCE_DATA}
    grown = True
    while grown:
        more = {t.name for t in structure.types.values() if t.name not in found and _always_owned_by(t, found)}
        grown = bool(more)
        found |= more
    return frozenset(found)


def _always_owned_by(item_type: ItemType, types: set[str]) -> bool:
    owner = item_type.owner_reference
    if item_type.routing is not Routing.DEPENDENT or owner is None or owner.target not in types:
        return False
    columns = {f.column.name: f.column for f in item_type.held if f.column}
    return all(c in columns and not columns[c].nullable for c in owner.columns)


def limited_types(structure: Structure) -> frozenset[str]:
    """Types of which a child has only what was routed to it: there presence is known item by item."""
    return frozenset(structure.types) - everywhere(structure)


def leading_to(structure: Structure, types: frozenset[str]) -> frozenset[str]:
    """Types whose references lead to one of `types`, over any number of steps."""
    found: set[str] = set()
    grown = True
    while grown:
        wanted = types | found
        more = {n for n, t in structure.types.items() if any(r.target in wanted for r in t.references)} - found
        grown = bool(more)
        found |= more
    return frozenset(found)


def limited_from(sender: str, node: NodeView, structure: Structure) -> frozenset[str]:
    """Types for which `sender` is noted as a holder of what it sent; of the parent that need not be known."""
    return frozenset() if sender == node.parent else limited_types(structure)


def facts_of(
    changes: Sequence[Change],
    view: SendingView,
    structure: Structure,
    limited: frozenset[str],
    hooks: Hooks = NO_HOOKS,
) -> Facts:
    """Owners up to the topmost, the rights to independent items among them, and who holds any of them."""
    asked = [c.item for c in changes if c.item.type in limited]
    if not asked:
        return Facts()
    owners: dict[Item, Item | None] = {}
    faults: dict[Item, str] = {}
    step = [item for item in asked if structure[item.type].routing is Routing.DEPENDENT]
    while step:
        found = dict(view.owners([item for item in step if item.type not in hooks.owner] if hooks.owner else step))
        if hooked := [item for item in step if item.type in hooks.owner]:
            told = hooks.owners(view, hooked)
            found.update(told.items)
            faults.update(told.faults)
        owners.update(found)
        step = [
            o
            for o in dict.fromkeys(found.values())
            if o is not None and o not in owners and structure[o.type].routing is Routing.DEPENDENT
        ]
    concerned = list(dict.fromkeys([*asked, *(o for o in owners.values() if o is not None and o.type in limited)]))
    with_access = [i for i in concerned if structure[i.type].access and i.type not in hooks.addressees]
    access = dict(view.access(with_access)) if with_access else {}
    if travelling := [item for item in with_access if item.type in structure.with_ways]:
        access |= {i: access.get(i, frozenset()) | nodes for i, nodes in view.ways.heard(travelling).items()}
    if hooked := [item for item in concerned if item.type in hooks.addressees]:
        told = hooks.nodes(view, hooked)
        access.update(told.items)
        faults.update(told.faults)
    return Facts(owners=owners, access=access, holders=view.holders(concerned), faults=faults)


def review(
    changes: Iterable[Change], node: NodeView, structure: Structure, limited: frozenset[str], facts: Facts
) -> dict[str, list[Change]]:
    """The changes that go to each neighbour, in their order. A neighbour that nothing concerns is absent. Neighbours
    to whom the same goes share one list: what is done with it is done once, however many they are."""
    changes = list(changes)
    sets: dict[tuple[str, ...], list[int]] = {}
    for number, change in enumerate(changes):
        found = addressees(change.item, node, structure, limited, facts)
        if change.source in found:
            found = tuple(addressee for addressee in found if addressee != change.source)
        sets.setdefault(found, []).append(number)
    concerning = {n: tuple(found for found in sets if n in found) for n in node.neighbours}
    shared = {
        those: [changes[number] for number in sorted(chain.from_iterable(sets[found] for found in those))]
        for those in set(concerning.values())
    }
    return {n: shared[those] for n, those in concerning.items() if those}


def fault_of(item: Item, facts: Facts) -> str | None:
    """Why it cannot be told where an item goes: its own hooks', or those of an owner of it."""
    step: Item | None = item
    passed = set()
    while step is not None and step not in passed:
        if step in facts.faults:
            return facts.faults[step]
        passed.add(step)
        step = facts.owners.get(step)
    return None


def undecided(changes: Iterable[Change], node: str, going: Sequence[Change], facts: Facts) -> list[tuple[Change, str]]:
    """Changes that may concern a child, for all that can be told, and why that cannot be told."""
    sure = {change.item for change in going}
    found = []
    for change in changes:
        if change.item not in sure and change.source != node and not change.gone:
            fault = fault_of(change.item, facts)
            if fault is not None:
                found.append((change, fault))
    return found


def addressees(
    item: Item, node: NodeView, structure: Structure, limited: frozenset[str], facts: Facts
) -> tuple[str, ...]:
    """The neighbours that an item concerns by the rules, where it came from included."""
    if item.type not in limited:
        return node.neighbours
    children = facts.holders.get(item, frozenset()) | _by_rules(item, node, structure, limited, facts)
    return tuple(n for n in node.neighbours if n == node.parent or n in children)


def _by_rules(
    item: Item, node: NodeView, structure: Structure, limited: frozenset[str], facts: Facts
) -> frozenset[str]:
    """Neighbours by rights, or by the owner (its rights, and whoever holds it), over any number of levels."""
    found: set[str] = set()
    step: Item | None = item
    passed = set()
    while step is not None and step not in passed:
        passed.add(step)
        if step.type not in limited:
            return frozenset(node.children)
        if step is not item:
            found |= facts.holders.get(step, frozenset())
        owner = facts.owners.get(step) if structure[step.type].routing is Routing.DEPENDENT else None
        if owner is None:  # independent, or without an owner
            found |= {node.towards[n] for n in facts.access.get(step, frozenset()) if n in node.towards}
        step = owner
    return frozenset(found)


def farther(named: frozenset[str], node: NodeView, to: str | None = None) -> frozenset[str]:
    """Those of the nodes where an item is to be seen that this node is not itself and does not speak with; of which
    `to` is told: a child of those below it, the parent of those that are not below here."""
    far = named - {node.code, *node.neighbours}
    if to is None:
        return far
    return frozenset(n for n in far if node.towards.get(n, node.parent) == to)

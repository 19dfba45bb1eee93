"""Rights that changed, and owners that went somewhere new: what a neighbour is to get without having been touched.

    capture -> [ fold -> REVIEW AGAIN -> pending ] -> select -> review …

An access table says where an item is to be seen. When its rows change, no item has: nothing gets a new version or a
mark. The item's addressees are looked at again instead, in the sender's T1, and where a child by the rules is one and
is not known to have the item, the item becomes pending for it: from there on it goes like anything that goes out of
turn, with what its references need.

What belongs to an owner follows it: when an owner goes to a child that did not have it, by whatever rule, what it
owns and the child lacks becomes pending too, and so on down the levels, one step each. So a dependant is at every
node that has its owner, and the owner is always there first.

Nothing is taken away: what a child once got it keeps, and is kept up to date (rule 4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dispatcher.hooks import NO_HOOKS, Hooks
from dispatcher.ports import Change, Clock, NodeView, Outgoing, SendingView
from dispatcher.review import Facts, addressees, facts_of, farther, limited_types, undecided
from schemas.structure import Structure
from serializers.keys import Item


class Rights:
    """What the flow knows of a node's rules, for looking at items again."""

    items_max = 1_000
    """Items that are looked at again in one transaction: live changes wait for no more than that."""

    def __init__(self, node: NodeView, structure: Structure, clock: Clock, hooks: Hooks = NO_HOOKS) -> None:
        self.node = node
        self.clock = clock
        self.hooks = hooks
        self.structure = structure
        self.limited = limited_types(structure)
        self.owning = structure.owning & self.limited
        """Types that do not go everywhere and on which others depend."""

    def facts_of(self, view: SendingView, changes: Sequence[Change]) -> Facts:
        """Asked of the database and of hooks; what hooks say of owners is noted, for the way back from them."""
        facts = facts_of(changes, view, self.structure, self.limited, self.hooks)
        if self.hooks.owner:
            owners = {c.item: None for c in changes if c.gone} | dict(facts.owners)
            view.hooked.note_owners({i: owner for i, owner in owners.items() if i.type in self.hooks.owner})
        return facts

    def hold_undecided(
        self, view: SendingView, node: str, changes: Sequence[Change], going: Sequence[Change], facts: Facts
    ) -> None:
        """Where a hook failed it is not known whether an item concerns a child: it is held for it, and tried again."""
        if facts.faults and node in self.node.children and (held := undecided(changes, node, going, facts)):
            view.hooked.hold_back(node, held, self.clock.now())

    def review_again(self, view: SendingView, links: Sequence[Outgoing]) -> bool:
        """Looks at the next items whose rights changed, and makes pending what a child lacks. Whether more wait."""
        view.fold()  # what a transaction wrote beside the rights has to be known
        again = view.look_again(self.items_max)
        asked = [item for item in again.items if item.type in self.structure.types]
        known = [c for c in view.known(asked) if not c.gone]
        facts = self.facts_of(view, known)
        to = {c.item: addressees(c.item, self.node, self.structure, self.limited, facts) for c in known}
        owners = set(again.owners)
        more = again.more
        self._tell(view, links, known, facts)
        for link in links:
            if link.node not in self.node.children:
                continue
            addressed = [item for item, nodes in to.items() if link.node in nodes]
            view.pend(link.node, view.lacking(link, addressed))
            if facts.faults:
                others = [c.item for c in known if c.item not in set(addressed)]
                self.hold_undecided(view, link.node, view.lacking(link, others), (), facts)
            held = [i for i in addressed if i in owners and link.node in facts.holders.get(i, ())]
            more |= self._follow(view, link, held, besides=())
        return more

    def ways(self, view: SendingView, changes: Sequence[Change]) -> Mapping[Item, frozenset[str]]:
        """Where items are to be seen that this node does not speak with: it goes with them, for the nodes between."""
        items = [c.item for c in changes if not c.gone and c.item.type in self.structure.with_ways]
        if not items:
            return {}
        access, heard = view.access(items), view.ways.heard(items)
        named = {i: farther(access.get(i, frozenset()) | heard.get(i, frozenset()), self.node) for i in items}
        return {item: nodes for item, nodes in named.items() if nodes}

    def _tell(self, view: SendingView, links: Sequence[Outgoing], known: Sequence[Change], facts: Facts) -> None:
        """Makes pending what a neighbour has and does not know to be seen farther on."""
        changes = {c.item: c for c in known if c.item in facts.access and c.item.type in self.structure.with_ways}
        for link in links if changes else ():
            ways = {item: farther(facts.access[item], self.node, link.node) for item in changes}
            has = (i for i in ways if link.node == self.node.parent or link.node in facts.holders.get(i, ()))
            there = [i for i in has if ways[i] and changes[i].mark <= link.position]
            told = view.ways.told(link.node, there) if there else {}
            view.pend(link.node, [changes[i] for i in there if not ways[i] <= told.get(i, frozenset())])

    def still_due(
        self, view: SendingView, node: str, pending: Sequence[Change]
    ) -> tuple[Sequence[Change], Sequence[Change], Sequence[tuple[Change, str]]]:
        """Those of `pending` of which `node` still is an addressee, and the others: a right may have been taken back
        before the item could go. What the child holds stays due whatever the rights say. Last those of the others of
        which hooks could not tell it, and why."""
        limited = [c for c in pending if c.item.type in self.limited]
        if node == self.node.parent or not limited:
            return pending, (), ()
        facts = self.facts_of(view, limited)
        due: list[Change] = []
        past: list[Change] = []
        for change in pending:
            to = addressees(change.item, self.node, self.structure, self.limited, facts)
            (due if node in to else past).append(change)
        return due, past, undecided(past, node, (), facts) if facts.faults else ()

    def follow(
        self, view: SendingView, links: Sequence[Outgoing], going: Mapping[str, Collection[Item]], *, position: int
    ) -> bool:
        """Makes pending what belongs to owners that go (`going`: by child, all that goes to it) to a child that did
        not have them. `position`: the mark up to which the children will have been served. Whether anything is."""
        found = False
        for link in links:
            items = going.get(link.node, ())
            owners = [item for item in items if item.type in self.owning]
            if not owners or link.node == self.node.parent:
                continue
            held = view.holders(owners)
            new = [owner for owner in owners if link.node not in held.get(owner, ())]
            found |= self._follow(view, replace(link, position=position), new, besides=items)
        return found

    def _follow(self, view: SendingView, link: Outgoing, owners: Sequence[Item], *, besides: Collection[Item]) -> bool:
        """Whether anything became pending. Where there is too much at once, the rest is looked at later."""
        if not owners:
            return False
        found = view.dependants(link, owners, items_max=self.items_max)
        lacking = [c for c in found.changes if c.item not in besides]
        more = found.more
        if self.hooks.owner and (by_hooks := view.hooked.owned(owners, items_max=self.items_max)):
            lacking += [c for c in view.lacking(link, by_hooks) if c.item not in besides]
            more |= len(by_hooks) >= self.items_max
        view.pend(link.node, lacking)
        if more:
            view.follow_later(owners)
        return bool(lacking) or more

"""Applying: one message in one transaction, decided item by item.

    receive -> [ settle -> APPLY -> the stamp register again, so that items travel on ]

Rows are locked in the order of (rank of type, key) before anything is decided, so that parallel messages do not
deadlock and a concurrent write of an application is seen, not overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import orjson

from dispatcher.ports import Accepted, Collision, Kept, Local, NodeView, ReceivingView
from dispatcher.settling import Relation, incoming_wins, local_version, merged_seen, relation
from schemas.errors import InvariantError, MessageError
from schemas.structure import Structure
from serializers.digest import same
from serializers.keys import Item, key_of
from serializers.message import Incoming, Message, Seen


@dataclass(slots=True)
class Decided:
    """What becomes of a message's items."""

    accepted: list[Accepted] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    collisions: list[Collision] = field(default_factory=list)
    answers: list[Item] = field(default_factory=list)
    """Local versions that the sender may not have."""
    rejected: int = 0


def apply(
    message: Message,
    view: ReceivingView,
    node: NodeView,
    structure: Structure,
    origin: str,
    *,
    reference_wins: bool = False,
    proves: bool = True,
) -> Decided:
    """Locks, decides and writes the items of a message; the caller records the message and ends the transaction.

    `proves`: that the sender has what it sent. Not so when it wrote the message in an earlier life: it may have lost
    the item since, and gets it back.

    `reference_wins`: an item that is to be deleted, and to which something here refers, stays: it becomes a new
    version of this node, which travels to all, and the deletion goes to the journal.

    Raises MessageError when the message is at fault, ConflictError when it may be tried again.
    """
    incoming = keyed(message, structure)
    local = view.lock(list(incoming))
    decided = decide(incoming, local, view, message.header.sender, node, structure, origin)
    if reference_wins:
        spare(decided, incoming, local, view, message.header.sender, origin)
    if decided.answers:  # before anything makes the sender a holder of it
        view.answer_back(message.header.sender, decided.answers)
    if decided.accepted:
        view.write(decided.accepted)
    if decided.kept:
        view.keep(decided.kept)
    if decided.collisions:
        view.journal(decided.collisions)
    if not proves:
        view.doubt(list(incoming))
    return decided


def spare(
    decided: Decided,
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    view: ReceivingView,
    sender: str,
    origin: str,
) -> None:
    """Takes over the versions of deletions that would break a reference, but not the deletions."""
    deletions = [a.item for a in decided.accepted if a.value is None and a.existed]
    spared = _spared(deletions, [a.item for a in decided.accepted], view)
    if not spared:
        return
    texts = view.contents([item for item in deletions if item in spared])
    decided.accepted = [replace(a, write=False) if a.item in spared else a for a in decided.accepted]
    view.touch([item for item in deletions if item in spared])
    for item in deletions:
        version = local_version(local[item], origin) if item in spared else None
        if version is not None:
            lost = incoming[item].version
            decided.collisions.append(Collision(item, version, lost, texts.get(item), None, "reference", sender))


def _spared(deletions: list[Item], written: list[Item], view: ReceivingView) -> frozenset[Item]:
    """What is referred to by items that the message does not write; what stays refers to others: they stay too."""
    spared: frozenset[Item] = frozenset()
    while left := [item for item in deletions if item not in spared]:
        more = view.referred(left, besides=[item for item in written if item not in spared])
        if not more:
            break
        spared |= more
    return spared


def keyed(message: Message, structure: Structure) -> dict[Item, Incoming]:
    """The message's items by (type, key), in the order of (rank of type, key).

    Raises MessageError for a type that is not known here, or an item that is in it twice.
    """
    items: dict[Item, Incoming] = {}
    for incoming in message.items:
        item_type = structure.types.get(incoming.type)
        if item_type is None:
            raise MessageError(
                f"the type {incoming.type!r} is not known here",
                hint="add it to nodes.yaml and to the package of this node",
            )
        value = incoming.deleted if incoming.value is None else incoming.value
        item = Item(incoming.type, key_of(item_type, value or {}))
        if item in items:
            raise MessageError(f"{incoming.type} {item.key} is in the message twice")
        items[item] = incoming
    return dict(sorted(items.items(), key=lambda pair: (structure[pair[0].type].rank, pair[0])))


def decide(
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    view: ReceivingView,
    sender: str,
    node: NodeView,
    structure: Structure,
    origin: str,
) -> Decided:
    decided = Decided()
    concurrent: list[Item] = []
    for item, new in incoming.items():
        here = local.get(item)
        match relation(here, origin, new.version, new.seen):
            case Relation.NEW:
                seen = here.seen if here is not None else {}
                decided.accepted.append(_accepted(item, new, here, merged_seen(new.version, new.seen, None, seen)))
            case Relation.SUCCESSOR:
                decided.accepted.append(_accepted(item, new, here, _seen_by(new, here, origin)))
            case Relation.REPEAT:
                _repeat(decided, item, new, here, origin)
            case Relation.CONCURRENT:
                concurrent.append(item)
    if concurrent:
        texts = view.contents(concurrent)
        for item in concurrent:
            _settle(decided, item, incoming[item], local[item], texts.get(item), sender, node, structure, origin)
    return decided


def _accepted(item: Item, new: Incoming, here: Local | None, seen: Seen, *, write: bool = True) -> Accepted:
    return Accepted(item, new.version, seen, new.value, existed=here is not None and here.exists, write=write)


def _seen_by(new: Incoming, here: Local | None, origin: str) -> Seen:
    """What the incoming version has seen once it replaced the local one."""
    if here is None:
        raise InvariantError("a successor of nothing")
    return merged_seen(new.version, new.seen, local_version(here, origin), here.seen)


def _repeat(decided: Decided, item: Item, new: Incoming, here: Local | None, origin: str) -> None:
    version = local_version(here, origin) if here is not None else None
    if here is None or version is None:
        raise InvariantError("a repeat of nothing")
    decided.rejected += 1
    seen = merged_seen(version, here.seen, new.version if new.version.origin != version.origin else None, new.seen)
    if seen != here.seen:
        decided.kept.append(Kept(item, seen))
    if new.version != version:
        decided.answers.append(item)


def _settle(
    decided: Decided,
    item: Item,
    new: Incoming,
    here: Local,
    text: bytes | None,
    sender: str,
    node: NodeView,
    structure: Structure,
    origin: str,
) -> None:
    """A concurrent version: equal contents are no collision; else the policy decides and the loser is journalled."""
    item_type = structure[item.type]
    version = local_version(here, origin)
    if version is None:
        raise InvariantError("a collision with nothing")
    equal = same(item_type, None if text is None else orjson.loads(text), new.value)
    policy = "newest" if equal else item_type.collision
    new_text = None if new.value is None else orjson.dumps(new.value)
    if incoming_wins(policy, version, new.version, from_parent=sender == node.parent):
        decided.accepted.append(_accepted(item, new, here, _seen_by(new, here, origin), write=not equal))
        winner, loser, winner_text, loser_text = new.version, version, new_text, text
    else:
        decided.kept.append(Kept(item, merged_seen(version, here.seen, new.version, new.seen)))
        decided.answers.append(item)
        decided.rejected += equal
        winner, loser, winner_text, loser_text = version, new.version, text, new_text
    if not equal:
        decided.collisions.append(Collision(item, winner, loser, winner_text, loser_text, policy, sender))

"""Applying: one message in one transaction, decided item by item.

    receive -> [ settle -> APPLY -> the stamp register again, so that items travel on ]

Rows are locked in the order of (rank of type, key) before anything is decided, so that parallel messages do not
deadlock and a concurrent write of an application is seen, not overwritten.

An item that has to wait by itself (born under a key that another item has, or stamped in the future) is held, with
those that refer to it; the others of its message go on. Whoever calls parks what is held, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import orjson

from dispatcher.hooks import NO_HOOKS, Hooks, Side
from dispatcher.ports import (
    Accepted,
    Collision,
    Kept,
    Local,
    NodeView,
    ParkedItem,
    Reason,
    ReceivingView,
    Taken,
    Waiting,
)
from dispatcher.references import among, references_of, whole_of
from dispatcher.settling import (
    Relation,
    born_apart,
    from_the_future,
    has_seen,
    has_seen_all,
    incoming_wins,
    local_version,
    merged_seen,
    relation,
)
from schemas.errors import InvariantError, MessageError
from schemas.stamp import Stamp, digits
from schemas.structure import ItemType, Structure
from serializers.digest import same
from serializers.keys import PREDEFINED, Item, key_of
from serializers.message import Incoming, Message, Seen, Version

ENDLESS = Stamp(2**62)
"""No stamp is beyond it."""


@dataclass(frozen=True, slots=True)
class Held:
    """An item of a message that has to wait although nothing is wrong with the others."""

    item: ParkedItem
    incoming: Incoming
    reason: Reason
    supersedes: Sequence[int] = ()
    """Parked messages that bear nothing but an older state of it."""
    together: bool = False
    """There may be many like it in a message: they are parked as one."""


@dataclass(slots=True)
class Decided:
    """What becomes of a message's items."""

    accepted: list[Accepted] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    collisions: list[Collision] = field(default_factory=list)
    answers: list[Item] = field(default_factory=list)
    """Local versions that the sender may not have."""
    doubted: list[Item] = field(default_factory=list)
    """Accepted versions that the sender may be about to replace, by the policy, with what stood here before."""
    held: list[Held] = field(default_factory=list)
    renewed: list[Item] = field(default_factory=list)
    """Items that moved in under a key that has become free here: they become a new version of this node, so that all
    others learn that the clash is over."""
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Judge:
    """What decisions depend on besides the message and what is here."""

    node: NodeView
    structure: Structure
    origin: str
    latest: Stamp = ENDLESS
    """The latest stamp that is believed."""
    waiting: Sequence[Waiting] = ()
    """What is parked of the sender, without the message that is judged."""
    limited: frozenset[str] = frozenset()
    """Types of which the sender has not everything."""
    wary: bool = False
    """The database has refused the message, for a value that must be unique or a reference that leads nowhere: items
    with such are held."""
    hooks: Hooks = NO_HOOKS


def apply(
    message: Message,
    view: ReceivingView,
    judge: Judge,
    *,
    reference_wins: bool = False,
    proves: bool = True,
    orphans: Mapping[Item, Version] | None = None,
) -> Decided:
    """Locks, decides and writes the items of a message; the caller parks what is held, records the message and ends
    the transaction.

    `proves`: that the sender has what it sent. Not so when it wrote the message in an earlier life: it may have lost
    the item since, and gets it back.

    `reference_wins`: an item that is to be deleted, and to which something here refers, stays: it becomes a new
    version of this node, which travels to all, and the deletion goes to the journal.
    `orphans`: items that refer to what is gone for ever, and that version: they go to the journal alone.

    Raises MessageError when the message is at fault, ConflictError when it may be tried again.
    """
    sender = message.header.sender
    incoming = keyed(message, judge.structure)
    beside = {
        target
        for item, new in incoming.items()
        if new.value is not None and item.type in judge.structure.referring_to_whole
        for target in whole_of(judge.structure[item.type], new.value, judge.structure)
    }
    local = view.lock(list(incoming), beside=sorted(beside - incoming.keys()))
    decided = decide(incoming, local, view, sender, judge, orphans or {}, reference_wins=reference_wins)
    if reference_wins:
        spare(decided, incoming, local, view, sender, judge.origin)
    if decided.answers:  # before anything makes the sender a holder of it
        view.answer_back(sender, decided.answers)
    heard = [a for a in decided.accepted if a.write and a.item.type in judge.hooks.writes] if judge.hooks.writes else []
    written = judge.hooks.before_write(view, sender, heard) if heard else ()
    if decided.accepted:
        view.write(decided.accepted)
    _hear(incoming, decided, view, sender)
    if decided.renewed:
        view.touch(decided.renewed)
    if decided.kept:
        view.keep(decided.kept)
    if decided.collisions:
        view.journal(decided.collisions)
    doubted = decided.doubted if proves else list(incoming)
    if doubted:
        view.doubt(doubted)
    if written:
        judge.hooks.applied(view, sender, written)
    return decided


def _hear(incoming: Mapping[Item, Incoming], decided: Decided, view: ReceivingView, sender: str) -> None:
    """Notes where the items are to be seen, farther on. What has come in this version before is looked at again."""
    waiting = {held.item.item for held in decided.held}
    ways = {item: new.nodes for item, new in incoming.items() if new.nodes and item not in waiting}
    if ways:
        new = view.ways.hear(sender, ways)
        view.ways.look_again(sorted(new - {one.item for one in decided.accepted}))


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
    decided.accepted = [a._replace(write=False) if a.item in spared else a for a in decided.accepted]
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
    by_type: dict[str, dict[Item, Incoming]] = {}
    for incoming in message.items:
        item_type = structure.types.get(incoming.type) or structure.named(incoming.type)
        if item_type is None:
            raise MessageError(
                f"the type {incoming.type!r} is not known here",
                hint="add it to nodes.yaml and to the package of this node",
            )
        value = incoming.deleted if incoming.value is None else incoming.value
        item = Item(item_type.name, key_of(item_type, value or {}))
        its = by_type.setdefault(item.type, {})
        if item in its:
            raise MessageError(f"{item.type} {item.key} is in the message twice")
        its[item] = incoming
    names = sorted(by_type, key=lambda name: (structure[name].rank, name))
    return {item: incoming for name in names for item, incoming in sorted(by_type[name].items(), key=itemgetter(0))}


def decide(
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    view: ReceivingView,
    sender: str,
    judge: Judge,
    orphans: Mapping[Item, Version],
    *,
    reference_wins: bool = False,
) -> Decided:
    decided = Decided()
    relations = {item: relation(local.get(item), judge.origin, new.version, new.seen) for item, new in incoming.items()}
    for item in [item for item, how in relations.items() if how is Relation.CROSSED]:
        relations[item] = _uncrossed(item, incoming[item], local[item], sender, judge)
    concurrent = [item for item, how in relations.items() if how is Relation.CONCURRENT]
    texts = view.contents(concurrent) if concurrent else {}
    held = _held(incoming, local, relations, texts, view, sender, judge, reference_wins=reference_wins)
    for item, new in incoming.items():
        here = local.get(item)
        if item in orphans:
            _orphan(decided, item, new, here, orphans[item], sender, judge.origin)
        elif item in held:
            _hold(decided, item, new, held[item], judge.waiting)
        elif relations[item] is Relation.NEW:
            seen = here.seen if here is not None else {}
            decided.accepted.append(_accepted(item, new, here, merged_seen(new.version, new.seen, None, seen)))
        elif relations[item] is Relation.SUCCESSOR:
            decided.accepted.append(_accepted(item, new, here, _seen_by(new, here, judge.origin)))
            if _may_be_replaced(item, new, here, sender, judge):
                decided.doubted.append(item)
        elif relations[item] is Relation.REPEAT:
            _repeat(decided, item, new, here, judge.origin)
        else:
            _settle(decided, item, new, local[item], texts.get(item), sender, judge, view)
    return decided


def _may_be_replaced(item: Item, new: Incoming, here: Local | None, sender: str, judge: Judge) -> bool:
    """Whether a child's successor meets, at the child, a version from here that beats it there: what the local version
    has seen only by winning against it (an equal content that a lost life had written, say), the child's may not have.
    The child then has to hear that its own stands: the two have crossed. Where the larger version wins this cannot be:
    what the local one has beaten is smaller than all that follows it."""
    if here is None or sender == judge.node.parent or judge.structure[item.type].collision != "parent":
        return False
    return not has_seen_all(new.version, new.seen, here.seen)


def _uncrossed(item: Item, new: Incoming, here: Local, sender: str, judge: Judge) -> Relation:
    """Of two versions that have each seen the other, the policy's winner goes on as if only the other were known."""
    version = local_version(here, judge.origin)
    if version is None:
        raise InvariantError("nothing has crossed")
    policy = judge.structure[item.type].collision
    wins = incoming_wins(policy, version, new.version, from_parent=sender == judge.node.parent)
    return Relation.CONCURRENT if wins else Relation.REPEAT


# --- what has to wait ---


class Waits(NamedTuple):
    """Why an item is held."""

    reason: Reason
    apart: bool = False
    """Another one was born under its key."""
    tells: Sequence[Item] = ()
    """What the sender has to have to see the same at its end."""
    together: bool = False


def _held(
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    relations: Mapping[Item, Relation],
    texts: Mapping[Item, bytes | None],
    view: ReceivingView,
    sender: str,
    judge: Judge,
    *,
    reference_wins: bool,
) -> dict[Item, Waits]:
    staying = _staying(incoming, local, relations, sender, judge) if judge.wary else set()
    held: dict[Item, Waits] = _duplicates(incoming, staying, view, judge) if judge.wary else {}
    for item, new in incoming.items():
        here = local.get(item)
        if relations[item] is Relation.REPEAT:
            continue
        if new.version.stamp > judge.latest and from_the_future(here, new.version, judge.latest):
            held[item] = Waits(_too_early(item, new))
        elif (
            relations[item] is Relation.CONCURRENT
            and here is not None
            and here.exists
            and new.value is not None
            and _apart(item, new, here, judge)
            and not _same(item, texts.get(item), new, judge)
        ):
            held[item] = Waits(_two_births(item, new, here, judge.origin), apart=True, tells=(item,))
    if not judge.wary and (held or judge.waiting or judge.structure.unchecked):
        staying = _staying(incoming, local, relations, sender, judge)
    if judge.wary or judge.structure.unchecked:
        held |= _dangling(incoming, local, staying, held.keys(), view, judge)
    if held or judge.waiting:
        _hold_dependents(held, incoming, local, staying, view, judge)
    if not reference_wins:
        held |= _still_referred(incoming, local, staying | held.keys(), view, judge)
    return held


def _staying(
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    relations: Mapping[Item, Relation],
    sender: str,
    judge: Judge,
) -> set[Item]:
    """Items that will be after the message what they are here now: it brings nothing new of them, or loses."""
    from_parent = sender == judge.node.parent

    def stays(item: Item, new: Incoming) -> bool:
        if relations[item] is not Relation.CONCURRENT:
            return relations[item] is Relation.REPEAT
        if _apart(item, new, local[item], judge):
            return local[item].exists
        if item.type in judge.hooks.settles:
            return from_parent
        version = local_version(local[item], judge.origin)
        policy = judge.structure[item.type].collision
        return version is not None and not incoming_wins(policy, version, new.version, from_parent=from_parent)

    return {item for item, new in incoming.items() if stays(item, new)}


def _dangling(
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    staying: set[Item],
    held: Collection[Item],
    view: ReceivingView,
    judge: Judge,
) -> dict[Item, Waits]:
    """Items with a reference to what is not here and does not come with them: where the database does not see to it,
    or has refused the message for it. What refers to an item that is held waits for that one (`_hold_dependents`)."""
    structure = judge.structure
    waiting = frozenset(held)
    targets: dict[Item, frozenset[Item]] = {}
    for item, new in incoming.items():
        if new.value is None or item in staying or item in held or not (judge.wary or item.type in structure.unchecked):
            continue
        item_type = structure[item.type]
        references = item_type.controlled if judge.wary else item_type.unchecked
        targets[item] = among(item_type, references, new.value, structure) - waiting - {item}
    asked = {target for of_item in targets.values() for target in of_item}
    if not asked:
        return {}
    here = set(view.there(sorted(asked - incoming.keys()))) if asked - incoming.keys() else set()
    for target in asked & incoming.keys():
        exists = target in local and local[target].exists
        if exists if target in staying else incoming[target].value is not None:
            here.add(target)
    missing = {item: sorted(of_item - here) for item, of_item in targets.items() if not of_item <= here}
    beyond = {t for of_item in missing.values() for t in of_item if t not in incoming and t.type not in judge.limited}
    gone = {t for t, there in view.lock(sorted(beyond)).items() if not there.exists} if beyond else set()
    return {
        item: Waits(_leads_nowhere(item, of_item), tells=[t for t in of_item if t in gone], together=True)
        for item, of_item in missing.items()
    }


def _still_referred(
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    staying: set[Item],
    view: ReceivingView,
    judge: Judge,
) -> dict[Item, Waits]:
    """Deletions of what rows here refer to, likewise. `staying`: items that the message does not write."""
    deletions = [
        item
        for item, new in incoming.items()
        if new.value is None
        and item not in staying
        and (judge.wary or item.type in judge.structure.unchecked_targets)
        and item in local
        and local[item].exists
    ]
    if not deletions:
        return {}
    written = [item for item in incoming if item not in staying]
    referred = view.referred(deletions, besides=written, only_unchecked=not judge.wary)
    return {item: Waits(_needed(item), together=True) for item in deletions if item in referred}


def _duplicates(
    incoming: Mapping[Item, Incoming], staying: set[Item], view: ReceivingView, judge: Judge
) -> dict[Item, Waits]:
    """Items with a unique value that an item has of which the message brings nothing new."""
    values = {item: new.value for item, new in incoming.items() if new.value is not None and item not in staying}
    held = {}
    for item, clashes in view.taken(values).items():
        others = [clash for clash in clashes if clash.by not in incoming or clash.by in staying]
        if others:
            tells = [clash.by for clash in others if clash.by.type not in judge.limited]
            held[item] = Waits(_duplicate(item, others), tells=tells)
    return held


def _duplicate(item: Item, clashes: Sequence[Taken]) -> Reason:
    same_as = "; ".join(
        f"{', '.join(clash.properties)} is the same as that of {clash.by.type} {clash.by.key}" for clash in clashes
    )
    text = f"duplicate: {item.type} {item.key}: {same_as}, and has to be unique"
    hint = "change it in one of the two; the other then arrives by itself"
    return Reason(f"{text} (try: {hint})", tuple(clash.by for clash in clashes))


def _apart(item: Item, new: Incoming, here: Local, judge: Judge) -> bool:
    item_type = judge.structure[item.type]
    version = local_version(here, judge.origin)
    if version is None or not (item_type.is_object and item_type.invented_key) or _is_predefined(item, new, item_type):
        return False
    return born_apart(version, here.seen, new.version, new.seen)


def _is_predefined(item: Item, new: Incoming, item_type: ItemType) -> bool:
    """It was there at every node before: under one name it is the same, whatever its key."""
    names = item_type.predefined
    if names is None or new.value is None:
        return PREDEFINED in item.key
    return bool(new.value.get(names.prop))


def _hold_dependents(
    held: dict[Item, Waits],
    incoming: Mapping[Item, Incoming],
    local: Mapping[Item, Local],
    staying: set[Item],
    view: ReceivingView,
    judge: Judge,
) -> None:
    """Holds what refers to an item that waits and is not here, or is another one here. Not what stays as it is: it
    brings no reference, and who sent it has to hear what it lost against (a deletion, perhaps, of what others that wait
    refer to)."""
    targets = {
        item: references_of(judge.structure[item.type], new.value, judge.structure) - {item}
        for item, new in incoming.items()
        if new.value is not None and item not in staying
    }
    parked = {one.item: one.apart for waiting in judge.waiting for one in waiting.items if one.item not in incoming}
    referred = {target for of_item in targets.values() for target in of_item if target in parked}
    here = view.contents([target for target in sorted(referred) if not parked[target]]) if referred else {}
    blocking = {target for target in referred if parked[target] or here.get(target) is None}
    blocking |= {item for item, waits in held.items() if waits.apart or not (item in local and local[item].exists)}
    grown = bool(blocking)
    while grown:
        grown = False
        for item, of_item in targets.items():
            behind = sorted(of_item & blocking)
            if behind and item not in held:
                held[item] = Waits(_behind(item, behind))
                grown = True
                if item not in local or not local[item].exists:
                    blocking.add(item)


def _too_early(item: Item, new: Incoming) -> Reason:
    return Reason(
        f"{item.type} {item.key}: its stamp {digits(new.version.stamp)} is in the future; it is applied when that time"
        f" comes (try: set the clock of node {new.version.origin.partition('.')[0]} right; `kod parked retry ID`"
        " applies it now)",
        (item,),
    )


def _two_births(item: Item, new: Incoming, here: Local, origin: str) -> Reason:
    version = local_version(here, origin)
    ours = version.origin.partition(".")[0] if version is not None else origin
    theirs = new.version.origin.partition(".")[0]
    return Reason(
        f"{item.type} {item.key}: nodes {ours} and {theirs} gave birth to different items under this generated key;"
        f" neither is overwritten (try: give one of them another key, or delete it, at node {ours} or {theirs}, and set"
        " `identity: {step, offset}` for these nodes, then `kod install`; in SQLite let the application give the keys)",
        (item,),
    )


def _behind(item: Item, behind: Sequence[Item]) -> Reason:
    names = ", ".join(f"{target.type} {target.key}" for target in behind)
    return Reason(f"{item.type} {item.key}: it refers to {names}, which waits itself", tuple(behind))


def _leads_nowhere(item: Item, missing: Sequence[Item]) -> Reason:
    names = ", ".join(f"{target.type} {target.key}" for target in missing[:3]) + (" …" if len(missing) > 3 else "")
    return Reason(f"{item.type} {item.key}: a reference to an item that is not there; not here: {names}", missing)


def _needed(item: Item) -> Reason:
    return Reason(f"{item.type} {item.key} is to be deleted, and items here still refer to it")


def _hold(decided: Decided, item: Item, new: Incoming, waits: Waits, waiting: Sequence[Waiting]) -> None:
    older = []
    for parked in waiting:
        for one in parked.items:
            if one.item != item:
                continue
            if one.version.origin == new.version.origin and one.version.stamp >= new.version.stamp:
                decided.rejected += 1  # it waits already, or a newer state of it
                return
            if len(parked.items) == 1 and has_seen(new.version, new.seen, one.version):
                older.append(parked.id)
    decided.held.append(Held(ParkedItem(item, new.version, waits.apart), new, waits.reason, older, waits.together))
    decided.answers.extend(told for told in waits.tells if told not in decided.answers)


def _orphan(
    decided: Decided, item: Item, new: Incoming, here: Local | None, gone: Version, sender: str, origin: str
) -> None:
    """Nobody is left who could bring what it refers to: it goes to the journal."""
    version = local_version(here, origin) if here is not None else None
    text = None if new.value is None else orjson.dumps(new.value)
    decided.collisions.append(Collision(item, version or gone, new.version, None, text, "orphan", sender))
    if here is not None and version is not None:
        decided.kept.append(Kept(item, merged_seen(version, here.seen, new.version, new.seen)))


def _same(item: Item, text: bytes | None, new: Incoming, judge: Judge) -> bool:
    here = None if text is None else orjson.loads(text)
    if item.type in judge.hooks.unlike and (here or {}).keys() != (new.value or {}).keys():
        return False
    return same(judge.structure[item.type], here, new.value)


# --- what is decided ---


def _accepted(item: Item, new: Incoming, here: Local | None, seen: Seen, *, write: bool = True) -> Accepted:
    return Accepted(item, new.version, seen, new.value, here is not None and here.exists, write)


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
    judge: Judge,
    view: ReceivingView,
) -> None:
    """A concurrent version: the policy decides, and the loser is journalled; equal contents are no collision. (Which of
    two versions of the same content stays is the policy's too: if there the larger one stayed, and elsewhere the
    parent's, nodes would end with different versions of it.)"""
    version = local_version(here, judge.origin)
    if version is None:
        raise InvariantError("a collision with nothing")
    equal = _same(item, text, new, judge)
    if not equal and _apart(item, new, here, judge):
        _one_left(decided, item, new, here, version, judge.origin)
        return
    if not equal and item.type in judge.hooks.settles:
        _settle_by_hook(decided, item, new, here, version, text, sender, judge, view)
        return
    policy = judge.structure[item.type].collision
    new_text = None if new.value is None else orjson.dumps(new.value)
    if incoming_wins(policy, version, new.version, from_parent=sender == judge.node.parent):
        decided.accepted.append(_accepted(item, new, here, _seen_by(new, here, judge.origin), write=not equal))
        winner, loser, winner_text, loser_text = new.version, version, new_text, text
    else:
        decided.kept.append(Kept(item, merged_seen(version, here.seen, new.version, new.seen)))
        decided.answers.append(item)
        decided.rejected += equal
        winner, loser, winner_text, loser_text = version, new.version, text, new_text
    if not equal:
        decided.collisions.append(Collision(item, winner, loser, winner_text, loser_text, policy, sender))


def _settle_by_hook(
    decided: Decided,
    item: Item,
    new: Incoming,
    here: Local,
    version: Version,
    text: bytes | None,
    sender: str,
    judge: Judge,
    view: ReceivingView,
) -> None:
    """Only the link's parent end decides, and what it decides is a new version of this node, which has seen both. The
    other end leaves its version as it is: it goes to the parent, or is there already. Had it seen the parent's, it
    would arrive there as a successor, and the hook would never be asked."""
    if sender == judge.node.parent:
        decided.answers.append(item)
        return
    ours = Side(version, None if text is None else orjson.loads(text))
    result = judge.hooks.settle(view, sender, item, ours, Side(new.version, new.value))
    accepted = _accepted(
        item, new._replace(value=None if result is None else dict(result)), here, _seen_by(new, here, judge.origin)
    )
    decided.accepted.append(accepted)
    decided.renewed.append(item)
    new_text = None if new.value is None else orjson.dumps(new.value)
    sides = [(version, text), (new.version, new_text)]
    (loser, loser_text), (winner, winner_text) = sorted(sides, key=lambda side: side[0])
    decided.collisions.append(Collision(item, winner, loser, winner_text, loser_text, "hook", sender))


def _one_left(decided: Decided, item: Item, new: Incoming, here: Local, version: Version, origin: str) -> None:
    """Of two items that were born under one key one is gone: that deletion was not meant for the other."""
    if here.exists:
        decided.kept.append(Kept(item, merged_seen(version, here.seen, new.version, new.seen)))
        decided.answers.append(item)
    else:
        decided.accepted.append(_accepted(item, new, here, _seen_by(new, here, origin)))
        decided.renewed.append(item)

"""Parking: what cannot be applied waits here, whole, with its reason, and blocks nothing else.

    receive -> settle -> apply
                   \\-> PARK -> tried again when something else was applied, and from time to time

A message waits for what it refers to, for an upgrade, or for a person. A newer state of its items heals it by itself:
tried again, they are repeats. A deletion that something here still refers to waits until what may free it is applied;
then the reference wins, and the node that holds the reference writes the item again (correctness.md).

Of a message that could be applied but for some items (dispatcher.applying, Held) only these are kept, each by itself.

What is no message of its link (broken, or another's) is listed here too, and never tried: the bus keeps it apart, and
what its session lacks by it comes again (dispatcher.receiving).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from dispatcher.applying import ENDLESS, Held, Judge, apply, keyed
from dispatcher.events import event
from dispatcher.hooks import NO_HOOKS, Hooks
from dispatcher.ports import Clock, Letter, NodeView, Parked, ParkedItem, Reason, ReceivingView, Store
from dispatcher.references import references_of
from dispatcher.review import limited_from
from dispatcher.settling import latest_believed
from dispatcher.turning import Turning
from schemas.errors import ConflictError, DanglingError, DuplicateError, FilterError, MessageError, RefusedError
from schemas.network import NodeSettings
from schemas.stamp import EARLIEST, Stamp
from schemas.structure import Structure
from serializers.keys import Item, key_of
from serializers.message import Incoming, Message, Version, only, parse_name, read_message

log = logging.getLogger(__name__)

NAME_MAX = 100
"""How much is kept of a name that is none of a message."""
RETRY_S = 30.0
FORCE_ATTEMPTS = 20
"""After so many attempts a blocked deletion no longer waits for other parked messages that may free it."""


class Parking:
    """The messages of a node that wait, of all its links. Safe to use from several threads."""

    def __init__(
        self,
        node: NodeView,
        structure: Structure,
        settings: NodeSettings,
        store: Store,
        clock: Clock,
        turning: Turning | None = None,
        hooks: Hooks = NO_HOOKS,
        bus_ahead_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`bus_ahead_ms`: how far the bus's clock is ahead of this node's own, where it is known."""
        self._hooks = hooks
        self.turning = turning or Turning(structure)
        self._node = node
        self._bus_ahead_ms = bus_ahead_ms
        self._structure = structure
        self._skew_max_ms = settings.clock_skew_max_s * 1000
        self._store = store
        self._clock = clock
        self._turn = threading.Lock()
        self._next_retry = 0
        self._due = True
        """Something was applied since the last retry, or nobody has looked yet."""
        self._catching_up: set[str] = set()
        """Neighbours whose sessions do not bring everything in order: what frees a deletion may still come."""
        self._waiting = True
        """There may be parked messages."""

    def catching_up(self, node: str, catching_up: bool) -> None:
        (self._catching_up.add if catching_up else self._catching_up.discard)(node)

    def judge(
        self,
        sender: str,
        view: ReceivingView,
        besides: Sequence[Parked] = (),
        *,
        any_stamp: bool = False,
        wary: bool = False,
    ) -> Judge:
        """What decides on a message that is applied now; `besides` are the parked ones that it is."""
        tried = {one.id for one in besides}
        waiting = [one for one in view.waiting() if one.id not in tried] if self._waiting else []
        latest = ENDLESS if any_stamp else latest_believed(self._clock.now(), self._skew_max_ms, self._bus_ahead_ms())
        limited = limited_from(sender, self._node, self._structure)
        return Judge(self._node, self._structure, self._store.origin, latest, waiting, limited, wary, self._hooks)

    def park(self, letter: Letter, error: MessageError, view: ReceivingView, *, look: bool = True) -> Reason | None:
        """Keeps a message that could not be applied, whole; None when all of it waits already. What the sender has to
        know to see the same at its end goes to it. `look`: for what it refers to; the database may not be able to read
        those keys either."""
        items = self._items(letter.payload, view)
        parked = [ParkedItem(item, new.version) for item, new in items.items()]
        known = {(one.item, one.version) for waiting in view.waiting() for one in waiting.items}
        if all((one.item, one.version) in known for one in parked) if parked else self._is_parked(letter):
            return None
        reason, answers = self._why(error, items if look else {}, view, letter.node)
        if answers:
            view.answer_back(letter.node, answers)
        view.park(letter, reason, parked)
        self._waiting = True
        return reason

    def _is_parked(self, letter: Letter) -> bool:
        whole = (letter.node, letter.name, letter.payload)
        return any((one.node, one.name, one.payload) == whole for one in self._store.parked())

    def refuse(self, letter: Letter, error: MessageError) -> None:
        """Lists what is no message of its link, whole, for people."""
        known = parse_name(letter.name) is not None
        letter = replace(letter, name=letter.name if known else ascii(letter.name)[:NAME_MAX])
        if not self._is_parked(letter):
            with self._store.receiving(letter.node, forward=self._node.forwards, limited=frozenset()) as view:
                view.park(letter, Reason(_plain(error.text)), refused=True)

    def came_again(self, node: str, up_to: Stamp) -> None:
        """A neighbour has sent everything again: what could not be read of its sessions up to then is not missing any
        more."""
        for one in self._store.parked():
            name = parse_name(one.name) if one.refused and one.node == node else None
            if name is not None and name.session <= up_to:
                with self._store.receiving(node, forward=self._node.forwards, limited=frozenset()) as view:
                    view.unpark(one.id)
                event(log, logging.INFO, "refused message superseded", node=node, message=one.name)

    def hold(self, letter: Letter, message: Message, held: Sequence[Held], view: ReceivingView) -> None:
        """Keeps the items of a message that have to wait by themselves: each alone, so that it is healed alone, but for
        those of whom there may be many."""
        if not held:
            return
        places = {id(incoming): n for n, incoming in enumerate(message.items)}
        together = [one for one in held if one.together]
        for those in ([one] for one in held if not one.together):
            self._hold(letter, those, places, view)
        if together:
            self._hold(letter, together, places, view)
        self._waiting = True

    def _hold(self, letter: Letter, held: Sequence[Held], places: Mapping[int, int], view: ReceivingView) -> None:
        payload = only(letter.payload, [places[id(one.incoming)] for one in held])
        reason = _reason_of(held)
        view.park(Letter(letter.node, letter.name, payload), reason, [one.item for one in held])
        for older in dict.fromkeys(older for one in held for older in one.supersedes):
            view.unpark(older)
        event(log, logging.WARNING, "item parked", node=letter.node, message=letter.name, reason=reason.text)

    def blamed(self, letter: Letter, error: MessageError) -> MessageError:
        """The error with the item that it is about, where the database has not said it: looked for half by half."""
        if not isinstance(error, RefusedError):
            return error
        message = read_message(letter.payload)
        suspects = message.items
        while len(suspects) > 1:
            middle = len(suspects) // 2
            halves = (suspects[:middle], suspects[middle:])
            suspects = next((half for half in halves if self._is_refused(letter.node, message, half, error)), ())
        item_type = self._structure.named(suspects[0].type) if suspects else None
        if item_type is None:
            return error
        value = suspects[0].deleted if suspects[0].value is None else suspects[0].value
        key = key_of(item_type, value or {}, on_wire=True)
        return MessageError(f"{item_type.name} {key} cannot be written: {error.text}", hint=error.hint)

    def _is_refused(self, sender: str, message: Message, items: Sequence[Incoming], error: MessageError) -> bool:
        """Whether these items of a message alone are refused as all of it was; nothing of them is kept."""
        limited = limited_from(sender, self._node, self._structure)
        try:
            with self._store.receiving(sender, forward=self._node.forwards, limited=limited) as view:
                some = self.turning.incoming(view, Message(message.header, tuple(items)))
                apply(some, view, self.judge(sender, view))
                view.waiting()  # by now all has been written
                raise _TriedError
        except (_TriedError, ConflictError):
            return False
        except MessageError as found:
            return found.text == error.text

    def _why(
        self, error: MessageError, items: Mapping[Item, Incoming], view: ReceivingView, sender: str
    ) -> tuple[Reason, list[Item]]:
        """The reason as people understand it, and the items that the sender has to hear of."""
        text = _plain(error.text) + (f" (try: {error.hint})" if error.hint else "")
        values = {item: new.value for item, new in items.items() if new.value is not None}
        limited = limited_from(sender, self._node, self._structure)
        references = {
            target
            for item, value in values.items()
            for target in references_of(self._structure[item.type], value, self._structure)
        }
        asked = sorted(references - values.keys())
        there = view.contents(asked) if asked else {}
        missing = [item for item in asked if there.get(item) is None]
        if missing:
            names = ", ".join(f"{item.type} {item.key}" for item in missing[:3]) + (" …" if len(missing) > 3 else "")
            text += f"; not here: {names}"
        # A tombstone that stands in the way: where it came from the other way round, the sender may not have it. Of
        # what does not go everywhere it hears where it has the item: that is in this message, older than the deletion.
        asked = [item for item in missing if item.type not in limited] + sorted(references & values.keys())
        gone = [item for item, here in view.lock(asked).items() if not here.exists] if asked else []
        return Reason(text, missing), gone

    def _items(self, payload: bytes, view: ReceivingView) -> dict[Item, Incoming]:
        """The items of a message that can be read and turned; those whose type is not known here cannot."""
        found: dict[Item, Incoming] = {}
        try:
            message = self.turning.incoming_as_far(view, read_message(payload))
        except MessageError:
            return found
        for new in message.items:
            item_type = self._structure.named(new.type)
            if item_type is not None:
                try:
                    key = key_of(item_type, (new.deleted if new.value is None else new.value) or {}, on_wire=True)
                    found[Item(item_type.name, key)] = new
                except MessageError:
                    continue
        return found

    def applied(self) -> None:
        """Something was applied: what waits may have waited for it."""
        self._due = True

    def retry(self) -> bool:
        """Tries what waits, if there is any and it is time; whether anything was applied."""
        if not self._waiting or not (self._due or self._clock.now() >= self._next_retry):
            return False
        with self._turn:
            self._due = False
            self._next_retry = self._clock.now() + int(RETRY_S * 1000)
            return self._retry()

    def _retry(self) -> bool:
        parked = [one for one in self._store.parked() if not one.refused]
        self._waiting = bool(parked)
        moved = False
        progress = bool(parked)
        while progress:
            left = [one for one in parked if not self._try([one])]
            progress = len(left) < len(parked)
            moved |= progress
            parked = left
        for node in dict.fromkeys(one.node for one in parked):
            moved |= self._last_resort([one for one in parked if one.node == node])
        if moved:
            self._due = True  # what was applied may free others
        return moved

    def _last_resort(self, parked: Sequence[Parked]) -> bool:
        """One by one nothing of the link goes: those that refer to each other in one transaction, then all. Where a
        deletion stands against a reference, the reference wins, once nothing else of the link waits that may take the
        reference away. What refers to something that is gone for ever goes to the journal."""
        with self._store.receiving(parked[0].node, forward=False, limited=frozenset()) as view:
            items = {one.id: self._items(one.payload, view) for one in parked}
        tied = _tied(parked, items, self._structure)
        if any(self._try(together) for together in tied):
            return True
        if len(parked) > 1 and [list(parked)] != tied and self._try(parked):
            return True
        if parked[0].node in self._catching_up:
            return False
        return any(self._try([one], reference_wins=True) for one in self._ripe(parked, items)) or any(
            self._journal_orphans(one, items[one.id], {i for n, its in items.items() if n != one.id for i in its})
            for one in parked
        )

    def _ripe(self, parked: Sequence[Parked], items: Mapping[int, Mapping[Item, Incoming]]) -> list[Parked]:
        """Deletions that nothing else of the link will free any more: what refers to them is here, so only a newer
        state of an item that is here could. (What waits to be born frees nothing; were it waited for, two ends of a
        link that each wait for what the other has deleted would wait for each other.)"""
        deleting = [one for one in parked if any(new.value is None for new in items[one.id].values())]
        freeing = self._changes(parked[0].node, items) if deleting else {}

        def waits(one: Parked) -> bool:
            deleted = [item for item, new in items[one.id].items() if new.value is None]
            referring = {source.name for i in deleted for source, _ in self._structure.references_to(i.type)}
            return any(item.type in referring for n, its in freeing.items() if n != one.id for item in its)

        return [one for one in deleting if one.attempts >= FORCE_ATTEMPTS or not waits(one)]

    def _changes(self, node: str, items: Mapping[int, Mapping[Item, Incoming]]) -> dict[int, list[Item]]:
        """By message, items that are here and would be changed by it, if nothing newer of them waits too."""
        newest: dict[Item, Version] = {}
        for item, new in (pair for of_message in items.values() for pair in of_message.items()):
            newest[item] = max(new.version, newest.get(item, new.version))
        try:
            with self._store.receiving(node, forward=self._node.forwards, limited=frozenset()) as view:
                exist = {item for item, here in view.lock(sorted(newest)).items() if here.exists}
        except MessageError:  # a key that the database cannot even read: nothing is known of any
            exist = set(newest)
        return {
            number: [
                item
                for item, new in of_message.items()
                if new.value is not None and new.version == newest[item] and item in exist
            ]
            for number, of_message in items.items()
        }

    def _journal_orphans(self, parked: Parked, items: Mapping[Item, Incoming], coming: Collection[Item]) -> bool:
        """What refers to a tombstone waits for the node that holds the reference to bring the item back. Where the
        message is of a past life of its sender, and the present one has told all that it has, nobody will: what
        refers to it goes to the journal, and the rest of the message is applied. So does, after some time, what refers
        to an item that nobody here has ever heard of: it may have been lost with that life. `coming`: what waits too.
        """
        known = self._store.incoming(parked.node).incarnation
        if not items or known is None or known <= read_message(parked.payload).header.incarnation:
            return False
        references = {
            item: references_of(self._structure[item.type], new.value, self._structure) - items.keys()
            for item, new in items.items()
            if new.value is not None
        }
        targets = sorted({target for of_item in references.values() for target in of_item})
        if not targets:
            return False
        gone: dict[Item, Version] = {}
        # nothing is limited: to ask about an item makes nobody its holder
        try:
            with self._store.receiving(parked.node, forward=self._node.forwards, limited=frozenset()) as view:
                known_here = view.lock(targets)
        except MessageError:  # a key that the database cannot read is nobody's
            return False
        for target in targets:
            here = known_here.get(target)
            if here is not None and here.version is not None and not here.exists:
                gone[target] = here.version
            elif here is None and target not in coming and parked.attempts >= FORCE_ATTEMPTS:
                gone[target] = Version(EARLIEST, self._store.origin)
        orphans = {item: gone[t] for item, of_item in references.items() for t in sorted(of_item) if t in gone}
        return bool(orphans) and self._try([parked], orphans=orphans)

    def _try(
        self,
        parked: Sequence[Parked],
        *,
        reference_wins: bool = False,
        orphans: Mapping[Item, Version] | None = None,
        wary: bool = False,
    ) -> bool:
        """Applies them in one transaction; whether that could be done, if only for some items of a message."""
        sender = parked[0].node
        limited = limited_from(sender, self._node, self._structure)
        asked = any(one.attempts < 0 for one in parked)
        try:
            messages = [read_message(one.payload) for one in parked]
            incarnation = self._store.incoming(sender).incarnation or 0
            proves = all(one.header.incarnation >= incarnation for one in messages)
            with self._store.receiving(sender, forward=self._node.forwards, limited=limited) as view:
                own = [self.turning.incoming(view, message) for message in messages]
                message = _joined(own, self._structure)
                judge = self.judge(sender, view, parked, any_stamp=asked, wary=wary)
                decided = apply(message, view, judge, reference_wins=reference_wins, proves=proves, orphans=orphans)
                if decided.held and (len(parked) > 1 or len(decided.held) == len(message.items)):
                    raise _HeldError(_reason_of(decided.held))
                for one in parked:
                    view.unpark(one.id)
                self.hold(Letter(sender, parked[0].name, parked[0].payload), message, decided.held, view)
        except ConflictError:
            self._due = True
            return False
        except _HeldError as error:
            if len(parked) == 1:
                self._store.parked_again(parked[0].id, error.reason)
            return False
        except MessageError as error:
            if isinstance(error, FilterError) and len(parked) == 1 and self._give_up_sets(parked[0], limited):
                return True
            dangling = isinstance(error, DanglingError) and sum(len(one.items) for one in messages) > 1
            if (isinstance(error, DuplicateError) or dangling) and not wary:
                return self._try(parked, reference_wins=reference_wins, orphans=orphans, wary=True)
            if len(parked) == 1:
                self._store.parked_again(parked[0].id, self._why_again(parked[0], error, limited))
            return False
        for one in parked:
            event(log, logging.INFO, "parked message applied", node=sender, message=one.name)
        return True

    def _give_up_sets(self, parked: Parked, limited: frozenset[str]) -> bool:
        """Sets by a filter that its sender has not any more either: since it has this node's package, it offers all
        of them again by the new one (`kod install`). The other items of the message wait on."""
        if self._store.figures().links.get(parked.node, {}).get("package") != self._structure.fingerprint:
            return False
        message = read_message(parked.payload)
        fits = [n for n, item in enumerate(message.items) if not self._is_by_another_filter(item)]
        with self._store.receiving(parked.node, forward=self._node.forwards, limited=limited) as view:
            view.unpark(parked.id)
            if fits:
                letter = Letter(parked.node, parked.name, only(parked.payload, fits))
                left = [ParkedItem(i, new.version) for i, new in self._items(letter.payload, view).items()]
                view.park(letter, Reason(parked.reason), left)
        given_up = len(message.items) - len(fits)
        event(log, logging.INFO, "parked sets superseded", node=parked.node, message=parked.name, objects=given_up)
        return True

    def _is_by_another_filter(self, new: Incoming) -> bool:
        item_type = self._structure.named(new.type)
        try:
            if item_type is not None:
                key_of(item_type, (new.deleted if new.value is None else new.value) or {}, on_wire=True)
        except FilterError:
            return True
        except MessageError:
            pass
        return False

    def _why_again(self, parked: Parked, error: MessageError, limited: frozenset[str]) -> Reason:
        """Looked into again only where it may be another one by now."""
        if error.text in parked.reason and not parked.waits_for:
            return Reason(parked.reason)
        error = self.blamed(Letter(parked.node, parked.name, parked.payload), error)
        try:
            with self._store.receiving(parked.node, forward=self._node.forwards, limited=limited) as view:
                return self._why(error, self._items(parked.payload, view), view, parked.node)[0]
        except MessageError:
            return Reason(_plain(error.text))


def _plain(text: str) -> str:
    """A text that any database takes, whatever the message says that it is about."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _reason_of(held: Sequence[Held]) -> Reason:
    """The first one's, and that there are more; what any of them waits for."""
    if len(held) == 1:
        return held[0].reason
    waits_for = sorted({target for one in held for target in one.reason.waits_for})
    return Reason(f"{held[0].reason.text} (and {len(held) - 1} more items like it)", waits_for)


class _TriedError(Exception):
    """It could be written; it was only tried."""


class _HeldError(Exception):
    """Nothing of a message can be applied yet."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


def _tied(
    parked: Sequence[Parked], items: Mapping[int, Mapping[Item, Incoming]], structure: Structure
) -> list[list[Parked]]:
    """Parked messages that refer to each other's items, as far as they do; those that are tied to none are left out."""
    place = {item: one.id for one in parked for item in items[one.id]}
    leader = {one.id: one.id for one in parked}

    def find(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    for one in parked:
        for item, new in items[one.id].items():
            value = new.value
            for target in references_of(structure[item.type], value, structure) if value is not None else ():
                if target in place:
                    leader[find(one.id)] = find(place[target])
            leader[find(one.id)] = find(place[item])
    groups: dict[int, list[Parked]] = {}
    for one in parked:
        groups.setdefault(find(one.id), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def _joined(messages: Sequence[Message], structure: Structure) -> Message:
    """Several messages as one; of an item that is in more than one of them, the newest version."""
    if len(messages) == 1:
        return messages[0]
    newest: dict[Item, Incoming] = {}
    for message in messages:
        for item, incoming in keyed(message, structure).items():
            if item not in newest or newest[item].version < incoming.version:
                newest[item] = incoming
    return Message(messages[-1].header, tuple(newest.values()))

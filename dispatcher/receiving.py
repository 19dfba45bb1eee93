"""Receiving: what has come from the neighbours, in order, each message in its own transaction.

    publish ... bus ... -> [ RECEIVE -> settle -> apply ] -> capture's register, so that items travel on

Sessions of a sender one after another; messages of one session in parallel, up to the node's maximum; several senders
side by side. A message, how far the link is with it, and what it makes pending are one transaction.

A message that cannot be applied is tried once more when the others of its session are done (it may have needed them);
then it is parked, whole, with its reason (dispatcher.parking), and everything else goes on.

A sender that shows a new incarnation was restored or installed anew: it is offered everything again, and its sessions
are counted from the beginning. What comes of an earlier incarnation is data, and no proof of what the sender has.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from dispatcher.applying import apply
from dispatcher.events import event
from dispatcher.hooks import NO_HOOKS, Hooks
from dispatcher.parking import Parking
from dispatcher.parts import Parts
from dispatcher.ports import Bus, Clock, Incoming, Letter, Life, NodeView, Reason, Received, Store
from dispatcher.review import limited_from
from dispatcher.turning import Turning
from schemas.errors import ConflictError, DanglingError, DuplicateError, IdentityError, MessageError, UnavailableError
from schemas.network import NodeSettings
from schemas.stamp import Stamp, digits, from_digits
from schemas.structure import Structure
from serializers import signature
from serializers.message import Header, Message, Name, UnknownVersionError, Version, parse_name, part_of, read_message

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 60
SMALL_BYTES = 4096
"""Letters up to this size are read when they come (an end mark is one); larger ones only when they are applied."""


FORGET_AT_ONCE = 16
"""Letters that are done are made durable, and forgotten by the bus, when there is nothing else to do, or so many."""


class Slots:
    """How many messages may be applied at once; the number may change at any time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._free = threading.Condition()

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._free:
            self._limit = limit
            self._free.notify_all()

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: self._taken < max(1, self._limit))
            self._taken += 1
        try:
            yield
        finally:
            with self._free:
                self._taken -= 1
                self._free.notify()


@dataclass(slots=True)
class Arrived:
    """A letter of a link whose name has been read, and its message once that has been read too."""

    letter: Letter
    name: Name
    message: Message | None = None
    parts: Sequence[Letter] = ()
    """What the bus carried, where `letter` was put together from parts."""
    reading: Future[Message] | None = None
    """It is read beside what is done before it."""

    @property
    def carried(self) -> Sequence[Letter]:
        return self.parts or (self.letter,)

    def read(self) -> Message:
        """Raises MessageError when it is no message, or another one than its name says."""
        if self.message is None:
            self.message = self._checked() if self.reading is None else self.reading.result()
        return self.message

    def read_ahead(self, executor: Executor) -> None:
        if self.message is None and self.reading is None:
            self.reading = executor.submit(self._checked)

    def _checked(self) -> Message:
        message = read_message(self.letter.payload)
        header = message.header
        if (header.sender, header.to, header.session, header.number) != self.name:
            raise MessageError(
                f"{self.letter.name}: the header says {header.name}",
                hint="who may write to this link's folder or topic?",
            )
        return message


class Receiver:
    """The receive dispatcher of a node: one Link for each neighbour. `streams_max` 0 stops receiving."""

    def __init__(
        self,
        node: NodeView,
        structure: Structure,
        settings: NodeSettings,
        store: Store,
        bus: Bus,
        clock: Clock,
        keys: Mapping[str, bytes] | None = None,
        turning: Turning | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        """`keys`: by neighbour, with which its messages have to be signed."""
        self.slots = Slots(settings.receive_streams_max)
        self.workers = ThreadPoolExecutor(max_workers=32, thread_name_prefix="apply")
        self.parking = Parking(node, structure, settings, store, clock, turning, hooks, bus.clock_ahead_ms)
        self.links = {
            sender: Link(
                sender,
                node,
                structure,
                settings,
                store,
                bus,
                clock,
                self.slots,
                self.workers,
                self.parking,
                key=(keys or {}).get(sender),
            )
            for sender in node.neighbours
        }
        for link in store.outgoing():
            if link.wish is not None:
                self.parking.catching_up(link.node, True)
        bus.open({sender: link.incoming.position for sender, link in self.links.items()})

    @property
    def streams_max(self) -> int:
        return self.slots.limit

    @streams_max.setter
    def streams_max(self, streams_max: int) -> None:
        self.slots.limit = streams_max

    def step(self) -> bool:
        """Receives what is here, link after link; whether anything was applied."""
        moved = [link.step() for link in self.links.values()]  # every link, not only up to the first that moved
        return any(moved) | self.retry_parked()

    def retry_parked(self) -> bool:
        """Tries what is parked; what is applied of it may have made something pending for its sender."""
        moved = self.parking.retry()
        for link in self.links.values():
            link.answers |= moved
        return moved

    def close(self) -> None:
        self.workers.shutdown()


class Link:
    """Receiving from one neighbour."""

    def __init__(
        self,
        sender: str,
        node: NodeView,
        structure: Structure,
        settings: NodeSettings,
        store: Store,
        bus: Bus,
        clock: Clock,
        slots: Slots,
        workers: ThreadPoolExecutor,
        parking: Parking,
        *,
        key: bytes | None = None,
    ) -> None:
        self._key = key
        self.sender = sender
        self.node = node
        self.structure = structure
        self.settings = settings
        self.store = store
        self.bus = bus
        self.clock = clock
        self.slots = slots
        self.workers = workers
        self.parking = parking
        self.incoming: Incoming = store.incoming(sender)
        wished = any(link.wish for link in store.outgoing() if link.node == sender)
        self.answers = False
        """Something was made pending for the sender since this was last looked at."""
        self.asked = False
        """The sender wants to know at once how far its sessions have come; since this was last looked at."""
        self._heard: tuple[str | None, Stamp | None] = (None, None)
        """What the sender said last of itself (`Store.heard`)."""
        self.confirmed: Stamp | None = None
        """The last session to the sender that it has whole, as it said last."""
        self._limited = limited_from(sender, node, structure)
        self._waiting: list[Arrived] = []
        self._parts = Parts()
        self._finished: list[Letter] = []
        """Done, but perhaps not durable yet: the bus has to keep them."""
        self._in_doubt = False
        """The database or the bus was away: what is known here of how far the link is may not be so."""
        self._gap: str | None = None
        self._missed_up_to = max(self.incoming.session or 0, self.incoming.completed or 0) if wished else 0
        self._wished = wished
        """Something is missing, and the sender is not known to have begun to send it again."""
        self._begun = -1
        """The last session that the sender had opened when it began to send everything again."""
        self._caught_up = not self.incoming.catching_up
        """The last whole session did not bear `catching_up`."""

    def step(self) -> bool:
        """Applies what is here of the session that is being received; whether anything was done."""
        if self.slots.limit == 0:
            return False
        try:
            if self._in_doubt:
                self._begin_again()
            return self._step()
        except UnavailableError:
            self._in_doubt = True
            raise

    def _step(self) -> bool:
        self._take()
        if not self._waiting:
            self._forget_finished()
            return False
        session = self._waiting[0].name.session
        run = [arrived for arrived in self._waiting if arrived.name.session == session]
        self._read_ahead(session)
        moved = self._receive(session, run)
        if len(self._finished) >= FORGET_AT_ONCE:
            self._forget_finished()
        return moved

    def _read_ahead(self, session: Stamp) -> None:
        """What comes after the session is read while the database is busy with it: as much as is applied at once."""
        if self.slots.limit > 1:
            later = [arrived for arrived in self._waiting if arrived.name.session != session]
            for arrived in later[: self.slots.limit]:
                arrived.read_ahead(self.workers)

    def _begin_again(self) -> None:
        """From what the database says; the bus hands out again what it has not been told to forget."""
        self.incoming = self.store.incoming(self.sender)
        self._waiting.clear()
        self._parts = Parts()
        self._finished.clear()
        self.bus.rewind(self.sender, self.incoming.position)
        self._in_doubt = False

    def _forget_finished(self) -> None:
        if self._finished:
            self.store.flush(self.sender)
            self.bus.done(self._finished)
            self._finished = []

    # --- what has come ---

    def _take(self) -> None:
        room = self.settings.receive_portion_messages_max - len(self._waiting)
        strange: list[tuple[Letter, MessageError]] = []
        for letter in self.bus.receive(self.sender, letters_max=room) if room > 0 else ():
            try:
                self._waiting.extend(self._admit(letter))
            except MessageError as error:
                strange.append((letter, error))
        for letter, fault in strange:  # after all were admitted: putting one away may fail
            self._set_aside([letter], fault)
        gap = self.bus.gap(self.sender)
        if gap is not None and gap != self._gap:
            self._gap = gap
            self._note_gap(gap)
        self._waiting.sort(key=lambda arrived: (arrived.name.session, arrived.name.number))

    def _admit(self, letter: Letter) -> Sequence[Arrived]:
        """The message that has come with the letter: none while other parts of it have not."""
        name = parse_name(letter.name)
        if name is None or (name.sender, name.to) != (self.sender, self.node.code):
            raise MessageError(f"{letter.name!r} is not the name of a message from {self.sender} to {self.node.code}")
        if self._key is not None:
            signature.check(letter.payload, self._key)
        carried: Sequence[Letter] = ()
        part = part_of(letter.payload)
        if part is not None:
            whole = self._parts.add(name, part, letter)
            if whole is None:
                return ()
            letter, carried = whole
        arrived = Arrived(letter, name, parts=carried)
        if len(letter.payload) <= SMALL_BYTES:
            with suppress(UnknownVersionError):  # it stands in its place; applying it reports it
                arrived.read()
        return (arrived,)

    def _refuse(self, arrived: Arrived, error: MessageError) -> None:
        """It cannot be read. Its session is not whole without it: the gap shows, and it comes again."""
        self._set_aside(arrived.carried, error)
        self._waiting = [other for other in self._waiting if other is not arrived]

    def _set_aside(self, letters: Sequence[Letter], error: MessageError) -> None:
        """Out of the bus's way, and listed with what is parked, for people: it is never tried."""
        for letter in letters:
            event(log, logging.ERROR, "message set aside", node=self.sender, message=letter.name, error=error.text)
            self.parking.refuse(letter, error)
            self.bus.set_aside(letter, error.text)

    # --- one session ---

    def _receive(self, session: Stamp, run: list[Arrived]) -> bool:
        first = self._readable(run)
        if first is None:
            return True
        header = first.read().header
        if self._is_of_earlier_life(first):
            return self._receive_of_earlier_life(run)
        if header.is_end_mark and header.of == 0:
            self._heartbeat(first)
            return True
        if self._is_late(session, header.incarnation):
            return self._receive_late(run)
        self._catch_up(header)
        self._begin(session, header.incarnation, header.after)
        marks = [a for a in run if _is_end_mark(a)]
        repeated = [a for a in run if a.name.number in self.incoming.done and a not in marks]
        self._drop(repeated)
        todo = [a for a in run if a not in repeated and a not in marks]
        of = marks[0].read().header.of if marks else None
        all_here = of is not None and self.incoming.done | {a.name.number for a in todo} >= set(range(1, of + 1))
        alone = marks[0] if all_here and len(todo) == 1 else None
        self._apply_all(todo, completing=alone)
        whole = of is not None and self.incoming.done >= set(range(1, of + 1))  # some may not have been readable
        if whole:
            if alone is None:
                self._complete(marks[0])
            self._drop(marks)
            self._note_confirmed(header.incarnation, marks[0].read())
            self._hear(marks[0].read().header)
            self._completed(session, catching_up=_catching_up(marks[0].read()))
        elif marks and not todo and len(self._waiting) > len(marks):
            self._drop(marks)  # messages are missing, and a later session is here: `_begin` looks at what that says
            return True
        return bool(todo or repeated or whole)

    def _heartbeat(self, arrived: Arrived) -> None:
        """Nothing in it but where the sender stands: what it recorded has to be here by now."""
        header = arrived.read().header
        if self.incoming.incarnation is not None and header.incarnation > self.incoming.incarnation:
            self._meet(header.incarnation)
        self._give_up_parts(header.session)
        if "resync" in header.extra:
            self.store.restart_asked(self.sender, lost=False)
            self.answers = True
        self._hear_of_own_life(header)
        self._hear(header)
        self.asked |= header.extra.get("answer") is True
        self._note_confirmed(header.incarnation, arrived.read())
        catching_up = self._catch_up(header)
        self._look_for_gap(header.after, self.incoming.completed)
        known = self.incoming
        whole = max(known.completed or 0, self._missed_up_to)
        under_way = known.session is not None and known.session > whole  # what lacks of it may still come
        if not under_way and not catching_up:
            self._caught_up_now()
        self._drop([arrived])

    def _hear_of_own_life(self, header: Header) -> None:
        """The sender says what it has received of this node. Sessions that this database never opened were sent by
        it before it was restored from a backup, or are sent by another one in its name."""
        life = _life_of(header.extra.get("received"))
        if life is not None and self.store.told(life):
            raise IdentityError(
                f"{self.sender} has received session {digits(life.session)} of incarnation {life.incarnation} of this "
                "node, which this database never sent: it was restored from a backup, or it is a copy",
                hint=f"kod recover --node {self.node.code}, if it is the node's database; else stop it for good",
            )

    def _hear(self, header: Header) -> None:
        """What an end mark says of its sender: its package, and (a heartbeat's) how far this node's sessions came."""
        life = _life_of(header.extra.get("received"))
        package, received = self._heard
        if life is not None and self.store.origin.endswith(f".{life.incarnation}"):
            received = life.session
        heard = (header.package or package, received)
        if heard != self._heard:
            self.store.heard(self.sender, package=heard[0], received=heard[1])
            self._heard = heard

    def _is_of_earlier_life(self, arrived: Arrived) -> bool:
        """The sender has begun a new incarnation since."""
        message = arrived.message
        return message is not None and message.header.incarnation < (self.incoming.incarnation or 0)

    def _receive_of_earlier_life(self, run: list[Arrived]) -> bool:
        """Applied as data: versions make that safe. It says nothing of where the sender stands now. Where it asks for
        everything it may be of a database that has been rebuilt and does not know of the later life; what begins then
        tells it (`received`), on a link that is never idle too."""
        marks = [a for a in run if _is_end_mark(a)]
        if any("resync" in mark.read().header.extra for mark in marks):
            self.store.restart_asked(self.sender, lost=True)
            self.answers = True
        self._drop(marks)
        self._apply_all([a for a in run if a not in marks], completing=None)
        return True

    def _note_confirmed(self, incarnation: int, mark: Message) -> None:
        """What it does not say any more does not hold any more: it may miss something by now."""
        try:
            said = from_digits(mark.header.extra.get("confirmed", ""))
        except ValueError:
            said = None
        self.confirmed = said if incarnation == self.incoming.incarnation else None

    def _is_late(self, session: Stamp, incarnation: int) -> bool:
        """It belongs to a session that is whole already, or was given up when a later one began."""
        known = self.incoming
        newest = max(known.session or 0, (known.completed or 0) + 1)
        return known.incarnation == incarnation and session < newest

    def _receive_late(self, run: list[Arrived]) -> bool:
        """Of a whole session nothing is done again. What comes late of one that was given up is applied as data:
        versions make that safe."""
        completed = self.incoming.completed or 0
        late = [a for a in run if a.name.session > completed and not _is_end_mark(a)]
        self._drop([a for a in run if a not in late])
        self._apply_all(late, completing=None)
        return bool(run)

    def _readable(self, run: list[Arrived]) -> Arrived | None:
        """The first letter of the run that can be read; those that cannot are set aside, or parked where they are
        of a version that this program does not know yet."""
        for arrived in list(run):
            try:
                arrived.read()
                return arrived
            except UnknownVersionError as error:
                self._park(arrived, error, None)
                self._drop([arrived])
            except MessageError as error:
                self._refuse(arrived, error)
            run.remove(arrived)
        return None

    def _begin(self, session: Stamp, incarnation: int, after: Stamp | None) -> None:
        """Notes that `session` is being received. One before it that is not whole was abandoned by its sender, unless
        the new one names it as recorded: then something is missing."""
        known = self.incoming
        if (known.incarnation, known.session) == (incarnation, session):
            return
        if known.session is not None:
            self.store.abandon(self.sender, known.session, None)
        if known.incarnation is not None and incarnation > known.incarnation:
            self._meet(incarnation)
        completed = self.incoming.completed
        self.incoming = Incoming(self.sender, incarnation, session, completed=completed)
        self._give_up_parts(session)
        self._look_for_gap(after, completed)

    def _give_up_parts(self, session: Stamp) -> None:
        """What comes is of this session: what earlier ones have not brought whole is lost, or was abandoned."""
        self._finished += self._parts.give_up(session)

    def _meet(self, incarnation: int) -> None:
        """A new incarnation of the sender: it was restored, or installed anew, and may lack anything. Stamps of its
        earlier sessions say nothing about those to come."""
        event(log, logging.WARNING, "new incarnation", node=self.sender, incarnation=incarnation)
        self.store.restart_asked(self.sender, lost=True)
        self.store.new_incarnation(self.sender, incarnation)
        self.incoming = Incoming(self.sender, incarnation)
        self._missed_up_to, self._begun = 0, -1
        self.answers = True

    def _look_for_gap(self, after: Stamp | None, completed: Stamp | None) -> None:
        """A session that the sender recorded is not here whole. Said once for each."""
        if after is None or after <= max(completed or 0, self._missed_up_to):
            return
        self._missed_up_to = after
        came = f"whole ones came up to {digits(completed)}" if completed is not None else "none came whole"
        self._note_gap(f"sessions up to {digits(after)} were sent, {came}")

    def _note_gap(self, text: str) -> None:
        """Something was sent and is lost; what comes is applied all the same, versions make that safe."""
        event(log, logging.ERROR, "gap", node=self.sender, text=text)
        self.store.link_fault(self.sender, f"gap: {text}; {self.sender} is asked to send everything again")
        self.store.wish(self.sender, text)
        self._wished = True
        self.parking.catching_up(self.sender, True)  # what is missing may be what frees a deletion
        self.answers = True

    def _apply_all(self, todo: Sequence[Arrived], *, completing: Arrived | None) -> None:
        """Applies messages of one session in parallel, the largest first; what cannot be applied is parked."""
        failed = self._apply_parallel(todo, completing)
        wary = any(isinstance(error, DuplicateError | DanglingError) for _, error in failed)
        if failed and (len(failed) < len(todo) or wary):  # it may have needed what others of the session brought
            failed = self._apply_parallel([arrived for arrived, _ in failed], completing, wary=wary)
        for arrived, error in failed:
            if arrived.message is None and not isinstance(error, UnknownVersionError):
                self._refuse(arrived, error)
            else:
                self._park(arrived, self.parking.blamed(arrived.letter, error), completing)
                self._done([arrived])
        if todo:
            self.parking.applied()

    def _apply_parallel(
        self, todo: Sequence[Arrived], completing: Arrived | None, *, wary: bool = False
    ) -> list[tuple[Arrived, MessageError]]:
        """`wary`: holds items whose unique values others here have, or whose references lead nowhere
        (dispatcher.applying)."""
        ordered = sorted(todo, key=lambda arrived: -len(arrived.letter.payload))
        if len(ordered) == 1 or self.slots.limit <= 1:
            outcomes = [self._try(arrived, completing, wary) for arrived in ordered]
        else:
            outcomes = list(self.workers.map(lambda arrived: self._try(arrived, completing, wary), ordered))
        failed = []
        for arrived, error in zip(ordered, outcomes, strict=True):
            if error is None:
                self._done([arrived])
            else:
                failed.append((arrived, error))
        return failed

    def _try(self, arrived: Arrived, completing: Arrived | None, wary: bool) -> MessageError | None:
        """None when the message is applied."""
        with self.slots.one():
            attempt = 1
            while True:
                try:
                    self._apply(arrived, completing, wary)
                    return None
                except MessageError as error:
                    return error
                except ConflictError as error:
                    if attempt >= ATTEMPTS_MAX:
                        return MessageError(error.text, hint=error.hint)
                    self.clock.wait(random.uniform(0.001, 0.02) * min(attempt, 10))  # noqa: S311 - jitter
                    attempt += 1

    def _apply(self, arrived: Arrived, completing: Arrived | None, wary: bool) -> None:
        with self.store.receiving(self.sender, forward=self.node.forwards, limited=self._limited) as view:
            message = self.parking.turning.incoming(view, arrived.read())
            header = message.header
            earlier = self._is_of_earlier_life(arrived)
            decided = apply(message, view, self.parking.judge(self.sender, view, wary=wary), proves=not earlier)
            self.parking.hold(arrived.letter, message, decided.held, view)
            oldest = _live_since(message)
            received = self._received(arrived, header.incarnation, completing)
            end_to_end_ms = None if oldest is None else max(0, self.clock.now() - oldest)
            if not earlier:
                view.received(
                    replace(received, items=len(message.items), rejected=decided.rejected, end_to_end_ms=end_to_end_ms)
                )
        self.answers |= bool(decided.answers or decided.renewed) or earlier
        event(
            log,
            logging.DEBUG,
            "message applied",
            message=header.name,
            objects=len(message.items),
            rejected=decided.rejected,
            collisions=len(decided.collisions),
        )

    def _received(self, arrived: Arrived, incarnation: int, completing: Arrived | None) -> Received:
        return Received(
            node=self.sender,
            incarnation=incarnation,
            session=arrived.name.session,
            number=arrived.name.number,
            completes=completing is not None,
            position=completing.letter.position if completing is not None else None,
            size_bytes=len(arrived.letter.payload),
        )

    def _complete(self, mark: Arrived) -> None:
        """All messages are applied and the end mark is here: the session is whole."""
        with self.store.receiving(self.sender, forward=self.node.forwards, limited=self._limited) as view:
            view.received(self._received(mark, mark.read().header.incarnation, mark))

    def _catch_up(self, header: Header) -> bool:
        """Whether the sender sends what was there before. Where it began with that later than with what is missing
        here, it need not be asked any more: that covers whatever it sent until then, and nothing later."""
        if header.extra.get("catching_up") is not True:
            return False
        if self._caught_up:
            self._caught_up = False
            self.parking.catching_up(self.sender, True)
        begun = -1
        with suppress(ValueError):
            begun = from_digits(header.extra.get("catching_up_since"))  # type: ignore[arg-type]  # it may be anything
        if begun > self._begun:
            self._begun = begun
            if begun >= self._missed_up_to:
                self._missed_up_to, self._wished = begun, False
                self.store.wish(self.sender, None)
        return True

    def _caught_up_now(self) -> None:
        """What was missing has been sent again."""
        if not self._caught_up and not self._wished:
            self._caught_up = True
            self.parking.catching_up(self.sender, False)
            self.parking.came_again(self.sender, Stamp(self._begun))
            self.store.link_fault(self.sender, None)

    def _park(self, arrived: Arrived, error: MessageError, completing: Arrived | None) -> None:
        """Keeps the message, whole, with what stands in its way; as far as the link goes it is received."""
        try:
            reason = self._keep(arrived, error, completing, look=True)
        except MessageError:
            reason = self._keep(arrived, error, completing, look=False)
        self.answers = True
        if reason is not None:
            event(
                log,
                logging.WARNING,
                "message parked",
                node=self.sender,
                message=arrived.letter.name,
                reason=reason.text,
            )

    def _keep(self, arrived: Arrived, error: MessageError, completing: Arrived | None, *, look: bool) -> Reason | None:
        with self.store.receiving(self.sender, forward=self.node.forwards, limited=self._limited) as view:
            reason = self.parking.park(arrived.letter, error, view, look=look)
            if not self._is_of_earlier_life(arrived):
                view.received(self._received(arrived, self.incoming.incarnation or 0, completing))
        return reason

    def _completed(self, session: Stamp, *, catching_up: bool) -> None:
        self.incoming = Incoming(self.sender, self.incoming.incarnation, completed=session)
        if not catching_up:
            self._caught_up_now()
        event(log, logging.INFO, "session received", node=self.sender, session=digits(session))

    def _done(self, arrived: Sequence[Arrived]) -> None:
        """These are applied, or parked."""
        for one in arrived:
            if self.incoming.session == one.name.session:  # else it came late, of a session that was given up
                self.incoming = replace(self.incoming, done=self.incoming.done | {one.name.number})
        self._drop(arrived)

    def _drop(self, arrived: Sequence[Arrived]) -> None:
        """These are done: the bus may forget them once that is durable."""
        if arrived:
            self._finished += [letter for a in arrived for letter in a.carried]
            gone = {id(a) for a in arrived}
            self._waiting = [a for a in self._waiting if id(a) not in gone]


def _live_since(message: Message) -> Stamp | None:
    """The stamp of the oldest change in it; None where it bears none: what is sent again, or was there before, says
    nothing of how long a change takes."""
    said = message.header.extra.get("live_since", "")
    if _catching_up(message) or said is None:
        return None
    if said:
        with suppress(ValueError):
            return from_digits(said)
    oldest = min((i.version.stamp for i in message.items), default=None)
    if oldest is None or oldest >= message.header.incarnation * 1000:
        return oldest
    return min((i.version.stamp for i in message.items if _is_of_its_life(i.version)), default=None)


def _is_of_its_life(version: Version) -> bool:
    """Else the row was there before, and got its stamp from a date."""
    return version.stamp >= int(version.origin.partition(".")[2]) * 1000


def _catching_up(message: Message) -> bool:
    return message.header.extra.get("catching_up") is True


def _is_end_mark(arrived: Arrived) -> bool:
    """End marks are small: they were read when they came."""
    return arrived.message is not None and arrived.message.header.is_end_mark


def _life_of(said: object) -> Life | None:
    """What an end mark's `received` says; None where it says nothing that this program understands."""
    if not isinstance(said, dict) or not isinstance(said.get("incarnation"), int):
        return None
    try:
        return Life(said["incarnation"], from_digits(str(said.get("session"))))
    except ValueError:
        return None

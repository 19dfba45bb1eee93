"""Delivery: parcels to the bus, and T2 once it has acknowledged them.

    capture -> [ select -> review -> complete -> group -> split -> PUBLISH ] -> receive

Each neighbour has one sequence of parcels. While one is under way the sender may prepare the next, as if it had
arrived (`Plan`); if it does not arrive, what was prepared upon it is left out, and all of that is selected again. So a
neighbour that cannot be reached holds up nobody else.

A parcel that leaves more behind than a session, a position and how far a history is (items ahead of their turn, pending
ones, holders) is recorded before anything is prepared after it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace

from dispatcher.events import event
from dispatcher.history import cursor_after, joined_after
from dispatcher.ports import Bus, Clock, History, Letter, Outgoing, Sent, Store
from schemas.errors import InvariantError, KodError, MessageError, UnavailableError
from schemas.stamp import Stamp, digits

log = logging.getLogger(__name__)

RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0)
"""How long a neighbour that could not be reached is left alone, by failures in a row."""

FOLLOWED_ITEMS_MIN = 500
"""A parcel of so many items is followed by the next while it is on its way."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """All letters of a step to one addressee, and what is to be recorded when they are acknowledged."""

    letters: Sequence[Letter]
    sent: Sent
    streams: int = 0
    holds: bool = False
    """The addressee has been noted as a holder of something in it."""

    @property
    def only_moves(self) -> bool:
        """Nothing is recorded of it but its session, and how far the neighbour, or a history, has been served."""
        sent = self.sent
        return not (self.holds or sent.ahead or sent.settled or sent.deferred)


@dataclass(eq=False, slots=True)
class Flight:
    """A parcel that is under way."""

    parcel: Parcel
    started: Stamp
    before: Flight | None
    """The one that has to arrive first."""
    landing: Future[None] | None = None
    acknowledged: bool = False
    lost: bool = False
    error: Exception | None = None
    """Why it could not be recorded."""

    @property
    def may_be_followed(self) -> bool:
        """The next may be prepared. Behind a small one that is still on its way that would only make more and smaller
        sessions than the receiver can take in the same time."""
        return self.parcel.only_moves and (self.acknowledged or self.parcel.sent.items >= FOLLOWED_ITEMS_MIN)


@dataclass(frozen=True, slots=True)
class Plan:
    """The links as they will be when what is under way has arrived."""

    coming: Mapping[str, Sent]
    flying: frozenset[str]
    """Neighbours to whom something is under way."""
    busy: frozenset[str]
    """Those of them for whom nothing can be prepared yet."""
    losses: Mapping[str, int]

    def of(self, link: Outgoing) -> Outgoing:
        sent = self.coming.get(link.node)
        if sent is None:
            return link
        sessions = [stamp for stamp in (link.last_session, sent.stamp) if stamp is not None]
        return replace(
            link,
            position=max(link.position, sent.position),
            last_session=max(sessions) if sessions else None,
            joined=joined_after(link.joined, sent.history),
        )

    def of_history(self, cursor: History) -> History:
        sent = self.coming.get(cursor.node)
        return cursor if sent is None else cursor_after(cursor, sent.history)


class Delivery:
    """The last part of sending: at once, or, with an executor, beside the sender (`publish_aside`)."""

    def __init__(self, store: Store, bus: Bus, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._executor: Executor | None = None
        self._landed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._recording = threading.Lock()
        self._flights: dict[str, list[Flight]] = {}
        self._arrived: list[Flight] = []
        """Acknowledged, and not recorded yet."""
        self._losses: dict[str, int] = {}
        self._waited_for: dict[str, bool] = {}
        """Neighbours that were passed over because something was under way to them; whether all of it has to land."""
        self._failure: BaseException | None = None
        self.unreachable: dict[str, str] = {}
        """Why a neighbour could not be reached the last time."""
        self.served: set[str] = set()
        """Neighbours that got a session since this was cleared."""
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, int] = {}

    def publish_aside(self, executor: Executor, landed: Callable[[], None]) -> None:
        """Publishes in the executor's threads (two for each neighbour) from now on. `landed` is called when a neighbour
        that was passed over may be served again."""
        self._executor, self._landed = executor, landed

    # --- before a step ---

    def check(self) -> None:
        """Raises the fault of ours that ended a flight."""
        if self._failure is not None:
            raise self._failure

    def plan(self) -> Plan:
        """To be asked for before the links are read: then what is recorded meanwhile does no harm."""
        now = self._clock.now()
        with self._lock:
            self._not_before = {node: moment for node, moment in self._not_before.items() if now < moment}
            flights = {node: its for node, its in self._flights.items() if its}
            busy = {node for node, its in flights.items() if _is_busy(its)}
            return Plan(
                {node: its[-1].parcel.sent for node, its in flights.items()},
                frozenset(flights),
                frozenset(busy | self._not_before.keys()),
                dict(self._losses),
            )

    def wait_for(self, node: str, *, all_landed: bool = False) -> None:
        """The neighbour is passed over; `landed` is called when it may be served again, or nothing is under way to it
        any more."""
        with self._lock:
            flights = self._flights.get(node, ())
            waits = bool(flights) if all_landed else _is_busy(flights)
            if waits:
                self._waited_for[node] = all_landed or self._waited_for.get(node, False)
        if not waits and node not in self._not_before:
            self._landed()

    def retry_due(self) -> bool:
        now = self._clock.now()
        with self._lock:
            return any(now >= moment for moment in self._not_before.values())

    # --- on its way ---

    def hand_over(self, parcels: Sequence[Parcel], plan: Plan, started: Stamp) -> bool:
        """Publishes and records, now or aside; whether any of it arrived, or is on its way. `started`: when the work
        on it began."""
        if self._executor is not None:
            launched = [self._launch(self._executor, parcel, plan, started) for parcel in parcels]
            return any(launched)
        arrived = [parcel for parcel in parcels if self.publish(parcel.sent.node, parcel.letters)]
        self._record([(parcel, started) for parcel in arrived])
        return bool(arrived)

    def publish(self, node: str, letters: Sequence[Letter]) -> bool:
        """Whether every letter is acknowledged; a neighbour that cannot be reached is left alone for a while."""
        started = self._clock.now()
        try:
            if letters:
                self._bus.publish(node, letters)
        except (UnavailableError, MessageError) as error:  # away, or a message that the bus does not take
            retry_s = self._leave_alone(node, started)
            self.unreachable[node] = error.text
            facts = {"to": node, "retry_in_s": retry_s, "error": error.text, "hint": error.hint}
            event(log, logging.WARNING, "bus unavailable", **facts)
            return False
        with self._lock:
            for state in (self._failures, self._not_before, self.unreachable):
                state.pop(node, None)
        return True

    def _leave_alone(self, node: str, since: Stamp) -> float:
        with self._lock:
            failures = self._failures[node] = self._failures.get(node, 0) + 1
            retry_s = RETRY_S[min(failures, len(RETRY_S)) - 1]
            self._not_before[node] = since + int(retry_s * 1000)
        return retry_s

    def _launch(self, executor: Executor, parcel: Parcel, plan: Plan, started: Stamp) -> bool:
        node = parcel.sent.node
        with self._lock:
            if self._losses.get(node, 0) != plan.losses.get(node, 0):  # it was prepared upon what did not arrive
                return False
            flights = self._flights.setdefault(node, [])
            flight = Flight(parcel, started, flights[-1] if flights else None)
            flights.append(flight)
            flight.landing = executor.submit(self._fly, flight)
        return True

    def _fly(self, flight: Flight) -> None:
        node = flight.parcel.sent.node
        try:
            flight.lost = not (self._clear(flight) and self.publish(node, flight.parcel.letters))
            if not flight.lost:
                self._note_acknowledged(flight)
                self._record_with_others(flight)
        except InvariantError as fault:
            flight.lost, self._failure = True, fault
        except KodError as error:  # the database is away, say: what is not recorded goes out again
            flight.lost = True
            retry_s = self._leave_alone(node, self._clock.now())
            event(log, logging.WARNING, "session not recorded", to=node, retry_in_s=retry_s, error=error.text)
        except BaseException as fault:
            flight.lost, self._failure = True, fault
            raise
        finally:
            self._land(flight)

    def _clear(self, flight: Flight) -> bool:
        """Whether the one before it has arrived."""
        before, flight.before = flight.before, None
        if before is None or before.landing is None:
            return True
        wait([before.landing])
        return not before.lost

    def _note_acknowledged(self, flight: Flight) -> None:
        with self._lock:
            flight.acknowledged = True
            asked = self._is_asked_for(flight.parcel.sent.node)
        if asked:
            self._landed()

    def _is_asked_for(self, node: str) -> bool:
        """Whether somebody waits for what may be done now. Takes the note away."""
        flights = self._flights.get(node, ())
        if node not in self._waited_for or (bool(flights) if self._waited_for[node] else _is_busy(flights)):
            return False
        del self._waited_for[node]
        return True

    def _land(self, flight: Flight) -> None:
        node = flight.parcel.sent.node
        with self._lock:
            self._flights[node].remove(flight)
            if flight.lost:
                self._losses[node] = self._losses.get(node, 0) + 1
            asked = self._is_asked_for(node)
        if asked or flight.lost:
            self._landed()

    # --- T2 ---

    def _record_with_others(self, flight: Flight) -> None:
        """Parcels to several neighbours that arrive at once are recorded together."""
        with self._lock:
            self._arrived.append(flight)
        with self._recording:
            with self._lock:
                together, self._arrived = self._arrived, []
            try:
                self._record([(one.parcel, one.started) for one in together])
            except Exception as error:
                for one in together:
                    one.error = error
        if flight.error is not None:
            raise flight.error

    def _record(self, arrived: Sequence[tuple[Parcel, Stamp]]) -> None:
        now = self._clock.now()
        if arrived:
            self._store.record_sent([replace(parcel.sent, took_ms=now - started) for parcel, started in arrived])
        for parcel, _ in arrived:
            if parcel.sent.stamp is not None:
                self.served.add(parcel.sent.node)
                _say(parcel, parcel.sent.stamp)


def _is_busy(flights: Sequence[Flight]) -> bool:
    return len(flights) > 1 or any(not flight.may_be_followed for flight in flights)


def _say(parcel: Parcel, session: Stamp) -> None:
    sent = parcel.sent
    event(
        log,
        logging.INFO,
        "session sent",
        to=sent.node,
        session=digits(session),
        streams=parcel.streams,
        messages=sent.messages,
        objects=sent.items,
        size_bytes=sent.size_bytes,
    )

"""Delivery beside the sender: what may overtake what, and what becomes of what does not arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.delivery import FOLLOWED_ITEMS_MIN, Delivery, Parcel
from dispatcher.ports import Letter, Outgoing, Sent
from schemas.errors import ConflictError, InvariantError, UnavailableError
from schemas.stamp import Stamp

WAIT_S = 20


class StandingClock:
    def now(self) -> Stamp:
        return Stamp(1000)

    def wait(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


class Gates:
    """A bus and a store in one: a neighbour's letters pass when its gate is opened, or fail."""

    def __init__(self) -> None:
        self.opened = {"01": threading.Semaphore(0), "02": threading.Semaphore(0)}
        self.away: set[str] = set()
        self.story: list[tuple[str, str, int | None]] = []
        self.fault: Exception | None = None
        self.holding = threading.Lock()

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        assert self.opened[to].acquire(timeout=WAIT_S)
        if to in self.away:
            raise UnavailableError("away")
        self.story.append(("published", to, None))

    def record_sent(self, sent: Any) -> None:
        if self.fault is not None:
            raise self.fault
        with self.holding:
            self.story.extend(("recorded", one.node, one.position) for one in sent)


class Aside:
    def __init__(self) -> None:
        self.gates = Gates()
        self.woken = threading.Semaphore(0)
        self.executor = ThreadPoolExecutor(4)
        self.delivery = Delivery(self.gates, self.gates, StandingClock())  # type: ignore[arg-type]  # only what is asked of them
        self.delivery.publish_aside(self.executor, self.woken.release)

    def hand_over(self, *parcels: Parcel) -> bool:
        return self.delivery.hand_over(parcels, self.delivery.plan(), Stamp(1000))

    def land(self) -> list[tuple[str, str, int | None]]:
        self.executor.shutdown()
        return self.gates.story


@pytest.fixture
def aside() -> Iterator[Aside]:
    made = Aside()
    yield made
    for gate in made.gates.opened.values():
        gate.release(10)
    made.executor.shutdown()


def parcel(node: str, position: int, *, items: int = FOLLOWED_ITEMS_MIN) -> Parcel:
    return Parcel([Letter(node, f"{node}-{position}", b"{}")], Sent(node, position, Stamp(position), items=items))


def outgoing(node: str) -> Outgoing:
    return Outgoing(node, 0, None, 0, 0)


def test_the_next_is_prepared_while_the_last_is_under_way(aside: Aside) -> None:
    """Else the sender would wait for the bus, and the bus for the sender."""
    assert aside.hand_over(parcel("01", 5))
    planned = aside.delivery.plan().of(outgoing("01"))
    assert (planned.position, planned.last_session) == (5, 5)
    assert "01" not in aside.delivery.plan().busy
    assert aside.hand_over(parcel("01", 9))
    assert "01" in aside.delivery.plan().busy  # one is enough
    aside.gates.opened["01"].release(2)
    assert aside.land() == [
        ("published", "01", None),
        ("recorded", "01", 5),
        ("published", "01", None),
        ("recorded", "01", 9),
    ]


def test_a_small_one_is_followed_when_the_bus_has_it(aside: Aside) -> None:
    """Sooner there would be more and smaller sessions than the receiver can take; later, the sender would wait for its
    own database."""
    aside.hand_over(parcel("01", 5, items=1))
    assert "01" in aside.delivery.plan().busy
    aside.delivery.wait_for("01")
    aside.gates.holding.acquire()  # the database takes its time
    aside.gates.opened["01"].release()
    assert aside.woken.acquire(timeout=WAIT_S)
    plan = aside.delivery.plan()
    assert "01" not in plan.busy
    assert plan.of(outgoing("01")).position == 5
    aside.gates.holding.release()
    assert aside.land() == [("published", "01", None), ("recorded", "01", 5)]


def test_what_was_prepared_upon_what_is_lost_is_left_out(aside: Aside) -> None:
    """It names a session in `after` that does not exist; and what was lost would never be sent."""
    aside.gates.away.add("01")
    aside.hand_over(parcel("01", 5))
    aside.hand_over(parcel("01", 9))
    stale = aside.delivery.plan()
    aside.gates.opened["01"].release()
    assert aside.woken.acquire(timeout=WAIT_S)
    assert aside.woken.acquire(timeout=WAIT_S)
    aside.gates.away.clear()
    assert not aside.delivery.hand_over([parcel("01", 12)], stale, Stamp(1000))
    assert aside.delivery.plan().of(outgoing("01")).position == 0
    assert "01" in aside.delivery.plan().busy  # it is left alone for a while
    assert aside.land() == []


def test_a_neighbour_that_hangs_holds_up_no_other(aside: Aside) -> None:
    """The sender goes on for 02 while 01 takes nothing."""
    aside.hand_over(parcel("01", 5), parcel("02", 5))
    aside.gates.opened["02"].release(2)
    while aside.delivery.plan().of(outgoing("02")).position != 0:  # until it has landed
        pass
    assert aside.hand_over(parcel("02", 9))
    aside.gates.opened["01"].release()
    recorded = [line for line in aside.land() if line[0] == "recorded"]
    assert sorted(recorded) == [("recorded", "01", 5), ("recorded", "02", 5), ("recorded", "02", 9)]
    assert recorded.index(("recorded", "02", 5)) < recorded.index(("recorded", "01", 5))


def test_what_leaves_more_than_a_position_is_recorded_first(aside: Aside) -> None:
    """Pending and early items are not known before that: the next session would send them again."""
    aside.hand_over(replace(parcel("01", 5), holds=True))
    assert "01" in aside.delivery.plan().busy
    aside.gates.opened["01"].release()
    assert aside.land() == [("published", "01", None), ("recorded", "01", 5)]


def test_who_was_passed_over_is_looked_at_again(aside: Aside) -> None:
    """The changes are not in the log any more: without being woken the sender would not come back for them."""
    aside.hand_over(parcel("01", 5, items=1))
    aside.delivery.wait_for("01")
    assert not aside.woken.acquire(blocking=False)
    aside.gates.opened["01"].release()
    assert aside.woken.acquire(timeout=WAIT_S)
    aside.delivery.wait_for("01")  # nothing is under way any more
    assert aside.woken.acquire(timeout=WAIT_S)


def test_what_could_not_be_recorded_goes_out_again(aside: Aside) -> None:
    """The database was away for a moment: that is no reason to end, nor to forget."""
    aside.gates.fault = ConflictError("again")
    aside.hand_over(parcel("01", 5))
    aside.gates.opened["01"].release()
    assert aside.woken.acquire(timeout=WAIT_S)
    aside.delivery.check()
    assert aside.delivery.plan().of(outgoing("01")).position == 0


def test_a_fault_of_ours_ends_the_sender(aside: Aside) -> None:
    """In silence it would only stop sending."""
    aside.gates.fault = InvariantError("broken")
    aside.hand_over(parcel("01", 5))
    aside.gates.opened["01"].release()
    assert aside.woken.acquire(timeout=WAIT_S)
    with pytest.raises(InvariantError):
        aside.delivery.check()

"""Links that miss something: the wish to be sent everything again, and the restart that answers it."""

from __future__ import annotations

from dispatcher.ports import Letter, Outgoing, Reason, Sent
from schemas.stamp import Stamp
from serializers.keys import Item
from tests.contract.store_world import CUSTOMER, StoreWorld

ALICE, BOB = Item(CUSTOMER, '["A"]'), Item(CUSTOMER, '["B"]')


def link(world: StoreWorld, node: str) -> Outgoing:
    return next(link for link in world.store.outgoing() if link.node == node)


def test_a_restarted_link_is_offered_everything_and_only_that_link(world: StoreWorld) -> None:
    """What was lost on the bus must come again, and nobody else must get it twice."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    world.serve("01", "02")
    before = link(world, "02").position
    world.store.restart_asked("01", lost=False)
    assert link(world, "01").restart
    with world.store.sending() as view:
        opened = view.open_session(Stamp(9))
        unrecorded = view.open_session(Stamp(20))
    world.store.record_sent([Sent("01", before, opened)])
    world.store.restart("01")
    assert not link(world, "01").restart
    assert link(world, "01").catching_up
    joined = link(world, "01").joined
    assert joined is not None
    assert (joined.mark, joined.session) == (before, unrecorded), "one that was opened may have gone"
    assert (link(world, "02").position, link(world, "02").joined) == (before, None)
    (cursor,) = world.store.histories()
    with world.store.sending() as view:
        view.fold()
        portion = view.history(cursor, link(world, "01"), limited=frozenset(), items_max=10)
    assert {change.item for change in portion.lacking} == {ALICE, BOB}


def test_a_neighbour_that_lost_its_life_gets_back_what_it_had_sent(world: StoreWorld) -> None:
    """A restored node may lack what it made itself; nobody else has it but its neighbours."""
    world.receive({"customer_id": "A", "name": "x"}, CUSTOMER, stamp=5)
    world.serve("01", "02")
    world.store.restart_asked("01", lost=True)
    world.store.restart_asked("01", lost=False)  # does not make the other undone
    world.store.restart("01")
    with world.store.sending() as view:
        view.fold()
        (change,) = view.portion(0, 10)
    assert (change.item, change.source) == (ALICE, None)


def test_a_wish_is_kept_until_it_is_taken_back(world: StoreWorld) -> None:
    """It outlives the daemon: what asks for something may get lost, and is asked again."""
    world.store.wish("01", "sessions are missing")
    assert link(world, "01").wish == "sessions are missing"
    assert link(world, "02").wish is None
    world.store.wish("01", None)
    assert link(world, "01").wish is None


def test_an_administrator_has_a_parked_message_tried_or_thrown_away(world: StoreWorld) -> None:
    """`kod parked retry` reaches a running daemon through the database."""
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.park(Letter("01", "01to00at20261122093015042-1.json", b"{}"), Reason("it is too early"))
    (parked,) = world.database.parked()
    assert not world.store.retry_asked()
    assert world.database.retry_parked([]) == 1
    assert world.store.retry_asked()
    world.store.parked_again(parked.id, Reason("it still is"))
    assert not world.store.retry_asked()
    assert world.database.discard_parked(parked.id)
    assert not world.database.discard_parked(parked.id)
    assert list(world.store.parked()) == []


def test_who_is_a_neighbour_no_more_is_not_waited_for(world: StoreWorld) -> None:
    """Or a node that was taken out of nodes.yaml would be behind for ever, and so would `status`."""
    world.serve("01", "02")
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.serve("01")
    assert world.store.figures().items_waiting == 1
    world.store.start(["01"])
    assert [link.node for link in world.store.outgoing()] == ["01"]
    assert world.store.figures().items_waiting == 0
    world.store.start(["01", "02"])
    assert link(world, "02").catching_up

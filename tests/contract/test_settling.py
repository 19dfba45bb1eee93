"""What settling needs of every database: parked items, values that are taken, and versions that are put back."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.ports import Letter, ParkedItem, Reason, Received, Taken, Waiting
from schemas.errors import DuplicateError, MessageError
from schemas.stamp import Stamp
from serializers.keys import Item
from serializers.message import Version
from tests.contract.store_world import CUSTOMER, FUTURE, ORDER, PRICE, StoreWorld
from tests.contract.test_store import ALICE, BOB, FIRST, customer, order

LETTER = Letter("01", "01to00at20261122093015042-1.json", b"{}")


def receiving(world: StoreWorld, sender: str = "01") -> Any:
    return world.store.receiving(sender, forward=True, limited=frozenset())


# --- parked ---------------------------------------------------------------------------------------------------------


def test_what_waits_is_known_item_by_item(world: StoreWorld) -> None:
    """So that what refers to it waits too, and a newer state takes its place."""
    waiting = ParkedItem(ALICE, Version(Stamp(7), "01.1"), apart=True)
    with receiving(world) as view:
        view.park(LETTER, Reason("two births", [ALICE, BOB]), [waiting])
        assert [one.items for one in view.waiting()] == [(waiting,)]
    with receiving(world, "02") as view:
        assert list(view.waiting()) == []
    (parked,) = world.store.parked()
    assert (parked.reason, parked.waits_for) == ("two births", (ALICE, BOB))
    world.store.parked_again(parked.id, Reason("still", [BOB]))
    assert world.store.parked()[0].waits_for == (BOB,)
    with receiving(world) as view:
        assert view.waiting() == [Waiting(parked.id, (waiting,))]
        view.unpark(parked.id)
    assert list(world.store.parked()) == []


def test_a_unique_value_that_is_taken_is_named_with_its_item(world: StoreWorld) -> None:
    """Or a person would be told of a constraint, and not which two items clash."""
    world.execute("INSERT INTO customers (customer_id, nick) VALUES ('A', 'x'), ('B', 'y'), ('C', NULL)")
    world.changes()
    values = {BOB: customer("B", nick="x"), Item(CUSTOMER, '["D"]'): customer("D", nick=None)}
    with receiving(world) as view:
        taken = view.taken(values)
        assert list(taken[BOB]) == [Taken(("nick",), ALICE)]
        assert not taken.get(Item(CUSTOMER, '["D"]'))
        assert not view.taken({ALICE: customer("A", nick="x")}).get(ALICE)  # its own


def test_a_taken_value_is_told_from_other_faults(world: StoreWorld) -> None:
    """The remedy is another one."""
    world.execute("INSERT INTO customers (customer_id, nick) VALUES ('A', 'x')")
    world.changes()
    with pytest.raises(DuplicateError):
        world.receive(customer("B", nick="x"), CUSTOMER, stamp=5)


# --- put back -------------------------------------------------------------------------------------------------------


def put_back(world: StoreWorld, item: Item, value: dict[str, Any] | None) -> None:
    world.database.restore(world.structure(), item, value)


def test_what_is_put_back_is_a_change_made_here_and_now(world: StoreWorld) -> None:
    """It wins over what it lost to, everywhere."""
    world.receive(customer("A", name="won"), CUSTOMER, stamp=FUTURE)
    world.changes()
    put_back(world, ALICE, customer("A", name="lost"))
    (change,) = world.changes()
    assert change.item == ALICE
    assert change.version == (FUTURE + 1, world.store.origin)
    assert change.source is None
    assert world.value(ALICE)["name"] == "lost"


def test_an_item_that_is_gone_by_now_is_put_back_whole(world: StoreWorld) -> None:
    """With its sections; the one that lost may have been an edit of what was deleted."""
    world.execute("INSERT INTO orders (order_id) VALUES (1)", "DELETE FROM orders")
    world.changes()
    put_back(world, FIRST, order(1, (1, 5), (2, 6), title="back"))
    assert world.changed() == {FIRST}
    assert world.value(FIRST) == order(1, (1, 5), (2, 6), title="back")


def test_a_deletion_that_lost_is_carried_out(world: StoreWorld) -> None:
    """With the rows of its sections."""
    world.execute("INSERT INTO orders (order_id) VALUES (1)", "INSERT INTO order_lines (order_id, line) VALUES (1, 1)")
    world.changes()
    put_back(world, FIRST, None)
    (change,) = world.changes()
    assert (change.item, change.gone) == (FIRST, True)
    assert world.execute("SELECT count(*) FROM order_lines") == [(0,)]
    put_back(world, FIRST, None)
    assert world.changes() == []


def test_a_record_set_is_put_back_whole(world: StoreWorld) -> None:
    """Records that it did not have go."""
    world.execute("INSERT INTO prices VALUES ('p', '2026-01-01', 'EUR', 1), ('p', '2026-01-01', 'USD', 2)")
    world.changes()
    item = Item(PRICE, '["p","2026-01-01"]')
    put_back(
        world,
        item,
        {"Filter": {"product": "p", "period": "2026-01-01"}, "Records": [{"currency": "EUR", "price": "3"}]},
    )
    assert world.changed() == {item}
    assert [(r["currency"], float(r["price"])) for r in world.value(item)["Records"]] == [("EUR", 3.0)]


def test_what_the_database_refuses_is_not_put_back(world: StoreWorld) -> None:
    """All of it or nothing, with the reason."""
    with pytest.raises(MessageError):
        put_back(world, FIRST, order(1, (1, 5), customer_id="nobody"))
    assert world.execute("SELECT count(*) FROM orders") == [(0,)]
    assert world.changes() == []
    assert Item(ORDER, "[1]") == FIRST


def test_what_has_no_column_here_is_put_back_too(world: StoreWorld) -> None:
    """It goes on to those that have one."""
    world.receive({**customer("A"), "elsewhere": 1}, CUSTOMER, stamp=FUTURE)
    world.changes()
    put_back(world, ALICE, {**customer("A", name="x"), "elsewhere": 2})
    assert world.changed() == {ALICE}
    world.start("01", "02")  # what a daemon would know when it starts
    assert world.value(ALICE) == {**customer("A", name="x"), "elsewhere": 2}


# --- tombstones -----------------------------------------------------------------------------------------------------


def test_old_tombstones_that_all_have_are_forgotten(world: StoreWorld) -> None:
    """What is newer, beyond the mark, or still on its way stays: it is needed yet."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B'), ('C')")
    world.execute("DELETE FROM customers WHERE customer_id = 'A'", "DELETE FROM customers WHERE customer_id = 'B'")
    world.serve("01", "02")
    mark = world.position
    assert world.store.purge_tombstones(mark, Stamp(5)) == 0  # younger than that
    assert world.store.purge_tombstones(0, FUTURE) == 0
    with receiving(world) as view:
        view.lock([BOB])
        view.answer_back("01", [BOB])
    with receiving(world) as view:
        view.park(LETTER, Reason("who knows what it bears"))
    assert world.store.purge_tombstones(mark, FUTURE) == 0
    with receiving(world) as view:
        view.unpark(world.store.parked()[0].id)
    assert world.store.purge_tombstones(mark, FUTURE) == 1  # B is pending
    with world.store.sending() as view:
        assert set(view.register([ALICE, BOB])) == {BOB}
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    (change,) = world.changes()
    assert (change.item, change.seen or {}, change.gone) == (ALICE, {}, False)


def test_what_was_received_whole_is_told_unless_something_of_it_waits(world: StoreWorld) -> None:
    """The neighbour forgets tombstones by it: it must not think that they are applied."""

    def told() -> Stamp | None:
        return next(link.received for link in world.store.outgoing() if link.node == "01")

    assert told() is None
    with receiving(world) as view:
        view.received(Received("01", 1, Stamp(70), 1, completes=True, position=None))
    assert told() == 70
    world.store.wish("01", "something is missing")
    assert told() is None
    world.store.wish("01", None)
    with receiving(world) as view:
        view.park(LETTER, Reason("blocked"))
    assert told() is None

"""Items between a node's own form and the wire's, over every database: what travels, what is kept, what has to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from dispatcher.ports import ReceivingView, SendingView
from dispatcher.turning import Batch
from serializers.keys import Item
from serializers.message import read_message
from tests.contract.store_world import CUSTOMER, ORDER, StoreWorld
from tests.contract.tree import Tree

ALICE, BOB = (Item(CUSTOMER, f'["{name}"]') for name in "AB")


class Shouts:
    """Names are in capitals on the wire. While `broken`, those that begin with B cannot be turned."""

    types = frozenset({CUSTOMER})

    def __init__(self) -> None:
        self.broken = False

    def outgoing(self, view: SendingView, batch: Batch) -> None:
        for one in batch.living:
            if self.broken and one.value["name"].startswith("b"):
                one.fault = f"{one.item} is not to be said aloud"
            else:
                one.value["name"] = one.value["name"].upper()

    def incoming(self, view: ReceivingView, batch: Batch) -> None:
        for one in batch.living:
            if self.broken:
                one.fault = "cannot be understood"
            else:
                one.value["name"] = one.value["name"].lower()


class Shouting:
    def __init__(self, worlds: Callable[[str], StoreWorld]) -> None:
        self.steps = {"00": Shouts(), "01": Shouts()}
        self.tree = Tree(worlds, steps=lambda code: [self.steps[code]])
        self.tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'anna'), ('B', 'bob')")

    def names(self) -> list[str]:
        return [name for (name,) in self.tree.children["01"].execute("SELECT name FROM customers ORDER BY 1")]

    def travelled(self) -> list[object]:
        items = [item for payload in self.tree.messages("01") for item in read_message(payload).items]
        return [item.value["name"] if item.value is not None else item.deleted for item in items]


@pytest.fixture
def shouting(worlds: Callable[[str], StoreWorld]) -> Iterator[Shouting]:
    made = Shouting(worlds)
    with closing(made.tree):
        yield made


def test_messages_are_in_the_wires_form_and_tables_in_the_nodes_own(shouting: Shouting) -> None:
    """Or nodes with unlike data could not exchange it."""
    tree = shouting.tree
    tree.world.execute("INSERT INTO orders (order_id, title) VALUES (1, 'quiet')")
    tree.send()
    tree.receive()
    assert shouting.travelled() == ["ANNA", "BOB"]
    assert shouting.names() == ["anna", "bob"]
    tree.world.execute("DELETE FROM customers WHERE customer_id = 'A'")
    tree.send()
    tree.receive()
    assert shouting.travelled()[2:] == [{"customer_id": "A"}]
    assert shouting.names() == ["bob"]


def test_what_cannot_be_turned_waits_alone_and_is_tried_again(shouting: Shouting) -> None:
    """One bad item must stop neither its portion nor itself for ever."""
    tree = shouting.tree
    shouting.steps["00"].broken = True
    tree.send()
    tree.receive()
    assert shouting.names() == ["anna"]
    shouting.steps["00"].broken = False
    tree.clock.ahead_ms += 31_000
    tree.send()
    tree.receive()
    assert shouting.names() == ["anna", "bob"]
    assert tree.sent("01") == {ALICE: 1, BOB: 1}


def test_a_message_that_cannot_be_turned_is_parked_until_it_can(shouting: Shouting) -> None:
    """With the reason in words; the rest goes on."""
    tree = shouting.tree
    shouting.steps["01"].broken = True
    tree.send()
    tree.world.execute("INSERT INTO order_access VALUES (1, '01')", "INSERT INTO orders (order_id) VALUES (1)")
    tree.send()
    tree.receive()
    child = tree.children["01"]
    assert shouting.names() == []
    assert child.execute("SELECT order_id FROM orders") == [(1,)]
    (parked,) = child.store.parked()
    assert "cannot be understood" in parked.reason
    shouting.steps["01"].broken = False
    tree.clock.ahead_ms = 60_000
    tree.receive()
    assert shouting.names() == ["anna", "bob"]
    assert not child.store.parked()


def test_what_refers_to_an_item_that_is_held_waits_for_it_there(shouting: Shouting) -> None:
    """No reference is broken at any moment, and nothing is lost."""
    tree = shouting.tree
    shouting.steps["00"].broken = True
    tree.world.execute(
        "INSERT INTO order_access VALUES (1, '01')", "INSERT INTO orders (order_id, customer_id) VALUES (1, 'B')"
    )
    tree.send()
    tree.receive()
    child = tree.children["01"]
    assert child.execute("SELECT order_id FROM orders") == []
    shouting.steps["00"].broken = False
    tree.clock.ahead_ms += 31_000
    tree.send()
    tree.receive()
    assert child.execute("SELECT order_id, customer_id FROM orders") == [(1, "B")]
    assert tree.sent("01")[Item(ORDER, "[1]")] == 1

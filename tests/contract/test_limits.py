"""Limits: what is large travels in pieces, what is away costs next to nothing, and nothing goes twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from dispatcher.ports import Letter
from dispatcher.sending import Sender
from serializers.keys import Item
from serializers.message import part_of, read_header
from tests.contract.store_world import CUSTOMER, StoreWorld
from tests.contract.tree import Tree

MakeTree = Callable[..., Tree]


@pytest.fixture
def make_tree(worlds: Callable[[str], StoreWorld]) -> Iterator[MakeTree]:
    with ExitStack() as stack:

        def make(**options: object) -> Tree:
            tree = Tree(worlds, **options)  # type: ignore[arg-type]
            stack.callback(tree.close)
            return tree

        yield make


def ring(tree: Tree, count: int) -> None:
    """Customers who are each other's bosses, all round."""
    with tree.world.transaction() as application:
        for n in range(count):
            boss = f"'{n - 1:04}'" if n else "NULL"
            application.execute(f"INSERT INTO customers (customer_id, name, boss) VALUES ('{n:04}', 'Ёж', {boss})")
        application.execute(f"UPDATE customers SET boss = '{count - 1:04}' WHERE customer_id = '0000'")


def counts(world: StoreWorld) -> int:
    ((count,),) = world.execute("SELECT count(*) FROM customers")
    return int(count)


def parts_of(letters: list[Letter]) -> list[Letter]:
    return [letter for letter in letters if part_of(letter.payload) is not None]


def test_a_circle_too_large_for_the_bus_travels_in_parts_and_is_applied_as_one(make_tree: MakeTree) -> None:
    """Or it could not be sent at all, or half of it would be there without the other."""
    tree = make_tree(message_bytes_max=2000)
    ring(tree, 50)
    tree.send()
    parts = parts_of(tree.bus.published["01"])
    headers = [read_header(letter.payload) for letter in parts]
    assert len(parts) > 5
    assert [(h.part, h.parts) for h in headers] == [(n, len(parts)) for n in range(1, len(parts) + 1)]
    assert {(h.session, h.number) for h in headers} == {(headers[0].session, 1)}
    assert {letter.name for letter in parts} == {headers[0].name}

    directions = tree.network.directions["00", "01"]
    late = {place: kept for place, kept in directions.items() if place >= len(parts) // 2}
    for place in late:
        del directions[place]
    tree.receive()
    assert counts(tree.children["01"]) == 0
    directions.update(late)
    tree.receive()
    assert counts(tree.children["01"]) == 50
    assert tree.world.execute("SELECT * FROM customers ORDER BY 1") == tree.children["01"].execute(
        "SELECT * FROM customers ORDER BY 1"
    )
    assert tree.children["01"].store.incoming("00").completed == headers[0].session


def test_one_item_too_large_for_the_bus_travels_in_parts(make_tree: MakeTree) -> None:
    """A file of fifty megabytes is an item like any other. It cannot be cut between items."""
    tree = make_tree(message_bytes_max=3000)
    text = 'Строка "накладной" \\ ✓ ' * 2000
    tree.world.execute(f"INSERT INTO customers (customer_id, name) VALUES ('A', '{text}')")
    tree.send()
    tree.receive()
    assert tree.children["01"].execute("SELECT name FROM customers") == [(text,)]


def test_a_receiver_that_is_killed_between_parts_begins_with_the_first(make_tree: MakeTree) -> None:
    """What it held was in memory: the bus keeps parts until the message that they make is applied."""
    tree = make_tree(message_bytes_max=2000)
    ring(tree, 50)
    tree.send()
    directions = tree.network.directions["00", "01"]
    late = {place: directions.pop(place) for place in list(directions)[3:]}
    tree.receive()
    tree.receivers["01"].close()
    tree.receivers["01"] = tree.receiver("01")
    directions.update(late)
    tree.receive()
    assert counts(tree.children["01"]) == 50


def test_a_lost_part_is_a_gap_like_a_lost_message(make_tree: MakeTree) -> None:
    """Or the circle would be missing, and nobody would say so."""
    tree = make_tree(message_bytes_max=2000)
    ring(tree, 50)
    tree.send()
    del tree.network.directions["00", "01"][2]
    tree.world.execute("INSERT INTO customers (customer_id) VALUES ('later')")
    tree.send()
    tree.receive()
    assert tree.children["01"].execute("SELECT customer_id FROM customers") == [("later",)]
    (link,) = tree.children["01"].store.outgoing()
    assert link.wish is not None
    assert tree.receivers["01"].links["00"].bus.backlog("00").messages == 0, "parts that nobody waits for lie about"


def test_a_tie_of_any_size_is_cut_over_portions_and_sessions(make_tree: MakeTree) -> None:
    """All orders of one new customer: neither one message, nor an order before its customer, nor anything twice."""
    tree = make_tree(children=["01", "02"], portion_items_max=1000, message_items_max=100)
    with tree.world.transaction() as application:
        application.execute("INSERT INTO customers (customer_id) VALUES ('new')")
        for n in range(5000):
            application.execute(f"INSERT INTO orders VALUES ({n}, 'new', 'x')")
            application.execute(f"INSERT INTO order_access VALUES ({n}, '01')")
    tree.send()
    assert set(tree.sent("01").values()) == {1}
    assert len(tree.sent("01")) == 5001
    assert list(tree.sent("02")) == [Item(CUSTOMER, '["new"]')], "nobody else has to do with it"
    assert max(payload.count(b'"#type"') for payload in tree.messages("01")) == 100
    tree.receive()
    assert tree.children["01"].execute("SELECT count(*) FROM orders") == [(5000,)]
    assert not tree.children["01"].store.parked()


def test_a_backlog_begins_with_a_small_portion(make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the receiver stands idle while thousands of items are prepared. Deletions are not put off for that: they would
    wait for what comes in the same portion."""
    monkeypatch.setattr("dispatcher.sending.PORTION_ITEMS_FIRST", 10)
    tree = make_tree(portion_items_max=40)
    tree.world.execute(*(f"INSERT INTO customers (customer_id) VALUES ('{n:04}')" for n in range(100)))
    tree.send()
    tree.world.execute(
        "DELETE FROM customers WHERE customer_id < '0005'",
        "UPDATE customers SET name = 'x' WHERE customer_id < '0025'",
        "INSERT INTO customers (customer_id) VALUES ('1000')",
    )
    tree.send()
    assert [n for payload in tree.messages("01") if (n := payload.count(b'"#type"'))] == [10, 20, 40, 30, 26]
    tree.receive()
    assert tree.children["01"].execute("SELECT count(*) FROM customers") == [(96,)]


def kept_for(tree: Tree, node: str) -> int:
    """Rows of КОД's own tables that there are because of a neighbour."""
    prefix = "kod." if tree.world.dialect == "postgresql" else "kod_"
    tables = [f"{prefix}{name}" for name in ("pending", "ahead", "presence")]
    return sum(int(tree.world.execute(f"SELECT count(*) FROM {t} WHERE node = '{node}'")[0][0]) for t in tables)


def test_a_neighbour_that_is_never_reached_delays_no_other_and_costs_a_row_an_item_at_most(make_tree: MakeTree) -> None:
    """However often its items change: what is away for ever must not fill the database."""
    tree = make_tree(children=["01", "02"], receiving=["01"])
    tree.network.unreachable.add(("00", "02"))
    tree.world.execute(
        *(f"INSERT INTO customers (customer_id) VALUES ('C{n}')" for n in range(20)),
        *(f"INSERT INTO orders VALUES ({n}, 'C{n}', '')" for n in range(20)),
        *(f"INSERT INTO order_access VALUES ({n}, '{node}')" for n in range(20) for node in ("01", "02")),
    )
    for change in range(10):
        tree.world.execute(f"UPDATE customers SET name = '{change}'", f"UPDATE orders SET title = '{change}'")
        tree.send()
        tree.receive()
        tree.clock.ahead_ms += 60_000  # and each time it is tried again, in vain
        assert tree.children["01"].execute("SELECT DISTINCT name, title FROM customers, orders") == [(str(change),) * 2]
    assert tree.world.execute("SELECT count(*) FROM customers") == [(20,)]
    assert kept_for(tree, "02") <= 40
    assert not tree.sent("02")
    assert set(tree.sent("01").values()) == {10}

    tree.network.unreachable.clear()
    tree.clock.ahead_ms += 60_000
    tree.send()
    assert set(tree.sent("02").values()) == {1}, "what changed ten times meanwhile goes once"
    assert len(tree.sent("02")) == 40


def test_what_goes_to_forty_nodes_is_read_and_serialised_once(
    make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or forty shops would cost forty times the work of one."""
    children = [f"{n:02}" for n in range(1, 41)]
    tree = make_tree(children=children, receiving=[], message_items_max=10)
    tree.world.execute(
        *(f"INSERT INTO customers (customer_id, name) VALUES ('C{n}', 'x')" for n in range(30)),
        *(f"INSERT INTO orders VALUES ({n}, 'C{n}', 'y')" for n in range(30)),
        *(f"INSERT INTO order_access VALUES ({n}, '{child}')" for n in range(30) for child in children),
    )
    read: list[Item] = []
    texts_of = Sender._texts

    def counted(self, view, changes, texts):  # type: ignore[no-untyped-def]
        read.extend(change.item for change in changes)
        return texts_of(self, view, changes, texts)

    monkeypatch.setattr(Sender, "_texts", counted)
    tree.send()
    assert len(read) == 60
    assert len(set(read)) == 60
    for child in children:
        assert len(tree.sent(child)) == 60
        assert set(tree.sent(child).values()) == {1}
    bodies = [sorted(payload.partition(b'"body":')[2] for payload in tree.messages(child)) for child in children]
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.postgresql
@pytest.mark.parametrize("worlds", ["postgresql"], indirect=True)
def test_ten_thousand_transactions_that_stay_open_arrive_exactly_once(make_tree: MakeTree) -> None:
    """Counted at the bus: the plain reading of a boundary would lose what commits behind it, a second look would send
    it twice. Each is open over a boundary at least, some over five hundred; every seventh is rolled back."""
    tree = make_tree()
    chance = random.Random(1)
    insert = "INSERT INTO customers (customer_id, name) VALUES ('{0}', 'x')"
    with ExitStack() as stack:
        long = [stack.enter_context(closing(tree.world.connect())) for _ in range(10)]
        connections = [stack.enter_context(closing(tree.world.connect())) for _ in range(40)]
        for n, connection in enumerate(long):
            connection.execute("BEGIN")
            connection.execute(insert.format(f"long {n}"))
        numbers = iter(range(10_000))
        for _ in range(500):
            for connection in chance.sample(connections, 20):  # with what it wrote before the last boundary
                n = next(numbers)
                connection.execute("ROLLBACK" if n % 7 == 3 else "COMMIT")
                connection.execute("BEGIN")
                connection.execute(insert.format(n))
            tree.send()
        for n, connection in enumerate([*long, *connections]):
            tree.send()
            connection.execute("ROLLBACK" if n % 7 == 3 else "COMMIT")
        tree.send()
    there = {key for (key,) in tree.world.execute("SELECT customer_id FROM customers")}
    counts = tree.sent("01")
    assert len(there) > 8_000
    assert "long 0" in there
    assert {item.key for item in counts} == {f'["{key}"]' for key in there}
    assert set(counts.values()) == {1}, "something was sent twice"
    assert tree.world.store.figures().missed > 4_000
    tree.receive()
    assert {key for (key,) in tree.children["01"].execute("SELECT customer_id FROM customers")} == there
    assert tree.children["01"].store.figures().links["00"]["rejected_items"] == 0

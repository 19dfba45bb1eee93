"""What people and clocks do wrong, in a whole network: each fault is named at both ends of the link where it shows,
holds up nothing else, and heals as soon as somebody mends it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dispatcher.ports import NodeView
from dispatcher.purging import Purging
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.network import TypeSettings
from schemas.topology import Topology
from tests.cluster.simulation import SimNode, World

TABLES = """
CREATE TABLE customers (code TEXT PRIMARY KEY, name TEXT, nick TEXT UNIQUE);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT REFERENCES customers (code), title TEXT);
CREATE TABLE order_lines (order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE ON UPDATE CASCADE,
                          line INTEGER, PRIMARY KEY (order_id, line));
CREATE TABLE files (name TEXT PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (id) ON UPDATE CASCADE);
CREATE TABLE sim_clock (ms INTEGER);
INSERT INTO sim_clock VALUES (1);
"""


class FaultNode(SimNode):
    """`orders` have keys that the database invents, `customers` those that people give."""

    tables = TABLES
    exchange: ClassVar[Mapping[str, TypeSettings]] = {
        t.name: t
        for t in (
            TypeSettings("Catalog.Customer", "customers", reference_data=True),
            TypeSettings("Document.Order", "orders", reference_data=True, sections={"lines": "order_lines"}),
            TypeSettings("Catalog.File", "files", reference_data=True),
        )
    }
    clock_skew_max_s = 300
    now_sql = "(SELECT ms FROM sim_clock)"

    def set_database_clock(self) -> None:
        self.application.execute("UPDATE sim_clock SET ms = ?", (self.clock.ms,))

    def _make_database(self, folder: Path) -> None:
        self.path = folder / f"{self.code}.sqlite"
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript("PRAGMA journal_mode=WAL;" + self.tables)
        self.application = sqlite3.connect(self.path, isolation_level=None)
        self.application.execute("PRAGMA foreign_keys = ON")
        database = self._database()
        tables = database.reflect(tables_needed(self.exchange.values()))
        self.structure = compile_structure(generate_package(self.exchange, tables), self.exchange, tables)
        database.install(self.settings, self.structure)
        database.close()

    def broken_references(self) -> list[Any]:
        return self.application.execute("PRAGMA foreign_key_check").fetchall()

    def close(self) -> None:
        super().close()
        self.application.close()

    def do(self, *statements: str) -> None:
        self.tick(1)
        for statement in statements:
            self.application.execute(statement)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return list(self.application.execute(sql).fetchall())

    def reasons(self) -> list[str]:
        if not self.up:
            self.start()
        return [one.reason for one in self.store.parked()]

    def waits_for(self) -> list[tuple[str, str]]:
        return [tuple(item) for one in self.store.parked() for item in one.waits_for]


Net = Callable[..., dict[str, FaultNode]]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Net]:
    """Makes a network: node and parent; without crashes."""
    worlds = []

    def make(make_node: Callable[[str, NodeView, Path, World], SimNode] = FaultNode, **parents: str | None) -> dict:  # type: ignore[type-arg]
        tree = {name.removeprefix("n"): parent for name, parent in parents.items()}
        world = World(1, tmp_path, crashes=False, make_node=make_node, tree=lambda _: Topology(tree))
        world.quiet = True  # the bus hands out everything at once
        worlds.append(world)
        return {node.code: node for node in world.nodes}

    yield make
    for world in worlds:
        world.close()


def settle(nodes: dict[str, FaultNode]) -> None:
    next(iter(nodes.values())).world.settle()


def assert_equal(nodes: dict[str, FaultNode]) -> None:
    for sql in (
        "SELECT * FROM customers ORDER BY 1",
        "SELECT * FROM orders ORDER BY 1",
        "SELECT * FROM files ORDER BY 1",
    ):
        contents = {code: node.rows(sql) for code, node in nodes.items()}
        assert len({str(rows) for rows in contents.values()}) == 1, contents
    assert all(not node.reasons() for node in nodes.values()), {c: n.reasons() for c, n in nodes.items()}


def test_deletions_and_references_that_cross_do_not_wait_for_each_other(
    network: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each end deletes what the other refers to: at each a deletion and a new reference wait, and neither may wait
    for the other end's reference, which waits for the deletion there."""
    monkeypatch.setattr("dispatcher.parking.FORCE_ATTEMPTS", 10**9)  # nobody has to lose patience
    nodes = network(n00=None, n01="00")
    nodes["00"].do("INSERT INTO customers VALUES ('A', 'a', NULL), ('B', 'b', NULL)")
    settle(nodes)
    nodes["00"].do("DELETE FROM customers WHERE code = 'A'", "INSERT INTO orders VALUES (8, 'B', 'of 00')")
    nodes["01"].do("DELETE FROM customers WHERE code = 'B'", "INSERT INTO orders VALUES (7, 'A', 'of 01')")
    settle(nodes)
    assert nodes["00"].rows("SELECT id, customer FROM orders ORDER BY 1") == [(7, "A"), (8, "B")]
    assert_equal(nodes)


def two_births(network: Net) -> dict[str, FaultNode]:
    """01 and 02 each have an order 1 of their own, with a line and a file, and do not know of the other's."""
    nodes = network(n00=None, n01="00", n02="00")
    for code in ("01", "02"):
        nodes[code].do(
            f"INSERT INTO orders (title) VALUES ('of {code}')",
            "INSERT INTO order_lines VALUES (1, 1)",
            f"INSERT INTO files VALUES ('file of {code}', 1)",
            f"INSERT INTO customers VALUES ('{code}', 'goes on', NULL)",
        )
    settle(nodes)
    return nodes


def test_two_births_under_one_generated_key_are_neither_overwritten(network: Net) -> None:
    """They are different orders: a collision would throw one of them away."""
    nodes = two_births(network)
    assert nodes["01"].rows("SELECT title FROM orders") == [("of 01",)]
    assert nodes["02"].rows("SELECT title FROM orders") == [("of 02",)]
    here = str(nodes["00"].rows("SELECT title FROM orders")[0][0])[-2:]
    other = "02" if here == "01" else "01"
    for end in (nodes["00"], nodes[other]):
        assert any("gave birth to different items under this generated key" in reason for reason in end.reasons())
        assert any("identity: {step, offset}" in reason for reason in end.reasons())
        assert ("Document.Order", "[1]") in end.waits_for()
    assert nodes["00"].rows("SELECT count(*) FROM customers") == [(2,)]
    assert nodes["00"].rows("SELECT name FROM files") == [(f"file of {here}",)]  # the other one is not of this order
    assert nodes[other].rows("SELECT name FROM files") == [(f"file of {other}",)]
    assert not any(node.journal() for node in nodes.values())


@pytest.mark.parametrize("mended_at", ["01", "02", "00"])
def test_two_births_heal_when_one_gets_another_key(network: Net, mended_at: str) -> None:
    """Whoever mends it: both orders are then everywhere, each with its own file."""
    nodes = two_births(network)
    nodes[mended_at].do("PRAGMA foreign_keys = ON", "UPDATE orders SET id = 500 WHERE id = 1")
    settle(nodes)
    assert_equal(nodes)
    pairs = nodes["00"].rows("SELECT o.title, f.name FROM orders o JOIN files f ON f.order_id = o.id ORDER BY 1")
    assert pairs == [("of 01", "file of 01"), ("of 02", "file of 02")]
    assert nodes["00"].rows("SELECT count(*) FROM order_lines") == [(2,)]
    assert not any(node.journal() for node in nodes.values())


@pytest.mark.parametrize("mended_at", ["01", "02"])
def test_two_births_heal_when_one_is_deleted(network: Net, mended_at: str) -> None:
    """The deletion is of that one order: the other must not go with it."""
    nodes = two_births(network)
    nodes[mended_at].do("DELETE FROM files", "DELETE FROM orders")
    settle(nodes)
    assert_equal(nodes)
    left = "02" if mended_at == "01" else "01"
    assert nodes["00"].rows("SELECT title FROM orders") == [(f"of {left}",)]
    assert nodes["00"].rows("SELECT name FROM files") == [(f"file of {left}",)]


def test_changes_of_a_clashing_item_wait_behind_it(network: Net) -> None:
    """Only its newest state is kept waiting, and that is what arrives in the end."""
    nodes = two_births(network)
    nodes["01"].do("UPDATE orders SET title = 'of 01 again'")
    nodes["02"].do("UPDATE orders SET title = 'of 02 again'")
    settle(nodes)
    assert nodes["01"].rows("SELECT title FROM orders") == [("of 01 again",)]
    assert nodes["02"].rows("SELECT title FROM orders") == [("of 02 again",)]
    births = [reason for reason in nodes["00"].reasons() if "gave birth" in reason]
    assert len(births) == 1
    nodes["02"].do("UPDATE orders SET id = 500 WHERE id = 1")
    settle(nodes)
    assert_equal(nodes)
    assert nodes["00"].rows("SELECT id, title FROM orders ORDER BY 1") == [(1, "of 01 again"), (500, "of 02 again")]


def test_equal_births_are_one_item(network: Net) -> None:
    """Or a database that was copied to a branch would clash in every row."""
    nodes = network(n00=None, n01="00")
    for node in nodes.values():
        node.do("INSERT INTO orders (title) VALUES ('the same')")
    settle(nodes)
    assert_equal(nodes)


def test_births_under_a_key_of_peoples_making_are_a_collision(network: Net) -> None:
    """A code means the same customer wherever it is written."""
    nodes = network(n00=None, n01="00")
    for code, node in nodes.items():
        node.do(f"INSERT INTO customers VALUES ('A', 'of {code}', NULL)")
    settle(nodes)
    assert_equal(nodes)
    assert sum(len(node.journal()) for node in nodes.values()) >= 1


def test_two_items_with_one_unique_value_are_named_at_both_ends(network: Net) -> None:
    """Whoever looks sees which two they are; changing one of them heals it."""
    nodes = network(n00=None, n01="00")
    nodes["00"].do("INSERT INTO customers VALUES ('A', 'a', 'nick')")
    nodes["01"].do("INSERT INTO customers VALUES ('B', 'b', 'nick')")
    settle(nodes)
    (at_parent,), (at_child,) = nodes["00"].reasons(), nodes["01"].reasons()
    assert 'Catalog.Customer ["B"]: nick is the same as that of Catalog.Customer ["A"]' in at_parent
    assert 'Catalog.Customer ["A"]: nick is the same as that of Catalog.Customer ["B"]' in at_child
    assert nodes["00"].waits_for() == [("Catalog.Customer", '["A"]')]
    nodes["01"].do("UPDATE customers SET nick = 'another' WHERE code = 'B'")
    settle(nodes)
    assert_equal(nodes)
    assert nodes["00"].rows("SELECT code, nick FROM customers ORDER BY 1") == [("A", "nick"), ("B", "another")]
    assert not any(node.journal() for node in nodes.values())


def test_what_is_stamped_in_the_future_waits_alone_until_its_time_comes(network: Net) -> None:
    """The other items of its message are applied, and what refers to it waits with it."""
    nodes = network(n00=None, n01="00")
    ahead, other = nodes["01"], nodes["00"]
    ahead.do("INSERT INTO customers VALUES ('A', 'in time', NULL)")
    ahead.tick(3_600_000)
    ahead.do(
        "INSERT INTO customers VALUES ('B', 'too early', NULL)",
        "INSERT INTO orders VALUES (7, 'B', 'refers to it')",
    )
    ahead.tick(-3_600_000)
    ahead.do("INSERT INTO customers VALUES ('C', 'in time', NULL)", "INSERT INTO orders VALUES (8, 'B', 'it too')")
    for _ in range(4):
        ahead.send_all()
        other.step("receive")
    assert other.rows("SELECT code FROM customers ORDER BY 1") == [("A",), ("C",)]
    assert any("in the future" in reason for reason in other.reasons())
    assert ("Catalog.Customer", '["B"]') in other.waits_for()
    other.tick(3_600_000 - 300_000 + 60_000)
    other.step("receive")
    assert other.rows("SELECT code FROM customers ORDER BY 1") == [("A",), ("B",), ("C",)]
    settle(nodes)
    assert_equal(nodes)


def test_an_item_that_came_from_the_future_is_not_poisoned_for_ever(network: Net) -> None:
    """Its stamps stay ahead of the clock for an hour; changes of it go on all the same."""
    nodes = network(n00=None, n01="00")
    nodes["01"].tick(3_600_000)
    nodes["01"].do("INSERT INTO customers VALUES ('B', 'too early', NULL)")
    nodes["01"].tick(-3_600_000)
    nodes["01"].send_all()
    nodes["00"].step("receive")
    assert nodes["00"].reasons()
    nodes["00"].database.retry_parked([])  # an administrator: apply it now
    nodes["00"].receiver.parking.applied()
    nodes["00"].step("receive")
    assert nodes["00"].rows("SELECT name FROM customers") == [("too early",)]
    nodes["01"].do("UPDATE customers SET name = 'changed there'")
    nodes["01"].send_all()
    nodes["00"].step("receive")
    assert nodes["00"].rows("SELECT name FROM customers") == [("changed there",)]
    nodes["00"].do("UPDATE customers SET name = 'changed here'")
    nodes["00"].send_all()
    nodes["01"].step("receive")
    assert nodes["01"].rows("SELECT name FROM customers") == [("changed here",)]
    assert not any(node.journal() for node in nodes.values())


# --- tombstones -----------------------------------------------------------------------------------------------------


class ForgettingNode(FaultNode):
    """Forgets tombstones as soon as nobody needs them."""

    tombstones_kept_days = 1

    def look(self) -> int:
        if not self.up:
            self.start()
        if not hasattr(self, "purging"):
            self.purging = Purging(self.view, self.settings, self.store, self.clock)  # type: ignore[arg-type]
        return self.purging.step({sender: link.confirmed for sender, link in self.receiver.links.items()})

    def tombstones(self) -> int:
        return int(self.rows("SELECT count(*) FROM kod_register WHERE gone")[0][0])  # type: ignore[call-overload]


def beat(nodes: dict[str, FaultNode]) -> None:
    for node in nodes.values():
        node.ask_heartbeat()
    settle(nodes)


def test_tombstones_are_forgotten_when_all_have_them_and_they_are_old(network: Net) -> None:
    """Two looks and a sign of life of every neighbour between them."""
    nodes = network(ForgettingNode, n00=None, n01="00", n02="01")
    nodes["02"].do("INSERT INTO customers VALUES ('A', 'a', NULL)")
    settle(nodes)
    nodes["00"].do("DELETE FROM customers")
    settle(nodes)
    assert [node.tombstones() for node in nodes.values()] == [1, 1, 1]
    for node in nodes.values():
        node.look()
    beat(nodes)
    assert [node.look() for node in nodes.values()] == [0, 0, 0]  # young yet
    for node in nodes.values():
        node.tick(86_400_000 * 2)
    beat(nodes)
    assert [node.look() for node in nodes.values()] == [1, 1, 1]
    beat(nodes)
    assert [node.tombstones() for node in nodes.values()] == [0, 0, 0]
    nodes["02"].do("INSERT INTO customers VALUES ('A', 'born again', NULL)")
    settle(nodes)
    assert_equal(nodes)
    assert nodes["00"].rows("SELECT name FROM customers") == [("born again",)]


def test_tombstones_wait_for_a_neighbour_that_is_away(network: Net) -> None:
    """It changed the item before it heard of the deletion: forgotten too early, the item would come back from it as
    something new, and nobody would be told of the collision."""
    nodes = network(ForgettingNode, n00=None, n01="00", n02="00")
    nodes["00"].do("INSERT INTO customers VALUES ('A', 'a', NULL)")
    settle(nodes)
    nodes["02"].do("UPDATE customers SET name = 'written while away'")
    there = {code: node for code, node in nodes.items() if code != "02"}
    nodes["00"].tick(1_000_000)
    nodes["00"].do("DELETE FROM customers")
    for _ in range(4):
        nodes["02"].tick(86_400_000)
        for node in there.values():
            node.tick(86_400_000)
            node.ask_heartbeat()
            node.step("receive")
            node.send_all()
            node.look()
    assert nodes["00"].tombstones() == 1
    settle(nodes)
    assert_equal(nodes)
    assert nodes["00"].rows("SELECT * FROM customers") == []
    journals = [line for node in nodes.values() for line in node.journal()]
    assert {line["policy"] for line in journals} == {"newest"}


def test_what_refers_to_what_is_gone_for_ever_goes_to_the_journal(network: Net) -> None:
    """A node was lost whose order referred to a customer that was deleted meanwhile, and nobody else has that order: it
    would wait for ever. It is kept for people instead."""
    nodes = network(n00=None, n01="00")
    nodes["00"].do("INSERT INTO customers VALUES ('A', 'a', NULL)")
    settle(nodes)
    nodes["00"].do("DELETE FROM customers")
    nodes["01"].do("INSERT INTO orders VALUES (7, 'A', 'refers to it')")
    nodes["01"].send_all()
    lose(nodes, "01")
    nodes["00"].tick(2_000_000)
    nodes["01"].do("INSERT INTO customers VALUES ('N', 'of its new life', NULL)")
    settle(nodes)
    assert_equal(nodes)
    (line,) = nodes["00"].journal()
    assert (line["policy"], line["type"], line["key"]) == ("orphan", "Document.Order", "[7]")
    assert "refers to it" in line["loser"]["text"]


class LaterNode(FaultNode):
    """It is installed later than the others: another incarnation."""

    tables = TABLES.replace("VALUES (1)", "VALUES (2000000)")


def lose(nodes: dict[str, FaultNode], code: str) -> None:
    """Its database is lost; it begins anew with an empty one."""
    old = nodes[code]
    old.close()
    old.path.unlink()
    for beside in old.path.parent.glob(f"{old.path.name}-*"):
        beside.unlink()
    old.world.witness.excused |= set(nodes)  # what it lost is missed, although no letter was
    new = LaterNode(code, old.view, old.path.parent, old.world)
    new.tick(2_000_000)
    nodes[code] = new
    old.world.nodes[old.world.nodes.index(old)] = new

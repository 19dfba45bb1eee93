"""Items that wait alone: whose references lead nowhere, to which the database need not see; and whose sections' rows
have a value that another item has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from schemas.network import TypeSettings
from serializers.keys import Item
from tests.contract.store_world import CUSTOMER, EXCHANGE, StoreWorld
from tests.contract.tree import Tree

GOOD, PART, NOTE = "Catalog.Good", "Catalog.Part", "Catalog.Note"
TABLES = (
    "CREATE TABLE goods (good VARCHAR(20) NOT NULL PRIMARY KEY, title VARCHAR(20))",
    "CREATE TABLE parts (part VARCHAR(20) NOT NULL PRIMARY KEY, good VARCHAR(20) REFERENCES goods (good))",
    "CREATE TABLE notes (note VARCHAR(20) NOT NULL PRIMARY KEY, good VARCHAR(20), seen VARCHAR(20))",
    "CREATE TABLE note_lines (note VARCHAR(20) NOT NULL REFERENCES notes (note), line INTEGER NOT NULL,"
    " good VARCHAR(20), serial VARCHAR(20) UNIQUE, PRIMARY KEY (note, line))",
)
TYPES = {
    t.name: t
    for t in (
        TypeSettings(GOOD, "goods", reference_data=True),
        TypeSettings(PART, "parts", reference_data=True),
        TypeSettings(
            NOTE,
            "notes",
            reference_data=True,
            sections={"lines": "note_lines"},
            references={"good": GOOD, "seen": GOOD, "lines.good": GOOD},
            optional=("seen",),
        ),
    )
}
NOTES = "SELECT note FROM notes ORDER BY 1"
UNCHECKED = {
    "sqlite": ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"),
    "postgresql": ("SET session_replication_role = replica", "SET session_replication_role = origin"),
    "mariadb": ("SET foreign_key_checks = 0", "SET foreign_key_checks = 1"),
}


@pytest.fixture
def tree(worlds: Callable[[str], StoreWorld]) -> Iterator[Tree]:
    """00 and 01, with goods, parts that refer to them by a foreign key, and notes that do without one."""

    def make(code: str) -> StoreWorld:
        world = worlds(code)
        world.execute(*TABLES)
        world.exchange = {**EXCHANGE, **TYPES}
        world.settings = type(world.settings)(code, code, None, world.url, world.exchange)
        return world

    made = Tree(make)
    yield made
    made.close()


def carry(tree: Tree) -> StoreWorld:
    """All that 00 has, to 01."""
    tree.send()
    tree.receive()
    return tree.children["01"]


def waiting(world: StoreWorld) -> list[set[Item]]:
    """What the parked messages of a node wait for."""
    return [set(one.waits_for) for one in world.store.parked()]


def test_an_item_whose_reference_leads_nowhere_waits_alone_and_its_source_says_so(
    tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    """What the source's own users have left dangling must not hold up their other changes; and they have to hear of
    it. An optional reference holds nothing up."""
    head = tree.world
    head.execute("INSERT INTO goods VALUES ('a', 'x')")
    with head.transaction() as application:  # one message
        application.execute("INSERT INTO notes VALUES ('1', 'a', NULL), ('2', 'lost', NULL), ('3', 'a', 'lost')")
        application.execute("INSERT INTO notes VALUES ('4', 'a', NULL), ('5', NULL, NULL)")
        application.execute(
            "INSERT INTO note_lines (note, line, good) VALUES ('1', 1, 'a'), ('4', 1, 'a'), ('4', 2, 'gone')"
        )
    with caplog.at_level(logging.WARNING):
        child = carry(tree)
    assert child.execute(NOTES) == [("1",), ("3",), ("5",)]
    assert waiting(child) == [{Item(GOOD, '["gone"]'), Item(GOOD, '["lost"]')}]
    said = [record.facts for record in caplog.records if record.getMessage() == "reference leads nowhere"]  # type: ignore[attr-defined]
    assert {(facts["type"], facts["reference"], facts["objects"], facts["first"]) for facts in said} == {
        (NOTE, f"good -> {GOOD}", 1, '["2"]'),
        (NOTE, f"lines.good -> {GOOD}", 1, '["4"]'),
    }
    assert {(m.type, m.property) for m in head.database.check(head.structure()) if "is not there" in m.text} == {
        (NOTE, "good"),
        (NOTE, "lines.good"),
    }
    head.execute("INSERT INTO goods VALUES ('lost', 'x')")
    carry(tree)
    assert child.execute(NOTES) == [("1",), ("2",), ("3",), ("5",)]
    assert waiting(child) == [{Item(GOOD, '["gone"]')}]
    head.execute("DELETE FROM note_lines WHERE good = 'gone'")
    assert carry(tree).execute("SELECT note, line FROM note_lines ORDER BY 1, 2") == [("1", 1), ("4", 1)]
    assert waiting(child) == []


def test_a_newer_state_heals_what_waits_for_a_reference(tree: Tree) -> None:
    """Or what is parked would have to be thrown away by hand."""
    head, child = tree.world, tree.children["01"]
    head.execute("INSERT INTO notes VALUES ('1', 'lost', NULL)")
    carry(tree)
    head.execute("UPDATE notes SET good = NULL")
    carry(tree)
    assert child.execute(NOTES) == [("1",)]
    assert waiting(child) == []


def test_a_deletion_waits_for_what_refers_to_its_item_and_the_reference_wins(tree: Tree) -> None:
    """As a foreign key would have it. What comes in the same message without the reference does not count."""
    head, child = tree.world, tree.children["01"]
    head.execute("INSERT INTO goods VALUES ('a', 'x'), ('b', 'x'), ('c', 'x')")
    head.execute("INSERT INTO notes VALUES ('1', 'a', 'c')")
    carry(tree)
    with head.transaction() as application:
        application.execute("UPDATE notes SET good = 'b'")
        application.execute("DELETE FROM goods WHERE good = 'a'")
    carry(tree)
    assert child.execute("SELECT good FROM goods ORDER BY 1") == [("b",), ("c",)]

    child.execute("INSERT INTO notes VALUES ('mine', 'b', NULL)")
    head.execute("UPDATE notes SET good = 'c'", "DELETE FROM goods WHERE good = 'b'")
    tree.send()
    tree.receivers["01"].links["00"].step()
    tree.receivers["01"].parking.catching_up("00", True)  # what frees it may still come
    tree.receive()
    (parked,) = child.store.parked()
    assert f'{GOOD} ["b"] is to be deleted, and items here still refer to it' in parked.reason
    assert child.execute("SELECT good FROM notes WHERE note = '1'") == [("c",)]
    tree.receivers["01"].parking.catching_up("00", False)
    tree.clock.ahead_ms += 60_000
    tree.receive()
    assert child.execute("SELECT good FROM goods ORDER BY 1") == [("b",), ("c",)]
    assert waiting(child) == []
    (collision,) = child.database.collisions()
    assert (collision["type"], collision["policy"]) == (GOOD, "reference")


def test_one_broken_foreign_key_of_the_source_holds_up_one_item(tree: Tree) -> None:
    """A program that had foreign keys switched off must not stop a message of a thousand items elsewhere."""
    head, child = tree.world, tree.children["01"]
    off, on = UNCHECKED[head.dialect]
    head.execute("INSERT INTO goods VALUES ('a', 'x')")
    head.execute(off, "INSERT INTO parts VALUES ('1', 'a'), ('2', 'lost'), ('3', 'a')", on)
    if head.dialect == "postgresql":  # КОД's triggers were switched off with the foreign keys
        head.database.stamp_again([Item(PART, f'["{n}"]') for n in (1, 2, 3)])
    carry(tree)
    assert child.execute("SELECT part FROM parts ORDER BY 1") == [("1",), ("3",)]
    assert waiting(child) == [{Item(GOOD, '["lost"]')}]
    head.execute("INSERT INTO goods VALUES ('lost', 'x')")
    carry(tree)
    assert child.execute("SELECT part FROM parts ORDER BY 1") == [("1",), ("2",), ("3",)]
    assert waiting(child) == []


def test_a_clash_of_unique_values_in_sections_parks_the_item_alone(tree: Tree) -> None:
    """As one in the object's own row does; else a message of a thousand items would wait for it."""
    head, child = tree.world, tree.children["01"]
    child.execute("INSERT INTO notes VALUES ('mine', NULL, NULL)")
    child.execute("INSERT INTO note_lines VALUES ('mine', 1, NULL, 'S1')")
    with head.transaction() as application:
        application.execute("INSERT INTO notes VALUES ('1', NULL, NULL), ('2', NULL, NULL)")
        application.execute(
            "INSERT INTO note_lines VALUES ('1', 1, NULL, 'S2'), ('2', 1, NULL, 'S3'), ('2', 2, NULL, 'S1')"
        )
    carry(tree)
    assert child.execute(NOTES) == [("1",), ("mine",)]
    (parked,) = child.store.parked()
    assert f'{NOTE} ["2"]: lines.serial is the same as that of {NOTE} ["mine"]' in parked.reason
    assert waiting(child) == [{Item(NOTE, '["mine"]')}]
    child.execute("UPDATE note_lines SET serial = 'S4' WHERE note = 'mine'")
    tree.clock.ahead_ms += 60_000
    tree.receive()
    assert child.execute(NOTES) == [("1",), ("2",), ("mine",)]
    assert waiting(child) == []


def test_what_refers_to_an_item_that_waits_for_a_unique_value_waits_behind_it(tree: Tree) -> None:
    """The item was never here: to tell its node that it is gone made a deletion of 1970 and a collision everywhere, and
    hid at the other end what was wrong."""
    head, child = tree.world, tree.children["01"]
    child.execute("INSERT INTO customers (customer_id, nick) VALUES ('mine', 'n')")
    with head.transaction() as application:
        application.execute("INSERT INTO customers (customer_id, nick) VALUES ('A', 'n')")
        application.execute("INSERT INTO customers (customer_id, boss) VALUES ('B', 'A')")
    carry(tree)
    assert sorted(map(sorted, waiting(child))) == [[Item(CUSTOMER, '["A"]')], [Item(CUSTOMER, '["mine"]')]]
    answers, back = tree.child_sender("01"), tree.parent_receiver()
    while answers.step():
        pass
    while back.step():
        pass
    (parked,) = head.store.parked()
    assert f'{CUSTOMER} ["mine"]: nick is the same as that of {CUSTOMER} ["A"]' in parked.reason
    assert head.database.collisions() == []
    back.close()


def test_a_unique_value_is_taken_by_an_item_that_comes_too_and_loses(tree: Tree) -> None:
    """It keeps the value that it has here: the one that wants it waits alone, not the whole message."""
    head, child = tree.world, tree.children["01"]
    head.execute("INSERT INTO customers (customer_id, nick) VALUES ('A', 'a')")
    carry(tree)
    with head.transaction() as application:
        application.execute("UPDATE customers SET name = 'older'")
        application.execute("INSERT INTO customers (customer_id, nick) VALUES ('B', 'n'), ('C', 'c')")
    tree.send()
    child.execute("UPDATE customers SET nick = 'n'")
    tree.receive()
    assert child.execute("SELECT customer_id, nick FROM customers ORDER BY 1") == [("A", "n"), ("C", "c")]
    (parked,) = child.store.parked()
    assert f'{CUSTOMER} ["B"]: nick is the same as that of {CUSTOMER} ["A"]' in parked.reason
    assert len(child.database.collisions()) == 1

"""Kinds of data: constants, registers that depend on a recorder, circles, catalogues of many levels; both ways, over
every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import orjson
import pytest

from schemas.compilation import generate_package, tables_needed
from schemas.network import TypeSettings
from serializers.keys import Item
from tests.contract.pair import Pair, exchanged
from tests.contract.store_world import StoreWorld

DDL = """
CREATE TABLE company (name VARCHAR(50), vat VARCHAR(20));
CREATE TABLE settings (name VARCHAR(20) NOT NULL PRIMARY KEY, said TEXT);
CREATE TABLE invoices (invoice_id INTEGER NOT NULL PRIMARY KEY, title TEXT);
CREATE TABLE invoice_access (invoice_id INTEGER, node VARCHAR(8));
CREATE TABLE stock_moves (recorder INTEGER NOT NULL REFERENCES invoices (invoice_id), line INTEGER NOT NULL,
    product VARCHAR(20), quantity INTEGER, PRIMARY KEY (recorder, line));
CREATE TABLE folders (folder_id INTEGER NOT NULL PRIMARY KEY, parent INTEGER REFERENCES folders (folder_id),
    title VARCHAR(50));
CREATE TABLE staff (staff_id INTEGER NOT NULL PRIMARY KEY, name TEXT, department INTEGER);
CREATE TABLE departments (department_id INTEGER NOT NULL PRIMARY KEY, title TEXT,
    head INTEGER REFERENCES staff (staff_id))
"""
STAFF = "ALTER TABLE staff ADD FOREIGN KEY (department) REFERENCES departments (department_id)"

EXCHANGE = exchanged(
    TypeSettings("Constant.Company", "company", reference_data=True, filter=()),
    TypeSettings("InformationRegister.Setting", "settings", reference_data=True, filter=()),
    TypeSettings("Document.Invoice", "invoices", access="invoice_access"),
    TypeSettings("AccumulationRegister.Stock", "stock_moves", filter=("recorder",), owner=("recorder",)),
    TypeSettings("Catalog.Folder", "folders", reference_data=True),
    TypeSettings("Catalog.Staff", "staff", reference_data=True, references={"department": "Catalog.Department"}),
    TypeSettings("Catalog.Department", "departments", reference_data=True),
)
STOCK, FOLDER = "AccumulationRegister.Stock", "Catalog.Folder"


@pytest.fixture
def pair(worlds: Callable[[str], StoreWorld]) -> Iterator[Pair]:
    """00 and its children 01 and 02, with the same tables."""
    nodes = {code: worlds(code) for code in ("00", "01", "02")}
    for world in nodes.values():
        world.script(DDL)
        world.exchange = EXCHANGE
        if world.dialect != "sqlite":
            world.execute(STAFF)
    package = generate_package(EXCHANGE, nodes["00"].database.reflect(tables_needed(EXCHANGE.values())))
    with closing(Pair(nodes, {"00": None, "01": "00", "02": "00"}, package)) as made:
        yield made


def test_a_constant_is_one_set_whatever_is_in_it(pair: Pair) -> None:
    """Its filter is empty: one key for all of the table, at every node."""
    pair.peers["01"].world.execute("INSERT INTO company VALUES ('Tea & Co', '77')")
    pair.peers["00"].world.execute("INSERT INTO settings VALUES ('colour', 'blue'), ('size', NULL)")
    pair.exchange()
    assert pair.equal("SELECT * FROM company") == [("Tea & Co", "77")]
    assert pair.equal("SELECT * FROM settings ORDER BY 1") == [("colour", "blue"), ("size", None)]
    pair.peers["02"].world.execute("UPDATE company SET vat = '78'", "DELETE FROM settings WHERE name = 'colour'")
    pair.exchange()
    assert pair.equal("SELECT * FROM company") == [("Tea & Co", "78")]
    assert pair.equal("SELECT * FROM settings") == [("size", None)]
    pair.peers["00"].world.execute("DELETE FROM company")
    pair.exchange()
    assert pair.equal("SELECT * FROM company") == []
    pair.settled()


def test_movements_go_where_their_recorder_goes_and_after_it(pair: Pair) -> None:
    """Without it they would refer to nothing; and elsewhere they are nobody's business."""
    root, one, other = (peer.world for peer in pair.peers.values())
    root.execute(
        "INSERT INTO invoice_access VALUES (1, '01'), (2, '02')",
        "INSERT INTO invoices VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO stock_moves VALUES (1, 1, 'tea', 5), (1, 2, 'cup', -1), (2, 1, 'tea', 7)",
    )
    pair.exchange()
    moves = "SELECT recorder, line, quantity FROM stock_moves ORDER BY 1, 2"
    assert one.execute(moves) == [(1, 1, 5), (1, 2, -1)]
    assert other.execute(moves) == [(2, 1, 7)]
    one.execute(
        "UPDATE stock_moves SET quantity = 6 WHERE line = 1",
        "DELETE FROM stock_moves WHERE line = 2",
        "INSERT INTO invoices VALUES (3, 'c')",
        "INSERT INTO stock_moves VALUES (3, 1, 'jam', 1)",
    )
    pair.exchange()
    assert root.execute(moves) == [(1, 1, 6), (2, 1, 7), (3, 1, 1)]
    assert other.execute(moves) == [(2, 1, 7)]
    one.execute("DELETE FROM stock_moves WHERE recorder = 3", "DELETE FROM invoices WHERE invoice_id = 3")
    root.execute("DELETE FROM stock_moves WHERE recorder = 2", "DELETE FROM invoices WHERE invoice_id = 2")
    pair.exchange()
    assert [len(rows) for rows in pair.rows("SELECT * FROM invoices")] == [1, 1, 0]
    assert [len(rows) for rows in pair.rows(moves)] == [1, 1, 0]
    pair.settled()


def test_a_catalogue_of_ten_levels_arrives_and_goes_parents_first_and_last(pair: Pair) -> None:
    """Written children first, moved, and a branch of it deleted at another node than the one that made it."""
    root, one, other = (peer.world for peer in pair.peers.values())
    tree = ", ".join(f"({n}, {n - 1 if n % 10 else 'NULL'}, 'level {n % 10}')" for n in range(10, 30))
    with one.transaction() as application:
        application.execute(f"INSERT INTO folders VALUES {tree}")
    pair.exchange()
    assert len(pair.equal("SELECT folder_id, parent, title FROM folders ORDER BY 1")) == 20
    root.execute(
        "UPDATE folders SET parent = 29 WHERE folder_id = 15", "UPDATE folders SET title = 'top' WHERE folder_id < 19"
    )
    other.execute("UPDATE folders SET title = 'leaf' WHERE folder_id = 19")
    pair.exchange()
    assert pair.equal("SELECT parent FROM folders WHERE folder_id = 15") == [(29,)]
    for number in range(19, 14, -1):  # the branch that hangs on 29 now
        other.execute(f"DELETE FROM folders WHERE folder_id = {number}")
    pair.exchange()
    assert len(pair.equal("SELECT folder_id FROM folders ORDER BY 1")) == 15
    with root.transaction() as application:
        for number in range(29, 19, -1):
            application.execute(f"DELETE FROM folders WHERE folder_id = {number}")
    pair.exchange()
    assert pair.equal("SELECT folder_id FROM folders ORDER BY 1") == [(n,) for n in range(10, 15)]
    pair.settled()


def test_a_circle_of_references_arrives_whole_and_is_deleted_whole(pair: Pair) -> None:
    """No order of single rows satisfies it: one transaction, wherever it is applied."""
    root, one, _ = (peer.world for peer in pair.peers.values())
    root.execute(
        "INSERT INTO staff VALUES (1, 'Anna', NULL)",
        "INSERT INTO departments VALUES (1, 'Sales', 1)",
        "UPDATE staff SET department = 1",
        "INSERT INTO folders VALUES (1, 1, 'its own parent')",
        "INSERT INTO folders VALUES (2, NULL, 'a'), (3, 2, 'b')",
        "UPDATE folders SET parent = 3 WHERE folder_id = 2",
    )
    pair.exchange()
    assert pair.equal("SELECT department, head FROM staff, departments") == [(1, 1)]
    assert pair.equal("SELECT folder_id, parent FROM folders ORDER BY 1") == [(1, 1), (2, 3), (3, 2)]
    with one.transaction() as application:
        application.execute("UPDATE staff SET department = NULL")
        application.execute("DELETE FROM departments")
        application.execute("DELETE FROM staff")
        application.execute("UPDATE folders SET parent = NULL")
        application.execute("DELETE FROM folders")
    pair.exchange()
    assert pair.rows("SELECT staff_id FROM staff") == pair.rows("SELECT folder_id FROM folders") == [[], [], []]
    pair.settled()


def test_a_constant_that_two_nodes_set_at_once_is_one_collision(pair: Pair) -> None:
    """It is one item: whoever loses is in the journal, and all end with the same."""
    pair.peers["01"].world.execute("INSERT INTO company VALUES ('One', '1')")
    pair.peers["02"].world.execute("INSERT INTO company VALUES ('Two', '2')")
    pair.exchange()
    assert pair.equal("SELECT vat FROM company") in ([("1",)], [("2",)])
    journals = [len(peer.world.database.collisions()) for peer in pair.peers.values()]
    assert sum(journals) >= 1
    assert Item("Constant.Company", "[]") in {
        Item(str(c["type"]), str(c["key"])) for peer in pair.peers.values() for c in peer.world.database.collisions()
    }


def test_a_constant_that_was_there_before_is_stamped(worlds: Callable[[str], StoreWorld]) -> None:
    """By its one key, however many rows there are; none for a table that is empty."""
    world = worlds("00")
    world.script(DDL)
    world.exchange = EXCHANGE
    world.execute("INSERT INTO settings VALUES ('a', '1'), ('b', '2')")
    world.install()
    assert world.database.stamp_existing(world.structure(), lambda *_: None, 10) == 1
    assert world.database.story(Item("InformationRegister.Setting", "[]")).stamp is not None
    whole = world.database.contents(world.structure(), "InformationRegister.Setting")
    assert [(content.item.key, len(orjson.loads(content.text or b"{}")["Records"])) for content in whole] == [("[]", 2)]
    assert list(world.database.contents(world.structure(), "Constant.Company")) == []

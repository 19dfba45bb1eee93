"""kod compare: what two nodes have, told apart by what travels between them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from node.comparing import Comparison, compare
from node.config import node_settings, read_network
from node.opened import open_node

NODES = """
network: compared
bus: folder:./exchange
hooks: hooks.py
nodes:
  "00": {database: "sqlite:///00.sqlite"}
  "01": {parent: "00", database: "sqlite:///01.sqlite"}
exchange:
  Product: {table: products, reference_data: true}
  Price: {table: prices, filter: [product], reference_data: true}
"""
DDL = """
CREATE TABLE products (id INTEGER NOT NULL PRIMARY KEY, name TEXT, secret TEXT);
CREATE TABLE prices (product INTEGER NOT NULL, kind TEXT NOT NULL, price TEXT, PRIMARY KEY (product, kind));
"""
HOOKS = '''
from node.hooks import Hooks


class Product(Hooks, type="Product"):
    """The branch has names in capitals; secrets do not travel."""

    def on_write_to_message(self, value, db):
        return {name: v for name, v in value.items() if name != "secret"}

    def on_read_from_message(self, value, db):
        return {**value, "name": value["name"].upper()} if db.node == "01" else value


class Price(Hooks, type="Price"):
    """The branch has no prices for the whole trade."""

    def on_read_from_message(self, value, db):
        if db.node == "01":
            value["Records"] = [row for row in value["Records"] if row["kind"] != "whole"]
        return value
'''


def compared(folder: Path, **rows: str) -> Comparison:
    (folder / "nodes.yaml").write_text(NODES)
    (folder / "hooks.py").write_text(HOOKS)
    network = read_network(folder / "nodes.yaml", package_needed=False)
    for code, statements in zip(("00", "01"), rows.values(), strict=True):
        with closing(sqlite3.connect(folder / f"{code}.sqlite")) as connection:
            connection.executescript(DDL + statements)
        database, structure = open_node(network, code)
        with closing(database):
            database.install(node_settings(network, code), structure)
    return compare(network, "00", "01")


def test_what_hooks_make_of_an_item_on_its_way_is_no_difference(tmp_path: Path) -> None:
    """Or every item of such a type would be called different for ever, and sent again by --repair."""
    found = compared(
        tmp_path,
        head="INSERT INTO products VALUES (1, 'tea', 'x'); INSERT INTO prices VALUES (1, 'retail', 3), (1, 'whole', 2)",
        branch="INSERT INTO products VALUES (1, 'TEA', NULL); INSERT INTO prices VALUES (1, 'retail', 3)",
    )
    assert (found.items, found.differences) == (2, [])


def test_what_hooks_cannot_have_made_is_a_difference(tmp_path: Path) -> None:
    """Hooks must not hide what was lost."""
    found = compared(
        tmp_path,
        head="INSERT INTO products VALUES (1, 'tea', 'x'), (2, 'mint', NULL);"
        "INSERT INTO prices VALUES (1, 'retail', 3)",
        branch="INSERT INTO products VALUES (1, 'COFFEE', 'x'); INSERT INTO prices VALUES (1, 'retail', 4)",
    )
    assert [(d.item.type, d.item.key, d.only_at) for d in found.differences] == [
        ("Price", "[1]", None),
        ("Product", "[1]", None),
        ("Product", "[2]", "00"),
    ]

"""Rights given later, with real daemons: what a node newly may see reaches it without having been touched.

00 PostgreSQL or SQLite, 01 SQLite below it. An access table says which customers 01 may see; a view over it, which
orders; files go where their order goes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.edge.network import Node, TestNetwork
from tests.servers import postgresql_url

DDL = """
CREATE TABLE customers (customer_id VARCHAR(20) NOT NULL PRIMARY KEY, name TEXT, phone TEXT);
CREATE TABLE customer_access (customer_id VARCHAR(20) NOT NULL, node VARCHAR(8) NOT NULL,
    PRIMARY KEY (customer_id, node));
CREATE TABLE orders (order_id INT NOT NULL PRIMARY KEY,
    customer_id VARCHAR(20) NOT NULL REFERENCES customers (customer_id), title TEXT);
CREATE VIEW order_access AS SELECT o.order_id, a.node FROM orders o
    JOIN customer_access a ON a.customer_id = o.customer_id;
CREATE TABLE lines (order_id INT NOT NULL REFERENCES orders (order_id) ON DELETE CASCADE, line INT NOT NULL,
    quantity INT, PRIMARY KEY (order_id, line));
CREATE TABLE files (file_id VARCHAR(20) NOT NULL PRIMARY KEY,
    order_id INT NOT NULL REFERENCES orders (order_id), content TEXT);
CREATE TABLE products (product_id VARCHAR(20) NOT NULL PRIMARY KEY, name TEXT);
"""

EXCHANGE = {
    "Catalog.Product": {"table": "products", "reference_data": True},
    "Catalog.Customer": {"table": "customers", "access": "customer_access", "exclude": ["phone"]},
    "Document.Order": {"table": "orders", "sections": {"lines": "lines"}, "access": "order_access"},
    "Catalog.File": {"table": "files", "owner": "order_id"},
}

CUSTOMERS = "SELECT customer_id, name FROM customers ORDER BY 1"
ORDERS = "SELECT order_id, title FROM orders ORDER BY 1"
FILES = "SELECT file_id, content FROM files ORDER BY 1"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def trade(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNetwork]:
    """Two customers with three orders each; a file for each order. Sent, as far as anybody may see it."""
    url = postgresql_url() if request.param == "postgresql" else ""
    nodes = [Node("00", DDL, url=url), Node("01", DDL, "00")]
    network = TestNetwork(tmp_path_factory.mktemp("rights"), nodes, EXCHANGE)
    try:
        network.install()
        network.start_and_wait()
        network.execute(
            "00",
            "INSERT INTO customers VALUES ('A', 'Alice', '1'), ('B', 'Bob', '2')",
            "INSERT INTO orders VALUES (1, 'A', 'a'), (2, 'B', 'b'), (3, 'A', 'c'), (4, 'B', 'd'), (5, 'A', 'e'),"
            " (6, 'B', 'f')",
            "INSERT INTO lines SELECT order_id, 1, 5 FROM orders",
            "INSERT INTO files SELECT title, order_id, 'of ' || title FROM orders",
        )
        fence(network)
        yield network
    finally:
        network.close()


def fence(network: TestNetwork) -> None:
    """Waits until everything that was written so far has been sent, and has arrived."""
    ((count,),) = network.rows("00", "SELECT count(*) FROM products")
    network.execute("00", f"INSERT INTO products VALUES ('p{count}', 'x')")
    network.wait_for("01", "SELECT count(*) FROM products", [(count + 1,)])
    network.wait_until_settled()


def rule(network: TestNetwork, type_name: str, key: str) -> str:
    """Why an item goes to 01, or does not."""
    (addressee,) = network.json("explain", "--node", "00", type_name, key)["addressees"]
    return str(addressee["rule"])


def stamps(network: TestNetwork) -> list[tuple[object, ...]]:
    view = "kod.stamps" if network.nodes["00"].url else "kod_stamps"
    return network.rows("00", f"SELECT type, key, stamp FROM {view} ORDER BY 1, 2")


def test_what_a_node_newly_may_see_reaches_it_untouched(trade: TestNetwork) -> None:
    """By a table, by a view, and by an owner; what it lost the right to it keeps, and is kept up to date."""
    for table in (CUSTOMERS, ORDERS, FILES):
        assert trade.rows("01", table) == []
    before = stamps(trade)

    trade.execute("00", "INSERT INTO customer_access VALUES ('A', '01')")
    trade.wait_for("01", FILES, [("a", "of a"), ("c", "of c"), ("e", "of e")])
    trade.wait_for("01", ORDERS, [(1, "a"), (3, "c"), (5, "e")])
    trade.wait_for("01", CUSTOMERS, [("A", "Alice")])
    trade.wait_until_settled()
    assert [
        rule(trade, *item) for item in (("Document.Order", "1"), ("Catalog.File", "a"), ("Document.Order", "2"))
    ] == [
        "order_access says that it is to be seen at 01",
        'it goes with its owner Document.Order [{"integer":1}]: order_access says that it is to be seen at 01',
        "not there: it goes where order_access says that it is to be seen",
    ]
    assert stamps(trade) == before, "something got a new version on account of a right"

    trade.execute("00", "INSERT INTO files VALUES ('late', 3, 'x')")
    trade.execute("00", "UPDATE files SET order_id = 1 WHERE file_id = 'b'")  # a file changes hands
    trade.wait_for("01", "SELECT count(*) FROM files", [(5,)])
    trade.execute("00", "UPDATE files SET order_id = 2 WHERE file_id = 'b'")  # and back: it needs its order there
    trade.wait_for("01", "SELECT order_id FROM orders WHERE order_id = 2", [(2,)])
    trade.wait_for("01", "SELECT file_id FROM files ORDER BY 1", [("a",), ("b",), ("c",), ("e",), ("late",)])
    trade.execute("00", "DELETE FROM customer_access")
    assert rule(trade, "Document.Order", "1").startswith("that node holds it since session 2")
    drawn = 'drawn by a reference of Catalog.File ["b"]: that node holds it since session 2'
    assert rule(trade, "Document.Order", "2").startswith(drawn)
    trade.execute("00", "UPDATE customers SET name = 'Alicia' WHERE customer_id = 'A'", "UPDATE orders SET title = '!'")
    trade.wait_for("01", ORDERS, [(1, "!"), (2, "!"), (3, "!"), (5, "!")])
    trade.wait_for("01", CUSTOMERS, [("A", "Alicia"), ("B", "Bob")])
    fence(trade)
    assert trade.link("01", "00")["rejected_items"] == 0


def test_a_save_without_a_change_sends_nothing(trade: TestNetwork) -> None:
    """Applications save whole forms: what stays as it was costs nothing on the wire."""
    trade.execute("00", "INSERT INTO customer_access VALUES ('A', '01'), ('B', '01')")
    trade.wait_for("01", "SELECT count(*) FROM files", [(6,)])
    fence(trade)
    before = trade.link("00", "01")["sent_items"]
    trade.execute(
        "00",
        "UPDATE customers SET name = name, phone = '3'",
        "UPDATE orders SET title = title, customer_id = customer_id",
        "UPDATE lines SET quantity = 5",
        "UPDATE files SET content = content",
        "UPDATE products SET name = 'x'",
    )
    fence(trade)
    assert trade.link("00", "01")["sent_items"] == before + 1, "only the fence itself"


def test_an_item_goes_along_the_path_to_a_node_farther_down_or_up_and_down_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Where it is to be seen is written at one node only; those between could not know, and would keep it."""
    nodes = [Node("00", DDL), Node("01", DDL, "00"), Node("11", DDL, "01"), Node("02", DDL, "00")]
    network = TestNetwork(tmp_path_factory.mktemp("path"), nodes, EXCHANGE)
    try:
        network.install()
        network.start_and_wait()
        network.execute(
            "00",
            "INSERT INTO customers VALUES ('A', 'Alice', '1'), ('B', 'Bob', '2'), ('C', 'Carol', '3')",
            "INSERT INTO customer_access VALUES ('A', '11'), ('B', '01')",
        )
        network.wait_for("11", CUSTOMERS, [("A", "Alice")])
        network.wait_for("01", CUSTOMERS, [("A", "Alice"), ("B", "Bob")])
        network.wait_until_settled()
        ((_, sent),) = [(link["node"], link["sent_items"]) for link in links(network, "00") if link["node"] == "01"]
        assert sent == 2, "something went twice"

        network.execute("00", "INSERT INTO customer_access VALUES ('B', '11')")  # 01 has it already
        network.wait_for("11", CUSTOMERS, [("A", "Alice"), ("B", "Bob")])
        network.execute("11", "INSERT INTO customers VALUES ('D', 'Dora', '4')")
        network.execute("11", "INSERT INTO customer_access VALUES ('D', '02')")
        network.wait_for("02", CUSTOMERS, [("D", "Dora")])
        network.execute("00", "UPDATE customers SET name = 'Bobby' WHERE customer_id = 'B'")
        network.wait_for("11", CUSTOMERS, [("A", "Alice"), ("B", "Bobby"), ("D", "Dora")])
        network.wait_until_settled()
        assert network.rows("02", CUSTOMERS) == [("D", "Dora")]
        assert network.rows("01", "SELECT * FROM customer_access") == [], "the rows themselves are the node's own"
    finally:
        network.close()


def links(network: TestNetwork, code: str) -> list[dict[str, object]]:
    return list(network.json("status", "--node", code)["links"])

"""Daemons over three databases, one below the other.

    00  PostgreSQL
    |
    01  MariaDB
    |
    02  SQLite

They run for the whole module; every test finds them empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.edge import retail
from tests.edge.network import Node, TestNetwork
from tests.servers import mariadb_url, postgresql_url

pytestmark = [pytest.mark.mariadb, pytest.mark.postgresql, pytest.mark.xdist_group("edge-mariadb")]

INSERT = "INSERT INTO customers VALUES (?, ?)"
COUNT = "SELECT count(*) FROM customers"


@pytest.fixture(scope="module")
def row_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNetwork]:
    nodes = [
        Node("00", retail.POSTGRESQL, url=postgresql_url()),
        Node("01", retail.MARIADB, "00", url=mariadb_url()),
        Node("02", retail.SQLITE, "01"),
    ]
    network = TestNetwork(tmp_path_factory.mktemp("row"), nodes, retail.EXCHANGE)
    try:
        network.install()
        network.start_and_wait()
        yield network
    finally:
        network.close()


@pytest.fixture
def row(row_network: TestNetwork) -> TestNetwork:
    """Running, and empty at every node."""
    tables = ("order_files", "orders", "customers", "prices")  # what refers goes first
    row_network.execute("00", *(f"DELETE FROM {table}" for table in ("order_lines", *tables)))
    for code in row_network.nodes:
        row_network.wait_for(code, " UNION ALL ".join(f"SELECT 1 FROM {table}" for table in tables), [])
    row_network.wait_until_settled()
    return row_network


def test_three_databases_exchange_every_kind_of_change(row: TestNetwork) -> None:
    """Cascades, changes of key, REPLACE and upserts, sections, record sets, bytes: whichever database wrote them."""
    row.execute(
        "01",
        "INSERT INTO customers VALUES ('A', 'Ёж \"x\" <&>'), ('B', '')",
        "INSERT INTO orders VALUES (1, 'A', 2), (2, 'B', 0), (3, 'A', 0)",
        "INSERT INTO order_lines VALUES (1, 1, 'tea', 5), (1, 2, 'mint', -7), (3, 1, 'x', 1)",
        "INSERT INTO order_files VALUES (1, 'f', x'00ff'), (2, 'g', NULL), (3, 'h', '')",
        "INSERT INTO prices VALUES ('tea', '2026-11-01', 'a', 1), ('tea', '2026-11-01', 'b', 2),"
        " ('tea', '2026-12-01', 'a', 3)",
    )
    for code in ("00", "02"):
        row.wait_for(code, "SELECT order_id, name, content FROM order_files ORDER BY 1", [
            (1, "f", b"\x00\xff"), (2, "g", None), (3, "h", b""),
        ])  # fmt: skip
    row.execute(
        "01",
        "UPDATE orders SET order_id = 7 WHERE order_id = 1",
        "DELETE FROM orders WHERE order_id = 3",
        "REPLACE INTO prices VALUES ('tea', '2026-11-01', 'a', 8)",
        "INSERT INTO customers VALUES ('B', 'x') ON DUPLICATE KEY UPDATE name = VALUES(name)",
    )
    row.execute("02", "DELETE FROM prices WHERE period = '2026-12-01'")
    row.wait_for("00", "SELECT order_id, line, product FROM order_lines ORDER BY 1, 2", [
        (7, 1, "tea"), (7, 2, "mint"),
    ])  # fmt: skip
    row.execute("00", "TRUNCATE order_lines", "UPDATE orders SET customer_id = 'B'")
    for code in row.nodes:
        row.wait_for(code, retail.ORDERS, [(2, "B", 0), (7, "B", 2)])
        row.wait_for(code, retail.LINES, [])
        row.wait_for(code, retail.PRICES, [("tea", "2026-11-01", "a", 8), ("tea", "2026-11-01", "b", 2)])
        row.wait_for(code, retail.CUSTOMERS, [("A", 'Ёж "x" <&>'), ("B", "x")])
        row.wait_for(code, retail.FILES, [(2, "g", None), (7, "f", b"\x00\xff")])
    assert [row.status(code)["collisions"] for code in row.nodes] == [0, 0, 0]
    row.wait_until_settled()
    for code, other in (("00", "01"), ("01", "02")):
        row.kod("compare", "--node", code, "--with", other)


def test_a_transaction_that_stays_open_arrives_once(row: TestNetwork) -> None:
    """Its rows lie in the log with smaller numbers than those that were taken long ago."""
    with closing(row.mariadb("01")) as slow, slow.cursor() as cursor:
        cursor.execute("INSERT INTO customers VALUES ('slow', 'committed late')")
        for n in range(8):
            row.execute("01", (INSERT, (f"quick {n}", "x")))
            row.wait_for("00", COUNT, [(n + 1,)])
        slow.commit()
    for code in row.nodes:
        row.wait_for(code, "SELECT name FROM customers WHERE customer_id = 'slow'", [("committed late",)])
        row.wait_for(code, COUNT, [(9,)])


def test_a_daemon_over_mariadb_that_is_killed_loses_nothing(row: TestNetwork) -> None:
    """Position and data are one transaction; a crash sends again under a new session."""
    expected = 0
    for _ in range(3):
        for _ in range(40):
            expected += 1
            row.execute("00", (INSERT, (f"of 00: {expected:05}", os.urandom(20).hex())))
            row.execute("01", (INSERT, (f"of 01: {expected:05}", "x")))
        row.daemons["01"].kill()
        row.execute("01", "UPDATE customers SET name = concat(name, '!') WHERE customer_id LIKE 'of 00%7'")
        row.start_and_wait("01")
    row.wait_for("02", COUNT, [(2 * expected,)])
    row.wait_until_settled()
    row.wait_until_equal(retail.CUSTOMERS)
    assert [row.status(code)["collisions"] for code in row.nodes] == [0, 0, 0]


def test_what_truncate_has_done_is_found_and_mended(row: TestNetwork) -> None:
    """Nothing can notice it when it happens: `kod check` says so before, `kod compare` finds it after."""
    row.execute("00", "INSERT INTO prices VALUES ('tea', '2026-11-01', 'a', 1), ('mint', '2026-11-01', 'a', 2)")
    row.wait_for("01", "SELECT count(*) FROM prices", [(2,)])
    row.wait_until_settled()
    assert "TRUNCATE fires no trigger" in row.kod("check", exit_code=None).stdout
    row.execute("01", "TRUNCATE prices")
    found = json.loads(row.kod("compare", "--node", "00", "--with", "01", "--json", exit_code=1).stdout)
    assert [(one["type"], one["only_at"]) for one in found["differences"]] == [("InformationRegister.Price", "00")] * 2
    row.kod("compare", "--node", "00", "--with", "01", "--repair", exit_code=1)
    row.wait_for("01", "SELECT count(*) FROM prices", [(2,)])


def test_a_second_daemon_does_not_start(row: TestNetwork) -> None:
    """Two would fold and number the same changes."""
    refused = row.kod("run", "--node", "01", "--once", exit_code=2)
    assert "already running" in refused.stderr
    assert row.status("01")["note"]
    row.kod("check", exit_code=None)
    row.kod("schema", "check", "--node", "01", exit_code=None)

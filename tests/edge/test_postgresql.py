r"""Daemons over PostgreSQL and SQLite together: transactions that stay open, every kind of change, SIGKILL.

        00 PostgreSQL
       /  \
      01   02        PostgreSQL, SQLite

They run for the whole module; every test finds them empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.edge import retail
from tests.edge.network import Node, TestNetwork, conninfo
from tests.servers import postgresql_url

pytestmark = [pytest.mark.postgresql, pytest.mark.xdist_group("edge-postgresql")]

INSERT = "INSERT INTO customers VALUES (?, ?)"
COUNT = "SELECT count(*) FROM customers"


def link_of(status: dict[str, Any], neighbour: str) -> dict[str, Any]:
    return next(link for link in status["links"] if link["node"] == neighbour)


@pytest.fixture(scope="module")
def mixed_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNetwork]:
    """00 on PostgreSQL, with a child on PostgreSQL and one on SQLite; they run."""
    nodes = [
        Node("00", retail.POSTGRESQL, url=postgresql_url()),
        Node("01", retail.POSTGRESQL, "00", url=postgresql_url()),
        Node("02", retail.SQLITE, "00"),
    ]
    network = TestNetwork(tmp_path_factory.mktemp("mixed"), nodes, retail.EXCHANGE)
    try:
        network.install()
        network.start_and_wait()
        yield network
    finally:
        network.close()


@pytest.fixture
def mixed(mixed_network: TestNetwork) -> TestNetwork:
    """Running, and empty at every node."""
    tables = ("order_files", "orders", "customers", "prices")  # what refers goes first
    mixed_network.execute("00", *(f"DELETE FROM {table}" for table in ("order_lines", *tables)))
    for code in mixed_network.nodes:
        mixed_network.wait_for(code, " UNION ALL ".join(f"SELECT 1 FROM {table}" for table in tables), [])
    mixed_network.wait_until_settled()
    return mixed_network


def test_a_transaction_that_stays_open_over_many_boundaries_arrives_exactly_once(mixed: TestNetwork) -> None:
    """Its stamp lies far behind the boundary when it commits: the plain reading of a boundary would lose it."""
    before = mixed.statuses()
    with psycopg.connect(conninfo(mixed.nodes["00"].url)) as slow:
        slow.execute("INSERT INTO customers VALUES ('slow', 'committed late')")
        slow.execute("SAVEPOINT s")
        slow.execute("INSERT INTO customers VALUES ('undone', 'never')")
        slow.execute("ROLLBACK TO s")
        boundaries = set()
        for n in range(8):
            mixed.execute("00", (INSERT, (f"quick {n}", "x")))
            mixed.wait_for("01", COUNT, [(n + 1,)])
            boundaries.add(mixed.status("00")["boundary"])
        assert len(boundaries) > 3
        slow.commit()
    mixed.wait_for("01", "SELECT name FROM customers WHERE customer_id = 'slow'", [("committed late",)])
    mixed.wait_for("02", COUNT, [(9,)])
    mixed.wait_until_settled()
    after = mixed.statuses()
    sent, rejected = (
        [link_of(statuses[at], to)[figure] for statuses in (before, after)]
        for at, to, figure in (("00", "01", "sent_items"), ("01", "00", "rejected_items"))
    )
    assert sent[1] - sent[0] == 9, "something was sent twice, or not"
    assert rejected[0] == rejected[1]
    assert after["00"]["missed"] > before["00"]["missed"], "it is not counted as missed"


def test_postgresql_and_sqlite_exchange_every_kind_of_change(mixed: TestNetwork) -> None:
    """TRUNCATE, cascades, changes of key, upserts, sections, record sets, bytes: whichever database wrote them."""
    mixed.execute(
        "01",
        "INSERT INTO customers VALUES ('A', 'Ёж \"x\" \\ <&>'), ('B', '')",
        "INSERT INTO orders VALUES (1, 'A', 2), (2, 'B', 0), (3, 'A', 0)",
        "INSERT INTO order_lines VALUES (1, 1, 'tea', 5), (1, 2, 'mint', -7), (3, 1, 'x', 1)",
        "INSERT INTO order_files VALUES (1, 'f', '\\x00ff'), (2, 'g', NULL), (3, 'h', '\\x')",
        "INSERT INTO prices VALUES ('tea', '2026-11-01', 'a', 1), ('tea', '2026-11-01', 'b', 2),"
        " ('tea', '2026-12-01', 'a', 3)",
    )
    mixed.wait_for("02", "SELECT order_id, name, content FROM order_files ORDER BY 1", [
        (1, "f", b"\x00\xff"), (2, "g", None), (3, "h", b""),
    ])  # fmt: skip
    mixed.execute(
        "02",
        "UPDATE orders SET order_id = 7 WHERE order_id = 1",
        "DELETE FROM orders WHERE order_id = 3",
        "INSERT INTO customers VALUES ('B', 'x') ON CONFLICT (customer_id) DO UPDATE SET name = excluded.name",
        "DELETE FROM prices WHERE period = '2026-12-01'",
    )
    mixed.wait_for("01", "SELECT order_id, line, product FROM order_lines ORDER BY 1, 2", [
        (7, 1, "tea"), (7, 2, "mint"),
    ])  # fmt: skip
    mixed.execute("00", "TRUNCATE prices, order_lines", "UPDATE orders SET customer_id = 'B'")
    for code in mixed.nodes:
        mixed.wait_for(code, retail.ORDERS, [(2, "B", 0), (7, "B", 2)])
        mixed.wait_for(code, retail.LINES, [])
        mixed.wait_for(code, retail.PRICES, [])
        mixed.wait_for(code, retail.CUSTOMERS, [("A", 'Ёж "x" \\ <&>'), ("B", "x")])
        mixed.wait_for(code, retail.FILES, [(2, "g", None), (7, "f", b"\x00\xff")])
    assert [mixed.status(code)["collisions"] for code in mixed.nodes] == [0, 0, 0]


def test_postgresql_daemons_killed_in_the_middle_lose_nothing(mixed: TestNetwork) -> None:
    """As on SQLite: position and data are one transaction, a crash sends again under a new session."""
    expected = 0
    for code in ("00", "01", "00", "01"):
        for _ in range(40):
            expected += 1
            mixed.execute("00", (INSERT, (f"of 00: {expected:05}", os.urandom(20).hex())))
            mixed.execute("01", (INSERT, (f"of 01: {expected:05}", "x")))
        mixed.daemons[code].kill()
        mixed.execute("00", "UPDATE customers SET name = name || '!' WHERE customer_id LIKE 'of 00%7'")
        mixed.start_and_wait(code)
    mixed.wait_for("02", COUNT, [(2 * expected,)])
    mixed.wait_until_equal(retail.CUSTOMERS)
    assert [mixed.status(code)["collisions"] for code in mixed.nodes] == [0, 0, 0]

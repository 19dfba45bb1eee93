r"""Real input: the Northwind database in a tree of four nodes, over a folder and over Kafka.

        00 PostgreSQL, has it all
       /  \
      01   02        PostgreSQL (or MariaDB), SQLite: empty at first
      |
      03             SQLite

Everything arrives; then what is edited at any node is at every node, deletions too. Compared by this test's own
reading of the tables.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.edge.conftest import MakeNetwork
from tests.edge.network import Node, TestNetwork, conninfo
from tests.kafka_broker import kafka_bootstrap
from tests.servers import mariadb_url, postgresql_url

NORTHWIND = Path(__file__).parents[2].parent / "shared" / "data" / "northwind.sql"

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.skipif(not NORTHWIND.exists(), reason=f"the Northwind database is not at {NORTHWIND.name}"),
    pytest.mark.timeout(240),
]

EXCHANGE = {
    "Catalog.Category": {"table": "categories", "reference_data": True},
    "Catalog.Region": {"table": "region", "reference_data": True},
    "Catalog.Territory": {"table": "territories", "owner": "region_id"},
    "Catalog.State": {"table": "us_states", "reference_data": True},
    "Catalog.Shipper": {"table": "shippers", "reference_data": True},
    "Catalog.Supplier": {"table": "suppliers", "reference_data": True},
    "Catalog.Product": {"table": "products", "reference_data": True},
    "Catalog.Customer": {"table": "customers", "reference_data": True},
    "Catalog.Demographic": {"table": "customer_demographics", "reference_data": True},
    "Catalog.CustomerDemographic": {"table": "customer_customer_demo", "owner": "customer_id"},
    "Catalog.Employee": {"table": "employees", "reference_data": True},
    "Catalog.EmployeeTerritory": {"table": "employee_territories", "owner": "employee_id"},
    "Document.Order": {
        "table": "orders", "sections": {"details": "order_details"}, "reference_data": True, "date": "order_date",
    },
}  # fmt: skip

TABLES = (*(str(settings["table"]) for settings in EXCHANGE.values()), "order_details")


def postgresql_ddl() -> str:
    """The dump without its rows."""
    lines = NORTHWIND.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("INSERT INTO"))


def sqlite_ddl() -> str:
    """The same tables with their keys and foreign keys as SQLite has them: it cannot add keys to a table later."""
    return ";\n".join(_tables("blob"))


def mariadb_ddl() -> str:
    """As MariaDB has them: its foreign keys name the columns that they refer to, and it looks whether those are there.
    Its real is a double, which holds whatever a float is written as."""
    made = _tables("longblob")
    keys = dict(re.findall(r"CREATE TABLE (\w+) .*?PRIMARY KEY (\([^)]*\))", "".join(made), re.DOTALL))
    named = [re.sub(r"REFERENCES (\w+)", lambda found: f"{found[0]} {keys[found[1]]}", table) for table in made]
    return ";\n".join(["SET foreign_key_checks = 0", *named])


def _tables(bytes_type: str) -> list[str]:
    """CREATE TABLE for each, keys and foreign keys in it."""
    dump = postgresql_ddl()
    keys: dict[str, list[str]] = {}
    for table, what in re.findall(r"ALTER TABLE ONLY (\w+)\s+ADD CONSTRAINT \w+ ((?:PRIMARY|FOREIGN)[^;]+);", dump):
        keys.setdefault(table, []).append(what)
    tables = re.findall(r"CREATE TABLE (\w+) \((.*?)\n\);", dump, re.DOTALL)
    return [
        f"CREATE TABLE {table} ({columns.replace(' bytea', f' {bytes_type}')},\n {', '.join(keys[table])})"
        for table, columns in tables
    ]


def plain(value: Any) -> Any:
    """A value as both databases can show it."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    return bytes(value) if isinstance(value, memoryview) else value


def content(network: TestNetwork, code: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, by plain SQL."""
    found = {}
    for table in TABLES:
        rows = [tuple(map(plain, row)) for row in network.rows(code, f"SELECT {_columns(table)} FROM {table}")]
        found[table] = sorted(rows, key=repr)
    return found


def _columns(table: str) -> str:
    columns = re.search(rf"CREATE TABLE {table} \((.*?)\n\);", NORTHWIND.read_text(encoding="utf-8"), re.DOTALL)
    assert columns is not None
    return ", ".join(line.split()[0] for line in columns[1].strip().splitlines())


def wait_until_equal(network: TestNetwork, expected: dict[str, list[tuple[Any, ...]]] | None = None) -> None:
    """Waits until all nodes have the same, and, if given, exactly `expected`."""

    def differing() -> list[str]:
        wanted = expected if expected is not None else content(network, "00")
        found = {code: content(network, code) for code in network.nodes}
        return [f"{table} at {code}" for code in found for table in TABLES if found[code][table] != wanted[table]]

    try:
        network.wait_until(lambda: not differing(), "all tables are equal at all nodes", within_s=90)
    except AssertionError as error:
        raise AssertionError(f"{error}\ndiffering: {differing()}") from None


@pytest.fixture(
    params=[
        "folder",
        pytest.param("kafka", marks=pytest.mark.kafka),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def network(request: pytest.FixtureRequest, make_network: MakeNetwork) -> TestNetwork:
    bus = f"kafka://{kafka_bootstrap()}" if request.param == "kafka" else "folder:./exchange"
    below = (mariadb_ddl(), mariadb_url()) if request.param == "mariadb" else (postgresql_ddl(), postgresql_url())
    nodes = [
        Node("00", "SELECT 1", url=postgresql_url()),
        Node("01", below[0], "00", url=below[1]),
        Node("02", sqlite_ddl(), "00"),
        Node("03", sqlite_ddl(), "01"),
    ]
    network = make_network(nodes, EXCHANGE, bus=bus, name=f"northwind-{os.getpid()}-{request.param}")
    with psycopg.connect(conninfo(network.nodes["00"].url), autocommit=True) as connection:
        connection.execute(NORTHWIND.read_text(encoding="utf-8"))  # type: ignore[arg-type]
    return network


def test_northwind_arrives_everywhere_and_later_edits_travel(network: TestNetwork) -> None:
    """Text keys, keys of several columns, references of a table to itself, real and smallint columns, a section: if
    anything of it were lost or changed on the way, or an edit stayed where it was made, the tables would differ."""
    source = content(network, "00")
    assert sum(map(len, source.values())) == 3362
    network.install(existing=["00"])
    network.start_and_wait()
    wait_until_equal(network, source)

    for code, edits in EDITS.items():
        network.execute(code, *edits)
    network.wait_until(lambda: has_edits(network), "every edit is at every node")
    wait_until_equal(network)

    delete_at_each(network)
    network.wait_until(lambda: has_deletions(network), "every deletion is at every node")
    wait_until_equal(network)

    assert content(network, "00")["us_states"] == [row for row in source["us_states"] if row[0] not in (1, 2)]
    assert content(network, "00")["shippers"] == source["shippers"], "what nobody touched has changed"
    for found in network.statuses().values():
        assert found["collisions"] == found["parked"] == 0
        assert found["items_waiting"] == 0
    for other in ("01", "02"):
        network.kod("compare", "--node", "00", "--with", other)
    network.kod("compare", "--node", "01", "--with", "03")
    assert {code: daemon.stop() for code, daemon in network.daemons.items()} == dict.fromkeys(network.nodes, 0)


EDITS: dict[str, Sequence[str | tuple[str, Sequence[Any]]]] = {
    "00": (
        "INSERT INTO categories VALUES (9, 'Tools', NULL, '\\x00ff10')",
        "INSERT INTO products (product_id, product_name, category_id, unit_price, discontinued)"
        " VALUES (78, 'Hammer', 9, 0.1, 0)",
        "UPDATE products SET unit_price = unit_price * 1.07 WHERE category_id = 1",
        "INSERT INTO customer_demographics VALUES ('BIG', 'buys much')",
        "INSERT INTO customer_customer_demo VALUES ('ALFKI', 'BIG'), ('VINET', 'BIG')",
    ),
    "01": (
        "INSERT INTO customers (customer_id, company_name, city) VALUES ('ŻUBR', 'Żubr i synowie', 'Łódź')",
        "INSERT INTO orders (order_id, customer_id, employee_id, order_date, freight)"
        " VALUES (12001, 'ŻUBR', 5, '2026-11-22', 1e-7)",
        "INSERT INTO order_details VALUES (12001, 11, 14.5, 3, 0.15), (12001, 42, 9.8, 1, 0)",
        "UPDATE order_details SET quantity = quantity + 1, discount = 0.05 WHERE order_id = 10250",
        "DELETE FROM order_details WHERE order_id = 10251 AND product_id = 22",
    ),
    "02": (
        "INSERT INTO employees (employee_id, last_name, first_name, birth_date)"
        " VALUES (10, 'Ёлкин', 'Пётр', '1999-12-31')",
        "INSERT INTO employees (employee_id, last_name, first_name, reports_to) VALUES (11, 'Smith', 'Ann', 10)",
        "UPDATE employees SET reports_to = 11 WHERE employee_id = 10",  # a circle of two
        "INSERT INTO territories VALUES ('99999', 'The North', 3)",
        "INSERT INTO employee_territories VALUES (11, '99999')",
        "UPDATE region SET region_description = 'Far North' WHERE region_id = 3",
    ),
    "03": (
        "UPDATE customers SET customer_id = 'PARI2', city = NULL WHERE customer_id = 'PARIS'",  # a change of key
        "UPDATE employees SET reports_to = 2, notes = 'It''s \"new\"\n\tnow' WHERE employee_id = 9",
        ("UPDATE categories SET picture = ? WHERE category_id = 8", (bytes(range(256)),)),
        "UPDATE orders SET ship_country = '', shipped_date = NULL WHERE order_id = 10254",
        "INSERT INTO orders (order_id, customer_id) VALUES (12003, 'PARI2')",
    ),
}  # fmt: skip


def has_edits(network: TestNetwork) -> bool:
    seen = {
        "SELECT count(*) FROM products WHERE product_id = 78": 1,
        "SELECT count(*) FROM customer_customer_demo": 2,
        "SELECT count(*) FROM order_details WHERE order_id = 12001": 2,
        "SELECT count(*) FROM order_details WHERE order_id = 10251": 2,
        "SELECT count(*) FROM employees WHERE reports_to IN (10, 11)": 2,
        "SELECT count(*) FROM employee_territories WHERE territory_id = '99999'": 1,
        "SELECT count(*) FROM customers WHERE customer_id IN ('PARIS', 'PARI2') AND city IS NULL": 1,
        "SELECT count(*) FROM orders WHERE order_id = 12003 OR ship_country = ''": 2,
    }
    return all(network.rows(code, sql) == [(count,)] for code in network.nodes for sql, count in seen.items())


def delete_at_each(network: TestNetwork) -> None:
    """Of what came from another node, too; details before their order, as the keys demand."""
    network.execute(
        "00",
        "DELETE FROM customer_customer_demo WHERE customer_id = 'ALFKI'",
        "DELETE FROM us_states WHERE state_id = 1",
    )
    network.execute("01", "DELETE FROM us_states WHERE state_id = 2")
    network.execute(
        "02", "DELETE FROM order_details WHERE order_id = 10248", "DELETE FROM orders WHERE order_id = 10248"
    )
    network.execute(
        "03",
        "DELETE FROM order_details WHERE order_id = 12001",
        "DELETE FROM orders WHERE order_id IN (12001, 12003)",
        "DELETE FROM customers WHERE customer_id IN ('ŻUBR', 'PARI2', 'FISSA')",
        "DELETE FROM employee_territories WHERE territory_id = '99999'",
        "DELETE FROM territories WHERE territory_id = '99999'",
    )


def has_deletions(network: TestNetwork) -> bool:
    gone = (
        "SELECT count(*) FROM customer_customer_demo WHERE customer_id = 'ALFKI'",
        "SELECT count(*) FROM us_states WHERE state_id IN (1, 2)",
        "SELECT count(*) FROM orders WHERE order_id IN (10248, 12001, 12003)",
        "SELECT count(*) FROM order_details WHERE order_id IN (10248, 12001, 12003)",
        "SELECT count(*) FROM customers WHERE customer_id IN ('ŻUBR', 'PARI2', 'FISSA')",
        "SELECT count(*) FROM territories WHERE territory_id = '99999'",
    )
    return all(network.rows(code, sql) == [(0,)] for code in network.nodes for sql in gone)

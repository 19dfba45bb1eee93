"""docs/how-to/kinds-of-data.md, run from its own blocks: a head office, and a branch that has numbers of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.edge.network import Node, TestNetwork

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "kinds-of-data.md"
BOTH = ("00", "01")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNetwork]:
    """The document's network, with all that its blocks write, exchanged."""
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    tables, settings = dict(blocks)["tables"], dict(blocks)["nodes.yaml"]
    nodes = [Node("00", tables), Node("01", tables, "00")]
    network = TestNetwork(tmp_path_factory.mktemp("kinds"), nodes, yaml.safe_load(settings)["exchange"])
    network.path.write_text(settings, encoding="utf-8")
    written = [(code, statement) for code, block in blocks if code in BOTH for statement in block.split(";\n")]
    lookups = [(code, statement) for code, statement in written if "statuses" in statement]
    for code, statement in lookups:
        network.execute(code, statement)
    predefined = [pair for pair in written if "Retail" in pair[1]]
    for code, statement in predefined:
        network.execute(code, statement)
    network.install()
    for code, statement in written:
        if statement.strip() and (code, statement) not in (*lookups, *predefined):
            network.execute(code, statement)
    exchange(network)
    yield network
    network.close()


def exchange(network: TestNetwork) -> None:
    for code in ("01", "00", "01", "00"):
        network.kod("run", "--node", code, "--once")


def test_every_kind_is_the_same_at_both_nodes_in_their_own_keys(kinds: TestNetwork) -> None:
    """References to a predefined customer are the node's own, values of a lookup table too."""
    rows = kinds.rows
    payments = (
        "SELECT payment_id, payer_type, payer_customer, payer_employee, payer_text, about FROM payments ORDER BY 1"
    )
    about = '{"#type": "Catalog.Customer", "#value": "c-1"}'
    assert rows("00", payments)[1][5] == about
    assert rows("01", payments) == [
        ("p-1", "customer", "b-7", None, None, None),
        ("p-2", "employee", None, "e-1", None, '{"#type":"Catalog.Customer","#value":"b-7"}'),
        ("p-3", "text", None, None, "by hand", None),
    ]
    for table in ("company", "folders", "movements", "employees"):
        assert rows("00", f"SELECT * FROM {table} ORDER BY 1, 2") == rows("01", f"SELECT * FROM {table} ORDER BY 1, 2")
        assert rows("00", f"SELECT * FROM {table}"), table
    assert rows("00", "SELECT count(*) FROM customers") == rows("01", "SELECT count(*) FROM customers") == [(1,)]
    kinds.execute("01", "UPDATE customers SET status = 10, name = 'Retail trade'")
    exchange(kinds)
    assert rows("00", "SELECT customer_id, name, status FROM customers") == [("c-1", "Retail trade", 2)]
    assert rows("01", "SELECT customer_id, name, status FROM customers") == [("b-7", "Retail trade", 10)]


def test_nodes_whose_keys_differ_compare_equal_and_nothing_waits(kinds: TestNetwork) -> None:
    """Compared is what the wire would say."""
    compared = kinds.json("compare", "--node", "00", "--with", "01")
    assert compared["differences"] == [], compared
    assert kinds.json("explain", "--node", "01", "Catalog.Customer", "b-7")["predefined"] == "Retail"
    assert all(kinds.status(code)["parked"] == 0 and kinds.status(code)["collisions"] == 0 for code in BOTH)


def test_what_has_no_counterpart_is_named_beforehand_and_waits_with_its_reason(kinds: TestNetwork) -> None:
    """A status that the branch does not have: nobody would else know why the customer does not come."""
    kinds.execute("00", "INSERT INTO statuses VALUES (3, 'lost')", "INSERT INTO customers VALUES ('c-2', 'x', NULL, 3)")
    kinds.kod("schema", "generate", "--node", "00")
    checked = kinds.kod("check", exit_code=1).stdout
    assert "statuses.code does not have 'lost'" in checked
    kinds.kod("run", "--node", "00", "--once")
    kinds.kod("run", "--node", "01", "--once", exit_code=1)
    (parked,) = kinds.json("parked", "--node", "01")
    assert "Catalog.Customer.status: 'lost' has no counterpart in statuses.code" in parked["reason"]
    kinds.execute("01", "INSERT INTO statuses VALUES (30, 'lost')")
    kinds.kod("run", "--node", "01", "--once")
    assert kinds.rows("01", "SELECT status FROM customers WHERE customer_id = 'c-2'") == [(30,)]

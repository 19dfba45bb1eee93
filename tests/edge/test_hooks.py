"""The how-to about hooks, carried out: its tables, its nodes.yaml and its one file of hooks, by real processes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.edge.conftest import MakeNetwork
from tests.edge.network import Node, TestNetwork

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "hooks.md"
TEXTS = "SELECT product_id, body FROM product_texts ORDER BY 1"
STOCK = "SELECT product_id, reserved FROM stock ORDER BY 1"


def blocks(language: str) -> str:
    """All code of one language in the how-to."""
    text = HOW_TO.read_text(encoding="utf-8")
    return "\n\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@pytest.fixture
def network(make_network: MakeNetwork) -> TestNetwork:
    ddl = blocks("sql")
    made = make_network([Node("00", ddl), Node("01", ddl, "00")], yaml.safe_load(blocks("yaml"))["exchange"])
    (made.folder / "retail_hooks.py").write_text(blocks("python"), encoding="utf-8")
    settings = yaml.safe_load(made.path.read_text(encoding="utf-8"))
    made.path.write_text(yaml.safe_dump({**settings, "hooks": "retail_hooks.py"}, sort_keys=False), encoding="utf-8")
    return made


def explained(network: TestNetwork, *arguments: str) -> dict[str, str]:
    found: dict[str, Any] = network.json("explain", "--node", "00", *arguments)
    return {addressee["node"]: addressee["rule"] for addressee in found["addressees"]}


def test_each_example_of_the_how_to_does_what_it_says(network: TestNetwork) -> None:
    """Examples that do not run are worse than none."""
    network.execute(
        "00",
        "INSERT INTO customers VALUES ('ALFKI', 'Alfred', '89001234567')",
        "INSERT INTO couriers VALUES ('C', 'Courier')",
        "INSERT INTO orders VALUES ('2024-000001', 'ALFKI', 'C')",
    )
    network.install(existing=["00"])
    findings = network.json("check")["findings"]
    assert {(f["property"], f["effect"]) for f in findings} == {("text", "note")}, findings  # what the hooks except
    dated = "SELECT substr(stamp, 1, 8) FROM kod_stamps WHERE type = 'Document.Order'"
    assert network.rows("00", dated) == [("20240101",)]

    network.start_and_wait("00")
    network.execute(
        "00",
        "INSERT INTO products VALUES (1, 'Chai')",
        "INSERT INTO product_texts VALUES (1, 'black')",
        "INSERT INTO tasks VALUES (1, 'sell', '01'), (2, 'count', '00')",
        "INSERT INTO task_files VALUES ('1-plan', 'a'), ('2-list', 'b')",
    )
    network.wait_until(lambda: network.status("00")["items_waiting"] == 0, "all is sent")
    sent = b"".join(file.read_bytes() for file in (network.folder / "exchange").rglob("*.json"))
    assert b"+79001234567" in sent
    assert b"89001234567" not in sent

    network.start_and_wait("01")
    network.wait_for("01", TEXTS, [(1, "black")])
    network.wait_for("01", "SELECT phone FROM customers", [("89001234567",)])
    network.wait_for("01", "SELECT order_id, courier_id FROM orders", [("2024-000001", "C")])
    assert network.rows("01", "SELECT count(*) FROM couriers") == [(0,)]  # the order goes without its courier
    network.wait_for("01", "SELECT task_id FROM tasks", [(1,)])
    network.wait_for("01", "SELECT file_id FROM task_files", [("1-plan",)])
    network.execute(
        "00", "UPDATE product_texts SET body = 'green'", "UPDATE tasks SET seen_at = '01' WHERE task_id = 2"
    )
    network.wait_for("01", TEXTS, [(1, "green")])
    network.wait_for("01", "SELECT file_id FROM task_files ORDER BY 1", [("1-plan",), ("2-list",)])
    assert "hook Document.Task.addressees" in explained(network, "Document.Task", "1")["01"]
    assert "hook Catalog.TaskFile.owner" in explained(network, "Catalog.TaskFile", "1-plan")["01"]
    network.execute("00", "UPDATE tasks SET seen_at = '' WHERE task_id = 1")
    network.wait_for("01", "SELECT seen_at FROM tasks WHERE task_id = 1", [("",)])
    assert "holds it" in explained(network, "Document.Task", "1")["01"]

    network.execute(
        "00",
        "INSERT INTO orders VALUES ('2026-000002', 'ALFKI', NULL)",
        "INSERT INTO order_lines VALUES ('2026-000002', 1, 1, 12)",
    )
    network.wait_for("01", STOCK, [(1, 12)])
    letters = "SELECT order_id, body FROM letters ORDER BY 1"
    known = [("2024-000001", "order 2024-000001 at 01"), ("2026-000002", "order 2026-000002 at 01")]
    network.wait_for("01", letters, known)
    assert network.status("01")["deferred"] == {"waiting": 0, "failing": 0, "oldest_ms": None, "reason": None}

    network.execute("00", "UPDATE order_lines SET quantity = 0")
    network.wait_until(lambda: network.status("01")["parked"] == 1, "the order is refused")
    (parked,) = network.json("parked", "--node", "01")
    assert re.match(
        r"hook Document\.Order\.before_write \(retail_hooks\.py, line \d+\): ValueError: a line", parked["reason"]
    )
    network.execute("00", "UPDATE order_lines SET quantity = 5")
    network.wait_for("01", STOCK, [(1, 5)])
    network.wait_until(lambda: network.status("01")["parked"] == 0, "what was parked is a repeat now")

    assert network.daemons["01"].stop() == 0
    network.execute("01", "UPDATE customers SET name = 'of 01', phone = '8000'")
    network.execute("00", "UPDATE customers SET name = 'of 00', phone = '8111'")
    network.start_and_wait("01")
    for code in network.nodes:
        network.wait_for(code, "SELECT name, phone FROM customers", [("of 01", "8111")])
    (collision,) = network.json("collisions", "--node", "00")
    assert collision["policy"] == "hook"
    assert network.json("collisions", "--node", "01") == []
    assert {code: daemon.stop() for code, daemon in network.daemons.items()} == {"00": 0, "01": 0}


def test_a_hook_that_fails_is_shown_and_faults_of_the_file_are_found(network: TestNetwork) -> None:
    """With what, where and what to do; other items go, and the daemon does not start on a file that is faulty."""
    hooks = network.folder / "retail_hooks.py"
    whole = hooks.read_text(encoding="utf-8")
    hooks.write_text(
        whole.replace("SELECT body FROM product_texts", "SELECT text FROM product_texts"), encoding="utf-8"
    )
    network.install()
    network.execute(
        "00",
        "INSERT INTO products VALUES (1, 'Chai')",
        "INSERT INTO customers VALUES ('ALFKI', 'Alfred', NULL)",
        "INSERT INTO tasks VALUES (1, 'sell', 'Kazan')",
    )
    assert network.kod("run", "--node", "00", "--once", exit_code=1).stderr.count("items are held") == 1
    held = network.status("00")["held"]
    assert held["items"] == 2
    why = explained(network, "Document.Task", "1")["01"]
    assert "Document.Task.addressees" in why
    assert "'Kazan' is no node of this network" in why
    story = network.json("explain", "--node", "00", "Catalog.Product", "1")["addressees"][0]
    assert "hook Catalog.Product.on_write_to_message (retail_hooks.py, line" in story["state"]
    found = network.kod("check", "--json", exit_code=1).stdout
    assert "2 items are held" in found
    network.kod("run", "--node", "01", "--once")
    assert network.rows("01", "SELECT customer_id FROM customers") == [("ALFKI",)]

    faulty = whole.replace("def addressees(self, value: Value, db: Reading)", "def addresses(self, value: Value)")
    faulty = faulty.replace('type="Catalog.TaskFile"', 'type="Catalog.TaskFiles"').replace('"courier_id": False', "")
    hooks.write_text(faulty, encoding="utf-8")
    findings = yaml.safe_load(network.kod("check", "--json", exit_code=1).stdout)
    texts = [f"{one['text']} | {one['hint']}" for one in findings["findings"]]
    line = faulty[: faulty.index("def addresses")].count("\n") + 1
    assert any(
        f"retail_hooks.py, line {line}: Task.addresses is no hook | did you mean 'addressees'?" in t for t in texts
    )
    assert any("'Catalog.TaskFiles', which is no type" in t and "Catalog.TaskFile'" in t for t in texts)
    assert any("controlled_references leaves undecided: courier_id" in t for t in texts)
    refused = network.kod("run", "--node", "00", "--once", exit_code=2)
    assert "retail_hooks.py" in refused.stderr
    assert network.status("00")["node"] == "00"

    hooks.write_text(whole, encoding="utf-8")
    network.execute("00", "UPDATE tasks SET seen_at = '01'")
    network.kod("run", "--node", "00", "--once")
    network.kod("run", "--node", "01", "--once")
    assert network.rows("01", "SELECT name FROM products") == [("Chai",)]
    assert network.rows("01", "SELECT text FROM tasks") == [("sell",)]
    assert network.status("00")["held"] == {"items": 0, "reason": None}

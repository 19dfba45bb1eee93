"""`kod demo` as a person meets it, and the annotated example that it uses."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from node.config import read_network
from node.demo.network import DemoNetwork, example, nodes_yaml
from node.demo.proof import compare, prove, read_node
from node.demo.trade import Clash, Key, load_sample
from tests.edge.processes import children, is_alive, needs_proc

EXAMPLE = Path(__file__).parents[2] / "nodes.yaml"


def kod(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "node", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_demo_shows_the_flow_and_proves_that_the_nodes_agree(tmp_path: Path) -> None:
    """The first thing that anybody runs; it must not say that all is well when it is not."""
    done = kod(tmp_path, "demo", "--dir", "kept", "--seconds", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"00->01 \d+ messages \d+ items", done.stdout), "the flow is not shown"
    assert done.stdout.count("agree ✓") == 6
    assert "upwards ✓" in done.stdout
    assert "kod status" in done.stdout, "what to try next is not said"

    products = "SELECT product_id, name, category_id, weight_kg, picture, edited FROM products ORDER BY 1"
    found = []
    for code in ("00", "01", "02"):
        with closing(sqlite3.connect(tmp_path / "kept" / f"{code}.sqlite")) as connection:
            found.append(connection.execute(products).fetchall())
    assert len(found[0]) > 50
    assert found[0] == found[1] == found[2]

    status = kod(tmp_path / "kept", "status", "--json")  # what is kept can be looked around in
    assert [node["node"] for node in json.loads(status.stdout)] == ["00", "01", "02"]
    assert sum(node["collisions"] for node in json.loads(status.stdout)) > 0


def test_five_nodes_build_a_deeper_tree_and_leave_nothing_behind(tmp_path: Path) -> None:
    """What a grandchild changes has to come to its cousins; a temporary folder is removed."""
    done = kod(tmp_path, "demo", "--nodes", "5", "--seconds", "3", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["holds"]
    assert summary["nodes"] == ["00", "01", "02", "03", "04"]
    assert summary["edits"] > 20
    assert summary["collisions_journalled"] >= summary["collisions_provoked"] > 0
    assert all(line["agrees"] for line in summary["types"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "damage", "wrong"),
    [
        ("02", "UPDATE clients SET telephone = 'x' WHERE customer_id = 'C0003'", "Catalog.Customer"),
        ("01", "DELETE FROM order_lines WHERE number = '00-S00001' AND line = 1", "Document.Order"),
        ("00", "DELETE FROM prices WHERE product_id = 7 AND kind = 'retail'", "InformationRegister.Price"),
        ("01", "INSERT INTO till_reports VALUES ('02', 1, 5, 'x')", "Document.TillReport"),
    ],
)
def test_the_proof_notices_an_item_that_differs(tmp_path: Path, code: str, damage: str, wrong: str) -> None:
    """Or the demo would prove whatever happened."""
    network = _same_everywhere(tmp_path)
    assert prove(network, {}, [], []).holds
    with closing(next(node for node in network.nodes if node.code == code).connect()) as connection:
        connection.execute(damage)
    lines = compare(network, {node.code: read_node(node) for node in network.nodes})
    assert [line.type for line in lines if not line.agrees] == [wrong]


def test_the_proof_notices_a_lost_edit_and_a_collision_that_nobody_can_read(tmp_path: Path) -> None:
    """All nodes may agree on the wrong version."""
    network = _same_everywhere(tmp_path)
    product, customer = Key("products", (7,)), Key("customers", ("C0003",))
    assert prove(network, {"01": {product: "sample"}}, [], []).holds
    assert len(prove(network, {"01": {product: "01#5"}}, [], []).lost) == 1
    assert len(prove(network, {"01": {product: None}}, [], []).lost) == 1, "a deletion that did not arrive"
    clash = Clash(customer, ("sample", "02#clash1"), ("01", "02"))
    assert len(prove(network, {}, [clash], []).unjournalled) == 1
    assert prove(network, {}, [clash], [("Catalog.Customer", '{"edited":"02#clash1"}')]).holds


def _same_everywhere(folder: Path) -> DemoNetwork:
    network = DemoNetwork(folder)
    network.write(3)
    for node in network.nodes:
        load_sample(node)
    return network


@needs_proc
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_demo_ends_no_daemon_stays(tmp_path: Path, how: signal.Signals) -> None:
    """Or a stopped demo would leave processes that nobody knows of."""
    demo = subprocess.Popen(
        [sys.executable, "-P", "-m", "node", "demo", "--dir", "kept", "--seconds", "100"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        daemons = _daemons_of(demo.pid)
        demo.send_signal(how)
        demo.communicate(timeout=60)
        until = time.monotonic() + 30
        while any(map(is_alive, daemons)) and time.monotonic() < until:
            time.sleep(0.05)
        assert [pid for pid in daemons if is_alive(pid)] == []
        assert demo.returncode != 0
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.communicate()


def _daemons_of(pid: int) -> list[int]:
    """The daemons of a running demo, once all three run."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        running = [child for child, command in children(pid).items() if "run" in command]
        if len(running) == 3:
            return running
        time.sleep(0.05)
    raise AssertionError("the demo did not start three daemons")


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """`--dir` must never write into what somebody has there."""
    (tmp_path / "mine.txt").write_text("mine")
    done = kod(tmp_path, "demo", "--dir", ".")
    assert done.returncode == 2
    assert "Try:" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_annotated_example_is_the_demos_network() -> None:
    """An example that is not used rots."""
    assert nodes_yaml(3) == example() == EXAMPLE.read_text(encoding="utf-8")


def test_the_annotated_example_names_every_setting() -> None:
    """A setting that is not in it is not found. Whoever adds one adds its line (unit, default, when to change it)."""
    from node import config

    text = EXAMPLE.read_text(encoding="utf-8")
    settings = {*config._TOP_KEYS, *config._NODE_KEYS, *config._TYPE_KEYS}
    assert [name for name in sorted(settings) if not re.search(rf"\b{name}:", text)] == []


def test_the_example_says_the_defaults(tmp_path: Path) -> None:
    """Its values are called defaults: they must be what holds without them."""
    (tmp_path / "nodes.yaml").write_text(example(), encoding="utf-8")
    nodes = read_network(tmp_path / "nodes.yaml", package_needed=False).nodes
    said, unsaid = nodes["00"], nodes["01"]
    limits = [name for name in type(said).__slots__ if name.endswith(("_max", "_min", "_s"))]
    assert len(limits) == 9
    assert {name: getattr(said, name) for name in limits} == {name: getattr(unsaid, name) for name in limits}


def test_kod_check_accepts_the_example(tmp_path: Path) -> None:
    """With the demo's tables there is nothing to complain about."""
    network = DemoNetwork(tmp_path)
    network.write(3)
    network.kod("schema", "generate", "--node", "00")
    done = kod(tmp_path, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    for code in ("00", "01", "02"):
        network.kod("schema", "check", "--node", code)

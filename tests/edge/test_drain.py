"""Draining a node before it is upgraded: real daemons over SQLite and a folder.

00 is the head office, 01 and 02 are its children. They run for the whole module; no test relies on another one's
having been there before.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.edge import retail
from tests.edge.conftest import MakeNetwork
from tests.edge.network import Node, TestNetwork

pytestmark = pytest.mark.xdist_group("edge-drain")

INSERT = "INSERT INTO customers VALUES (?, ?)"
BEFORE = "SELECT count(*) FROM customers WHERE customer_id LIKE 'before %'"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNetwork]:
    nodes = [Node("00", retail.SQLITE), Node("01", retail.SQLITE, "00"), Node("02", retail.SQLITE, "00")]
    made = TestNetwork(tmp_path_factory.mktemp("drain"), nodes, retail.EXCHANGE)
    try:
        made.install()
        made.start_and_wait()
        yield made
    finally:
        made.close()


def test_a_drained_node_has_delivered_what_it_had_and_sends_no_more(network: TestNetwork) -> None:
    """Or an upgrade would begin while messages of the old structure are under way."""
    for number in range(50):
        network.execute("01", (INSERT, (f"before {number}", "x")))
    drained = network.json("drain", "--node", "01", "--timeout", "50")
    assert drained["safe"], drained
    assert drained["waits_for"] == []
    (link,) = drained["links"]
    assert link["arrived"] >= link["sent"]
    assert network.rows("00", BEFORE) == [(50,)]

    network.execute("01", (INSERT, ("after", "x")))
    network.execute("00", (INSERT, ("meanwhile", "x")))
    network.wait_for("01", "SELECT name FROM customers WHERE customer_id = 'meanwhile'", [("x",)])
    status = network.status("01")
    assert (status["draining"], status["items_waiting"]) == ("done", 1)
    assert network.rows("00", "SELECT 1 FROM customers WHERE customer_id = 'after'") == []

    assert network.json("drain", "--node", "01", "--end") == {"node": "01", "ended": True}
    for code in ("00", "02"):
        network.wait_for(code, "SELECT name FROM customers WHERE customer_id = 'after'", [("x",)])


def test_a_daemon_that_starts_ends_the_drain(network: TestNetwork) -> None:
    """Who forgets to end it would have a node that is silent for ever."""
    network.kod("drain", "--node", "01", "--timeout", "50")
    assert network.daemons["01"].stop() == 0
    network.execute("01", (INSERT, ("upgraded", "x")))
    network.start_and_wait("01")
    network.wait_for("02", "SELECT name FROM customers WHERE customer_id = 'upgraded'", [("x",)])
    assert network.status("01")["draining"] is None


def test_all_nodes_may_drain_at_once(network: TestNetwork) -> None:
    """Each needs the others' word, although none of them sends: a change that concerns all nodes begins like that."""
    for code in network.nodes:
        network.execute(code, (INSERT, (f"last of {code}", "x")))
    drains = {
        code: subprocess.Popen(
            network.command("drain", "--node", code, "--timeout", "50", "--json"),
            cwd=network.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        for code in network.nodes
    }
    for code, process in drains.items():
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, json.loads(said)["safe"]) == (0, True), (code, said)
    for code in network.nodes:
        network.kod("drain", "--node", code, "--end")
    network.wait_until_equal(retail.CUSTOMERS)


def test_a_drain_that_is_given_up_is_taken_back(network: TestNetwork) -> None:
    """A neighbour is away: nobody can say whether it has what was sent. The node goes on as before."""
    network.daemons["00"].stop()
    network.execute("01", (INSERT, ("for nobody", "x")))
    refused = network.kod("drain", "--node", "01", "--timeout", "1", exit_code=1)
    assert "not drained within 1 s" in refused.stderr
    assert network.status("01")["draining"] is None

    waiting = subprocess.Popen(
        network.command("drain", "--node", "01"), cwd=network.folder, stderr=subprocess.PIPE, text=True
    )
    assert waiting.stderr is not None
    assert any("00 has not said that it received session" in line for line in waiting.stderr)
    assert network.status("01")["draining"] == "done"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=20)
    assert (waiting.returncode, "sends again" in said) == (1, True)
    assert network.status("01")["draining"] is None

    without_daemon = network.kod("drain", "--node", "00", exit_code=1)
    assert "no daemon runs" in without_daemon.stderr
    network.start_and_wait("00")
    network.wait_for("02", "SELECT name FROM customers WHERE customer_id = 'for nobody'", [("x",)])


def test_status_tells_the_packages_of_neighbours(make_network: MakeNetwork) -> None:
    """In a rolling upgrade somebody has to see who works with what."""
    network = make_network([Node("00", retail.SQLITE), Node("01", retail.SQLITE, "00")], retail.EXCHANGE)
    network.install()
    network.start_and_wait()
    network.execute("00", (INSERT, ("same", "x")))
    network.wait_until(lambda: network.link("01", "00")["package_is"] == "same", "01 has heard of 00's package")
    assert network.link("01", "00")["package"] == network.status("00")["package"]
    network.daemons["01"].stop()
    network.execute("01", "ALTER TABLE customers ADD COLUMN colour TEXT")
    package = network.folder / "package.xsd"
    earlier = package.read_bytes()
    network.kod("schema", "generate", "--node", "01")
    network.kod("install", "--node", "01")
    network.start_and_wait("01")
    package.write_bytes(earlier)  # the others have theirs still
    network.execute("00", (INSERT, ("older", "x")))
    network.wait_until(lambda: network.link("01", "00")["package_is"] == "older", "01 sees that 00 is behind")
    network.execute("01", (INSERT.replace("customers ", "customers (customer_id, name) "), ("newer", "x")))
    network.wait_until(lambda: network.link("00", "01")["package_is"] == "other", "00 sees another package")
    link = network.link("00", "01")
    assert link["package"] != network.status("00")["package"]
    assert len(link["package_since"]) == 17

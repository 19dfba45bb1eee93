"""A new node fills itself, from fresh to old, while the network goes on; and `kod history`."""

from __future__ import annotations

from tests.edge import retail
from tests.edge.conftest import MakeNetwork
from tests.edge.network import Node, TestNetwork

CUSTOMERS = 30_000
PORTIONS = {"portion_items_max": 1_000}
"""Small ones: the history shall take as long as it takes to look at it."""
COUNT = "SELECT count(*) FROM customers"
AS_MANY = (
    f"INSERT INTO customers WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {CUSTOMERS})"
)
OLD = f"{AS_MANY} SELECT printf('%06d', i), 'old' FROM n"
GAPS = "SELECT max(customer_id), count(*) FROM customers WHERE name = 'old' AND customer_id >= ({})"
"""Keys grow with the stamps: what has come from fresh to old has no gap above the oldest."""


def running(make_network: MakeNetwork) -> TestNetwork:
    """00 and 01, with a warm history, and both running."""
    nodes = [Node("00", retail.SQLITE, settings=PORTIONS), Node("01", retail.SQLITE, "00")]
    network = make_network(nodes, retail.EXCHANGE)
    network.install()
    network.execute("00", OLD)
    network.start("00", "01")
    network.wait_for("01", COUNT, [(CUSTOMERS,)])
    return network


def test_a_new_node_fills_itself_from_fresh_to_old_and_a_killed_daemon_goes_on(make_network: MakeNetwork) -> None:
    """Live changes must not wait for what is old; and hours of history must not begin anew with every crash."""
    network = running(make_network)
    assert network.daemons.pop("00").stop() == 0
    network.add(Node("02", retail.SQLITE, "00"))
    network.kod("install", "--node", "02")
    network.start("00", "02")

    network.wait_until(lambda: network.rows("02", COUNT) != [(0,)], "history begins to arrive")
    network.execute("00", "INSERT INTO customers VALUES ('live', 'new')")
    seen = f"SELECT ({COUNT}) FROM customers WHERE customer_id = 'live'"
    looks: list[int] = []
    network.wait_until(
        lambda: looks.extend(n for (n,) in network.rows("02", seen)) or looks, "the live change is at the new node"
    )
    assert looks[0] < CUSTOMERS, "it did not wait for all the rest"

    network.daemons["00"].kill()
    (history,) = network.link("00", "02")["history"]
    assert (history["state"], history["type"], history["total"]) == ("open", None, CUSTOMERS)
    assert 0 < history["sent"] < CUSTOMERS
    assert len(history["everything_since"]) == 17
    network.wait_until(lambda: network.link("02", "00")["queue_messages"] == 0, "what was sent has been applied")
    oldest = "SELECT min(customer_id) FROM customers WHERE name = 'old'"
    ((first,),) = network.rows("02", oldest)
    assert network.rows("02", GAPS.format(oldest)) == [(f"{CUSTOMERS:06d}", CUSTOMERS + 1 - int(first))]
    assert int(first) > 1, "from fresh to old, and not at the end yet"

    before = history["sent"]
    network.daemons.pop("00")
    network.start("00")
    network.wait_until_equal(retail.CUSTOMERS)
    network.wait_until(lambda: not network.link("00", "02")["history"], "status says that history is done")
    (ended,) = [one for one in network.json("history", "--node", "00", "--list") if one["to"] == "02"]
    assert (ended["state"], ended["reason"]) == ("done", "new neighbour")
    assert before < ended["sent"] <= CUSTOMERS, "it went on where it was"
    network.wait_until_settled()
    (story,) = (a for a in network.json("explain", "--node", "00", "Catalog.Customer", "000001")["addressees"][1:])
    assert story["state"] == f"sent in session {story['sent']['session']}, message {story['sent']['message']}"


def test_history_on_request_is_listed_waited_for_and_cancelled(make_network: MakeNetwork) -> None:
    """A neighbour that lacks nothing is sent nothing."""
    network = make_network([Node("00", retail.SQLITE), Node("01", retail.SQLITE, "00")], retail.EXCHANGE)
    network.install()
    network.execute("00", "INSERT INTO customers VALUES ('A', 'x')", "INSERT INTO tasks VALUES (1, 'not for 01')")
    network.kod("run", "--node", "00", "--once")
    network.kod("run", "--node", "01", "--once")

    queued = network.json("history", "--node", "00", "--to", "01", "--type", "Catalog.Customer", "--from", "2020")
    assert (queued["state"], queued["type"], queued["from"]) == ("open", "Catalog.Customer", "20200101000000000")
    assert "queued" in network.kod("history", "--node", "00", "--to", "01").stdout
    assert "history to 01" in network.kod("status", "--node", "00").stdout
    network.kod("history", "--node", "00", "--cancel", str(queued["id"]))
    again = network.kod("history", "--node", "00", "--cancel", str(queued["id"]), exit_code=2)
    assert "Try:" in again.stderr
    states = {one["id"]: one["state"] for one in network.json("history", "--node", "00", "--list")}
    assert states[queued["id"]] == "cancelled"

    network.execute("00", "INSERT INTO task_access VALUES (1, '01')")  # a right that nobody has looked at yet
    network.kod("run", "--node", "00", "--once")
    network.kod("run", "--node", "01", "--once")
    assert network.rows("01", "SELECT task_id, text FROM tasks") == [(1, "not for 01")]
    network.start("00")
    waited = network.json("history", "--node", "00", "--to", "01", "--wait")
    assert (waited["state"], waited["sent"]) == ("done", 0)
    wrong = network.kod("history", "--node", "01", "--to", "07", exit_code=2)
    assert "no neighbour" in wrong.stderr

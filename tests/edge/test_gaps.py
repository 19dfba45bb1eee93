"""What the bus loses is noticed, shown, asked for and healed, without anybody doing anything."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from node.buses.kafka.topics import topic_of
from tests.edge import retail
from tests.edge.conftest import MakeNetwork
from tests.edge.network import Node, TestNetwork
from tests.kafka_broker import kafka_bootstrap

INSERT = "INSERT INTO customers VALUES (?, ?)"
NAMES = "SELECT customer_id, name FROM customers ORDER BY 1"


def pair(make_network: MakeNetwork, **settings: str) -> TestNetwork:
    network = make_network(
        [Node("00", retail.SQLITE, settings={"heartbeat_s": 1}), Node("01", retail.SQLITE, "00")],
        retail.EXCHANGE,
        **settings,
    )
    network.install()
    return network


def healed(network: TestNetwork) -> None:
    network.start_and_wait()
    network.wait_until_equal(NAMES)
    network.wait_until(lambda: network.link("01", "00")["fault"] is None, "the link is well again")
    assert network.rows("01", NAMES) == network.rows("00", NAMES)
    network.execute("00", (INSERT, ("after", "all")))
    network.wait_until_equal(NAMES)


def messages(network: TestNetwork) -> list[Path]:
    return sorted(network.folder.glob("exchange/test/01/00/*/*.json"))


def remove(network: TestNetwork) -> None:
    messages(network)[0].unlink()


def truncate(network: TestNetwork) -> None:
    first = messages(network)[0]
    first.write_bytes(first.read_bytes()[:-40])


def empty_a_file(network: TestNetwork) -> None:
    messages(network)[0].write_bytes(b"")


@pytest.mark.parametrize("damage", [remove, truncate, empty_a_file])
def test_a_file_that_is_missing_or_damaged_comes_again(
    make_network: MakeNetwork, damage: Callable[[TestNetwork], None]
) -> None:
    """Of two sessions the first is lost: what comes later is applied, and `status` says what is missing."""
    network = pair(make_network)
    for key in "AB":
        network.execute("00", (INSERT, (key, "x")))
        network.kod("run", "--node", "00", "--once")
    damage(network)
    network.kod("run", "--node", "01", "--once", exit_code=0 if damage is remove else 1)
    assert "gap" in network.link("01", "00")["fault"]
    assert network.rows("01", NAMES) == [("B", "x")]
    listed = network.json("parked", "--node", "01")
    assert [(one["from"], one["refused"]) for one in listed] == ([] if damage is remove else [("00", True)])
    for one in listed:  # what its sender meant comes again: this one is for people to look at
        assert "cannot be tried" in network.kod("parked", "--node", "01", "retry", str(one["id"]), exit_code=2).stderr
    healed(network)
    assert network.json("parked", "--node", "01") == []


def test_a_bus_that_was_emptied_is_noticed(make_network: MakeNetwork) -> None:
    """Nothing comes that could name what is missing: the sign of life does."""
    network = pair(make_network)
    for key in "AB":
        network.execute("00", (INSERT, (key, "x")))
        network.kod("run", "--node", "00", "--once")
    shutil.rmtree(network.folder / "exchange")
    healed(network)
    assert "gap" in network.daemons["01"].log


def delete_topic(admin: AdminClient, topic: str) -> None:
    admin.delete_topics([topic])[topic].result()


def let_retention_pass(admin: AdminClient, topic: str) -> None:
    (done,) = admin.delete_records([TopicPartition(topic, 0, -1)]).values()
    done.result()


@pytest.mark.kafka
@pytest.mark.parametrize("damage", [delete_topic, let_retention_pass])
def test_what_a_topic_lost_comes_again(make_network: MakeNetwork, damage: Callable[[AdminClient, str], None]) -> None:
    """A topic that was deleted and made anew, one whose retention passed while the neighbour was away."""
    name = f"gap-{uuid.uuid4().hex[:8]}"
    network = pair(make_network, bus=f"kafka://{kafka_bootstrap()}", name=name)
    network.execute("00", (INSERT, ("A", "x")))
    for code in ("00", "01"):
        network.kod("run", "--node", code, "--once")
    network.execute("00", (INSERT, ("B", "x")))
    network.kod("run", "--node", "00", "--once")
    damage(AdminClient({"bootstrap.servers": kafka_bootstrap()}), topic_of(name, "01", "00"))
    healed(network)
    assert "gap" in network.daemons["01"].log


def test_a_neighbour_that_was_replaced_is_served_from_the_beginning(make_network: MakeNetwork) -> None:
    """Another database in its place, without КОД being told (its file is gone too): a new incarnation shows itself
    by its first sign of life, and everything is offered to it, also what it had made itself."""
    network = make_network(
        [Node("00", retail.SQLITE), Node("01", retail.SQLITE, "00", settings={"heartbeat_s": 1})], retail.EXCHANGE
    )
    network.install()
    network.execute("01", (INSERT, ("A", "of the old one")))
    network.start_and_wait()
    network.wait_until_equal(NAMES)
    network.daemons.pop("01").stop()
    shutil.rmtree(network.folder / ".kod")
    for file in network.folder.glob("01.sqlite*"):
        file.unlink()
    network._make_tables(network.nodes["01"])
    network.kod("install", "--node", "01")
    network.start_and_wait("01")
    network.wait_for("01", NAMES, [("A", "of the old one")])
    assert "new incarnation" in network.daemons["00"].log

"""What every bus promises (dispatcher.ports.Bus): the same stories in memory, in a folder, on librdkafka's mock
cluster and on a real broker."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from dispatcher.ports import Bus, Letter, Life
from node.buses import open_bus
from node.buses.kafka.settings import MESSAGE_BYTES_MAX, RECORD_OVERHEAD_BYTES
from node.buses.kafka.topics import aside_topic_of, topic_of
from node.buses.memory import MemoryBus, MemoryNetwork
from schemas.errors import UnavailableError
from schemas.stamp import Stamp
from tests.contract.letters import FIRST, PATIENCE_S, names, parts, receive, session
from tests.kafka_broker import kafka_bootstrap


@dataclass
class World:
    """A transport that nodes open their buses on, again and again."""

    network: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    opened: list[Bus] = field(default_factory=list)

    def bus(self, node: str, *neighbours: str) -> Bus:
        bus = self._bus(node, neighbours)
        self.opened.append(bus)
        return bus

    def receiver(self, node: str, *senders: str, position: int | None = None) -> Bus:
        bus = self.bus(node, *senders)
        bus.open(dict.fromkeys(senders, position))
        return bus

    def _bus(self, node: str, neighbours: tuple[str, ...]) -> Bus:
        raise NotImplementedError

    def break_link(self, sender: str, to: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for bus in self.opened:
            bus.close()


@dataclass
class Memory(World):
    positions: bool = False

    def __post_init__(self) -> None:
        self.shared = MemoryNetwork(positions=self.positions)

    def _bus(self, node: str, neighbours: tuple[str, ...]) -> Bus:
        return MemoryBus(self.shared, node)

    def break_link(self, sender: str, to: str) -> None:
        self.shared.unreachable.add((sender, to))


@dataclass
class Folder(World):
    root: Path = field(kw_only=True)

    def _bus(self, node: str, neighbours: tuple[str, ...]) -> Bus:
        return open_bus(f"folder:{self.root}", self.network, node, neighbours)

    def break_link(self, sender: str, to: str) -> None:
        link = self.root / self.network / to / sender
        shutil.rmtree(link, ignore_errors=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.touch()  # a file in the way stops root too


@dataclass
class MockKafka(World):
    """No admin interface and no deletion there; topics appear when somebody asks for them."""

    cluster: Producer = field(kw_only=True)

    def _bus(self, node: str, neighbours: tuple[str, ...]) -> Bus:
        self.cluster.list_topics(aside_topic_of(self.network, node), timeout=10)
        for other in neighbours:
            self.cluster.list_topics(topic_of(self.network, node, other), timeout=10)
            self.cluster.list_topics(topic_of(self.network, other, node), timeout=10)
        (broker,) = self.cluster.list_topics(timeout=10).brokers.values()
        # Otherwise the mock sleeps half a second on an empty fetch
        settings = {"fetch.wait.max.ms": "10"}
        return open_bus(f"kafka://{broker.host}:{broker.port}", self.network, node, neighbours, settings)


@dataclass
class RealKafka(World):
    bootstrap: str = field(default_factory=kafka_bootstrap)

    def _bus(self, node: str, neighbours: tuple[str, ...]) -> Bus:
        return open_bus(f"kafka://{self.bootstrap}", self.network, node, neighbours, {"message.timeout.ms": "5000"})

    def break_link(self, sender: str, to: str) -> None:
        topic = topic_of(self.network, to, sender)
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.delete_topics([topic])[topic].result()


KAFKA = pytest.param("kafka", marks=pytest.mark.kafka)


def _world(kind: str, tmp_path: Path) -> World:
    match kind:
        case "memory":
            return Memory()
        case "memory with positions":
            return Memory(positions=True)
        case "folder":
            return Folder(root=tmp_path / "exchange")
        case "mock kafka":
            return MockKafka(cluster=Producer({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1}))
        case _:
            return RealKafka()


@pytest.fixture(params=["memory", "memory with positions", "folder", "mock kafka", KAFKA])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each transport keeps the same promises."""
    world = _world(request.param, tmp_path)
    yield world
    world.close()


@pytest.fixture(params=["memory", "folder", KAFKA])
def breakable_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Those in which a single link can be broken: the mock cluster makes any topic that is missing."""
    world = _world(request.param, tmp_path)
    yield world
    world.close()


def test_letters_come_in_order_and_as_they_were_sent(world: World) -> None:
    """Or a session would be applied before the one that it builds upon."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sent = [letter for number in range(20) for letter in session("00", "01", number, messages=3)]
    for first in range(0, len(sent), 8):  # sessions of one publish, and publishes in the middle of sessions
        sender.publish("01", sent[first : first + 8])

    received = receive(receiver, "00", len(sent), letters_max=7)

    assert [(letter.name, letter.payload) for letter in received] == [(letter.name, letter.payload) for letter in sent]
    assert {letter.node for letter in received} == {"00"}


def test_a_letter_is_handed_out_once(world: World) -> None:
    """Or it would be applied by two workers at once."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sender.publish("01", session("00", "01", 1, messages=4))
    first = receive(receiver, "00", 5)
    sender.publish("01", session("00", "01", 2))

    second = receive(receiver, "00", 2)

    assert names(second) == names(session("00", "01", 2))
    assert not set(names(first)) & set(names(second))
    assert receiver.receive("00", letters_max=10) == []


def test_what_was_acknowledged_is_received_after_a_restart_of_both(world: World) -> None:
    """Or what the sender has recorded as sent would be lost."""
    sender = world.receiver("00", "01")
    sender.publish("01", session("00", "01", 1, messages=2))
    sender.close()

    received = receive(world.receiver("01", "00"), "00", 3)

    assert names(received) == names(session("00", "01", 1, messages=2))


def test_what_was_not_done_comes_again_after_a_restart(world: World) -> None:
    """A daemon that is killed between receiving and applying must not lose what it held."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sent = [*session("00", "01", 1, messages=2), *session("00", "01", 2, messages=2)]
    sender.publish("01", sent)
    received = receive(receiver, "00", 6)
    receiver.done(received[:3])
    receiver.close()

    again = receive(world.receiver("01", "00", position=received[2].position), "00", 3)

    assert names(again) == names(sent[3:])


def test_a_rewind_hands_out_what_was_not_done(world: World) -> None:
    """Or a message that could not be applied would wait for a restart; or one that was would be applied again."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sent = session("00", "01", 1, messages=4)
    sender.publish("01", sent)
    received = receive(receiver, "00", 4)
    receiver.done([received[0], received[2]])

    receiver.rewind("00", received[0].position)

    assert names(receive(receiver, "00", 3)) == names([sent[1], sent[3], sent[4]])
    assert receiver.receive("00", letters_max=10) == []


def test_what_is_set_aside_is_out_of_the_way(world: World) -> None:
    """Or one bad letter would come again with every rewind and count as waiting for ever."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sender.publish("01", session("00", "01", 1, messages=2))
    received = receive(receiver, "00", 3)

    receiver.set_aside(received[0], "not JSON: unexpected end of data")

    receiver.rewind("00", None)
    assert names(receive(receiver, "00", 2)) == names(received[1:])
    assert receiver.backlog("00").messages == 1


def test_senders_do_not_mix(world: World) -> None:
    """Or one neighbour's letters would be taken for another's, or hold them up."""
    receiver = world.receiver("00", "01", "02")
    for sender in ("01", "02"):
        world.receiver(sender, "00").publish("00", session(sender, "00", 1, messages=2))

    from_02 = receive(receiver, "02", 3)  # while nobody takes what came from 01
    receiver.done(from_02)
    from_01 = receive(receiver, "01", 3)

    assert names(from_02) == names(session("02", "00", 1, messages=2))
    assert names(from_01) == names(session("01", "00", 1, messages=2))


def test_large_letters_pass(world: World) -> None:
    """A file of five megabytes is an item like any other."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sent = session("00", "01", 1, messages=2, text="Строка накладной, " * 160_000)
    assert len(sent[0].payload) > 5_000_000
    sender.publish("01", sent)

    received = receive(receiver, "00", 3)

    assert [letter.payload for letter in received] == [letter.payload for letter in sent]


@pytest.mark.parametrize("world", ["memory", "memory with positions", "mock kafka", KAFKA], indirect=True)
def test_parts_of_a_message_share_its_name_and_are_each_a_letter(world: World) -> None:
    """Or the bus would forget the first part when the second is done. A folder takes messages of any size."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sent = parts("00", "01", 1, bytes_max=1000, text="Ёж " * 1000)
    assert len(sent) > 5
    assert len(set(names(sent))) == 1
    sender.publish("01", sent)
    received = receive(receiver, "00", len(sent))

    receiver.done(received[1:2])
    receiver.rewind("00", None)

    assert [letter.payload for letter in received] == [letter.payload for letter in sent]
    again = receive(receiver, "00", len(sent) - 1)
    assert [letter.payload for letter in again] == [sent[0].payload, *(letter.payload for letter in sent[2:])]


def test_a_link_that_cannot_be_written_does_not_hinder_another(breakable_world: World) -> None:
    """Or one neighbour whose share is gone would stop the exchange with all."""
    sender = breakable_world.receiver("00", "01", "02")
    receiver = breakable_world.receiver("02", "00")
    breakable_world.break_link("00", "01")

    with pytest.raises(UnavailableError):
        sender.publish("01", session("00", "01", 1))
    sender.publish("02", session("00", "02", 1))

    assert names(receive(receiver, "00", 2)) == names(session("00", "02", 1))


def test_publishing_and_receiving_at_once(world: World) -> None:
    """Letters that are written while the receiver looks must neither be lost nor come before earlier ones."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    sessions = [session("00", "01", number, messages=3) for number in range(100)]
    failures: list[BaseException] = []

    def publish() -> None:
        try:
            for letters in sessions:
                sender.publish("01", letters)
        except BaseException as failure:
            failures.append(failure)

    publisher = threading.Thread(target=publish)
    publisher.start()
    received: list[Letter] = []
    while len(received) < 400 and not failures:
        received += (new := receiver.receive("00", letters_max=5))
        receiver.done(new)
        if not new:
            receiver.wait(0.1)
    publisher.join()

    assert not failures
    assert names(received) == [letter.name for letters in sessions for letter in letters]


def test_several_links_are_published_at_once(world: World) -> None:
    """The sender's links have threads of their own; one must not take the other's acknowledgement for its own."""
    neighbours = ("01", "02", "03")
    sender = world.receiver("00", *neighbours)
    receivers = {to: world.receiver(to, "00") for to in neighbours}
    failures: list[BaseException] = []

    def publish(to: str) -> None:
        try:
            for number in range(20):
                sender.publish(to, session("00", to, number))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=publish, args=(to,)) for to in neighbours]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    for to, receiver in receivers.items():
        expected = [letter for number in range(20) for letter in session("00", to, number)]
        assert names(receive(receiver, "00", 40)) == names(expected)


def test_a_wait_ends_when_something_comes(world: World) -> None:
    """Or the first change after a quiet time would lie until the next heartbeat."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    publisher = threading.Thread(target=sender.publish, args=("01", session("00", "01", 1)))
    started = time.monotonic()
    publisher.start()

    while not receiver.receive("00", letters_max=10):
        receiver.wait(PATIENCE_S)

    publisher.join()
    assert time.monotonic() - started < PATIENCE_S / 4


def test_a_wait_waits_beside_a_link_that_stands_still(world: World) -> None:
    """Or a dispatcher that has stopped one link would take a whole core."""
    receiver = world.receiver("00", "01", "02")
    world.receiver("01", "00").publish("00", session("01", "00", 1, messages=3))
    receive(receiver, "01", 1)  # and no more: the link has stopped

    looks = 0
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        receiver.wait(0.5)
        looks += 1

    assert looks <= 10


def test_the_backlog_is_what_has_come_and_is_not_done(world: World) -> None:
    """`status` shows it; end marks and heartbeats are not messages."""
    sender, receiver = world.receiver("00", "01"), world.receiver("01", "00")
    assert receiver.backlog("00").messages == 0
    before_ms = time.time_ns() // 1_000_000
    sent = session("00", "01", 1, messages=3)
    sender.publish("01", [*sent, *session("00", "01", 2, messages=0)])
    received = receive(receiver, "00", 2)

    waiting = receiver.backlog("00")
    receiver.done(received)
    rest = receiver.backlog("00")

    assert waiting.messages == 3
    assert waiting.size_bytes == sum(len(letter.payload) for letter in sent[:3])
    assert waiting.oldest_ms is not None
    assert before_ms - 1000 <= waiting.oldest_ms <= time.time_ns() // 1_000_000 + 1000
    assert rest.messages == 1


def test_the_largest_message_of_a_bus_is_known_before_it_is_asked(tmp_path: Path) -> None:
    """What is larger travels in parts; found out by a refusal, the session would have to be made again."""
    assert open_bus(f"folder:{tmp_path}", "retail", "00", ["01"]).message_bytes_max is None
    limits = [
        open_bus("kafka://127.0.0.1:1", "retail", "00", ["01"], settings).message_bytes_max
        for settings in ({}, {"message.max.bytes": "500000"})
    ]
    assert limits == [MESSAGE_BYTES_MAX - RECORD_OVERHEAD_BYTES, 500_000 - RECORD_OVERHEAD_BYTES]


def test_a_bus_is_opened_by_its_url(tmp_path: Path) -> None:
    """A bus that nobody knows is the configuration's fault, with a word about what is expected."""
    from schemas.errors import ConfigError

    for url in ("ftp://exchange", "folder:", "kafka://", "exchange"):
        with pytest.raises(ConfigError) as caught:
            open_bus(url, "retail", "00", ["01"])
        assert "folder:" in caught.value.hint


def test_the_newest_of_ones_own_letters_is_known_while_it_is_there(world: World) -> None:
    """A database that knows of less was restored from a backup."""
    sender = world.bus("00", "01")
    receiver = world.receiver("01", "00")
    assert sender.sent_up_to("01") is None
    sender.publish("01", session("00", "01", 1))
    sender.publish("01", session("00", "01", 2))
    assert sender.sent_up_to("01") == Life(1763800000, Stamp(FIRST + 2))
    assert world.bus("00", "01").sent_up_to("01") == Life(1763800000, Stamp(FIRST + 2))
    assert len(receive(receiver, "00", 4)) == 4

"""What only Kafka can do to us: a broker that is killed, records that are deleted, topics that are refused."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from dispatcher.ports import Letter
from node.buses.kafka import KafkaBus, inbox
from node.buses.kafka.topics import aside_topic_of, topic_of
from schemas.errors import ConfigError, MessageError, UnavailableError
from tests.contract.letters import PATIENCE_S, names, parts, receive, session
from tests.kafka_broker import kafka_bootstrap, private_broker

pytestmark = pytest.mark.kafka

TIMEOUT = {"message.timeout.ms": "3000"}


@pytest.fixture
def network() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def buses(network: str) -> Iterator[tuple[KafkaBus, KafkaBus]]:
    """A sender 00 and its receiver 01, which forgets at once what is applied."""
    sender = KafkaBus(kafka_bootstrap(), network, "00", ["01"], TIMEOUT)
    receiver = KafkaBus(kafka_bootstrap(), network, "01", ["00"], TIMEOUT, forget_every_s=0)
    sender.open({"01": None})
    receiver.open({"00": None})
    yield sender, receiver
    sender.close()
    receiver.close()


def _until_taken(bus: KafkaBus, letters: Sequence[Letter]) -> None:
    """Brokers hear of a topic one after another."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return bus.publish("01", letters)
        except UnavailableError:
            if time.monotonic() > until:
                raise


def _records(topic: str, count: int) -> list[tuple[dict[str, bytes], bytes]]:
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap(), "group.id": "look", "enable.auto.commit": "false"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(count, PATIENCE_S)
        return [(dict(message.headers() or []), message.value() or b"") for message in messages]
    finally:
        consumer.close()


def _first_offset(topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap(), "group.id": "look"})
    try:
        return consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[0]
    finally:
        consumer.close()


def _delete_before(topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap()})
    for answer in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        answer.result()


def test_what_was_acknowledged_survives_a_broker_that_is_killed(network: str) -> None:
    """And nothing blocks for ever: the sender is told in time, and the receiver goes on by itself."""
    with private_broker() as broker:
        sender = KafkaBus(broker.bootstrap, network, "00", ["01"], TIMEOUT)
        receiver = KafkaBus(broker.bootstrap, network, "01", ["00"], TIMEOUT)
        sender.open({"01": None})
        receiver.open({"00": None})
        acknowledged: list[Letter] = []
        refusals_s: list[float] = []
        flowing, back = threading.Event(), threading.Event()

        def publish() -> None:
            number = 0
            while not (back.is_set() and number > 300):
                number += 1
                letters = session("00", "01", number, messages=2)
                started = time.monotonic()
                try:
                    sender.publish("01", letters)
                    acknowledged.extend(letters)
                except UnavailableError:
                    refusals_s.append(time.monotonic() - started)
                if number == 50:
                    flowing.set()

        publisher = threading.Thread(target=publish)
        publisher.start()
        assert flowing.wait(PATIENCE_S)
        broker.kill()
        until = time.monotonic() + PATIENCE_S
        while not refusals_s and time.monotonic() < until:
            assert len(receiver.receive("00", letters_max=1)) <= 1  # a broker that is away is no fault of the receiver
        broker.start()
        back.set()
        publisher.join(PATIENCE_S)
        assert not publisher.is_alive()
        last = session("00", "01", 100_000)
        sender.publish("01", last)
        receiver.rewind("00", None)
        received: list[Letter] = []
        while not received or received[-1].name != last[-1].name:
            assert time.monotonic() < until + PATIENCE_S
            received += receiver.receive("00", letters_max=100)
            receiver.wait(0.1)

        assert refusals_s
        assert max(refusals_s) < 15
        assert set(names(acknowledged)) <= set(names(received))
        first_seen = list(dict.fromkeys(names(received)))
        assert [name for name in first_seen if name in set(names(acknowledged))] == names(acknowledged)
        assert receiver.gap("00") is None
        sender.close()
        receiver.close()


def test_records_that_were_deleted_before_they_were_received_are_a_gap(
    network: str, buses: tuple[KafkaBus, KafkaBus]
) -> None:
    """Retention, or somebody's hand: the link must say so, and go on with what is there."""
    sender, receiver = buses
    sender.publish("01", session("00", "01", 1, messages=3))
    position = receive(receiver, "00", 1)[0].position
    receiver.close()
    _delete_before(topic_of(network, "01", "00"), 3)
    later = KafkaBus(kafka_bootstrap(), network, "01", ["00"], TIMEOUT)

    later.open({"00": position})
    received = receive(later, "00", 1)

    assert names(received) == names(session("00", "01", 1, messages=3)[3:])
    assert "offsets 1 to 2" in (later.gap("00") or "")
    later.close()


def test_a_gap_that_opens_while_receiving_is_seen(network: str, buses: tuple[KafkaBus, KafkaBus]) -> None:
    """`auto.offset.reset` would skip it, or begin again, in silence."""
    sender, receiver = buses
    sender.publish("01", session("00", "01", 1))
    receive(receiver, "00", 2)
    other = KafkaBus(kafka_bootstrap(), network, "01", ["00"], {**TIMEOUT, "group.id": "other"})
    sender.publish("01", session("00", "01", 2))
    _delete_before(topic_of(network, "01", "00"), 3)

    other.open({"00": None})
    receiver.rewind("00", 0)
    received = receive(receiver, "00", 1)

    assert received[0].position == 4
    assert "deleted before they were received" in (receiver.gap("00") or "")
    assert other.gap("00") is None  # it begins: whatever was there before was never its to receive
    other.close()


def test_a_topic_made_anew_is_a_gap(network: str, buses: tuple[KafkaBus, KafkaBus]) -> None:
    """The position lies beyond its end: waiting for that offset would skip whatever comes until then."""
    sender, receiver = buses
    sender.publish("01", session("00", "01", 1))
    receiver.close()
    later = KafkaBus(kafka_bootstrap(), network, "01", ["00"], TIMEOUT)

    later.open({"00": 1000})

    assert names(receive(later, "00", 2)) == names(session("00", "01", 1))
    assert "before the position 1000" in (later.gap("00") or "")
    later.close()


def test_a_topic_that_is_deleted_under_its_sender_is_made_anew(buses: tuple[KafkaBus, KafkaBus], network: str) -> None:
    """Its receiver may be away for weeks: until that one came back nothing could be sent, and nobody was told."""
    sender, receiver = buses
    sender.publish("01", session("00", "01", 1))
    receiver.close()
    topic = topic_of(network, "01", "00")
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap()})
    admin.delete_topics([topic])[topic].result()

    with pytest.raises(UnavailableError, match=topic):
        sender.publish("01", session("00", "01", 2))
    _until_taken(sender, session("00", "01", 2))

    later = KafkaBus(kafka_bootstrap(), network, "01", ["00"], TIMEOUT)
    later.open({"00": None})
    assert names(receive(later, "00", 2)) == names(session("00", "01", 2))
    later.close()


def test_the_topic_forgets_whole_sessions_that_are_applied(network: str, buses: tuple[KafkaBus, KafkaBus]) -> None:
    """But nothing beyond: the database records its position when a session is whole, and a restart from a position
    that is gone would look like a loss."""
    sender, receiver = buses
    sender.publish("01", [*session("00", "01", 1, messages=2), *session("00", "01", 2, messages=2)])
    received = receive(receiver, "00", 6)

    receiver.done(received[:5])  # the first session, and both messages of the second but not its end mark

    topic, until = topic_of(network, "01", "00"), time.monotonic() + PATIENCE_S
    while _first_offset(topic) == 0:
        assert time.monotonic() < until
    assert _first_offset(topic) == 3
    receiver.close()
    later = KafkaBus(kafka_bootstrap(), network, "01", ["00"], TIMEOUT)
    later.open({"00": received[2].position})
    assert names(receive(later, "00", 3)) == names(received[3:])
    assert later.gap("00") is None
    later.close()


def test_a_record_is_named_and_packed_in_its_headers(network: str, buses: tuple[KafkaBus, KafkaBus]) -> None:
    """Other programs read the topic: small bodies plain, large ones with the encoding that the contract names."""
    sender, _ = buses
    sent = session("00", "01", 1, messages=1, text="Строка " * 1000)
    sender.publish("01", sent)

    large, small = _records(topic_of(network, "01", "00"), 2)

    assert large[0] == {"kod-name": sent[0].name.encode(), "kod-encoding": b"zstd"}
    assert len(large[1]) < len(sent[0].payload) / 10
    assert small == ({"kod-name": sent[1].name.encode()}, sent[1].payload)


def test_records_that_cannot_be_unpacked_are_set_aside(network: str, buses: tuple[KafkaBus, KafkaBus]) -> None:
    """Or whoever writes rubbish into the topic would stop the link."""
    sender, receiver = buses
    stranger = Producer({"bootstrap.servers": kafka_bootstrap()})
    topic = topic_of(network, "01", "00")
    stranger.produce(topic, b"rubbish", partition=0, headers={"kod-name": "x", "kod-encoding": "zstd"})
    stranger.produce(topic, b"rubbish", partition=0, headers={"kod-encoding": "lzma"})
    assert stranger.flush(10) == 0
    sender.publish("01", session("00", "01", 1))

    received = receive(receiver, "00", 2)

    assert names(received) == names(session("00", "01", 1))
    aside = _records(aside_topic_of(network, "01"), 2)
    assert [value for _, value in aside] == [b"rubbish", b"rubbish"]
    assert b"lzma" in aside[1][0]["kod-reason"]
    assert (aside[1][0]["kod-from"], aside[1][0]["kod-offset"]) == (b"00", b"1")


def test_a_message_above_the_limit_is_refused_before_anything_is_sent(
    network: str, buses: tuple[KafkaBus, KafkaBus]
) -> None:
    """Waiting would not help, so it is no UnavailableError."""
    _, receiver = buses
    sender = KafkaBus(kafka_bootstrap(), network, "00", ["01"], {"message.max.bytes": "100000"})
    sent = session("00", "01", 1, messages=2)
    noise = "".join(uuid.uuid4().hex for _ in range(20_000))
    too_large = Letter("01", sent[1].name, session("00", "01", 1, text=noise)[0].payload)

    with pytest.raises(MessageError) as caught:
        sender.publish("01", [sent[0], too_large, sent[2]])

    assert too_large.name in caught.value.text
    assert receiver.backlog("00").messages == 0
    sender.close()


def test_a_message_above_the_limit_passes_in_parts(network: str, buses: tuple[KafkaBus, KafkaBus]) -> None:
    """Noise does not get smaller by compressing: each part has to be below the limit as it is."""
    _, receiver = buses
    sender = KafkaBus(kafka_bootstrap(), network, "00", ["01"], {"message.max.bytes": "100000"})
    noise = "".join(uuid.uuid4().hex for _ in range(20_000))
    sent = parts("00", "01", 1, bytes_max=sender.message_bytes_max, text=noise)
    assert len(sent) > 6

    sender.publish("01", sent)

    received = receive(receiver, "00", len(sent))
    assert [letter.payload for letter in received] == [letter.payload for letter in sent]
    assert names(received) == names(sent)
    sender.close()


def test_a_full_inbox_holds_its_topic_up_and_loses_nothing(
    buses: tuple[KafkaBus, KafkaBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that applies slowly must not take in all that its neighbour ever sent."""
    sender, receiver = buses
    monkeypatch.setattr(inbox, "BUFFER_RECORDS_MAX", 20)
    sent = [letter for number in range(100) for letter in session("00", "01", number, messages=4)]
    for number in range(0, len(sent), 50):
        sender.publish("01", sent[number : number + 50])

    received = receive(receiver, "00", len(sent), letters_max=7)

    assert names(received) == names(sent)


def test_the_broker_s_clock_is_known(buses: tuple[KafkaBus, KafkaBus]) -> None:
    """Its own moment of taking a record in: a record's usual time is its producer's own."""
    sender, _ = buses
    assert sender.clock_ahead_ms() is None
    sender.publish("01", session("00", "01", 1))
    ahead_ms = sender.clock_ahead_ms()
    assert ahead_ms is not None
    assert abs(ahead_ms) < 1_000


def test_topics_that_the_brokers_refuse_are_the_configurations_fault() -> None:
    """With the command that makes them, for somebody who may."""
    bus = KafkaBus(kafka_bootstrap(), "n" * 250, "00", ["01"], TIMEOUT)

    with pytest.raises(ConfigError) as caught:
        bus.open({"01": None})

    assert "kafka-topics.sh" in caught.value.hint
    assert "--config retention.ms=-1" in caught.value.hint
    bus.close()


def test_brokers_that_are_not_there_are_unavailable() -> None:
    """In bounded time, with the address."""
    bus = KafkaBus("127.0.0.1:1", "retail", "00", ["01"], {"message.timeout.ms": "500"})

    with pytest.raises(UnavailableError) as caught:
        bus.publish("01", session("00", "01", 1))

    assert "kod.retail.01.00" in caught.value.text
    bus.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("acks", "1"), ("request.required.acks", "1"), ("auto.offset.reset", "earliest"), ("bootstrap.servers", "x:1")],
)
def test_settings_that_the_exchange_relies_on_cannot_be_changed(name: str, value: str) -> None:
    """Each of them would lose or repeat messages in silence."""
    with pytest.raises(ConfigError, match=name):
        KafkaBus("127.0.0.1:1", "retail", "00", ["01"], {name: value})


def test_a_setting_that_librdkafka_does_not_know_is_named() -> None:
    """Or a typing error in `sasl.mechanism` would connect without it."""
    bus = KafkaBus("127.0.0.1:1", "retail", "00", ["01"], {"sasl.mechanizm": "PLAIN"})

    with pytest.raises(ConfigError, match=r"sasl\.mechanizm"):
        bus.publish("01", session("00", "01", 1))

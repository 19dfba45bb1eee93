"""Publishing: one idempotent producer a node, and every delivery report looked at.

After a time-out librdkafka leaves a message out and goes on, even with idempotence: so a producer that failed once is
thrown away, and the sender sends again from where it was, as a new session.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, KafkaException, Producer

from dispatcher.ports import Letter
from node.buses.kafka.encoding import Headers, encode
from node.buses.kafka.settings import KafkaSettings
from node.buses.kafka.topics import missing_hint
from node.buses.skew import Skew, now_ms
from schemas.errors import MessageError, UnavailableError

POLL_S = 0.1
TURN_S = 0.002
"""How long a publisher waits for another one's poll to bring its reports before it looks whether it may poll."""

GRACE_S = 5.0
"""Beyond `message.timeout.ms`, until an unreported message counts as lost."""


_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)


class TopicMissingError(UnavailableError):
    """There is no such topic any more."""


class Delivery:
    """The delivery reports of one publish."""

    def __init__(self, skew: Skew) -> None:
        self._skew = skew
        self._began_ms = now_ms()
        self.error: KafkaError | None = None
        self.waiting = 0
        self.whole = threading.Event()
        """Every report is in."""

    def expect(self, letters: int) -> None:
        self.waiting = letters
        if not letters:
            self.whole.set()

    def report(self, error: KafkaError | None, message: Any) -> None:
        """Called by whoever polls; one thread at a time."""
        self.error = self.error or error
        if error is None and self.waiting == 1:
            kind, at_ms = message.timestamp()
            if kind == TIMESTAMP_LOG_APPEND_TIME:  # the broker's clock; CreateTime would be this node's own
                self._skew.note(self._began_ms, at_ms, now_ms())
        self.waiting -= 1
        if self.waiting == 0:
            self.whole.set()


class Client:
    """A producer, and whose turn it is to poll it."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.polling = threading.Lock()

    def wait_for(self, delivery: Delivery, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while not delivery.whole.is_set():
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            if self.polling.acquire(blocking=False):
                try:
                    self.producer.poll(min(left_s, POLL_S))
                finally:
                    self.polling.release()
            else:
                delivery.whole.wait(min(left_s, TURN_S))
        return True


class Publisher:
    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.skew = Skew()
        self._client: Client | None = None
        self._lock = threading.Lock()

    def publish(self, topic: str, letters: Sequence[Letter], headers: Headers | None = None) -> None:
        """Returns when every letter is acknowledged by all replicas in sync. Raises UnavailableError (TopicMissingError
        where that is why), or MessageError for a letter that is too large, before any is sent."""
        for letter in letters:
            self._check_size(topic, letter)
        client = self._current()
        delivery = Delivery(self.skew)
        delivery.expect(len(letters))
        try:
            for letter in letters:  # librdkafka sends while the next one is compressed
                value, own = encode(letter.name, letter.payload)
                self._produce(client, topic, value, [*own, *(headers or [])], delivery)
            complete = client.wait_for(delivery, self._settings.publish_timeout_s + GRACE_S)
        except KafkaException as error:
            self._discard(client)
            raise self._failure(topic, error.args[0]) from None
        if not complete or delivery.error is not None:
            self._discard(client)
            raise self._failure(topic, delivery.error)
        self._settings.last_error = ""

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.producer.close()

    def _check_size(self, topic: str, letter: Letter) -> None:
        limit, room = self._settings.message_bytes_max, self._settings.payload_bytes_max
        size = len(letter.payload)
        if size > room:
            size = len(encode(letter.name, letter.payload)[0])
        if size > room:
            raise MessageError(
                f"message {letter.name} is too large for {topic}: {size} bytes, the limit is {limit}",
                hint="lower message_bytes_max, or raise message.max.bytes below `kafka:` and the topic's "
                "max.message.bytes",
            )

    def _produce(self, client: Client, topic: str, value: bytes, headers: Headers, delivery: Delivery) -> None:
        until = time.monotonic() + self._settings.publish_timeout_s
        while True:
            try:
                client.producer.produce(topic, value, partition=0, headers=headers, on_delivery=delivery.report)
                return
            except BufferError:  # librdkafka's queue is full: reports make room
                if time.monotonic() > until:
                    raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
                with client.polling:
                    client.producer.poll(POLL_S)

    def _current(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = Client(self._settings.create(Producer, self._settings.producer()))
            return self._client

    def _discard(self, client: Client) -> None:
        """Nobody gets this producer any more. Publishers of other links that are still in it finish in it; with the
        last of them it goes, and what it still holds is not sent."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _failure(self, topic: str, error: KafkaError | None) -> UnavailableError | MessageError:
        if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return MessageError(
                f"a message is too large for {topic}: {error.str()}",
                hint="raise the topic's max.message.bytes, or lower message.max.bytes below `kafka:` to it: what is "
                "larger then travels in parts",
            )
        said = error.str() if error is not None else "no delivery report came"
        text = f"kafka topic {topic}: {said}"
        if self._settings.last_error:
            text += f" ({self._settings.last_error})"
        if error is not None and error.code() in _MISSING:
            return TopicMissingError(text, hint=missing_hint(self._settings.bootstrap, topic))
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return UnavailableError(text, hint=f"this node's principal needs Write and Describe on {topic}")
        return UnavailableError(text, hint="do the brokers run? what was not acknowledged is sent again")

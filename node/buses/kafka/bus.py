"""KafkaBus: dispatcher.ports.Bus over publishing and receiving, and what is done beside them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from dispatcher.events import event
from dispatcher.ports import Backlog, Letter, Life
from node.buses.kafka.encoding import NAME, decode
from node.buses.kafka.inbox import Inbox, Record
from node.buses.kafka.looking import last_life
from node.buses.kafka.publishing import Publisher, TopicMissingError
from node.buses.kafka.receiving import Receiver
from node.buses.kafka.settings import KafkaSettings, reason_of
from node.buses.kafka.topics import aside_topic_of, ensure, topic_of
from node.buses.offers import Offers
from schemas.errors import KodError, MessageError, UnavailableError

log = logging.getLogger(__name__)

FORGET_EVERY_S = 60.0
"""How often the topics are told to forget what is applied."""

COMMIT_EVERY_S = 5.0
CATCH_UP_S = 1.0
"""How long `backlog` reads ahead, so that it can count instead of estimate."""


class KafkaBus:
    """A node's end of its topics. Nothing is connected before the first call."""

    def __init__(
        self,
        bootstrap: str,
        network: str,
        node: str,
        neighbours: Sequence[str],
        settings: Mapping[str, str],
        *,
        forget_every_s: float = FORGET_EVERY_S,
    ) -> None:
        self._settings = KafkaSettings(bootstrap, network, node, settings)
        self._outgoing = {n: topic_of(network, n, node) for n in neighbours}
        self._inboxes = {n: Inbox(n, topic_of(network, node, n)) for n in neighbours}
        self._aside = aside_topic_of(network, node)
        self._publisher = Publisher(self._settings)
        self._receiver = Receiver(self._settings, self._inboxes)
        self._offers = Offers()
        self._admin_client: AdminClient | None = None
        self._forget_every_s = forget_every_s
        self._forget_at = time.monotonic() + forget_every_s
        self._commit_at = 0.0
        self._forgotten: dict[str, int] = {}
        self._forget_refused = False
        self._chores = threading.Lock()

    # --- sending ---

    @property
    def message_bytes_max(self) -> int:
        """Of a payload before it is compressed: whether it would fit then is known too late."""
        return self._settings.payload_bytes_max

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        topic = self._outgoing[to]
        try:
            self._publisher.publish(topic, letters)
        except TopicMissingError as error:
            if not self._made_anew(topic):
                raise
            raise UnavailableError(
                error.text, hint="it has been made anew: what is to be sent is tried again"
            ) from None

    def _made_anew(self, topic: str) -> bool:
        """Somebody deleted the topic under the running node, and its receiver may be away for long. What was in it
        that one will miss, and ask for."""
        try:
            ensure(self._admin(), self._settings.bootstrap, [topic])
        except KodError:  # the brokers are away, or do not let this node
            return False
        return True

    # --- receiving ---

    def open(self, positions: Mapping[str, int | None]) -> None:
        """Also makes topics that are missing, of both directions."""
        topics = [*self._outgoing.values(), *(inbox.topic for inbox in self._inboxes.values())]
        ensure(self._admin(), self._settings.bootstrap, topics)
        self._receiver.open(positions)

    def receive(self, sender: str, *, letters_max: int) -> Sequence[Letter]:
        self._offers.asked(sender)
        letters = []
        for record in self._receiver.take(sender, letters_max):
            letter = self._letter(sender, record)
            if letter is not None:
                letters.append(letter)
        return letters

    def _letter(self, sender: str, record: Record) -> Letter | None:
        """None when it cannot be unpacked; then it is set aside."""
        name = record.headers.get(NAME, f"offset-{record.offset}")
        letter = Letter(sender, name, record.value, position=record.offset + 1)
        try:
            return replace(letter, payload=decode(record.headers, record.value))
        except MessageError as error:
            event(log, logging.ERROR, "record set aside", node=sender, message=name, error=error.text)
            self.set_aside(letter, error.text)
            return None

    def rewind(self, sender: str, position: int | None) -> None:
        self._receiver.rewind(sender, position)
        self._offers.asked(sender)

    def done(self, letters: Sequence[Letter]) -> None:
        for sender, group in groupby(letters, key=lambda letter: letter.node):
            self._receiver.finish(sender, [letter.position for letter in group if letter.position is not None])
        self._do_chores()

    def set_aside(self, letter: Letter, reason: str) -> None:
        """Copies it into the node's own topic `kod.<network>.<node>.aside`. If that fails, it stays where it is, and
        nothing from it on is deleted from the link's topic while this daemon runs."""
        origin = [("kod-from", letter.node.encode()), ("kod-reason", reason.encode())]
        if letter.position is not None:
            origin.append(("kod-offset", str(letter.position - 1).encode()))
        try:
            ensure(self._admin(), self._settings.bootstrap, [self._aside])
            self._publisher.publish(self._aside, [letter], [*origin])
        except KodError as error:
            event(
                log, logging.ERROR, "message left in its topic", topic=self._inboxes[letter.node].topic,
                message=letter.name, error=error.text, hint=error.hint,
            )  # fmt: skip
            return
        self.done([letter])

    def wait(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not self._offers.new(self._receiver.senders_with_letters()):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            self._receiver.wait(left_s)

    def sent_up_to(self, to: str) -> Life | None:
        """Needs the right to read the topic, which a node may lack for those that it writes: then nothing is known."""
        return last_life(self._settings, self._outgoing[to])

    def clock_ahead_ms(self) -> int | None:
        """By the moment at which a broker took in what was published: known where the topic says so (`topics`)."""
        return self._publisher.skew.ahead_ms

    def gap(self, sender: str) -> str | None:
        """What is missing from the topic before what `receive` hands out; None when nothing is."""
        return self._inboxes[sender].gap

    def backlog(self, sender: str) -> Backlog:
        end, inbox = self._receiver.end(sender), self._inboxes[sender]
        until = time.monotonic() + CATCH_UP_S
        while inbox.next < end and not inbox.paused and (left_s := until - time.monotonic()) > 0:
            self._receiver.read_ahead(left_s)
        return self._receiver.backlog(sender, end)

    def close(self) -> None:
        self._receiver.close()
        self._publisher.close()
        self._admin_client = None

    # --- beside ---

    def _admin(self) -> AdminClient:
        if self._admin_client is None:
            self._admin_client = self._settings.create(AdminClient, self._settings.admin())
        return self._admin_client

    def _do_chores(self) -> None:
        if not self._chores.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            if now >= self._commit_at:
                self._commit_at = now + COMMIT_EVERY_S
                self._receiver.commit()
            if now >= self._forget_at:
                self._forget_at = now + self._forget_every_s
                self._forget()
        except KafkaException as error:  # neither is needed for anything but comfort and room
            event(log, logging.DEBUG, "chore failed", error=reason_of(error))
        finally:
            self._chores.release()

    def _forget(self) -> None:
        """Asks the brokers, in the background, to delete what the node's database has recorded as applied."""
        upto = {inbox.topic: inbox.deletable for inbox in self._inboxes.values()}
        news = {topic: offset for topic, offset in upto.items() if offset > self._forgotten.get(topic, 0)}
        if not news:
            return
        asked = self._admin().delete_records([TopicPartition(topic, 0, offset) for topic, offset in news.items()])
        for partition, answer in asked.items():
            answer.add_done_callback(partial(self._forgot, partition.topic, news[partition.topic]))

    def _forgot(self, topic: str, offset: int, answer: Future[Any]) -> None:
        error = answer.exception()
        if error is None:
            self._forgotten[topic] = offset
            return
        level = logging.DEBUG if self._forget_refused else logging.WARNING
        self._forget_refused = True
        event(log, level, "applied records not deleted", topic=topic, error=reason_of(error))

"""Receiving: one consumer a node, assigned to the positions that the node's database keeps.

No group and no rebalances: a lock in the node's database keeps a second daemon out. Whoever asks for letters pulls
for all senders; records wait in bounded inboxes, and a sender whose inbox is full is paused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from dispatcher.events import event
from dispatcher.ports import Backlog
from node.buses.kafka.encoding import headers_of
from node.buses.kafka.inbox import Inbox, Record, record_of
from node.buses.kafka.settings import KafkaSettings, reason_of
from schemas.errors import UnavailableError

log = logging.getLogger(__name__)

BATCH = 1000
QUERY_S = 5.0
OPEN_S = 10.0
TURN_S = 0.1
"""How long one thread waits in Kafka's poll before it lets others have their turn."""


class Receiver:
    def __init__(self, settings: KafkaSettings, inboxes: Mapping[str, Inbox]) -> None:
        self._settings = settings
        self._inboxes = inboxes
        self._by_topic = {inbox.topic: inbox for inbox in inboxes.values()}
        self._consumer: Consumer | None = None
        self._pulling = threading.Lock()
        """Held by the one thread that reads from the consumer."""
        self._lock = threading.Lock()
        """Held for the inboxes' bookkeeping; never while waiting for Kafka."""
        self._again: set[str] = set()
        """Topics whose fetch has to be started anew, from the inbox's next."""
        self._lost: set[str] = set()
        """Topics in which the next offset is not there any more."""
        self._resume: set[str] = set()
        """Topics that were paused and have room again."""
        self._commit_due = False

    # --- opening ---

    def open(self, positions: Mapping[str, int | None]) -> None:
        with self._pulling:
            if self._consumer is None:
                self._consumer = self._settings.create(Consumer, self._settings.consumer())
            for sender, position in positions.items():
                inbox = self._inboxes[sender]
                low, high = self._watermarks(inbox.topic, until=time.monotonic() + OPEN_S)
                with self._lock:
                    inbox.gap = None
                    inbox.start(low if position is None else position)
                    self._mend(inbox, low, high)
            self._assign(self._inboxes[sender] for sender in positions)

    def close(self) -> None:
        with self._pulling:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                consumer.close()

    def _watermarks(self, topic: str, *, until: float) -> tuple[int, int]:
        """The first offset of the topic and the one after the last. A topic that was made a moment ago may not be
        known to all brokers yet."""
        assert self._consumer is not None
        while True:
            try:
                found = self._consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=QUERY_S)
                if found is not None:
                    return found
                reason = "no answer"
            except KafkaException as error:
                reason = reason_of(error)
            if time.monotonic() > until:
                raise UnavailableError(
                    f"kafka topic {topic}: {reason}",
                    hint="do the brokers run, and may this node's principal Read and Describe the topic?",
                )
            time.sleep(0.05)

    def _assign(self, inboxes: Iterable[Inbox]) -> None:
        assert self._consumer is not None
        wanted = list(inboxes)
        self._consumer.assign([TopicPartition(inbox.topic, 0, inbox.next) for inbox in wanted])
        paused = [TopicPartition(inbox.topic, 0) for inbox in wanted if inbox.paused]
        if paused:
            self._consumer.pause(paused)

    # --- letters ---

    def take(self, sender: str, records_max: int) -> list[Record]:
        """The next records, without waiting. Raises UnavailableError when there are none and the brokers refuse."""
        if self._pulling.acquire(blocking=False):  # otherwise somebody else is at it, for us too
            try:
                self._pull(0)
            finally:
                self._pulling.release()
        inbox = self._inboxes[sender]
        with self._lock:
            records = inbox.take(records_max)
            if inbox.paused and inbox.has_room:
                inbox.paused = False
                self._resume.add(inbox.topic)
            trouble, inbox.trouble = inbox.trouble, None
        if trouble and not records:
            raise UnavailableError(
                f"kafka topic {inbox.topic}: {trouble}", hint="is the topic there, and may this node read it?"
            )
        return records

    def wait(self, timeout_s: float) -> None:
        """Reads from Kafka until something comes for anybody, at most so long; or until another thread read."""
        timeout_s = min(timeout_s, TURN_S)
        if self._pulling.acquire(timeout=timeout_s):
            try:
                if not self.senders_with_letters():
                    self._pull(timeout_s)
            finally:
                self._pulling.release()

    def read_ahead(self, timeout_s: float) -> None:
        """As `wait`, also when something is there already."""
        if self._pulling.acquire(timeout=min(timeout_s, TURN_S)):
            try:
                self._pull(min(timeout_s, TURN_S))
            finally:
                self._pulling.release()

    def senders_with_letters(self) -> list[str]:
        with self._lock:
            return [sender for sender, inbox in self._inboxes.items() if inbox.has_letters]

    def rewind(self, sender: str, position: int | None) -> None:
        with self._pulling, self._lock:
            self._inboxes[sender].rewind(position)
            self._again.add(self._inboxes[sender].topic)

    def finish(self, sender: str, positions: Sequence[int]) -> None:
        with self._lock:
            for position in positions:
                self._inboxes[sender].finish(position)

    def commit(self) -> None:
        """Has the group's offsets told, which only tools that show the lag look at, by the thread that pulls next."""
        self._commit_due = True

    def backlog(self, sender: str, end: int) -> Backlog:
        with self._lock:
            return self._inboxes[sender].backlog(end)

    def end(self, sender: str) -> int:
        """The offset after the last one of the sender's topic, asked of the brokers."""
        return self._watermarks(self._inboxes[sender].topic, until=time.monotonic())[1]

    # --- from the consumer into the inboxes ---

    def _pull(self, timeout_s: float) -> None:
        if self._consumer is None:
            return
        self._catch_up_with_calls()
        self._start_again()
        messages = self._consumer.consume(BATCH, 0)
        if not messages and timeout_s > 0:
            first = self._consumer.poll(timeout_s)
            messages = [] if first is None else [first, *self._consumer.consume(BATCH, 0)]
        if messages:
            with self._lock:
                for message in messages:
                    self._sort_in(message)
                self._pause_full_ones()
            self._start_again()

    def _catch_up_with_calls(self) -> None:
        """A call into the consumer while another thread polls it may wait for minutes [run: commit, confluent-kafka
        2.16.1 with a broker that has no offsets topic yet]: so the thread that pulls makes them all."""
        assert self._consumer is not None
        with self._lock:
            topics, self._resume = self._resume, set()
            due, self._commit_due = self._commit_due, False
            offsets = [TopicPartition(inbox.topic, 0, inbox.applied) for inbox in self._inboxes.values()]
        if topics:
            self._consumer.resume([TopicPartition(topic, 0) for topic in topics])
        if due:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:  # nothing but comfort depends on it
                event(log, logging.DEBUG, "offsets not committed", error=reason_of(error))

    def _sort_in(self, message: KafkaMessage) -> None:
        error, topic = message.error(), message.topic()
        inbox = self._by_topic.get(topic or "")
        if inbox is None or topic in self._again or topic in self._lost:
            return
        if error is not None:
            self._note(inbox, error)
            return
        offset = message.offset()
        assert offset is not None
        if offset < inbox.next:  # fetched before a rewind
            return
        if offset > inbox.next and inbox.refetched_at != inbox.next:
            inbox.refetched_at = inbox.next  # look again before saying that something is missing
            self._again.add(inbox.topic)
            return
        if offset > inbox.next:
            self._report_gap(inbox, offset, f"{inbox.topic}: offsets {inbox.next} to {offset - 1} are not there")
        kind, came_ms = message.timestamp()
        inbox.accept(
            record_of(offset, headers_of(message.headers()), message.value() or b"", came_ms if kind else None)
        )

    def _note(self, inbox: Inbox, error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._lost.add(inbox.topic)
        elif not error.retriable():
            inbox.trouble = error.str()

    def _pause_full_ones(self) -> None:
        full = [inbox for inbox in self._inboxes.values() if inbox.is_full and not inbox.paused]
        for inbox in full:
            inbox.paused = True
        if full and self._consumer is not None:
            self._consumer.pause([TopicPartition(inbox.topic, 0) for inbox in full])

    def _start_again(self) -> None:
        """Fetches anew where that is needed. All topics are assigned again: seldom, and only then is it sure that
        nothing fetched before is handed out."""
        assert self._consumer is not None
        for topic in list(self._lost):
            inbox = self._by_topic[topic]
            try:
                low, high = self._watermarks(topic, until=time.monotonic())
            except UnavailableError as error:
                inbox.trouble = error.text
                return
            with self._lock:
                self._mend(inbox, low, high)
            self._lost.discard(topic)
            self._again.add(topic)
        if self._again:
            assigned = {partition.topic for partition in self._consumer.assignment()}
            with self._lock:
                self._assign(inbox for inbox in self._inboxes.values() if inbox.topic in assigned)
            self._again.clear()

    def _mend(self, inbox: Inbox, low: int, high: int) -> None:
        """Goes on from what is there when the position is not; what is missing is noted, not guessed."""
        if inbox.next < low:
            text = f"{inbox.topic}: offsets {inbox.next} to {low - 1} were deleted before they were received"
            self._report_gap(inbox, low, text)
        elif inbox.next > high:
            text = f"{inbox.topic}: it ends at {high}, before the position {inbox.next}: made anew, or its tail lost"
            self._report_gap(inbox, low, text)

    def _report_gap(self, inbox: Inbox, position: int, text: str) -> None:
        event(log, logging.ERROR, "gap", node=inbox.sender, text=text)
        inbox.skip_to(position, text)

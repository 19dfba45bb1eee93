"""What has come from one sender, and how far it is applied. Bookkeeping only: nothing here talks to Kafka.

Offsets of a topic:   … applied | out, done out of order | buffered … next | not fetched yet
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dispatcher.ports import Backlog
from node.buses.end_marks import end_mark_of
from node.buses.kafka.encoding import ENCODING

BUFFER_BYTES_MAX = 32_000_000
BUFFER_RECORDS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Record:
    offset: int
    headers: dict[str, str]
    value: bytes
    came_ms: int | None
    completes: bool
    """The end mark of a session that has messages: once it is done, the receiver has recorded its position."""
    counts: bool
    """A message, no end mark."""


def record_of(offset: int, headers: dict[str, str], value: bytes, came_ms: int | None) -> Record:
    of = None if ENCODING in headers else end_mark_of(value)
    return Record(offset, headers, value, came_ms, completes=bool(of), counts=of is None)


class Inbox:
    """One sender's. Callers hold the bus's lock."""

    def __init__(self, sender: str, topic: str) -> None:
        self.sender = sender
        self.topic = topic
        self.gap: str | None = None
        """What was deleted before it was received."""
        self.trouble: str | None = None
        """What the brokers last said about this topic; told once by the next `receive`."""
        self.paused = False
        self.start(0)

    def start(self, position: int) -> None:
        """Everything before `position` is applied."""
        self.next = position
        """The offset that has to come next."""
        self.applied = position
        self.deletable = position
        """Up to here the node's database has recorded that it is applied: the topic may forget it. A position is
        recorded when a session is whole, so that this is the end of a session."""
        self.refetched_at: int | None = None
        self._buffer: deque[Record] = deque()
        self._buffered_bytes = 0
        self._open: dict[int, Record] = {}
        """Buffered or handed out, and not done."""
        self._done: set[int] = set()
        """Done, but something before them is not."""
        self._ends: set[int] = set()
        """Those of them that complete a session."""

    # --- coming in ---

    def accept(self, record: Record) -> None:
        """Takes the record whose offset is `next`."""
        self.next = record.offset + 1
        if record.offset < self.applied or record.offset in self._done:  # after a rewind
            return
        self._buffer.append(record)
        self._buffered_bytes += len(record.value)
        self._open[record.offset] = record

    def skip_to(self, position: int, gap: str) -> None:
        """What comes next is at `position`; what should have come before it is missing."""
        self.gap = gap
        if position < self.next or not (self._open or self._done):
            self.start(position)
        for missing in range(self.next, position):
            self._finish(missing)
        self.next = max(self.next, position)

    @property
    def is_full(self) -> bool:
        return self._buffered_bytes >= BUFFER_BYTES_MAX or len(self._buffer) >= BUFFER_RECORDS_MAX

    @property
    def has_room(self) -> bool:
        """Half empty. The fetch that runs when a topic is resumed may last `fetch.wait.max.ms` before the topic is in
        the next one; the other half is there for that time."""
        return self._buffered_bytes < BUFFER_BYTES_MAX // 2 and len(self._buffer) < BUFFER_RECORDS_MAX // 2

    @property
    def has_letters(self) -> bool:
        return bool(self._buffer)

    # --- going out ---

    def take(self, records_max: int) -> list[Record]:
        taken: list[Record] = []
        while self._buffer and len(taken) < records_max:
            record = self._buffer.popleft()
            self._buffered_bytes -= len(record.value)
            taken.append(record)
        return taken

    def rewind(self, position: int | None) -> None:
        """Everything from `position` on that is not done is to come again."""
        self._buffer.clear()
        self._buffered_bytes = 0
        self.next = max(position or 0, self.applied)
        self._open = {offset: record for offset, record in self._open.items() if offset < self.next}

    def finish(self, position: int) -> None:
        """The letter that bears `position` is done."""
        self._finish(position - 1)

    def _finish(self, offset: int) -> None:
        record = self._open.pop(offset, None)
        if offset < self.applied:
            return
        self._done.add(offset)
        if record is not None and record.completes:
            self._ends.add(offset)
        while self.applied in self._done:
            self._done.discard(self.applied)
            self.applied += 1
            if self.applied - 1 in self._ends:
                self._ends.discard(self.applied - 1)
                self.deletable = self.applied

    # --- figures ---

    def backlog(self, end: int) -> Backlog:
        """`end` is the topic's. What is not fetched yet (above the buffer's limit) is estimated from what is."""
        known = list(self._open.values())
        counted = [record for record in known if record.counts]
        size_bytes = sum(len(record.value) for record in counted)
        unknown = max(0, end - self.next)
        share = len(counted) / len(known) if known else 1.0
        mean_bytes = size_bytes / len(counted) if counted else 0.0
        ahead = round(unknown * share)
        return Backlog(
            messages=len(counted) + ahead,
            size_bytes=size_bytes + round(ahead * mean_bytes),
            oldest_ms=min((r.came_ms for r in counted if r.came_ms is not None), default=None),
        )

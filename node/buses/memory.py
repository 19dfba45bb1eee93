"""The bus in memory: nodes of one process share a MemoryNetwork. For tests and the simulation.

No threads of its own: what happens follows from the order of the calls alone. What is published survives
a bus that is closed, as a folder or a broker would; only the network itself must be kept.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from dispatcher.ports import Backlog, Letter, Life
from node.buses.end_marks import end_mark_of, life_of
from node.buses.offers import Offers
from schemas.errors import MessageError, UnavailableError

Direction = tuple[str, str]
"""(from, to)."""


@dataclass(slots=True)
class _Kept:
    letter: Letter
    came_ms: int


@dataclass
class MemoryNetwork:
    """What lies between the nodes. With `positions` it keeps everything and gives each letter a position, as Kafka
    does; without, it forgets what is done, as a folder does."""

    positions: bool = False
    message_bytes_max: int | None = None
    unreachable: set[Direction] = field(default_factory=set)
    """Directions into which nothing can be written for now."""
    aside: list[tuple[Letter, str]] = field(default_factory=list)
    """What receivers set aside, with their reasons."""
    directions: dict[Direction, dict[int, _Kept]] = field(default_factory=lambda: defaultdict(dict))
    """Letters by their place (0, 1, …) in the order in which they were published."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    _totals: dict[Direction, int] = field(default_factory=lambda: defaultdict(int))

    def put(self, direction: Direction, letters: Sequence[Letter]) -> None:
        now_ms = time.time_ns() // 1_000_000
        with self.changed:
            for place, letter in enumerate(letters, self._totals[direction]):
                position = place + 1 if self.positions else None
                kept = _Kept(replace(letter, node=direction[0], position=position), now_ms)
                self.directions[direction][place] = kept
            self._totals[direction] += len(letters)
            self.changed.notify_all()

    def places(self, direction: Direction, first: int) -> Iterator[int]:
        """The places from `first` on at which there is a letter."""
        kept = self.directions[direction]
        return (place for place in range(first, self._totals[direction]) if place in kept)


class MemoryBus:
    """A node's end of a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, node: str) -> None:
        self.network = network
        self.node = node
        self._out: dict[str, dict[Letter, int]] = defaultdict(dict)
        """By sender: letters that are handed out and not done, and their places."""
        self._next: dict[str, int] = defaultdict(int)
        self._done: dict[str, set[int]] = defaultdict(set)
        self._offers = Offers()

    @property
    def message_bytes_max(self) -> int | None:
        return self.network.message_bytes_max

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        direction = (self.node, to)
        for letter in letters:
            if self.message_bytes_max is not None and len(letter.payload) > self.message_bytes_max:
                raise MessageError(f"message {letter.name} is too large: {len(letter.payload)} bytes")
        if direction in self.network.unreachable:
            raise UnavailableError(f"the link from {self.node} to {to} is down")
        self.network.put(direction, letters)

    def open(self, positions: Mapping[str, int | None]) -> None:
        for sender, position in positions.items():
            self._next[sender] = position or 0

    def receive(self, sender: str, *, letters_max: int) -> Sequence[Letter]:
        letters: list[Letter] = []
        self._offers.asked(sender)
        with self.network.changed:
            kept = self.network.directions[sender, self.node]
            for place in islice(self._waiting(sender), letters_max):
                letters.append(kept[place].letter)
                self._out[sender][letters[-1]] = place
                self._next[sender] = place + 1
        return letters

    def _waiting(self, sender: str) -> Iterator[int]:
        places = self.network.places((sender, self.node), self._next[sender])
        return (place for place in places if place not in self._done[sender])

    def rewind(self, sender: str, position: int | None) -> None:
        with self.network.changed:
            self._next[sender] = position or 0
            self._out[sender].clear()

    def done(self, letters: Sequence[Letter]) -> None:
        with self.network.changed:
            for letter in letters:
                self._forget(letter)

    def set_aside(self, letter: Letter, reason: str) -> None:
        with self.network.changed:
            self.network.aside.append((letter, reason))
            self._forget(letter)

    def _forget(self, letter: Letter) -> None:
        place = self._out[letter.node].pop(letter, None)
        if place is None:
            return
        self._done[letter.node].add(place)
        if not self.network.positions:
            self.network.directions[letter.node, self.node].pop(place, None)

    def wait(self, timeout_s: float) -> None:
        with self.network.changed:
            self.network.changed.wait_for(lambda: self._offers.new(self._senders_with_letters()), timeout_s)

    def _senders_with_letters(self) -> list[str]:
        senders = [sender for sender, to in self.network.directions if to == self.node]
        return [sender for sender in senders if any(True for _ in self._waiting(sender))]

    def backlog(self, sender: str) -> Backlog:
        with self.network.changed:
            out = self._out[sender].values()
            places = sorted({*out, *self._waiting(sender)})
            waiting = [self.network.directions[sender, self.node][place] for place in places]
            kept = [k for k in waiting if end_mark_of(k.letter.payload) is None]
        return Backlog(
            messages=len(kept),
            size_bytes=sum(len(k.letter.payload) for k in kept),
            oldest_ms=min((k.came_ms for k in kept), default=None),
        )

    def sent_up_to(self, to: str) -> Life | None:
        with self.network.changed:
            kept = self.network.directions[self.node, to]
            return life_of(kept[max(kept)].letter.payload) if kept else None

    def clock_ahead_ms(self) -> int | None:
        return None

    def gap(self, sender: str) -> str | None:
        """Nothing gets lost in memory."""
        return None

    def close(self) -> None:
        """Nothing to let go of: the network is the tests'."""

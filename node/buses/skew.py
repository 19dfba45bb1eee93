"""How far the bus's clock is ahead of this node's own: told by the moment that it gave to something just written."""

from __future__ import annotations

import time


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Skew:
    """What was seen last; safe to use from several threads."""

    def __init__(self) -> None:
        self.ahead_ms: int | None = None
        """Negative: the bus is behind. None: nothing was seen yet."""

    def note(self, began_ms: int, bus_ms: int, ended_ms: int) -> None:
        """The bus says that something happened at `bus_ms` that happened between two moments of this node's clock."""
        self.ahead_ms = min(bus_ms - began_ms, 0) or max(bus_ms - ended_ms, 0)

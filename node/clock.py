"""The clock of the operating system."""

from __future__ import annotations

import time

from schemas.stamp import Stamp


class SystemClock:
    """dispatcher.ports.Clock over the machine's own time, UTC."""

    def now(self) -> Stamp:
        return Stamp(time.time_ns() // 1_000_000)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

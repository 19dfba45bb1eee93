"""What is compared: anything that carries changes from a database on one server to one on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Started:
    """The moment (time.monotonic) from which the rival was at work, and the CPU seconds that it had used by then."""

    moment: float
    client_cpu_s: float


class Rival(Protocol):
    """Two fresh databases with the trade's tables. Created stopped; `start` and `stop` may alternate."""

    name: str
    note: str
    database: str
    """Its name on both servers."""

    def create(self) -> None:
        """Databases, tables, and all that is needed to take note of changes; nothing is carried yet."""
        ...

    def start(self) -> Started: ...

    def client_cpu_s(self) -> float:
        """CPU seconds outside the servers since the last start."""
        ...

    def peak_rss_mb(self) -> float | None:
        """The largest resident set of any process outside the servers since it was created; None without one."""
        ...

    def check(self) -> None:
        """Raises RuntimeError when it has stopped working: waiting for it would be in vain."""
        ...

    def stop(self) -> None: ...

    def drop(self) -> None: ...

"""Pipeline: the next portion is prepared while the last one is on its way, against one after the other.

The same orders, changed again and again, to one neighbour; rounds in turns. Over a folder, whose files are flushed to
disk, and over a bus at the other end of a line, whose acknowledgement takes its time. What counts is how long it takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.servers import Server
from benchmarks.source import Nowhere, Source
from benchmarks.workloads import LINES, customers, items, orders
from dispatcher.ports import Letter

ORDERS = 60_000
ACKNOWLEDGED_AFTER_S = 0.5


class Distant(Nowhere):
    """A bus that acknowledges late."""

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        super().publish(to, letters)
        time.sleep(ACKNOWLEDGED_AFTER_S)


@dataclass(frozen=True, slots=True)
class Pipeline:
    title: str
    without_s: float
    with_s: float
    """Medians of the rounds."""
    ratio: float
    """The median of the rounds' ratios, with against without; `lower` and `upper` are the quartiles."""
    lower: float
    upper: float


def pipeline(server: Server, scale: float, rounds: int) -> list[Pipeline]:
    count = int(ORDERS * scale)
    return [
        _measured(server, count, rounds, folder=True),
        _measured(server, count, rounds, folder=False),
    ]


def _measured(server: Server, count: int, rounds: int, *, folder: bool) -> Pipeline:
    with ExitStack() as stack:
        source = Source(server, "pipeline", neighbours=1, folder=folder, bus=None if folder else Distant())
        stack.callback(source.drop)
        for load in (customers(1000), items(1000), orders(count, 1000, 1000)):
            source.application.execute(load)
        source.send()
        source.tidy()
        pairs = []
        for number in range(-1, rounds):  # the first warms up
            took = {}
            for aside in (False, True) if number % 2 else (True, False):
                source.change(f"UPDATE orders SET total = {2 * number + aside}")
                took[aside] = source.send(aside=aside).took_s
            pairs.append((took[False], took[True]))
    pairs = pairs[1:]
    ratios = [there / here for here, there in pairs]
    lower, middle, upper = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    bus = "over a folder" if folder else f"acknowledged after {ACKNOWLEDGED_AFTER_S * 1000:.0f} ms"
    return Pipeline(
        f"{count:,} orders of {LINES} lines, {bus}",
        statistics.median(here for here, _ in pairs),
        statistics.median(there for _, there in pairs),
        middle,
        lower,
        upper,
    )

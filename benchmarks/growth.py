"""Growth: what ten times as many items in the register, or ten times as many neighbours, make of the cost of sending
the same changes.

Two nodes side by side on one server, a small one and a large one; rounds alternate, so that what else the machine does
meets both. In CPU time, this process and the server together, since the machine may be busy; medians of the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.servers import Server
from benchmarks.source import Cost, Source, without_autovacuum
from benchmarks.workloads import LINES, customers, items, orders

REGISTER_TOLERANCE = 0.1
NEIGHBOURS_TARGET = 2.0
FEW, MANY = 4, 40
CHANGED = 10_000
"""Items of a portion."""


@dataclass(frozen=True, slots=True)
class Growth:
    title: str
    small: str
    large: str
    small_cpu_ms: float
    large_cpu_ms: float
    small_took_ms: float
    large_took_ms: float
    ratio: float
    """Of CPU: the median of the rounds' ratios."""
    least: float
    most: float

    @property
    def reached(self) -> bool:
        return self.least <= self.ratio <= self.most


def growth(server: Server, scale: float, rounds: int) -> list[Growth]:
    without_autovacuum(server, on=True)
    try:
        return [
            register(server, int(100_000 * scale), rounds, young=True),
            register(server, int(100_000 * scale), rounds, young=False),
            neighbours(server, int(20_000 * scale), rounds, folder=False),
            neighbours(server, int(20_000 * scale), rounds, folder=True),
        ]
    finally:
        without_autovacuum(server, on=False)


def register(server: Server, count: int, rounds: int, *, young: bool) -> Growth:
    """A portion of 10,000 changed items, with `count` and ten times as many in the register: the youngest, as documents
    change, or some all over the table. Then each lies on a page of its own in the large one, which costs a server a
    bit more whoever reads it; the rows read, by index alone, are as many."""
    with ExitStack() as stack:
        small, large = (_filled(stack, server, f"growth_{n}", n) for n in (count, 10 * count))
        changed = min(CHANGED, count)

        def change(source: Source, number: int) -> None:
            total = count if source is small else 10 * count
            source.application.execute(_change_some(total, changed, number, young=young))

        pairs = _rounds(small, large, change, rounds)
    title = f"a portion of {changed:,} items, {'the youngest' if young else 'all over the table'}"
    least, most = 1 - REGISTER_TOLERANCE, 1 + REGISTER_TOLERANCE
    return _growth(title, f"{count:,} in the register", f"{10 * count:,}", pairs, least, most)


def neighbours(server: Server, count: int, rounds: int, *, folder: bool) -> Growth:
    """The same orders to 4 and to 40 neighbours: as many files for each message, or the sender alone."""
    with ExitStack() as stack:
        small, large = (Source(server, f"growth_to_{n}", neighbours=n, folder=folder) for n in (FEW, MANY))
        for source in (small, large):
            stack.callback(source.drop)
            for load in (customers(1000), items(1000), orders(count, 1000, 1000)):
                source.application.execute(load)
            source.send()

        def change(source: Source, number: int) -> None:
            source.application.execute(f"UPDATE orders SET total = {number}")

        pairs = _rounds(small, large, change, rounds)
    return _growth(
        f"{count:,} orders of {LINES} lines, {'over a folder' if folder else 'without a bus'}",
        f"to {FEW} neighbours",
        f"to {MANY}",
        pairs,
        0.0,
        NEIGHBOURS_TARGET,
    )


def _filled(stack: ExitStack, server: Server, database: str, count: int) -> Source:
    source = Source(server, database, neighbours=1)
    stack.callback(source.drop)
    source.application.execute(customers(count))
    source.send()
    return source


def _change_some(total: int, changed: int, number: int, *, young: bool) -> str:
    step, first = (1, total - changed - 1) if young else (total // changed, number)
    numbers = f"SELECT 1 + (n * {step}::bigint + {first}) % {total} FROM generate_series(1, {changed}) n"
    return (
        f"UPDATE customers SET name = 'Round {number}' WHERE id IN (SELECT md5('c' || k)::uuid FROM ({numbers}) s(k))"
    )


def _rounds(
    small: Source, large: Source, change: Callable[[Source, int], None], rounds: int
) -> list[tuple[Cost, Cost]]:
    pairs = []
    for number in range(-1, rounds):  # the first warms up
        costs = {}
        for source in (small, large) if number % 2 == 0 else (large, small):
            source.tidy()
            change(source, number)
            costs[source.name] = source.send()
        pairs.append((costs[small.name], costs[large.name]))
    return pairs[1:]


def _growth(title: str, small: str, large: str, pairs: list[tuple[Cost, Cost]], least: float, most: float) -> Growth:
    def median(of: Callable[[Cost], float], side: int) -> float:
        return statistics.median(of(pair[side]) * 1000 for pair in pairs)

    return Growth(
        title, small, large,
        median(lambda c: c.cpu_s, 0), median(lambda c: c.cpu_s, 1),
        median(lambda c: c.took_s, 0), median(lambda c: c.took_s, 1),
        statistics.median(large.cpu_s / small.cpu_s for small, large in pairs), least, most,
    )  # fmt: skip

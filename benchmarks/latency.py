"""Latency: order transactions at a steady pace; for every tenth, the probes, the time from its commit until another
connection sees it at the target. Looking for all of them would take a good part of a core from those who are measured.
Then rest: what the daemons cost when nothing happens, and how soon the first change is seen."""

from __future__ import annotations

import queue
import statistics
import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks.drain import prepare
from benchmarks.rivals import Rival
from benchmarks.servers import Server
from benchmarks.tables import rows_that_differ
from benchmarks.workloads import LINES, change_customer, customer_id, customers, item_id, items, order_id

PER_SECOND = 200
PROBE_EVERY = 10
WARM_UP_S = 2
REST_BEFORE_S = 3.0
"""How long the daemons are left alone before rest is measured."""
REST_S = 5.0
LOOK_EVERY_S = 0.001
TIMEOUT_S = 60
CUSTOMERS = 10_000
ITEMS = 2_000


@dataclass(frozen=True, slots=True)
class Latency:
    rival: str
    transactions: int
    per_second: float
    """The pace that was reached."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    client_cores: float
    server_cores: float
    rest_core_percent: float
    """CPU of the clients at rest."""
    first_after_rest_ms: float
    peak_rss_mb: float | None
    differences: dict[str, str]


def latency(rival: Rival, source: Server, target: Server, seconds: float) -> Latency:
    rival.create()
    try:
        with source.connect(rival.database) as writing, target.connect(rival.database) as reading:
            prepare(rival, (customers(CUSTOMERS), items(ITEMS)), writing, reading)
            rival.start()
            try:
                return _measure(rival, source, target, writing, reading, seconds)
            finally:
                rival.stop()
    finally:
        rival.drop()


def _measure(
    rival: Rival,
    source: Server,
    target: Server,
    writing: psycopg.Connection[Any],
    reading: psycopg.Connection[Any],
    seconds: float,
) -> Latency:
    warm_up = WARM_UP_S * PER_SECOND
    pace(writing, reading, 1, warm_up)
    client_cpu_s, server_cpu_s = rival.client_cpu_s(), source.cpu_s() + target.cpu_s()
    begun = time.monotonic()
    count = int(seconds * PER_SECOND)
    took_ms = pace(writing, reading, warm_up + 1, count)
    elapsed_s = time.monotonic() - begun
    client_cores = (rival.client_cpu_s() - client_cpu_s) / elapsed_s
    server_cores = (source.cpu_s() + target.cpu_s() - server_cpu_s) / elapsed_s

    time.sleep(REST_BEFORE_S)
    client_cpu_s = rival.client_cpu_s()
    time.sleep(REST_S)
    rest = (rival.client_cpu_s() - client_cpu_s) / REST_S
    first_ms = pace(writing, reading, warm_up + count + 1, 1)[0]
    until = time.monotonic() + TIMEOUT_S
    while (differences := rows_that_differ(writing, reading)) and time.monotonic() < until:
        rival.check()
        time.sleep(0.2)
    cuts = statistics.quantiles(took_ms, n=100)
    return Latency(
        rival=rival.name,
        transactions=count,
        per_second=count / elapsed_s,
        p50_ms=cuts[49],
        p95_ms=cuts[94],
        p99_ms=cuts[98],
        max_ms=max(took_ms),
        client_cores=client_cores,
        server_cores=server_cores,
        rest_core_percent=rest * 100,
        first_after_rest_ms=first_ms,
        peak_rss_mb=rival.peak_rss_mb(),
        differences=differences,
    )


def pace(writing: psycopg.Connection[Any], reading: psycopg.Connection[Any], first: int, count: int) -> list[float]:
    """Writes orders `first`.. at the pace, each when its time has come, not when the one before was seen. Returns the
    milliseconds from the commit of each probe to its being seen; the first is one."""
    committed: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
    writer = threading.Thread(target=_write_orders, args=(writing, first, count, committed))
    writer.start()
    took_ms = []
    try:
        for position in range(count):
            number, at = committed.get(timeout=TIMEOUT_S)
            if position % PROBE_EVERY == 0:
                took_ms.append((_seen_at(reading, number) - at) * 1000)
    finally:
        writer.join()
    return took_ms


def _write_orders(
    connection: psycopg.Connection[Any], first: int, count: int, committed: queue.SimpleQueue[tuple[int, float]]
) -> None:
    begun = time.monotonic()
    for position, number in enumerate(range(first, first + count)):
        time.sleep(max(0.0, begun + position / PER_SECOND - time.monotonic()))
        with connection.pipeline(), connection.transaction():
            connection.execute(_ORDER, {"n": number}, prepare=True)
            connection.execute(_LINES, {"n": number}, prepare=True)
            if number % 10 == 0:
                connection.execute(_CUSTOMER, {"n": number}, prepare=True)
        committed.put((number, time.monotonic()))


def _seen_at(connection: psycopg.Connection[Any], number: int) -> float:
    until = time.monotonic() + TIMEOUT_S
    while not connection.execute(_SEEN, {"n": number}, prepare=True).fetchone():
        if time.monotonic() > until:
            raise RuntimeError(f"order {number} was not seen within {TIMEOUT_S} s")
        time.sleep(LOOK_EVERY_S)
    return time.monotonic()


_N = "%(n)s::bigint"
_ORDER = (
    f"INSERT INTO orders VALUES ({order_id(_N)}, {customer_id(f'(1 + {_N} * 7919 %% {CUSTOMERS})')}, "
    f"'ORD-' || {_N}, clock_timestamp(), true, 100.25)"
)
_LINES = (
    f"INSERT INTO order_lines SELECT {order_id(_N)}, line, "
    f"{item_id(f'(1 + ({_N} * {LINES} + line) * 104729 %% {ITEMS})')}, line, 10.5, line * 10.5 "
    f"FROM generate_series(1, {LINES}) AS line"
)
_CUSTOMER = change_customer(f"(1 + {_N} %% {CUSTOMERS})", _N)
_SEEN = f"SELECT 1 FROM orders WHERE id = {order_id(_N)}"

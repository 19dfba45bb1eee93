"""History: how much later live changes come while a new node is being filled.

Orders at a steady pace, first to a neighbour that has everything; then a node that has nothing joins, and gets the
orders while hundreds of thousands of customers go to it by history. The other neighbour is not run then: as many
daemons are at work as before.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks.drain import prepare
from benchmarks.exchange import Exchange
from benchmarks.latency import PER_SECOND, WARM_UP_S, pace
from benchmarks.servers import Server
from benchmarks.tables import CREATE
from benchmarks.workloads import customers, items

CUSTOMERS = 300_000
ITEMS = 2_000
TARGET = 2.0
BEGINS_S = 30.0


@dataclass(frozen=True, slots=True)
class UnderHistory:
    customers: int
    """That are to go by history."""
    alone_p50_ms: float
    alone_p95_ms: float
    p50_ms: float
    p95_ms: float
    """While they go."""
    per_second: float
    """Items that history brought meanwhile."""

    @property
    def ratio(self) -> float:
        return self.p50_ms / self.alone_p50_ms


class Joining(Exchange):
    """Where node 02 joins below 00 later; it lives on the target's server."""

    @property
    def joined(self) -> str:
        return f"{self.database}_02"

    def join(self) -> None:
        self.target.create_database(self.joined)
        with self.target.connect(self.joined) as connection:
            connection.execute(CREATE)
        file = self.folder / "nodes.yaml"
        node = f'nodes:\n  "02":\n    parent: "00"\n    database: {self.target.url(self.joined)}\n'
        file.write_text(file.read_text().replace("nodes:\n", node))
        self._kod("install", "--node", "02")
        self.codes = ("00", "02")

    def drop(self) -> None:
        super().drop()
        self.target.drop_database(self.joined)


def under_history(source: Server, target: Server, scale: float, seconds: float) -> UnderHistory:
    rival = Joining(source, target, "kod_history")
    rival.create()
    try:
        with source.connect(rival.database) as writing, target.connect(rival.database) as reading:
            prepare(rival, (customers(int(CUSTOMERS * scale)), items(ITEMS)), writing, reading)
            rival.start()
            alone_ms = _paced(rival, writing, reading, 1, seconds)
            rival.stop()
        rival.join()
        with source.connect(rival.database) as writing, target.connect(rival.joined) as reading:
            rival.start()
            _wait_until_it_begins(rival, reading)
            begun, before = time.monotonic(), _count(reading)
            took_ms = _paced(rival, writing, reading, 1_000_000, seconds)
            brought, elapsed_s = _count(reading) - before, time.monotonic() - begun
            if _count(reading) >= int(CUSTOMERS * scale):
                raise RuntimeError("history was at its end before the measurement was")
            rival.stop()
    finally:
        rival.drop()
    alone, under = statistics.quantiles(alone_ms, n=20), statistics.quantiles(took_ms, n=20)
    return UnderHistory(int(CUSTOMERS * scale), alone[9], alone[18], under[9], under[18], brought / elapsed_s)


def _paced(
    rival: Exchange, writing: psycopg.Connection[Any], reading: psycopg.Connection[Any], first: int, seconds: float
) -> list[float]:
    warm_up = WARM_UP_S * PER_SECOND
    pace(writing, reading, first, warm_up)
    took_ms = pace(writing, reading, first + warm_up, int(seconds * PER_SECOND))
    rival.check()
    return took_ms


def _wait_until_it_begins(rival: Exchange, reading: psycopg.Connection[Any]) -> None:
    until = time.monotonic() + BEGINS_S
    while not _count(reading):
        rival.check()
        if time.monotonic() > until:
            raise RuntimeError(f"history did not begin within {BEGINS_S} s")
        time.sleep(0.01)


def _count(reading: psycopg.Connection[Any]) -> int:
    row = reading.execute("SELECT count(*) FROM customers").fetchone()
    return int(row[0]) if row else 0

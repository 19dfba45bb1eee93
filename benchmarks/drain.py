"""A backlog is drained: it is written while nothing runs; the clock runs from the start of the rival until the
target has everything. That all is equal, value for value, is checked when the clock has stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks.rivals import Rival
from benchmarks.servers import Server
from benchmarks.tables import rows_that_differ
from benchmarks.workloads import Backlog

TIMEOUT_S = 600
POLL_S = 0.005
CHECK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Drained:
    rival: str
    rows: int
    took_s: float
    """From the moment the rival was at work (a daemon: when it says that it has started)."""
    start_s: float
    """How long it took to be at work."""
    load_s: float
    """Writing the backlog: with capture for KOD, without for native."""
    client_cpu_s: float
    source_cpu_s: float
    target_cpu_s: float
    start_cpu_s: float
    """CPU of the clients before they were at work; not part of client_cpu_s."""
    peak_rss_mb: float | None
    differences: dict[str, str]

    @property
    def rate(self) -> float:
        return self.rows / self.took_s

    @property
    def rate_with_start(self) -> float:
        return self.rows / (self.took_s + self.start_s)

    @property
    def cpu_s_per_million(self) -> float:
        return (self.client_cpu_s + self.source_cpu_s + self.target_cpu_s) * 1e6 / self.rows


def drain(rival: Rival, workload: Backlog, source: Server, target: Server) -> Drained:
    rival.create()
    try:
        with source.connect(rival.database) as writing, target.connect(rival.database) as reading:
            prepare(rival, workload.base, writing, reading)
            load_s = write(writing, workload.load)
            for server in (source, target):
                server.checkpoint()
            expected = _figure(writing, workload.complete)
            servers_cpu_s = source.cpu_s(), target.cpu_s()
            begun = time.monotonic()
            started = rival.start()
            try:
                _wait_until_drained(rival, workload, reading, expected)
                ended = time.monotonic()
                client_cpu_s = rival.client_cpu_s()
                source_cpu_s, target_cpu_s = source.cpu_s() - servers_cpu_s[0], target.cpu_s() - servers_cpu_s[1]
                peak_rss_mb = rival.peak_rss_mb()
            finally:
                rival.stop()
            return Drained(
                rival=rival.name,
                rows=workload.rows,
                took_s=ended - started.moment,
                start_s=started.moment - begun,
                load_s=load_s,
                client_cpu_s=client_cpu_s - started.client_cpu_s,
                source_cpu_s=source_cpu_s,
                target_cpu_s=target_cpu_s,
                start_cpu_s=started.client_cpu_s,
                peak_rss_mb=peak_rss_mb,
                differences=rows_that_differ(writing, reading),
            )
    finally:
        rival.drop()


def prepare(
    rival: Rival, base: Sequence[str], writing: psycopg.Connection[Any], reading: psycopg.Connection[Any]
) -> None:
    """Writes the base and lets the rival carry it, so that both databases have it."""
    if not base:
        return
    write(writing, base)
    rival.start()
    try:
        until = time.monotonic() + TIMEOUT_S
        while rows_that_differ(writing, reading):
            rival.check()
            if time.monotonic() > until:
                raise RuntimeError(f"{rival.name}: the base did not arrive within {TIMEOUT_S} s")
            time.sleep(0.1)
    finally:
        rival.stop()
    for connection in (writing, reading):
        # not the empty ones: with their statistics, plans made now would scan them however large they get
        connection.execute("VACUUM ANALYZE customers, items")


def write(connection: psycopg.Connection[Any], load: Sequence[str]) -> float:
    """Returns the seconds it took. Not waiting for the disk at each commit: it is not what is measured."""
    begun = time.monotonic()
    connection.execute("SET synchronous_commit = off")
    for statement in load:
        connection.execute(statement)
    connection.execute("RESET synchronous_commit")
    return time.monotonic() - begun


def _wait_until_drained(rival: Rival, workload: Backlog, reading: psycopg.Connection[Any], expected: object) -> None:
    until = time.monotonic() + TIMEOUT_S
    check_at = time.monotonic() + CHECK_EVERY_S
    while not _figure(reading, workload.sentinel) or _figure(reading, workload.complete) != expected:
        time.sleep(POLL_S)
        now = time.monotonic()
        if now > until:
            raise RuntimeError(f"{rival.name}: {workload.name} was not drained within {TIMEOUT_S} s")
        if now > check_at:
            rival.check()
            check_at = now + CHECK_EVERY_S


def _figure(connection: psycopg.Connection[Any], query: str) -> object:
    row = connection.execute(query).fetchone()
    return row[0] if row is not None else None

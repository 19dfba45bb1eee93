"""What capture costs the application: its throughput with capture installed against none, on the same server.

pgbench is the application: several clients with prepared statements. Rounds with and without alternate; the ratio is
the median of the rounds' ratios. No daemon runs.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.drain import prepare, write
from benchmarks.exchange import Exchange
from benchmarks.servers import Server, postgresql_binaries
from benchmarks.tables import CREATE
from benchmarks.workloads import customer_id, customers, item_id, items

CUSTOMERS = 10_000
ITEMS = 2_000
CLIENTS = 4
BARE = "capture_none"

_ORDER = f"""\
\\set customer random(1, {CUSTOMERS})
\\set a random(1, 4611686018427387903)
\\set item random(1, {ITEMS} - 5)
\\set tenth random(1, 10)
BEGIN;
INSERT INTO orders
    VALUES (md5((:a)::bigint::text)::uuid, {customer_id("(:customer)::int")}, 'ORD-1', now(), true, 10.25);
INSERT INTO order_lines
    SELECT md5((:a)::bigint::text)::uuid, line, {item_id("((:item)::int + line)")}, line, 10.5, 10.5
    FROM generate_series(1, 5) AS line;
\\if :tenth = 1
UPDATE customers SET updated = now() WHERE id = {customer_id("(:customer)::int")};
\\endif
END;
"""
_UPDATE = f"""\
\\set customer random(1, {CUSTOMERS})
UPDATE customers SET updated = now() WHERE id = {customer_id("(:customer)::int")};
"""
SCRIPTS = {"orders with 5 lines": _ORDER, "single-row updates": _UPDATE}


@dataclass(frozen=True, slots=True)
class CaptureCost:
    title: str
    flushed: bool
    """Each commit waits for the disk (synchronous_commit = on, the default)."""
    per_second_without: float
    per_second_with: float
    ratio: float


def capture_cost(source: Server, target: Server, rounds: int, seconds: int) -> list[CaptureCost]:
    """Every script, with commits that wait for the disk and (which shows more of capture) that do not."""
    exchange = Exchange(source, target, "capture_kod")
    with _databases(exchange, source, target):
        return [
            _compare(exchange, source, title, flushed, rounds, seconds)
            for flushed in (True, False)
            for title in SCRIPTS
        ]


@contextmanager
def _databases(exchange: Exchange, source: Server, target: Server) -> Iterator[None]:
    base = (customers(CUSTOMERS), items(ITEMS))
    try:
        exchange.create()
        with source.connect(exchange.database) as writing, target.connect(exchange.database) as reading:
            prepare(exchange, base, writing, reading)
        source.create_database(BARE)
        with source.connect(BARE) as connection:
            connection.execute(CREATE)
            write(connection, base)
            connection.execute("VACUUM ANALYZE customers, items")
        yield
    finally:
        exchange.drop()
        source.drop_database(BARE)


def _compare(exchange: Exchange, source: Server, title: str, flushed: bool, rounds: int, seconds: int) -> CaptureCost:
    source.checkpoint()
    pairs = []
    for number in range(rounds):
        databases = [BARE, exchange.database]
        order = databases if number % 2 == 0 else databases[::-1]
        rates = {database: _per_second(source, database, SCRIPTS[title], flushed, seconds) for database in order}
        pairs.append((rates[BARE], rates[exchange.database]))
    without, with_capture = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return CaptureCost(title, flushed, without, with_capture, ratio)


def _per_second(server: Server, database: str, script: str, flushed: bool, seconds: int) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        options = f"host={server.folder} user=postgres dbname={database}"
        if not flushed:
            options += " options='-c synchronous_commit=off'"
        command = [str(postgresql_binaries() / "pgbench"), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2"]
        done = subprocess.run(
            [*command, "-T", str(seconds), "-f", file.name, options],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(file.name).parent,
        )
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    failed = re.search(r"number of failed transactions: ([1-9]\d*)", done.stdout)
    if done.returncode or found is None or failed:
        raise RuntimeError(f"pgbench: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return float(found[1])

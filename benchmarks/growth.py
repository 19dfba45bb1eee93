"""Growth: what ten times as many items in the register, or ten times as many neighbours, make of the cost of sending
the same changes.

Two nodes side by side, a small one and a large one; rounds alternate, so that what else the machine does meets both.
In CPU time, this process and the server together, since the machine may be busy; medians of the rounds, and the
quartiles between which half of the rounds are.

The server has memory for all of it, and writes no whole pages to its log: what is measured is work, not whether pages
have to be fetched from a disk, and put there to make room, nor how long ago the last checkpoint was.

Beside it, what the same growth costs whoever goes to the same number of rows that lie farther apart: the application,
in the UPDATE that makes the changes, and a bare UPDATE of a table of two numbers, each in an index, as the register
has them.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.servers import Server
from benchmarks.source import Sending, Source, SqliteSource
from benchmarks.workloads import LINES, customer_id, customers, items, orders

REGISTER_TOLERANCE = 0.1
NEIGHBOURS_TARGET = 2.0
FEW, MANY = 4, 40
CHANGED = 10_000
"""Items of a portion."""
SERVER = {"shared_buffers": "2GB", "autovacuum": "off", "full_page_writes": "off"}

_SQLITE = """
CREATE TABLE customers (id text PRIMARY KEY, code text NOT NULL, name text NOT NULL, inn text, address text,
                        contacts text, updated text NOT NULL) WITHOUT ROWID;
"""
_Ids = Callable[[Sending, int], str]
_SQLITE_NUMBERS = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {last})"
_BARE = (
    "CREATE TABLE bare (id {type} PRIMARY KEY, stamp bigint, mark bigint)",
    "INSERT INTO bare SELECT id, row_number() OVER (ORDER BY code), row_number() OVER (ORDER BY code) FROM customers",
    "CREATE INDEX bare_mark ON bare (mark)",
    "CREATE INDEX bare_stamp ON bare (stamp, id)",
)


@dataclass(frozen=True, slots=True)
class Keys:
    """SQL for the key of the row with a number."""

    title: str
    postgresql: Callable[[str], str]
    sqlite: Callable[[str], str]


RANDOM = Keys("keys at random", customer_id, lambda n: f"md5('c' || {n})")
RISING = Keys(
    "rising keys", lambda n: f"lpad(to_hex({n}), 32, '0')::uuid", lambda n: f"printf('%032x', {n})"
)  # as numbers are, or UUIDs with a time in them


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
    """Of CPU: the median of the rounds' ratios; `lower` and `upper` are the quartiles."""
    lower: float
    upper: float
    least: float
    most: float
    application: float | None = None
    """The ratio of what the application paid for the changes; `bare`, of a bare UPDATE."""
    bare: float | None = None

    @property
    def reached(self) -> bool:
        return self.least <= self.ratio <= self.most


@dataclass(frozen=True, slots=True)
class Round:
    """A change and its sending at one of the two nodes."""

    cpu_s: float
    took_s: float
    application_s: float
    bare_s: float = 0.0


def growth(scale: float, rounds: int) -> list[Growth]:
    server = Server("growth", SERVER)
    try:
        return [
            *registers(server, int(100_000 * scale), rounds),
            neighbours(server, int(20_000 * scale), rounds, folder=False),
            neighbours(server, int(20_000 * scale), rounds, folder=True),
        ]
    finally:
        server.stop()


def registers(server: Server, count: int, rounds: int) -> list[Growth]:
    """A portion of 10,000 changed items, with `count` and ten times as many in the register: the youngest, as documents
    change, or some all over the table. Keys at random put each of them on a page of its own in the large one."""

    def filled(stack: ExitStack, total: int, keys: Keys) -> Source:
        return _filled(stack, server, total, keys)

    return [
        found
        for dialect, fill in (("PostgreSQL", filled), ("SQLite", _filled_sqlite))
        for keys, which in ((RISING, (True,)), (RANDOM, (True, False)))
        for found in _register(fill, count, rounds, dialect, keys, which)
    ]


def _register(
    fill: Callable[[ExitStack, int, Keys], Sending],
    count: int,
    rounds: int,
    dialect: str,
    keys: Keys,
    which: Sequence[bool],
) -> list[Growth]:
    """`which`: of the youngest, or not."""
    measured = []
    with ExitStack() as stack:
        small, large = fill(stack, count, keys), fill(stack, 10 * count, keys)
        changed = min(CHANGED, count)
        for young in which:

            def ids(source: Sending, number: int, young: bool = young) -> str:
                total = count if source is small else 10 * count
                chosen = _chosen(total, changed, number, young=young)
                if isinstance(source, SqliteSource):
                    return f"{_SQLITE_NUMBERS.format(last=changed)} SELECT {keys.sqlite(chosen)} FROM s"
                return f"SELECT {keys.postgresql(chosen)} FROM generate_series(1, {changed}::bigint) n"

            def change(source: Sending, number: int, young: bool = young, ids: _Ids = ids) -> float:
                name = f"Round {number} of {'the youngest' if young else 'all'}"  # never the name that it has already
                return source.change(f"UPDATE customers SET name = '{name}' WHERE id IN ({ids(source, number)})")

            def bare(source: Sending, number: int, ids: _Ids = ids) -> float:
                on = 20 * count  # to the end of both indexes, where the register's new marks and stamps go
                statement = f"UPDATE bare SET mark = mark + {on}, stamp = stamp + {on} WHERE id IN"
                return source.change(f"{statement} ({ids(source, number)})")

            pairs = _rounds(small, large, change, rounds, bare)
            where = f"the youngest, {keys.title}" if young else "all over the table"
            title = f"{dialect}: a portion of {changed:,} items, {where}"
            limits = (1 - REGISTER_TOLERANCE, 1 + REGISTER_TOLERANCE)
            measured.append(
                _growth(title, f"{count:,} in the register", f"{10 * count:,}", pairs, *limits, beside=True)
            )
    return measured


def neighbours(server: Server, count: int, rounds: int, *, folder: bool) -> Growth:
    """The same orders to 4 and to 40 neighbours: as many files for each message, or the sender alone."""
    with ExitStack() as stack:
        small, large = (Source(server, f"growth_to_{n}", neighbours=n, folder=folder) for n in (FEW, MANY))
        for source in (small, large):
            stack.callback(source.drop)
            for load in (customers(1000), items(1000), orders(count, 1000, 1000)):
                source.application.execute(load)
            source.send()

        def change(source: Sending, number: int) -> float:
            return source.change(f"UPDATE orders SET total = {number}")

        pairs = _rounds(small, large, change, rounds)
    return _growth(
        f"{count:,} orders of {LINES} lines, {'over a folder' if folder else 'without a bus'}",
        f"to {FEW} neighbours",
        f"to {MANY}",
        pairs,
        0.0,
        NEIGHBOURS_TARGET,
    )


def _filled(stack: ExitStack, server: Server, count: int, keys: Keys) -> Source:
    source = Source(server, f"growth_{count}", neighbours=1)
    stack.callback(source.drop)
    source.application.execute(customers(count, key=keys.postgresql))
    for statement in _BARE:
        source.application.execute(statement.format(type="uuid"))  # type: ignore[arg-type]
    source.send()
    source.tidy()
    return source


def _filled_sqlite(stack: ExitStack, count: int, keys: Keys) -> SqliteSource:
    source = SqliteSource(f"growth_{count}", _SQLITE)
    stack.callback(source.drop)
    source.application.create_function("md5", 1, lambda text: hashlib.md5(text.encode()).hexdigest())
    source.application.execute(
        f"INSERT INTO customers {_SQLITE_NUMBERS.format(last=count)} SELECT {keys.sqlite('n')}, printf('C%07d', n),"
        " 'Customer number ' || n, n * 7919, json_object('city', 'City ' || n % 500,"
        " 'street', 'Street ' || n % 3000, 'house', n % 200), json_object('phone', '+7' || n, 'mail',"
        " 'c' || n || '@example.org'), '2026-01-01T00:00:00' FROM s"
    )
    for statement in _BARE:
        source.application.execute(statement.format(type="text"))
    source.application.commit()
    source.send()
    return source


def _chosen(total: int, changed: int, number: int, *, young: bool) -> str:
    """The number of the n-th row that is changed."""
    step, first = (1, total - changed - 1) if young else (total // changed, number)
    return f"(1 + (n * {step} + {first}) % {total})"


def _rounds(
    small: Sending,
    large: Sending,
    change: Callable[[Sending, int], float],
    rounds: int,
    bare: Callable[[Sending, int], float] = lambda source, number: 0.0,
) -> list[tuple[Round, Round]]:
    pairs = []
    for number in range(-2, rounds):  # the first two warm up: what a server's process touches first costs it more
        done = {}
        for source in (small, large) if number % 2 == 0 else (large, small):
            application_s = change(source, number)
            cost = source.send()
            done[source.name] = Round(cost.cpu_s, cost.took_s, application_s, bare(source, number))
        pairs.append((done[small.name], done[large.name]))
    return pairs[2:]


def _growth(
    title: str,
    small: str,
    large: str,
    pairs: Sequence[tuple[Round, Round]],
    least: float,
    most: float,
    *,
    beside: bool = False,
) -> Growth:
    def median(of: Callable[[Round], float], side: int) -> float:
        return statistics.median(of(pair[side]) * 1000 for pair in pairs)

    ratios = [large.cpu_s / small.cpu_s for small, large in pairs]
    lower, middle, upper = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    application = statistics.median(large.application_s / small.application_s for small, large in pairs)
    bare = statistics.median(large.bare_s / small.bare_s for small, large in pairs) if beside else None
    return Growth(
        title, small, large,
        median(lambda r: r.cpu_s, 0), median(lambda r: r.cpu_s, 1),
        median(lambda r: r.took_s, 0), median(lambda r: r.took_s, 1),
        middle, lower, upper, least, most, application if beside else None, bare,
    )  # fmt: skip

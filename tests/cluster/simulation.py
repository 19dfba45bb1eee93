"""A network of nodes in one process, driven by a seed: the real flow over real SQLite; only the bus, the clock and
the crashes are made up.

    history(seed)  ->  random tree, random writes at every node, deliveries in any order between links, repetitions,
                       crashes between any two steps; then quiet; then the invariants of correctness.md are checked

A failing seed is replayed by `python -m tests.cluster.simulation SEED`.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from dispatcher.ports import Backlog, Letter, NodeView
from dispatcher.receiving import Receiver
from dispatcher.sending import Sender
from node.databases.sqlite.database import SqliteDatabase
from node.service import node_view
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.network import NodeSettings, TypeSettings
from schemas.stamp import Stamp
from schemas.topology import Topology

EXCHANGE = {
    t.name: t
    for t in (
        TypeSettings("Catalog.Customer", "customers", reference_data=True),
        TypeSettings("Document.Order", "orders", reference_data=True, sections={"lines": "order_lines"}),
        TypeSettings("Catalog.OrderFile", "order_files", owner=("order_id",)),
        TypeSettings("InformationRegister.Price", "prices", reference_data=True, filter=("product",)),
    )
}

TABLES = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT, boss TEXT REFERENCES customers (id));
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers (id), token TEXT);
CREATE TABLE order_lines (order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE, line INTEGER, qty INTEGER,
                          PRIMARY KEY (order_id, line));
CREATE TABLE order_files (id TEXT PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (id), body TEXT);
CREATE TABLE prices (product TEXT, day INTEGER, price TEXT, PRIMARY KEY (product, day));
CREATE TABLE sim_clock (ms INTEGER);
INSERT INTO sim_clock VALUES (1);
"""


class CrashError(BaseException):
    """The process dies here."""


@dataclass
class SimClock:
    """One node's clock: it is off by its own skew, and may step."""

    ms: int

    def now(self) -> Stamp:
        return Stamp(self.ms)

    def wait(self, seconds: float) -> None:
        self.ms += 1 + int(seconds * 1000)


@dataclass
class Link:
    """One direction of a link: what was put there and is not forgotten, in order."""

    letters: list[Letter] = field(default_factory=list)
    published: int = 0


class SimBus:
    """A bus that delays and repeats, keeps what it acknowledged, and loses nothing."""

    def __init__(self, node: str, links: dict[tuple[str, str], Link], world: World) -> None:
        self.node = node
        self.links = links
        self.world = world
        self._handed: dict[str, set[str]] = {}

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        link = self.links[self.node, to]
        for letter in letters:
            self.world.may_crash()
            if not self.world.loses():
                link.letters.append(replace(letter, node=self.node))
            link.published += 1
        self.world.may_crash()

    def open(self, positions: Mapping[str, int | None]) -> None:
        self._handed = {sender: set() for sender in positions}

    def receive(self, sender: str, *, letters_max: int) -> Sequence[Letter]:
        handed = self._handed[sender]
        here = self.links[sender, self.node].letters
        visible = here[: self.world.random.randint(0, len(here))] if not self.world.quiet else here
        new = [letter for letter in visible if letter.name not in handed][:letters_max]
        handed.update(letter.name for letter in new)
        if new and not self.world.quiet and self.world.random.random() < 0.1:
            handed.discard(self.world.random.choice(new).name)  # it will come again
        return new

    def rewind(self, sender: str, position: int | None) -> None:
        self._handed[sender].clear()

    def done(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self.world.may_crash()
            link = self.links[letter.node, self.node]
            link.letters = [kept for kept in link.letters if kept.name != letter.name]

    def set_aside(self, letter: Letter, reason: str) -> None:
        raise AssertionError(f"nothing strange was sent: {letter.name}: {reason}")

    def wait(self, timeout_s: float) -> None: ...

    def backlog(self, sender: str) -> Backlog:
        letters = self.links[sender, self.node].letters
        return Backlog(len(letters), sum(len(letter.payload) for letter in letters))

    def gap(self, sender: str) -> str | None:
        return None

    def close(self) -> None: ...


class CrashingStore:
    """The real store; the process may die before or after anything that it commits."""

    def __init__(self, store: Any, world: World) -> None:
        self._store = store
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def sending(self) -> Iterator[Any]:
        with self._store.sending() as view:
            yield view
            self._world.may_crash()
        self._world.may_crash()

    @contextmanager
    def receiving(self, sender: str, **options: Any) -> Iterator[Any]:
        with self._store.receiving(sender, **options) as view:
            yield view
            self._world.may_crash()
        self._world.may_crash()

    def record_sent(self, sent: Any) -> None:
        self._world.may_crash()
        self._store.record_sent(sent)
        self._world.may_crash()


class SimNode:
    """A node: its database, its dispatchers while it is up, and an application that writes."""

    begin = "BEGIN IMMEDIATE"
    refused: type[Exception] = sqlite3.IntegrityError

    def __init__(self, code: str, view: NodeView, folder: Path, world: World) -> None:
        self.code = code
        self.view = view
        self.world = world
        self.clock = SimClock(1_000_000 + world.random.randint(0, 5000))
        self._make_database(folder)
        self.settings = NodeSettings(
            code, code, view.parent, "", EXCHANGE,
            send_streams_max=world.random.choice([1, 2]), receive_streams_max=1,
            portion_items_max=world.random.choice([1, 2, 3, 1000]),
            message_items_max=world.random.choice([1, 2, 1000]), stream_items_min=1,
        )  # fmt: skip
        database = self._database()
        tables = database.reflect(tables_needed(EXCHANGE.values()))
        self.structure = compile_structure(generate_package(EXCHANGE, tables), EXCHANGE, tables)
        database.install(self.settings, self.structure)
        database.close()
        self.up = False
        self.tick(0)

    def _make_database(self, folder: Path) -> None:
        self.path = folder / f"{self.code}.sqlite"
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript("PRAGMA journal_mode=WAL;" + TABLES)
        self.application: Any = sqlite3.connect(self.path, isolation_level=None)
        self.application.execute("PRAGMA foreign_keys = ON")
        self.application.execute("PRAGMA synchronous = OFF")

    def _database(self) -> Any:
        return SqliteDatabase(f"sqlite:///{self.path}", now_sql="(SELECT ms FROM sim_clock)")

    def tick(self, ms: int) -> None:
        self.clock.ms += ms
        self.application.execute("UPDATE sim_clock SET ms = ?", (self.clock.ms,))

    def start(self) -> None:
        self.database = self._database()
        self.store = CrashingStore(self.database.store(self.settings, self.structure), self.world)
        self.store.start(self.view.neighbours)
        bus = SimBus(self.code, self.world.links, self.world)
        self.sender = Sender(self.view, self.structure, self.settings, self.store, bus, self.clock)  # type: ignore[arg-type]
        self.receiver = Receiver(self.view, self.structure, self.settings, self.store, bus, self.clock)  # type: ignore[arg-type]
        self.up = True

    def stop(self) -> None:
        if self.up:
            self.receiver.close()
            self.store.close()
            self.database.close()
            self.up = False

    def step(self, what: str) -> bool:
        if not self.up:
            self.start()
        try:
            if what == "send":
                for link in self.receiver.links.values():
                    if link.answers:
                        link.answers = False
                        self.sender.nudge()
                return self.sender.step()
            return self.receiver.step()
        except CrashError:
            self.stop()
            return True

    def ask_heartbeat(self) -> None:
        if not self.up:
            self.start()
        self.sender.ask_heartbeat()

    def close(self) -> None:
        self.stop()
        self.application.close()

    # --- the application ---

    def write(self) -> None:
        self.tick(self.world.random.choice([0, 0, 1, 5, -3]))
        action = self.world.random.choice(self.world.writes)
        before, deleted = dict(self.world.parents), set(self.world.deleted)
        try:
            self.application.execute(self.begin)
            for _ in range(self.world.random.choice([1, 1, 2])):
                action(self)
            self.application.execute("COMMIT")
        except self.refused:  # the application did something that its own database refuses
            self.application.execute("ROLLBACK")
            self.world.parents, self.world.deleted = before, deleted

    def value(self, table: str, column: str, key: Any) -> str | None:
        row = self.application.execute(f"SELECT {column} FROM {table} WHERE id = ?", (key,)).fetchone()
        return row[0] if row else None

    def pick(self, sql: str) -> Any:
        rows = self.application.execute(sql).fetchall()
        return self.world.random.choice(rows)[0] if rows else None

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table: self.application.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("customers", "orders", "order_lines", "order_files", "prices")
        }

    def journal(self) -> list[Mapping[str, Any]]:
        return list(self.database.collisions())


def put_customer(node: SimNode) -> None:
    token = node.world.token(node, "customer")
    name = node.world.random.choice("ABCD")
    boss = node.pick("SELECT id FROM customers") if node.world.random.random() < 0.3 else None
    node.world.parents[token] = node.value("customers", "name", name)
    node.application.execute(
        "INSERT INTO customers VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name,"
        " boss = excluded.boss",
        (name, token, boss),
    )


def put_order(node: SimNode) -> None:
    customer = node.pick("SELECT id FROM customers")
    if customer is None:
        return put_customer(node)
    number = node.world.random.randint(1, 4)
    token = node.world.token(node, "order")
    node.world.parents[token] = node.value("orders", "token", number)
    node.application.execute(
        "INSERT INTO orders VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET token = excluded.token,"
        " customer_id = excluded.customer_id",
        (number, customer, token),
    )
    node.application.execute(
        "INSERT INTO order_lines VALUES (?, ?, 1) ON CONFLICT (order_id, line) DO UPDATE SET qty = order_lines.qty + 1",
        (number, node.world.random.randint(1, 3)),
    )
    return None


def put_file(node: SimNode) -> None:
    order = node.pick("SELECT id FROM orders")
    if order is not None:
        node.application.execute(
            "INSERT INTO order_files VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (f"{node.code}-{node.world.random.randint(1, 3)}", order, node.world.token(node, "file")),
        )


def put_price(node: SimNode) -> None:
    node.application.execute(
        "INSERT INTO prices VALUES (?, ?, ?) ON CONFLICT (product, day) DO UPDATE SET price = excluded.price",
        (node.world.random.choice("XY"), node.world.random.randint(1, 2), node.world.token(node, "price")),
    )


def delete_line(node: SimNode) -> None:
    node.application.execute("DELETE FROM order_lines WHERE line = ?", (node.world.random.randint(1, 3),))


def delete_order(node: SimNode) -> None:
    number = node.world.random.randint(1, 4)
    node.world.deleted.add(node.value("orders", "token", number))
    node.application.execute("DELETE FROM orders WHERE id = ?", (number,))


def delete_customer(node: SimNode) -> None:
    name = node.world.random.choice("ABCD")
    node.world.deleted.add(node.value("customers", "name", name))
    node.application.execute("DELETE FROM customers WHERE id = ?", (name,))


def delete_price(node: SimNode) -> None:
    node.application.execute("DELETE FROM prices WHERE product = ?", (node.world.random.choice("XY"),))


WRITES = [put_customer, put_order, put_order, put_file, put_price, delete_line, delete_price]
DELETIONS = [delete_order, delete_order, delete_customer]


class World:
    """Nodes, links, and what the applications wrote."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        deletions: bool = False,
        crashes: bool = True,
        losses: bool = False,
        make_node: Callable[..., SimNode] = SimNode,
    ) -> None:
        self.losses = losses
        self.lost = 0
        self.random = random.Random(seed)
        self.writes = WRITES + DELETIONS if deletions else WRITES
        self.quiet = False
        self.crashes = crashes
        self._countdown = self._next_crash()
        self._tokens = 0
        self.parents: dict[str, str | None] = {}
        """Each token (a version of an item) and the one that it replaced."""
        self.deleted: set[str | None] = set()
        """Tokens that a committed deletion has taken away where it was made."""
        codes = [f"0{n}" for n in range(self.random.randint(2, 4))]
        topology = Topology({c: self.random.choice(codes[:n]) if n else None for n, c in enumerate(codes)})
        self.links: dict[tuple[str, str], Link] = {}
        for code in codes:
            for neighbour in topology.neighbours(code):
                self.links[code, neighbour] = Link()
        self.nodes = [make_node(code, node_view(topology, code), folder, self) for code in codes]

    def _next_crash(self) -> int:
        return self.random.randint(1, 60)

    def may_crash(self) -> None:
        if self.quiet or not self.crashes:
            return
        self._countdown -= 1
        if self._countdown <= 0:
            self._countdown = self._next_crash()
            raise CrashError

    def loses(self) -> bool:
        """Whether the bus loses a letter that it acknowledges."""
        lost = self.losses and not self.quiet and self.random.random() < 0.05
        self.lost += lost
        return lost

    def token(self, node: SimNode, kind: str) -> str:
        self._tokens += 1
        return f"{kind}-{node.code}-{self._tokens}"

    def run(self, steps: int) -> None:
        for _ in range(steps):
            node = self.random.choice(self.nodes)
            what = self.random.choice(["write", "send", "receive"])
            if what == "write":
                node.write()
            else:
                node.tick(1)
                node.step(what)

    def settle(self, rounds_max: int = 300) -> None:
        """No more writes, no more crashes: the network comes to rest."""
        quiet_already = self.quiet
        self.quiet = True
        for number in range(rounds_max):
            moved = self.losses and number < 2
            if moved and not quiet_already:  # a lost tail is seen by what comes after it
                for node in self.nodes:
                    node.ask_heartbeat()
            for node in self.nodes:
                node.tick(40_000)  # whatever waits for a retry may go on
                moved |= node.step("receive")
                moved |= node.step("send")
            if not moved:
                return
        raise AssertionError("the network does not come to rest")

    def check(self) -> None:
        for node in self.nodes:
            parked = [(one.node, one.name, one.reason) for one in node.store.parked()]
            assert not parked, f"{node.code}: parked after quiet: {parked}"
        first = self.nodes[0].contents()
        for node in self.nodes[1:]:
            assert node.contents() == first, (
                f"{node.code} differs from {self.nodes[0].code}:\n{node.contents()}\n{first}"
            )
        for link in self.links.values():
            assert not link.letters, "something was left on the bus"
        self._nothing_lost(first)
        published = sum(link.published for link in self.links.values())
        self.settle(3)
        assert published == sum(link.published for link in self.links.values()), "after quiet there is no silence"

    def _nothing_lost(self, final: dict[str, list[tuple[Any, ...]]]) -> None:
        """Every version that was committed anywhere is an ancestor of the final one or stands in a journal."""
        kept = {row[1] for row in final["customers"]} | {row[2] for row in final["orders"]} | self.deleted
        for node in self.nodes:
            for line in node.journal():
                if line["loser"]["text"] is not None:
                    value = orjson.loads(line["loser"]["text"])
                    kept.add(value.get("token") or value.get("name"))
        reached = set()
        for token in kept:
            step: str | None = token
            while step is not None and step not in reached:
                reached.add(step)
                step = self.parents.get(step)
        lost = [t for t in self.parents if t not in reached]
        assert not lost, f"lost without a word: {lost}"

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def history(
    seed: int,
    *,
    steps: int = 60,
    crashes: bool = True,
    deletions: bool = True,
    losses: bool = False,
    make_node: Callable[..., SimNode] = SimNode,
) -> None:
    """Plays one history and checks it; raises AssertionError that says what broke."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=base, prefix="kod-sim-") as folder:
        world = World(seed, Path(folder), crashes=crashes, deletions=deletions, losses=losses, make_node=make_node)
        try:
            world.run(steps)
            world.settle()
            world.check()
        finally:
            world.close()


if __name__ == "__main__":
    history(int(sys.argv[1]))

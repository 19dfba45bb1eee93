"""A network of nodes in one process, driven by a seed: the real flow over real SQLite; only the bus, the clock and
the crashes are made up.

    history(seed)  ->  random tree, random writes at every node, deliveries in any order between links, repetitions,
                       crashes between any two steps, writes and deliveries while a node is sending; then quiet;
                       the invariants of correctness.md are checked on the way and at the end (tests/cluster/oracles.py)

A history goes on by events: functions of the world and a node, drawn at random (`EVENTS`). A scenario adds its own
(`history(seed, events=[...])`), and tells the witness what is to be expected of them. What an application does is a
function of its node (`WRITES`, `DELETIONS`, `MEMOS`).

Which options a seed is played with where many are, and how one is played again: tests/cluster/mixture.py.
"""

from __future__ import annotations

import gc
import logging
import random
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from dispatcher.delivery import Flight
from dispatcher.parking import FORCE_ATTEMPTS
from dispatcher.ports import Backlog, Letter, Life, NodeView
from dispatcher.receiving import Receiver
from dispatcher.sending import Sender
from node.buses.end_marks import life_of
from node.databases.sqlite.database import SqliteDatabase
from node.service import node_view
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.errors import IdentityError, UnavailableError
from schemas.network import NodeSettings, TypeSettings
from schemas.stamp import Stamp
from schemas.structure import Structure
from schemas.topology import Topology
from tests.cluster import limited
from tests.cluster.kept import BASE, BEGINNING_MS, NOW_SQL, KeptDatabase, connections, kept
from tests.cluster.lives import Lives
from tests.cluster.oracles import Witness

EXCHANGE = {
    t.name: t
    for t in (
        TypeSettings("Catalog.Customer", "customers", reference_data=True),
        TypeSettings("Document.Order", "orders", reference_data=True, sections={"lines": "order_lines"}),
        TypeSettings("Catalog.OrderFile", "order_files", owner=("order_id",)),
        TypeSettings("InformationRegister.Price", "prices", reference_data=True, filter=("product",)),
        TypeSettings("Catalog.Shelf", "shelves", reference_data=True, collision="parent"),
        TypeSettings("Document.Memo", "memos", access="memo_access"),
        TypeSettings("Catalog.MemoFile", "memo_files", owner=("memo_id",)),
    )
} | limited.EXCHANGE

TABLES = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT, boss TEXT REFERENCES customers (id));
CREATE TABLE orders (id INT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers (id), token TEXT);
CREATE TABLE order_lines (order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE, line INTEGER, qty INTEGER,
                          PRIMARY KEY (order_id, line));
CREATE TABLE order_files (id TEXT PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (id), body TEXT);
CREATE TABLE prices (product TEXT, day INTEGER, price TEXT, PRIMARY KEY (product, day));
CREATE TABLE shelves (id TEXT PRIMARY KEY, body TEXT);
CREATE TABLE memos (id TEXT PRIMARY KEY, audience TEXT, above TEXT REFERENCES memos (id), body TEXT);
CREATE VIEW memo_access AS SELECT id, audience AS node FROM memos WHERE audience IS NOT NULL;
CREATE TABLE memo_files (id TEXT PRIMARY KEY, memo_id TEXT NOT NULL REFERENCES memos (id), body TEXT);
"""
TABLES += limited.TABLES
EVERYWHERE = ("customers", "orders", "order_lines", "order_files", "prices", "shelves", "task_access")
"""Tables that are to be equal at all nodes."""


class CrashError(BaseException):
    """The process dies here."""


class RefusedError(Exception):
    """The application's transaction was rolled back."""


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
    cut: bool = False
    """Nothing can be put there for the moment."""


class SimBus:
    """A bus that delays and repeats, keeps what it acknowledged, and loses nothing."""

    def __init__(self, node: str, links: dict[tuple[str, str], Link], world: World) -> None:
        self.node = node
        self.links = links
        self.world = world
        self.message_bytes_max = world.message_bytes_max
        self._handed: dict[str, set[Letter]] = {}

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        link = self.links[self.node, to]
        letters = list(letters)  # each is made whenever it is asked for
        self.world.witness.session_begun(self.node, to, letters)
        for letter in letters:
            assert len(letter.payload) <= (self.message_bytes_max or sys.maxsize), f"{letter.name} is too large"
            self.world.may_crash()
            if link.cut:
                self.world.witness.failed(self.node, to)
                raise UnavailableError(f"the link to {to} is cut")
            lost = self.world.loses()
            if not lost:
                link.letters.append(replace(letter, node=self.node))
            link.published += 1
            self.world.witness.published(self.node, letter, lost=lost)
            self.world.meanwhile(self.node)
        self.world.may_crash()

    def open(self, positions: Mapping[str, int | None]) -> None:
        self._handed = {sender: set() for sender in positions}

    def receive(self, sender: str, *, letters_max: int) -> Sequence[Letter]:
        handed = self._handed[sender]
        here = self.links[sender, self.node].letters
        visible = here[: self.world.random.randint(0, len(here))] if not self.world.quiet else here
        new = [letter for letter in visible if letter not in handed][:letters_max]
        handed.update(new)
        if new and not self.world.quiet and self.world.random.random() < 0.1:
            handed.discard(self.world.random.choice(new))  # it will come again
        return new

    def rewind(self, sender: str, position: int | None) -> None:
        self._handed[sender].clear()

    def done(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self.world.may_crash()
            self.world.meanwhile(self.node, receiving=False)
            link = self.links[letter.node, self.node]
            link.letters = [kept for kept in link.letters if kept != letter]

    def set_aside(self, letter: Letter, reason: str) -> None:
        raise AssertionError(f"nothing strange was sent: {letter.name}: {reason}")

    def wait(self, timeout_s: float) -> None: ...

    def backlog(self, sender: str) -> Backlog:
        letters = self.links[sender, self.node].letters
        return Backlog(len(letters), sum(len(letter.payload) for letter in letters))

    def sent_up_to(self, to: str) -> Life | None:
        letters = self.links[self.node, to].letters
        return life_of(letters[-1].payload) if letters else None

    def clock_ahead_ms(self) -> int | None:
        return None

    def gap(self, sender: str) -> str | None:
        return None

    def close(self) -> None: ...


class CrashingStore:
    """The real store; the process may die before or after anything that it commits, and the witness sees it."""

    def __init__(self, store: Any, node: SimNode) -> None:
        self._store = store
        self._node = node
        self._world = node.world

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
            watched = self._world.witness.watched(view, self._node, sender)
            yield watched
            self._world.may_crash()
        self._world.witness.committed(self._node, watched)
        self._world.may_crash()

    def record_sent(self, sent: Any) -> None:
        self._world.may_crash()
        self._store.record_sent(sent)
        self._world.witness.recorded(self._node.code, sent)
        self._world.may_crash()

    def wish(self, node: str, reason: str | None) -> None:
        if reason is not None:
            self._world.witness.alarmed(self._node.code, node, reason)
        self._store.wish(node, reason)

    def restart(self, node: str) -> None:
        self._world.witness.restarted(self._node.code, node)
        self._store.restart(node)


class Flights(Executor):
    """Parcels that are under way beside the sender: each arrives when the history says so, those to one neighbour in
    their order."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[None], Callable[..., None], Flight]] = []

    def submit(self, fly: Callable[..., Any], /, *flights: Any, **_: Any) -> Future[Any]:
        self.waiting.append((Future(), fly, *flights))
        return self.waiting[-1][0]

    def land(self, choice: random.Random) -> bool:
        """One of them goes; whether it arrived."""
        if not self.waiting:
            return False
        nodes = sorted({flight.parcel.sent.node for _, _, flight in self.waiting})
        to = choice.choice(nodes)
        landing, fly, flight = one = next(one for one in self.waiting if one[2].parcel.sent.node == to)
        self.waiting.remove(one)
        fly(flight)
        landing.set_result(None)
        return not flight.lost


_structures: dict[str, Structure] = {}


def structure_of(database: Any) -> Structure:
    """What the exchange means in a database with TABLES: the same in all of one dialect."""
    if database.dialect not in _structures:
        tables = database.reflect(tables_needed(EXCHANGE.values()))
        _structures[database.dialect] = compile_structure(generate_package(EXCHANGE, tables), EXCHANGE, tables)
    return _structures[database.dialect]


class SimNode:
    """A node: its database, its dispatchers while it is up, and an application that writes."""

    exchange: ClassVar[Mapping[str, TypeSettings]] = EXCHANGE
    clock_skew_max_s = 10**10
    """Nodes whose clocks are decades apart (SQLite's is made up) take each other's stamps all the same."""
    tombstones_kept_days: int | None = None
    now_sql = NOW_SQL
    begin = "BEGIN IMMEDIATE"
    refused: type[Exception] = sqlite3.IntegrityError

    def __init__(self, code: str, view: NodeView, folder: Path, world: World) -> None:
        self.code = code
        self.view = view
        self.world = world
        self.kept: KeptDatabase
        self.clock = SimClock(BEGINNING_MS + world.random.randint(0, 5000))
        self.settings = NodeSettings(
            code, code, view.parent, "", self.exchange,
            send_streams_max=world.random.choice([1, 2]), receive_streams_max=1,
            portion_items_max=world.random.choice([1, 2, 3, 1000]),
            message_items_max=world.random.choice([1, 2, 1000]), stream_items_min=1,
            clock_skew_max_s=self.clock_skew_max_s, tombstones_kept_days=self.tombstones_kept_days,
        )  # fmt: skip
        self.joined = True
        self._whole_view = view
        self.application: Any
        self.structure: Structure
        self._make_database(folder)
        self.up = False
        self.tick(0)

    def _make_database(self, folder: Path) -> None:
        """A database with the tables, installed, and the application's connection to it."""
        self._keep_in(kept(self.code, TABLES, self._make_file))
        self.structure = structure_of(self._database())

    def _keep_in(self, database: KeptDatabase) -> None:
        self.kept, self.path, self.application = database, database.path, database.application

    def _make_file(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("PRAGMA page_size=1024; PRAGMA journal_mode=WAL;" + TABLES)
        database = self._database()
        database.install(self.settings, structure_of(database))

    def _database(self) -> Any:
        return SqliteDatabase(f"sqlite:///{self.path}", now_sql=self.now_sql)

    def tick(self, ms: int) -> None:
        self.clock.ms += ms
        self.set_database_clock()

    def set_database_clock(self) -> None:
        self.kept.now_ms = self.clock.ms

    def start(self) -> None:
        """As `kod run`: the node lives in this database, or the daemon refuses."""
        if self.world.lives is not None:
            self.world.lives.admit(self)
        self.boot()

    def boot(self) -> None:
        self.database = self._database()
        self.store = CrashingStore(self.database.store(self.settings, self.structure), self)
        self.store.start(self.view.neighbours, self.view.below)
        bus = self.bus()
        self.sender = Sender(self.view, self.structure, self.settings, self.store, bus, self.clock)  # type: ignore[arg-type]
        self.receiver = Receiver(self.view, self.structure, self.settings, self.store, bus, self.clock)  # type: ignore[arg-type]
        self.sender.rights.items_max = self.world.again_max
        self.flights = Flights()
        if self.world.random.random() < 0.5:
            self.sender.publish_aside(self.flights, lambda: None)
        self.up = True

    def meet(self, codes: Collection[str]) -> None:
        """These are neighbours, where they are next to it."""
        view = self._whole_view
        self.view = replace(
            view,
            parent=view.parent if view.parent in codes else None,
            children=tuple(child for child in view.children if child in codes),
            towards={other: neighbour for other, neighbour in view.towards.items() if neighbour in codes},
        )

    def stop(self) -> None:
        if self.up:
            self.receiver.close()
            self.store.close()
            self.database.close()
            self.up = False

    def bus(self) -> SimBus:
        return SimBus(self.code, self.world.links, self.world)

    def step(self, what: str) -> bool:
        """One step of a dispatcher, or as far as it got before the process died; whether anything was done."""
        moved = True

        def act() -> None:
            nonlocal moved
            moved = self.step_on(what)

        try:
            self.attempt(act)
        except IdentityError:
            if self.world.lives is None:
                raise
            self.world.lives.recover(self)
        return moved

    def attempt(self, act: Callable[[], None]) -> bool:
        """Does what a process does; whether it lived to the end of it."""
        try:
            act()
        except CrashError:
            self.world.witness.crashed(self.code)
            self.stop()
            return False
        return True

    def send_all(self) -> bool:
        """A step of the sender, and all that it put on its way; whether anything arrived."""
        moved = self.step("send")
        landed = self.land_all()
        return any(landed) if landed else moved

    def land_all(self) -> list[bool]:
        """What is on its way goes; of each whether it arrived."""
        landed = []
        while self.up and self.flights.waiting:
            landed.append(self.step("fly"))
        return landed

    def step_on(self, what: str) -> bool:
        if not self.up:
            self.start()
        if what == "start":
            return True
        if what == "send":
            for link in self.receiver.links.values():
                if link.answers:
                    link.answers = False
                    self.sender.nudge()
            return self.sender.step()
        if what == "fly":
            return self.flights.land(self.world.random)
        return self.receiver.step()

    def ask_heartbeat(self) -> None:
        while not self.up:
            self.step("start")
        self.sender.ask_heartbeat()

    def close(self) -> None:
        self.stop()

    # --- its database: whose it is, and where (tests/cluster/lives.py) ---

    def open_database(self) -> Any:
        """As a command does, beside the daemon."""
        return self._database()

    def kept_at(self) -> str | None:
        place: str | None = self._database().standing().kept_at
        return place

    def origin(self) -> str:
        return str(self.application.execute("SELECT origin FROM kod_node").fetchone()[0])

    def move_to(self, name: str) -> KeptDatabase:
        """The same rows in another file; returns the one that it was."""
        home = self.kept
        there = kept(name, TABLES, self._make_file)
        there.reset(home.backup())
        there.now_ms = home.now_ms
        self._keep_in(there)
        return home

    def move_back(self, home: KeptDatabase) -> None:
        self._keep_in(home)

    # --- the application ---

    def write(self) -> None:
        self.tick(self.world.random.choice([0, 0, 1, 5, -3, -30]))
        action = self.world.random.choice(self.world.writes)
        with self.world.said():
            try:
                self.application.execute(self.begin)
                for _ in range(self.world.random.choice([1, 1, 2])):
                    action(self)
                self.application.execute("COMMIT")
            except self.refused:  # the application did something that its own database refuses
                self.application.execute("ROLLBACK")
                raise RefusedError from None

    def value(self, table: str, column: str, key: Any) -> str | None:
        row = self.application.execute(f"SELECT {column} FROM {table} WHERE id = ?", (key,)).fetchone()
        return row[0] if row else None

    def pick(self, sql: str) -> Any:
        rows = self.application.execute(sql).fetchall()
        return self.world.random.choice(rows)[0] if rows else None

    def contents(self, tables: Sequence[str] = EVERYWHERE) -> dict[str, list[tuple[Any, ...]]]:
        return {table: self.application.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}

    def versions(self) -> dict[tuple[str, str], tuple[Any, ...]] | None:
        """(stamp, origin, gone) of every item in the register; None where it is not looked at."""
        rows = self.application.execute(
            "SELECT t.name, g.key, g.stamp, g.origin, g.gone FROM kod_register g JOIN kod_types t ON t.id = g.type"
        )
        return {(name, key): version for name, key, *version in rows.fetchall()}

    def broken_references(self) -> list[Any]:
        return self.kept.broken_references()

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


def put_shelf(node: SimNode) -> None:
    name, token = node.world.random.choice("PQ"), node.world.token(node, "shelf")
    node.world.parents[token] = node.value("shelves", "body", name)
    node.application.execute(
        "INSERT INTO shelves VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body", (name, token)
    )


def put_memo(node: SimNode) -> None:
    """Its audience, a node that is to see it, changes now and then; so does the memo that it refers to."""
    choice = node.world.random
    name = choice.choice([f"{node.code}-1", f"{node.code}-2", "everybody's", node.pick("SELECT id FROM memos")])
    if name is None:
        return
    token = node.world.token(node, "memo")
    node.world.parents[token] = node.value("memos", "body", name)
    audience = choice.choice([None, *node.world.codes])
    above = node.pick("SELECT id FROM memos") if choice.random() < 0.4 else None
    node.world.addressed(name, node.code, audience, above)
    node.application.execute(
        "INSERT INTO memos VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body,"
        " audience = excluded.audience, above = excluded.above",
        (name, audience, above, token),
    )


def put_memo_file(node: SimNode) -> None:
    memo = node.pick("SELECT id FROM memos")
    if memo is not None:
        name = f"{node.code}-{node.world.random.randint(1, 2)}"
        node.world.addressed(f"file {name}", node.code, None, memo)
        node.application.execute(
            "INSERT INTO memo_files VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body,"
            " memo_id = excluded.memo_id",
            (name, memo, node.world.token(node, "memofile")),
        )


def delete_memo(node: SimNode) -> None:
    name = node.pick("SELECT id FROM memos")
    if name is not None:
        node.world.deleted.add(node.value("memos", "body", name))
        node.application.execute("DELETE FROM memos WHERE id = ?", (name,))


def delete_memo_file(node: SimNode) -> None:
    name = node.pick("SELECT id FROM memo_files")
    if name is not None:
        node.application.execute("DELETE FROM memo_files WHERE id = ?", (name,))


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


WRITES = [put_customer, put_order, put_order, put_file, put_price, put_shelf, delete_line, delete_price]
DELETIONS = [delete_order, delete_order, delete_customer]
MEMOS = [put_memo, put_memo, put_memo_file]
MEMO_DELETIONS = [delete_memo, delete_memo_file]


def write(world: World, node: SimNode) -> None:
    if world.writers is None or node.code in world.writers:
        node.write()


def send(world: World, node: SimNode) -> None:
    node.tick(1)
    node.step("send")


def fly(world: World, node: SimNode) -> None:
    """What was prepared is published."""
    node.step("fly")


def receive(world: World, node: SimNode) -> None:
    node.tick(1)
    node.step("receive")


def beat(world: World, node: SimNode) -> None:
    """The hour of a heartbeat."""
    node.ask_heartbeat()
    node.step("send")


def cut_or_mend(world: World, node: SimNode) -> None:
    """A link of the node cannot be reached any more, or can again."""
    if not node.view.neighbours:
        return
    link = world.links[node.code, world.random.choice(node.view.neighbours)]
    link.cut = not link.cut


def follow(world: World, node: SimNode) -> None:
    """The node's file hears how far the node has come."""
    if world.lives is not None:
        world.lives.follow(node)


def join(world: World, node: SimNode) -> None:
    """A node that was alone becomes a neighbour: it is in nodes.yaml from now on, and daemons are started anew."""
    if not node.joined:
        world.join(node)


Event = Callable[["World", SimNode], None]
EVENTS: tuple[Event, ...] = (write, send, fly, receive) * 8 + (beat,)


def small_tree(choice: random.Random) -> Topology:
    codes = [f"0{n}" for n in range(choice.randint(2, 4))]
    return Topology({c: choice.choice(codes[:n]) if n else None for n, c in enumerate(codes)})


def deep_tree(choice: random.Random) -> Topology:
    """Twenty nodes on five levels."""
    levels: list[list[str]] = []
    parents: dict[str, str | None] = {}
    for level, size in enumerate((1, 3, 4, 6, 6)):
        levels.append([f"{level}{n}" for n in range(size)])
        for code in levels[-1]:
            parents[code] = choice.choice(levels[level - 1]) if level else None
    return Topology(parents)


class World:
    """Nodes, links, and what the applications wrote."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        deletions: bool = True,
        crashes: bool = True,
        losses: bool = False,
        cuts: bool = False,
        memos: bool = True,
        one_writer: bool = False,
        rights: bool = False,
        joins: bool = False,
        lives: bool = False,
        late: bool = False,
        tree: Callable[[random.Random], Topology] = small_tree,
        events: Sequence[Event] = (),
        writes: Sequence[Callable[[SimNode], None]] = (),
        make_node: Callable[..., SimNode] = SimNode,
    ) -> None:
        self.losses = losses
        self.random = random.Random(seed)
        self.writes = [*WRITES, *(DELETIONS if deletions else ()), *(MEMOS if memos else ())]
        self.writes += MEMO_DELETIONS if memos and deletions else ()
        if rights:
            self.writes = [*limited.WRITES, put_customer, put_order]
        self.reach = limited.Reach()
        self.again_max = self.random.choice([1, 2, 1000]) if rights else 1000
        self.writes = list(writes) or self.writes
        self.deletions = deletions
        self.events: list[Event] = [*EVENTS, *((cut_or_mend,) * 2 if cuts else ()), *events]
        self.events += [join] if joins else []
        self.events += [follow] * 2 if lives else []
        self.quiet = False
        self.crashes = crashes
        self.cuts = cuts
        self._countdown = self._next_crash()
        self._nested = False
        self._tokens = 0
        self.parents: dict[str, str | None] = {}
        """Each token (a version of an item) and the one that it replaced."""
        self.deleted: set[str | None] = set()
        """Tokens that a committed deletion has taken away where it was made."""
        self.audiences: dict[str, set[str]] = {}
        """For each memo that was ever written the nodes for which, or at which, it was."""
        self.references: dict[str, set[str]] = {}
        """For each memo and file of one the memos that it ever referred to."""
        self.message_bytes_max = random.Random(f"bus {seed}").choice([None, 500, 400])
        """With so small a limit most messages travel in parts."""
        self.topology = tree(self.random)
        self.codes = list(self.topology.parents)
        self.writers = frozenset([self.random.choice(self.codes)]) if one_writer else None
        """Where applications write; None: everywhere."""
        self.witness = Witness(self)
        self.lives = Lives(self, seed, folder, late=late) if lives else None
        self.links: dict[tuple[str, str], Link] = {}
        for code in self.codes:
            for neighbour in self.topology.neighbours(code):
                self.links[code, neighbour] = Link()
        self.nodes = [make_node(code, node_view(self.topology, code), folder, self) for code in self.codes]
        if joins:  # some have data of their own before they meet the others, who have some too
            for node in self.nodes:
                node.joined = self.random.random() < 0.6
            self.join()

    def join(self, *nodes: SimNode) -> None:
        for node in nodes:
            node.joined = True
        here = {node.code for node in self.nodes if node.joined}
        for node in self.nodes:
            if node.joined:
                node.stop()
                node.meet(here)

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
        return self.losses and not self.quiet and self.random.random() < 0.05

    def meanwhile(self, code: str, *, receiving: bool = True) -> None:
        """What other threads and programs do while a node is between two of its transactions."""
        if self.quiet or self._nested or self.random.random() > 0.2:
            return
        self._nested = True
        try:
            node = next(node for node in self.nodes if node.code == code)
            if receiving and self.random.random() < 0.5:
                node.step_on("receive")
            else:
                write(self, node)
        finally:
            self._nested = False

    @property
    def tokens(self) -> int:
        """How many there have been so far."""
        return self._tokens

    def token(self, node: SimNode, kind: str) -> str:
        self._tokens += 1
        return f"{kind}-{node.code}-{self._tokens}"

    @contextmanager
    def said(self) -> Iterator[None]:
        """What an application says of its writes counts when its transaction is committed."""
        parents, deleted = dict(self.parents), set(self.deleted)
        try:
            yield
        except RefusedError:
            self.parents, self.deleted = parents, deleted

    def addressed(self, name: str, code: str, audience: str | None, above: str | None) -> None:
        self.audiences.setdefault(name, set()).update({code} | ({audience} if audience else set()))
        self.references.setdefault(name, set()).update({above} if above else set())

    def run(self, steps: int) -> None:
        if self.lives is not None:
            self.lives.plan(self.nodes, steps)
        for number in range(steps):
            if self.lives is not None:
                self.lives.step(number)
            node = self.random.choice(self.nodes)
            event = self.random.choice(self.events)
            (event if node.joined or event is join else write)(self, node)
        if self.lives is not None:
            self.lives.hand_over_late()

    def settle(self, rounds_max: int = 300, *, beating: bool = True) -> None:
        """No more writes, no more crashes: the network comes to rest."""
        if alone := [node for node in self.nodes if not node.joined]:
            self.join(*alone)
        self.quiet = True
        for node in self.nodes:
            node.land_all()  # while something is on its way heartbeats wait, and two hours of them would be one
        beats = (
            2 if (self.losses or self.message_bytes_max or self.lives) and beating else 0
        )  # a lost, or abandoned, tail is seen then
        idle = 0
        for number in range(rounds_max):
            moved = number < beats
            if moved:
                for node in self.nodes:
                    node.ask_heartbeat()
            for node in self.nodes:
                node.tick(40_000)  # whatever waits for a retry may go on
                moved |= node.step("receive")
                moved |= node.send_all()
            idle = 0 if moved else idle + 1
            if idle and (idle > FORCE_ATTEMPTS or not any(node.store.parked() for node in self.nodes)):
                return
        raise AssertionError("the network does not come to rest")

    def settle_around_a_cut(self) -> None:
        """One link stays cut: that must hold up nobody but those who are beyond it."""
        for link in self.links.values():
            link.cut = False
        child = self.random.choice([code for code in self.codes if self.topology.parent(code)])
        parent = self.topology.parent(child)
        assert parent is not None
        both = self.links[child, parent], self.links[parent, child]
        for link in both:
            link.cut = True
        self.settle()
        self.witness.check_sides(child, parent)
        for link in both:
            link.cut = False

    def check(self) -> None:
        self.witness.check_at_rest()
        limited.check(self)
        published = sum(link.published for link in self.links.values())
        self.settle(3, beating=False)
        assert published == sum(link.published for link in self.links.values()), "after quiet there is no silence"

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def history(seed: int, *, steps: int = 80, **options: Any) -> None:
    """Plays one history and checks it; raises AssertionError that says what broke. Options: World's."""
    folder_of_state = tempfile.TemporaryDirectory(dir=BASE, prefix="kod-sim-")
    with quiet_log(), seldom_collected(), connections(), folder_of_state as folder:
        world = World(seed, Path(folder), **options)
        try:
            world.run(steps)
            if world.cuts:
                world.settle_around_a_cut()
            world.settle()
            world.check()
        finally:
            world.close()


@contextmanager
def quiet_log() -> Iterator[None]:
    """Gaps and parked messages are what a history is made of."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """A history leaves next to no garbage that reference counts do not see; looking for it took a thirtieth of it."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)

"""Node 00 alone, its send dispatcher in this process: what sending costs, without receivers.

What it sends goes to a folder and is removed between measurements, or is acknowledged and forgotten.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.servers import Server
from benchmarks.tables import CREATE
from benchmarks.usage import alone_cpu_s
from dispatcher.delivery import Delivery
from dispatcher.ports import Backlog, Bus, Letter, Life, NodeView, Store
from dispatcher.sending import Sender
from node.buses.folder import FolderBus
from node.clock import SystemClock
from node.databases import Database, open_database
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.network import NodeSettings, TypeSettings

EXCHANGE = {
    t.name: t
    for t in (
        TypeSettings("Catalog.Customer", "customers", reference_data=True),
        TypeSettings("Catalog.Item", "items", reference_data=True),
        TypeSettings("Catalog.Group", "catalogue", reference_data=True),
        TypeSettings("Document.Order", "orders", sections={"lines": "order_lines"}, reference_data=True),
    )
}


class Nowhere:
    """A bus that acknowledges everything and keeps nothing."""

    message_bytes_max = None

    def __init__(self) -> None:
        self.size_bytes = 0

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        self.size_bytes += sum(len(letter.payload) for letter in letters)

    def open(self, positions: Mapping[str, int | None]) -> None: ...

    def receive(self, sender: str, *, letters_max: int) -> Sequence[Letter]:
        return ()

    def rewind(self, sender: str, position: int | None) -> None: ...

    def done(self, letters: Sequence[Letter]) -> None: ...

    def set_aside(self, letter: Letter, reason: str) -> None: ...

    def wait(self, timeout_s: float) -> None: ...

    def backlog(self, sender: str) -> Backlog:
        return Backlog(0, 0)

    def clock_ahead_ms(self) -> int | None:
        return None

    def gap(self, sender: str) -> str | None:
        return None

    def sent_up_to(self, to: str) -> Life | None:
        return None

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Cost:
    """Of sending what waits. CPU: this process, and those of the server that work for it (not those that write to disk
    what others have done)."""

    took_s: float
    client_cpu_s: float
    server_cpu_s: float

    @property
    def cpu_s(self) -> float:
        return self.client_cpu_s + self.server_cpu_s


# autovacuum's own rule
_DUE = """
SELECT s.relid::regclass::text FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
WHERE s.n_dead_tup > current_setting('autovacuum_vacuum_threshold')::float8
                     + current_setting('autovacuum_vacuum_scale_factor')::float8 * c.reltuples"""


class Sending(Protocol):
    """A source, whichever its database."""

    name: str

    def send(self) -> Cost: ...

    def change(self, statement: str) -> float: ...

    def drop(self) -> None: ...


class Source:
    """`neighbours` children that nobody runs; `folder`: what is sent is written to a folder."""

    def __init__(
        self,
        server: Server,
        database: str,
        *,
        neighbours: int,
        folder: bool = False,
        bus: Bus | None = None,
        exchange: Mapping[str, TypeSettings] = EXCHANGE,
        ddl: str = CREATE,
    ) -> None:
        self.server = server
        self.name = database
        server.create_database(database)
        self.application = server.connect(database)
        self.application.execute("SET synchronous_commit = off")
        self.application.execute(ddl)  # type: ignore[arg-type]
        self._database = open_database(server.url(database))
        children = tuple(f"{n:02}" for n in range(1, neighbours + 1))
        self._folder = Path(tempfile.mkdtemp(prefix="kod-bench-")) if folder else None
        bus = FolderBus(self._folder, "bench", "00", children) if self._folder else bus or Nowhere()
        self._store, self.sender = _sender(self._database, exchange, children, bus)

    def send(self, *, aside: bool = False) -> Cost:
        """Sends what waits, to all. `aside`: what is prepared is published beside preparing the next."""
        client, server, begun = time.process_time(), alone_cpu_s(self._backends()), time.monotonic()
        (_send_all_aside if aside else _send_all)(self.sender, self.name)
        took, client = time.monotonic() - begun, time.process_time() - client
        cost = Cost(took, client, alone_cpu_s(self._backends()) - server)
        self._empty_folder()
        return cost

    def _backends(self) -> list[int]:
        """The server's processes that work for the node."""
        mine = self.application.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return [pid for (pid,) in mine.fetchall()]

    def _empty_folder(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder / "bench", ignore_errors=True)
            os.sync()

    def figure(self, query: str) -> int:
        row = self.application.execute(query).fetchone()  # type: ignore[call-overload]
        assert row is not None
        return int(row[0])

    def tidy(self) -> None:
        """What the server would do some time by itself, so that it does not do it while something is measured."""
        self.application.execute("VACUUM ANALYZE")

    def change(self, statement: str) -> float:
        """What the application writes; the CPU seconds that it took. It is on disk then, so that it is not the sender
        who waits for that; and of the tables those are tidied up that the server would have tidied up by then."""
        own = [self.application.info.backend_pid]
        self.application.execute("SET synchronous_commit = on")
        before = alone_cpu_s(own)
        self.application.execute(statement)  # type: ignore[call-overload]
        took = alone_cpu_s(own) - before
        for (table,) in self.application.execute(_DUE).fetchall():
            self.application.execute(f"VACUUM {table}")  # type: ignore[call-overload]
        return took

    def drop(self) -> None:
        self._store.close()
        self._database.close()
        self.application.close()
        self.server.drop_database(self.name)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class SqliteSource:
    """The same over SQLite, with one neighbour: everything happens in this process."""

    def __init__(self, name: str, ddl: str) -> None:
        self.name = name
        self._folder = Path(tempfile.mkdtemp(prefix="kod-bench-"))
        self.application = sqlite3.connect(self._folder / "00.sqlite")
        self.application.executescript(ddl)
        self._database = open_database(f"sqlite:///{self._folder / '00.sqlite'}")
        exchange = {"Catalog.Customer": EXCHANGE["Catalog.Customer"]}
        self._store, self.sender = _sender(self._database, exchange, ("01",), Nowhere())

    def send(self) -> Cost:
        client, begun = time.process_time(), time.monotonic()
        _send_all(self.sender, self.name)
        return Cost(time.monotonic() - begun, time.process_time() - client, 0.0)

    def change(self, statement: str) -> float:
        before = time.process_time()
        with self.application:
            self.application.execute(statement)
        return time.process_time() - before

    def drop(self) -> None:
        self._store.close()
        self._database.close()
        self.application.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sender(
    database: Database, exchange: Mapping[str, TypeSettings], children: tuple[str, ...], bus: Bus
) -> tuple[Store, Sender]:
    tables = database.reflect(tables_needed(exchange.values()))
    structure = compile_structure(generate_package(exchange, tables), exchange, tables)
    settings = NodeSettings("00", "00", None, "", exchange)
    database.install(settings, structure)
    store = database.store(settings, structure)
    store.start(children)
    view = NodeView("00", None, children, {c: c for c in children})
    return store, Sender(view, structure, settings, store, bus, SystemClock())


def _send_all_aside(sender: Sender, name: str) -> None:
    """As a daemon does."""
    wake = threading.Event()
    before = sender.delivery
    sender.delivery = Delivery(sender.store, sender.bus, sender.clock)
    with ThreadPoolExecutor(2 * len(sender.node.neighbours)) as executor:
        sender.publish_aside(executor, wake.set)
        while sender.step() or sender.delivery.plan().flying:
            if sender.delivery.plan().busy:
                wake.wait(0.01)
                wake.clear()
    sender.delivery = before
    _send_all(sender, name)


def _send_all(sender: Sender, name: str) -> None:
    while sender.step():
        pass
    if sender.delivery.unreachable:
        raise RuntimeError(f"{name}: {sender.delivery.unreachable}")

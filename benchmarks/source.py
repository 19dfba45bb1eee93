"""Node 00 alone, its send dispatcher in this process: what sending costs, without receivers.

What it sends goes to a folder and is removed between measurements, or is acknowledged and forgotten.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server
from benchmarks.tables import CREATE
from dispatcher.ports import Backlog, Letter, NodeView
from dispatcher.sending import Sender
from node.buses.folder import FolderBus
from node.clock import SystemClock
from node.databases import open_database
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

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Cost:
    """Of sending what waits. CPU: this process and the source's server."""

    took_s: float
    client_cpu_s: float
    server_cpu_s: float

    @property
    def cpu_s(self) -> float:
        return self.client_cpu_s + self.server_cpu_s


class Source:
    """`neighbours` children that nobody runs; `folder`: what is sent is written to a folder."""

    def __init__(
        self,
        server: Server,
        database: str,
        *,
        neighbours: int,
        folder: bool = False,
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
        tables = self._database.reflect(tables_needed(exchange.values()))
        structure = compile_structure(generate_package(exchange, tables), exchange, tables)
        settings = NodeSettings("00", "00", None, "", exchange)
        self._database.install(settings, structure)
        self._store = self._database.store(settings, structure)
        children = tuple(f"{n:02}" for n in range(1, neighbours + 1))
        self._store.start(children)
        self._folder = Path(tempfile.mkdtemp(prefix="kod-bench-")) if folder else None
        bus = FolderBus(self._folder, "bench", "00", children) if self._folder else Nowhere()
        view = NodeView("00", None, children, {c: c for c in children})
        self.sender = Sender(view, structure, settings, self._store, bus, SystemClock())

    def send(self) -> Cost:
        """Sends what waits, to all."""
        client, server, begun = time.process_time(), self.server.cpu_s(), time.monotonic()
        while self.sender.step():
            pass
        cost = Cost(time.monotonic() - begun, time.process_time() - client, self.server.cpu_s() - server)
        if self.sender.delivery.unreachable:
            raise RuntimeError(f"{self.name}: {self.sender.delivery.unreachable}")
        self._empty_folder()
        return cost

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

    def drop(self) -> None:
        self._store.close()
        self._database.close()
        self.application.close()
        self.server.drop_database(self.name)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def without_autovacuum(server: Server, *, on: bool) -> None:
    with server.connect("postgres") as connection:
        connection.execute(f"ALTER SYSTEM SET autovacuum = {'off' if on else 'on'}")  # type: ignore[arg-type]
        connection.execute("SELECT pg_reload_conf()")

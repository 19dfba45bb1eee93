"""KOD: two nodes, 00 -> 01, each with a daemon of its own; foreign keys checked; every type reference data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rivals import Started
from benchmarks.servers import Server
from benchmarks.tables import CREATE
from benchmarks.usage import cpu_s, peak_rss_mb

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
REJECTED_MAX = 0.01
"""Of the items received, those that brought nothing new: KOD's own limit."""

_NODES_YAML = """\
network: bench
bus: {bus}
package: bench.xsd

nodes:
  "00":
    database: {source}
  "01":
    parent: "00"
    database: {target}

exchange:
  Catalog.Customer: {{table: customers, reference_data: true}}
  Catalog.Item:     {{table: items, reference_data: true}}
  Catalog.Group:    {{table: catalogue, reference_data: true}}
  Document.Order:   {{table: orders, sections: {{lines: order_lines}}, reference_data: true}}
"""


class Exchange:
    """`bus` is nodes.yaml's; None: a folder of its own."""

    name = "kod"

    def __init__(self, source: Server, target: Server, database: str, bus: str | None = None) -> None:
        self.source = source
        self.target = target
        self.database = database
        self.note = f"KOD over {'a folder' if bus is None else bus.partition(':')[0]}, foreign keys checked"
        self.folder = Path(tempfile.mkdtemp(prefix="kod-bench-"))
        self.codes = ("00", "01")
        """The nodes whose daemons are started."""
        self._bus = bus or f"folder:{self.folder / 'bus'}"
        self._daemons: list[Daemon] = []
        self._peak_rss_mb = 0.0

    def create(self) -> None:
        for server in (self.source, self.target):
            server.create_database(self.database)
            with server.connect(self.database) as connection:
                connection.execute(CREATE)
        text = _NODES_YAML.format(
            bus=self._bus, source=self.source.url(self.database), target=self.target.url(self.database)
        )
        (self.folder / "nodes.yaml").write_text(text)
        self._kod("schema", "generate", "--node", "00", "-o", "bench.xsd")
        for code in ("00", "01"):
            self._kod("install", "--node", code)

    def start(self) -> Started:
        """At work from the moment when the first of the two daemons says that it has started."""
        self._daemons = [Daemon(code, self._command("run", "--node", code), self.folder) for code in self.codes]
        for daemon in self._daemons:
            daemon.wait_until_started()
        first = min(self._daemons, key=lambda daemon: daemon.started_at)
        return Started(first.started_at, sum(daemon.start_cpu_s for daemon in self._daemons))

    def client_cpu_s(self) -> float:
        return cpu_s(daemon.pid for daemon in self._daemons)

    def peak_rss_mb(self) -> float | None:
        self._peak_rss_mb = max([self._peak_rss_mb, *(peak_rss_mb(daemon.pid) for daemon in self._daemons)])
        return self._peak_rss_mb

    def check(self) -> None:
        for daemon in self._daemons:
            daemon.check()

    def stop(self) -> None:
        self.peak_rss_mb()
        daemons, self._daemons = self._daemons, []
        for daemon in daemons:
            daemon.stop()
        for daemon in daemons:
            self._check_rejected(daemon.code)

    def _check_rejected(self, code: str) -> None:
        links = json.loads(self._kod("status", "--node", code, "--json"))["links"]
        received, rejected = (sum(link[f"{what}_items"] for link in links) for what in ("received", "rejected"))
        if rejected > REJECTED_MAX * received:
            raise RuntimeError(f"node {code} rejected {rejected} of {received} items: the limit is {REJECTED_MAX:.0%}")

    def drop(self) -> None:
        self.stop()
        for server in (self.source, self.target):
            server.drop_database(self.database)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "node", "-c", str(self.folder / "nodes.yaml"), *arguments]

    def _kod(self, *arguments: str) -> str:
        done = subprocess.run(
            self._command(*arguments), cwd=self.folder, env=_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"kod {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


@dataclass
class Daemon:
    """A `kod run`, with what it logs. Errors that it logs make `check` fail."""

    code: str
    command: list[str]
    folder: Path
    started_at: float = 0.0
    start_cpu_s: float = 0.0
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._started = threading.Event()
        self._process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=_environment(),
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_started(self) -> None:
        self._started.wait(START_TIMEOUT_S)
        self.check()
        if not self.started_at:
            raise RuntimeError(f"the daemon of {self.code} did not start within {START_TIMEOUT_S} s\n{self._log()}")

    def check(self) -> None:
        if self._process.poll() is not None:
            self._reader.join(1)
            raise RuntimeError(f"the daemon of {self.code} ended: exit {self._process.returncode}\n{self._log()}")
        faults = [line for line in self.lines if " ERROR " in f" {line}"]
        if faults:
            raise RuntimeError(f"the daemon of {self.code} says:\n" + "\n".join(faults))

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"the daemon of {self.code} did not end within {STOP_TIMEOUT_S} s") from None
        finally:
            self._reader.join(1)
            if self._process.stderr is not None:
                self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if not self._started.is_set() and "daemon started" in line:
                self.started_at = time.monotonic()
                self.start_cpu_s = cpu_s([self.pid])
                self._started.set()
            self.lines.append(line.rstrip())
        self._started.set()  # it has ended

    def _log(self) -> str:
        return "\n".join(self.lines[-30:])


def _environment() -> dict[str, str]:
    """The kod of this tree, wherever it is called from."""
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}

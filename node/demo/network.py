"""The demo's folder: nodes.yaml, the databases, `kod` commands as a person would type them, the daemons."""

from __future__ import annotations

import ctypes
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.config import read_network
from schemas.errors import ConfigError, UnavailableError
from schemas.network import Network

_PLACES = (
    *("Head office", "Kazan", "Omsk", "Perm", "Tula", "Sochi", "Chita", "Tomsk", "Pskov", "Orel"),
    *("Ufa", "Kirov", "Kursk", "Samara", "Tver", "Bryansk", "Rostov", "Saratov", "Vologda", "Ryazan"),
)
NODES_MAX = len(_PLACES)

_NODE_02 = re.compile(r'  "02":\n(?: {4,}.*\n)+')
_END_S = 10.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A node as its application knows it."""

    code: str
    name: str
    parent: str | None
    path: Path
    customers: str
    """What the table of customers is called here."""
    phone: str
    """And its column for the telephone."""

    def connect(self) -> sqlite3.Connection:
        """As any application would: foreign keys on, transactions begun by hand, patient with other writers."""
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection


def example() -> str:
    """The annotated example: in the package where KOD is installed, at the project's root in a clone."""
    here = Path(__file__).parent
    inside = here / "nodes.yaml"
    return (inside if inside.exists() else here.parents[1] / "nodes.yaml").read_text(encoding="utf-8")


def nodes_yaml(nodes: int) -> str:
    """The annotated example, with fewer or more nodes than its three: of node n the parent is (n - 1) // 2."""
    text = example()
    if nodes < 3:
        return _NODE_02.sub("", text)
    more = "".join(
        f'  "{n:02}":\n    name: {_PLACES[n]}\n    parent: "{(n - 1) // 2:02}"\n    database: sqlite:///{n:02}.sqlite\n'
        for n in range(3, nodes)
    )
    return _NODE_02.sub(lambda found: found[0] + more, text)


class DemoNetwork:
    """The network in `folder`. `nodes` are known once `write` has been called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "nodes.yaml"
        self.network: Network
        self.nodes: tuple[DemoNode, ...] = ()

    def write(self, nodes: int) -> None:
        """nodes.yaml, and a database with the application's tables for each node."""
        self.path.write_text(nodes_yaml(nodes), encoding="utf-8")
        self.network = read_network(self.path, package_needed=False)
        self.nodes = tuple(self._node(code) for code in self.network.nodes)
        tables = (Path(__file__).parent / "trade.sql").read_text(encoding="utf-8")
        for node in self.nodes:
            connection = node.connect()
            try:
                connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
                connection.executescript(tables.replace("{customers}", node.customers).replace("{phone}", node.phone))
            finally:
                connection.close()

    def _node(self, code: str) -> DemoNode:
        settings = self.network.nodes[code]
        customers = settings.exchange["Catalog.Customer"]
        path = self.folder / settings.database.removeprefix("sqlite:///")
        phone = customers.columns.get("phone", "phone")
        return DemoNode(code, settings.name, settings.parent, path, customers.table, phone)

    def subtree(self, code: str) -> frozenset[str]:
        """A node and all below it."""
        found = {code}
        for node in self.nodes:  # parents are listed before their children
            if node.parent in found:
                found.add(node.code)
        return frozenset(found)

    @property
    def ways(self) -> tuple[tuple[str, str], ...]:
        """Each direction of each link."""
        links = [(node.parent, node.code) for node in self.nodes if node.parent]
        return tuple(way for parent, child in links for way in ((parent, child), (child, parent)))

    # --- commands ---

    def kod(self, *arguments: str) -> None:
        """A command, to its end. Raises ConfigError with what it said if it fails."""
        done = subprocess.run(  # noqa: S603 - our own program
            self._command(*arguments), cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            error = UnavailableError if done.returncode == 3 else ConfigError
            raise error(f"kod {' '.join(arguments)}: exit {done.returncode}\n{said}")

    def kod_at_every_node(self, *arguments: str) -> None:
        """The command with `--node` of every node, side by side."""
        with ThreadPoolExecutor(4) as several:
            list(several.map(lambda node: self.kod(arguments[0], "--node", node.code, *arguments[1:]), self.nodes))

    def _command(self, *arguments: str) -> list[str]:
        # -P: the demo's folder is the current one, and nothing is to be imported from it
        return [sys.executable, "-P", "-m", "node", "-c", "nodes.yaml", *arguments]

    # --- daemons ---

    @contextmanager
    def daemons(self) -> Iterator[Daemons]:
        """A daemon for each node; they end with the block, whatever happens in it."""
        daemons = Daemons()
        try:
            for node in self.nodes:
                daemons.start(node.code, self._command("run", "--node", node.code), self.folder)
            yield daemons
        finally:
            daemons.stop()


class Daemons:
    """The running daemons, each with its log in the folder `log`."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def start(self, code: str, command: Sequence[str], folder: Path) -> None:
        log = folder / "log" / f"{code}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the demo, which ends them in order
                preexec_fn=_ending_with_parent(),
            )
        self._running[code] = (process, log)

    def check(self) -> None:
        """Raises UnavailableError with the end of its log when a daemon has ended."""
        for code, (process, log) in self._running.items():
            if process.poll() is not None:
                said = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
                raise UnavailableError(f"the daemon of {code} ended with exit {process.returncode}:\n{said}")

    def stop(self) -> dict[str, int]:
        """Asks all to end, kills what does not; their exit codes."""
        for process, _ in self._running.values():
            process.terminate()
        codes = {}
        for code, (process, _) in self._running.items():
            try:
                codes[code] = process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[code] = process.wait()
        self._running.clear()
        return codes


def _ending_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel ends the daemons also when the demo itself is killed."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: nothing may be allocated after it

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return end_with_parent

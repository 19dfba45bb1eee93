"""A network of real `kod` processes for the tests: nodes.yaml, databases, commands, daemons.

Everything is in one temporary folder, the buses' too (unless it is Kafka). Processes are ended by their ids, also when
a test fails; what they logged is shown then.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import yaml
from sqlalchemy.engine import make_url

from tests.servers import _end_with_parent

WITHIN_S = 60.0
"""A deadline is for what never comes; no test measures time by it."""


@dataclass(frozen=True)
class Node:
    """A node of a test's network. `ddl`: its tables; `settings`: what else nodes.yaml says of it."""

    code: str
    ddl: str
    parent: str | None = None
    url: str = ""
    """Empty: a SQLite file of its own, made with the network."""
    settings: Mapping[str, Any] = field(default_factory=dict)


class Daemon:
    """A running `kod run`."""

    def __init__(self, code: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.code = code
        self.process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """As a failing machine does: no warning, no cleaning up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


class TestNetwork:
    """A network in `folder`; close it."""

    __test__ = False

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[Node],
        exchange: Mapping[str, Any],
        *,
        bus: str = "folder:./exchange",
        name: str = "test",
        kafka: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.nodes = {node.code: node for node in nodes}
        self.daemons: dict[str, Daemon] = {}
        self._others: list[subprocess.Popen[str]] = []
        self.path = folder / "nodes.yaml"
        self.path.write_text(
            yaml.safe_dump(
                {
                    "network": name,
                    "bus": bus,
                    "package": "package.xsd",
                    "nodes": {node.code: self._settings(node) for node in nodes},
                    "exchange": dict(exchange),
                    **({"kafka": dict(kafka)} if kafka else {}),
                },
                sort_keys=False,
                allow_unicode=True,
            ),
            encoding="utf-8",
        )
        for node in nodes:
            self._make_tables(node)

    def add(self, node: Node) -> None:
        """One more node in nodes.yaml; daemons that run have not read it."""
        text = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        text["nodes"][node.code] = self._settings(node)
        self.path.write_text(yaml.safe_dump(text, sort_keys=False, allow_unicode=True), encoding="utf-8")
        self.nodes[node.code] = node
        self._make_tables(node)

    def _settings(self, node: Node) -> dict[str, Any]:
        settings = {"name": f"Node {node.code}", "database": node.url or f"sqlite:///{node.code}.sqlite"}
        if node.parent:
            settings["parent"] = node.parent
        return {**settings, **node.settings}

    def _make_tables(self, node: Node) -> None:
        if is_mariadb(node.url):
            with closing(self.mariadb(node.code)) as connection, connection.cursor() as cursor:
                for statement in filter(str.strip, node.ddl.split(";\n")):
                    cursor.execute(statement)
        elif node.url:
            with psycopg.connect(conninfo(node.url), autocommit=True) as connection:
                connection.execute(node.ddl)  # type: ignore[arg-type]
        else:
            with closing(self.sqlite(node.code)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(node.ddl)

    # --- databases, as applications use them ---

    def sqlite(self, code: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.folder / f"{code}.sqlite", timeout=30, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def postgresql(self, code: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(conninfo(self.nodes[code].url), autocommit=True)

    def mariadb(self, code: str) -> pymysql.Connection[Any]:
        address = make_url(self.nodes[code].url)
        return pymysql.connect(
            unix_socket=str(address.query["unix_socket"]),
            user=address.username,
            database=address.database,
            charset="utf8mb4",
        )

    def execute(self, code: str, *statements: str | tuple[str, Sequence[Any]]) -> None:
        """The statements in one transaction. Values are marked with `?`."""
        bound = [(s, ()) if isinstance(s, str) else s for s in statements]
        if is_mariadb(self.nodes[code].url):
            with closing(self.mariadb(code)) as connection, connection.cursor() as cursor:
                for sql, values in bound:
                    cursor.execute(sql.replace("?", "%s") if values else sql, values or None)
                connection.commit()
            return
        if self.nodes[code].url:
            with self.postgresql(code) as connection, connection.transaction():
                for sql, values in bound:
                    connection.execute(sql.replace("?", "%s") if values else sql, values or None)  # type: ignore[arg-type]
            return
        with closing(self.sqlite(code)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for sql, values in bound:
                connection.execute(sql, values)
            connection.execute("COMMIT")

    def rows(self, code: str, sql: str) -> list[tuple[Any, ...]]:
        if is_mariadb(self.nodes[code].url):
            with closing(self.mariadb(code)) as connection, connection.cursor() as cursor:
                cursor.execute(sql.replace("AS TEXT)", "AS CHAR)"))
                return list(cursor.fetchall())
        if self.nodes[code].url:
            with self.postgresql(code) as connection:
                return connection.execute(sql).fetchall()  # type: ignore[arg-type]
        with closing(self.sqlite(code)) as connection:
            return connection.execute(sql).fetchall()

    # --- commands ---

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "node", "-c", str(self.path), *arguments]

    def kod(self, *arguments: str, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """A command to its end; None accepts every exit code."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
        if exit_code is not None:
            assert done.returncode == exit_code, (
                f"kod {' '.join(arguments)}: exit {done.returncode}, not {exit_code}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kod(*arguments, "--json").stdout)

    def status(self, code: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json("status", "--node", code)
        return found

    def statuses(self) -> dict[str, dict[str, Any]]:
        """`status` of all nodes, by one command."""
        found = {status["node"]: status for status in self.json("status")}
        assert found.keys() == self.nodes.keys()
        return found

    def link(self, code: str, neighbour: str) -> dict[str, Any]:
        """What `status` of a node says of its link to a neighbour."""
        return next(link for link in self.status(code)["links"] if link["node"] == neighbour)

    def install(self, *, existing: Iterable[str] = ()) -> None:
        """The package from the first node's database, and `kod install` everywhere, side by side; with
        --stamp-existing at the nodes of `existing`."""
        self.kod("schema", "generate", "--node", next(iter(self.nodes)))
        with ThreadPoolExecutor(2) as two:
            extra = {code: ["--stamp-existing"] for code in existing}
            list(two.map(lambda code: self.kod("install", "--node", code, *extra.get(code, ())), self.nodes))

    # --- daemons ---

    def start(self, *codes: str) -> Daemon:
        """Starts daemons (all nodes' without codes); the last one."""
        for code in codes or tuple(self.nodes):
            log = self.folder / f"{code}.log"
            with log.open("ab") as output:
                process = subprocess.Popen(
                    self.command("--log-level", "info", "run", "--node", code),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,  # also when pytest is killed
                )
            self.daemons[code] = Daemon(code, process, log)
        return self.daemons[code]

    def start_and_wait(self, *codes: str) -> None:
        """Starts daemons, and waits until each says that it has started."""
        counts = {code: self._started(code) for code in codes or self.nodes}
        self.start(*codes)
        for code, count in counts.items():
            self.wait_until(lambda code=code, count=count: self._started(code) > count, f"{code} has started")

    def _started(self, code: str) -> int:
        log = self.folder / f"{code}.log"
        return log.read_text(encoding="utf-8").count("daemon started") if log.exists() else 0

    def wait_until(self, holds: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> None:
        """Fails when `holds` does not come to hold within the deadline, or a daemon has ended by itself."""
        until = time.monotonic() + within_s
        while not holds():
            ended = [d for d in self.daemons.values() if d.process.poll() not in (None, 0, -signal.SIGKILL)]
            if ended or time.monotonic() > until:
                raise AssertionError(f"{what}: did not come\n{self.logs()}")
            time.sleep(0.02)

    def wait_for(self, code: str, sql: str, expected: Sequence[Sequence[Any]], within_s: float = WITHIN_S) -> None:
        """Waits until the query gives exactly these rows."""
        wanted = [tuple(row) for row in expected]
        try:
            self.wait_until(lambda: self.rows(code, sql) == wanted, f"{code}: {sql} is {wanted}", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\nit is {self.rows(code, sql)}") from None

    def wait_until_equal(self, sql: str, *codes: str, within_s: float = WITHIN_S) -> None:
        """Waits until the query gives the same rows at the nodes (all without codes)."""

        def equal() -> bool:
            found = [self.rows(code, sql) for code in codes or self.nodes]
            return all(rows == found[0] for rows in found)

        try:
            self.wait_until(equal, f"equal everywhere: {sql}", within_s)
        except AssertionError as error:
            counts = {code: len(self.rows(code, sql)) for code in codes or self.nodes}
            raise AssertionError(f"{error}\nrows: {counts}") from None

    def wait_until_settled(self, within_s: float = WITHIN_S) -> None:
        """Waits until nothing waits to be sent at any node, and nothing that came waits to be applied."""

        def settled() -> bool:
            return not any(
                status["items_waiting"] or any(link["queue_messages"] for link in status["links"])
                for status in self.statuses().values()
            )

        self.wait_until(settled, "all nodes have settled", within_s)

    def logs(self) -> str:
        parts = []
        for code, daemon in self.daemons.items():
            parts.append(f"--- {code}, exit {daemon.process.poll()}\n{daemon.log[-3000:]}")
        return "\n".join(parts)

    def close(self) -> None:
        for daemon in self.daemons.values():
            if daemon.process.poll() is None:
                daemon.process.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.process.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def is_mariadb(url: str) -> bool:
    return url.startswith("mariadb")


def conninfo(url: str) -> str:
    """libpq's words for a SQLAlchemy URL."""
    parsed = make_url(url).set(drivername="postgresql")
    return parsed.render_as_string(hide_password=False)

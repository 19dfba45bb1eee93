"""Connections, one transaction's round trips, and the server's errors in our words.

Statements bear $1, $2 …; every parameter is text and is cast in the statement.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import RawCursor, errors, sql
from psycopg.types.string import ByteaBinaryLoader

from node.databases.address import Address, address_of
from node.databases.postgresql.pipeline import Connection, Row, Statement
from schemas.errors import (
    ConfigError,
    ConflictError,
    DanglingError,
    DuplicateError,
    KodError,
    MessageError,
    RefusedError,
    UnavailableError,
)

__all__ = [
    "Connection",
    "Connections",
    "Row",
    "Statement",
    "TakenError",
    "Transaction",
    "UnreadableError",
    "literal",
    "streamed",
    "translated",
]

# What the server writes must not depend on how it, the database or the role are set up. Locks are given up before the
# server looks for deadlocks (deadlock_timeout, 1 s): never is the application the victim. Compiling statements (jit)
# costs more than it gains in transactions of milliseconds. All statements are about given keys, whose number the
# planner cannot know: it shall go by index, and need not plan again for each set of them.
_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lock_timeout": "500ms",
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
    "jit": "off",
    "enable_seqscan": "off",
    "plan_cache_mode": "force_generic_plan",
}

_IS_PRIMARY_KEY = """
SELECT FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'p' AND n.nspname = $1 AND c.relname = $2 AND k.conname = $3"""


class TakenError(DuplicateError):
    """A unique value (not a primary key) that another row has."""


class UnreadableError(RefusedError):
    """A value that its column's type cannot read; the server does not say of which property."""


class Connections:
    """Idle connections to one database, shared by threads; there are as many as are in use at once."""

    def __init__(self, url: str, **settings: str) -> None:
        """`settings` are the sessions', beside those that all have."""
        self._url = url
        self._conninfo = conninfo(address_of(url))
        self._settings = {**_SETTINGS, **settings}
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    def open(self, **settings: str) -> Connection:
        """A connection of one's own, with further session settings."""
        with translated():
            return Connection.connect(
                self._conninfo,
                autocommit=True,
                cursor_factory=RawCursor,
                # psycopg's own prepared statements end with DEALLOCATE ALL after a ROLLBACK: it takes ours, too, and
                # every message after one that failed would be refused
                prepare_threshold=None,
                options=_options({**self._settings, **settings}),
            )

    def others(self, **settings: str) -> Connections:
        """Connections of their own to the same database, with further session settings."""
        return Connections(self._url, **settings)

    def close(self) -> None:
        self._closed = True
        self.close_idle()

    def close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit mode."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self.open()
        try:
            with translated():
                yield connection
        finally:
            self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        idle = connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            if idle and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def is_primary_key(self, violated: errors.Diagnostic) -> bool:
        """Whether the constraint that an error names is a primary key (of the registers, or of a table)."""
        if violated.schema_name == "kod":
            return True
        with self.connection() as connection:
            found = connection.execute(
                _IS_PRIMARY_KEY, (violated.schema_name, violated.table_name, violated.constraint_name)
            )
            return found.fetchone() is not None

    @contextmanager
    def transaction(self, isolation: str = "READ COMMITTED", *statements: Statement) -> Iterator[Transaction]:
        """Begins with `statements`, in one round trip with the first that are run; commits at the end."""
        with self.connection() as connection:
            begin = Statement(f"BEGIN ISOLATION LEVEL {isolation}")
            transaction = Transaction(connection, (begin, *statements), self.is_primary_key)
            try:
                yield transaction
                transaction.commit()
            except BaseException:
                transaction.roll_back()
                raise


class Transaction:
    """Statements of one transaction; those that are run together take one round trip."""

    def __init__(
        self, connection: Connection, first: Sequence[Statement], is_primary_key: Callable[[errors.Diagnostic], bool]
    ) -> None:
        self._connection = connection
        self._is_primary_key = is_primary_key
        self._queued = list(first)
        self._begun = False
        self._committed = False

    def run(self, *statements: Statement) -> list[list[Row]]:
        """The rows of each of `statements`; what was queued goes before them."""
        queued, self._queued = self._queued, []
        self._begun = True
        try:
            return self._connection.run([*queued, *statements])[len(queued) :]
        except errors.UniqueViolation as error:
            if self._is_primary_key(error.diag):
                raise ConflictError("somebody else was faster: the key is taken already") from None
            raise TakenError(translate(error).text) from None
        except psycopg.Error as error:
            raise translate(error) from None

    def one(self, statement: Statement) -> Row:
        return self.run(statement)[0][0]

    def rows(self, statement: Statement) -> list[Row]:
        return self.run(statement)[0]

    def execute(self, sql: str, values: Sequence[Any]) -> psycopg.Cursor[Row]:
        """One statement whose values are Python's, and the rows as psycopg reads them; what was queued goes before it.
        Raises psycopg's errors."""
        if self._queued:
            self.run()
        return self._connection.execute(sql, values)

    def queue(self, *statements: Statement) -> None:
        """To be run with what comes next, at the latest with the commit."""
        self._queued.extend(statements)

    def commit(self) -> None:
        if not self._committed and (self._begun or len(self._queued) > 1):
            self.commit_with()

    def commit_with(self, *statements: Statement) -> list[Row]:
        """Runs the statements and commits, in one round trip; the rows of the last of them. Nothing may follow."""
        *_, rows, _ = [[], *self.run(*statements, Statement("COMMIT"))]
        self._committed = True
        return rows

    def roll_back(self) -> None:
        if not self._begun or self._committed or self._connection.closed:
            return
        try:
            self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._connection.close()


@contextmanager
def streamed(connection: Connection, query: str) -> Iterator[Iterator[Row]]:
    """The rows of a query that reads whole tables, a few thousand at a time, texts as bytes. In the caller's
    transaction."""
    connection.execute("SET LOCAL enable_seqscan = on")
    with psycopg.RawServerCursor(connection, "kod_rows") as cursor:
        cursor.adapters.register_loader("text", ByteaBinaryLoader)
        cursor.itersize = 2000
        cursor.execute(query, binary=True)
        yield iter(cursor)


def conninfo(address: Address) -> str:
    """libpq's connection string."""
    if address.driver not in (None, "psycopg", "psycopg2"):
        raise ConfigError(f"the driver {address.driver!r} is not supported", hint="postgresql+psycopg://user@host/name")
    words: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "user": address.user,
        "password": address.password,
        "dbname": address.database,
        "application_name": "kod",
        "client_encoding": "UTF8",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "connect_timeout": 10,
        **{name: ",".join(values) for name, values in address.query.items()},
    }
    try:
        return psycopg.conninfo.make_conninfo(**{name: value for name, value in words.items() if value is not None})
    except psycopg.ProgrammingError as error:
        raise ConfigError(f"the database's URL: {str(error).strip()}") from None


def _options(settings: dict[str, str]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def literal(text: str) -> str:
    """A text as a constant in SQL."""
    return sql.Literal(text).as_string()


# --- errors -------------------------------------------------------------------------------------------------------

_TRY_AGAIN = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)
_AWAY = ("08", "57", "53")  # connection, operator's intervention, resources
_MEANINGS = {
    "23502": "must not be empty (not null)",
    "23503": "a reference to an item that is not there, or from an item that still needs this one",
    "23505": "a value that must be unique is taken by another item",
    "23514": "a value that the table's check refuses (check)",
    "23P01": "a value that excludes another item's",
    "22001": "a text that is longer than the column",
    "22003": "a number that is too large for the column",
    "22P02": "a value that the column's type cannot read",
    "22007": "a moment that the column's type cannot read",
    "22008": "a moment that the column's type cannot hold",
    "22P05": "a character that the database's encoding does not have",
}


@contextmanager
def translated() -> Iterator[None]:
    """psycopg's errors in our words. Values of rows never get into the text: they are somebody's data."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from None


def translate(error: psycopg.Error) -> KodError:
    state = error.sqlstate or ""
    diagnosis = error.diag
    if isinstance(error, _TRY_AGAIN):
        return ConflictError(f"the database asks to try again: {_title(error)}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (not state or state[:2] in _AWAY):
        return UnavailableError(f"the database cannot be reached: {_first_line(error)}")
    if state[:2] in _AWAY:
        return UnavailableError(f"the database is not available: {_title(error)}")
    if state[:2] in ("22", "23"):
        where = ".".join(filter(None, (diagnosis.table_name, diagnosis.column_name))) or "the database"
        constraint = f" (constraint {diagnosis.constraint_name})" if diagnosis.constraint_name else ""
        kind: type[MessageError] = DanglingError if state == "23503" else RefusedError
        if state[:2] == "22" and not diagnosis.column_name:
            kind = UnreadableError
        return kind(f"{where}{constraint}: {_MEANINGS.get(state, _title(error))}")
    if state == "42501":
        return ConfigError(f"the role lacks a right: {_first_line(error)}", hint="grant it to the role in nodes.yaml")
    if state in ("3F000", "42P01") and "kod." in str(error):
        return ConfigError("KOD's registers are not in this database", hint="kod install")
    if state[:2] == "42":  # names of tables and columns, no values
        return MessageError(f"the database refuses a statement: {_first_line(error)}", hint="kod check")
    return MessageError(f"the database refuses a statement: {_title(error)} ({state})", hint="kod check")


def _title(error: psycopg.Error) -> str:
    return type(error).__name__


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else _title(error)

"""Connections to a SQLite file, and what SQLite's errors mean to the reader."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote as quote_path

from node.databases.address import address_of
from node.databases.sqlite import lexical
from schemas.errors import ConfigError, ConflictError, UnavailableError

BUSY_TIMEOUT_S = 10.0
LOOK_EVERY_S = 0.001


def path_of(url: str) -> Path:
    """The file behind a URL. Raises ConfigError for a database in memory: no second program could see it."""
    database = address_of(url).database
    if not database or database == ":memory:":
        raise ConfigError("a node's SQLite database has to be a file", hint="e.g. sqlite:///shop.sqlite")
    return Path(database)


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit; transactions are begun by hand.

    Never creates the file: raises UnavailableError where there is none.
    """
    address = f"file:{quote_path(str(path.absolute()))}?mode=rw"
    with translated(path):
        connection = sqlite3.connect(
            address,
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )
        try:
            # SQLite lets in text that is no UTF-8; one such value must not stop everything else
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            lexical.register_functions(connection)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # is it a database at all?
        except BaseException:
            connection.close()
            raise
    return connection


def begin(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> None:
    """BEGIN, as soon as nobody else writes.

    SQLite's own waiting sleeps longer and longer between looks, up to 0.1 s: an application that writes without a
    pause would starve us for seconds.
    """
    if kind != "IMMEDIATE":
        connection.execute(f"BEGIN {kind}")
        return
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        _begin_until(connection, time.monotonic() + BUSY_TIMEOUT_S)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")


def _begin_until(connection: sqlite3.Connection, until_s: float) -> None:
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(LOOK_EVERY_S)


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """BEGIN … COMMIT, or ROLLBACK when anything is raised, a failing COMMIT included."""
    begin(connection, kind)
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours. IntegrityError is left: what it means depends on who writes."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        raise _meaning(error, path) from error


def _meaning(error: sqlite3.Error, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", None)
    text = str(error)
    if code is None:  # the module's own complaints (ProgrammingError …): ours to mend, not the reader's
        return error
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConflictError(f"{path.name} is locked by another program", hint="it is tried again")
    if code & 0xFF == sqlite3.SQLITE_ERROR:
        if "no such table: kod_" in text or "no such table: main.kod_" in text:
            return ConfigError(f"{path.name}: KOD's registers are not there", hint="kod install")
        return error
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        why = "there is no such file" if not path.exists() else text
        return UnavailableError(f"{path} cannot be opened: {why}", hint="is the path in nodes.yaml right?")
    if code & 0xFF == sqlite3.SQLITE_NOTADB:
        return ConfigError(f"{path} is not a SQLite database", hint="is the path in nodes.yaml right?")
    return UnavailableError(f"{path}: {text}", hint="look at the disk and at the file's rights")

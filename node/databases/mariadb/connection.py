"""Connections to MariaDB, and what its errors mean to the reader.

Statements are written with %s for bound values; a percent sign that is meant is written twice (names and literals see
to it: lexical.quoted, lexical.literal).
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from node.databases.address import Address, address_of
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

Row = tuple[Any, ...]

# Strict: nothing is cut or altered in silence. Dates that applications were let store (zeros, 31 February) can be
# written here as they are; 0 in a generated key is a 0.
SQL_MODE = (
    "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"
)

# READ COMMITTED: no gap is locked into which an application wants to insert. Who never waits for a lock is in no
# deadlock: the application is never its victim, KOD tries again. All statements are about given keys, in tables that
# were filled a moment ago and have no statistics yet: they go by index (max_seeks_for_key).
_SESSION = (
    f"SET SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00', innodb_lock_wait_timeout = 0, lock_wait_timeout = 10,"
    " tx_isolation = 'READ-COMMITTED', wait_timeout = 31536000, foreign_key_checks = 1, unique_checks = 1,"
    " innodb_strict_mode = 1, sql_safe_updates = 0, sql_select_limit = DEFAULT, max_seeks_for_key = 1,"
    " collation_connection = utf8mb4_bin"
)

TURN_WAIT_S = 30


class Connection:
    """A connection in autocommit; transactions are begun by hand."""

    def __init__(self, url: str) -> None:
        address = address_of(url)
        self.database = _database(address)
        self._raw = connect(_arguments(address))
        try:
            with translated():
                self.run(_SESSION)
        except BaseException:
            self.close()
            raise

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """How many rows were changed."""
        with self._raw.cursor() as cursor:
            return int(cursor.execute(sql, tuple(parameters)))

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[Row, ...]:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, tuple(parameters))
            return tuple(cursor.fetchall())

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], Sequence[Row], int]:
        """The names of the columns, the rows, and how many were changed."""
        with self._raw.cursor() as cursor:
            count = cursor.execute(sql, tuple(parameters))
            names = [str(column[0]) for column in cursor.description or ()]
            return names, tuple(cursor.fetchall()) if names else (), 0 if names else int(count)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row:
        """The first row. Raises ConfigError where there is none: the registers are not whole."""
        found = self.rows(sql, parameters)
        if not found:
            raise ConfigError(f"{self.database}: KOD's registers are not whole", hint="kod install")
        return found[0]

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """The statement for each row; `INSERT … VALUES (…)` goes out as few statements of many rows."""
        if not rows:
            return 0
        with self._raw.cursor() as cursor:
            return int(cursor.executemany(sql, rows) or 0)

    @property
    def is_open(self) -> bool:
        return bool(self._raw.open)

    @property
    def lock_prefix(self) -> str:
        """Named locks are the whole server's: this is for this database's."""
        return "kod." + hashlib.sha256(self.database.encode()).hexdigest()[:24]

    def close(self) -> None:
        if self._raw.open:
            with suppress(pymysql.err.Error):  # it may be gone already
                self._raw.close()


@contextmanager
def turn(connection: Connection) -> Iterator[None]:
    """KOD's writers in this database, of every process, one after another."""
    name = f"{connection.lock_prefix}.turn"
    with translated():
        ((taken,),) = connection.rows("SELECT GET_LOCK(%s, %s)", (name, TURN_WAIT_S))
    if not taken:
        raise ConflictError("another program of KOD is writing for long", hint="it is tried again")
    try:
        yield
    finally:
        if connection.is_open:
            with translated():
                connection.rows("SELECT RELEASE_LOCK(%s)", (name,))


@contextmanager
def transaction(connection: Connection, *, snapshot: bool = False) -> Iterator[Connection]:
    """BEGIN … COMMIT, or ROLLBACK when anything is raised. In KOD's turn.

    `snapshot`: all that is read is as it was at the beginning (and as this transaction made it)."""
    with turn(connection), translated():
        if snapshot:
            connection.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.run("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        else:
            connection.run("START TRANSACTION")
        try:
            yield connection
            connection.run("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise


def _roll_back(connection: Connection) -> None:
    if connection.is_open:
        try:
            connection.run("ROLLBACK")
        except pymysql.err.Error:
            connection.close()


@contextmanager
def reading(connection: Connection) -> Iterator[Connection]:
    """A snapshot to read from; nothing is written, and nobody is kept waiting."""
    with translated():
        connection.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.run("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        try:
            yield connection
        finally:
            _roll_back(connection)


def connect(arguments: dict[str, Any]) -> pymysql.connections.Connection[Any]:
    """The driver's connection, over a socket that is closed again where it comes to nothing."""
    with translated():
        raw = pymysql.connect(**arguments, defer_connect=True)
        opened = _socket(arguments)
        try:
            raw.connect(opened)
        except BaseException:
            opened.close()
            raise
    return raw


def _socket(arguments: dict[str, Any]) -> socket.socket:
    timeout_s = arguments["connect_timeout"]
    try:
        if "unix_socket" not in arguments:
            opened = socket.create_connection((arguments["host"], arguments["port"]), timeout_s)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return opened
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(timeout_s)
            opened.connect(arguments["unix_socket"])
        except BaseException:
            opened.close()
            raise
        return opened
    except OSError as error:
        where = arguments.get("unix_socket") or f"{arguments['host']}:{arguments['port']}"
        raise UnavailableError(f"the database cannot be reached: {where}: {error}") from None


# --- addresses ----------------------------------------------------------------------------------------------------


def _database(address: Address) -> str:
    if not address.database:
        raise ConfigError("the database's URL names no database", hint="mariadb+pymysql://user@host/name")
    return address.database


def _arguments(address: Address) -> dict[str, Any]:
    if address.driver not in (None, "pymysql"):
        raise ConfigError(f"the driver {address.driver!r} is not used here", hint="mariadb+pymysql://user@host/name")
    found: dict[str, Any] = {
        "host": address.host or "localhost",
        "port": address.port or 3306,
        "user": address.user,
        "password": address.password or "",
        "database": address.database,
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": 10,
        "client_flag": CLIENT.FOUND_ROWS,
    }
    for name, values in address.query.items():
        if name not in _OPTIONS or len(values) > 1:
            raise ConfigError(f"the database's URL: {name!r} is not understood", hint=", ".join(_OPTIONS))
        found[name] = _OPTIONS[name](values[0])
    if "unix_socket" in found and not any(name.startswith("ssl_") for name in found):
        found["ssl_disabled"] = True  # nobody listens there; reading the certificates takes longer than connecting
    return found


_OPTIONS: dict[str, Any] = {
    "unix_socket": str,
    "connect_timeout": int,
    "read_timeout": int,
    "write_timeout": int,
    "ssl_ca": str,
    "ssl_cert": str,
    "ssl_key": str,
    "ssl_verify_identity": lambda text: text.lower() in ("1", "true", "yes"),
    "charset": lambda text: "utf8mb4",  # others would cut
}


# --- errors -------------------------------------------------------------------------------------------------------

DUPLICATE = 1062
IS_REFERRED_TO = (1217, 1451)
REFERS_TO_NOTHING = (1216, 1452)
_TRY_AGAIN = (1020, 1205, 1213, 1412, 1569, 1637, 3572)
_AWAY = (
    1040,
    1053,
    1077,
    1079,
    1152,
    1158,
    1159,
    1160,
    1161,
    1184,
    1203,
    1226,
    1290,
    1836,
    1927,
    2002,
    2003,
    2006,
    2013,
)
_RIGHTS = (1044, 1142, 1143, 1227, 1370)
_MEANINGS = {
    1048: "must not be empty (not null)",
    1263: "must not be empty (not null)",
    1364: "must not be empty (not null)",
    1264: "a number, or a moment, that is out of the column's range",
    1265: "a value that the column does not take as it is",
    1366: "a value that the column cannot hold",
    1292: "a value that the column's type cannot read",
    1406: "a value that is longer than the column",
    1690: "a number that is out of the column's range",
    4025: "a value that the table's check refuses",
}


def number_of(error: BaseException) -> int:
    code = error.args[0] if error.args else 0
    return code if isinstance(code, int) else 0


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors in our words. Values of rows never get into the text: they are somebody's data."""
    try:
        yield
    except pymysql.err.Error as error:
        raise translate(error) from error


def translate(error: pymysql.err.Error) -> KodError:
    code = number_of(error)
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if code in _TRY_AGAIN:
        return ConflictError(f"the database asks to try again ({code})", hint="it is tried again")
    if code in _AWAY or (isinstance(error, pymysql.err.InterfaceError) and code == 0):
        return UnavailableError(f"the database cannot be reached: {text or 'the connection is closed'}")
    if code == 1045:
        return ConfigError(f"the database lets the user not in: {text}", hint="user and password in nodes.yaml")
    if code == 1049:
        return ConfigError(f"there is no such database: {text}", hint="is `database` in nodes.yaml right?")
    if code in _RIGHTS:
        return ConfigError(f"the user lacks a right: {text}", hint="grant it to the user in nodes.yaml")
    if code == 1146 and re.search(r"\.kod_\w+'", text):
        return ConfigError("KOD's registers are not in this database", hint="kod install")
    if code == 1665:
        return ConfigError("the server logs statements only (binlog_format = STATEMENT)", hint="binlog_format = MIXED")
    if code in (DUPLICATE, 1586):
        return DuplicateError(f"another row has the same value already: {_unique(text)} (unique)")
    if code in IS_REFERRED_TO:
        return DanglingError(f"rows still refer to it: {_constraint(text)} (foreign key)")
    if code in REFERS_TO_NOTHING:
        return DanglingError(f"a row that it refers to is not there: {_constraint(text)} (foreign key)")
    if code in _MEANINGS:
        return RefusedError(f"{_column(text)}: {_MEANINGS[code]}")
    return MessageError(f"the database refuses a statement ({code}): {_without_values(text)}", hint="kod check")


def _unique(text: str) -> str:
    """`Duplicate entry '…' for key 'nick'`: the value is left out."""
    return text.rpartition("for key ")[2].strip("'") or "a unique key"


def _constraint(text: str) -> str:
    found = re.search(r"\((.*?), CONSTRAINT (.*?) FOREIGN KEY \((.*?)\) REFERENCES (`[^`]*`(?:\.`[^`]*`)?)", text)
    if not found:
        return "a foreign key"
    table, _, columns, target = (part.replace("`", "") for part in found.groups())
    return f"{table.partition('.')[2] or table} ({columns}) -> {target}"


def _column(text: str) -> str:
    """Messages name the column last; what stands before it may be a value."""
    found = re.search(r"[Cc]olumn (?:'([^']*)'|((?:`[^`]*`\.)*`[^`]*`))(?: at row \d+| cannot be null)?$", text)
    if found:
        return re.sub(r"^.*\bkod_rows_\w+\.", "", (found[1] or found[2]).replace("`", ""))  # the staged row's column
    found = re.search(r"CONSTRAINT (`[^`]*`)", text) or re.search(r"Field '([^']*)'", text)
    return found[1].replace("`", "") if found else "a column"


def _without_values(text: str) -> str:
    return re.sub(r"'(?:[^'\\]|\\.)*'", "'…'", text)

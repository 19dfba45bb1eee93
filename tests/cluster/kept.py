"""SQLite databases that are kept from one history to the next.

What took the time of a history was not the flow but making files, parsing their schema and preparing statements: three
quarters of it. So a process makes each node's database once, by the real `kod install`; the next history gets the same
file with its rows as install left them, over the same connections. A store that starts gets a connection that was
closed before it, rolled back; what the store compiles from the schema is compiled once for each connection.

    database = kept("00", TABLES, make)  ->  .path, .application
    with connections():                  ->  inside, node.databases.sqlite opens and closes kept connections

A history may do with its file whatever it likes (replace it, drop triggers): where the schema or the file is not the
one that was made, or a test says `forget`, the next history makes it anew.
"""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from node.databases.sqlite import capture, connection, registers, store
from node.databases.sqlite.reading import Reading
from node.databases.sqlite.writing import Writing

BASE = "/dev/shm" if Path("/dev/shm").is_dir() else None


WAL_BYTES_MAX = 4_000_000
_PRAGMAS = ("PRAGMA synchronous = OFF", "PRAGMA wal_autocheckpoint = 0")
"""Between histories it is checkpointed, and nobody's data is on a disk."""

BEGINNING_MS = 1_000_000
NOW_SQL = "sim_now()"


def give_clock(connection: sqlite3.Connection, now: Callable[[], int] = lambda: BEGINNING_MS) -> None:
    """NOW_SQL means the node's own clock there: a function and not a row, or every tick would be a transaction."""
    connection.create_function("sim_now", 0, now)


Backup = Mapping[str, list[tuple[Any, ...]]]
"""A database's rows, by table."""


class KeptConnection(sqlite3.Connection):
    """A connection whose `close` makes it idle: everything that a dead process would lose is lost."""

    home: KeptDatabase | None = None
    compiled: dict[Any, Any]

    def close(self) -> None:
        if self.home is None:
            super().close()
        elif self not in self.home.idle:
            if self.in_transaction:
                self.rollback()
            self.home.idle.append(self)


class KeptDatabase:
    """A file with an installed node in it, as it is at the beginning of a history."""

    def __init__(self, path: Path, make: Callable[[Path], None]) -> None:
        self.path = path
        make(path)
        self.now_ms = BEGINNING_MS
        """By this node's clock."""
        self.idle: list[KeptConnection] = []
        self._opened: list[KeptConnection] = []
        self.application = self._open()
        self.application.execute("PRAGMA foreign_keys = ON")
        self._resetting = self._open()  # without foreign keys: nothing cascades
        self._identity = self._identify()
        tables = self.application.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        self._tables = [name for (name,) in tables.fetchall() if name != "kod_applying"]
        self._dangling = _dangling_sql(self.application)
        self._rows = self.backup()

    def _open(self) -> sqlite3.Connection:
        opened = sqlite3.connect(self.path, isolation_level=None, cached_statements=1000)
        for pragma in _PRAGMAS:
            opened.execute(pragma)
        give_clock(opened, self.now)
        return opened

    def now(self) -> int:
        return self.now_ms

    def _identify(self) -> tuple[int, int]:
        (version,) = self.application.execute("PRAGMA schema_version").fetchone()
        return version, self.path.stat().st_ino

    def is_whole(self) -> bool:
        """The file and its schema are still those that were made."""
        try:
            return self._identify() == self._identity
        except (OSError, sqlite3.Error):
            return False

    def broken_references(self) -> list[tuple[Any, ...]]:
        """As `PRAGMA foreign_key_check` finds them, which is compiled anew each time: (table, rowid, the other)."""
        return self.application.execute(self._dangling).fetchall()

    def backup(self) -> Backup:
        """What is in it now."""
        return self._contents(self.application)

    def _contents(self, connection: sqlite3.Connection) -> Backup:
        return {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in self._tables}

    def reset(self, rows: Backup | None = None) -> None:
        """Every table as `make` left it, or as it was when `rows` were backed up; what does it is not captured."""
        if self.application.in_transaction:
            self.application.execute("ROLLBACK")
        wanted = self._rows if rows is None else rows
        execute = self._resetting.execute
        execute("BEGIN IMMEDIATE")
        execute("INSERT OR IGNORE INTO kod_applying (one) VALUES (1)")
        for name, is_there in self._contents(self._resetting).items():
            of_table = wanted.get(name, [])
            if is_there == of_table:
                continue
            execute(f'DELETE FROM "{name}"')
            if of_table:
                marks = ", ".join("?" * len(of_table[0]))
                self._resetting.executemany(f'INSERT INTO "{name}" VALUES ({marks})', of_table)
        execute("DELETE FROM kod_applying")
        execute("COMMIT")
        if rows is None:
            self.now_ms = BEGINNING_MS
        if Path(f"{self.path}-wal").stat().st_size > WAL_BYTES_MAX:
            execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def connect(self, **options: Any) -> KeptConnection:
        for one in self._opened:  # always in this order, so that each finds the statements that it prepared before
            if one in self.idle:
                self.idle.remove(one)
                return one
        with patch.object(sqlite3, "connect", partial(sqlite3.connect, factory=KeptConnection)):
            made = _CONNECT(self.path, **options)
        assert isinstance(made, KeptConnection)
        for pragma in _PRAGMAS:
            made.execute(pragma)
        give_clock(made, self.now)
        made.home, made.compiled = self, {}
        self._opened.append(made)
        return made

    def close(self) -> None:
        self.application.close()
        self._resetting.close()
        for one in self._opened:
            one.home = None
            one.close()


def _dangling_sql(connection: sqlite3.Connection) -> str:
    """For foreign keys of one column each."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return " UNION ALL ".join(
        f"SELECT '{name}', c.rowid, '{other}' FROM \"{name}\" c WHERE c.\"{column}\" IS NOT NULL"
        f' AND NOT EXISTS (SELECT 1 FROM "{other}" p WHERE p."{key}" = c."{column}")'
        for (name,) in names
        for _, _, other, column, key, *_ in connection.execute(f'PRAGMA foreign_key_list("{name}")').fetchall()
    )


_CONNECT = connection.connect
_databases: dict[tuple[str, str], KeptDatabase] = {}
_folder: Path | None = None


def kept(code: str, tables: str, make: Callable[[Path], None]) -> KeptDatabase:
    """The node's database as `make(path)` made it once."""
    global _folder
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(dir=BASE, prefix="kod-sim-"))
        atexit.register(forget_all)
    found = _databases.get((code, tables))
    if found is not None and not found.is_whole():
        forget(found)
        found = None
    if found is None:
        path = _folder / f"{code}-{len(_databases)}.sqlite"
        found = _databases[code, tables] = KeptDatabase(path, make)
    found.reset()
    return found


def forget(database: KeptDatabase) -> None:
    """It is not to be used again: a history has done something to it that emptying its tables does not undo."""
    database.close()
    for key in [key for key, one in _databases.items() if one is database]:
        del _databases[key]
    for path in database.path.parent.glob(database.path.name + "*"):
        path.unlink()


def forget_all() -> None:
    global _folder
    for database in list(_databases.values()):
        database.close()
    _databases.clear()
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)
        _folder = None


@contextmanager
def connections() -> Iterator[None]:
    """Inside, whatever node.databases.sqlite opens of a kept database is a kept connection."""
    places = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("node.databases.sqlite") and getattr(module, "connect", None) is _CONNECT
    ]
    with (
        patch.multiple(store, Reading=_reading, Writing=_writing),
        patch.object(capture, "triggers", _triggers),
        patch.object(capture, "installed", _installed),
        patch.object(registers, "are_there", _are_there),
        _patched(places, "connect", _connect),
    ):
        yield


@contextmanager
def _patched(places: list[Any], name: str, value: Any) -> Iterator[None]:
    old = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, was in zip(places, old, strict=True):
            setattr(place, name, was)


def _connect(path: Path, **options: Any) -> sqlite3.Connection:
    database = next((one for one in _databases.values() if one.path == path), None)
    if database is not None and database.is_whole():
        return database.connect(**options)
    opened = _CONNECT(path, **options)
    give_clock(opened, *([database.now] if database is not None else []))
    return opened


# --- what depends on nothing but the schema and the structure

_TRIGGERS = capture.triggers
_INSTALLED = capture.installed
_ARE_THERE = registers.are_there


def _compiled(connection: sqlite3.Connection, what: Any, make: Callable[[], Any]) -> Any:
    if not isinstance(connection, KeptConnection) or connection.home is None:
        return make()
    key = (what, connection.execute("PRAGMA schema_version").fetchone())
    found = connection.compiled.get(key)
    if found is None:
        found = connection.compiled[key] = make()
    return found


def _reading(connection: sqlite3.Connection, structure: Any, type_ids: Any) -> Reading:
    what = ("reading", id(structure), tuple(type_ids.items()))
    reading: Reading = _compiled(connection, what, lambda: Reading(connection, structure, type_ids))
    reading.begin()
    return reading


def _writing(connection: sqlite3.Connection, structure: Any, reading: Reading) -> Writing:
    what = ("writing", id(structure), id(reading))
    writing: Writing = _compiled(connection, what, lambda: Writing(connection, structure, reading))
    return writing


def _triggers(connection: sqlite3.Connection, structure: Any, type_ids: Any, now_sql: str) -> dict[str, str]:
    what = ("triggers", id(structure), tuple(type_ids.items()), now_sql)
    found: dict[str, str] = _compiled(connection, what, lambda: _TRIGGERS(connection, structure, type_ids, now_sql))
    return found


def _installed(connection: sqlite3.Connection) -> dict[str, str]:
    found: dict[str, str] = _compiled(connection, "installed", lambda: _INSTALLED(connection))
    return found


def _are_there(connection: sqlite3.Connection) -> bool:
    found: bool = _compiled(connection, "registers", lambda: _ARE_THERE(connection))
    return found

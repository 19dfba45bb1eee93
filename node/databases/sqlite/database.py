"""node.databases.Database over SQLite: installing, looking, mending.

Each call opens its own connection. Opening one takes SQLite 0.1 s where there are hundreds of tables with triggers (it
reads all of their SQL), so while a daemon starts one connection goes from call to call, and its store takes it over.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import orjson

from dispatcher.manifest import token, went
from dispatcher.ports import Accepted, Content, Figures, Life, Parked, SendingView
from node.databases import Held, Installed, Standing, Story, adapted
from node.databases.dangling import dangling
from node.databases.sqlite import capture, figures, history, naming, parking, reflection, registers, rights
from node.databases.sqlite.adapting import SqliteRegisters
from node.databases.sqlite.connection import connect, path_of, transaction, translated
from node.databases.sqlite.lexical import Form, affinity_of, key_array_sql, quoted
from node.databases.sqlite.reading import Reading, TypeReading, referring_values
from node.databases.sqlite.sending import SqliteSendingView
from node.databases.sqlite.store import SqliteStore
from node.databases.sqlite.writing import Writing, in_words
from node.databases.stamped import waiting_mark
from schemas.errors import ConfigError, MessageError
from schemas.network import NodeSettings
from schemas.stamp import EARLIEST, Stamp, digits
from schemas.structure import ItemType, Mismatch, Structure
from schemas.tables import Table
from serializers import beside
from serializers.keys import Item
from serializers.message import Version

_NOT_INSTALLED = "KOD's registers are not there"


class SqliteDatabase:
    dialect = "sqlite"

    def __init__(self, url: str, *, now_sql: str = capture.NOW_SQL) -> None:
        """`now_sql`: the triggers' clock, milliseconds since 1970; a simulation brings its own."""
        self._path = path_of(url)
        self._now_sql = now_sql
        self._starting = False
        self._idle: sqlite3.Connection | None = None
        """Left by the last call while a daemon starts."""

    @contextmanager
    def _connected(self, *, installed: bool = False, own: bool = False) -> Iterator[sqlite3.Connection]:
        """`own`: temporary tables are made, which go when it is closed."""
        connection = (None if own else self._take_idle()) or connect(self._path)
        try:
            with translated(self._path):
                if installed and not registers.are_there(connection):
                    raise ConfigError(f"{self._path.name}: {_NOT_INSTALLED}", hint="kod install")
                yield connection
        except BaseException:
            connection.close()
            raise
        if self._starting and not own and self._idle is None:
            self._idle = connection
        else:
            connection.close()

    def _take_idle(self) -> sqlite3.Connection | None:
        taken, self._idle = self._idle, None
        return taken

    # --- what is there

    def table_names(self) -> Sequence[str]:
        with self._connected() as connection:
            return reflection.table_names(connection)

    def reflect(self, names: Iterable[str]) -> Mapping[str, Table]:
        with self._connected() as connection:
            return reflection.reflect(connection, names)

    def check(self, structure: Structure) -> Sequence[Mismatch]:
        with self._connected() as connection:
            found = [m for t in structure.types.values() if t.table for m in _check_type(connection, t)]
            found += _generated_keys(structure)

            def count(sql: str) -> int:
                return int(connection.execute(sql).fetchone()[0])

            found += dangling(
                structure, count, lambda _, r, to: referring_values(r, "r"), quoted, quoted, enforced=True
            )
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode not in ("wal", "delete"):  # `delete` is switched to WAL by install
                found.append(
                    Mismatch(
                        "",
                        None,
                        "note",
                        f"the journal mode is {mode}: while KOD writes, the application cannot read",
                        "PRAGMA journal_mode = WAL",
                    )
                )
            return found

    # --- install

    def install(self, settings: NodeSettings, structure: Structure, *, stamps_only: bool = False) -> Installed:
        done: list[str] = []
        with self._connected(own=True) as connection, self._alone(connection, settings, structure):
            switched_from = _switch_to_wal(connection)
            if switched_from:
                done.append("journal mode switched to WAL: the application reads while KOD writes")
            with transaction(connection):
                if registers.create(connection):
                    done.append("registers created")
                if switched_from:
                    connection.execute("INSERT INTO kod_journal (mode) VALUES (?)", (switched_from,))
                done += self._name_node(connection, settings)
                own = SqliteRegisters(connection, structure, self._now_sql)
                done += adapted.rename(settings, own)
                type_ids = _register_types(connection, structure, done)
                done += self._adapt_triggers(connection, structure, type_ids)
                done += adapted.adapt(settings, structure, own)
                naming.remember(connection, structure, type_ids)
            done += [] if stamps_only else _identity(connection, settings, structure)
        return Installed(tuple(done))

    @contextmanager
    def _alone(self, connection: sqlite3.Connection, settings: NodeSettings, structure: Structure) -> Iterator[None]:
        """A daemon that runs has the registers by their old keys."""
        known: Mapping[str, str | None] = {}
        if registers.are_there(connection):
            known = SqliteRegisters(connection, structure, self._now_sql).types()
        with self.daemon_lock(settings.code) if adapted.rekeyed_types(structure, known) else nullcontext():
            yield

    def _name_node(self, connection: sqlite3.Connection, settings: NodeSettings) -> list[str]:
        row = connection.execute("SELECT code FROM kod_node").fetchone()
        if row is None:
            (incarnation,) = connection.execute(f"SELECT ({self._now_sql}) / 1000").fetchone()
            connection.execute(
                "INSERT INTO kod_node (one, version, code, incarnation, origin) VALUES (1, ?, ?, ?, ?)",
                (registers.VERSION, settings.code, incarnation, f"{settings.code}.{incarnation}"),
            )
            return [f"node {settings.code} begins as {settings.code}.{incarnation}"]
        if row[0] != settings.code:
            raise ConfigError(
                f"{self._path.name} is installed for node {row[0]!r}, not for {settings.code!r}",
                hint="is `database` in nodes.yaml the right one? else `kod uninstall` first",
            )
        return []

    def _adapt_triggers(
        self, connection: sqlite3.Connection, structure: Structure, type_ids: Mapping[str, int]
    ) -> list[str]:
        there = capture.installed(connection)
        needed = capture.triggers(connection, structure, type_ids, self._now_sql)
        stale = [name for name, sql in there.items() if needed.get(name) != sql]
        missing = [name for name, sql in needed.items() if there.get(name) != sql]
        for name in stale:
            connection.execute(f"DROP TRIGGER {quoted(name)}")
        for name in missing:
            connection.execute(needed[name])
        if any(name.startswith(rights.PREFIX) for name in missing):
            rights.all_again(connection, structure, type_ids)
        done = []
        if missing:
            done.append(f"{len(missing)} capture triggers created")
        if len(stale) > len(set(stale) & set(missing)):
            done.append(f"{len(set(stale) - set(missing))} capture triggers removed")
        return done

    def stamp_existing(
        self,
        structure: Structure,
        progress: Callable[[str, int, int], None],
        portion: int,
        dates: Mapping[str, Iterable[tuple[str, Stamp]]] | None = None,
    ) -> int:
        total = 0
        with self._connected(installed=True, own=True) as connection:
            type_ids = dict(connection.execute("SELECT name, id FROM kod_types").fetchall())
            reading = Reading(connection, structure, type_ids)
            for name, item_type in structure.types.items():
                if item_type.table is not None and name in type_ids:
                    dated = (dates or {}).get(name)
                    total += self._stamp_type(connection, reading.types[name], type_ids, progress, portion, dated)
        return total

    def _stamp_type(
        self,
        connection: sqlite3.Connection,
        reading: TypeReading,
        type_ids: Mapping[str, int],
        progress: Callable[[str, int, int], None],
        portion: int,
        dates: Iterable[tuple[str, Stamp]] | None,
    ) -> int:
        name, type_id = reading.item_type.name, type_ids[reading.item_type.name]
        if dates is not None:
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS kod_dated (key TEXT PRIMARY KEY, at INTEGER)")
            connection.execute("DELETE FROM temp.kod_dated")
            connection.executemany("INSERT INTO temp.kod_dated VALUES (?, ?)", dates)
        connection.execute("DROP TABLE IF EXISTS temp.kod_unstamped")
        connection.execute(
            f"CREATE TEMP TABLE kod_unstamped AS SELECT key, max(0, min(at, {self._now_sql})) AS at "
            f"FROM ({_dated_keys(reading, type_ids, told=dates is not None)}) q "
            f"WHERE NOT EXISTS (SELECT 1 FROM main.kod_register g WHERE g.type = {type_id} AND g.key = q.key) "
            "ORDER BY at DESC"
        )
        (total,) = connection.execute("SELECT count(*) FROM temp.kod_unstamped").fetchone()
        for start in range(0, total, portion):
            with transaction(connection):
                connection.execute(
                    # where there are no links yet, 0: history brings them to who comes later
                    "INSERT INTO kod_register (type, key, stamp, origin, mark) "
                    f"SELECT {type_id}, key, at, (SELECT origin FROM kod_node), CASE WHEN EXISTS "
                    f"(SELECT 1 FROM kod_outgoing) THEN {waiting_mark('at')} ELSE 0 END FROM temp.kod_unstamped "
                    "WHERE rowid > ? AND rowid <= ? ON CONFLICT (type, key) DO NOTHING",
                    (start, start + portion),
                )
            progress(name, min(start + portion, total), total)
        with transaction(connection):
            connection.execute("UPDATE kod_types SET stamped = 1 WHERE id = ?", (type_id,))
        connection.execute("DROP TABLE temp.kod_unstamped")
        return int(total)

    def uninstall(self) -> None:
        """Takes out everything that install put in; WAL too, if install switched it on and nobody else has the file
        open."""
        with self._connected(own=True) as connection:
            with transaction(connection):
                switched = _switched_from_delete(connection)
                for name in capture.installed(connection):
                    connection.execute(f"DROP TRIGGER {quoted(name)}")
                registers.drop(connection)
            if switched:
                _switch_back(connection)
        self._lock_path.unlink(missing_ok=True)

    # --- the daemon's

    def store(self, settings: NodeSettings, structure: Structure) -> SqliteStore:
        self._starting = False
        return SqliteStore(self._path, settings, structure, now_sql=self._now_sql, asker=self._take_idle())

    @property
    def _lock_path(self) -> Any:
        return self._path.with_name(self._path.name + ".kod-lock")

    @contextmanager
    def daemon_lock(self, code: str) -> Iterator[None]:
        if not self._path.exists():
            connect(self._path).close()  # says what is wrong
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"a daemon is already running for node {code} ({self._path.name})",
                    hint="stop it first; `kod status` shows what it does",
                ) from None
            self._starting = True
            yield
        finally:
            self.close()
            os.close(descriptor)

    # --- whose life this is

    def standing(self) -> Standing:
        with self._connected(installed=True) as connection:
            row = connection.execute(
                "SELECT incarnation, coalesce(last_session, 0), kept_at, network, told_incarnation, told_session "
                "FROM kod_node"
            ).fetchone()
        incarnation, session, kept_at, network, *told = row
        return Standing(
            Life(incarnation, Stamp(session)),
            f"{self._path.resolve()}, inode {self._path.stat().st_ino}",
            kept_at,
            network,
            Life(*told) if told[0] is not None else None,
        )

    def keep_at(self, place: str, network: str) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.execute("UPDATE kod_node SET kept_at = ?, network = ?", (place, network))

    def begin_life(self, life: Life, *, links: bool) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.execute(
                "UPDATE kod_node SET incarnation = ?, origin = code || '.' || ?, last_session = ?, kept_at = NULL, "
                "told_incarnation = NULL, told_session = NULL",
                (life.incarnation, life.incarnation, life.session),
            )
            if links:
                return
            for table in (
                "outgoing",
                "incoming",
                "received",
                "ahead",
                "pending",
                "presence",
                "history",
                "sent",
                "below",
                "held",
            ):
                connection.execute(f"DELETE FROM kod_{table}")
            connection.execute("UPDATE kod_register SET source = NULL")

    # --- the commands'

    def figures(self) -> Figures:
        with self._connected(installed=True) as connection:
            return figures.figures(connection)

    def set_streams(self, *, send: int | None, receive: int | None, reset: bool = False) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            if reset:
                connection.execute("UPDATE kod_node SET send_streams_max = NULL, receive_streams_max = NULL")
            connection.execute(
                "UPDATE kod_node SET send_streams_max = coalesce(?, send_streams_max), "
                "receive_streams_max = coalesce(?, receive_streams_max)",
                (send, receive),
            )

    def ask_package(self, fingerprint: str) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.execute("UPDATE kod_node SET package_asked = ?", (fingerprint,))

    def package(self) -> tuple[str | None, str | None]:
        with self._connected(installed=True) as connection:
            asked, used = connection.execute(
                "SELECT package_asked, (SELECT fingerprint FROM kod_packages ORDER BY since DESC LIMIT 1) FROM kod_node"
            ).fetchone()
            return asked, used

    def set_draining(self, asked: bool) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.execute("UPDATE kod_node SET draining = ?", ("asked" if asked else None,))

    def boundary(self) -> Stamp | None:
        with self._connected(installed=True) as connection:
            (boundary,) = connection.execute("SELECT boundary FROM kod_node").fetchone()
            return Stamp(boundary) if boundary is not None else None

    def set_boundary(self, stamp: Stamp, *, skip: bool) -> int:
        with self._connected(installed=True) as connection, transaction(connection):
            (boundary,) = connection.execute("SELECT boundary FROM kod_node").fetchone()
            forward = boundary is not None and stamp > boundary
            if (forward or boundary is None) and not skip:
                raise ConfigError(
                    f"the boundary is at {digits(boundary) if boundary is not None else 'the beginning'}: "
                    "going forward leaves what lies between unsent",
                    hint="--skip, if that is meant",
                )
            count = _skip(connection, stamp) if forward or boundary is None else _mark_again(connection, stamp)
            connection.execute("UPDATE kod_node SET boundary = ?", (stamp,))
            return count

    def collisions(self) -> Sequence[Mapping[str, Any]]:
        with self._connected(installed=True) as connection:
            rows = connection.execute(
                "SELECT id, type, key, policy, sender, at, winner_stamp, winner_origin, winner_text, "
                "loser_stamp, loser_origin, loser_text FROM kod_collisions ORDER BY id"
            )
            version = ("stamp", "origin", "text")
            return [
                {
                    **dict(zip(("id", "type", "key", "policy", "sender", "at"), row[:6], strict=True)),
                    "winner": dict(zip(version, row[6:9], strict=True)),
                    "loser": dict(zip(version, row[9:], strict=True)),
                }
                for row in rows
            ]

    def parked(self) -> Sequence[Parked]:
        with self._connected(installed=True) as connection:
            return parking.parked(connection)

    def retry_parked(self, ids: Sequence[int]) -> int:
        with self._connected(installed=True) as connection, transaction(connection):
            chosen = ids or [number for (number,) in connection.execute("SELECT id FROM kod_parked").fetchall()]
            rows = [(number,) for number in chosen]
            return connection.executemany(
                "UPDATE kod_parked SET attempts = -1 WHERE id = ? AND NOT refused", rows
            ).rowcount

    def discard_parked(self, parked_id: int) -> bool:
        with self._connected(installed=True) as connection, transaction(connection):
            return connection.execute("DELETE FROM kod_parked WHERE id = ?", (parked_id,)).rowcount > 0

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        with self._connected(installed=True) as connection, transaction(connection):
            return history.add(connection, node, type_name, down_to, reason, self._now_sql)

    def history_cancel(self, history_id: int) -> bool:
        with self._connected(installed=True) as connection, transaction(connection):
            return history.cancel(connection, history_id, self._now_sql)

    def story(self, item: Item) -> Story:
        with self._connected(installed=True) as connection:
            row = connection.execute("SELECT id FROM kod_types WHERE name = ?", (item.type,)).fetchone()
            if row is None:
                raise ConfigError(f"{item.type} is not known to the registers of {self._path.name}", hint="kod install")
            return _story(connection, item, (row[0], item.key))

    @contextmanager
    def looking(self, structure: Structure) -> Iterator[SendingView]:
        with self._connected(installed=True, own=True) as connection:
            type_ids = dict(connection.execute("SELECT name, id FROM kod_types").fetchall())
            reading = Reading(connection, structure, type_ids)
            with transaction(connection, "DEFERRED"):
                view = SqliteSendingView(connection, structure, reading, type_ids)
                view.reads_only = True
                yield view

    def values(self, table: str, column: str) -> Sequence[str]:
        with self._connected() as connection:
            name = quoted(column)
            rows = connection.execute(f"SELECT DISTINCT CAST({name} AS TEXT) FROM {quoted(table)} WHERE {name} <> ''")
            return sorted(value for (value,) in rows)

    def contents(self, structure: Structure, type_name: str) -> Iterator[Content]:
        item_type = structure[type_name]
        if item_type.table is None:
            return
        reading = TypeReading(item_type)
        with self._connected(installed=True, own=True) as connection, transaction(connection, "DEFERRED"):
            type_ids = dict(connection.execute("SELECT name, id FROM kod_types").fetchall())
            keys = connection.execute(f"SELECT DISTINCT {reading.key_of_row('r')} FROM {reading.table} r").fetchall()
            items = [Item(type_name, key) for (key,) in keys]
            yield from Reading(connection, structure, type_ids).contents(items)

    def stamp_again(self, items: Sequence[Item]) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.executemany(
                # `gone` makes the fold look whether the item is there
                "INSERT INTO kod_log (type, key, at, gone, local) "
                f"SELECT id, ?, {self._now_sql}, 1, 1 FROM kod_types WHERE name = ?",
                [(key, name) for name, key in items],
            )

    def restore(self, structure: Structure, item: Item, value: Mapping[str, Any] | None) -> None:
        with self._connected(installed=True, own=True) as connection:
            type_ids = dict(connection.execute("SELECT name, id FROM kod_types").fetchall())
            reading = Reading(connection, structure, type_ids)
            writing = Writing(connection, structure, reading)
            try:
                with transaction(connection):
                    connection.execute("PRAGMA defer_foreign_keys = ON")
                    existed = item in reading.existing([item])
                    if value is not None or existed:
                        writing.write([Accepted(item, Version(EARLIEST, ""), {}, value, existed)])
                    extra = beside.without_place(structure[item.type], value or {})
                    if extra:
                        _keep_beside(connection, (type_ids[item.type], item.key), extra)
            except sqlite3.IntegrityError as error:
                raise MessageError(in_words(error)) from error

    def close(self) -> None:
        self._starting = False
        if (idle := self._take_idle()) is not None:
            idle.close()


def _keep_beside(connection: sqlite3.Connection, key: tuple[int, str], extra: Mapping[str, Any]) -> None:
    """Properties without a column; the change itself gets its version at the fold."""
    row = connection.execute("SELECT kept FROM kod_register WHERE type = ? AND key = ?", key).fetchone()
    old = orjson.loads(row[0]) if row and row[0] else {}
    connection.execute(
        "INSERT INTO kod_register (type, key, stamp, origin, mark, kept) "
        "SELECT ?, ?, 0, origin, -1, ? FROM kod_node WHERE true "
        "ON CONFLICT (type, key) DO UPDATE SET kept = excluded.kept",
        (*key, orjson.dumps({**old, **extra}).decode()),
    )


def _switch_to_wal(connection: sqlite3.Connection) -> str | None:
    """The journal mode that was there before; None where it stays."""
    (before,) = connection.execute("PRAGMA journal_mode").fetchone()
    if before != "delete":
        return None
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    return before if mode == "wal" else None


def _switched_from_delete(connection: sqlite3.Connection) -> bool:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'kod_journal'").fetchone():
        return False  # registers of an earlier version, or none at all
    return connection.execute("SELECT 1 FROM kod_journal WHERE mode = 'delete'").fetchone() is not None


def _switch_back(connection: sqlite3.Connection) -> None:
    """WAL stays where another program has the file open: SQLite then lets nobody switch, and it does no harm."""
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise


def _register_types(connection: sqlite3.Connection, structure: Structure, done: list[str]) -> dict[str, int]:
    known = dict(connection.execute("SELECT name, id FROM kod_types").fetchall())
    for name, item_type in structure.types.items():
        key_types = orjson.dumps([f.prop.target or f.prop.xml for f in item_type.key]).decode()
        if name in known:
            connection.execute("UPDATE kod_types SET key_types = ? WHERE id = ?", (key_types, known[name]))
            continue
        empty = (
            item_type.table is None
            or not connection.execute(f"SELECT EXISTS (SELECT 1 FROM {quoted(item_type.table)})").fetchone()[0]
        )
        cursor = connection.execute(
            "INSERT INTO kod_types (name, stamped, key_types) VALUES (?, ?, ?)", (name, int(empty), key_types)
        )
        assert cursor.lastrowid is not None
        known[name] = cursor.lastrowid
        done.append(f"{name} takes part" + ("" if empty else "; its rows have no stamps yet: --stamp-existing"))
    return known


def _identity(connection: sqlite3.Connection, settings: NodeSettings, structure: Structure) -> list[str]:
    """SQLite gives out max + 1 and nothing else: what the setting asks for cannot be had, and that has to be said."""
    if settings.identity is None:
        return []
    generated = [t.name for t in structure.types.values() if t.generated_key]
    if not generated:
        return []
    return [
        f"identity {{step: {settings.identity[0]}, offset: {settings.identity[1]}}} cannot be set: SQLite generates "
        f"keys as the largest + 1; let the application give the keys of {', '.join(generated)}"
    ]


def _generated_keys(structure: Structure) -> list[Mismatch]:
    """One line for all tables: most SQLite tables have an INTEGER PRIMARY KEY."""
    tables = [t.table for t in structure.types.values() if t.table and t.generated_key]
    if not tables:
        return []
    text = (
        f"SQLite generates the keys of {', '.join(tables)} as the largest + 1: two nodes would give birth to "
        "different items under one key"
    )
    hint = "where several nodes write such a type, let the application give the keys (a UUID, say)"
    return [Mismatch("", None, "note", text, hint)]


def _check_type(connection: sqlite3.Connection, item_type: ItemType) -> list[Mismatch]:
    assert item_type.table is not None
    found = []

    def note(prop: str | None, effect: str, text: str, hint: str = "") -> None:
        found.append(Mismatch(item_type.name, prop, effect, text, hint))

    for field in item_type.key:
        form = Form.of(field)
        if form.xml == "decimal" and affinity_of(field.column.native if field.column else "") in ("TEXT", "BLOB"):
            note(
                field.name,
                "note",
                f"decimals as text in the key of {item_type.table}: 5.0 and 5 are one key, and two rows",
                "write them without zeros at the end",
            )
        if form.xml in ("float", "double"):
            note(field.name, "note", f"floating-point numbers in the key of {item_type.table}", "use whole numbers")
    if why := rights.unseen(connection, item_type):
        note(
            None,
            "note",
            f"{item_type.access} {why}: items that a node newly may see reach it only when they change",
            f"name the tables that it is made of: `access_from: [table, …]` for {item_type.name}",
        )
    for index in reflection.unique_indexes(connection, [item_type.table])[item_type.table]:
        if index.expression:
            note(
                None,
                "note",
                f"{item_type.table} has a unique index over an expression: rows that INSERT OR REPLACE removes by it "
                "are not noticed",
                "PRAGMA recursive_triggers = ON in the writing program, or DELETE and INSERT",
            )
    return found


def _dated_keys(reading: TypeReading, type_ids: Mapping[str, int], *, told: bool) -> str:
    """SELECT key, at: of all items of a type; by its date, or its owner's stamp, or the earliest. `told`: before that,
    by what is in kod_dated."""
    item_type = reading.item_type
    dates = (
        [f"CAST(round((julianday(r.{quoted(item_type.date)}) - 2440587.5) * 86400000.0) AS INTEGER)"]
        if item_type.date
        else []
    )
    if told:
        dates.insert(0, f"(SELECT d.at FROM temp.kod_dated d WHERE d.key = {reading.key_of_row('r')})")
    owner = item_type.owner_reference
    owner_id = type_ids.get(owner.target) if owner else None
    if owner and owner_id:
        named = {f.column.name: Form.of(f) for f in item_type.held if f.column}
        if all(c in named for c in owner.columns):
            key = key_array_sql([named[c] for c in owner.columns], [f"r.{quoted(c)}" for c in owner.columns])
            dates.append(f"(SELECT g.stamp FROM main.kod_register g WHERE g.type = {owner_id} AND g.key = {key})")
    at = f"coalesce({', '.join([*dates, '0'])}, 0)"
    return f"SELECT {reading.key_of_row('r')} AS key, max({at}) AS at FROM {reading.table} r GROUP BY 1"


def _mark_again(connection: sqlite3.Connection, stamp: Stamp) -> int:
    """Every item with a later stamp goes everywhere once more."""
    later = "(SELECT type, key FROM kod_register WHERE stamp > :stamp)"
    count = connection.execute(
        "INSERT INTO kod_log (type, key, at, gone, local) "
        "SELECT type, key, stamp, 0, 0 FROM kod_register WHERE stamp > :stamp",
        {"stamp": stamp},
    ).rowcount
    for table in ("kod_ahead", "kod_presence"):
        connection.execute(f"DELETE FROM {table} WHERE (type, key) IN {later}", {"stamp": stamp})
    connection.execute(
        "UPDATE kod_register SET source = NULL, known = NULL, mark = -1 WHERE stamp > :stamp", {"stamp": stamp}
    )
    return count


def _skip(connection: sqlite3.Connection, stamp: Stamp) -> int:
    """What lies up to the stamp and has not been sent will not be; -1: yet no neighbour is known to have it, so that
    what refers to it draws it along."""
    unsent = "FROM kod_register WHERE stamp <= :stamp AND mark > (SELECT coalesce(min(position), 0) FROM kod_outgoing)"
    (logged,) = connection.execute(
        "SELECT count(*) FROM (SELECT DISTINCT type, key FROM kod_log WHERE at <= :stamp)", {"stamp": stamp}
    ).fetchone()
    (marked,) = connection.execute(
        f"SELECT count(*) {unsent} AND (type, key) NOT IN (SELECT type, key FROM kod_log WHERE at <= :stamp)",
        {"stamp": stamp},
    ).fetchone()
    connection.execute(
        f"UPDATE kod_register SET mark = -1 WHERE (type, key) IN (SELECT type, key {unsent})", {"stamp": stamp}
    )
    connection.execute(
        "INSERT INTO kod_register (type, key, stamp, origin, mark, gone) "
        "SELECT type, key, max(at), (SELECT origin FROM kod_node), -1, 0 FROM kod_log WHERE at <= :stamp "
        "GROUP BY type, key HAVING max(local) "
        "ON CONFLICT (type, key) DO UPDATE SET stamp = max(stamp + 1, excluded.stamp), origin = excluded.origin, "
        "mark = -1, source = NULL",
        {"stamp": stamp},
    )
    connection.execute("DELETE FROM kod_log WHERE at <= :stamp", {"stamp": stamp})
    return int(logged) + int(marked)


def _story(connection: sqlite3.Connection, item: Item, key: tuple[int, str]) -> Story:
    row = connection.execute(
        "SELECT stamp, origin, seen, mark, source, gone FROM kod_register WHERE type = ? AND key = ?", key
    ).fetchone()
    (logged,) = connection.execute("SELECT EXISTS (SELECT 1 FROM kod_log WHERE type = ? AND key = ?)", key).fetchone()

    def nodes(table: str) -> tuple[str, ...]:
        rows = connection.execute(f"SELECT node FROM {table} WHERE type = ? AND key = ? ORDER BY node", key)
        return tuple(node for (node,) in rows)

    held = connection.execute(
        "SELECT node, since, drawn_by FROM kod_presence WHERE type = ? AND key = ? ORDER BY node", key
    ).fetchall()
    stamp, origin, seen, mark, source, gone = row or (None, None, None, 0, None, 0)
    wanted = token(item, mark)
    parcels = connection.execute(
        "SELECT node, session, manifest FROM kod_sent WHERE ? BETWEEN lowest AND highest ORDER BY node, session DESC",
        (wanted,),
    )
    return Story(
        exists=row is not None and not gone,
        stamp=Stamp(stamp) if stamp is not None else None,
        origin=origin,
        seen=orjson.loads(seen) if seen else None,
        mark=mark,
        source=source,
        gone=bool(gone),
        waiting_in_log=bool(logged),
        holders={node: Held(None if since is None else Stamp(since), drawn) for node, since, drawn in held},
        pending_for=nodes("kod_pending"),
        ahead_of=nodes("kod_ahead"),
        went=went(parcels, wanted),
    )

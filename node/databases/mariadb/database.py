"""node.databases.Database over MariaDB: installing, looking, mending. Each call opens its own connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import orjson

from dispatcher.manifest import token, went
from dispatcher.ports import Accepted, Content, Figures, Life, Parked, SendingView
from node.databases import Held, Installed, Standing, Story, adapted
from node.databases.mariadb import capture, checking, figures, history, naming, parking, reflection, registers, stamping
from node.databases.mariadb.adapting import MariadbRegisters
from node.databases.mariadb.connection import Connection, reading, transaction, translated, turn
from node.databases.mariadb.daemon import DaemonLock
from node.databases.mariadb.lexical import quoted
from node.databases.mariadb.reading import Reading, TypeReading
from node.databases.mariadb.reflection import quoted_table
from node.databases.mariadb.sending import MariadbSendingView
from node.databases.mariadb.store import MariadbStore
from node.databases.mariadb.writing import Writing
from schemas.errors import ConfigError
from schemas.network import NodeSettings
from schemas.stamp import EARLIEST, Stamp, digits
from schemas.structure import Mismatch, Structure
from schemas.tables import Table
from serializers import beside
from serializers.keys import Item
from serializers.message import Version


class MariadbDatabase:
    dialect = "mariadb"

    def __init__(self, url: str) -> None:
        self._url = url
        self._daemon_lock = DaemonLock(url)

    @contextmanager
    def _connected(self, *, installed: bool = False) -> Iterator[Connection]:
        connection = Connection(self._url)
        try:
            with translated():
                if installed and not registers.are_there(connection):
                    raise ConfigError("KOD's registers are not in this database", hint="kod install")
                yield connection
        finally:
            connection.close()

    # --- what is there

    def table_names(self) -> Sequence[str]:
        with self._connected() as connection:
            return reflection.table_names(connection)

    def reflect(self, names: Iterable[str]) -> Mapping[str, Table]:
        with self._connected() as connection:
            return reflection.reflect(connection, names)

    def check(self, structure: Structure) -> Sequence[Mismatch]:
        with self._connected() as connection:
            return checking.check(connection, structure)

    # --- install

    def install(self, settings: NodeSettings, structure: Structure, *, stamps_only: bool = False) -> Installed:
        """MariaDB ends a transaction with each CREATE: what was interrupted is finished by the next call, and a daemon
        does not start before."""
        done: list[str] = []
        with self._connected() as connection, self._alone(connection, settings, structure), turn(connection):
            checking.refuse(connection)
            if registers.create(connection):
                done.append("registers created")
            done += _name_node(connection, settings)
            own = MariadbRegisters(connection, structure)
            done += adapted.rename(settings, own)
            fresh = _register_types(connection, structure)
            type_ids = registers.type_ids(connection)
            done += capture.install(connection, structure, type_ids)
            done += _note_empty(connection, structure, fresh)
            with transaction(connection):
                done += adapted.adapt(settings, structure, own)
                naming.remember(connection, structure, type_ids)
            done += [] if stamps_only or not done else checking.identity(connection, settings, structure)
        return Installed(tuple(done))

    @contextmanager
    def _alone(self, connection: Connection, settings: NodeSettings, structure: Structure) -> Iterator[None]:
        """A daemon that runs has the registers by their old keys."""
        known = MariadbRegisters(connection, structure).types() if registers.are_there(connection) else {}
        with self.daemon_lock(settings.code) if adapted.rekeyed_types(structure, known) else nullcontext():
            yield

    def stamp_existing(
        self,
        structure: Structure,
        progress: Callable[[str, int, int], None],
        portion: int,
        dates: Mapping[str, Iterable[tuple[str, Stamp]]] | None = None,
    ) -> int:
        with self._connected(installed=True) as connection:
            return stamping.stamp_existing(connection, structure, progress, portion, dates or {})

    def uninstall(self) -> None:
        self._daemon_lock.close()
        with self._connected() as connection, turn(connection):
            if registers.are_there(connection):
                capture.uninstall(connection)
            registers.drop(connection)

    # --- the daemon's

    def store(self, settings: NodeSettings, structure: Structure) -> MariadbStore:
        return MariadbStore(self._url, settings, structure, self._daemon_lock)

    def daemon_lock(self, code: str) -> AbstractContextManager[None]:
        return self._daemon_lock.held(code)

    # --- whose life this is

    def standing(self) -> Standing:
        with self._connected(installed=True) as connection:
            incarnation, session, kept_at, network, told_incarnation, told_session, place = connection.one(
                "SELECT incarnation, COALESCE(last_session, 0), kept_at, network, told_incarnation, told_session,"
                " CONCAT(@@hostname, ':', @@port, ' ', @@datadir, ' ', DATABASE()) FROM kod_node"
            )
        told = Life(told_incarnation, Stamp(told_session)) if told_incarnation is not None else None
        return Standing(Life(incarnation, Stamp(session)), place, kept_at, network, told)

    def keep_at(self, place: str, network: str) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.run("UPDATE kod_node SET kept_at = %s, network = %s", (place, network))

    def begin_life(self, life: Life, *, links: bool) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.run(
                "UPDATE kod_node SET incarnation = %s, origin = CONCAT(code, '.', %s), last_session = %s,"
                " kept_at = NULL, told_incarnation = NULL, told_session = NULL",
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
                connection.run(f"DELETE FROM kod_{table}")
            connection.run("UPDATE kod_register SET source = NULL")

    # --- the commands'

    def figures(self) -> Figures:
        with self._connected(installed=True) as connection:
            return figures.figures(connection)

    def set_streams(self, *, send: int | None, receive: int | None, reset: bool = False) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            if reset:
                connection.run("UPDATE kod_node SET send_streams_max = NULL, receive_streams_max = NULL")
            connection.run(
                "UPDATE kod_node SET send_streams_max = COALESCE(%s, send_streams_max),"
                " receive_streams_max = COALESCE(%s, receive_streams_max)",
                (send, receive),
            )

    def ask_package(self, fingerprint: str) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.run("UPDATE kod_node SET package_asked = %s", (fingerprint,))

    def package(self) -> tuple[str | None, str | None]:
        with self._connected(installed=True) as connection:
            asked, used = connection.one(
                "SELECT package_asked, (SELECT fingerprint FROM kod_packages ORDER BY since DESC LIMIT 1) FROM kod_node"
            )
            return asked, used

    def set_draining(self, asked: bool) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            connection.run("UPDATE kod_node SET draining = %s", ("asked" if asked else None,))

    def boundary(self) -> Stamp | None:
        with self._connected(installed=True) as connection:
            return _boundary(connection)

    def set_boundary(self, stamp: Stamp, *, skip: bool) -> int:
        with self._connected(installed=True) as connection, transaction(connection):
            boundary = _boundary(connection)
            forward = boundary is None or stamp > boundary
            if forward and not skip:
                raise ConfigError(
                    f"the boundary is at {digits(boundary) if boundary is not None else 'the beginning'}:"
                    " going forward leaves what lies between unsent",
                    hint="--skip, if that is meant",
                )
            count = _skip(connection, stamp) if forward else _mark_again(connection, stamp)
            connection.run("UPDATE kod_node SET boundary = %s", (stamp,))
            return count

    def collisions(self) -> Sequence[Mapping[str, Any]]:
        with self._connected(installed=True) as connection:
            rows = connection.rows(
                "SELECT id, type, item_key, policy, sender, at, winner_stamp, winner_origin, winner_text,"
                " loser_stamp, loser_origin, loser_text FROM kod_collisions ORDER BY id"
            )
        version = ("stamp", "origin", "text")
        return [
            {
                "id": row[0],
                "type": row[1],
                "key": row[2].decode(),
                **dict(zip(("policy", "sender", "at"), row[3:6], strict=True)),
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
            chosen = ids or [number for (number,) in connection.rows("SELECT id FROM kod_parked")]
            return connection.many(
                "UPDATE kod_parked SET attempts = -1 WHERE id = %s AND NOT refused", [(n,) for n in chosen]
            )

    def discard_parked(self, parked_id: int) -> bool:
        with self._connected(installed=True) as connection, transaction(connection):
            return connection.run("DELETE FROM kod_parked WHERE id = %s", (parked_id,)) > 0

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        with self._connected(installed=True) as connection, transaction(connection):
            return history.add(connection, node, type_name, down_to, reason)

    def history_cancel(self, history_id: int) -> bool:
        with self._connected(installed=True) as connection, transaction(connection):
            return history.cancel(connection, history_id)

    def story(self, item: Item) -> Story:
        with self._connected(installed=True) as connection:
            known = connection.rows("SELECT id FROM kod_types WHERE name = %s", (item.type,))
            if not known:
                raise ConfigError(f"{item.type} is not known to the registers", hint="kod install")
            return _story(connection, item, (known[0][0], item.key.encode()))

    @contextmanager
    def looking(self, structure: Structure) -> Iterator[SendingView]:
        with self._connected(installed=True) as connection:
            for sql in registers.TEMPORARY:
                connection.run(sql)
            type_ids = registers.type_ids(connection)
            with reading(connection):
                whole = Reading(connection, structure, type_ids)
                view = MariadbSendingView(connection, structure, whole, type_ids)
                view.reads_only = True
                yield view

    def values(self, table: str, column: str) -> Sequence[str]:
        with self._connected() as connection:
            name = quoted(column)
            rows = connection.rows(
                f"SELECT DISTINCT CAST({name} AS CHAR) FROM {reflection.quoted_table(table)} WHERE {name} <> ''"
            )
            return sorted(value for (value,) in rows)

    def contents(self, structure: Structure, type_name: str) -> Iterator[Content]:
        item_type = structure[type_name]
        if item_type.table is None:
            return
        with self._connected(installed=True) as connection:
            for sql in registers.TEMPORARY:
                connection.run(sql)
            type_ids = registers.type_ids(connection)
            whole = TypeReading(item_type, type_ids[type_name])
            with reading(connection):
                keys = connection.rows(f"SELECT CAST({whole.key_of_row('r')} AS BINARY) FROM {whole.table} r")
                items = [Item(type_name, key) for key in dict.fromkeys(key.decode() for (key,) in keys)]
                yield from Reading(connection, structure, type_ids).contents(items)

    def stamp_again(self, items: Sequence[Item]) -> None:
        with self._connected(installed=True) as connection, transaction(connection):
            type_ids = registers.type_ids(connection)
            connection.many(
                # `gone` makes the fold look whether the item is there
                f"INSERT INTO kod_log (type, item_key, at, gone, local) SELECT %s, %s, {registers.NOW_MS}, 1, 1",
                [(type_ids[name], key.encode()) for name, key in items if name in type_ids],
            )

    def restore(self, structure: Structure, item: Item, value: Mapping[str, Any] | None) -> None:
        with self._connected(installed=True) as connection:
            for sql in registers.TEMPORARY:
                connection.run(sql)
            type_ids = registers.type_ids(connection)
            reader = Reading(connection, structure, type_ids)
            writing = Writing(connection, structure, reader, type_ids)
            with transaction(connection):
                existed = item in reader.existing([item])
                if value is not None or existed:
                    writing.write([Accepted(item, Version(EARLIEST, ""), {}, value, existed)])
                extra = beside.without_place(structure[item.type], value or {})
                if extra:
                    _keep_beside(connection, (type_ids[item.type], item.key.encode()), extra)

    def close(self) -> None:
        self._daemon_lock.close()


def _keep_beside(connection: Connection, key: tuple[int, bytes], extra: Mapping[str, Any]) -> None:
    """Properties without a column; the change itself gets its version at the fold."""
    rows = connection.rows("SELECT kept FROM kod_register WHERE type = %s AND item_key = %s", key)
    old = orjson.loads(rows[0][0]) if rows and rows[0][0] else {}
    (origin,) = connection.one("SELECT origin FROM kod_node")
    connection.run(
        "INSERT INTO kod_register (type, item_key, stamp, origin, mark, kept) VALUES (%s, %s, 0, %s, -1, %s)"
        " ON DUPLICATE KEY UPDATE kept = VALUES(kept)",
        (*key, origin, orjson.dumps({**old, **extra}).decode()),
    )


def _name_node(connection: Connection, settings: NodeSettings) -> list[str]:
    rows = connection.rows("SELECT code FROM kod_node")
    if not rows:
        (incarnation,) = connection.one(f"SELECT {registers.NOW_MS} DIV 1000")
        origin = f"{settings.code}.{incarnation}"
        connection.run(
            "INSERT INTO kod_node (one, version, code, incarnation, origin) VALUES (1, %s, %s, %s, %s)",
            (registers.VERSION, settings.code, incarnation, origin),
        )
        return [f"node {settings.code} begins as {origin}"]
    if rows[0][0] != settings.code:
        raise ConfigError(
            f"the database is installed for node {rows[0][0]!r}, not for {settings.code!r}",
            hint="is `database` in nodes.yaml the right one? else `kod uninstall` first",
        )
    return []


def _register_types(connection: Connection, structure: Structure) -> list[str]:
    """Gives every type a number; the names of those that are new."""
    known = {name for (name,) in connection.rows("SELECT name FROM kod_types")}
    fresh = []
    for name, item_type in structure.types.items():
        key_types = orjson.dumps([f.prop.target or f.prop.xml for f in item_type.key]).decode()
        if name in known:
            connection.run("UPDATE kod_types SET key_types = %s WHERE name = %s", (key_types, name))
        else:
            fresh.append(name)
            (number,) = connection.one("SELECT COALESCE(MAX(id), 0) + 1 FROM kod_types")
            connection.run("INSERT INTO kod_types (id, name, key_types) VALUES (%s, %s, %s)", (number, name, key_types))
    return fresh


def _note_empty(connection: Connection, structure: Structure, fresh: Sequence[str]) -> list[str]:
    """Types whose rows all have stamps from the first on: their tables are empty now that triggers watch them."""
    done = []
    for name in fresh:
        table = structure[name].table
        empty = table is None or not connection.rows(f"SELECT 1 FROM {quoted_table(table)} LIMIT 1")
        connection.run("UPDATE kod_types SET stamped = %s WHERE name = %s", (int(empty), name))
        done.append(f"{name} takes part" + ("" if empty else "; its rows have no stamps yet: --stamp-existing"))
    return done


def _boundary(connection: Connection) -> Stamp | None:
    (boundary,) = connection.one("SELECT boundary FROM kod_node")
    return Stamp(boundary) if boundary is not None else None


def _mark_again(connection: Connection, stamp: Stamp) -> int:
    """Every item with a later stamp goes everywhere once more."""
    connection.run(
        "INSERT INTO kod_log (type, item_key, at, gone, local)"
        " SELECT type, item_key, stamp, 0, 0 FROM kod_register WHERE stamp > %s",
        (stamp,),
    )
    for table in ("kod_ahead", "kod_presence"):
        connection.run(
            f"DELETE p FROM {table} p JOIN kod_register g ON g.type = p.type AND g.item_key = p.item_key"
            " WHERE g.stamp > %s",
            (stamp,),
        )
    return connection.run("UPDATE kod_register SET source = NULL, known = NULL, mark = -1 WHERE stamp > %s", (stamp,))


def _skip(connection: Connection, stamp: Stamp) -> int:
    """What lies up to the stamp and has not been sent will not be; -1: yet no neighbour is known to have it, so that
    what refers to it draws it along."""
    (behind,) = connection.one("SELECT COALESCE(MIN(position), 0) FROM kod_outgoing")
    logged = connection.rows("SELECT id, type, item_key, at, local FROM kod_log WHERE at <= %s", (stamp,))
    skipped = {(type_id, key) for _, type_id, key, _, _ in logged}
    marked = connection.rows(
        "SELECT type, item_key FROM kod_register WHERE stamp <= %s AND mark > %s", (stamp, max(behind, 0))
    )
    connection.many("UPDATE kod_register SET mark = -1 WHERE type = %s AND item_key = %s", marked)
    (origin,) = connection.one("SELECT origin FROM kod_node")
    changed: dict[tuple[int, bytes], int] = {}
    for _, type_id, key, at, local in logged:
        if local:
            changed[type_id, key] = max(at, changed.get((type_id, key), at))
    connection.many(
        "INSERT INTO kod_register (type, item_key, stamp, origin, mark, gone) VALUES (%s, %s, %s, %s, -1, 0)"
        " ON DUPLICATE KEY UPDATE stamp = GREATEST(stamp + 1, VALUES(stamp)), origin = VALUES(origin), mark = -1,"
        " source = NULL",
        [(type_id, key, at, origin) for (type_id, key), at in changed.items()],
    )
    connection.many("DELETE FROM kod_log WHERE id = %s", [(row[0],) for row in logged])
    return len(skipped | set(marked))


def _story(connection: Connection, item: Item, key: tuple[int, bytes]) -> Story:
    of_item = "WHERE type = %s AND item_key = %s"
    rows = connection.rows(f"SELECT stamp, origin, seen, mark, source, gone FROM kod_register {of_item}", key)
    logged = connection.rows(f"SELECT 1 FROM kod_log {of_item} LIMIT 1", key)

    def nodes(table: str) -> tuple[str, ...]:
        return tuple(node for (node,) in connection.rows(f"SELECT node FROM {table} {of_item} ORDER BY node", key))

    held = connection.rows(f"SELECT node, since, drawn_by FROM kod_presence {of_item} ORDER BY node", key)
    stamp, origin, seen, mark, source, gone = rows[0] if rows else (None, None, None, 0, None, 0)
    wanted = token(item, mark)
    parcels = connection.rows(
        "SELECT node, session, manifest FROM kod_sent WHERE %s BETWEEN lowest AND highest ORDER BY node, session DESC",
        (wanted,),
    )
    return Story(
        exists=bool(rows) and not gone,
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
        went=went(((node, session, bytes(packed)) for node, session, packed in parcels), wanted),
    )

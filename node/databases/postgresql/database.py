"""node.databases.Database over PostgreSQL: what install, check, status and the other commands need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import orjson
import psycopg

from dispatcher.manifest import token, went
from dispatcher.ports import Content, Figures, Life, Parked, SendingView
from node.databases import Held, Installed, Standing, Story, adapted
from node.databases.address import address_of
from node.databases.postgresql import capture, figures, history, naming, parking, reflection, stamping
from node.databases.postgresql.adapting import PostgresqlRegisters
from node.databases.postgresql.checking import check
from node.databases.postgresql.connecting import Connection, Connections, Statement, Transaction, streamed, translated
from node.databases.postgresql.daemon import DaemonLock
from node.databases.postgresql.reading import Reader, compile_all, record_set
from node.databases.postgresql.receiving import DEFERRED
from node.databases.postgresql.reflection import quoted_table
from node.databases.postgresql.registers import TABLES, TYPE_IDS, VERSION, TypeIds, folding
from node.databases.postgresql.sending import PostgresqlSendingView
from node.databases.postgresql.sequences import find_sequences, set_identity
from node.databases.postgresql.store import PostgresqlStore
from node.databases.postgresql.writing import Writer, Written
from schemas.errors import ConfigError, ConflictError
from schemas.network import NodeSettings
from schemas.stamp import Stamp, digits
from schemas.structure import Mismatch, Structure
from schemas.tables import Table
from serializers import beside
from serializers.keys import Item

_INSTALL_WAITS = "10s"
"""Triggers can only be made between the transactions of the application that write."""

# Everything that is on its way with a stamp up to $1: marked, and some neighbour is behind it; or pending. It counts
# as sent (-1), yet no neighbour is known to have it, so that what refers to it draws it along.
_SKIP = """
WITH behind AS (SELECT coalesce(min(position), 0) AS position FROM kod.outgoing),
skipped AS (
  UPDATE kod.register r SET mark = -1 FROM behind b
  WHERE r.stamp <= $1::bigint AND r.mark > 0 AND r.mark > b.position RETURNING r.type, r.key
), answered AS (
  DELETE FROM kod.pending p USING kod.register r
  WHERE r.type = p.type AND r.key = p.key AND r.stamp <= $1::bigint RETURNING p.type, p.key
)
SELECT count(*) FROM (SELECT type, key FROM skipped UNION SELECT type, key FROM answered) i"""

_MARK_AGAIN = """
WITH again AS (
  UPDATE kod.register SET source = NULL, known = NULL, mark = -1 WHERE stamp > $1::bigint RETURNING type, key, stamp
), ahead AS (
  DELETE FROM kod.ahead a USING kod.register r WHERE r.type = a.type AND r.key = a.key AND r.stamp > $1::bigint
), presence AS (
  DELETE FROM kod.presence p USING kod.register r WHERE r.type = p.type AND r.key = p.key AND r.stamp > $1::bigint
), logged AS (
  INSERT INTO kod.log (type, key, at, gone, local) SELECT type, key, stamp, false, false FROM again
)
SELECT count(*) FROM again"""

_STORY = """
SELECT r.stamp, r.origin, r.seen::text, r.mark, r.source, r.gone,
  EXISTS (SELECT FROM kod.log g WHERE g.type = i.type AND g.key = i.key),
  (SELECT json_object_agg(node, json_build_array(since, drawn_by) ORDER BY node)::text FROM kod.presence p
   WHERE p.type = i.type AND p.key = i.key),
  ARRAY(SELECT node FROM kod.pending p WHERE p.type = i.type AND p.key = i.key ORDER BY node),
  ARRAY(SELECT node FROM kod.ahead p WHERE p.type = i.type AND p.key = i.key ORDER BY node)
FROM (SELECT $1::smallint AS type, $2::text COLLATE "C" AS key) i
LEFT JOIN kod.register r ON r.type = i.type AND r.key = i.key"""

_PARCELS = """
SELECT node, session, manifest FROM kod.sent WHERE $1::bigint BETWEEN lowest AND highest ORDER BY node, session DESC"""

_STANDING = """
SELECT n.incarnation, n.last_session, n.kept_at, n.network, n.told_incarnation, n.told_session, d.oid, d.datname
FROM kod.node n JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()"""

_BEGIN_LIFE = """
UPDATE kod.node SET incarnation = $1::bigint, origin = code || '.' || $1, last_session = $2::bigint, kept_at = NULL,
  told_incarnation = NULL, told_session = NULL"""

_FORGET_LINKS = """
WITH outgoing AS (DELETE FROM kod.outgoing), incoming AS (DELETE FROM kod.incoming),
  received AS (DELETE FROM kod.received), ahead AS (DELETE FROM kod.ahead), pending AS (DELETE FROM kod.pending),
  presence AS (DELETE FROM kod.presence), history AS (DELETE FROM kod.history),
  sent AS (DELETE FROM kod.sent), below AS (DELETE FROM kod.below),
  held AS (DELETE FROM kod.held)
UPDATE kod.register SET source = NULL WHERE source IS NOT NULL"""

_COLLISIONS = """
SELECT c.id, t.name, c.key, c.policy, c.sender, c.at, c.winner_stamp, c.winner_origin, c.winner_text,
       c.loser_stamp, c.loser_origin, c.loser_text
FROM kod.collisions c JOIN kod.types t ON t.id = c.type ORDER BY c.id"""


# Properties without a column, kept beside the register; the change itself gets its version at the fold.
_KEEP = """
INSERT INTO kod.register AS r (type, key, stamp, origin, mark, kept)
SELECT $1::smallint, $2, 0, origin, -1, $3 FROM kod.node
ON CONFLICT (type, key) DO UPDATE SET kept = (coalesce(r.kept, '{}')::jsonb || excluded.kept::jsonb)::text"""


class PostgresqlDatabase:
    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        self._connections = Connections(url)
        self._daemon_lock = DaemonLock(self._connections)
        address = address_of(url)
        self._server = (
            f"{address.host or ','.join(address.query.get('host', ())) or 'localhost'}:{address.port or 5432}"
        )

    # --- what is there

    def table_names(self) -> Sequence[str]:
        with self._connections.connection() as connection:
            return reflection.table_names(connection)

    def reflect(self, names: Iterable[str]) -> Mapping[str, Table]:
        with self._connections.connection() as connection:
            return reflection.reflect(connection, names)

    def check(self, structure: Structure) -> Sequence[Mismatch]:
        with self._connections.connection() as connection:
            return check(connection, structure)

    # --- install

    def install(self, settings: NodeSettings, structure: Structure, *, stamps_only: bool = False) -> Installed:
        connection = self._connections.open(lock_timeout=_INSTALL_WAITS)
        try:
            known = PostgresqlRegisters(connection, structure).types() if capture.are_there(connection) else {}
            # a daemon that runs has the registers by their old keys
            alone = self.daemon_lock(settings.code) if adapted.rekeyed_types(structure, known) else nullcontext()
            with alone, translated(), connection.transaction():
                return Installed(tuple(_install(connection, settings, structure, stamps_only=stamps_only)))
        finally:
            connection.close()

    def stamp_existing(
        self,
        structure: Structure,
        progress: Callable[[str, int, int], None],
        portion: int,
        dates: Mapping[str, Iterable[tuple[str, Stamp]]] | None = None,
    ) -> int:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            return stamping.stamp_existing(connection, structure, progress, portion, dates or {})

    def uninstall(self) -> None:
        self._connections.close_idle()
        connection = self._connections.open(lock_timeout=_INSTALL_WAITS, client_min_messages="warning")
        try:
            with translated():
                connection.execute("DROP SCHEMA IF EXISTS kod CASCADE")
        finally:
            connection.close()

    # --- the daemon's

    def store(self, settings: NodeSettings, structure: Structure) -> PostgresqlStore:
        return PostgresqlStore(self._connections, settings, structure, self._daemon_lock)

    def daemon_lock(self, code: str) -> AbstractContextManager[None]:
        return self._daemon_lock.held(code)

    # --- whose life this is

    def standing(self) -> Standing:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            row = connection.execute(_STANDING).fetchone()
            assert row is not None
            incarnation, session, kept_at, network, *told, number, name = row
            place = f"{name} (oid {number}) at {self._server}, system {_system_identifier(connection)}"
        told_life = Life(*told) if told[0] is not None else None
        return Standing(Life(incarnation, Stamp(session)), place, kept_at, network, told_life)

    def keep_at(self, place: str, network: str) -> None:
        with self._connections.connection() as connection:
            connection.execute("UPDATE kod.node SET kept_at = $1, network = $2", (place, network))

    def begin_life(self, life: Life, *, links: bool) -> None:
        with self._connections.transaction() as transaction:
            transaction.queue(Statement(_BEGIN_LIFE, tuple(map(str, life))))
            if not links:
                transaction.queue(Statement(_FORGET_LINKS))

    # --- the commands'

    def figures(self) -> Figures:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            return figures.figures(connection)

    def set_streams(self, *, send: int | None, receive: int | None, reset: bool = False) -> None:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            connection.execute(
                "UPDATE kod.node SET"
                " send_streams_max = coalesce($1::int, CASE WHEN NOT $3::boolean THEN send_streams_max END),"
                " receive_streams_max = coalesce($2::int, CASE WHEN NOT $3::boolean THEN receive_streams_max END)",
                (_text(send), _text(receive), str(reset).lower()),
            )

    def ask_package(self, fingerprint: str) -> None:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            connection.execute("UPDATE kod.node SET package_asked = $1", (fingerprint,))

    def package(self) -> tuple[str | None, str | None]:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            row = connection.execute(
                "SELECT package_asked, (SELECT fingerprint FROM kod.packages ORDER BY since DESC LIMIT 1) FROM kod.node"
            ).fetchone()
        return (row[0], row[1]) if row else (None, None)

    def set_draining(self, asked: bool) -> None:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            connection.execute("UPDATE kod.node SET draining = $1", ("asked" if asked else None,))

    def boundary(self) -> Stamp | None:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            return _boundary(connection)

    def set_boundary(self, stamp: Stamp, *, skip: bool) -> int:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            boundary = _boundary(connection)
            structure_free = Structure({})
            ids = TypeIds(connection.execute(TYPE_IDS.sql).fetchall())
        forward = boundary is None or stamp > boundary
        if forward and not skip:
            raise ConfigError(
                f"the boundary is at {digits(boundary) if boundary is not None else 'the beginning'}:"
                " going forward leaves what lies between unsent",
                hint="--skip, if that is meant",
            )
        return self._again(lambda t: _move_boundary(t, stamp, structure_free, ids, forward=forward))

    def _again(self, act: Callable[[Transaction], int]) -> int:
        """A daemon may fold at the same time: one of the two then tries again."""
        for _ in range(20):
            try:
                with self._connections.transaction("REPEATABLE READ") as transaction:
                    return act(transaction)
            except ConflictError:
                continue
        raise ConflictError("the database is busy: the daemon's work got in between every time")

    def collisions(self) -> Sequence[Mapping[str, Any]]:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            rows = connection.execute(_COLLISIONS).fetchall()
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
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            return parking.parked(connection)

    def retry_parked(self, ids: Sequence[int]) -> int:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            asked = (
                "UPDATE kod.parked SET attempts = -1"
                " WHERE NOT refused AND (cardinality($1::bigint[]) = 0 OR id = ANY ($1::bigint[]))"
            )
            return connection.execute(asked, (list(ids),)).rowcount

    def discard_parked(self, parked_id: int) -> bool:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            return connection.execute("DELETE FROM kod.parked WHERE id = $1", (parked_id,)).rowcount > 0

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        with self._connections.transaction() as transaction:
            return history.add(transaction, node, type_name, down_to, reason)

    def history_cancel(self, history_id: int) -> bool:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            return history.cancel(connection, history_id)

    def story(self, item: Item) -> Story:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            known = connection.execute("SELECT id FROM kod.types WHERE name = $1", (item.type,)).fetchone()
            if known is None:
                raise ConfigError(f"{item.type} is not known to the registers", hint="kod install")
            row = connection.execute(_STORY, (str(known[0]), item.key)).fetchone()
            assert row is not None
            stamp, origin, seen, mark, source, gone, logged, holders, pending, ahead = row
            wanted = token(item, mark or 0)
            parcels = connection.execute(_PARCELS, (str(wanted),)).fetchall()
        return Story(
            exists=stamp is not None and not gone,
            stamp=None if stamp is None else Stamp(stamp),
            origin=origin,
            seen=orjson.loads(seen) if seen else None,
            mark=mark or 0,
            source=source,
            gone=bool(gone),
            waiting_in_log=logged,
            holders={
                node: Held(None if since is None else Stamp(since), drawn_by)
                for node, (since, drawn_by) in orjson.loads(holders or "{}").items()
            },
            pending_for=tuple(pending),
            ahead_of=tuple(ahead),
            went=went(((node, session, bytes(packed)) for node, session, packed in parcels), wanted),
        )

    @contextmanager
    def looking(self, structure: Structure) -> Iterator[SendingView]:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            ids = TypeIds(connection.execute(TYPE_IDS.sql).fetchall())
        with self._connections.transaction("REPEATABLE READ READ ONLY") as transaction:
            view = PostgresqlSendingView(transaction, structure, {}, ids, Reader(structure, ids, set()))
            view.reads_only = True
            yield view

    def values(self, table: str, column: str) -> Sequence[str]:
        with self._connections.connection() as connection:
            name = f"{reflection.quoted(column)}::text"
            rows = connection.execute(
                f"SELECT DISTINCT {name} FROM {reflection.quoted_table(table)} WHERE {name} <> ''"
            ).fetchall()
            return sorted(value for (value,) in rows)

    def contents(self, structure: Structure, type_name: str) -> Iterator[Content]:
        item_type = structure[type_name]
        if item_type.table is None:
            return
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            ids = TypeIds(connection.execute(TYPE_IDS.sql).fetchall())
            sql = compile_all(item_type, ids.id(type_name), kept=True)
            with connection.transaction(), streamed(connection, sql) as rows:
                for key, text in rows:
                    item = Item(type_name, key.decode())
                    yield Content(item, text if item_type.is_object else record_set(item_type, item.key, text))

    def stamp_again(self, items: Sequence[Item]) -> None:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            ids = TypeIds(connection.execute(TYPE_IDS.sql).fetchall())
            connection.execute(*stamping.again(ids, items))

    def restore(self, structure: Structure, item: Item, value: Mapping[str, Any] | None) -> None:
        with self._connections.connection() as connection:
            _must_be_installed(connection)
            ids = TypeIds(connection.execute(TYPE_IDS.sql).fetchall())
            tables = reflection.reflect(connection, capture.tables_of(structure))
        item_type = structure[item.type]
        with self._connections.transaction("READ COMMITTED", DEFERRED) as transaction:
            (there,) = Reader(structure, ids, set()).read(transaction, [item])
            written = Written(item, value, existed=there is not None)
            if value is not None or there is not None:
                transaction.run(*Writer(structure, tables).statements([written]))
            extra = beside.without_place(item_type, value or {}) if item_type.table else {}
            if extra:
                transaction.queue(Statement(_KEEP, (str(ids.id(item.type)), item.key, orjson.dumps(extra).decode())))

    def close(self) -> None:
        self._connections.close()


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


def _system_identifier(connection: Connection) -> str:
    """The cluster's. A replica that was promoted has it too: a failover is no move."""
    try:
        row = connection.execute("SELECT system_identifier FROM pg_catalog.pg_control_system()").fetchone()
    except psycopg.errors.InsufficientPrivilege:  # where the server keeps it from us, name and address have to do
        return "unknown"
    return str(row[0]) if row else "unknown"


def _must_be_installed(connection: Connection) -> None:
    if not capture.are_there(connection):
        raise ConfigError("KOD's registers are not in this database", hint="kod install")


def _boundary(connection: Connection) -> Stamp | None:
    row = connection.execute("SELECT boundary FROM kod.node").fetchone()
    return Stamp(row[0]) if row and row[0] is not None else None


def _move_boundary(transaction: Transaction, stamp: Stamp, structure: Structure, ids: TypeIds, *, forward: bool) -> int:
    if forward:
        folding(transaction, structure, ids)  # what is in the log has no mark yet
    (count,) = transaction.one(Statement(_SKIP if forward else _MARK_AGAIN, (str(stamp),)))
    transaction.queue(Statement("UPDATE kod.node SET boundary = $1::bigint", (str(stamp),)))
    return int(count)


def _install(
    connection: Connection, settings: NodeSettings, structure: Structure, *, stamps_only: bool
) -> Iterable[str]:
    done = []
    if not capture.are_there(connection):
        connection.execute(TABLES)
        done.append("registers created")
    done += _name_node(connection, settings)
    own = PostgresqlRegisters(connection, structure)
    done += adapted.rename(settings, own)
    fresh = _register_types(connection, structure)
    if capture.install(connection, structure):
        done.append("capture triggers created")
    done += _note_empty(connection, structure, fresh)
    done += adapted.adapt(settings, structure, own)
    ids = TypeIds(connection.execute(TYPE_IDS.sql).fetchall())
    for item_type in structure.types.values():
        if item_type.predefined is not None:
            connection.execute(naming.remembering(item_type.predefined, ids.id(item_type.name)))
    return done if stamps_only else [*done, *_identity(connection, settings, structure)]


def _name_node(connection: Connection, settings: NodeSettings) -> list[str]:
    row = connection.execute("SELECT code FROM kod.node").fetchone()
    if row is None:
        made = connection.execute(
            "INSERT INTO kod.node (version, code, incarnation, origin)"
            " SELECT $1::int, $2::text, i, $2::text || '.' || i"
            " FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint AS i) n RETURNING origin",
            (str(VERSION), settings.code),
        ).fetchone()
        return [f"node {settings.code} begins as {made[0] if made else ''}"]
    if row[0] != settings.code:
        raise ConfigError(
            f"the database is installed for node {row[0]!r}, not for {settings.code!r}",
            hint="is `database` in nodes.yaml the right one? else `kod uninstall` first",
        )
    return []


def _register_types(connection: Connection, structure: Structure) -> list[str]:
    """Gives every type a number; the names of those that are new."""
    known = {name: number for number, name in connection.execute(TYPE_IDS.sql).fetchall()}
    fresh = []
    for name, item_type in structure.types.items():
        key_types = orjson.dumps([f.prop.target or f.prop.xml for f in item_type.key]).decode()
        if name in known:
            connection.execute("UPDATE kod.types SET key_types = $2::json WHERE name = $1", (name, key_types))
        else:
            fresh.append(name)
            connection.execute(
                "INSERT INTO kod.types (id, name, key_types)"
                " SELECT coalesce(max(id), 0) + 1, $1, $2::json FROM kod.types",
                (name, key_types),
            )
    return fresh


def _note_empty(connection: Connection, structure: Structure, fresh: Sequence[str]) -> list[str]:
    """Types whose rows all have stamps from the first on: their tables are empty now that triggers watch them."""
    done = []
    for name in fresh:
        table = structure[name].table
        empty = table is None
        if table is not None:
            row = connection.execute(f"SELECT NOT EXISTS (SELECT FROM {quoted_table(table)})").fetchone()
            empty = bool(row and row[0])
        if empty:
            connection.execute("UPDATE kod.types SET stamped = true WHERE name = $1", (name,))
        done.append(f"{name} takes part" + ("" if empty else "; its rows have no stamps yet: --stamp-existing"))
    return done


def _identity(connection: Connection, settings: NodeSettings, structure: Structure) -> list[str]:
    if settings.identity is None:
        return []
    step, offset = settings.identity
    tables = reflection.reflect(connection, capture.tables_of(structure))
    done = (
        set_identity(connection, table, column, sequence, step, offset)
        for (table, column), sequence in find_sequences(connection, tables).items()
    )
    return [text for text in done if text]

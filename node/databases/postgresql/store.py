"""dispatcher.ports.Store over PostgreSQL. Connections are taken when they are needed, one for each open transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import orjson

from dispatcher.manifest import KEPT_MAX, SESSION_COST
from dispatcher.ports import (
    Change,
    Draining,
    Figures,
    History,
    Hooked,
    Incoming,
    Life,
    Outgoing,
    Parked,
    Reason,
    ReceivingView,
    SendingView,
    Sent,
)
from node.databases.postgresql import capture, figures, history, parking
from node.databases.postgresql.connecting import Connection, Connections, Statement, UnreadableError, translated
from node.databases.postgresql.daemon import DaemonLock
from node.databases.postgresql.hooked import hook_tables
from node.databases.postgresql.reading import Reader
from node.databases.postgresql.receiving import DEFERRED, SETTINGS, PostgresqlReceivingView
from node.databases.postgresql.references import find_references
from node.databases.postgresql.registers import NOW_MS, STAMPED_WAIT, TYPE_IDS, TypeIds, folding
from node.databases.postgresql.sending import PostgresqlSendingView
from node.databases.postgresql.sequences import Sequences, find_sequences
from node.databases.postgresql.writing import Writer
from schemas.errors import ConflictError, KodError, MessageError, UnavailableError
from schemas.network import NodeSettings
from schemas.stamp import Stamp
from schemas.structure import Structure

VACUUM_AFTER_ROWS = 20_000
"""Rows taken from the logs, of changes and of rights, after which they are vacuumed: polling reads their pages, dead
rows and all."""

TRUNCATE_AFTER_ROWS = 100_000
VACUUM_WAIT_S = 0.1

# Whether anything is visible in the log. The same snapshot as last time sees the same: then the log is not looked at.
_HAS_CHANGES = """
SELECT s.snapshot, CASE WHEN s.snapshot = $1 THEN NULL
  ELSE EXISTS (SELECT FROM kod.log) OR EXISTS (SELECT FROM kod.rights) OR EXISTS (SELECT FROM kod.walks) END
FROM (SELECT pg_current_snapshot()::text AS snapshot OFFSET 0) s"""

# What has its mark and has not been sent, after a crash, say.
_UNSENT = """
SELECT EXISTS (SELECT FROM kod.register r WHERE r.mark > 0 AND r.mark > (SELECT min(position) FROM kod.outgoing))
  OR EXISTS (SELECT FROM kod.pending)"""

_OUTGOING = f"""
SELECT o.node, o.position, o.last_session,
  (SELECT count(*) FROM (SELECT FROM kod.pending p WHERE p.node = o.node LIMIT 1000) p),
  coalesce((SELECT max(mark) FROM kod.ahead a WHERE a.node = o.node), 0), coalesce(h.state = 'open', false),
  o.restart > 0, o.wish, CASE WHEN o.wish IS NULL AND NOT EXISTS (SELECT FROM kod.parked p
      WHERE p.node = o.node AND NOT p.refused)
    THEN (SELECT completed FROM kod.incoming i WHERE i.node = o.node) END, {history.JOINED}
FROM kod.outgoing o LEFT JOIN kod.history h ON h.id = o.history ORDER BY o.node"""

_INCOMING = """
SELECT i.incarnation, i.session, i.completed, i.position,
  ARRAY(SELECT number FROM kod.received r WHERE r.node = i.node AND r.session = i.session),
  i.fault IS NOT NULL AND EXISTS (SELECT FROM kod.outgoing o WHERE o.node = i.node AND o.wish IS NULL)
FROM kod.incoming i WHERE i.node = $1"""

# $1 the neighbours: others are served no more.
_OLD_LINKS = """
WITH old AS (
  DELETE FROM kod.outgoing WHERE node NOT IN (SELECT json_array_elements_text($1::json)) RETURNING node
), ahead AS (
  DELETE FROM kod.ahead a USING old WHERE a.node = old.node
), history AS (
  DELETE FROM kod.history h USING old WHERE h.node = old.node
), sent AS (
  DELETE FROM kod.sent s USING old WHERE s.node = old.node
), held AS (
  DELETE FROM kod.held h USING old WHERE h.node = old.node
)
DELETE FROM kod.pending p USING old WHERE p.node = old.node"""

_NEW_LINKS = """
SELECT x.node FROM json_array_elements_text($1::json) AS x(node)
WHERE NOT EXISTS (SELECT FROM kod.outgoing o WHERE o.node = x.node)"""
_NEW_LINK = """
WITH link AS (INSERT INTO kod.outgoing (node) VALUES ($1))
INSERT INTO kod.incoming (node) VALUES ($1) ON CONFLICT DO NOTHING"""

# Nothing is known any more of what the neighbour has; 2: it may lack what came from it, too.
_RESTART = """
WITH asked AS (
  SELECT restart FROM kod.outgoing WHERE node = $1
), ahead AS (
  DELETE FROM kod.ahead WHERE node = $1
), held AS (
  UPDATE kod.presence SET since = NULL WHERE node = $1
), marked AS (
  UPDATE kod.register r SET source = NULL FROM asked a WHERE a.restart = 2 AND r.source = $1
)
UPDATE kod.outgoing SET restart = 0 WHERE node = $1"""

# A commit that is waited for makes durable all that were not. It needs something to write.
_FLUSH = Statement("SELECT pg_logical_emit_message(true, 'kod', '')")

# $1 node, $2 position, $3 stamp, $4 messages, $5 items, $6 bytes, $7 facts, $8 $9 $10 manifest
_SENT = """
WITH noted AS (
  INSERT INTO kod.sent (node, session, items, lowest, highest, manifest)
  SELECT $1, $3::bigint, $5::bigint, $8::bigint, $9::bigint, decode($10, 'hex') WHERE $10 IS NOT NULL
  ON CONFLICT DO NOTHING
)
UPDATE kod.outgoing SET position = greatest(position, $2::bigint), last_session = coalesce($3::bigint, last_session),
  messages = messages + $4::bigint, items = items + $5::bigint, size_bytes = size_bytes + $6::bigint,
  last_session_facts = coalesce($7::json, last_session_facts)
WHERE node = $1"""

_FORGET_SESSIONS = f"""
DELETE FROM kod.sent s USING (
  SELECT node, session, sum(items + {SESSION_COST}) OVER (PARTITION BY node ORDER BY session DESC) AS later
  FROM kod.sent
) x WHERE x.node = s.node AND x.session = s.session AND x.later > {KEPT_MAX}"""

_CHANGES = "json_to_recordset($2::json) AS x(t smallint, k text, m bigint)"
_AHEAD = f"""
INSERT INTO kod.ahead AS a (node, type, key, mark) SELECT $1, t, k, m FROM {_CHANGES}
ON CONFLICT (node, type, key) DO UPDATE SET mark = greatest(a.mark, excluded.mark)"""
_SETTLED = f"""
DELETE FROM kod.pending p USING {_CHANGES} WHERE p.node = $1 AND p.type = t AND p.key = k AND p.mark <= m"""
_DEFERRED = f"""
INSERT INTO kod.pending AS p (node, type, key, mark) SELECT $1, t, k, m FROM {_CHANGES}
ON CONFLICT (node, type, key) DO UPDATE SET mark = greatest(p.mark, excluded.mark)"""

_NEW_INCARNATION = """
WITH received AS (DELETE FROM kod.received WHERE node = $1)
UPDATE kod.incoming SET incarnation = $2::bigint, session = NULL, completed = NULL WHERE node = $1"""

_TOLD = """
UPDATE kod.node SET told_incarnation = $1::bigint, told_session = $2::bigint
WHERE (incarnation, last_session) < ($1::bigint, $2::bigint)"""

# $1 the mark up to which all have it, $2 the moment before which it was deleted. What is parked may bear it.
_PURGE = """
WITH old AS (
  DELETE FROM kod.register r WHERE gone AND mark BETWEEN 0 AND $1::bigint AND stamp < $2::bigint
    AND NOT EXISTS (SELECT FROM kod.parked WHERE NOT refused)
    AND NOT EXISTS (SELECT FROM kod.log x WHERE x.type = r.type AND x.key = r.key)
    AND NOT EXISTS (SELECT FROM kod.ahead x WHERE x.type = r.type AND x.key = r.key)
    AND NOT EXISTS (SELECT FROM kod.pending x WHERE x.type = r.type AND x.key = r.key)
  RETURNING type, key
), held AS (
  DELETE FROM kod.presence p USING old WHERE p.type = old.type AND p.key = old.key
), ways AS (
  DELETE FROM kod.ways w USING old WHERE w.type = old.type AND w.item_key = old.key
)
SELECT count(*) FROM old"""

# A new one, or an earlier one again.
_NOTE_PACKAGE = f"""
INSERT INTO kod.packages AS p (fingerprint, since)
SELECT $1, greatest({NOW_MS}, (SELECT coalesce(max(since), 0) + 1 FROM kod.packages))
WHERE $1 <> '' AND $1 IS DISTINCT FROM (SELECT fingerprint FROM kod.packages ORDER BY since DESC LIMIT 1)
ON CONFLICT (fingerprint) DO UPDATE SET since = excluded.since"""

# $1 node, $2 its package, $3 the last session that it has whole
_HEARD = f"""
WITH named AS (
  UPDATE kod.incoming SET package = $2, package_since = {NOW_MS}
  WHERE node = $1 AND package IS DISTINCT FROM coalesce($2, package)
)
UPDATE kod.outgoing SET arrived = $3::bigint WHERE node = $1 AND $3::bigint IS NOT NULL"""

_LINK_FAULT = """
INSERT INTO kod.incoming AS i (node, fault) VALUES ($1, $2)
ON CONFLICT (node) DO UPDATE SET fault = excluded.fault WHERE i.fault IS DISTINCT FROM excluded.fault"""


class PostgresqlStore:
    def __init__(
        self, connections: Connections, settings: NodeSettings, structure: Structure, daemon_lock: DaemonLock
    ) -> None:
        """Nothing is asked before `start`."""
        self._connections = connections
        # Nothing leaves the bus before `flush`; what leaves this node is made durable by the sender's own commit.
        self._applying = connections.others(**SETTINGS, synchronous_commit="off")
        # A fold of hundreds of thousands of log rows sorts and groups them in memory, not on disk.
        self._folders = connections.others(work_mem="64MB")
        # Lost with a crash of the server, a session counts as not recorded and goes out once more.
        self._recording = connections.others(synchronous_commit="off")
        self._watching: dict[str, Connection] = {}
        """For each sender a connection that is older than any of its messages that are not durable yet."""
        self._beginning: tuple[Statement, ...] = ()
        self._settings = settings
        self._structure = structure
        self._daemon_lock = daemon_lock
        self._folding = threading.Lock()
        self._snapshot = ""
        self._log_has_rows = True
        self._folded_aside = False
        """A receiver has folded changes of the application: they are not in the log any more, and not sent yet."""
        self._folded_rows = 0
        self._tidying = ThreadPoolExecutor(1, thread_name_prefix="vacuum")
        self._vacuuming: Future[None] | None = None
        self._with_kept: set[str] = set()
        self._any_ahead = True
        self.origin = ""

    def start(self, neighbours: Sequence[str], below: Mapping[str, str] | None = None) -> None:
        with self._connections.connection() as connection:
            self.origin = capture.own_origin(connection, self._settings)
            capture.check(connection, self._structure, self._structure.tables)
            tables = {name: self._structure.tables[name] for name in capture.tables_of(self._structure)}
            self._ids = TypeIds(connection.execute(TYPE_IDS.sql).fetchall())
            kept = connection.execute("SELECT DISTINCT type FROM kod.register WHERE kept IS NOT NULL").fetchall()
            self._with_kept.update(self._ids.name(number) for (number,) in kept)
            sequences = find_sequences(connection, tables)
            self._references = find_references(connection, self._structure)
            deferrable = connection.execute("SELECT FROM pg_constraint WHERE condeferrable LIMIT 1").fetchone()
        self._beginning = (DEFERRED,) if deferrable is not None else ()
        self._tables = tables
        self._reader = Reader(self._structure, self._ids, self._with_kept)
        self._writer = Writer(self._structure, tables)
        self._sequences = Sequences(self._structure, sequences)
        with self._connections.transaction() as transaction:
            transaction.queue(Statement(_NOTE_PACKAGE, (self._structure.fingerprint,)))
            names = orjson.dumps(list(neighbours)).decode()
            _, new = transaction.run(Statement(_OLD_LINKS, (names,)), Statement(_NEW_LINKS, (names,)))
        if new:
            self._begin_links([node for (node,) in new])
        if below is not None:
            self._meet(below, [node for (node,) in new])
        with self._connections.transaction() as transaction:
            (self._folded_aside,) = transaction.one(Statement(_UNSENT))

    def _begin_links(self, nodes: Sequence[str]) -> None:
        with self._folders.transaction("REPEATABLE READ") as transaction:
            if transaction.one(Statement("SELECT EXISTS (SELECT FROM kod.register)"))[0]:
                # what is in the log goes by history with what is older; where nothing is, it goes live
                folding(transaction, self._structure, self._ids)
            for node in nodes:
                transaction.run(Statement(_NEW_LINK, (node,)))
                history.begin_again(transaction, node, "new neighbour")

    def _meet(self, below: Mapping[str, str], new: Sequence[str]) -> None:
        """What goes to a new link goes by its history, whoever is below it."""
        with self._connections.transaction() as transaction:
            known = {(node, via) for node, via in transaction.rows(Statement("SELECT node, via FROM kod.below"))}
            transaction.queue(Statement("DELETE FROM kod.below"))
            insert = "INSERT INTO kod.below (node, via) SELECT key, value FROM json_each_text($1::json)"
            transaction.queue(Statement(insert, (orjson.dumps(dict(below)).decode(),)))
            if any(via not in new for _, via in below.items() - known):
                numbers = orjson.dumps([self._ids.id(name) for name in self._structure.with_rights]).decode()
                note = "INSERT INTO kod.rights (type) SELECT t::smallint FROM json_array_elements_text($1::json) t"
                transaction.queue(Statement(note, (numbers,)))

    def check(self) -> None:
        with self._connections.connection() as connection:
            capture.check(connection, self._structure, capture.captured_tables(connection, self._structure))

    # --- questions

    def has_changes(self) -> bool:
        """One round trip; on the connection that holds the daemon's lock, so that its loss is noticed."""
        with self._daemon_lock.connection() as connection:
            (((snapshot, found),),) = connection.run([Statement(_HAS_CHANGES, (self._snapshot,))])
        if found is not None:
            self._snapshot, self._log_has_rows = snapshot, found
        return self._log_has_rows or self._folded_aside

    def outgoing(self) -> Sequence[Outgoing]:
        """On the same connection: who is busy asks for nothing else between two steps."""
        with self._daemon_lock.connection() as connection:
            (rows,) = connection.run([Statement(_OUTGOING)])
        links = [_outgoing(row) for row in rows]
        self._any_ahead = any(link.ahead for link in links)
        return links

    def incoming(self, node: str) -> Incoming:
        self._watch(node)
        with self._connections.connection() as connection:
            row = connection.execute(_INCOMING, (node,)).fetchone()
        if row is None:
            return Incoming(node)
        incarnation, session, completed, position, done, catching_up = row
        return Incoming(node, incarnation, session, frozenset(done), completed, position, catching_up)

    def streams(self) -> tuple[int | None, int | None]:
        with self._connections.connection() as connection:
            row = connection.execute("SELECT send_streams_max, receive_streams_max FROM kod.node").fetchone()
        return (row[0], row[1]) if row else (None, None)

    def package_asked(self) -> str | None:
        with self._connections.connection() as connection:
            row = connection.execute("SELECT package_asked FROM kod.node").fetchone()
        return row[0] if row else None

    def package_settled(self) -> None:
        with self._connections.connection() as connection:
            connection.execute("UPDATE kod.node SET package_asked = NULL")

    def draining(self) -> Draining | None:
        with self._connections.connection() as connection:
            row = connection.execute("SELECT draining FROM kod.node").fetchone()
        return row[0] if row else None

    def drained(self) -> None:
        with self._connections.connection() as connection:
            connection.execute("UPDATE kod.node SET draining = 'done' WHERE draining = 'asked'")

    def heard(self, node: str, *, package: str | None, received: Stamp | None) -> None:
        with self._connections.connection() as connection:
            connection.execute(_HEARD, (node, package, None if received is None else str(received)))

    def figures(self) -> Figures:
        with self._connections.connection() as connection:
            return figures.figures(connection)

    def parked(self) -> Sequence[Parked]:
        with self._connections.connection() as connection:
            return parking.parked(connection)

    def retry_asked(self) -> bool:
        with self._connections.connection() as connection:
            return connection.execute("SELECT FROM kod.parked WHERE attempts < 0 LIMIT 1").fetchone() is not None

    def parked_again(self, parked_id: int, reason: Reason) -> None:
        with self._connections.connection() as connection:
            parking.parked_again(connection, parked_id, reason)

    # --- transactions

    @contextmanager
    def sending(self) -> Iterator[SendingView]:
        self._wait_for_vacuum()
        with self._folding:
            aside, self._folded_aside = self._folded_aside, False
            try:
                with self._folders.transaction("REPEATABLE READ") as transaction:
                    view = PostgresqlSendingView(transaction, self._structure, self._tables, self._ids, self._reader)
                    yield view
                    transaction.queue(*view.finish())
            except BaseException:
                self._folded_aside = aside
                raise
        self._count_folded(view.folded_rows)

    @contextmanager
    def receiving(self, sender: str, *, forward: bool, limited: frozenset[str]) -> Iterator[ReceivingView]:
        view: PostgresqlReceivingView | None = None
        try:
            with self._applying.transaction("READ COMMITTED", *self._beginning) as transaction:
                view = PostgresqlReceivingView(
                    transaction,
                    self._structure,
                    self._tables,
                    self._ids,
                    self._reader,
                    self._writer,
                    self._sequences,
                    self._references,
                    sender=sender,
                    forward=forward,
                    limited=limited,
                    fold=self._fold_aside,
                    with_kept=self._with_kept,
                )
                yield view
        except UnreadableError as error:
            if view is None:
                raise
            raise view.named(error) from None
        except ConflictError:
            twins = view.twins() if view is not None else None
            if twins is not None:
                raise MessageError(twins) from None
            raise

    @contextmanager
    def hooked(self) -> Iterator[Hooked]:
        with self._connections.transaction() as transaction:
            yield hook_tables(transaction.execute, self._ids)

    def flush(self, node: str) -> None:
        """What a server that crashed has lost, this connection has not survived: it was open before."""
        connection = self._watching.get(node)
        if connection is None:
            raise UnavailableError("the database has been away: what it has of the last messages is looked up again")
        try:
            with translated():
                connection.run([_FLUSH])
        except UnavailableError:
            del self._watching[node]
            connection.close()
            raise

    def _watch(self, node: str) -> None:
        if node not in self._watching:
            self._watching[node] = self._connections.open()

    def _fold_aside(self) -> None:
        """A fold of its own, committed at once: a receiver must know the versions of what is here."""
        with self._folding, self._folders.transaction("REPEATABLE READ") as transaction:
            rows = folding(transaction, self._structure, self._ids).log_rows
            self._folded_aside = self._folded_aside or rows > 0
        self._count_folded(rows)

    def _count_folded(self, rows: int) -> None:
        self._folded_rows += rows
        if self._folded_rows < VACUUM_AFTER_ROWS:
            return
        # giving pages back takes a lock that applications would wait for, if briefly: only where there are many
        truncate = str(self._folded_rows >= TRUNCATE_AFTER_ROWS).lower()
        self._folded_rows = 0
        self._vacuuming = self._tidying.submit(self._vacuum, truncate)  # what was folded is to be sent meanwhile

    def _wait_for_vacuum(self) -> None:
        """A fold between the dead rows would clear them away itself, at a higher price. Giving pages back may take
        seconds, where an application has the log open: that is not waited for."""
        if self._vacuuming is not None:
            wait([self._vacuuming], VACUUM_WAIT_S)
            self._vacuuming = None

    def _vacuum(self, truncate: str) -> None:
        try:
            with self._connections.connection() as connection:
                connection.execute(f"VACUUM (TRUNCATE {truncate}, SKIP_LOCKED true) kod.log, kod.rights")
        except KodError:
            pass  # without the right to, the server's own vacuum does it later

    def record_sent(self, sent: Iterable[Sent]) -> None:
        statements = [statement for one in sent for statement in self._record(one)]
        if not statements:
            return
        if len(statements) == 1:
            with self._recording.connection() as connection:
                connection.run(statements)
            return
        with self._recording.transaction() as transaction:
            transaction.queue(*statements)

    def _record(self, sent: Sent) -> Iterator[Statement]:
        facts = None
        if sent.stamp is not None and sent.messages:
            names = {"stamp": sent.stamp, "messages": sent.messages, "items": sent.items, "took_ms": sent.took_ms}
            facts = orjson.dumps(names).decode()
        stamp = None if sent.stamp is None else str(sent.stamp)
        numbers = [str(n) for n in (sent.messages, sent.items, sent.size_bytes)]
        listed: tuple[str | None, ...] = (None, None, None)
        if sent.manifest is not None:
            listed = (str(sent.manifest.lowest), str(sent.manifest.highest), sent.manifest.packed.hex())
        yield Statement(_SENT, (sent.node, str(sent.position), stamp, *numbers, facts, *listed))
        for sql, changes in ((_AHEAD, sent.ahead), (_SETTLED, sent.settled), (_DEFERRED, sent.deferred)):
            if changes:
                yield Statement(sql, (sent.node, self._changes(changes)))
        if sent.ahead or self._any_ahead:
            yield Statement(history.AHEAD_NO_MORE, (sent.node, str(sent.position)))
        if sent.history is not None:
            yield history.passed(sent.history, self._ids)

    def note_clock(self, bus_ahead_ms: int | None) -> None:
        with self._connections.connection() as connection:
            ahead = None if bus_ahead_ms is None else str(bus_ahead_ms)
            connection.execute("UPDATE kod.node SET bus_ahead_ms = $1::bigint", (ahead,))

    def forget_sessions(self) -> None:
        with self._connections.connection() as connection:
            connection.execute(_FORGET_SESSIONS)

    def _changes(self, changes: Sequence[Change]) -> str:
        rows = [{"t": self._ids.id(c.item.type), "k": c.item.key, "m": c.mark} for c in changes]
        return orjson.dumps(rows).decode()

    def abandon(self, node: str, session: Stamp, position: int | None) -> None:
        with self._connections.transaction() as transaction:
            forget = "DELETE FROM kod.received WHERE node = $1 AND session <= $2::bigint"
            rewind = "UPDATE kod.incoming SET position = coalesce($2::bigint, position) WHERE node = $1"
            transaction.queue(Statement(forget, (node, str(session))))
            transaction.queue(Statement(rewind, (node, None if position is None else str(position))))

    def wish(self, node: str, reason: str | None) -> None:
        with self._connections.connection() as connection:
            connection.execute("UPDATE kod.outgoing SET wish = $2 WHERE node = $1", (node, reason))

    def restart_asked(self, node: str, *, lost: bool) -> None:
        with self._connections.connection() as connection:
            asked = "UPDATE kod.outgoing SET restart = greatest(restart, $2) WHERE node = $1"
            connection.execute(asked, (node, 2 if lost else 1))

    def new_incarnation(self, node: str, incarnation: int) -> None:
        with self._connections.connection() as connection:
            connection.execute(_NEW_INCARNATION, (node, str(incarnation)))

    def told(self, life: Life) -> bool:
        with self._connections.connection() as connection:
            return connection.execute(_TOLD, tuple(map(str, life))).rowcount > 0

    def restart(self, node: str) -> None:
        with self._connections.transaction() as transaction:
            transaction.run(Statement(_RESTART, (node,)))
            history.begin_again(transaction, node, "resync")

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        with self._connections.transaction() as transaction:
            return history.add(transaction, node, type_name, down_to, reason)

    def histories(self) -> Sequence[History]:
        with self._connections.connection() as connection:
            return history.histories(connection)

    def stamped_wait(self) -> bool:
        with self._connections.connection() as connection:
            return connection.execute(f"SELECT {STAMPED_WAIT}").fetchone() == (True,)

    def history_done(self, history_id: int) -> None:
        with self._connections.transaction() as transaction:
            history.done(transaction, history_id)

    def purge_tombstones(self, mark: int, before: Stamp) -> int:
        with self._folding, self._connections.transaction() as transaction:
            (count,) = transaction.one(Statement(_PURGE, (str(mark), str(before))))
        return int(count)

    def link_fault(self, node: str, text: str | None) -> None:
        with self._connections.connection() as connection:
            connection.execute(_LINK_FAULT, (node, text))

    def close(self) -> None:
        self._tidying.shutdown()
        for connection in self._watching.values():
            connection.close()
        self._watching.clear()
        self._applying.close()
        self._folders.close()
        self._recording.close()
        self._connections.close_idle()  # these belong to the database


def _outgoing(row: Sequence[Any]) -> Outgoing:
    node, position, last, pending, ahead, catching_up, restart, wish, received, *joined = row
    return Outgoing(
        node, position, last, pending, ahead, catching_up, restart, wish, received, history.joined_of(joined)
    )

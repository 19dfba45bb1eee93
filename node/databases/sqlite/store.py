"""dispatcher.ports.Store over SQLite.

SQLite has one writer at a time: sending, receiving and recording share one connection and take turns. Another
connection answers the questions that are asked every few milliseconds.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dispatcher.manifest import KEPT_MAX, SESSION_COST
from dispatcher.ports import (
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
from node.databases.sqlite import capture, history, parking, registers
from node.databases.sqlite.connection import begin, connect, transaction, translated
from node.databases.sqlite.figures import figures
from node.databases.sqlite.folding import fold
from node.databases.sqlite.hooked import hook_tables
from node.databases.sqlite.reading import Reading
from node.databases.sqlite.receiving import SqliteReceivingView
from node.databases.sqlite.sending import STAMPED_WAIT, SqliteSendingView
from node.databases.sqlite.writing import Writing, broken_references, in_words
from schemas.errors import ConfigError, DanglingError, MessageError
from schemas.network import NodeSettings
from schemas.stamp import Stamp
from schemas.structure import Structure

_OUTGOING = """SELECT node, position, last_session,
        (SELECT count(*) FROM (SELECT 1 FROM kod_pending p WHERE p.node = o.node LIMIT 1000)),
        (SELECT coalesce(max(mark), 0) FROM kod_ahead a WHERE a.node = o.node),
        EXISTS (SELECT 1 FROM kod_history h WHERE h.id = o.history AND h.state = 'open'), restart, wish,
        CASE WHEN wish IS NULL AND NOT EXISTS (SELECT 1 FROM kod_parked p
                WHERE p.node = o.node AND NOT p.refused)
            THEN (SELECT completed FROM kod_incoming i WHERE i.node = o.node) END, joined IS NOT NULL
    FROM kod_outgoing o ORDER BY node"""


_CHANGED = """SELECT EXISTS (SELECT 1 FROM kod_log) OR EXISTS (SELECT 1 FROM kod_rights)
    OR EXISTS (SELECT 1 FROM kod_walks)"""


class SqliteStore:
    def __init__(
        self,
        path: Path,
        settings: NodeSettings,
        structure: Structure,
        *,
        now_sql: str = capture.NOW_SQL,
        asker: sqlite3.Connection | None = None,
    ) -> None:
        """Nothing is opened before `start`. `asker`: an open connection; it is the store's from now on."""
        self._path = path
        self._settings = settings
        self._structure = structure
        self._now_sql = now_sql
        self._turn = threading.RLock()
        self._asking = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._asker = asker
        self._seen_version: int | None = None
        self._seen_changes = True
        self._folded_aside = False
        """A receiver has folded changes of the application: they are not in the log any more, and not sent yet."""
        self._type_ids: dict[str, int] = {}
        self.origin = ""

    def start(self, neighbours: Sequence[str], below: Mapping[str, str] | None = None) -> None:
        if self._writer is None:
            self._writer = connect(self._path)
        if self._asker is None:
            self._asker = connect(self._path)
        with self._writing() as connection:
            if not registers.are_there(connection):
                raise ConfigError(f"{self._path.name}: KOD's registers are not there", hint="kod install")
            self.origin = self._own_origin(connection)
            self._type_ids = dict(connection.execute("SELECT name, id FROM kod_types").fetchall())
            self._check_triggers(connection)
            for sql in registers.TEMPORARY:
                connection.execute(sql)
            self._reading = Reading(connection, self._structure, self._type_ids)
            self._writing_items = Writing(connection, self._structure, self._reading)
            with transaction(connection):
                connection.execute("DELETE FROM kod_applying")
                self._note_package(connection)
                new = self._begin_links(connection, neighbours)
                if below is not None:
                    self._meet(connection, below, new)
                (self._folded_aside,) = connection.execute(
                    "SELECT EXISTS (SELECT 1 FROM kod_outgoing WHERE position < (SELECT top_mark FROM kod_node))"
                ).fetchone()

    def check(self) -> None:
        with self._writing() as connection:
            self._check_triggers(connection)

    def _own_origin(self, connection: sqlite3.Connection) -> str:
        code, origin = connection.execute("SELECT code, origin FROM kod_node").fetchone() or ("", "")
        if code != self._settings.code:
            raise ConfigError(
                f"{self._path.name} is installed for node {code!r}, not for {self._settings.code!r}",
                hint="is `database` in nodes.yaml the right one? else `kod uninstall` and `kod install`",
            )
        return str(origin)

    def _check_triggers(self, connection: sqlite3.Connection) -> None:
        missing = [name for name in self._structure.types if name not in self._type_ids]
        if missing:
            raise ConfigError(f"types are new since the last install: {', '.join(missing)}", hint="kod install")
        there = capture.installed(connection)
        needed = capture.triggers(connection, self._structure, self._type_ids, self._now_sql)
        captured_only = {n: sql for n, sql in there.items() if n not in needed}
        if captured_only or any(there.get(name) != sql for name, sql in needed.items()):
            raise ConfigError(
                f"{self._path.name}: the capture triggers are not those that its tables need", hint="kod install"
            )

    def _note_package(self, connection: sqlite3.Connection) -> None:
        """A new one, or an earlier one again."""
        latest = connection.execute("SELECT fingerprint FROM kod_packages ORDER BY since DESC LIMIT 1").fetchone()
        if self._structure.fingerprint and latest != (self._structure.fingerprint,):
            connection.execute(
                f"INSERT OR REPLACE INTO kod_packages SELECT ?, max({self._now_sql}, "
                "(SELECT coalesce(max(since), 0) + 1 FROM kod_packages))",
                (self._structure.fingerprint,),
            )

    def _begin_links(self, connection: sqlite3.Connection, neighbours: Sequence[str]) -> list[str]:
        """The links that are new."""
        known = {node for (node,) in connection.execute("SELECT node FROM kod_outgoing")}
        for node in known.difference(neighbours):
            for table in ("kod_outgoing", "kod_ahead", "kod_pending", "kod_history", "kod_sent", "kod_held"):
                connection.execute(f"DELETE FROM {table} WHERE node = ?", (node,))
        new = [node for node in neighbours if node not in known]
        if new and connection.execute("SELECT EXISTS (SELECT 1 FROM kod_register)").fetchone()[0]:
            # what is in the log goes by history with what is older; where nothing is, it goes live
            fold(connection, self._reading, {number: name for name, number in self._type_ids.items()})
        for node in new:
            connection.execute("INSERT INTO kod_outgoing (node) VALUES (?)", (node,))
            connection.execute("INSERT INTO kod_incoming (node) VALUES (?) ON CONFLICT DO NOTHING", (node,))
            history.begin_again(connection, node, "new neighbour", self._now_sql)
        return new

    def _meet(self, connection: sqlite3.Connection, below: Mapping[str, str], new: Sequence[str]) -> None:
        """What goes to a new link goes by its history, whoever is below it."""
        known = set(connection.execute("SELECT node, via FROM kod_below").fetchall())
        connection.execute("DELETE FROM kod_below")
        connection.executemany("INSERT INTO kod_below (node, via) VALUES (?, ?)", list(below.items()))
        if any(via not in new for _, via in below.items() - known):
            names = [(self._type_ids[name],) for name in self._structure.with_rights]
            connection.executemany("INSERT INTO kod_rights (type) VALUES (?)", names)

    # --- questions

    def has_changes(self) -> bool:
        """Two statements at most, and one that touches no page while nobody has written."""
        with self._asking, translated(self._path):
            asker = self._open_asker()
            (version,) = asker.execute("PRAGMA data_version").fetchone()
            if version != self._seen_version or self._seen_changes:
                (found,) = asker.execute(_CHANGED).fetchone()
                self._seen_version, self._seen_changes = version, bool(found)
            return self._seen_changes or bool(self._folded_aside)

    def outgoing(self) -> Sequence[Outgoing]:
        with self._asking, translated(self._path):
            asker = self._open_asker()
            rows = asker.execute(_OUTGOING).fetchall()
            joining = any(row[-1] for row in rows)
            names = {number: name for name, number in self._type_ids.items()} if joining else {}
            joined = history.joined(asker, names) if joining else {}
            return [
                Outgoing(
                    node,
                    position,
                    last,
                    pending,
                    ahead,
                    bool(catching_up),
                    bool(restart),
                    wish,
                    received,
                    joined.get(node),
                )
                for node, position, last, pending, ahead, catching_up, restart, wish, received, _ in rows
            ]

    def incoming(self, node: str) -> Incoming:
        with self._asking, translated(self._path):
            asker = self._open_asker()
            row = asker.execute(
                "SELECT incarnation, session, completed, position, fault IS NOT NULL AND EXISTS "
                "(SELECT 1 FROM kod_outgoing o WHERE o.node = i.node AND o.wish IS NULL) "
                "FROM kod_incoming i WHERE node = ?",
                (node,),
            ).fetchone()
            if row is None:
                return Incoming(node)
            incarnation, session, completed, position, catching_up = row
            done = asker.execute("SELECT number FROM kod_received WHERE node = ? AND session = ?", (node, session))
            numbers = frozenset(n for (n,) in done)
            return Incoming(node, incarnation, session, numbers, completed, position, bool(catching_up))

    def streams(self) -> tuple[int | None, int | None]:
        with self._asking, translated(self._path):
            send, receive = (
                self._open_asker().execute("SELECT send_streams_max, receive_streams_max FROM kod_node").fetchone()
            )
            return send, receive

    def package_asked(self) -> str | None:
        with self._asking, translated(self._path):
            (asked,) = self._open_asker().execute("SELECT package_asked FROM kod_node").fetchone()
            return str(asked) if asked is not None else None

    def package_settled(self) -> None:
        with self._writing() as connection, transaction(connection):
            connection.execute("UPDATE kod_node SET package_asked = NULL")

    def draining(self) -> Draining | None:
        with self._asking, translated(self._path):
            found: tuple[Draining | None] = self._open_asker().execute("SELECT draining FROM kod_node").fetchone()
            return found[0]

    def drained(self) -> None:
        with self._writing() as connection:
            connection.execute("UPDATE kod_node SET draining = 'done' WHERE draining = 'asked'")

    def heard(self, node: str, *, package: str | None, received: Stamp | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.execute(
                f"UPDATE kod_incoming SET package = :package, package_since = {self._now_sql} "
                "WHERE node = :node AND package IS NOT coalesce(:package, package)",
                {"node": node, "package": package},
            )
            connection.execute(
                "UPDATE kod_outgoing SET arrived = coalesce(?, arrived) WHERE node = ?", (received, node)
            )

    def figures(self) -> Figures:
        with self._asking, translated(self._path):
            return figures(self._open_asker())

    def parked(self) -> Sequence[Parked]:
        with self._asking, translated(self._path):
            return parking.parked(self._open_asker())

    # --- transactions

    @contextmanager
    def sending(self) -> Iterator[SendingView]:
        with self._writing() as connection, transaction(connection):
            self._reading.begin()
            view = SqliteSendingView(connection, self._structure, self._reading, self._type_ids)
            aside, self._folded_aside = self._folded_aside, False
            try:
                yield view
                view.finish()
            except BaseException:
                self._folded_aside = aside
                raise

    @contextmanager
    def receiving(self, sender: str, *, forward: bool, limited: frozenset[str]) -> Iterator[ReceivingView]:
        with self._writing() as connection:
            begin(connection)
            try:
                self._reading.begin()
                view = SqliteReceivingView(
                    connection,
                    self._structure,
                    self._reading,
                    self._writing_items,
                    self._type_ids,
                    sender=sender,
                    forward=forward,
                    limited=limited,
                    now_sql=self._now_sql,
                )
                yield view
                self._commit(connection)
                self._folded_aside = self._folded_aside or view.folded
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def hooked(self) -> Iterator[Hooked]:
        with self._writing() as connection:
            begin(connection)
            try:
                yield hook_tables(connection, self._type_ids)
                self._commit(connection)
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            broken = "FOREIGN KEY" in str(error)
            why = broken_references(connection) if broken else in_words(error)
            kind = DanglingError if broken else MessageError
            raise kind(f"the message cannot be applied: {why}") from error

    def retry_asked(self) -> bool:
        with self._asking, translated(self._path):
            asker = self._open_asker()
            return asker.execute("SELECT 1 FROM kod_parked WHERE attempts < 0 LIMIT 1").fetchone() is not None

    def parked_again(self, parked_id: int, reason: Reason) -> None:
        with self._writing() as connection, transaction(connection):
            parking.parked_again(connection, parked_id, reason)

    def flush(self, node: str) -> None:
        """Every commit here is waited for."""

    def record_sent(self, sent: Iterable[Sent]) -> None:
        with self._writing() as connection, transaction(connection):
            for one in sent:
                self._record(connection, one)

    def _record(self, connection: sqlite3.Connection, sent: Sent) -> None:
        connection.execute(
            "UPDATE kod_outgoing SET position = max(position, :position), "
            "last_session = coalesce(:stamp, last_session), messages = messages + :messages, "
            "items = items + :items, size_bytes = size_bytes + :size WHERE node = :node",
            {
                "node": sent.node,
                "position": sent.position,
                "stamp": sent.stamp,
                "messages": sent.messages,
                "items": sent.items,
                "size": sent.size_bytes,
            },
        )
        ids = self._type_ids
        connection.executemany(
            "INSERT INTO kod_ahead (node, type, key, mark) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (node, type, key) DO UPDATE SET mark = max(mark, excluded.mark)",
            [(sent.node, ids[c.item.type], c.item.key, c.mark) for c in sent.ahead],
        )
        if connection.execute("SELECT 1 FROM kod_ahead WHERE node = ? LIMIT 1", (sent.node,)).fetchone():
            history.forget_ahead(connection, sent.node, sent.position)
        if sent.history is not None:
            history.record(connection, sent.history, ids)
        connection.executemany(
            "DELETE FROM kod_pending WHERE node = ? AND type = ? AND key = ? AND mark <= ?",
            [(sent.node, ids[c.item.type], c.item.key, c.mark) for c in sent.settled],
        )
        connection.executemany(
            "INSERT INTO kod_pending (node, type, key, mark) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (node, type, key) DO UPDATE SET mark = max(mark, excluded.mark)",
            [(sent.node, ids[c.item.type], c.item.key, c.mark) for c in sent.deferred],
        )
        if sent.manifest is not None:
            connection.execute(
                "INSERT OR IGNORE INTO kod_sent (node, session, items, lowest, highest, manifest) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (sent.node, sent.stamp, sent.items, *sent.manifest),
            )
        if sent.stamp is not None and sent.messages:
            self._note_session(connection, sent)

    def note_clock(self, bus_ahead_ms: int | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.execute("UPDATE kod_node SET bus_ahead_ms = ?", (bus_ahead_ms,))

    def forget_sessions(self) -> None:
        with self._writing() as connection, transaction(connection):
            connection.execute(
                "DELETE FROM kod_sent WHERE (node, session) IN (SELECT node, session FROM (SELECT node, session, "
                f"sum(items + {SESSION_COST}) OVER (PARTITION BY node ORDER BY session DESC) AS later FROM kod_sent) "
                f"WHERE later > {KEPT_MAX})"
            )

    def _note_session(self, connection: sqlite3.Connection, sent: Sent) -> None:
        """The last session over all addressees: those that bear the same stamp are added up."""
        connection.execute(
            "UPDATE kod_node SET last_session_facts = CASE "
            "WHEN json_extract(last_session_facts, '$.stamp') = :stamp THEN json_object('stamp', :stamp, "
            "'messages', json_extract(last_session_facts, '$.messages') + :messages, "
            "'items', json_extract(last_session_facts, '$.items') + :items, "
            "'took_ms', max(json_extract(last_session_facts, '$.took_ms'), :took)) "
            "ELSE json_object('stamp', :stamp, 'messages', :messages, 'items', :items, 'took_ms', :took) END",
            {"stamp": sent.stamp, "messages": sent.messages, "items": sent.items, "took": sent.took_ms},
        )

    def abandon(self, node: str, session: Stamp, position: int | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.execute("DELETE FROM kod_received WHERE node = ? AND session <= ?", (node, session))
            connection.execute(
                "UPDATE kod_incoming SET position = coalesce(?, position) WHERE node = ?", (position, node)
            )

    def wish(self, node: str, reason: str | None) -> None:
        with self._writing() as connection:
            connection.execute("UPDATE kod_outgoing SET wish = ? WHERE node = ?", (reason, node))

    def restart_asked(self, node: str, *, lost: bool) -> None:
        with self._writing() as connection:
            connection.execute(
                "UPDATE kod_outgoing SET restart = max(restart, ?) WHERE node = ?", (2 if lost else 1, node)
            )

    def new_incarnation(self, node: str, incarnation: int) -> None:
        with self._writing() as connection, transaction(connection):
            connection.execute("DELETE FROM kod_received WHERE node = ?", (node,))
            connection.execute(
                "UPDATE kod_incoming SET incarnation = ?, session = NULL, completed = NULL WHERE node = ?",
                (incarnation, node),
            )

    def told(self, life: Life) -> bool:
        with self._writing() as connection:
            return (
                connection.execute(
                    "UPDATE kod_node SET told_incarnation = :incarnation, told_session = :session "
                    "WHERE (incarnation, coalesce(last_session, 0)) < (:incarnation, :session)",
                    life._asdict(),
                ).rowcount
                > 0
            )

    def restart(self, node: str) -> None:
        with self._writing() as connection, transaction(connection):
            (asked,) = connection.execute("SELECT restart FROM kod_outgoing WHERE node = ?", (node,)).fetchone()
            connection.execute("DELETE FROM kod_ahead WHERE node = ?", (node,))
            connection.execute("UPDATE kod_presence SET since = NULL WHERE node = ?", (node,))
            if asked == 2:  # it may lack what came from it
                connection.execute("UPDATE kod_register SET source = NULL WHERE source = ?", (node,))
            connection.execute("UPDATE kod_outgoing SET restart = 0 WHERE node = ?", (node,))
            history.begin_again(connection, node, "resync", self._now_sql)

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        with self._writing() as connection, transaction(connection):
            return history.add(connection, node, type_name, down_to, reason, self._now_sql)

    def histories(self) -> Sequence[History]:
        with self._asking, translated(self._path):
            return history.histories(self._open_asker())

    def stamped_wait(self) -> bool:
        with self._asking, translated(self._path):
            (found,) = self._open_asker().execute(f"SELECT {STAMPED_WAIT}").fetchone()
            return bool(found)

    def history_done(self, history_id: int) -> None:
        with self._writing() as connection, transaction(connection):
            history.done(connection, history_id, self._now_sql)

    def purge_tombstones(self, mark: int, before: Stamp) -> int:
        with self._writing() as connection, transaction(connection):
            if connection.execute("SELECT 1 FROM kod_parked WHERE NOT refused LIMIT 1").fetchone():
                return 0  # it may bear what was deleted
            rows = connection.execute(
                "SELECT type, key FROM kod_register g WHERE gone AND mark BETWEEN 0 AND ? AND stamp < ? "
                + "".join(
                    f"AND NOT EXISTS (SELECT 1 FROM {table} x WHERE x.type = g.type AND x.key = g.key) "
                    for table in ("kod_log", "kod_ahead", "kod_pending")
                ),
                (mark, before),
            ).fetchall()
            for table in ("kod_presence", "kod_register"):
                connection.executemany(f"DELETE FROM {table} WHERE type = ? AND key = ?", rows)
            connection.executemany("DELETE FROM kod_ways WHERE type = ? AND item_key = ?", rows)
            return len(rows)

    def link_fault(self, node: str, text: str | None) -> None:
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO kod_incoming (node, fault) VALUES (?, ?) ON CONFLICT (node) DO UPDATE "
                "SET fault = excluded.fault WHERE fault IS NOT excluded.fault",
                (node, text),
            )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._turn, translated(self._path):
            if self._writer is None:
                raise ConfigError("the store has not been started")
            yield self._writer

    def _open_asker(self) -> sqlite3.Connection:
        if self._asker is None:
            raise ConfigError("the store has not been started")
        return self._asker

    def close(self) -> None:
        with self._turn, self._asking:
            for connection in (self._writer, self._asker):
                if connection is not None:
                    connection.close()
            self._writer = self._asker = None

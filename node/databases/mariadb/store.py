"""dispatcher.ports.Store over MariaDB.

Sending, receiving and recording share one connection and take turns (so parallel applying is one at a time here).
Another connection answers the questions that are asked every few milliseconds; it is the one that holds the daemon's
lock. A connection that is lost is opened anew at the next call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

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
from node.databases.mariadb import capture, history, parking, registers
from node.databases.mariadb.connection import Connection, transaction, translated
from node.databases.mariadb.daemon import DaemonLock
from node.databases.mariadb.figures import figures
from node.databases.mariadb.folding import fold
from node.databases.mariadb.hooked import hook_tables
from node.databases.mariadb.reading import Reading
from node.databases.mariadb.receiving import MariadbReceivingView
from node.databases.mariadb.sending import STAMPED_WAIT, MariadbSendingView
from node.databases.mariadb.writing import Writing
from schemas.errors import ConfigError
from schemas.network import NodeSettings
from schemas.stamp import Stamp
from schemas.structure import Structure

_OUTGOING = """SELECT node, position, last_session,
        (SELECT COALESCE(MAX(mark), 0) FROM kod_ahead a WHERE a.node = o.node),
        EXISTS (SELECT 1 FROM kod_history h WHERE h.id = o.history AND h.state = 'open'), restart, wish,
        CASE WHEN wish IS NULL AND NOT EXISTS (SELECT 1 FROM kod_parked p
                WHERE p.node = o.node AND NOT p.refused)
            THEN (SELECT completed FROM kod_incoming i WHERE i.node = o.node) END
    FROM kod_outgoing o ORDER BY node"""

_CHANGED = """SELECT EXISTS (SELECT 1 FROM kod_log) OR EXISTS (SELECT 1 FROM kod_rights)
    OR EXISTS (SELECT 1 FROM kod_walks)"""

_UNSENT = "SELECT EXISTS (SELECT 1 FROM kod_outgoing WHERE position < (SELECT top_mark FROM kod_node))"

# Each node's by itself: inside one statement nothing would end the counting.
_PENDING = "SELECT COUNT(*) FROM (SELECT 1 FROM kod_pending WHERE node = %s LIMIT 1000) p"


class MariadbStore:
    def __init__(self, url: str, settings: NodeSettings, structure: Structure, asking: DaemonLock) -> None:
        """Nothing is opened before `start`."""
        self._url = url
        self._settings = settings
        self._structure = structure
        self._asking = asking
        self._turn = threading.RLock()
        self._writer: Connection | None = None
        self._started = False
        self._folded_aside = False
        """A receiver has folded changes of the application: they are not in the log any more, and not sent yet."""
        self._type_ids: dict[str, int] = {}
        self.origin = ""

    def start(self, neighbours: Sequence[str], below: Mapping[str, str] | None = None) -> None:
        with self._turn:
            self._started = True
            try:
                with self._writing() as connection:
                    capture.check(connection, self._structure, self._structure.tables)
                    with transaction(connection):
                        self._note_package(connection)
                        new = self._begin_links(connection, neighbours)
                        if below is not None:
                            self._meet(connection, below, new)
                        (unsent,) = connection.one(_UNSENT)
                        self._folded_aside = bool(unsent)
            except BaseException:
                self._started = False
                self._drop()
                raise

    def check(self) -> None:
        with self._writing() as connection:
            capture.check(connection, self._structure, capture.captured_tables(connection, self._structure))

    def _note_package(self, connection: Connection) -> None:
        """A new one, or an earlier one again."""
        latest = connection.rows("SELECT fingerprint, since FROM kod_packages ORDER BY since DESC LIMIT 1")
        name, since = latest[0] if latest else ("", 0)
        if self._structure.fingerprint not in ("", name):
            connection.run(
                f"INSERT INTO kod_packages (fingerprint, since) SELECT %s, GREATEST({registers.NOW_MS}, %s + 1)"
                " ON DUPLICATE KEY UPDATE since = VALUES(since)",
                (self._structure.fingerprint, since),
            )

    def _begin_links(self, connection: Connection, neighbours: Sequence[str]) -> list[str]:
        """The links that are new."""
        known = {node for (node,) in connection.rows("SELECT node FROM kod_outgoing")}
        for node in known.difference(neighbours):
            for table in ("kod_outgoing", "kod_ahead", "kod_pending", "kod_history", "kod_sent", "kod_held"):
                connection.run(f"DELETE FROM {table} WHERE node = %s", (node,))
        new = [node for node in neighbours if node not in known]
        if new and connection.rows("SELECT 1 FROM kod_register LIMIT 1"):
            # what is in the log goes by history with what is older; where nothing is, it goes live
            self._reading.begin()
            fold(connection, self._reading, {number: name for name, number in self._type_ids.items()})
        for node in new:
            connection.run("INSERT INTO kod_outgoing (node) VALUES (%s)", (node,))
            connection.run("INSERT IGNORE INTO kod_incoming (node) VALUES (%s)", (node,))
            history.begin_again(connection, node, "new neighbour")
        return new

    def _meet(self, connection: Connection, below: Mapping[str, str], new: Sequence[str]) -> None:
        """What goes to a new link goes by its history, whoever is below it."""
        known = set(connection.rows("SELECT node, via FROM kod_below"))
        connection.run("DELETE FROM kod_below")
        connection.many("INSERT INTO kod_below (node, via) VALUES (%s, %s)", list(below.items()))
        if any(via not in new for _, via in below.items() - known):
            names = [(self._type_ids[name],) for name in self._structure.with_rights]
            connection.many("INSERT INTO kod_rights (type) VALUES (%s)", names)

    # --- questions

    def has_changes(self) -> bool:
        with self._asking.connection() as asker:
            (found,) = asker.one(_CHANGED)
            return bool(found) or self._folded_aside

    def outgoing(self) -> Sequence[Outgoing]:
        with self._asking.connection() as asker:
            joined = history.joined(asker, {number: name for name, number in self._type_ids.items()})
            return [
                Outgoing(
                    node,
                    position,
                    last,
                    _pending(asker, node),
                    ahead,
                    bool(catching_up),
                    bool(restart),
                    wish,
                    received,
                    joined.get(node),
                )
                for node, position, last, ahead, catching_up, restart, wish, received in asker.rows(_OUTGOING)
            ]

    def incoming(self, node: str) -> Incoming:
        with self._asking.connection() as asker:
            rows = asker.rows(
                "SELECT incarnation, session, completed, position, fault IS NOT NULL AND EXISTS"
                " (SELECT 1 FROM kod_outgoing o WHERE o.node = i.node AND o.wish IS NULL)"
                " FROM kod_incoming i WHERE node = %s",
                (node,),
            )
            if not rows:
                return Incoming(node)
            incarnation, session, completed, position, catching_up = rows[0]
            done = asker.rows("SELECT number FROM kod_received WHERE node = %s AND session = %s", (node, session))
            numbers = frozenset(n for (n,) in done)
            return Incoming(node, incarnation, session, numbers, completed, position, bool(catching_up))

    def streams(self) -> tuple[int | None, int | None]:
        with self._asking.connection() as asker:
            send, receive = asker.one("SELECT send_streams_max, receive_streams_max FROM kod_node")
            return send, receive

    def package_asked(self) -> str | None:
        with self._asking.connection() as asker:
            (asked,) = asker.one("SELECT package_asked FROM kod_node")
            return str(asked) if asked is not None else None

    def package_settled(self) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run("UPDATE kod_node SET package_asked = NULL")

    def draining(self) -> Draining | None:
        with self._asking.connection() as asker:
            found: tuple[Draining | None] = asker.one("SELECT draining FROM kod_node")
            return found[0]

    def drained(self) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run("UPDATE kod_node SET draining = 'done' WHERE draining = 'asked'")

    def heard(self, node: str, *, package: str | None, received: Stamp | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run(
                f"UPDATE kod_incoming SET package = %s, package_since = {registers.NOW_MS}"
                " WHERE node = %s AND NOT package <=> COALESCE(%s, package)",
                (package, node, package),
            )
            connection.run("UPDATE kod_outgoing SET arrived = COALESCE(%s, arrived) WHERE node = %s", (received, node))

    def figures(self) -> Figures:
        with self._asking.connection() as asker:
            return figures(asker)

    def parked(self) -> Sequence[Parked]:
        with self._asking.connection() as asker:
            return parking.parked(asker)

    def retry_asked(self) -> bool:
        with self._asking.connection() as asker:
            return bool(asker.rows("SELECT 1 FROM kod_parked WHERE attempts < 0 LIMIT 1"))

    # --- transactions

    @contextmanager
    def sending(self) -> Iterator[SendingView]:
        with self._writing() as connection:
            aside = self._folded_aside
            try:
                with transaction(connection, snapshot=True):
                    self._reading.begin()
                    self._folded_aside = False
                    view = MariadbSendingView(connection, self._structure, self._reading, self._type_ids)
                    yield view
                    view.finish()
            except BaseException:
                self._folded_aside = self._folded_aside or aside
                raise

    @contextmanager
    def receiving(self, sender: str, *, forward: bool, limited: frozenset[str]) -> Iterator[ReceivingView]:
        with self._writing() as connection:
            with transaction(connection):
                self._reading.begin()
                view = MariadbReceivingView(
                    connection,
                    self._structure,
                    self._reading,
                    self._writing_items,
                    self._type_ids,
                    sender=sender,
                    forward=forward,
                    limited=limited,
                )
                yield view
            self._folded_aside = self._folded_aside or view.folded

    @contextmanager
    def hooked(self) -> Iterator[Hooked]:
        with self._writing() as connection, transaction(connection):
            yield hook_tables(connection, self._type_ids)

    def parked_again(self, parked_id: int, reason: Reason) -> None:
        with self._writing() as connection, transaction(connection):
            parking.parked_again(connection, parked_id, reason)

    def flush(self, node: str) -> None:
        """Every commit here is waited for, as far as the server is told to (`kod check` says where it is not)."""

    def record_sent(self, sent: Iterable[Sent]) -> None:
        with self._writing() as connection, transaction(connection):
            for one in sent:
                self._record(connection, one)

    def _record(self, connection: Connection, sent: Sent) -> None:
        connection.run(
            "UPDATE kod_outgoing SET position = GREATEST(position, %s), last_session = COALESCE(%s, last_session),"
            " messages = messages + %s, items = items + %s, size_bytes = size_bytes + %s WHERE node = %s",
            (sent.position, sent.stamp, sent.messages, sent.items, sent.size_bytes, sent.node),
        )
        upsert = " ON DUPLICATE KEY UPDATE mark = GREATEST(mark, VALUES(mark))"
        connection.many(
            f"INSERT INTO kod_ahead (node, type, item_key, mark) VALUES (%s, %s, %s, %s){upsert}",
            self._rows(sent.node, sent.ahead),
        )
        if connection.rows("SELECT 1 FROM kod_ahead WHERE node = %s LIMIT 1", (sent.node,)):
            history.forget_ahead(connection, sent.node, sent.position)
        if sent.history is not None:
            history.record(connection, sent.history, self._type_ids)
        connection.many(
            "DELETE FROM kod_pending WHERE node = %s AND type = %s AND item_key = %s AND mark <= %s",
            self._rows(sent.node, sent.settled),
        )
        connection.many(
            f"INSERT INTO kod_pending (node, type, item_key, mark) VALUES (%s, %s, %s, %s){upsert}",
            self._rows(sent.node, sent.deferred),
        )
        if sent.manifest is not None:
            connection.run(
                "INSERT IGNORE INTO kod_sent (node, session, items, lowest, highest, manifest)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (sent.node, sent.stamp, sent.items, *sent.manifest),
            )
        if sent.stamp is not None and sent.messages:
            self._note_session(connection, sent)

    def note_clock(self, bus_ahead_ms: int | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run("UPDATE kod_node SET bus_ahead_ms = %s", (bus_ahead_ms,))

    def forget_sessions(self) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run(
                "DELETE s FROM kod_sent s JOIN (SELECT node, session,"
                f" SUM(items + {SESSION_COST}) OVER (PARTITION BY node ORDER BY session DESC) AS later FROM kod_sent) x"
                f" ON x.node = s.node AND x.session = s.session WHERE x.later > {KEPT_MAX}"
            )

    def _rows(self, node: str, changes: Sequence[Change]) -> list[tuple[str, int, bytes, int]]:
        return [(node, self._type_ids[c.item.type], c.item.key.encode(), c.mark) for c in changes]

    def _note_session(self, connection: Connection, sent: Sent) -> None:
        """The last session over all addressees: those that bear the same stamp are added up."""
        (text,) = connection.one("SELECT last_session_facts FROM kod_node")
        facts = {"stamp": sent.stamp, "messages": sent.messages, "items": sent.items, "took_ms": sent.took_ms}
        last = orjson.loads(text) if text else None
        if last and last["stamp"] == sent.stamp:
            facts["messages"] += last["messages"]
            facts["items"] += last["items"]
            facts["took_ms"] = max(sent.took_ms, last["took_ms"])
        connection.run("UPDATE kod_node SET last_session_facts = %s", (orjson.dumps(facts).decode(),))

    def abandon(self, node: str, session: Stamp, position: int | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run("DELETE FROM kod_received WHERE node = %s AND session <= %s", (node, session))
            connection.run(
                "UPDATE kod_incoming SET position = COALESCE(%s, position) WHERE node = %s", (position, node)
            )

    def wish(self, node: str, reason: str | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run("UPDATE kod_outgoing SET wish = %s WHERE node = %s", (reason, node))

    def restart_asked(self, node: str, *, lost: bool) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run(
                "UPDATE kod_outgoing SET restart = GREATEST(restart, %s) WHERE node = %s", (2 if lost else 1, node)
            )

    def new_incarnation(self, node: str, incarnation: int) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run("DELETE FROM kod_received WHERE node = %s", (node,))
            connection.run(
                "UPDATE kod_incoming SET incarnation = %s, session = NULL, completed = NULL WHERE node = %s",
                (incarnation, node),
            )

    def told(self, life: Life) -> bool:
        with self._writing() as connection, transaction(connection):
            return (
                connection.run(
                    "UPDATE kod_node SET told_incarnation = %s, told_session = %s"
                    " WHERE (incarnation, COALESCE(last_session, 0)) < (%s, %s)",
                    (*life, *life),
                )
                > 0
            )

    def restart(self, node: str) -> None:
        with self._writing() as connection, transaction(connection):
            (asked,) = connection.one("SELECT restart FROM kod_outgoing WHERE node = %s", (node,))
            connection.run("DELETE FROM kod_ahead WHERE node = %s", (node,))
            connection.run("UPDATE kod_presence SET since = NULL WHERE node = %s", (node,))
            if asked == 2:  # it may lack what came from it
                connection.run("UPDATE kod_register SET source = NULL WHERE source = %s", (node,))
            connection.run("UPDATE kod_outgoing SET restart = 0 WHERE node = %s", (node,))
            history.begin_again(connection, node, "resync")

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        with self._writing() as connection, transaction(connection):
            return history.add(connection, node, type_name, down_to, reason)

    def histories(self) -> Sequence[History]:
        with self._asking.connection() as asker:
            return history.histories(asker)

    def stamped_wait(self) -> bool:
        with self._asking.connection() as asker:
            (found,) = asker.one(f"SELECT {STAMPED_WAIT}")
            return bool(found)

    def history_done(self, history_id: int) -> None:
        with self._writing() as connection, transaction(connection):
            history.done(connection, history_id)

    def purge_tombstones(self, mark: int, before: Stamp) -> int:
        with self._writing() as connection, transaction(connection):
            if connection.rows("SELECT 1 FROM kod_parked WHERE NOT refused LIMIT 1"):
                return 0  # it may bear what was deleted
            rows = connection.rows(
                "SELECT type, item_key FROM kod_register g WHERE gone AND mark BETWEEN 0 AND %s AND stamp < %s"
                + "".join(
                    f" AND NOT EXISTS (SELECT 1 FROM {table} x WHERE x.type = g.type AND x.item_key = g.item_key)"
                    for table in ("kod_log", "kod_ahead", "kod_pending")
                ),
                (mark, before),
            )
            for table in ("kod_presence", "kod_ways", "kod_register"):
                connection.many(f"DELETE FROM {table} WHERE type = %s AND item_key = %s", rows)
            return len(rows)

    def link_fault(self, node: str, text: str | None) -> None:
        with self._writing() as connection, transaction(connection):
            connection.run(
                "INSERT INTO kod_incoming (node, fault) VALUES (%s, %s) ON DUPLICATE KEY UPDATE fault = VALUES(fault)",
                (node, text),
            )

    # --- connections

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._turn:
            if not self._started:
                raise ConfigError("the store has not been started")
            if self._writer is None or not self._writer.is_open:
                self._writer = self._open()
            with translated():
                yield self._writer

    def _open(self) -> Connection:
        """A connection with its temporary tables; it has to be the node's still."""
        connection = Connection(self._url)
        try:
            with translated():
                if not registers.are_there(connection):
                    raise ConfigError("KOD's registers are not in this database", hint="kod install")
                self.origin = capture.own_origin(connection, self._settings)
                self._type_ids = registers.type_ids(connection)
                for sql in registers.TEMPORARY:
                    connection.run(sql)
                self._reading = Reading(connection, self._structure, self._type_ids)
                self._writing_items = Writing(connection, self._structure, self._reading, self._type_ids)
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        with self._turn:
            self._started = False
            self._drop()
        self._asking.close()


def _pending(asker: Connection, node: str) -> int:
    (count,) = asker.one(_PENDING, (node,))
    return int(count)

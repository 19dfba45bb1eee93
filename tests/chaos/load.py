"""Applications at one node: orders of its own with lines, and customers that all nodes change.

An order's `size` is the quantity of each of its lines in every transaction: where they differ, something is half.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from tests.edge.network import TestNetwork

SHARED = tuple(f"S{number}" for number in range(8))
LINES = 3
ORDERS = 100_000
"""So many orders has a node for itself: 01's are 100001 and so on."""
PAUSE_S = 0.004

HALVES = """SELECT o.order_id, o.size, count(l.line), min(l.quantity), max(l.quantity)
    FROM orders o LEFT JOIN order_lines l ON l.order_id = o.order_id GROUP BY o.order_id, o.size
    HAVING count(l.line) <> 3 OR min(l.quantity) <> o.size OR max(l.quantity) <> o.size"""

AWAY = (sqlite3.OperationalError, psycopg.OperationalError, psycopg.InterfaceError)


class Application(threading.Thread):
    """Writes at one node until `done`; goes on when its database is back."""

    def __init__(self, network: TestNetwork, code: str, done: threading.Event) -> None:
        super().__init__(name=f"application {code}")
        self.code = code
        self.counts: Counter[str] = Counter()
        self.last: dict[int, int | None] = {}
        """What its last committed transaction left of each of its orders; None: it deleted it."""
        self.parents: dict[str, str] = {}
        """The names that it gave to shared customers, each with the one that was there before."""
        self.failure: BaseException | None = None
        self._network, self._done = network, done
        self._postgresql = bool(network.nodes[code].url)

    def run(self) -> None:
        try:
            number = 0
            while not self._done.is_set():
                try:
                    with self._connected() as connection:
                        while not self._done.wait(PAUSE_S):
                            number += 1
                            self._write(connection, number)
                except AWAY:
                    self.counts["refused"] += 1
                    self._done.wait(0.1)
        except BaseException as failure:
            self.failure = failure

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        connection: Any = (self._network.postgresql if self._postgresql else self._network.sqlite)(self.code)
        try:
            yield connection
        finally:
            with suppress(*AWAY):
                connection.close()

    def _write(self, connection: Any, number: int) -> None:
        """One transaction. Where its commit was not answered, the table says whether it was one."""
        if number % 5 == 0:
            self._rename(connection, SHARED[number // 5 % len(SHARED)], f"{self.code}-{number}")
            return
        order = int(self.code) * ORDERS + number // 10
        gone = number % 10 == 9 and number % 70 == 9
        try:
            self._run(connection, "BEGIN" if self._postgresql else "BEGIN IMMEDIATE")
            self._edit(connection, order, None if gone else number)
            self._run(connection, "COMMIT")
        except AWAY:
            self._look(order)
            raise
        self.last[order] = None if gone else number
        self.counts["committed"] += 1

    def _edit(self, connection: Any, order: int, size: int | None) -> None:
        if size is None:
            self._run(connection, "DELETE FROM orders WHERE order_id = ?", order)
            return
        there = self._run(connection, "SELECT 1 FROM orders WHERE order_id = ?", order).fetchone()
        if there:
            self._run(connection, "UPDATE orders SET size = ? WHERE order_id = ?", size, order)
            self._run(connection, "UPDATE order_lines SET quantity = ? WHERE order_id = ?", size, order)
            return
        self._run(connection, "INSERT INTO orders VALUES (?, ?, ?)", order, SHARED[order % len(SHARED)], size)
        for line in range(LINES):
            self._run(connection, "INSERT INTO order_lines VALUES (?, ?, 'tea', ?)", order, line, size)

    def _rename(self, connection: Any, customer: str, name: str) -> None:
        """A commit without an answer may or may not have been one: nobody asks for that name then."""
        lock = " FOR UPDATE" if self._postgresql else ""
        self._run(connection, "BEGIN" if self._postgresql else "BEGIN IMMEDIATE")
        (before,) = self._run(
            connection, f"SELECT name FROM customers WHERE customer_id = ?{lock}", customer
        ).fetchone()
        self._run(connection, "UPDATE customers SET name = ? WHERE customer_id = ?", name, customer)
        self._run(connection, "COMMIT")
        self.parents[name] = before
        self.counts["committed"] += 1

    def _look(self, order: int) -> None:
        while not self._done.wait(0.1):
            try:
                with self._connected() as connection:
                    row = self._run(connection, "SELECT size FROM orders WHERE order_id = ?", order).fetchone()
            except AWAY:
                continue
            if row is not None or order in self.last:
                self.last[order] = row[0] if row is not None else None
            return
        self.last.pop(order, None)  # it is over, and nobody knows

    def _run(self, connection: Any, sql: str, *values: object) -> Any:
        return connection.execute(sql.replace("?", "%s") if self._postgresql else sql, values or ())


class Reader(threading.Thread):
    """Looks at one node all the time: no reader may ever see a half."""

    def __init__(self, network: TestNetwork, code: str, done: threading.Event) -> None:
        super().__init__(name=f"reader {code}")
        self.code = code
        self.looks = 0
        self.halves: Sequence[Any] = ()
        self._network, self._done = network, done

    def run(self) -> None:
        while not self._done.wait(0.2) and not self.halves:
            with suppress(*AWAY):
                self.halves = self._network.rows(self.code, HALVES)
                self.looks += 1

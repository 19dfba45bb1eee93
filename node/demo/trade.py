"""What the applications of the demo do: plain SQL on plain connections, knowing nothing of KOD.

An item that one node alone edits has to end everywhere as that node left it. Every edit writes a tag of its own into
the column `edited` and, once committed, into the node's ledger: by these the proof sees whether one was lost.

    own orders, files, customers, reports    edited by the shop that made them
    states of orders                         edited by the head office as well, so that collisions happen by themselves
    price lists                              each product's by one node
    `clash`                                  two nodes change one customer for certain without seeing each other
"""

from __future__ import annotations

import random
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from node.demo.network import DemoNode

CATEGORIES, PRODUCTS, CUSTOMERS, ORDERS, CONTESTED = 12, 120, 80, 150, 400
CITIES = ("Kazan", "Omsk", "Tver", "Псков", "Łódź", "København", "São Paulo", "東京")
NAMES = ("Vostok", "Заря", "O'Neill & Sons", "Müller GmbH", "Sever", "Café Noir", "Ромашка", 'Big "B"')
GOODS = ("Tea", "Coffee", "Чай", "Honey", "Rye bread", "Crème", "Salt", "Lamp")
STATES = ("new", "paid", "packed")
_PAUSE_S = (0.01, 0.05)


class Key(NamedTuple):
    """An item as the application knows it: a table and a key."""

    table: str
    key: tuple[str | int, ...]


Ledger = dict[Key, str | None]
"""For each item the tag of a node's last edit of it; None where it deleted it (or emptied the record set)."""


@dataclass(frozen=True, slots=True)
class Clash:
    """One customer, changed at two nodes while neither could see the other's change."""

    key: Key
    tags: tuple[str, str]
    nodes: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Happened:
    """A line for people: what an application did."""

    at: datetime
    node: str
    text: str


@dataclass
class Feed:
    """The latest that happened, for the display. Any thread may add."""

    lines: deque[Happened] = field(default_factory=lambda: deque(maxlen=200))

    def add(self, node: str, text: str) -> None:
        self.lines.append(Happened(datetime.now(), node, text))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def load_sample(node: DemoNode) -> int:
    """What the head office has before KOD comes; how many rows."""
    rng = random.Random(8)  # noqa: S311 - sample data
    connection = node.connect()
    try:
        with transaction(connection):
            _load_catalogue(connection, node, rng)
            _load_orders(connection, rng)
        return connection.total_changes
    finally:
        connection.close()


def _load_catalogue(connection: sqlite3.Connection, node: DemoNode, rng: random.Random) -> None:
    connection.executemany(
        "INSERT INTO categories VALUES (?, ?, ?, 'sample')",
        [(f"K{n:02}", f"{GOODS[n % len(GOODS)]} {n}", f"K{n // 3:02}" if n > 2 else None) for n in range(CATEGORIES)],
    )
    connection.executemany(
        "INSERT INTO products VALUES (?, ?, ?, ?, ?, 'sample')",
        [
            (n, f"{rng.choice(GOODS)} No. {n}", f"K{n % CATEGORIES:02}", rng.uniform(0.01, 9), rng.randbytes(n % 40))
            for n in range(1, PRODUCTS + 1)
        ],
    )
    connection.executemany(
        f"INSERT INTO {node.customers} VALUES (?, ?, ?, ?, 'sample')",
        [
            (f"C{n:04}", f"{rng.choice(NAMES)} {n}", rng.choice([*CITIES, None]), f"+7 {rng.randrange(10**9):09}")
            for n in range(CUSTOMERS + CONTESTED)
        ],
    )
    connection.executemany(
        "INSERT INTO prices VALUES (?, '2026-01-01', ?, ?, 'sample')",
        [(n, kind, rng.randrange(100, 9999)) for n in range(1, PRODUCTS + 1) for kind in ("retail", "wholesale")],
    )


def _load_orders(connection: sqlite3.Connection, rng: random.Random) -> None:
    for n in range(ORDERS):
        number = f"00-S{n:05}"
        placed = datetime(2026, 1, 1) + timedelta(hours=7 * n)
        connection.execute(
            "INSERT INTO orders VALUES (?, ?, ?, 'paid', 'sample')",
            (number, f"C{rng.randrange(CUSTOMERS):04}", placed.isoformat(" ")),
        )
        _insert_lines(connection, number, rng, rng.randint(1, 5))
        if n % 5 == 0:
            connection.execute(
                "INSERT INTO order_files VALUES (?, 'offer.pdf', ?, 'sample')", (number, rng.randbytes(300))
            )


def _insert_lines(connection: sqlite3.Connection, number: str, rng: random.Random, lines: int) -> None:
    connection.executemany(
        "INSERT INTO order_lines VALUES (?, ?, ?, ?, ?)",
        [
            (number, line, rng.randint(1, PRODUCTS), rng.randint(1, 20), rng.randrange(100, 9999))
            for line in range(1, lines + 1)
        ],
    )


class Application(threading.Thread):
    """The application at one node: one edit after another until it is told to stop."""

    def __init__(self, node: DemoNode, number: int, nodes: int, feed: Feed, ending: threading.Event) -> None:
        super().__init__(name=f"application-{node.code}", daemon=True)
        self.node = node
        self.ledger: Ledger = {}
        self.edits = 0
        self.failure: BaseException | None = None
        self._number, self._nodes = number, nodes
        self._feed, self._ending = feed, ending
        self._rng = random.Random(number + 1)  # noqa: S311 - sample edits
        self._births = 0
        self._orders: list[str] = []
        self._customers: list[str] = []
        self._actions: dict[Callable[[], str | None], int] = {
            self.new_order: 8,
            self.change_lines: 7,
            self.delete_order: 2,
            self.renumber_order: 2,
            self.attach_file: 3,
            self.new_customer: 3,
            self.change_customer: 4,
            self.delete_customer: 1,
            self.set_prices: 4,
            self.close_till: 2 if node.parent else 0,
            self.confirm_order: 5 if node.parent is None else 0,
            self.change_product: 3 if node.parent is None else 0,
            self.move_category: 1 if node.parent is None else 0,
        }

    def run(self) -> None:
        try:
            self._connection = self.node.connect()
            try:
                while not self._ending.wait(self._rng.uniform(*_PAUSE_S)):
                    self._edit()
            finally:
                self._connection.close()
        except BaseException as failure:
            self.failure = failure
            self._ending.set()

    def _edit(self) -> None:
        """One edit in one transaction; what it noted counts once it is committed."""
        action = self._rng.choices(list(self._actions), list(self._actions.values()))[0]
        self._noted: Ledger = {}
        with transaction(self._connection):
            text = action()
        if text is not None:
            self.ledger.update(self._noted)
            self.edits += 1
            self._feed.add(self.node.code, text)

    def _tag(self) -> str:
        return f"{self.node.code}#{self.edits}"

    def _note(self, table: str, *key: str | int, tag: str | None) -> None:
        self._noted[Key(table, key)] = tag

    def _all(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def _new_number(self) -> str:
        self._births += 1
        return f"{self.node.code}-{self._births:05}"

    def _own_order(self) -> str | None:
        return self._rng.choice(self._orders) if self._orders else None

    # --- orders ---

    def new_order(self) -> str:
        number, tag = self._new_number(), self._tag()
        customer = f"C{self._rng.randrange(CUSTOMERS):04}"
        if self._customers and self._rng.random() < 0.2:
            customer = self._rng.choice(self._customers)
        self._connection.execute(
            "INSERT INTO orders VALUES (?, ?, ?, 'new', ?)",
            (number, customer, datetime.now().isoformat(" ", "seconds"), tag),
        )
        lines = self._rng.randint(1, 4)
        _insert_lines(self._connection, number, self._rng, lines)
        self._orders.append(number)
        self._note("orders", number, tag=tag)
        return f"order {number} with {lines} lines"

    def change_lines(self) -> str | None:
        """The section changes and the root with it: one item, one stamp."""
        number = self._own_order()
        if number is None or not self._touch_order(number):
            return None
        what = self._rng.randrange(3)
        if what == 0:
            self._connection.execute(
                "INSERT INTO order_lines SELECT ?, 1 + coalesce(max(line), 0), ?, 1, 999 FROM order_lines"
                " WHERE number = ?",
                (number, self._rng.randint(1, PRODUCTS), number),
            )
            return f"order {number}: a line more"
        if what == 1:
            self._connection.execute(
                "DELETE FROM order_lines WHERE number = ? AND line ="
                " (SELECT max(line) FROM order_lines WHERE number = ?)",
                (number, number),
            )
            return f"order {number}: a line less"
        self._connection.execute("UPDATE order_lines SET quantity = quantity + 1 WHERE number = ?", (number,))
        return f"order {number}: other quantities"

    def _touch_order(self, number: str) -> bool:
        tag = self._tag()
        state = self._rng.choice(STATES)
        done = self._connection.execute(
            "UPDATE orders SET state = ?, edited = ? WHERE number = ?", (state, tag, number)
        )
        if done.rowcount:
            self._note("orders", number, tag=tag)
        else:  # the deletion of another node won a collision
            self._orders.remove(number)
        return bool(done.rowcount)

    def delete_order(self) -> str | None:
        number = self._own_order()
        if number is None:
            return None
        self._orders.remove(number)
        for (name,) in self._all("SELECT name FROM order_files WHERE number = ?", number):
            self._note("order_files", number, str(name), tag=None)
        if not self._connection.execute("DELETE FROM orders WHERE number = ?", (number,)).rowcount:
            return None
        self._note("orders", number, tag=None)
        return f"order {number} deleted"

    def renumber_order(self) -> str | None:
        """A change of key: the order goes, another comes; lines and files follow by cascade."""
        old, tag = self._own_order(), self._tag()
        if old is None:
            return None
        new = self._new_number()
        done = self._connection.execute("UPDATE orders SET number = ?, edited = ? WHERE number = ?", (new, tag, old))
        self._orders.remove(old)
        if not done.rowcount:
            return None
        self._orders.append(new)
        self._note("orders", old, tag=None)
        self._note("orders", new, tag=tag)
        for name, edited in self._all("SELECT name, edited FROM order_files WHERE number = ?", new):
            self._note("order_files", old, str(name), tag=None)
            self._note("order_files", new, str(name), tag=str(edited))
        return f"order {old} is {new} now"

    def attach_file(self) -> str | None:
        number, tag = self._own_order(), self._tag()
        if number is None or not self._all("SELECT 1 FROM orders WHERE number = ?", number):
            return None
        name = f"scan-{self._rng.randint(1, 3)}.png"
        self._connection.execute(
            "INSERT INTO order_files VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET content = excluded.content, edited = excluded.edited",
            (number, name, self._rng.randbytes(200), tag),
        )
        self._note("order_files", number, name, tag=tag)
        return f"order {number}: file {name}"

    def confirm_order(self) -> str | None:
        """The head office edits what the shops edit too. Not orders of the shops' own customers: a shop may delete
        these at the same moment."""
        found = self._all(
            "SELECT number FROM orders WHERE state <> 'confirmed' AND customer_id GLOB 'C*' ORDER BY random() LIMIT 1"
        )
        if not found:
            return None
        number, tag = str(found[0][0]), self._tag()
        self._connection.execute("UPDATE orders SET state = 'confirmed', edited = ? WHERE number = ?", (tag, number))
        self._note("orders", number, tag=tag)
        return f"order {number} confirmed"

    # --- catalogues, prices, reports ---

    def new_customer(self) -> str:
        customer, tag = self._new_number().replace("-", "-C"), self._tag()
        self._connection.execute(
            f"INSERT INTO {self.node.customers} VALUES (?, ?, ?, NULL, ?)",
            (customer, self._rng.choice(NAMES), self._rng.choice(CITIES), tag),
        )
        self._customers.append(customer)
        self._note("customers", customer, tag=tag)
        return f"customer {customer} added"

    def change_customer(self) -> str | None:
        if not self._customers:
            return None
        customer, tag = self._rng.choice(self._customers), self._tag()
        self._connection.execute(
            f"UPDATE {self.node.customers} SET {self.node.phone} = ?, edited = ? WHERE customer_id = ?",
            (f"+7 {self._rng.randrange(10**9):09}", tag, customer),
        )
        self._note("customers", customer, tag=tag)
        return f"customer {customer}: another telephone"

    def delete_customer(self) -> str | None:
        """One without orders."""
        for customer in self._customers:
            if not self._all("SELECT 1 FROM orders WHERE customer_id = ?", customer):
                self._connection.execute(f"DELETE FROM {self.node.customers} WHERE customer_id = ?", (customer,))
                self._customers.remove(customer)
                self._note("customers", customer, tag=None)
                return f"customer {customer} deleted"
        return None

    def set_prices(self) -> str:
        """A record set is replaced whole; now and then by nothing."""
        products = range(1 + self._number, PRODUCTS + 1, self._nodes)  # each product's prices are one node's
        product, period = self._rng.choice(products), f"2026-{self._rng.randint(2, 12):02}-01"
        tag = self._tag()
        kinds = self._rng.sample(("retail", "wholesale", "sale"), self._rng.randint(0, 3))
        self._connection.execute("DELETE FROM prices WHERE product_id = ? AND period = ?", (product, period))
        self._connection.executemany(
            "INSERT INTO prices VALUES (?, ?, ?, ?, ?)",
            [(product, period, kind, self._rng.randrange(100, 9999), tag) for kind in kinds],
        )
        self._note("prices", product, period, tag=tag if kinds else None)
        return f"product {product} from {period}: " + (" and ".join(kinds) + " price" if kinds else "no price any more")

    def change_product(self) -> str:
        product, tag = self._rng.randint(1, PRODUCTS), self._tag()
        self._connection.execute(
            "UPDATE products SET weight_kg = ?, picture = ?, edited = ? WHERE product_id = ?",
            (self._rng.choice([None, self._rng.uniform(0.01, 9)]), self._rng.randbytes(30), tag, product),
        )
        self._note("products", product, tag=tag)
        return f"product {product} changed"

    def move_category(self) -> str:
        """Below another one that comes before it, so that none becomes its own ancestor."""
        n, tag = self._rng.randrange(1, CATEGORIES), self._tag()
        self._connection.execute(
            "UPDATE categories SET parent_id = ?, edited = ? WHERE category_id = ?",
            (f"K{self._rng.randrange(n):02}", tag, f"K{n:02}"),
        )
        self._note("categories", f"K{n:02}", tag=tag)
        return f"category K{n:02} moved"

    def close_till(self) -> str:
        """Independent: it goes to the head office alone."""
        self._births += 1
        tag = self._tag()
        self._connection.execute(
            "INSERT INTO till_reports VALUES (?, ?, ?, ?)",
            (self.node.code, self._births, self._rng.randrange(10**6), tag),
        )
        self._note("till_reports", self.node.code, self._births, tag=tag)
        return f"till report {self._births} to the head office"


def clash(number: int, nodes: tuple[DemoNode, DemoNode], feed: Feed) -> Clash:
    """Two nodes change customer `number` of the contested ones, neither having seen the other's change: both hold
    their database's write lock until both have written, so that neither daemon can bring one in between."""
    customer = f"C{CUSTOMERS + number:04}"
    tags = tuple(f"{node.code}#clash{number}" for node in nodes)
    connections = [node.connect() for node in nodes]
    try:
        for connection in connections:
            connection.execute("BEGIN IMMEDIATE")
        for node, connection, tag in zip(nodes, connections, tags, strict=True):
            connection.execute(
                f"UPDATE {node.customers} SET {node.phone} = ?, edited = ? WHERE customer_id = ?",
                (f"says {node.name}", tag, customer),
            )
        for connection in connections:
            connection.execute("COMMIT")
    finally:
        for connection in connections:
            connection.close()
    codes = (nodes[0].code, nodes[1].code)
    feed.add("+".join(codes), f"customer {customer} changed at both: a collision")
    return Clash(Key("customers", (customer,)), (tags[0], tags[1]), codes)

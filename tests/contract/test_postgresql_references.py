"""References checked set by set: as safe as the server's own triggers, which are silent meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg.errors import LockNotAvailable

from dispatcher.ports import Accepted
from node.databases.postgresql.connecting import Connections
from node.databases.postgresql.references import ITEMS_MIN, find_references
from schemas.errors import MessageError
from schemas.network import TypeSettings
from schemas.stamp import Stamp
from serializers.keys import Item
from serializers.message import Version
from tests.contract.store_world import StoreWorld
from tests.servers import postgresql_url

pytestmark = pytest.mark.postgresql

DDL = """
CREATE TABLE customers (id integer PRIMARY KEY, boss integer REFERENCES customers);
CREATE TABLE items (id integer PRIMARY KEY);
CREATE TABLE orders (id integer PRIMARY KEY, customer integer NOT NULL REFERENCES customers);
CREATE TABLE lines (order_id integer NOT NULL REFERENCES orders, line integer, item integer REFERENCES items,
                    PRIMARY KEY (order_id, line))"""
TYPES = [
    TypeSettings("Customer", "customers", reference_data=True),
    TypeSettings("Item", "items", reference_data=True),
    TypeSettings("Order", "orders", sections={"lines": "lines"}, reference_data=True),
]
MANY = ITEMS_MIN + 20


@pytest.fixture
def world() -> Iterator[StoreWorld]:
    made = StoreWorld("postgresql", "00", postgresql_url(), {settings.name: settings for settings in TYPES})
    try:
        made.script(DDL)
        made.execute("INSERT INTO customers VALUES (1, NULL), (2, 1)")
        made.execute("INSERT INTO items VALUES (1), (2)")
        yield made
    finally:
        made.close()


def start(world: StoreWorld) -> StoreWorld:
    world.install()
    world.start("01")
    return world


def order(number: int, *, customer: int = 1, item: int | None = 1) -> dict[str, Any]:
    return {"id": number, "customer": customer, "lines": [{"line": 1, "item": item}, {"line": 2, "item": None}]}


def customer(number: int, boss: int | None) -> dict[str, Any]:
    return {"id": number, "boss": boss}


def write(world: StoreWorld, type_name: str, *values: dict[str, Any], stamp: int = 5, existed: bool = False) -> None:
    items = [Item(type_name, f"[{value['id']}]") for value in values]
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.lock(items)
        version = Version(Stamp(stamp), "01.1")
        view.write([Accepted(i, version, {}, v, existed=existed) for i, v in zip(items, values, strict=True)])


def silent(world: StoreWorld) -> set[str]:
    """The types whose rows are written without the triggers."""
    with closing(Connections(world.url)) as connections, connections.connection() as connection:
        return set(find_references(connection, world.structure()).types)


def test_what_is_whole_is_written(world: StoreWorld) -> None:
    """Sections, references within the message, circles and NULLs are no broken references."""
    start(world)
    assert silent(world) == {"Customer", "Item", "Order"}
    write(world, "Order", *(order(n) for n in range(MANY)))
    assert world.execute("SELECT count(*) FROM lines") == [(2 * MANY,)]
    write(world, "Customer", *(customer(10 + n, 10 + (n + 1) % MANY) for n in range(MANY)))  # one circle
    assert world.execute("SELECT count(*) FROM customers") == [(MANY + 2,)]


@pytest.mark.parametrize(
    ("broken", "constraint"),
    [(order(7, customer=9), "orders_customer_fkey"), (order(7, item=9), "lines_item_fkey")],
    ids=["root", "section"],
)
def test_a_broken_reference_is_refused_by_name(world: StoreWorld, broken: dict[str, Any], constraint: str) -> None:
    """The triggers are silent: nobody else would notice, ever."""
    start(world)
    values = [order(n) for n in range(MANY) if n != 7]
    with pytest.raises(MessageError, match=constraint):
        write(world, "Order", *values, broken)
    assert world.execute("SELECT count(*) FROM orders") == [(0,)]


def test_a_change_to_a_broken_reference_is_refused(world: StoreWorld) -> None:
    """An update, too, may lead a reference to nowhere."""
    start(world)
    write(world, "Customer", *(customer(10 + n, 1) for n in range(MANY)))
    moved = [customer(10 + n, 2 if n else 9_999) for n in range(MANY)]
    with pytest.raises(MessageError, match="customers_boss_fkey"):
        write(world, "Customer", *moved, stamp=6, existed=True)
    assert world.execute("SELECT DISTINCT boss FROM customers WHERE id >= 10") == [(1,)]


def test_who_deletes_meanwhile_what_is_referred_to_waits_or_wins(world: StoreWorld) -> None:
    """Without the lock on what is referred to, both would commit: a reference to nowhere."""
    start(world)
    begun, failed = threading.Event(), list[BaseException]()

    def apply() -> None:
        begun.set()
        try:
            write(world, "Order", *(order(n, customer=2) for n in range(MANY)))
        except MessageError as error:
            failed.append(error)

    with world.transaction() as application:
        application.execute("DELETE FROM customers WHERE id = 2")
        thread = threading.Thread(target=apply)
        thread.start()
        begun.wait()
        while not waits_for_lock(world):
            pass
    thread.join()
    dangling = "SELECT count(*) FROM orders o WHERE NOT EXISTS (SELECT FROM customers c WHERE c.id = o.customer)"
    assert world.execute(dangling) == [(0,)]
    assert "orders_customer_fkey" in str(failed[0])


def waits_for_lock(world: StoreWorld) -> bool:
    return bool(
        world.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND application_name = 'kod'"
        )
    )


def test_an_applied_message_holds_what_it_refers_to(world: StoreWorld) -> None:
    """The other way round: who deletes comes second, and is refused by the server."""
    start(world)
    items = [Item("Order", f"[{n}]") for n in range(MANY)]
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.lock(items)
        values = [order(n, customer=2) for n in range(MANY)]
        view.write(
            [Accepted(i, Version(Stamp(5), "01.1"), {}, v, existed=False) for i, v in zip(items, values, strict=True)]
        )
        with closing(world.connect()) as application:
            application.execute("SET lock_timeout = '200ms'")
            with pytest.raises(LockNotAvailable):
                application.execute("DELETE FROM customers WHERE id = 2")
    assert world.execute("SELECT count(*) FROM orders") == [(MANY,)]


@pytest.mark.parametrize(
    ("ddl", "left"),
    [
        ("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
         "CREATE TRIGGER t BEFORE INSERT ON lines FOR EACH ROW EXECUTE FUNCTION f()", ["Customer", "Item"]),
        ("ALTER TABLE items ADD UNIQUE (id) DEFERRABLE", ["Customer"]),
        ("CREATE RULE r AS ON INSERT TO customers DO ALSO NOTIFY x", ["Item"]),
        ("ALTER TABLE customers ENABLE ROW LEVEL SECURITY", ["Item"]),
        ("CREATE TABLE others (id integer PRIMARY KEY); ALTER TABLE orders ADD other integer REFERENCES others",
         ["Customer", "Item"]),
        ("ALTER TABLE lines DROP CONSTRAINT lines_item_fkey;"
         "ALTER TABLE lines ADD FOREIGN KEY (item) REFERENCES items NOT VALID", ["Customer", "Item"]),
        ("CREATE TABLE more () INHERITS (items)", ["Customer"]),
    ],
    ids=["trigger", "deferrable", "rule", "row security", "target that does not travel", "not valid", "inherited"],
)  # fmt: skip
def test_where_more_would_be_silenced_the_triggers_stay(world: StoreWorld, ddl: str, left: list[str]) -> None:
    """An application's trigger, or a check that only a trigger makes, must not be passed over."""
    world.script(ddl)
    start(world)
    assert silent(world) == set(left)
    with pytest.raises(MessageError):
        write(world, "Order", *(order(n, customer=9) for n in range(MANY)))

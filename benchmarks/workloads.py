"""What is written at the source, and how it is told, cheaply, that all of it has arrived at the target.

Rows are made by the server from their numbers, so that both rivals get the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LINES = 5
"""Lines of an order."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """A load that is written while nothing runs, and is then drained."""

    name: str
    title: str
    unit: str
    rows: int
    """Rows inserted or updated by `load`: what rates are counted in, for both rivals."""
    load: tuple[str, ...]
    """Statements; each commits as it goes."""
    customers: int
    items: int
    sentinel: str
    """True at the target once the last change of the load is there. Cheap: asked every few milliseconds."""
    complete: str
    """A figure that is the same at source and target once all is there. Asked only after `sentinel` came true."""
    base: tuple[str, ...] = ()
    """What both databases have before; it travels the rival's own way, outside the measurement."""


def customers(count: int, portion: int = 1000, key: Callable[[str], str] | None = None) -> str:
    """`key`: SQL for the key of the customer with this number; by default at random."""
    return _in_portions(
        count,
        portion,
        f"""
        INSERT INTO customers
        SELECT {(key or customer_id)("n")}, 'C' || lpad(n::text, 7, '0'), 'Customer number ' || n,
               lpad((n * 7919)::text, 10, '0'),
               jsonb_build_object('city', 'City ' || n % 500, 'street', 'Street ' || n % 3000, 'house', n % 200,
                                  'postcode', lpad((n % 1000000)::text, 6, '0')),
               jsonb_build_object('phone', '+7' || lpad(n::text, 10, '0'), 'mail', 'c' || n || '@example.org'),
               clock_timestamp()
        FROM generate_series(first, last) AS n;""",
    )


def items(count: int, portion: int = 1000) -> str:
    return _in_portions(
        count,
        portion,
        f"""
        INSERT INTO items
        SELECT {item_id("n")}, 'Item number ' || n, 'A-' || lpad(n::text, 8, '0'), 10 + n % 9000 + 0.5,
               (ARRAY['pcs', 'kg', 'l', 'box'])[1 + n % 4]
        FROM generate_series(first, last) AS n;""",
    )


def catalogue(count: int) -> str:
    """A tree: each row's parent is the one with a tenth of its number."""
    row = "md5('g' || n)::uuid, CASE WHEN n >= 10 THEN md5('g' || n / 10)::uuid END, 'Group number ' || n"
    return _in_portions(
        count, 1000, f"INSERT INTO catalogue SELECT {row} FROM generate_series(first, last) AS n ORDER BY n;"
    )


def orders(count: int, customers: int, items: int, portion: int = 200, changing: str = "") -> str:
    """`portion` orders a transaction. `changing`: a statement at the end of each transaction; `last` is its number."""
    return _in_portions(
        count,
        portion,
        f"""
        INSERT INTO orders
        SELECT {order_id("n")}, {customer_id(f"1 + (n * 7919::bigint) % {customers}")}, 'ORD-' || lpad(n::text, 9, '0'),
               timestamptz '2026-01-01 08:00+00' + n * interval '17 seconds', n % 3 = 0, 100 + n % 90000 + 0.25
        FROM generate_series(first, last) AS n;
        INSERT INTO order_lines
        SELECT {order_id("n")}, line, {item_id(f"1 + ((n * {LINES} + line) * 104729::bigint) % {items}")},
               1 + (n + line) % 9, 10 + (n * line) % 900 + 0.5, (1 + (n + line) % 9) * (10 + (n * line) % 900 + 0.5)
        FROM generate_series(first, last) AS n, generate_series(1, {LINES}) AS line;
        {changing}""",
    )


def change_customer(number: str, revision: str) -> str:
    """A customer gets new contacts, and a revision by which it is told that the change has arrived."""
    return (
        f"UPDATE customers SET updated = clock_timestamp(), contacts = jsonb_build_object("
        f"'phone', '+7' || lpad(({revision})::text, 10, '0'), 'mail', 'changed@example.org', 'revision', {revision}) "
        f"WHERE id = {customer_id(number)};"
    )


def customer_id(number: str) -> str:
    return f"md5('c' || {number})::uuid"


def item_id(number: str) -> str:
    return f"md5('i' || {number})::uuid"


def order_id(number: str) -> str:
    return f"md5('o' || {number})::uuid"


def backlogs(scale: float) -> dict[str, Backlog]:
    """W1, W2 and W3; `scale` 1 is full size."""
    return {workload.name: workload for workload in (_w1(scale), _w2(scale), _w3(scale))}


def _w1(scale: float) -> Backlog:
    n_customers, n_items, n_groups, n_orders = (int(n * scale) for n in (100_000, 20_000, 1_000, 100_000))
    rows = n_customers + n_items + n_groups + n_orders * (1 + LINES)
    return Backlog(
        name="w1",
        title=f"W1: {rows:,} rows inserted",
        unit="rows/s",
        rows=rows,
        load=(customers(n_customers), items(n_items), catalogue(n_groups), orders(n_orders, n_customers, n_items)),
        customers=n_customers,
        items=n_items,
        sentinel=f"SELECT EXISTS (SELECT FROM orders WHERE id = {order_id(str(n_orders))})",
        complete="SELECT (SELECT count(*) FROM order_lines) + (SELECT count(*) FROM orders) + "
        "(SELECT count(*) FROM customers) + (SELECT count(*) FROM items) + (SELECT count(*) FROM catalogue)",
    )


def _w2(scale: float) -> Backlog:
    n_customers, n_items, n_orders = int(10_000 * scale), int(20_000 * scale), int(20_000 * scale)
    rows = n_orders * (1 + LINES) + n_orders // 10
    changing = f"IF last % 10 = 0 THEN {change_customer(f'1 + (last / 10) % {n_customers}', 'last')} END IF;"
    return Backlog(
        name="w2",
        title=f"W2: {n_orders:,} order transactions, {rows:,} rows",
        unit="rows/s",
        rows=rows,
        base=(customers(n_customers), items(n_items)),
        load=(orders(n_orders, n_customers, n_items, portion=1, changing=changing),),
        customers=n_customers,
        items=n_items,
        sentinel=f"SELECT EXISTS (SELECT FROM orders WHERE id = {order_id(str(n_orders))})",
        complete="SELECT (SELECT count(*) FROM order_lines) + (SELECT count(*) FROM orders) + "
        "(SELECT coalesce(sum((contacts->>'revision')::bigint), 0) FROM customers)",
    )


def _w3(scale: float) -> Backlog:
    n_customers, n_updates = int(10_000 * scale), int(300_000 * scale)
    change = change_customer(f"1 + (first * 7919::bigint) % {n_customers}", "first")
    last = f"1 + ({n_updates} * 7919::bigint) % {n_customers}"
    return Backlog(
        name="w3",
        title=f"W3: {n_updates:,} updates of {n_customers:,} rows",
        unit="updates/s",
        rows=n_updates,
        base=(customers(n_customers),),
        load=(_in_portions(n_updates, 1, change),),
        customers=n_customers,
        items=0,
        sentinel=f"SELECT (contacts->>'revision')::bigint = {n_updates} FROM customers WHERE id = {customer_id(last)}",
        complete="SELECT sum((contacts->>'revision')::bigint) FROM customers",
    )


def _in_portions(count: int, portion: int, body: str) -> str:
    """A block that runs `body` with `first` and `last` of each portion of 1..count, each in its own transaction."""
    return f"""
    DO $block$
    DECLARE
        first bigint;
        last bigint;
    BEGIN
        FOR first IN 1..{count} BY {portion} LOOP
            last := least(first + {portion - 1}, {count});
            {body}
            COMMIT;
        END LOOP;
    END
    $block$"""

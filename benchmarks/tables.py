"""The trade that is exchanged: customers, items, a catalogue with a parent in itself, orders with lines."""

from __future__ import annotations

from typing import Any

import psycopg

CREATE = """
CREATE TABLE customers (
    id uuid PRIMARY KEY, code text NOT NULL, name text NOT NULL, inn text,
    address jsonb, contacts jsonb, updated timestamptz NOT NULL
);
CREATE TABLE items (
    id uuid PRIMARY KEY, name text NOT NULL, article text NOT NULL, price numeric(12, 2) NOT NULL, unit text NOT NULL
);
CREATE TABLE catalogue (
    id uuid PRIMARY KEY, parent_id uuid REFERENCES catalogue, name text NOT NULL
);
CREATE TABLE orders (
    id uuid PRIMARY KEY, customer_id uuid NOT NULL REFERENCES customers, number text NOT NULL,
    date timestamptz NOT NULL, posted boolean NOT NULL, total numeric(14, 2) NOT NULL
);
CREATE TABLE order_lines (
    order_id uuid NOT NULL REFERENCES orders, line_number integer NOT NULL, item_id uuid NOT NULL REFERENCES items,
    quantity numeric(12, 3) NOT NULL, price numeric(12, 2) NOT NULL, amount numeric(14, 2) NOT NULL,
    PRIMARY KEY (order_id, line_number)
);
"""

NAMES = ("customers", "items", "catalogue", "orders", "order_lines")


def rows_that_differ(source: psycopg.Connection[Any], target: psycopg.Connection[Any]) -> dict[str, str]:
    """For each table whose contents are not equal, how many rows it has on both sides. Empty: all equal.

    Compares every value of every row: the sum of the hashes of the rows' text, whatever their order.
    """
    differing = {}
    for name in NAMES:
        query = f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {name} AS t"
        here, there = (connection.execute(query).fetchone() for connection in (source, target))
        assert here is not None
        assert there is not None
        if here != there:
            differing[name] = f"{here[0]} rows at the source, {there[0]} at the target"
    return differing

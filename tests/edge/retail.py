"""A small trade for the tests of the edge: the same tables in every database, one type of each kind."""

from __future__ import annotations

_TABLES = """
CREATE TABLE customers (customer_id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
    order_id INT NOT NULL PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers (customer_id),
    size INT NOT NULL DEFAULT 0
);
CREATE TABLE order_lines (
    order_id INT NOT NULL REFERENCES orders (order_id) ON UPDATE CASCADE ON DELETE CASCADE,
    line INT NOT NULL, product TEXT NOT NULL, quantity INT NOT NULL, PRIMARY KEY (order_id, line)
);
CREATE TABLE order_files (
    order_id INT NOT NULL REFERENCES orders (order_id) ON UPDATE CASCADE ON DELETE CASCADE,
    name TEXT NOT NULL, content {bytes}, PRIMARY KEY (order_id, name)
);
CREATE TABLE prices (
    product TEXT NOT NULL, period DATE NOT NULL, kind TEXT NOT NULL, price INT NOT NULL,
    PRIMARY KEY (product, period, kind)
);
CREATE TABLE reports (report_id TEXT NOT NULL PRIMARY KEY, text TEXT);
CREATE TABLE tasks (task_id INT NOT NULL PRIMARY KEY, text TEXT);
CREATE TABLE task_access (task_id INT NOT NULL, node TEXT NOT NULL, PRIMARY KEY (task_id, node));
CREATE TABLE task_files (
    file_id TEXT NOT NULL PRIMARY KEY, task_id INT NOT NULL REFERENCES tasks (task_id), text TEXT
);
"""

SQLITE = _TABLES.format(bytes="BLOB")
POSTGRESQL = _TABLES.format(bytes="BYTEA")
MARIADB = _TABLES.format(bytes="BLOB").replace("TEXT", "VARCHAR(80) COLLATE utf8mb4_nopad_bin")

EXCHANGE = {
    "Catalog.Customer": {"table": "customers", "reference_data": True},
    "Document.Order": {"table": "orders", "sections": {"lines": "order_lines"}, "reference_data": True},
    "Catalog.OrderFile": {"table": "order_files", "owner": "order_id"},
    "InformationRegister.Price": {"table": "prices", "filter": ["product", "period"], "reference_data": True},
    "Document.Report": {"table": "reports"},
    "Document.Task": {"table": "tasks", "access": "task_access"},
    "Catalog.TaskFile": {"table": "task_files", "owner": "task_id"},
}

CUSTOMERS = "SELECT customer_id, name FROM customers ORDER BY 1"
ORDERS = "SELECT order_id, customer_id, size FROM orders ORDER BY 1"
LINES = "SELECT order_id, line, product, quantity FROM order_lines ORDER BY 1, 2"
FILES = "SELECT order_id, name, content FROM order_files ORDER BY 1, 2"
PRICES = "SELECT product, CAST(period AS TEXT), kind, price FROM prices ORDER BY 1, 2, 3"
EVERYWHERE = (CUSTOMERS, ORDERS, LINES, FILES, PRICES)
"""What goes to every node, in an order that every database knows."""

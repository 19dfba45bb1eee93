-- The tables of a trade that knows nothing of KOD: keys, foreign keys and plain columns.
-- {customers} and {phone} differ from node to node (nodes.yaml, `exchange` of a node).
-- `edited` is the application's own note of the last edit: by it the demo proves that none was lost.

CREATE TABLE categories (
    category_id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    parent_id TEXT REFERENCES categories (category_id),
    edited TEXT NOT NULL
);

CREATE TABLE products (
    product_id INT NOT NULL PRIMARY KEY, -- INT, not INTEGER: its numbers are given by people, not by SQLite
    name TEXT NOT NULL,
    category_id TEXT NOT NULL REFERENCES categories (category_id),
    weight_kg REAL,
    picture BLOB,
    edited TEXT NOT NULL
);

CREATE TABLE {customers} (
    customer_id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    city TEXT,
    {phone} TEXT,
    edited TEXT NOT NULL
);

CREATE TABLE orders (
    number TEXT NOT NULL PRIMARY KEY, -- begins with the code of the node where it was made
    customer_id TEXT NOT NULL REFERENCES {customers} (customer_id),
    placed_at DATETIME NOT NULL,
    state TEXT NOT NULL,
    edited TEXT NOT NULL
);

CREATE TABLE order_lines (
    number TEXT NOT NULL REFERENCES orders (number) ON UPDATE CASCADE ON DELETE CASCADE,
    line INT NOT NULL,
    product_id INT NOT NULL REFERENCES products (product_id),
    quantity INT NOT NULL,
    price_cents INT NOT NULL,
    PRIMARY KEY (number, line)
);

CREATE TABLE order_files (
    number TEXT NOT NULL REFERENCES orders (number) ON UPDATE CASCADE ON DELETE CASCADE,
    name TEXT NOT NULL,
    content BLOB NOT NULL,
    edited TEXT NOT NULL,
    PRIMARY KEY (number, name)
);

CREATE TABLE prices (
    product_id INT NOT NULL REFERENCES products (product_id),
    period DATE NOT NULL,
    kind TEXT NOT NULL,
    price_cents INT NOT NULL,
    edited TEXT NOT NULL,
    PRIMARY KEY (product_id, period, kind)
);

CREATE TABLE till_reports (
    shop TEXT NOT NULL,
    number INT NOT NULL,
    cash_cents INT NOT NULL,
    edited TEXT NOT NULL,
    PRIMARY KEY (shop, number)
);

CREATE INDEX orders_by_customer ON orders (customer_id);
CREATE INDEX order_lines_by_product ON order_lines (product_id);

"""One node for the contract suite of stores: an application's database, what takes part of it, and its store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pymysql
from sqlalchemy.engine import make_url

from dispatcher.ports import Accepted, Change, Local, Store
from node.databases import Database, open_database
from node.hooks.loading import NOTHING, Loaded
from node.hooks.structure import bind, source_tables
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.network import NodeSettings, TypeSettings
from schemas.stamp import Stamp
from schemas.structure import Structure
from serializers.keys import Item, key_of
from serializers.message import Version
from tests.servers import mariadb_url, postgresql_url

FUTURE = Stamp(4_000_000_000_000)
"""A stamp that no clock has reached: what comes after it shows that versions grow by themselves."""

TABLES = """
CREATE TABLE customers (customer_id VARCHAR(20) PRIMARY KEY, name TEXT,
    boss VARCHAR(20) REFERENCES customers (customer_id), nick TEXT UNIQUE, secret TEXT);
CREATE TABLE orders (order_id INTEGER NOT NULL PRIMARY KEY, customer_id VARCHAR(20) REFERENCES customers (customer_id),
    title TEXT);
CREATE TABLE order_lines (order_id INTEGER NOT NULL REFERENCES orders (order_id) ON DELETE CASCADE,
    line INTEGER NOT NULL, qty INTEGER, customer_id VARCHAR(20) REFERENCES customers (customer_id),
    PRIMARY KEY (order_id, line));
CREATE TABLE order_notes (note_id VARCHAR(20) NOT NULL PRIMARY KEY,
    order_id INTEGER REFERENCES orders (order_id) ON DELETE CASCADE, body TEXT);
CREATE TABLE order_files (file_id VARCHAR(20) NOT NULL PRIMARY KEY,
    order_id INTEGER REFERENCES orders (order_id), body TEXT);
CREATE TABLE order_access (order_id INTEGER, node VARCHAR(8));
CREATE TABLE prices (product VARCHAR(20) NOT NULL, period DATE NOT NULL, currency VARCHAR(3) NOT NULL,
    price NUMERIC(12, 2), PRIMARY KEY (product, period, currency));
CREATE TABLE rates (rate_id INTEGER NOT NULL PRIMARY KEY, region VARCHAR(20), rate INTEGER);
CREATE TABLE "order" ("ключ" VARCHAR(20) NOT NULL, "select" INTEGER NOT NULL, "два слова" TEXT,
    PRIMARY KEY ("ключ", "select"));
"""

EXCHANGE = {
    t.name: t
    for t in (
        TypeSettings("Catalog.Customer", "customers", reference_data=True, exclude=("secret",)),
        TypeSettings(
            "Document.Order",
            "orders",
            sections={"lines": "order_lines", "notes": "order_notes"},
            access="order_access",
        ),
        TypeSettings("Catalog.OrderFile", "order_files", owner=("order_id",)),
        TypeSettings("InformationRegister.Price", "prices", reference_data=True, filter=("product", "period")),
        TypeSettings("InformationRegister.Rate", "rates", reference_data=True, filter=("region",)),
        TypeSettings("Справочник.Слово", "order", reference_data=True),
    )
}

CUSTOMER, ORDER, FILE = "Catalog.Customer", "Document.Order", "Catalog.OrderFile"
PRICE, RATE, WORD = "InformationRegister.Price", "InformationRegister.Rate", "Справочник.Слово"


class MariadbApplication:
    """An application's connection with settings of its own: another sql_mode, character set, time zone and isolation
    than KOD's. Statements are in standard SQL's quotes."""

    def __init__(self, socket: str, database: str) -> None:
        self.raw = pymysql.connect(
            unix_socket=socket, user="root", database=database, autocommit=True, charset="utf8mb4"
        )
        self.execute("SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', character_set_connection = utf8mb4")

    def execute(self, sql: str, parameters: tuple[Any, ...] | None = None) -> Any:
        cursor = self.raw.cursor()
        cursor.execute(sql, parameters)
        return MariadbRows(cursor)

    def close(self) -> None:
        self.raw.close()


class MariadbRows:
    """A cursor as the other drivers have it."""

    def __init__(self, cursor: Any) -> None:
        self.description = cursor.description
        self.fetchone = cursor.fetchone
        self._cursor = cursor

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._cursor.fetchall())


class StoreWorld:
    """A node: `execute` is the application, `store` is KOD."""

    store: Store
    hooks: Loaded = NOTHING

    def __init__(self, dialect: str, code: str, url: str, exchange: Mapping[str, TypeSettings] = EXCHANGE) -> None:
        self.dialect = dialect
        self.code = code
        self.url = url
        self.exchange = exchange
        self.settings = NodeSettings(code, code, None, url, exchange)
        self.database: Database = open_database(url)
        self.application = self.connect()
        self.position = 0
        self._stores: list[Store] = []

    # --- the application

    def connect(self) -> Any:
        """A connection of the application's own, in autocommit; close it."""
        address = make_url(self.url)
        if self.dialect == "mariadb":
            return MariadbApplication(str(address.query["unix_socket"]), str(address.database))
        if self.dialect == "sqlite":
            connection = sqlite3.connect(str(address.database), isolation_level=None, timeout=10)
            connection.execute("PRAGMA foreign_keys = ON")
            return connection
        plain = address.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(plain, autocommit=True)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Statements of the application, each its own transaction; the rows of the last."""
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor = self.application.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        return rows

    def script(self, text: str) -> None:
        self.execute(*(statement for statement in text.split(";\n") if statement.strip()))

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Another program's transaction; open until the block ends."""
        with closing(self.connect()) as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def objects(self) -> set[tuple[str, str]]:
        """All that there is in the database, by kind and name."""
        if self.dialect == "sqlite":
            return set(self.execute("SELECT type, name FROM sqlite_master"))
        if self.dialect == "mariadb":
            return set(
                self.execute(
                    "SELECT TABLE_TYPE, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() "
                    "UNION ALL SELECT 'trigger', TRIGGER_NAME FROM information_schema.TRIGGERS "
                    "WHERE TRIGGER_SCHEMA = DATABASE()"
                )
            )
        return set(
            self.execute(
                "SELECT 'relation', c.oid::regclass::text FROM pg_class c "
                "JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' "
                "UNION ALL SELECT 'trigger', tgrelid::regclass::text || ' ' || tgname FROM pg_trigger "
                "WHERE NOT tgisinternal "
                "UNION ALL SELECT 'function', p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n "
                "ON n.oid = p.pronamespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' "
                "UNION ALL SELECT 'schema', nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'"
            )
        )

    # --- KOD

    def structure(self) -> Structure:
        tables = self.database.reflect((*tables_needed(self.exchange.values()), *source_tables(self.hooks)))
        compiled = compile_structure(generate_package(self.exchange, tables), self.exchange, tables)
        structure, wrong = bind(compiled, self.hooks, tables)
        assert not wrong
        return structure

    def install(self) -> tuple[str, ...]:
        return self.database.install(self.settings, self.structure()).done

    def start(self, *neighbours: str) -> Store:
        self.store = self.database.store(self.settings, self.structure())
        self._stores.append(self.store)
        self.store.start(neighbours)
        return self.store

    def changes(self, items_max: int = 100_000) -> list[Change]:
        """Folds, and gives what is new since the last call."""
        with self.store.sending() as view:
            view.fold()
            found = list(view.portion(self.position, items_max))
        if found:
            self.position = found[-1].mark
        return found

    def changed(self) -> set[tuple[str, str]]:
        return {change.item for change in self.changes()}

    def texts(self, *items: Item) -> list[bytes | None]:
        with self.store.sending() as view:
            return [content.text for content in view.contents(items)]

    def value(self, item: Item) -> Any:
        (text,) = self.texts(item)
        return None if text is None else orjson.loads(text)

    def serve(self, *nodes: str) -> None:
        """As if everything so far had been sent."""
        from dispatcher.ports import Sent

        self.changes()
        self.store.record_sent([Sent(node, self.position, None) for node in nodes])

    def receive(
        self,
        value: Mapping[str, Any] | None,
        type_name: str,
        *,
        stamp: int,
        origin: str = "01.1",
        key: str | None = None,
        sender: str = "01",
        forward: bool = True,
        seen: Mapping[str, Stamp] | None = None,
    ) -> Local | None:
        """Applies one incoming version, whatever is here; returns what was here."""
        item_type = self.structure()[type_name]
        item = Item(type_name, key if key is not None else key_of(item_type, value or {}))
        with self.store.receiving(sender, forward=forward, limited=frozenset()) as view:
            here = view.lock([item]).get(item)
            version = Version(Stamp(stamp), origin)
            view.write([Accepted(item, version, seen or {}, value, existed=here is not None and here.exists)])
        return here

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self.database.close()
        if self.dialect == "mariadb":  # looking into the catalogue takes the longer the more there are
            self.execute(f"DROP DATABASE {make_url(self.url).database}")
        self.application.close()


def new_world(dialect: str, code: str, folder: Path, *, ddl: str = TABLES) -> StoreWorld:
    if dialect == "sqlite":
        path = folder / f"{code}-{len(list(folder.iterdir()))}.sqlite"
        sqlite3.connect(path).close()
        path.touch()
        url = f"sqlite:///{path}"
    else:
        url = mariadb_url() if dialect == "mariadb" else postgresql_url()
    world = StoreWorld(dialect, code, url)
    if dialect == "mariadb":  # a TEXT of MariaDB's ends at 64 KB; one that is unique has to
        ddl = ddl.replace("title TEXT", "title LONGTEXT").replace("name TEXT", "name LONGTEXT")
    world.script(ddl)
    return world


def keys(items: Sequence[Change]) -> list[str]:
    return [change.item.key for change in items]

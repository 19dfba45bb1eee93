"""A start looks at a database once, however many tables there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from node.databases.sqlite import connection as sqlite_connection
from node.databases.sqlite import database as sqlite_database
from node.databases.sqlite import store as sqlite_store
from schemas.network import TypeSettings
from tests.contract.conftest import DIALECTS
from tests.contract.store_world import StoreWorld, new_world


def world_of(dialect: str, folder: Path, types: int) -> StoreWorld:
    """Types in a row, each with a section and a unique column, each referring to the one before it."""
    world = new_world(dialect, "00", folder, ddl="")
    exchange = {}
    for n in range(types):
        earlier = f" REFERENCES t{n - 1} (id) ON DELETE CASCADE" if n else ""
        world.execute(
            f"CREATE TABLE t{n} (id INTEGER NOT NULL PRIMARY KEY, code INTEGER UNIQUE, earlier INTEGER{earlier})",
            f"CREATE TABLE l{n} (id INTEGER NOT NULL REFERENCES t{n} (id), line INTEGER NOT NULL,"
            " PRIMARY KEY (id, line))",
        )
        exchange[f"T{n}"] = TypeSettings(f"T{n}", f"t{n}", reference_data=True, sections={"lines": f"l{n}"})
    world.exchange = exchange
    world.install()
    return world


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is run from now on; `connect` for a connection to SQLite."""
    found: list[str] = []

    def noted(execute: Callable[..., Any]) -> Callable[..., Any]:
        def noting(self: Any, query: Any, *arguments: Any, **named: Any) -> Any:
            found.append(str(query))
            return execute(self, query, *arguments, **named)

        return noting

    def connect(path: Path, **options: Any) -> sqlite3.Connection:
        found.append("connect")
        connection = sqlite_connection.connect(path, **options)
        connection.set_trace_callback(lambda sql: None if sql.startswith("-- ") else found.append(sql))
        return connection

    monkeypatch.setattr(psycopg.Cursor, "execute", noted(psycopg.Cursor.execute))
    monkeypatch.setattr(pymysql.cursors.Cursor, "execute", noted(pymysql.cursors.Cursor.execute))
    for module in (sqlite_database, sqlite_store):
        monkeypatch.setattr(module, "connect", connect)
    return found


def started(world: StoreWorld, statements: list[str]) -> list[str]:
    """What a daemon's start asks of its database."""
    with closing(world), world.database.daemon_lock("00"):
        statements.clear()
        world.start("01")
        return list(statements)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_start_asks_no_more_of_a_database_with_more_tables(
    dialect: str, tmp_path: Path, statements: list[str]
) -> None:
    """Or a node with hundreds of types takes seconds: each question is a round trip, or a look at all of a schema."""
    few = started(world_of(dialect, tmp_path, 2), statements)
    many = started(world_of(dialect, tmp_path, 6), statements)
    assert [sql.split("(")[0][:40] for sql in many] == [sql.split("(")[0][:40] for sql in few]


def test_a_start_opens_a_sqlite_file_twice(tmp_path: Path, statements: list[str]) -> None:
    """SQLite reads all triggers' SQL whenever it is opened: that is a tenth of a second for hundreds of tables."""
    world = world_of("sqlite", tmp_path, 2)
    with closing(world), world.database.daemon_lock("00"):
        statements.clear()
        structure = world.structure()
        world.database.standing()
        world.database.set_draining(False)
        world.database.store(world.settings, structure).start(["01"])
        assert statements.count("connect") == 2

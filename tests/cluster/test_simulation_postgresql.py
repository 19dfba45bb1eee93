"""The same histories over PostgreSQL, and over a network of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.ports import NodeView
from node.databases.postgresql.database import PostgresqlDatabase
from tests.cluster.simulation import TABLES, SimNode, World, history, structure_of
from tests.servers import postgresql_url


class Application:
    """An application's connection that speaks sqlite3's dialect of parameters."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> psycopg.Cursor[Any]:
        return self.connection.execute(sql.replace("?", "%s"), parameters or None)  # type: ignore[call-overload,no-any-return]

    def close(self) -> None:
        self.connection.close()


class PostgresqlNode(SimNode):
    """A node over PostgreSQL; its clock is the server's own."""

    begin = "BEGIN"
    refused = psycopg.IntegrityError

    def _make_database(self, folder: Path) -> None:
        self.url = postgresql_url()
        self.application = Application(self.url)
        self.application.connection.execute(TABLES)
        database = self._database()
        self.structure = structure_of(database)
        database.install(self.settings, self.structure)
        database.close()

    def set_database_clock(self) -> None:
        """The server has its own."""

    def versions(self) -> None:
        return None

    def broken_references(self) -> list[Any]:
        """The server looks itself, at every statement's end."""
        return []

    def close(self) -> None:
        super().close()
        self.application.close()

    def _database(self) -> Any:
        return PostgresqlDatabase(self.url)


def either(code: str, view: NodeView, folder: Path, world: World) -> SimNode:
    return world.random.choice([SimNode, PostgresqlNode])(code, view, folder, world)


@pytest.mark.postgresql
@pytest.mark.parametrize("seed", range(25))
def test_postgresql_agrees_in_the_end(seed: int) -> None:
    """The fold, the locks and the writes of this dialect are its own."""
    history(seed, make_node=PostgresqlNode)


@pytest.mark.postgresql
@pytest.mark.parametrize("seed", range(25))
def test_a_network_of_both_agrees_in_the_end(seed: int) -> None:
    """What one dialect writes the other has to read; their clocks differ by decades here."""
    history(seed, make_node=either, losses=seed % 2 == 1)


@pytest.mark.postgresql
@pytest.mark.parametrize("seed", range(25))
def test_rights_mean_the_same_in_both(seed: int) -> None:
    """Each dialect notes changes of rights in its own way."""
    history(seed, make_node=either, rights=True, losses=seed % 4 == 3)

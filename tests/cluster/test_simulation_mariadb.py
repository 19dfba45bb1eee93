"""The same histories over MariaDB, and over a network of all three."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy.engine import make_url

from dispatcher.ports import NodeView
from node.databases.mariadb.database import MariadbDatabase
from tests.cluster.simulation import TABLES, SimNode, World, history, structure_of
from tests.cluster.test_simulation_postgresql import PostgresqlNode
from tests.contract.store_world import MariadbRows
from tests.servers import mariadb_server


class Application:
    """An application's connection that speaks sqlite3's dialect of parameters and of upserts."""

    def __init__(self, url: str) -> None:
        address = make_url(url)
        self.raw = pymysql.connect(
            unix_socket=str(address.query["unix_socket"]), user="root", database=address.database, autocommit=True
        )

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        before, conflict, after = sql.replace("?", "%s").partition(" ON CONFLICT ")
        if conflict and after.endswith(" DO NOTHING"):
            first = after.partition("(")[2].partition(",")[0]
            before = f"{before} ON DUPLICATE KEY UPDATE {first} = {first}"
        elif conflict:
            values = re.sub(r"excluded\.([a-z_]+)", r"VALUES(\1)", after.partition(" DO UPDATE SET ")[2])
            before = f"{before} ON DUPLICATE KEY UPDATE {values}"
        cursor = self.raw.cursor()
        cursor.execute(before, parameters)
        return MariadbRows(cursor)

    def close(self) -> None:
        self.raw.close()


class MariadbNode(SimNode):
    """A node over MariaDB; its clock is the server's own."""

    begin = "BEGIN"
    refused = pymysql.err.IntegrityError

    def _make_database(self, folder: Path) -> None:
        self.url = mariadb_server().new_database()
        self.application = Application(self.url)
        # a key has to have a length here
        for statement in filter(str.strip, TABLES.replace("TEXT", "VARCHAR(80)").split(";\n")):
            self.application.execute(statement)
        database = self._database()
        self.structure = structure_of(database)
        database.install(self.settings, self.structure)
        database.close()

    def set_database_clock(self) -> None:
        """The server has its own."""

    def versions(self) -> None:
        return None

    def broken_references(self) -> list[Any]:
        """The server looks itself, at every row."""
        return []

    def close(self) -> None:
        super().close()
        self.application.execute(f"DROP DATABASE {make_url(self.url).database}")
        self.application.close()

    def _database(self) -> Any:
        return MariadbDatabase(self.url)


def any_of_three(code: str, view: NodeView, folder: Path, world: World) -> SimNode:
    kinds = [SimNode, PostgresqlNode, MariadbNode]
    return world.random.choice(kinds)(code, view, folder, world)


@pytest.mark.mariadb
@pytest.mark.parametrize("seed", range(8))
def test_mariadb_agrees_in_the_end(seed: int) -> None:
    """The fold, the locks and the writes of this dialect are its own."""
    history(seed, make_node=MariadbNode, losses=seed % 2 == 1)


@pytest.mark.mariadb
@pytest.mark.postgresql
@pytest.mark.parametrize("seed", range(8))
def test_a_network_of_all_three_agrees_in_the_end(seed: int) -> None:
    """What one dialect writes the others have to read."""
    history(seed, make_node=any_of_three, losses=seed % 2 == 1)


@pytest.mark.mariadb
@pytest.mark.parametrize("seed", range(4))
def test_rights_mean_the_same_over_mariadb(seed: int) -> None:
    """It notes changes of rights in its own way, and looks at them again with SQL of its own."""
    history(seed, make_node=MariadbNode, rights=True, losses=seed % 4 == 3)

"""A node opened: its database, and the structure that its package, nodes.yaml and tables make together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from node.config import database_url, node_settings
from node.databases import Database, open_database
from node.packages import package_of
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.errors import UnavailableError
from schemas.network import Network
from schemas.structure import Structure
from schemas.xsd import fingerprinted


def open_node(network: Network, code: str) -> tuple[Database, Structure]:
    """The node's database and structure. Where nodes.yaml names no package, it is generated from this very database.

    The caller closes the database. Raises ConfigError, or UnavailableError when the database cannot be reached.
    """
    database = connect(network, code)
    try:
        return database, structure_of(database, network, code)
    except BaseException:
        database.close()
        raise


def structure_of(database: Database, network: Network, code: str) -> Structure:
    """What package, nodes.yaml and tables make together now."""
    exchange = node_settings(network, code).exchange
    tables = database.reflect(tables_needed(exchange.values()))
    package = package_of(network)
    if package is not None:
        return compile_structure(package, exchange, tables)
    structure = compile_structure(fingerprinted(generate_package(exchange, tables)), exchange, tables)
    # the package is these tables: they hold whatever it describes
    return replace(structure, mismatches=tuple(m for m in structure.mismatches if m.effect != "will be cut"))


def connect(network: Network, code: str) -> Database:
    """The node's database. A SQLite file that is not there is not made: it would be an empty base."""
    url = database_url(network, code)
    if url.startswith("sqlite:///"):
        file = Path(url.removeprefix("sqlite:///").partition("?")[0])
        if not file.is_file():
            raise UnavailableError(
                f"there is no database file {file}", hint=f"create node {code}'s database with the application's tables"
            )
    return open_database(url)

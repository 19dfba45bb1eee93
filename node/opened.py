"""A node opened: its database, and the structure that its package, nodes.yaml and tables make together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from node.config import database_url, node_settings
from node.databases import Database, open_database
from node.hooks.loading import Loaded, examine, load
from node.hooks.structure import Wrong, bind, source_tables, with_exceptions
from node.packages import package_of
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.errors import ConfigError, Fault, UnavailableError
from schemas.kinds import named_columns
from schemas.network import Network, TypeSettings
from schemas.package import Package
from schemas.structure import Mismatch, Structure
from schemas.tables import Table
from schemas.xsd import fingerprinted


def open_node(network: Network, code: str, wrong: list[Wrong] | None = None) -> tuple[Database, Structure]:
    """The node's database and structure. Where nodes.yaml names no package, it is generated from this very database.

    `wrong`: takes what is wrong with the hooks, which then are left out; None: it is raised.
    The caller closes the database. Raises ConfigError, or UnavailableError when the database cannot be reached.
    """
    database = connect(network, code)
    try:
        return database, structure_of(database, network, code, wrong)
    except BaseException:
        database.close()
        raise


def structure_of(
    database: Database,
    network: Network,
    code: str,
    wrong: list[Wrong] | None = None,
    *,
    package: Package | None = None,
    tables: Mapping[str, Table] | None = None,
) -> Structure:
    """What package (another than nodes.yaml's, where given), nodes.yaml, hooks and tables make together now. `wrong`:
    see `open_node`; `tables`: as another structure of the node was made of them just now."""
    exchange = node_settings(network, code).exchange
    loaded = load(network.hooks, exchange) if wrong is None else examine(network.hooks, exchange)[0]
    exchange, found = with_exceptions(exchange, loaded)
    tables = tables or tables_of(database, exchange, source_tables(loaded))
    structure, more = bind(_structure(package or package_of(network), exchange, tables), loaded, tables)
    found += more
    if wrong is not None:
        wrong += found
    elif found:
        faults = [one.fault for one in found]
        raise ConfigError(f"{len(faults)} fault(s) in the hooks", faults=faults, hint=faults[0].hint)
    return structure


def hooks_of(network: Network, code: str) -> Loaded:
    return load(network.hooks, network.nodes[code].exchange)


def _structure(package: Package | None, exchange: Mapping[str, TypeSettings], tables: Mapping[str, Table]) -> Structure:
    if package is not None:
        return compile_structure(package, exchange, tables)
    structure = compile_structure(fingerprinted(generate_package(exchange, tables)), exchange, tables)
    # the package is these tables: they hold whatever it describes
    fitting = tuple(m for m in structure.mismatches if m.effect != "will be cut")
    return replace(structure, mismatches=fitting)


def tables_of(database: Database, exchange: Mapping[str, TypeSettings], others: Sequence[str] = ()) -> dict[str, Table]:
    """What takes part, and `others`. Columns of names (enumerations', predefined items') bear them as their values."""
    tables = dict(database.reflect((*tables_needed(exchange.values()), *others)))
    for name, column in named_columns(exchange.values()):
        table = tables.get(name)
        if table is not None and table.column(column) is not None:
            values = tuple(database.values(name, column))
            columns = (replace(c, values=values) if c.name == column else c for c in table.columns)
            tables[name] = replace(table, columns=tuple(columns))
    return tables


def daemon_runs(database: Database, code: str) -> bool:
    """Whether some daemon holds the node's lock."""
    try:
        with database.daemon_lock(code):
            return False
    except ConfigError:
        return True


def refusals(mismatches: Iterable[Mismatch], code: str) -> list[Fault]:
    """What keeps types from taking part at all, as faults."""
    return [
        Fault(f"node {code}: {m.type}{f'.{m.property}' if m.property else ''}", m.text, m.hint)
        for m in mismatches
        if m.effect == "refused"
    ]


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

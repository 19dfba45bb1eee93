"""`kod schema load`: another package for nodes whose daemons go on running.

    validate -> compare with each database -> put the file in place -> install at each node -> tell its daemon

The file that nodes.yaml names stays the only truth: what is loaded is put there, and a start reads it from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.config import node_settings
from node.databases import Database
from node.opened import connect, daemon_runs, refusals, structure_of
from node.packages import put_in_place
from schemas.errors import ConfigError, KodError, UnavailableError
from schemas.network import Network
from schemas.package import Package
from schemas.structure import Mismatch, Structure
from schemas.xsd import file_bytes, read_xsd

TAKEN_OVER_WITHIN_S = 20.0
NOBODY_WITHIN_S = 2.5
"""A daemon looks once a second: one that has not looked by now may not be running."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of it at one node. `state`: "taken over", "no daemon" (one that starts begins with it), "refused"
    (the daemon's log says why) or "not reached". `mismatches`: those that the node did not have before."""

    node: str
    state: str
    mismatches: tuple[Mismatch, ...] = ()
    done: tuple[str, ...] = ()
    error: KodError | None = None


def load(network: Network, path: Path, codes: Sequence[str]) -> tuple[Package, list[Loaded]]:
    """Raises ConfigError, and leaves everything as it was, where the file is faulty or a node cannot do with it."""
    if network.package is None:
        raise ConfigError("nodes.yaml names no package", hint="add `package: FILE`, then load it")
    data = file_bytes(path)
    package = read_xsd(data, str(path))
    before = file_bytes(network.package)
    found: dict[str, Loaded] = {}
    with _reached(network, codes, found) as databases:
        structures = {code: _fitting(database, network, code, package) for code, database in databases.items()}
        _refuse(structures)
        put_in_place(data, network.package)
        try:
            done = {c: _install(database, network, c, structures[c][0]) for c, database in databases.items()}
        except BaseException:
            put_in_place(before, network.package)
            raise
        for database in databases.values():
            database.ask_package(package.fingerprint)
        for code, database in databases.items():
            state = _followed(database, code, package.fingerprint)
            found[code] = Loaded(code, state, structures[code][1], done[code])
    return package, [found[code] for code in codes]


@contextmanager
def _reached(network: Network, codes: Sequence[str], unreached: dict[str, Loaded]) -> Iterator[dict[str, Database]]:
    """The databases that can be reached, and in which KOD is installed."""
    databases: dict[str, Database] = {}
    try:
        for code in codes:
            try:
                database = connect(network, code)
                databases[code] = database
                database.package()
            except (UnavailableError, ConfigError) as error:
                if len(codes) == 1:
                    raise
                databases.pop(code, None)
                unreached[code] = Loaded(code, "not reached", error=error)
        yield databases
    finally:
        for database in databases.values():
            database.close()


def _fitting(
    database: Database, network: Network, code: str, package: Package
) -> tuple[Structure, tuple[Mismatch, ...]]:
    """The node's structure by the new package, and what does not fit now, and did before."""
    structure = structure_of(database, network, code, package=package)
    before = structure_of(database, network, code, tables=structure.tables).mismatches
    return structure, tuple(m for m in structure.mismatches if m not in before)


def _refuse(structures: dict[str, tuple[Structure, tuple[Mismatch, ...]]]) -> None:
    """A type that takes part now would not any more: nothing is loaded."""
    faults = [fault for code, (_, mismatches) in structures.items() for fault in refusals(mismatches, code)]
    if faults:
        raise ConfigError("the package is not loaded", faults=faults)


def _install(database: Database, network: Network, code: str, structure: Structure) -> tuple[str, ...]:
    """Types and columns that are new have to be captured before anybody relies on it."""
    return database.install(node_settings(network, code), structure).done


def _followed(database: Database, code: str, fingerprint: str) -> str:
    """Waits for the daemon; without one nobody looks."""
    began = time.monotonic()
    while time.monotonic() - began < TAKEN_OVER_WITHIN_S:
        asked, used = database.package()
        if asked is None:
            return "taken over" if used == fingerprint else "refused"
        if time.monotonic() - began > NOBODY_WITHIN_S and not daemon_runs(database, code):
            return "no daemon"
        time.sleep(0.05)
    return "refused"

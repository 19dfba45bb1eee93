"""Start: how long a node with a large package takes until its daemon works: 300 types, 5,000 columns.

From the start of the process to its line "daemon started": the first time, and once the package is kept
(node/packages.py).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server

TYPES = 300
COLUMNS = 5_000
SECTIONED = 3
"""Every third type has a section."""
WITHIN_S = 60

_KINDS = ("varchar(80)", "numeric(15,2)", "integer", "timestamp", "date", "boolean", "varchar(20)", "double precision")
_NODES_YAML = """\
network: start
bus: folder:./exchange
package: start.xsd
nodes:
  "00": {{database: "{url}"}}
  "01": {{parent: "00", database: "sqlite:///01.sqlite"}}
exchange:
{types}
"""


@dataclass(frozen=True, slots=True)
class Start:
    dialect: str
    types: int
    columns: int
    first_s: float
    again_s: float
    """The median of further starts."""


def starts(source: Server, scale: float, rounds: int) -> list[Start]:
    """Over PostgreSQL and SQLite."""
    types, columns = int(TYPES * scale), int(COLUMNS * scale)
    database = "kod_start"
    source.create_database(database)
    try:
        with source.connect(database) as connection:
            for statement in tables(types, columns):
                connection.execute(statement)  # type: ignore[call-overload]
        return [
            _measure("postgresql", source.url(database), types, columns, rounds),
            _measure("sqlite", "sqlite:///00.sqlite", types, columns, rounds),
        ]
    finally:
        source.drop_database(database)


def _measure(dialect: str, url: str, types: int, columns: int, rounds: int) -> Start:
    folder = Path(tempfile.mkdtemp(prefix="kod-start-"))
    try:
        if dialect == "sqlite":
            with closing(sqlite3.connect(folder / "00.sqlite")) as connection:
                for statement in tables(types, columns):
                    connection.execute(statement)
        (folder / "nodes.yaml").write_text(_NODES_YAML.format(url=url, types="\n".join(exchange(types))))
        _kod(folder, "schema", "generate")
        _kod(folder, "install")
        first = _start(folder)
        return Start(dialect, types, columns, first, statistics.median(_start(folder) for _ in range(rounds)))
    finally:
        shutil.rmtree(folder)


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "node", "-c", str(folder / "nodes.yaml"), *arguments, "--node", "00"]


def _kod(folder: Path, *arguments: str) -> None:
    done = subprocess.run(_command(folder, *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"kod {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")


def _start(folder: Path) -> float:
    """Until the daemon says that it has started; then it is stopped."""
    began = time.monotonic()
    with subprocess.Popen(
        _command(folder, "run"), stderr=subprocess.PIPE, text=True, env={**os.environ, "KOD_LOG": "info"}
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "daemon started" in line:
                    return time.monotonic() - began
            raise RuntimeError("the daemon did not start")
        finally:
            process.terminate()


# --- the tables ---


def tables(types: int, columns: int) -> Iterator[str]:
    """CREATE TABLE statements that every database takes: each type refers to the one before it, and has its share of
    the columns, its section's among them."""
    for number in range(types):
        share = columns * (number + 1) // types - columns * number // types
        in_section = share // 2 if number % SECTIONED == 0 else 0
        name = f"t{number:03}"
        reference = f" REFERENCES t{number - 1:03} (id)" if number else ""
        key = f"id integer NOT NULL PRIMARY KEY, earlier integer{reference}"
        yield f"CREATE TABLE {name} ({key}, {_columns(share - in_section - 2)})"
        if in_section:
            key = f"owner integer NOT NULL REFERENCES {name} (id), line integer NOT NULL"
            yield f"CREATE TABLE {name}_lines ({key}, {_columns(in_section - 2)}, PRIMARY KEY (owner, line))"


def _columns(count: int) -> str:
    return ", ".join(f"c{n} {_KINDS[n % len(_KINDS)]}" for n in range(count))


def exchange(types: int) -> Iterator[str]:
    for number in range(types):
        section = f", sections: {{lines: t{number:03}_lines}}" if number % SECTIONED == 0 else ""
        yield f"  Catalog.T{number:03}: {{table: t{number:03}, reference_data: true{section}}}"

"""What a package says of a property, and columns of every kind: what is written reads the same, or is not written.

`kod schema check` tells beforehand which (schemas/fitting.py); here the databases show that it is so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.compilation import compile_structure
from schemas.errors import MessageError
from schemas.network import TypeSettings
from schemas.package import Package, PackageType, Property
from schemas.structure import Mismatch, Structure
from schemas.tables import Table
from serializers.digest import same
from serializers.keys import Item, key_of
from tests.contract.conftest import DIALECTS
from tests.contract.store_world import StoreWorld, new_world

COLUMNS = {
    "postgresql": "text varchar(5) numeric(6,2) numeric smallint integer bigint real double_precision boolean"
    " timestamp(0) timestamp timestamptz date time bytea jsonb",
    "mariadb": "longtext varchar(5) decimal(6,2) int float double boolean datetime date time(6) longblob json",
    "sqlite": "text varchar(5) numeric(6,2) integer double boolean timestamp date time blob json",
}
SAMPLES: dict[str, list[Any]] = {
    "integer": [1, 0, 40_000, 5_000_000_000],
    "decimal": ["1", "12.5", "12.345", "12345678.9"],
    "float": [0.5, 1.1],
    "double": [0.5, 0.1 + 0.2, 1e10],
    "boolean": [True, False],
    "dateTime": ["2020-07-27T16:03:05", "2020-07-27T00:00:00", "2020-07-27T16:03:05.123456"],
    "date": ["2020-07-27"],
    "time": ["16:03:05"],
    "base64Binary": ["AQI="],
    "json": ['{"a": 1}', "5"],
    "string": ["x", "007", "a long text", "5", "5.0", "2020-1-5", "2020-07-27", "t", "true", "AQI"],
}
TYPE = "Catalog.Thing"


@pytest.fixture(params=DIALECTS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A table with a column of each kind; a property is mapped to one of them at a time."""
    natives = COLUMNS[request.param].split()
    columns = ", ".join(f"c{n} {native.replace('_', ' ')}" for n, native in enumerate(natives))
    made = new_world(
        request.param, "00", tmp_path, ddl=f"CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, {columns})"
    )
    made.exchange = {TYPE: TypeSettings(TYPE, "things", reference_data=True)}
    made.install()
    yield made
    made.close()


def _structure(tables: Mapping[str, Table], xml: str, column: str) -> tuple[Structure, list[Mismatch]]:
    key = Property("id", "integer", nullable=False, bits=32)
    package = Package({TYPE: PackageType(TYPE, "object", ("id",), (key, Property("value", xml)))})
    settings = TypeSettings(TYPE, "things", reference_data=True, columns={"value": column})
    structure = compile_structure(package, {TYPE: settings}, tables)
    return structure, [m for m in structure.mismatches if m.property == "value"]


def test_what_is_written_reads_the_same_or_is_not_written(world: StoreWorld) -> None:
    """Or a value would be cut, rounded or altered on its way, and nobody would hear of it."""
    altered = []
    tables = world.database.reflect(["things"])  # once: nothing changes them
    for n, native in enumerate(COLUMNS[world.dialect].split()):
        for xml, samples in SAMPLES.items():
            structure, mismatches = _structure(tables, xml, f"c{n}")
            if not structure.types:
                assert [m.effect for m in mismatches] == ["refused"]
                continue
            kept = _write(world, structure, samples)
            lost = len(kept) < len(samples)
            if lost and not mismatches:
                altered.append(f"{xml} -> {native}: {len(samples) - len(kept)} not taken, and nobody was told")
            for number, text in _read(world, structure).items():
                sent = {"id": number, "value": kept[number]}
                if not same(structure[TYPE], sent, text) and not _told_to_be_inexact(mismatches):
                    altered.append(f"{xml} -> {native}: {kept[number]!r} became {text['value']!r}")
            world.execute("DELETE FROM things")
    assert not altered, "\n".join(altered)


def _told_to_be_inexact(mismatches: list[Mismatch]) -> bool:
    """Floating-point numbers, and SQLite's columns, are what they are: the digits that they lose are named."""
    return any("SQLite" in m.text or "are lost in it" in m.hint for m in mismatches)


def _write(world: StoreWorld, structure: Structure, samples: list[Any]) -> dict[int, Any]:
    kept = {}
    for number, value in enumerate(samples, 1):
        written = {"id": number, "value": value}
        try:
            world.database.restore(structure, Item(TYPE, key_of(structure[TYPE], written)), written)
        except MessageError:
            continue
        kept[number] = value
    return kept


def _read(world: StoreWorld, structure: Structure) -> dict[int, Any]:
    contents = [orjson.loads(content.text or b"") for content in world.database.contents(structure, TYPE)]
    return {content["id"]: content for content in contents}

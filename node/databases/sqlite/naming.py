"""Names under which all nodes know rows that each has under a key of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from node.databases.sqlite.lexical import Form, key_array_sql, quoted
from schemas.structure import Names, Structure


def names(
    connection: sqlite3.Connection, asked: Names, type_ids: Mapping[str, int], *, reads_only: bool = False
) -> dict[Any, str]:
    """By key, in its lexical form. Those of predefined items are remembered, in the caller's transaction."""
    found = _there(connection, asked)
    type_id = type_ids.get(asked.of_type or "")
    if type_id is None:
        return _by_value(found)
    known = dict(connection.execute("SELECT key, name FROM kod_named WHERE type = ?", (type_id,)).fetchall())
    new = [(type_id, key, name) for key, name in found.items() if known.get(key) != name]
    if new and not reads_only:
        connection.executemany(
            "INSERT INTO kod_named VALUES (?, ?, ?) ON CONFLICT (type, key) DO UPDATE SET name = excluded.name", new
        )
    left = {key: name for key, name in known.items() if name not in set(found.values())}
    return _by_value({**left, **found})


def remember(connection: sqlite3.Connection, structure: Structure, type_ids: Mapping[str, int]) -> None:
    """All that there are, before any of them goes."""
    for item_type in structure.types.values():
        if item_type.predefined is not None:
            names(connection, item_type.predefined, type_ids)


def _there(connection: sqlite3.Connection, asked: Names) -> dict[str, str]:
    assert asked.key.column is not None
    key = key_array_sql((Form.of(asked.key),), [quoted(asked.key.column.name)])
    name = quoted(asked.column)
    rows = connection.execute(
        f"SELECT {key}, CAST({name} AS TEXT) FROM {quoted(asked.table)} WHERE {name} IS NOT NULL AND {name} <> ''"
    )
    return dict(rows.fetchall())


def _by_value(found: Mapping[str, str]) -> dict[Any, str]:
    return {orjson.loads(key)[0]: name for key, name in found.items()}

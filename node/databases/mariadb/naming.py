"""Names under which all nodes know rows that each has under a key of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import Form, key_array_sql, quoted
from node.databases.mariadb.reflection import quoted_table
from schemas.structure import Names, Structure


def names(
    connection: Connection, asked: Names, type_ids: Mapping[str, int], *, reads_only: bool = False
) -> dict[Any, str]:
    """By key, in its lexical form. Those of predefined items are remembered, in the caller's transaction."""
    found = _there(connection, asked)
    type_id = type_ids.get(asked.of_type or "")
    if type_id is None:
        return _by_value(found)
    known = {
        key.decode(): name
        for key, name in connection.rows("SELECT item_key, name FROM kod_named WHERE type = %s", (type_id,))
    }
    new = [(type_id, key.encode(), name) for key, name in found.items() if known.get(key) != name]
    if new and not reads_only:
        connection.many(
            "INSERT INTO kod_named (type, item_key, name) VALUES (%s, %s, %s)"
            " ON DUPLICATE KEY UPDATE name = VALUES(name)",
            new,
        )
    left = {key: name for key, name in known.items() if name not in set(found.values())}
    return _by_value({**left, **found})


def remember(connection: Connection, structure: Structure, type_ids: Mapping[str, int]) -> None:
    """All that there are, before any of them goes."""
    for item_type in structure.types.values():
        if item_type.predefined is not None:
            names(connection, item_type.predefined, type_ids)


def _there(connection: Connection, asked: Names) -> dict[str, str]:
    assert asked.key.column is not None
    key = key_array_sql((Form.of(asked.key),), [f"t.{quoted(asked.key.column.name)}"])
    name = f"t.{quoted(asked.column)}"
    rows = connection.rows(
        f"SELECT CAST({key} AS BINARY), CAST({name} AS CHAR) FROM {quoted_table(asked.table)} t"
        f" WHERE {name} IS NOT NULL AND {name} <> ''"
    )
    return {key.decode(): text for key, text in rows}


def _by_value(found: Mapping[str, str]) -> dict[Any, str]:
    return {orjson.loads(key)[0]: name for key, name in found.items()}

"""What a trigger is, and the foreign keys by which rows change without one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import quoted
from node.databases.mariadb.reflection import quoted_table


@dataclass(frozen=True)
class Trigger:
    home: str
    """The database that it lies in; empty for the connection's own."""
    name: str
    sql: str
    """After CREATE OR REPLACE TRIGGER; percent signs are single."""


def trigger(connection: Connection, table: str, name: str, event: str, body: str) -> Trigger:
    """For each row of a table; `{own}` in the body stands for the database of the registers."""
    home = table.partition(".")[0] if "." in table else ""
    text = body.replace("{own}", f"{quoted(connection.database)}." if home else "")
    called = f"{quoted(home)}.{quoted(name)}" if home else quoted(name)
    return Trigger(home or connection.database, name, f"{called} {event} ON {quoted_table(table)} FOR EACH ROW\n{text}")


def short(table: str) -> str:
    return hashlib.sha256(table.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Edge:
    """A foreign key by which the server itself changes rows of `table` when one of `target` goes or changes."""

    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str
    on_update: str


_EDGES = """
SELECT k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.REFERENCED_TABLE_SCHEMA, k.REFERENCED_TABLE_NAME,
  r.DELETE_RULE, r.UPDATE_RULE, k.COLUMN_NAME, k.REFERENCED_COLUMN_NAME
FROM information_schema.REFERENTIAL_CONSTRAINTS r JOIN information_schema.KEY_COLUMN_USAGE k
  ON k.CONSTRAINT_NAME = r.CONSTRAINT_NAME AND k.TABLE_NAME = r.TABLE_NAME
WHERE r.CONSTRAINT_SCHEMA = %s AND k.TABLE_SCHEMA = %s AND k.TABLE_NAME NOT LIKE 'kod\\_%%'
  AND (r.DELETE_RULE IN ('CASCADE', 'SET NULL') OR r.UPDATE_RULE IN ('CASCADE', 'SET NULL'))
ORDER BY k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"""
ACTS = ("CASCADE", "SET NULL")


def edges(connection: Connection, schemas: Sequence[str]) -> list[Edge]:
    home = connection.database
    grouped: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for schema in schemas:
        for *head, column, target_column in connection.rows(_EDGES, (schema, schema)):
            grouped.setdefault(tuple(head), []).append((column, target_column))

    def named(schema: str, table: str) -> str:
        return table if schema == home else f"{schema}.{table}"

    return [
        Edge(
            named(schema, table),
            tuple(own for own, _ in pairs),
            named(target_schema, target),
            tuple(theirs for _, theirs in pairs),
            on_delete,
            on_update,
        )
        for (schema, table, _, target_schema, target, on_delete, on_update), pairs in grouped.items()
    ]

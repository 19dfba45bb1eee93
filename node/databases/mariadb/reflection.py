"""What tables there are, from information_schema."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from node.databases.mariadb.connection import Connection, Row
from node.databases.mariadb.lexical import quoted
from schemas.tables import Column, ForeignKey, Table

_XML = {
    "tinyint": "integer",
    "smallint": "integer",
    "mediumint": "integer",
    "int": "integer",
    "bigint": "integer",
    "year": "integer",
    "decimal": "decimal",
    "float": "float",
    "double": "double",
    "datetime": "dateTime",
    "timestamp": "dateTime",
    "date": "date",
    "time": "time",
    "binary": "base64Binary",
    "varbinary": "base64Binary",
    "tinyblob": "base64Binary",
    "blob": "base64Binary",
    "mediumblob": "base64Binary",
    "longblob": "base64Binary",
    "json": "json",
}
_WITH_LENGTH = ("char", "varchar")

# A database named by a constant: else information_schema opens the tables of all databases.
_COLUMNS = """
SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, EXTRA, CHARACTER_MAXIMUM_LENGTH,
  NUMERIC_PRECISION, NUMERIC_SCALE, COLLATION_NAME, COLUMN_COMMENT
FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {schema} AND TABLE_NAME IN ({named})
ORDER BY TABLE_NAME, ORDINAL_POSITION"""

_CHECKS = """
SELECT TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS
WHERE CONSTRAINT_SCHEMA = {schema} AND TABLE_NAME IN ({named}) AND CHECK_CLAUSE LIKE 'json_valid(%%'"""

_KEYS = """
SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS
WHERE TABLE_SCHEMA = {schema} AND TABLE_NAME IN ({named}) AND NON_UNIQUE = 0
ORDER BY TABLE_NAME, INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX"""

_FOREIGN_KEYS = """
SELECT k.TABLE_NAME, k.CONSTRAINT_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA, k.REFERENCED_TABLE_NAME,
  k.REFERENCED_COLUMN_NAME, r.DELETE_RULE, r.UPDATE_RULE
FROM information_schema.KEY_COLUMN_USAGE k JOIN information_schema.REFERENTIAL_CONSTRAINTS r
  ON r.CONSTRAINT_NAME = k.CONSTRAINT_NAME AND r.TABLE_NAME = k.TABLE_NAME
WHERE k.TABLE_SCHEMA = {schema} AND r.CONSTRAINT_SCHEMA = {schema} AND k.TABLE_NAME IN ({named})
  AND k.REFERENCED_TABLE_NAME IS NOT NULL
ORDER BY k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"""

Name = tuple[str, str]
"""A table's database and its name there."""


def quoted_table(name: str) -> str:
    """A table's name as SQL; `database.table` names both."""
    schema, dot, table = name.partition(".")
    return f"{quoted(schema)}.{quoted(table)}" if dot else quoted(name)


def table_names(connection: Connection) -> Sequence[str]:
    rows = connection.rows(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
        r" AND TABLE_TYPE IN ('BASE TABLE', 'VIEW', 'SYSTEM VERSIONED') AND TABLE_NAME NOT LIKE 'kod\_%%' ORDER BY 1"
    )
    return [name for (name,) in rows]


def reflect(connection: Connection, names: Iterable[str]) -> dict[str, Table]:
    """The tables and views of these names, spelled as they were asked for."""
    asked = {_split(connection, name): name for name in names}
    found: dict[str, Table] = {}
    for schema in dict.fromkeys(schema for schema, _ in asked):
        found.update(_reflect_in(connection, schema, asked))
    return {name: found[name] for name in asked.values() if name in found}


def _reflect_in(connection: Connection, schema: str, asked: Mapping[Name, str]) -> dict[str, Table]:
    tables = [name for own, name in asked if own == schema]

    def rows(sql: str) -> tuple[Row, ...]:
        named = ", ".join(["%s"] * len(tables))
        count = sql.count("{schema}")
        return connection.rows(sql.format(schema="%s", named=named), [*[schema] * count, *tables])

    named = rows(
        "SELECT TABLE_NAME, TABLE_TYPE, TABLE_COMMENT FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = {schema} AND TABLE_NAME IN ({named})"
    )
    kinds: dict[str, str] = {table: kind for table, kind, _ in named}
    comments: dict[str, str] = {table: comment for table, kind, comment in named if kind != "VIEW"}
    columns, checks, keys, foreign = (_grouped(rows(sql)) for sql in (_COLUMNS, _CHECKS, _KEYS, _FOREIGN_KEYS))
    found = {}
    for table in tables:
        if table not in kinds:
            continue
        name = asked[schema, table]
        indexes = _indexes(keys.get(table, ()))
        json = {
            match[1] for (clause,) in checks.get(table, ()) if (match := re.match(r"json_valid\(`(.*)`\)$", clause))
        }
        found[name] = Table(
            name=name,
            columns=tuple(_column(row, json) for row in columns.get(table, ())),
            primary_key=indexes.get("PRIMARY", ()),
            foreign_keys=_foreign_keys(foreign.get(table, ()), schema, asked),
            uniques=tuple(dict.fromkeys(c for index, c in indexes.items() if index != "PRIMARY")),
            view=kinds[table] == "VIEW",
            comment=comments.get(table, ""),
        )
    return found


def _split(connection: Connection, name: str) -> Name:
    schema, dot, table = name.partition(".")
    return (schema, table) if dot else (connection.database, name)


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for table, *rest in rows:
        found.setdefault(table, []).append(tuple(rest))
    return found


def _column(row: Row, json: set[str]) -> Column:
    name, data_type, native, nullable, extra, length, precision, scale, collation, comment = row
    if name in json and data_type == "longtext":
        data_type = native = "json"
    xml = "boolean" if re.match(r"tinyint\(1\)", native) else _XML.get(data_type, "string")
    if data_type == "timestamp":
        native = f"{native} with time zone"  # it is a moment; MariaDB shows it in the session's zone
    return Column(
        name=name,
        native=native,
        xml=xml,
        nullable=nullable == "YES",
        computed=" GENERATED" in f" {extra}".upper(),
        generated_key="auto_increment" in extra.lower(),
        length=length if data_type in _WITH_LENGTH else None,
        digits=(precision, scale) if data_type == "decimal" else None,
        values=_values(native) if data_type == "enum" else (),
        why_inexact=_why_inexact(data_type, collation),
        second_digits=_second_digits(native) if data_type in ("datetime", "timestamp", "time") else None,
        bits=_bits(data_type, native) if xml == "integer" else None,
        comment=comment,
    )


_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64, "year": 16}


def _second_digits(native: str) -> int | None:
    found = re.match(r"\w+\((\d)\)", native)
    digits = int(found[1]) if found else 0
    return digits if digits < 6 else None


def _bits(data_type: str, native: str) -> int:
    """An unsigned number needs one more, for a sign."""
    return _BITS[data_type] + ("unsigned" in native)


def _why_inexact(data_type: str, collation: str | None) -> str:
    if data_type in ("float", "double"):
        return "MariaDB has no NaN and no infinity (a message with one is refused)"
    if data_type == "timestamp":
        return "MariaDB's TIMESTAMP goes from 1970 to 2038 only (others are refused); DATETIME goes farther"
    if collation and not collation.startswith(("utf8mb4_", "uca1400_")) and data_type != "uuid":
        return f"its character set ({collation.partition('_')[0]}) does not have every letter (others are refused)"
    return ""


def _values(native: str) -> tuple[str, ...]:
    return tuple(value.replace("''", "'") for value in re.findall(r"'((?:[^']|'')*)'", native))


def _indexes(rows: Iterable[Row]) -> dict[str, tuple[str, ...]]:
    """Unique ones; those over the beginnings of columns only are left out."""
    found: dict[str, list[str]] = {}
    partly = set()
    for index, column, part in rows:
        found.setdefault(index, []).append(column)
        if part is not None:
            partly.add(index)
    return {index: tuple(columns) for index, columns in found.items() if index not in partly}


def _foreign_keys(rows: Iterable[Row], schema: str, asked: Mapping[Name, str]) -> tuple[ForeignKey, ...]:
    grouped: dict[str, list[Row]] = {}
    for constraint, *rest in rows:
        grouped.setdefault(constraint, []).append(tuple(rest))
    found = []
    for pairs in grouped.values():
        _, target_schema, target, _, on_delete, _ = pairs[0]
        plain = target if target_schema == schema else f"{target_schema}.{target}"
        found.append(
            ForeignKey(
                columns=tuple(pair[0] for pair in pairs),
                target=asked.get((target_schema, target), plain),
                target_columns=tuple(pair[3] for pair in pairs),
                on_delete="" if on_delete in ("NO ACTION", "RESTRICT") else on_delete,
            )
        )
    return tuple(found)

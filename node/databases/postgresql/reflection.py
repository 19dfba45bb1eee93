"""What tables there are, from pg_catalog: exact, and fast for hundreds of tables (five statements)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from node.databases.postgresql.connecting import Connection
from schemas.tables import Column, ForeignKey, Table

SCHEMA = "kod"

_XML = {
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "numeric": "decimal",
    "float4": "float",
    "float8": "double",
    "bool": "boolean",
    "timestamp": "dateTime",
    "timestamptz": "dateTime",
    "date": "date",
    "time": "time",
    "bytea": "base64Binary",
    "json": "json",
    "jsonb": "json",
}
_CLOCKS = ("timestamp", "timestamptz", "time")
_ON_DELETE = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT", "r": "RESTRICT"}

# A name as people write it: bare where the search_path finds it, else with its schema.
_NAME = "CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END"

_NAMES = f"""
SELECT {_NAME} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND n.nspname = ANY(current_schemas(false))
  AND n.nspname <> '{SCHEMA}' AND pg_table_is_visible(c.oid)
ORDER BY 1"""

_RELATIONS = """
SELECT w.name, c.oid::bigint, c.relkind IN ('v', 'm'), coalesce(obj_description(c.oid, 'pg_class'), '')
FROM json_to_recordset($1::json) AS w(name text, quoted text)
JOIN pg_class c ON c.oid = to_regclass(w.quoted)
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')"""

# A domain counts as its base type; the recursion goes down domains over domains.
_COLUMNS = """
WITH RECURSIVE base(domain, type, typmod) AS (
  SELECT t.oid, t.typbasetype, t.typtypmod FROM pg_type t WHERE t.typtype = 'd'
  UNION ALL
  SELECT b.domain, t.typbasetype, CASE WHEN b.typmod >= 0 THEN b.typmod ELSE t.typtypmod END
  FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd'
), domains AS (SELECT b.* FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd')
SELECT a.attrelid::bigint, a.attname, t.typname, tn.nspname = 'pg_catalog', x.typmod, format_type(t.oid, x.typmod),
  NOT (a.attnotnull OR EXISTS (SELECT FROM pg_type d WHERE d.oid = a.atttypid AND d.typtype = 'd' AND d.typnotnull)),
  a.attgenerated <> '',
  a.attidentity <> '' OR coalesce(pg_get_expr(ad.adbin, ad.adrelid) LIKE 'nextval(%', false),
  CASE WHEN t.typtype = 'e' THEN
    (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) END,
  coalesce(cd.description, '')
FROM pg_attribute a
LEFT JOIN domains d ON d.domain = a.atttypid
CROSS JOIN LATERAL (SELECT coalesce(d.type, a.atttypid) AS type,
                           CASE WHEN d.type IS NULL THEN a.atttypmod ELSE d.typmod END AS typmod) x
JOIN pg_type t ON t.oid = x.type
JOIN pg_namespace tn ON tn.oid = t.typnamespace
LEFT JOIN pg_description cd ON cd.classoid = 'pg_class'::regclass AND cd.objoid = a.attrelid AND cd.objsubid = a.attnum
LEFT JOIN pg_attrdef ad ON ad.adrelid = a.attrelid AND ad.adnum = a.attnum AND a.attgenerated = ''
WHERE a.attrelid = ANY(CAST($1 AS oid[])) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum"""

_INDEXES = """
SELECT i.indrelid::bigint, i.indisprimary,
  (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::smallint[]) WITH ORDINALITY k(attnum, n)
   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.indnkeyatts)
FROM pg_index i
WHERE i.indrelid = ANY(CAST($1 AS oid[])) AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indrelid, i.indexrelid"""

_FOREIGN_KEYS = f"""
SELECT f.conrelid::bigint, f.confrelid::bigint, {_NAME}, f.confdeltype::text, f.condeferrable,
  (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(f.conkey) WITH ORDINALITY k(attnum, n)
   JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum),
  (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(f.confkey) WITH ORDINALITY k(attnum, n)
   JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum)
FROM pg_constraint f
JOIN pg_class c ON c.oid = f.confrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_constraint p ON p.oid = f.conparentid
WHERE f.contype = 'f' AND f.conrelid = ANY(CAST($1 AS oid[]))
  AND (p.oid IS NULL OR p.conrelid <> f.conrelid)  -- not those that a partitioned target makes for each partition
ORDER BY f.conrelid, f.conname"""


def quoted(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(name: str) -> str:
    """A table's name as SQL; `schema.table` names both."""
    schema, dot, table = name.partition(".")
    return f"{quoted(schema)}.{quoted(table)}" if dot else quoted(name)


def table_names(connection: Connection) -> Sequence[str]:
    return [row[0] for row in connection.execute(_NAMES).fetchall()]


def reflect(connection: Connection, names: Iterable[str]) -> dict[str, Table]:
    """The tables and views of these names; a foreign key's target bears the name that was asked for."""
    from orjson import dumps

    wanted = dumps([{"name": name, "quoted": quoted_table(name)} for name in names]).decode()
    rows = connection.execute(_RELATIONS, (wanted,)).fetchall()
    relations = {oid: (name, view) for name, oid, view, _ in rows}
    comments = {oid: comment for _, oid, _, comment in rows}
    oids = "{" + ",".join(map(str, relations)) + "}"
    columns, keys, uniques, foreign = (_by_relation(connection, relations, sql, oids) for sql in _PARTS)
    return {
        name: Table(
            name,
            tuple(_column(row) for row in columns[oid]),
            primary_key=next((tuple(row[1]) for row in keys[oid] if row[0]), ()),
            foreign_keys=tuple(_foreign_key(row, relations) for row in foreign[oid]),
            uniques=tuple(dict.fromkeys(tuple(row[1]) for row in uniques[oid] if not row[0])),
            view=view,
            comment=comments[oid],
        )
        for oid, (name, view) in relations.items()
    }


_PARTS = (_COLUMNS, _INDEXES, _INDEXES, _FOREIGN_KEYS)


def _by_relation(
    connection: Connection, relations: Mapping[int, Any], sql: str, oids: str
) -> dict[int, list[Sequence[Any]]]:
    found: dict[int, list[Sequence[Any]]] = {oid: [] for oid in relations}
    for oid, *row in connection.execute(sql, (oids,)).fetchall():
        found[oid].append(row)
    return found


def _column(row: Sequence[Any]) -> Column:
    name, type_name, builtin, typmod, native, nullable, computed, generated, values, comment = row
    modified = typmod is not None and typmod >= 4
    return Column(
        name=name,
        native=native,
        xml=_XML.get(type_name, "string") if builtin else "string",
        nullable=nullable,
        computed=computed,
        generated_key=generated,
        length=typmod - 4 if modified and type_name in ("varchar", "bpchar") else None,
        digits=_digits(typmod - 4) if modified and type_name == "numeric" else None,
        values=tuple(values or ()),
        second_digits=typmod if type_name in _CLOCKS and 0 <= typmod < 6 else None,
        bits={"int2": 16, "int4": 32, "int8": 64}.get(type_name),
        comment=comment,
    )


def _digits(typmod: int) -> tuple[int, int]:
    return (typmod >> 16) & 0xFFFF, ((typmod & 0x7FF) ^ 1024) - 1024  # the scale has 11 bits and may be negative


def _foreign_key(row: Sequence[Any], relations: Mapping[int, tuple[str, bool]]) -> ForeignKey:
    target, name, on_delete, deferrable, columns, target_columns = row
    return ForeignKey(
        tuple(columns),
        relations[target][0] if target in relations else name,
        tuple(target_columns),
        _ON_DELETE.get(on_delete, ""),
        deferrable,
    )

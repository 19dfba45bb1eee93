"""A column's value in XML's lexical form (contract.md, Message), and back, as SQL.

`to_json(alias, …)` gives an expression whose place in a row given to row_to_json yields the lexical form; it does not
depend on the session's settings where it says so, because triggers use it for keys in sessions of any kind.
"""

from __future__ import annotations

import re

from node.databases.postgresql.reflection import quoted
from schemas.package import Property
from schemas.structure import Field
from schemas.tables import Column

_MODIFIER = re.compile(r"\(\d+(,-?\d+)?\)")
JSON_NUMBERS_MAX = 9_007_199_254_740_992  # 2^53: larger integers are strings

_SAME_TEXT = ("text", "character varying", "character", "uuid", "name", "inet", "cidr")

# The type to which a column is brought first when the package has another lexical form than its own.
_CANONICAL = {
    "integer": "numeric",
    "decimal": "numeric",
    "float": "real",
    "double": "double precision",
    "boolean": "boolean",
    "date": "date",
    "time": "time without time zone",
    "base64Binary": "bytea",
    "json": "text",
    "string": "text",
}


# Without a length these two mean one of 1; by the types' names in the catalog they mean any.
_ANY_LENGTH = {"character": "bpchar", "bit": 'pg_catalog."bit"'}


def _base(native: str) -> str:
    """A type's name without its length or precision; as a type for values it may mean a length of 1 (see `plain`)."""
    return _MODIFIER.sub("", native)


def plain(native: str) -> str:
    """A type without its length or precision: a cast to it neither cuts nor rounds."""
    base = _base(native)
    array = "[]" if base.endswith("[]") else ""
    element = base.removesuffix("[]")
    return _ANY_LENGTH.get(element, element) + array


def value(source: str, column: Column, prop: Property) -> str:
    """SQL for a column's value in the property's lexical form; `source` is the column's expression."""
    own = Form.of(column)
    wanted = Form(prop.xml, prop.zoned, own.native if prop.xml == own.xml and prop.zoned == own.zoned else "")
    if own.xml in ("string", "json") and wanted.xml in ("boolean", "float", "double"):
        return _of_text(source, wanted.xml)
    if wanted.xml == "integer" and own.xml == "decimal":
        return wanted.json(f"pg_catalog.trim_scale({source})")
    if wanted == own or own.xml in ("string", "json") or wanted.xml in ("string", "json"):
        return own.json(source) if wanted.xml != "json" or own.xml == "json" else f"({source})::text"
    if wanted.xml == "boolean":
        return f"({source})::integer::boolean"
    if own.xml == "boolean":
        return f"({source})::integer"
    return wanted.json(f"({source})::{wanted.canonical()}")


def _of_text(source: str, xml: str) -> str:
    """Of a column of texts: JSON's own boolean or number where it is one."""
    text = f"({source})::pg_catalog.text"
    plain = "'^(true|false)$'" if xml == "boolean" else "'^-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?$'"
    return f"CASE WHEN {text} ~ {plain} THEN ({text})::pg_catalog.json ELSE pg_catalog.to_json({text}) END"


class Form:
    """A lexical form, and the type in the database that bears it."""

    def __init__(self, xml: str, zoned: bool, native: str) -> None:
        self.xml, self.zoned, self.native = xml, zoned, native

    @classmethod
    def of(cls, column: Column) -> Form:
        zoned = column.xml == "dateTime" and "with time zone" in column.native
        return cls(column.xml, zoned, column.native)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and (self.xml, self.zoned) == (other.xml, other.zoned)

    def __hash__(self) -> int:
        return hash((self.xml, self.zoned))

    def canonical(self) -> str:
        if self.xml == "dateTime":
            return "timestamp with time zone" if self.zoned else "timestamp without time zone"
        return _CANONICAL[self.xml]

    def json(self, x: str) -> str:
        """SQL for a value that row_to_json writes in this form."""
        base = _base(self.native)
        match self.xml:
            case "integer" if base in ("smallint", "integer"):
                return x
            case "integer":
                # A string where a JSON number would lose digits in readers that know doubles only.
                return (
                    f"CASE WHEN {x} BETWEEN -{JSON_NUMBERS_MAX} AND {JSON_NUMBERS_MAX}"
                    f" THEN pg_catalog.to_json({x}) ELSE pg_catalog.to_json({x}::pg_catalog.text) END"
                )
            case "decimal":
                return f"{x}::pg_catalog.text"
            case "float" | "double":
                # JSON readers take -0 for the integer 0.
                return (
                    f"CASE WHEN {x} = 0 AND {x}::pg_catalog.text = '-0' THEN '-0.0'::pg_catalog.json"
                    f" WHEN {x} = 'Infinity' THEN '\"INF\"'::pg_catalog.json"
                    f" WHEN {x} = '-Infinity' THEN '\"-INF\"'::pg_catalog.json ELSE pg_catalog.to_json({x}) END"
                )
            case "dateTime" if self.zoned:
                # Infinite moments and those before our era keep the database's text (in UTC).
                utc = f"pg_catalog.to_json({x} AT TIME ZONE 'UTC') #>> '{{}}'"
                return (
                    f"CASE WHEN {x} >= '0001-01-01 00:00:00+00' AND {x} < 'infinity' THEN ({utc}) || 'Z' ELSE {utc} END"
                )
            case "base64Binary":
                return f"pg_catalog.translate(pg_catalog.encode({x}, 'base64'), E'\\n', '')"
            case "json":
                return f"{x}::pg_catalog.text"
            case "string" if base not in _SAME_TEXT:
                return f"{x}::pg_catalog.text"
            case _:
                return x


def key_element(source: str, field: Field) -> str:
    """SQL for an element of a key, in the form that concat() takes: the same in every session and every database."""
    column = field.column
    assert column is not None
    base = _base(column.native)
    if base in ("smallint", "integer") and field.prop.xml == "integer" and not column.nullable:
        return source
    if base == "uuid" and field.prop.xml == "string" and not column.nullable:
        return f"'\"', {source}, '\"'"
    if column.xml == "decimal" and field.prop.xml == "decimal":
        text = f"pg_catalog.to_json(pg_catalog.trim_scale({source})::pg_catalog.text)"
    else:
        text = f"pg_catalog.to_json({value(source, column, field.prop)})"
    return f"coalesce({text}::pg_catalog.text, 'null')" if column.nullable else text


def settled(field: Field) -> bool:
    """Whether the SQL of a key of this column means the same whatever the session's settings are; where not, the
    trigger's function sets them (which costs)."""
    column = field.column
    assert column is not None
    base = _base(column.native)
    steady = base in _SAME_TEXT or base in ("smallint", "integer", "boolean", "date") or column.xml == "decimal"
    return steady and field.prop.xml == column.xml


# --- back ---------------------------------------------------------------------------------------------------------


def recordset_type(column: Column, prop: Property) -> str:
    """The type under which json_to_recordset reads a property's value for this column."""
    if column.xml in ("base64Binary", "json") or _is_structured(column.native) or column.native == "xml":
        return "text"  # their JSON is a string that holds a text; json_to_recordset would take it for the thing itself
    if column.native.startswith("character"):
        return "text"  # the assignment to the column refuses what is too long; a cast would cut it
    if column.xml == "integer" and prop.xml in ("boolean", "decimal", "double", "float"):
        return "boolean" if prop.xml == "boolean" else "numeric"
    if column.xml == "boolean" and prop.xml == "integer":
        return "integer"
    if column.xml == "decimal":
        return "numeric"
    return column.native


def from_recordset(x: str, column: Column, prop: Property) -> str:
    """SQL that makes the column's value of what json_to_recordset read."""
    if column.xml == "base64Binary":
        return f"decode({x}, 'base64')"
    if column.xml == "json" or column.native == "xml":
        return f"{x}::{column.native}"
    if _is_structured(column.native):
        return f"{x}::{plain(column.native)}"
    if _base(column.native) == "character":
        return f"{x}::{plain(column.native)}"  # as a text it would be compared with its trailing blanks, and not found
    if column.xml == "integer" and prop.xml == "boolean":
        return f"{x}::integer"
    if column.xml == "boolean" and prop.xml == "integer":
        return f"{x}::boolean"
    return x


def _is_structured(native: str) -> bool:
    """Arrays, and types that are not the server's own (composites among them): their text is cast."""
    return native.endswith("[]") or not is_builtin(native)


_KNOWN = frozenset(
    (
        "real",
        "double precision",
        "integer",
        "smallint",
        "bigint",
        "text",
        "character varying",
        "character",
        "uuid",
        "name",
        "inet",
        "cidr",
        "numeric",
        "boolean",
        "date",
        "interval",
        "money",
        "bit",
        "bit varying",
        "macaddr",
        "macaddr8",
        "oid",
        "int4range",
        "int8range",
        "numrange",
        "tsrange",
        "tstzrange",
        "daterange",
        "tsvector",
        "point",
    )
)


def is_builtin(native: str) -> bool:
    base = _base(native)
    return base in _KNOWN or base.startswith(("timestamp", "time", "interval"))


def differs(table: str, incoming: str, column: Column) -> str:
    """SQL that tells whether a column's value is another one than the incoming: also where the type calls two values
    equal that are written differently (1.5 and 1.50, a day and 24 hours), for what was stored has to arrive."""
    own = f"{table}.{quoted(column.name)}"
    other_text = f"{own}::text IS DISTINCT FROM {incoming}::text"
    if column.xml in ("float", "double"):
        return f"({own} IS DISTINCT FROM {incoming} OR {own} = 0 AND {other_text})"  # 0 and -0
    exact = column.xml in ("integer", "boolean", "date", "time", "base64Binary", "dateTime")
    fixed = column.xml == "decimal" and column.digits is not None
    if exact or fixed or _base(column.native) in ("uuid", "text", "character varying"):
        return f"{own} IS DISTINCT FROM {incoming}"
    return other_text

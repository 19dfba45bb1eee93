"""A column's value in XML's lexical form, and back.

Out of the database it is SQL that makes JSON text; it means the same in every session, whatever its settings
(character set, time zone, sql_mode), because triggers make keys of it. What MariaDB does otherwise by itself:

* CHAR comes back without the blanks that fill it: they are put back, as standard SQL (and PostgreSQL) has them;
* TIMESTAMP is shown in the session's time zone: what is stored is a moment, and travels in UTC;
* ZEROFILL is for people, FLOAT shows six digits, JSON_QUOTE writes some control characters in capitals.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from schemas.structure import Field
from schemas.tables import Column

EXACT_INTEGER = 2**53
"""Beyond it integers travel as strings: JSON numbers are doubles to many readers."""


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def literal(text: str) -> str:
    """A text as a constant: of known character set, and the same whether or not backslashes escape."""
    if text.isascii() and "'" not in text and "\\" not in text and "%" not in text and text.isprintable():
        return f"_utf8mb4'{text}'"
    return f"_utf8mb4 x'{text.encode().hex()}'"


@dataclass(frozen=True, slots=True)
class Form:
    """What the package says a value is, and what the column is."""

    xml: str
    zoned: bool
    own: str
    """The lexical form of the column's own type."""
    native: str
    nullable: bool

    @classmethod
    def of(cls, field: Field) -> Form:
        column = field.column
        assert column is not None
        return cls(field.prop.xml, field.prop.zoned, column.xml, column.native, column.nullable)

    @classmethod
    def of_column(cls, column: Column) -> Form:
        """A column that is no property: as the database has it."""
        return cls(column.xml, False, column.xml, column.native, column.nullable)

    @property
    def base(self) -> str:
        return self.native.partition("(")[0].partition(" ")[0]

    @property
    def size(self) -> int:
        """The number in brackets behind the type: a length, or digits of a second."""
        found = re.match(r"\w+\((\d+)", self.native)
        return int(found[1]) if found else 0

    @property
    def scale(self) -> int:
        found = re.match(r"\w+\(\d+,(\d+)", self.native)
        return int(found[1]) if found else 0

    @property
    def is_text(self) -> bool:
        """Whether the server compares its values by a collation, which may take different ones for equal."""
        return self.base in ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "json", "enum", "set")

    @property
    def is_moment(self) -> bool:
        return self.base == "timestamp"


# --- out of the database: a value as JSON text --------------------------------------------------------------------


def object_sql(pairs: Iterable[tuple[str, str]]) -> str:
    """SQL for a JSON object from (property name, SQL of its JSON text)."""
    parts: list[str] = []
    for number, (name, sql) in enumerate(pairs):
        parts += [literal(("," if number else "{") + orjson.dumps(name).decode() + ":"), sql]
    return f"CONCAT({', '.join([*parts, literal('}')])})" if parts else literal("{}")


def json_sql(form: Form, value: str) -> str:
    """SQL for a value's JSON text; never NULL."""
    return _or_null(_json_sql(form, value, key=False), form)


def key_sql(form: Form, value: str) -> str:
    """SQL for the JSON text of a key's value: the same bytes in every database."""
    return _or_null(_json_sql(form, value, key=True), form)


def key_array_sql(forms: Sequence[Form], values: Sequence[str]) -> str:
    """SQL for a key's text: a compact JSON array."""
    parts = [literal("[")]
    for number, (form, value) in enumerate(zip(forms, values, strict=True)):
        parts += [literal(",")] if number else []
        parts.append(key_sql(form, value))
    return f"CONCAT({', '.join(parts)}, {literal(']')})"


def _or_null(sql: str, form: Form) -> str:
    return f"IFNULL({sql}, {literal('null')})"  # not only where the column may be null: a view's columns are never sure


def _json_sql(form: Form, value: str, *, key: bool) -> str:
    wanted, own = form.xml, form.own
    if own in ("string", "json") and wanted in ("boolean", "float", "double"):
        text = _text(form, value)
        plain = "^(true|false)$" if wanted == "boolean" else r"^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?$"
        return f"CASE WHEN {text} REGEXP {literal(plain)} THEN {text} ELSE {_quoted_text(text, key=key)} END"
    if own in ("string", "json"):
        return _quoted_text(_text(form, value), key=key)
    match wanted, own:
        case "boolean", ("boolean" | "integer" | "decimal"):
            number = _number(form, value)
            return f"CASE {value} WHEN 1 THEN {literal('true')} WHEN 0 THEN {literal('false')} ELSE {number} END"
        case "integer", ("integer" | "boolean"):
            return _integer(form, value)
        case "integer", "decimal":
            whole = _trimmed(_number(form, value), form.scale)
            exact = f"{value} BETWEEN -{EXACT_INTEGER} AND {EXACT_INTEGER} AND {value} = TRUNCATE({value}, 0)"
            return f"CASE WHEN {exact} THEN {whole} ELSE {_in_quotes(whole)} END"
        case (("decimal" | "string"), ("integer" | "boolean")):
            return _in_quotes(_number(form, value))
        case "decimal", "decimal":
            number = _number(form, value)
            return _in_quotes(_trimmed(number, form.scale) if key else number)
        case "decimal", ("float" | "double"):
            return _in_quotes(_trimmed(f"CONVERT(CAST({value} AS DECIMAL(65,30)) USING utf8mb4)", 30))
        case (("float" | "double"), ("float" | "double")):
            return _real(form, value)
        case (("float" | "double"), _) if own in ("integer", "boolean", "decimal"):
            return _trimmed(_number(form, value), form.scale)
        case "dateTime", "date":
            return _in_quotes(f"CONCAT({_string(value)}, {literal('T00:00:00' + ('Z' if form.zoned else ''))})")
        case "date", "dateTime":
            text = _moment(form, value)
            day = f"TIME({value}) = 0"
            return _in_quotes(f"CASE WHEN {day} THEN LEFT({text}, 10) ELSE {text} END")
        case _, "dateTime":
            ending = literal("Z") if form.zoned else literal("")
            return _in_quotes(f"CONCAT({_moment(form, value)}, {ending})")
        case _, "time":
            return _in_quotes(_trimmed(_string(value), form.size))
        case _, "base64Binary":
            return _in_quotes(f"CONVERT(REPLACE(TO_BASE64({value}), x'0a', '') USING utf8mb4)")
        case _:
            return _in_quotes(_string(value)) if own not in ("float", "double") else _real(form, value)


def _string(value: str) -> str:
    return f"CONVERT({value} USING utf8mb4)"


def _in_quotes(sql: str) -> str:
    quote = literal('"')
    return f"CONCAT({quote}, {sql}, {quote})"


def _number(form: Form, value: str) -> str:
    """A whole number's or a decimal's digits."""
    if "zerofill" in form.native or form.base == "year":
        return _string(f"({value} + 0)")
    return _string(value)


def _trimmed(text: str, digits: int) -> str:
    """Without the zeros at the end, where there are digits after a point."""
    if not digits:
        return text
    return f"TRIM(TRAILING {literal('.')} FROM TRIM(TRAILING {literal('0')} FROM {text}))"


def _integer(form: Form, value: str) -> str:
    digits = _number(form, value)
    if form.base != "bigint":
        return digits
    return f"CASE WHEN {value} BETWEEN -{EXACT_INTEGER} AND {EXACT_INTEGER} THEN {digits} ELSE {_in_quotes(digits)} END"


def _real(form: Form, value: str) -> str:
    """The shortest number that reads back the same; of a FLOAT of more than six digits that of the double."""
    if form.base == "float":
        whole = _string(f"CAST({value} AS DOUBLE)")
        text = _string(value)
        return f"CASE WHEN CAST({text} AS FLOAT) = {value} THEN {text} ELSE {whole} END"
    minus = f"CASE WHEN {value} = 0 AND {_string(value)} = {literal('-0')} THEN {literal('-0.0')}"
    return (
        f"{minus} ELSE {_string(f'{value} + 0')} END"
        if "zerofill" in form.native
        else f"{minus} ELSE {_string(value)} END"
    )


def _moment(form: Form, value: str) -> str:
    if form.is_moment:
        # the stored moment itself: by the session's zone an hour of each autumn would be ambiguous
        utc = f"DATE_ADD('1970-01-01 00:00:00', INTERVAL UNIX_TIMESTAMP({value}) SECOND)"
        text = f"CASE WHEN UNIX_TIMESTAMP({value}) = 0 THEN '0000-00-00 00:00:00' ELSE {utc} END"
        text = f"CASE WHEN {value} IS NOT NULL THEN {text} END"
    else:
        text = value
    text = f"REPLACE({_string(text)}, {literal(' ')}, {literal('T')})"
    return _trimmed(text, form.size)


def _text(form: Form, value: str) -> str:
    match form.base:
        case "char":
            return f"RPAD({_string(value)}, {form.size}, {literal(' ')})"
        case "bit":
            return f"LPAD({_string(f'BIN({value} + 0)')}, {form.size or 1}, {literal('0')})"
        case "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon":
            return _string(f"ST_AsText({value})")
        case _:
            return _string(value)


# \u000b, \u000e, \u000f, \u001a … \u001f: JSON_QUOTE writes their letters in capitals, everybody else does not
_CAPITALS = [code for code in range(0x20) if f"{code:02x}" != f"{code:02X}" and code not in (0x0A, 0x0C, 0x0D)]
_ESCAPES = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r"}


def _quoted_text(text: str, *, key: bool) -> str:
    if not key:
        return f"JSON_QUOTE({text})"
    by_hand = text
    replaced = {0x5C: "\\\\", 0x22: '\\"', **{code: _ESCAPES.get(code, f"\\u{code:04x}") for code in range(0x20)}}
    for code, escape in replaced.items():  # the backslash first: the others bring some in
        by_hand = f"REPLACE({by_hand}, _utf8mb4 x'{code:02x}', {literal(escape)})"
    odd = literal("[" + "".join(f"\\x{code:02x}" for code in _CAPITALS) + "]")
    return f"CASE WHEN {text} COLLATE utf8mb4_bin REGEXP {odd} THEN {_in_quotes(by_hand)} ELSE JSON_QUOTE({text}) END"


# --- into the database --------------------------------------------------------------------------------------------

Stored = Callable[[Any], Any]

_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:\.(\d{1,9}))?(Z|\+00(?::?00)?)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"(-?\d{1,3}:\d\d)(:\d\d)?(?:\.(\d{1,9}))?", re.ASCII)
_WRITTEN_SO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?", re.ASCII)
_BITS = re.compile(r"[01]+", re.ASCII)


def stored(form: Form) -> Stored:
    """From a value's lexical form to what MariaDB is to be given; raises ValueError that says what is wrong with it.

    What a statement would round or cut without an error is refused here."""
    convert = _STORED.get(form.own, _stored_text)
    if form.base == "bit":
        convert = _stored_bits

    def store(value: Any) -> Any:
        return None if value is None else convert(value, form)

    return store


def placeholder(form: Form) -> str:
    """SQL for a bound value of the column."""
    if form.base in ("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"):
        return "ST_GeomFromText(%s)"
    return "%s"


def _kind(value: Any) -> str:
    """What a value is, in words; never the value itself: it is somebody's data."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text that is none" if value else "an empty text"
    return "a list" if isinstance(value, list) else "an object"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _stored_integer(value: Any, form: Form) -> Any:
    if isinstance(value, bool) and form.xml == "boolean":
        return int(value)
    if isinstance(value, str) and form.xml in ("decimal", "string", "integer"):
        whole, _, fraction = value.partition(".")
        if _WHOLE.fullmatch(whole) and not fraction.strip("0"):
            return int(whole)
    elif (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise ValueError(_kind(value))


def _stored_boolean(value: Any, form: Form) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):  # a tinyint(1) holds other numbers, too
        return value
    raise ValueError(_kind(value))


def _stored_decimal(value: Any, form: Form) -> Any:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        text = value
    elif isinstance(value, bool) and form.xml == "boolean":
        text = str(int(value))
    elif _is_number(value) and math.isfinite(value):
        text = format(Decimal(repr(value)), "f")
    else:
        raise ValueError("a number that MariaDB does not have" if value in ("NaN", "INF", "-INF") else _kind(value))
    if len(text.partition(".")[2].rstrip("0")) > form.scale:
        raise ValueError("a number of more digits after the point than the column holds")
    return text


def _stored_real(value: Any, form: Form) -> Any:
    if value in ("NaN", "INF", "-INF"):
        raise ValueError("a number that MariaDB does not have")
    if isinstance(value, str) and form.xml == "decimal" and _DECIMAL.fullmatch(value):
        return value
    if not _is_number(value):
        raise ValueError(_kind(value))
    return repr(value)


def _stored_date_time(value: Any, form: Form) -> Any:
    if not isinstance(value, str):
        raise ValueError(_kind(value))  # noqa: TRY004 - what is wrong with a message's value
    if form.xml == "string" and not _WRITTEN_SO.fullmatch(value):
        raise ValueError("a text of which the column would make another")
    if _DATE.fullmatch(value):
        return f"{value} 00:00:00"
    found = _DATE_TIME.fullmatch(value)
    if not found:
        raise ValueError(_kind(value))
    day, minute, second, fraction, _zone = found.groups()
    return f"{day} {minute}{second or ':00'}{_fraction(fraction, form)}"


def _stored_date(value: Any, form: Form) -> Any:
    if isinstance(value, str):
        day, _, clock = value.replace("T", " ").partition(" ")
        if _DATE.fullmatch(day) and clock.rstrip("Z") in ("", "00:00:00"):
            return day
    raise ValueError(_kind(value))


def _stored_time(value: Any, form: Form) -> Any:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError(_kind(value))
    minute, second, fraction = found.groups()
    return f"{minute}{second or ':00'}{_fraction(fraction, form)}"


def _fraction(digits: str | None, form: Form) -> str:
    digits = (digits or "").rstrip("0")
    if len(digits) > form.size:
        raise ValueError("a moment with more digits of a second than the column holds")
    return f".{digits}" if digits else ""


def _stored_bytes(value: Any, form: Form) -> Any:
    if isinstance(value, str):
        try:
            content = b64decode(value, validate=True)
        except ValueError:
            raise ValueError("a text that is no base64") from None
        if form.base == "binary" and len(content) < form.size:
            raise ValueError("bytes that the column would fill up with zeros")
        return content
    raise ValueError(_kind(value))


def _stored_bits(value: Any, form: Form) -> Any:
    if isinstance(value, bool) and form.xml == "boolean":
        return int(value)
    if isinstance(value, str) and _BITS.fullmatch(value):
        return int(value, 2)
    raise ValueError(_kind(value))


def _stored_text(value: Any, form: Form) -> Any:
    if form.xml in ("integer", "decimal", "float", "double") and _is_number(value):
        return repr(value)
    if form.xml == "boolean" and isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        raise ValueError(_kind(value))  # noqa: TRY004 - what is wrong with a message's value
    if form.base == "char":
        return value.rstrip(" ")
    return value


_STORED: dict[str, Callable[[Any, Form], Any]] = {
    "integer": _stored_integer,
    "decimal": _stored_decimal,
    "float": _stored_real,
    "double": _stored_real,
    "boolean": _stored_boolean,
    "dateTime": _stored_date_time,
    "date": _stored_date,
    "time": _stored_time,
    "base64Binary": _stored_bytes,
    "json": _stored_text,
    "string": _stored_text,
}


def differs(form: Form, own: str, incoming: str) -> str:
    """SQL that tells whether a column's value is another one than the incoming: also where the server calls two values
    equal that are written differently ('a' and 'A', 0 and -0)."""
    if form.is_text:
        return f"NOT (CAST({own} AS BINARY) <=> CAST({incoming} AS BINARY))"
    if form.own in ("float", "double"):
        return f"(NOT ({own} <=> {incoming}) OR {own} = 0 AND {_string(own)} <> {_string(incoming)})"
    return f"NOT ({own} <=> {incoming})"

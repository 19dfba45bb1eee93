"""A column's value in XML's lexical form, and back.

Out of the database it is SQL that makes JSON text; where SQLite's own functions do not keep every digit (its JSON
prints 15 of a REAL) or cannot do it at all (base64), a function of ours does it. A key's text is made by pure SQL,
because triggers run in the application's connection, which knows nothing of our functions.

SQLite keeps a value in the class in which it was written, whatever the column is declared as. A value of another
class than the column's travels as a composite, `{"#type": "string", "#value": "n/a"}`, and comes back as it was.
"""

from __future__ import annotations

import math
import re
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import orjson

from schemas.structure import Field

EXACT_INTEGER = 2**53
"""Beyond it integers travel as strings: JSON numbers are doubles to many readers."""

_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@cache
def affinity_of(native: str) -> str:
    """SQLite's own rules, in their order (sqlite.org/datatype3.html, 3.1)."""
    declared = native.upper()
    if "INT" in declared:
        return "INTEGER"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not declared or "BLOB" in declared:
        return "BLOB"
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


_XML_BY_NAME = (
    (r"INTERVAL|POINT", "string"),
    (r"^(UNSIGNED )?(BIG |TINY|SMALL|MEDIUM|BIG)?INT|SERIAL", "integer"),
    (r"BOOL", "boolean"),
    (r"JSON", "json"),
    (r"^TIMESTAMP|DATETIME", "dateTime"),
    (r"^DATE$", "date"),
    (r"^TIME\b|^TIMETZ", "time"),
    (r"CHAR|CLOB|TEXT", "string"),
    (r"BLOB|BINARY|BYTEA", "base64Binary"),
    (r"REAL|FLOA|DOUB", "double"),
    (r"^(NUMERIC|DECIMAL|DEC|NUMBER|MONEY)\b", "decimal"),
    (r"INT", "integer"),
)


@cache
def xml_of(native: str) -> str:
    """The lexical form in which values of a declared type travel; a string where the name says nothing."""
    declared = native.upper().strip()
    return next((xml for pattern, xml in _XML_BY_NAME if re.search(pattern, declared)), "string")


@dataclass(frozen=True, slots=True)
class Form:
    """What the package says a value is, and how SQLite's column treats what is put in."""

    xml: str
    affinity: str
    zoned: bool = False

    @classmethod
    def of(cls, field: Field) -> Form:
        assert field.column is not None
        return cls(field.prop.xml, affinity_of(field.column.native), field.prop.zoned)


# --- out of the database: a value as JSON text --------------------------------------------------------------------


def concat(parts: Sequence[str]) -> str:
    """`a || b || …` as a balanced tree: SQLite refuses expressions deeper than 1,000, and tables may be that wide."""
    return _balanced(parts, " || ")


def any_of(parts: Sequence[str]) -> str:
    return _balanced(parts, " OR ")


def all_of(parts: Iterable[str]) -> str:
    return " AND ".join(parts) or "1"


def _balanced(parts: Sequence[str], operator: str) -> str:
    if not parts:
        return "0" if operator == " OR " else ""
    if len(parts) <= 16:
        return operator.join(parts)
    middle = len(parts) // 2
    return f"({_balanced(parts[:middle], operator)}){operator}({_balanced(parts[middle:], operator)})"


def object_sql(pairs: Iterable[tuple[str, str]]) -> str:
    """SQL for a JSON object from (property name, SQL of its JSON text)."""
    parts: list[str] = []
    for number, (name, sql) in enumerate(pairs):
        head = ("," if number else "{") + orjson.dumps(name).decode() + ":"
        parts += [literal(head), f"({sql})"]
    return concat([*parts, "'}'"]) if parts else "'{}'"


def json_sql(form: Form, value: str) -> str:
    """SQL for a value's JSON text; never NULL, never fails, whatever class the value is of."""
    fast = _FAST.get(form.xml) if not form.zoned else None
    odd = (
        f"kod_text({literal(form.xml)}, {literal(form.affinity)}, {int(form.zoned)}, typeof({value}), "
        f"CASE typeof({value}) WHEN 'text' THEN CAST({value} AS BLOB) ELSE {value} END)"
    )
    if fast is None:
        return f"CASE WHEN {value} IS NULL THEN 'null' ELSE {odd} END"
    when = " ".join(f"WHEN {condition} THEN {text}" for condition, text in fast).replace("?", value)
    return f"CASE {when} WHEN {value} IS NULL THEN 'null' ELSE {odd} END"


_INTEGER = f"CASE WHEN ? BETWEEN -{EXACT_INTEGER} AND {EXACT_INTEGER} THEN ? ELSE '\"' || ? || '\"' END"
_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_CLOCK = "[0-9][0-9]:[0-9][0-9]:[0-9][0-9]"
_FAST = {
    "integer": [("typeof(?) = 'integer'", _INTEGER)],
    "decimal": [
        # as text SQLite writes 15 digits of a REAL: a decimal of so many is met exactly
        (
            "typeof(?) = 'real' AND CAST(CAST(? AS TEXT) AS REAL) = ? AND NOT CAST(? AS TEXT) GLOB '*[eI]*'",
            "'\"' || rtrim(rtrim(CAST(? AS TEXT), '0'), '.') || '\"'",
        ),
        ("typeof(?) = 'integer'", "'\"' || ? || '\"'"),
    ],
    "float": [("typeof(?) = 'real'", "kod_real(?)")],
    "double": [("typeof(?) = 'real'", "kod_real(?)")],
    "boolean": [("typeof(?) = 'integer' AND ? IN (0, 1)", "CASE ? WHEN 1 THEN 'true' ELSE 'false' END")],
    "dateTime": [
        (
            f"typeof(?) = 'text' AND ? GLOB '{_DAY}[ T]{_CLOCK}'",
            "'\"' || substr(?, 1, 10) || 'T' || substr(?, 12) || '\"'",
        )
    ],
    "date": [(f"typeof(?) = 'text' AND ? GLOB '{_DAY}'", "'\"' || ? || '\"'")],
    "time": [(f"typeof(?) = 'text' AND ? GLOB '{_CLOCK}'", "'\"' || ? || '\"'")],
    "json": [("typeof(?) = 'text'", "json_quote(?)")],
    "string": [("typeof(?) = 'text'", "json_quote(?)")],
}


def key_sql(form: Form, value: str) -> str:
    """SQL for the JSON text of a key's value, for triggers too: none of our functions, never NULL, never fails."""
    other = f"CASE typeof({value}) WHEN 'blob' THEN '\"' || {_base64_sql(value)} || '\"' ELSE json_quote({value}) END"
    if form.xml == "base64Binary":
        return other
    if form.xml == "integer":
        return f"CASE typeof({value}) WHEN 'integer' THEN {_INTEGER.replace('?', value)} ELSE {other} END"
    if form.xml == "decimal":
        return (
            f"CASE WHEN {value} IS NULL THEN 'null' WHEN typeof({value}) <> 'blob' THEN json_quote("
            f"CASE WHEN {value} GLOB '*.*' AND NOT {value} GLOB '*[^-0-9.]*' "
            f"THEN rtrim(rtrim(CAST({value} AS TEXT), '0'), '.') ELSE CAST({value} AS TEXT) END) ELSE {other} END"
        )
    if form.xml == "boolean":
        return f"CASE WHEN {value} IS 1 THEN 'true' WHEN {value} IS 0 THEN 'false' ELSE {other} END"
    if form.xml in ("float", "double"):
        return (
            f"CASE typeof({value}) WHEN 'real' THEN CASE WHEN {value} = CAST({value} AS INTEGER) "
            f"AND abs({value}) < 1e15 "
            f"THEN CAST(CAST({value} AS INTEGER) AS TEXT) WHEN abs({value}) > 1.7976931348623157e308 "
            f"THEN CASE WHEN {value} > 0 THEN '\"INF\"' ELSE '\"-INF\"' END "
            f"WHEN CAST(printf('%!.15g', {value}) AS REAL) = {value} THEN printf('%!.15g', {value}) "
            f"WHEN CAST(printf('%!.16g', {value}) AS REAL) = {value} THEN printf('%!.16g', {value}) "
            f"ELSE printf('%!.17g', {value}) END ELSE {other} END"
        )
    if form.xml in ("dateTime", "time"):
        shape = f"{_DAY}[ T]{_CLOCK}" if form.xml == "dateTime" else _CLOCK
        plain = f"rtrim({value}, 'Z')"
        tidy = f"CASE WHEN {plain} GLOB '*.*' THEN rtrim(rtrim({plain}, '0'), '.') ELSE {plain} END"
        if form.xml == "dateTime":
            tidy = f"substr({plain}, 1, 10) || 'T' || substr({tidy}, 12)"
        ending = "'Z\"'" if form.zoned else f"CASE WHEN {value} GLOB '*Z' THEN 'Z\"' ELSE '\"' END"
        return (
            f"CASE WHEN typeof({value}) = 'text' AND {value} GLOB '{shape}*' AND NOT {value} GLOB '*[^-0-9:. TZ]*' "
            f"AND NOT substr({value}, 12) GLOB '*-*' THEN '\"' || {tidy} || {ending} ELSE {other} END"
        )
    return f"CASE typeof({value}) WHEN 'text' THEN json_quote({value}) ELSE {other} END"


def key_array_sql(forms: Sequence[Form], values: Sequence[str]) -> str:
    """SQL for a key's text: a compact JSON array."""
    parts: list[str] = [] if forms else ["'['"]
    for number, (form, value) in enumerate(zip(forms, values, strict=True)):
        parts += [f"'{',' if number else '['}'", f"({key_sql(form, value)})"]
    return concat([*parts, "']'"])


def _base64_sql(value: str) -> str:
    """base64 in SQL: three bytes are six hexadecimal digits are four characters; what is missing counts as 0."""

    def digit(position: int) -> str:
        return f"(instr('0123456789ABCDEF', substr(h, 6 * n + {position}, 1)) - 1)"

    def character(sql: str) -> str:
        return f"substr('{_BASE64}', 1 + {sql}, 1)"

    left = "(length(h) - 6 * n)"
    four = " || ".join(
        (
            character(f"{digit(1)} * 4 + {digit(2)} / 4"),
            character(f"({digit(2)} % 4) * 16 + {digit(3)}"),
            f"CASE WHEN {left} > 2 THEN {character(f'{digit(4)} * 4 + {digit(5)} / 4')} ELSE '=' END",
            f"CASE WHEN {left} > 4 THEN {character(f'({digit(5)} % 4) * 16 + {digit(6)}')} ELSE '=' END",
        )
    )
    return (
        f"(WITH RECURSIVE b(h, n) AS (SELECT hex({value}), 0 UNION ALL SELECT h, n + 1 FROM b "
        f"WHERE 6 * (n + 1) < length(h)) SELECT CASE WHEN max(length(h)) = 0 THEN '' "
        f"ELSE group_concat({four}, '') END FROM b)"
    )


def register_functions(connection: sqlite3.Connection) -> None:
    connection.create_function("kod_text", 5, _text, deterministic=True)
    connection.create_function("kod_real", 1, real_text, deterministic=True)


def _text(xml: str, affinity: str, zoned: int, kind: str, value: Any) -> str:
    """The JSON text of a value that SQLite's own functions do not do justice."""
    if kind == "text":
        value = value.decode("utf-8", "replace")  # SQLite lets in what is no UTF-8; JSON does not
    plain = _PLAIN[xml](value, bool(zoned)) if xml in _PLAIN else None
    if plain is None and xml in ("string", "json") and affinity != "BLOB" and kind in ("integer", "real"):
        plain = _quote(str(value) if kind == "integer" else real_text(value).strip('"'))
    return plain if plain is not None else _composite(kind, value)


_KINDS = {"text": "string", "integer": "integer", "real": "double", "blob": "base64Binary"}


def _composite(kind: str, value: Any) -> str:
    if kind == "blob":
        text = _quote(b64encode(value).decode())
    elif kind == "real":
        text = real_text(value)
    elif kind == "integer":
        text = _integer_text(value)
    else:
        text = _quote(value)
    return f'{{"#type":"{_KINDS[kind]}","#value":{text}}}'


def _quote(text: str) -> str:
    return orjson.dumps(text).decode()


def real_text(value: float) -> str:
    """The shortest JSON number that reads back the same, written as PostgreSQL writes it."""
    if math.isinf(value):
        return '"INF"' if value > 0 else '"-INF"'
    text = repr(value)
    if text.endswith(".0"):
        text = text[:-2]
        if abs(value) >= 1e15:  # sixteen digits: from here on PostgreSQL writes an exponent
            sign, digits = ("-", text[1:]) if value < 0 else ("", text)
            mantissa = digits.rstrip("0")
            tail = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
            text = f"{sign}{mantissa[0]}{tail}e+{len(digits) - 1}"
    return text


def _integer_text(value: int) -> str:
    return str(value) if -EXACT_INTEGER <= value <= EXACT_INTEGER else f'"{value}"'


_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
_NOT_FINITE = frozenset(("NaN", "INF", "-INF", "Infinity", "-Infinity"))
_DATE_TIME = re.compile(
    r"(\d{4,6}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,9}))?(Z|[+-]\d\d(?::?\d\d(?::\d\d)?)?)?( BC)?", re.ASCII
)
_DATE = re.compile(r"\d{4,7}-\d\d-\d\d( BC)?|-?infinity", re.ASCII)
_TIME = re.compile(r"(\d\d:\d\d)(:\d\d)?(?:\.(\d{1,9}))?(Z|[+-]\d\d(?::?\d\d(?::\d\d)?)?)?", re.ASCII)


def _plain_integer(value: Any, zoned: bool) -> str | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return _integer_text(int(value))
    if isinstance(value, str) and _WHOLE.fullmatch(value) and str(int(value)) == value:
        return _integer_text(int(value))
    return None


def _plain_decimal(value: Any, zoned: bool) -> str | None:
    if isinstance(value, float):
        if math.isinf(value):
            return '"Infinity"' if value > 0 else '"-Infinity"'
        text = format(Decimal(repr(value)), "f")
        return f'"{text[:-2] if text.endswith(".0") else text}"'
    if isinstance(value, str) and (_DECIMAL.fullmatch(value) or value in _NOT_FINITE):
        return f'"{value}"'
    return None


def _plain_real(value: Any, zoned: bool) -> str | None:
    if isinstance(value, float):
        return real_text(value)
    if isinstance(value, int):
        return real_text(float(value)) if abs(value) <= EXACT_INTEGER else None
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        return real_text(number) if repr(number) == value else None
    return None


def _plain_boolean(value: Any, zoned: bool) -> str | None:
    return {"1": "true", "0": "false"}.get(value) if isinstance(value, str) else None


def _plain_date_time(value: Any, zoned: bool) -> str | None:
    if not isinstance(value, str):
        return None
    found = _DATE_TIME.fullmatch(value)
    if not found:
        return _quote(value) if _DATE.fullmatch(value) else None
    day, minute, second, fraction, zone, era = found.groups()
    fraction = (fraction or "").rstrip("0")
    if zone is not None and not re.fullmatch(r"Z|\+00(:?00)?", zone):
        return _quote(value)  # another zone's time: as it was written
    ending = "Z" if zoned or zone else ""
    return f'"{day}T{minute}{second or ":00"}{"." + fraction if fraction else ""}{ending}{era or ""}"'


def _plain_date(value: Any, zoned: bool) -> str | None:
    return _quote(value) if isinstance(value, str) and _DATE.fullmatch(value) else None


def _plain_time(value: Any, zoned: bool) -> str | None:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        return None
    minute, second, fraction, zone = found.groups()
    fraction = (fraction or "").rstrip("0")
    return f'"{minute}{second or ":00"}{"." + fraction if fraction else ""}{zone or ""}"'


def _plain_bytes(value: Any, zoned: bool) -> str | None:
    return f'"{b64encode(value).decode()}"' if isinstance(value, bytes) else None


_PLAIN: dict[str, Callable[[Any, bool], str | None]] = {
    "integer": _plain_integer,
    "decimal": _plain_decimal,
    "float": _plain_real,
    "double": _plain_real,
    "boolean": _plain_boolean,
    "dateTime": _plain_date_time,
    "date": _plain_date,
    "time": _plain_time,
    "base64Binary": _plain_bytes,
}


# --- into the database --------------------------------------------------------------------------------------------

Stored = Callable[[Any], Any]


def stored(form: Form) -> Stored:
    """From a value's lexical form to what SQLite is to hold; raises ValueError that says what is wrong with it."""
    convert = _STORED[form.xml]
    if form.xml == "string" and form.affinity in _OF_NUMBERS:
        convert = _stored_among_numbers
    textual = form.affinity == "TEXT"

    def store(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            return _of_composite(value)
        return convert(value, textual)

    return store


def stored_as_is(form: Form, kind: type) -> bool:
    """Whether every value of this Python type may be given to SQLite as it is."""
    if kind is type(None):
        return True
    textual = form.affinity == "TEXT"
    return kind is {
        "string": None if form.affinity in _OF_NUMBERS else str,
        "json": str,
        "boolean": bool,
        "integer": None if textual else int,
        "double": None if textual else float,
        "float": None if textual else float,
    }.get(form.xml)


def stored_key(form: Form) -> Stored:
    """As `stored`, for a key's value: what the package's form does not fit is looked for as it is."""
    store = stored(form)

    def store_key(value: Any) -> Any:
        try:
            return store(value)
        except ValueError:
            return value

    return store_key


FRACTION_DIGITS_MAX = 12
"""Zeros are looked for at the end of a key's decimal up to so many digits behind the point."""


def spelled_variously(form: Form) -> bool:
    """Whether one value of a key may stand in rows as several texts."""
    return form.xml in ("dateTime", "time") or (form.xml == "decimal" and form.affinity == "TEXT")


def variants(form: Form, value: Any) -> tuple[Any, ...]:
    """All that an application may have stored for a key's value: SQLite has no type for times, so that
    `2020-07-27 16:03:05` and `2020-07-27T16:03:05.000000` are one moment in two texts; and `5` and `5.00` are one
    decimal in a column of texts."""
    first = stored_key(form)(value)
    if form.xml == "decimal" and form.affinity == "TEXT" and isinstance(first, str) and _DECIMAL.fullmatch(first):
        whole, _, fraction = first.partition(".")
        longer = range(max(len(fraction), 1), FRACTION_DIGITS_MAX + 1)
        return tuple(dict.fromkeys((first, *(f"{whole}.{fraction.ljust(length, '0')}" for length in longer))))
    if form.xml not in ("dateTime", "time") or not isinstance(first, str) or not isinstance(value, str):
        return (first,)
    found = re.fullmatch(r"(.*?\d\d:\d\d:\d\d)(?:\.(\d+))?(Z?)", first)
    if not found:
        return (first,)
    whole, fraction, zone = found[1], found[2] or "", found[3]
    fractions = {fraction, fraction.ljust(3, "0"), fraction.ljust(6, "0")}
    texts = {f"{whole}.{f}" if f else whole for f in fractions}
    if form.xml == "dateTime":
        texts |= {text.replace(" ", "T") for text in texts}
    endings = ("", "Z") if form.zoned else (zone,)
    return tuple(sorted(text + ending for text in texts for ending in endings))


def _of_composite(value: dict[str, Any]) -> Any:
    kind, inner = value.get("#type"), value.get("#value")
    if set(value) == {"#type", "#value"} and kind in _STORED:
        return None if inner is None else _STORED[kind](inner, False)
    raise ValueError("an object")


def _kind(value: Any) -> str:
    """What a value is, in words; never the value itself: it is somebody's data."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text that is none" if value else "an empty text"
    return "a list" if isinstance(value, list) else "an object"


def _stored_integer(value: Any, textual: bool) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _WHOLE.fullmatch(value):
        number = int(value)
    else:
        raise ValueError(_kind(value))
    if textual:
        return str(number)
    if not -(2**63) <= number < 2**63:
        raise ValueError("a number of more than 64 bits, which SQLite cannot hold")
    return number


def _stored_decimal(value: Any, textual: bool) -> Any:
    if isinstance(value, str) and (
        (value.isascii() and value.replace(".", "", 1).isdigit())  # most are: three times as fast as the expression
        or _DECIMAL.fullmatch(value)
        or value in _NOT_FINITE
    ):
        return value  # the column's affinity makes a number of it, or keeps it digit for digit
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format(Decimal(repr(value)), "f")
    raise ValueError(_kind(value))


def _stored_real(value: Any, textual: bool) -> Any:
    if value == "INF" or value == "-INF":
        number = math.inf if value == "INF" else -math.inf
    elif value == "NaN":
        raise ValueError("NaN, which SQLite cannot hold")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(_kind(value))
    return repr(number) if textual else number


def _stored_boolean(value: Any, textual: bool) -> Any:
    if isinstance(value, bool):
        return int(value)
    raise ValueError(_kind(value))


def _stored_date_time(value: Any, textual: bool) -> Any:
    if isinstance(value, str) and (_DATE_TIME.fullmatch(value) or _DATE.fullmatch(value)):
        return value.replace("T", " ")  # what SQLite's own date functions write
    raise ValueError(_kind(value))


def _stored_date(value: Any, textual: bool) -> Any:
    if isinstance(value, str) and _DATE.fullmatch(value):
        return value
    raise ValueError(_kind(value))


def _stored_time(value: Any, textual: bool) -> Any:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return value
    raise ValueError(_kind(value))


def _stored_bytes(value: Any, textual: bool) -> Any:
    if isinstance(value, str):
        try:
            return b64decode(value, validate=True)
        except ValueError:
            raise ValueError("a text that is no base64") from None
    raise ValueError(_kind(value))


def _stored_text(value: Any, textual: bool) -> Any:
    if isinstance(value, str):
        return value
    raise ValueError(_kind(value))


_OF_NUMBERS = ("INTEGER", "REAL", "NUMERIC")


def _stored_among_numbers(value: Any, textual: bool) -> Any:
    """A text in a column that makes numbers of texts that look like one."""
    text = _stored_text(value, textual)
    try:
        float(text)
    except ValueError:
        return text
    if not re.fullmatch(r"0|-?[1-9]\d{0,17}", text):
        raise ValueError("a text of digits, of which the column would make another")
    return text


_STORED: dict[str, Callable[[Any, bool], Any]] = {
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

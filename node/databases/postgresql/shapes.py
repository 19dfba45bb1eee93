"""Whether the values of a message have the JSON kinds of their lexical forms, checked before the database reads them:
it would take the number 5 for the text "5". And, once it has refused one, which property that was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from schemas.errors import RefusedError
from schemas.structure import Field, ItemType

_NONE = type(None)
_TEXT = frozenset((str, _NONE))
_KINDS: dict[str, frozenset[type]] = {
    "integer": frozenset((int, str, _NONE)),
    "decimal": frozenset((str, int, float, _NONE)),
    "float": frozenset((int, float, str, _NONE)),
    "double": frozenset((int, float, str, _NONE)),
    "boolean": frozenset((bool, _NONE)),
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|NaN|-?INF|-?Infinity")
_PATTERNS = {
    "integer": re.compile(r"[+-]?\d+"),
    "decimal": _NUMBER,
    "float": _NUMBER,
    "double": _NUMBER,
    "base64Binary": re.compile(r"[A-Za-z0-9+/=\s]*"),
    "date": re.compile(r"-?infinity|\d{4,}-\d\d-\d\d( BC)?"),
    "dateTime": re.compile(r"-?infinity|\d{4,}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d(:?\d\d)?)?( BC)?"),
    "time": re.compile(r"\d\d:\d\d(:\d\d(\.\d+)?)?"),
}

Rows = Sequence[Mapping[str, Any]]


def check(item_type: ItemType, values: Rows) -> None:
    """Raises RefusedError that names the first property whose value is of another kind than its form."""
    for where, fields, rows in _parts(item_type, values):
        for field in fields:
            allowed = _KINDS.get(field.prop.xml, _TEXT)
            if not _kinds(field.name, rows) <= allowed:
                raise RefusedError(f"{where}.{field.name}: the value is no {field.prop.xml}")
            scale = _narrower_scale(field)
            if scale is not None and any(_fraction(row.get(field.name)) > scale for row in rows):
                raise RefusedError(f"{where}.{field.name}: the column holds fewer digits: it would be rounded")
            altered = _altered(field)
            if altered is not None and any(altered(row.get(field.name)) for row in rows):
                raise RefusedError(f"{where}.{field.name}: the column would hold another value")


def _kinds(name: str, rows: Rows) -> set[type]:
    """The kinds of a property's values. Rows mostly have all properties: then nothing of this runs in Python."""
    try:
        return set(map(type, map(itemgetter(name), rows)))
    except KeyError:
        return {type(row[name]) for row in rows if name in row}


def _narrower_scale(field: Field) -> int | None:
    """How many digits after the point the column keeps, where values may have more; None where they cannot."""
    column, prop = field.column, field.prop
    if column is not None and column.second_digits is not None and column.xml in ("dateTime", "time"):
        return column.second_digits
    if column is None or prop.xml not in ("decimal", "double", "float"):
        return None
    if column.xml == "integer":
        return 0
    if column.xml != "decimal" or column.digits is None or (prop.digits and prop.digits[1] <= column.digits[1]):
        return None
    return column.digits[1]


def _fraction(value: Any) -> int:
    """The digits after the point that matter."""
    text = str(value).removesuffix("Z")
    return len(text.partition(".")[2].rstrip("0")) if "." in text and "e" not in text.lower() else 0


_WRITTEN_SO = {
    "dateTime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?Z?"),
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "time": re.compile(r"\d\d:\d\d:\d\d(\.\d*[1-9])?"),
}


def _altered(field: Field) -> Callable[[Any], bool] | None:
    """Tells values of which the column would make others without an error; None where it makes none."""
    pair = (field.prop.xml, field.column.xml if field.column is not None else "")
    if pair in (("integer", "boolean"), ("decimal", "boolean")):
        return lambda value: value is not None and str(value) not in ("0", "1")
    if pair == ("dateTime", "date"):
        return lambda value: value is not None and str(value)[10:].rstrip("Z") not in ("", "T00:00:00")
    if pair[0] == "string" and pair[1] in _WRITTEN_SO:
        zoned = field.column is not None and field.column.zoned
        pattern = _WRITTEN_SO[pair[1]]
        return lambda value: (
            value is not None and (not pattern.fullmatch(str(value)) or str(value).endswith("Z") != zoned)
        )
    return None


def unreadable(item_type: ItemType, values: Rows) -> str | None:
    """The first property with a value that does not look like its form; None when all do."""
    for where, fields, rows in _parts(item_type, values):
        for field in fields:
            pattern = _PATTERNS.get(field.prop.xml)
            for row in rows:
                value = row.get(field.name)
                if pattern is not None and isinstance(value, str) and not pattern.fullmatch(value):
                    return f"{where}.{field.name}"
    return None


def _parts(item_type: ItemType, values: Rows) -> Iterator[tuple[str, Sequence[Field], Rows]]:
    if not item_type.is_object:
        yield item_type.name, item_type.held, _record_rows(item_type, values)
        return
    yield item_type.name, item_type.held, values
    for section in item_type.sections:
        held = [field for field in section.fields if field.column is not None]
        yield f"{item_type.name}.{section.name}", held, _section_rows(item_type, section.name, values)


def _record_rows(item_type: ItemType, values: Rows) -> Rows:
    for value in values:
        records = value.get("Records")
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise RefusedError(f"{item_type.name}: Records is no list of records")
    return [record for value in values for record in (value["Filter"], *value["Records"])]


def _section_rows(item_type: ItemType, name: str, values: Rows) -> Rows:
    sections = [value[name] for value in values if value.get(name) is not None]
    if not all(type(rows) is list for rows in sections):
        raise RefusedError(f"{item_type.name}.{name} is no list of rows")
    rows = [row for section in sections for row in section]
    if not all(type(row) is dict for row in rows):
        raise RefusedError(f"{item_type.name}.{name} is no list of rows")
    return rows

"""The canonical form of values: what two nodes compare, whatever their databases made of the same value.

No trailing zeros, one spelling of a moment, only the properties that both sides have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import orjson

from schemas.errors import MessageError
from schemas.package import XML_TYPES, Property
from schemas.structure import ItemType

_WHOLE = re.compile(r"(-?)0*+([0-9]*+)(?<=[0-9])")
PLACES_MAX = 200_000
"""More than any database's decimals have: 1E+999999999, written out, would fill the memory."""


def canonical(item_type: ItemType, value: Mapping[str, Any], only: frozenset[str] | None = None) -> Any:
    """An item's value in canonical form: plain data that compares by ==. `only` keeps these root properties.

    Raises MessageError where rows are none."""
    for name in _places_of_rows(item_type):
        _check_rows(item_type, name, value.get(name))
    if not item_type.is_object:
        records = [canonical_row({f.name: f.prop for f in item_type.fields}, r) for r in value.get("Records") or ()]
        return {
            "Filter": canonical_row({f.name: f.prop for f in item_type.key}, value.get("Filter", {})),
            "Records": sorted(records, key=_sorted_keys),
        }
    properties = {f.name: f.prop for f in item_type.fields}
    sections = {s.name: {f.name: f.prop for f in s.fields} for s in item_type.sections}
    root = {name: v for name, v in value.items() if name not in sections and (only is None or name in only)}
    result = canonical_row(properties, root)
    for name, section in sections.items():
        if name in value and (only is None or name in only):
            result[name] = [canonical_row(section, row) for row in value[name] or []]
    return result


def same(item_type: ItemType, one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two values are equal as far as both have the properties; None is a deletion."""
    if one is None or other is None:
        return one is other
    for name in _places_of_rows(item_type):
        for value in (one, other):
            _check_rows(item_type, name, value.get(name))
        one, other = _shared_of_rows(name, one, other)
    if not item_type.is_object:
        return bool(canonical(item_type, one) == canonical(item_type, other))
    both = frozenset(one) & frozenset(other)
    return bool(canonical(item_type, one, both) == canonical(item_type, other, both))


def _places_of_rows(item_type: ItemType) -> Sequence[str]:
    return [s.name for s in item_type.sections] if item_type.is_object else ("Records",)


def _check_rows(item_type: ItemType, name: str, rows: Any) -> None:
    if rows is not None and not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise MessageError(f"{item_type.name}: {name} is not a list of rows")


def _sorted_keys(row: Mapping[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS)


def _shared_of_rows(
    name: str, one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both, without properties that only the rows of one have: another node may hold fewer, or know of more."""
    ones, others = one.get(name), other.get(name)
    if not ones or not others:
        return one, other
    names = set().union(*ones), set().union(*others)
    if names[0] == names[1]:
        return one, other
    both = names[0] & names[1]
    limited = ([{n: v for n, v in row.items() if n in both} for row in rows] for rows in (ones, others))
    return {**one, name: next(limited)}, {**other, name: next(limited)}


class Differing(NamedTuple):
    """A property that two values have differently; one of a row as `lines[2].quantity`."""

    property: str
    one: Any
    other: Any


def differences(item_type: ItemType, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Differing]:
    """Property by property, of those that both have, in canonical form; a row that only one has is there whole."""
    if not item_type.is_object:
        key = [f.name for f in item_type.held if f.column is not None and f.column.name in item_type.record_key]
        forms = (canonical(item_type, one)["Records"], canonical(item_type, other)["Records"])
        return list(_of_rows("Records", key, *forms))
    both = frozenset(one) & frozenset(other)
    mine, theirs = canonical(item_type, one, both), canonical(item_type, other, both)
    sections = {s.name: s for s in item_type.sections}
    found: list[Differing] = []
    for name in mine:
        if name in sections:
            linked = {own for own, _ in sections[name].link}
            own_key = [c for c in sections[name].primary_key if c not in linked]
            key = [f.name for f in sections[name].fields if f.column is not None and f.column.name in own_key]
            found += _of_rows(name, key, mine[name], theirs[name])
        elif mine[name] != theirs[name]:
            found.append(Differing(name, mine[name], theirs[name]))
    return found


def _of_rows(
    name: str, key: Sequence[str], ones: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> Iterator[Differing]:
    """Rows are matched by their key; where they have none, by their place."""
    mine, theirs = _by_key(key, ones), _by_key(key, others)
    for place in dict.fromkeys([*mine, *theirs]):
        one, other = mine.get(place), theirs.get(place)
        if one is None or other is None:
            yield Differing(f"{name}[{place}]", one, other)
        else:
            for prop in (p for p in one if p in other and one[p] != other[p]):
                yield Differing(f"{name}[{place}].{prop}", one[prop], other[prop])


def _by_key(key: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    if not key or any(name not in row for row in rows for name in key):
        return {str(number): row for number, row in enumerate(rows, 1)}
    return {", ".join(str(row[name]) for name in key): row for row in rows}


def digest(item_type: ItemType, value: Mapping[str, Any] | None, only: frozenset[str] | None = None) -> str:
    """SHA-256 of the canonical form; of nothing for a deletion."""
    form = None if value is None else canonical(item_type, value, only)
    return hashlib.sha256(orjson.dumps(form, option=orjson.OPT_SORT_KEYS)).hexdigest()


def canonical_row(properties: Mapping[str, Property], row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(properties.get(name), value) for name, value in row.items()}


def _value(prop: Property | None, value: Any) -> Any:
    if value is None or prop is None:
        return value
    if prop.composite:
        return _composite(value)
    if prop.xml == "decimal":
        return _decimal(value)
    if prop.xml == "integer" and isinstance(value, str):
        return _integer(value)
    if prop.xml == "integer":
        return str(value)
    if prop.xml in ("float", "double") and isinstance(value, int | float):
        return float(value)
    if prop.xml in ("dateTime", "time") and isinstance(value, str) and "." in value:
        zone = "Z" if value.endswith("Z") else ""
        return value.removesuffix("Z").rstrip("0").rstrip(".") + zone
    return value


def _composite(value: Any) -> Any:
    """By the type that it says; in a column of JSON it is a text that the database may have written in its own way."""
    try:
        found = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return value
    if isinstance(found, dict) and found.get("#type") in XML_TYPES:
        return {**found, "#value": _value(Property("", found["#type"]), found.get("#value"))}
    return found


def _integer(text: str) -> str:
    """Of any length: what Python makes a number of has 4,300 digits at most."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        return text
    return found[1] + found[2] if found[2] else "0"


def _decimal(value: Any) -> str:
    """Exact: arithmetic of decimals would round to 28 digits, and values that differ beyond them would be the same."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return str(value)
    if not number.is_finite() or abs(number.adjusted()) > PLACES_MAX:
        return str(value)
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text

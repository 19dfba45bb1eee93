"""The canonical form of values: what two nodes compare, whatever their databases made of the same value.

No trailing zeros, one spelling of a moment, only the properties that both sides have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from schemas.package import Property
from schemas.structure import ItemType


def canonical(item_type: ItemType, value: Mapping[str, Any], only: frozenset[str] | None = None) -> Any:
    """An item's value in canonical form: plain data that compares by ==. `only` keeps these root properties."""
    if not item_type.is_object:
        records = [_row({f.name: f.prop for f in item_type.fields}, r) for r in value.get("Records", [])]
        return {
            "Filter": _row({f.name: f.prop for f in item_type.key}, value.get("Filter", {})),
            "Records": sorted(records, key=orjson.dumps),
        }
    properties = {f.name: f.prop for f in item_type.fields}
    sections = {s.name: {f.name: f.prop for f in s.fields} for s in item_type.sections}
    root = {name: v for name, v in value.items() if name not in sections and (only is None or name in only)}
    result = _row(properties, root)
    for name, section in sections.items():
        if name in value and (only is None or name in only):
            result[name] = [_row(section, row) for row in value[name] or []]
    return result


def same(item_type: ItemType, one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two values are equal as far as both have the properties; None is a deletion."""
    if one is None or other is None:
        return one is other
    if not item_type.is_object:
        return bool(canonical(item_type, one) == canonical(item_type, other))
    both = frozenset(one) & frozenset(other)
    return bool(canonical(item_type, one, both) == canonical(item_type, other, both))


def digest(item_type: ItemType, value: Mapping[str, Any] | None, only: frozenset[str] | None = None) -> str:
    """SHA-256 of the canonical form; of nothing for a deletion."""
    form = None if value is None else canonical(item_type, value, only)
    return hashlib.sha256(orjson.dumps(form, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _row(properties: Mapping[str, Property], row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(properties.get(name), value) for name, value in row.items()}


def _value(prop: Property | None, value: Any) -> Any:
    if value is None or prop is None:
        return value
    if prop.xml == "decimal":
        return _decimal(value)
    if prop.xml == "integer" and isinstance(value, str):
        return str(int(value)) if value.lstrip("-").isdigit() else value
    if prop.xml == "integer":
        return str(value)
    if prop.xml in ("float", "double") and isinstance(value, int | float):
        return float(value)
    if prop.xml in ("dateTime", "time") and isinstance(value, str) and "." in value:
        zone = "Z" if value.endswith("Z") else ""
        return value.removesuffix("Z").rstrip("0").rstrip(".") + zone
    return value


def _decimal(value: Any) -> str:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return str(value)
    return format(number.normalize() + 0, "f") if number.is_finite() else str(value)

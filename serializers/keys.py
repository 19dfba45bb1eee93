"""Keys of items.

Inside a node a key is compact JSON text, an array of the key properties' values in their lexical form
(`[10248]`, `["VINET"]`, `[11,"2026-11-01"]`): the same text in every database, so that registers, SQL and Python
compare it byte by byte. Where people read it, it is КОД's array of pairs `type: value`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from schemas.errors import ConfigError, FilterError, MessageError
from schemas.package import XML_TYPES, PackageType, Property
from schemas.structure import ItemType
from serializers.composites import EXACT_MAX, in_form


class Item(NamedTuple):
    """The unit that is stamped, sent and compared: an object or a record set."""

    type: str
    key: str
    """Compact JSON array, see the module."""


_PLAIN = frozenset((str, int, float, bool))


def key_text(values: Sequence[Any]) -> str:
    return orjson.dumps(values).decode()


def key_of(item_type: ItemType, value: Mapping[str, Any], *, on_wire: bool = False) -> str:
    """The key of an item, from its `#value` or `#deleted`. `on_wire`: in the wire's form, which may be other than here.

    Raises MessageError when a key property is missing or is no plain value.
    """
    source = value if item_type.is_object else value.get("Filter", value)
    try:
        values = [source[name] for name in item_type.key_names]
    except (KeyError, TypeError):
        if not item_type.is_object and isinstance(source, dict):
            raise _other_filter(item_type, source) from None
        raise MessageError(
            f"{item_type.name}: the key {list(item_type.key_names)} is not in the value",
            hint="is the sender upgraded, and this node? `kod status` tells the packages of both",
        ) from None
    if not item_type.is_object and len(source) != len(values):
        raise _other_filter(item_type, source)
    if not _PLAIN.issuperset(map(type, values)) and any(_is_no_key(item_type, v, on_wire) for v in values):
        raise MessageError(f"{item_type.name}: a key property is null or not a plain value")
    return key_text(values)


def _other_filter(item_type: ItemType, source: Mapping[str, Any]) -> FilterError:
    return FilterError(
        f"{item_type.name}: its Filter is by {', '.join(source)}, here sets are by {', '.join(item_type.key_names)}",
        hint="nothing, if the sender or this node is still to be upgraded; else `filter` has to be the same at both",
    )


PREDEFINED = "#predefined"


def is_predefined(value: Any) -> bool:
    """Whether a key is that of a predefined item, as the wire has it: its name, under which every node knows it."""
    return isinstance(value, dict) and value.keys() == {PREDEFINED} and isinstance(value[PREDEFINED], str)


def _is_no_key(item_type: ItemType, value: Any, on_wire: bool) -> bool:
    if isinstance(value, dict | list):  # a node without the table has items as they come
        return not ((on_wire or item_type.table is None) and is_predefined(value))
    return value is None and item_type.is_object


def key_value(package_type: PackageType | ItemType, key: str) -> dict[str, Any]:
    """The key as properties, as `#deleted` and `Filter` bear it."""
    names = package_type.key_names if isinstance(package_type, ItemType) else package_type.key
    return dict(zip(names, orjson.loads(key), strict=True))


def written(key_properties: Sequence[Property], key: str) -> str:
    """The key as people see it: `[{"dateTime":"2020-07-27T16:03:05"},{"Catalog.Product":11}]`."""
    pairs = zip(key_properties, orjson.loads(key), strict=True)
    return orjson.dumps([{p.target or p.xml: value} for p, value in pairs]).decode()


def read(item_type: ItemType, text: str) -> str:
    """The inner key from what a person typed: КОД's pairs, a JSON array of values, or a bare value for one column.

    Raises ConfigError with the expected form.
    """
    properties = [f.prop for f in item_type.key]
    expected = ", ".join(f"{p.name}: {p.target or p.xml}" for p in properties)
    if any("\ud800" <= c <= "\udfff" for c in text):  # bytes of an argument that are no UTF-8
        raise ConfigError(f"{text!a} is no text", hint=f"the key of {item_type.name} is of {expected}")
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        values = text
    if not isinstance(values, list):
        values = [text if isinstance(values, dict) or properties[0].xml != "integer" else values]
    if len(values) != len(properties):
        raise ConfigError(
            f"{text!r} is not a key of {item_type.name}",
            hint=f"its key has {len(properties)} value(s): {expected}; e.g. " + example(properties),
        )
    return key_text([_plain(item_type, p, v, expected) for p, v in zip(properties, values, strict=True)])


def _plain(item_type: ItemType, prop: Property, value: Any, expected: str) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        (kind, value), *_ = value.items()
        if kind not in (prop.target, prop.xml) and not (kind in XML_TYPES or kind in ("int", "long", "short")):
            raise ConfigError(f"{kind!r} is not the type of {prop.name} in {item_type.name}'s key", hint=expected)
    if prop.xml == "integer":
        value = in_form(value, "integer")
        if isinstance(value, int) and abs(value) > EXACT_MAX:
            value = str(value)
    if prop.xml != "integer" and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value) if prop.xml not in ("float", "double") else value
    return value


def example(properties: Sequence[Property]) -> str:
    samples = {"integer": 1, "date": "2026-11-01", "dateTime": "2026-11-01T00:00:00"}
    return orjson.dumps([{p.target or p.xml: samples.get(p.xml, "…")} for p in properties]).decode()

"""What of an item has no place in a node's tables: kept as JSON beside its register, and put back when it is read.

Properties of the item itself are kept by their names; those of rows (of a section, of a set's records) under `#rows`,
by what tells the rows apart: their own key, or all that the tables hold of them. So nothing is cut on its way through
a node with fewer columns, or with an older package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import orjson

from schemas.package import Property
from schemas.structure import ItemType
from serializers.digest import canonical_row

ROWS = "#rows"
_MARK = b'"#rows":'

Rows = Mapping[str, Mapping[str, Any]]
"""By their keys' text: what is kept of them."""


def without_place(item_type: ItemType, value: Mapping[str, Any]) -> dict[str, Any]:
    """What of a value the tables here do not hold; empty where they hold everything."""
    return kept(item_type, value, {})


def kept(item_type: ItemType, value: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be kept of an item once `value` is written, where `old` was kept of it: an absent property stays as it
    is; what was kept of rows that are there no more goes."""
    if not old and is_held(item_type, value):
        return {}
    found = {name: v for name, v in old.items() if name != ROWS}
    if value.keys() - item_type.held_names:
        found.update((name, v) for name, v in value.items() if name not in item_type.held_names)
    rows = dict(old.get(ROWS, ()))
    for name, held, key in item_type.row_places:
        incoming = value.get(name)
        if not isinstance(incoming, list) or not all(isinstance(row, dict) for row in incoming):
            continue  # absent; or no list of rows, which is refused when it is written
        before = rows.pop(name, {})
        if before or not _are_held(incoming, held):
            after = dict(_kept_rows(incoming, before, held, key))
            rows.update({name: after} if after else {})
    return {**found, ROWS: rows} if rows else found


def is_held(item_type: ItemType, value: Mapping[str, Any]) -> bool:
    """Whether the tables hold all of it: almost always, and asked of every item."""
    if not item_type.held_names.issuperset(value):
        return False
    return all(_are_held(value.get(name) or (), held) for name, held, _ in item_type.row_places)


def _are_held(rows: Any, held: frozenset[str]) -> bool:
    try:
        return held.issuperset(chain.from_iterable(rows))
    except TypeError:  # no list of rows: it is refused when it is written
        return True


def _kept_rows(
    rows: Sequence[Mapping[str, Any]], before: Rows, held: frozenset[str], key: Mapping[str, Property]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for row in rows:
        place = _place(row, key)
        own = {**before.get(place, {}), **{name: v for name, v in row.items() if name not in held}}
        if own:
            yield place, own


def _place(row: Mapping[str, Any], key: Mapping[str, Property]) -> str:
    return orjson.dumps(canonical_row(key, {name: row.get(name) for name in key})).decode()


def by_new_keys(
    item_type: ItemType, old_key: Sequence[Property], kept: Mapping[str, str], pairs: Iterable[tuple[str, str]]
) -> tuple[dict[str, str], int]:
    """What is kept of the rows of record sets, by the sets' new keys, where it was by `old_key`; and of how many rows
    it cannot be told in which set they are now. `pairs`: which old sets have rows in which new ones."""
    (place,) = item_type.row_places
    new_key = [f.prop for f in item_type.key]
    sets: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for old, new in pairs:
        sets.setdefault(old, []).append((new, _named(new_key, new)))
    found: dict[str, dict[str, Any]] = {}
    lost = 0
    for old, text in kept.items():
        filtered = _named(old_key, old)
        for told, own in orjson.loads(text).get(ROWS, {}).get(place.name, {}).items():
            row = {**filtered, **orjson.loads(told)}
            fitting = [(new, names) for new, names in sets.get(old, ()) if _agree(row, names)]
            if len(fitting) == 1:
                new, names = fitting[0]
                found.setdefault(new, {})[_place({**row, **names}, place.key)] = own
            else:
                lost += 1
    return {new: orjson.dumps({ROWS: {place.name: rows}}).decode() for new, rows in found.items()}, lost


def _named(key: Sequence[Property], text: str) -> dict[str, Any]:
    """A key's values by their properties, as they are compared."""
    values = dict(zip((prop.name for prop in key), orjson.loads(text), strict=True))
    return canonical_row({prop.name: prop for prop in key}, values)


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def bears_rows(text: bytes) -> bool:
    """Whether something is kept of rows: seen without reading it (within a value the quotes would be escaped)."""
    return _MARK in text


def put_back(item_type: ItemType, text: bytes, beside: bytes | None = None) -> bytes:
    """The item with what is kept of it: in its text already, or `beside`."""
    value = orjson.loads(text)
    if beside is not None:
        value.update(orjson.loads(beside))
    rows: Mapping[str, Rows] = value.pop(ROWS, {})
    for name, _, key in item_type.row_places:
        own = rows.get(name, {})
        for row in (value.get(name) or ()) if own else ():
            row.update(own.get(_place(row, key), {}))
    return orjson.dumps(value)

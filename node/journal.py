"""The journal of collisions as people and programs see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from node.databases import Database
from schemas.errors import ConfigError
from schemas.stamp import Stamp, digits
from schemas.structure import Structure
from serializers.digest import differences
from serializers.keys import Item, written


def lines_of(database: Database, structure: Structure) -> list[dict[str, Any]]:
    """Collisions as contract.md gives them, with both values whole; keys as КОД writes them."""
    return [_line(raw, structure) for raw in database.collisions()]


def _line(raw: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
    item_type = structure.types.get(raw["type"])
    key = raw["key"]
    line = {
        "id": raw["id"],
        "type": raw["type"],
        "key": written([f.prop for f in item_type.key], key) if item_type else key,
        "winner": _version(raw["winner"]),
        "loser": _version(raw["loser"]),
        "policy": raw["policy"],
        "at": _moment(raw["at"]),
    }
    if raw.get("sender") is not None:
        line["sender"] = raw["sender"]
    for name in ("winner", "loser"):
        line[f"{name}_value"] = _value(raw[name].get("text"))
    return line


def differing(line: Mapping[str, Any], structure: Structure) -> list[dict[str, Any]]:
    """What the two versions of a collision have differently, property by property; empty where one is a deletion."""
    item_type = structure.types.get(line["type"])
    if item_type is None or line["winner_value"] is None or line["loser_value"] is None:
        return []
    return [
        {"property": found.property, "winner": found.one, "loser": found.other}
        for found in differences(item_type, line["winner_value"], line["loser_value"])
    ]


def restore(database: Database, structure: Structure, collision_id: int, code: str) -> Item:
    """Puts the losing version of a collision back, as a change that is made here and now.

    Raises ConfigError where there is no such collision, MessageError where the database does not take it."""
    raw = next((raw for raw in database.collisions() if raw["id"] == collision_id), None)
    if raw is None:
        raise ConfigError(
            f"there is no collision '{collision_id}' in the journal of node {code}", hint="kod collisions lists it"
        )
    item_type = structure.types.get(raw["type"])
    if item_type is None or item_type.table is None:
        raise ConfigError(
            f"node {code} does not keep {raw['type']} in a table", hint="restore it at a node of its journal that does"
        )
    item = Item(raw["type"], raw["key"])
    database.restore(structure, item, _value(raw["loser"].get("text")))
    return item


def _version(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"stamp": _moment(raw["stamp"]), "origin": raw["origin"]}


def _moment(stamp: int | str) -> str:
    return digits(Stamp(stamp)) if isinstance(stamp, int) else stamp


def _value(text: bytes | str | None) -> Any:
    return None if text is None else orjson.loads(text)

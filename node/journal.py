"""The journal of collisions as people and programs see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from node.databases import Database
from schemas.stamp import Stamp, digits
from schemas.structure import Structure
from serializers.keys import written


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


def _version(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"stamp": _moment(raw["stamp"]), "origin": raw["origin"]}


def _moment(stamp: int | str) -> str:
    return digits(Stamp(stamp)) if isinstance(stamp, int) else stamp


def _value(text: bytes | str | None) -> Any:
    return None if text is None else orjson.loads(text)

"""The turns of what goes out of turn: what is there in the order in which it became pending, then deletions, those of
types that refer to others first. A portion may be cut anywhere: nothing is deleted before what refers to it."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.structure import Structure


def turn_sql(row: str, type_ids: Mapping[str, int], structure: Structure) -> str:
    """SQL for the first part of the order of a register's `row`: 0, for deletions more, the lower their type's rank."""
    ranks = {number: structure.types[name].rank for name, number in type_ids.items() if name in structure.types}
    last = max(ranks.values(), default=0) + 1
    turns = " ".join(f"WHEN {row}.type = {number} THEN {last - rank}" for number, rank in ranks.items())
    return f"CASE WHEN NOT {row}.gone THEN 0 {turns} ELSE {last} END"

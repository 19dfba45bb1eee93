"""What an item's value refers to, told from the value alone.

receive -> settle -> [ what does it wait for? ] -> park
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.structure import Field, ItemType, Reference, Structure, Within
from serializers.composites import in_form, read_composite
from serializers.keys import Item, key_text


def references_of(item_type: ItemType, value: Mapping[str, Any], structure: Structure) -> frozenset[Item]:
    """The items that a value refers to. References by other columns than the target's key cannot be told and are left
    out, and so is what is null."""
    return frozenset(_among(item_type, item_type.references, value, structure))


def among(
    item_type: ItemType, references: Sequence[Reference], value: Mapping[str, Any], structure: Structure
) -> frozenset[Item]:
    """As `references_of`, by some of the type's references."""
    return frozenset(_among(item_type, references, value, structure))


def whole_of(item_type: ItemType, value: Mapping[str, Any], structure: Structure) -> frozenset[Item]:
    """Those of them whose types have sections: their root rows are locked against everybody while they are written."""
    references = [
        r for r in item_type.references if (target := structure.types.get(r.target)) is not None and target.sections
    ]
    return frozenset(_among(item_type, references, value, structure)) if references else frozenset()


def _among(
    item_type: ItemType, references: Sequence[Reference], value: Mapping[str, Any], structure: Structure
) -> Iterator[Item]:
    for reference in references:
        yield from _targets(item_type, reference, value, structure)


def _targets(
    item_type: ItemType, reference: Reference, value: Mapping[str, Any], structure: Structure
) -> Iterator[Item]:
    target = structure.types.get(reference.target)
    if target is None or target.table is None:
        return
    names = _names(item_type, reference)
    by_target = {
        theirs: names.get(ours) for ours, theirs in zip(reference.columns, reference.target_columns, strict=True)
    }
    key = [by_target.get(f.column.name) for f in target.key if f.column is not None]
    if None in key or len(key) != len(by_target):
        return
    if reference.within is not None:
        yield from _within(item_type, reference, reference.within, str(key[0]), target, value)
        return
    for row in _rows(item_type, reference, value):
        values = [row.get(str(name)) for name in key]
        if all(v is not None and not isinstance(v, dict | list) for v in values):
            yield Item(reference.target, key_text(values))


def _within(
    item_type: ItemType,
    reference: Reference,
    within: Within,
    name: str,
    target: ItemType,
    value: Mapping[str, Any],
) -> Iterator[Item]:
    """References in a composite's column that may hold others as well."""
    for row in _rows(item_type, reference, value):
        key = row.get(name)
        if within.json:
            held = read_composite(key)
            key = held.get("#value") if held.get("#type") == within.says else None
        elif row.get(within.own) != within.says:
            key = None
        if key is not None and not isinstance(key, dict | list):
            yield Item(reference.target, key_text([in_form(key, target.key[0].prop.xml)]))


def _names(item_type: ItemType, reference: Reference) -> dict[str, str]:
    """The properties in which the columns of a reference travel; those of a section's link do not."""
    fields: Sequence[Field] = item_type.fields
    if reference.section is not None:
        fields = next(s.fields for s in item_type.sections if s.name == reference.section)
    return {f.column.name: f.name for f in fields if f.column is not None}


def _rows(item_type: ItemType, reference: Reference, value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What is not a list of rows is refused when it is written, and refers to nothing."""
    if item_type.is_object and reference.section is None:
        yield value
        return
    rows = value.get("Records" if reference.section is None else reference.section)
    shared = {} if item_type.is_object else value.get("Filter") or {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            yield {**shared, **row} if shared else row

"""Kinds of data that a node keeps in a form of its own, as steps of turning (dispatcher.turning).

    composites   a type column and value columns, or one of JSON    <-> {"#type": …, "#value": …}
    enumerations the key of a row of a lookup table                 <-> its name
    predefined   the key that an item has here                      <-> {"#predefined": its name}, in its own key and
                                                                        wherever it is referred to

The wire's forms say the same at every node, also at one that has no table for the type and keeps the item as it came.
What has no counterpart here is a fault of that item: its message waits, with the reason, until it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from dispatcher.ports import ReceivingView, SendingView
from dispatcher.turning import Batch, Step, Turnable
from schemas.structure import Choice, Composite, Enumeration, ItemType, Names, Pointer, Structure
from serializers.composites import as_text, in_form, read_composite
from serializers.keys import PREDEFINED, is_predefined

Row = dict[str, Any]


def steps(structure: Structure) -> list[Step]:
    """In the order in which they turn on the way out."""
    return [Composites(structure), Enumerations(structure), Predefined(structure)]


def _rows(item_type: ItemType, one: Turnable, section: str | None) -> Iterator[Row]:
    """The rows of an item in which a property of its root, or of a section, stands."""
    found: Any = [one.value]
    if section is not None:
        found = one.value.get(section)
    elif not item_type.is_object and not one.gone:
        found = [one.value.get("Filter"), *(one.value.get("Records") or ())]
    yield from (row for row in found or () if isinstance(row, dict))


def _fault(one: Turnable, item_type: ItemType, section: str | None, name: str, text: str) -> None:
    if one.fault is None:
        where = f"{section}.{name}" if section else name
        one.fault = f"{item_type.name}.{where}: {text}"


class Composites:
    def __init__(self, structure: Structure) -> None:
        self.types = frozenset(name for name, t in structure.types.items() if t.composites)
        self._formerly = structure.formerly

    def outgoing(self, view: SendingView, batch: Batch) -> None:
        self._each(batch, _joined)

    def incoming(self, view: ReceivingView, batch: Batch) -> None:
        self._each(batch, partial(_divided, formerly=self._formerly))

    def _each(self, batch: Batch, turn: Callable[[Composite, Row], str | None]) -> None:
        for composite in batch.item_type.composites:
            for one in batch.living:
                for row in _rows(batch.item_type, one, composite.section):
                    if text := turn(composite, row):
                        _fault(one, batch.item_type, composite.section, composite.name, text)


def _joined(composite: Composite, row: Row) -> str | None:
    """Own columns -> one property; what is wrong, if anything is."""
    if composite.json:
        if composite.json in row:
            held = row.pop(composite.json)
            found = None if held is None else read_composite(held)
            if found is not None and found.keys() != {"#type", "#value"}:
                return 'its JSON is not {"#type": …, "#value": …}'
            row[composite.name] = found
        return None
    if composite.kind not in row:
        return None
    kind = row.pop(composite.kind)
    values = {own: row.pop(own, None) for own in dict.fromkeys(c.own for c in composite.choices.values())}
    if kind is None or kind == "":
        row[composite.name] = None
        return None
    for name, choice in composite.choices.items():
        if choice.says == str(kind):
            value = values[choice.own]
            row[composite.name] = {"#type": name, "#value": in_form(value, choice.xml)}
            return None
    return f"{kind!r} says no type of those that `composite` names"


def _divided(composite: Composite, row: Row, formerly: Mapping[str, str]) -> str | None:
    """One property -> own columns; an absent one leaves them alone. `formerly`: new names of types, by the old ones."""
    if composite.name not in row:
        return None
    value = row.pop(composite.name)
    if value is not None and not (
        isinstance(value, dict) and value.keys() == {"#type", "#value"} and isinstance(value["#type"], str)
    ):
        return 'it has to be null or {"#type": …, "#value": …}'
    if value is not None:
        value = {"#type": formerly.get(value["#type"], value["#type"]), "#value": value["#value"]}
    if composite.json:
        row[composite.json] = None if value is None else as_text(value)
        return None
    row[composite.kind] = None
    row.update({choice.own: None for choice in composite.choices.values()})
    if value is None:
        return None
    choice = composite.choices.get(value["#type"])
    if choice is None:
        return f"values of {value['#type']} have no column here (try: name one in `composite`)"
    row[composite.kind] = choice.says
    row[choice.own] = _to_column(value["#value"], choice, composite)
    return None


def _to_column(value: Any, choice: Choice, composite: Composite) -> Any:
    """Where several types share a column it holds texts."""
    shared = sum(other.own == choice.own for other in composite.choices.values()) > 1
    return as_text(value) if shared and value is not None else value


class Enumerations:
    def __init__(self, structure: Structure) -> None:
        self.types = frozenset(name for name, t in structure.types.items() if t.enumerations)

    def outgoing(self, view: SendingView, batch: Batch) -> None:
        for enumeration in batch.item_type.enumerations:
            names = view.names(enumeration.names)
            _translate(batch, enumeration, names, "has no name in")

    def incoming(self, view: ReceivingView, batch: Batch) -> None:
        for enumeration in batch.item_type.enumerations:
            keys = {name: key for key, name in view.names(enumeration.names).items()}
            _translate(batch, enumeration, keys, "has no counterpart in")


def _translate(batch: Batch, enumeration: Enumeration, found: Mapping[Any, Any], lacks: str) -> None:
    where = f"{enumeration.names.table}.{enumeration.names.column}"
    for one in batch.items:
        for row in _rows(batch.item_type, one, enumeration.section):
            value = row.get(enumeration.name)
            if value is None:
                continue
            if isinstance(value, dict | list) or value not in found:
                hint = f" (try: add it to {enumeration.names.table})"
                _fault(one, batch.item_type, enumeration.section, enumeration.name, f"{value!r} {lacks} {where}{hint}")
            else:
                row[enumeration.name] = found[value]


class Predefined:
    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self.types = frozenset(name for name, t in structure.types.items() if t.pointers)

    def outgoing(self, view: SendingView, batch: Batch) -> None:
        known: dict[str, Mapping[Any, str]] = {}

        def turned(target: str, value: Any) -> Any:
            name = self._names(view, target, known).get(value) if not isinstance(value, dict | list) else None
            return value if name is None else {PREDEFINED: name}

        for pointer, _, row in _pointers(batch):
            _point(pointer, row, turned)

    def incoming(self, view: ReceivingView, batch: Batch) -> None:
        known: dict[str, Mapping[Any, str]] = {}
        for pointer, one, row in _pointers(batch):

            def turned(target: str, value: Any, pointer: Pointer = pointer, one: Turnable = one) -> Any:
                names = self._names(view, target, known)
                if not is_predefined(value):
                    if not isinstance(value, dict | list) and (name := names.get(value)) is not None:
                        text = (
                            f"{value!r} is here the key of the predefined {target} {name!r}, and there of another item"
                        )
                        _fault(one, batch.item_type, pointer.section, pointer.name, text)
                    return value
                name = value[PREDEFINED]
                keys = [key for key, its in names.items() if its == name]
                if len(keys) != 1:
                    self._no_counterpart(one, batch, pointer, target, name, several=bool(keys))
                    return value
                return keys[0]

            _point(pointer, row, turned)

    def _no_counterpart(
        self, one: Turnable, batch: Batch, pointer: Pointer, target: str, name: str, *, several: bool
    ) -> None:
        item_type = self._structure.named(target)
        if item_type is None or item_type.predefined is None:
            text, hint = f"the predefined {target} {name!r} has no counterpart here: there is no table for it", ""
        else:
            where = f"{item_type.predefined.table}.{item_type.predefined.column}"
            what = "more than one counterpart" if several else "no counterpart"
            text = f"the predefined {target} {name!r} has {what} here, by {where}"
            hint = f" (try: {'leave one of them the name' if several else 'give an item that name'})"
        _fault(one, batch.item_type, pointer.section, pointer.name, text + hint)

    def _names(
        self, view: SendingView | ReceivingView, target: str, known: dict[str, Mapping[Any, str]]
    ) -> Mapping[Any, str]:
        target = self._structure.formerly.get(target, target)
        if target not in known:
            item_type = self._structure.types.get(target)
            names: Names | None = item_type.predefined if item_type is not None else None
            known[target] = view.names(names) if names is not None else {}
        return known[target]


def _pointers(batch: Batch) -> Iterator[tuple[Pointer, Turnable, Row]]:
    for pointer in batch.item_type.pointers:
        for one in batch.items:
            for row in _rows(batch.item_type, one, pointer.section):
                if row.get(pointer.name) is not None:
                    yield pointer, one, row


def _point(pointer: Pointer, row: Row, turned: Callable[[str, Any], Any]) -> None:
    value = row[pointer.name]
    if pointer.target is not None:
        row[pointer.name] = turned(pointer.target, value)
    elif isinstance(value, dict) and isinstance(value.get("#type"), str):  # a composite says it itself
        row[pointer.name] = {"#type": value["#type"], "#value": turned(value["#type"], value.get("#value"))}

"""What `kod install` does with the registers where the structure is another one than it was; the same in every dialect.

    renamed    `formerly` names a type that the registers know: it goes on under its new name
    forgotten  a type that left the exchange, or that the node takes no part in any more: its rows stay, without stamps
    rekeyed    a record set with another filter: its registers are by the new keys
    adopted    what was kept beside the register, and has a place in the tables now, gets there

All of it in the caller's transaction, after the triggers have been made anew: nobody writes under the old ones then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import orjson

from schemas.errors import ConfigError, MessageError
from schemas.network import NodeSettings
from schemas.stamp import Stamp
from schemas.structure import Composite, Enumeration, Field, ItemType, Pointer, Structure
from serializers.beside import ROWS, by_new_keys, without_place
from serializers.keys import Item
from serializers.message import Version

ITEMS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the register. `changed`: made here and now, as if an application had."""

    version: Version
    seen: Mapping[str, Stamp] = field(default_factory=dict)
    changed: bool = False
    kept: str | None = None


class Adopted(NamedTuple):
    """An item that is to be written. `kept` is what still has no place here."""

    item: Item
    value: Mapping[str, Any]
    existed: bool
    kept: str | None


class Registers(Protocol):
    """What a dialect does for this module."""

    def types(self) -> Mapping[str, str | None]:
        """The types that the registers know, each with what `key_of_type` said when it was installed."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def note_key(self, name: str, key: str) -> None: ...

    def forget(self, name: str) -> int:
        """Everything of the type but what is kept whole beside the register, tombstones and holders; how many items it
        was."""
        ...

    def forget_wholly(self, name: str) -> int:
        """Everything of the type but the journal; how many items it was."""
        ...

    def entries(self, name: str) -> Mapping[str, Entry]:
        """The register of a type, by key, with what is kept; tombstones are left out."""
        ...

    def logged(self, name: str) -> frozenset[str]:
        """Keys of items that have changed here since the last fold."""
        ...

    def pairs(self, old: ItemType, new: ItemType) -> Iterable[tuple[str, str]]:
        """For all rows of the type's table the key that they had, and the one that they have; each pair once."""
        ...

    def put(self, name: str, entries: Mapping[str, Entry], moved: Mapping[str, Sequence[str]]) -> None:
        """Replaces the type's register: all of it goes to all neighbours once more. `moved`: for each old key the new
        ones, for whom holds what."""
        ...

    def kept(self, name: str) -> Mapping[Item, str]:
        """What is kept beside the register of items of a type."""
        ...

    def contents(self, items: Sequence[Item]) -> Mapping[Item, bytes | None]: ...

    def adopt(self, adopted: Sequence[Adopted]) -> None:
        """Writes the items as if they had just been received, and notes what is still kept of them."""
        ...


def rename(settings: NodeSettings, registers: Registers) -> list[str]:
    """Before the types get their numbers."""
    known = registers.types()
    done = []
    for name, of_type in settings.exchange.items():
        for old in of_type.formerly:
            if old in known and name not in known:
                registers.rename(old, name)
                done.append(f"{old} is {name} from now on")
    return done


def key_of_type(item_type: ItemType) -> str:
    """What a type's keys are made of: [property, column] pairs, as JSON text."""
    return orjson.dumps([[f.name, f.column.name if f.column else None] for f in item_type.key]).decode()


def rekeyed_types(structure: Structure, known: Mapping[str, str | None]) -> list[str]:
    """Record sets whose filter is another one than when it was installed.

    Raises ConfigError where the key of an object is made of another number of columns: it would be another object.
    """
    found = []
    for name, item_type in structure.types.items():
        before = orjson.loads(known.get(name) or "null")
        if before is None or _same_key(before, item_type):
            continue
        if not item_type.is_object:
            found.append(name)
        elif len(before) != len(item_type.key):
            raise ConfigError(
                f"the key of {name} was {[prop for prop, _ in before]} and is {list(item_type.key_names)} now: an "
                "object with another key is another object",
                hint="describe it as a type of another name, and let the old one go",
            )
    return found


def _same_key(before: Sequence[Sequence[str | None]], item_type: ItemType) -> bool:
    """A renamed property, or a renamed column, leaves the keys as they are."""
    now = [(f.name, f.column.name if f.column else None) for f in item_type.key]
    return len(before) == len(now) and all(
        prop == name or (column is not None and column == here)
        for (prop, column), (name, here) in zip(before, now, strict=True)
    )


def adapt(settings: NodeSettings, structure: Structure, registers: Registers) -> list[str]:
    """Once the triggers are those that the structure needs. What was done, in words."""
    known = registers.types()
    done = _forget(settings, structure, known, registers)
    for name in rekeyed_types(structure, known):
        done.append(_rekey(structure[name], orjson.loads(known[name] or "[]"), registers))
    for name, item_type in structure.types.items():
        registers.note_key(name, key_of_type(item_type))
    adopted = sum(_adopt(item_type, registers) for item_type in structure.types.values() if item_type.table)
    return [*done, f"{adopted} items got what was kept for them"] if adopted else done


# --- forgotten ------------------------------------------------------------------------------------------------------


def _forget(
    settings: NodeSettings, structure: Structure, known: Mapping[str, str | None], registers: Registers
) -> list[str]:
    """A type that is refused for now (`structure` has it not, the exchange has it) is none of these."""
    done = []
    for name in known:
        if name not in settings.exchange:
            items = registers.forget_wholly(name)
            if items:
                done.append(f"{name} is not in the exchange any more: {items} items are forgotten, their rows stay")
        elif name in structure.types and structure[name].table is None:
            items = registers.forget(name)
            if items:
                done.append(f"{name} takes no part any more: {items} items are forgotten, their rows stay")
    return done


# --- rekeyed --------------------------------------------------------------------------------------------------------


def _rekey(item_type: ItemType, before: Sequence[Sequence[str | None]], registers: Registers) -> str:
    old = _with_old_key(item_type, before)
    entries = registers.entries(item_type.name)
    beside = {key: entry.kept for key, entry in entries.items() if entry.kept is not None}
    lost = 0
    if item_type.table is not None:
        pairs = list(registers.pairs(old, item_type))
        kept, lost = by_new_keys(item_type, [f.prop for f in old.key], beside, pairs)
    else:
        kept, pairs = _sets_anew(item_type, beside)
    found = rekeyed(pairs, entries, registers.logged(item_type.name))
    found = {key: replace(entry, kept=kept.get(key)) for key, entry in found.items()}
    moved: dict[str, list[str]] = {}
    for before_key, key in pairs:
        moved.setdefault(before_key, []).append(key)
    registers.put(item_type.name, found, moved)
    names = ", ".join(prop or "" for prop, _ in before)
    of_rows = f"; what was kept of {lost} rows, without columns here, is kept no more" if lost else ""
    return (
        f"{item_type.name}: its filter was [{names}] and is [{', '.join(item_type.key_names)}]: {len(entries)} sets "
        f"are {len(found)} now, and go to the neighbours once more{of_rows}"
    )


def rekeyed(
    pairs: Iterable[tuple[str, str]], entries: Mapping[str, Entry], changed: frozenset[str]
) -> dict[str, Entry]:
    """The register by new keys. A set that is (a part of) one old set keeps its version: whoever else has that has the
    same rows. One that is put together from several becomes a new version of this node, which has seen all of them:
    elsewhere the same version could have been put together from others."""
    sources: dict[str, dict[str, None]] = {}
    for old, new in pairs:
        sources.setdefault(new, {})[old] = None
    found = {}
    for new, olds in sources.items():
        known = [entries[old] for old in olds if old in entries]
        own = not changed.isdisjoint(olds)
        if known:
            found[new] = replace(known[0], changed=own) if len(olds) == 1 else _together(known)
        elif own:
            found[new] = Entry(Version(Stamp(0), ""), changed=True)
    return found


def _together(entries: Sequence[Entry]) -> Entry:
    newest = max(entries, key=lambda entry: entry.version)
    seen: dict[str, Stamp] = {}
    for entry in entries:
        for origin, stamp in (*entry.seen.items(), (entry.version.origin, entry.version.stamp)):
            seen[origin] = max(stamp, seen.get(origin, stamp))
    seen.pop(newest.version.origin)
    return Entry(newest.version, seen, changed=True)


def _with_old_key(item_type: ItemType, before: Sequence[Sequence[str | None]]) -> ItemType:
    """The type with the key that it had: its properties (or their columns) have to be there still."""
    key = []
    for prop, column in before:
        held = next((f for f in item_type.fields if f.name == prop or _is_in(f, column)), None)
        if held is None or (item_type.table is not None and held.column is None):
            raise ConfigError(
                f"{item_type.name}: its filter was by {prop}, and that has no column any more: which rows were one set "
                "cannot be told",
                hint="change the filter first (kod install), and take the column away afterwards",
            )
        key.append(held)
    return replace(item_type, key=tuple(key))


def _is_in(of_type: Field, column: str | None) -> bool:
    return column is not None and of_type.column is not None and of_type.column.name == column


def _sets_anew(item_type: ItemType, sets: Mapping[str, str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Sets that are kept as JSON, by the new filter; and which old key went where."""
    records: dict[str, list[dict[str, Any]]] = {}
    pairs: dict[tuple[str, str], None] = {}
    names = item_type.key_names
    for old, text in sets.items():
        value = orjson.loads(text)
        for record in value.get("Records", []):
            row = {**value.get("Filter", {}), **record}
            if not all(name in row for name in names):
                continue
            new = orjson.dumps([row[name] for name in names]).decode()
            pairs[old, new] = None
            records.setdefault(new, []).append({name: v for name, v in row.items() if name not in names})
    whole = {
        new: orjson.dumps({"Filter": dict(zip(names, orjson.loads(new), strict=True)), "Records": rows}).decode()
        for new, rows in records.items()
    }
    return whole, list(pairs)


# --- adopted --------------------------------------------------------------------------------------------------------


def _adopt(item_type: ItemType, registers: Registers) -> int:
    kept = registers.kept(item_type.name)
    items = list(kept)
    count = 0
    for start in range(0, len(items), ITEMS_AT_ONCE):
        some = items[start : start + ITEMS_AT_ONCE]
        texts = registers.contents(some)
        adopted = [one for item in some if (one := _adopted(item_type, item, kept[item], texts.get(item))) is not None]
        try:
            registers.adopt(adopted)
        except MessageError as error:
            raise ConfigError(
                f"{item_type.name}: what was kept for its new columns cannot be written: {error.text}",
                hint="mend the table (a default, a wider column, the rows that it refers to), and `kod install` again",
            ) from error
        count += len(adopted)
    return count


def _adopted(item_type: ItemType, item: Item, kept: str, text: bytes | None) -> Adopted | None:
    """None where nothing that is kept has a place here. `text`: the item with what is kept."""
    beside = orjson.loads(kept)
    whole = "Filter" in beside if not item_type.is_object else set(item_type.key_names) <= beside.keys()
    if text is None and not whole:
        return None  # of an item that is gone
    _refuse_wires_form(item_type, beside, whole)
    value = beside if whole or text is None else orjson.loads(text)
    rest = without_place(item_type, value)
    if rest == beside:
        return None
    return Adopted(item, value, text is not None, orjson.dumps(rest).decode() if rest else None)


def _refuse_wires_form(item_type: ItemType, beside: Mapping[str, Any], whole: bool) -> None:
    """Without columns a property was kept as it came: put into columns unturned it would say something else.

    Raises ConfigError.
    """
    rows = beside.get(ROWS, {})
    turned: list[Composite | Enumeration | Pointer] = [*item_type.composites, *item_type.enumerations]
    for one in [*turned, *item_type.pointers] if whole else turned:
        kept_rows = rows.get(one.section or "Records", {})
        of_row = any(one.name in row for row in kept_rows.values())
        if whole or of_row or (one.section or one.name) in beside.keys() & _has_place(item_type):
            name = f"{one.section}.{one.name}" if one.section else one.name
            raise ConfigError(
                f"{item_type.name}: {name} was kept as it travels while it had no place here, and stands in another "
                "form in the tables",
                hint="take the type out of nodes.yaml for one `kod install` (what was kept is forgotten), put it back, "
                "install again, and have a neighbour send it (`kod history`)",
            )


def _has_place(item_type: ItemType) -> frozenset[str]:
    return item_type.held_names | {one.name for one in item_type.composites if one.section is None}

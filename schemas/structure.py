"""The structure: the package as one node's database holds it. Types and properties become SQL only through this.

    package x exchange (nodes.yaml) x tables (reflected)  ->  Structure

`compile_structure` is in schemas.compilation; here are the words that every dialect reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal, NamedTuple

from schemas.package import Property
from schemas.tables import Column, Table


class Routing(Enum):
    """Where items of a type go (system.md, Sending)."""

    REFERENCE_DATA = "reference_data"
    INDEPENDENT = "independent"
    DEPENDENT = "dependent"


@dataclass(frozen=True, slots=True)
class Field:
    """A property and the column that holds it here; `column` is None where this node has none."""

    prop: Property
    column: Column | None

    @property
    def name(self) -> str:
        return self.prop.name


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of an object: the section's table, tied to the root by `link` (section column, root column)."""

    name: str
    table: str
    fields: tuple[Field, ...]
    """What travels; the link's columns do not."""
    link: tuple[tuple[str, str], ...]
    primary_key: tuple[str, ...]
    """Columns, link columns among them; empty when the table has none (rows are then replaced whole)."""
    order: tuple[str, ...]
    """Columns in whose order the rows travel; may be empty."""
    uniques: tuple[tuple[str, ...], ...] = ()
    """Columns that travel and in which rows of different objects must not be equal."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Columns of a type (or of its section, by name) that hold the key of an item of `target`."""

    section: str | None
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    """The target's columns that they equal, in the same order; mostly its key."""
    required: bool
    owner: bool = False
    enforced: bool = True
    """The database checks it (a foreign key)."""
    within: Within | None = None

    def __str__(self) -> str:
        columns = ", ".join(self.columns)
        return f"{self.section}.{columns} -> {self.target}" if self.section else f"{columns} -> {self.target}"


@dataclass(frozen=True, slots=True)
class Within:
    """A reference stands in a column that may hold others: it is one of this type only where `column` says so."""

    column: str
    """The type column of a composite, or its JSON column."""
    says: str
    json: bool
    own: str
    """The name under which `column` stands in an item's own form."""


@dataclass(frozen=True, slots=True)
class Names:
    """Where rows that nodes know under different keys bear a name that is the same everywhere."""

    table: str
    key: Field
    column: str
    """Of the names; a row without one has none."""
    of_type: str | None = None
    """The rows are items of this type (predefined ones), whose names are remembered when they are gone."""
    prop: str = ""
    """The property that bears the name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A type that a composite may hold, and where a value of it stands."""

    says: str
    """What the type column has then."""
    own: str
    xml: str
    """The lexical form of the value."""


@dataclass(frozen=True, slots=True)
class Composite:
    """A property that holds values of several types, and this node's columns of it, by their names in an item's own
    form: a type column and value columns, or one of JSON."""

    section: str | None
    name: str
    kind: str = ""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    json: str = ""


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A property whose values are rows of a lookup table: its key here, its name on the wire."""

    section: str | None
    name: str
    names: Names


@dataclass(frozen=True, slots=True)
class Pointer:
    """A property that may hold the key of a predefined item; of a composite `target` is None: the value says it."""

    section: str | None
    name: str
    target: str | None


@dataclass(frozen=True, slots=True)
class Base:
    """A table that a view is made of: what is written into it changes items of the view."""

    table: str
    columns: tuple[str, ...]
    """Those that hold an item's key, in the key's order."""


@dataclass(frozen=True)
class ItemType:
    """A type as this node has it. `table` is None where the node takes no part: items are kept as JSON and passed on.

    An object's key are its primary key's columns; a record set's its filter's, and its rows are all rows of the
    table with equal values there (NULL equals NULL). For a record set `fields` are first the filter's, then the
    records'; `record_key` are the columns that tell records of one set apart.
    """

    name: str
    kind: Literal["object", "record_set"]
    routing: Routing
    table: str | None
    key: tuple[Field, ...]
    fields: tuple[Field, ...]
    """All that travel, the key's among them."""
    sections: tuple[Section, ...] = ()
    sources: tuple[Section, ...] = ()
    """Tables outside the type a write to which stamps its items; nothing of them travels."""
    references: tuple[Reference, ...] = ()
    record_key: tuple[str, ...] = ()
    """Record sets: the primary key's columns outside the filter."""
    one_record: bool = False
    """The filter is all of the primary key: a set has one record at most."""
    access: str | None = None
    access_from: tuple[str, ...] = ()
    """Tables whose changes change rights, where they are declared."""
    rights_travel: bool = False
    """`access` is a table that does not take part itself: where an item is to be seen goes with it, for the nodes
    between. A view has to give the same at each of them."""
    collision: Literal["newest", "parent"] = "newest"
    composites: tuple[Composite, ...] = ()
    enumerations: tuple[Enumeration, ...] = ()
    predefined: Names | None = None
    """Some of its items exist at every node, under keys of the node's own; they have one name."""
    pointers: tuple[Pointer, ...] = ()
    on_wire: ItemType | None = None
    """The type as messages have it, where that is another form than this node's own."""
    view: bool = False
    """`table` is one: it has no rows to lock and no triggers of capture; its `bases` have."""
    bases: tuple[Base, ...] = ()
    date: str | None = None
    generated_key: bool = False
    """The database of this node invents its keys."""
    invented_key: bool = False
    """A database of the network invents its keys: two births under one key are different items. The same at every
    node."""
    uniques: tuple[tuple[str, ...], ...] = ()
    """Unique columns other than the primary key: their values may have to be freed before they are taken."""
    rank: int = 0
    """Referenced types before those that refer to them; types in a circle are next to each other."""

    @property
    def is_object(self) -> bool:
        return self.kind == "object"

    @cached_property
    def held(self) -> tuple[Field, ...]:
        """Fields that have a column here."""
        return tuple(f for f in self.fields if f.column is not None)

    @cached_property
    def held_names(self) -> frozenset[str]:
        """Names of the properties and sections that have a place in the tables here."""
        if not self.is_object:
            return frozenset(("Filter", "Records"))
        return frozenset(f.name for f in self.held) | {s.name for s in self.sections}

    @cached_property
    def row_places(self) -> tuple[RowPlace, ...]:
        """What the tables here hold of rows: of sections, of a set's records."""
        if self.is_object:
            return tuple(map(_place_of_section, self.sections))
        records = [f for f in self.fields if f not in self.key]
        return (_row_place("Records", records, self.record_key, alone=self.one_record),) if self.table else ()

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.key)

    @cached_property
    def controlled(self) -> tuple[Reference, ...]:
        """References that must not lead nowhere."""
        return tuple(r for r in self.references if r.required or r.enforced)

    @cached_property
    def unchecked(self) -> tuple[Reference, ...]:
        """Those of them to which no database sees."""
        return tuple(r for r in self.references if r.required and not r.enforced)

    @cached_property
    def owner_reference(self) -> Reference | None:
        return next((r for r in self.references if r.owner), None)


class RowPlace(NamedTuple):
    """A section, or a set's records, as the tables here hold their rows."""

    name: str
    held: frozenset[str]
    key: Mapping[str, Property]
    """What tells the rows of one item apart: their own key, or all that is held; nothing where there is only one."""


def _place_of_section(section: Section) -> RowPlace:
    own = [c for c in section.primary_key if c not in {link for link, _ in section.link}]
    return _row_place(section.name, section.fields, own, alone=bool(section.primary_key) and not own)


def _row_place(name: str, fields: Sequence[Field], key: Sequence[str], *, alone: bool) -> RowPlace:
    held = [f for f in fields if f.column is not None]
    own = [f for f in held if f.column is not None and f.column.name in key]
    telling = [] if alone else own or held
    return RowPlace(name, frozenset(f.name for f in held), {f.name: f.prop for f in telling})


@dataclass(frozen=True)
class Structure:
    """All types of a node, by name, in the order of rank, and what did not fit."""

    types: Mapping[str, ItemType]
    mismatches: tuple[Mismatch, ...] = ()
    fingerprint: str = ""
    formerly: Mapping[str, str] = field(default_factory=dict)
    """Old names of types, still read, and what they are called now."""
    tables: Mapping[str, Table] = field(default_factory=dict, repr=False, compare=False)
    """The tables of which it was made, as they were then."""

    def named(self, name: str) -> ItemType | None:
        """The type of this name, or of which this is an old name; None for one that is not known here."""
        return self.types.get(name) or self.types.get(self.formerly.get(name, ""))

    def __getitem__(self, name: str) -> ItemType:
        return self.types[name]

    def references_to(self, target: str) -> Iterator[tuple[ItemType, Reference]]:
        """By which tables here refer to a type's."""
        for item_type in self.types.values():
            if item_type.table is not None:
                yield from ((item_type, r) for r in item_type.references if r.target == target)

    def unchecked_to(self, target: str) -> Iterator[tuple[ItemType, Reference]]:
        return ((t, r) for t, r in self.references_to(target) if r in t.unchecked)

    @cached_property
    def unchecked(self) -> frozenset[str]:
        """Types with references that nobody but the daemon checks."""
        return frozenset(t.name for t in self.types.values() if t.table is not None and t.unchecked)

    @cached_property
    def unchecked_targets(self) -> frozenset[str]:
        """Types to which such references lead."""
        return frozenset(r.target for name in self.unchecked for r in self.types[name].unchecked)

    @cached_property
    def referring_to_whole(self) -> frozenset[str]:
        """Types with references to types that have sections."""
        whole = {t.name for t in self.types.values() if t.sections}
        return frozenset(t.name for t in self.types.values() if any(r.target in whole for r in t.references))

    @cached_property
    def circular(self) -> frozenset[str]:
        """Types that refer to themselves, or to each other in a circle: those share a rank."""
        ranks = {t.name: t.rank for t in self.types.values()}
        return frozenset(
            t.name for t in self.types.values() if any(ranks.get(r.target) == t.rank for r in t.references)
        )

    @cached_property
    def with_rights(self) -> tuple[str, ...]:
        """Types of which an access table, or view, says where they are to be seen."""
        return tuple(t.name for t in self.types.values() if t.table is not None and t.access is not None)

    @cached_property
    def with_ways(self) -> frozenset[str]:
        """Types whose rights go with the items."""
        return frozenset(t.name for t in self.types.values() if t.rights_travel)

    @cached_property
    def source_tables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.table for t in self.types.values() for s in t.sources if t.table is not None))

    @cached_property
    def owning(self) -> frozenset[str]:
        """Types on which others depend. Where a hook tells the owner that may be any."""
        owners = [t.owner_reference for t in self.types.values() if t.routing is Routing.DEPENDENT]
        if None in owners:
            return frozenset(self.types)
        return frozenset(owner.target for owner in owners if owner is not None)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something in which the package and a node's database differ, and what it means.

    `effect`: "will not arrive", "will be cut", "cannot be read", "refused" (the type takes no part until it is mended)
    or "note" (worth knowing, nothing is lost).
    """

    type: str
    property: str | None
    effect: str
    text: str
    hint: str = ""

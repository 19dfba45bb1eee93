"""Kinds of data that a node keeps in another form than messages have it: composites, enumerations in lookup tables,
predefined items. What they compile to; dispatcher.kinds turns them.

An item's own form is its columns, so that the database reads and writes it like any other. A composite is then not one
property but its columns, named `@column` (no property of the package can be named so).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from schemas.network import CompositeSettings, LookupSettings, TypeSettings
from schemas.package import ANY, XML_TYPES, Package, PackageType, Property
from schemas.structure import Choice, Composite, Enumeration, Field, Names, Pointer, Reference, Within
from schemas.tables import Column, Table

OWN = "@"


class Report(Protocol):
    def __call__(self, prop: str | None, effect: str, text: str, hint: str = "") -> None: ...


def name_tables(settings: TypeSettings) -> Iterator[str]:
    """The lookup tables of a type's enumerations."""
    yield from (lookup.table for lookup in settings.enums.values() if isinstance(lookup, LookupSettings))


def named_columns(exchange: Iterable[TypeSettings]) -> Iterator[tuple[str, str]]:
    """(table, column) whose values are the names of an enumeration, or of predefined items."""
    for settings in exchange:
        if settings.takes_part:
            for lookup in settings.enums.values():
                if isinstance(lookup, LookupSettings):
                    yield lookup.table, lookup.name
            if settings.predefined:
                yield settings.table, settings.columns.get(settings.predefined, settings.predefined)


# --- the package from the database's metadata ---------------------------------------------------------------------


def described_columns(settings: TypeSettings) -> frozenset[str]:
    """Columns that are parts of composites."""
    return frozenset(column for composite in settings.composite.values() for column in composite.columns)


def composite_properties(table: Table, settings: TypeSettings) -> Iterator[tuple[int, Property]]:
    """Composites as properties, each with the place of its first column among the table's."""
    places = {column.name: place for place, column in enumerate(table.columns)}
    for name, composite in settings.composite.items():
        there = [places[column] for column in composite.columns if column in places]
        if there and name not in settings.exclude:
            nullable = all(table.columns[place].nullable for place in there)
            yield min(there), Property(name, ANY, nullable, composite=composite.all_types)


def lookup_property(prop: Property, settings: TypeSettings, tables: Mapping[str, Table]) -> Property:
    """The property with the names of a lookup table as its values."""
    lookup = settings.enums.get(prop.name)
    if not isinstance(lookup, LookupSettings):
        return prop
    table = tables.get(lookup.table)
    names = table.column(lookup.name) if table else None
    if names is None:
        return prop
    return replace(
        prop,
        xml="string",
        target=None,
        length=names.length,
        digits=None,
        bits=None,
        values=names.values,
        native=names.native,
    )


# --- the structure ------------------------------------------------------------------------------------------------


def composite_fields(
    prop: Property, table: Table, settings: TypeSettings, *, key: bool, report: Report
) -> tuple[Field, ...]:
    """A composite's columns here; the property itself, without a column, where there are none."""
    composite = composite_of(prop, table, settings)
    if composite is None:
        report(
            prop.name,
            "will not arrive",
            f"table {table.name!r} has no columns for it: it holds values of several types",
            f"kept and passed on; name its columns: `composite: {{{prop.name}: …}}`",
        )
        return (Field(prop, None),)
    missing = [column for column in composite.columns if table.column(column) is None]
    if missing or key:
        text = "it is in the key, and holds values of several types" if key else f"there is no column {missing[0]!r}"
        report(prop.name, "refused" if key else "will not arrive", f"`composite`: {text}", "mend nodes.yaml")
        return (Field(prop, None),)
    for strange in sorted({t for t in prop.composite if t != ANY} - set(composite.all_types)):
        report(
            prop.name,
            "cannot be read",
            f"it may hold values of {strange} in the package, and `composite` has no column for them here",
            "a message with one waits; name a column of it",
        )
    return tuple(Field(_own(column, composite), column) for c in composite.columns if (column := table.column(c)))


def composite_of(prop: Property, table: Table, settings: TypeSettings) -> CompositeSettings | None:
    """As nodes.yaml says; without a word of it, one column of its name that can hold JSON."""
    found = settings.composite.get(prop.name)
    if found is not None:
        return found
    column = table.column(settings.columns.get(prop.name, prop.name))
    if column is None or column.xml not in ("json", "string"):
        return None
    return CompositeSettings(json=column.name, types=tuple(t for t in prop.composite if t != ANY))


def _own(column: Column, composite: CompositeSettings) -> Property:
    return Property(
        OWN + column.name,
        column.xml,
        length=column.length,
        digits=column.digits,
        zoned=column.zoned,
        native=column.native,
        composite=(ANY,) if composite.json else (),
    )


def lookup_field(
    prop: Property, table: Table, settings: TypeSettings, tables: Mapping[str, Table], report: Report
) -> Field:
    """An enumeration's column here: it holds keys of the lookup table."""
    lookup = settings.enums[prop.name]
    assert isinstance(lookup, LookupSettings)
    column = table.column(settings.columns.get(prop.name, prop.name))
    fault = "" if column is not None else f"table {table.name!r} has no column for it"
    values = tables.get(lookup.table)
    if values is None:
        fault = f"`enums`: there is no table {lookup.table!r}"
    elif values.column(lookup.name) is None or not _lookup_key(lookup, values):
        fault = f"`enums`: {lookup.table!r} has no column {lookup.name!r}, or no key of one column"
    if fault or column is None or values is None:
        report(prop.name, "will not arrive", fault, "kept and passed on; mend nodes.yaml, or add what is missing")
        return Field(prop, None)
    names = values.column(lookup.name)
    _compare_names(prop, names.values if names else (), f"{lookup.table}.{lookup.name}", report)
    return Field(
        replace(prop, xml=column.xml, length=column.length, digits=column.digits, values=(), native=column.native),
        column,
    )


def _compare_names(prop: Property, there: Iterable[str], where: str, report: Report) -> None:
    lacking = sorted(set(prop.values) - set(there))
    if lacking:
        report(
            prop.name,
            "cannot be read",
            f"{where} does not have {', '.join(map(repr, lacking))}",
            "add it there: what comes with it waits until then",
        )


def _lookup_key(lookup: LookupSettings, table: Table) -> Column | None:
    if lookup.key is not None:
        return table.column(lookup.key)
    return table.column(table.primary_key[0]) if len(table.primary_key) == 1 else None


def composites(
    section: str | None, properties: Iterable[Property], table: Table, settings: TypeSettings, package: Package
) -> Iterator[tuple[Composite, CompositeSettings]]:
    """Those of the root, or of a section, that have their columns here."""
    for prop in properties:
        found = composite_of(prop, table, settings) if prop.composite else None
        if found is None or prop.name in settings.exclude or any(table.column(c) is None for c in found.columns):
            continue
        choices = {
            name: Choice(found.says.get(name, name), OWN + column, _value_xml(name, package))
            for name, column in found.values.items()
        }
        kind = OWN + found.type_column if found.type_column else ""
        yield Composite(section, prop.name, kind, choices, OWN + found.json if found.json else ""), found


def _value_xml(name: str, package: Package) -> str:
    """The lexical form of values of a type: of its key, where it is one of the package's."""
    of_type = package.types.get(name)
    prop = of_type.property(of_type.key[0]) if of_type is not None and of_type.key else None
    return prop.xml if prop is not None else name


def composite_references(
    section: str | None,
    composite: CompositeSettings,
    targets: Mapping[str, tuple[str, ...]],
    *,
    required: bool,
    declared: Iterable[tuple[str, ...]],
) -> Iterator[Reference]:
    """References inside a composite. `targets`: key columns of the types that have a table here; `declared`: columns
    of the foreign keys that the database has."""
    known = set(declared)
    for name in composite.all_types:
        if name not in targets or len(targets[name]) != 1:
            continue
        if composite.json:
            within = Within(composite.json, name, True, OWN + composite.json)
            yield Reference(section, (composite.json,), name, targets[name], required, enforced=False, within=within)
            continue
        column = composite.values[name]
        alone = list(composite.values.values()).count(column) == 1
        if alone and (column,) in known:
            continue
        says = composite.says.get(name, name)
        within_type = None if alone else Within(composite.type_column, says, False, OWN + composite.type_column)
        yield Reference(section, (column,), name, targets[name], required, enforced=False, within=within_type)


def enumerations(
    section: str | None, fields: Iterable[Field], settings: TypeSettings, tables: Mapping[str, Table]
) -> Iterator[Enumeration]:
    for field in fields:
        lookup = settings.enums.get(field.name)
        if field.column is None or not isinstance(lookup, LookupSettings):
            continue
        table = tables[lookup.table]
        key = _lookup_key(lookup, table)
        assert key is not None
        yield Enumeration(section, field.name, Names(table.name, Field(Property("key", key.xml), key), lookup.name))


def predefined(package_type: PackageType, settings: TypeSettings, table: Table, report: Report) -> Names | None:
    if settings.predefined is None:
        return None
    prop = package_type.property(settings.predefined)
    column = table.column(settings.columns.get(settings.predefined, settings.predefined))
    key = package_type.property(package_type.key[0]) if len(package_type.key) == 1 else None
    own = table.column(settings.columns.get(key.name, key.name)) if key else None
    if package_type.kind != "object" or prop is None or column is None or key is None or own is None:
        report(
            settings.predefined,
            "refused",
            "`predefined` names no property of an object with a key of one column, or it has no column here",
            "name the property that holds the names of predefined items",
        )
        return None
    _compare_names(prop, column.values, f"{table.name}.{column.name}", report)
    return Names(table.name, Field(key, own), column.name, settings.name, settings.predefined)


def pointers(
    section: str | None,
    properties: Iterable[Property],
    by_column: Mapping[str, str],
    fields: Iterable[Field],
    predefined_types: frozenset[str],
) -> Iterator[Pointer]:
    """Properties that may hold the key of a predefined item. `by_column`: targets of this node's own references."""
    columns = {f.name: f.column.name for f in fields if f.column is not None}
    for prop in properties:
        if prop.composite:
            if ANY in prop.composite or predefined_types & set(prop.composite):
                yield Pointer(section, prop.name, None)
            continue
        target = prop.target or by_column.get(columns.get(prop.name, ""))
        if target in predefined_types and prop.name in columns:
            yield Pointer(section, prop.name, target)


def is_type(name: str) -> bool:
    """Whether values of a composite's type are references."""
    return name not in XML_TYPES

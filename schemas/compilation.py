"""Package x exchange x tables -> structure, and tables x exchange -> package.

What does not fit becomes a Mismatch with its meaning; nothing is guessed and nothing unrelated is stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from schemas import kinds
from schemas.fitting import INEXACT, misfit
from schemas.graph import circles
from schemas.network import LookupSettings, TypeSettings
from schemas.package import Package, PackageSection, PackageType, Property
from schemas.structure import (
    Base,
    Composite,
    Enumeration,
    Field,
    ItemType,
    Mismatch,
    Pointer,
    Reference,
    Routing,
    Section,
    Structure,
)
from schemas.tables import Column, ForeignKey, Table


class _Mismatch(Protocol):
    def __call__(self, prop: str | None, effect: str, text: str, hint: str = "") -> None: ...


def tables_needed(exchange: Iterable[TypeSettings]) -> tuple[str, ...]:
    """The names of all tables and views that take part."""
    names: dict[str, None] = {}
    for settings in exchange:
        if settings.takes_part:
            names[settings.table] = None
            names.update(dict.fromkeys((*settings.view_of, *kinds.name_tables(settings))))
            names.update(dict.fromkeys(settings.sections.values()))
            if settings.access:
                names[settings.access] = None
    return tuple(names)


# --- the package from the database's metadata ---------------------------------------------------------------------


def generate_package(exchange: Mapping[str, TypeSettings], tables: Mapping[str, Table]) -> Package:
    """Describes every type that takes part and whose table is there, in the exchange's order.

    Generated columns and excluded ones do not travel. A foreign key to another type's table makes a reference.
    """
    types = {}
    owners_of_tables = _types_by_table(exchange)
    for settings in exchange.values():
        table = tables.get(settings.table)
        if settings.takes_part and table is not None:
            types[settings.name] = _package_type(settings, table, tables, owners_of_tables)
    return Package(types)


def _types_by_table(exchange: Mapping[str, TypeSettings]) -> dict[str, str]:
    """Tables behind a view are of its type too, where they are of no other one."""
    taking_part = [settings for settings in exchange.values() if settings.takes_part]
    behind = [(table, settings.name) for settings in taking_part for table in settings.view_of]
    once = {table: name for table, name in behind if sum(table == other for other, _ in behind) == 1}
    return {**once, **{settings.table: settings.name for settings in taking_part}}


def _package_type(
    settings: TypeSettings, table: Table, tables: Mapping[str, Table], types: Mapping[str, str]
) -> PackageType:
    names = {column: prop for prop, column in settings.columns.items()}
    key_columns = _key_columns(settings, table)
    key = tuple(names.get(c, c) for c in key_columns)
    return PackageType(
        name=settings.name,
        kind="record_set" if settings.filter is not None else "object",
        key=key,
        properties=_properties(table, names, types, settings, tables, key_columns),
        sections=tuple(
            _package_section(name, tables[section], table, types, settings, tables)
            for name, section in settings.sections.items()
            if section in tables
        ),
        record_key=tuple(names.get(c, c) for c in table.primary_key if c not in key_columns)
        if settings.filter is not None
        else (),
        text=table.comment or _text(settings),
    )


def _text(settings: TypeSettings) -> str:
    """What people read of a type whose table says nothing of itself."""
    if settings.filter is not None:
        return f"A set of records: the rows of {settings.table} with the same values of the filter."
    sections = ", ".join(f"{name} (the rows of {table})" for name, table in settings.sections.items())
    return f"A row of {settings.table}" + (f", with {sections}." if sections else ".")


def _properties(
    table: Table,
    names: Mapping[str, str],
    types: Mapping[str, str],
    settings: TypeSettings,
    tables: Mapping[str, Table],
    key: Sequence[str] = (),
    linked: Collection[str] = (),
) -> tuple[Property, ...]:
    """In the order of the columns; of a record set the filter's come first."""
    parts = kinds.described_columns(settings)
    found = list(kinds.composite_properties(table, settings))
    for place, column in enumerate(table.columns):
        if column.name not in parts and column.name not in linked and _travels(column, names, settings):
            prop = _property(column, table, names, types, settings, column.name in key)
            first = key.index(column.name) - len(key) if settings.filter and column.name in key else place
            found.append((first, kinds.lookup_property(prop, settings, tables)))
    return tuple(prop for _, prop in sorted(found, key=lambda pair: pair[0]))


def _key_columns(settings: TypeSettings, table: Table) -> tuple[str, ...]:
    if settings.filter is not None:
        return tuple(settings.columns.get(p, p) for p in settings.filter)
    return table.primary_key


def _travels(column: Column, names: Mapping[str, str], settings: TypeSettings) -> bool:
    return not column.computed and names.get(column.name, column.name) not in settings.exclude


def _property(
    column: Column,
    table: Table,
    names: Mapping[str, str],
    types: Mapping[str, str],
    settings: TypeSettings,
    key: bool,
) -> Property:
    name = names.get(column.name, column.name)
    target = settings.references.get(name) or _single_target(column.name, table, types)
    return Property(
        name=name,
        xml=column.xml,
        nullable=column.nullable and not (key and settings.filter is None),
        target=target,
        length=column.length,
        digits=column.digits,
        bits=_bits(column),
        values=listed if isinstance(listed := settings.enums.get(name), tuple) else column.values,
        zoned=column.zoned,
        native=column.native + (INEXACT if column.why_inexact else ""),
        generated=column.generated_key,
        text=column.comment,
    )


def _bits(column: Column) -> int | None:
    """The least of XML's that has room for all of the column's."""
    return next((bits for bits in (8, 16, 32, 64) if column.bits is not None and column.bits <= bits), None)


def _single_target(column: str, table: Table, types: Mapping[str, str]) -> str | None:
    for fk in table.foreign_keys:
        if fk.columns == (column,) and fk.target in types:
            return types[fk.target]
    return None


def _package_section(
    name: str,
    section: Table,
    root: Table,
    types: Mapping[str, str],
    settings: TypeSettings,
    tables: Mapping[str, Table],
) -> PackageSection:
    link = link_of(section, root)
    linked = {pair[0] for pair in link}
    own = _of_section(settings, name)
    names = {column: prop for prop, column in own.columns.items()}
    return PackageSection(
        name=name,
        properties=_properties(section, names, types, own, tables, linked=linked),
        key=tuple(names.get(c, c) for c in section.primary_key if c not in linked),
        text=section.comment,
    )


def _of_section(settings: TypeSettings, section: str) -> TypeSettings:
    """The settings that say `section.column`, as the section's own."""
    prefix = f"{section}."

    def own(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(n.removeprefix(prefix) for n in names if n.startswith(prefix))

    return replace(
        settings,
        filter=None,
        columns={p.removeprefix(prefix): c for p, c in settings.columns.items() if p.startswith(prefix)},
        references={p.removeprefix(prefix): t for p, t in settings.references.items() if p.startswith(prefix)},
        enums={p.removeprefix(prefix): v for p, v in settings.enums.items() if p.startswith(prefix)},
        composite={p.removeprefix(prefix): c for p, c in settings.composite.items() if p.startswith(prefix)},
        predefined=None,
        exclude=own(settings.exclude),
        exceptions={n: settings.exceptions[n2] for n2 in settings.exceptions for n in own([n2])},
    )


def link_of(section: Table, root: Table) -> tuple[tuple[str, str], ...]:
    """The section's foreign key to the root table, as (section column, root column); () when there is none."""
    for fk in section.foreign_keys:
        if fk.target == root.name:
            return tuple(zip(fk.columns, fk.target_columns, strict=True))
    return ()


# --- the structure ------------------------------------------------------------------------------------------------


def compile_structure(
    package: Package,
    exchange: Mapping[str, TypeSettings],
    tables: Mapping[str, Table],
    exceptions: Mapping[str, Mapping[str, str]] | None = None,
) -> Structure:
    """What every type is in this node's database, in the order of rank, with all mismatches.

    A type whose table is missing, whose key cannot be told, or of which a property's column cannot hold any of its
    values, takes no part until that is mended (`refused`). `exceptions`: by type and property, why a difference is
    wanted; beside those of nodes.yaml.
    """
    mismatches: list[Mismatch] = []
    types: dict[str, ItemType] = {}
    types_of = _types_by_table(exchange)
    for named in exchange.values():
        own = (exceptions or {}).get(named.name, {})
        settings = replace(named, exceptions={**own, **named.exceptions}) if own else named
        package_type = package.types.get(settings.name)
        if package_type is None:
            mismatches.append(
                Mismatch(
                    settings.name,
                    None,
                    "refused",
                    "the package does not describe it",
                    "run `kod schema generate`, or take the type out of nodes.yaml",
                )
            )
            continue
        compiled = _item_type(package_type, settings, exchange, types_of, package, tables, mismatches)
        if compiled is not None:
            types[settings.name] = compiled
    ranks = _ranks(types)
    ordered = sorted(types.values(), key=lambda t: (ranks[t.name], t.name))
    return Structure(
        types={t.name: replace(t, rank=ranks[t.name]) for t in ordered},
        mismatches=tuple(mismatches),
        fingerprint=package.fingerprint,
        formerly={old: s.name for s in exchange.values() for old in s.formerly if old not in exchange},
        tables=tables,
    )


def _item_type(
    package_type: PackageType,
    settings: TypeSettings,
    exchange: Mapping[str, TypeSettings],
    types_of: Mapping[str, str],
    package: Package,
    tables: Mapping[str, Table],
    mismatches: list[Mismatch],
) -> ItemType | None:
    """`types_of`: by table, whose it is."""
    irreconcilable = False

    def mismatch(prop: str | None, effect: str, text: str, hint: str = "") -> None:
        nonlocal irreconcilable
        if prop is not None and prop in settings.exceptions:  # known and wanted
            reason = settings.exceptions[prop]
            effect, hint = "note", f"declared: {reason}" if reason else ""
        irreconcilable |= effect == "refused"
        mismatches.append(Mismatch(settings.name, prop, effect, text, hint))

    routing = _routing(settings)
    if not settings.takes_part:
        return _passed_on(package_type, settings)
    table = tables.get(settings.table)
    if table is None:
        mismatch(
            None,
            "will not arrive",
            f"there is no table {settings.table!r}",
            "kept and passed on; create the table and run `kod install`, or set the type to false here",
        )
        return _passed_on(package_type, settings)

    fields = _fields(package_type.properties, table, settings, tables, mismatch, set(package_type.key))
    key = _key_fields(package_type, fields)
    if (not key and package_type.kind == "object") or any(f.column is None for f in key):
        mismatch(
            None,
            "refused",
            f"table {table.name!r} does not have the key {list(package_type.key)}",
            "give it a primary key, or map the key's columns in `columns`",
        )
        return None
    names = {column: prop for prop, column in settings.columns.items()}
    key_columns = tuple(f.column.name for f in key if f.column)
    if package_type.kind == "object" and not table.view and set(table.primary_key) != set(key_columns):
        mismatch(
            None,
            "refused",
            f"the primary key of {table.name!r} is {list(table.primary_key)}, in the package {list(package_type.key)}",
            "generate the package again, or map `columns`",
        )
        return None
    for column in table.columns:
        travelling = {f.column.name for f in fields if f.column}
        needed = not column.nullable and not column.computed and column.name not in travelling
        if needed and not column.generated_key and names.get(column.name, column.name) not in settings.exclude:
            mismatch(
                column.name,
                "note",
                f"{table.name}.{column.name} is NOT NULL and does not travel",
                "it needs a default for items that arrive new",
            )

    _check_undescribed(package_type.properties, table, settings, mismatch)
    _check_named(settings, package_type, table, mismatch)
    bases = _bases(settings, key_columns, table, tables, mismatch)
    sections = _sections(package_type, settings, table, tables, mismatch)
    if irreconcilable:
        return None
    section_tables = {name: tables[settings.sections[name]] for name in (s.name for s in sections)}
    references = _references(settings, table, section_tables, exchange, types_of, package, tables, mismatch)
    uniques = tuple(u for u in table.uniques if set(u) != set(table.primary_key))
    named = kinds.predefined(package_type, settings, table, mismatch)
    own = _kinds(package_type, settings, table, tables, fields, sections, references, exchange, package)
    record_key = tuple(c for c in table.primary_key if c not in key_columns) if settings.filter is not None else ()
    unlike = bool(own.composites or own.enumerations or own.pointers)
    return ItemType(
        name=package_type.name,
        kind=package_type.kind,
        routing=routing,
        table=table.name,
        key=key,
        fields=fields,
        sections=sections,
        references=references,
        record_key=record_key,
        one_record=settings.filter is not None and bool(table.primary_key) and not record_key,
        access=settings.access,
        access_from=settings.access_from,
        rights_travel=_rights_travel(settings, exchange, tables),
        collision=settings.collision,
        composites=own.composites,
        enumerations=own.enumerations,
        predefined=named,
        pointers=own.pointers,
        on_wire=_on_wire(package_type, settings, fields, key, sections) if unlike else None,
        view=table.view,
        bases=bases,
        date=settings.columns.get(settings.date, settings.date) if settings.date else None,
        generated_key=any(f.column is not None and f.column.generated_key for f in key),
        invented_key=_invented(key),
        uniques=uniques,
    )


class _Kinds(NamedTuple):
    composites: tuple[Composite, ...]
    enumerations: tuple[Enumeration, ...]
    pointers: tuple[Pointer, ...]


def _rights_travel(settings: TypeSettings, exchange: Mapping[str, TypeSettings], tables: Mapping[str, Table]) -> bool:
    access = tables.get(settings.access or "")
    if access is None or access.view:
        return False
    taking_part = (one for one in exchange.values() if one.takes_part)
    return not any(access.name in (one.table, *one.sections.values()) for one in taking_part)


def _kinds(
    package_type: PackageType,
    settings: TypeSettings,
    table: Table,
    tables: Mapping[str, Table],
    fields: tuple[Field, ...],
    sections: Sequence[Section],
    references: Sequence[Reference],
    exchange: Mapping[str, TypeSettings],
    package: Package,
) -> _Kinds:
    """What of the type, and of its sections, stands here in another form than in messages."""
    predefined = frozenset(name for name, one in exchange.items() if one.predefined)
    described = {s.name: s.properties for s in package_type.sections}
    parts: list[tuple[str | None, tuple[Property, ...], Table, TypeSettings, tuple[Field, ...]]]
    parts = [(None, package_type.properties, table, settings, fields)]
    parts += [(s.name, described[s.name], tables[s.table], _of_section(settings, s.name), s.fields) for s in sections]
    composites: list[Composite] = []
    enumerations: list[Enumeration] = []
    pointers: list[Pointer] = []
    for section, properties, own, of_part, its in parts:
        composites += [c for c, _ in kinds.composites(section, properties, own, of_part, package)]
        enumerations += kinds.enumerations(section, its, of_part, tables)
        targets = {
            r.columns[0]: r.target
            for r in references
            if r.section == section and len(r.columns) == 1 and r.within is None
        }
        pointers += kinds.pointers(section, properties, targets, its, predefined)
    if package_type.name in predefined and len(package_type.key) == 1:
        pointers.append(Pointer(None, package_type.key[0], package_type.name))
    return _Kinds(tuple(composites), tuple(enumerations), tuple(pointers))


def _on_wire(
    package_type: PackageType,
    settings: TypeSettings,
    fields: Iterable[Field],
    key: tuple[Field, ...],
    sections: Sequence[Section],
) -> ItemType:
    """The type in the wire's form: the package's properties, with a column where this node holds them."""
    described = {s.name: s.properties for s in package_type.sections}
    whole = _as_described(package_type.properties, fields, settings)
    return ItemType(
        package_type.name,
        package_type.kind,
        _routing(settings),
        settings.table,
        _key_fields(package_type, whole),
        whole,
        sections=tuple(
            replace(s, fields=_as_described(described[s.name], s.fields, _of_section(settings, s.name)))
            for s in sections
        ),
    )


def _as_described(properties: Iterable[Property], fields: Iterable[Field], settings: TypeSettings) -> tuple[Field, ...]:
    columns = {f.name: f.column for f in fields}
    found = []
    for prop in properties:
        composite = settings.composite.get(prop.name)
        first = composite.columns[0] if composite else settings.columns.get(prop.name, prop.name)
        found.append(Field(prop, columns.get(prop.name) or columns.get(kinds.OWN + first)))
    return tuple(found)


def _bases(
    settings: TypeSettings, key: Sequence[str], view: Table, tables: Mapping[str, Table], mismatch: _Mismatch
) -> tuple[Base, ...]:
    """The tables behind a view, by whose columns a written row is told to be part of which item."""
    example = f"`view_of: {{table: [{', '.join(key)}]}}`: the tables behind it, each with its columns that hold the key"
    if not view.view:
        if settings.view_of:
            mismatch(None, "note", f"`view_of` is for views, and {view.name!r} is a table", "leave it out")
        return ()
    if not settings.view_of:
        mismatch(None, "will not arrive", f"{view.name!r} is a view: what is written here is not noticed", example)
    found = []
    for name, columns in settings.view_of.items():
        table = tables.get(name)
        missing = [c for c in columns if table is not None and table.column(c) is None]
        if table is None or table.view:
            mismatch(None, "will not arrive", f"`view_of` names {name!r}, which is no table here", example)
        elif missing or len(columns) != len(key):
            wrong = f"has no column {missing[0]!r}" if missing else f"is named with {len(columns)} columns"
            text = f"`view_of`: {name!r} {wrong}, and the key is {list(key)}"
            mismatch(None, "will not arrive", text, example)
        else:
            found.append(Base(name, columns))
    return tuple(found)


def _passed_on(package_type: PackageType, settings: TypeSettings) -> ItemType:
    """A type without a table here: its items are kept as they came, for the nodes behind."""
    fields = tuple(Field(p, None) for p in package_type.properties)
    key = _key_fields(package_type, fields)
    return ItemType(
        package_type.name,
        package_type.kind,
        _routing(settings),
        None,
        key,
        fields,
        collision=settings.collision,
        invented_key=_invented(key),
    )


def _invented(key: Iterable[Field]) -> bool:
    """As the package says, so that every node says the same; of a package that was not generated, as the table does."""
    return any(f.prop.generated if f.prop.native else bool(f.column and f.column.generated_key) for f in key)


def _routing(settings: TypeSettings) -> Routing:
    if settings.reference_data:
        return Routing.REFERENCE_DATA
    return Routing.DEPENDENT if settings.owner else Routing.INDEPENDENT


def _key_fields(package_type: PackageType, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    by_name = {f.name: f for f in fields}
    return tuple(by_name[name] for name in package_type.key if name in by_name)


def _check_named(settings: TypeSettings, package_type: PackageType, table: Table, mismatch: _Mismatch) -> None:
    """Properties that nodes.yaml names and that are not there: a slip of the pen that would go unnoticed."""
    known = {p.name for p in package_type.properties} | {c.name for c in table.columns}
    for setting in ("owner", "optional", "exclude", "references", "columns", "enums", "composite", "exceptions"):
        for name in getattr(settings, setting):
            if "." not in name and name not in known:
                effect = "refused" if setting == "owner" else "note"
                mismatch(name, effect, f"`{setting}` names it, and there is no such property", "mend nodes.yaml")
    if settings.date and settings.date not in known:
        mismatch(settings.date, "note", "`date` names it, and there is no such property", "mend nodes.yaml")


def _check_undescribed(
    properties: Iterable[Property],
    table: Table,
    settings: TypeSettings,
    mismatch: _Mismatch,
    linked: Collection[str] = (),
) -> None:
    """Columns that are younger than the package: what is written into them stays here, and nothing else would say so.
    `linked`: a section's link columns, which never travel."""
    described = {settings.columns.get(p.name, p.name) for p in properties} | set(linked)
    described |= kinds.described_columns(settings)
    names = {column: prop for prop, column in settings.columns.items()}
    for column in table.columns:
        name = names.get(column.name, column.name)
        if column.name not in described and _travels(column, names, settings):
            mismatch(
                name,
                "will not arrive",
                f"{table.name}.{column.name} is not in the package: it does not travel from here",
                "`kod schema generate`, or name it in `exclude`",
            )


def _fields(
    properties: Iterable[Property],
    table: Table,
    settings: TypeSettings,
    tables: Mapping[str, Table],
    mismatch: _Mismatch,
    key: Collection[str] = (),
) -> tuple[Field, ...]:
    """The properties with their columns here; those that are excluded here do not travel."""
    fields: list[Field] = []
    for prop in properties:
        if prop.name in settings.exclude and prop.name not in key:
            continue
        if prop.composite:
            fields += kinds.composite_fields(prop, table, settings, key=prop.name in key, report=mismatch)
            continue
        if isinstance(settings.enums.get(prop.name), LookupSettings):
            fields.append(kinds.lookup_field(prop, table, settings, tables, mismatch))
            continue
        column = table.column(settings.columns.get(prop.name, prop.name))
        if column is None or column.computed:
            column = None
            mismatch(
                prop.name,
                "will not arrive",
                f"table {table.name!r} has no column for it",
                "kept and passed on; add the column, or map it in `columns`",
            )
        elif prop.name == settings.predefined:  # which names there are, kinds.predefined compares
            plain = replace(prop, values=()), replace(column, values=())
            column = column if _compare(*plain, table, mismatch, key=False) else None
        elif not _compare(prop, column, table, mismatch, key=prop.name in key):
            column = None
        fields.append(Field(prop, column))
    return tuple(fields)


def _compare(prop: Property, column: Column, table: Table, mismatch: _Mismatch, *, key: bool) -> bool:
    """Tells in what the column differs; whether it can be the property's at all."""
    where = f"{table.name}.{column.name}"
    if prop.nullable and not (column.nullable or key or prop.optional or column.name in table.primary_key):
        mismatch(
            prop.name,
            "will not arrive",
            f"it may be null in the package, {where} is NOT NULL",
            "an item with null there waits, parked: drop the NOT NULL, or generate the package again",
        )
    found = misfit(prop, column, where)
    if found is not None:
        mismatch(prop.name, *found)
    return found is None or found.effect != "refused"


def _sections(
    package_type: PackageType, settings: TypeSettings, root: Table, tables: Mapping[str, Table], mismatch: _Mismatch
) -> tuple[Section, ...]:
    sections = []
    for described in package_type.sections:
        table = tables.get(settings.sections.get(described.name, ""))
        if table is None:
            mismatch(
                described.name,
                "will not arrive",
                "there is no table for this section",
                "kept and passed on; create the table, or name it in `sections`",
            )
            continue
        link = link_of(table, root)
        if not link:
            mismatch(described.name, "refused", f"{table.name!r} has no foreign key to {root.name!r}", "declare it")
            continue

        def of_section(prop: str | None, effect: str, text: str, hint: str = "", name: str = described.name) -> None:
            mismatch(f"{name}.{prop}" if prop else name, effect, text, hint)

        fields = _fields(described.properties, table, _of_section(settings, described.name), tables, of_section)
        order = settings.section_order.get(described.name)
        linked = {pair[0] for pair in link}
        _check_undescribed(described.properties, table, _of_section(settings, described.name), of_section, linked)
        by_key = tuple(c for c in table.primary_key if c not in linked)
        sections.append(
            Section(
                described.name,
                table.name,
                fields,
                link,
                table.primary_key,
                (order,) if order else by_key,
                _uniques_across(table, fields, linked),
            )
        )
    return tuple(sections)


def _uniques_across(table: Table, fields: Iterable[Field], linked: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """What is unique in a section beyond its object. (A row whose whole key another object has moves over.)"""
    travelling = {f.column.name for f in fields if f.column is not None}
    return tuple(
        u
        for u in table.uniques
        if set(u) <= travelling and not set(u) >= set(linked) and set(u) != set(table.primary_key)
    )


def _references(
    settings: TypeSettings,
    table: Table,
    sections: Mapping[str, Table],
    exchange: Mapping[str, TypeSettings],
    types_of: Mapping[str, str],
    package: Package,
    tables: Mapping[str, Table],
    mismatch: _Mismatch,
) -> tuple[Reference, ...]:
    owner_columns = tuple(settings.columns.get(p, p) for p in settings.owner)
    optional = {settings.columns.get(p, p) for p in settings.optional}
    found: dict[tuple[str | None, tuple[str, ...]], Reference] = {}

    def add(section: str | None, fk: ForeignKey, target: str, enforced: bool) -> None:
        names = [f"{section}.{c}" if section else c for c in fk.columns]
        found.setdefault(
            (section, fk.columns),
            Reference(
                section,
                fk.columns,
                target,
                _through_view(fk, target, exchange, package),
                required=not any(n in optional for n in names),
                owner=section is None and fk.columns == owner_columns,
                enforced=enforced,
            ),
        )

    for section, source in ((None, table), *sections.items()):
        for fk in source.foreign_keys:
            target = types_of.get(fk.target)
            if target is None or target not in package.types or exchange[target].table not in tables:
                continue
            if not (section and fk.target == table.name and fk == _link_key(source, table)):
                add(section, fk, target, True)
    for name, target in settings.references.items():
        section, _, column = name.rpartition(".")
        target_settings = exchange.get(target)
        target_table = tables.get(target_settings.table) if target_settings else None
        described = package.types.get(target)
        if target_settings is None or target_table is None or described is None or len(described.key) != 1:
            mismatch(name, "note", f"it refers to {target}, which has no table with one key column here")
            continue
        column = settings.columns.get(name, column)
        key = tuple(target_settings.columns.get(p, p) for p in described.key)
        add(section or None, ForeignKey((column,), target_table.name, key), target, False)
    for section, source in ((None, table), *sections.items()):
        of_part = _of_section(settings, section) if section else settings
        described_part = package.types[settings.name]
        properties = (
            described_part.properties
            if section is None
            else next(s.properties for s in described_part.sections if s.name == section)
        )
        for composite, own in kinds.composites(section, properties, source, of_part, package):
            for reference in kinds.composite_references(
                section,
                own,
                _keys_here(exchange, package, tables),
                required=composite.name not in of_part.optional,
                declared=[fk.columns for fk in source.foreign_keys],
            ):
                columns = (*reference.columns, f"{composite.name}:{reference.target}")
                found.setdefault((section, columns), reference)
    if settings.owner and not any(r.owner for r in found.values()):
        mismatch(
            ", ".join(settings.owner),
            "refused",
            "the owner is no reference",
            "declare a foreign key, or `references: {column: Type}`",
        )
    return tuple(found.values())


def _keys_here(
    exchange: Mapping[str, TypeSettings], package: Package, tables: Mapping[str, Table]
) -> dict[str, tuple[str, ...]]:
    """The columns of their keys, of all types that have a table here."""
    here = {name: package.types.get(name) for name, s in exchange.items() if s.takes_part and s.table in tables}
    return {
        name: tuple(exchange[name].columns.get(p, p) for p in described.key)
        for name, described in here.items()
        if described is not None and described.key
    }


def _through_view(
    fk: ForeignKey, target: str, exchange: Mapping[str, TypeSettings], package: Package
) -> tuple[str, ...]:
    """The columns of the target's own table or view to which a foreign key leads, maybe by a table behind the view."""
    settings = exchange[target]
    if fk.target == settings.table or fk.target not in settings.view_of:
        return fk.target_columns
    key = [settings.columns.get(p, p) for p in package.types[target].key]
    of_view = dict(zip(settings.view_of[fk.target], key, strict=False))
    return tuple(of_view.get(column, column) for column in fk.target_columns)


def _link_key(section: Table, root: Table) -> ForeignKey | None:
    return next((fk for fk in section.foreign_keys if fk.target == root.name), None)


def _ranks(types: Mapping[str, ItemType]) -> dict[str, int]:
    """Targets before those that refer to them; types that refer to each other in a circle share a rank.

    Tarjan's strongly connected components come out in reverse topological order of the references: targets first.
    """
    targets = {
        name: sorted({r.target for r in t.references if r.target in types and r.target != name})
        for name, t in types.items()
    }
    return {name: rank for rank, circle in enumerate(circles(targets)) for name in circle}

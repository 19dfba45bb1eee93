"""What hooks change of a node's structure before anything moves: references, owners, sources, exceptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from node.hooks import Hooks, Source
from node.hooks.loading import Loaded, overrides
from schemas.errors import Fault
from schemas.network import TypeSettings
from schemas.package import Property
from schemas.structure import Field, ItemType, Reference, Routing, Section, Structure
from schemas.tables import Table


@dataclass(frozen=True, slots=True)
class Wrong:
    """A hook of a type that does not fit its structure, with what `Fault` has."""

    type: str
    fault: Fault


def source_tables(loaded: Loaded) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source.table for hooks in loaded.by_type.values() for source in hooks.sources))


def with_exceptions(
    exchange: Mapping[str, TypeSettings], loaded: Loaded
) -> tuple[dict[str, TypeSettings], list[Wrong]]:
    """The settings of the types, with the differences from the package that their hooks know and want."""
    found, wrong = dict(exchange), []
    for name in loaded.overriding("schema_exceptions"):
        try:
            more = [str(prop) for prop in loaded.by_type[name].schema_exceptions()]
        except (Exception, SystemExit) as error:
            wrong.append(_failed(loaded, name, "schema_exceptions", error))
        else:
            found[name] = replace(
                found[name], exceptions={**dict.fromkeys(more, "the hooks except it"), **found[name].exceptions}
            )
    return found, wrong


def bind(structure: Structure, loaded: Loaded, tables: Mapping[str, Table]) -> tuple[Structure, list[Wrong]]:
    """The structure as the hooks have it, and what does not fit."""
    types = dict(structure.types)
    wrong: list[Wrong] = []
    for name, hooks in loaded.by_type.items():
        if name in types:
            types[name], found = _bound(types[name], hooks, loaded, tables)
            wrong += found
    return replace(structure, types=types), wrong


def _bound(
    item_type: ItemType, hooks: Hooks, loaded: Loaded, tables: Mapping[str, Table]
) -> tuple[ItemType, list[Wrong]]:
    wrong = list(_useless(item_type, hooks, loaded))
    if overrides(hooks, "controlled_references") and item_type.table is not None:
        references, found = _controlled(item_type, hooks, loaded)
        item_type = replace(item_type, references=references)
        wrong += found
    if overrides(hooks, "owner") and not wrong:
        references = tuple(replace(reference, owner=False) for reference in item_type.references)
        item_type = replace(item_type, routing=Routing.DEPENDENT, references=references)
    if hooks.sources and item_type.table is not None:
        sources, found = _sources(item_type, hooks, loaded, tables)
        item_type = replace(item_type, sources=sources)
        wrong += found
    return item_type, wrong


def _useless(item_type: ItemType, hooks: Hooks, loaded: Loaded) -> Iterator[Wrong]:
    """What would never be asked."""
    for name in ("owner", "addressees"):
        if overrides(hooks, name) and item_type.routing is Routing.REFERENCE_DATA:
            text = f"{item_type.name}.{name} would never be asked: reference data goes to every node"
            hint = "take the hook out, or `reference_data` in nodes.yaml"
            yield Wrong(item_type.name, Fault(loaded.where(item_type.name, name), text, hint))


def _failed(loaded: Loaded, type_name: str, name: str, error: BaseException) -> Wrong:
    text = f"{type_name}.{name} raised {type(error).__name__}: {error}"
    return Wrong(type_name, Fault(loaded.where(type_name, name), text))


# --- references ---------------------------------------------------------------------------------------------------


def _controlled(item_type: ItemType, hooks: Hooks, loaded: Loaded) -> tuple[tuple[Reference, ...], list[Wrong]]:
    """Every reference has to be decided on: one that was forgotten would break something one day."""
    name = item_type.name
    try:
        decided = dict(hooks.controlled_references())
    except (Exception, SystemExit) as error:
        return item_type.references, [_failed(loaded, name, "controlled_references", error)]
    by_name = {reference_name(item_type, reference): reference for reference in item_type.references}
    where = loaded.where(name, "controlled_references")
    wrong = []
    if undecided := sorted(by_name.keys() - decided.keys()):
        text = f"{name}.controlled_references leaves undecided: {', '.join(undecided)}"
        hint = f"add {undecided[0]!r}: True where what it refers to has to be there, else False"
        wrong.append(Wrong(name, Fault(where, text, hint)))
    if strange := sorted(decided.keys() - by_name.keys()):
        text = f"{name}.controlled_references names {', '.join(strange)}, which is no reference of the type"
        wrong.append(Wrong(name, Fault(where, text, f"its references: {', '.join(sorted(by_name)) or 'none'}")))
    for prop, required in decided.items():
        if not isinstance(required, bool):
            text = f"{name}.controlled_references: {prop!r} is neither True nor False"
            wrong.append(Wrong(name, Fault(where, text)))
        elif not required and prop in by_name and by_name[prop].enforced:
            text = f"{name}.controlled_references: the database itself checks {prop!r}, so it has to be True"
            wrong.append(Wrong(name, Fault(where, text, "or drop the foreign key at every node")))
    if wrong:
        return item_type.references, wrong
    return tuple(replace(by_name[prop], required=decided[prop]) for prop in by_name), []


def reference_name(item_type: ItemType, reference: Reference) -> str:
    """By the properties in which it travels."""
    fields = item_type.fields
    if reference.section is not None:
        fields = next(s.fields for s in item_type.sections if s.name == reference.section)
    names = {f.column.name: f.name for f in fields if f.column is not None}
    prefix = f"{reference.section}." if reference.section is not None else ""
    return ",".join(prefix + names.get(column, column) for column in reference.columns)


# --- sources ------------------------------------------------------------------------------------------------------


def _sources(
    item_type: ItemType, hooks: Hooks, loaded: Loaded, tables: Mapping[str, Table]
) -> tuple[tuple[Section, ...], list[Wrong]]:
    found, wrong = [], []
    where = loaded.where(item_type.name)
    own = {item_type.table, *(section.table for section in item_type.sections)}
    for source in hooks.sources:
        table = tables.get(source.table)
        text = _fault_of_source(item_type, source, table, own)
        if text or table is None:
            wrong.append(Wrong(item_type.name, Fault(where, f"{item_type.name}: source {source.table}: {text}")))
        else:
            found.append(_source(item_type, source, table))
    return tuple(found), wrong


def _fault_of_source(item_type: ItemType, source: Source, table: Table | None, own: set[str | None]) -> str:
    if source.table in own:
        return "the type's own tables stamp it anyway"
    if table is None:
        return "there is no such table here"
    if table.view:
        return "it is a view: writes to it cannot be noticed; name its tables"
    if set(source.key) != set(item_type.key_names):
        return f"the key is {', '.join(item_type.key_names)}: say in which column the row has each of them"
    missing = [column for column in source.key.values() if table.column(column) is None]
    return f"it has no column {', '.join(missing)}" if missing else ""


def _source(item_type: ItemType, source: Source, table: Table) -> Section:
    """As capture sees it, it is a section: rows that belong to an item by a link; none of it travels."""
    link = tuple((source.key[f.name], f.column.name) for f in item_type.key if f.column is not None)
    fields = tuple(Field(Property(column.name, column.xml), column) for column in table.columns)
    return Section(source.table, table.name, fields, link, table.primary_key, table.primary_key)

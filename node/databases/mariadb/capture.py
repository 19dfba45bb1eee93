"""Capture: the triggers that append to the log what was written, in the writer's own transaction.

    application writes -> [ kod_log ] -> fold -> register -> …

They run with the rights of whoever installed them, under the sql_mode of the installation. They append row by row with
VALUES: `INSERT … SELECT` would hold the log's AUTO-INC lock until the application's statement ends, and others would
wait. KOD's own writes are passed over: the marker row in kod_applying, by connection.

REPLACE, LOAD DATA … REPLACE and INSERT … ON DUPLICATE KEY UPDATE fire the triggers of what they do to each row. What
foreign keys do by themselves (ON DELETE, ON UPDATE: CASCADE, SET NULL) fires none: the tables at the other end of such
keys get triggers that note the rows before they go, down the whole chain. TRUNCATE cannot be noticed by any trigger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from node.databases.mariadb import registers, rights
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import Form, differs, key_array_sql, quoted
from node.databases.mariadb.reflection import quoted_table, reflect
from node.databases.mariadb.registers import NOW_MS
from node.databases.mariadb.triggers import ACTS, Edge, Trigger, edges, short, trigger
from schemas.errors import ConfigError
from schemas.network import NodeSettings
from schemas.structure import Field, ItemType, Section, Structure
from schemas.tables import Column, Table

CASCADE_DEPTH_MAX = 15
"""InnoDB follows a chain no farther (FK_MAX_CASCADE_DEL)."""

PATHS_MAX = 200

LEFT = 2
"""`gone` of a log row behind a view: the item was in the view before. Else it may never have been an item."""


@dataclass(frozen=True)
class Role:
    """A table in its part for a type: its rows belong to items of the type."""

    item_type: ItemType
    type_id: int
    number: int
    """0 is the type's own table, then its sections."""
    table: str
    columns: tuple[str, ...]
    """The columns of this table on which the item's key hangs."""
    by_link: bool
    """The key is written from these columns; else it is the root row's, which they find."""
    section: Section | None = None
    compared: tuple[tuple[str, Form], ...] = ()
    """What travels: an UPDATE that leaves all of it as it was stamps nothing."""
    behind: bool = False
    """The table is behind the type's view: its rows are items only where they are in the view."""

    @property
    def name(self) -> str:
        return f"kod_{self.type_id}_{self.number}"

    @property
    def tombstone(self) -> bool:
        """An item may be gone when its row is; the fold looks."""
        return self.section is None and self.item_type.is_object

    def forms(self) -> list[Form]:
        return [Form.of(f) for f in self.item_type.key]

    def key(self, row: str) -> str:
        """SQL for the key's text from a row of this table, or (not `by_link`) of the root's."""
        return key_array_sql(self.forms(), [f"{row}.{quoted(c)}" for c in self._key_columns()])

    def _key_columns(self) -> list[str]:
        if self.behind:
            return list(self.columns)
        names = [f.column.name for f in self.item_type.key if f.column]
        if self.section is None or not self.by_link:
            return names
        by_root = {theirs: own for own, theirs in self.section.link}
        return [by_root[name] for name in names]


def roles(structure: Structure, type_ids: Mapping[str, int], tables: Mapping[str, Table]) -> Iterator[Role]:
    for item_type in structure.types.values():
        if item_type.table is None or item_type.table not in tables:
            continue
        number = type_ids[item_type.name]
        if item_type.view:
            for position, base in enumerate(item_type.bases):
                table = tables.get(base.table)
                if table is not None and not table.view:
                    all_columns = tuple((c.name, Form.of_column(c)) for c in table.columns)
                    yield Role(item_type, number, position, base.table, base.columns, True, None, all_columns, True)
            continue
        key = tuple(f.column.name for f in item_type.key if f.column)
        root = tables[item_type.table]
        yield Role(item_type, number, 0, root.name, key, True, None, _compared(root, key, item_type.held))
        for position, section in enumerate((*item_type.sections, *item_type.sources), 1):
            table = tables.get(section.table)
            if table is not None and not table.view:
                links = tuple(own for own, _ in section.link)
                compared = _compared(table, links, section.fields)
                by_link = _link_is_key(item_type, section, table)
                yield Role(item_type, number, position, table.name, links, by_link, section, compared)


def _link_is_key(item_type: ItemType, section: Section, table: Table) -> bool:
    """Whether the link's columns say the key exactly: of the same types, and none that is compared by a collation
    ('a' may refer to 'A')."""
    keys = {f.column.name: f for f in item_type.key if f.column}
    if {theirs for _, theirs in section.link} != set(keys):
        return False
    own = {column.name: column for column in table.columns}
    same = all(own[ours].native == _native(keys[theirs].column) for ours, theirs in section.link)
    return same and not any(Form.of(f).is_text for f in keys.values())


def _native(column: Column | None) -> str:
    return column.native if column else ""


def _compared(table: Table, key: Sequence[str], fields: Sequence[Field]) -> tuple[tuple[str, Form], ...]:
    travelling = {*key, *(f.column.name for f in fields if f.column)}
    return tuple((c.name, Form.of_column(c)) for c in table.columns if c.name in travelling)


# --- the triggers -------------------------------------------------------------------------------------------------


def triggers(
    connection: Connection, structure: Structure, type_ids: Mapping[str, int], tables: Mapping[str, Table]
) -> list[Trigger]:
    """Every trigger that this structure needs in this database, where its tables are now like this. Raises ConfigError
    where the tables' foreign keys do what no triggers of a reasonable number can follow."""
    missing = [name for name in structure.types if name not in type_ids]
    if missing:
        raise ConfigError(f"types are new since the last install: {', '.join(missing)}", hint="kod install")
    found = list(roles(structure, type_ids, tables))
    made = [one for role in found for one in _own(role, connection)]
    made += _cascades(connection, found, tables)
    return [*made, *rights.triggers(connection, structure, type_ids)]


def captured_tables(connection: Connection, structure: Structure) -> dict[str, Table]:
    return reflect(connection, (*tables_of(structure), *structure.source_tables))


def tables_of(structure: Structure) -> list[str]:
    names: dict[str, None] = {}
    for item_type in structure.types.values():
        if item_type.table is not None:
            names.update(dict.fromkeys(base.table for base in item_type.bases))
            names.update(dict.fromkeys((item_type.table, *(s.table for s in item_type.sections))))
    return list(names)


def _own(role: Role, connection: Connection) -> list[Trigger]:
    if role.behind:
        return _behind_view(role, connection)
    forms = dict(_all_forms(role))
    moved = " OR ".join(differs(forms[c], f"OLD.{quoted(c)}", f"NEW.{quoted(c)}") for c in role.columns) or "FALSE"
    new, old = _log(role, "NEW", gone=False), _log(role, "OLD", gone=role.tombstone)
    changed = " OR ".join(differs(form, f"OLD.{quoted(c)}", f"NEW.{quoted(c)}") for c, form in role.compared)
    update = f"{new}\n  IF {moved} THEN{old}\n  END IF;"
    update = f"\n  IF {changed} THEN{update}\n  END IF;" if changed else update
    return [
        _trigger(connection, role.table, f"{role.name}_insert", "AFTER INSERT", new),
        _trigger(connection, role.table, f"{role.name}_update", "AFTER UPDATE", update),
        _trigger(connection, role.table, f"{role.name}_delete", "AFTER DELETE", old),
    ]


def _behind_view(role: Role, connection: Connection) -> list[Trigger]:
    """Whether a row is in the view no trigger can tell: what others committed since the transaction began it does not
    see. So every row is noted, and the fold looks; one that is not there, and was not (LEFT), it passes over."""
    changed = " OR ".join(differs(form, f"OLD.{quoted(c)}", f"NEW.{quoted(c)}") for c, form in role.compared)
    new, old = (_log(role, row, gone=True) for row in ("NEW", "OLD"))
    was = f"\n  IF {_in_view(role, 'OLD')} THEN\n    {_insert(role, role.key('OLD'), gone=LEFT)}\n  END IF;"
    both = f"\n  IF {changed} THEN{new}{old}\n  END IF;"
    name = f"{role.name}_behind"
    return [
        _trigger(connection, role.table, f"{name}_insert", "AFTER INSERT", new),
        _trigger(connection, role.table, f"{name}_before", "BEFORE UPDATE", f"\n  IF {changed} THEN{was}\n  END IF;"),
        _trigger(connection, role.table, f"{name}_update", "AFTER UPDATE", both),
        _trigger(connection, role.table, f"{name}_left", "BEFORE DELETE", was),
        _trigger(connection, role.table, f"{name}_delete", "AFTER DELETE", old),
    ]


def _in_view(role: Role, row: str) -> str:
    tied = " AND ".join(
        f"v.{quoted(f.column.name)} = {row}.{quoted(own)}"
        for f, own in zip(role.item_type.key, role.columns, strict=True)
        if f.column
    )
    assert role.item_type.table is not None
    return f"EXISTS (SELECT 1 FROM {quoted_table(role.item_type.table)} v WHERE {tied})"


def _all_forms(role: Role) -> Iterator[tuple[str, Form]]:
    if role.section is None:
        yield from ((f.column.name, Form.of(f)) for f in role.item_type.key if f.column)
        return
    by_root = {f.column.name: Form.of_column(f.column) for f in role.item_type.held if f.column}
    for own, theirs in role.section.link:  # compared as bytes whatever they are: a link that moves only by case moves
        yield own, by_root.get(theirs, Form("string", False, "string", "varchar(1)", True))


def _trigger(connection: Connection, table: str, name: str, event: str, body: str) -> Trigger:
    condition = "NOT EXISTS (SELECT 1 FROM {own}kod_applying WHERE connection = CONNECTION_ID())"
    return trigger(connection, table, name, event, f"IF {condition} THEN{body}\nEND IF")


def _insert(role: Role, key: str, *, gone: int | str) -> str:
    return (
        "INSERT INTO {own}kod_log (type, item_key, at, gone, local)"
        f" VALUES ({role.type_id}, {key}, {NOW_MS}, {gone if isinstance(gone, str) else int(gone)}, 1);"
    )


def _log(role: Role, row: str, *, gone: bool) -> str:
    there = " AND ".join(f"{row}.{quoted(c)} IS NOT NULL" for c in role.columns)
    if role.behind:
        left = f"IF({_in_view(role, row)}, 0, 1)"
        return f"\n  IF {there} THEN\n    {_insert(role, role.key(row), gone=left)}\n  END IF;"
    if role.section is None:
        return f"\n  {_insert(role, role.key(row), gone=gone)}"
    if role.by_link:
        return f"\n  IF {there} THEN\n    {_insert(role, role.key(row), gone=gone)}\n  END IF;"
    assert role.item_type.table is not None  # where the root is gone, its own trigger has said so
    linked = " AND ".join(f"o.{quoted(theirs)} = {row}.{quoted(own)}" for own, theirs in role.section.link)
    return _each(
        role, f"SELECT {role.key('o')} AS k FROM {quoted_table(role.item_type.table)} o WHERE {linked}", gone=gone
    )


def _each(role: Role, select: str, *, gone: bool) -> str:
    return f"\n  FOR one IN ({select}) DO\n    {_insert(role, 'one.k', gone=gone)}\n  END FOR;"


# --- what foreign keys do by themselves ---------------------------------------------------------------------------


def _cascades(connection: Connection, found: Sequence[Role], tables: Mapping[str, Table]) -> list[Trigger]:
    schemas = dict.fromkeys([connection.database, *(r.table.partition(".")[0] for r in found if "." in r.table)])
    known = edges(connection, list(schemas))
    bodies: dict[tuple[str, str], list[str]] = {}
    for role in found:
        for path in _paths(known, role, "on_delete"):
            body = _each(role, _down(role, path, "OLD", path[-1].target_columns), gone=role.tombstone)
            bodies.setdefault((path[-1].target, "BEFORE DELETE"), []).append(body)
        for path in _paths(known, role, "on_update"):
            changed = " OR ".join(
                f"NOT (CAST(OLD.{quoted(c)} AS BINARY) <=> CAST(NEW.{quoted(c)} AS BINARY))"
                for c in path[-1].target_columns
            )
            for event, row, gone in (("BEFORE UPDATE", "OLD", role.tombstone), ("AFTER UPDATE", "NEW", False)):
                body = _each(role, _down(role, path, row, path[-1].target_columns), gone=gone)
                body = f"\n  IF {changed} THEN{body}\n  END IF;"
                bodies.setdefault((path[-1].target, event), []).append(body)
    return [
        _trigger(connection, table, f"kod_{short(table)}_{event.replace(' ', '_').lower()}", event, "".join(texts))
        for (table, event), texts in bodies.items()
    ]


def _paths(known: Sequence[Edge], role: Role, rule: str) -> Iterator[tuple[Edge, ...]]:
    """Chains of keys, from the role's table up, by which a change of the last one's target reaches the role's rows.

    A section that goes with its object needs none: the object's own trigger speaks for it."""
    link = {role.section.link} if role.section else set()
    count = 0
    reached: list[tuple[Edge, ...]] = [()]
    while reached:
        path = reached.pop()
        table = path[-1].target if path else role.table
        for edge in known:
            # what is only set to NULL goes no farther
            acts = ("CASCADE",) if path and rule == "on_delete" else ACTS
            if edge.table != table or getattr(edge, rule) not in acts:
                continue
            if not path and tuple(zip(edge.columns, edge.target_columns, strict=True)) in link:
                continue
            if len(path) >= CASCADE_DEPTH_MAX:
                continue
            count += 1
            if count > PATHS_MAX:
                raise ConfigError(
                    f"foreign keys with CASCADE reach {role.table} by more than {PATHS_MAX} ways: no triggers fire for"
                    " what they do, and KOD cannot follow them all",
                    hint="declare some of them without ON DELETE and ON UPDATE",
                )
            yield (*path, edge)
            reached.append((*path, edge))


def _down(role: Role, path: Sequence[Edge], row: str, columns: Sequence[str]) -> str:
    """SELECT the keys of items whose rows hang, by the path, on OLD or NEW of its last target."""
    rows = f"{quoted_table(role.table)} t0"
    for number, edge in enumerate(path[:-1]):
        tied = " AND ".join(
            f"t{number}.{quoted(own)} = t{number + 1}.{quoted(theirs)}"
            for own, theirs in zip(edge.columns, edge.target_columns, strict=True)
        )
        rows += f" JOIN {quoted_table(edge.target)} t{number + 1} ON {tied}"
    last = len(path) - 1
    hangs = " AND ".join(
        f"t{last}.{quoted(own)} = {row}.{quoted(theirs)}" for own, theirs in zip(path[-1].columns, columns, strict=True)
    )
    if role.section is None or role.by_link:
        there = "".join(f" AND t0.{quoted(c)} IS NOT NULL" for c in role.columns) if role.section else ""
        return f"SELECT DISTINCT {role.key('t0')} AS k FROM {rows} WHERE {hangs}{there}"
    assert role.item_type.table is not None
    linked = " AND ".join(f"o.{quoted(theirs)} = t0.{quoted(own)}" for own, theirs in role.section.link)
    return (
        f"SELECT DISTINCT {role.key('o')} AS k FROM {rows} JOIN {quoted_table(role.item_type.table)} o ON {linked}"
        f" WHERE {hangs}"
    )


# --- what is installed --------------------------------------------------------------------------------------------

_INSTALLED = """
SELECT TRIGGER_SCHEMA, TRIGGER_NAME, CONCAT_WS(' ', ACTION_TIMING, EVENT_MANIPULATION, EVENT_OBJECT_TABLE, SQL_MODE,
  ACTION_STATEMENT) FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = %s AND TRIGGER_NAME LIKE 'kod\\_%%'"""


def fingerprint(needed: Sequence[Trigger]) -> str:
    return hashlib.sha256("\0".join(f"{t.home}\0{t.sql}" for t in needed).encode()).hexdigest()[:32]


def installed(connection: Connection, homes: Sequence[str]) -> dict[tuple[str, str], str]:
    """The triggers of ours that are there, as the server shows them."""
    rows = [row for home in homes for row in connection.rows(_INSTALLED, (home,))]
    return {(home, name): definition for home, name, definition in rows}


def check(connection: Connection, structure: Structure, tables: Mapping[str, Table]) -> None:
    """Raises ConfigError when the triggers are not those that the tables, as they are now, need, or somebody changed
    them."""
    type_ids = registers.type_ids(connection)
    needed = triggers(connection, structure, type_ids, tables)
    (wanted,) = connection.one("SELECT capture FROM kod_node")
    remembered = {
        (home, name): text for home, name, text in connection.rows("SELECT home, name, definition FROM kod_triggers")
    }
    there = installed(connection, _homes(connection, needed, remembered))
    if wanted != fingerprint(needed) or there != remembered:
        raise ConfigError(
            "the capture triggers are not those that the tables need",
            hint="kod install (and the user needs the right TRIGGER, to see them)",
        )


def install(connection: Connection, structure: Structure, type_ids: Mapping[str, int]) -> list[str]:
    """Makes what is missing or different, takes away what is needed no more. Each trigger at once: DDL is no part of a
    transaction here; an installation that was interrupted is finished by the next one."""
    needed = triggers(connection, structure, type_ids, captured_tables(connection, structure))
    (wanted,) = connection.one("SELECT capture FROM kod_node")
    remembered = {
        (home, name): text for home, name, text in connection.rows("SELECT home, name, definition FROM kod_triggers")
    }
    there = installed(connection, _homes(connection, needed, remembered))
    if wanted == fingerprint(needed) and there == remembered:
        return []
    connection.run("UPDATE kod_node SET capture = ''")
    for one in needed:
        connection.run(f"CREATE OR REPLACE TRIGGER {one.sql}")
    names = {(t.home, t.name) for t in needed}
    stale = [name for name in there if name not in names]
    for home, name in stale:
        connection.run(f"DROP TRIGGER IF EXISTS {quoted(home)}.{quoted(name)}")
    connection.run("DELETE FROM kod_triggers")
    made = installed(connection, _homes(connection, needed, {}))
    connection.many(
        "INSERT INTO kod_triggers (home, name, definition) VALUES (%s, %s, %s)", [(*n, d) for n, d in made.items()]
    )
    rights.all_again(connection, structure, type_ids)
    connection.run("UPDATE kod_node SET capture = %s", (fingerprint(needed),))
    return [f"{len(needed)} capture triggers created"] + ([f"{len(stale)} capture triggers removed"] if stale else [])


def uninstall(connection: Connection) -> None:
    homes = [connection.database, *(home for (home,) in connection.rows("SELECT DISTINCT home FROM kod_triggers"))]
    for home, name in installed(connection, homes):
        connection.run(f"DROP TRIGGER IF EXISTS {quoted(home)}.{quoted(name)}")


def _homes(connection: Connection, needed: Sequence[Trigger], more: Mapping[tuple[str, str], str]) -> list[str]:
    return list(dict.fromkeys([connection.database, *(t.home for t in needed), *(home for home, _ in more)]))


def own_origin(connection: Connection, settings: NodeSettings) -> str:
    """The origin of the node that is installed here. Raises ConfigError when there is none, or it is another one."""
    found = connection.rows("SELECT code, origin FROM kod_node")
    code, origin = found[0] if found else ("", "")
    if code != settings.code:
        raise ConfigError(
            f"the database is installed for node {code!r}, not for {settings.code!r}",
            hint="is `database` in nodes.yaml the right one? else `kod uninstall` and `kod install`",
        )
    return str(origin)

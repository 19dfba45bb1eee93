"""Rights that change: what notes it in the application's transaction, and how the sender looks at items again.

    [ triggers ] -> kod_rights -> look again -> pending …

An access table bears triggers that append the item's key. A view has none: the tables that it is made of (read in the
server's own text of the view, or declared by `access_from`) bear triggers that append the type alone, and the type's
items are then walked through, from fresh to old, by a cursor in kod_walks. A type's own tables are the exception:
whatever changes there and travels is a change of the item; only what does not travel is noted.

MariaDB has no triggers for statements: a source's rows append one by one. (Whether another row says the same already
may not be asked: the application's snapshot may show one that has been taken since.) What foreign keys do by themselves
fires none: the tables at the other end of such keys bear triggers, too.

The triggers fire whoever writes, KOD too: rights that come from another node are rights.

A row that vanishes from an access table appends nothing: what a node has got it keeps (rule 4).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dispatcher.ports import Again, Content, Outgoing
from node.databases.mariadb.connection import Connection, Row
from node.databases.mariadb.lexical import Form, differs, key_array_sql, quoted
from node.databases.mariadb.reading import TypeReading
from node.databases.mariadb.reflection import reflect
from node.databases.mariadb.triggers import ACTS, Edge, Trigger, edges, short, trigger
from schemas.errors import ConfigError
from schemas.structure import Field, ItemType, Reference, Structure
from schemas.tables import Column, Table
from serializers.keys import Item

WALKED_AT_ONCE = 10
"""Rows of the register that a walk passes in one step, as a multiple of the items that it may find."""

# --- triggers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """A table that rights are made of, and the columns on which they hang. `own`: it is a table of the type itself,
    whose travelling columns are captured anyway."""

    table: Table
    columns: tuple[str, ...]
    own: bool = False


def triggers(connection: Connection, structure: Structure, type_ids: Mapping[str, int]) -> list[Trigger]:
    """Every trigger that notes changes of rights."""
    found: list[Trigger] = []
    for item_type in structure.types.values():
        access = _table(connection, item_type.access) if item_type.access and item_type.table else None
        if access is None:
            continue
        number = type_ids[item_type.name]
        names = _access_columns(item_type, access)
        _must_have(item_type, access, (*names, "node"))
        sources = list(_sources(connection, item_type, access))
        if not access.view:
            found += _row_triggers(connection, item_type, number, access, names)
        for source in sources:
            found += _source_triggers(connection, number, source)
        found += _cascades(connection, number, sources, () if access.view else (_Source(access, (*names, "node")),))
    return found


def unseen(connection: Connection, item_type: ItemType) -> str:
    """Why changes of a type's rights may go unnoticed, in words; empty where all of them are seen."""
    access = _table(connection, item_type.access) if item_type.access and not item_type.access_from else None
    if access is None or not access.view:
        return ""
    made = _made_of(connection, access.name)
    if made.blind:
        return f"is made of {', '.join(sorted(made.blind))}, whose changes are not seen"
    return "" if made.tables else "is made of no table that could be found"


def access_columns(connection: Connection, item_type: ItemType) -> list[str]:
    """The access table's columns that hold the item's key: named like the columns, or like the properties."""
    access = _table(connection, item_type.access or "")
    if access is None:
        raise ConfigError(f"{item_type.name}: access: there is no table {item_type.access}", hint="kod check")
    return _access_columns(item_type, access)


def _access_columns(item_type: ItemType, access: Table) -> list[str]:
    columns = {column.name for column in access.columns}
    return [f.column.name if f.column is not None and f.column.name in columns else f.name for f in item_type.key]


def _table(connection: Connection, name: str) -> Table | None:
    return reflect(connection, [name]).get(name)


def _must_have(item_type: ItemType, access: Table, needed: Sequence[str]) -> None:
    columns = {column.name for column in access.columns}
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ConfigError(
            f"{item_type.name}: access {item_type.access} has no column {', '.join(missing)}",
            hint="it needs the item's key columns, under their names, and `node`",
        )


def _row_triggers(
    connection: Connection, item_type: ItemType, number: int, access: Table, names: Sequence[str]
) -> list[Trigger]:
    own = {column.name: column for column in access.columns}
    noted = _note(number)
    if all(_written_alike(f, own[name]) for f, name in zip(item_type.key, names, strict=True)):
        forms = [
            Form(f.prop.xml, f.prop.zoned, own[name].xml, own[name].native, True)
            for f, name in zip(item_type.key, names, strict=True)
        ]
        noted = _note(number, key_array_sql(forms, [f"NEW.{quoted(name)}" for name in names]))
    there = " AND ".join(f"NEW.{quoted(name)} IS NOT NULL" for name in names) if item_type.is_object else "TRUE"
    changed = _any_differs(access, (*names, "node"))
    name = f"kod_rights_{number}"
    return [
        trigger(connection, access.name, f"{name}_insert", "AFTER INSERT", _if(there, noted)),
        trigger(connection, access.name, f"{name}_update", "AFTER UPDATE", _if(f"({there}) AND ({changed})", noted)),
    ]


_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_TEXTS = ("varchar", "tinytext", "text", "mediumtext", "longtext")


def _written_alike(field: Field, column: Column) -> bool:
    """Whether the access table's column writes equal values as the key does; else the type is noted as a whole."""
    key, access = Form.of(field), Form.of_column(column)
    if key.native == access.native:
        return True
    kinds = (key.base, access.base)
    return key.own == access.own and any(set(kinds) <= set(group) for group in (_INTEGERS, _TEXTS, ("decimal",)))


def _any_differs(table: Table, columns: Collection[str]) -> str:
    forms = [(column.name, Form.of_column(column)) for column in table.columns if column.name in columns]
    return " OR ".join(differs(form, f"OLD.{quoted(name)}", f"NEW.{quoted(name)}") for name, form in forms)


def _note(number: int, key: str = "NULL") -> str:
    return f"INSERT INTO {{own}}kod_rights (type, item_key) VALUES ({number}, {key})"


def _if(condition: str, statement: str) -> str:
    return f"IF {condition} THEN\n  {statement};\nEND IF"


def _sources(connection: Connection, item_type: ItemType, access: Table) -> Iterator[_Source]:
    for name in item_type.access_from:
        table = _table(connection, name)
        if table is None or table.view:
            raise ConfigError(f"{item_type.name}: access_from: there is no table {name}", hint="which table is meant?")
        yield _Source(table, tuple(column.name for column in table.columns))
    if item_type.access_from or not access.view:
        return
    travelling = {item_type.table: {f.column.name for f in item_type.held if f.column}}
    for section in item_type.sections:
        links = {column for column, _ in section.link}
        travelling[section.table] = links | {f.column.name for f in section.fields if f.column}
    made = _made_of(connection, access.name)
    for name in sorted(made.tables):
        table = _table(connection, name)
        if table is not None:
            captured = travelling.get(name, set())
            used = tuple(c.name for c in table.columns if c.name in made.words and c.name not in captured)
            yield _Source(table, used, own=name in travelling)


def _source_triggers(connection: Connection, number: int, source: _Source) -> list[Trigger]:
    name, table = f"kod_rights_{number}_{short(source.table.name)}", source.table.name
    made = []
    if source.columns:
        body = _if(_any_differs(source.table, source.columns), _note(number))
        made.append(trigger(connection, table, f"{name}_changed", "AFTER UPDATE", body))
    if not source.own:
        made.append(trigger(connection, table, f"{name}_appeared", "AFTER INSERT", _note(number)))
        made.append(trigger(connection, table, f"{name}_vanished", "AFTER DELETE", _note(number)))
    return made


# --- what foreign keys do by themselves


def _cascades(
    connection: Connection, number: int, sources: Sequence[_Source], access: Sequence[_Source]
) -> list[Trigger]:
    """What changes rows that rights are made of without a trigger of theirs. Of an access table's rows only their
    changes count."""
    every = (*sources, *access)
    schemas = [connection.database, *(s.table.name.partition(".")[0] for s in every if "." in s.table.name)]
    known = edges(connection, list(dict.fromkeys(schemas)))
    changed: dict[str, set[str]] = {}
    vanished: set[str] = set()
    for source in every:
        for table, columns in _changed_by(known, source.table.name, source.columns).items():
            changed.setdefault(table, set()).update(columns)
    for source in sources:
        vanished.update(_deleted_by(known, source))
    made = []
    for table, columns in sorted(changed.items()):
        reflected = _table(connection, table)
        if reflected is not None:
            name = f"kod_rights_{number}_{short(table)}_moved"
            body = _if(_any_differs(reflected, columns), _note(number))
            made.append(trigger(connection, table, name, "AFTER UPDATE", body))
    for table in sorted(vanished):
        name = f"kod_rights_{number}_{short(table)}_gone"
        made.append(trigger(connection, table, name, "AFTER DELETE", _note(number)))
    return made


def _changed_by(known: Sequence[Edge], table: str, columns: Collection[str]) -> dict[str, set[str]]:
    """Tables, and columns of theirs, whose change changes one of `columns`."""
    found: dict[str, set[str]] = {}
    reached = [(table, frozenset(columns))]
    while reached:
        here, these = reached.pop()
        for edge in known:
            if edge.table == here and edge.on_update in ACTS and these.intersection(edge.columns):
                before = found.setdefault(edge.target, set())
                if not before.issuperset(edge.target_columns):
                    before.update(edge.target_columns)
                    reached.append((edge.target, frozenset(edge.target_columns)))
    return found


def _deleted_by(known: Sequence[Edge], source: _Source) -> set[str]:
    """Tables whose rows, when they go, take rows of a source along or empty its columns."""
    found: set[str] = set()
    reached = []
    for edge in known:
        empties = edge.on_delete == "SET NULL" and not set(edge.columns).isdisjoint(source.columns)
        if edge.table == source.table.name and (empties or (edge.on_delete == "CASCADE" and not source.own)):
            reached.append(edge.target)
    while reached:
        here = reached.pop()
        if here not in found:
            found.add(here)
            reached += [edge.target for edge in known if edge.table == here and edge.on_delete == "CASCADE"]
    return found


# --- what a view is made of


@dataclass(frozen=True, slots=True)
class _Made:
    tables: frozenset[str]
    words: frozenset[str]
    """Names in the views' texts: the columns that are used are among them."""
    blind: frozenset[str]
    """What may change unseen, by its name."""


# The server keeps a view's text in a form of its own: every `*` written out, every name in backquotes.
_TOKEN = re.compile(r"'(?:[^'\\]|\\.|'')*'|(`(?:[^`]|``)*`(?:\.`(?:[^`]|``)*`)*)(\()?", re.DOTALL)
_NAME = re.compile(r"`((?:[^`]|``)*)`")
_TABLES = ("BASE TABLE", "SYSTEM VERSIONED")
_SYSTEMS = ("information_schema", "mysql", "performance_schema", "sys")


def _made_of(connection: Connection, view: str) -> _Made:
    """The tables that a view reads, however deep."""
    first = _split(connection, view)
    views, seen = [first], {first}
    tables: set[str] = set()
    words: set[str] = set()
    blind: set[str] = set()
    while views:
        here = views.pop()
        names, functions = _names(_text(connection, here))
        if not names and here != first:  # it may not be looked into, or reads no table
            blind.add(_called(connection, here))
        words.update(word for chain in names for word in chain)
        blind.update(f"{chain[-1]}()" for chain in functions if _is_function(connection, here[0], chain))
        for pair in {pair for chain in names for pair in pairwise(chain)} - seen:
            kind = _kind(connection, pair)
            if kind:
                seen.add(pair)
            if kind == "VIEW" and pair[0] not in _SYSTEMS:
                views.append(pair)
            elif kind in _TABLES and pair[0] not in _SYSTEMS:
                tables.add(_called(connection, pair))
            elif kind:
                blind.add(_called(connection, pair))
    return _Made(frozenset(tables), frozenset(words), frozenset(blind))


def _split(connection: Connection, name: str) -> tuple[str, str]:
    schema, dot, table = name.partition(".")
    return (schema, table) if dot else (connection.database, name)


def _called(connection: Connection, name: tuple[str, str]) -> str:
    return name[1] if name[0] == connection.database else ".".join(name)


def _text(connection: Connection, view: tuple[str, str]) -> str:
    rows = connection.rows(
        "SELECT VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s", view
    )
    return rows[0][0] or "" if rows else ""


def _names(text: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Names in a view's text, each with what stands before its points; and those that are called."""
    names: list[tuple[str, ...]] = []
    called: list[tuple[str, ...]] = []
    for found in _TOKEN.finditer(text):
        if found[1]:
            chain = tuple(part.replace("``", "`") for part in _NAME.findall(found[1]))
            (called if found[2] else names).append(chain)
    return names, called


def _kind(connection: Connection, name: tuple[str, str]) -> str:
    rows = connection.rows(
        "SELECT TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s", name
    )
    return str(rows[0][0]) if rows else ""


def _is_function(connection: Connection, home: str, chain: tuple[str, ...]) -> bool:
    schema = chain[-2] if len(chain) > 1 else home
    return bool(
        connection.rows(
            "SELECT 1 FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s AND ROUTINE_NAME = %s"
            " AND ROUTINE_TYPE = 'FUNCTION'",
            (schema, chain[-1]),
        )
    )


def all_again(connection: Connection, structure: Structure, type_ids: Mapping[str, int]) -> None:
    """Rights may have changed while nothing noted it: all that is known already is looked at again."""
    for item_type in structure.types.values():
        number = type_ids[item_type.name]
        if item_type.access and connection.rows("SELECT 1 FROM kod_register WHERE type = %s LIMIT 1", (number,)):
            connection.run("INSERT INTO kod_rights (type) VALUES (%s)", (number,))


# --- the sender's side --------------------------------------------------------------------------------------------

NOTHING = -2
"""Below every mark."""
LAST = 2**63 - 1
"""Above every stamp."""


def lacks(link: Outgoing, type_ids: Mapping[str, int]) -> tuple[str, list[Any]]:
    """SQL, and what it binds, of what a node lacks: it was looked at before (else its own turn comes, or
    history comes to it), and the node is not known to hold it."""
    condition = """NOT g.gone AND g.mark > -2 AND g.mark <= %s AND NOT g.source <=> %s
        AND NOT EXISTS (SELECT 1 FROM kod_presence p WHERE p.type = g.type AND p.item_key = g.item_key AND p.node = %s
            AND p.since <= %s)
        AND NOT EXISTS (SELECT 1 FROM kod_pending p WHERE p.type = g.type AND p.item_key = g.item_key
            AND p.node = %s)
        AND NOT (g.mark <= %s AND (g.stamp, g.type, g.item_key) < (%s, %s, %s))"""
    return condition, [
        link.position,
        link.node,
        link.node,
        link.last_session or 0,
        link.node,
        *_comes_by_history(link, type_ids),
    ]


def _comes_by_history(link: Outgoing, type_ids: Mapping[str, int]) -> tuple[int, int, int, bytes]:
    """The mark up to which history comes, and down to where it is. One that was cancelled comes to nothing more."""
    joined = link.joined
    if joined is None or joined.all_passed or not link.catching_up:
        return NOTHING, 0, 0, b""
    place = joined.passed
    if place is None:
        return joined.mark, LAST, 0, b""
    return joined.mark, place.stamp, type_ids[place.type], place.key.encode()


def look_again(connection: Connection, type_names: Mapping[int, str], items_max: int) -> Again:
    rows = connection.rows(
        "SELECT id, type, item_key, follow FROM kod_rights WHERE item_key IS NOT NULL ORDER BY id LIMIT %s",
        (items_max,),
    )
    if not rows:
        return _walk(connection, type_names, items_max)
    _take(connection, rows)
    found: dict[Item, bool] = {}
    for _, number, key, follow in rows:
        if number in type_names:
            item = Item(type_names[number], key.decode())
            found[item] = found.get(item, False) or bool(follow)
    return Again(list(found), [item for item, follow in found.items() if follow], more=True)


def _take(connection: Connection, rows: Sequence[Row]) -> None:
    """Each by its number, like the log: no gap is locked into which applications append."""
    connection.run("DELETE FROM kod_taken")
    connection.many("INSERT INTO kod_taken (id) VALUES (%s)", [(row[0],) for row in rows])
    connection.run("DELETE r FROM kod_taken t STRAIGHT_JOIN kod_rights r FORCE INDEX (PRIMARY) ON r.id = t.id")


def _walk(connection: Connection, type_names: Mapping[int, str], items_max: int) -> Again:
    """The next items of a type that was noted without a key. One that is noted again while it is being walked through
    has to be passed once more as far as it was passed."""
    noted = connection.rows("SELECT id, type FROM kod_rights")
    if noted:
        _take(connection, noted)
        connection.many(
            "INSERT INTO kod_walks (type, below) SELECT %s, n.top_mark + 1 FROM kod_node n"
            " ON DUPLICATE KEY UPDATE again_from = kod_walks.below, down_to = 0",
            [(number,) for number in sorted({number for _, number in noted})],
        )
    walks = connection.rows("SELECT type, below, down_to FROM kod_walks ORDER BY type LIMIT 1")
    if not walks:
        return Again((), (), more=False)
    number, below, down_to = walks[0]
    scanned = items_max * WALKED_AT_ONCE
    window = (
        "FROM kod_register FORCE INDEX (by_mark) WHERE mark > 0 AND mark > %s AND mark < %s ORDER BY mark DESC LIMIT %s"
    )
    found = connection.rows(
        f"SELECT type, item_key, mark, gone FROM (SELECT type, item_key, mark, gone {window}) p WHERE type = %s"
        " ORDER BY mark DESC LIMIT %s",
        (down_to, below, scanned, number, items_max + 1),
    )
    taken = found[:items_max]
    if len(found) > len(taken):
        edge = taken[-1][2]
    else:
        count, lowest = connection.one(
            f"SELECT COUNT(*), MIN(mark) FROM (SELECT mark {window}) p", (down_to, below, scanned)
        )
        edge = lowest if count == scanned else None
    if edge is not None:
        connection.run("UPDATE kod_walks SET below = %s WHERE type = %s", (edge, number))
    else:
        connection.run("DELETE FROM kod_walks WHERE type = %s AND again_from IS NULL", (number,))
        connection.run(  # one after another: `again_from` comes last
            "UPDATE kod_walks SET below = (SELECT top_mark + 1 FROM kod_node), down_to = again_from - 1,"
            " again_from = NULL WHERE type = %s",
            (number,),
        )
        # what was applied while there was one neighbour, or stamped before, has no mark: the walk did not meet it
        unmarked = connection.rows(
            "SELECT type, item_key FROM kod_register g WHERE type = %s AND mark = 0 AND NOT gone"
            " AND EXISTS (SELECT 1 FROM kod_outgoing o WHERE NOT o.node <=> g.source)",
            (number,),
        )
        connection.many("INSERT INTO kod_rights (type, item_key) VALUES (%s, %s)", unmarked)
    (more,) = connection.one("SELECT EXISTS (SELECT 1 FROM kod_rights) OR EXISTS (SELECT 1 FROM kod_walks)")
    items = [Item(type_names[number], key.decode()) for _, key, _, gone in taken if not gone]
    return Again(items, (), bool(more))


def owned_by(reading: TypeReading, reference: Reference, owner: TypeReading) -> str:
    """SELECT item_key of the items of a type that belong to the asked owners."""
    by_key = {column: f"k.a{position}" for position, column in enumerate(owner.key_columns)}
    source = f"{owner.asked} k"
    if set(by_key) != set(reference.target_columns):
        source += f" STRAIGHT_JOIN {owner.table} o ON {owner.joined('o')}"
        by_key = {column: f"o.{quoted(column)}" for column in reference.target_columns}
    tied = " AND ".join(
        f"r.{quoted(ours)} = {by_key[theirs]}"
        for ours, theirs in zip(reference.columns, reference.target_columns, strict=True)
    )
    key = f"CAST({reading.key_of_row('r')} AS BINARY)"
    return f"SELECT DISTINCT {key} AS item_key FROM {source} STRAIGHT_JOIN {reading.table} r ON {tied}"


def is_empty(content: Content) -> bool:
    """Nothing is there: no object, or a record set without records."""
    return content.text is None or content.text.endswith(b'"Records":[]}')

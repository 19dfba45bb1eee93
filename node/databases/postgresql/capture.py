"""Capture: triggers that append to the log which items a transaction has changed, whoever writes.

    [ capture ] -> fold -> select -> review …

For each table of a type four functions, compiled for its key: `new` logs NEW's item (insert), `old` OLD's (delete),
`changed` NEW's where something that travels has changed, and OLD's where the key has, or the row moved to another
object (update), `all` every row of the table (TRUNCATE). They run with their owner's rights, so that applications need
none on KOD's schema; what is in them is qualified with pg_catalog, so that nobody's search_path can put something else
in its place. Functions whose key hangs on the session's settings (DateStyle …) set them. No trigger names a column:
PostgreSQL would not let the column's type be changed.

They only append, to a table without an index: no lock that another transaction could wait for.

Measured (PostgreSQL 18; W2: one order with five lines a transaction, in one insert / in five; synchronous_commit off,
so that nothing hides the cost). The application's throughput with capture against without, 4 pgbench clients on two
cores, ±10 %, and the server's CPU time alone for a transaction without against with, least of 14 runs:

    row triggers                                          throughput 0.84 / 0.83    CPU 0.71 / 0.74
    row triggers with search_path set in the functions               0.77
    statement triggers with transition tables, sections              0.83 / 0.71        0.72 / 0.61
    statement triggers everywhere                                    0.80
    row triggers that log an item once a transaction                                    0.74 / 0.74
    row triggers that do nothing                                                        0.83 / 0.80

Row triggers it is: as fast as others in small transactions, simpler, cloned to partitions, and they see cascades. Most
of what is left is the price of having a trigger at all; comparing what travels in an UPDATE adds 1 µs of CPU to the 10
of a row with its trigger (six columns, jsonb among them; three runs, ±10 %). Logging an item once a transaction (its
key kept in a setting) gains too little for what it would have to be trusted with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from node.databases.postgresql import rights
from node.databases.postgresql.connecting import Connection, literal
from node.databases.postgresql.keys import key_columns, key_text
from node.databases.postgresql.lexical import is_builtin, plain, settled
from node.databases.postgresql.reflection import quoted, quoted_table, reflect
from node.databases.postgresql.registers import NOW_MS
from schemas.errors import ConfigError
from schemas.network import NodeSettings
from schemas.structure import Base, Field, ItemType, Section, Structure
from schemas.tables import Column, Table

_NOT_OURS = "pg_catalog.current_setting('kod.applying', true) IS DISTINCT FROM 'on'"
# The row whole, no column by its name: what names a column keeps its type from being changed (ALTER TABLE). Which
# columns count, the function knows.
_ANYTHING = "OLD.* OPERATOR(pg_catalog.*<>) NEW.*"
_SETTINGS = (
    "SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'"
)


@dataclass(frozen=True)
class Role:
    """A table in its part for a type: its rows belong to items of the type."""

    item_type: ItemType
    type_id: int
    number: int
    """0 is the type's own table, then its sections; below it the tables behind a view."""
    table: str
    columns: tuple[str, ...]
    """The columns of this table on which the item's key hangs."""
    section: Section | None = None
    behind: Base | None = None
    """The table is behind the type's view: its rows are items only where they are in the view."""
    compared: tuple[Column, ...] = ()
    """What travels: an UPDATE that leaves all of it as it was stamps nothing."""

    @property
    def name(self) -> str:
        return f"kod_{self.type_id}_{self.number}".replace("-", "b")

    @property
    def tombstone(self) -> bool:
        """Whether an item is gone when its row is."""
        return self.section is None and self.item_type.is_object


def roles(structure: Structure, type_ids: Mapping[str, int], tables: Mapping[str, Table]) -> Iterator[Role]:
    for item_type in structure.types.values():
        if item_type.table is None:
            continue
        number = type_ids[item_type.name]
        for position, base in enumerate(item_type.bases, -len(item_type.bases)):
            columns = tables[base.table].columns if base.table in tables else ()
            yield Role(item_type, number, position, base.table, base.columns, None, base, columns)
        key = tuple(column.name for column in key_columns(item_type))
        compared = _compared(tables.get(item_type.table), key, item_type.held)
        yield Role(item_type, number, 0, item_type.table, key, compared=compared)
        for position, section in enumerate((*item_type.sections, *item_type.sources), 1):
            link = tuple(pair[0] for pair in section.link)
            compared = _compared(tables.get(section.table), link, section.fields)
            yield Role(item_type, number, position, section.table, link, section, compared=compared)


def _compared(table: Table | None, key: Sequence[str], fields: Sequence[Field]) -> tuple[Column, ...]:
    travelling = {*key, *(field.column.name for field in fields if field.column is not None)}
    return tuple(column for column in table.columns if column.name in travelling) if table is not None else ()


def fingerprint(statements: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(statements).encode()).hexdigest()[:32]


def statements(role: Role, *, partitions: Sequence[str] = ()) -> list[str]:
    """DDL that makes the role's functions and triggers; `partitions` are the table's, as SQL."""
    if role.behind is not None:
        return _behind_view(role, partitions)
    table = quoted_table(role.table)
    made = [_function(role, kind, body) for kind, body in _bodies(role)]
    row = "FOR EACH ROW"
    made += [
        _trigger(role, "insert", "AFTER INSERT", table, row, _NOT_OURS, "new"),
        _trigger(role, "update", "AFTER UPDATE", table, row, f"{_NOT_OURS} AND {_ANYTHING}", "changed"),
        _trigger(role, "delete", "AFTER DELETE", table, row, _NOT_OURS, "old"),
    ]
    for target in (table, *partitions):  # row triggers are cloned to partitions, this kind is not
        made.append(_trigger(role, "truncate", "BEFORE TRUNCATE", target, "FOR EACH STATEMENT", _NOT_OURS, "all"))
    # Also where session_replication_role is `replica`: what arrives by logical replication is a change, too.
    for name in ("insert", "update", "delete"):
        made.append(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {role.name}_{name}")
    made += [f"ALTER TABLE {target} ENABLE ALWAYS TRIGGER {role.name}_truncate" for target in (table, *partitions)]
    return made


def _behind_view(role: Role, partitions: Sequence[str]) -> list[str]:
    """An item is concerned where it is in the view before the write, or after it. What is not there again after it
    may be gone: the fold looks."""
    table, row = quoted_table(role.table), "FOR EACH ROW"
    changed = _differs([column.name for column in role.compared])
    made = [
        _function(
            role,
            kind,
            _if_changed(changed, f"{_log(role, 'NEW', gone=gone)}\n{_log(role, 'OLD', gone=gone)}"),
            returned,
        )
        for kind, gone, returned in (("was", True, "coalesce(NEW, OLD)"), ("is", False, "NULL"))
    ]
    made.append(_function(role, "all", _log_table(role)))
    made += [
        _trigger(role, kind, f"{when} INSERT OR UPDATE OR DELETE", table, row, _NOT_OURS, kind)
        for kind, when in (("was", "BEFORE"), ("is", "AFTER"))
    ]
    for target in (table, *partitions):
        made.append(_trigger(role, "truncate", "BEFORE TRUNCATE", target, "FOR EACH STATEMENT", _NOT_OURS, "all"))
    made += [f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {role.name}_{name}" for name in ("was", "is")]
    made += [f"ALTER TABLE {target} ENABLE ALWAYS TRIGGER {role.name}_truncate" for target in (table, *partitions)]
    return made


def _in_view(role: Role, row: str) -> str:
    assert role.behind is not None
    columns = key_columns(role.item_type)
    tied = " AND ".join(
        f"v.{quoted(key.name)} OPERATOR(pg_catalog.=) {_cast(f'{row}.{quoted(own)}', key.native)}"
        for key, own in zip(columns, role.columns, strict=True)
    )
    return f"EXISTS (SELECT FROM {_qualified(role.item_type.table)} v WHERE {tied})"


def _if_changed(changed: str, then: str) -> str:
    """Of an UPDATE; there is no OLD in an INSERT, and no NEW in a DELETE."""
    same = f"    IF NOT ({changed}) THEN\n      RETURN NEW;\n    END IF;"
    return f"  IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN\n{same}\n  END IF;\n{then}"


def _differs(columns: Sequence[str]) -> str:
    """Whether any of the columns is another one after an UPDATE: by the bytes that are stored, so that it can be asked
    of every type (json has no equality), and 1.5 is another number than 1.50: what was stored has to arrive."""
    if not columns:
        return "false"
    old, new = (f"CAST(ROW({', '.join(f'{row}.{quoted(c)}' for c in columns)}) AS record)" for row in ("OLD", "NEW"))
    return f"{old} OPERATOR(pg_catalog.*<>) {new}"


def _trigger(role: Role, name: str, when: str, table: str, each: str, condition: str, function: str) -> str:
    return (
        f"CREATE TRIGGER {role.name}_{name} {when} ON {table} {each}"
        f" WHEN ({condition}) EXECUTE FUNCTION kod.{role.name}_{function}()"
    )


def _function(role: Role, kind: str, body: str, returned: str = "NULL") -> str:
    settings = "" if _is_settled(role) else f" {_SETTINGS}"
    text = f"\nBEGIN\n{body}\n  RETURN {returned};\nEND "
    return (
        f"CREATE FUNCTION kod.{role.name}_{kind}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER{settings}"
        f" AS {literal(text)}"
    )


def _is_settled(role: Role) -> bool:
    by_key = role.section is None or _link_is_key(role)
    return by_key and all(settled(field) for field in role.item_type.key)


def _bodies(role: Role) -> list[tuple[str, str]]:
    new, old = _log(role, "NEW", gone=False), _log(role, "OLD", gone=role.tombstone)
    travels = _differs([column.name for column in role.compared]) if role.compared else "true"
    changed = f"  IF {_differs(role.columns)} THEN\n{old}\n{new}\n  ELSIF {travels} THEN\n{new}\n  END IF;"
    return [("new", new), ("old", old), ("changed", changed), ("all", _log_table(role))]


def _log(role: Role, row: str, *, gone: bool) -> str:
    insert = "  INSERT INTO kod.log (type, key, at, gone, local)"
    moment = NOW_MS.replace("*", "OPERATOR(pg_catalog.*)")
    rest = f"{moment}, {str(gone).lower()}, true"
    if role.behind is not None:
        statement = f"{insert}\n  VALUES ({role.type_id}, {_own_key(role, row)}, {rest});"
        without = "DELETE" if row == "NEW" else "INSERT"
        return f"  IF TG_OP OPERATOR(pg_catalog.<>) '{without}' AND {_in_view(role, row)} THEN\n{statement}\n  END IF;"
    if role.section is None:
        return f"{insert}\n  VALUES ({role.type_id}, {_own_key(role, row)}, {rest});"
    missing = " OR ".join(f"{row}.{quoted(c)} IS NULL" for c in role.columns)
    if _link_is_key(role):
        statement = f"{insert}\n  VALUES ({role.type_id}, {_key_by_link(role, row)}, {rest});"
    else:  # the root row says which item it is; where it is gone, its own trigger has said so
        statement = (
            f"{insert}\n  SELECT {role.type_id}, {_own_key(role, 'r')}, {rest}"
            f" FROM {_qualified(role.item_type.table)} r WHERE {_joined(role, row, 'r')};"
        )
    return f"  IF NOT ({missing}) THEN\n{statement}\n  END IF;"


def _log_table(role: Role) -> str:
    """TRUNCATE: by the name of the table that the statement is about, which may be a partition."""
    if role.section is None:
        key, source, condition = _own_key(role, "t"), "t", ""
        if role.behind is not None:
            condition = f" WHERE {_in_view(role, 't')}"
    elif _link_is_key(role):
        key, source = _key_by_link(role, "t"), "t"
        condition = " WHERE " + " AND ".join(f"t.{quoted(c)} IS NOT NULL" for c in role.columns)
    else:
        key, source = _own_key(role, "r"), f"t JOIN {_qualified(role.item_type.table)} r ON {_joined(role, 't', 'r')}"
        condition = ""
    moment = NOW_MS.replace("*", "OPERATOR(pg_catalog.*)")
    insert = (
        f"INSERT INTO kod.log (type, key, at, gone, local) SELECT DISTINCT {role.type_id}, {key},"
        f" {moment}, {str(role.tombstone).lower()}, true FROM "
    )
    table = "pg_catalog.format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME)"
    return f"  EXECUTE pg_catalog.concat({literal(insert)}, {table}, {literal(f' {source}{condition}')});"


def _own_key(role: Role, row: str) -> str:
    if role.behind is not None:
        natives = [column.native for column in key_columns(role.item_type)]
        sources = [_cast(f"{row}.{quoted(c)}", native) for c, native in zip(role.columns, natives, strict=True)]
        return key_text(role.item_type.key, sources)
    sources = [f"{row}.{quoted(column.name)}" for column in key_columns(role.item_type)]
    return key_text(role.item_type.key, sources)


def _link_is_key(role: Role) -> bool:
    assert role.section is not None
    return {root for _, root in role.section.link} == {c.name for c in key_columns(role.item_type)}


def _key_by_link(role: Role, row: str) -> str:
    assert role.section is not None
    by_root = {root: column for column, root in role.section.link}
    natives = {field.column.name: field.column.native for field in role.item_type.key if field.column}
    sources = [_cast(f"{row}.{quoted(by_root[root])}", native) for root, native in natives.items()]
    return key_text(role.item_type.key, sources)


def _cast(source: str, native: str) -> str:
    """The link's columns may be of another type than the key's (smallint to integer, numeric to bigint). A key of a
    fixed length is written with its blanks, whatever the length of the link's."""
    if not is_builtin(native):
        return source
    return f"CAST({source} AS {native if plain(native) == 'bpchar' else plain(native)})"


def _joined(role: Role, row: str, root: str) -> str:
    assert role.section is not None
    return " AND ".join(f"{root}.{quoted(r)} = {row}.{quoted(c)}" for c, r in role.section.link)


def _qualified(table: str | None) -> str:
    assert table is not None
    return quoted_table(table)


def tables_of(structure: Structure) -> list[str]:
    """The tables of all types that have one, with their sections'."""
    names: dict[str, None] = {}
    for item_type in structure.types.values():
        if item_type.table is not None:
            names.update(dict.fromkeys(base.table for base in item_type.bases))
            names.update(dict.fromkeys((item_type.table, *(section.table for section in item_type.sections))))
    return list(names)


# --- what is installed --------------------------------------------------------------------------------------------

_INSTALLED = """
SELECT n.nspname || '.' || c.relname AS relation, t.tgname AS name, pg_get_triggerdef(t.oid) AS definition,
       p.prosrc AS source, t.tgenabled AS enabled
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_proc p ON p.oid = t.tgfoid
WHERE p.pronamespace = to_regnamespace('kod') AND NOT t.tgisinternal"""

REMEMBER = f"""
INSERT INTO kod.triggers (relation, name, definition, source)
SELECT relation, name, definition, source FROM ({_INSTALLED}) t"""

# No join: the planner knows nothing of how many there are, and compares each of thousands with each.
_DIFFERENT = f"""
SELECT d.relation, (SELECT t.enabled FROM ({_INSTALLED}) t WHERE t.relation = d.relation AND t.name = d.name)
FROM (SELECT relation, name, definition, source FROM kod.triggers EXCEPT
      SELECT relation, name, definition, source FROM ({_INSTALLED}) t WHERE enabled IN ('O', 'A')) d
ORDER BY d.relation LIMIT 1"""


def are_there(connection: Connection) -> bool:
    row = connection.execute("SELECT to_regclass('kod.node') IS NOT NULL").fetchone()
    return bool(row and row[0])


def own_origin(connection: Connection, settings: NodeSettings) -> str:
    """The origin of the node that is installed here. Raises ConfigError when there is none, or it is another one."""
    if not are_there(connection):
        raise ConfigError("KOD's registers are not in this database", hint="kod install")
    row = connection.execute("SELECT code, origin FROM kod.node").fetchone()
    if row is None or row[0] != settings.code:
        raise ConfigError(
            f"the database is installed for node {row[0] if row else ''!r}, not for {settings.code!r}",
            hint="is `database` in nodes.yaml the right one? else `kod uninstall` and `kod install`",
        )
    return str(row[1])


def all_statements(connection: Connection, structure: Structure, tables: Mapping[str, Table]) -> list[str]:
    """DDL of all functions and triggers on tables as they are now. Types have their numbers already."""
    ids = {name: number for number, name in connection.execute("SELECT id, name FROM kod.types").fetchall()}
    missing = [name for name in structure.types if name not in ids]
    if missing:
        raise ConfigError(f"types are new since the last install: {', '.join(missing)}", hint="kod install")
    made: list[str] = []
    kinds = _kinds(connection, list(tables))
    for role in roles(structure, ids, tables):
        kind, partitions = kinds.get(role.table, ("", []))
        if kind in "rp":  # a view has no rows of its own: `kod check` says so
            made += statements(role, partitions=partitions)
    return [*made, *rights.statements(connection, structure, ids)]


def _kinds(connection: Connection, tables: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """What each relation is (pg_class.relkind), and its partitions as SQL."""
    names = orjson.dumps([{"name": table, "quoted": quoted_table(table)} for table in tables]).decode()
    rows = connection.execute(
        "SELECT w.name, c.relkind::text, ARRAY(SELECT p.relid::regclass::text FROM pg_partition_tree(c.oid) p"
        " WHERE c.relkind = 'p' AND p.relid <> c.oid ORDER BY 1)"
        " FROM json_to_recordset($1::json) AS w(name text, quoted text)"
        " JOIN pg_class c ON c.oid = to_regclass(w.quoted)",
        (names,),
    ).fetchall()
    return {name: (kind, partitions) for name, kind, partitions in rows}


def captured_tables(connection: Connection, structure: Structure) -> dict[str, Table]:
    return reflect(connection, (*tables_of(structure), *structure.source_tables))


def check(connection: Connection, structure: Structure, tables: Mapping[str, Table]) -> None:
    """Raises ConfigError when the triggers are not those that the tables, as they are now, need, or somebody changed
    or disabled them."""
    row = connection.execute("SELECT capture FROM kod.node").fetchone()
    if row is None or row[0] != fingerprint(all_statements(connection, structure, tables)):
        raise ConfigError("the capture triggers are not those that the tables need now", hint="run kod install again")
    different = connection.execute(_DIFFERENT).fetchone()
    if different:
        relation, enabled = different
        what = "are disabled" if enabled == "D" else "are not those that were installed"
        raise ConfigError(f"{relation}: the capture triggers {what}", hint="run kod install again")


def install(connection: Connection, structure: Structure) -> bool:
    """Makes functions and triggers anew unless they are as they have to be. In the caller's transaction."""
    tables = captured_tables(connection, structure)
    try:
        check(connection, structure, tables)
    except ConfigError:
        pass
    else:
        return False
    functions = connection.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc p"
        " WHERE p.pronamespace = 'kod'::regnamespace AND p.prorettype = 'trigger'::regtype"
    ).fetchall()
    for (function,) in functions:
        connection.execute(f"DROP FUNCTION {function} CASCADE")
    made = all_statements(connection, structure, tables)
    for statement in made:
        connection.execute(statement)
    connection.execute("DELETE FROM kod.triggers")
    connection.execute(REMEMBER)
    connection.execute("UPDATE kod.node SET capture = $1", (fingerprint(made),))
    with_access = [item_type.name for item_type in structure.types.values() if item_type.access]
    connection.execute(rights.ALL_AGAIN, (orjson.dumps(with_access).decode(),))
    return True

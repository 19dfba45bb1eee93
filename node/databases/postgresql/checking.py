"""What people should know about a PostgreSQL database before it takes part (`kod check`)."""

from __future__ import annotations

from collections.abc import Iterator

from node.databases.dangling import dangling
from node.databases.postgresql import capture, rights
from node.databases.postgresql.connecting import Connection
from node.databases.postgresql.reading import is_json, referring_values
from node.databases.postgresql.references import LACKS_SILENCE
from node.databases.postgresql.reflection import quoted, quoted_table
from schemas.errors import ConfigError
from schemas.structure import ItemType, Mismatch, Routing, Structure

_SETTINGS = """
SELECT current_setting('fsync') = 'on', current_setting('synchronous_commit'),
       current_setting('lock_timeout')::interval < current_setting('deadlock_timeout')::interval"""

_SHARED_ROLE = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename = session_user AND application_name <> 'kod' AND pid <> pg_backend_pid()
  AND backend_type = 'client backend'"""

_LINK_INDEX = """
SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL
  AND (SELECT array_agg(a.attname::text) FROM unnest((i.indkey::smallint[])[0:$3::int - 1]) k(attnum)
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum) @> CAST($2 AS text[]))"""


def check(connection: Connection, structure: Structure) -> list[Mismatch]:
    def count(sql: str) -> int:
        return int((connection.execute(sql).fetchone() or (0,))[0])

    return [
        *_server(connection),
        *_triggers(connection, structure),
        *_types(connection, structure),
        *dangling(structure, count, lambda of, r, to: referring_values(of, r, "r", to), quoted, quoted_table),
    ]


def _note(type_name: str, prop: str | None, text: str, hint: str = "", effect: str = "note") -> Mismatch:
    return Mismatch(type_name, prop, effect, text, hint)


def _server(connection: Connection) -> Iterator[Mismatch]:
    fsync, synchronous_commit, gives_up_first = connection.execute(_SETTINGS).fetchone() or (True, "on", True)
    if not fsync:
        yield _note("", None, "fsync is off: a crash of the machine may lose or spoil what was stored", "fsync = on")
    if synchronous_commit == "off":
        yield _note(
            "",
            None,
            "synchronous_commit is off: after a crash of the server messages may be lost that the bus has forgotten",
            "ALTER ROLE … SET synchronous_commit = on, for KOD's role",
        )
    if not gives_up_first:
        yield _note(
            "",
            None,
            "deadlock_timeout is shorter than KOD's lock_timeout: an application may become a deadlock's victim",
            "deadlock_timeout = 1s",
        )
    if connection.execute(LACKS_SILENCE).fetchone() == (True,):
        yield _note(
            "",
            None,
            "the role may not set session_replication_role: references of large messages are checked row by row",
            "GRANT SET ON PARAMETER session_replication_role TO KOD's role: then set by set, as safely",
        )
    shared = connection.execute(_SHARED_ROLE).fetchone()
    if shared and shared[0]:
        yield _note(
            "",
            None,
            "other sessions use KOD's role: rights and settings cannot be told apart",
            "give the daemon a role of its own",
        )


def _triggers(connection: Connection, structure: Structure) -> Iterator[Mismatch]:
    if not capture.are_there(connection):
        return
    try:
        capture.check(connection, structure, capture.captured_tables(connection, structure))
    except ConfigError as error:
        yield _note("", None, error.text, error.hint)


def _types(connection: Connection, structure: Structure) -> Iterator[Mismatch]:
    for item_type in structure.types.values():
        if item_type.table is not None:
            yield from _kind(connection, item_type)
            yield from _key(item_type)
            yield from _sections(connection, item_type)
            yield from _rights(connection, item_type)
            yield from _owner(connection, item_type)
            yield from _composites(item_type)


def _kind(connection: Connection, item_type: ItemType) -> Iterator[Mismatch]:
    row = connection.execute(
        "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", (quoted_table(item_type.table or ""),)
    ).fetchone()
    if row and row[0] not in "rpv":
        yield _note(
            item_type.name,
            None,
            f"{item_type.table} is no table: changes in it cannot be captured",
            "name the table behind it",
            effect="cannot be read",
        )


def _key(item_type: ItemType) -> Iterator[Mismatch]:
    for field in item_type.key:
        if field.column is not None and field.column.generated_key:
            yield _note(
                item_type.name,
                field.name,
                f"the database generates {item_type.table}.{field.column.name}: two nodes would give birth to different"
                " items under one key",
                "set `identity: {step, offset}` for each node, if several write this type",
            )
        if field.prop.xml in ("float", "double"):
            yield _note(
                item_type.name,
                field.name,
                f"floating-point numbers in the key of {item_type.table}: databases write them differently",
                "use whole numbers or decimals",
            )


def _sections(connection: Connection, item_type: ItemType) -> Iterator[Mismatch]:
    for section in item_type.sections:
        columns = "{" + ",".join('"' + column.replace('"', '\\"') + '"' for column, _ in section.link) + "}"
        row = connection.execute(_LINK_INDEX, (quoted_table(section.table), columns, str(len(section.link)))).fetchone()
        if not (row and row[0]):
            yield _note(
                item_type.name,
                section.name,
                f"{section.table} has no index that begins with {', '.join(c for c, _ in section.link)}:"
                " every reading of an object reads the whole table",
                f"CREATE INDEX ON {section.table} ({', '.join(c for c, _ in section.link)})",
            )


def _rights(connection: Connection, item_type: ItemType) -> Iterator[Mismatch]:
    why = rights.unseen(connection, item_type) if item_type.access else ""
    if why:
        yield _note(
            item_type.name,
            None,
            f"{item_type.access} {why}: items that a node newly may see reach it only when they change",
            f"name the tables that it is made of: `access_from: [table, …]` for {item_type.name}",
        )


def _composites(item_type: ItemType) -> Iterator[Mismatch]:
    for reference in item_type.references:
        if reference.within is not None and reference.within.json and not is_json(item_type, reference.within):
            yield _note(
                item_type.name,
                None,
                f"{reference.within.column} holds references to {reference.target}, and is no json or jsonb: they are"
                " not looked for in it",
                f"ALTER TABLE … ALTER {reference.within.column} TYPE jsonb",
                effect="cannot be read",
            )


def _owner(connection: Connection, item_type: ItemType) -> Iterator[Mismatch]:
    reference = item_type.owner_reference
    if item_type.routing is not Routing.DEPENDENT or reference is None or reference.section is not None:
        return
    assert item_type.table is not None
    columns = "{" + ",".join('"' + column.replace('"', '\\"') + '"' for column in reference.columns) + "}"
    row = connection.execute(
        _LINK_INDEX, (quoted_table(item_type.table), columns, str(len(reference.columns)))
    ).fetchone()
    if not (row and row[0]):
        yield _note(
            item_type.name,
            None,
            f"{item_type.table} has no index that begins with {', '.join(reference.columns)}:"
            " to find what belongs to an owner the whole table is read",
            f"CREATE INDEX ON {item_type.table} ({', '.join(reference.columns)})",
        )

"""What people should know about a MariaDB database before it takes part (`kod check`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from node.databases.dangling import dangling
from node.databases.mariadb import capture, registers, rights
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import Form, quoted
from node.databases.mariadb.reading import TypeReading, referring_values
from node.databases.mariadb.reflection import quoted_table, reflect
from schemas.errors import ConfigError
from schemas.network import NodeSettings
from schemas.structure import Field, ItemType, Mismatch, Reference, Structure
from schemas.tables import Table

OLDEST = (10, 11)


def refuse(connection: Connection) -> None:
    """Raises ConfigError for a server that KOD cannot work on."""
    version, binlog, log_bin = connection.one("SELECT VERSION(), @@binlog_format, @@log_bin")
    found = re.match(r"(\d+)\.(\d+)", version)
    if "mariadb" not in version.lower() or found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise ConfigError(f"the server is {version}", hint="MariaDB 10.11 or newer")
    if log_bin and binlog == "STATEMENT":
        raise ConfigError("the server logs statements only (binlog_format = STATEMENT)", hint="binlog_format = MIXED")


def check(connection: Connection, structure: Structure) -> list[Mismatch]:
    found = [*_server(connection), *_triggers(connection, structure)]
    tables = reflect(connection, capture.tables_of(structure))
    for item_type in structure.types.values():
        if item_type.table in tables and item_type.table is not None:
            found += _type(connection, item_type, tables)

    def count(sql: str) -> int:
        return int(connection.one(sql)[0])

    def values(_: ItemType, reference: Reference, target: ItemType) -> list[str]:
        return referring_values(reference, "r", TypeReading(target, -1))

    return [*found, *dangling(structure, count, values, quoted, quoted_table)]


def _note(type_name: str, prop: str | None, text: str, hint: str = "", effect: str = "note") -> Mismatch:
    return Mismatch(type_name, prop, effect, text, hint)


def _server(connection: Connection) -> Iterator[Mismatch]:
    try:
        refuse(connection)
    except ConfigError as error:
        yield _note("", None, error.text, error.hint, "cannot be read")
    (flush,) = connection.one("SELECT @@innodb_flush_log_at_trx_commit")
    if flush != 1:
        yield _note(
            "",
            None,
            f"innodb_flush_log_at_trx_commit is {flush}: after a crash of the server messages may be lost that the bus"
            " has forgotten",
            "innodb_flush_log_at_trx_commit = 1",
        )
    yield _note(
        "",
        None,
        "TRUNCATE fires no trigger in MariaDB: what it takes away stays at the other nodes; `kod compare` shows it",
        "DELETE instead; REVOKE DROP, which TRUNCATE needs, from the users of applications",
    )
    (others,) = connection.one(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
        " AND USER = SUBSTRING_INDEX(USER(), '@', 1) AND ID NOT IN (SELECT connection FROM (" + _OWN_LOCKS + ") own)",
        (f"{connection.lock_prefix}.daemon", f"{connection.lock_prefix}.turn"),
    )
    if others > 1:  # a running daemon has a second one
        yield _note(
            "",
            None,
            "other sessions use KOD's user: rights and settings cannot be told apart",
            "give the daemon a user of its own",
        )


_OWN_LOCKS = "SELECT IFNULL(IS_USED_LOCK(%s), 0) AS connection UNION SELECT IFNULL(IS_USED_LOCK(%s), 0)"


def _triggers(connection: Connection, structure: Structure) -> Iterator[Mismatch]:
    if not registers.are_there(connection):
        return
    try:
        capture.check(connection, structure, capture.captured_tables(connection, structure))
    except ConfigError as error:
        yield _note("", None, error.text, error.hint)


def _type(connection: Connection, item_type: ItemType, tables: dict[str, Table]) -> Iterator[Mismatch]:
    assert item_type.table is not None
    for name in (item_type.table, *(s.table for s in item_type.sections)):
        table = tables.get(name)
        if table is None:
            continue
        if not table.view:
            yield from _engine(connection, item_type, name)
    for field in item_type.key:
        yield from _key(connection, item_type, field)
    yield from _length(item_type)
    yield from _rights(connection, item_type)


def _rights(connection: Connection, item_type: ItemType) -> Iterator[Mismatch]:
    why = rights.unseen(connection, item_type)
    if why:
        yield _note(
            item_type.name,
            None,
            f"{item_type.access} {why}: items that a node newly may see reach it only when they change",
            f"name the tables that it is made of: `access_from: [table, …]` for {item_type.name}",
        )


def _engine(connection: Connection, item_type: ItemType, name: str) -> Iterator[Mismatch]:
    schema, _, table = name.rpartition(".")
    rows = connection.rows(
        "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
        (schema or connection.database, table),
    )
    engine = rows[0][0] if rows else None
    if engine not in (None, "InnoDB"):
        yield _note(
            item_type.name,
            None,
            f"{name} is kept by {engine}, which knows no transactions: a message is applied in part when the daemon is"
            " interrupted, and a change that is rolled back stays without a stamp",
            f"ALTER TABLE {name} ENGINE = InnoDB",
        )


def _key(connection: Connection, item_type: ItemType, field: Field) -> Iterator[Mismatch]:
    assert item_type.table is not None
    assert field.column is not None
    where = f"{item_type.table}.{field.column.name}"
    form = Form.of(field)
    if field.column.generated_key:
        yield _note(
            item_type.name,
            field.name,
            f"the database generates {where}: two nodes would give birth to different items under one key",
            "if several nodes write this type, give each server its own auto_increment_offset, and all of them one"
            " auto_increment_increment",
        )
    if form.own in ("float", "double"):
        yield _note(
            item_type.name,
            field.name,
            f"floating-point numbers in the key of {item_type.table}: databases write them differently",
            "use whole numbers or decimals",
        )
    if form.is_text and form.base not in ("enum", "set"):
        yield from _collation(connection, item_type, field, where)


def _collation(connection: Connection, item_type: ItemType, field: Field, where: str) -> Iterator[Mismatch]:
    """Asked of the server itself: what it takes for equal here is two keys in PostgreSQL and in SQLite."""
    assert field.column is not None
    collation, case, accent, blank = connection.one(
        f"SELECT COLLATION(c), c = 'A', c = 'á', c = 'a ' FROM (SELECT {quoted(field.column.name)} AS c"
        f" FROM {quoted_table(item_type.table or '')} WHERE FALSE UNION ALL SELECT 'a') one"
    )
    same = [text for equal, text in ((case, "'a' and 'A'"), (accent, "'a' and 'á'"), (blank, "'a' and 'a '")) if equal]
    if same:
        yield _note(
            item_type.name,
            field.name,
            f"keys that are two in other databases are one in {where} ({collation}): {', '.join(same)}; the second of"
            " them to arrive is parked",
            f"ALTER TABLE … MODIFY {field.column.name} … COLLATE utf8mb4_nopad_bin, where they are not the same to you",
        )


def _length(item_type: ItemType) -> Iterator[Mismatch]:
    """The longest key, as JSON text, in bytes."""
    longest = sum(4 * (f.column.length or 40) if f.column else 0 for f in item_type.key)
    if longest > registers.KEY_BYTES_MAX:
        yield _note(
            item_type.name,
            None,
            f"keys of {item_type.table} may be longer than {registers.KEY_BYTES_MAX} bytes: such a row is refused to"
            " the application",
            "shorter columns in the key",
        )


def identity(connection: Connection, settings: NodeSettings, structure: Structure) -> list[str]:
    """The server has one step and one offset for all its tables: they are the administrator's to set."""
    if settings.identity is None or not any(t.generated_key for t in structure.types.values()):
        return []
    step, offset = settings.identity
    found = connection.one("SELECT @@global.auto_increment_increment, @@global.auto_increment_offset")
    if found == (step, offset % step or step):
        return []
    return [
        f"identity {{step: {step}, offset: {offset}}} is the server's, not a table's: set auto_increment_increment ="
        f" {step} and auto_increment_offset = {offset % step or step} there"
    ]

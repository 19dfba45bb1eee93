"""KOD's own tables: what they are for, how they are made and taken away.

    node, types               who this node is; the types that it stamps
    packages                  the packages with which daemons ran here, and since when
    journal                   the journal mode that install found, where it switched to WAL; uninstall goes back to it
    log -> register           what capture wrote, and the versions that the fold makes of it
    presence, ahead, pending  what neighbours hold, have before its turn, are to get out of turn
    named                     predefined items, by the names that they bear: also when they are gone
    rights                    items, or types (no key), whose rights may have changed, until they are looked at again
    below                     nodes farther down, and the children through which they are reached
    walks                     how far such a type has been looked at again, by marks, from the largest down
    history                   cursors over what neighbours lack of what was there before
    sent                      which item went in which message of the latest sessions (dispatcher.manifest)
    outgoing, incoming, received, collisions     the links, and the journal
    parked                    messages that could not be applied yet
    held, owned, deferred     what hooks need (node.databases.hooked)
    ways                      where items are to be seen, farther on (node.databases.ways)
    stamps (a view)           type, key, stamp, deleted: for other consumers, the log included

No AUTOINCREMENT: it would leave the table sqlite_sequence behind for ever.
"""

from __future__ import annotations

import sqlite3

VERSION = 1
"""Of the registers' structure; the node row bears it."""

_TABLES = {
    "kod_node": """CREATE TABLE kod_node (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        version INTEGER NOT NULL,
        code TEXT NOT NULL,
        incarnation INTEGER NOT NULL,
        origin TEXT NOT NULL,
        boundary INTEGER,
        top_mark INTEGER NOT NULL DEFAULT 0,
        last_session INTEGER,
        missed INTEGER NOT NULL DEFAULT 0,
        send_streams_max INTEGER,
        receive_streams_max INTEGER,
        last_session_facts TEXT,
        kept_at TEXT,
        network TEXT,
        told_incarnation INTEGER,
        told_session INTEGER,
        bus_ahead_ms INTEGER,
        package_asked TEXT,
        draining TEXT,
        hooks TEXT NOT NULL DEFAULT '')""",
    "kod_packages": """CREATE TABLE kod_packages (
        fingerprint TEXT PRIMARY KEY,
        since INTEGER NOT NULL) WITHOUT ROWID""",
    "kod_journal": "CREATE TABLE kod_journal (mode TEXT NOT NULL)",
    "kod_types": """CREATE TABLE kod_types (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        top_mark INTEGER NOT NULL DEFAULT 0,
        stamped INTEGER NOT NULL DEFAULT 0,
        key_types TEXT NOT NULL,
        key TEXT)""",
    "kod_log": """CREATE TABLE kod_log (
        type INTEGER NOT NULL,
        key TEXT NOT NULL,
        at INTEGER NOT NULL,
        gone INTEGER NOT NULL DEFAULT 0,
        local INTEGER NOT NULL DEFAULT 1)""",
    "kod_applying": "CREATE TABLE kod_applying (one INTEGER PRIMARY KEY CHECK (one = 1))",
    "kod_register": """CREATE TABLE kod_register (
        type INTEGER NOT NULL,
        key TEXT NOT NULL,
        stamp INTEGER NOT NULL,
        origin TEXT NOT NULL,
        seen TEXT,
        mark INTEGER NOT NULL DEFAULT 0,
        known INTEGER,
        source TEXT,
        gone INTEGER NOT NULL DEFAULT 0,
        kept TEXT,
        PRIMARY KEY (type, key)) WITHOUT ROWID""",
    "kod_named": """CREATE TABLE kod_named (
        type INTEGER NOT NULL,
        key TEXT NOT NULL,
        name TEXT NOT NULL,
        PRIMARY KEY (type, key)) WITHOUT ROWID""",
    "kod_presence": """CREATE TABLE kod_presence (
        node TEXT NOT NULL,
        type INTEGER NOT NULL,
        key TEXT NOT NULL,
        since INTEGER,
        drawn_by TEXT,
        PRIMARY KEY (type, key, node)) WITHOUT ROWID""",
    "kod_rights": """CREATE TABLE kod_rights (
        type INTEGER NOT NULL,
        key TEXT,
        follow INTEGER NOT NULL DEFAULT 0)""",
    "kod_walks": """CREATE TABLE kod_walks (
        type INTEGER PRIMARY KEY,
        below INTEGER NOT NULL,
        down_to INTEGER NOT NULL DEFAULT 0,
        again_from INTEGER)""",
    "kod_outgoing": """CREATE TABLE kod_outgoing (
        node TEXT PRIMARY KEY,
        position INTEGER NOT NULL DEFAULT 0,
        last_session INTEGER,
        arrived INTEGER,
        opened INTEGER,
        joined INTEGER,
        joined_session INTEGER,
        history INTEGER,
        restart INTEGER NOT NULL DEFAULT 0,
        wish TEXT,
        messages INTEGER NOT NULL DEFAULT 0,
        items INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    "kod_below": "CREATE TABLE kod_below (node TEXT NOT NULL, via TEXT NOT NULL, PRIMARY KEY (node, via))",
    "kod_ahead": """CREATE TABLE kod_ahead (
        node TEXT NOT NULL,
        type INTEGER NOT NULL,
        key TEXT NOT NULL,
        mark INTEGER NOT NULL,
        PRIMARY KEY (node, type, key)) WITHOUT ROWID""",
    "kod_pending": """CREATE TABLE kod_pending (
        number INTEGER PRIMARY KEY,
        node TEXT NOT NULL,
        type INTEGER NOT NULL,
        key TEXT NOT NULL,
        mark INTEGER NOT NULL,
        UNIQUE (node, type, key))""",
    "kod_history": """CREATE TABLE kod_history (
        id INTEGER PRIMARY KEY,
        node TEXT NOT NULL,
        type INTEGER,
        down_to INTEGER,
        reason TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'open',
        phase INTEGER NOT NULL DEFAULT 0,
        at_stamp INTEGER,
        at_type INTEGER,
        at_key TEXT,
        bottom INTEGER,
        passed INTEGER NOT NULL DEFAULT 0,
        sent INTEGER NOT NULL DEFAULT 0,
        total INTEGER NOT NULL DEFAULT 0,
        begun INTEGER NOT NULL,
        ended INTEGER)""",
    "kod_sent": """CREATE TABLE kod_sent (
        node TEXT NOT NULL,
        session INTEGER NOT NULL,
        items INTEGER NOT NULL,
        lowest INTEGER NOT NULL,
        highest INTEGER NOT NULL,
        manifest BLOB NOT NULL,
        PRIMARY KEY (node, session))""",
    "kod_incoming": """CREATE TABLE kod_incoming (
        node TEXT PRIMARY KEY,
        incarnation INTEGER,
        session INTEGER,
        completed INTEGER,
        position INTEGER,
        messages INTEGER NOT NULL DEFAULT 0,
        items INTEGER NOT NULL DEFAULT 0,
        rejected INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER NOT NULL DEFAULT 0,
        end_to_end_ms INTEGER,
        fault TEXT,
        package TEXT,
        package_since INTEGER) WITHOUT ROWID""",
    "kod_received": """CREATE TABLE kod_received (
        node TEXT NOT NULL,
        session INTEGER NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (node, session, number)) WITHOUT ROWID""",
    "kod_collisions": """CREATE TABLE kod_collisions (
        id INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        key TEXT NOT NULL,
        winner_stamp INTEGER NOT NULL,
        winner_origin TEXT NOT NULL,
        winner_text TEXT,
        loser_stamp INTEGER NOT NULL,
        loser_origin TEXT NOT NULL,
        loser_text TEXT,
        policy TEXT NOT NULL,
        sender TEXT NOT NULL,
        at INTEGER NOT NULL)""",
    "kod_parked": """CREATE TABLE kod_parked (
        id INTEGER PRIMARY KEY,
        node TEXT NOT NULL,
        name TEXT NOT NULL,
        payload BLOB NOT NULL,
        reason TEXT NOT NULL,
        since INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        items TEXT NOT NULL DEFAULT '[]',
        waits_for TEXT NOT NULL DEFAULT '[]',
        refused INTEGER NOT NULL DEFAULT 0)""",
    "kod_held": """CREATE TABLE kod_held (
        node TEXT NOT NULL,
        type INTEGER NOT NULL,
        item_key TEXT NOT NULL,
        mark INTEGER NOT NULL,
        reason TEXT NOT NULL,
        since INTEGER NOT NULL,
        next_at INTEGER NOT NULL,
        PRIMARY KEY (node, type, item_key)) WITHOUT ROWID""",
    "kod_owned": """CREATE TABLE kod_owned (
        type INTEGER NOT NULL,
        item_key TEXT NOT NULL,
        owner_type INTEGER NOT NULL,
        owner_key TEXT NOT NULL,
        PRIMARY KEY (type, item_key)) WITHOUT ROWID""",
    "kod_ways": """CREATE TABLE kod_ways (
        type INTEGER NOT NULL,
        item_key TEXT NOT NULL,
        link TEXT NOT NULL,
        node TEXT NOT NULL,
        PRIMARY KEY (type, item_key, link, node)) WITHOUT ROWID""",
    "kod_deferred": """CREATE TABLE kod_deferred (
        id INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        work TEXT NOT NULL,
        since INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        next_at INTEGER NOT NULL,
        reason TEXT)""",
}
_INDEXES = {
    "kod_owned_owner": "CREATE INDEX kod_owned_owner ON kod_owned (owner_type, owner_key)",
    "kod_rights_item": "CREATE INDEX kod_rights_item ON kod_rights (type, key)",
    "kod_register_mark": "CREATE INDEX kod_register_mark ON kod_register (mark) WHERE mark > 0",
    "kod_register_stamped": "CREATE INDEX kod_register_stamped ON kod_register (mark) WHERE mark < -1",
    "kod_register_gone": "CREATE INDEX kod_register_gone ON kod_register (mark) WHERE gone",
    "kod_register_fresh": "CREATE INDEX kod_register_fresh ON kod_register (stamp, type, key) WHERE gone = 0",
    "kod_register_deleted": "CREATE INDEX kod_register_deleted ON kod_register (stamp, type, key) WHERE gone = 1",
    "kod_ahead_mark": "CREATE INDEX kod_ahead_mark ON kod_ahead (node, mark)",
    "kod_register_kept": "CREATE INDEX kod_register_kept ON kod_register (type) WHERE kept IS NOT NULL",
}
_STAMPS = """CREATE VIEW kod_stamps AS
    WITH logged AS (
        SELECT type, key, max(at) AS at, max(rowid) AS last FROM kod_log WHERE local GROUP BY type, key),
    known AS (
        SELECT g.type, g.key, CASE WHEN l.at IS NULL THEN g.stamp ELSE max(l.at, g.stamp + 1) END AS stamp,
            CASE WHEN l.at IS NULL THEN g.gone ELSE (SELECT gone FROM kod_log WHERE rowid = l.last) END AS gone
        FROM kod_register g LEFT JOIN logged l ON l.type = g.type AND l.key = g.key
        UNION ALL
        SELECT l.type, l.key, l.at, (SELECT gone FROM kod_log WHERE rowid = l.last) FROM logged l
        WHERE NOT EXISTS (SELECT 1 FROM kod_register g WHERE g.type = l.type AND g.key = l.key))
    SELECT t.name AS type,
        (SELECT '[' || group_concat('{' || json_quote(json_extract(t.key_types, '$[' || j.key || ']')) || ':'
            || CASE j.type WHEN 'text' THEN json_quote(j.value) WHEN 'null' THEN 'null' WHEN 'true' THEN 'true'
               WHEN 'false' THEN 'false' ELSE j.value END || '}', ',') || ']' FROM json_each(k.key) j) AS key,
        strftime('%Y%m%d%H%M%S', k.stamp / 1000, 'unixepoch') || printf('%03d', k.stamp % 1000) AS stamp,
        k.gone AS deleted
    FROM known k JOIN kod_types t ON t.id = k.type"""

TEMPORARY = (
    "CREATE TEMP TABLE IF NOT EXISTS kod_folding (type INTEGER, key TEXT, at INTEGER, local INTEGER, gone INTEGER)",
)


def create(connection: sqlite3.Connection) -> bool:
    """Makes what is not there yet; in the caller's transaction. Whether anything was made."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'kod%'")}
    statements = [sql for name, sql in {**_TABLES, **_INDEXES, "kod_stamps": _STAMPS}.items() if name not in there]
    for sql in statements:
        connection.execute(sql)
    return bool(statements)


def drop(connection: sqlite3.Connection) -> None:
    """Takes all of it away; in the caller's transaction."""
    connection.execute("DROP VIEW IF EXISTS kod_stamps")
    for name in _TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {name}")


def are_there(connection: sqlite3.Connection) -> bool:
    (count,) = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('kod_node', 'kod_register', 'kod_log')"
    ).fetchone()
    return bool(count == 3)

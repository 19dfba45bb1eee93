"""KOD's own tables: what they are for, how they are made and taken away.

    node, types               who this node is; the types that it stamps
    packages                  the packages with which daemons ran here, and since when
    triggers                  what install made, as the server shows it
    log -> register           what capture wrote, and the versions that the fold makes of it
    applying                  the marker: the connection that writes for KOD, while it does
    presence, ahead, pending  what neighbours hold, have before its turn, are to get out of turn
    rights                    items, or types (no key), whose rights may have changed, until they are looked at again
    below                     nodes farther down, and the children through which they are reached
    walks                     how far such a type has been looked at again, by marks, from the largest down
    history                   cursors over what neighbours lack of what was there before
    sent                      which item went in which message of the latest sessions (dispatcher.manifest)
    outgoing, incoming, received, collisions     the links, and the journal
    parked                    messages that could not be applied yet
    stamps (a view)           type, key, stamp, deleted: for other consumers, the log included

Keys are bytes (VARBINARY): no collation takes two for one. They have room for 3,000, what InnoDB lets into an index.
"""

from __future__ import annotations

from node.databases.mariadb.connection import Connection

VERSION = 1
"""Of the registers' structure; the node row bears it."""

KEY_BYTES_MAX = 3_000

NOW_MS = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)"
"""Milliseconds since 1970 by the server's clock, whatever the session's time zone."""

_KEY = f"item_key VARBINARY({KEY_BYTES_MAX}) NOT NULL"
_NODE = "node VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin"
_TEXT = "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

_TABLES = {
    "kod_node": """
        one TINYINT NOT NULL PRIMARY KEY CHECK (one = 1),
        version INT NOT NULL,
        code VARCHAR(8) NOT NULL,
        incarnation BIGINT NOT NULL,
        origin VARCHAR(40) NOT NULL,
        boundary BIGINT,
        top_mark BIGINT NOT NULL DEFAULT 0,
        last_session BIGINT,
        missed BIGINT NOT NULL DEFAULT 0,
        send_streams_max INT,
        receive_streams_max INT,
        last_session_facts LONGTEXT,
        kept_at LONGTEXT,
        network VARCHAR(200),
        told_incarnation BIGINT,
        told_session BIGINT,
        bus_ahead_ms BIGINT,
        capture VARCHAR(64) NOT NULL DEFAULT '',
        package_asked VARCHAR(64),
        draining VARCHAR(8),
        hooks VARCHAR(64) NOT NULL DEFAULT ''""",
    "kod_packages": """
        fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        since BIGINT NOT NULL""",
    "kod_types": """
        id SMALLINT NOT NULL PRIMARY KEY,
        name VARCHAR(700) NOT NULL UNIQUE,
        top_mark BIGINT NOT NULL DEFAULT 0,
        stamped TINYINT NOT NULL DEFAULT 0,
        key_types LONGTEXT NOT NULL,
        `key` LONGTEXT""",
    "kod_triggers": """
        home VARCHAR(64) NOT NULL,
        name VARCHAR(64) NOT NULL,
        definition LONGTEXT NOT NULL,
        PRIMARY KEY (home, name)""",
    # No index but its number: applications append to it, and wait for nobody.
    "kod_log": f"""
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        type SMALLINT NOT NULL,
        {_KEY},
        at BIGINT NOT NULL,
        gone TINYINT NOT NULL,
        local TINYINT NOT NULL""",
    "kod_applying": "connection BIGINT UNSIGNED NOT NULL PRIMARY KEY",
    "kod_register": f"""
        type SMALLINT NOT NULL,
        {_KEY},
        stamp BIGINT NOT NULL,
        origin VARCHAR(40) NOT NULL,
        seen {_TEXT},
        mark BIGINT NOT NULL DEFAULT 0,
        known BIGINT,
        source VARCHAR(8),
        gone TINYINT NOT NULL DEFAULT 0,
        kept {_TEXT},
        has_kept TINYINT AS (kept IS NOT NULL) PERSISTENT,
        PRIMARY KEY (type, item_key),
        INDEX by_mark (mark),
        INDEX by_gone (gone, mark),
        INDEX by_stamp (gone, stamp, type, item_key),
        INDEX by_kept (type, has_kept)""",
    "kod_named": f"""
        type SMALLINT NOT NULL,
        {_KEY},
        name LONGTEXT NOT NULL,
        PRIMARY KEY (type, item_key)""",
    "kod_presence": f"""
        type SMALLINT NOT NULL,
        {_KEY},
        {_NODE} NOT NULL,
        since BIGINT,
        drawn_by LONGTEXT,
        PRIMARY KEY (type, item_key, node),
        INDEX by_since (node, since)""",
    # No index but its number, like the log.
    "kod_rights": f"""
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        type SMALLINT NOT NULL,
        {_KEY.removesuffix(" NOT NULL")},
        follow TINYINT NOT NULL DEFAULT 0""",
    "kod_walks": """
        type SMALLINT NOT NULL PRIMARY KEY,
        below BIGINT NOT NULL,
        down_to BIGINT NOT NULL DEFAULT 0,
        again_from BIGINT""",
    "kod_outgoing": f"""
        {_NODE} NOT NULL PRIMARY KEY,
        position BIGINT NOT NULL DEFAULT 0,
        last_session BIGINT,
        arrived BIGINT,
        opened BIGINT,
        joined BIGINT,
        joined_session BIGINT,
        history BIGINT,
        restart INT NOT NULL DEFAULT 0,
        wish LONGTEXT,
        messages BIGINT NOT NULL DEFAULT 0,
        items BIGINT NOT NULL DEFAULT 0,
        size_bytes BIGINT NOT NULL DEFAULT 0""",
    "kod_below": f"{_NODE} NOT NULL, via VARCHAR(8) NOT NULL, PRIMARY KEY (node, via)",
    "kod_ahead": f"""
        {_NODE} NOT NULL,
        type SMALLINT NOT NULL,
        {_KEY},
        mark BIGINT NOT NULL,
        PRIMARY KEY (node, type, item_key),
        INDEX by_mark (node, mark)""",
    "kod_pending": f"""
        number BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        {_NODE} NOT NULL,
        type SMALLINT NOT NULL,
        {_KEY},
        mark BIGINT NOT NULL,
        UNIQUE (node, type, item_key)""",
    "kod_history": f"""
        id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        {_NODE} NOT NULL,
        type SMALLINT,
        down_to BIGINT,
        reason LONGTEXT NOT NULL,
        state VARCHAR(20) NOT NULL DEFAULT 'open',
        phase TINYINT NOT NULL DEFAULT 0,
        at_stamp BIGINT,
        at_type SMALLINT,
        at_key VARBINARY({KEY_BYTES_MAX}),
        bottom BIGINT,
        passed BIGINT NOT NULL DEFAULT 0,
        sent BIGINT NOT NULL DEFAULT 0,
        total BIGINT NOT NULL DEFAULT 0,
        begun BIGINT NOT NULL,
        ended BIGINT""",
    "kod_sent": f"""
        {_NODE} NOT NULL,
        session BIGINT NOT NULL,
        items BIGINT NOT NULL,
        lowest BIGINT NOT NULL,
        highest BIGINT NOT NULL,
        manifest LONGBLOB NOT NULL,
        PRIMARY KEY (node, session)""",
    "kod_incoming": f"""
        {_NODE} NOT NULL PRIMARY KEY,
        incarnation BIGINT,
        session BIGINT,
        completed BIGINT,
        position BIGINT,
        messages BIGINT NOT NULL DEFAULT 0,
        items BIGINT NOT NULL DEFAULT 0,
        rejected BIGINT NOT NULL DEFAULT 0,
        size_bytes BIGINT NOT NULL DEFAULT 0,
        end_to_end_ms BIGINT,
        fault LONGTEXT,
        package VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
        package_since BIGINT""",
    "kod_received": f"""
        {_NODE} NOT NULL,
        session BIGINT NOT NULL,
        number INT NOT NULL,
        PRIMARY KEY (node, session, number)""",
    "kod_collisions": f"""
        id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        type VARCHAR(700) NOT NULL,
        {_KEY},
        winner_stamp BIGINT NOT NULL,
        winner_origin VARCHAR(40) NOT NULL,
        winner_text {_TEXT},
        loser_stamp BIGINT NOT NULL,
        loser_origin VARCHAR(40) NOT NULL,
        loser_text {_TEXT},
        policy VARCHAR(40) NOT NULL,
        sender VARCHAR(8) NOT NULL,
        at BIGINT NOT NULL""",
    "kod_parked": f"""
        id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        {_NODE} NOT NULL,
        name VARCHAR(200) NOT NULL,
        payload LONGBLOB NOT NULL,
        reason LONGTEXT NOT NULL,
        since BIGINT NOT NULL,
        attempts INT NOT NULL DEFAULT 0,
        items LONGTEXT NOT NULL DEFAULT '[]',
        waits_for LONGTEXT NOT NULL DEFAULT '[]',
        refused BOOLEAN NOT NULL DEFAULT FALSE""",
    "kod_held": f"""
        {_NODE} NOT NULL,
        type SMALLINT NOT NULL,
        {_KEY},
        mark BIGINT NOT NULL,
        reason LONGTEXT NOT NULL,
        since BIGINT NOT NULL,
        next_at BIGINT NOT NULL,
        PRIMARY KEY (node, type, item_key)""",
    "kod_owned": f"""
        type SMALLINT NOT NULL,
        {_KEY},
        owner_type SMALLINT NOT NULL,
        owner_key VARBINARY({KEY_BYTES_MAX}) NOT NULL,
        PRIMARY KEY (type, item_key),
        INDEX by_owner (owner_type, owner_key)""",
    "kod_ways": f"""
        type SMALLINT NOT NULL,
        {_KEY},
        link VARCHAR(8) NOT NULL,
        node VARCHAR(8) NOT NULL,
        PRIMARY KEY (type, item_key, link, node)""",
    "kod_deferred": f"""
        id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        type VARCHAR(700) NOT NULL,
        work {_TEXT} NOT NULL,
        since BIGINT NOT NULL,
        attempts INT NOT NULL,
        next_at BIGINT NOT NULL,
        reason {_TEXT}""",
}
_OPTIONS = "ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

_STAMPS = """CREATE VIEW kod_stamps AS
    WITH logged AS (
        SELECT type, item_key, MAX(at) AS at, MAX(id) AS last FROM kod_log WHERE local GROUP BY type, item_key),
    latest AS (
        SELECT g.type, g.item_key, IF(l.at IS NULL, g.stamp, GREATEST(l.at, g.stamp + 1)) AS stamp,
            IF(l.at IS NULL, g.gone, (SELECT gone FROM kod_log WHERE id = l.last)) AS gone
        FROM kod_register g LEFT JOIN logged l ON l.type = g.type AND l.item_key = g.item_key
        UNION ALL
        SELECT l.type, l.item_key, l.at, (SELECT gone FROM kod_log WHERE id = l.last) FROM logged l
        WHERE NOT EXISTS (SELECT 1 FROM kod_register g WHERE g.type = l.type AND g.item_key = l.item_key))
    SELECT t.name AS type,
        CONCAT('[', GROUP_CONCAT(CONCAT('{', JSON_QUOTE(x.kind), ':',
            JSON_EXTRACT(CONVERT(k.item_key USING utf8mb4), CONCAT('$[', x.n - 1, ']')), '}') ORDER BY x.n),
            ']') AS `key`,
        CONCAT(DATE_FORMAT(DATE_ADD('1970-01-01 00:00:00', INTERVAL k.stamp DIV 1000 SECOND), '%%Y%%m%%d%%H%%i%%s'),
            LPAD(k.stamp %% 1000, 3, '0')) AS stamp,
        k.gone AS deleted
    FROM latest k JOIN kod_types t ON t.id = k.type
    JOIN JSON_TABLE(t.key_types, '$[*]' COLUMNS (n FOR ORDINALITY, kind VARCHAR(700) PATH '$')) x
    GROUP BY t.name, k.item_key, k.stamp, k.gone"""

TEMPORARY = (
    f"CREATE TEMPORARY TABLE IF NOT EXISTS kod_folding (n BIGINT NOT NULL PRIMARY KEY, type SMALLINT NOT NULL, {_KEY},"
    " at BIGINT NOT NULL, local TINYINT NOT NULL, gone TINYINT NOT NULL) ENGINE = InnoDB",
    "CREATE TEMPORARY TABLE IF NOT EXISTS kod_taken (id BIGINT UNSIGNED NOT NULL PRIMARY KEY) ENGINE = InnoDB",
    f"CREATE TEMPORARY TABLE IF NOT EXISTS kod_asked (n INT NOT NULL PRIMARY KEY, type SMALLINT NOT NULL, {_KEY})"
    " ENGINE = InnoDB",
)


def create(connection: Connection) -> bool:
    """Makes what is not there yet. Whether anything was made."""
    there = _there(connection)
    for name, columns in _TABLES.items():
        if name not in there:
            connection.run(f"CREATE TABLE {name} ({columns}) {_OPTIONS}")
    if "kod_stamps" not in there:
        connection.run(_STAMPS)
    return not there >= {*_TABLES, "kod_stamps"}


def drop(connection: Connection) -> None:
    connection.run("DROP VIEW IF EXISTS kod_stamps")
    for name in _TABLES:
        connection.run(f"DROP TABLE IF EXISTS {name}")


def are_there(connection: Connection) -> bool:
    return _there(connection) >= set(_TABLES)


def type_ids(connection: Connection) -> dict[str, int]:
    """The types' numbers, by name."""
    return {name: number for name, number in connection.rows("SELECT name, id FROM kod_types")}  # noqa: C416 - typed


def _there(connection: Connection) -> set[str]:
    rows = connection.rows(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
        r" AND TABLE_NAME LIKE 'kod\_%%'"
    )
    return {name for (name,) in rows}

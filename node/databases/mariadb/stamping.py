"""Stamps for rows that were there before capture: `kod install --stamp-existing`.

By the type's date, else by the owner's stamp, else the earliest. In portions, each its own transaction; what was
interrupted goes on where it stopped, because only rows without a stamp are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from node.databases.mariadb import registers
from node.databases.mariadb.connection import Connection, transaction
from node.databases.mariadb.lexical import Form, quoted
from node.databases.mariadb.reading import TypeReading
from node.databases.mariadb.registers import KEY_BYTES_MAX, NOW_MS
from node.databases.stamped import waiting_mark
from schemas.stamp import Stamp
from schemas.structure import Structure

_UNSTAMPED = (
    "CREATE TEMPORARY TABLE kod_unstamped (n BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,"
    f" item_key VARBINARY({KEY_BYTES_MAX}) NOT NULL, at BIGINT NOT NULL) ENGINE = InnoDB"
)


_DATED = (
    f"CREATE TEMPORARY TABLE kod_dated (item_key VARBINARY({KEY_BYTES_MAX}) NOT NULL PRIMARY KEY, at BIGINT NOT NULL)"
    " ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
)
DATED_AT_ONCE = 1_000


def stamp_existing(
    connection: Connection,
    structure: Structure,
    progress: Callable[[str, int, int], None],
    portion: int,
    dates: Mapping[str, Iterable[tuple[str, Stamp]]],
) -> int:
    type_ids = registers.type_ids(connection)
    readings = {n: TypeReading(t, type_ids[n]) for n, t in structure.types.items() if n in type_ids}
    return sum(
        _stamp(connection, readings, reading, progress, portion, dates.get(reading.item_type.name))
        for reading in readings.values()  # in the order of rank: owners before their dependants
        if reading.item_type.table is not None
    )


def _stamp(
    connection: Connection,
    readings: Mapping[str, TypeReading],
    reading: TypeReading,
    progress: Callable[[str, int, int], None],
    portion: int,
    dates: Iterable[tuple[str, Stamp]] | None,
) -> int:
    name, type_id = reading.item_type.name, reading.type_id
    connection.run("DROP TEMPORARY TABLE IF EXISTS kod_dated")
    if dates is not None:
        connection.run(_DATED)
        rows = ((key.encode(), at) for key, at in dates)
        while some := list(islice(rows, DATED_AT_ONCE)):
            connection.many("INSERT INTO kod_dated (item_key, at) VALUES (%s, %s)", some)
    connection.run("DROP TEMPORARY TABLE IF EXISTS kod_unstamped")
    connection.run(_UNSTAMPED)
    connection.run(
        f"INSERT INTO kod_unstamped (item_key, at) SELECT q.k, GREATEST(0, LEAST(MAX(q.at), {NOW_MS}))"
        f" FROM ({_dated_keys(reading, readings, told=dates is not None)}) q WHERE NOT EXISTS"
        f" (SELECT 1 FROM kod_register g WHERE g.type = {type_id} AND g.item_key = q.k)"
        " GROUP BY CAST(q.k AS BINARY) ORDER BY MAX(q.at) DESC"
    )
    (total,) = connection.one("SELECT COUNT(*) FROM kod_unstamped")
    for start in range(0, total, portion):
        with transaction(connection):
            fresh = (
                f"FROM kod_unstamped u WHERE u.n > {start} AND u.n <= {start + portion} AND NOT EXISTS"
                f" (SELECT 1 FROM kod_register g WHERE g.type = {type_id} AND g.item_key = u.item_key)"
            )
            # where there are no links yet, 0: history brings them to who comes later
            mark = waiting_mark("u.at") if connection.rows("SELECT 1 FROM kod_outgoing LIMIT 1") else "0"
            connection.run(
                "INSERT INTO kod_register (type, item_key, stamp, origin, mark)"
                f" SELECT {type_id}, u.item_key, u.at, (SELECT origin FROM kod_node), {mark} {fresh}"
            )
        progress(name, min(start + portion, total), total)
    with transaction(connection):
        connection.run("UPDATE kod_types SET stamped = 1 WHERE id = %s", (type_id,))
    connection.run("DROP TEMPORARY TABLE kod_unstamped")
    return int(total)


def _dated_keys(reading: TypeReading, readings: Mapping[str, TypeReading], *, told: bool) -> str:
    """SELECT k, at: of all rows of a type's table. `told`: before all else by what is in kod_dated."""
    item_type = reading.item_type
    dates = [f"(SELECT d.at FROM kod_dated d WHERE d.item_key = {reading.key_of_row('r')})"] if told else []
    if item_type.date:
        column = f"r.{quoted(item_type.date)}"
        fields = {f.column.name: f for f in item_type.held if f.column}
        moment = item_type.date in fields and Form.of(fields[item_type.date]).is_moment
        since = f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', {column}) DIV 1000"
        dates.append(f"FLOOR(UNIX_TIMESTAMP({column}) * 1000)" if moment else since)
    owner = item_type.owner_reference
    target = readings.get(owner.target) if owner else None
    if owner and target and target.item_type.table:
        joined = " AND ".join(
            f"o.{quoted(theirs)} = r.{quoted(ours)}"
            for ours, theirs in zip(owner.columns, owner.target_columns, strict=True)
        )
        dates.append(
            f"(SELECT g.stamp FROM {target.table} o JOIN kod_register g ON g.type = {target.type_id}"
            f" AND g.item_key = {target.key_of_row('o')} WHERE {joined} LIMIT 1)"
        )
    at = f"COALESCE({', '.join([*dates, '0'])})"
    return f"SELECT {reading.key_of_row('r')} AS k, {at} AS at FROM {reading.table} r"

"""Stamps for rows that were there before capture: `kod install --stamp-existing`.

By the type's date, else by the owner's stamp, else the earliest. In portions, each its own transaction; what was
interrupted goes on where it stopped, because only rows without a stamp are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from node.databases.postgresql.connecting import Connection
from node.databases.postgresql.keys import key_columns, key_text
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import ITEMS, NOW_MS, TypeIds
from node.databases.stamped import waiting_mark
from schemas.stamp import Stamp
from schemas.structure import ItemType, Structure
from serializers.keys import Item

# `gone` makes the fold look whether the item is there.
_AGAIN = f"""
INSERT INTO kod.log (type, key, at, gone, local) SELECT i.type, i.key, {NOW_MS}, true, true FROM {ITEMS} i"""


def again(ids: TypeIds, items: Sequence[Item]) -> tuple[str, tuple[str, str]]:
    """What makes items changed now, as if the application had written them."""
    return _AGAIN, ids.items(items)


def stamp_existing(
    connection: Connection,
    structure: Structure,
    progress: Callable[[str, int, int], None],
    portion: int,
    dates: Mapping[str, Iterable[tuple[str, Stamp]]],
) -> int:
    ids = {name: number for number, name in connection.execute("SELECT id, name FROM kod.types").fetchall()}
    return sum(
        _stamp(connection, structure, item_type, ids, progress, portion, dates.get(name))
        for name, item_type in structure.types.items()  # in the order of rank: owners before their dependants
        if item_type.table is not None and name in ids
    )


def _stamp(
    connection: Connection,
    structure: Structure,
    item_type: ItemType,
    ids: dict[str, int],
    progress: Callable[[str, int, int], None],
    portion: int,
    dates: Iterable[tuple[str, Stamp]] | None,
) -> int:
    number = ids[item_type.name]
    connection.execute("DROP TABLE IF EXISTS pg_temp.kod_dated")
    if dates is not None:
        connection.execute('CREATE TEMPORARY TABLE kod_dated (key text COLLATE "C" PRIMARY KEY, at bigint)')
        with connection.cursor().copy("COPY pg_temp.kod_dated FROM STDIN") as copy:
            for dated in dates:
                copy.write_row(dated)
    connection.execute("DROP TABLE IF EXISTS pg_temp.kod_unstamped")
    connection.execute("SET enable_seqscan = on")  # whole tables are read
    connection.execute(
        "CREATE TEMPORARY TABLE kod_unstamped AS"
        f" SELECT key, greatest(0, least(at, {NOW_MS})) AS at, row_number() OVER (ORDER BY at DESC, key) AS n"
        f" FROM ({_dated_keys(structure, item_type, ids, told=dates is not None)}) q WHERE NOT EXISTS"
        f" (SELECT FROM kod.register r WHERE r.type = {number} AND r.key = q.key)"
    )
    connection.execute("CREATE INDEX ON pg_temp.kod_unstamped (n)")
    row = connection.execute("SELECT count(*) FROM pg_temp.kod_unstamped").fetchone()
    total = int(row[0]) if row else 0
    for start in range(0, total, portion):
        # What was changed meanwhile has its version already, or in the log. Where there are no links yet, 0: history
        # brings them to who comes later.
        connection.execute(
            "INSERT INTO kod.register (type, key, stamp, origin, mark) SELECT"
            f" {number}, u.key, u.at, k.origin, CASE WHEN EXISTS (SELECT FROM kod.outgoing) THEN {waiting_mark('u.at')}"
            " ELSE 0 END FROM pg_temp.kod_unstamped u, kod.node k"
            " WHERE u.n > $1::bigint AND u.n <= $2::bigint ON CONFLICT DO NOTHING",
            (str(start), str(start + portion)),
        )
        progress(item_type.name, min(start + portion, total), total)
    connection.execute("UPDATE kod.types SET stamped = true WHERE id = $1::smallint", (str(number),))
    connection.execute("DROP TABLE pg_temp.kod_unstamped")
    connection.execute("RESET enable_seqscan")
    return total


def _dated_keys(structure: Structure, item_type: ItemType, ids: dict[str, int], *, told: bool) -> str:
    """SELECT key, at: of all items of a type. `told`: before all else by what is in kod_dated."""
    assert item_type.table is not None
    key = key_text(item_type.key, [f"t.{quoted(column.name)}" for column in key_columns(item_type)])
    dates = [f"(SELECT d.at FROM pg_temp.kod_dated d WHERE d.key = {key})"] if told else []
    if item_type.date:
        date = f"t.{quoted(item_type.date)}"
        dates.append(f"CASE WHEN isfinite({date}) THEN floor(extract(epoch FROM {date}) * 1000)::bigint END")
    owner = item_type.owner_reference
    target = structure.types.get(owner.target) if owner else None
    if owner and target and target.table and owner.target in ids:
        joined = " AND ".join(
            f"o.{quoted(there)} = t.{quoted(here)}"
            for here, there in zip(owner.columns, owner.target_columns, strict=True)
        )
        owner_key = key_text(target.key, [f"o.{quoted(column.name)}" for column in key_columns(target)])
        dates.append(
            f"(SELECT r.stamp FROM {quoted_table(target.table)} o JOIN kod.register r"
            f" ON r.type = {ids[owner.target]} AND r.key = {owner_key} WHERE {joined} LIMIT 1)"
        )
    at = f"coalesce({', '.join([*dates, '0'])})"
    return f"SELECT {key} AS key, max({at}) AS at FROM {quoted_table(item_type.table)} t GROUP BY 1"

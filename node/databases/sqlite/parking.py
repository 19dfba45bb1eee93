"""Messages that could not be applied, and what stands in the way of a deletion."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from dispatcher.ports import Letter, Parked, ParkedItem, Reason, Waiting
from node.databases.parked import items_of, waits_of, waits_text, what_is_kept
from node.databases.sqlite.lexical import quoted
from node.databases.sqlite.reading import Reading, by_type, referring_values
from schemas.stamp import Stamp
from schemas.structure import ItemType, Reference, Structure
from serializers.keys import Item


def park(
    connection: sqlite3.Connection,
    letter: Letter,
    reason: Reason,
    items: Sequence[ParkedItem],
    now_sql: str,
    *,
    refused: bool,
) -> None:
    connection.execute(
        "INSERT INTO kod_parked (node, name, payload, reason, since, items, waits_for, refused) "
        f"VALUES (?, ?, ?, ?, {now_sql}, ?, ?, ?)",
        (letter.node, letter.name, letter.payload, *what_is_kept(reason, items), refused),
    )


def unpark(connection: sqlite3.Connection, parked_id: int) -> None:
    connection.execute("DELETE FROM kod_parked WHERE id = ?", (parked_id,))


def waiting(connection: sqlite3.Connection, node: str) -> list[Waiting]:
    rows = connection.execute("SELECT id, items FROM kod_parked WHERE node = ? ORDER BY id", (node,))
    return [Waiting(number, items_of(items)) for number, items in rows]


def parked(connection: sqlite3.Connection) -> list[Parked]:
    """In the order in which they came."""
    rows = connection.execute(
        "SELECT id, node, name, payload, reason, since, attempts, waits_for, refused FROM kod_parked ORDER BY id"
    ).fetchall()
    return [
        Parked(number, node, name, bytes(payload), reason, Stamp(since), attempts, waits_of(waits_for), bool(refused))
        for number, node, name, payload, reason, since, attempts, waits_for, refused in rows
    ]


def parked_again(connection: sqlite3.Connection, parked_id: int, reason: Reason) -> None:
    connection.execute(
        "UPDATE kod_parked SET attempts = attempts + 1, reason = ?, waits_for = ? WHERE id = ?",
        (reason.text, waits_text(reason.waits_for), parked_id),
    )


def referred(
    reading: Reading,
    connection: sqlite3.Connection,
    structure: Structure,
    items: Sequence[Item],
    besides: Sequence[Item],
    wanted: Callable[[Structure, str], Iterable[tuple[ItemType, Reference]]],
) -> frozenset[Item]:
    """Those of `items` to which rows of items other than `besides` refer, by the references `wanted` to their type."""
    left_out = frozenset(besides)
    found: set[Item] = set()
    for type_name, of_type in by_type(items).items():
        reading.ask(of_type)
        for source, reference in ((t.name, r) for t, r in wanted(structure, type_name)):
            for n, key in connection.execute(referring(reading, type_name, source, reference)).fetchall():
                if Item(source, key) not in left_out:
                    found.add(of_type[n])
    return frozenset(found)


def referring(reading: Reading, target: str, source: str, reference: Reference) -> str:
    """SELECT n of the asked target, the key of the item whose row refers to it."""
    there, from_there = reading.types[target], reading.types[source]
    row = "s" if reference.section else "r"
    tied = " AND ".join(
        f"{ours} = t.{quoted(theirs)}"
        for ours, theirs in zip(referring_values(reference, row), reference.target_columns, strict=True)
    )
    if reference.section:
        section = next(s for s in from_there.item_type.sections if s.name == reference.section)
        linked = " AND ".join(f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        rows = f"JOIN {quoted(section.table)} s ON {tied} JOIN {from_there.table} r ON {linked}"
    else:
        rows = f"JOIN {from_there.table} r ON {tied}"
    return (
        f"SELECT DISTINCT k.n, {from_there.key_of_row('r')} FROM temp.kod_asked k "
        f"CROSS JOIN {there.table} t ON {there.joined('t')} {rows}"
    )

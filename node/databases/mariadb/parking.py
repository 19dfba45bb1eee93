"""Messages that could not be applied, and what stands in the way of a deletion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dispatcher.ports import Letter, Parked, ParkedItem, Reason, Waiting
from node.databases.mariadb.connection import Connection
from node.databases.mariadb.lexical import quoted
from node.databases.mariadb.reading import Reading, by_type, referring_values
from node.databases.mariadb.reflection import quoted_table
from node.databases.mariadb.registers import NOW_MS
from node.databases.parked import items_of, waits_of, waits_text, what_is_kept
from schemas.stamp import Stamp
from schemas.structure import ItemType, Reference, Structure
from serializers.keys import Item


def park(connection: Connection, letter: Letter, reason: Reason, items: Sequence[ParkedItem], *, refused: bool) -> None:
    connection.run(
        "INSERT INTO kod_parked (node, name, payload, reason, since, items, waits_for, refused)"
        f" VALUES (%s, %s, %s, %s, {NOW_MS}, %s, %s, %s)",
        (letter.node, letter.name, letter.payload, *what_is_kept(reason, items), refused),
    )


def unpark(connection: Connection, parked_id: int) -> None:
    connection.run("DELETE FROM kod_parked WHERE id = %s", (parked_id,))


def waiting(connection: Connection, node: str) -> list[Waiting]:
    rows = connection.rows("SELECT id, items FROM kod_parked WHERE node = %s ORDER BY id", (node,))
    return [Waiting(number, items_of(items)) for number, items in rows]


def parked(connection: Connection) -> list[Parked]:
    """In the order in which they came."""
    rows = connection.rows(
        "SELECT id, node, name, payload, reason, since, attempts, waits_for, refused FROM kod_parked ORDER BY id"
    )
    return [
        Parked(number, node, name, bytes(payload), reason, Stamp(since), attempts, waits_of(waits_for), bool(refused))
        for number, node, name, payload, reason, since, attempts, waits_for, refused in rows
    ]


def parked_again(connection: Connection, parked_id: int, reason: Reason) -> None:
    connection.run(
        "UPDATE kod_parked SET attempts = attempts + 1, reason = %s, waits_for = %s WHERE id = %s",
        (reason.text, waits_text(reason.waits_for), parked_id),
    )


def referred(
    reading: Reading,
    connection: Connection,
    structure: Structure,
    items: Sequence[Item],
    besides: Sequence[Item],
    wanted: Callable[[Structure, str], Iterable[tuple[ItemType, Reference]]],
) -> frozenset[Item]:
    """Those of `items` to which rows of items other than `besides` refer, by the references `wanted` to their type."""
    left_out = frozenset(besides)
    found: set[Item] = set()
    for type_name, of_type in by_type(items).items():
        if not reading.has_table(type_name):
            continue
        for source, reference in ((t.name, r) for t, r in wanted(structure, type_name)):
            reading.ask_typed(type_name, of_type)
            for n, key in connection.rows(referring(reading, type_name, source, reference)):
                if Item(source, key) not in left_out:
                    found.add(of_type[n])
    return frozenset(found)


def referring(reading: Reading, target: str, source: str, reference: Reference) -> str:
    """SELECT n of the asked target, the key of the item whose row refers to it."""
    there, from_there = reading.types[target], reading.types[source]
    row = "s" if reference.section else "f"
    values = referring_values(reference, row, there)
    tied = " AND ".join(
        f"{ours} = r.{quoted(theirs)}" for ours, theirs in zip(values, reference.target_columns, strict=True)
    )
    if reference.section:
        section = next(s for s in from_there.item_type.sections if s.name == reference.section)
        linked = " AND ".join(f"s.{quoted(own)} = f.{quoted(theirs)}" for own, theirs in section.link)
        rows = f"JOIN {quoted_table(section.table)} s ON {tied} JOIN {from_there.table} f ON {linked}"
    else:
        rows = f"JOIN {from_there.table} f ON {tied}"
    return f"SELECT DISTINCT k.n, {from_there.key_of_row('f')} FROM {there.rows} {rows}"

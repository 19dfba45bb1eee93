"""Messages that could not be applied, and what stands in the way of a deletion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import orjson

from dispatcher.ports import Letter, Parked
from node.databases.postgresql.connecting import Connection, Statement, Transaction
from node.databases.postgresql.keys import key_columns, key_text, keys_parameter, typed_keys
from node.databases.postgresql.reading import matches
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import NOW_MS
from schemas.stamp import Stamp
from schemas.structure import ItemType, Reference, Structure
from schemas.tables import Table
from serializers.keys import Item

_PARK = f"""
INSERT INTO kod.parked (node, name, payload, reason, since) VALUES ($1, $2, decode($3, 'hex'), $4, {NOW_MS})"""
_PARKED = "SELECT id, node, name, payload, reason, since, attempts FROM kod.parked ORDER BY id"
_PARKED_AGAIN = "UPDATE kod.parked SET attempts = attempts + 1, reason = $2 WHERE id = $1"


def park(letter: Letter, reason: str) -> Statement:
    return Statement(_PARK, (letter.node, letter.name, letter.payload.hex(), reason))


def unpark(parked_id: int) -> Statement:
    return Statement("DELETE FROM kod.parked WHERE id = $1::bigint", (str(parked_id),))


def parked(connection: Connection) -> list[Parked]:
    """In the order in which they came."""
    return [
        Parked(number, node, name, bytes(payload), reason, Stamp(since), attempts)
        for number, node, name, payload, reason, since, attempts in connection.execute(_PARKED).fetchall()
    ]


def parked_again(connection: Connection, parked_id: int, reason: str) -> None:
    connection.execute(_PARKED_AGAIN, (parked_id, reason))


def referred(
    transaction: Transaction, structure: Structure, items: Sequence[Item], besides: Sequence[Item]
) -> frozenset[Item]:
    """Those of `items` to which rows of items other than `besides` refer."""
    return _asked(transaction, structure, items, besides, lambda source, reference: True)


def cascading(
    transaction: Transaction,
    structure: Structure,
    tables: Mapping[str, Table],
    items: Sequence[Item],
    besides: Sequence[Item],
) -> frozenset[Item]:
    """Those of `items` whose deletion would delete, or change, rows of items other than `besides`."""

    def cascades(source: ItemType, reference: Reference) -> bool:
        names = {section.name: section.table for section in source.sections}
        table = tables[names[reference.section] if reference.section else source.table or ""]
        return any(
            fk.columns == reference.columns and fk.on_delete not in ("", "RESTRICT") for fk in table.foreign_keys
        )

    return _asked(transaction, structure, items, besides, cascades)


def _asked(
    transaction: Transaction,
    structure: Structure,
    items: Sequence[Item],
    besides: Sequence[Item],
    wanted: Callable[[ItemType, Reference], bool],
) -> frozenset[Item]:
    asked = []
    for name in dict.fromkeys(item.type for item in items):
        of_type = [item for item in items if item.type == name]
        keys = keys_parameter(structure[name], [item.key for item in of_type])
        for source, reference in _references_to(structure, name):
            if not wanted(source, reference):
                continue
            left_out = orjson.dumps([item.key for item in besides if item.type == source.name]).decode()
            asked.append((of_type, Statement(_referring(structure[name], source, reference), (keys, left_out))))
    results = transaction.run(*(statement for _, statement in asked)) if asked else []
    return frozenset(its[number - 1] for (its, _), rows in zip(asked, results, strict=True) for (number,) in rows)


def _references_to(structure: Structure, target: str) -> Iterator[tuple[ItemType, Reference]]:
    if structure[target].table is None:
        return
    for item_type in structure.types.values():
        if item_type.table is not None:
            yield from ((item_type, r) for r in item_type.references if r.target == target)


def _referring(target: ItemType, source: ItemType, reference: Reference) -> str:
    """SELECT n of those asked targets ($1) to which a row of another item than those of $2 refers: the first such row
    decides, however many there are."""
    assert target.table is not None
    assert source.table is not None
    row, rows = "r", f"{quoted_table(source.table)} r"
    if reference.section is not None:
        section = next(s for s in source.sections if s.name == reference.section)
        link = " AND ".join(f"s.{quoted(own)} = r.{quoted(theirs)}" for own, theirs in section.link)
        row, rows = "s", f"{quoted_table(section.table)} s JOIN {quoted_table(source.table)} r ON {link}"
    tied = " AND ".join(
        f"{row}.{quoted(ours)} = t.{quoted(theirs)}"
        for ours, theirs in zip(reference.columns, reference.target_columns, strict=True)
    )
    key = key_text(source.key, [f"r.{quoted(column.name)}" for column in key_columns(source)])
    return (
        f"SELECT k.n::int FROM {typed_keys(target, '$1')} k CROSS JOIN LATERAL"
        f" (SELECT * FROM {quoted_table(target.table)} t WHERE {matches(target, 't', 'k', ())} LIMIT 1) t"
        f" WHERE EXISTS (SELECT FROM {rows} WHERE {tied}"
        f" AND {key} <> ALL (ARRAY(SELECT json_array_elements_text($2::json))))"
    )

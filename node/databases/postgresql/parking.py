"""Messages that could not be applied, and what stands in the way of a deletion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from dispatcher.ports import Letter, Parked, ParkedItem, Reason, Taken, Waiting
from node.databases.parked import items_of, items_text, waits_of, waits_text
from node.databases.postgresql.connecting import Connection, Statement, Transaction
from node.databases.postgresql.keys import key_columns, key_text, keys_parameter, typed_keys
from node.databases.postgresql.lexical import from_recordset, recordset_type
from node.databases.postgresql.reading import matches, referring_values
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import NOW_MS
from schemas.stamp import Stamp
from schemas.structure import Field, ItemType, Reference, Section, Structure
from schemas.tables import Table
from serializers.keys import Item

_PARK = f"""
INSERT INTO kod.parked (node, name, payload, reason, since, items, waits_for, refused)
VALUES ($1, $2, decode($3, 'hex'), $4, {NOW_MS}, $5, $6, $7::boolean)"""
_PARKED = "SELECT id, node, name, payload, reason, since, attempts, waits_for, refused FROM kod.parked ORDER BY id"
_PARKED_AGAIN = "UPDATE kod.parked SET attempts = attempts + 1, reason = $2, waits_for = $3 WHERE id = $1"
_WAITING = "SELECT id, items FROM kod.parked WHERE node = $1 ORDER BY id"


def park(letter: Letter, reason: Reason, items: Sequence[ParkedItem], *, refused: bool) -> Statement:
    beside = (items_text(items), waits_text(reason.waits_for), str(refused))
    return Statement(_PARK, (letter.node, letter.name, letter.payload.hex(), reason.text, *beside))


def unpark(parked_id: int) -> Statement:
    return Statement("DELETE FROM kod.parked WHERE id = $1::bigint", (str(parked_id),))


def waiting(transaction: Transaction, node: str) -> list[Waiting]:
    return [Waiting(number, items_of(items)) for number, items in transaction.rows(Statement(_WAITING, (node,)))]


def parked(connection: Connection) -> list[Parked]:
    """In the order in which they came."""
    return [
        Parked(number, node, name, bytes(payload), reason, Stamp(since), attempts, waits_of(waits_for), bool(refused))
        for number, node, name, payload, reason, since, attempts, waits_for, refused in connection.execute(
            _PARKED
        ).fetchall()
    ]


def parked_again(connection: Connection, parked_id: int, reason: Reason) -> None:
    connection.execute(_PARKED_AGAIN, (parked_id, reason.text, waits_text(reason.waits_for)))


def taken(
    transaction: Transaction,
    structure: Structure,
    tables: Mapping[str, Table],
    values: Mapping[Item, Mapping[str, Any]],
) -> Mapping[Item, Sequence[Taken]]:
    """Which of the items' unique values other items have."""
    found: dict[Item, list[Taken]] = {}
    asked = []
    for name in dict.fromkeys(item.type for item in values):
        item_type = structure[name]
        of_type = [item for item in values if item.type == name]
        names = {f.column.name: f for f in item_type.held if f.column is not None}
        for unique in item_type.uniques if item_type.is_object and item_type.table is not None else ():
            fields = [names[column] for column in unique if column in names]
            whole = [i for i in of_type if all(values[i].get(f.name) is not None for f in fields)]
            if len(fields) == len(unique) and whole:
                values_of = [{"kod_n": n, **{f.name: values[i][f.name] for f in fields}} for n, i in enumerate(whole)]
                text = orjson.dumps(values_of).decode()
                asked.append((whole, [f.name for f in fields], Statement(_having(item_type, fields), (text,))))
        for section in item_type.sections if item_type.table is not None else ():
            fields_of = {f.column.name: f for f in section.fields if f.column is not None}
            for unique in section.uniques:
                fields = [fields_of[column] for column in unique]
                values_of = [
                    {"kod_n": n, **{f.name: row[f.name] for f in fields}}
                    for n, i in enumerate(of_type)
                    for row in values[i].get(section.name) or ()
                    if all(row.get(f.name) is not None for f in fields)
                ]
                if values_of:
                    having = Statement(_having(item_type, fields, section), (orjson.dumps(values_of).decode(),))
                    asked.append((of_type, [f"{section.name}.{f.name}" for f in fields], having))
    results = transaction.run(*(statement for _, _, statement in asked)) if asked else []
    for (whole, names_of, _), rows in zip(asked, results, strict=True):
        for number, key in dict.fromkeys(rows):
            if key != whole[number].key:
                found.setdefault(whole[number], []).append(Taken(tuple(names_of), Item(whole[number].type, key)))
    return found


def _having(item_type: ItemType, fields: Sequence[Field], section: Section | None = None) -> str:
    """SELECT number, key of the items that have the values of $1 in these columns, of their own or of a section."""
    assert item_type.table is not None
    rows, row = f"{quoted_table(item_type.table)} t", "t"
    if section is not None:
        link = " AND ".join(f"s.{quoted(own)} = t.{quoted(theirs)}" for own, theirs in section.link)
        rows, row = f"({quoted_table(section.table)} s JOIN {rows} ON {link})", "s"
    described, same = ["kod_n integer"], []
    for f in fields:
        assert f.column is not None
        described.append(f"{quoted(f.name)} {recordset_type(f.column, f.prop)}")
        same.append(f"{row}.{quoted(f.column.name)} = {from_recordset(f'x.{quoted(f.name)}', f.column, f.prop)}")
    key = key_text(item_type.key, [f"t.{quoted(column.name)}" for column in key_columns(item_type)])
    return (
        f"SELECT x.kod_n, {key} FROM json_to_recordset($1::json) AS x({', '.join(described)})"
        f" JOIN {rows} ON {' AND '.join(same)}"
    )


def referred(
    transaction: Transaction,
    structure: Structure,
    items: Sequence[Item],
    besides: Sequence[Item],
    *,
    only_unchecked: bool,
) -> frozenset[Item]:
    """Those of `items` to which rows of items other than `besides` refer."""

    def wanted(source: ItemType, reference: Reference) -> bool:
        return not only_unchecked or reference in source.unchecked

    return _asked(transaction, structure, items, besides, wanted)


def there(transaction: Transaction, structure: Structure, items: Sequence[Item]) -> frozenset[Item]:
    """Those of `items` that are here, locked as a foreign key would lock them."""
    asked = []
    for name in sorted({item.type for item in items}, key=lambda name: (structure[name].rank, name)):
        of_type = sorted(item for item in items if item.type == name)
        table = structure[name].table
        if table is not None:
            keys = keys_parameter(structure[name], [item.key for item in of_type])
            statement = (
                f"SELECT k.n::int FROM {typed_keys(structure[name], '$1')} k CROSS JOIN LATERAL"
                f" (SELECT FROM {quoted_table(table)} t WHERE {matches(structure[name], 't', 'k', ())} LIMIT 1"
                " FOR KEY SHARE) t"
            )
            asked.append((of_type, Statement(statement, (keys,))))
    results = transaction.run(*(statement for _, statement in asked)) if asked else []
    return frozenset(its[number - 1] for (its, _), rows in zip(asked, results, strict=True) for (number,) in rows)


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
        for source, reference in structure.references_to(name) if structure[name].table is not None else ():
            if not wanted(source, reference):
                continue
            left_out = orjson.dumps([item.key for item in besides if item.type == source.name]).decode()
            asked.append((of_type, Statement(_referring(structure[name], source, reference), (keys, left_out))))
    results = transaction.run(*(statement for _, statement in asked)) if asked else []
    return frozenset(its[number - 1] for (its, _), rows in zip(asked, results, strict=True) for (number,) in rows)


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
        f"{ours} = t.{quoted(theirs)}"
        for ours, theirs in zip(referring_values(source, reference, row, target), reference.target_columns, strict=True)
    )
    key = key_text(source.key, [f"r.{quoted(column.name)}" for column in key_columns(source)])
    return (
        f"SELECT k.n::int FROM {typed_keys(target, '$1')} k CROSS JOIN LATERAL"
        f" (SELECT * FROM {quoted_table(target.table)} t WHERE {matches(target, 't', 'k', ())} LIMIT 1) t"
        f" WHERE EXISTS (SELECT FROM {rows} WHERE {tied}"
        f" AND {key} <> ALL (ARRAY(SELECT json_array_elements_text($2::json))))"
    )

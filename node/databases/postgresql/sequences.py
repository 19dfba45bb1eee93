"""Sequences behind generated keys: moved past what was applied, so that the application's next insert finds its key
free; and set to a node's own residue class (`identity` in nodes.yaml)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from node.databases.postgresql.connecting import Connection, Statement, literal
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.writing import Written
from schemas.structure import ItemType, Structure
from schemas.tables import Table

_SEQUENCE = """
SELECT d.refobjid::regclass::text FROM pg_attrdef a JOIN pg_depend d
  ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
JOIN pg_attribute t ON t.attrelid = a.adrelid AND t.attnum = a.adnum
WHERE a.adrelid = to_regclass($1) AND t.attname = $2
UNION ALL
SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_attribute t ON t.attrelid = d.refobjid AND t.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'
  AND d.refobjid = to_regclass($1) AND t.attname = $2
LIMIT 1"""

# nextval never goes back whatever others do at the same time; setval could, so it is used for leaps only, which
# nobody makes in the moment between reading the sequence and setting it. Steps keep the residue class.
_MOVE = """
SELECT CASE WHEN steps BETWEEN 1 AND 1000 THEN (SELECT max(nextval({name})) FROM generate_series(1, steps))
            WHEN steps > 1000 THEN setval({name}, s.last_value + (steps - (NOT s.is_called)::int) * q.seqincrement) END
FROM {sequence} s, pg_sequence q, LATERAL (
  SELECT ceil(($1::numeric - s.last_value) / q.seqincrement)::bigint + (NOT s.is_called)::int AS steps) m
WHERE q.seqrelid = {name}::regclass AND q.seqincrement > 0 AND $1::numeric >= s.last_value + s.is_called::int"""


class Sequences:
    """The sequences behind the columns of a structure's tables."""

    def __init__(self, structure: Structure, sequences: Mapping[tuple[str, str], str]) -> None:
        self._types = structure.types
        self._sequences = sequences

    def statements(self, written: Sequence[Written]) -> Iterator[Statement]:
        """What moves the sequences that lag behind the values of new rows."""
        if not self._sequences:
            return
        largest: dict[str, int] = {}
        for one in written:
            if one.value is not None:
                for sequence, value in self._values(self._types[one.item.type], one.value):
                    largest[sequence] = max(largest.get(sequence, value), value)
        for sequence, value in largest.items():
            yield Statement(_MOVE.format(name=literal(sequence), sequence=sequence), (str(value),))

    def _values(self, item_type: ItemType, value: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        if item_type.table is None:
            return
        rows = [value] if item_type.is_object else [{**value["Filter"], **row} for row in value["Records"]]
        yield from self._of(item_type.table, item_type.held, rows)
        for section in item_type.sections:
            held = [f for f in section.fields if f.column is not None]
            yield from self._of(section.table, held, value.get(section.name) or ())

    def _of(self, table: str, fields: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
        for field in fields:
            sequence = self._sequences.get((table, field.column.name))
            if sequence:
                values = [int(row[field.name]) for row in rows if row.get(field.name) is not None]
                if values:
                    yield sequence, max(values)


def find_sequences(connection: Connection, tables: Mapping[str, Table]) -> dict[tuple[str, str], str]:
    """The sequence, as SQL, behind each column that the database generates."""
    found = {}
    for name, table in tables.items():
        for column in table.columns:
            if column.generated_key:
                row = connection.execute(_SEQUENCE, (quoted_table(name), column.name)).fetchone()
                if row:
                    found[name, column.name] = row[0]
    return found


def set_identity(connection: Connection, table: str, column: str, sequence: str, step: int, offset: int) -> str | None:
    """Lets the sequence give only values that are `offset` modulo `step`, above what is there.

    What was done, or None."""
    largest, increment, last, called = connection.execute(
        f"SELECT (SELECT max({quoted(column)}) FROM {quoted_table(table)}), q.seqincrement, s.last_value, s.is_called"
        f" FROM pg_sequence q, {sequence} s WHERE q.seqrelid = {literal(sequence)}::regclass"
    ).fetchone() or (None, 1, 1, False)
    following = last + increment if called else last
    if increment == step and following % step == offset % step and (largest is None or largest < following):
        return None
    least = max(int(largest or 0) + 1, int(following))
    following = least + (offset - least) % step
    connection.execute(f"ALTER SEQUENCE {sequence} INCREMENT BY {step:d} RESTART WITH {following:d}")
    return f"{table}.{column}: generated keys are {offset} modulo {step}, from {following}"

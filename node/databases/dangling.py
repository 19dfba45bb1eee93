"""References that lead nowhere already: (shared) the condition in SQL, and what `kod check` says of them.

An item with such a reference waits where it arrives; the place to mend it is where it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from schemas.structure import ItemType, Mismatch, Reference, Structure

Quoted = Callable[[str], str]
Values = Callable[[ItemType, Reference, ItemType], Sequence[str]]
"""SQL for what a reference's columns hold in the row `r`, by its own type, and the one that it refers to."""


def leads_nowhere(
    reference: Reference, target: str, values: Sequence[str], quoted: Quoted, quoted_table: Quoted
) -> str:
    """Of a row whose reference holds `values` (SQL): it refers to something, and that is not in the table `target`."""
    given = " AND ".join(f"{value} IS NOT NULL" for value in values)
    tied = " AND ".join(
        f"o.{quoted(theirs)} = {value}" for value, theirs in zip(values, reference.target_columns, strict=True)
    )
    return f"{given} AND NOT EXISTS (SELECT 1 FROM {quoted_table(target)} o WHERE {tied})"


def dangling(
    structure: Structure,
    count: Callable[[str], int],
    values: Values,
    quoted: Quoted,
    quoted_table: Quoted,
    *,
    enforced: bool = False,
) -> Iterator[Mismatch]:
    """`enforced`: foreign keys are looked at, too; there are databases in which a program may switch them off."""
    for item_type in structure.types.values():
        tables: dict[str | None, str | None] = {s.name: s.table for s in item_type.sections}
        tables[None] = item_type.table
        for reference in item_type.controlled if enforced else item_type.unchecked:
            table, target = tables[reference.section], structure.types.get(reference.target)
            if table is None or target is None or target.table is None:
                continue
            held = values(item_type, reference, target)
            where = leads_nowhere(reference, target.table, held, quoted, quoted_table)
            rows = count(f"SELECT count(*) FROM {quoted_table(table)} r WHERE {where}")
            if rows:
                yield Mismatch(
                    item_type.name,
                    f"{reference.section}.{reference.columns[0]}" if reference.section else reference.columns[0],
                    "note",
                    f"{rows} rows of {table} refer to a {reference.target} that is not there: such items wait where"
                    " they arrive",
                    "add what is missing; or, if it may be missing, name the column in `optional`",
                )

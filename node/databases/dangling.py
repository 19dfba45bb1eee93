"""References that lead nowhere already: (shared) the condition in SQL, and what `kod check` says of them.

An item with such a reference waits where it arrives; the place to mend it is where it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from schemas.structure import ItemType, Mismatch, Reference, Structure

Quoted = Callable[[str], str]


def leads_nowhere(reference: Reference, target: str, row: str, quoted: Quoted, quoted_table: Quoted) -> str:
    """Of the row with this alias: it refers to something, and that is not in the table `target`."""
    given = " AND ".join(f"{row}.{quoted(column)} IS NOT NULL" for column in reference.columns)
    tied = " AND ".join(
        f"o.{quoted(theirs)} = {row}.{quoted(ours)}"
        for ours, theirs in zip(reference.columns, reference.target_columns, strict=True)
    )
    return f"{given} AND NOT EXISTS (SELECT 1 FROM {quoted_table(target)} o WHERE {tied})"


def dangling(
    structure: Structure, count: Callable[[str], int], quoted: Quoted, quoted_table: Quoted, *, enforced: bool = False
) -> Iterator[Mismatch]:
    """`enforced`: foreign keys are looked at, too; there are databases in which a program may switch them off."""
    for item_type in structure.types.values():
        tables: dict[str | None, str | None] = {s.name: s.table for s in item_type.sections}
        tables[None] = item_type.table
        for reference in item_type.controlled if enforced else item_type.unchecked:
            table, target = tables[reference.section], _table(structure.types.get(reference.target))
            if table is None or target is None:
                continue
            where = leads_nowhere(reference, target, "r", quoted, quoted_table)
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


def _table(item_type: ItemType | None) -> str | None:
    return item_type.table if item_type is not None else None

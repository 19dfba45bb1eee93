"""What is unique in an object's table besides its key, and how such a value is freed for the moment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from node.databases.sqlite.lexical import affinity_of
from node.databases.sqlite.reflection import UniqueIndex, folded
from schemas.structure import ItemType
from schemas.tables import Table


class Uniqueness:
    """For each unique index of the table: columns by which a row can be put out of others' way, the best first."""

    def __init__(self, indexes: Sequence[Sequence[tuple[str, str]]]) -> None:
        self._indexes = tuple(tuple(columns) for columns in indexes)

    @classmethod
    def of(
        cls,
        item_type: ItemType,
        table: Table,
        indexes_of: Mapping[str, Sequence[UniqueIndex]],
        followed_in: Mapping[str, Collection[str]],
    ) -> Uniqueness | None:
        """None where two items of the type cannot get into each other's way. `table` is the type's; the others are
        reflection's."""
        assert item_type.table is not None
        key = {f.column.name for f in item_type.key if f.column}
        indexes = _clashing(indexes_of[item_type.table], key)
        in_sections = any(_clashing(indexes_of[s.table], {own for own, _ in s.link}) for s in item_type.sections)
        if not indexes and not in_sections:
            return None
        followed = followed_in.get(folded(item_type.table), ())
        free = {
            column.name: "NULL" if column.nullable else _placeholder(column.native)
            for column in sorted(table.columns, key=lambda column: not column.nullable)
            if not column.computed
            and column.name not in {*key, *table.primary_key}
            and column.name.lower() not in followed
        }
        names = [{name for name, _ in index.columns} for index in indexes]
        return cls([[(column, value) for column, value in free.items() if column in own] for own in names])

    def released(self, arriving: frozenset[str] | None) -> Iterator[tuple[str, str]]:
        """(column, SQL of a value that nobody else has) for each index; of a row to be updated only columns that get
        their value back with what arrives, of one to be deleted (None) any."""
        found: dict[str, str] = {}
        for columns in self._indexes:
            able = [(column, value) for column, value in columns if arriving is None or column in arriving]
            if able:
                found.setdefault(*able[0])
        yield from found.items()


def _clashing(indexes: Sequence[UniqueIndex], key: set[str]) -> list[UniqueIndex]:
    """Those in which rows of different items may clash."""
    return [i for i in indexes if not i.primary and not key <= {c for c, _ in i.columns}]


def _placeholder(native: str) -> str:
    """Random, so that it meets neither what is there nor what arrives; of the class that a STRICT table asks for."""
    return {"TEXT": "hex(randomblob(16))", "BLOB": "randomblob(16)"}.get(affinity_of(native), "random()")

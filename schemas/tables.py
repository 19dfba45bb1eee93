"""What a database says of its tables: the words in which reflection speaks, the same for every dialect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    `native` is the type as the database writes it ("numeric(10,2)", "timestamp with time zone");
    `xml` the lexical form in which its values travel: one of package.XML_TYPES.
    `exact` is False, with `why_inexact`, where the database cannot hold every value of that form.
    """

    name: str
    native: str
    xml: str
    nullable: bool = True
    computed: bool = False
    """A generated column: it never travels."""
    generated_key: bool = False
    """Serial, identity or autoincrement: the database invents its values."""
    length: int | None = None
    digits: tuple[int, int] | None = None
    """Precision and scale of a decimal."""
    values: tuple[str, ...] = ()
    """An enumeration's values."""
    why_inexact: str = ""
    bits: int | None = None
    """Room for whole numbers, the sign's among them."""
    second_digits: int | None = None
    """Digits of a second that a moment or a time keeps; None where nothing bounds them, or at six."""
    comment: str = ""
    """What its makers say of it."""

    @property
    def zoned(self) -> bool:
        """A moment; else what a clock on the wall showed."""
        return self.xml == "dateTime" and ("with time zone" in self.native or self.native == "timestamptz")


@dataclass(frozen=True, slots=True)
class ForeignKey:
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str = ""
    """CASCADE, SET NULL … in capitals; empty for none."""
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table or a view. `name` may bear a schema ("sales.orders") where it is not the default one."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    view: bool = False
    comment: str = ""

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

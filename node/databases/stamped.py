"""Rows that are stamped while links are there (`kod install --stamp-existing`) wait for their marks: history's turns
give them, to the freshest first, and then they go to every link as changes do (SendingView.mark_stamped).

Until then a row's stamp stands in its mark, below those that mean something (-1: has to be marked; 0: needs none): so
an index of marks has them in their order, and nothing else has to be kept. Whoever needs such a row earlier gives it
its mark: a change, a reference.
"""

from __future__ import annotations

from schemas.stamp import Stamp

WAITS = "mark < -1"
"""SQL for such a mark; to the letter as the partial indexes have it."""


def waiting_mark(stamp_sql: str) -> str:
    return f"-2 - {stamp_sql}"


def waits(mark: int) -> bool:
    return mark < -1


def stamp_of(mark: int | None) -> Stamp | None:
    return Stamp(-2 - mark) if mark is not None else None

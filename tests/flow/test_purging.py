"""Purging: a tombstone goes only when every neighbour is known to have it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dispatcher.ports import Outgoing
from dispatcher.purging import is_confirmed, plan
from schemas.stamp import Stamp

QUICK = Outgoing("01", position=9, last_session=Stamp(90), pending=0, ahead=0)
SLOW = Outgoing("02", position=5, last_session=Stamp(50), pending=0, ahead=0)


def test_a_plan_goes_as_far_as_the_slowest_link() -> None:
    """What lies beyond has not been sent to all."""
    made = plan([QUICK, SLOW])
    assert made is not None
    assert (made.mark, made.sessions) == (5, {"01": 90, "02": 50})


@pytest.mark.parametrize(
    "link",
    [
        replace(SLOW, pending=1),
        replace(SLOW, ahead=3),
        replace(SLOW, catching_up=True),
        replace(SLOW, restart=True),
        replace(SLOW, wish="a gap"),
    ],
)
def test_there_is_no_plan_while_a_link_may_get_anything_again(link: Outgoing) -> None:
    """It may be offered what was deleted."""
    assert plan([QUICK, link]) is None


def test_without_neighbours_nothing_is_planned() -> None:
    """There may be some later."""
    assert plan([]) is None


def test_a_plan_is_confirmed_when_each_has_its_session() -> None:
    """One that is away says nothing: tombstones wait for it."""
    made = plan([QUICK, SLOW, Outgoing("03", 7, None, 0, 0)])
    assert made is not None
    assert is_confirmed(made, {"01": Stamp(90), "02": Stamp(60)})
    assert not is_confirmed(made, {"01": Stamp(90), "02": Stamp(49)})
    assert not is_confirmed(made, {"01": Stamp(90)})
    assert not is_confirmed(made, {"01": None, "02": Stamp(60)})

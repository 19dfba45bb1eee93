"""Stamps: milliseconds inside, 17 digits outside."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.stamp import Stamp, digits, from_digits, parse

_stamps = st.integers(0, 253_402_300_799_999).map(Stamp)


@given(_stamps)
def test_digits_come_back_as_the_same_moment(stamp: Stamp) -> None:
    """Or a version would change its age on the way through a message."""
    text = digits(stamp)
    assert len(text) == 17
    assert from_digits(text) == stamp
    assert parse(text) == stamp


@given(_stamps, _stamps)
def test_digits_sort_as_the_moments_do(one: Stamp, other: Stamp) -> None:
    """File names and folders are read in the order of their names."""
    assert (digits(one) < digits(other)) == (one < other)


def test_digits_are_the_moment_in_utc() -> None:
    """People compare them with their clock and their logs."""
    moment = datetime(2026, 11, 22, 9, 30, 15, 42_000, tzinfo=UTC)
    assert digits(Stamp(int(moment.timestamp() * 1000))) == "20261122093015042"


@pytest.mark.parametrize(
    "text",
    ["", "2026112209301504", "20261322093015042", "20260230000000000", "19691231235959999", "２0261122093015042"],
)
def test_what_is_no_stamp_is_refused(text: str) -> None:
    """Or a broken header would become some moment, and take precedence or lose for ever."""
    with pytest.raises(ValueError):
        from_digits(text)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("2026", "20260101000000000"),
        ("2026-11", "20261101000000000"),
        ("2026-11-22", "20261122000000000"),
        ("2026-11-22T09:30", "20261122093000000"),
        ("2026-11-22 09:30:15Z", "20261122093015000"),
    ],
)
def test_people_may_type_the_beginning_of_a_stamp(typed: str, expected: str) -> None:
    """`kod boundary --set 2026-11-22` is that midnight."""
    assert digits(parse(typed)) == expected


@pytest.mark.parametrize("typed", ["yesterday", "2026-13", "2026-11-22T25:00", "1", "1969", "0001"])
def test_what_people_mistype_is_explained(typed: str) -> None:
    """Not guessed: the boundary would move somewhere."""
    with pytest.raises(ConfigError) as caught:
        parse(typed)
    assert "17 digits" in caught.value.hint

"""The canonical form: what two nodes take for the same content."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.errors import MessageError
from schemas.package import Property
from schemas.structure import Field, ItemType, Routing, Section
from serializers.digest import same

PRICE = Property("price", "decimal")
NUMBER = Property("number", "integer")


def item_type(**fields: Any) -> ItemType:
    own = tuple(Field(p, None) for p in (Property("id", "string"), PRICE, NUMBER))
    return ItemType("Catalog.A", "object", Routing.REFERENCE_DATA, None, own[:1], own, **fields)


def equal(**values: Any) -> bool:
    """Whether two values of a property are the same content."""
    ((name, (one, other)),) = values.items()
    return same(item_type(), {"id": "a", name: one}, {"id": "a", name: other})


def test_how_a_number_is_written_makes_no_difference() -> None:
    """Databases write the same decimal differently."""
    for one, other in (("1.50", "1.5"), ("-0.0", "0"), ("1E+3", "1000"), ("100", 100), ("0.10", 0.1)):
        assert equal(price=(one, other)), (one, other)
    for one, other in (("9007199254740993", 9007199254740993), ("-007", "-7"), ("-0", "0")):
        assert equal(number=(one, other)), (one, other)


@pytest.mark.parametrize("digits", [29, 40, 5000])
def test_numbers_that_differ_in_their_last_digit_differ(digits: int) -> None:
    """Arithmetic of 28 digits took them for the same: two nodes kept what each of them had, and no journal told it."""
    one, other = "1" * digits, "1" * (digits - 1) + "2"
    assert not equal(number=(one, other))
    assert not equal(price=(one, other))
    assert not equal(price=(f"0.{one}", f"0.{other}"))


def test_a_number_is_not_written_out_at_any_length() -> None:
    """1E+999999999 takes twelve characters in a message, and a gigabyte of memory."""
    assert not equal(price=("1E+999999999", "1E+999999998"))
    assert not equal(price=("1E-999999999", "0"))


@pytest.mark.parametrize("strange", ["--5", "²", "", "-", "٣", "NaN", [], {}])
def test_what_is_no_number_is_only_like_itself(strange: Any) -> None:
    """A message may say anything; what is wrong with it is found where it is written."""
    assert equal(number=(strange, strange))
    assert not equal(number=(strange, "5"))
    assert not equal(price=(strange, "5"))


@pytest.mark.parametrize("rows", [1.5, "rows", {"n": 1}, [1], [None]])
def test_rows_that_are_none_are_refused(rows: Any) -> None:
    """A message with them that met another version of its item ended the daemon."""
    with_lines = item_type(sections=(Section("lines", "lines", (), (), (), ()),))
    with pytest.raises(MessageError, match="lines is not a list of rows"):
        same(with_lines, {"id": "a", "lines": [{"n": 1}]}, {"id": "a", "lines": rows})

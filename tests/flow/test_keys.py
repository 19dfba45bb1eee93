"""Keys: one text inside, КОД's pairs for people."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, MessageError
from schemas.package import Property
from schemas.structure import Field, ItemType, Routing
from serializers.keys import example, key_of, key_text, key_value, read, written


def item_type(*properties: Property, kind: str = "object") -> ItemType:
    fields = tuple(Field(p, None) for p in properties)
    return ItemType("Catalog.A", kind, Routing.REFERENCE_DATA, None, fields, fields)  # type: ignore[arg-type]


NUMBER = item_type(Property("id", "integer"))
CODE = item_type(Property("code", "string"))
PAIR = item_type(
    Property("product", "integer", target="Catalog.Product"), Property("period", "date"), kind="record_set"
)

_values = st.one_of(st.integers(-(2**53), 2**53), st.text(alphabet=st.characters(codec="utf-8")))


@given(_values)
def test_a_key_is_compact_json_with_characters_as_they_are(value: int | str) -> None:
    """Databases write the same bytes, and registers compare bytes."""
    text = key_text([value])
    assert json.loads(text) == [value]
    assert text == json.dumps([value], ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\x7f")


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_a_written_key_is_read_again(code: str) -> None:
    """What `kod collisions` shows can be given to `kod explain`."""
    key = key_text([code])
    shown = written([f.prop for f in CODE.key], key)
    assert json.loads(shown) == [{"string": code}]
    assert read(CODE, shown) == key


@given(st.integers(-(2**53), 2**53), st.dates())
def test_a_key_of_several_values_names_the_type_of_a_reference(product: int, period: object) -> None:
    """КОД's form: a plain value by its XML type, a reference by its type."""
    key = key_text([product, str(period)])
    shown = written([f.prop for f in PAIR.key], key)
    assert json.loads(shown) == [{"Catalog.Product": product}, {"date": str(period)}]
    assert read(PAIR, shown) == key
    assert read(PAIR, key) == key


@pytest.mark.parametrize(
    ("of", "typed", "expected"),
    [
        (NUMBER, "10248", "[10248]"),
        (NUMBER, "[10248]", "[10248]"),
        (NUMBER, '[{"integer":10248}]', "[10248]"),
        (NUMBER, "9007199254740993", '["9007199254740993"]'),
        (NUMBER, "--5", '["--5"]'),
        (NUMBER, "²", '["²"]'),
        (NUMBER, "9" * 5000, f'["{"9" * 5000}"]'),
        (CODE, "VINET", '["VINET"]'),
        (CODE, "007", '["007"]'),
        (CODE, "10248", '["10248"]'),
        (CODE, "true", '["true"]'),
        (CODE, '["VINET"]', '["VINET"]'),
    ],
)
def test_people_may_type_a_bare_value(of: ItemType, typed: str, expected: str) -> None:
    """`kod explain Document.Order 10248`; a code of digits stays a text."""
    assert read(of, typed) == expected


@pytest.mark.parametrize(
    ("of", "typed"), [(PAIR, "11"), (NUMBER, "[1,2]"), (PAIR, '[{"Catalog.Customer":1},{"date":"2026-01-01"}]')]
)
def test_a_key_of_the_wrong_shape_is_explained(of: ItemType, typed: str) -> None:
    """With the shape that it should have."""
    with pytest.raises(ConfigError) as caught:
        read(of, typed)
    assert "integer" in caught.value.hint or "Catalog.Product" in caught.value.hint


def test_an_argument_that_is_no_text_is_refused_in_words() -> None:
    """Its bytes are no UTF-8: Python hands them over as halves of characters."""
    with pytest.raises(ConfigError, match="is no text"):
        read(CODE, "\udcff")


def test_a_key_is_found_in_values_deletions_and_filters() -> None:
    """NULL is a value in a filter, and none in an object's key."""
    assert key_of(NUMBER, {"id": 1, "name": "x"}) == "[1]"
    assert key_of(PAIR, {"Filter": {"period": None, "product": 2}, "Records": []}) == "[2,null]"
    assert key_value(PAIR, "[2,null]") == {"product": 2, "period": None}
    for broken in ({}, {"id": None}, {"id": [1]}):
        with pytest.raises(MessageError):
            key_of(NUMBER, broken)


def test_the_example_of_a_key_can_be_read() -> None:
    """It is what the hint tells people to imitate."""
    properties = [f.prop for f in PAIR.key]
    assert read(PAIR, example(properties))

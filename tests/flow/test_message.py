"""The message, version 1: what is written is read back, and what is no message is refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import MessageError
from schemas.stamp import Stamp, digits
from serializers.message import (
    Header,
    Version,
    body_bytes,
    item_text,
    message_bytes,
    message_name,
    parse_name,
    part_of,
    payloads,
    put_together,
    read_header,
    read_message,
)

_codes = st.text(alphabet="0123456789ABZ", min_size=2, max_size=8)
_stamps = st.integers(0, 253_402_300_799_999).map(Stamp)
_origins = st.builds(lambda code, incarnation: f"{code}.{incarnation}", _codes, st.integers(0, 10**12))
_seen = st.dictionaries(_origins, _stamps, max_size=3)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(alphabet=st.characters(codec="utf-8"), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_values = st.dictionaries(st.text(alphabet="abcЯ", min_size=1, max_size=4), _json, max_size=4)


@st.composite
def _headers(draw: st.DrawFn) -> Header:
    of = draw(st.none() | st.integers(0, 100))
    return Header(
        sender=draw(_codes),
        to=draw(_codes),
        incarnation=draw(st.integers(0, 2**53)),
        session=draw(_stamps),
        number=draw(st.integers(1, 10**6)) if of is None else of + 1,
        after=draw(st.none() | _stamps),
        of=of,
        package=draw(st.none() | st.just("0123456789abcdef")),
        extra=draw(st.sampled_from([{}, {"catching_up": True}, {"resync": {"from": "x"}, "new": [1]}])),
    )


@given(
    _headers(),
    st.lists(
        st.tuples(
            st.text(min_size=1), _stamps, _origins, _seen, _values, st.booleans(), st.frozensets(_codes, max_size=2)
        ),
        max_size=4,
    ),
)
def test_a_message_is_read_as_it_was_written(header: Header, items: list[tuple[Any, ...]]) -> None:
    """Or nodes of one version could not understand each other."""
    texts = [
        item_text(
            name,
            Version(stamp, origin),
            seen,
            value=None if deleted else orjson.dumps(value),
            key=orjson.dumps(value) if deleted else None,
            nodes=nodes,
        )
        for name, stamp, origin, seen, value, deleted, nodes in items
    ]
    payload = message_bytes(header, texts)
    message = read_message(payload)
    assert message.header == header == read_header(payload)
    for item, (name, stamp, origin, seen, value, deleted, nodes) in zip(message.items, items, strict=True):
        assert (item.type, item.version, item.seen, item.nodes) == (name, (stamp, origin), seen, nodes)
        assert (item.deleted, item.value) == ((value, None) if deleted else (None, value))


@given(_codes, _codes, _stamps, st.integers(1, 999_999_999))
def test_a_name_says_from_whom_to_whom_when_and_which(sender: str, to: str, session: Stamp, number: int) -> None:
    """Codes have no small letters, so `to` and `at` stay clear."""
    assert parse_name(message_name(sender, to, session, number)) == (sender, to, session, number)


@pytest.mark.parametrize(
    "name",
    [
        "00to01at20261122093015042-0.json",
        "00to01at20261122093015042-3.json.tmp",
        "00to01at20261322093015042-3.json",
        "0to01at20261122093015042-3.json",
        "../00to01at20261122093015042-3.json",
    ],
)
def test_what_is_no_name_is_none(name: str) -> None:
    """Such a file lies in the folder by mistake, and must not be taken for a message."""
    assert parse_name(name) is None


def valid() -> dict[str, Any]:
    """The contract's own example, shortened."""
    header = {"from": "00", "to": "01", "version": 1, "incarnation": 1763800000, "session": "20261122093015042"}
    item = {"#ns": "x", "#type": "A.B", "#stamp": "20261122093014655", "#origin": "00.1763800000", "#value": {"id": 1}}
    return {"message": {"header": {**header, "number": 3}, "body": [item]}}


def test_the_form_of_the_first_days_is_read_too() -> None:
    """`"body": {"object": […]}`, and fields that we do not know are ignored."""
    document = valid()
    document["message"]["body"] = {"object": document["message"]["body"]}
    document["message"]["header"]["new"] = document["message"]["body"]["object"][0]["#new"] = 1
    message = read_message(json.dumps(document).encode())
    assert message.items[0].value == {"id": 1}
    assert message.header.extra == {"new": 1}
    assert digits(message.header.session) == "20261122093015042"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("header", "version"), 2, "version 2 is not known"),
        (("header", "number"), 0, "number 0"),
        (("header", "number"), True, "'number' is not a number"),
        (("header", "of"), 5, "number 3 of 5 cannot be"),
        (("header", "session"), "2026", "not a stamp"),
        (("header", "from"), None, "'from' is not a text"),
        (("body",), 7, "no body"),
        (("body", 0, "#stamp"), "x", "item 1 of the body"),
        (("body", 0, "#origin"), "00", "is no origin"),
        (("body", 0, "#value"), [1], "exactly one of #value and #deleted"),
        (("body", 0, "#deleted"), {}, "exactly one of #value and #deleted"),
        (("body", 0, "#seen"), {"x": "y"}, "is no origin"),
        (("body", 0, "#nodes"), ["01", "; --"], "in #nodes is no node"),
        (("body", 0), 5, "item 1 of the body"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(path: tuple[Any, ...], value: Any, expected: str) -> None:
    """Nothing of it is applied, and a person can see why."""
    document = valid()
    place = document["message"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(MessageError, match=expected):
        read_message(json.dumps(document).encode())


@given(st.binary(max_size=40) | _json.map(orjson.dumps))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    """Whatever lies in the folder, the daemon lives on."""
    with pytest.raises(MessageError):
        read_message(payload)


@given(_headers(), st.lists(_values.map(orjson.dumps), max_size=4), st.integers(0, 900))
def test_parts_are_below_the_limit_and_make_the_message_again(
    header: Header, values: list[bytes], bytes_max: int
) -> None:
    """A character that is cut in two, or a quote that takes two bytes, would be a message that nobody can read."""
    version = Version(Stamp(5), "00.1")
    items = [item_text("Каталог", version, None, value=value, key=None) for value in values]
    whole = message_bytes(header, items)
    pieces = list(payloads(header, body_bytes(items), bytes_max))
    if len(whole) <= bytes_max:
        assert pieces == [whole]
        assert part_of(whole) is None
        return
    assert [part_of(piece) for piece in pieces] == [(n, len(pieces)) for n in range(1, len(pieces) + 1)]
    assert put_together(pieces) == whole
    if bytes_max > 700:  # with room for a header
        assert max(len(piece) for piece in pieces) <= bytes_max


def test_parts_that_are_lists_of_items_are_understood() -> None:
    """The most natural way for other programs to write them."""
    item = {"#type": "T", "#stamp": digits(Stamp(1)), "#origin": "00.1", "#value": {"a": 1}}
    header = {"from": "00", "to": "01", "version": 1, "incarnation": 1, "session": digits(Stamp(2)), "number": 1}
    parts = [
        orjson.dumps({"message": {"header": {**header, "part": part, "parts": 2}, "body": [item] * part}})
        for part in (1, 2)
    ]
    assert [part_of(part) for part in parts] == [(1, 2), (2, 2)]
    assert len(read_message(put_together(parts)).items) == 3


@pytest.mark.parametrize(
    "spoilt",
    [
        {"part": 3, "parts": 2},
        {"part": 0, "parts": 2},
        {"part": 1},
        {"part": "1", "parts": 2},
    ],
)
def test_parts_that_cannot_be_are_refused(spoilt: dict[str, Any]) -> None:
    """They would be waited for in vain."""
    with pytest.raises(MessageError):
        part_of(orjson.dumps({"message": {"header": spoilt, "body": ""}}))


def test_parts_of_different_messages_make_none() -> None:
    """Or somebody could put items into another one's message."""
    one, other = ({"message": {"header": {"part": 1, "parts": 2, "to": to}, "body": ""}} for to in ("01", "02"))
    with pytest.raises(MessageError):
        put_together([orjson.dumps(one), orjson.dumps(other)])


def test_a_part_is_no_message() -> None:
    """Taken for one it would be applied without the rest."""
    header = Header("00", "01", 1, Stamp(1), 1, part=1, parts=2)
    with pytest.raises(MessageError, match="part 1 of 2"):
        read_message(message_bytes(header, []))


def spelled(text: str) -> bytes:
    """The valid message with something in its item's value."""
    return json.dumps(valid()).replace('"id": 1', text).encode()


@pytest.mark.parametrize("twice", ['"id": 1, "id": 2', '"id": 1, "\\u0069d": 2', '"a": {"b": 1, "c": 2, "b": 3}'])
def test_a_key_that_is_twice_in_one_object_is_refused(twice: str) -> None:
    """Parsers differ in which of the two they take: nodes would read one message differently."""
    with pytest.raises(MessageError, match="twice in one object"):
        read_message(spelled(twice))
    with pytest.raises(MessageError, match="twice in one object"):
        read_message(spelled(twice).replace(b" ", b""))


@pytest.mark.parametrize(
    "fine",
    ['"id": 1, "x": "\\u0041"', '"id":1.50e3', '"a": {"id": 1}, "b": {"id": 1}', '"a": "\\"id\\": 1, \\"id\\": 2"'],
)
def test_other_spellings_are_read(fine: str) -> None:
    """JSON may be written in many ways."""
    assert read_message(spelled(fine)).items[0].value is not None


def test_a_bare_nan_is_refused() -> None:
    """It is no JSON; as a value it is the string NaN."""
    with pytest.raises(MessageError, match="not JSON"):
        read_message(spelled('"id": NaN'))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_what_is_nested_too_deeply_is_refused(opening: str) -> None:
    """Whoever walks through it would run out of stack. The message's own objects and lists are five of the 32."""
    closing = {"[": "]", '{"a":': "}"}[opening]
    for depth in (27, 28, 300, 2000, 200_000):
        payload = spelled('"id": ' + opening * depth + "1" + closing * depth)
        if depth == 27:
            assert read_message(payload).items
        else:
            with pytest.raises(MessageError):
                read_message(payload)


def test_what_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size says enough."""
    monkeypatch.setattr("serializers.message.BYTES_MAX", 10)
    with pytest.raises(MessageError, match="not even looked at"):
        read_message(b"{" * 11)

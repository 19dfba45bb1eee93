"""Signatures: who does not have the link's key can neither make a message nor alter one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import MessageError
from schemas.stamp import Stamp
from serializers.message import Header, message_bytes, read_message
from serializers.signature import UNSIGNED, check, sign

KEY = b"a secret"
HEADER = Header("00", "01", 1763800000, Stamp(1_795_000_000_000), 1, extra={"signature": UNSIGNED})
ITEM = (
    b'{"#ns":"x","#type":"A.B","#stamp":"20261122093014655","#origin":"00.1763800000",'
    b'"#value":{"signature":"' + UNSIGNED.encode() + b'"}}'
)


def signed(key: bytes = KEY) -> bytes:
    return sign(message_bytes(HEADER, [ITEM]), key)


def test_what_was_signed_with_the_key_is_taken() -> None:
    """Also where an item has the same words in it."""
    check(signed(), KEY)
    message = read_message(signed())
    assert message.items[0].value == {"signature": UNSIGNED}
    assert message.header.extra["signature"] != UNSIGNED


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (signed(b"another key"), "the signature is wrong"),
        (message_bytes(HEADER, [ITEM]), "the signature is wrong"),
        (message_bytes(Header("00", "01", 1, Stamp(5), 1), []), "not signed"),
        (b"", "not signed"),
    ],
)
def test_what_was_not_is_refused_with_the_reason(payload: bytes, why: str) -> None:
    """Keys and what they make are not in it."""
    with pytest.raises(MessageError, match=why) as refused:
        check(payload, KEY)
    assert "secret" not in f"{refused.value}{refused.value.hint}"


@given(st.integers(0, len(signed()) - 1), st.integers(1, 255))
def test_no_byte_of_it_can_be_altered(place: int, change: int) -> None:
    """Neither receiver, incarnation and session, nor what it says."""
    altered = bytearray(signed())
    altered[place] ^= change
    with pytest.raises(MessageError):
        check(bytes(altered), KEY)

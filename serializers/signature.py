"""Signatures of messages: HMAC-SHA256 by a key that the two ends of a link share.

Over the whole message, in which stand its sender, receiver, incarnation, session and number; the 64 digits of the
signature itself count as zeros. So nobody without the key can make a message, alter one, or send one to somebody else.
"""

from __future__ import annotations

import hmac
import re

from schemas.errors import MessageError

UNSIGNED = "0" * 64
"""What stands in the header's `signature` while a message is signed."""

_SIGNATURE = re.compile(rb'"signature"\s*:\s*"([0-9a-f]{64})"')
_HEAD_BYTES = 65_536
"""The header stands before the body."""


def sign(payload: bytes, key: bytes) -> bytes:
    """A message whose header bears UNSIGNED, with its signature."""
    return payload.replace(UNSIGNED.encode(), _mac(payload, key), 1)


def check(payload: bytes, key: bytes) -> None:
    """Raises MessageError unless the message was signed with the key."""
    found = _SIGNATURE.search(payload[:_HEAD_BYTES])
    if found is None:
        raise MessageError("the message is not signed, and this link asks for it", hint="`signature_key` at its sender")
    unsigned = payload[: found.start(1)] + UNSIGNED.encode() + payload[found.end(1) :]
    if not hmac.compare_digest(_mac(unsigned, key), found[1]):
        raise MessageError(
            "the signature is wrong: it was altered on its way, or signed with another key",
            hint="`signature_key` has to be the same at both ends; who may write to this link's folder or topic?",
        )


def _mac(payload: bytes, key: bytes) -> bytes:
    return hmac.new(key, payload, "sha256").hexdigest().encode()

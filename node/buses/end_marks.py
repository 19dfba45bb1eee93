"""What is an end mark: figures leave those out."""

from __future__ import annotations

from schemas.errors import KodError
from serializers.message import read_header

END_MARK_BYTES_MAX = 2048
"""A larger payload is no end mark, and is not looked into."""


def end_mark_of(payload: bytes) -> int | None:
    """How many messages the end mark says its session has; None when it is none (or no message at all: the receive
    dispatcher says so)."""
    if len(payload) > END_MARK_BYTES_MAX:
        return None
    try:
        return read_header(payload).of
    except KodError:
        return None

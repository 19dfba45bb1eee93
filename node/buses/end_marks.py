"""What is an end mark: figures leave those out. And what any letter's header says of its sender's life."""

from __future__ import annotations

from dispatcher.ports import Life
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


def life_of(payload: bytes) -> Life | None:
    """Its sender's incarnation, and its session; None when it is no message."""
    try:
        header = read_header(payload)
    except KodError:
        return None
    return Life(header.incarnation, header.session)

"""Manifests: which item went in which message, for `kod explain`; one is kept with what is recorded of a parcel.

    publish -> [ T2: positions, last sessions, MANIFEST ]

There is no row for an item: a manifest names items by what the register knows them by anyway, their marks, which no two
versions share. Of an item without a mark (it went by history) a checksum of its key stands for it.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from serializers.keys import Item

SESSION_COST = 50
"""What a session costs to be kept beside its items, in items."""
KEPT_MAX = 10_000_000
"""Items whose sessions are remembered of each link: some 30 MB."""


class Manifest(NamedTuple):
    """Of a parcel; `lowest` and `highest` of its items tell where it is not worth looking."""

    lowest: int
    highest: int
    packed: bytes


class Went(NamedTuple):
    """The session and the number of the message with which an item went."""

    session: int
    number: int


def token(item: Item, mark: int) -> int:
    """What stands for a version of an item."""
    return mark if mark > 0 else -1 - zlib.crc32(f"{item.type} {item.key}".encode())


def manifest(sessions: Sequence[Sequence[Sequence[Item]]], marks: Mapping[Item, int]) -> Manifest:
    """`sessions`: the items of each message of each session of a parcel."""
    numbers = array("q", [len(sessions)])
    lowest, highest = 2**62, -(2**62)
    for messages in sessions:
        numbers.append(len(messages))
        for items in messages:
            tokens = [mark if (mark := marks[item]) > 0 else token(item, mark) for item in items]
            lowest, highest = min(lowest, min(tokens)), max(highest, max(tokens))
            numbers.append(len(tokens))
            numbers.extend(tokens)
    return Manifest(lowest, highest, zlib.compress(numbers.tobytes(), 1))


def went(parcels: Iterable[tuple[str, int, bytes]], wanted: int) -> dict[str, Went]:
    """By node the newest session among `parcels` (node, last session, packed manifest; the newest first) that had what
    the token `wanted` stands for."""
    found: dict[str, Went] = {}
    for node, last, packed in parcels:
        if node not in found and (place := _place(packed, wanted)) is not None:
            before_last, number = place
            found[node] = Went(last - before_last, number)
    return found


def _place(packed: bytes, wanted: int) -> tuple[int, int] | None:
    """How many sessions before the parcel's last one, and in which message."""
    numbers = array("q")
    numbers.frombytes(zlib.decompress(packed))
    rest = iter(numbers)
    sessions = next(rest)
    for session in range(1, sessions + 1):
        for number in range(1, next(rest) + 1):
            if wanted in [next(rest) for _ in range(next(rest))]:
                return sessions - session, number
    return None

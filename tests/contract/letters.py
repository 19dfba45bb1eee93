"""Letters for the buses' tests: whole sessions, as the sender makes them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import orjson

from dispatcher.ports import Bus, Letter
from schemas.stamp import Stamp
from serializers.message import Header, Version, body_bytes, item_text, message_bytes, payloads

FIRST = Stamp(1_795_000_000_000)
PATIENCE_S = 60.0


def session(sender: str, to: str, number: int, messages: int = 1, *, text: str = "товар ✓") -> list[Letter]:
    """The letters of the `number`-th session: its messages and its end mark."""
    stamp = Stamp(FIRST + number)
    letters = []
    for position in range(1, messages + 1):
        value = orjson.dumps({"product_id": position, "name": text})
        item = item_text("Catalog.Product", Version(stamp, f"{sender}.1763800000"), None, value=value, key=None)
        letters.append(_letter(Header(sender, to, 1763800000, stamp, position), [item]))
    return [*letters, _letter(Header(sender, to, 1763800000, stamp, messages + 1, of=messages), [])]


def parts(sender: str, to: str, number: int, *, bytes_max: int, text: str) -> list[Letter]:
    """The letters of a session of one message that is larger than `bytes_max`, without its end mark."""
    header = Header(sender, to, 1763800000, Stamp(FIRST + number), 1)
    value = orjson.dumps({"product_id": 1, "name": text})
    item = item_text("Catalog.Product", Version(header.session, f"{sender}.1763800000"), None, value=value, key=None)
    return [Letter(to, header.name, payload) for payload in payloads(header, body_bytes([item]), bytes_max)]


def _letter(header: Header, items: Sequence[bytes]) -> Letter:
    return Letter(header.to, header.name, message_bytes(header, items))


def names(letters: Sequence[Letter]) -> list[str]:
    return [letter.name for letter in letters]


def receive(bus: Bus, sender: str, count: int, *, letters_max: int = 100) -> list[Letter]:
    """Exactly `count` letters, as soon as they are here."""
    letters: list[Letter] = []
    until = time.monotonic() + PATIENCE_S
    while len(letters) < count:
        assert time.monotonic() < until, f"{len(letters)} of {count} letters came"
        letters += bus.receive(sender, letters_max=min(letters_max, count - len(letters)))
        if len(letters) < count:
            bus.wait(1)
    return letters

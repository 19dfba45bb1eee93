"""What is kept of a parked message beside its bytes, as JSON text: its items and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from dispatcher.ports import ParkedItem, Reason
from schemas.stamp import Stamp
from serializers.keys import Item
from serializers.message import Version


def what_is_kept(reason: Reason, items: Sequence[ParkedItem]) -> tuple[str, str, str]:
    """The reason, the items, and what it waits for."""
    return reason.text, items_text(items), waits_text(reason.waits_for)


def items_text(items: Sequence[ParkedItem]) -> str:
    return orjson.dumps([[*one.item, *one.version, one.apart] for one in items]).decode()


def items_of(text: str) -> tuple[ParkedItem, ...]:
    return tuple(
        ParkedItem(Item(type_name, key), Version(Stamp(stamp), origin), apart)
        for type_name, key, stamp, origin, apart in orjson.loads(text)
    )


def waits_text(waits_for: Sequence[Item]) -> str:
    return orjson.dumps([list(item) for item in waits_for]).decode()


def waits_of(text: str) -> tuple[Item, ...]:
    return tuple(Item(*pair) for pair in orjson.loads(text))

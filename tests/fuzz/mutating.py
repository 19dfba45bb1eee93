"""How JSON is altered: mostly another value in some place, so that it stays JSON; sometimes its bytes (the fuzzer's own
way with bytes cannot be called from here: atheris 3.0.0)."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import orjson

STRANGE = [
    None, True, 0, -1, 2**53 + 1, 2**63, 1.5, 1e308, "", "\0", "é", "--5", "²", "-", "9" * 5000, "1E+999999999", "NaN",
    "0" * 17, "00.1", "2026-11-22T10:00:00.10Z", [], {}, [1], [[]], [{}], {"#type": []}, {"#predefined": "x"},
    {"#type": "integer", "#value": "²"}, {"#type": "Catalog.Product", "#value": {}},
]  # fmt: skip


def altered(data: bytes, size_max: int, seed: int) -> bytes:
    choice = random.Random(seed)
    changed = None
    if choice.random() < 0.8:
        changed = _with_other_values(data, choice)
    if changed is None or len(changed) > size_max:
        changed = _with_other_bytes(data, choice)
    return changed[:size_max]


def _with_other_values(data: bytes, choice: random.Random) -> bytes | None:
    """None where it is no JSON to begin with, or would be none."""
    try:
        document = orjson.loads(data)
        for _ in range(choice.randint(1, 3)):
            document = _with_another(document, choice)
        return orjson.dumps(document)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def _with_another(document: Any, choice: random.Random) -> Any:
    """One value replaced, left out, or put in a second place."""
    places = list(_places(document))
    if not places:
        return choice.choice(STRANGE)
    inside, key = choice.choice(places)
    what = choice.randrange(4)
    if what == 0:
        del inside[key]
    elif what == 1:
        other, other_key = choice.choice(places)
        inside[key] = copy.deepcopy(other[other_key])
    else:
        inside[key] = copy.deepcopy(choice.choice(STRANGE))
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where something is: the object or list, and the key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _with_other_bytes(data: bytes, choice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choice.randint(1, 4)):
        at = choice.randint(0, len(changed))
        changed[at : at + choice.choice((0, 0, 1, 1, 8))] = choice.randbytes(choice.choice((0, 1, 1, 4)))
    return bytes(changed)

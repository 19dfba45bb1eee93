"""Values of several types: `{"#type": …, "#value": …}` on the wire; in a node's own columns maybe text, or JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

EXACT_MAX = 2**53
"""Larger integers are strings (contract.md)."""

_WHOLE = re.compile(r"-?[0-9]{1,18}")
"""Python would take other scripts' digits, and none that are thousands long."""


def read_composite(text: Any) -> Mapping[str, Any]:
    """A composite from a column of JSON; empty where it is none."""
    try:
        found = orjson.loads(text) if isinstance(text, str) else text
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def in_form(value: Any, xml: str) -> Any:
    """A value from a column that holds several types as text, in the lexical form of one of them."""
    if not isinstance(value, str):
        return value
    if xml == "integer" and _WHOLE.fullmatch(value):
        number = int(value)
        return number if -EXACT_MAX <= number <= EXACT_MAX else value
    if xml == "boolean":
        return {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}.get(value, value)
    if xml in ("float", "double"):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def as_text(value: Any) -> str:
    """A value for a column that holds several types as text."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()

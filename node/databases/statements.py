"""Statements with parameters `:name`, as hooks write them, in the form that a driver wants.

What looks like a parameter within quotes or a comment is none, nor is PostgreSQL's `::type`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from schemas.errors import MessageError

_TOKENS = re.compile(
    r"""(?P<kept>'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | --[^\n]* | /\*.*?\*/ | ::)
      | :(?P<name>[^\W\d]\w*)""",
    re.VERBOSE | re.DOTALL,
)


def bound(sql: str, parameters: Mapping[str, Any], style: Literal["$", "%s"]) -> tuple[str, list[Any]]:
    """The statement with the driver's placeholders, and the values in their order. `$`: each name has one number."""
    names: list[str] = []

    def placed(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return _literally(found[0], style)
        if name not in parameters:
            raise MessageError(f"the statement has a parameter :{name}, and no value was given for it")
        if style == "%s":
            names.append(name)
            return "%s"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    parts, end = [], 0
    for found in _TOKENS.finditer(sql):
        parts += [_literally(sql[end : found.start()], style), placed(found)]
        end = found.end()
    parts.append(_literally(sql[end:], style))
    return "".join(parts), [parameters[name] for name in names]


def _literally(text: str, style: str) -> str:
    return text.replace("%", "%%") if style == "%s" else text

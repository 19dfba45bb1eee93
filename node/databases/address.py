"""A database's URL as nodes.yaml has it, read as SQLAlchemy reads one.

Not by SQLAlchemy itself: importing it takes a fifth of a second of each `kod …`, and nothing else of it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from schemas.errors import ConfigError

_URL = re.compile(
    r"""(?P<kind>\w+)(?:\+(?P<driver>\w+))?://
        (?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?
        (?:\[(?P<ipv6>[^/?]+)\]|(?P<host>[^/:?]+))?
        (?::(?P<port>\d*))?
        (?:/(?P<database>[^?]*))?
        (?:\?(?P<query>.*))?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Address:
    kind: str
    """postgresql, sqlite, mariadb …"""
    driver: str | None
    user: str | None
    password: str | None = field(repr=False)
    host: str | None
    port: int | None
    database: str | None
    query: Mapping[str, tuple[str, ...]]
    """What follows the question mark; a name may be there more than once."""


def address_of(url: str) -> Address:
    """Raises ConfigError for a URL that is none."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigError("the database's URL is none", hint="e.g. postgresql+psycopg://user@host/name")
    query: dict[str, tuple[str, ...]] = {}
    for name, value in parse_qsl(found["query"] or ""):
        query[name] = (*query.get(name, ()), value)
    return Address(
        found["kind"],
        found["driver"],
        _unquoted(found["user"]),
        _unquoted(found["password"]),
        found["host"] or found["ipv6"],
        int(found["port"]) if found["port"] else None,
        _unquoted(found["database"]),
        query,
    )


def _unquoted(text: str | None) -> str | None:
    return None if text is None else unquote(text)

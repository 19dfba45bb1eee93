"""A database's URL as nodes.yaml has it: SQLAlchemy reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from schemas.errors import ConfigError


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
    try:
        found = make_url(url)
    except ArgumentError:  # it may bear a password: nothing of it is told
        raise ConfigError("the database's URL is none", hint="e.g. postgresql+psycopg://user@host/name") from None
    kind, _, driver = found.drivername.partition("+")
    return Address(
        kind,
        driver or None,
        found.username,
        str(found.password) if found.password is not None else None,
        found.host,
        found.port,
        found.database,
        {name: tuple(values) for name, values in found.normalized_query.items()},
    )

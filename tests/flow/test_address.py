"""node.databases.address: URLs of databases."""

from __future__ import annotations

import pytest

from node.databases.address import address_of
from schemas.errors import ConfigError


def test_a_url_says_where_the_database_is() -> None:
    """Or what people know from elsewhere, a password with an @ say, would open another database, or none."""
    found = address_of("postgresql+psycopg://kod:a%40b@db:5433/trade?host=a&host=b&sslmode=require")
    assert (found.kind, found.driver, found.user, found.password) == ("postgresql", "psycopg", "kod", "a@b")
    assert (found.host, found.port, found.database) == ("db", 5433, "trade")
    assert found.query == {"host": ("a", "b"), "sslmode": ("require",)}


def test_a_url_that_is_none_is_said_to_be_none() -> None:
    """Without a word of what is in it: it may be a password."""
    with pytest.raises(ConfigError, match="the database's URL is none") as raised:
        address_of("s3cret")
    assert "s3cret" not in str(raised.value)

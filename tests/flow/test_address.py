"""node.databases.address: URLs of databases."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from node.databases.address import address_of
from schemas.errors import ConfigError

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="/?#[]:@\u2028\u2029"), max_size=8
)
_QUOTED = st.text("abc%:@/?+ #", max_size=6)


@st.composite
def _urls(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["postgresql+psycopg", "postgresql", "mariadb+pymysql", "sqlite"]))
    user = quote(draw(_QUOTED), safe="")
    password = draw(st.one_of(st.none(), _QUOTED.map(lambda text: quote(text, safe=""))))
    user += f":{password}" if password is not None else ""
    host = draw(st.one_of(st.just(""), st.just("[::1]"), st.just("db-1.example"), st.just("10.0.0.1")))
    port = draw(st.sampled_from(["", ":5433"]))
    name = draw(st.one_of(st.none(), _TEXT))
    query = draw(
        st.sampled_from(["", "?", "?host=/run/postgresql", "?sslmode=require&application_name=a%20b", "?host=a&host=b"])
    )
    return f"{kind}://{user + '@' if user else ''}{host}{port}{'' if name is None else '/' + name}{query}"


@given(_urls())
def test_urls_are_read_as_sqlalchemy_reads_them(url: str) -> None:
    """Or what people know from elsewhere, a password with an @ say, would open another database, or none."""
    expected, found = make_url(url), address_of(url)
    assert (found.user, found.password, found.host) == (expected.username, expected.password, expected.host)
    assert (found.port, found.database) == (expected.port, expected.database)
    assert "+".join(filter(None, (found.kind, found.driver))) == expected.drivername
    assert dict(found.query) == {k: (v,) if isinstance(v, str) else tuple(v) for k, v in expected.query.items()}


def test_a_url_that_is_none_is_said_to_be_none() -> None:
    """Without a word of what is in it: it may be a password."""
    with pytest.raises(ConfigError, match="the database's URL is none") as raised:
        address_of("s3cret")
    assert "s3cret" not in str(raised.value)

"""Stamps: moments in UTC to the millisecond.

Kept as milliseconds since 1970, so that Python, SQL and arithmetic agree on them; the 17 digits
YYYYMMDDHHmmssuuu are for messages, file names, logs and people.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NewType

from schemas.errors import ConfigError

Stamp = NewType("Stamp", int)
"""Milliseconds since 1970-01-01 UTC; not negative."""

EARLIEST = Stamp(0)
"""The stamp of a row that was there before stamps were, and of nothing else."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = re.compile(r"\d{17}", re.ASCII)
_LATEST = Stamp(253_402_300_799_999)  # 99991231235959999


def digits(stamp: Stamp) -> str:
    """The stamp as 17 digits; their order as text is the order of the moments."""
    seconds, ms = divmod(stamp, 1000)
    return f"{_second_digits(seconds)}{ms:03d}"


@lru_cache(maxsize=4096)
def _second_digits(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%S").zfill(14)


def from_digits(text: str) -> Stamp:
    """The moment that 17 digits stand for.

    Raises ValueError when they are not 17 digits or no moment of the years 1970 to 9999.
    """
    if not isinstance(text, str) or not _DIGITS.fullmatch(text):
        raise ValueError(f"{text!r} is not a stamp: 17 digits YYYYMMDDHHmmssuuu")
    return _second_of(text[:14]) * 1000 + int(text[14:])  # type: ignore[return-value]  # of every item: no call more


@lru_cache(maxsize=4096)
def _second_of(text: str) -> int:
    moment = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    if moment < _EPOCH:
        raise ValueError(f"{text!r} is before 1970")
    return int((moment - _EPOCH).total_seconds())


def parse(text: str) -> Stamp:
    """A stamp as a person types it: 17 digits, or their beginning from the year on (20261122 is that midnight).

    Raises ConfigError with what is expected.
    """
    plain = re.sub(r"[-:T. ]", "", text.removesuffix("Z"))
    for pattern, width in (("%Y", 4), ("%Y%m", 6), ("%Y%m%d", 8), ("%Y%m%d%H%M", 12), ("%Y%m%d%H%M%S", 14)):
        if len(plain) == width and plain.isascii() and plain.isdigit():
            try:
                datetime.strptime(plain, pattern)
            except ValueError:
                break
            plain += "00000101000000000"[width:]
            break
    try:
        return from_digits(plain)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a stamp", hint="17 digits YYYYMMDDHHmmssuuu, e.g. 20261122093015042, or 2026-11-22"
        ) from None

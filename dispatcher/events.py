"""Log lines: an event in the past tense, then facts; never a value of a row, those are somebody's data."""

from __future__ import annotations

import logging
from typing import Any


def event(logger: logging.Logger, level: int, text: str, /, **facts: Any) -> None:
    """Logs `text`, with its facts as the record's attribute `facts` (node.log writes them as name=value)."""
    if logger.isEnabledFor(level):
        logger.log(level, text, extra={"facts": facts})

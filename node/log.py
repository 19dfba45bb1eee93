"""The log on stderr: a line an event, then facts as name=value; or JSON lines.

INFO session sent session=20261122093015042 streams=4 messages=12 took_ms=812
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import orjson

LEVELS = ("debug", "info", "warning", "error")
_SHORT = {"WARNING": "WARN", "CRITICAL": "ERROR"}


class LineFormatter(logging.Formatter):
    """An event and its facts on one line; moments in UTC unless the service manager puts them there."""

    def __init__(self, *, moments: bool = True) -> None:
        super().__init__()
        self.moments = moments

    def format(self, record: logging.LogRecord) -> str:
        words = [_SHORT.get(record.levelname, record.levelname), _one_line(record.getMessage())]
        words += [f"{name}={_fact(value)}" for name, value in _facts(record).items()]
        if self.moments:
            words.insert(0, _moment(record))
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, event, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": _moment(record),
            "level": _SHORT.get(record.levelname, record.levelname),
            "event": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def set_up(level: str, *, json_lines: bool = False, stream: TextIO | None = None) -> None:
    """Sends everything of `level` and above to stderr, and nothing twice. Foreign libraries speak from WARN on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else LineFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for ours in ("node", "dispatcher", "serializers", "schemas"):
        logging.getLogger(ours).setLevel(level.upper())


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    facts = getattr(record, "facts", None)
    return facts if isinstance(facts, Mapping) else {}


def _fact(value: Any) -> str:
    if value is None:
        return "-"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text and not any(c in ' "=\\' or not c.isprintable() for c in text):
        return text
    return orjson.dumps(text).decode()


def _one_line(text: str) -> str:
    return text if text.isprintable() else orjson.dumps(text).decode()


def _moment(record: logging.LogRecord) -> str:
    seconds, ms = divmod(int(record.created * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03d}Z"

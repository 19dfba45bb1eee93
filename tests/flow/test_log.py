"""The log: an event in the past tense, then facts, one line each."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from dispatcher.events import event
from node.log import set_up


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the log writes; the root logger is as before afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_is_an_event_and_its_facts(written: io.StringIO) -> None:
    """People grep it, so nothing in a fact may look like another fact or break the line."""
    set_up("info", stream=written)
    log = logging.getLogger("dispatcher.sending")
    event(log, logging.INFO, "session sent", session="20261122093015042", messages=12, error='a "b"\nc', after=None)
    event(log, logging.DEBUG, "message sent", number=1)
    (line,) = written.getvalue().splitlines()
    moment, _, rest = line.partition(" ")
    assert moment.endswith("Z")
    assert rest == r'INFO session sent session=20261122093015042 messages=12 error="a \"b\"\nc" after=-'


def test_json_lines_have_the_same_facts(written: io.StringIO) -> None:
    """For whoever collects logs."""
    set_up("warning", json_lines=True, stream=written)
    log = logging.getLogger("node.service")
    event(log, logging.WARNING, "bus unavailable", bus="kafka", retry_in_s=30)
    event(log, logging.INFO, "session sent")
    (line,) = written.getvalue().splitlines()
    found = json.loads(line)
    assert (found["level"], found["event"], found["bus"], found["retry_in_s"]) == (
        "WARN",
        "bus unavailable",
        "kafka",
        30,
    )


def test_an_exception_comes_with_its_traceback(written: io.StringIO) -> None:
    """A fault of ours that stopped the daemon has to be found."""
    set_up("info", stream=written)
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("node.service").exception("daemon failed")
    assert "ERROR daemon failed\nTraceback" in written.getvalue()


def test_foreign_libraries_are_heard_from_warnings_on(written: io.StringIO) -> None:
    """APScheduler says at INFO every second what it does."""
    set_up("debug", stream=written)
    logging.getLogger("apscheduler.scheduler").info("job added")
    logging.getLogger("apscheduler.scheduler").warning("job missed")
    assert [line.partition("WARN ")[2] for line in written.getvalue().splitlines()] == ["job missed"]

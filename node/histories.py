"""History cursors as commands show them: facts for programs, a line with a bar for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.ports import History, HistoryPhase
from schemas.stamp import EARLIEST, Stamp, digits

_WIDTH = 30


def facts(history: History) -> dict[str, Any]:
    """`everything_since`: what has this stamp or a later one has been sent; null before the first portion."""
    since = everything_since(history)
    return {
        "id": history.id,
        "to": history.node,
        "reason": history.reason,
        "type": history.type,
        "from": None if history.down_to is None else digits(history.down_to),
        "state": history.state,
        "sent": history.sent,
        "passed": history.passed,
        "total": history.total,
        "everything_since": None if since is None else digits(since),
        "begun": digits(history.begun),
        "ended": None if history.ended is None else digits(history.ended),
    }


def everything_since(history: History) -> Stamp | None:
    if history.phase is not HistoryPhase.ITEMS:
        return history.down_to or EARLIEST
    return None if history.place is None else Stamp(history.place.stamp + 1)


def done_and_total(history: Mapping[str, Any]) -> tuple[int, int]:
    """Items that were changed meanwhile went with the live changes: at the end nothing is left of them."""
    total = max(history["total"], history["passed"], 1)
    return (total if history["state"] == "done" else min(history["passed"], total)), total


def progress_line(node: str, history: Mapping[str, Any]) -> str:
    done, total = done_and_total(history)
    full = _WIDTH * done // total
    bar = "█" * full + "░" * (_WIDTH - full)
    since = history["everything_since"]
    shown = f"{since[:4]}-{since[4:6]}-{since[6:8]} {since[8:10]}:{since[10:12]}" if since else None
    arrived = f"everything since {shown} has been sent" if shown else "nothing has been sent yet"
    what = history["type"] or "all types"
    return f"history to {node} ({history['reason']}, {what})  {bar} {100 * done // total:3d} %  {arrived}"

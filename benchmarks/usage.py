"""What processes have used, from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of the processes with all their descendants, those that have ended too (once waited for)."""
    ticks = 0
    children = _children()
    todo = list(pids)
    while todo:
        pid = todo.pop()
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
            todo += children.get(pid, [])
    return ticks / _TICKS_PER_S


def alone_cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes without their descendants, to the nanosecond where Linux tells it."""
    seconds = 0.0
    for pid in pids:
        try:
            seconds += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
        except (OSError, IndexError):
            fields = _stat(pid)
            seconds += sum(int(field) for field in fields[11:13]) / _TICKS_PER_S if fields is not None else 0.0
    return seconds


def peak_rss_mb(pid: int) -> float:
    """The largest resident set so far; 0 for a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0.0)


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    return children


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the program's name (which may hold blanks): the first is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None

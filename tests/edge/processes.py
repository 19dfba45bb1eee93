"""What the system says of processes: Linux's /proc, without a library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="there is no /proc on this system")


def _stat(pid: int) -> list[str] | None:
    """The fields after the command's name; None when there is no such process."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def children(pid: int) -> dict[int, list[str]]:
    """The command lines of a process's children by their ids."""
    found = {}
    for folder in PROC.iterdir():
        stat = _stat(int(folder.name)) if folder.name.isdigit() else None
        if stat is not None and int(stat[1]) == pid:
            try:
                found[int(folder.name)] = (folder / "cmdline").read_text().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def is_alive(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat[0] not in ("Z", "X")


def cpu_s(pid: int) -> float:
    """User and system time that the process has taken so far."""
    stat = _stat(pid)
    assert stat is not None, f"process {pid} is gone"
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident."""
    text = (PROC / str(pid) / "status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")) / 1024

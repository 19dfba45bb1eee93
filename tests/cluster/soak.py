"""Histories by the ten thousand: `python -m tests.cluster.soak [--first N] [--histories N] [--workers N]`.

Each seed is played with the options that `mixture.mixed` gives it. What has been played is noted in a file, so a run
that was stopped goes on where it was; --afresh begins again. Failing seeds are printed as they are found, and again in
the closing line; the exit code is 1 if there were any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.mixture import command, mixed
from tests.cluster.simulation import history

CHUNK = 50


def play(first: int, last: int) -> list[tuple[int, str]]:
    """The seeds from `first` up to `last` that fail, and how."""
    failed = []
    for seed in range(first, last):
        try:
            history(seed, **mixed(seed))
        except Exception as failure:
            failed.append((seed, f"{type(failure).__name__}: {failure}"))
    return failed


def _play(span: tuple[int, int]) -> tuple[int, list[tuple[int, str]], float]:
    """How many were played, which failed, and the CPU time that it took."""
    started = time.process_time()
    failed = play(*span)
    return span[1] - span[0], failed, time.process_time() - started


def _spans(first: int, last: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last, CHUNK):
        yield start, min(start + CHUNK, last)


def main() -> int:
    parser = argparse.ArgumentParser(description="Plays many histories of the simulated network.")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--histories", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--state", type=Path, default=Path(".soak.json"), help="where it is noted what was played")
    parser.add_argument("--afresh", action="store_true", help="begin again with the first seed")
    asked = parser.parse_args()
    last = asked.first + asked.histories
    state = {"first": asked.first, "next": asked.first, "failed": [], "cpu_s": 0.0}
    if asked.state.exists() and not asked.afresh:
        noted = json.loads(asked.state.read_text())
        if noted["first"] == asked.first:
            state = noted
            print(
                f"{state['next'] - asked.first} histories were played before, {len(state['failed'])} failed", flush=True
            )
    with multiprocessing.get_context("spawn").Pool(asked.workers) as pool:
        for played, failed, cpu_s in pool.imap(_play, _spans(state["next"], last)):
            state["next"] += played
            state["failed"] += [seed for seed, _ in failed]
            state["cpu_s"] += cpu_s
            asked.state.write_text(json.dumps(state))
            for seed, why in failed:
                print(f"seed {seed} failed ({command(seed)}): {why[:600]}", flush=True)
            if (state["next"] - asked.first) % 1000 < CHUNK:
                print(_line(state), flush=True)
    print(_line(state) + (f": {state['failed']}" if state["failed"] else ""))
    return 1 if state["failed"] else 0


def _line(state: dict) -> str:
    done = state["next"] - state["first"]
    rate = done / max(state["cpu_s"], 0.001) * 60
    return f"{done} histories, {len(state['failed'])} failed, {rate:,.0f} a minute of CPU time"


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: runs the workloads by both rivals and prints the table. Exit code 1 if data differ at the end, 2 if
something could not be measured."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from rich.console import Console

from benchmarks.capture import capture_cost
from benchmarks.drain import Drained, drain
from benchmarks.exchange import Exchange
from benchmarks.growth import growth
from benchmarks.history import under_history
from benchmarks.latency import latency
from benchmarks.native import Native
from benchmarks.pipeline import pipeline
from benchmarks.presence import presence
from benchmarks.report import Results, show
from benchmarks.rivals import Rival
from benchmarks.servers import Server, two_servers
from benchmarks.start import starts
from benchmarks.workloads import backlogs

NAMES = ("w1", "w2", "w3", "latency", "history", "capture", "growth", "pipeline", "presence", "start")
QUICK_SCALE = 0.1
WIDTH = 170
"""Of the table where there is no terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else WIDTH)
    with two_servers() as (source, target):
        results = _run(options, source, target, console)
    if options.json:
        json.dump(results.as_json(), sys.stdout, indent=2)
        print()
    else:
        show(results, console)
    return 1 if results.differences() else 2 if results.failures else 0


def _run(options: argparse.Namespace, source: Server, target: Server, console: Console) -> Results:
    results = Results()

    def rivals(name: str) -> list[Rival]:
        chosen: list[Rival] = []
        if "native" in options.by:
            chosen.append(Native(source, target, f"native_{name}"))
        if "kod" in options.by:
            chosen.append(Exchange(source, target, f"kod_{name}", options.bus))
        results.notes.update({rival.name: rival.note for rival in chosen})
        return chosen

    @contextmanager
    def noting(what: str) -> Iterator[None]:
        """What cannot be measured is said, and the rest goes on."""
        try:
            yield
        except (RuntimeError, psycopg.Error) as error:
            results.failures.append(f"{what}: {error}")
            console.print(results.failures[-1], style="red", highlight=False, markup=False)

    for name, workload in backlogs(QUICK_SCALE if options.quick else 1.0).items():
        if name in options.workloads:
            runs: list[Drained] = []
            for rival in [rival for _ in range(options.rounds) for rival in rivals(name)]:
                with noting(f"{name}, {rival.name}"):
                    runs.append(drain(rival, workload, source, target))
                    rate = f"{runs[-1].rate:,.0f} {workload.unit}"
                    console.print(f"{workload.title}: {rival.name} {rate}", highlight=False)
            results.drained.append((workload, runs))
    if "latency" in options.workloads:
        gc.disable()  # a pause of ours would look like one of theirs
        for rival in rivals("latency"):
            with noting(f"latency, {rival.name}"):
                measured = latency(rival, source, target, seconds=3 if options.quick else 15)
                results.latencies.append(measured)
                console.print(f"latency: {measured.rival} p50 {measured.p50_ms:.2f} ms", highlight=False)
        gc.enable()
    if "history" in options.workloads and "kod" in options.by:
        gc.disable()
        with noting("history"):
            scale, seconds = (QUICK_SCALE, 1) if options.quick else (1.0, 10)
            results.under_history = under_history(source, target, scale, seconds)
        gc.enable()
    if "capture" in options.workloads and "kod" in options.by:
        rounds, seconds = (3, 1) if options.quick else (5, 3)
        with noting("capture"):
            results.capture = capture_cost(source, target, rounds, seconds)
    if "growth" in options.workloads and "kod" in options.by:
        with noting("growth"):
            results.growth = growth(QUICK_SCALE if options.quick else 1.0, rounds=5 if options.quick else 15)
    if "pipeline" in options.workloads and "kod" in options.by:
        with noting("pipeline"):
            results.pipeline = pipeline(source, QUICK_SCALE if options.quick else 1.0, rounds=3 if options.quick else 7)
    if "presence" in options.workloads and "kod" in options.by:
        with noting("presence"):
            results.presence = presence(source, QUICK_SCALE if options.quick else 1.0)
    if "start" in options.workloads and "kod" in options.by:
        with noting("start"):
            results.starts = starts(source, QUICK_SCALE if options.quick else 1.0, rounds=3 if options.quick else 7)
    return results


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size: to see that it works")
    parser.add_argument(
        "--rounds", type=int, default=1, help="of W1, W2, W3, rivals in turn; the table has the medians"
    )
    parser.add_argument("--json", action="store_true", help="the results as JSON on stdout")
    parser.add_argument("--by", nargs="+", choices=("native", "kod"), default=("native", "kod"), help="default: both")
    parser.add_argument("--bus", help="KOD's bus as in nodes.yaml, e.g. kafka://127.0.0.1:9092; default: a folder")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.workloads if name not in NAMES]
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)} (there are {', '.join(NAMES)})")
    options.workloads = options.workloads or NAMES
    return options


if __name__ == "__main__":
    sys.exit(main())

"""The table of all that was measured, with the targets."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.capture import CaptureCost
from benchmarks.drain import Drained
from benchmarks.growth import Growth
from benchmarks.history import TARGET as HISTORY_TARGET
from benchmarks.history import UnderHistory
from benchmarks.latency import Latency
from benchmarks.pipeline import Pipeline
from benchmarks.presence import ON_PAPER_ITEMS, ON_PAPER_NODES, Presence
from benchmarks.start import Start
from benchmarks.workloads import Backlog

RATIO_TARGETS = {"w1": 0.35, "w2": 0.3, "w3": 5.0}
P50_TARGET_MS = 10.0
CAPTURE_TARGET = 0.7
MEMORY_TARGET_MB = 250.0
START_TARGET_S = 2.0


@dataclass(slots=True)
class Results:
    drained: list[tuple[Backlog, list[Drained]]] = field(default_factory=list)
    """Each workload's runs, the rivals in turn."""
    latencies: list[Latency] = field(default_factory=list)
    capture: list[CaptureCost] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    pipeline: list[Pipeline] = field(default_factory=list)
    presence: Presence | None = None
    under_history: UnderHistory | None = None
    starts: list[Start] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What could not be measured, and why."""
    notes: dict[str, str] = field(default_factory=dict)
    """What is to be known of each rival."""

    def differences(self) -> list[str]:
        """Where the data were not equal at the end."""
        runs = [(f"{w.name}, {run.rival}", run.differences) for w, all_of in self.drained for run in all_of]
        runs += [(f"latency, {run.rival}", run.differences) for run in self.latencies]
        return [f"{run}: {table}: {text}" for run, tables in runs for table, text in tables.items()]

    def peak_rss_mb(self) -> float | None:
        peaks = [run.peak_rss_mb for _, runs in self.drained for run in runs] + [r.peak_rss_mb for r in self.latencies]
        return max((peak for peak in peaks if peak is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "rivals": self.notes,
            "backlogs": [
                {
                    "workload": w.name,
                    "rows": w.rows,
                    "ratio": _ratio(runs, median_run(runs, "kod")),
                    "target": RATIO_TARGETS[w.name],
                    "runs": [{**asdict(run), "rate": run.rate, "rate_with_start": run.rate_with_start} for run in runs],
                }
                for w, runs in self.drained
            ],
            "latency": [asdict(run) for run in self.latencies],
            "capture": [asdict(cost) for cost in self.capture],
            "growth": [{**asdict(growth), "reached": growth.reached} for growth in self.growth],
            "pipeline": [asdict(one) for one in self.pipeline],
            "presence": None if self.presence is None else asdict(self.presence),
            "under_history": None
            if self.under_history is None
            else {**asdict(self.under_history), "ratio": self.under_history.ratio, "target": HISTORY_TARGET},
            "starts": [asdict(start) for start in self.starts],
            "peak_rss_mb": self.peak_rss_mb(),
            "differences": self.differences(),
            "failures": self.failures,
        }


def show(results: Results, console: Console) -> None:
    console.print(f"\n{machine()}", highlight=False)
    for name, note in results.notes.items():
        console.print(f"{name}: {note}", highlight=False)
    for shown in (
        _backlogs(results.drained),
        _latencies(results.latencies),
        _under_history(results.under_history),
        _capture(results.capture),
        _growth(results.growth),
        _pipeline(results.pipeline),
        _presence(results.presence),
        _starts(results.starts),
    ):
        if shown is not None:
            console.print(shown)
    peak = results.peak_rss_mb()
    if peak is not None:
        verdict = _verdict(peak <= MEMORY_TARGET_MB)
        console.print(f"Largest daemon: {peak:.0f} MB (target ≤ {MEMORY_TARGET_MB:.0f}) {verdict}", highlight=False)
    for text in results.failures:
        console.print(f"not measured: {text.splitlines()[0]}", style="red", highlight=False, markup=False)
    differences = results.differences()
    for text in differences or ["what was measured: all data equal at the end"]:
        console.print(text, style="red" if differences else "green", highlight=False)


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def _backlogs(drained: Sequence[tuple[Backlog, list[Drained]]]) -> Table | None:
    if not drained:
        return None
    table = Table(
        title="Backlog drained",
        caption="CPU s/M: seconds of daemons + source + target server for a million rows, without the daemons' start.\n"
        "Rates run from the moment at work (KOD: “daemon started”); in brackets with the processes' start.",
    )
    for heading in ("workload", "by"):
        table.add_column(heading)
    for heading in ("a second", "× native", "target", "CPU s/M", "start s", "load s", "peak MB", "equal"):
        table.add_column(heading, justify="right")
    for workload, runs in drained:
        shown = [run for rival in ("native", "kod") if (run := median_run(runs, rival)) is not None]
        for run in shown:
            ratio = _ratio(runs, run)
            target = RATIO_TARGETS[workload.name]
            table.add_row(
                workload.title if run is shown[0] else "",
                run.rival,
                f"{run.rate:,.0f} {workload.unit}"
                + (f" ({run.rate_with_start:,.0f})" if run.peak_rss_mb is not None else ""),
                "" if ratio is None else f"{ratio:.2f}",
                "" if ratio is None else f"≥ {target:g} {_verdict(ratio >= target)}",
                f"{run.cpu_s_per_million:.1f} = "
                + " + ".join(
                    f"{s * 1e6 / run.rows:.1f}" for s in (run.client_cpu_s, run.source_cpu_s, run.target_cpu_s)
                ),
                f"{run.start_s:.2f}",
                f"{run.load_s:.1f}",
                "" if run.peak_rss_mb is None else f"{run.peak_rss_mb:.0f}",
                "no" if any(r.differences for r in runs if r.rival == run.rival) else "yes",
            )
    return table


def _latencies(latencies: Sequence[Latency]) -> Table | None:
    if not latencies:
        return None
    table = Table(title="Order transactions at 200 a second: from commit to visible at the target")
    table.add_column("by")
    for heading in ("pace", "p50 ms", "target", "p95 ms", "p99 ms", "max ms", "cores: clients + servers"):
        table.add_column(heading, justify="right")
    for heading in ("at rest", "first after rest", "peak MB", "equal"):
        table.add_column(heading, justify="right")
    for run in latencies:
        native = run.peak_rss_mb is None
        table.add_row(
            run.rival,
            f"{run.per_second:.0f}/s",
            f"{run.p50_ms:.2f}",
            "" if native else f"≤ {P50_TARGET_MS:g} {_verdict(run.p50_ms <= P50_TARGET_MS)}",
            f"{run.p95_ms:.2f}",
            f"{run.p99_ms:.2f}",
            f"{run.max_ms:.1f}",
            f"{run.client_cores:.2f} + {run.server_cores:.2f}",
            "" if native else f"{run.rest_core_percent:.1f} % of a core",
            f"{run.first_after_rest_ms:.1f} ms",
            "" if native else f"{run.peak_rss_mb:.0f}",
            "no" if run.differences else "yes",
        )
    return table


def _capture(costs: Sequence[CaptureCost]) -> Table | None:
    if not costs:
        return None
    table = Table(title="Capture: the application's throughput, transactions a second (4 clients, median of rounds)")
    for heading in ("transactions", "commits"):
        table.add_column(heading)
    for heading in ("without", "with capture", "ratio", "target"):
        table.add_column(heading, justify="right")
    for cost in costs:
        table.add_row(
            cost.title,
            "flushed" if cost.flushed else "not waited for",
            f"{cost.per_second_without:,.0f}",
            f"{cost.per_second_with:,.0f}",
            f"{cost.ratio:.2f}",
            f"≥ {CAPTURE_TARGET:g} {_verdict(cost.ratio >= CAPTURE_TARGET)}",
        )
    return table


def _growth(growths: Sequence[Growth]) -> Table | None:
    if not growths:
        return None
    table = Table(title="Growth: CPU of sender and server for the same changes (medians of alternating rounds)")
    table.add_column("sent")
    for heading in (
        "with",
        "CPU ms",
        "took ms",
        "with ",
        "CPU ms ",
        "took ms ",
        "× CPU (half of the rounds)",
        "target",
    ):
        table.add_column(heading, justify="right")
    table.add_column("the writer's own", justify="right")
    table.add_column("a bare UPDATE", justify="right")
    for growth in growths:
        target = f"≤ {growth.most:g}" if not growth.least else f"{growth.least:g} to {growth.most:g}"
        table.add_row(
            growth.title,
            growth.small,
            f"{growth.small_cpu_ms:.0f}",
            f"{growth.small_took_ms:.0f}",
            growth.large,
            f"{growth.large_cpu_ms:.0f}",
            f"{growth.large_took_ms:.0f}",
            f"{growth.ratio:.2f} ({growth.lower:.2f} to {growth.upper:.2f})",
            f"{target} {_verdict(growth.reached)}",
            "" if growth.application is None else f"× {growth.application:.2f}",
            "" if growth.bare is None else f"× {growth.bare:.2f}",
        )
    return table


def _under_history(measured: UnderHistory | None) -> Table | None:
    if measured is None:
        return None
    reached = "reached" if measured.ratio <= HISTORY_TARGET else "not reached"
    table = Table(
        title=f"Live changes while {measured.customers:,} items go to a new node by history",
        caption=f"p50 × {measured.ratio:.2f} (target ≤ {HISTORY_TARGET:g}: {reached}); history brought "
        f"{measured.per_second:,.0f} items/s meanwhile.",
    )
    for heading in ("", "p50 ms", "p95 ms"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("without history", f"{measured.alone_p50_ms:.2f}", f"{measured.alone_p95_ms:.2f}")
    table.add_row("under history", f"{measured.p50_ms:.2f}", f"{measured.p95_ms:.2f}")
    return table


def _starts(starts: Sequence[Start]) -> Table | None:
    if not starts:
        return None
    table = Table(title=f"Start: {starts[0].types} types, {starts[0].columns:,} columns")
    for heading in ("database", "first, s", "again, s", "target"):
        table.add_column(heading, justify="left" if heading == "database" else "right")
    for start in starts:
        target = f"≤ {START_TARGET_S:g} {'met' if start.again_s <= START_TARGET_S else 'MISSED'}"
        table.add_row(start.dialect, f"{start.first_s:.2f}", f"{start.again_s:.2f}", target)
    return table


def _pipeline(measured: Sequence[Pipeline]) -> Table | None:
    if not measured:
        return None
    table = Table(
        title="Pipeline: preparing the next portion while the last is on its way (medians of rounds in turns)"
    )
    table.add_column("sent")
    for heading in ("one after the other, s", "beside, s", "× time (half of the rounds)"):
        table.add_column(heading, justify="right")
    for one in measured:
        spread = f"{one.ratio:.2f} ({one.lower:.2f} to {one.upper:.2f})"
        table.add_row(one.title, f"{one.without_s:.2f}", f"{one.with_s:.2f}", spread)
    return table


def _presence(presence: Presence | None) -> Table | None:
    if presence is None:
        return None
    table = Table(
        title=f"Presence: {presence.items:,} items, {presence.nodes} nodes",
        caption=f"{presence.bytes_a_row:.0f} bytes and {presence.cpu_us_a_row:.1f} µs of CPU a row; on paper "
        f"{ON_PAPER_ITEMS:,} items × {ON_PAPER_NODES} nodes: {presence.on_paper_gb:.1f} GB.",
    )
    table.add_column("type")
    for heading in ("rows", "MB", "sent in s", "CPU s", "a tenth again, CPU s"):
        table.add_column(heading, justify="right")
    table.add_row(
        "where rights say so", f"{presence.rows:,}", f"{presence.size_mb:.0f}", f"{presence.took_s:.1f}",
        f"{presence.cpu_s:.1f}", f"{presence.again_cpu_s:.1f}",
    )  # fmt: skip
    table.add_row(
        "reference data", f"{presence.everywhere_rows:,}", "0", f"{presence.everywhere_took_s:.1f}",
        f"{presence.everywhere_cpu_s:.1f}", f"{presence.everywhere_again_cpu_s:.1f}",
    )  # fmt: skip
    return table


def median_run(runs: Sequence[Drained], rival: str) -> Drained | None:
    """The rival's run of the median rate (the lower one of two); None where it did not run."""
    its = sorted((run for run in runs if run.rival == rival), key=lambda run: run.rate)
    return its[(len(its) - 1) // 2] if its else None


def _ratio(runs: Sequence[Drained], run: Drained | None) -> float | None:
    """Against native in the same run; None for native itself, and without it."""
    native = median_run(runs, "native")
    return None if native is None or run is None or run.rival == "native" else run.rate / native.rate


def _verdict(reached: bool) -> str:
    return "[green]✓[/]" if reached else "[red]✗[/]"

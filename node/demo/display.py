"""What is seen of the demo: the flow while it goes, and the table that proves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node.databases import Database, open_database
from node.demo.network import DemoNetwork, DemoNode
from node.demo.proof import Line, Proof
from node.demo.trade import Happened
from schemas.errors import UnavailableError
from schemas.stamp import Stamp, digits

FEED_LINES = 7
PLAIN_EVERY_S = 1.0
_BARS = " ▁▂▃▄▅▆▇█"
_PACE_S = 0.5
"""How often a way's throughput is looked at; a bar for each."""


@dataclass(frozen=True, slots=True)
class NodeNow:
    node: DemoNode
    edits: int
    waiting: int
    boundary: Stamp | None
    behind_ms: int
    collisions: int


@dataclass(frozen=True, slots=True)
class WayNow:
    """One direction of a link."""

    sender: str
    to: str
    messages: int
    items: int
    on_the_way: int
    end_to_end_ms: int | None
    pace: str


@dataclass(frozen=True, slots=True)
class Now:
    nodes: Sequence[NodeNow]
    ways: Sequence[WayNow]

    @property
    def quiet(self) -> bool:
        return not any(n.waiting for n in self.nodes) and not any(w.on_the_way for w in self.ways)


class Watcher:
    """Asks the nodes' registers and the bus how far things are, as `kod status` does."""

    def __init__(self, network: DemoNetwork) -> None:
        self.network = network
        self._databases: dict[str, Database] = {
            node.code: open_database(f"sqlite:///{node.path}") for node in network.nodes
        }
        self._paces = {way: Pace() for way in network.ways}

    def close(self) -> None:
        for database in self._databases.values():
            database.close()

    def now(self, edits: Callable[[str], int]) -> Now:
        figures = {code: database.figures() for code, database in self._databases.items()}
        now_ms = time.time_ns() // 1_000_000
        nodes = []
        for node in self.network.nodes:
            found = figures[node.code]
            behind = now_ms - found.oldest_waiting if found.items_waiting and found.oldest_waiting else 0
            nodes.append(
                NodeNow(node, edits(node.code), found.items_waiting, found.boundary, max(0, behind), found.collisions)
            )
        ways = []
        for sender, to in self.network.ways:
            sent, received = figures[sender].links[to], figures[to].links[sender]
            if received.get("fault"):
                raise UnavailableError(f"{to} cannot apply what came from {sender}: {received['fault']}")
            pace = self._paces[sender, to]
            pace.add(sent["sent_items"])
            ways.append(
                WayNow(
                    sender,
                    to,
                    sent["sent_messages"],
                    sent["sent_items"],
                    self._on_the_way(sender, to),
                    received["end_to_end_ms"],
                    pace.bars,
                )
            )
        return Now(nodes, ways)

    def journal(self) -> set[tuple[str, str]]:
        """Type and text of every version that lost a collision, at any node."""
        found = set()
        for database in self._databases.values():
            for entry in database.collisions():
                text = entry["loser"]["text"]
                found.add((str(entry["type"]), text.decode() if isinstance(text, bytes) else str(text)))
        return found

    def _on_the_way(self, sender: str, to: str) -> int:
        folder: Path = self.network.folder / "exchange" / self.network.network.name / to / sender
        return sum(1 for _ in folder.glob("*/*.json")) if folder.is_dir() else 0


class Pace:
    """Items in each half second, as bars: the newest on the right."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._items: int | None = None
        """Sent at the last look; what was sent before the first one does not count."""
        self._counts = [0] * 12

    def add(self, items: int) -> None:
        now = time.monotonic()
        if self._items is None:
            self._at, self._items = now, items
        elif now - self._at >= _PACE_S:
            self._counts = [*self._counts[1:], items - self._items]
            self._at, self._items = now, items

    @property
    def bars(self) -> str:
        most = max(*self._counts, 1)
        return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in self._counts)


@dataclass
class Screen:
    """Where it is shown: live on a terminal, as lines elsewhere, nowhere for --json."""

    console: Console
    quiet: bool = False

    def say(self, text: str, style: str = "") -> None:
        if not self.quiet:
            self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[Callable[[str, Now, Sequence[Happened]], None]]:
        """Call what it gives with a title, how things are and what happened, as often as there is news."""
        if self.quiet:
            yield lambda title, now, feed: None
        elif self.console.is_terminal:
            with Live(console=self.console, auto_refresh=False) as live:
                yield lambda title, now, feed: live.update(flow(title, now, feed), refresh=True)
        else:
            yield _Lines(self.console).show

    def show(self, renderable: RenderableType) -> None:
        if not self.quiet:
            self.console.print(renderable)


class _Lines:
    """For logs and pipes: a line each second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def show(self, title: str, now: Now, _: Sequence[Happened]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PLAIN_EVERY_S
        edits = sum(n.edits for n in now.nodes)
        behind = max(n.behind_ms for n in now.nodes)
        collisions = sum(n.collisions for n in now.nodes)
        self._console.print(
            f"{title}: edits={edits} behind_ms={behind} collisions={collisions}", highlight=False, markup=False
        )
        ways = [f"{way.sender}->{way.to} {way.messages} messages {way.items} items" for way in now.ways]
        for first in range(0, len(ways), 3):
            self._console.print("  " + "; ".join(ways[first : first + 3]), highlight=False, soft_wrap=True)


def flow(title: str, now: Now, feed: Sequence[Happened]) -> RenderableType:
    """The live picture; fits into 80 columns."""
    return Group(Text(title, style="bold"), _nodes_table(now), _ways_table(now), _feed_lines(feed))


def _nodes_table(now: Now) -> Table:
    table = _table()
    table.add_column("node", style="bold cyan")
    table.add_column("", no_wrap=True)
    for name in ("edits", "waiting", "boundary", "behind", "collisions"):
        table.add_column(name, justify="right", no_wrap=True)
    for n in now.nodes:
        table.add_row(
            n.node.code,
            n.node.name,
            str(n.edits),
            str(n.waiting),
            _clock(n.boundary),
            f"{n.behind_ms} ms",
            Text(str(n.collisions), style="yellow" if n.collisions else ""),
        )
    return table


def _ways_table(now: Now) -> Table:
    table = _table()
    table.add_column("from → to", style="bold cyan", no_wrap=True)
    for name in ("messages", "items", "on the way", "end to end"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("items sent, by ½ s", style="green", no_wrap=True)
    for way in now.ways:
        end_to_end = "–" if way.end_to_end_ms is None else f"{way.end_to_end_ms} ms"
        table.add_row(
            f"{way.sender} → {way.to}",
            str(way.messages),
            str(way.items),
            f"{way.on_the_way} files",
            end_to_end,
            way.pace,
        )
    return table


def _feed_lines(feed: Sequence[Happened]) -> RenderableType:
    lines = [
        Text.assemble(
            (f" {happened.at:%H:%M:%S.%f}"[:-3], "dim"),
            (f"  {happened.node:<6}", "cyan"),
            (happened.text, "yellow" if "collision" in happened.text else ""),
            no_wrap=True,
            overflow="ellipsis",
        )
        for happened in feed[-FEED_LINES:]
    ]
    return Group(*lines)


def _clock(stamp: Stamp | None) -> str:
    if stamp is None:
        return "–"
    text = digits(stamp)
    return f"{text[8:10]}:{text[10:12]}:{text[12:14]}.{text[14:]}"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


# --- the proof ------------------------------------------------------------------------------------------------------


def proof_table(lines: Sequence[Line], nodes: Sequence[DemoNode]) -> Table:
    """A line for each type: how many items each node has, and a digest over their contents. Many nodes share a
    column where they agree, so that it fits."""
    table = _table()
    table.add_column("type", no_wrap=True)
    shown = nodes[:4]
    for node in shown:
        table.add_column(f"at {node.code}", justify="right", no_wrap=True)
    if nodes[4:]:
        table.add_column(f"{len(nodes) - 4} more", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for line in lines:
        cells = [f"{line.items[node.code]} {line.digests[node.code]}" for node in shown]
        if nodes[4:]:
            differing = sum(1 for node in nodes[4:] if line.differing[node.code])
            cells.append(f"{differing} differ" if differing else "the same")
        table.add_row(line.type.rpartition(".")[2], *cells, _verdict(line))
    return table


def _verdict(line: Line) -> Text:
    if not line.agrees:
        where = ", ".join(f"{count} at {code}" for code, count in line.differing.items() if count)
        return Text(f"DIFFER: {where}", style="bold red")
    return Text("upwards ✓" if line.to_parent_only else "agree ✓", style="bold green")


def verdict_lines(proof: Proof, edits: int) -> Iterator[tuple[str, str]]:
    """(text, style) of what the proof comes to."""
    broken = sum(proof.broken_references.values())
    facts = (
        (proof.agrees, "the nodes agree, item for item", "the nodes do not agree"),
        (
            not proof.lost,
            f"none of {edits} edits was lost: every item is as its last writer left it",
            f"{len(proof.lost)} items are as nobody left them",
        ),
        (
            not proof.unjournalled,
            f"{proof.collisions_provoked} collisions provoked, {proof.collisions_journalled} journalled:"
            " one version won, the other is kept",
            f"{len(proof.unjournalled)} collisions were not settled, or not journalled",
        ),
        (not broken, "no reference is broken anywhere", f"{broken} references are broken"),
    )
    for holds, good, bad in facts:
        yield (f" ✓ {good}", "green") if holds else (f" ✗ {bad}", "bold red")
    for text in (*proof.lost[:5], *proof.unjournalled[:5]):
        yield f"     {text}", "red"

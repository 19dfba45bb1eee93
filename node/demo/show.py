"""The course of the demo: set up, daemons, edits at every node at once, quiet, proof."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from node.demo.display import Screen, Watcher, proof_table, verdict_lines
from node.demo.network import NODES_MAX, Daemons, DemoNetwork
from node.demo.proof import Proof, compare, prove, read_node
from node.demo.trade import CONTESTED, Application, Clash, Feed, clash, load_sample
from node.report import print_json
from schemas.errors import ConfigError, UnavailableError

CLASH_EVERY_S = 0.6
REFRESH_S = 0.15
QUIET_WITHIN_S = 120.0


def run(directory: Path | None, nodes: int, seconds: float, as_json: bool) -> int:
    """Shows a network at work in `directory` (None: a temporary one that is removed). 0 only if its nodes agree and
    nothing was lost. Raises ConfigError for a folder that is in use, UnavailableError when a daemon ends."""
    if not 2 <= nodes <= NODES_MAX:
        raise ConfigError(f"a demo has 2 to {NODES_MAX} nodes, not {nodes}")
    screen = Screen(Console(), quiet=as_json)
    with ExitStack() as stack:
        stack.enter_context(_ending_on_sigterm())
        folder = _kept(directory) if directory else _temporary(stack)
        demo = _Demo(DemoNetwork(folder), screen)
        proof = demo.run(nodes, seconds)
        if as_json:
            print_json(demo.summary(proof))
        if directory and not as_json:
            _say_what_next(screen, directory, nodes)
    return 0 if proof.holds else 1


def _kept(directory: Path) -> Path:
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty", hint="another folder, or remove it first")
    directory.mkdir(parents=True, exist_ok=True)
    return directory.resolve()


def _temporary(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kod-demo-", ignore_cleanup_errors=True)))


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: the daemons first."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Demo:
    def __init__(self, network: DemoNetwork, screen: Screen) -> None:
        self.network = network
        self.screen = screen
        self.feed = Feed()
        self.stop = threading.Event()
        self.applications: list[Application] = []
        self.clashes: list[Clash] = []
        self.facts: dict[str, Any] = {}

    def run(self, nodes: int, seconds: float) -> Proof:
        self._set_up(nodes)
        with ExitStack() as stack:
            watcher = Watcher(self.network)
            stack.callback(watcher.close)
            with self.network.daemons() as daemons:
                self._first_load(daemons)
                self._edit(daemons, watcher, seconds)
                self._wait_until_quiet(daemons, watcher)
                ended = daemons.stop()  # whatever is compared from here on stands still
            unclean = {code: exit_code for code, exit_code in ended.items() if exit_code}
            if unclean:
                raise UnavailableError(f"daemons did not end cleanly: {unclean}")
            journal = watcher.journal()
        ledgers = {application.node.code: application.ledger for application in self.applications}
        proof = prove(self.network, ledgers, self.clashes, journal)
        self._show(proof)
        return proof

    # --- before ---

    def _set_up(self, nodes: int) -> None:
        network, say = self.network, self.screen.say
        network.write(nodes)
        rows = load_sample(network.nodes[0])
        say(f"A small trade: {nodes} nodes, SQLite databases, a folder as the bus; in {network.folder}", "bold")
        say(f"The head office has {rows} rows already, the others none. As you would do it:\n")
        say("  kod schema generate --node 00")
        network.kod("schema", "generate", "--node", "00")
        say("  kod install --node 00 --stamp-existing        and for every other node")
        network.kod_at_every_node("install", "--stamp-existing")
        say("  kod run --node 00                             and for every other node\n")

    def _first_load(self, daemons: Daemons) -> None:
        """Until the others have what the head office had before."""
        started = time.monotonic()
        while True:
            lines = compare(self.network, {node.code: read_node(node) for node in self.network.nodes})
            if all(line.agrees for line in lines):
                break
            self._not_after(started, daemons)
            time.sleep(REFRESH_S)
        items = sum(line.items[self.network.nodes[0].code] for line in lines)
        took_s = time.monotonic() - started
        self.facts |= {"sample_items": items, "sample_took_s": round(took_s, 2)}
        self.screen.say(f"All {items} items of the head office are at every node, {took_s:.1f} s after the start.\n")

    def _not_after(self, started: float, daemons: Daemons) -> None:
        daemons.check()
        if time.monotonic() - started > QUIET_WITHIN_S:
            raise UnavailableError(f"the nodes did not come to agree within {QUIET_WITHIN_S:.0f} s")

    # --- edits ---

    def _edit(self, daemons: Daemons, watcher: Watcher, seconds: float) -> None:
        nodes = self.network.nodes
        self.applications = [
            Application(node, number, len(nodes), self.feed, self.stop) for number, node in enumerate(nodes)
        ]
        for application in self.applications:
            application.start()
        try:
            self._watch_edits(daemons, watcher, seconds)
        finally:
            self.stop.set()
            for application in self.applications:
                application.join()
        for application in self.applications:
            if application.failure is not None:
                raise application.failure

    def _watch_edits(self, daemons: Daemons, watcher: Watcher, seconds: float) -> None:
        started = time.monotonic()
        next_clash = 0.0
        with self.screen.live() as show:
            while (elapsed := time.monotonic() - started) < seconds and not self.stop.wait(REFRESH_S):
                if elapsed >= next_clash and len(self.clashes) < CONTESTED:
                    self._clash()
                    next_clash += CLASH_EVERY_S
                daemons.check()
                title = f"Edits at every node at once, {elapsed:.0f} s of {seconds:.0f}"
                show(title, watcher.now(self._edits_at), list(self.feed.lines))
            title = f"Edits at every node at once, {seconds:.0f} s: done"
            show(title, watcher.now(self._edits_at), list(self.feed.lines))

    def _clash(self) -> None:
        """Between a parent and a child, or two children, in turn."""
        nodes = self.network.nodes
        number = len(self.clashes)
        one = nodes[number % len(nodes)]
        self.clashes.append(clash(number, (one, nodes[(number + 1) % len(nodes)]), self.feed))

    def _edits_at(self, code: str) -> int:
        own = sum(application.edits for application in self.applications if application.node.code == code)
        return own + sum(code in clash.nodes for clash in self.clashes)

    @property
    def edits(self) -> int:
        return sum(self._edits_at(node.code) for node in self.network.nodes)

    # --- after ---

    def _wait_until_quiet(self, daemons: Daemons, watcher: Watcher) -> None:
        """Until nothing waits and nothing is on its way, and the tables agree; what still differs after the deadline,
        the proof says."""
        started = time.monotonic()
        while time.monotonic() - started < QUIET_WITHIN_S:
            daemons.check()
            if watcher.now(self._edits_at).quiet:
                lines = compare(self.network, {node.code: read_node(node) for node in self.network.nodes})
                if all(line.agrees for line in lines):
                    break
            time.sleep(REFRESH_S)
        now = watcher.now(self._edits_at)
        took_s = time.monotonic() - started
        self.facts |= {"quiet_after_s": round(took_s, 2), "edits": self.edits, "messages": _sum(now.ways, "messages")}
        self.facts |= {"items_sent": _sum(now.ways, "items")}
        self.screen.say(
            f"\nQuiet {took_s:.1f} s after the last edit. Items, and a digest of them, read by plain SQL:", "bold"
        )

    def _show(self, proof: Proof) -> None:
        self.screen.show(proof_table(proof.lines, self.network.nodes))
        for text, style in verdict_lines(proof, self.edits):
            self.screen.say(text, style)

    def summary(self, proof: Proof) -> Mapping[str, Any]:
        """For --json."""
        return {
            "agree": proof.agrees,
            "holds": proof.holds,
            "nodes": [node.code for node in self.network.nodes],
            **self.facts,
            "collisions_provoked": proof.collisions_provoked,
            "collisions_journalled": proof.collisions_journalled,
            "lost": list(proof.lost),
            "unjournalled": list(proof.unjournalled),
            "broken_references": dict(proof.broken_references),
            "types": [
                {
                    "type": line.type,
                    "agrees": line.agrees,
                    "items": dict(line.items),
                    "digests": dict(line.digests),
                    "differing": dict(line.differing),
                }
                for line in proof.lines
            ],
        }


def _sum(ways: Sequence[Any], name: str) -> int:
    return sum(getattr(way, name) for way in ways)


def _say_what_next(screen: Screen, directory: Path, nodes: int) -> None:
    last = f"{nodes - 1:02}"
    screen.say(f"\nKept in {directory}. Look around:", "bold")
    for text in (
        f"cd {directory}",
        "kod status",
        "kod collisions --node 00",
        "kod explain --node 00 Catalog.Product 7",
        f"kod compare --node 00 --with {last}",
        "kod run --node 00 &   kod run --node 01 &",
        """sqlite3 01.sqlite "UPDATE products SET name = 'Mine' WHERE product_id = 7" """.rstrip(),
        """sqlite3 00.sqlite "SELECT name FROM products WHERE product_id = 7" """.rstrip(),
    ):
        screen.say(f"  {text}")

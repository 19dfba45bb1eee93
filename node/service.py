"""The service of a node: the only place where the parts meet.

    database + bus + clock  ->  Sender and Receiver, each in threads of its own, so that neither delays the other
    APScheduler             ->  what is done by the clock: heartbeats, settings, checks of the triggers
    signals                 ->  a clean end

The dispatchers react within milliseconds of a change: they look often while there is traffic and seldom at rest.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from dispatcher import kinds
from dispatcher.deferring import Deferring
from dispatcher.events import event
from dispatcher.ports import Bus, NodeView, Store
from dispatcher.purging import Purging
from dispatcher.receiving import Link, Receiver
from dispatcher.sending import Sender
from dispatcher.turning import Turning
from node import identity
from node.buses import open_bus
from node.clock import SystemClock
from node.config import read_network, signature_keys
from node.databases import Database
from node.hooks.bound import BoundHooks, HookStep
from node.opened import connect, hooks_of, refusals, structure_of
from node.packages import keep_package
from schemas.errors import ConfigError, ConflictError, IdentityError, InvariantError, KodError, UnavailableError
from schemas.network import Network, NodeSettings
from schemas.structure import Structure
from schemas.topology import Topology

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

log = logging.getLogger(__name__)

BUSY_WAIT_S = 0.002
IDLE_WAIT_S = 0.1
IDLE_GROWTH = 1.1
"""How often a dispatcher looks: every 2 ms while there is traffic, then less and less, ten times a second at
rest. A look costs about 0.2 ms, so rest costs well below 1 % of a core, and a first change is seen within 0.1 s."""

SWITCH_S = 0.001
"""How long a thread that computes keeps others waiting; Python's own 5 ms would be a large part of a message's way."""

LOOK_AGAIN_S = 0.5
"""A link looks for letters so often even when the bus said nothing."""

GC_THRESHOLDS = (50_000, 20, 20)
"""Messages are trees of short-lived values: with Python's own thresholds a fifth of reading them is collecting. Of a
start it is a tenth: all that is made there stays."""

RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)
SETTINGS_EVERY_S = 1
TRIGGERS_EVERY_S = 60
LIFE_EVERY_S = 60
PURGE_EVERY_S = 600
CLOCKS_EVERY_S = 5
CLOCKS_DIFFER_MS = 1_000
"""By how much the difference of two clocks has to change to be noted."""


def run(network: Network, code: str, *, once: bool = False, moved: bool = False, copy: bool = False) -> int:
    """Runs a node until SIGTERM or SIGINT, or, `once`, until nothing moves any more. Returns the exit code.

    `moved`, `copy`: what became of the database, where it is not what it was (node/identity.py)."""

    def admitted(database: Database, bus: Bus) -> None:
        identity.admit(database, bus, network, code, SystemClock().now(), moved=moved, copy=copy)

    gc.set_threshold(*GC_THRESHOLDS)
    asked_to_end = threading.Event()
    admit = admitted
    with _locked(network, code) as (database, basis):
        while True:
            with _served(database, basis, code, admit) as service:
                if once:
                    return service.run_once()
                service.run(asked_to_end)
            if service.taken_over is None or asked_to_end.is_set():
                event(log, logging.INFO, "daemon stopped", node=code)
                return 0
            basis, admit = service.taken_over, _known


@contextmanager
def opened(network: Network, code: str, admit: Callable[[Database, Bus], None]) -> Iterator[tuple[Database, Service]]:
    """A node with its database locked against other daemons and admitted, its store started and its bus open."""
    with _locked(network, code) as (database, basis), _served(database, basis, code, admit) as service:
        yield database, service


@dataclass(frozen=True, slots=True)
class Basis:
    """What a service is made of, and what `kod schema load` exchanges while the process goes on."""

    network: Network
    structure: Structure


@contextmanager
def _locked(network: Network, code: str) -> Iterator[tuple[Database, Basis]]:
    with closing(connect(network, code)) as database, database.daemon_lock(code):
        yield database, Basis(network, structure_of(database, network, code))


def _known(database: Database, bus: Bus) -> None:
    """The node's life goes on: it was admitted when the process began."""


@contextmanager
def _served(database: Database, basis: Basis, code: str, admit: Callable[[Database, Bus], None]) -> Iterator[Service]:
    network, structure = basis.network, basis.structure
    settings = network.nodes[code]
    with ExitStack() as stack:
        node = node_view(network.topology, code)
        bus = open_bus(network.bus, network.name, code, node.neighbours, network.kafka)
        stack.callback(bus.close)
        admit(database, bus)
        keep_package(network)
        database.set_draining(False)  # what a drain prepares, an upgrade say, is over
        store = database.store(settings, structure)
        stack.callback(store.close)
        _tell(structure, code)
        try:
            store.start(node.neighbours, node.below)
        except ConfigError as error:
            raise _refused(structure, code) or error from error
        store.package_settled()
        follow = partial(identity.follow, database, network, code)
        take_over = partial(_asked_for, database, network, code)
        loaded = hooks_of(network, code)
        hooks = BoundHooks(loaded, structure, node, SystemClock())
        with store.hooked() as hooked:
            hooked.routed_by(loaded.fingerprint if hooks.routes else "", hooks.routes)
        keys = signature_keys(network, code)
        service = Service(node, structure, settings, store, bus, keys, hooks, follow, take_over)
        stack.callback(service.close)
        yield service
        follow()


def _tell(structure: Structure, code: str) -> None:
    """What does not fit, at every start, with what it means."""
    for m in structure.mismatches:
        level = logging.DEBUG if m.effect == "note" else logging.WARNING
        facts = {"type": m.type, "property": m.property or "", "effect": m.effect, "what": m.text, "hint": m.hint}
        event(log, level, "package does not fit", **facts)
    if structure.mismatches:
        losing = sum(m.effect != "note" for m in structure.mismatches)
        event(log, logging.INFO, "package checked", node=code, differences=len(structure.mismatches), losing=losing)


def _refused(structure: Structure, code: str) -> ConfigError | None:
    """Why a node whose capture is of other types than it has now cannot start, where the package is the reason."""
    faults = refusals(structure.mismatches, code)
    if not faults:
        return None
    return ConfigError("the package and the database cannot be reconciled", faults=faults)


def _asked_for(database: Database, network: Network, code: str, fingerprint: str) -> Basis:
    """The package that was asked for, with nodes.yaml's exchange as it is now: a new type is mostly in both. Whatever
    else nodes.yaml says is taken over by the next start."""
    now = read_network(network.path, started=code)
    own = replace(network.nodes[code], exchange=now.nodes[code].exchange)
    network = replace(network, package=now.package, nodes={**network.nodes, code: own})
    structure = structure_of(database, network, code)
    if structure.fingerprint != fingerprint:
        raise ConfigError(
            f"package {fingerprint} was loaded, and {network.package} holds {structure.fingerprint} here",
            hint="put the same file there, then `kod schema load` it",
        )
    return Basis(network, structure)


def node_view(topology: Topology, code: str) -> NodeView:
    """The node as the flow sees it."""
    towards = {other: topology.towards(code, other) for other in topology.parents}
    return NodeView(
        code, topology.parent(code), topology.children(code), {other: n for other, n in towards.items() if n}
    )


class Service:
    """Both dispatchers of a node over its store and bus."""

    def __init__(
        self,
        node: NodeView,
        structure: Structure,
        settings: NodeSettings,
        store: Store,
        bus: Bus,
        keys: Mapping[str, bytes],
        hooks: BoundHooks,
        note_life: Callable[[], None],
        take_over: Callable[[str], Basis],
    ) -> None:
        """`keys`: the neighbours' with whom messages are signed. `note_life` writes down outside of the database how
        far the node has come. `take_over`: the package of a fingerprint, and what it makes."""
        clock = SystemClock()
        turning = Turning(structure, [HookStep(hooks), *kinds.steps(structure)])
        self._deferring = Deferring(store, hooks, clock)
        self._defers = self._deferring.is_needed()
        self._purging = Purging(node, settings, store, clock)
        self.node = node
        self.settings = settings
        self.store = store
        self.sender = Sender(node, structure, settings, store, bus, clock, keys, turning, hooks)
        self.receiver = Receiver(node, structure, settings, store, bus, clock, keys, turning, hooks)
        self.bus = bus
        self._note_life = note_life
        self._bus_ahead_ms: int | None = None
        """As it was noted last."""
        self._take_over = take_over
        self.taken_over: Basis | None = None
        """What the node is to go on with: the run has ended for it."""
        self._fingerprint = structure.fingerprint
        self._stopping = threading.Event()
        self._send_now = threading.Event()
        self._arrived = {sender: threading.Event() for sender in node.neighbours}
        self._failure: BaseException | None = None
        self.follow_settings()

    def close(self) -> None:
        self._stopping.set()
        self.receiver.close()

    # --- until nothing moves ---

    def run_once(self) -> int:
        """Receives, settles, reviews and sends until nothing moves; 1 when something could not be applied or sent."""
        moved = True
        while moved:
            moved = self.receiver.step()
            moved |= self._nudged_step()
            moved |= self._defers and self._deferring.step(once=True)
        self._compare_clocks()
        stopped = [f"from {one.node}: {one.name}: {one.reason}" for one in self.store.parked()]
        undelivered = [f"to {to}: {why}" for to, why in self.sender.delivery.unreachable.items()]
        kept = self._kept_by_hooks()
        for text in (*stopped, *undelivered, *kept):
            event(log, logging.ERROR, "not done", link=text)
        return 1 if stopped or undelivered or kept else 0

    def _kept_by_hooks(self) -> list[str]:
        """What hooks that failed have left behind, in words."""
        figures = self.store.figures().hooks
        kept = [f"{figures.held} items are held: {figures.held_reason}"] if figures.held else []
        if figures.deferred_failing:
            kept.append(f"{figures.deferred_failing} deferred works failed: {figures.deferred_reason}")
        return kept

    def _nudged_step(self) -> bool:
        for link in self.receiver.links.values():
            if link.answers:
                link.answers = False
                self.sender.nudge()
            if link.asked:
                link.asked = False
                self.sender.tell(link.sender)
        return self.sender.step()

    # --- the daemon ---

    def run(self, asked_to_end: threading.Event) -> None:
        """Runs until SIGTERM or SIGINT (then `asked_to_end` is set), or until there is a package to be taken over.
        Raises what made it stop otherwise."""
        self._end_on_signals(asked_to_end)
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()
        loops = {"send": self._send, "wake": self._wake}
        loops |= {f"from-{sender}": partial(self._receive, link) for sender, link in self.receiver.links.items()}
        if self._defers:
            loops["deferred"] = self._do_deferred
        threads = [threading.Thread(target=self._guarded, args=(loop,), name=name) for name, loop in loops.items()]
        publishers = ThreadPoolExecutor(2 * len(self.node.neighbours) or 1, thread_name_prefix="publish")
        self.sender.publish_aside(publishers, self._send_now.set)
        self.sender.turns.paced = True
        event(log, logging.INFO, "daemon started", node=self.node.code, neighbours=",".join(self.node.neighbours))
        for thread in threads:
            thread.start()
        scheduler = self._scheduler()
        scheduler.start()
        self._stopping.wait()
        scheduler.shutdown()
        for event_of_thread in (self._send_now, *self._arrived.values()):
            event_of_thread.set()
        for thread in threads:
            thread.join()
        publishers.shutdown()
        if self._failure is not None:
            raise self._failure

    def _end_on_signals(self, asked_to_end: threading.Event) -> None:
        def end(number: int, _: FrameType | None) -> None:
            asked_to_end.set()
            self._stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        if asked_to_end.is_set():  # while a package was taken over
            self._stopping.set()

    def _guarded(self, loop: Callable[[], None]) -> None:
        """A fault of ours ends the daemon with a clear word, instead of one thread in silence."""
        try:
            loop()
        except BaseException as failure:
            self._failure = self._failure or failure
            self._stopping.set()

    def _send(self) -> None:
        wait_s = BUSY_WAIT_S
        for moved in self._steps("send", self._nudged_step):
            wait_s = BUSY_WAIT_S if moved else min(wait_s * IDLE_GROWTH, IDLE_WAIT_S)
            if not moved and self._send_now.wait(wait_s):
                self._send_now.clear()
                wait_s = BUSY_WAIT_S

    def _receive(self, link: Link) -> None:
        arrived = self._arrived[link.sender]
        for moved in self._steps(f"receive from {link.sender}", partial(self._receive_step, link)):
            if moved and (self.node.forwards or link.answers or link.asked):
                self._send_now.set()
            if not moved:
                arrived.wait(LOOK_AGAIN_S)
                arrived.clear()

    def _receive_step(self, link: Link) -> bool:
        return link.step() or self.receiver.retry_parked()

    def _do_deferred(self) -> None:
        for moved in self._steps("deferred work", self._deferring.step):
            if not moved:
                self._stopping.wait(LOOK_AGAIN_S)

    def _wake(self) -> None:
        """Waits for the bus, for all links in one thread."""
        for _ in self._steps("wait for the bus", self._wait_for_bus):
            for arrived in self._arrived.values():
                arrived.set()

    def _wait_for_bus(self) -> bool:
        self.bus.wait(LOOK_AGAIN_S)
        return True

    def _steps(self, name: str, step: Callable[[], bool]) -> Iterator[bool]:
        """Runs `step` again and again until the daemon ends; waits while the database or the bus is away, or while
        something else is wrong that a person may mend meanwhile: the other threads go on."""
        failures = 0
        while not self._stopping.is_set():
            try:
                moved = step()
            except (InvariantError, IdentityError):
                raise
            except KodError as error:
                retry_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                failures += 1
                away = isinstance(error, UnavailableError | ConflictError)
                level, text = (logging.WARNING, "unavailable") if away else (logging.ERROR, "cannot go on")
                event(log, level, text, doing=name, retry_in_s=retry_s, error=error.text, hint=error.hint)
                self._stopping.wait(retry_s)
                continue
            failures = 0
            yield moved

    # --- by the clock ---

    def _scheduler(self) -> BackgroundScheduler:
        from apscheduler.schedulers.background import BackgroundScheduler  # the dispatchers need not wait for it

        scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1})
        for job, seconds in (
            (self.follow_settings, SETTINGS_EVERY_S),
            (self._look_for_history, SETTINGS_EVERY_S),
            (self._follow_drain, SETTINGS_EVERY_S),
            (self._check_triggers, TRIGGERS_EVERY_S),
            (self.sender.ask_heartbeat, self.settings.heartbeat_s),
            (self._note_life, LIFE_EVERY_S),
            (self._compare_clocks, CLOCKS_EVERY_S),
            (self._purge, PURGE_EVERY_S),
        ):
            scheduler.add_job(self._job, "interval", args=(job,), seconds=seconds)
        return scheduler

    def _job(self, job: Callable[[], None]) -> None:
        try:
            job()
        except IdentityError as failure:
            self._failure = self._failure or failure
            self._stopping.set()
        except UnavailableError:
            pass  # the dispatchers say so, and wait
        except KodError as error:
            event(log, logging.ERROR, "job failed", error=error.text, hint=error.hint)

    def follow_settings(self) -> None:
        """Takes over the maxima that `kod streams` set; nodes.yaml's where it set none."""
        send, receive = self.store.streams()
        self.sender.streams_max = self.settings.send_streams_max if send is None else send
        self.receiver.streams_max = self.settings.receive_streams_max if receive is None else receive
        if self.store.retry_asked():
            self.receiver.parking.applied()
            self._send_now.set()
            for arrived in self._arrived.values():
                arrived.set()
        asked = self.store.package_asked()
        if asked is not None and self.taken_over is None:
            self._follow_package(asked)

    def _follow_package(self, asked: str) -> None:
        """Ends this run for the package that `kod schema load` put in place; a faulty one is told, and left."""
        try:
            self.taken_over = self._take_over(asked)
        except ConfigError as error:
            text = "; ".join(map(str, error.faults)) or error.text
            event(log, logging.ERROR, "package not taken over", package=asked, error=text, hint=error.hint)
            self.store.package_settled()
            return
        event(log, logging.INFO, "package taken over", package=asked, before=self._fingerprint)
        self._stopping.set()

    def _compare_clocks(self) -> None:
        """Says so when this node's clock comes to differ from the bus's by more than nodes.yaml allows, or no more."""
        ahead_ms, noted_ms = self.bus.clock_ahead_ms(), self._bus_ahead_ms
        if ahead_ms is None or (noted_ms is not None and abs(ahead_ms - noted_ms) < CLOCKS_DIFFER_MS):
            return
        limit_ms = self.settings.clock_skew_max_s * 1000
        was_off, is_off = abs(noted_ms or 0) > limit_ms, abs(ahead_ms) > limit_ms
        if is_off != was_off:
            level, judge = (logging.WARNING, "the bus's") if is_off else (logging.INFO, "this node's")
            event(log, level, "clocks compared", bus_ahead_ms=ahead_ms, stamps_of_the_future_by=judge)
        self.store.note_clock(ahead_ms)
        self._bus_ahead_ms = ahead_ms

    def _follow_drain(self) -> None:
        """`kod drain` may have asked for one, or ended it."""
        asked = self.store.draining()
        if asked is None or not self.sender.stands_still:
            self.sender.drain(asked is not None)
        elif asked == "asked":
            self.store.drained()

    def _purge(self) -> None:
        self.store.forget_sessions()
        self._purging.step({sender: link.confirmed for sender, link in self.receiver.links.items()})

    def _look_for_history(self) -> None:
        """`kod history` may have queued some, or `kod install` stamped rows."""
        if self.store.histories() or self.store.stamped_wait():
            self.sender.look_for_history()

    def _check_triggers(self) -> None:
        try:
            self.store.check()
        except ConfigError as error:
            event(log, logging.ERROR, "capture is not as installed", error=error.text, hint=error.hint)

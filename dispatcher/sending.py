"""Sending: sessions, from the review boundary to the bus.

    capture -> [ select -> review -> complete -> group -> split -> publish ] -> receive

`Sender.step` is one run for each *front*: the neighbours that are served up to the same mark. What a neighbour that
was away has to get is a front of its own, so that it delays no other.

    T1   one transaction, one snapshot: fold the capture log, select, review, read, complete, group, split;
         session stamps and holders are noted before anything leaves
         publish, and wait until the bus has acknowledged every message          (dispatcher.delivery,
    T2   positions, last sessions                                                 while the next T1 begins)

A crash before T2 abandons the session; its items go out again under a new one, never under the old stamp.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import orjson

from dispatcher import history
from dispatcher.closure import Completed, complete
from dispatcher.delivery import Delivery, Parcel, Plan
from dispatcher.events import event
from dispatcher.grouping import Limits, Phase, group
from dispatcher.hooks import NO_HOOKS, Hooks
from dispatcher.letters import EMPTY, Body, Letters
from dispatcher.manifest import Manifest, manifest
from dispatcher.ports import (
    Bus,
    Change,
    Clock,
    Content,
    History,
    HistoryPhase,
    HistoryPortion,
    Joined,
    NodeView,
    Outgoing,
    Passed,
    SendingView,
    Sent,
    Store,
    Tie,
)
from dispatcher.review import leading_to, limited_types, review
from dispatcher.rights import Rights
from dispatcher.streams import pack, split
from dispatcher.turning import ITEMS_AT_ONCE, Turning
from schemas.errors import ConflictError, InvariantError
from schemas.network import NodeSettings
from schemas.stamp import EARLIEST, Stamp, digits
from schemas.structure import Structure
from serializers.keys import Item, key_value
from serializers.message import Header, item_text

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PORTION_BYTES_MAX = 32_000_000
"""How much of a portion's content is held in memory; what exceeds it is left for the next one."""

PORTION_ITEMS_FIRST = 2_500
"""The first portion of a backlog has so many items, each after it twice as many as the last, up to the node's maximum:
the receiver is at work soon, while the rest is prepared."""

HELD_RETRY_MS = 30_000
ATTEMPTS_MAX = 20
ASK_AGAIN_S = 30.0
ASK_AGAIN_MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class Front:
    """Neighbours that are served up to the same mark."""

    position: int
    links: tuple[Outgoing, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(link.node for link in self.links)

    def joined(self, node: str) -> Joined | None:
        """Not of several: who is catching up is asked about alone."""
        return next((link.joined for link in self.links if link.node == node), None)


class Texts(dict[Item, bytes]):
    """What has been read, as the text of a message. `held`: what could not be turned into the wire's form, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[Item, str] = {}
        self.ways: dict[Item, frozenset[str]] = {}
        """Where they are to be seen, farther on."""


@dataclass(frozen=True, slots=True)
class Portion:
    """A run of changes, continuous from the front's position up to `position`. `whole`: nothing is left behind it,
    so deletions can overtake nothing."""

    changes: Sequence[Change]
    position: int
    whole: bool


@dataclass(slots=True)
class Load:
    """What goes to one addressee."""

    link: Outgoing
    changes: list[Change] = field(default_factory=list)
    settled: list[Change] = field(default_factory=list)
    deferred: list[Change] = field(default_factory=list)
    held: list[Change] = field(default_factory=list)
    """What could not be turned."""
    undecided: Sequence[tuple[Change, str]] = ()
    """Pending ones of which hooks could not tell whether they go there, and why."""

    def take(self, changes: Iterable[Change], *, whole: bool) -> None:
        """Takes what goes now; deletions wait for a portion after which nothing is left (correctness.md)."""
        for change in changes:
            (self.deferred if change.gone and not whole else self.changes).append(change)

    def take_pending(self, changes: Iterable[Change], portion: Portion) -> None:
        """Takes what is to go out of turn; what its own turn will bring anyway is only settled."""
        held = {c.item for c in self.changes}
        for change in changes:
            if change.gone and not portion.whole:
                continue
            self.settled.append(change)
            if change.item not in held and change.mark <= portion.position:
                self.changes.append(change)
        if self.deferred:
            going = {c.item for c in self.changes}
            self.deferred = [c for c in self.deferred if c.item not in going]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What T1 leaves behind."""

    loads: Mapping[str, Load]
    classes: Sequence[tuple[tuple[str, ...], Completed]]
    """Addressees that get the same, and what it is."""
    cut: Sequence[tuple[tuple[str, ...], list[Phase]]]
    """The sessions of each class."""
    texts: Mapping[Item, bytes]
    portion: Portion
    holding: frozenset[str]
    session: Stamp | None
    """The first of the sessions; None when nothing has to go."""
    history: Passed | None = None
    """What it is a portion of."""
    joined: Mapping[str, Joined | None] = field(default_factory=dict)
    """What the links will be known to have by history."""


class Sender:
    """The send dispatcher of a node. `streams_max` may be changed while it runs; 0 stops sending."""

    def __init__(
        self,
        node: NodeView,
        structure: Structure,
        settings: NodeSettings,
        store: Store,
        bus: Bus,
        clock: Clock,
        keys: Mapping[str, bytes] | None = None,
        turning: Turning | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        """`keys`: by neighbour, with which messages to it are signed; those without one are not."""
        self._keys = keys or {}
        self.turning = turning or Turning(structure)
        self.node = node
        self.structure = structure
        self.settings = settings
        self.store = store
        self.bus = bus
        self.clock = clock
        self.streams_max = settings.send_streams_max
        self.limited = limited_types(structure)
        self._leading_to_limited = leading_to(structure, self.limited)
        self.rights = Rights(node, structure, clock, hooks)
        self.delivery = Delivery(store, bus, clock)
        self._incarnation = int(store.origin.partition(".")[2])
        bytes_max = min(settings.message_bytes_max, bus.message_bytes_max or settings.message_bytes_max)
        self._limits = Limits(settings.message_items_max, bytes_max)
        self._exclusive = frozenset(t.name for t in structure.types.values() if t.uniques)
        self._first_items = min(PORTION_ITEMS_FIRST, settings.portion_items_max)
        self._portion_items: dict[str, int] = {}
        """By neighbour, how many items its next portion may have."""
        self.turns = history.Turns()
        self._history_waits = True
        """There may be open history cursors."""
        self._stamped = range(0)
        """The marks that rows got last that were stamped while links were there."""
        self._sends_live = False
        """The step sends more than those."""
        self._busy = False
        """The last step sent something: there is more by now, most likely, and the next fold sees it unasked."""
        self._unsettled = True
        self._nudged = False
        """Set by other threads, at any moment of a step: apart, so that a step cannot overwrite it."""
        self._again = False
        """Items wait to be looked at again: their rights changed. Every fold tells."""
        self._held_due: int | None = 0
        """When what is held back is tried again: at first at once, what kept it may have been mended."""
        self._heartbeat_due = False
        self._ask_again: dict[str, int] = {}
        """When a neighbour of whom something is missing is asked for it again; `_asked`, how often it was."""
        self._asked: dict[str, int] = {}
        self._catching_up: set[str] = set()
        """Neighbours whose last session said that they do not have everything again yet."""
        self._to_tell: dict[str, bool] = {}
        """Neighbours that are to be told at once how far this node is; whether they are asked for the same."""
        self._drain_asked = False
        self._last_mark: int | None = None
        """While it drains: the largest mark when that began."""
        self.stands_still = False
        """Drained: what was there when that was asked for is acknowledged, and nothing goes out but heartbeats."""

    def drain(self, asked: bool) -> None:
        """Sends what is there now, and then stands still; False: goes on. From any thread."""
        if asked != self._drain_asked:
            self._drain_asked = asked
            self._nudged = True

    def tell(self, node: str, *, ask: bool = False) -> None:
        """The next step tells the neighbour how far its sessions have come; `ask`: and asks it for the same."""
        self._to_tell[node] = ask

    def nudge(self) -> None:
        """Something was made pending, or positions were changed, outside the capture log. From any thread."""
        self._nudged = True

    def publish_aside(self, executor: Executor, wake: Callable[[], None]) -> None:
        """What is prepared is published by the executor's threads, two for each neighbour, from now on; `wake` is
        called when a step is due because of it."""

        def landed() -> None:
            self.nudge()
            wake()

        self.delivery.publish_aside(executor, landed)

    def look_for_history(self) -> None:
        """Another program may have added a cursor."""
        self._history_waits = True

    def ask_heartbeat(self) -> None:
        """The next step sends a heartbeat to every neighbour that got no session since this was asked last."""
        self._heartbeat_due = True

    def step(self) -> bool:
        """Sends what there is to every neighbour that can be reached, history behind live changes; whether anything
        was sent or moved."""
        self.delivery.check()
        if not self._drain_asked:
            self._last_mark, self.stands_still = None, False
        if self.stands_still:
            return self._still_step()
        if self.streams_max == 0 and not self._drain_asked:
            return False
        self._sends_live = False
        moved = self._live_step() if self.streams_max else False
        if self._drain_asked:
            return self._drain_step() or moved
        return self._history_step(live=self._sends_live) or moved

    def _drain_step(self) -> bool:
        """Notes how far there is anything to be sent; stands still once all of that is acknowledged. What changes
        meanwhile goes along while there is something to wait for: it cannot be told apart for less."""
        if self._last_mark is None:
            self._last_mark = self._in_transaction(self._fold_all)
            self._unsettled = True  # what was folded here is live changes' business
            return True
        links = self._links()
        plan = self.delivery.plan()
        if plan.flying or (self.streams_max and any(link.position < self._last_mark for link in links)):
            return False
        self.stands_still = True
        for link in links:
            self.tell(link.node, ask=True)
        event(log, logging.INFO, "drained", node=self.node.code)
        return True

    def _fold_all(self, view: SendingView) -> int:
        self._again |= view.fold().again
        return view.top()

    def _still_step(self) -> bool:
        """Nothing but how far this node is: others may be draining, too."""
        if self._heartbeat_due:
            self._heartbeat()
        return self._tell() if self._to_tell else False

    def _tell(self) -> bool:
        told = False
        plan = self.delivery.plan()
        for link in self._links():
            if link.node in plan.flying and link.node in self._to_tell:
                self.delivery.wait_for(link.node, all_landed=True)
            elif link.node in self._to_tell:
                ask = {"answer": True} if self._to_tell.pop(link.node) else {}
                told |= self._empty_session(link, **ask)
        return told

    def _live_step(self) -> bool:
        retry = self._retry_due()  # asked before a plan is made: that forgets who was due
        if not retry and self._all_are_served():
            return False
        if self._heartbeat_due:
            self._heartbeat()
        if self._to_tell:
            self._tell()
        nudged, self._nudged = self._nudged, False
        held_due = self._held_due is not None and self.clock.now() >= self._held_due
        if not (nudged or self._busy or self._unsettled or held_due or retry or self.store.has_changes()):
            return False
        self._busy = self._unsettled = False
        if held_due:
            self._try_held()
        plan = self.delivery.plan()
        links = self._links()
        if moved := self._restart_links(links, plan):
            links = self._links()
        if self._again:
            self._look_again([plan.of(link) for link in links])
            links = self._links()
        begun = self.clock.now()
        for front in self._fronts(links, plan):
            started = self.clock.now()
            parcels = self._prepare(partial(self._prepare_in, front=front))
            self._busy |= self.delivery.hand_over(parcels, plan, started)
        if self._busy and not self._sends_live:  # rows that were stamped: history's turn
            self.turns.went(self.clock.now(), self.clock.now() - begun)
        moved |= self._busy
        self._unsettled |= moved and bool(self._catching_up)  # who has caught up by now is told so
        return moved or self._again

    def _try_held(self) -> None:
        """What is held back goes out of turn, and is held back again where its fault is still there."""
        now, all_of_them = self.clock.now(), self._held_due == 0
        held = self._in_transaction(lambda view: view.hooked.try_held(now, all_of_them=all_of_them))
        self._held_due = Stamp(now + HELD_RETRY_MS) if held else None

    def _all_are_served(self) -> bool:
        """Something is under way to every neighbour: what there is waits for it, and for the time being need not be
        asked for."""
        busy = self.delivery.plan().busy
        if not self.node.neighbours or not busy.issuperset(self.node.neighbours):
            return False
        for node in self.node.neighbours:
            self.delivery.wait_for(node)
        return True

    def _look_again(self, links: Sequence[Outgoing]) -> None:
        """Makes pending what neighbours newly may see, a bounded number of items at a time. `links`: as they will be
        when what is under way has arrived."""
        self._again = self._in_transaction(lambda view: self.rights.review_again(view, links))
        self._unsettled = True  # the store takes what was folded for looked at now

    def _history_step(self, *, live: bool) -> bool:
        """A portion of history for each neighbour that lacks something, if it is history's turn."""
        if not self._history_waits or not self.turns.may_go(self.clock.now(), live=live):
            return False
        plan = self.delivery.plan()
        cursors, stamped_wait = self.store.histories(), self.store.stamped_wait()
        self._history_waits = bool(cursors) or stamped_wait
        links = {link.node: link for link in self._links() if not link.restart} if self._history_waits else {}
        moved = stamped_wait and self._mark_stamped([plan.of(link) for link in links.values()], plan)
        for recorded in self.turns.next(cursors, [node for node in links if node not in plan.busy]):
            if recorded.phase is HistoryPhase.BOTTOM:
                moved |= self._end_history(recorded, links[recorded.node])
                continue
            cursor = plan.of_history(recorded)
            if cursor.phase is HistoryPhase.BOTTOM:  # its last portion is under way
                self.delivery.wait_for(cursor.node, all_landed=True)
                continue
            started = self.clock.now()
            link = plan.of(links[cursor.node])
            parcels = self._prepare(partial(self._prepare_history, link=link, cursor=cursor))
            moved |= self.delivery.hand_over(parcels, plan, started)
            self.turns.went(self.clock.now(), self.clock.now() - started)
        for node in plan.busy & {cursor.node for cursor in cursors}:
            self.delivery.wait_for(node)
        return moved

    def _mark_stamped(self, links: Sequence[Outgoing], plan: Plan) -> bool:
        """Rows that were stamped while links were there go like live changes, a portion at a time: the next once all
        who can be reached have got the last, so that no live change waits behind more than one."""
        served = [link for link in links if link.node not in self.delivery.unreachable]
        behind = [link for link in served if link.position < self._stamped.stop - 1]
        for link in behind:
            if link.node in plan.busy:
                self.delivery.wait_for(link.node)
        if behind or not served:
            return False
        items_max = self.turns.items_max(self.clock.now(), self.settings.portion_items_max)
        self._stamped = self._in_transaction(lambda view: self._mark_stamped_in(view, items_max))
        self._unsettled = True  # what was marked is live changes' business
        return bool(self._stamped)

    def _mark_stamped_in(self, view: SendingView, items_max: int) -> range:
        self._again |= view.fold().again
        marked = view.mark_stamped(items_max)
        return range(view.top() + 1 - marked, view.top() + 1)

    def _end_history(self, cursor: History, link: Outgoing) -> bool:
        if link.position < (cursor.bottom or 0):
            return False
        self.store.history_done(cursor.id)
        self._unsettled = True  # who has caught up is told so
        event(log, logging.INFO, "history done", to=link.node, reason=cursor.reason, objects=cursor.sent)
        return True

    def _links(self) -> list[Outgoing]:
        return [link for link in self.store.outgoing() if link.node in self.node.neighbours]

    def _heartbeat(self) -> None:
        """An end mark of an empty session to every idle neighbour, so that a lost tail is seen. Not recorded."""
        self._heartbeat_due = False
        plan = self.delivery.plan()
        idle = [link for link in self._links() if link.node not in self.delivery.served | plan.flying]
        self.delivery.served.clear()
        for link in idle:
            self._empty_session(link)

    def _restart_links(self, links: Sequence[Outgoing], plan: Plan) -> bool:
        """What was found missing: neighbours that lack something are served from the beginning again, and those of
        whom something is missing here are asked to do the same."""
        moved = False
        for link in links:
            if link.node in plan.flying:
                if link.restart or link.wish is not None or link.node in self._catching_up:
                    self.delivery.wait_for(link.node, all_landed=True)
            elif link.restart and self._empty_session(link, begins_again=True):
                self.store.restart(link.node)
                event(log, logging.WARNING, "resync begun", to=link.node)
                self._catching_up.add(link.node)
                self._history_waits = True
                moved = True
            elif not link.catching_up and link.node in self._catching_up:  # it need not wait for the next change
                moved |= self._empty_session(link)
            if link.wish is None:
                self._ask_again.pop(link.node, None)
                self._asked.pop(link.node, None)
            elif link.node not in plan.flying and self.clock.now() >= self._ask_again.get(link.node, 0):
                moved |= self._ask(link, link.wish)
        return moved

    def _ask(self, link: Outgoing, reason: str) -> bool:
        """Again and again, ever more seldom, until the neighbour says that it has begun: what asks may get lost like
        anything else, and the neighbour may be away."""
        asked = self._asked.get(link.node, 0)
        self._ask_again[link.node] = self.clock.now() + int(min(ASK_AGAIN_S * 2**asked, ASK_AGAIN_MAX_S) * 1000)
        if not self._empty_session(link, resync={"reason": reason}):
            self._ask_again[link.node] = self.clock.now() + int(ASK_AGAIN_S * 1000)  # it was not asked at all
            return False
        self._asked[link.node] = asked + 1
        event(log, logging.WARNING, "resync asked for", of=link.node, reason=reason)
        return True

    def _empty_session(self, link: Outgoing, *, begins_again: bool = False, **extra: object) -> bool:
        """An end mark alone, with something to say in its header. Whether the bus took it."""
        self._unsettled = True  # the store takes what was folded aside for looked at now
        with self.store.sending() as view:
            session = view.open_session(self.clock.now())
        if begins_again:
            extra |= _catching_up_since(session)  # an earlier one may have arrived and not have been recorded
        header = self._header(link, session, 1, link.last_session, of=0)
        header = replace(header, extra={**header.extra, **self._received_from(link.node), **extra})
        return self.delivery.publish(
            link.node, Letters(link.node, [(header, EMPTY)], self.bus.message_bytes_max, self._keys.get(link.node))
        )

    def _received_from(self, node: str) -> Mapping[str, object]:
        """How far the neighbour's own sessions have come: it sees by that if its database has gone back in time."""
        incoming = self.store.incoming(node)
        if incoming.incarnation is None:
            return {}
        session = digits(incoming.completed or EARLIEST)
        return {"received": {"incarnation": incoming.incarnation, "session": session}}

    # --- who is to be served ---

    def _fronts(self, links: Sequence[Outgoing], plan: Plan) -> list[Front]:
        fronts: dict[int, list[Outgoing]] = {}
        for link in links:
            if link.node in plan.busy:
                self.delivery.wait_for(link.node)
            else:
                planned = plan.of(link)
                fronts.setdefault(planned.position, []).append(planned)
        # the nearest to the present first: who was away does not delay who was not
        return [Front(position, tuple(fronts[position])) for position in sorted(fronts, reverse=True)]

    def _retry_due(self) -> bool:
        now = self.clock.now()
        return self.delivery.retry_due() or any(now >= moment for moment in self._ask_again.values())

    # --- T1 ---

    def _prepare(self, prepare: Callable[[SendingView], Prepared]) -> list[Parcel]:
        return self._parcels(self._in_transaction(prepare))

    def _in_transaction(self, act: Callable[[SendingView], Result]) -> Result:
        attempt = 1
        while True:
            try:
                with self.store.sending() as view:
                    return act(view)
            except ConflictError:
                if attempt >= ATTEMPTS_MAX:
                    raise
                self.clock.wait(random.uniform(0.001, 0.01) * attempt)  # noqa: S311 - jitter, not a secret
                attempt += 1

    def _prepare_in(self, view: SendingView, front: Front) -> Prepared:
        items_max = max(self._portion_items.get(node, self._first_items) for node in front.nodes)
        self._again |= view.fold(then=(front.position, items_max)).again
        portion = self._select(view, front, items_max)
        self._sends_live |= any(change.mark not in self._stamped for change in portion.changes)
        going = self._review(view, portion.changes, front.nodes)
        texts, portion = self._read(view, portion, going)
        loads = self._load(view, front, portion, going, texts)
        classes = self._complete(view, front, loads, texts)
        self._unsettled |= not portion.whole

        self._hold_back(view, loads, texts)
        holders = self._holders(loads, classes)
        self._unsettled |= self.rights.follow(view, front.links, holders, position=portion.position)
        self._note_holders(view, loads, holders)
        self._note_ways(view, classes, loads, texts)
        cut = [(nodes, self._group(nodes, loads, completed, texts)) for nodes, completed in classes]
        sessions = max((len(phases) for _, phases in cut), default=0)
        if portion.changes:
            view.reviewed(max(change.version.stamp for change in portion.changes))
        first = view.open_session(self.clock.now(), sessions) if sessions else None
        return Prepared(loads, classes, cut, texts, portion, frozenset(holders), first)

    def _prepare_history(self, view: SendingView, link: Outgoing, cursor: History) -> Prepared:
        """The next portion of a cursor: the same way as live changes, but for how it is selected."""
        self._again |= view.fold().again
        self._unsettled = True  # what was folded here is live changes' business
        node = link.node
        limited = frozenset() if node == self.node.parent else self.limited
        items_max = self.turns.items_max(self.clock.now(), self.settings.portion_items_max)
        portion = view.history(cursor, link, limited=limited, items_max=items_max)
        texts, portion = self._read_history(view, portion, node, items_max * history.BYTES_PER_ITEM)
        if portion.place is None and cursor.phase is HistoryPhase.ITEMS:
            left = history.deletions_of(cursor)
            last = view.history(left, link, limited=limited, items_max=1)
            cursor = left if last.place is None and not last.lacking else cursor
        move = history.passed(cursor, portion, sent=len(texts), top=view.top())
        link = history.link_after(link, cursor, move)
        load = Load(link, [c for c in portion.lacking if c.item in texts])
        load.held = [c for c in portion.lacking if c.item in texts.held]
        loads = {node: load}
        classes = self._complete(view, Front(link.position, (link,)), loads, texts)
        cut = [(nodes, self._group(nodes, loads, completed, texts)) for nodes, completed in classes]
        sessions = max((len(phases) for _, phases in cut), default=0)
        move = replace(move, bottom=move.bottom and view.top())  # references may have met rows without a mark
        joined = history.joined_after(link.joined, move)
        self._hold_back(view, loads, texts)
        holders = self._holders(loads, classes)
        self.rights.follow(view, [replace(link, joined=joined)], holders, position=link.position)
        self._note_holders(view, loads, holders)
        self._note_ways(view, classes, loads, texts)
        if load.changes:
            view.reviewed(max(change.version.stamp for change in load.changes))
        first = view.open_session(self.clock.now(), sessions) if sessions else None
        run = Portion(load.changes, link.position, whole=False)
        return Prepared(loads, classes, cut, texts, run, frozenset(holders), first, move, {node: joined})

    def _read_history(
        self, view: SendingView, portion: HistoryPortion, node: str, bytes_max: int
    ) -> tuple[Texts, HistoryPortion]:
        """The texts of what the rules send to the node; a portion that grows too large is cut short."""
        going = self._review(view, portion.lacking, (node,)).get(node, [])
        texts = Texts()
        size = 0
        for change, text in self._texts(view, going, texts):
            size += len(text)
            if size > bytes_max and change is not going[-1]:
                return texts, history.cut(portion, portion.lacking[: portion.lacking.index(change) + 1])
        return texts, portion

    def _select(self, view: SendingView, front: Front, items_max: int) -> Portion:
        changes = view.portion(front.position, items_max)
        top = view.top()
        whole = not changes or changes[-1].mark >= top
        most = self.settings.portion_items_max
        if not whole and items_max < most and any(change.gone for change in changes):  # they would wait for the others
            return self._select(view, front, most)
        self._portion_items.update(dict.fromkeys(front.nodes, self._first_items if whole else min(2 * items_max, most)))
        return Portion(changes, top if whole else changes[-1].mark, whole)

    def _review(self, view: SendingView, changes: Sequence[Change], nodes: Iterable[str]) -> Mapping[str, list[Change]]:
        facts = self.rights.facts_of(view, changes)
        going = review(changes, self.node, self.structure, self.limited, facts)
        if facts.faults:
            for node in nodes:
                self.rights.hold_undecided(view, node, changes, going.get(node, ()), facts)
            self._held_soon()
        return going

    def _held_soon(self) -> None:
        """Something is held back."""
        if self._held_due is None:
            self._held_due = Stamp(self.clock.now() + HELD_RETRY_MS)

    def _read(self, view: SendingView, portion: Portion, going: Mapping[str, list[Change]]) -> tuple[Texts, Portion]:
        """The texts of all that goes anywhere; a portion that would not fit in memory is cut short."""
        concerned = {c.item for changes in going.values() for c in changes}
        changes = [c for c in portion.changes if c.item in concerned]
        texts = Texts()
        size = 0
        for change, text in self._texts(view, changes, texts):
            size += len(text)
            if size > PORTION_BYTES_MAX and change is not changes[-1]:
                cut = [c for c in portion.changes if c.mark <= change.mark]
                return texts, Portion(cut, change.mark, whole=False)
        return texts, portion

    def _texts(self, view: SendingView, changes: Sequence[Change], texts: Texts) -> Iterator[tuple[Change, bytes]]:
        """Reads the changes into `texts`, one after another, and gives each that could be turned."""
        contents = view.contents([c.item for c in changes if not c.gone])
        if self.structure.with_ways:
            texts.ways.update(self.rights.ways(view, changes))
        ways = texts.ways
        if self.turning.types and not self.turning.types.isdisjoint(c.item.type for c in changes):
            yield from self._turned_texts(view, changes, contents, texts)
            return
        for change in changes:
            value = None
            if not change.gone:
                content = next(contents)
                if content.item != change.item:
                    raise InvariantError(f"content of {content.item.type} came where another item's was asked for")
                value = content.text
            key = None if value is not None else orjson.dumps(self._key_value(change.item))
            nodes = ways.get(change.item, ()) if ways else ()
            texts[change.item] = item_text(
                change.item.type, change.version, change.seen, value=value, key=key, nodes=nodes
            )
            yield change, texts[change.item]

    def _turned_texts(
        self, view: SendingView, changes: Sequence[Change], contents: Iterator[Content], texts: Texts
    ) -> Iterator[tuple[Change, bytes]]:
        """As `_texts`, where some of the types are turned."""
        for start in range(0, len(changes), ITEMS_AT_ONCE):
            some = changes[start : start + ITEMS_AT_ONCE]
            own = [Content(c.item, None) if c.gone else next(contents) for c in some]
            for change, content, (text, fault) in zip(some, own, self.turning.outgoing(view, own), strict=True):
                if fault is not None:
                    texts.held[change.item] = fault
                    continue
                value, key = (text, None) if content.text is not None else (None, text)
                nodes = texts.ways.get(change.item, ())
                texts[change.item] = item_text(
                    change.item.type, change.version, change.seen, value=value, key=key, nodes=nodes
                )
                yield change, texts[change.item]

    def _read_more(self, view: SendingView, changes: Sequence[Change], texts: Texts) -> None:
        for _ in self._texts(view, [c for c in changes if c.item not in texts.held], texts):
            pass

    def _hold_back(self, view: SendingView, loads: Mapping[str, Load], texts: Texts) -> None:
        """Notes what could not be turned, and that nothing is wrong any more with what was held and goes now."""
        now = self.clock.now()
        for node, load in loads.items():
            held = [*((change, texts.held[change.item]) for change in load.held), *load.undecided]
            if held:
                view.hooked.hold_back(node, held, now)
                self._held_soon()
            if self._held_due is not None and load.settled:
                wrong = {change.item for change, _ in held}
                view.hooked.let_go(node, [change.item for change in load.settled if change.item not in wrong])

    def _key_value(self, item: Item) -> dict[str, object]:
        return key_value(self.structure[item.type], item.key)

    def _load(
        self,
        view: SendingView,
        front: Front,
        portion: Portion,
        going: Mapping[str, list[Change]],
        texts: Texts,
    ) -> dict[str, Load]:
        loads: dict[str, Load] = {}
        alike: dict[tuple[int, frozenset[Item]], Load] = {}
        for link in front.links:
            changes = going.get(link.node, [])
            early = self._went_ahead(view, link, changes)
            same = alike.get((id(changes), early))
            if same is not None and not link.pending:
                loads[link.node] = replace(same, link=link)  # with the same lists
                continue
            load = loads[link.node] = Load(link)
            pending, others_wait = self._pending(view, link) if link.pending else ((), False)
            in_turn = [c for c in changes if c.mark <= portion.position and c.item not in early]
            if others_wait and (later := self._behind(pending[-1], in_turn)):
                load.take((c for c in in_turn if c.item in later), whole=False)
                in_turn = [c for c in in_turn if c.item not in later]
            load.take(in_turn, whole=portion.whole)
            if not link.pending:
                alike[id(changes), early] = load
            else:
                due, past, load.undecided = self.rights.still_due(view, link.node, pending)
                load.take_pending(due, portion)
                load.settled += past
                self._read_more(view, [c for c in load.changes if c.item not in texts], texts)
                self._unsettled |= portion.whole and others_wait
        return _hold(loads, texts.held) if texts.held else loads

    def _pending(self, view: SendingView, link: Outgoing) -> tuple[Sequence[Change], bool]:
        """A portion of what is to go out of turn, and whether more may wait. Deletions of types that refer to each
        other in a circle go all at once, however many: which of them frees which cannot be asked any more."""
        items_max = self.settings.portion_items_max
        while True:
            pending = view.pending(link.node, items_max)
            if len(pending) < items_max:
                return pending, False
            last = pending[-1]
            if not last.gone or last.item.type not in self.structure.circular:
                return pending, True
            rank = self.structure[last.item.type].rank
            if before := [c for c in pending if not c.gone or self.structure[c.item.type].rank != rank]:
                return before, True
            items_max *= 2

    def _behind(self, last: Change, in_turn: Sequence[Change]) -> frozenset[Item]:
        """Deletions that wait although it is their turn: behind `last` more is pending than goes at once, and that may
        be deletions of what refers to them."""
        rank = self.structure[last.item.type].rank if last.gone else len(self.structure.types)
        return frozenset(c.item for c in in_turn if c.gone and self.structure[c.item.type].rank < rank)

    def _went_ahead(self, view: SendingView, link: Outgoing, changes: Sequence[Change]) -> frozenset[Item]:
        if not changes or link.ahead < changes[0].mark:
            return frozenset()
        return view.ahead(link.node, changes)

    def _complete(
        self, view: SendingView, front: Front, loads: Mapping[str, Load], texts: Texts
    ) -> list[tuple[tuple[str, ...], Completed]]:
        """Classes of addressees that get the same, each with what its references need."""
        alone = {link.node for link in front.links if link.joined is not None}
        result: list[tuple[tuple[str, ...], Completed]] = []
        for nodes in _classes(loads):
            changes = loads[nodes[0]].changes
            living = [c.item for c in changes if not c.gone]
            found: list[tuple[tuple[str, ...], Completed]] = []
            for together in self._alike(nodes, living, alone):
                found.extend(self._complete_class(view, front, together, living))
            result.extend(_merged(found))
        self._settle_what_goes(view, loads, result)
        drawn = {c.item: c for _, completed in result for c in completed.drawn if c.item not in texts}
        self._read_more(view, list(drawn.values()), texts)
        if self.structure.unchecked:
            self._report_dangling(view, [item for item in texts if item.type in self.structure.unchecked])
        return _hold_drawn(loads, result, texts.held) if texts.held else result

    def _report_dangling(self, view: SendingView, items: Sequence[Item]) -> None:
        """What dangles here has to wait where it arrives; the place to mend it is here."""
        found: dict[tuple[str, str], list[Item]] = {}
        for item, reference in view.dangling(items).items():
            found.setdefault((item.type, reference), []).append(item)
        for (name, reference), those in found.items():
            event(
                log,
                logging.WARNING,
                "reference leads nowhere",
                type=name,
                reference=reference,
                objects=len(those),
                first=those[0].key,
            )

    def _settle_what_goes(
        self, view: SendingView, loads: Mapping[str, Load], classes: Sequence[tuple[tuple[str, ...], Completed]]
    ) -> None:
        """What a reference draws, or history brings, need not go out of turn as well."""
        for nodes, completed in classes:
            for load in (loads[node] for node in nodes):
                if load.link.pending:
                    going = {c.item for c in (*load.changes, *completed.drawn)} - {c.item for c in load.settled}
                    load.settled += [c for c in view.pending(load.link.node, load.link.pending) if c.item in going]

    def _alike(self, nodes: Sequence[str], items: Sequence[Item], alone: set[str]) -> list[tuple[str, ...]]:
        """Addressees that need not be asked about one by one: the parent gets everything, and what all children get
        is known by position. Where references may lead to a limited type, each child has its own; and so has who is
        catching up (`alone`)."""
        own = any(item.type in self._leading_to_limited for item in items)
        single = [n for n in nodes if own or n == self.node.parent or n in alone]
        together = tuple(n for n in nodes if n not in single)
        return [(n,) for n in single] + ([together] if together else [])

    def _complete_class(
        self, view: SendingView, front: Front, nodes: tuple[str, ...], items: Sequence[Item]
    ) -> list[tuple[tuple[str, ...], Completed]]:
        """Usually one answer for all; where one of them is the source of what the others lack, one for each."""
        limited = frozenset() if nodes == (self.node.parent,) else self.limited
        single = nodes[0] if len(nodes) == 1 else ""
        sources: set[str | None] = set()

        def ties_of(step: Sequence[Item]) -> list[Tie]:
            joined = front.joined(single)
            ties = list(view.ties(step, after=front.position, node=single, limited=limited, joined=joined))
            sources.update(tie.target.source for tie in ties)
            return ties

        completed = complete(items, ties_of, had_by=frozenset(nodes) if single else frozenset())
        if single or sources.isdisjoint(nodes):
            return [(nodes, completed)]
        return [pair for node in nodes for pair in self._complete_class(view, front, (node,), items)]

    def _holders(
        self, loads: Mapping[str, Load], classes: Sequence[tuple[tuple[str, ...], Completed]]
    ) -> dict[str, dict[Item, Item | None]]:
        """By child all items that go to it and do not go everywhere, each with the one whose reference draws it."""
        holders: dict[str, dict[Item, Item | None]] = {}
        for nodes, completed in classes:
            drawn = {c.item for c in completed.drawn if c.item.type in self.limited}
            drawers = {target: item for item, target in reversed(completed.ties) if target in drawn} if drawn else {}
            changed = (c.item for c in loads[nodes[0]].changes if not c.gone and c.item.type in self.limited)
            if items := {**dict.fromkeys(changed), **drawers}:
                holders.update((node, items) for node in nodes if node != self.node.parent)
        return holders

    def _note_holders(
        self, view: SendingView, loads: Mapping[str, Load], holders: Mapping[str, Mapping[Item, Item | None]]
    ) -> None:
        """Also of children that get nothing of the kind: what an abandoned session noted of them must not pass for what
        went with this one."""
        if self.limited:
            view.hold({node: holders.get(node, {}) for node in loads if node != self.node.parent})

    def _note_ways(
        self,
        view: SendingView,
        classes: Sequence[tuple[tuple[str, ...], Completed]],
        loads: Mapping[str, Load],
        texts: Texts,
    ) -> None:
        """What goes tells its addressees where it is to be seen."""
        for nodes, completed in classes if texts.ways else ():
            going = {c.item for c in (*loads[nodes[0]].changes, *completed.drawn)}
            ways = {item: far for item, far in texts.ways.items() if item in going}
            for node in nodes if ways else ():
                view.ways.tell(node, ways)

    def _group(
        self, nodes: tuple[str, ...], loads: Mapping[str, Load], completed: Completed, texts: Mapping[Item, bytes]
    ) -> list[Phase]:
        changes = loads[nodes[0]].changes
        items = list(dict.fromkeys([*(c.item for c in completed.drawn), *(c.item for c in changes)]))
        return group(
            items,
            completed.ties,
            {item: len(texts[item]) for item in items},
            self._limits,
            gone=frozenset(c.item for c in changes if c.gone),
            rank=lambda name: self.structure[name].rank,
            exclusive=self._exclusive,
        )

    # --- messages ---

    def _parcels(self, prepared: Prepared) -> list[Parcel]:
        parcels = {}
        first = prepared.session
        for (nodes, completed), (_, phases) in zip(prepared.classes, prepared.cut, strict=True):
            if first is None or not phases:
                continue
            cut = [self._messages(phase) for phase in phases]
            texts = prepared.texts
            bodies = [  # read and packed once for all nodes
                ([Body.of([texts[item] for item in message]) for message in messages], streams)
                for messages, streams in cut
            ]
            marks = {c.item: c.mark for c in (*completed.drawn, *prepared.loads[nodes[0]].changes)}
            listed = manifest([messages for messages, _ in cut], marks)
            for node in nodes:
                parcels[node] = self._parcel(prepared, node, completed, bodies, first, listed)
        position = prepared.portion.position
        for node, load in prepared.loads.items():
            moves = load.link.position != position or load.settled or load.deferred or prepared.history
            if node not in parcels and moves:
                nothing = Sent(
                    node, position, None, settled=load.settled, deferred=load.deferred, history=prepared.history
                )
                parcels[node] = Parcel((), nothing)
        return list(parcels.values())

    def _messages(self, phase: Phase) -> tuple[list[list[Item]], int]:
        """What is in each message of a session, and the number of streams that they came from."""
        streams = split(phase, streams_max=max(1, self.streams_max), items_min=self.settings.stream_items_min)
        messages = [message for stream in streams for message in pack(stream, self._limits)]
        return [[item for g in message for item in g.items] for message in messages], len(streams)

    def _parcel(
        self,
        prepared: Prepared,
        node: str,
        completed: Completed,
        bodies: Sequence[tuple[list[Body], int]],
        first: Stamp,
        listed: Manifest,
    ) -> Parcel:
        load, position = prepared.loads[node], prepared.portion.position
        link, after, session = load.link, load.link.last_session, first
        messages: list[tuple[Header, Body]] = []
        live = self._live_since(prepared, load, completed)
        for offset, (of_session, _) in enumerate(bodies):
            session = Stamp(first + offset)
            messages += [
                (self._header(link, session, n, after, extra=live), body) for n, body in enumerate(of_session, 1)
            ]
            messages.append((self._header(link, session, len(of_session) + 1, after, of=len(of_session)), EMPTY))
            after = session
        in_turn = link.joined is None or (prepared.history is not None and prepared.history.joins)
        early = [*(() if in_turn else load.changes), *completed.drawn]
        return Parcel(
            Letters(node, messages, self.bus.message_bytes_max, self._keys.get(node)),
            Sent(
                node,
                position,
                session,
                messages=sum(len(of_session) for of_session, _ in bodies),
                items=sum(body.items for _, body in messages),
                size_bytes=sum(len(body.text) for _, body in messages if body is not EMPTY),
                ahead=history.out_of_turn(early, prepared.joined.get(node, link.joined), position),
                settled=load.settled,
                deferred=load.deferred,
                history=prepared.history,
                manifest=listed,
            ),
            streams=max(streams for _, streams in bodies),
            holds=node in prepared.holding,
        )

    def _live_since(self, prepared: Prepared, load: Load, completed: Completed) -> dict[str, object]:
        """Where not all that goes is a change in its turn: the stamp of the oldest that is, null for none. The others'
        say nothing of how long a change takes."""
        stamped = self._stamped
        changes = () if prepared.history is not None else load.changes
        if changes and not (
            completed.drawn or load.settled or changes[0].mark in stamped or changes[-1].mark in stamped
        ):
            return {}
        settled = {change.item for change in load.settled}
        live = [c.version.stamp for c in changes if c.mark not in stamped and c.item not in settled]
        return {"live_since": digits(min(live)) if live else None}

    def _header(
        self,
        link: Outgoing,
        session: Stamp,
        number: int,
        after: Stamp | None,
        *,
        of: int | None = None,
        extra: Mapping[str, object] = MappingProxyType({}),
    ) -> Header:
        if of is not None:
            (self._catching_up.add if link.catching_up else self._catching_up.discard)(link.node)
        return Header(
            sender=self.node.code,
            to=link.node,
            incarnation=self._incarnation,
            session=session,
            number=number,
            after=after,
            of=of,
            package=self.structure.fingerprint or None if of is not None else None,
            extra={**_extra(link, of), **extra},
        )


def _hold(loads: Mapping[str, Load], held: Mapping[Item, str]) -> dict[str, Load]:
    """Leaves behind what could not be turned. What is one list for several addressees stays one."""
    without: dict[int, list[Change]] = {}
    result = {}
    for node, load in loads.items():
        left = [c for c in load.changes if c.item in held]
        changes = without.setdefault(id(load.changes), [c for c in load.changes if c.item not in held])
        result[node] = replace(load, changes=changes, held=left)
    return result


def _hold_drawn(
    loads: Mapping[str, Load], classes: Sequence[tuple[tuple[str, ...], Completed]], held: Mapping[Item, str]
) -> list[tuple[tuple[str, ...], Completed]]:
    """What a reference draws and could not be turned is left behind too; what refers to it waits for it there."""
    result = []
    for nodes, completed in classes:
        left = [c for c in completed.drawn if c.item in held]
        for load in (loads[node] for node in nodes):
            load.held = list({c.item: c for c in (*load.held, *left)}.values())
        drawn = tuple(c for c in completed.drawn if c.item not in held)
        ties = tuple(tie for tie in completed.ties if held.keys().isdisjoint(tie))
        result.append((nodes, Completed(drawn, ties)))
    return result


def _classes(loads: Mapping[str, Load]) -> list[list[str]]:
    """Nodes to which the same changes go. Most share one list: then the items need not be looked at for each."""
    by_list: dict[int, list[str]] = {}
    for node, load in loads.items():
        if load.changes:
            by_list.setdefault(id(load.changes), []).append(node)
    by_items: dict[tuple[Item, ...], list[str]] = {}
    for nodes in by_list.values():
        by_items.setdefault(tuple(c.item for c in loads[nodes[0]].changes), []).extend(nodes)
    return list(by_items.values())


def _merged(classes: Iterable[tuple[tuple[str, ...], Completed]]) -> list[tuple[tuple[str, ...], Completed]]:
    """Addressees of the same changes that had to be asked about one by one, and lack the same."""
    merged: list[tuple[tuple[str, ...], Completed]] = []
    for nodes, completed in classes:
        number = next((n for n, (_, known) in enumerate(merged) if known == completed), None)
        if number is None:
            merged.append((nodes, completed))
        else:
            merged[number] = (merged[number][0] + nodes, completed)
    return merged


def _extra(link: Outgoing, of: int | None) -> dict[str, object]:
    extra: dict[str, object] = {}
    if link.catching_up:
        extra |= _catching_up_since(link.joined.session if link.joined else None)
    if of is not None and link.received is not None:
        extra["confirmed"] = digits(link.received)
    return extra


def _catching_up_since(session: Stamp | None) -> dict[str, object]:
    """What was there goes by history; that covers all sessions up to `session`."""
    since = {"catching_up_since": digits(session)} if session is not None else {}
    return {"catching_up": True, **since}

"""What must hold of a history, looked at from outside: the invariants of correctness.md, by their numbers there.

    on the way   2 a version has one content, and sessions bear rising stamps; 5 references hold at every commit;
                 7 nothing is where it may not be; 8 nothing echoes, and nothing travels more often than its causes
                 explain; 9 an alarm has a loss for its reason; a session has an item once; an item is not taken for
                 collided with what it has seen
    at rest      1, 3 the newest versions are everywhere where they belong; 4 nothing is lost without a word;
                 9 every loss was noticed; 10 nothing is parked; 11 with one writer the end is the writer's;
                 12 silence; 13 status agrees; 14 a dead link delays only those beyond it

6 (whole or not at all) is what crashes between any two steps would break in 2, 3 and 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from dispatcher.applying import keyed
from dispatcher.ports import Accepted, Collision, Letter, Sent
from schemas.errors import KodError
from serializers.keys import Item
from serializers.message import Incoming, Version, parse_name, part_of, put_together, read_message
from tests.cluster.lives import tokens_of, tokens_of_message, tokens_of_text

if TYPE_CHECKING:
    from tests.cluster.simulation import SimNode, World

Edge = tuple[str, str]


class Witness:
    """Sees every letter, crash and commit of a world, and objects at once where something is wrong."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.crashes: Counter[str] = Counter()
        self.failures: Counter[Edge] = Counter()
        self.restarts: Counter[Edge] = Counter()
        self.answers: Counter[tuple[Edge, Item]] = Counter()
        self.deferred: set[tuple[Edge, Item]] = set()
        self.ahead: Counter[tuple[Edge, Item]] = Counter()
        """How often references drew an item to where it had not come by its turn."""
        self.crossings: Counter[tuple[Edge, Item, Version]] = Counter()
        self.comings: Counter[tuple[str, Item, Version]] = Counter()
        """How often a version has become a node's: written there, or taken over."""
        self.alarms: Counter[Edge] = Counter()
        """(receiver, sender)"""
        self.excused: set[str] = set()
        """Nodes of which anything may be missing without a loss on the bus: restored, say."""
        self._parts: dict[Edge, list[bytes]] = {}
        self._contents: dict[tuple[Item, Version], bytes] = {}
        self._last: dict[Edge, int] = {}
        self._open: dict[Edge, set[int]] = {}
        self._items: set[tuple[Edge, int, Item]] = set()
        self._lost: list[tuple[Edge, int]] = []
        self._recorded: set[tuple[Edge, int]] = set()

    # --- what is told

    def accepted(self, node: str, accepted: Sequence[Accepted]) -> None:
        for one in accepted:
            at_home = one.version.origin.partition(".")[0] == node and not self.comings[node, one.item, one.version]
            self.comings[node, one.item, one.version] += 2 if at_home else 1

    def crashed(self, node: str) -> None:
        self.crashes[node] += 1

    def went_back(self, node: str) -> None:
        """Its database was lost, or restored: it may send anything again, is sent everything again, and stamps of its
        sessions may be those of its former life."""
        self.excused.add(node)
        self.crashes[node] += 1
        self._last = {edge: session for edge, session in self._last.items() if edge[0] != node}
        self._items = {one for one in self._items if one[0][0] != node}
        self._recorded = {one for one in self._recorded if node not in one[0]}
        self._lost = [one for one in self._lost if node not in one[0]]

    def failed(self, sender: str, to: str) -> None:
        self.failures[sender, to] += 1

    def restarted(self, node: str, to: str) -> None:
        self.restarts[node, to] += 1

    def alarmed(self, receiver: str, sender: str, reason: str) -> None:
        self.alarms[receiver, sender] += 1
        lost = any(edge == (sender, receiver) for edge, _ in self._lost)
        assert lost or {sender, receiver} & self.excused, (
            f"{receiver} misses something of {sender}, nothing was lost: {reason}"
        )

    def session_begun(self, sender: str, to: str, letters: Sequence[Letter]) -> None:
        edge = sender, to
        sessions = {_session_of(letter) for letter in letters}
        assert min(sessions) > self._last.get(edge, -1), f"{sender} uses a session's stamp to {to} again"
        self._last[edge] = max(sessions)
        self._open[edge] = sessions

    def published(self, sender: str, letter: Letter, *, lost: bool) -> None:
        edge = sender, letter.node
        if lost:
            self._lost.append((edge, _session_of(letter)))
        whole = self._whole(edge, letter)
        if whole is None:
            return
        message = read_message(whole)
        session = int(message.header.session)
        for item, incoming in keyed(message, self.world.nodes[0].structure).items():
            self._travels(edge, session, item, incoming)

    def _whole(self, edge: Edge, letter: Letter) -> bytes | None:
        """The message of the letter; of a part, once it is the last."""
        part = part_of(letter.payload)
        if part is None:
            return letter.payload
        parts = self._parts[edge] = [*(self._parts.get(edge, ()) if part.number > 1 else ()), letter.payload]
        return put_together(parts) if part.number == part.of else None

    def _travels(self, edge: Edge, session: int, item: Item, incoming: Incoming) -> None:
        version = incoming.version
        text = orjson.dumps(incoming.value, option=orjson.OPT_SORT_KEYS)
        known = self._contents.setdefault((item, version), text)
        assert known == text, f"{item} {version} has two contents:\n{known!r}\n{text!r}"
        assert (edge, session, item) not in self._items, f"{item} is in a session from {edge} twice"
        self._items.add((edge, session, item))
        self.crossings[edge, item, version] += 1
        sender, to = edge
        allowed = 1 + self.crashes[sender] + self.failures[edge] + self.restarts[edge]
        allowed += self.answers[edge, item] + self.ahead[edge, item]
        if self.excused:  # what a lost life left can beat a version that beats it in turn when it has come round
            allowed += max(0, self.comings[sender, item, version] - 1)
        assert self.crossings[edge, item, version] <= allowed, f"{item} {version} goes from {edge} again without need"
        self._does_not_echo(edge, item, version)
        if incoming.value is not None:
            self._may_go(to, item)

    def _does_not_echo(self, edge: Edge, item: Item, version: Version) -> None:
        sender, to = edge
        home = version.origin.partition(".")[0]
        back = home == to or self.world.topology.towards(sender, home) == to
        # a deletion that was held back goes as what has become of it, be it the neighbour's own version that won
        explained = self.answers[edge, item] or (edge, item) in self.deferred or {sender, to} & self.excused
        if back and not explained:
            raise AssertionError(f"{item} {version} goes back from {edge}")

    def recorded(self, node: str, sent: Iterable[Sent]) -> None:
        for one in sent:
            self.ahead.update(((node, one.node), change.item) for change in one.ahead)
            self.deferred |= {((node, one.node), change.item) for change in one.deferred}
            if one.stamp is not None:
                self._recorded |= {((node, one.node), session) for session in self._open.get((node, one.node), ())}

    def parked(self, node: SimNode, letter: Letter, why: Any) -> None:
        """What is sent needs nothing but what was sent before, or is there: only a deletion elsewhere, a loss, or a
        neighbour that has forgotten can make a message wait."""
        world = self.world
        calm = not world.losses and (not world.deletions or world.writers is not None) and not self.excused
        assert not calm, f"{node.code} has to park {letter.name}: {why}"

    def collided(self, node: SimNode, collision: Collision) -> None:
        """What the other had seen is no collision."""
        if self.world.deletions or collision.item.type not in _EVERY_VERSION_HAS_A_TOKEN:
            return
        winner, loser = (next(tokens_of_text(text), None) for text in (collision.winner_text, collision.loser_text))
        for newer, older in ((winner, loser), (loser, winner)):
            step = self.world.parents.get(newer) if newer is not None else None
            while step is not None:
                assert step != older, f"{node.code}: {older} is taken for collided with {newer}, which followed it"
                step = self.world.parents.get(step)

    def watched(self, view: Any, node: SimNode, sender: str) -> WatchedView:
        return WatchedView(view, node, sender, self)

    def committed(self, node: SimNode, view: WatchedView) -> None:
        if self.world.lives is not None:
            self.world.lives.left |= {token for token in view.tokens if token.split("-")[1] != node.code}
        broken = node.broken_references()
        assert not broken, f"{node.code}: references are broken: {broken}"

    # --- where things may be

    def _may_go(self, node: str, item: Item) -> None:
        name = {"Document.Memo": "{}", "Catalog.MemoFile": "file {}"}.get(item.type)
        if name is not None:
            name = name.format(*orjson.loads(item.key))
            assert node in self.may_hold(name), f"{item} goes to {node}, whom it does not concern"

    def may_hold(self, name: str) -> frozenset[str]:
        """Nodes that a memo (or a file of one) may have got to: the ways from the centre to where it was written and
        for whom it was, and where anything that refers to it, or that it belongs to, may be."""
        found: set[str] = set()
        for each in self._concerned(name):
            for code in self.world.audiences.get(each, ()):
                step: str | None = code
                while step is not None:
                    found.add(step)
                    step = self.world.topology.parent(step)
        return frozenset(found)

    def _concerned(self, name: str) -> set[str]:
        """The memo, all that refers to it over any number of steps, and, of a file, all memos that it belonged to."""
        found = {name}
        step = [name]
        while step:
            one = step.pop()
            found.add(one)
            if one.startswith("file "):
                step += self.world.references.get(one, set()) - found
            step += [
                source for source, targets in self.world.references.items() if one in targets and source not in found
            ]
        return found

    # --- at rest

    def check_at_rest(self) -> None:
        world = self.world
        for node in world.nodes:
            parked = [(one.node, one.name, one.reason) for one in node.store.parked()]
            assert not parked, f"{node.code}: parked after quiet: {parked}"
        self._equal(world.nodes)
        for link in world.links.values():
            assert not link.letters, "something was left on the bus"
        for node in world.nodes:
            self._status_agrees(node)
        self._nothing_lost()
        self._losses_were_noticed()
        if world.writers is not None:
            self._as_the_writer_left_it()

    def check_sides(self, child: str, parent: str) -> None:
        """The link between the two is dead; on either side all are as equal as without it."""
        beyond = [
            n for n in self.world.nodes if n.code == child or self.world.topology.towards(parent, n.code) == child
        ]
        here = [n for n in self.world.nodes if n not in beyond]
        for side in (beyond, here):
            if not any(node.store.parked() for node in side):  # what waits may wait for what is beyond
                self._equal(side)

    def _equal(self, nodes: Sequence[SimNode]) -> None:
        top, contents = nodes[0], nodes[0].contents()
        for node in nodes[1:]:
            assert node.contents() == contents, f"{node.code} differs from {top.code}:\n{node.contents()}\n{contents}"
        versions = top.versions()
        for node in nodes[1:]:
            theirs = node.versions()
            if versions is not None and theirs is not None:
                wrong = {i: (v, versions.get(i)) for i, v in theirs.items() if v != versions.get(i) and not v[2]}
                assert not wrong, f"versions at {node.code} and {top.code} differ: {wrong}"
        if top.view.parent is None:
            self._memos_are_where_they_belong(top, nodes)

    def _memos_are_where_they_belong(self, top: SimNode, nodes: Sequence[SimNode]) -> None:
        """The centre has all; who else has one has the same; who is to see it has it, and who leads there."""
        tables = ("memos", "memo_files")
        central = {table: set(rows) for table, rows in top.contents(tables).items()}
        for node in nodes:
            for table, rows in node.contents(tables).items():
                odd = set(rows) - central[table]
                assert not odd, f"{node.code} has {table} that {top.code} has not: {odd}; {central[table]}"
            for name, audience, *_ in central["memos"]:
                leads_there = audience == node.code or self.world.topology.towards(node.code, audience or "") in (
                    node.view.children
                )
                if audience is not None and leads_there:
                    here = {row[0] for row in node.contents(("memos",))["memos"]}
                    assert name in here, f"{node.code} has not got memo {name}, which is for {audience}"

    def _status_agrees(self, node: SimNode) -> None:
        figures = node.store.figures()
        assert figures.items_waiting == 0, f"{node.code}: status says that {figures.items_waiting} items wait"
        assert figures.parked == 0
        assert figures.collisions == len(node.journal())
        for other, link in figures.links.items():
            assert link["pending"] == 0, f"{node.code}: {link['pending']} items wait for {other}"
            assert link["fault"] is None, f"{node.code}: {other}: {link['fault']}"

    def _nothing_lost(self) -> None:
        """Every version that was committed anywhere is an ancestor of the final one or stands in a journal."""
        world = self.world
        final = world.nodes[0].contents((*world_tables(), "memos", "tasks", "plans"))
        kept = {row[1] for row in final["customers"]} | {row[2] for row in final["orders"]} | world.deleted
        kept |= {row[1] for table in ("shelves", "tasks", "plans") for row in final[table]} | {
            row[3] for row in final["memos"]
        }
        for node in world.nodes:
            for line in node.journal():
                kept |= set(tokens_of_text(line["loser"]["text"]))
        kept |= world.lives.journalled if world.lives is not None else set()
        reached = set()
        for token in kept:
            step: str | None = token
            while step is not None and step not in reached:
                reached.add(step)
                step = world.parents.get(step)
        reached |= world.lives.forgiven if world.lives is not None else set()
        lost = [t for t in world.parents if t not in reached]
        assert not lost, f"lost without a word: {lost}"

    def _losses_were_noticed(self) -> None:
        for (sender, to), session in self._lost:
            if ((sender, to), session) in self._recorded:
                assert self.alarms[to, sender], f"{to} did not notice that something of {sender} was lost"

    def _as_the_writer_left_it(self) -> None:
        for node in self.world.nodes:
            assert not node.journal(), f"one node writes, and {node.code} has collisions: {node.journal()}"


def _session_of(letter: Letter) -> int:
    """By its name; that the header says the same is what receivers insist on."""
    name = parse_name(letter.name)
    assert name is not None, f"{letter.name!r} is no name of a message"
    return int(name.session)


class WatchedView:
    """The real view of a receiving transaction; what is answered is told to the witness."""

    def __init__(self, view: Any, node: SimNode, sender: str, witness: Witness) -> None:
        self._view = view
        self._sender = sender
        self._node = node
        self._witness = witness
        self.tokens: set[str] = set()
        """Those that this transaction brings here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def park(self, letter: Letter, *rest: Any, **options: Any) -> None:
        self._witness.parked(self._node, letter, rest)
        with suppress(KodError):
            self.tokens.update(tokens_of_message(letter.payload))
        self._view.park(letter, *rest, **options)

    def journal(self, collisions: Sequence[Collision]) -> None:
        for one in collisions:
            self._witness.collided(self._node, one)
            self.tokens.update(tokens_of_text(one.winner_text), tokens_of_text(one.loser_text))
        self._view.journal(collisions)

    def write(self, accepted: Sequence[Accepted]) -> None:
        self._witness.accepted(self._node.code, accepted)
        for one in accepted:
            self.tokens.update(tokens_of(one.value))
        self._view.write(accepted)

    def doubt(self, items: Sequence[Item]) -> None:
        """The sender gets back what it sent in an earlier life."""
        for item in items:
            self._witness.answers[(self._node.code, self._sender), item] += 1
        self._view.doubt(items)

    def answer_back(self, node: str, items: Sequence[Item]) -> None:
        for item in items:
            self._witness.answers[(self._node.code, node), item] += 1
        self._view.answer_back(node, items)


def world_tables() -> tuple[str, ...]:
    return ("customers", "orders", "shelves")


_EVERY_VERSION_HAS_A_TOKEN = ("Catalog.Customer", "Catalog.Shelf", "Document.Memo")

"""A database goes back to a backup, is lost, moved, or copied, while the rest of the network goes on.

    Lives.plan  ->  which node's, and at which steps of a history
    go back     ->  its rows are those of the backup, or of a fresh `kod install`; a daemon that is started on it must
                    refuse where the node's file knows better; then `kod recover` (node.recovering, node.identity),
                    which may die at any step and is begun again
    move, copy  ->  a daemon must refuse until it is told; a copy then lives in a network of its own

What may be missing in the end is what nobody else had seen: that is worked out at the moment of the loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from dispatcher.ports import Letter
from node import identity, recovering
from schemas.errors import IdentityError
from schemas.network import Network, NodeSettings
from serializers.message import part_of, put_together, read_message
from tests.cluster.kept import Backup

if TYPE_CHECKING:
    from tests.cluster.simulation import Link, SimNode, World


class Lives:
    """What becomes of the databases of a world."""

    def __init__(self, world: World, seed: int, folder: Path, *, late: bool = False) -> None:
        """`late`: what is on its way from a life that ends arrives behind all that the next one sends for now."""
        self.world = world
        self._late: list[tuple[tuple[str, str], list[Letter]]] | None = [] if late else None
        """Links, and what is held up on each."""
        self.chance = random.Random(f"lives {seed}")
        """Of its own, so that a history without such events is what it was."""
        self._incarnations = random.Random(f"incarnations {seed}")
        nodes = {code: NodeSettings(code, code, parent, "") for code, parent in world.topology.parents.items()}
        self.network = Network("sim", "", nodes, folder / "nodes.yaml", state=folder / "state")
        self.left: set[str] = set()
        """Tokens that have got to another node's database."""
        self.forgiven: set[str] = set()
        """Tokens that were lost with a database: nobody else had seen them."""
        self.journalled: set[str] = set()
        """Tokens that stood in the journal of a database that was lost."""
        self._backup: Backup | None = None
        self._tokens_backed_up = 0
        self._plan: dict[int, Callable[[SimNode], None]] = {}
        self.unlucky: SimNode | None = None

    def plan(self, nodes: list[SimNode], steps: int) -> None:
        """One node loses what it has, perhaps twice: what two had of each other alone would be lost with both."""
        self.unlucky = self.chance.choice(nodes)
        backed_up, lost, again = sorted(self.chance.sample(range(steps), k=3))
        self._plan[lost] = self.go_back
        if self.chance.random() < 0.3:
            self._plan[again] = self.go_back
        if self.chance.random() < 0.7:
            self._plan[backed_up] = self.back_up
        for event in (self.move, self.copy):
            if self.chance.random() < 0.2:
                self._plan.setdefault(self.chance.randrange(steps), event)

    def step(self, number: int) -> None:
        if self.unlucky is not None and number in self._plan:
            self._plan[number](self.unlucky)

    # --- what the node does

    def admit(self, node: SimNode) -> None:
        """As `kod run` begins."""
        self._admit(node)

    def _admit(self, node: SimNode, *, network: Network | None = None, moved: bool = False, copy: bool = False) -> None:
        database = node.open_database()
        identity.admit(
            database, node.bus(), network or self.network, node.code, node.clock.now(), moved=moved, copy=copy
        )

    def follow(self, node: SimNode) -> None:
        """The regular job of a daemon."""
        if node.up:
            identity.follow(node.database, self.network, node.code)

    def recover(self, node: SimNode) -> None:
        """`kod recover`, until it gets as far as asking everybody."""
        while not node.attempt(lambda: self._recover(node)):
            if identity.NodeFile(self.network, node.code).read() is not None:
                self._refuses(node, "its recovery was not finished")

    def _recover(self, node: SimNode) -> None:
        database = node.open_database()
        identity.begin_again(database, node.bus(), self.network, node.code, node.clock.now(), self._incarnations)
        self.world.may_crash()
        node.boot()
        recovering.ask(node.store, node.view)
        self.world.may_crash()
        identity.settle(database, self.network, node.code)

    def _refuses(self, node: SimNode, why: str, *, network: Network | None = None) -> None:
        try:
            self._admit(node, network=network)
        except IdentityError:
            return
        raise AssertionError(f"a daemon begins on the database of {node.code}, although {why}")

    # --- what befalls its database

    def back_up(self, node: SimNode) -> None:
        self._backup = node.kept.backup()
        self._tokens_backed_up = self.world.tokens

    def go_back(self, node: SimNode) -> None:
        """The database is lost; what was backed up is put in its place, or a new one is installed."""
        self.follow(node)
        node.stop()
        self._note_what_is_lost(node)
        self._hold_up(node)
        self.world.witness.went_back(node.code)
        node.kept.reset(self._backup)
        if self._backup is None:
            node.application.execute("DELETE FROM kod_node")
            node.open_database().install(node.settings, node.structure)
        file = identity.NodeFile(self.network, node.code)
        if self.chance.random() < 0.3:  # with the machine; a new one takes its time
            file.remove()
            node.tick(2000)
        else:
            node.tick(self.chance.choice([0, 0, -3000, 3000]))
        known, life = file.read(), node.open_database().standing().life
        if known is not None and known.life > life:
            self._refuses(node, f"it is of {life}, and the node has come to {known.life}")
        self.recover(node)

    def _hold_up(self, node: SimNode) -> None:
        if self._late is not None:
            for edge, link in self._links_from(node):
                self._late.append((edge, link.letters))
                link.letters = []

    def hand_over_late(self) -> None:
        while self._late:
            edge, late = self._late.pop(0)
            self.world.links[edge].letters += late
            next(node for node in self.world.nodes if node.code == edge[1]).stop()  # it may have taken them before

    def move(self, node: SimNode) -> None:
        """The file is put elsewhere, by somebody who says so."""
        kept_at = node.kept_at()
        node.stop()
        node.move_to(f"{node.code} moved")
        if kept_at is not None:
            self._refuses(node, "it was moved")
        self._admit(node, moved=True)

    def copy(self, node: SimNode) -> None:
        """A clone for a test, with the live nodes.yaml at first, then in a network of its own; the live one hears
        nothing of it."""
        if node.kept_at() is None:
            return
        origin, state = node.origin(), self.network.state / "copy"
        up, node.up = node.up, False
        home = node.move_to(f"{node.code} copied")
        alone = replace(self.network, name="sim-copy", state=state)
        self._refuses(node, "it is a copy")
        self._refuses(node, "it is a copy, of another network", network=alone)
        self._admit(node, network=alone, copy=True)
        assert node.origin() != origin, f"a copy of {node.code} goes on as {origin}"
        node.move_back(home)
        node.up = up

    # --- what may be missing

    def _note_what_is_lost(self, node: SimNode) -> None:
        self.journalled.update(token for line in node.open_database().collisions() for token in _of(line["loser"]))
        under_way = {token for _, link in self._links_from(node) for token in _tokens_in(link.letters)}
        own = {t for t in self.world.parents if t.split("-")[1] == node.code and self._is_later(t)}
        self.forgiven |= own - self.left - under_way

    def _is_later(self, token: str) -> bool:
        return self._backup is None or int(token.split("-")[2]) > self._tokens_backed_up

    def _links_from(self, node: SimNode) -> Iterator[tuple[tuple[str, str], Link]]:
        return ((edge, link) for edge, link in self.world.links.items() if edge[0] == node.code)


def tokens_of(value: object) -> Iterator[str]:
    """Those that an item's value bears."""
    if isinstance(value, dict):
        yield from (value[name] for name in ("token", "name", "body") if isinstance(value.get(name), str))


def tokens_of_text(text: str | bytes | None) -> Iterator[str]:
    if text is not None:
        yield from tokens_of(orjson.loads(text))


def tokens_of_message(payload: bytes) -> Iterator[str]:
    for incoming in read_message(payload).items:
        yield from tokens_of(incoming.value)


def _of(version: dict[str, str]) -> Iterator[str]:
    return tokens_of_text(version["text"])


def _tokens_in(letters: Iterable[Letter]) -> Iterator[str]:
    """Of the messages that are there whole."""
    parts: dict[str, dict[int, bytes]] = {}
    for letter in letters:
        part = part_of(letter.payload)
        if part is None:
            yield from tokens_of_message(letter.payload)
            continue
        known = parts.setdefault(letter.name, {})
        known[part.number] = letter.payload
        if len(known) == part.of:
            yield from tokens_of_message(put_together([known[number] for number in sorted(known)]))

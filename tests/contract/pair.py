"""Nodes in one process that send and receive both ways: the real flow over real databases, a bus in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dispatcher import kinds
from dispatcher.ports import NodeView
from dispatcher.receiving import Receiver
from dispatcher.sending import Sender
from dispatcher.turning import Turning
from node.buses.memory import MemoryBus, MemoryNetwork
from schemas.compilation import compile_structure, tables_needed
from schemas.network import TypeSettings
from schemas.package import Package
from schemas.structure import Structure
from schemas.topology import Topology
from serializers.message import Message, read_message
from tests.contract.store_world import StoreWorld
from tests.contract.tree import TestClock


@dataclass
class Peer:
    """A node: its database, and both dispatchers."""

    world: StoreWorld
    sender: Sender
    receiver: Receiver

    @property
    def parked(self) -> list[str]:
        return [one.reason for one in self.world.database.parked()]


@dataclass
class Pair:
    """Nodes by code; `parents` says who is below whom. Tables are there already; the package is common to all."""

    worlds: Mapping[str, StoreWorld]
    parents: Mapping[str, str | None]
    package: Package
    clock: TestClock = field(default_factory=TestClock)
    peers: dict[str, Peer] = field(default_factory=dict)
    letters: list[bytes] = field(default_factory=list)
    """All that was published."""

    def __post_init__(self) -> None:
        network = MemoryNetwork(positions=True)
        topology = Topology(self.parents)
        for code, world in self.worlds.items():
            structure = self.structure(world)
            world.structure = lambda structure=structure: structure  # type: ignore[misc, method-assign]
            world.install()
            neighbours = topology.neighbours(code)
            world.start(*neighbours)
            towards = {other: step for other in self.worlds if (step := topology.towards(code, other))}
            children = tuple(n for n in neighbours if n != self.parents[code])
            view = NodeView(code, self.parents[code], children, towards)
            bus = _Bus(network, code, self.letters)
            turning = turning_of(structure)
            self.peers[code] = Peer(
                world,
                Sender(view, structure, world.settings, world.store, bus, self.clock, turning=turning),
                Receiver(view, structure, world.settings, world.store, bus, self.clock, turning=turning),
            )

    def structure(self, world: StoreWorld) -> Structure:
        tables = world.database.reflect(tables_needed(world.exchange.values()))
        return compile_structure(self.package, world.exchange, tables)

    def exchange(self) -> None:
        """Until nothing moves."""
        for _ in range(100):
            moved = [peer.sender.step() for peer in self.peers.values()]
            moved += [peer.receiver.step() for peer in self.peers.values()]
            if not any(moved):
                return
        raise AssertionError({code: peer.parked for code, peer in self.peers.items()})

    def messages(self) -> list[Message]:
        return [read_message(payload) for payload in self.letters]

    def wire(self, type_name: str) -> list[Any]:
        """What travelled of a type: values, of deletions the keys."""
        return [
            item.deleted if item.value is None else item.value
            for message in self.messages()
            for item in message.items
            if item.type == type_name
        ]

    def rows(self, sql: str) -> list[list[tuple[Any, ...]]]:
        """At each node."""
        return [peer.world.execute(sql) for peer in self.peers.values()]

    def equal(self, sql: str) -> list[tuple[Any, ...]]:
        """What the query gives, the same at every node."""
        first, *others = self.rows(sql)
        assert all(rows == first for rows in others), (first, others)
        return first

    def settled(self) -> None:
        """Nothing is parked, no version lost to another."""
        for code, peer in self.peers.items():
            assert not peer.parked, (code, peer.parked)
            assert not peer.world.database.collisions(), code

    def close(self) -> None:
        for peer in self.peers.values():
            peer.receiver.close()


class _Bus(MemoryBus):
    def __init__(self, network: MemoryNetwork, node: str, published: list[bytes]) -> None:
        super().__init__(network, node)
        self._published = published

    def publish(self, to: str, letters: Sequence[Any]) -> None:
        super().publish(to, letters)
        self._published.extend(letter.payload for letter in letters)


def turning_of(structure: Structure) -> Turning:
    return Turning(structure, kinds.steps(structure))


def exchanged(*types: TypeSettings) -> dict[str, TypeSettings]:
    return {one.name: one for one in types}

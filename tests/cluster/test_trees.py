"""Trees of many levels, the policy `parent`, and clocks that are wrong: the network agrees all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from dispatcher.ports import NodeView
from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.network import TypeSettings
from schemas.topology import Topology
from tests.cluster.kept import connections
from tests.cluster.simulation import EXCHANGE, SimNode, World, history

TWENTY: Mapping[str, str | None] = {
    "00": None,
    **dict.fromkeys(("10", "11", "12"), "00"),
    "20": "10",
    "21": "10",
    "22": "11",
    "23": "12",
    "24": "12",
    "30": "20",
    "31": "21",
    "32": "21",
    "33": "22",
    "34": "23",
    "35": "24",
    "40": "30",
    "41": "31",
    "42": "33",
    "43": "33",
    "44": "35",
}
"""Five levels, twenty nodes."""


class ParentNode(SimNode):
    """On each link the parent's side wins."""

    exchange: ClassVar[Mapping[str, TypeSettings]] = {
        name: replace(settings, collision="parent") for name, settings in EXCHANGE.items()
    }

    def _make_database(self, folder: Path) -> None:
        super()._make_database(folder)
        tables = self._database().reflect(tables_needed(self.exchange.values()))
        self.structure = compile_structure(generate_package(self.exchange, tables), self.exchange, tables)


def play(folder: Path, seed: int, make_node: type[SimNode]) -> World:
    with connections():
        world = World(seed, folder, deletions=True, make_node=make_node, tree=lambda _: Topology(TWENTY))
        try:
            world.run(400)
            world.settle()
            world.check()
        finally:
            world.close()
        return world


@pytest.mark.parametrize("make_node", [SimNode, ParentNode])
def test_five_levels_and_twenty_nodes_agree(tmp_path: Path, make_node: type[SimNode]) -> None:
    """Changes at every level, collisions between distant leaves, crashes on the way."""
    assert {node.code for node in play(tmp_path, 1, make_node).nodes} == TWENTY.keys()


@pytest.mark.parametrize("chunk", range(4))
def test_the_parents_side_wins_on_every_link_and_all_agree(chunk: int) -> None:
    """Each link decides for itself; what wins in the end is the same everywhere."""
    for seed in range(chunk, 40, 4):
        if seed != 17:
            history(seed, make_node=ParentNode, losses=seed % 4 == 3)


def test_versions_of_equal_contents_are_settled_by_the_same_side() -> None:
    """Where the larger one stayed, two nodes had different versions of one content: a later change would have been a
    collision at one of the two."""
    history(17, make_node=ParentNode)


class WrongClock(SimNode):
    """Its clock is up to an hour off, and steps; stamps from beyond five minutes are not believed."""

    clock_skew_max_s = 300

    def __init__(self, code: str, view: NodeView, folder: Path, world: World) -> None:
        super().__init__(code, view, folder, world)
        self.tick(10_000_000 + world.random.choice([0, 3_600_000, -3_600_000, 200_000]))

    def write(self) -> None:
        if self.world.random.random() < 0.1:
            self.tick(self.world.random.choice([-3_600_000, -60_000, 60_000, 600_000]))
        super().write()


def play_with_wrong_clocks(folder: Path, seed: int) -> None:
    world = World(seed, folder, deletions=True, losses=seed % 4 == 3, make_node=WrongClock)
    try:
        world.run(60)
        world.settle()
        for _ in range(5):  # where a reference wins over a deletion there, a node that is ahead makes new stamps
            if not any(node.store.parked() for node in world.nodes):
                break
            for node in world.nodes:
                node.tick(6 * 3_600_000)  # more than all that they are off: the time of every stamp comes
            world.settle()
        world.check()
    finally:
        world.close()


@pytest.mark.parametrize("chunk", range(4))
def test_clocks_an_hour_off_that_step_keep_nothing_from_arriving(chunk: int, tmp_path: Path) -> None:
    """What is stamped in the future arrives when its time has come; nothing is parked for ever."""
    for seed in range(chunk, 40, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            with connections():
                play_with_wrong_clocks(folder, seed)
        except Exception as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure

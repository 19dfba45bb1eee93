"""Clocks: whose clock stamps of the future are judged by, and how the bus's is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatcher.ports import Letter
from dispatcher.settling import latest_believed
from node.buses import folder
from node.buses.folder import FolderBus
from node.buses.skew import Skew
from schemas.stamp import Stamp


@pytest.mark.parametrize(
    ("bus_ahead_ms", "latest"),
    [(None, 1_300), (0, 1_300), (300, 1_300), (-300, 1_300), (301, 1_601), (-3_600_000, 1_300 - 3_600_000)],
)
def test_the_bus_s_clock_judges_where_the_node_s_own_is_off(bus_ahead_ms: int | None, latest: int) -> None:
    """A node an hour behind would park every change of everybody; one an hour ahead would let in what poisons others.
    Within what is allowed the node's own clock is good enough, and does not jump about."""
    assert latest_believed(Stamp(1_000), 300, bus_ahead_ms) == latest


def test_the_difference_is_what_cannot_be_explained_by_waiting() -> None:
    """A slow bus is no wrong clock."""
    skew = Skew()
    assert skew.ahead_ms is None
    for bus_ms, ahead in ((1_500, 0), (1_000, 0), (2_000, 0), (900, -100), (2_700, 700)):
        skew.note(1_000, bus_ms, 2_000)
        assert skew.ahead_ms == ahead


def test_a_folder_s_clock_is_its_file_system_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a share that is its server's: the only clock that both neighbours see."""
    bus = FolderBus(tmp_path, "net", "00", ["01"])
    letter = Letter("01", "00to01at20261122090000000-1.json", b"{}")
    bus.publish("01", [letter])
    assert abs(bus.clock_ahead_ms() or 0) < 1_000
    real = folder.now_ms
    monkeypatch.setattr(folder, "now_ms", lambda: real() - 3_600_000)  # this node is an hour behind
    bus.publish("01", [letter])
    assert abs((bus.clock_ahead_ms() or 0) - 3_600_000) < 1_000

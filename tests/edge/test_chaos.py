"""A short round of chaos (tests/chaos); `make chaos` plays longer ones, over Kafka too."""

from __future__ import annotations

import pytest

from tests.chaos.rounds import Round


@pytest.mark.postgresql
def test_whatever_breaks_the_data_are_equal_in_the_end() -> None:
    """Processes, the database and the link break under load, the disk is full: nothing is lost, and nothing half."""
    one = Round(1, "folder", seconds=5)
    one.play()
    assert one.counts["committed"] > 100
    assert one.counts["orders checked"] > 10

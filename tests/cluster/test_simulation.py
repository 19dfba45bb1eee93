"""Many seeded histories of a whole network; each must end with equal nodes, nothing lost, and silence."""

from __future__ import annotations

import os

import pytest

from tests.cluster.simulation import history

HISTORIES = int(os.environ.get("KOD_HISTORIES", "400"))
CHUNKS = 20


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_happens_on_the_way_the_network_agrees_in_the_end(chunk: int) -> None:
    """Crashes between any two steps, repeated, delayed and lost messages, clocks that differ and step back."""
    for seed in range(chunk, HISTORIES, CHUNKS):
        try:
            history(seed, losses=seed % 4 == 3)
        except Exception as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure

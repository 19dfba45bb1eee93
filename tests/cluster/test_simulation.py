"""Many seeded histories of a whole network; each must end with equal nodes, nothing lost, and silence."""

from __future__ import annotations

import os

import pytest

from tests.cluster.mixture import TREES, command, mixed
from tests.cluster.simulation import deep_tree, history

HISTORIES = int(os.environ.get("KOD_HISTORIES", "2000"))
CHUNKS = 40


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_happens_on_the_way_the_network_agrees_in_the_end(chunk: int) -> None:
    """Crashes between any two steps, repeated, delayed and lost messages, links that are cut, clocks that differ and
    step back, one writer or many."""
    for seed in range(chunk, HISTORIES, CHUNKS):
        try:
            history(seed, **mixed(seed))
        except Exception as failure:
            raise AssertionError(f"{command(seed)}: {failure}") from failure


def test_twenty_nodes_on_five_levels_agree_when_all_of_them_write() -> None:
    """What goes wrong only where a version passes through several nodes."""
    history(1, tree=deep_tree, steps=600)


@pytest.mark.parametrize("seed", [9344, 10884])
def test_deletions_of_what_refers_to_its_own_type_go_all_at_once(seed: int) -> None:
    """Where a portion parted them the one that freed the other came later: the other was parked, and the reference,
    gone already where both were deleted, would have won over it."""
    history(seed, crashes=False, one_writer=True, writes=TREES)


def test_a_link_that_has_everything_again_says_so_after_a_restart_too() -> None:
    """The node died when the last session of a resync was whole; the end of it was told by a heartbeat alone, and that
    took the session, whole as it was, for one that was still coming. The fault stayed in `status`."""
    history(19311, lives=True, losses=True)

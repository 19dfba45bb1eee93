"""Many seeded histories of a whole network; each must end with equal nodes, nothing lost, and silence."""

from __future__ import annotations

import os

import pytest

from tests.cluster.mixture import KINDS, TREES, command, mixed, stamp_existing
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


def test_a_child_hears_that_its_version_stands_where_another_of_its_parent_has_beaten_it_there() -> None:
    """A life that was lost had given an equal content another version. The child's succeeded the one and lost against
    the other: parent and child stayed different."""
    history(32705, lives=True, joins=True, losses=True)


def test_a_version_that_was_beaten_and_has_come_round_goes_out_again() -> None:
    """By way of a centre that had lost its database; who took the one that beat it has to hear of it."""
    history(31658, lives=True)


def test_what_loses_does_not_wait_behind_what_refers_to_it() -> None:
    """Of two that refer to each other one had been deleted here, and that deletion beat the change that came. Held
    because the other waited, it was not settled: its sender never heard of the deletion, and both waited for ever."""
    history(49943, joins=True, losses=True)


@pytest.mark.parametrize("kind", range(0, len(KINDS), 3))
def test_rows_that_are_stamped_late_come_once_and_never_after_what_refers_to_them(kind: int) -> None:
    """They are known to nobody, and no cursor brings them: only their turn does, a reference, or a change."""
    for seed in range(5):
        history(seed, events=[stamp_existing] * 3, **{**KINDS[kind], "one_writer": False})

"""How much of a backlog is taken at a time (dispatcher.run_up)."""

from __future__ import annotations

from dispatcher.run_up import FIRST_ITEMS, RunUp


def sizes(run_up: RunUp, node: str, count: int, items_max: int) -> list[int]:
    """The sizes of `count` portions in a row, none of them the last of its backlog."""
    found = []
    for _ in range(count):
        found.append(run_up.items_max([node], items_max))
        run_up.went([node], whole=False)
    return found


def test_portions_of_a_backlog_grow_up_to_the_nodes_maximum() -> None:
    """A first portion as large as the last would leave the receiver without work until all of it was read."""
    assert sizes(RunUp(), "01", 4, 10_000) == [FIRST_ITEMS, 4 * FIRST_ITEMS, 10_000, 10_000]


def test_a_maximum_below_the_first_size_is_kept() -> None:
    assert sizes(RunUp(), "01", 2, 7) == [7, 7]


def test_what_is_served_whole_begins_small_again() -> None:
    run_up = RunUp()
    sizes(run_up, "01", 3, 10_000)
    run_up.went(["01"], whole=True)
    assert run_up.items_max(["01"], 10_000) == FIRST_ITEMS


def test_neighbours_that_are_served_together_get_portions_of_one_size() -> None:
    """The size of who has the longest backlog: one neighbour that was never behind must not cut it short."""
    run_up = RunUp()
    sizes(run_up, "01", 1, 10_000)
    assert run_up.items_max(["01", "02"], 10_000) == 4 * FIRST_ITEMS

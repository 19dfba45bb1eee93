"""Manifests: what is remembered of which item went in which message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.manifest import Went, manifest, token, went
from serializers.keys import Item

ITEMS = [Item("Catalog.Product", f"[{n}]") for n in range(40)]


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
def test_each_item_is_found_in_the_message_with_which_it_went(sizes: list[list[int]], marked: bool) -> None:
    """Or `kod explain` would send people to look at another message. Items without a mark went by history."""
    left = iter(ITEMS)
    sessions = [[[next(left) for _ in range(size)] for size in messages] for messages in sizes]
    marks = {item: (n + 1) * marked for n, item in enumerate(ITEMS)}
    listed = manifest(sessions, marks)
    for before_last, messages in enumerate(reversed(sessions)):
        for number, items in enumerate(messages, 1):
            for wanted in (token(item, marks[item]) for item in items):
                assert listed.lowest <= wanted <= listed.highest
                assert went([("01", 1000, listed.packed)], wanted) == {"01": Went(1000 - before_last, number)}


def test_the_newest_session_of_each_neighbour_is_told() -> None:
    """What was sent twice, after a resync say, went with the last one."""
    item = ITEMS[0]
    listed = manifest([[[item]]], {item: 7}).packed
    assert went([("01", 9, listed), ("01", 5, listed), ("02", 4, listed)], 7) == {"01": Went(9, 1), "02": Went(4, 1)}
    assert went([("01", 9, listed)], 8) == {}

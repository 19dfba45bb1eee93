"""Grouping and splitting: what refers to each other is one message, and nothing is too large for the bus."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.grouping import Group, Limits, group
from dispatcher.streams import pack, split
from serializers.keys import Item

ROOMY = Limits(1000, 1_000_000)


def order(number: int) -> Item:
    return Item("Document.Order", f"[{number}]")


def customer(name: str) -> Item:
    return Item("Catalog.Customer", f'["{name}"]')


def sizes(items: list[Item], size: int = 100) -> dict[Item, int]:
    return dict.fromkeys(items, size)


def members(phases: list[list[Group]]) -> list[list[set[Item]]]:
    return [[set(g.items) for g in phase] for phase in phases]


def test_items_that_refer_to_each_other_are_in_one_group() -> None:
    """Or an order could be seen without its customer."""
    items = [customer("A"), order(1), order(2), customer("B")]
    phases = group(items, [(order(1), customer("A")), (order(2), customer("A"))], sizes(items), ROOMY)
    assert members(phases) == [[{customer("A"), order(1), order(2)}, {customer("B")}]]


def test_a_tie_too_large_for_a_message_is_cut_along_the_order_of_its_references() -> None:
    """Or all the orders of one new customer would be one huge message."""
    orders = [order(n) for n in range(200_000)]
    items = [customer("A"), *orders]
    phases = group(items, [(o, customer("A")) for o in orders], sizes(items), ROOMY)
    assert len(phases) == 2
    assert customer("A") in phases[0][0].items
    assert [len(g.items) for g in phases[0]] == [1000]
    assert {len(g.items) for g in phases[1]} == {1}
    assert sum(len(m) for m in members(phases)) == 1 + 199_001


def test_a_long_chain_of_references_is_cut_into_few_sessions() -> None:
    """Or ten thousand documents, each based on the one before, would be ten thousand sessions of one item."""
    chain = [order(n) for n in range(10_000)]
    phases = group(chain, list(zip(chain[1:], chain[:-1], strict=True)), sizes(chain), ROOMY)
    assert [[len(g.items) for g in phase] for phase in phases] == [[1000]] * 10
    assert phases[3][0].items == tuple(chain[3000:4000])


def test_what_two_groups_need_is_sent_once_and_ahead() -> None:
    """Messages of a session are applied in parallel: the one that does not have it could be the first."""
    shared, left, right = customer("shared"), [order(n) for n in range(3)], [order(n) for n in range(10, 13)]
    ties = [(left[0], shared), (right[0], shared), (left[1], left[0]), (left[2], left[0])]
    ties += [(right[1], right[0]), (right[2], right[0])]
    items = [*left, *right, shared]
    phases = group(items, ties, sizes(items), Limits(3, 10_000))
    places = [p for p, phase in enumerate(phases) for g in phase if shared in g.items]
    assert places == [0]
    assert sum(len(g.items) for phase in phases for g in phase) == len(items)


def test_a_circle_stays_together_however_large() -> None:
    """Or neither half of it could be applied."""
    items = [order(n) for n in range(10)]
    circle = [(order(n), order((n + 1) % 10)) for n in range(10)]
    assert members(group(items, circle, sizes(items), Limits(3, 10_000))) == [[set(items)]]


def test_deletions_come_last_children_first() -> None:
    """Or a customer would be deleted before its orders."""
    items = [customer("A"), order(1), order(2)]
    phases = group(
        items,
        [],
        sizes(items),
        ROOMY,
        gone=frozenset({customer("A"), order(1)}),
        rank=lambda name: 1 if name == "Document.Order" else 0,
    )
    assert phases[0][0].items == (order(2),)
    assert phases[1][0].items == (order(1), customer("A"))


def test_a_unique_value_passes_from_a_deleted_item_to_a_new_one_in_one_message() -> None:
    """Or the new one would clash with the old one that is still there."""
    old, new, other = customer("OLD"), customer("NEW"), order(1)
    phases = group(
        [old, new, other],
        [],
        sizes([old, new, other]),
        ROOMY,
        gone=frozenset({old}),
        exclusive=frozenset({"Catalog.Customer"}),
    )
    assert members(phases) == [[{new, old}, {other}]] or members(phases) == [[{other}, {new, old}]]


numbers = st.integers(0, 30)


@given(st.lists(st.tuples(numbers, numbers), max_size=60), st.integers(1, 12), st.sets(numbers))
def test_whatever_the_references_each_item_goes_once_and_after_what_it_refers_to(
    pairs: list[tuple[int, int]], items_max: int, gone: set[int]
) -> None:
    """A reference must never be broken at the receiver, at no moment and with no limit."""
    items = [order(n) for n in range(31)]
    dead = frozenset(order(n) for n in gone)
    ties = [(order(a), order(b)) for a, b in pairs if a != b and not {a, b} & gone]
    phases = group(items, ties, sizes(items), Limits(items_max, 10_000), gone=dead)
    place = {item: (p, g) for p, phase in enumerate(phases) for g, grp in enumerate(phase) for item in grp.items}
    assert sorted(place) == sorted(items)
    assert sum(len(g.items) for phase in phases for g in phase) == len(items)
    for item, target in ties:
        assert place[target] == place[item] or place[target][0] < place[item][0]


groups = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 10_000)).map(
        lambda pair: Group(tuple(order(n) for n in range(pair[0])), pair[1])
    ),
    max_size=40,
)


@given(groups, st.integers(1, 8), st.integers(1, 100))
def test_streams_take_whole_groups_never_too_few_items_never_more_than_the_maximum(
    parts: list[Group], streams_max: int, items_min: int
) -> None:
    """The administrator's maximum is a promise; tiny streams cost more than they bring."""
    streams = split(parts, streams_max=streams_max, items_min=items_min)
    assert sorted(map(id, (g for s in streams for g in s))) == sorted(map(id, parts))
    assert len(streams) <= streams_max
    if len(streams) > 1:
        assert all(sum(len(g.items) for g in s) >= items_min for s in streams)


@given(groups, st.integers(2, 8))
def test_streams_are_balanced_by_bytes(parts: list[Group], streams_max: int) -> None:
    """Or one stream would work on while the others have nothing left to do."""
    streams = split(parts, streams_max=streams_max, items_min=1)
    loads = [sum(g.size_bytes for g in stream) for stream in streams]
    largest = max((g.size_bytes for g in parts), default=0)
    assert max(loads, default=0) - min(loads, default=0) <= largest


@given(groups, st.integers(1, 60), st.integers(1, 20_000))
def test_messages_keep_the_limits_unless_one_group_alone_is_above_them(
    parts: list[Group], items_max: int, bytes_max: int
) -> None:
    """A message above the bus's limit would stand in the way of everything behind it."""
    limits = Limits(items_max, bytes_max)
    messages = pack(parts, limits)
    assert [g for m in messages for g in m] == parts
    for message in messages:
        fits = limits.hold(sum(len(g.items) for g in message), sum(g.size_bytes for g in message))
        assert fits or len(message) == 1

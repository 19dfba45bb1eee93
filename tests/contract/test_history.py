"""History cursors: what a neighbour lacks, from fresh to old, and what it is known to have meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from dispatcher.ports import Change, History, HistoryPhase, Outgoing, Passed, Sent
from schemas.stamp import Stamp
from serializers.keys import Item
from serializers.message import Version
from tests.contract.store_world import CUSTOMER, FILE, ORDER, StoreWorld
from tests.contract.tree import Tree

ALICE, BOB, CAROL = (Item(CUSTOMER, f'["{name}"]') for name in "ABC")


def link(world: StoreWorld, node: str) -> Outgoing:
    return next(link for link in world.store.outgoing() if link.node == node)


def cursor(world: StoreWorld, node: str) -> History:
    (found,) = [one for one in world.store.histories() if one.node == node]
    return found


def received(world: StoreWorld, **stamps: int) -> None:
    """Customers that came from 01, with these stamps."""
    for key, stamp in stamps.items():
        value = {"customer_id": key, "name": None, "boss": None, "nick": None}
        world.receive(value, CUSTOMER, stamp=stamp, forward=False)


def lacking(world: StoreWorld, node: str, *, items_max: int = 100, limited: frozenset[str] = frozenset()) -> list[Item]:
    """One portion of the node's only cursor, recorded as sent."""
    one = cursor(world, node)
    with world.store.sending() as view:
        view.fold()
        portion = view.history(one, link(world, node), limited=limited, items_max=items_max)
        top = view.top()
    phase = one.phase if portion.place is not None else HistoryPhase(one.phase + 1)
    bottom = top if phase is HistoryPhase.BOTTOM else None
    move = Passed(one.id, phase, portion.place, portion.looked_at, len(portion.lacking), bottom, one.joins)
    world.store.record_sent([Sent(node, link(world, node).position, None, history=move)])
    return [change.item for change in portion.lacking]


def joined_by(world: StoreWorld, node: str) -> None:
    world.store.close()
    world.start("01", "02", node)


def test_a_new_neighbour_gets_what_was_there_from_fresh_to_old_and_live_changes_at_once(world: StoreWorld) -> None:
    """What it needs first is what is new; what was applied when nobody else was there is no exception."""
    received(world, A=5, B=7, C=6)
    world.execute("INSERT INTO customers (customer_id) VALUES ('D')")
    world.changes()
    joined_by(world, "03")
    assert link(world, "03").catching_up
    world.position = link(world, "03").position
    world.execute("INSERT INTO customers (customer_id) VALUES ('E')")
    assert world.changed() == {Item(CUSTOMER, '["E"]')}  # from its position on
    assert lacking(world, "03", items_max=3) == [Item(CUSTOMER, '["D"]'), BOB]  # E went live
    assert lacking(world, "03") == [CAROL, ALICE]
    assert cursor(world, "03").phase is HistoryPhase.DELETIONS


def test_a_cursor_survives_the_daemon(world: StoreWorld) -> None:
    """A new node's history takes hours; nobody wants it to begin again."""
    received(world, A=5, B=7)
    joined_by(world, "03")
    assert lacking(world, "03", items_max=1) == [BOB]
    joined_by(world, "03")
    assert (cursor(world, "03").passed, cursor(world, "03").total) == (1, 2)
    assert lacking(world, "03") == [ALICE]


def test_what_is_changed_meanwhile_goes_with_the_live_changes_only(world: StoreWorld) -> None:
    """A version crosses an edge once."""
    received(world, A=5, B=7)
    joined_by(world, "03")
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    assert lacking(world, "03") == [BOB]


def test_what_came_from_the_neighbour_is_not_sent_back_by_history(world: StoreWorld) -> None:
    """Unless it says that it has lost its life."""
    received(world, A=5)
    world.store.restart("01")
    assert lacking(world, "01") == []
    world.store.restart_asked("01", lost=True)
    world.store.restart("01")
    assert lacking(world, "01") == [ALICE]


def test_deletions_come_after_everything_else_from_old_to_fresh(world: StoreWorld) -> None:
    """Or they would overtake what frees the items that they delete."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B'), ('C')")
    world.serve("01", "02")
    world.execute("DELETE FROM customers WHERE customer_id = 'B'")
    world.serve("01", "02")
    world.execute("DELETE FROM customers WHERE customer_id = 'A'")
    world.serve("01", "02")
    joined_by(world, "03")
    assert lacking(world, "03") == [CAROL]
    assert lacking(world, "03") == [BOB, ALICE]
    done = cursor(world, "03")
    assert done.phase is HistoryPhase.BOTTOM
    assert done.bottom == link(world, "03").position
    world.store.history_done(done.id)
    assert not link(world, "03").catching_up
    assert link(world, "03").joined is None


def test_a_reference_draws_what_history_has_not_brought_yet(world: StoreWorld) -> None:
    """The order is new, its customer old: at no moment may the neighbour lack the customer."""
    received(world, A=5, B=7)
    world.serve("01", "02")
    joined_by(world, "03")

    def drawn() -> set[Item]:
        with world.store.sending() as view:
            view.fold()
            top = view.top()
            ties = view.ties(
                [Item(ORDER, "[1]"), Item(ORDER, "[2]")],
                after=top,
                node="03",
                limited=frozenset(),
                joined=link(world, "03").joined,
            )
        return {tie.target.item for tie in ties}

    world.execute("INSERT INTO orders (order_id, customer_id) VALUES (1, 'A'), (2, 'B')")
    assert drawn() == {ALICE, BOB}
    assert lacking(world, "03", items_max=3) == [BOB]  # the orders go live
    assert drawn() == {ALICE}
    ahead = Change(ALICE, version(world, ALICE), None, 0, "01", False)
    world.store.record_sent([Sent("03", link(world, "03").position, None, ahead=[ahead])])
    assert drawn() == set()
    assert lacking(world, "03") == []  # it went before its turn


def version(world: StoreWorld, item: Item) -> Version:
    with world.store.sending() as view:
        return view.register([item])[item].version


def test_a_second_reason_adds_a_cursor_and_resets_none(world: StoreWorld) -> None:
    """And the same one twice, not begun, is one."""
    received(world, A=5, B=7)
    joined_by(world, "03")
    assert lacking(world, "03", items_max=1) == [BOB]
    first = world.store.history_add("03", CUSTOMER, Stamp(6), "rights")
    assert world.store.history_add("03", CUSTOMER, Stamp(6), "rights") == first
    second = world.store.history_add("03", FILE, None, "rights")
    joining, by_type, other = world.store.histories()
    assert (joining.joins, joining.passed) == (True, 1)
    assert (by_type.id, by_type.type, by_type.down_to, by_type.total) == (first, CUSTOMER, 6, 1)
    assert (other.id, other.joins, other.total) == (second, False, 0)


def test_in_the_steady_state_history_sends_what_presence_does_not_know(world: StoreWorld) -> None:
    """A type that does not go to everybody, newly to be seen; and only down to the stamp that was asked for."""
    world.execute("INSERT INTO orders (order_id) VALUES (1), (2)")
    world.serve("01", "02")
    with world.store.sending() as view:
        view.hold({"02": {Item(ORDER, "[1]"): None}})
        session = view.open_session(Stamp(100))
    world.store.record_sent([Sent("02", world.position, session, messages=1, items=1)])
    number = world.store.history_add("02", None, None, "kod history")
    limited = frozenset({ORDER})
    assert lacking(world, "02", limited=limited) == [Item(ORDER, "[2]")]
    world.store.history_done(number)
    world.store.history_add("02", None, Stamp(10**14), "kod history")
    assert lacking(world, "02", limited=limited) == []


def test_a_cancelled_history_leaves_the_rest_unknown_and_goes_on_where_it_was(world: StoreWorld) -> None:
    """What did not go must still be drawn by references, and `kod history` must not begin anew."""
    received(world, A=5, B=7)
    joined_by(world, "03")
    assert lacking(world, "03", items_max=1) == [BOB]
    assert world.database.history_cancel(cursor(world, "03").id)
    assert not world.database.history_cancel(10**6)
    assert not link(world, "03").catching_up
    assert link(world, "03").joined is not None
    world.store.history_add("03", None, None, "kod history")
    assert lacking(world, "03") == [ALICE]
    assert cursor(world, "03").joins


def test_what_a_node_newly_may_see_is_left_to_history_as_long_as_that_comes(world: StoreWorld) -> None:
    """Or all that is old would go at once, before what is fresh; what history has passed goes out of turn."""
    received(world, A=5, B=7, C=6)
    joined_by(world, "03")

    def missing() -> list[Item]:
        with world.store.sending() as view:
            return [change.item for change in view.lacking(link(world, "03"), [ALICE, BOB, CAROL])]

    assert missing() == []
    assert lacking(world, "03", items_max=1) == [BOB]
    assert missing() == [BOB]
    assert lacking(world, "03") == [CAROL, ALICE]
    assert missing() == [ALICE, BOB, CAROL]
    world.store.restart("03")
    assert missing() == []
    assert world.database.history_cancel(cursor(world, "03").id)
    assert missing() == [ALICE, BOB, CAROL]


def test_a_resync_replaces_what_is_open(world: StoreWorld) -> None:
    """Nothing that went before is known to be there any more."""
    received(world, A=5, B=7)
    joined_by(world, "03")
    assert lacking(world, "03", items_max=1) == [BOB]
    world.store.restart("03")
    assert lacking(world, "03") == [BOB, ALICE]
    states = [one.state for one in world.database.figures().histories if one.node == "03"]
    assert states == ["replaced", "open"]


def test_what_waits_for_history_is_counted_as_waiting(world: StoreWorld) -> None:
    """`status` must not say that all is done while a neighbour lacks everything."""
    received(world, A=5, B=7)
    joined_by(world, "03")
    assert world.database.figures().items_waiting == 2
    assert lacking(world, "03") == [BOB, ALICE]
    assert lacking(world, "03") == []
    world.store.history_done(cursor(world, "03").id)
    assert world.database.figures().items_waiting == 0


# --- rows that are stamped while links are there


def stamped(worlds: Callable[[str], StoreWorld], **stamps: int) -> StoreWorld:
    """Customers that were there before links were, and got their stamps after."""
    world = worlds("00")
    world.execute(*(f"INSERT INTO customers (customer_id) VALUES ('{key}')" for key in stamps))
    world.install()
    world.start("01", "02")
    dates = {CUSTOMER: [(f'["{key}"]', Stamp(stamp)) for key, stamp in stamps.items()]}
    assert world.database.stamp_existing(world.structure(), lambda *_: None, 2, dates) == len(stamps)
    return world


def mark_stamped(world: StoreWorld, items_max: int = 100) -> list[Item]:
    """What goes to the links by that."""
    with world.store.sending() as view:
        view.fold()
        marked = view.mark_stamped(items_max)
    items = [change.item for change in world.changes()]
    assert len(items) == marked
    return items


def test_rows_stamped_while_links_are_there_wait_for_their_turn_from_fresh_to_old(
    worlds: Callable[[str], StoreWorld],
) -> None:
    """A million of them would go ahead of every live change, the oldest first."""
    world = stamped(worlds, A=5, B=7, C=6)
    assert world.changed() == set()
    figures = world.database.figures()
    assert (figures.items_waiting, figures.stamped_waiting, figures.stamped_next) == (3, 3, 7)
    assert world.store.stamped_wait()
    assert mark_stamped(world, 2) == [BOB, CAROL]
    world.serve("01", "02")
    figures = world.database.figures()
    assert (figures.items_waiting, figures.stamped_waiting, figures.stamped_next) == (1, 1, 5)
    assert mark_stamped(world) == [ALICE]
    assert not world.store.stamped_wait()
    assert mark_stamped(world) == []


def test_a_change_of_a_row_that_waits_since_it_was_stamped_goes_at_once_and_once(
    worlds: Callable[[str], StoreWorld],
) -> None:
    """A version crosses an edge once."""
    world = stamped(worlds, A=5, B=7)
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    assert world.changed() == {ALICE}
    assert mark_stamped(world) == [BOB]
    world.execute("DELETE FROM customers WHERE customer_id = 'B'")
    assert [change.gone for change in world.changes()] == [True]


def test_a_reference_draws_a_row_that_waits_since_it_was_stamped_which_then_has_its_turn(
    worlds: Callable[[str], StoreWorld],
) -> None:
    """The order would arrive without its customer; and he would go once more in his own turn."""
    world = stamped(worlds, A=5, B=7)
    world.execute("INSERT INTO orders (order_id, customer_id) VALUES (1, 'A')")
    (order,) = world.changes()
    with world.store.sending() as view:
        (tie,) = view.ties([order.item], after=order.mark, node="01", limited=frozenset())
        assert (tie.target.item, tie.target.version.stamp, tie.target.mark) == (ALICE, 5, view.top())
        (again,) = view.ties([order.item], after=order.mark, node="02", limited=frozenset())
        assert again == tie
        assert view.ties([order.item], after=view.top(), node="01", limited=frozenset()) == []
    world.store.record_sent([Sent("01", order.mark, None, ahead=[tie.target])])
    (going,) = world.changes()
    with world.store.sending() as view:
        assert view.ahead("01", [going]) == {ALICE}
    assert mark_stamped(world) == [BOB]


def test_no_history_brings_what_waits_since_it_was_stamped(worlds: Callable[[str], StoreWorld]) -> None:
    """It goes to a new neighbour with the others, once; until then it must be drawn, also where a cursor has passed."""
    world = stamped(worlds, A=5, B=7)
    world.execute("INSERT INTO customers (customer_id) VALUES ('C')")
    world.serve("01", "02")
    joined_by(world, "03")
    with world.store.sending() as view:
        assert view.lacking(link(world, "03"), [ALICE]) == []
    assert lacking(world, "03") == [CAROL]
    world.execute("INSERT INTO orders (order_id, customer_id) VALUES (1, 'A')")
    with world.store.sending() as view:
        view.fold()
        joined = link(world, "03").joined
        (tie,) = view.ties([Item(ORDER, "[1]")], after=view.top(), node="03", limited=frozenset(), joined=joined)
    assert tie.target.item == ALICE
    world.position = link(world, "03").position
    assert world.changed() == {Item(ORDER, "[1]"), ALICE}
    assert mark_stamped(world) == [BOB]


@pytest.fixture
def late(worlds: Callable[[str], StoreWorld]) -> Iterator[Tree]:
    """Six customers got their stamps while links were there; 02 cannot be reached."""

    def make(code: str) -> StoreWorld:
        world = worlds(code)
        if code == "00":
            world.execute(*(f"INSERT INTO customers (customer_id) VALUES ('{n}')" for n in range(6)))
        return world

    with closing(Tree(make, children=["01", "02"], receiving=["01"], portion_items_max=2)) as tree:
        tree.network.unreachable.add(("00", "02"))
        tree.send()
        dates = {CUSTOMER: [(f'["{n}"]', Stamp(n)) for n in range(6)]}
        tree.world.database.stamp_existing(tree.structure, lambda *_: None, 100, dates)
        yield tree


def took_ms(tree: Tree) -> int | None:
    figure: int | None = tree.children["01"].database.figures().links["00"]["end_to_end_ms"]
    return figure


def test_what_is_stamped_goes_behind_live_changes_to_who_can_be_reached(late: Tree) -> None:
    """A portion at a time, from fresh to old, once to each; a neighbour that is away delays it for nobody."""
    tree = late
    tree.sender.look_for_history()
    assert tree.sender.step()
    tree.world.execute("INSERT INTO customers (customer_id) VALUES ('live')")
    while len(tree.sent("01")) < 3:
        assert tree.sender.step()
    tree.send()
    assert list(tree.sent("01")) == [Item(CUSTOMER, f'["{key}"]') for key in ("5", "4", "live", "3", "2", "1", "0")]
    assert set(tree.sent("01").values()) == {1}
    assert not tree.sent("02")
    tree.receive()
    assert tree.children["01"].execute("SELECT count(*) FROM customers") == [(7,)]

    tree.network.unreachable.clear()
    tree.clock.ahead_ms += 60_000
    tree.send()
    assert tree.sent("02") == tree.sent("01")


def test_what_was_there_before_says_nothing_of_how_long_changes_take(late: Tree) -> None:
    """Its stamp is a date of long ago: `status` spoke of delays of decades until the next change, with a boundary as
    far behind."""
    late.world.execute("INSERT INTO customers (customer_id) VALUES ('now')")
    late.send()
    late.receive()
    took = took_ms(late)
    assert took is not None
    assert took < 600_000
    oldest = late.world.database.figures().oldest_waiting  # for who is away
    late.sender.look_for_history()
    assert late.sender.step()
    waiting = late.world.database.figures()
    assert (waiting.items_waiting, waiting.oldest_waiting) == (7, oldest)
    late.send()
    late.receive()
    assert late.children["01"].execute("SELECT count(*) FROM customers") == [(7,)]
    assert took_ms(late) == took


def test_what_a_reference_draws_says_nothing_of_how_long_changes_take_either(late: Tree) -> None:
    """It may have been changed years ago; the order that draws it was changed now."""
    late.world.execute(
        "INSERT INTO orders (order_id, customer_id) VALUES (1, '3')", "INSERT INTO order_access VALUES (1, '01')"
    )
    late.send()
    late.receive()
    assert late.children["01"].execute("SELECT customer_id FROM orders") == [("3",)]
    took = took_ms(late)
    assert took is not None
    assert took < 600_000

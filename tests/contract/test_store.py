"""The store: what every database does for the flow, in the same words and with the same results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from dispatcher.manifest import KEPT_MAX, Went, manifest
from dispatcher.ports import Accepted, Collision, Kept, Letter, Reason, Received, Sent
from node.databases import Held
from schemas.errors import ConfigError, MessageError, UnavailableError
from schemas.network import TypeSettings
from schemas.stamp import Stamp
from serializers.keys import Item, key_text
from serializers.message import Version
from tests.contract.store_world import CUSTOMER, EXCHANGE, FILE, FUTURE, ORDER, PRICE, RATE, StoreWorld

ALICE, BOB, CAROL = (Item(CUSTOMER, f'["{name}"]') for name in "ABC")
FIRST, SECOND = Item(ORDER, "[1]"), Item(ORDER, "[2]")


def customer(key: str, /, **other: Any) -> dict[str, Any]:
    return {"customer_id": key, "name": None, "boss": None, "nick": None, **other}


def order(number: int, /, *lines: tuple[int, int], **other: Any) -> dict[str, Any]:
    rows = [{"line": line, "qty": qty, "customer_id": None} for line, qty in lines]
    return {"order_id": number, "customer_id": None, "title": None, "lines": rows, "notes": [], **other}


# --- versions and marks ---------------------------------------------------------------------------------------------


def test_a_change_gets_the_time_of_the_database_and_this_origin(world: StoreWorld) -> None:
    """The version is where and when it was made."""
    before = int(datetime.now(UTC).timestamp() * 1000)
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    (change,) = world.changes()
    assert before - 5 <= change.version.stamp <= int(datetime.now(UTC).timestamp() * 1000) + 5
    assert change.version.origin == world.store.origin
    assert world.store.origin.startswith("00.")
    assert (change.seen or {}, change.source, change.mark) == ({}, None, 1)


def test_versions_only_grow_also_when_the_clock_steps_back(world: StoreWorld) -> None:
    """The item bears a stamp of the future: to the clock, everything after it is earlier."""
    world.receive(customer("A"), CUSTOMER, stamp=FUTURE, origin="01.1")
    for step in (1, 2, 3):
        world.execute(f"UPDATE customers SET name = 'step {step}'")
        (change,) = world.changes()
        assert change.version == (FUTURE + step, world.store.origin)
        assert change.seen == {"01.1": FUTURE}


def test_a_version_of_this_node_is_never_used_again_also_where_an_older_one_won(world: StoreWorld) -> None:
    """Policy `parent`: what is here now is older than what this node wrote before, and has seen it. A change with the
    old stamp would be taken for what was seen, and be lost."""
    world.receive(customer("A"), CUSTOMER, stamp=100, origin="01.1", seen={world.store.origin: FUTURE})
    world.execute("UPDATE customers SET name = 'x'")
    (change,) = world.changes()
    assert change.version == (FUTURE + 1, world.store.origin)


def test_seen_holds_the_newest_of_every_other_origin(world: StoreWorld) -> None:
    """It is what tells a successor from a collision."""
    world.receive(
        customer("A"), CUSTOMER, stamp=100, origin="01.1", seen={"02.1": Stamp(50), world.store.origin: Stamp(9)}
    )
    world.execute("UPDATE customers SET name = 'x'")
    (change,) = world.changes()
    assert change.seen == {"01.1": 100, "02.1": 50}


def test_ten_thousand_changes_at_once_are_taken_in_portions_without_gap_or_repetition(world: StoreWorld) -> None:
    """`stamp > boundary` would lose those that share the stamp of the portion's last."""
    if world.dialect == "sqlite":
        world.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
            "INSERT INTO customers (customer_id) SELECT 'c' || i FROM n"
        )
    elif world.dialect == "mariadb":
        world.execute("INSERT INTO customers (customer_id) SELECT concat('c', seq) FROM seq_1_to_10000")
    else:
        world.execute("INSERT INTO customers (customer_id) SELECT 'c' || i FROM generate_series(1, 10000) i")
    seen: list[str] = []
    marks: list[int] = []
    while changes := world.changes(items_max=777):
        seen += [change.item.key for change in changes]
        marks += [change.mark for change in changes]
    assert len(seen) == len(set(seen)) == 10_000
    assert marks == sorted(set(marks))


def test_marks_follow_the_stamps(world: StoreWorld) -> None:
    """A portion is continuous in stamps."""
    for name in "DBCA":
        world.execute(f"INSERT INTO customers (customer_id) VALUES ('{name}')")
    stamps = [change.version.stamp for change in world.changes()]
    assert stamps == sorted(stamps)


def test_an_item_that_changes_again_moves_behind_the_others(world: StoreWorld) -> None:
    """State, not history: it is in one place only."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    world.changes()
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    with world.store.sending() as view:
        view.fold()
        portion = view.portion(0, 10)
    assert [c.item for c in portion] == [BOB, ALICE]


def test_a_fold_says_what_changed_and_what_was_missed(world: StoreWorld) -> None:
    """Behind the boundary: counted apart, sent all the same."""
    with world.store.sending() as view:
        view.reviewed(FUTURE)
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    with world.store.sending() as view:
        folded = view.fold()
        assert (folded.items, folded.missed) == (2, 2)
        assert (view.fold().items, view.top()) == (0, 2)
    assert world.store.figures().missed == 2


def test_transactions_that_stay_open_are_folded_when_they_commit_once_each(world: StoreWorld) -> None:
    """However long, and however many folds pass meanwhile: nothing is missed, nothing is taken twice."""
    if world.dialect == "sqlite":
        pytest.skip("SQLite has one writer: an open transaction keeps the fold waiting")
    found: list[Item] = []
    with world.transaction() as long:
        long.execute("INSERT INTO customers (customer_id) VALUES ('A')")
        with world.transaction() as longer:
            longer.execute("INSERT INTO customers (customer_id) VALUES ('B')")
            for number in range(5):
                world.execute(f"INSERT INTO customers (customer_id) VALUES ('c{number}')")
                found += [c.item for c in world.changes()]
        assert len(found) == 5
        found += [c.item for c in world.changes()]
    found += [c.item for c in world.changes()]
    assert len(found) == len(set(found)) == 7
    assert found[-2:] == [BOB, ALICE]


def test_a_sender_that_fails_leaves_nothing(world: StoreWorld) -> None:
    """A crash before the end of its transaction: the next one finds all as it was."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    with pytest.raises(KeyError), world.store.sending() as view:  # noqa: PT012 (the block is what fails)
        view.fold()
        view.hold({"01": {ALICE: None}})
        view.reviewed(FUTURE)
        raise KeyError
    assert world.store.has_changes()
    assert world.store.figures().boundary is None
    with world.store.sending() as view:
        assert view.fold().items == 1
        assert view.holders([ALICE]).get(ALICE, frozenset()) == frozenset()


def test_has_changes_sees_what_other_programs_commit(world: StoreWorld) -> None:
    """It is asked every few milliseconds, and decides whether anything is done."""
    assert not world.store.has_changes()
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    assert world.store.has_changes()
    world.changes()
    assert not world.store.has_changes()


def test_changes_that_a_receiver_folded_are_changes_all_the_same(world: StoreWorld) -> None:
    """Applying takes in the log; the sender has to hear of it, or they would wait for the next write."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.receive(customer("B"), CUSTOMER, stamp=5)
    assert world.store.has_changes()
    assert {c.item for c in world.changes()} == {ALICE, BOB}
    assert not world.store.has_changes()


# --- sessions and links ---------------------------------------------------------------------------------------------


def test_session_stamps_are_never_used_twice(world: StoreWorld) -> None:
    """Not after a crash either, nor when the clock steps back."""
    with world.store.sending() as view:
        first = view.open_session(Stamp(1000), 3)
    with world.store.sending() as view:
        second = view.open_session(Stamp(1000))
    assert (first, second) == (1000, 1003)
    world.store.close()
    store = world.start("01", "02")
    with store.sending() as view:
        assert view.open_session(Stamp(10)) == 1004
    with store.sending() as view:
        assert view.open_session(Stamp(5000)) == 5000


def test_positions_never_go_back(world: StoreWorld) -> None:
    """Two parts of the sender may record in either order."""
    world.store.record_sent([Sent("01", 7, Stamp(70), messages=2, items=5, size_bytes=100, took_ms=3)])
    world.store.record_sent([Sent("01", 5, None)])
    links = {link.node: link for link in world.store.outgoing()}
    assert (links["01"].position, links["01"].last_session) == (7, 70)
    assert (links["02"].position, links["02"].last_session) == (0, None)
    figures = world.store.figures()
    assert figures.links["01"]["sent_messages"] == 2
    assert figures.links["01"]["sent_items"] == 5
    assert figures.last_session is not None
    assert figures.last_session["items"] == 5


def test_what_is_received_is_remembered_until_its_session_is_complete(world: StoreWorld) -> None:
    """A repeated message has no effect; a position only moves with what it stands for."""

    def receive(number: int, *, completes: bool = False, position: int | None = None) -> None:
        with world.store.receiving("01", forward=False, limited=frozenset()) as view:
            view.received(Received("01", 77, Stamp(100), number, completes, position, items=2, rejected=1))

    assert world.store.incoming("01").session is None
    receive(2, position=5)
    receive(1)
    incoming = world.store.incoming("01")
    assert (incoming.incarnation, incoming.session, incoming.done) == (77, 100, {1, 2})
    assert (incoming.completed, incoming.position) == (None, 5)
    receive(3, completes=True, position=9)
    incoming = world.store.incoming("01")
    assert (incoming.completed, incoming.position, incoming.done - {1, 2, 3}) == (100, 9, frozenset())
    figures = world.store.figures().links["01"]
    assert (figures["received_items"], figures["rejected_items"]) == (6, 3)


def test_an_abandoned_session_is_forgotten(world: StoreWorld) -> None:
    """The sender has begun a newer one; its numbers are other messages."""
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.received(Received("01", 77, Stamp(100), 1, False, None))
    world.store.abandon("01", Stamp(100), 8)
    incoming = world.store.incoming("01")
    assert incoming.done == frozenset()
    assert incoming.position == 8


def test_a_fault_of_a_link_is_shown_until_it_is_mended(world: StoreWorld) -> None:
    """Nothing stops without a word."""
    world.store.link_fault("01", "why")
    assert world.store.figures().links["01"]["fault"] == "why"
    world.store.link_fault("01", None)
    assert world.store.figures().links["01"]["fault"] is None


def test_maxima_are_kept_in_the_database(world: StoreWorld) -> None:
    """`kod streams` outlives a restart."""
    assert world.store.streams() == (None, None)
    world.database.set_streams(send=2, receive=None)
    world.database.set_streams(send=None, receive=0)
    assert world.store.streams() == (2, 0)
    world.database.set_streams(send=None, receive=None, reset=True)
    assert world.store.streams() == (None, None)


# --- out of turn ----------------------------------------------------------------------------------------------------


def test_what_a_neighbour_says_of_itself_is_remembered(world: StoreWorld) -> None:
    """`status` shows who works with which package; a drain waits for what has arrived."""
    world.store.record_sent([Sent("01", 0, Stamp(70), messages=1, items=1)])
    world.store.heard("01", package="aa", received=None)
    since = world.store.figures().links["01"]["package_since"]
    world.store.heard("01", package="aa", received=Stamp(70))
    world.store.heard("02", package=None, received=Stamp(5))
    links = world.store.figures().links
    told = [links["01"][name] for name in ("last_session", "arrived", "package", "package_since", "package_was")]
    assert told == [70, 70, "aa", since, None]
    assert (links["02"]["arrived"], links["02"]["package"]) == (5, None)


def test_packages_of_this_node_are_remembered(world: StoreWorld) -> None:
    """A neighbour with one that this node had before is older; else it is another one."""
    for fingerprint in ("aa", "bb", "bb", "aa"):
        structure = replace(world.structure(), fingerprint=fingerprint)
        with closing(world.database.store(world.settings, structure)) as store:
            store.start(("01", "02"))
            assert store.figures().package == fingerprint
    world.store.heard("01", package="bb", received=None)
    assert world.store.figures().links["01"]["package_was"] is not None


def test_a_drain_is_asked_for_and_done_unless_it_was_taken_back(world: StoreWorld) -> None:
    """The daemon says that it is done when the command may have gone already."""
    assert world.store.draining() is None
    world.database.set_draining(True)
    assert (world.store.draining(), world.store.figures().draining) == ("asked", "asked")
    world.store.drained()
    assert world.store.draining() == "done"
    world.database.set_draining(False)
    world.store.drained()
    assert world.store.draining() is None


def test_what_went_ahead_is_not_sent_again_in_its_turn_unless_it_changed(world: StoreWorld) -> None:
    """Exactly the mark it had then."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    changes = world.changes()
    world.store.record_sent([Sent("01", 0, Stamp(5), ahead=changes)])
    with world.store.sending() as view:
        assert view.ahead("01", changes) == {ALICE, BOB}
        assert view.ahead("02", changes) == frozenset()
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    with world.store.sending() as view:
        view.fold()
        assert view.ahead("01", view.portion(0, 10)) == {BOB}


def test_an_answer_waits_until_it_went_out_unless_it_is_due_anyway(world: StoreWorld) -> None:
    """The neighbour sent something older than what is here; it has to learn what is here."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    world.serve("01")
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'B'")
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        view.lock([ALICE, BOB])
        view.answer_back("01", [ALICE, BOB])
    assert {link.node: link.pending for link in world.store.outgoing()} == {"01": 1, "02": 0}
    with world.store.sending() as view:
        (change,) = view.pending("01", 10)
        assert change.item == ALICE
    world.execute("UPDATE customers SET name = 'y' WHERE customer_id = 'A'")
    with world.store.sending() as view:
        view.fold()
        (later,) = view.pending("01", 10)
    assert later.mark > change.mark
    world.store.record_sent([Sent("01", 0, Stamp(9), settled=[later])])
    assert not any(link.pending for link in world.store.outgoing())


def test_an_answer_to_a_new_holder_waits_whatever_its_turn(world: StoreWorld) -> None:
    """A type that does not go everywhere: its turn may be under way to the others, looked at before the sender was a
    holder. The sender would keep what it has for ever."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.serve("01", "02")
    world.execute("UPDATE customers SET name = 'x'")
    with world.store.sending() as view:
        view.fold()  # its turn has come; the position moves when the bus has acknowledged it
        top = view.top()
    with world.store.receiving("01", forward=True, limited=frozenset([CUSTOMER])) as view:
        view.lock([ALICE])
        view.answer_back("01", [ALICE])
    world.store.record_sent([Sent("01", top, Stamp(9))])
    assert {link.node: link.pending for link in world.store.outgoing()} == {"01": 1, "02": 0}


def test_a_deferred_deletion_is_pending_until_it_is_settled(world: StoreWorld) -> None:
    """It is held back while something that it could overtake is unsent."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.serve("01", "02")
    world.execute("DELETE FROM customers")
    (gone,) = world.changes()
    world.store.record_sent([Sent("01", gone.mark, None, deferred=[gone])])
    with world.store.sending() as view:
        (pending,) = view.pending("01", 10)
        assert (pending.item, pending.gone) == (ALICE, True)
        assert not view.pending("02", 10)
    world.store.record_sent([Sent("01", gone.mark, Stamp(9), settled=[pending])])
    with world.store.sending() as view:
        assert not view.pending("01", 10)


def test_what_is_pending_is_deleted_after_what_refers_to_it(world: StoreWorld) -> None:
    """A portion may end anywhere: a customer whose orders are deleted later would stand in the way of its deletion,
    and come to life again because of them."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')", "INSERT INTO orders VALUES (1, 'A', 'a')")
    world.serve("01")
    world.execute("DELETE FROM orders", "DELETE FROM customers WHERE customer_id = 'A'")
    changes = {change.item: change for change in world.changes()}
    customer, order = changes[ALICE], changes[Item(ORDER, "[1]")]
    bob = Item(CUSTOMER, '["B"]')
    world.store.record_sent([Sent("01", max(customer.mark, order.mark), None, deferred=[customer, order])])
    with world.store.sending() as view:
        view.pend("01", list(view.register([bob]).values()))
        assert [c.item for c in view.pending("01", 10)] == [bob, order.item, ALICE]
        assert [c.item for c in view.pending("01", 2)] == [bob, order.item]


# --- references and routes ------------------------------------------------------------------------------------------


def ties(world: StoreWorld, *items: Item, after: int, limited: Sequence[str] = ()) -> set[tuple[Item, Item]]:
    with world.store.sending() as view:
        view.fold()
        found = view.ties(list(items), after=after, node="01", limited=frozenset(limited))
        return {(tie.item, tie.target.item) for tie in found}


def test_references_to_what_a_neighbour_has_not_got_are_ties(world: StoreWorld) -> None:
    """From the root, from a section, from an owner; what it has been served is none."""
    world.execute(
        "INSERT INTO customers (customer_id) VALUES ('A')",
        "INSERT INTO customers (customer_id, boss) VALUES ('B', 'A')",
        "INSERT INTO orders VALUES (1, 'B', NULL)",
        "INSERT INTO order_lines VALUES (1, 1, 1, 'A')",
        "INSERT INTO order_files VALUES ('f', 1, NULL)",
    )
    file = Item(FILE, '["f"]')
    assert ties(world, FIRST, BOB, file, after=0) == {(FIRST, BOB), (FIRST, ALICE), (BOB, ALICE), (file, FIRST)}
    marks = {change.item: change.mark for change in world.changes()}
    assert (FIRST, ALICE) not in ties(world, FIRST, after=marks[ALICE])
    assert ties(world, FIRST, after=max(marks.values())) == set()


def test_a_known_item_that_changed_again_is_no_tie(world: StoreWorld) -> None:
    """The neighbour has it in some version: enough for a reference. Or every change would drag all it refers to."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.serve("01", "02")
    after = world.position
    world.execute("UPDATE customers SET name = 'x'", "INSERT INTO orders VALUES (1, 'A', NULL)")
    assert ties(world, FIRST, after=after) == set()


def test_an_item_that_was_gone_and_came_again_is_not_known(world: StoreWorld) -> None:
    """The neighbour has its tombstone only."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.serve("01", "02")
    world.execute("DELETE FROM customers")
    world.serve("01", "02")
    after = world.position
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')", "INSERT INTO orders VALUES (1, 'A', NULL)")
    assert ties(world, FIRST, after=after) == {(FIRST, ALICE)}


def test_an_applied_item_that_was_gone_is_not_known_to_the_others(world: StoreWorld) -> None:
    """As above, when it is a neighbour that brings it to life."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.serve("01", "02")
    world.execute("DELETE FROM customers")
    world.serve("01", "02")
    after = world.position
    world.receive(customer("A"), CUSTOMER, stamp=FUTURE, origin="02.1", sender="02")
    world.execute("INSERT INTO orders VALUES (1, 'A', NULL)")
    assert ties(world, FIRST, after=after) == {(FIRST, ALICE)}


def test_what_came_from_a_neighbour_is_known_to_it(world: StoreWorld) -> None:
    """And not to the others."""
    world.receive(customer("A"), CUSTOMER, stamp=5, sender="01")
    world.receive(customer("B"), CUSTOMER, stamp=5, origin="02.1", sender="02")
    world.execute("INSERT INTO orders VALUES (1, 'A', NULL), (2, 'B', NULL)")
    assert ties(world, FIRST, SECOND, after=0) == {(SECOND, BOB)}


def test_rows_without_a_stamp_are_drawn_as_the_oldest(worlds: Callable[[str], StoreWorld]) -> None:
    """Installed without --stamp-existing: nobody has them, and what refers to them must not arrive alone."""
    world = worlds("00")
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.install()
    world.start("01", "02")
    world.execute("INSERT INTO orders VALUES (1, 'A', NULL)")
    world.changes()
    with world.store.sending() as view:
        (tie,) = view.ties([FIRST], after=world.position, node="01", limited=frozenset())
        assert tie.target.version == (0, world.store.origin)
        assert tie.target.mark > 0
        assert view.register([ALICE])[ALICE] == tie.target


def test_limited_items_are_known_only_where_they_are_held(world: StoreWorld) -> None:
    """Orders do not go to everybody: that the position has passed one says nothing."""
    world.execute("INSERT INTO orders VALUES (1, NULL, NULL)", "INSERT INTO order_files VALUES ('f', 1, NULL)")
    world.serve("01", "02")
    file = Item(FILE, '["f"]')
    assert ties(world, file, after=world.position) == set()
    assert ties(world, file, after=world.position, limited=[ORDER]) == {(file, FIRST)}
    with world.store.sending() as view:
        view.hold({"01": {FIRST: None}})
        session = view.open_session(Stamp(500))
    with world.store.sending() as view:
        assert view.holders([FIRST, file])[FIRST] == {"01"}
    world.store.record_sent([Sent("01", world.position, session, messages=1, items=1)])
    assert ties(world, file, after=world.position, limited=[ORDER]) == set()


def test_what_an_abandoned_session_noted_does_not_pass_for_what_went_with_the_next(world: StoreWorld) -> None:
    """What refers to it would go alone then, and wait for ever."""
    world.execute("INSERT INTO orders VALUES (1, NULL, NULL)", "INSERT INTO order_files VALUES ('f', 1, NULL)")
    world.serve("01", "02")
    file = Item(FILE, '["f"]')
    with world.store.sending() as view:
        view.hold({"01": {FIRST: None}})
        view.open_session(Stamp(500))
    with world.store.sending() as view:
        view.hold({"01": {}})
        session = view.open_session(Stamp(600))
    world.store.record_sent([Sent("01", world.position, session, messages=1, items=1)])
    assert ties(world, file, after=world.position, limited=[ORDER]) == {(file, FIRST)}
    with world.store.sending() as view:
        assert view.holders([FIRST])[FIRST] == {"01"}, "it may have left"


def test_the_sender_of_a_limited_item_holds_it(world: StoreWorld) -> None:
    """Stickiness: it gets what becomes of it, whatever the rights say later."""
    with world.store.receiving("01", forward=True, limited=frozenset({ORDER})) as view:
        view.lock([FIRST])
        view.write([Accepted(FIRST, Version(Stamp(5), "01.1"), {}, order(1), existed=False)])
    with world.store.sending() as view:
        assert view.holders([FIRST])[FIRST] == {"01"}


def test_owners_and_access_are_read_for_many_at_once(world: StoreWorld) -> None:
    """Review asks for a whole portion."""
    world.execute(
        "INSERT INTO orders VALUES (1, NULL, NULL), (2, NULL, NULL)",
        "INSERT INTO order_files VALUES ('f', 1, NULL), ('g', NULL, NULL)",
        "INSERT INTO order_access VALUES (1, '03'), (1, '04')",
    )
    f, g = Item(FILE, '["f"]'), Item(FILE, '["g"]')
    with world.store.sending() as view:
        assert view.owners([f, g]) == {f: FIRST, g: None}
        access = view.access([FIRST, SECOND])
        assert access[FIRST] == {"03", "04"}
        assert access.get(SECOND, frozenset()) == frozenset()


# --- contents -------------------------------------------------------------------------------------------------------


def test_contents_come_in_the_order_asked_for(world: StoreWorld) -> None:
    """They are put beside their versions by place; gone items in between are None."""
    world.execute(
        "INSERT INTO customers (customer_id, name) VALUES ('A', 'Alice'), ('B', NULL)",
        "INSERT INTO orders VALUES (2, 'A', 'x')",
        "INSERT INTO order_lines VALUES (2, 2, 20, NULL), (2, 1, 10, 'B')",
    )
    texts = world.texts(BOB, SECOND, CAROL, ALICE, FIRST)
    assert [t and orjson.loads(t) for t in texts] == [
        customer("B"),
        {
            "order_id": 2,
            "customer_id": "A",
            "title": "x",
            "lines": [
                {"line": 1, "qty": 10, "customer_id": "B"},
                {"line": 2, "qty": 20, "customer_id": None},
            ],
            "notes": [],
        },
        None,
        customer("A", name="Alice"),
        None,
    ]


MARIADB_TYPES = {
    "TIMESTAMP": "DATETIME(6)",
    "TIME": "TIME(6)",
    "JSON": "JSON",
    "BYTES": "VARBINARY(40)",
    "BYTEA": "BLOB",
}
"""What other databases call otherwise."""

SAMPLE_COLUMNS = {
    "small": ("SMALLINT", ["-32768", "32767", "NULL"]),
    "whole": ("BIGINT", ["9007199254740992", "9007199254740993", "-9223372036854775808", "9223372036854775807"]),
    "money": ("NUMERIC(12, 2)", ["14.5", "-0.01", "9999999999.99", "0"]),
    "wide": (
        "DOUBLE PRECISION",
        ["0.1", "1e22", "1e15", "123456789012345680", "5e-324", "1.7976931348623157e308", "14"],
    ),
    "third": ("DOUBLE PRECISION", ["1.0/3", "-2.5", "100", "0.30000000000000004"]),
    "yes": ("BOOLEAN", ["TRUE", "FALSE", "NULL"]),
    "moment": ("TIMESTAMP", ["'2020-07-27 16:03:05'", "'2020-07-27 16:03:05.120000'", "'1969-12-31 23:59:59.000001'"]),
    "day": ("DATE", ["'2026-11-01'", "'0001-01-01'", "NULL"]),
    "clock": ("TIME", ["'16:03:05'", "'00:00:00.5'", "'23:59:59.999999'"]),
    "note": ("TEXT", ["''", "NULL", "'Ж\u2028\"\\/'", "'line\nline\ttab\x01'", "'😀'", "'007'", "'NaN'"]),
    "doc": ("JSON", ['\'{"b": 1,  "a": [1.50, null]}\'', "'[]'", "NULL"]),
}


def test_every_column_type_goes_out_and_comes_in_unaltered(worlds: Callable[[str], StoreWorld]) -> None:
    """What was stored arrives: the receiver reads the same bytes."""
    rows = max(len(values) for _, values in SAMPLE_COLUMNS.values())
    sqlite_bytes = "x'0001FF'"
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in SAMPLE_COLUMNS.items())
    exchange = {"Catalog.Sample": TypeSettings("Catalog.Sample", "samples", reference_data=True)}
    texts = []
    for code in ("00", "01"):
        world = worlds(code)
        world.exchange = exchange
        kind = "BYTEA" if world.dialect == "postgresql" else "BLOB"
        if world.dialect == "mariadb":
            kinds = {name: MARIADB_TYPES.get(native, native) for name, (native, _) in SAMPLE_COLUMNS.items()}
            columns = ", ".join(f"{name} {native}" for name, native in kinds.items())
        world.execute(f"CREATE TABLE samples (id INTEGER NOT NULL PRIMARY KEY, {columns}, raw {kind})")
        world.install()
        world.start("02")
        if not texts:
            for number in range(rows):
                values = [options[number % len(options)] for _, options in SAMPLE_COLUMNS.values()]
                raw = ("NULL", r"'\x0001FF'" if world.dialect == "postgresql" else sqlite_bytes)[number % 2]
                world.execute(f"INSERT INTO samples VALUES ({number}, {', '.join(values)}, {raw})")
        else:
            for text in texts[0]:
                world.receive(orjson.loads(text), "Catalog.Sample", stamp=5)
        texts.append(world.texts(*(Item("Catalog.Sample", f"[{n}]") for n in range(rows))))
    assert None not in texts[0]
    assert texts[0] == texts[1]
    first = orjson.loads(texts[0][0] or b"")
    assert (first["small"], first["whole"], first["money"][:4], first["yes"]) == (
        -32768,
        9007199254740992,
        "14.5",
        True,
    )
    second = orjson.loads(texts[0][1] or b"")
    assert (second["whole"], second["moment"], second["raw"]) == (
        "9007199254740993",
        "2020-07-27T16:03:05.12",
        "AAH/",
    )


@pytest.mark.parametrize("key_type", ["BIGINT", "UUID", "DATE", "TIMESTAMP", "BYTES", "BOOLEAN", "VARCHAR(40)"])
def test_keys_may_be_of_any_type(worlds: Callable[[str], StoreWorld], key_type: str) -> None:
    """The trigger's text of a key, the register's, the message's and the row are one."""
    sqlite = {
        "BIGINT": ("9007199254740993", '["9007199254740993"]'),
        "UUID": ("'1b4e28ba-2fa1-11d2-883f-0016d3cca427'", '["1b4e28ba-2fa1-11d2-883f-0016d3cca427"]'),
        "DATE": ("'2026-11-01'", '["2026-11-01"]'),
        "TIMESTAMP": ("'2026-11-01 10:00:00.5'", '["2026-11-01T10:00:00.5"]'),
        "BYTES": ("x'0001FF10'", '["AAH/EA=="]'),
        "BOOLEAN": ("TRUE", "[true]"),
        "VARCHAR(40)": ("'ß'", '["ß"]'),
    }
    literal, key = sqlite[key_type]
    item = Item("Catalog.Keyed", key)
    other = None
    for code in ("00", "01"):
        world = worlds(code)
        world.exchange = {"Catalog.Keyed": TypeSettings("Catalog.Keyed", "keyed", reference_data=True)}
        own_type = key_type if key_type != "BYTES" else "BLOB" if world.dialect == "sqlite" else "BYTEA"
        if world.dialect == "postgresql" and key_type == "BYTES":
            literal = r"'\x0001FF10'"
        if world.dialect == "mariadb":
            own_type = MARIADB_TYPES.get(key_type, key_type)
        world.execute(f"CREATE TABLE keyed (id {own_type} NOT NULL PRIMARY KEY, name TEXT)")
        world.install()
        world.start("02")
        if other is None:
            world.execute(f"INSERT INTO keyed VALUES ({literal}, 'x')")
            assert world.changed() == {item}
            (other,) = world.texts(item)
            assert other is not None
        else:
            world.receive(orjson.loads(other), "Catalog.Keyed", stamp=5)
            assert world.texts(item) == [other]
            world.receive({**orjson.loads(other), "name": "y"}, "Catalog.Keyed", stamp=6)
            assert world.value(item)["name"] == "y"
            world.execute("UPDATE keyed SET name = 'z'")
            assert {c.item for c in world.changes()} == {item}
            world.receive(None, "Catalog.Keyed", stamp=FUTURE, key=key)
            assert world.execute("SELECT * FROM keyed") == []


def test_a_table_may_be_wide(worlds: Callable[[str], StoreWorld]) -> None:
    """Functions take a hundred arguments; tables have more columns."""
    world = worlds("00")
    world.exchange = {"Catalog.Wide": TypeSettings("Catalog.Wide", "wide", reference_data=True)}
    names = [f"c{n}" for n in range(300)]
    world.execute(f"CREATE TABLE wide (id INTEGER NOT NULL PRIMARY KEY, {', '.join(f'{n} TEXT' for n in names)})")
    world.install()
    world.start("01")
    value = {"id": 1, **{name: name for name in names}}
    world.receive(value, "Catalog.Wide", stamp=5)
    assert world.value(Item("Catalog.Wide", "[1]")) == value
    world.receive({**value, "c299": "new"}, "Catalog.Wide", stamp=6)
    assert world.value(Item("Catalog.Wide", "[1]"))["c299"] == "new"


def test_generated_columns_do_not_travel(worlds: Callable[[str], StoreWorld]) -> None:
    """Each database computes its own."""
    world = worlds("00")
    world.exchange = {"Catalog.Total": TypeSettings("Catalog.Total", "totals", reference_data=True)}
    world.execute(
        "CREATE TABLE totals (id INTEGER NOT NULL PRIMARY KEY, net INTEGER, "
        "gross INTEGER GENERATED ALWAYS AS (net * 2) STORED)"  # of MariaDB's words PERSISTENT is the same
    )
    world.install()
    world.start("01")
    world.receive({"id": 1, "net": 4}, "Catalog.Total", stamp=5)
    assert world.execute("SELECT gross FROM totals") == [(8,)]
    assert world.value(Item("Catalog.Total", "[1]")) == {"id": 1, "net": 4}


# --- applying -------------------------------------------------------------------------------------------------------


def test_locking_tells_what_is_here(world: StoreWorld) -> None:
    """Folded, so that the version is the one of what is in the table."""
    world.execute(
        "INSERT INTO customers (customer_id) VALUES ('A')", "INSERT INTO customers (customer_id) VALUES ('B')"
    )
    world.execute("DELETE FROM customers WHERE customer_id = 'B'")
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        local = view.lock([ALICE, BOB, CAROL])
        contents = view.contents([ALICE, BOB])
    assert local[ALICE].exists
    assert local[ALICE].version is not None
    assert local[ALICE].version.origin == world.store.origin
    assert not local[BOB].exists
    assert CAROL not in local
    assert (contents[ALICE] is not None, contents.get(BOB)) == (True, None)


def test_a_row_that_was_never_stamped_exists_without_a_version(worlds: Callable[[str], StoreWorld]) -> None:
    """It counts as (0, this node): never silently overwritten."""
    world = worlds("00")
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.install()
    world.start("01")
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        local = view.lock([ALICE])[ALICE]
    assert (local.exists, local.version) == (True, None)


def test_an_object_is_merged_row_by_row(world: StoreWorld) -> None:
    """Absent rows go, new ones come, equal ones are not touched: delete-and-insert would fire cascades and triggers."""
    world.receive(order(1, (1, 10), (2, 20), (3, 30)), ORDER, stamp=5)
    before = _row_versions(world, "order_lines")
    world.receive(order(1, (1, 10), (3, 33), (4, 40)), ORDER, stamp=6)
    assert world.execute("SELECT line, qty FROM order_lines ORDER BY line") == [(1, 10), (3, 33), (4, 40)]
    assert _row_versions(world, "order_lines", since=before) == {3, 4}


def _row_versions(world: StoreWorld, table: str, since: Any = None) -> Any:
    """First call: begins to watch; with `since`: the lines that were written after it and are there."""
    if world.dialect == "postgresql":
        rows = dict(world.execute(f"SELECT line, xmin::text FROM {table}"))
        return rows if since is None else {line for line, xmin in rows.items() if since.get(line) != xmin}
    if since is None:
        each = "FOR EACH ROW"
        world.execute(
            "CREATE TABLE touched (line INTEGER)",
            f"CREATE TRIGGER t1 AFTER INSERT ON {table} {each} BEGIN INSERT INTO touched VALUES (NEW.line); END",
            f"CREATE TRIGGER t2 AFTER UPDATE ON {table} {each} BEGIN INSERT INTO touched VALUES (NEW.line); END",
        )
        return ()
    return {line for (line,) in world.execute("SELECT line FROM touched")}


def test_an_absent_property_leaves_its_column_alone(world: StoreWorld) -> None:
    """A message of an older node does not know it."""
    world.receive(customer("A", name="Alice", nick="al"), CUSTOMER, stamp=5)
    world.receive({"customer_id": "A", "nick": None}, CUSTOMER, stamp=6)
    assert world.execute("SELECT name, nick FROM customers") == [("Alice", None)]
    world.receive(order(1, (1, 10)), ORDER, stamp=5)
    world.receive({"order_id": 1, "title": "x"}, ORDER, stamp=6)
    assert world.execute("SELECT count(*) FROM order_lines") == [(1,)]


def test_an_absent_property_of_a_section_row_leaves_its_column_alone(world: StoreWorld) -> None:
    """The same, one level down."""
    world.receive(order(1, (1, 10)), ORDER, stamp=5)
    world.receive({"order_id": 1, "lines": [{"line": 1, "customer_id": None}]}, ORDER, stamp=6)
    assert world.execute("SELECT qty FROM order_lines") == [(10,)]


def test_a_record_set_may_be_one_record(worlds: Callable[[str], StoreWorld]) -> None:
    """Its filter is the whole primary key: nothing is left that tells its records apart."""
    world = worlds("00")
    whole = ("product", "period", "currency")
    world.exchange = {PRICE: TypeSettings(PRICE, "prices", reference_data=True, filter=whole)}
    world.install()
    world.start("01", "02")
    for stamp, records in ((5, [{"price": "1.5"}]), (6, [{"price": "2.5"}]), (7, []), (8, [{"price": "3.5"}])):
        world.receive(
            {"Filter": {"product": "p", "period": "2026-01-01", "currency": "EUR"}, "Records": records},
            PRICE,
            stamp=stamp,
        )
        prices = [float(price) for (price,) in world.execute("SELECT price FROM prices")]
        assert prices == [float(record["price"]) for record in records]


def test_a_property_without_a_column_is_kept_and_passed_on(world: StoreWorld) -> None:
    """Nothing is cut behind a narrower node."""
    world.receive(customer("A", colour="red"), CUSTOMER, stamp=5)
    assert world.value(ALICE)["colour"] == "red"
    world.receive(customer("A", name="x"), CUSTOMER, stamp=6)
    assert world.value(ALICE) == customer("A", name="x", colour="red")


def test_a_type_without_a_table_is_kept_whole(worlds: Callable[[str], StoreWorld]) -> None:
    """`false` in a node's exchange: it does not take part, and passes it on."""
    world = worlds("00")
    full = world.structure()
    world.exchange = {
        **EXCHANGE,
        CUSTOMER: TypeSettings(CUSTOMER, "customers", takes_part=False, reference_data=True),
    }
    from schemas.compilation import compile_structure, generate_package, tables_needed

    tables = world.database.reflect(tables_needed(EXCHANGE.values()))
    package = generate_package(EXCHANGE, tables)
    structure = compile_structure(package, world.exchange, tables)
    assert structure[CUSTOMER].table is None
    world.structure = lambda: structure  # type: ignore[method-assign]
    assert full.types
    world.install()
    world.start("01", "02")
    value = customer("A", name="Ж")
    world.receive(value, CUSTOMER, stamp=5)
    assert world.execute("SELECT count(*) FROM customers") == [(0,)]
    assert world.texts(ALICE) == [orjson.dumps(value)]
    assert [c.item for c in world.changes()] == [ALICE]
    world.receive(None, CUSTOMER, stamp=6, key='["A"]')
    assert world.texts(ALICE) == [None]
    assert world.changes()[0].gone


def test_a_circle_of_references_is_written(world: StoreWorld) -> None:
    """Employees refer to each other; there is no first one."""
    accepted = [
        Accepted(item, Version(Stamp(5), "01.1"), {}, customer(name, boss=boss), existed=False)
        for item, name, boss in ((ALICE, "A", "B"), (BOB, "B", "A"))
    ]
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.lock([ALICE, BOB])
        view.write(accepted)
    assert world.execute("SELECT customer_id, boss FROM customers ORDER BY 1") == [("A", "B"), ("B", "A")]


def test_values_of_unique_columns_may_be_exchanged(world: StoreWorld) -> None:
    """Row by row the second would clash with the first, though the end is right."""
    world.receive(customer("A", nick="x"), CUSTOMER, stamp=5)
    world.receive(customer("B", nick="y"), CUSTOMER, stamp=5)
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.lock([ALICE, BOB])
        version = Version(Stamp(6), "01.1")
        view.write(
            [
                Accepted(ALICE, version, {}, customer("A", nick="y"), existed=True),
                Accepted(BOB, version, {}, customer("B", nick="x"), existed=True),
            ]
        )
    assert world.execute("SELECT customer_id, nick FROM customers ORDER BY 1") == [("A", "y"), ("B", "x")]


def test_a_deletion_takes_the_sections_with_it_and_children_go_first(world: StoreWorld) -> None:
    """In one message, whatever their order in it."""
    world.receive(customer("A"), CUSTOMER, stamp=5)
    world.receive(order(1, (1, 10), customer_id="A"), ORDER, stamp=5)
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        view.lock([ALICE, FIRST])
        version = Version(Stamp(6), "01.1")
        view.write([Accepted(item, version, {}, None, existed=True) for item in (ALICE, FIRST)])
    for table in ("customers", "orders", "order_lines"):
        assert world.execute(f"SELECT count(*) FROM {table}") == [(0,)]
    assert {(c.item, c.gone) for c in world.changes()} == {(ALICE, True), (FIRST, True)}


def test_a_record_set_is_merged_and_may_become_empty(world: StoreWorld) -> None:
    """NULL in the filter included."""

    def rates(*rows: tuple[int, int]) -> dict[str, Any]:
        return {"Filter": {"region": None}, "Records": [{"rate_id": i, "rate": r} for i, r in rows]}

    world.receive(rates((1, 10), (2, 20)), RATE, stamp=5)
    world.receive(rates((2, 22), (3, 30)), RATE, stamp=6)
    assert world.execute("SELECT rate_id, region, rate FROM rates ORDER BY 1") == [(2, None, 22), (3, None, 30)]
    world.receive(rates(), RATE, stamp=7)
    assert world.execute("SELECT count(*) FROM rates") == [(0,)]
    assert world.value(Item(RATE, "[null]")) == rates()
    world.receive(
        {
            "Filter": {"product": "P", "period": "2026-11-01"},
            "Records": [{"currency": "EUR", "price": "21.35"}],
        },
        PRICE,
        stamp=5,
    )
    assert [str(p) for (p,) in world.execute("SELECT price FROM prices")] == ["21.35"]


@pytest.mark.parametrize(
    ("value", "type_name", "words"),
    [
        (customer("B", nick="taken"), CUSTOMER, "nick"),
        (customer("B", boss="nobody"), CUSTOMER, "customers"),
        ({**order(1), "lines": [{"line": None, "qty": 1, "customer_id": None}]}, ORDER, "line"),
        ({**order(1), "order_id": "one"}, ORDER, "."),
        ({**order(1), "lines": [{"line": 1, "qty": "many", "customer_id": None}]}, ORDER, "qty"),
        ({**order(1), "lines": 5}, ORDER, "lines"),
        ({**order(1), "title": 5}, ORDER, "title"),
        (
            {"Filter": {"product": "P", "period": "2026-11-01"}, "Records": [{"currency": "EUR", "price": True}]},
            PRICE,
            "price",
        ),
    ],
)
def test_what_cannot_be_written_is_the_messages_fault_and_leaves_nothing(
    world: StoreWorld, value: dict[str, Any], type_name: str, words: str
) -> None:
    """It says which and why in words; nothing of the message stays, no rows, no versions."""
    world.receive(customer("A", nick="taken"), CUSTOMER, stamp=5)
    if type_name == ORDER and value["order_id"] == "one" and world.dialect == "sqlite":
        pytest.skip("a key in SQLite may be of any class; the receiver has to find what its sender has")
    before = [world.execute(f"SELECT count(*) FROM {t}") for t in ("customers", "orders", "order_lines", "prices")]
    with pytest.raises(MessageError, match=words):
        world.receive(value, type_name, stamp=6)
    after = [world.execute(f"SELECT count(*) FROM {t}") for t in ("customers", "orders", "order_lines", "prices")]
    assert before == after
    assert world.changed() == {ALICE}


def test_a_deletion_of_what_is_referred_to_is_refused(world: StoreWorld) -> None:
    """At no moment does a reader see a broken reference; nor do rows vanish by a cascade, unstamped."""
    world.receive(customer("A"), CUSTOMER, stamp=5)
    world.execute("INSERT INTO orders VALUES (1, 'A', NULL)")
    with pytest.raises(MessageError):
        world.receive(None, CUSTOMER, stamp=6, key='["A"]')
    assert world.execute("SELECT count(*) FROM customers") == [(1,)]


def test_a_deletion_that_would_cascade_to_other_items_is_refused(worlds: Callable[[str], StoreWorld]) -> None:
    """The database would take them away, or alter them, without a stamp: nobody else would hear of it."""
    world = worlds("00")
    world.exchange = {
        "Catalog.Group": TypeSettings("Catalog.Group", "groups_", reference_data=True),
        "Catalog.Member": TypeSettings("Catalog.Member", "members", reference_data=True),
    }
    world.script(
        "CREATE TABLE groups_ (id INTEGER NOT NULL PRIMARY KEY,"
        " parent INTEGER REFERENCES groups_ (id) ON DELETE SET NULL);\n"
        "CREATE TABLE members (id INTEGER NOT NULL PRIMARY KEY,"
        " group_id INTEGER REFERENCES groups_ (id) ON DELETE CASCADE)"
    )
    world.install()
    world.start("01")
    world.execute(
        "INSERT INTO groups_ VALUES (1, NULL), (2, 1), (3, NULL), (4, NULL)", "INSERT INTO members VALUES (1, 3)"
    )
    one, two, three, four = (Item("Catalog.Group", f"[{n}]") for n in (1, 2, 3, 4))
    for refused in (one, three):
        with pytest.raises(MessageError):
            world.receive(None, refused.type, stamp=FUTURE, key=refused.key)
    assert world.execute("SELECT count(*) FROM groups_") == [(4,)]
    world.receive(None, four.type, stamp=FUTURE, key=four.key)
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.lock([one, two])
        view.write([Accepted(item, Version(FUTURE, "01.1"), {}, None, existed=True) for item in (one, two)])
    assert world.execute("SELECT id FROM groups_") == [(3,)]
    assert world.execute("SELECT count(*) FROM members") == [(1,)]


def test_a_receiver_that_fails_leaves_nothing(world: StoreWorld) -> None:
    """A message is applied whole or not at all, its position with it; and capture goes on as before."""
    with pytest.raises(KeyError), world.store.receiving("01", forward=True, limited=frozenset()) as view:  # noqa: PT012
        view.lock([ALICE])
        view.write([Accepted(ALICE, Version(Stamp(5), "01.1"), {}, customer("A"), existed=False)])
        view.received(Received("01", 7, Stamp(100), 1, True, 3))
        raise KeyError
    assert world.execute("SELECT count(*) FROM customers") == [(0,)]
    assert world.store.incoming("01").position is None
    world.execute("INSERT INTO customers (customer_id) VALUES ('B')")
    assert world.changed() == {BOB}


def test_versions_taken_over_without_content(world: StoreWorld) -> None:
    """Equal contents: the larger version counts, and no row is touched."""
    world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'x')")
    world.serve("01", "02")
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        view.lock([ALICE])
        version = Version(FUTURE, "01.1")
        view.write([Accepted(ALICE, version, {"02.1": Stamp(3)}, customer("A", name="y"), existed=True, write=False)])
    assert world.execute("SELECT name FROM customers") == [("x",)]
    (change,) = world.changes()
    assert (change.version, change.seen, change.source) == (version, {"02.1": 3}, "01")


def test_a_local_version_that_stays_has_seen_more(world: StoreWorld) -> None:
    """Or the same collision would be settled again and again."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.changes()
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        version = view.lock([ALICE])[ALICE].version
        view.keep([Kept(ALICE, {"01.1": Stamp(77)})])
    with world.store.sending() as view:
        change = view.register([ALICE])[ALICE]
    assert (change.version, change.seen) == (version, {"01.1": 77})


def test_the_journal_holds_the_loser_whole(world: StoreWorld) -> None:
    """Nothing disappears silently."""
    winner, loser = Version(Stamp(9), "01.1"), Version(Stamp(8), "00.1")
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.journal([Collision(ALICE, winner, loser, b'{"a":"\xd0\x96"}', None, "newest", "01")])
    (line,) = world.database.collisions()
    assert (line["type"], line["key"], line["policy"], line["sender"]) == (*ALICE, "newest", "01")
    assert (line["winner"]["stamp"], line["winner"]["origin"]) == winner
    assert orjson.loads(line["winner"]["text"]) == {"a": "Ж"}
    assert (line["loser"]["stamp"], line["loser"]["origin"], line["loser"]["text"]) == (*loser, None)
    assert line["at"] > 1_600_000_000_000
    assert world.store.figures().collisions == 1


def test_a_parked_message_waits_whole_with_its_reason(world: StoreWorld) -> None:
    """It blocks nothing else, and is not forgotten."""
    assert not world.store.parked()
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.park(Letter("01", "name.json", b'{"\xd0\x96": 1}'), Reason("a product is missing"))
    (parked,) = world.store.parked()
    assert (parked.node, parked.name, parked.payload) == ("01", "name.json", b'{"\xd0\x96": 1}')
    assert (parked.reason, parked.since > 1_600_000_000_000) == ("a product is missing", True)
    world.store.parked_again(parked.id, Reason("still"))
    (again,) = world.store.parked()
    assert (again.reason, again.attempts) == ("still", parked.attempts + 1)
    assert world.store.figures().parked == 1
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.unpark(parked.id)
    assert not world.store.parked()


def test_what_refers_to_an_item_is_told(world: StoreWorld) -> None:
    """From roots and from sections; what is in the same message does not count."""
    world.execute(
        "INSERT INTO customers (customer_id) VALUES ('A'), ('B'), ('C')",
        "INSERT INTO orders VALUES (1, 'A', NULL)",
        "INSERT INTO order_lines VALUES (1, 1, 1, 'B')",
    )
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.lock([ALICE, BOB, CAROL])
        assert view.referred([ALICE, BOB, CAROL], besides=[]) == {ALICE, BOB}
        assert view.referred([ALICE, BOB, CAROL], besides=[FIRST]) == frozenset()


def test_an_item_that_is_touched_becomes_a_new_version_of_this_node(world: StoreWorld) -> None:
    """The reference wins: what was to be deleted lives on, everywhere."""
    world.receive(customer("A"), CUSTOMER, stamp=5)
    world.serve("01", "02")
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        view.lock([ALICE])
        view.write([Accepted(ALICE, Version(FUTURE, "01.1"), {}, None, existed=True, write=False)])
        view.touch([ALICE])
    (change,) = world.changes()
    assert (change.item, change.gone, change.version) == (ALICE, False, (FUTURE + 1, world.store.origin))
    assert world.value(ALICE) == customer("A")


def test_all_contents_of_a_type_and_stamping_again(world: StoreWorld) -> None:
    """What `kod compare` reads, and how it repairs."""
    world.execute(
        "INSERT INTO customers (customer_id) VALUES ('A'), ('B')", "INSERT INTO rates VALUES (1, NULL, 5), (2, NULL, 6)"
    )
    world.changes()
    structure = world.structure()
    contents = {c.item: c.text for c in world.database.contents(structure, CUSTOMER)}
    assert contents == dict(zip((ALICE, BOB), world.texts(ALICE, BOB), strict=True))
    (rates,) = world.database.contents(structure, RATE)
    assert [rates.text] == world.texts(Item(RATE, "[null]"))
    world.database.stamp_again([ALICE, CAROL])
    changes = {c.item: c.gone for c in world.changes()}
    assert changes[ALICE] is False
    assert changes.get(CAROL, True)


def test_without_other_neighbours_nothing_is_marked(world: StoreWorld) -> None:
    """A leaf would otherwise fold all that it receives, for nobody."""
    world.receive(customer("A"), CUSTOMER, stamp=5, forward=False)
    assert not world.store.has_changes()
    assert world.changed() == set()


def test_the_applications_next_key_does_not_clash_with_applied_ones(worlds: Callable[[str], StoreWorld]) -> None:
    """The database invents keys; KOD brought some that it has not invented."""
    world = worlds("00")
    world.exchange = {"Catalog.Born": TypeSettings("Catalog.Born", "born", reference_data=True)}
    kind = {
        "sqlite": "INTEGER PRIMARY KEY",
        "postgresql": "INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "mariadb": "INTEGER AUTO_INCREMENT PRIMARY KEY",
    }[world.dialect]
    world.execute(f"CREATE TABLE born (id {kind}, name TEXT)", "INSERT INTO born (name) VALUES ('first')")
    world.install()
    world.start("01")
    for number in (2, 3, 50):
        world.receive({"id": number, "name": "applied"}, "Catalog.Born", stamp=5)
    world.execute(*["INSERT INTO born (name) VALUES ('own')"] * 5)
    assert world.execute("SELECT count(*) FROM born") == [(9,)]


# --- administration -------------------------------------------------------------------------------------------------


def test_figures_tell_what_waits_and_since_when(world: StoreWorld) -> None:
    """`status` must agree with the database; 0 when nothing waits."""
    figures = world.store.figures()
    assert (figures.items_waiting, figures.oldest_waiting, figures.parked) == (0, None, 0)
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    assert world.store.figures().items_waiting == 2
    first = world.changes()[0]
    figures = world.store.figures()
    assert (figures.items_waiting, figures.oldest_waiting) == (2, first.version.stamp)
    world.serve("01")
    assert world.store.figures().items_waiting == 2  # 02 has not got them
    world.serve("02")
    assert world.store.figures().items_waiting == 0
    world.receive(customer("C"), CUSTOMER, stamp=5, sender="01")
    world.changes()
    assert world.store.figures().items_waiting == 1
    world.serve("02")
    assert world.store.figures().items_waiting == 0  # 01 is where it came from
    assert world.database.figures() == world.store.figures()


def test_the_boundary_goes_back_and_everything_later_goes_out_again(world: StoreWorld) -> None:
    """`kod boundary --set`: neighbours are no longer known to have it."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.receive(customer("B"), CUSTOMER, stamp=5, sender="01")
    world.serve("01", "02")
    with world.store.sending() as view:
        view.reviewed(FUTURE)
    assert world.database.boundary() == FUTURE
    assert world.database.set_boundary(Stamp(1), skip=False) == 2
    assert world.database.boundary() == 1
    changes = {c.item: c for c in world.changes()}
    assert set(changes) == {ALICE, BOB}
    assert changes[BOB].source is None
    assert changes[BOB].version == (5, "01.1")


def test_the_boundary_goes_forward_only_on_purpose(world: StoreWorld) -> None:
    """What lies between will not be sent: somebody has to mean it."""
    with world.store.sending() as view:
        view.reviewed(Stamp(1))
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.changes()
    world.execute("INSERT INTO customers (customer_id) VALUES ('B')")
    with pytest.raises(ConfigError) as raised:
        world.database.set_boundary(FUTURE, skip=False)
    assert "--skip" in raised.value.hint
    assert world.database.set_boundary(FUTURE, skip=True) == 2
    world.position = 0
    assert world.changed() == set()
    assert world.store.figures().items_waiting == 0


def test_the_story_of_an_item(world: StoreWorld) -> None:
    """What `kod explain` tells."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    assert world.database.story(ALICE).waiting_in_log
    (change,) = world.changes()
    with world.store.sending() as view:
        view.hold({"01": {ALICE: None}, "02": {ALICE: FIRST}})
        session = view.open_session(Stamp(5))
    world.store.record_sent([Sent("02", 0, None, ahead=[change], deferred=[change])])
    story = world.database.story(ALICE)
    assert (story.exists, story.stamp, story.origin, story.mark) == (True, *change.version, 1)
    assert (story.pending_for, story.ahead_of) == (("02",), ("02",))
    assert story.holders == {"01": Held(session, None), "02": Held(session, f"{ORDER} [1]")}
    assert not world.database.story(CAROL).exists
    assert story.went == {}


def test_the_story_names_the_message_with_which_an_item_went(world: StoreWorld) -> None:
    """The newest session of each neighbour; nothing of what went before the item changed again. And sessions are not
    remembered for ever."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    first, second = world.changes()
    marks = {c.item: c.mark for c in (first, second)}
    listed = manifest([[[second.item]], [[CAROL], [first.item]]], {**marks, CAROL: 0})
    for node, stamp in (("01", 50), ("01", 60), ("02", 70)):
        world.store.record_sent([Sent(node, 2, Stamp(stamp), messages=3, items=3, manifest=listed)])
    assert world.database.story(first.item).went == {"01": Went(60, 2), "02": Went(70, 2)}
    assert world.database.story(second.item).went == {"01": Went(59, 1), "02": Went(69, 1)}
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    world.changes()
    assert world.database.story(first.item).went == {}
    many = manifest([[[CAROL]]], {CAROL: 0})
    world.store.record_sent([Sent("01", 2, Stamp(80), messages=1, items=KEPT_MAX - 100, manifest=many)])
    world.store.forget_sessions()
    assert world.database.story(second.item).went == {"02": Went(69, 1)}


def test_one_daemon_at_a_time(world: StoreWorld) -> None:
    """Two would fold and number the same changes."""
    with world.database.daemon_lock("00"), pytest.raises(ConfigError), world.database.daemon_lock("00"):
        pass
    with world.database.daemon_lock("00"):
        pass


def test_keys_that_the_database_generates_are_named(worlds: Callable[[str], StoreWorld]) -> None:
    """Two nodes would give birth to different items under one key."""
    world = worlds("00")
    world.exchange = {"Catalog.Born": TypeSettings("Catalog.Born", "born", reference_data=True)}
    kind = "INTEGER PRIMARY KEY AUTOINCREMENT" if world.dialect == "sqlite" else "SERIAL PRIMARY KEY"
    world.execute(f"CREATE TABLE born (id {kind}, name TEXT)")
    structure = world.structure()
    assert structure["Catalog.Born"].generated_key
    if world.dialect != "postgresql":
        assert any("generates" in m.text for m in world.database.check(structure))


def test_tables_are_named_without_those_of_kod(world: StoreWorld) -> None:
    """`kod schema generate` offers the application's."""
    names = set(world.database.table_names())
    assert {"customers", "order_lines", "order"} <= names
    assert not any("kod" in name for name in names)


def test_a_database_that_is_not_there_is_unavailable(world: StoreWorld) -> None:
    """Wait and try again; and never make an empty one in its place."""
    from node.databases import open_database

    url = (
        world.url + "-gone"
        if world.dialect == "sqlite"
        else "postgresql+psycopg://postgres@/nowhere?host=/nonexistent-kod"
        if world.dialect == "postgresql"
        else "mariadb+pymysql://root@/nowhere?unix_socket=/nonexistent-kod"
    )
    database = open_database(url)
    with pytest.raises((UnavailableError, ConfigError)):
        database.boundary()
    database.close()


def test_keys_in_the_filter_find_what_applications_spell_otherwise(worlds: Callable[[str], StoreWorld]) -> None:
    """SQLite has no type for times: libraries write them with T or a blank, with six zeros or none."""
    world = worlds("00")
    if world.dialect != "sqlite":
        pytest.skip("a type for times has one spelling")
    world.exchange = {
        "InformationRegister.Reading": TypeSettings(
            "InformationRegister.Reading", "readings", reference_data=True, filter=("at",)
        )
    }
    world.execute("CREATE TABLE readings (at DATETIME, sensor INTEGER, value INTEGER, PRIMARY KEY (at, sensor))")
    world.install()
    world.start("01")
    world.execute("INSERT INTO readings VALUES ('2026-11-01 10:00:00.000000', 1, 5), ('2026-11-01T10:00:00', 2, 6)")
    item = Item("InformationRegister.Reading", '["2026-11-01T10:00:00"]')
    assert world.changed() == {item}
    assert [r["value"] for r in world.value(item)["Records"]] == [5, 6]
    world.receive(
        {"Filter": {"at": "2026-11-01T10:00:00"}, "Records": [{"sensor": 2, "value": 7}]},
        "InformationRegister.Reading",
        stamp=FUTURE,
    )
    assert world.execute("SELECT sensor, value FROM readings") == [(2, 7)]


def test_values_of_another_class_than_their_column_travel_as_what_they_are(worlds: Callable[[str], StoreWorld]) -> None:
    """SQLite keeps any value in any column; the daemon must neither fail nor alter it."""
    if (world := worlds("00")).dialect != "sqlite":
        pytest.skip("only SQLite keeps any value in any column")
    other = worlds("01")
    exchange = {"Catalog.Odd": TypeSettings("Catalog.Odd", "odd", reference_data=True)}
    for each in (world, other):
        each.exchange = exchange
        each.execute(
            "CREATE TABLE odd (id TEXT PRIMARY KEY, i INTEGER, t TEXT, r REAL, b BLOB, d DATETIME, n NUMERIC, a, "
            "y BOOLEAN)"
        )
        each.install()
        each.start("02")
    world.execute(
        "INSERT INTO odd VALUES ('text', 'abc', x'00', 'r', 'text', 'soon', 'n', 5, 'maybe')",
        "INSERT INTO odd VALUES ('real', 1.5, 2.5, 3, 4.5, 2451545.5, 6.5, 7.5, 8.5)",
        "INSERT INTO odd VALUES ('blob', x'01', x'02', x'03', x'04', x'05', x'06', x'07', x'08')",
        "INSERT INTO odd VALUES (CAST(x'ff41' AS TEXT), 1, CAST(x'c3' AS TEXT), 9e999, 5, 1700000000, -9e999, 'a', 7)",
    )
    items = [Item("Catalog.Odd", key_text([name])) for name in ("text", "real", "blob")]
    assert len(world.changes()) == 4
    for item, text in zip(items, world.texts(*items), strict=True):
        assert text is not None
        other.receive(orjson.loads(text), "Catalog.Odd", stamp=5)
        assert other.texts(item) == [text]
    where = "WHERE id IN ('text', 'real', 'blob') ORDER BY id"
    assert world.execute(f"SELECT * FROM odd {where}") == other.execute(f"SELECT * FROM odd {where}")


def receive_together(world: StoreWorld, type_name: str, values: Mapping[str, dict[str, Any] | None]) -> None:
    """Applies a message that brings all these items of a type; None is a deletion."""
    items = {Item(type_name, key): value for key, value in values.items()}
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        here = view.lock(list(items))
        view.write(
            [
                Accepted(item, Version(FUTURE, "01.1"), {}, value, existed=item in here and here[item].exists)
                for item, value in items.items()
            ]
        )


MOVES = ("NULL to a value", "a value to NULL", "one NULL to the other")


@pytest.mark.parametrize("move", MOVES)
def test_a_record_may_move_between_sets_whose_filters_are_null_at_different_places(
    worlds: Callable[[str], StoreWorld], move: str
) -> None:
    """Both sets change in one transaction and come in one message: the set that the record left must not delete it."""
    world = worlds("00")
    name = "InformationRegister.Plan"
    world.exchange = {name: TypeSettings(name, "plans", reference_data=True, filter=("prod", "period"))}
    world.execute("CREATE TABLE plans (id INTEGER NOT NULL PRIMARY KEY, prod VARCHAR(5), period INTEGER, qty INTEGER)")
    world.install()
    world.start("01", "02")
    left, entered = {
        MOVES[0]: (("P", None), ("P", 1)),
        MOVES[1]: (("P", 1), ("P", None)),
        MOVES[2]: (("P", None), (None, 1)),
    }[move]

    def plan(filtered: tuple[str | None, int | None], *records: tuple[int, int]) -> dict[str, Any]:
        return {
            "Filter": {"prod": filtered[0], "period": filtered[1]},
            "Records": [{"id": number, "qty": qty} for number, qty in records],
        }

    world.receive(plan(left, (1, 10), (2, 20), (3, 30)), name, stamp=5)
    world.receive(plan(entered, (4, 40)), name, stamp=5)
    receive_together(
        world,
        name,
        {key_text(left): plan(left, (2, 20)), key_text(entered): plan(entered, (1, 11), (4, 40))},
    )
    rows = world.execute("SELECT id, prod, period, qty FROM plans ORDER BY id")
    assert rows == [(1, *entered, 11), (2, *left, 20), (4, *entered, 40)]


def note(number: str) -> dict[str, Any]:
    return {"note_id": number, "body": number}


def test_a_section_row_may_move_between_objects_with_different_properties(world: StoreWorld) -> None:
    """The objects are written apart, but the one must not delete what the other has got."""
    world.receive(order(1) | {"notes": [note("a"), note("b"), note("c")]}, ORDER, stamp=5)
    world.receive(order(2, title="x"), ORDER, stamp=5)
    whole, partly = order(2, title="y") | {"notes": [note("a")]}, order(1) | {"notes": [note("b")]}
    del partly["title"]
    receive_together(world, ORDER, {"[1]": partly, "[2]": whole})
    rows = world.execute("SELECT note_id, order_id, body FROM order_notes ORDER BY 1")
    assert rows == [("a", 2, "a"), ("b", 1, "b")]


@pytest.mark.parametrize("existed", [True, False])
def test_a_section_row_may_move_from_an_object_that_is_deleted(world: StoreWorld, existed: bool) -> None:
    """In one message: the deletion takes with it only what is left."""
    world.receive(order(1) | {"notes": [note("a"), note("b")]}, ORDER, stamp=5)
    if existed:
        world.receive(order(2), ORDER, stamp=5)
    receive_together(world, ORDER, {"[1]": None, "[2]": order(2) | {"notes": [note("a")]}})
    assert world.execute("SELECT note_id, order_id FROM order_notes") == [("a", 2)]
    assert world.execute("SELECT order_id FROM orders") == [(2,)]

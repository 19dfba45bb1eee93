"""Lives of a node, for every database: where it is kept, how far it has come, and how a new life begins."""

from __future__ import annotations

from collections.abc import Callable

from dispatcher.ports import Life, Received
from schemas.stamp import Stamp
from serializers.keys import Item
from tests.contract.store_world import CUSTOMER, StoreWorld

ALICE = Item(CUSTOMER, '["A"]')


def test_a_database_knows_how_far_its_node_has_come(world: StoreWorld) -> None:
    """A session that was opened counts, sent or not: it may have left."""
    before = world.database.standing()
    with world.store.sending() as view:
        session = view.open_session(Stamp(before.life.session + 5_000))
    after = world.database.standing()
    assert after.life == Life(before.life.incarnation, session)
    assert (after.kept_at, after.network, after.told) == (None, None, None)


def test_a_database_remembers_where_it_was_kept(world: StoreWorld) -> None:
    """That is what tells a copy from the node's own."""
    place = world.database.standing().place
    world.database.keep_at(place, "retail")
    found = world.database.standing()
    assert (found.kept_at, found.network, found.place) == (place, "retail", place)


def test_two_databases_are_at_two_places(worlds: Callable[[str], StoreWorld]) -> None:
    """Also on one server, and with the same contents."""
    places = set()
    for world in (worlds("00"), worlds("00")):
        world.install()
        places.add(world.database.standing().place)
    assert len(places) == 2


def test_a_database_that_is_older_than_its_node_hears_of_it_and_remembers(world: StoreWorld) -> None:
    """The daemon stops then, and may not go on because it was started again."""
    life = world.database.standing().life
    assert not world.store.told(life)
    assert not world.store.told(Life(life.incarnation - 1, Stamp(life.session + 1_000_000)))
    assert world.database.standing().told is None
    assert world.store.told(Life(life.incarnation, Stamp(life.session + 1)))
    assert world.database.standing().told == Life(life.incarnation, Stamp(life.session + 1))


def test_a_new_life_changes_what_is_made_from_now_on_and_nothing_else(world: StoreWorld) -> None:
    """Or what the restored node changes would be taken for what its neighbours know already."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    (old, _) = world.changes()
    life = world.database.standing().life
    born = Life(life.incarnation + 10, Stamp(life.session + 1_000_000))
    world.database.begin_life(born, links=True)
    world.start("01", "02")
    assert world.store.origin == f"00.{born.incarnation}"
    with world.store.sending() as view:
        assert view.register([ALICE])[ALICE].version == old.version
        assert view.open_session(Stamp(1)) == born.session + 1
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    (new,) = world.changes()
    assert new.version.origin == world.store.origin
    assert new.version.stamp > old.version.stamp
    assert dict(new.seen or {}) == {old.version.origin: old.version.stamp}
    assert {link.node for link in world.store.outgoing()} == {"01", "02"}


def test_a_copy_forgets_whom_it_spoke_with(world: StoreWorld) -> None:
    """What the live node's neighbours have, those of the copy need not have."""
    world.receive({"customer_id": "A"}, CUSTOMER, stamp=5)
    world.serve("01", "02")
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.received(Received("01", 1, Stamp(7), 1, completes=True, position=9))
    life = world.database.standing().life
    world.database.begin_life(Life(life.incarnation + 1, life.session), links=False)
    world.start("01", "02")
    links = world.store.outgoing()
    assert [link.catching_up for link in links] == [True, True]
    assert world.store.incoming("01").position is None
    assert world.store.incoming("01").incarnation is None
    for link, cursor in zip(links, world.store.histories(), strict=True):
        with world.store.sending() as view:
            (change,) = view.history(cursor, link, limited=frozenset(), items_max=10).lacking
        assert (change.item, change.source) == (ALICE, None)


def test_sessions_of_a_new_incarnation_are_counted_from_the_beginning(world: StoreWorld) -> None:
    """A restored node whose clock is behind begins with smaller stamps than it had: they are not late."""

    def receive(incarnation: int, session: int, *, completes: bool) -> None:
        with world.store.receiving("01", forward=False, limited=frozenset()) as view:
            view.received(Received("01", incarnation, Stamp(session), 1, completes=completes, position=3))

    receive(1, 900, completes=True)
    world.store.new_incarnation("01", 2)
    found = world.store.incoming("01")
    assert (found.incarnation, found.session, found.completed, found.done) == (2, None, None, frozenset())
    assert found.position == 3  # the bus goes on where it was
    receive(2, 500, completes=False)
    found = world.store.incoming("01")
    assert (found.incarnation, found.session, found.completed, found.done) == (2, 500, None, frozenset({1}))


def test_what_a_lost_life_had_sent_is_offered_to_the_new_one(world: StoreWorld) -> None:
    """It lay on the bus while the sender lost its database: that it came from there proves nothing any more."""
    world.receive({"customer_id": "A"}, CUSTOMER, stamp=5)
    world.serve("01", "02")
    world.receive({"customer_id": "B"}, CUSTOMER, stamp=6, forward=False)
    bob = Item(CUSTOMER, '["B"]')
    with world.store.receiving("01", forward=False, limited=frozenset()) as view:
        view.lock([ALICE, bob])
        view.doubt([ALICE, bob])
    with world.store.sending() as view:
        view.fold()
        due = {c.item for c in view.portion(world.position, 10) if c.source != "01"}
        assert due | {c.item for c in view.pending("01", 10)} == {ALICE, bob}


def test_a_link_is_catching_up_from_the_answer_to_the_wish_to_its_end(world: StoreWorld) -> None:
    """Also for a daemon that was started meanwhile: the fault in `status` goes when all has come, not before."""
    assert not world.store.incoming("01").catching_up
    world.store.link_fault("01", "gap")
    world.store.wish("01", "gap")
    assert not world.store.incoming("01").catching_up  # what comes now was sent before
    world.store.wish("01", None)
    assert world.store.incoming("01").catching_up
    world.store.link_fault("01", None)
    assert not world.store.incoming("01").catching_up

"""Hooks over every database: what they change, where they send, what they put off, and what their faults stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from dispatcher.deferring import Deferring
from dispatcher.ports import Change as Registered
from node.hooks import Applying, Change, Collision, Hooks, Key, Reading, Source, Value, Writing
from node.hooks.bound import BoundHooks
from schemas.errors import MessageError
from schemas.stamp import Stamp
from serializers.keys import Item
from serializers.message import read_message
from tests.contract.store_world import CUSTOMER, FILE, ORDER, PRICE, StoreWorld
from tests.contract.test_store import ALICE, BOB, FIRST
from tests.contract.tree import Tree

Worlds = Callable[[str], StoreWorld]


@contextmanager
def growing(worlds: Worlds, parent: Sequence[Hooks], child: Sequence[Hooks] = (), *ddl: str) -> Iterator[Tree]:
    """00 and its child 01 with their hooks; `ddl` is run at both before they are installed."""

    def make(code: str) -> StoreWorld:
        world = worlds(code)
        world.execute(*ddl)
        return world

    tree = Tree(make, hooks={"00": parent, "01": child})
    try:
        yield tree
    finally:
        tree.close()


def flow(tree: Tree) -> None:
    tree.send()
    tree.receive()


def again(tree: Tree) -> None:
    """As after half a minute."""
    tree.clock.ahead_ms += 31_000
    flow(tree)


# --- on the way -----------------------------------------------------------------------------------------------------


class Texts(Hooks, type=CUSTOMER):
    """Customers' texts are kept in a table of their own."""

    sources = (Source("texts", customer_id="customer"),)

    def on_write_to_message(self, value: Value, db: Reading) -> Value:
        rows = db.query("SELECT body FROM texts WHERE customer = :id", id=value["customer_id"])
        return {**value, "text": rows[0]["body"] if rows else None}

    def on_message_applied(self, changes: Sequence[Change], db: Applying) -> None:
        for change in changes:
            db.execute_unstamped("DELETE FROM texts WHERE customer = :id", id=change.key["customer_id"])
            if change.value is not None and change.value.get("text") is not None:
                db.execute_unstamped(
                    "INSERT INTO texts (customer, body) VALUES (:id, :text)",
                    id=change.key["customer_id"],
                    text=change.value["text"],
                )


def test_what_is_kept_elsewhere_travels_with_its_item_and_stamps_it(worlds: Worlds) -> None:
    """Or a text would stay behind whenever only it has changed; where it arrives it is no change of that node."""
    ddl = "CREATE TABLE texts (customer VARCHAR(20) PRIMARY KEY, body TEXT)"
    with growing(worlds, [Texts()], [Texts()], ddl) as tree:
        tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'anna')")
        flow(tree)
        tree.world.execute("INSERT INTO texts VALUES ('A', '100 %: it''s :fine')")
        flow(tree)
        child = tree.children["01"]
        assert child.execute("SELECT customer, body FROM texts") == [("A", "100 %: it's :fine")]
        assert child.changes() == []
        tree.world.execute("UPDATE texts SET body = 'other'")
        flow(tree)
        assert child.execute("SELECT body FROM texts") == [("other",)]
        assert tree.sent("01") == {ALICE: 3}


class Fails(Hooks, type=CUSTOMER):
    """Cannot write or read what is called `bad`, while it is broken."""

    broken = True

    def on_write_to_message(self, value: Value, db: Reading) -> Value:
        if self.broken and value["name"] == "bad":
            db.query("SELECT nothing FROM nowhere")
        return value

    def on_read_from_message(self, value: Value, db: Reading) -> Value:
        if self.broken and value["name"] == "worse":
            raise LookupError("no such thing")
        return value


def test_a_failing_hook_holds_its_item_alone_and_says_so(worlds: Worlds) -> None:
    """The portion goes, the daemon stays; the item goes when the hook is mended, also after a restart."""
    hooks = Fails()
    with growing(worlds, [hooks]) as tree:
        tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'bad'), ('B', 'good')")
        flow(tree)
        child = tree.children["01"]
        assert child.execute("SELECT customer_id FROM customers") == [("B",)]
        figures = tree.world.store.figures().hooks
        assert figures.held == 1
        assert figures.held_reason is not None
        assert f"hook {CUSTOMER}.on_write_to_message" in figures.held_reason
        again(tree)
        with tree.world.store.hooked() as hooked:
            assert [(one.node, one.item) for one in hooked.held(ALICE)] == [("01", ALICE)]
        hooks.broken = False
        tree.sender = tree.new_sender()
        flow(tree)
        assert child.execute("SELECT customer_id FROM customers ORDER BY 1") == [("A",), ("B",)]
        assert tree.world.store.figures().hooks.held == 0
        assert tree.sent("01") == {ALICE: 1, BOB: 1}


def test_a_newer_state_takes_the_place_of_one_that_is_held(worlds: Worlds) -> None:
    """The person mended the item, not the hook."""
    with growing(worlds, [Fails()]) as tree:
        tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'bad')")
        flow(tree)
        tree.world.execute("UPDATE customers SET name = 'good'")
        flow(tree)
        assert tree.children["01"].execute("SELECT name FROM customers") == [("good",)]
        again(tree)
        assert tree.world.store.figures().hooks.held == 0
        assert tree.sent("01") == {ALICE: 1}


def test_a_failing_hook_parks_the_message_with_its_name(worlds: Worlds) -> None:
    """And is asked again; what else comes is applied."""
    hooks = Fails()
    with growing(worlds, [], [hooks]) as tree:
        tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'worse')")
        flow(tree)
        tree.world.execute("INSERT INTO prices VALUES ('p', '2026-11-01', 'EUR', 5)")
        flow(tree)
        child = tree.children["01"]
        (parked,) = child.store.parked()
        assert parked.reason.startswith(f"hook {CUSTOMER}.on_read_from_message (")
        assert "LookupError: no such thing" in parked.reason
        assert len(child.execute("SELECT product FROM prices")) == 1
        hooks.broken = False
        again(tree)
        assert child.execute("SELECT name FROM customers") == [("worse",)]
        assert not child.store.parked()


class Nonsense(Hooks, type=CUSTOMER):
    gives: Any = None

    def on_write_to_message(self, value: Value, db: Reading) -> Value:
        given: Value = self.gives
        return given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "it gave nothing"),
        ({"customer_id": "B"}, "it changed the key"),
        ({"name": "x"}, "the key"),
        ({"customer_id": "A", "name": {1, 2}}, "set"),
    ],
)
def test_nonsense_is_a_fault_too(worlds: Worlds, given: Any, said: str) -> None:
    """Or it would travel, and do its harm elsewhere."""
    hooks = Nonsense()
    hooks.gives = given
    with growing(worlds, [hooks]) as tree:
        tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'anna')")
        flow(tree)
        assert said in (tree.world.store.figures().hooks.held_reason or "")
        assert tree.sent("01") == {}


# --- when it arrives --------------------------------------------------------------------------------------------------


class Ledger(Hooks, type=ORDER):
    """Counts orders; refuses those without a title; tells somebody later."""

    down = False
    told: list[Any]

    def __init__(self) -> None:
        self.told = []

    def before_write(self, change: Change, db: Applying) -> None:
        if change.value is not None and change.value["title"] is None:
            raise ValueError("an order without a title")

    def on_message_applied(self, changes: Sequence[Change], db: Applying) -> None:
        for change in changes:
            old = 0 if change.before is None else len(change.before["lines"])
            new = 0 if change.value is None else len(change.value["lines"])
            db.execute(
                "INSERT INTO ledger VALUES (:order, :lines, :who)",
                order=change.key["order_id"],
                lines=new - old,
                who=db.sender,
            )
        db.defer({"orders": [change.key["order_id"] for change in changes]})

    def deferred(self, work: Any, db: Writing) -> None:
        if self.down:
            raise ConnectionError("the other side is away")
        self.told.append(work["orders"])
        db.execute("INSERT INTO customers (customer_id, name) VALUES ('made', :name)", name=str(work))


LEDGER = "CREATE TABLE ledger (order_id INTEGER, line_count INTEGER, who VARCHAR(8))"


def order(number: int, *, title: str | None = "t", line_count: int = 1) -> list[str]:
    text = "NULL" if title is None else f"'{title}'"
    lines = [f"INSERT INTO order_lines (order_id, line) VALUES ({number}, {line})" for line in range(line_count)]
    return [
        f"INSERT INTO order_access VALUES ({number}, '01')",
        f"INSERT INTO orders (order_id, title) VALUES ({number}, {text})",
        *lines,
    ]


def test_what_is_written_is_known_before_and_after_in_its_transaction(worlds: Worlds) -> None:
    """All items of a message at once, with what they were; refused, none of it is there."""
    with growing(worlds, [], [Ledger()], LEDGER) as tree:
        child = tree.children["01"]
        tree.world.execute(*order(1, line_count=2), *order(2))
        flow(tree)
        assert sorted(child.execute("SELECT * FROM ledger")) == [(1, 2, "00"), (2, 1, "00")]
        tree.world.execute("DELETE FROM order_lines WHERE order_id = 1 AND line = 1", *order(3, title=None))
        flow(tree)
        (parked,) = child.store.parked()
        assert f"hook {ORDER}.before_write" in parked.reason
        assert "an order without a title" in parked.reason
        assert child.execute("SELECT count(*) FROM ledger")[0][0] == 2
        tree.world.execute("UPDATE orders SET title = 'mended' WHERE order_id = 3")
        flow(tree)
        again(tree)
        assert not child.store.parked()
        assert sorted(child.execute("SELECT order_id, line_count FROM ledger"))[1:] == [(1, 2), (2, 1), (3, 1)]
        tree.world.execute("DELETE FROM order_lines WHERE order_id = 2", "DELETE FROM orders WHERE order_id = 2")
        flow(tree)
        assert sorted(child.execute("SELECT order_id, line_count FROM ledger WHERE order_id = 2")) == [(2, -1), (2, 1)]


def test_work_that_is_put_off_is_done_once_its_message_is_there(worlds: Worlds) -> None:
    """It survives faults and restarts, and what it writes is a change of this node."""
    hooks = Ledger()
    with growing(worlds, [], [hooks], LEDGER) as tree:
        child = tree.children["01"]
        bound = BoundHooks(child.hooks, child.structure(), tree.view, tree.clock)
        hooks.down = True
        tree.world.execute(*order(1))
        flow(tree)
        assert child.store.figures().hooks.deferred == 1
        deferring = Deferring(child.store, bound, tree.clock)
        assert deferring.is_needed()
        assert not deferring.step()
        figures = child.store.figures().hooks
        assert (figures.deferred, figures.deferred_failing) == (1, 1)
        assert f"hook {ORDER}.deferred" in (figures.deferred_reason or "")
        assert "ConnectionError: the other side is away" in (figures.deferred_reason or "")
        hooks.down = False
        assert not Deferring(child.store, bound, tree.clock).step()  # not yet
        tree.clock.ahead_ms += 6_000
        assert Deferring(child.store, bound, tree.clock).step()
        assert hooks.told == [[1]]
        assert child.store.figures().hooks.deferred == 0
        assert Item(CUSTOMER, '["made"]') in child.changed()
        once = Deferring(child.store, bound, tree.clock)
        for number in (2, 3):  # in SQLite numbers of works that are done are given again
            child.execute("DELETE FROM customers")
            tree.world.execute(*order(number))
            flow(tree)
            assert once.step(once=True)
        assert hooks.told == [[1], [2], [3]]


class Greedy(Hooks, type=CUSTOMER):
    def on_message_applied(self, changes: Sequence[Change], db: Applying) -> None:
        for change in changes:
            db.execute(
                "UPDATE customers SET nick = :nick WHERE customer_id = :id",
                nick="n" + change.key["customer_id"],
                id=change.key["customer_id"],
            )
        with pytest.raises(MessageError):
            db.execute("INSERT INTO nowhere VALUES (1)")
        with pytest.raises(MessageError, match="transaction"):
            db.execute("COMMIT")
        assert db.query("SELECT count(*) AS n FROM customers")[0]["n"] == len(changes)


def test_what_a_hook_changes_of_what_takes_part_is_a_change_of_this_node(worlds: Worlds) -> None:
    """Or nodes would differ in silence. A statement that fails leaves the transaction as it was."""
    with growing(worlds, [], [Greedy()]) as tree:
        tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'anna')")
        flow(tree)
        child = tree.children["01"]
        (change,) = child.changes()
        assert change.item == ALICE
        assert change.version.origin == child.store.origin
        assert child.value(ALICE)["nick"] == "nA"


class Merges(Hooks, type=CUSTOMER):
    """Both names, the parent's first."""

    def settle_collision(self, collision: Collision, db: Applying) -> Value | None:
        ours, theirs = collision.ours.value, collision.theirs.value
        if ours is None or theirs is None:
            return collision.newest
        return {**theirs, "name": f"{ours['name']}+{theirs['name']}"}


def test_a_collision_is_settled_once_at_the_parents_end_as_a_new_version(worlds: Worlds) -> None:
    """Deciding at both ends would give one item two contents."""
    with growing(worlds, [Merges()], [Merges()]) as tree:
        child = tree.children["01"]
        up = tree.child_sender("01")
        down = tree.parent_receiver()
        tree.world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'x')")
        flow(tree)
        tree.world.execute("UPDATE customers SET name = 'from 00'")
        child.execute("UPDATE customers SET name = 'from 01'")

        def settle() -> None:
            for _ in range(4):
                flow(tree)
                while up.step():
                    pass
                while down.step():
                    pass
                up.nudge()
                tree.sender.nudge()

        settle()
        for world in (tree.world, child):
            assert world.execute("SELECT name FROM customers") == [("from 00+from 01",)]
        (line,) = tree.world.database.collisions()
        assert line["policy"] == "hook"
        assert {"from 00" in line[side]["text"] for side in ("winner", "loser")} == {True, False}
        assert child.database.collisions() == []
        versions = [register(world, ALICE).version for world in (tree.world, child)]
        assert versions[0] == versions[1]
        assert versions[0].origin == tree.world.store.origin
        tree.world.execute("UPDATE customers SET name = 'last'")
        child.execute("DELETE FROM customers")
        settle()
        assert tree.world.execute("SELECT name FROM customers") == child.execute("SELECT name FROM customers")
        down.close()


def register(world: StoreWorld, item: Item) -> Registered:
    with world.store.sending() as view:
        view.fold()
        return view.register([item])[item]


# --- where it goes ----------------------------------------------------------------------------------------------------


class Named(Hooks, type=ORDER):
    """An order is to be seen at the nodes that its title names."""

    broken = False

    def addressees(self, value: Value, db: Reading) -> Iterable[str]:
        if self.broken:
            raise OSError("cannot look it up")
        return (value["title"] or "").split()


class Belongs(Hooks, type=FILE):
    """A file follows the order that its name begins with."""

    def owner(self, value: Value, db: Reading) -> Key | None:
        number = value["file_id"].partition("-")[0]
        return Key(ORDER, order_id=int(number)) if number.isdigit() else None


def orders(tree: Tree) -> list[tuple[Any, ...]]:
    return sorted(tree.children["01"].execute("SELECT order_id, title FROM orders"))


def test_a_hook_says_where_an_item_is_to_be_seen_and_what_was_sent_stays_held(worlds: Worlds) -> None:
    """Rule 4 holds whatever the hook says later; nothing goes where nobody says so."""
    with growing(worlds, [Named()]) as tree:
        tree.world.execute("INSERT INTO orders (order_id, title) VALUES (1, '01'), (2, '00'), (3, NULL)")
        flow(tree)
        assert orders(tree) == [(1, "01")]
        tree.world.execute("UPDATE orders SET title = '' WHERE order_id = 1")
        flow(tree)
        assert orders(tree) == [(1, "")]
        tree.world.execute("UPDATE orders SET title = '00 01' WHERE order_id = 2")
        flow(tree)
        assert (2, "00 01") in orders(tree)


def test_where_an_item_goes_that_a_hook_cannot_say_is_tried_again(worlds: Worlds) -> None:
    """It is neither sent to everybody nor forgotten, and holds up nothing."""
    hooks = Named()
    with growing(worlds, [hooks]) as tree:
        hooks.broken = True
        tree.world.execute(
            "INSERT INTO orders (order_id, title) VALUES (1, '01'), (2, '00')",
            "INSERT INTO customers (customer_id, name) VALUES ('A', 'anna')",
        )
        flow(tree)
        assert tree.sent("01") == {ALICE: 1}
        assert tree.world.store.figures().hooks.held == 2
        hooks.broken = False
        again(tree)
        assert orders(tree) == [(1, "01")]
        assert tree.world.store.figures().hooks.held == 0
        assert tree.sent("01") == {ALICE: 1, FIRST: 1}


def test_a_hook_names_the_owner_and_what_belongs_to_it_follows(worlds: Worlds) -> None:
    """Also when the owner goes somewhere long after, and only then; never before its owner."""
    with growing(worlds, [Named(), Belongs()]) as tree:
        tree.world.execute(
            "INSERT INTO orders (order_id, title) VALUES (1, '01'), (2, '00')",
            "INSERT INTO order_files (file_id) VALUES ('1-a'), ('2-b'), ('loose')",
        )
        flow(tree)
        child = tree.children["01"]
        assert child.execute("SELECT file_id FROM order_files") == [("1-a",)]
        tree.world.execute("UPDATE orders SET title = '01' WHERE order_id = 2")
        flow(tree)
        flow(tree)
        assert sorted(child.execute("SELECT file_id FROM order_files")) == [("1-a",), ("2-b",)]


def test_changed_hooks_have_their_items_looked_at_again(worlds: Worlds) -> None:
    """Or what a node newly may see would reach it only when it changes."""
    with growing(worlds, [Named()]) as tree:
        tree.world.execute(
            "INSERT INTO orders (order_id, title) VALUES (1, 'nowhere')", "UPDATE orders SET title = '00'"
        )
        flow(tree)
        assert orders(tree) == []
        Named.addressees, was = (lambda self, value, db: ["01"]), Named.addressees  # type: ignore[method-assign]
        try:
            with tree.world.store.hooked() as hooked:
                assert hooked.routed_by("other", tree.bound.routes)
                assert not hooked.routed_by("other", tree.bound.routes)
            flow(tree)
            assert orders(tree) == [(1, "00")]
        finally:
            Named.addressees = was  # type: ignore[method-assign]


def test_explaining_reads_only(worlds: Worlds) -> None:
    """`kod explain` asks the hooks in a transaction that may not write."""
    with growing(worlds, [Named(), Belongs()]) as tree:
        tree.world.execute("INSERT INTO orders (order_id, title) VALUES (1, '01')")
        flow(tree)
        with tree.world.database.looking(tree.structure) as view:
            assert tree.bound.nodes(view, [FIRST]).items == {FIRST: frozenset({"01"})}
            assert list(view.hooked.held(FIRST)) == []


# --- references -------------------------------------------------------------------------------------------------------


def test_parameters_are_bound_by_name(world: StoreWorld) -> None:
    """Whatever the driver's own way is; what only looks like one is left alone."""
    with world.store.hooked() as hooked:
        joined = "CONCAT(:a, '%')" if world.dialect == "mariadb" else ":a || '%'"
        found = hooked.run(f"SELECT CAST(:a AS char(1)) AS a, ':b' AS b, {joined} AS c -- :d", {"a": "x"})
        assert [dict(zip(found.names, row, strict=True)) for row in found.rows] == [{"a": "x", "b": ":b", "c": "x%"}]
        with pytest.raises(MessageError):
            hooked.run("SELECT :missing", {})
        put = hooked.run("INSERT INTO customers (customer_id, name) VALUES (:id, :name)", {"id": "A", "name": None})
        assert put.changed == 1
    assert world.value(ALICE) is not None


def test_dates_by_a_hook_stamp_what_was_there(worlds: Worlds) -> None:
    """Such as the date that is written in a number; those for which there is none are stamped as without."""
    world = worlds("00")
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    world.install()
    dates: Mapping[str, Sequence[tuple[str, Stamp]]] = {CUSTOMER: [(ALICE.key, Stamp(1_000_000))]}
    assert world.database.stamp_existing(world.structure(), lambda *_: None, 1, dates) == 2
    world.start("01")
    assert register(world, ALICE).version.stamp == 1_000_000
    assert register(world, BOB).version.stamp == 0


def test_record_sets_have_hooks_too(worlds: Worlds) -> None:
    """Their values are a filter and records."""

    class Doubles(Hooks, type=PRICE):
        def on_write_to_message(self, value: Value, db: Reading) -> Value:
            return {**value, "Records": [{**r, "currency": r["currency"].lower()} for r in value["Records"]]}

        def on_read_from_message(self, value: Value, db: Reading) -> Value:
            return {**value, "Records": [{**r, "currency": r["currency"].upper()} for r in value["Records"]]}

    with growing(worlds, [Doubles()], [Doubles()]) as tree:
        tree.world.execute("INSERT INTO prices VALUES ('p', '2026-11-01', 'EUR', 5)")
        flow(tree)
        items = [item for payload in tree.messages("01") for item in read_message(payload).items]
        assert [item.value and item.value["Records"][0]["currency"] for item in items] == ["eur"]
        assert tree.children["01"].execute("SELECT currency FROM prices") == [("EUR",)]

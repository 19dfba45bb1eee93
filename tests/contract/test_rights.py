"""Rights that change, owners that go somewhere new, and saves that change nothing, as every database notes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dispatcher.ports import NodeView, Outgoing, Sent
from dispatcher.rights import Rights
from node.clock import SystemClock
from schemas.errors import ConfigError
from schemas.stamp import Stamp
from serializers.keys import Item
from tests.contract.store_world import CUSTOMER, FILE, ORDER, PRICE, StoreWorld

FIRST, SECOND, THIRD = (Item(ORDER, f"[{number}]") for number in (1, 2, 3))
F, G, H = (Item(FILE, f'["{name}"]') for name in "fgh")


@pytest.fixture
def orders(world: StoreWorld) -> StoreWorld:
    """Three orders, two files of the first; all of it reviewed for 01, which got nothing."""
    world.execute(
        "INSERT INTO orders VALUES (1, NULL, 'a'), (2, NULL, 'b'), (3, NULL, 'c')",
        "INSERT INTO order_files VALUES ('f', 1, 'x'), ('g', 1, 'y'), ('h', 2, 'z')",
    )
    world.serve("01")
    assert again(world) == set()
    return world


def again(world: StoreWorld) -> set[Item]:
    """All that waits to be looked at again."""
    found: set[Item] = set()
    more = True
    while more:
        with world.store.sending() as view:
            view.fold()
            step = view.look_again(1)
            found.update(step.items)
            more = step.more
    return found


def with_view(worlds: Callable[[str], StoreWorld], *ddl: str, access_from: tuple[str, ...] = ()) -> StoreWorld:
    """A node where the view `seen` says where orders go."""
    world = worlds("00")
    world.execute(*ddl)
    settings = replace(world.exchange[ORDER], access="seen", access_from=access_from)
    world.exchange = {**world.exchange, ORDER: settings}
    world.install()
    world.start("01")
    world.execute("INSERT INTO orders VALUES (1, NULL, 'a'), (2, NULL, 'b')")
    world.serve("01")
    return world


# --- nodes farther on -----------------------------------------------------------------------------------------------


def test_what_was_heard_of_nodes_farther_on_stays_and_counts_as_a_right(orders: StoreWorld) -> None:
    """The rows of the access table are at another node: only what came with the item says where it goes from here."""
    with orders.store.receiving("00", forward=True, limited=frozenset()) as receiving:
        assert receiving.ways.hear("00", {FIRST: frozenset({"11"}), SECOND: frozenset({"12"})}) == {FIRST, SECOND}
        assert receiving.ways.hear("00", {FIRST: frozenset({"11", "12"}), SECOND: frozenset({"12"})}) == {FIRST}
        receiving.ways.look_again([FIRST])
    assert again(orders) == {FIRST}
    with orders.store.sending() as view:
        assert view.ways.heard([FIRST, SECOND, THIRD]) == {FIRST: {"11", "12"}, SECOND: {"12"}}
        assert view.ways.told("00", [FIRST, F]) == {FIRST: {"11", "12"}}, "who said it need not be told"
        assert view.ways.told("01", [FIRST]) == {}


@pytest.mark.parametrize("told", [False, True])
def test_a_neighbour_that_has_an_item_is_told_once_where_it_is_to_be_seen_farther_on(
    orders: StoreWorld, told: bool
) -> None:
    """It would keep the item for itself, and the node below it would never see it; or get it again and again."""
    orders.execute("INSERT INTO order_access VALUES (1, '01'), (2, '11')")
    link = next(link for link in orders.store.outgoing() if link.node == "01")
    with orders.store.sending() as view:
        view.fold()
        view.hold({"01": {FIRST: None, SECOND: None}})
        session = view.open_session(Stamp(10**13))
    orders.store.record_sent([Sent("01", link.position, session)])
    assert again(orders) == {FIRST, SECOND}
    if told:
        with orders.store.sending() as view:
            view.ways.tell("01", {SECOND: frozenset({"11"})})
    orders.execute("UPDATE order_access SET node = '11' WHERE order_id = 1", "UPDATE order_access SET node = '12'")
    orders.execute("UPDATE order_access SET node = '11' WHERE order_id = 2")
    node = NodeView("00", None, ("01",), {"01": "01", "11": "01", "12": "01"})
    rights = Rights(node, orders.structure(), SystemClock())
    with orders.store.sending() as view:
        rights.review_again(view, list(orders.store.outgoing()))
        pending = {change.item for change in view.pending("01", 10)}
        first = view.known([FIRST])
        assert rights.ways(view, first) == {FIRST: {"12"}}
    assert pending == ({FIRST} if told else {FIRST, SECOND})


# --- what is noted ----------------------------------------------------------------------------------------------------


def test_a_right_that_appears_names_its_item_and_gives_it_no_version(orders: StoreWorld) -> None:
    """The item has not changed: a new version would travel to everybody who has it."""
    orders.execute("INSERT INTO order_access VALUES (1, '01')")
    assert orders.store.has_changes()
    with orders.store.sending() as view:
        folded = view.fold()
        assert (folded.items, folded.again) == (0, True)
        assert view.portion(orders.position, 10) == []
    assert again(orders) == {FIRST}
    assert not orders.store.has_changes()


def test_a_right_that_moves_names_the_item_that_has_it_now(orders: StoreWorld) -> None:
    """By its key or by its node; other columns of an access table are nobody's rights."""
    orders.execute("INSERT INTO order_access VALUES (1, '01')")
    again(orders)
    orders.execute("UPDATE order_access SET node = '02'")
    assert again(orders) == {FIRST}
    orders.execute("UPDATE order_access SET order_id = 2")
    assert again(orders) == {SECOND}
    orders.execute("UPDATE order_access SET node = node")
    assert again(orders) == set()


def test_rights_without_a_key_or_without_an_item_stop_nobody(orders: StoreWorld) -> None:
    """The application may give the right before there is anything to see."""
    orders.execute("INSERT INTO order_access VALUES (NULL, '01'), (77, '01')")
    assert again(orders) == {Item(ORDER, "[77]")}
    with orders.store.sending() as view:
        assert view.known([Item(ORDER, "[77]")]) == []


def test_a_right_that_is_rolled_back_is_none(orders: StoreWorld) -> None:
    """It is noted in the transaction that gives it."""
    connection = orders.connect()
    connection.execute("BEGIN")
    connection.execute("INSERT INTO order_access VALUES (1, '01')")
    connection.execute("ROLLBACK")
    connection.close()
    assert again(orders) == set()


def test_a_node_that_joins_below_a_neighbour_has_what_rights_named_it_for_looked_at_again(orders: StoreWorld) -> None:
    """It had no way then; no right changes when it joins, so nobody would ever look. What is new with its whole branch
    comes by the link's history."""
    orders.execute("INSERT INTO order_access VALUES (1, '03')")
    assert again(orders) == {FIRST}
    orders.store.start(["01"], {})
    assert again(orders) == set()
    orders.store.start(["01"], {"03": "01"})
    assert orders.store.has_changes()
    assert FIRST in again(orders)
    orders.store.start(["01"], {"03": "01"})
    orders.store.start(["01", "02"], {"03": "01", "04": "02"})
    assert again(orders) == set()
    orders.store.start(["01", "02"], {"03": "02", "04": "02"})  # it moved
    assert FIRST in again(orders)


def test_rights_are_taken_in_portions(orders: StoreWorld) -> None:
    """A hundred thousand rights in one statement must not become one transaction of ours."""
    orders.execute("INSERT INTO order_access SELECT order_id, '01' FROM orders")
    with orders.store.sending() as view:
        step = view.look_again(2)
        assert (len(step.items), step.more) == (2, True)
    with orders.store.sending() as view:
        assert len(view.look_again(2).items) == 1
    with orders.store.sending() as view:
        assert view.look_again(2) == ((), (), False)


def test_an_access_table_lacking_its_columns_is_refused_by_name(worlds: Callable[[str], StoreWorld]) -> None:
    """Or the first session would fail, at night, with the database's own words."""
    world = worlds("00")
    world.execute("CREATE TABLE wrong (order_no INTEGER, node VARCHAR(8))")
    world.exchange = {**world.exchange, ORDER: replace(world.exchange[ORDER], access="wrong")}
    with pytest.raises(ConfigError, match="order_id"):
        world.install()


# --- views ------------------------------------------------------------------------------------------------------------

SHOPS = (
    "CREATE TABLE shops (title VARCHAR(20) PRIMARY KEY, node VARCHAR(8), phone VARCHAR(20))",
    "CREATE VIEW open_shops AS SELECT title, node FROM shops WHERE node <> ''",
    "CREATE VIEW seen AS SELECT o.order_id, s.node FROM orders o JOIN open_shops s ON s.title = o.title",
)


@pytest.mark.parametrize(
    ("statement", "noticed"),
    [
        ("INSERT INTO shops VALUES ('b', '02', NULL)", True),
        ("UPDATE shops SET node = '03'", True),
        ("DELETE FROM shops", True),
        ("UPDATE shops SET phone = '1'", False),
        ("UPDATE shops SET node = node", False),
    ],
)
def test_the_tables_behind_a_view_are_found(worlds: Callable[[str], StoreWorld], statement: str, noticed: bool) -> None:
    """A view bears no triggers; through another view, and only for the columns on which rights hang."""
    world = with_view(worlds, *SHOPS)
    world.execute("INSERT INTO shops VALUES ('a', '01', NULL)")
    assert again(world) == {FIRST, SECOND}
    world.execute(statement)
    assert again(world) == ({FIRST, SECOND} if noticed else set())


def test_a_partition_behind_a_view_is_watched_too(worlds: Callable[[str], StoreWorld]) -> None:
    """A statement on a partition fires no statement trigger of the whole."""
    ddl = (
        "CREATE TABLE shops (title VARCHAR(20), node VARCHAR(8)) PARTITION BY LIST (node)",
        "CREATE TABLE shops_01 PARTITION OF shops FOR VALUES IN ('01')",
        "CREATE VIEW seen AS SELECT o.order_id, s.node FROM orders o JOIN shops s ON s.title = o.title",
    )
    if worlds("00").dialect != "postgresql":
        pytest.skip("SQLite has no partitions; MariaDB's are no tables")
    world = with_view(worlds, *ddl)
    for statement in ("INSERT INTO shops_01 VALUES ('a', '01')", "UPDATE shops SET title = 'b'", "TRUNCATE shops"):
        world.execute(statement)
        assert again(world) == {FIRST, SECOND}, statement


def test_a_function_behind_a_view_is_named(worlds: Callable[[str], StoreWorld]) -> None:
    """It may read anything: nobody could know when rights change."""
    dialect = worlds("00").dialect
    if dialect == "sqlite":
        pytest.skip("SQLite's functions are the programs' own")
    body = "READS SQL DATA RETURN '01'" if dialect == "mariadb" else "LANGUAGE sql STABLE AS $$SELECT '01'$$"
    world = with_view(
        worlds,
        f"CREATE FUNCTION who() RETURNS text {body}",
        "CREATE VIEW seen AS SELECT order_id, who() AS node FROM orders",
    )
    (found,) = [m for m in world.database.check(world.structure()) if "access_from" in m.hint]
    assert "who()" in found.text


def test_changes_of_the_items_themselves_are_no_changes_of_rights(worlds: Callable[[str], StoreWorld]) -> None:
    """A view over the type's own table: every new order would send us through all orders."""
    world = with_view(worlds, *SHOPS)
    world.execute("INSERT INTO orders VALUES (3, NULL, 'a')", "UPDATE orders SET title = 'b' WHERE order_id = 1")
    assert again(world) == set()
    assert world.changed() == {FIRST, THIRD}


def test_a_declared_table_is_watched_where_none_can_be_found(worlds: Callable[[str], StoreWorld]) -> None:
    """And `kod check` names the view that needs it."""
    ddl = (
        "CREATE TABLE shops (title VARCHAR(20) PRIMARY KEY, node VARCHAR(8))",
        "CREATE VIEW seen AS SELECT 1 AS order_id, '01' AS node",
    )
    world = with_view(worlds, *ddl, access_from=("shops",))
    assert not any("access_from" in m.hint for m in world.database.check(world.structure()))
    world.execute("INSERT INTO shops VALUES ('a', '01')")
    assert again(world) == {FIRST, SECOND}
    world.exchange = {**world.exchange, ORDER: replace(world.exchange[ORDER], access_from=())}
    assert any("access_from" in m.hint for m in world.database.check(world.structure()))
    world.exchange = {**world.exchange, ORDER: replace(world.exchange[ORDER], access_from=("nowhere",))}
    with pytest.raises(ConfigError, match="nowhere"):
        world.install()


def test_a_walk_goes_from_fresh_to_old_and_is_resumed(worlds: Callable[[str], StoreWorld]) -> None:
    """In portions, by a cursor in the database: a restart goes on where it was."""
    world = with_view(worlds, *SHOPS)
    world.execute("UPDATE orders SET title = 'x' WHERE order_id = 1", "INSERT INTO shops VALUES ('a', '01', NULL)")
    world.serve("01")
    with world.store.sending() as view:
        assert view.look_again(1) == ([FIRST], (), True)
    world.store.close()
    world.start("01")
    assert again(world) == {SECOND}


def test_a_walk_also_meets_what_was_applied_when_nobody_else_was_there(worlds: Callable[[str], StoreWorld]) -> None:
    """It has no mark: whoever joins gets it by history, or when it may see it."""
    world = with_view(worlds, *SHOPS)
    world.receive({"order_id": 3, "customer_id": None, "title": "c"}, ORDER, stamp=5, forward=False)
    world.store.close()
    world.start("01", "02")
    world.execute("INSERT INTO shops VALUES ('a', '02', NULL)")
    assert again(world) == {FIRST, SECOND, Item(ORDER, "[3]")}


def test_a_type_marked_again_during_its_walk_is_passed_once_more(worlds: Callable[[str], StoreWorld]) -> None:
    """As far as it was passed: what comes later is seen as it is now."""
    world = with_view(worlds, *SHOPS)
    world.execute("INSERT INTO shops VALUES ('a', '01', NULL)")
    with world.store.sending() as view:
        assert view.look_again(1).items == [SECOND]
    world.execute("UPDATE shops SET node = '02'")
    steps = []
    more = True
    while more:
        with world.store.sending() as view:
            step = view.look_again(1)
            steps += step.items
            more = step.more
    assert steps == [FIRST, SECOND]


def test_a_type_marked_once_more_during_its_second_walk_is_passed_whole(worlds: Callable[[str], StoreWorld]) -> None:
    """What the second walk need not have passed was looked at before the third mark: it was left as it was then."""
    world = with_view(worlds, *SHOPS)
    world.execute("INSERT INTO orders VALUES (3, NULL, 'c')")
    world.serve("01")
    steps: list[Item] = []

    def mark_and_look(times: int) -> None:
        world.execute("INSERT INTO shops VALUES ('a', '01', NULL)", "DELETE FROM shops")
        for _ in range(times):
            with world.store.sending() as view:
                steps.extend(view.look_again(1).items)

    mark_and_look(2)
    mark_and_look(2)
    assert steps == [THIRD, SECOND, FIRST, THIRD]  # of the second walk SECOND is left
    mark_and_look(0)
    assert again(world) == {FIRST, SECOND, THIRD}


def test_what_was_known_before_rights_were_watched_is_looked_at_once(worlds: Callable[[str], StoreWorld]) -> None:
    """`kod install` after nodes.yaml got an `access`: rights that were there go unnoticed otherwise."""
    world = worlds("00")
    access = world.exchange[ORDER]
    world.exchange = {**world.exchange, ORDER: replace(access, access=None)}
    world.install()
    world.start("01")
    world.execute("INSERT INTO orders VALUES (1, NULL, 'a')", "INSERT INTO order_access VALUES (1, '01')")
    world.serve("01")
    world.store.close()
    world.exchange = {**world.exchange, ORDER: access}
    world.install()
    world.start("01")
    assert again(world) == {FIRST}


# --- what is lacking --------------------------------------------------------------------------------------------------


def link_of(world: StoreWorld, node: str = "01") -> Outgoing:
    """The link to a node, served as far as the world has looked."""
    link = next(link for link in world.store.outgoing() if link.node == node)
    return replace(link, position=world.position)


def lacking(world: StoreWorld, *items: Item, node: str = "01") -> list[Item]:
    link = link_of(world, node)
    with world.store.sending() as view:
        return [c.item for c in view.lacking(link, list(items))]


def test_a_node_lacks_what_was_reviewed_and_it_is_not_known_to_hold(orders: StoreWorld) -> None:
    """What still has its turn is not sent twice; what is on its way neither."""
    assert lacking(orders, FIRST, SECOND) == [FIRST, SECOND]
    with orders.store.sending() as view:
        view.hold({"01": {FIRST: None}})
        session = view.open_session(Stamp(1))
    assert lacking(orders, FIRST, SECOND) == [FIRST, SECOND]  # the session may be lost
    orders.store.record_sent([Sent("01", orders.position, session)])
    assert lacking(orders, FIRST, SECOND) == [SECOND]
    orders.execute("UPDATE orders SET title = 'x' WHERE order_id = 2", "DELETE FROM orders WHERE order_id = 3")
    with orders.store.sending() as view:
        view.fold()
    assert lacking(orders, SECOND, THIRD) == []  # its turn comes
    orders.serve("01")
    assert lacking(orders, SECOND, THIRD) == [SECOND]  # what is gone nobody lacks


def test_what_is_pending_is_not_lacking(orders: StoreWorld) -> None:
    """Or every right would double it; it goes in the order in which it was put."""
    link = link_of(orders)
    with orders.store.sending() as view:
        view.pend("01", view.lacking(link, [SECOND, FIRST]))
    assert lacking(orders, FIRST, SECOND, THIRD) == [THIRD]
    assert lacking(orders, FIRST, node="02") == [FIRST]
    with orders.store.sending() as view:
        assert [c.item for c in view.pending("01", 10)] == [SECOND, FIRST]


def test_a_right_taken_back_before_the_item_could_go_sends_nothing(orders: StoreWorld) -> None:
    """What the node holds is due whatever the rights say."""
    node = NodeView("00", None, ("01",), {"01": "01"})
    rights = Rights(node, orders.structure(), SystemClock())
    orders.execute("INSERT INTO order_access VALUES (1, '01'), (2, '01')")
    again(orders)
    orders.execute("DELETE FROM order_access WHERE order_id = 1")
    with orders.store.sending() as view:
        view.hold({"01": {THIRD: None}})
    with orders.store.sending() as view:
        pending = view.known([FIRST, SECOND, THIRD])
        due, past, _ = rights.still_due(view, "01", pending)
        assert ([c.item for c in due], [c.item for c in past]) == ([SECOND, THIRD], [FIRST])


def test_what_a_node_sent_us_it_does_not_lack(orders: StoreWorld) -> None:
    """It would go back where it came from."""
    value = {"order_id": 3, "customer_id": None, "title": "x", "lines": [], "notes": []}
    orders.receive(value, ORDER, stamp=10**13)
    orders.serve("01")
    assert lacking(orders, THIRD) == []


def test_dependants_of_many_owners_are_found_at_once(orders: StoreWorld) -> None:
    """One level, with what the node lacks of it, and no more than is asked for."""
    link = link_of(orders)
    with orders.store.sending() as view:
        found = view.dependants(link, [FIRST, SECOND], items_max=10)
        assert ({c.item for c in found.changes}, found.more) == ({F, G, H}, False)
        some = view.dependants(link, [FIRST], items_max=1)
        assert (len(some.changes), some.more) == (1, True)
        view.pend("01", some.changes)
        rest = view.dependants(link, [FIRST], items_max=10)
        assert {c.item for c in (*some.changes, *rest.changes)} == {F, G}
        assert view.dependants(link, [THIRD], items_max=10) == ([], False)


def test_what_is_too_much_at_once_is_looked_at_item_by_item(orders: StoreWorld) -> None:
    """A customer's 200,000 orders do not follow in one transaction, nor are they read through for every thousand."""
    with orders.store.sending() as view:
        view.follow_later([FIRST])
    with orders.store.sending() as view:
        step = view.look_again(10)
        assert (set(step.items), list(step.owners), step.more) == ({F, G}, [], True)


def test_rows_that_were_never_stamped_get_their_turn(worlds: Callable[[str], StoreWorld]) -> None:
    """Installed without --stamp-existing: a right to such an item is a right all the same."""
    world = worlds("00")
    world.execute("INSERT INTO orders VALUES (1, NULL, 'a')", "INSERT INTO order_files VALUES ('f', 1, 'x')")
    world.install()
    world.start("01")
    world.execute("INSERT INTO order_access VALUES (1, '01')")
    assert again(world) == {FIRST}
    link = link_of(world)
    with world.store.sending() as view:
        (change,) = view.known([FIRST])
        assert change.version == (0, world.store.origin)
        assert view.dependants(link, [FIRST], items_max=10).changes == []
    assert world.changed() == {FIRST, F}


def test_a_neighbour_that_sends_an_owner_we_had_is_to_get_what_belongs_to_it(orders: StoreWorld) -> None:
    """Both made the same order: from now on that node has it, and its files follow it."""
    value = {"order_id": 1, "customer_id": None, "title": "x", "lines": [], "notes": []}
    with orders.store.receiving("01", forward=True, limited=frozenset({ORDER, FILE})) as view:
        view.lock([FIRST, Item(ORDER, "[9]")])
    with orders.store.sending() as view:
        assert view.look_again(10).owners == [FIRST]
    assert value


# --- saves that change nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("customers", "name = name"),
        ("customers", "name = 'Alice', nick = nick"),
        ("orders", "title = 'a', customer_id = NULL"),
        ("order_lines", "qty = 5"),
        ("prices", "price = price"),
    ],
)
def test_a_save_without_a_change_stamps_nothing(world: StoreWorld, table: str, change: str) -> None:
    """Applications write whole forms: what is the same would cost every node of the network."""
    world.execute(
        "INSERT INTO customers (customer_id, name, nick) VALUES ('A', 'Alice', NULL)",
        "INSERT INTO orders VALUES (1, NULL, 'a')",
        "INSERT INTO order_lines VALUES (1, 1, 5, 'A')",
        "INSERT INTO prices VALUES ('P', '2026-04-01', 'EUR', 1.5)",
    )
    world.changes()
    world.execute(f"UPDATE {table} SET {change}")
    assert not world.store.has_changes()
    assert world.changed() == set()


def test_values_that_are_only_equal_are_changes(world: StoreWorld) -> None:
    """What was stored has to arrive: upper case where the database does not care, another number of zeros (MariaDB
    has one form of each number; a text with a blank equals it without)."""
    collation = "COLLATE NOCASE" if world.dialect == "sqlite" else ""
    kind, *numbers = {
        "sqlite": ("", "1", "1.0"),
        "postgresql": ("NUMERIC", "1.5", "1.50"),
        "mariadb": ("VARCHAR(9)", "'1.5'", "'1.5 '"),
    }[world.dialect]
    world.execute(f"CREATE TABLE odd (id INTEGER NOT NULL PRIMARY KEY, name TEXT {collation}, any_ {kind}, data JSON)")
    world.exchange = {
        **world.exchange,
        "Catalog.Odd": replace(world.exchange[CUSTOMER], name="Catalog.Odd", table="odd"),
    }
    world.exchange["Catalog.Odd"] = replace(world.exchange["Catalog.Odd"], exclude=())
    world.install()
    world.start("01", "02")
    world.execute(f"INSERT INTO odd VALUES (1, 'a', {numbers[0]}, '{{\"a\":1}}')")
    world.changes()
    item = Item("Catalog.Odd", "[1]")
    for change in ("name = 'A'", f"any_ = {numbers[1]}", "data = '{\"a\": 1}'"):
        world.execute(f"UPDATE odd SET {change}")
        assert world.changed() == {item}, change
        world.execute(f"UPDATE odd SET {change}")
        assert world.changed() == set(), change


def test_a_save_that_touches_what_does_not_travel_stamps_nothing(world: StoreWorld) -> None:
    """Excluded columns, and such as the database computes of them."""
    world.execute(
        "CREATE TABLE shelves (id INTEGER NOT NULL PRIMARY KEY, name TEXT, secret INTEGER,"
        " twice INTEGER GENERATED ALWAYS AS (secret * 2) STORED)"
    )
    shelf = replace(world.exchange[CUSTOMER], name="Catalog.Shelf", table="shelves", exclude=("secret",))
    world.exchange = {**world.exchange, "Catalog.Shelf": shelf}
    world.install()
    world.start("01", "02")
    world.execute("INSERT INTO shelves (id, name, secret) VALUES (1, 'a', 1)")
    world.changes()
    world.execute("UPDATE shelves SET secret = 2, name = name")
    assert world.changed() == set()
    world.execute("UPDATE shelves SET name = 'b'")
    assert world.changed() == {Item("Catalog.Shelf", "[1]")}


def test_a_record_that_moves_is_a_change_of_both_sets_still(world: StoreWorld) -> None:
    """The columns of the filter travel, too."""
    world.execute("INSERT INTO prices VALUES ('P', '2026-04-01', 'EUR', 1.5)")
    world.changes()
    world.execute("UPDATE prices SET period = '2026-05-01'")
    assert world.changed() == {Item(PRICE, '["P","2026-04-01"]'), Item(PRICE, '["P","2026-05-01"]')}

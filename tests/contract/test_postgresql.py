"""What only PostgreSQL has: its types, its transactions, its roles, partitions, sequences."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import orjson
import psycopg
import pytest
from psycopg import errors

from dispatcher.ports import Accepted
from node.databases.postgresql.connecting import Connections
from node.databases.postgresql.pipeline import Statement
from schemas.compilation import compile_structure, generate_package
from schemas.errors import ConfigError, ConflictError, MessageError, UnavailableError
from schemas.network import NodeSettings, TypeSettings
from schemas.stamp import Stamp
from serializers.keys import Item
from serializers.message import Version
from tests.contract.store_world import StoreWorld
from tests.servers import postgresql_url

pytestmark = pytest.mark.postgresql

Make = Callable[..., StoreWorld]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a node of a code with tables and types; installed and started with one neighbour."""
    with ExitStack() as stack:

        def made(code: str, ddl: str, *types: TypeSettings, start: bool = True) -> StoreWorld:
            exchange = {settings.name: settings for settings in types}
            world = StoreWorld("postgresql", code, postgresql_url(), exchange)
            stack.callback(world.close)
            world.script(ddl)
            if start:
                world.install()
                world.start("01" if code == "00" else "00")
            return world

        yield made


ORDERS_DDL = """
CREATE TABLE orders (id integer PRIMARY KEY, title text);
CREATE TABLE lines (order_id integer NOT NULL REFERENCES orders ON DELETE CASCADE, line integer, qty integer,
                    PRIMARY KEY (order_id, line))"""
ORDERS = TypeSettings("Order", "orders", sections={"lines": "lines"}, reference_data=True)


@pytest.fixture
def orders(make: Make) -> StoreWorld:
    return make("00", ORDERS_DDL, ORDERS)


# --- values -------------------------------------------------------------------------------------------------------

TYPES_DDL = """
CREATE TYPE mood AS ENUM ('sad', 'so so', 'весело');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN amount AS numeric(12, 3) CHECK (VALUE > -1000000);
CREATE TABLE every (
  id bigint PRIMARY KEY, si smallint, i integer, bi bigint, n numeric, nf numeric(10, 4), r real, d double precision,
  b boolean, t text, v varchar(10), c char(5), ts timestamp, tz timestamptz, da date, ti time, tt timetz, iv interval,
  by bytea, j json, jb jsonb, u uuid, m mood, p pair, am amount, ia integer[], ta text[], tza timestamptz[],
  va varchar(3)[], ip inet, ci cidr, mac macaddr, bi3 bit(3), bv bit varying, mo money, ra int4range, tr tstzrange,
  po point, vec tsvector, gen integer GENERATED ALWAYS AS (i / 2) STORED)"""
EVERY = TypeSettings("Every", "every", reference_data=True)

EVERY_ROWS = [
    """(1, -32768, 2147483647, 9007199254740993, 12345678901234567890.1234567890, 1.5, 1.1, 0.1, true,
    E'quotes " \\\\ \\n\\t\\x01 \\x7f Привет 🙂', '', 'ab', '2020-07-27 16:03:05.000001', '2020-07-27 16:03:05.5+03',
    '2020-02-29', '23:59:59.999999', '12:00:00+05:30', '1 year -2 days 03:04:05.6', '\\x00ff10',
    '{"b": 1,  "a": [1.50]}',
    '{"b": 1.50, "a": "\\u00e9"}', '6f9619ff-8b86-d011-b42d-00cf4fc964ff', 'so so', '(1,"x,""y")', 10.500,
    '{1,NULL,3}', '{"a,b","NULL",NULL,"\\"q\\"",""}', '{"2020-01-01 00:00:00+00"}', '{abc,d}', '192.168.1.5',
    '10.0.0.0/8', '08:00:2b:01:02:03', B'101', B'1', 12.34, '[1,5)', '["2020-01-01 00:00:00+00",)',
    '(1.5,-2)', 'fat:1A cat:2')""",
    "(2" + ", NULL" * 38 + ")",
    """(3, 0, 0, -9007199254740992, 1.50, 0, 'NaN', 'Infinity', false, '', NULL, '', 'infinity', '-infinity',
    'infinity', '24:00:00', '00:00:00-12', '-1 mons', '', 'null', 'null', NULL, 'весело', '(,)', 0, '{}', '{}', NULL,
    '{}', '::1', '::/0', NULL, NULL, B'', 0, 'empty', '(,)', NULL, '')""",
    """(4, 1, 1, 9007199254740992, 1e30, 0.0001, 3.4e38, 5e-324, true, ' ', 'x', ' ', '0044-03-15 01:02:03.5 BC',
    '0044-03-15 01:02:03.5+00 BC', '0044-03-15 BC', '00:00', '00:00+00', '24 hours', '\\xdeadbeef', '1', '1e2', NULL,
    'sad', NULL, -0.001, '[2:3]={1,2}', '{{a,b},{c,d}}', '{infinity}', '{"a b"}', '192.168.1.5/24', '192.168.1.0/24',
    NULL, B'000', B'10101', -0.01, '(,5)', NULL, NULL, NULL)""",
    """(5, 1, 1, 1, 0.10, 0.1, '-Infinity', '-Infinity', true, 'x', 'x', 'x', '12026-01-01', '12026-01-01 00:00+00',
    '12026-01-01', '00:00:00.1', '00:00:00.1+00', '24:00:00', 'a', '"x"', '{}', NULL, 'sad', NULL, 1.100, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)""",
]


def test_every_type_arrives_exactly_as_it_was_stored(make: Make) -> None:
    """A value that is rounded, trimmed or rewritten on the way is another value."""
    source, target = (make(code, TYPES_DDL, EVERY) for code in ("00", "01"))
    source.execute("SET IntervalStyle = sql_standard", "SET DateStyle = 'SQL, DMY'", "SET extra_float_digits = 0")
    for row in EVERY_ROWS:
        source.execute(f"INSERT INTO every VALUES {row}".replace("'2020-02-29'", "DATE '2020-02-29'"))
    items = [Item("Every", f"[{number}]") for number in range(1, 6)]
    assert source.changed() == set(items)
    for text in source.texts(*items):
        assert text is not None
        target.receive(orjson.loads(text), "Every", stamp=5)
    assert target.texts(*items) == source.texts(*items)
    query = "SELECT every::text FROM every ORDER BY id"
    source.execute("RESET ALL")
    assert target.execute(query) == source.execute(query)
    query = "SELECT j::text, n::text, t, c::bytea FROM every ORDER BY id"
    assert target.execute(query) == source.execute(query)
    assert not any(text is None for text in target.texts(*items))


def test_lexical_forms_are_xmls(make: Make) -> None:
    """Other programs read messages: the forms are the contract's, not the database's."""
    world = make("00", TYPES_DDL, EVERY)
    world.execute(f"INSERT INTO every VALUES {EVERY_ROWS[0]}", f"INSERT INTO every VALUES {EVERY_ROWS[2]}")
    first, third = (world.value(Item("Every", key)) for key in ("[1]", "[3]"))
    assert "gen" not in first
    assert (first["bi"], first["n"], first["nf"]) == ("9007199254740993", "12345678901234567890.1234567890", "1.5000")
    assert (first["ts"], first["tz"]) == ("2020-07-27T16:03:05.000001", "2020-07-27T13:03:05.5Z")
    assert (first["by"], first["j"], first["c"]) == ("AP8Q", '{"b": 1,  "a": [1.50]}', "ab   ")
    assert (third["r"], third["d"], third["bi"], third["n"]) == ("NaN", "INF", -9007199254740992, "1.50")
    assert (third["ts"], third["tz"]) == ("infinity", "-infinity")


def test_a_value_that_is_written_otherwise_is_another_value(make: Make) -> None:
    """1.5 and 1.50 are equal to the database, as are a day and 24 hours; what was stored has to arrive."""
    target = make("00", TYPES_DDL, EVERY)
    target.receive({"id": 1, "n": "1.5", "iv": "1 day", "jb": "1.0"}, "Every", stamp=5)
    target.receive({"id": 1, "n": "1.50", "iv": "24:00:00", "jb": "1.00"}, "Every", stamp=6)
    assert target.execute("SELECT n::text, iv::text, jb::text FROM every") == [("1.50", "24:00:00", "1.00")]


def test_what_is_too_long_is_refused_and_never_cut(make: Make) -> None:
    """A cast cuts silently; an assignment refuses."""
    target = make("00", TYPES_DDL, EVERY)
    for name, value in (("v", "x" * 11), ("c", "x" * 6), ("va", "{abcd}"), ("bi3", "1010"), ("am", "-1000000")):
        with pytest.raises(MessageError):
            target.receive({"id": 1, name: value}, "Every", stamp=5)
    assert target.execute("SELECT count(*) FROM every") == [(0,)]


def test_a_number_with_more_digits_than_the_column_is_refused(make: Make) -> None:
    """An assignment rounds silently: what is here would differ from what was sent, and nobody would know."""
    source = make("00", "CREATE TABLE a (id integer PRIMARY KEY, n numeric)", TypeSettings("A", "a"))
    target = make(
        "01", "CREATE TABLE a (id integer PRIMARY KEY, n numeric(10, 2))", TypeSettings("A", "a"), start=False
    )
    package = generate_package(source.exchange, source.database.reflect(["a"]))
    structure = compile_structure(package, target.exchange, target.database.reflect(["a"]))
    target.structure = lambda: structure  # type: ignore[method-assign]
    target.install()
    target.start("00")
    with pytest.raises(MessageError, match="rounded"):
        target.receive({"id": 1, "n": "1.005"}, "A", stamp=5)
    target.receive({"id": 1, "n": "1.0100"}, "A", stamp=5)
    assert target.execute("SELECT n::text FROM a") == [("1.01",)]


KEYS_DDL = """
CREATE TABLE keyed (k1 date, k2 timestamptz, k3 interval, k4 numeric, k5 char(3), k6 text, k7 bigint, k8 bytea,
                    k9 boolean, k10 timestamp, v text, PRIMARY KEY (k1, k2, k3, k4, k5, k6, k7, k8, k9, k10))"""


def test_a_key_does_not_depend_on_the_writers_session(make: Make) -> None:
    """Or one item would have several names."""
    world = make("00", KEYS_DDL, TypeSettings("Keyed", "keyed", reference_data=True))
    world.execute(
        "SET DateStyle = 'SQL, DMY'",
        "SET TimeZone = 'America/New_York'",
        "SET IntervalStyle = iso_8601",
        "SET bytea_output = escape",
        "INSERT INTO keyed VALUES (DATE '2026-11-01', TIMESTAMPTZ '2026-11-01 10:00+00', INTERVAL '1 day 2 hours',"
        " 5.50, 'a', E'\"я\\n', 9007199254740993, '\\xff', true, TIMESTAMP '2026-11-01 10:00:00.5', 'v')",
    )
    key = (
        '["2026-11-01","2026-11-01T10:00:00Z","1 day 02:00:00","5.5","a  ","\\"я\\n","9007199254740993","/w==",true,'
        '"2026-11-01T10:00:00.5"]'
    )
    assert world.changed() == {("Keyed", key)}
    value = world.value(Item("Keyed", key))
    assert (value["k4"], value["v"]) == ("5.50", "v")
    world.execute("SET DateStyle = 'German'", "SET TimeZone = 'Asia/Tokyo'", "DELETE FROM keyed")
    (change,) = world.changes()
    assert (change.item.key, change.gone) == (key, True)


# --- transactions -------------------------------------------------------------------------------------------------


def test_a_transaction_that_stays_open_over_many_folds_is_not_missed(orders: StoreWorld) -> None:
    """The boundary passes long before it commits."""
    with orders.transaction() as slow:
        slow.execute("INSERT INTO orders VALUES (1, 'slow')")
        for number in range(2, 6):
            orders.execute(f"INSERT INTO orders VALUES ({number}, 'quick')")
            assert orders.changed() == {("Order", f"[{number}]")}
        slow.execute("SAVEPOINT a")
        slow.execute("INSERT INTO orders VALUES (9, 'undone')")
        slow.execute("ROLLBACK TO a")
        slow.execute("INSERT INTO lines VALUES (1, 1, 1)")
        assert orders.changed() == set()
    assert orders.changed() == {("Order", "[1]")}
    assert orders.changed() == set()


def test_a_prepared_transaction_is_taken_when_it_commits(orders: StoreWorld) -> None:
    """Its session may be gone for hours before."""
    with closing(orders.connect()) as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO orders VALUES (1, 'x')")
        other.execute("PREPARE TRANSACTION 'kod_test'")
    orders.execute("INSERT INTO orders VALUES (2, 'y')")
    assert orders.changed() == {("Order", "[2]")}
    orders.execute("COMMIT PREPARED 'kod_test'")
    assert orders.store.has_changes()
    assert orders.changed() == {("Order", "[1]")}


def test_capture_gives_two_transactions_nothing_to_quarrel_about(orders: StoreWorld) -> None:
    """Two REPEATABLE READ transactions that add lines to one order do not conflict without capture, nor with it."""
    orders.execute("INSERT INTO orders VALUES (1, 'x')")
    with closing(orders.connect()) as one, closing(orders.connect()) as two:
        for connection in (one, two):
            connection.execute("SET lock_timeout = '2s'")
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM orders")
        one.execute("INSERT INTO lines VALUES (1, 1, 1)")
        two.execute("INSERT INTO lines VALUES (1, 2, 1)")
        one.execute("COMMIT")
        two.execute("COMMIT")
    assert orders.changed() == {("Order", "[1]")}


def test_capture_makes_no_deadlock_of_opposite_orders(orders: StoreWorld) -> None:
    """A register that triggers update would lock two orders in the order of the lines."""
    orders.execute("INSERT INTO orders VALUES (1, 'x'), (2, 'y')")
    with closing(orders.connect()) as one, closing(orders.connect()) as two:
        for connection in (one, two):
            connection.execute("SET lock_timeout = '2s'")
            connection.execute("BEGIN")
        one.execute("INSERT INTO lines VALUES (1, 1, 1)")
        two.execute("INSERT INTO lines VALUES (2, 2, 1)")
        one.execute("INSERT INTO lines VALUES (2, 1, 1)")
        two.execute("INSERT INTO lines VALUES (1, 2, 1)")
        one.execute("COMMIT")
        two.execute("COMMIT")
    assert len(orders.changed()) == 2


def test_an_application_that_holds_a_row_makes_the_receiver_try_again(orders: StoreWorld) -> None:
    """The receiver gives up before the server looks for deadlocks: never is the application the victim."""
    orders.execute("INSERT INTO orders VALUES (1, 'x')")
    with orders.transaction() as application:
        application.execute("INSERT INTO lines VALUES (1, 1, 1)")
        with pytest.raises(ConflictError):
            orders.receive({"id": 1, "title": "y", "lines": []}, "Order", stamp=5)
    here = orders.receive({"id": 1, "title": "y", "lines": []}, "Order", stamp=Stamp(4_000_000_000_000))
    assert here is not None
    assert here.version is not None  # its change was folded before anything was decided
    assert orders.execute("SELECT count(*) FROM lines") == [(0,)]


def test_who_was_faster_with_a_new_key_is_seen_at_the_second_attempt(orders: StoreWorld) -> None:
    """A row that is not there cannot be locked; the clash must not look like the message's fault."""
    started = threading.Event()
    failed: list[BaseException] = []

    def apply() -> None:
        try:
            with orders.store.receiving("01", forward=False, limited=frozenset()) as view:
                item = Item("Order", "[1]")
                assert view.lock([item]) == {}
                started.set()
                value = {"id": 1, "title": "theirs", "lines": []}
                view.write([Accepted(item, Version(Stamp(5), "01.1"), {}, value, existed=False)])
        except ConflictError as error:
            failed.append(error)

    with orders.transaction() as application:
        application.execute("INSERT INTO orders VALUES (1, 'ours')")
        thread = threading.Thread(target=apply)
        thread.start()
        assert started.wait(10)
        application.execute("SELECT pg_sleep(0.05)")  # most probably it waits for the key by now
    thread.join()
    assert failed
    assert orders.execute("SELECT title FROM orders") == [("ours",)]


# --- capture ------------------------------------------------------------------------------------------------------


def test_truncate_stamps_every_row_also_of_what_it_cascades_to(orders: StoreWorld) -> None:
    """No row trigger fires for it."""
    orders.execute("INSERT INTO orders VALUES (1, 'x'), (2, 'y')", "INSERT INTO lines VALUES (1, 1, 1)")
    orders.changed()
    orders.execute("TRUNCATE lines")
    assert [(c.item.key, c.gone) for c in orders.changes()] == [("[1]", False)]
    orders.execute("TRUNCATE orders CASCADE")
    assert {(c.item.key, c.gone) for c in orders.changes()} == {("[1]", True), ("[2]", True)}


def test_a_columns_type_may_be_changed_under_the_triggers(make: Make) -> None:
    """What a trigger's condition names PostgreSQL does not let be altered: an application's upgrade would fail."""
    ddl = "CREATE TABLE goods (id integer PRIMARY KEY, name varchar(3), price numeric(5, 2), secret text)"
    world = make("00", ddl, TypeSettings("A", "goods", exclude=("secret",)))
    world.execute("INSERT INTO goods VALUES (1, 'tea')")
    world.changes()
    world.execute("ALTER TABLE goods ALTER name TYPE varchar(9), ALTER price TYPE numeric(12, 4)")
    world.store.check()  # nothing has to be installed again
    world.execute("UPDATE goods SET name = 'green tea', price = 1.2345")
    assert [(c.item.key, c.gone) for c in world.changes()] == [("[1]", False)]
    world.execute("UPDATE goods SET name = 'green tea'", "UPDATE goods SET secret = 'x'")
    assert world.changes() == []  # nothing that travels has changed
    world.execute("UPDATE goods SET id = 2, secret = 'y'")
    assert [(c.item.key, c.gone) for c in world.changes()] == [("[1]", True), ("[2]", False)]


def test_truncate_that_is_followed_by_the_same_rows_is_a_change_not_a_deletion(orders: StoreWorld) -> None:
    """A nightly reload must not travel as a deletion of everything."""
    orders.execute("INSERT INTO orders VALUES (1, 'x'), (2, 'y')")
    orders.changed()
    with orders.transaction() as application:
        application.execute("TRUNCATE orders CASCADE")
        application.execute("INSERT INTO orders VALUES (1, 'x')")
    assert {(c.item.key, c.gone) for c in orders.changes()} == {("[1]", False), ("[2]", True)}


def test_partitions_are_captured_however_they_are_written(make: Make) -> None:
    """Through the parent, past it, when a row moves between them, and when one is truncated."""
    world = make(
        "00",
        "CREATE TABLE sales (id integer, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);\n"
        "CREATE TABLE sales_a PARTITION OF sales FOR VALUES IN ('a');\n"
        "CREATE TABLE sales_b PARTITION OF sales FOR VALUES IN ('b')",
        TypeSettings("Sale", "sales", reference_data=True),
    )
    world.execute("INSERT INTO sales VALUES (1, 'a')", "INSERT INTO sales_b VALUES (2, 'b')")
    assert world.changed() == {("Sale", '[1,"a"]'), ("Sale", '[2,"b"]')}
    world.execute("UPDATE sales SET region = 'b' WHERE id = 1")
    assert {(c.item.key, c.gone) for c in world.changes()} == {('[1,"a"]', True), ('[1,"b"]', False)}
    world.execute("TRUNCATE sales_b")
    assert {(c.item.key, c.gone) for c in world.changes()} == {('[1,"b"]', True), ('[2,"b"]', True)}
    world.execute("CREATE TABLE sales_c PARTITION OF sales FOR VALUES IN ('c')", "INSERT INTO sales_c VALUES (3, 'c')")
    assert world.changed() == {("Sale", '[3,"c"]')}


def test_what_arrives_by_logical_replication_is_captured(orders: StoreWorld) -> None:
    """Its sessions have session_replication_role = replica, in which ordinary triggers do not fire."""
    with closing(orders.connect()) as other:
        other.execute("SET session_replication_role = replica")
        other.execute("INSERT INTO orders VALUES (1, 'x')")
    assert orders.changed() == {("Order", "[1]")}


def test_an_application_needs_no_rights_on_kods_schema(orders: StoreWorld) -> None:
    """And what it puts into its search_path does not get into the triggers."""
    orders.execute(
        "DROP ROLE IF EXISTS kod_test_clerk",
        "CREATE ROLE kod_test_clerk",
        "GRANT INSERT, UPDATE, SELECT ON orders, lines TO kod_test_clerk",
        "CREATE SCHEMA trap",
        "GRANT USAGE ON SCHEMA trap TO kod_test_clerk",
        "CREATE FUNCTION trap.concat(VARIADIC text[]) RETURNS text LANGUAGE sql AS $$SELECT 'trapped'$$",
        "CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT NULL::timestamptz$$",
    )
    try:
        with closing(orders.connect()) as clerk:
            clerk.execute("SET ROLE kod_test_clerk")
            clerk.execute("SET search_path = trap, public, pg_catalog")
            clerk.execute("INSERT INTO public.orders VALUES (1, 'x')")
            clerk.execute("UPDATE public.orders SET title = 'y'")
            with pytest.raises(errors.InsufficientPrivilege):
                clerk.execute("SELECT * FROM kod.log")
        assert orders.changed() == {("Order", "[1]")}
    finally:
        orders.execute("DROP OWNED BY kod_test_clerk", "DROP ROLE kod_test_clerk")


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE orders DISABLE TRIGGER ALL",
        "ALTER TABLE lines DISABLE TRIGGER kod_1_1_insert",
        "DROP TRIGGER kod_1_0_delete ON orders",
        "CREATE OR REPLACE FUNCTION kod.kod_1_0_new() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "ALTER TABLE orders RENAME COLUMN id TO number",
    ],
)
def test_a_store_does_not_start_on_triggers_that_are_not_the_installed_ones(orders: StoreWorld, statement: str) -> None:
    """Changes would be missed, and nobody would know. `kod install` mends it."""
    orders.execute(statement)
    with pytest.raises(ConfigError, match="trigger"):
        orders.start("01")
    assert any("triggers" in note.text for note in orders.database.check(orders.structure()))
    assert orders.install()
    orders.start("01")
    orders.execute("INSERT INTO orders VALUES (1, 'x')")
    assert orders.changed() == {("Order", "[1]")}


def test_everything_of_a_type_can_be_read_from_one_snapshot_and_stamped_again(orders: StoreWorld) -> None:
    """`kod compare` reads it beside the application's writing, and repairs by new versions."""
    orders.execute("INSERT INTO orders VALUES (1, 'x'), (2, 'y')", "INSERT INTO lines VALUES (1, 1, 5), (1, 2, 6)")
    orders.changed()
    contents = orders.database.contents(orders.structure(), "Order")
    first = next(contents)
    orders.execute("UPDATE orders SET title = 'later'", "DELETE FROM lines")
    found = {content.item.key: orjson.loads(content.text or b"") for content in (first, *contents)}
    lines = [{"line": 1, "qty": 5}, {"line": 2, "qty": 6}]
    assert found == {"[1]": {"id": 1, "title": "x", "lines": lines}, "[2]": {"id": 2, "title": "y", "lines": []}}
    orders.changed()
    orders.execute("DELETE FROM orders WHERE id = 2")
    orders.changed()
    orders.database.stamp_again([Item("Order", "[1]"), Item("Order", "[2]")])
    assert {(c.item.key, c.gone) for c in orders.changes()} == {("[1]", False), ("[2]", True)}


# --- writing ------------------------------------------------------------------------------------------------------


def test_types_that_refer_to_each_other_arrive_in_one_message(make: Make) -> None:
    """Neither can be first, and the database cannot defer: foreign keys are checked at a statement's end."""
    world = make(
        "00",
        "CREATE TABLE firms (id integer PRIMARY KEY, head integer NOT NULL);\n"
        "CREATE TABLE people (id integer PRIMARY KEY, firm integer NOT NULL REFERENCES firms);\n"
        "ALTER TABLE firms ADD FOREIGN KEY (head) REFERENCES people",
        TypeSettings("Firm", "firms", reference_data=True),
        TypeSettings("Person", "people", reference_data=True),
    )
    values = {Item("Firm", "[1]"): {"id": 1, "head": 7}, Item("Person", "[7]"): {"id": 7, "firm": 1}}
    for value_of in (values.get, lambda item: None):
        with world.store.receiving("01", forward=True, limited=frozenset()) as view:
            here = view.lock(list(values))
            version = Version(Stamp(5), "01.1")
            view.write([Accepted(item, version, {}, value_of(item), existed=item in here) for item in values])
        assert world.execute("SELECT count(*) FROM firms, people") == [(1 if value_of == values.get else 0,)]


def test_a_reference_and_a_unique_value_may_pass_from_what_goes_to_what_comes(make: Make) -> None:
    """Deletions first would break the reference, insertions first the unique value."""
    world = make(
        "00",
        "CREATE TABLE shops (id integer PRIMARY KEY, code text NOT NULL UNIQUE);\n"
        "CREATE TABLE tills (id integer PRIMARY KEY, shop integer NOT NULL REFERENCES shops)",
        TypeSettings("Shop", "shops", reference_data=True),
        TypeSettings("Till", "tills", reference_data=True),
    )
    world.receive({"id": 1, "code": "A"}, "Shop", stamp=5)
    world.receive({"id": 1, "shop": 1}, "Till", stamp=5)
    values: dict[Item, dict[str, Any] | None] = {
        Item("Shop", "[1]"): None,
        Item("Shop", "[2]"): {"id": 2, "code": "A"},
        Item("Till", "[1]"): {"id": 1, "shop": 2},
    }
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        here = view.lock(list(values))
        version = Version(Stamp(6), "01.1")
        view.write([Accepted(item, version, {}, value, existed=item in here) for item, value in values.items()])
    assert world.execute("SELECT s.id, code, t.id FROM shops s JOIN tills t ON t.shop = s.id") == [(2, "A", 1)]


def test_a_deferred_constraint_is_reported_by_name(make: Make) -> None:
    """It fails at the commit, outside of every statement."""
    world = make(
        "00",
        "CREATE TABLE a (id integer PRIMARY KEY, b integer CONSTRAINT a_to_b REFERENCES a DEFERRABLE)",
        TypeSettings("A", "a", reference_data=True),
    )
    with pytest.raises(MessageError, match="a_to_b"):
        world.receive({"id": 1, "b": 2}, "A", stamp=5)
    assert world.changed() == set()


def test_the_applications_next_key_is_free_after_rows_were_applied(make: Make) -> None:
    """Or its next insert fails, for no fault of its own."""
    world = make(
        "00",
        "CREATE TABLE a (id serial PRIMARY KEY, v text);\n"
        "CREATE TABLE b (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
        TypeSettings("A", "a", reference_data=True),
        TypeSettings("B", "b", reference_data=True),
    )
    for key in (1, 5, 5000):
        for table, name in (("a", "A"), ("b", "B")):
            world.receive({"id": key, "v": "theirs"}, name, stamp=5)
            assert world.execute(f"INSERT INTO {table} (v) VALUES ('ours') RETURNING id") == [(key + 1,)]


def test_a_nodes_own_keys_stay_in_their_residue_class(make: Make) -> None:
    """Two nodes never give birth to one key, whatever has arrived from the other."""
    world = make(
        "00",
        "CREATE TABLE a (id bigserial PRIMARY KEY, v text);\nINSERT INTO a (v) VALUES ('x'), ('y')",
        TypeSettings("A", "a", reference_data=True),
        start=False,
    )
    world.settings = NodeSettings("00", "00", None, world.url, world.exchange, identity=(10, 3))
    assert any("3 modulo 10" in text for text in world.install())
    assert world.install() == ()
    world.start("01")
    assert world.execute("INSERT INTO a (v) VALUES ('z') RETURNING id") == [(3,)]
    for key in (14, 20_004):
        world.receive({"id": key, "v": "theirs"}, "A", stamp=5)
        ((own,),) = world.execute("INSERT INTO a (v) VALUES ('z') RETURNING id")
        assert own > key
        assert own % 10 == 3


def test_the_application_stays_itself_after_a_message_was_applied(orders: StoreWorld) -> None:
    """The mark that it is us who write must not outlive our transaction, nor reach others."""
    orders.receive({"id": 1, "title": "x", "lines": []}, "Order", stamp=5, forward=False)
    assert orders.changed() == set()
    orders.execute("UPDATE orders SET title = 'y'")
    assert orders.changed() == {("Order", "[1]")}


# --- the daemon's lock ----------------------------------------------------------------------------------------------


def test_a_second_daemon_is_refused_and_a_lost_lock_is_noticed(orders: StoreWorld) -> None:
    """Two daemons would fold and send the same changes."""
    from node.databases import open_database

    other = open_database(orders.url)
    try:
        with orders.database.daemon_lock("00"):
            with pytest.raises(ConfigError, match="already running"), other.daemon_lock("00"):
                pass
            assert orders.store.has_changes() is False
            orders.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            with pytest.raises(UnavailableError):
                orders.store.has_changes()
            with other.daemon_lock("00"), pytest.raises(ConfigError, match="already running"):
                orders.store.has_changes()
            assert orders.store.has_changes() is False
    finally:
        other.close()


def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    """It is waited for; it is nobody's mistake."""
    from node.databases import open_database

    database = open_database("postgresql+psycopg://nobody@/nothing?host=/nowhere")
    with pytest.raises(UnavailableError):
        database.table_names()
    database.close()


def test_uninstall_leaves_nothing_also_where_application_roles_wrote(orders: StoreWorld) -> None:
    """The log's rows, functions, triggers on partitions: all of it hangs on one schema."""
    orders.execute("INSERT INTO orders VALUES (1, 'x')")
    orders.store.close()
    orders.database.uninstall()
    assert orders.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'kod'") == [(0,)]
    assert orders.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(0,)]
    orders.execute("UPDATE orders SET title = 'y'")


def test_other_tables_of_other_schemas_take_part_by_their_full_names(make: Make) -> None:
    """Names are quoted part by part."""
    world = make(
        "00",
        'CREATE SCHEMA "Sales dept";\nCREATE TABLE "Sales dept"."Order" (id integer PRIMARY KEY, "%s, {0} $1" text)',
        TypeSettings("Order", "Sales dept.Order", reference_data=True),
    )
    world.receive({"id": 1, "%s, {0} $1": "50 %"}, "Order", stamp=5)
    world.execute('UPDATE "Sales dept"."Order" SET id = 2')
    assert {(c.item.key, c.gone) for c in world.changes()} == {("[1]", True), ("[2]", False)}
    assert world.value(Item("Order", "[2]")) == {"id": 2, "%s, {0} $1": "50 %"}


def test_after_a_message_that_failed_its_connection_is_as_good_as_before(orders: StoreWorld) -> None:
    """Or one bad message would spoil all that come after it: what was prepared on a connection has to outlive a
    ROLLBACK, however often the connection was asked other things."""
    with Connections(orders.url).connection() as connection:
        for _ in range(10):
            connection.execute("SELECT 1 + $1::int", (1,))
        assert connection.run([Statement("SELECT $1::int", ("7",))]) == [[(7,)]]
        with pytest.raises(psycopg.Error):
            connection.run([Statement("BEGIN"), Statement("SELECT 1 / $1::int", ("0",))])
        connection.execute("ROLLBACK")
        assert connection.run([Statement("SELECT $1::int", ("8",))]) == [[(8,)]]
        connection.close()


def test_errors_do_not_tell_values(orders: StoreWorld) -> None:
    """Texts of errors go to logs; rows are somebody's data."""
    with pytest.raises(MessageError) as raised:
        orders.receive({"id": 1, "title": "x", "lines": [{"line": 7654321, "qty": "7654321-secret"}]}, "Order", stamp=5)
    assert "7654321" not in raised.value.text
    assert isinstance(orders.application, psycopg.Connection)


def test_minus_zero_stays_what_it_is(make: Make) -> None:
    """JSON's -0 is an integer to most readers, and integers have no such zero."""
    ddl = "CREATE TABLE measured (id integer PRIMARY KEY, d double precision, r real)"
    measured = TypeSettings("Measured", "measured", reference_data=True)
    source, target = (make(code, ddl, measured) for code in ("00", "01"))
    item = Item("Measured", "[1]")
    source.execute("INSERT INTO measured VALUES (1, 0, 0)")
    assert source.changed() == {item}
    target.receive(source.value(item), "Measured", stamp=5)
    source.execute("UPDATE measured SET d = '-0', r = '-0'")
    assert source.changed() == {item}
    value = source.value(item)
    assert [(type(value[name]), str(value[name])) for name in ("d", "r")] == [(float, "-0.0")] * 2
    target.receive(value, "Measured", stamp=6)
    assert target.execute("SELECT d::text, r::text FROM measured") == [("-0", "-0")]
    assert target.texts(item) == source.texts(item)


# --- types of a fixed length ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key_type", "keys"),
    [
        ("char(5)", ("ab   ", "cd   ", "äbcde")),
        ("char", ("a", " ")),
        ("char(5)[]", ('{"ab   ","cd   "}', "{abcde}")),
        ("bit(3)", ("101", "011")),
        ("bit(3)[]", ("{101,111}", "{000}")),
    ],
)
def test_keys_of_a_fixed_length_are_found(make: Make, key_type: str, keys: Sequence[str]) -> None:
    """A cast to `character` or `bit` cuts to one: the rows would not be found, and travel as deletions."""
    ddl = f"CREATE TABLE fixed (id {key_type} PRIMARY KEY, body text)"
    fixed = TypeSettings("Fixed", "fixed", reference_data=True)
    source, target = (make(code, ddl, fixed) for code in ("00", "01"))
    items = [Item("Fixed", orjson.dumps([key]).decode()) for key in keys]
    for key in keys:
        source.execute(f"INSERT INTO fixed VALUES ('{key.rstrip() if key_type == 'char(5)' else key}', 'first')")
    assert {(change.item, change.gone) for change in source.changes()} == {(item, False) for item in items}

    def deliver() -> None:
        for item, text in zip(items, source.texts(*items), strict=True):
            target.receive(orjson.loads(text) if text else None, "Fixed", key=item.key, stamp=5)
        query = "SELECT id::text, body FROM fixed ORDER BY id"
        assert target.execute(query) == source.execute(query)
        assert target.texts(*items) == source.texts(*items)

    deliver()
    assert target.execute("SELECT count(*) FROM fixed WHERE body = 'first'") == [(len(keys),)]
    source.execute("UPDATE fixed SET body = 'second'")
    assert source.changed() == set(items)
    deliver()
    assert target.execute("SELECT count(*) FROM fixed WHERE body = 'second'") == [(len(keys),)]
    source.execute("DELETE FROM fixed")
    assert {(change.item, change.gone) for change in source.changes()} == {(item, True) for item in items}
    deliver()
    assert target.execute("SELECT count(*) FROM fixed") == [(0,)]


def test_values_of_a_fixed_length_in_arrays_arrive_whole(make: Make) -> None:
    """They are cast from text: each element would be cut to one, and what is too long would not be refused."""
    ddl = "CREATE TABLE fixed (id integer PRIMARY KEY, c char(5)[], b bit(3)[], v bit varying(4)[])"
    fixed = TypeSettings("Fixed", "fixed", reference_data=True)
    source, target = (make(code, ddl, fixed) for code in ("00", "01"))
    source.execute("INSERT INTO fixed VALUES (1, '{ab,abcde,NULL}', '{101,011}', '{1,1011}')")
    item = Item("Fixed", "[1]")
    target.receive(source.value(item), "Fixed", stamp=5)
    assert target.texts(item) == source.texts(item)
    assert target.execute("SELECT fixed::text FROM fixed") == source.execute("SELECT fixed::text FROM fixed")
    for name, long in (("c", "{abcdef}"), ("b", "{1011}")):
        with pytest.raises(MessageError):
            target.receive({"id": 1, name: long}, "Fixed", stamp=6)


def test_sections_and_filters_of_a_fixed_length_are_merged(make: Make) -> None:
    """Blanks at the end mean nothing to such a column, and much to a text: the rows must be found all the same."""
    ddl = """
    CREATE TABLE roots (id char(5) PRIMARY KEY, body text);
    CREATE TABLE parts (root char(5) REFERENCES roots, n char(3), body text, PRIMARY KEY (root, n));
    CREATE TABLE sets (kind char(5), n char(3) PRIMARY KEY, body text)"""
    types = (
        TypeSettings("Root", "roots", sections={"parts": "parts"}, reference_data=True),
        TypeSettings("Set", "sets", filter=("kind",), reference_data=True),
    )
    source, target = (make(code, ddl, *types) for code in ("00", "01"))
    root, records = Item("Root", '["ab   "]'), Item("Set", '["cd   "]')
    source.execute("INSERT INTO roots VALUES ('ab', 'x')", "INSERT INTO sets VALUES ('cd', 'a', 'x'), ('cd', 'b', 'x')")
    source.changes()
    source.execute("INSERT INTO parts VALUES ('ab', '1', 'x'), ('ab', '2', 'x')")
    assert source.changed() == {root}
    for statement in (
        "SELECT 1",
        "UPDATE parts SET body = 'y' WHERE n = '1'; UPDATE sets SET body = 'y' WHERE n = 'a'",
        "DELETE FROM parts WHERE n = '1'; DELETE FROM sets WHERE n = 'a'",
    ):
        source.execute(statement)
        for item in (root, records):
            target.receive(source.value(item), item.type, stamp=5)
        for query in ("SELECT * FROM roots", "SELECT * FROM parts ORDER BY n", "SELECT * FROM sets ORDER BY n"):
            assert target.execute(query) == source.execute(query)
    assert target.execute("SELECT count(*) FROM parts, sets") == [(1,)]

"""What only MariaDB does: cascades fire no triggers, collations, values of its own kinds, no deferred checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pymysql
import pytest

from dispatcher.ports import Accepted
from schemas.errors import ConfigError, ConflictError, MessageError, UnavailableError
from schemas.network import TypeSettings
from serializers.keys import Item, key_text
from serializers.message import Version
from tests.contract.store_world import CUSTOMER, FUTURE, ORDER, StoreWorld, new_world
from tests.contract.tree import Tree

pytestmark = pytest.mark.mariadb

THING = "Catalog.Thing"
ONE, TWO, THREE = (Item(THING, f"[{n}]") for n in (1, 2, 3))
ALICE, BOB = Item(CUSTOMER, '["A"]'), Item(CUSTOMER, '["B"]')
FIRST, SECOND = Item(ORDER, "[1]"), Item(ORDER, "[2]")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoreWorld]:
    """A node whose only type is that of the table `things`, which the test makes."""
    world = new_world("mariadb", "00", tmp_path, ddl="")
    world.exchange = {THING: TypeSettings(THING, "things", reference_data=True)}
    with closing(world):
        yield world


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[StoreWorld]:
    """Two customers, two orders with lines; all of it folded."""
    world = new_world("mariadb", "00", tmp_path)
    with closing(world):
        world.install()
        world.start("01", "02")
        world.execute(
            "INSERT INTO customers (customer_id, name, nick) VALUES ('A', 'Alice', 'al'), ('B', 'Bob', 'bo')",
            "INSERT INTO orders VALUES (1, 'A', 'first'), (2, 'B', 'second')",
            "INSERT INTO order_lines VALUES (1, 1, 5, NULL), (1, 2, 6, NULL), (2, 1, 7, NULL)",
        )
        world.changes()
        yield world


def installed(world: StoreWorld, ddl: str) -> StoreWorld:
    world.script(ddl)
    world.install()
    world.start("01", "02")
    return world


def apply(world: StoreWorld, *items: tuple[Item, Any], stamp: int = FUTURE) -> None:
    """A message that brings these items; None is a deletion."""
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        here = view.lock([item for item, _ in items])
        view.write(
            [
                Accepted(item, Version(FUTURE, "01.1"), {}, value, existed=item in here and here[item].exists)
                for item, value in items
            ]
        )


# --- what is stamped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "stamped"),
    [
        ("REPLACE INTO customers (customer_id, nick) VALUES ('C', 'al2')", {("C", False)}),
        ("INSERT IGNORE INTO customers (customer_id) VALUES ('A'), ('C')", {("C", False)}),
        ("INSERT INTO customers (customer_id) VALUES ('A') ON DUPLICATE KEY UPDATE name = 'x'", {("A", False)}),
        ("UPDATE customers SET customer_id = 'c' WHERE customer_id = 'C'", {("C", True), ("c", False)}),
        ("UPDATE customers c JOIN orders o USING (customer_id) SET c.name = 'x' WHERE o.order_id = 1", {("A", False)}),
    ],
)
def test_every_way_to_write_is_stamped(shop: StoreWorld, statement: str, stamped: set[tuple[str, bool]]) -> None:
    """Programs use what the dialect has."""
    if "'c'" in statement:
        shop.execute("INSERT INTO customers (customer_id) VALUES ('C')")
        shop.changes()
    shop.execute(statement)
    assert {(orjson.loads(c.item.key)[0], c.gone) for c in shop.changes()} == stamped


def test_a_row_that_replace_evicts_is_stamped(shop: StoreWorld) -> None:
    """By a unique value: the evicted one would live on elsewhere, and clash there with the new one."""
    shop.execute("DELETE FROM order_lines", "DELETE FROM orders")
    shop.changes()
    shop.execute("REPLACE INTO customers (customer_id, nick) VALUES ('C', 'al')")
    assert {(c.item.key, c.gone) for c in shop.changes()} == {('["A"]', True), ('["C"]', False)}


def test_rows_of_several_tables_that_one_statement_deletes_are_stamped(shop: StoreWorld) -> None:
    """DELETE … FROM a JOIN b is MariaDB's own."""
    shop.execute("DELETE l, o FROM order_lines l JOIN orders o USING (order_id) WHERE o.order_id = 1")
    assert {(c.item, c.gone) for c in shop.changes()} == {(FIRST, True)}


def test_what_load_data_brings_is_stamped(shop: StoreWorld, tmp_path: Path) -> None:
    """It goes past the SQL of INSERT, but not past its triggers."""
    file = Path(str(shop.application.execute("SELECT @@datadir").fetchall()[0][0])) / "load.txt"
    file.write_text("C\nD\n")
    file.chmod(0o644)
    shop.execute(f"LOAD DATA INFILE '{file}' INTO TABLE customers (customer_id)")
    file.unlink()
    assert shop.changed() == {Item(CUSTOMER, '["C"]'), Item(CUSTOMER, '["D"]')}


CASCADES = """
CREATE TABLE regions (id INTEGER NOT NULL PRIMARY KEY);
CREATE TABLE owners (code VARCHAR(9) NOT NULL PRIMARY KEY,
    region INTEGER REFERENCES regions (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, parent INTEGER,
    owner VARCHAR(9) REFERENCES owners (code) ON DELETE CASCADE ON UPDATE CASCADE,
    keeper VARCHAR(9) REFERENCES owners (code) ON DELETE SET NULL ON UPDATE SET NULL,
    FOREIGN KEY (parent) REFERENCES things (id) ON DELETE CASCADE)
"""


@pytest.fixture
def cascading(node: StoreWorld) -> StoreWorld:
    """A region has owners, these have things, and things have parts: only things take part."""
    installed(node, CASCADES)
    node.execute(
        "INSERT INTO regions VALUES (1), (2)",
        "INSERT INTO owners VALUES ('a', 1), ('b', 2)",
        "INSERT INTO things VALUES (1, NULL, 'a', NULL), (2, NULL, 'b', 'a'), (3, 1, NULL, NULL), (4, 3, 'b', NULL)",
    )
    node.changes()
    return node


def test_what_a_foreign_key_deletes_by_itself_is_stamped_down_the_chain(cascading: StoreWorld) -> None:
    """InnoDB fires no trigger for it; the things would live on at every other node."""
    cascading.execute("DELETE FROM regions WHERE id = 1")
    assert {(c.item.key, c.gone) for c in cascading.changes()} == {
        ("[1]", True),
        ("[2]", False),  # its keeper is NULL now
        ("[3]", True),
        ("[4]", True),
    }
    assert cascading.value(TWO) == {"id": 2, "parent": None, "owner": "b", "keeper": None}


def test_what_a_foreign_key_changes_by_itself_is_stamped(cascading: StoreWorld) -> None:
    """ON UPDATE CASCADE, and SET NULL."""
    cascading.execute("UPDATE owners SET region = 2 WHERE code = 'a'")
    assert cascading.changed() == set()
    cascading.execute("DELETE FROM things WHERE id = 4", "UPDATE things SET keeper = NULL WHERE id = 2")
    cascading.changes()
    cascading.execute("UPDATE owners SET code = 'z' WHERE code = 'a'")
    assert cascading.changed() == {ONE}
    assert cascading.value(ONE)["owner"] == "z"


def test_foreign_keys_that_reach_a_table_by_too_many_ways_are_refused(node: StoreWorld) -> None:
    """No trigger would fire for what they do: an installation that misses changes is worse than none."""
    parents = ", ".join(f"p{n} INTEGER REFERENCES things (id) ON DELETE CASCADE" for n in range(3))
    node.script(f"CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, {parents})")
    with pytest.raises(ConfigError, match="CASCADE") as raised:
        node.install()
    assert "ON DELETE" in raised.value.hint


def test_a_rollback_to_a_savepoint_takes_its_stamps_with_it(shop: StoreWorld) -> None:
    """And leaves the others."""
    shop.execute(
        "BEGIN",
        "UPDATE customers SET name = 'x' WHERE customer_id = 'A'",
        "SAVEPOINT s",
        "UPDATE customers SET name = 'x' WHERE customer_id = 'B'",
        "ROLLBACK TO SAVEPOINT s",
        "COMMIT",
    )
    assert shop.changed() == {ALICE}


def test_the_applications_last_insert_id_is_its_own(node: StoreWorld) -> None:
    """The log numbers its rows, too; an application that asked would get the number of a log row."""
    installed(node, "CREATE TABLE things (id INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY, code VARCHAR(9))")
    for _ in range(3):
        node.execute("UPDATE things SET code = 'y'", "INSERT INTO things (code) VALUES ('x')")
    assert node.execute("SELECT LAST_INSERT_ID(), MAX(id) FROM things") == [(3, 3)]


def test_the_triggers_work_for_users_without_rights_on_the_registers(shop: StoreWorld) -> None:
    """Applications need no rights of KOD's."""
    database = str(shop.execute("SELECT DATABASE()")[0][0])
    shop.execute(
        "CREATE USER IF NOT EXISTS 'clerk'@'localhost'",
        f"GRANT INSERT, SELECT ON {database}.customers TO clerk@localhost",
    )
    socket = str(shop.execute("SELECT @@socket")[0][0])
    with closing(pymysql.connect(unix_socket=socket, user="clerk", database=database, autocommit=True)) as clerk:
        clerk.cursor().execute("INSERT INTO customers (customer_id) VALUES ('C')")
        with pytest.raises(pymysql.err.OperationalError):
            clerk.cursor().execute("SELECT * FROM kod_log")
    assert shop.changed() == {Item(CUSTOMER, '["C"]')}


# --- nobody waits ---------------------------------------------------------------------------------------------------


def test_a_fold_keeps_no_application_from_writing_and_no_application_keeps_it(shop: StoreWorld) -> None:
    """A deletion of a range of the log would lock the gap into which the next row goes."""
    shop.execute("SET innodb_lock_wait_timeout = 0")
    with shop.transaction() as other:
        other.execute("INSERT INTO customers (customer_id) SELECT concat('o', seq) FROM seq_1_to_50")
        shop.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
        with shop.store.sending() as view:
            assert view.fold().items == 1
            shop.execute("INSERT INTO customers (customer_id) VALUES ('C')")
            shop.execute("UPDATE customers SET name = 'y' WHERE customer_id = 'A'")
            assert orjson.loads(next(iter(view.contents([ALICE]))).text or b"")["name"] == "x"
        assert shop.changed() == {ALICE, Item(CUSTOMER, '["C"]')}
    assert len(shop.changes()) == 50


def test_a_statement_that_inserts_many_rows_keeps_no_other_waiting(shop: StoreWorld) -> None:
    """INSERT … SELECT in a trigger would hold the log's AUTO-INC lock until the application's statement ends."""
    shop.execute("SET innodb_lock_wait_timeout = 0")
    with shop.transaction() as other:
        other.execute("INSERT INTO order_lines SELECT 1, seq + 10, 1, NULL FROM seq_1_to_100")
        shop.execute("INSERT INTO order_lines VALUES (2, 5, 1, NULL)")
    assert shop.changed() == {FIRST, SECOND}


def test_applying_waits_for_no_application(shop: StoreWorld) -> None:
    """Who never waits for a lock is in no deadlock: the application is never its victim. It is tried again."""
    with shop.transaction() as other:
        other.execute("UPDATE customers SET name = 'theirs' WHERE customer_id = 'A'")
        with pytest.raises(ConflictError):
            apply(shop, (ALICE, {"customer_id": "A", "name": "ours", "boss": None, "nick": "al"}))
    apply(shop, (ALICE, {"customer_id": "A", "name": "ours", "boss": None, "nick": "al"}))
    assert shop.value(ALICE)["name"] == "ours"
    (change,) = shop.changes()
    assert change.source == "01"


def test_a_lost_connection_is_opened_again(shop: StoreWorld) -> None:
    """The server was restarted, or closed what was idle; the daemon goes on."""
    assert not shop.store.has_changes()
    mine = shop.execute("SELECT CONNECTION_ID()")[0][0]
    for (number,) in shop.execute(
        f"SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> {mine}"
    ):
        shop.execute(f"KILL {number}")
    shop.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    for question in (shop.store.has_changes, shop.store.check):  # the first call of each connection finds it gone
        with pytest.raises(UnavailableError):
            question()
    assert shop.store.has_changes()
    assert shop.changed() == {ALICE}
    assert not shop.store.has_changes()


# --- collations -----------------------------------------------------------------------------------------------------


def test_keys_that_the_collation_takes_for_one_are_told_apart(node: StoreWorld) -> None:
    """In PostgreSQL 'a' and 'A' are two items: the second must neither overwrite the first nor vanish silently."""
    installed(node, "CREATE TABLE things (id VARCHAR(9) NOT NULL PRIMARY KEY, code VARCHAR(9))")
    small, capital = Item(THING, '["a"]'), Item(THING, '["A"]')
    apply(node, (small, {"id": "a", "code": "x"}))
    with pytest.raises(MessageError, match="collation"):
        apply(node, (capital, {"id": "A", "code": "y"}))
    with pytest.raises(MessageError, match="collation"):
        apply(node, (Item(THING, '["a "]'), {"id": "a ", "code": "y"}))
    assert node.execute("SELECT id, code FROM things") == [("a", "x")]
    assert node.texts(capital) == [None]
    apply(node, (capital, None))
    assert node.execute("SELECT id, code FROM things") == [("a", "x")]
    (note,) = [m for m in node.database.check(node.structure()) if "one in" in m.text]
    assert "'a' and 'A'" in note.text
    assert "'a' and 'a '" in note.text


def test_a_binary_collation_is_not_complained_of(node: StoreWorld) -> None:
    """Keys are told apart as everywhere."""
    column = "VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
    installed(node, f"CREATE TABLE things (id {column} NOT NULL PRIMARY KEY, code VARCHAR(9))")
    for key in ("a", "A", "a ", "á"):
        apply(node, (Item(THING, key_text([key])), {"id": key, "code": "x"}))
    assert node.execute("SELECT count(*) FROM things") == [(4,)]
    assert not [m for m in node.database.check(node.structure()) if "one in" in m.text]


def test_a_reference_may_be_written_otherwise_than_its_target(node: StoreWorld) -> None:
    """'a' may refer to 'A': the item is the one that is there."""
    node.exchange["Catalog.Member"] = TypeSettings("Catalog.Member", "members", owner=("thing",))
    installed(
        node,
        "CREATE TABLE things (id VARCHAR(9) NOT NULL PRIMARY KEY);\n"
        "CREATE TABLE members (id INTEGER NOT NULL PRIMARY KEY, thing VARCHAR(9) REFERENCES things (id))",
    )
    node.execute("INSERT INTO things VALUES ('A')", "INSERT INTO members VALUES (1, 'a')")
    member = Item("Catalog.Member", "[1]")
    with node.store.sending() as view:
        view.fold()
        assert view.owners([member]) == {member: Item(THING, '["A"]')}
        (tie,) = view.ties([member], after=0, node="01", limited=frozenset())
        assert tie.target.item == Item(THING, '["A"]')


def test_a_key_that_changes_only_for_its_collation_is_changed_here_too(node: StoreWorld) -> None:
    """'abc' becomes 'ABC' at another node: a deletion and an insertion, which clash here until one of them gives in."""
    node.exchange = {THING: TypeSettings(THING, "things", reference_data=True, sections={"tags": "tags"})}
    installed(
        node,
        "CREATE TABLE things (id VARCHAR(9) NOT NULL PRIMARY KEY, code VARCHAR(9));\n"
        "CREATE TABLE tags (thing VARCHAR(9) NOT NULL REFERENCES things (id), n INTEGER, PRIMARY KEY (thing, n))",
    )
    small, capital = Item(THING, '["abc"]'), Item(THING, '["ABC"]')
    apply(node, (small, {"id": "abc", "code": "x", "tags": [{"n": 1}, {"n": 2}]}))
    apply(node, (capital, {"id": "ABC", "code": "y", "tags": [{"n": 2}]}), (small, None))
    assert node.execute("SELECT id, code FROM things") == [("ABC", "y")]
    assert node.execute("SELECT thing, n FROM tags") == [("ABC", 2)]
    assert {(c.item, c.gone) for c in node.changes()} == {(small, True), (capital, False)}


def test_a_record_set_does_not_take_records_of_another(node: StoreWorld) -> None:
    """Whose filter the collation takes for its own."""
    name = "InformationRegister.Price"
    node.exchange = {name: TypeSettings(name, "prices", reference_data=True, filter=("product",))}
    installed(
        node, "CREATE TABLE prices (product VARCHAR(9) NOT NULL, n INTEGER, price INTEGER, PRIMARY KEY (product, n))"
    )

    def prices(product: str, *records: tuple[int, int]) -> tuple[Item, dict[str, Any]]:
        rows = [{"n": n, "price": price} for n, price in records]
        return Item(name, key_text([product])), {"Filter": {"product": product}, "Records": rows}

    apply(node, prices("a", (1, 10)))
    with pytest.raises(MessageError, match="collation"):
        apply(node, prices("A", (1, 11)))
    apply(node, prices("A", (2, 20)))
    apply(node, prices("A"), prices("a", (1, 10), (2, 21)))
    assert node.execute("SELECT product, n, price FROM prices ORDER BY n") == [("a", 1, 10), ("a", 2, 21)]


def test_a_change_of_case_alone_is_written(node: StoreWorld) -> None:
    """To the collation nothing differs."""
    installed(node, "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(9))")
    apply(node, (ONE, {"id": 1, "code": "a"}))
    apply(node, (ONE, {"id": 1, "code": "A"}))
    assert node.execute("SELECT code FROM things") == [("A",)]


# --- values ---------------------------------------------------------------------------------------------------------


VALUES = {
    "BIGINT UNSIGNED": ("18446744073709551615", "18446744073709551615"),
    "INT(6) ZEROFILL": ("42", 42),
    "TINYINT(1)": ("5", 5),
    "BOOLEAN": ("TRUE", True),
    "DECIMAL(30,10)": ("12345678901234567890.0000000001", "12345678901234567890.0000000001"),
    "FLOAT": ("0.1", 0.1),
    "DOUBLE": ("0.30000000000000004", 0.30000000000000004),
    "BIT(5)": ("b'101'", "00101"),
    "CHAR(5)": ("'ab'", "ab   "),
    "VARCHAR(9)": ("'ab '", "ab "),
    "VARCHAR(9) CHARACTER SET latin1": ("'é'", "é"),
    "ENUM('x','y''z')": ("'y''z'", "y'z"),
    "SET('p','q')": ("'p,q'", "p,q"),
    "TIME(3)": ("'-838:59:58.9'", "-838:59:58.9"),
    "TIME": ("'25:00:00'", "25:00:00"),
    "DATE": ("'0000-00-00'", "0000-00-00"),
    "DATETIME(6)": ("'2020-07-27 16:03:05.120000'", "2020-07-27T16:03:05.12"),
    "DATETIME": ("'0000-00-00 00:00:00'", "0000-00-00T00:00:00"),
    "YEAR": ("2026", 2026),
    "VARBINARY(9)": ("x'0001FF'", "AAH/"),
    "JSON": ('\'{"b": 1,  "a": [1.50]}\'', '{"b": 1,  "a": [1.50]}'),
    "INET6": ("'::1'", "::1"),
    "POINT": ("POINT(1, 2.5)", "POINT(1 2.5)"),
}


@pytest.mark.parametrize("native", VALUES)
def test_what_is_stored_travels_and_comes_back(node: StoreWorld, native: str) -> None:
    """In XML's lexical form, whatever the session's settings, and nothing is altered on the way back."""
    literal, lexical = VALUES[native]
    node.execute("SET sql_mode = 'ANSI_QUOTES,ALLOW_INVALID_DATES'")
    installed(node, f"CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code {native} NULL)")
    node.execute(f"INSERT INTO things VALUES (1, {literal}), (2, NULL)")
    assert node.changed() == {ONE, TWO}
    assert [node.value(item)["code"] for item in (ONE, TWO)] == [lexical, None]
    apply(node, (THREE, {"id": 3, "code": lexical}))
    assert node.value(THREE)["code"] == lexical
    stored = "hex(code)" if native == "POINT" else "hex(CAST(code AS CHAR))"
    assert node.execute(f"SELECT count(DISTINCT {stored}) FROM things WHERE code IS NOT NULL") == [(1,)]
    apply(node, (THREE, {"id": 3, "code": None}))
    assert node.value(THREE)["code"] is None


KEYS = {
    "BIGINT UNSIGNED": ("18446744073709551615", '["18446744073709551615"]'),
    "DECIMAL(10,3)": ("5.250", '["5.25"]'),
    "DECIMAL(5,0)": ("100", '["100"]'),
    "CHAR(5)": ("'ab'", '["ab   "]'),
    "BIT(5)": ("b'101'", '["00101"]'),
    "TIME": ("'25:00:00'", '["25:00:00"]'),
    "INT(6) ZEROFILL": ("42", "[42]"),
    "TINYINT(1)": ("1", "[true]"),
    "VARCHAR(9) CHARACTER SET latin1": ("'é'", '["é"]'),
    "DATETIME(3)": ("'2020-07-27 16:03:05.120'", '["2020-07-27T16:03:05.12"]'),
    "BINARY(3)": ("x'0001FF'", '["AAH/"]'),
    "ENUM('x','y')": ("'y'", '["y"]'),
}


@pytest.mark.parametrize("native", KEYS)
def test_keys_are_the_same_text_as_in_other_databases(node: StoreWorld, native: str) -> None:
    """The trigger's text, the message's and the row are one."""
    literal, key = KEYS[native]
    installed(node, f"CREATE TABLE things (id {native} NOT NULL PRIMARY KEY, code VARCHAR(9))")
    node.execute(f"INSERT INTO things VALUES ({literal}, 'x')")
    item = Item(THING, key)
    assert node.changed() == {item}
    assert [node.value(item)["id"]] == orjson.loads(key)
    apply(node, (item, {"id": orjson.loads(key)[0], "code": "y"}))
    assert node.execute("SELECT code FROM things") == [("y",)]
    apply(node, (item, None))
    assert node.execute("SELECT * FROM things") == []


def test_a_timestamp_is_a_moment_whatever_the_zone_of_the_session(node: StoreWorld) -> None:
    """In an application's own zone it would be another key than KOD's."""
    installed(node, "CREATE TABLE things (id TIMESTAMP(3) NOT NULL PRIMARY KEY, code TIMESTAMP NULL)")
    node.execute(
        "SET time_zone = '-07:00'", "INSERT INTO things VALUES ('2020-07-27 16:03:05.5', '2020-01-01 00:00:00')"
    )
    item = Item(THING, '["2020-07-27T23:03:05.5Z"]')
    assert node.changed() == {item}
    assert node.value(item) == {"id": "2020-07-27T23:03:05.5Z", "code": "2020-01-01T07:00:00Z"}
    apply(node, (item, {"id": "2020-07-27T23:03:05.5Z", "code": "2021-01-01T00:00:00Z"}))
    assert [str(t) for (t,) in node.execute("SELECT code FROM things")] == ["2020-12-31 17:00:00"]


@pytest.mark.parametrize(
    ("native", "value"),
    [
        ("DATETIME(3)", "2020-07-27T16:03:05.1234"),
        ("TIME", "10:00:00.5"),
        ("DECIMAL(5,1)", "1.25"),
        ("INTEGER", "1.5"),
        ("DOUBLE", "NaN"),
        ("DATE", "2020-07-27T16:03:05"),
        ("BINARY(4)", "AAH/"),
        ("VARCHAR(3)", "four"),
        ("TEXT", "x" * 70_000),
        ("VARCHAR(9) CHARACTER SET latin1", "Ж"),
        ("TINYINT UNSIGNED", 256),
        ("ENUM('x')", "y"),
        ("JSON", "{"),
        ("TIMESTAMP NULL", "2100-01-01T00:00:00Z"),
    ],
)
def test_what_the_column_would_round_or_cut_is_refused(node: StoreWorld, native: str, value: Any) -> None:
    """With the property's name, and without the value; several of these MariaDB does in silence."""
    installed(node, f"CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code {native})")
    with pytest.raises(MessageError, match="code") as raised:
        apply(node, (ONE, {"id": 1, "code": value}))
    assert str(value) not in raised.value.text.replace("code", "") or len(str(value)) < 3
    assert node.execute("SELECT * FROM things") == []


def test_a_text_that_is_longer_than_the_column_is_parked_whole(tmp_path: Path) -> None:
    """Where applications' sessions cut in silence: KOD's own are strict, whatever the server's default."""

    def make(code: str) -> StoreWorld:
        world = new_world("mariadb", code, tmp_path)
        made.append(world)
        return world

    made: list[StoreWorld] = []
    tree = Tree(make)
    try:
        child = tree.children["01"]
        child.execute("ALTER TABLE customers MODIFY name TEXT")
        text = "x" * 70_000
        tree.world.execute(f"INSERT INTO customers (customer_id, name) VALUES ('A', '{text}')")
        tree.send()
        tree.receive()
        assert child.execute("SELECT * FROM customers") == []
        (parked,) = child.database.parked()
        what = f"{CUSTOMER}: name: a value that is longer than the column"
        assert parked.reason == f'{CUSTOMER} ["A"] cannot be written: {what}'
        child.execute("ALTER TABLE customers MODIFY name LONGTEXT")
        tree.clock.ahead_ms += 60_000
        tree.receive()
        assert child.execute("SELECT name FROM customers") == [(text,)]
    finally:
        tree.close()
        for world in made:
            world.close()


# --- references without deferred checks -----------------------------------------------------------------------------


def test_rows_that_refer_to_their_own_table_and_must_are_written_in_order(node: StoreWorld) -> None:
    """NULL for the moment is not to be had; and they go in the opposite order."""
    installed(
        node,
        "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, parent INTEGER NOT NULL, "
        "FOREIGN KEY (parent) REFERENCES things (id))",
    )
    apply(node, (ONE, {"id": 1, "parent": 2}), (TWO, {"id": 2, "parent": 3}), (THREE, {"id": 3, "parent": 3}))
    assert node.execute("SELECT id, parent FROM things ORDER BY 1") == [(1, 2), (2, 3), (3, 3)]
    apply(node, (TWO, None), (ONE, None))
    assert node.execute("SELECT * FROM things") == [(3, 3)]  # which refers to itself: InnoDB lets nobody delete it


def test_a_circle_is_deleted_at_once(shop: StoreWorld) -> None:
    """Neither of two rows that refer to each other can go first."""
    shop.execute("DELETE FROM order_lines", "DELETE FROM orders")
    shop.execute(
        "UPDATE customers SET boss = 'B' WHERE customer_id = 'A'", "UPDATE customers SET boss = 'A' WHERE name = 'Bob'"
    )
    shop.changes()
    apply(shop, (ALICE, None), (BOB, None))
    assert shop.execute("SELECT * FROM customers") == []


def test_types_that_refer_to_each_other_are_written_together(node: StoreWorld) -> None:
    """A department has a head, who is in the department."""
    node.exchange["Catalog.Person"] = TypeSettings("Catalog.Person", "persons", reference_data=True)
    installed(
        node,
        "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, head INTEGER);\n"
        "CREATE TABLE persons (id INTEGER NOT NULL PRIMARY KEY, thing INTEGER NOT NULL REFERENCES things (id));\n"
        "ALTER TABLE things ADD FOREIGN KEY (head) REFERENCES persons (id)",
    )
    person = Item("Catalog.Person", "[7]")
    apply(node, (person, {"id": 7, "thing": 1}), (ONE, {"id": 1, "head": 7}))
    assert node.execute("SELECT head FROM things") == [(7,)]
    apply(node, (ONE, None), (person, None))
    assert node.execute("SELECT * FROM persons") == []


def test_a_unique_value_passes_from_a_deleted_item_to_a_new_one(node: StoreWorld) -> None:
    """REPLACE at another node evicts one row for another: both come in one message, which would wait for ever."""
    installed(node, "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(3) NOT NULL UNIQUE)")
    apply(node, (ONE, {"id": 1, "code": "a"}), (TWO, {"id": 2, "code": "b"}))
    apply(node, (THREE, {"id": 3, "code": "a"}), (ONE, None))
    apply(node, (THREE, {"id": 3, "code": "b"}), (TWO, {"id": 2, "code": "a"}))
    assert node.execute("SELECT id, code FROM things ORDER BY id") == [(2, "a"), (3, "b")]


# --- rights ---------------------------------------------------------------------------------------------------------


def again(world: StoreWorld) -> set[Item]:
    """All that waits to be looked at again."""
    found: set[Item] = set()
    more = True
    while more:
        with world.store.sending() as view:
            step = view.look_again(10)
            found.update(step.items)
            more = step.more
    return found


def with_access(world: StoreWorld, ddl: str, access: str) -> StoreWorld:
    """A node of two things whose rights `access` says."""
    world.exchange = {THING: TypeSettings(THING, "things", access=access)}
    installed(world, "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(9));\n" + ddl)
    world.execute("INSERT INTO things VALUES (1, 'a'), (2, 'b')")
    world.serve("01", "02")
    assert again(world) == set()
    return world


@pytest.mark.parametrize(
    ("statement", "noticed"),
    [
        ("UPDATE shops SET region = 2 WHERE region = 1", True),
        ("UPDATE regions SET id = 7 WHERE id = 1", True),
        ("UPDATE regions SET title = 'x'", False),
        ("DELETE FROM regions WHERE id = 2", True),
        ("UPDATE shops SET phone = '1'", False),
    ],
)
def test_rights_that_a_foreign_key_changes_by_itself_are_noticed(
    node: StoreWorld, statement: str, noticed: bool
) -> None:
    """InnoDB fires no trigger for it on the table that the view reads."""
    ddl = (
        "CREATE TABLE regions (id INTEGER NOT NULL PRIMARY KEY, title VARCHAR(9));\n"
        "CREATE TABLE shops (code VARCHAR(9) PRIMARY KEY, region INTEGER REFERENCES regions (id)"
        " ON UPDATE CASCADE ON DELETE SET NULL, phone VARCHAR(9));\n"
        "CREATE VIEW seen AS SELECT t.id, IF(s.region = 7, '01', '02') AS node, 'it''s `x`.`y` \\\\' AS why"
        " FROM things t JOIN shops s USING (code)"
    )
    with_access(node, ddl, "seen")
    node.execute(
        "INSERT INTO regions VALUES (1, ''), (2, '')", "INSERT INTO shops VALUES ('a', 1, NULL), ('b', 2, NULL)"
    )
    assert again(node) == {ONE, TWO}
    node.execute(statement)
    assert again(node) == ({ONE, TWO} if noticed else set())


def test_a_key_that_the_access_table_writes_otherwise_has_the_whole_type_looked_at(node: StoreWorld) -> None:
    """'1' and 1 are equal to the server, and two keys to us: a guess would look at an item that is none."""
    with_access(node, "CREATE TABLE seen (id VARCHAR(9), node VARCHAR(8))", "seen")
    node.execute("INSERT INTO seen VALUES ('1', '01')")
    assert again(node) == {ONE, TWO}
    with node.store.sending() as view:
        assert view.access([ONE, TWO]) == {ONE: {"01"}, TWO: frozenset()}


def test_rights_that_arrive_from_another_node_are_rights(node: StoreWorld) -> None:
    """An access table may travel itself: KOD's own writing is no change of an item, and one of rights."""
    node.exchange = {
        THING: TypeSettings(THING, "things", access="seen"),
        "Catalog.Seen": TypeSettings("Catalog.Seen", "seen", reference_data=True),
    }
    installed(
        node,
        "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(9));\n"
        "CREATE TABLE seen (number INTEGER NOT NULL PRIMARY KEY, id BIGINT, node VARCHAR(8))",
    )
    node.execute("INSERT INTO things VALUES (1, 'a'), (2, 'b')")
    node.serve("01", "02")
    apply(node, (Item("Catalog.Seen", "[5]"), {"number": 5, "id": 2, "node": "02"}))
    assert again(node) == {TWO}


def test_rights_are_noted_while_others_are_taken(node: StoreWorld) -> None:
    """No application waits for the sender, nor it for them; what is committed later is taken later."""
    with_access(node, "CREATE TABLE seen (id INTEGER, node VARCHAR(8))", "seen")
    node.execute("INSERT INTO seen VALUES (1, '01')")
    with node.transaction() as application:
        application.execute("INSERT INTO seen VALUES (2, '01')")
        with node.store.sending() as view:
            assert view.look_again(10).items == [ONE]
            node.execute("INSERT INTO seen VALUES (1, '02')")
    assert again(node) == {ONE, TWO}


# --- the server -----------------------------------------------------------------------------------------------------


def test_tables_without_transactions_are_named(node: StoreWorld) -> None:
    """A message would be applied in part."""
    installed(node, "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY) ENGINE = MyISAM")
    assert any("MyISAM" in m.text for m in node.database.check(node.structure()))

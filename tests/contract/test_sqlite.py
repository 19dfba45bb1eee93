"""What only SQLite does: values of any class in any column, one statement after another, a journal mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dispatcher.ports import Accepted
from schemas.errors import MessageError
from schemas.network import TypeSettings
from schemas.structure import Structure
from serializers.keys import Item
from serializers.message import Version
from tests.contract.store_world import FUTURE, StoreWorld, new_world

THING = "Catalog.Thing"
ONE, TWO, THREE = (Item(THING, f"[{n}]") for n in (1, 2, 3))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoreWorld]:
    """A node that exchanges one type; its table is the test's."""
    world = new_world("sqlite", "00", tmp_path, ddl="")
    world.exchange = {THING: TypeSettings(THING, "things", reference_data=True)}
    with closing(world):
        yield world


def installed(world: StoreWorld, ddl: str) -> StoreWorld:
    world.script(ddl)
    world.install()
    world.start("01", "02")
    return world


def apply(world: StoreWorld, *values: tuple[Item, dict[str, Any] | None]) -> None:
    """One message."""
    version = Version(FUTURE, "01.1")
    with world.store.receiving("01", forward=True, limited=frozenset()) as view:
        here = view.lock([item for item, _ in values])
        view.write(
            [Accepted(item, version, {}, value, existed=item in here and here[item].exists) for item, value in values]
        )


def thing(number: int, code: Any, **other: Any) -> dict[str, Any]:
    return {"id": number, "code": code, **other}


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", ["REAL", "DOUBLE PRECISION"])
@pytest.mark.parametrize(("number", "key"), [("1.5", "[1.5]"), ("2.0", "[2]"), ("-0.1", "[-0.1]"), ("1e14", None)])
def test_floating_point_keys_are_captured(node: StoreWorld, native: str, number: str, key: str | None) -> None:
    """The triggers' SQL was none: nothing could be installed."""
    installed(node, f"CREATE TABLE things (id {native} NOT NULL PRIMARY KEY, code TEXT)")
    node.execute(f"INSERT INTO things VALUES ({number}, 'x')")
    item = Item(THING, key or "[100000000000000]")
    assert node.changed() == {item}
    apply(node, (item, thing(1, "y") | {"id": float(number)}))
    assert node.execute("SELECT id, code FROM things") == [(float(number), "y")]
    apply(node, (item, None))
    assert node.execute("SELECT * FROM things") == []


def _decimal_key(structure: Structure) -> Structure:
    """As the package of a node with a NUMERIC column has it."""
    item_type = structure[THING]
    (key,) = item_type.key
    decimal = replace(key, prop=replace(key.prop, xml="decimal"))
    fields = tuple(decimal if f == key else f for f in item_type.fields)
    return replace(structure, types={THING: replace(item_type, key=(decimal,), fields=fields)})


@pytest.mark.parametrize("text", ["5", "5.0", "5.00", "5.250", "-0.5000", "12.345678"])
def test_decimal_keys_in_columns_of_text_are_found_however_they_are_spelled(node: StoreWorld, text: str) -> None:
    """The key has no zeros at its end, as in every other database; the row that has some was not found by it."""
    node.script("CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY, code TEXT)")
    structure = node.structure
    node.structure = lambda: _decimal_key(structure())  # type: ignore[method-assign]
    node.install()
    node.start("01")
    node.execute(f"INSERT INTO things VALUES ('{text}', 'x')")
    canonical = text.rstrip("0").rstrip(".") if "." in text else text
    item = Item(THING, f'["{canonical}"]')
    assert node.changed() == {item}
    assert node.value(item) == {"id": canonical, "code": "x"}
    apply(node, (item, {"id": canonical, "code": "y"}))
    assert node.execute("SELECT id, code FROM things") == [(text, "y")]
    apply(node, (item, None))
    assert node.execute("SELECT * FROM things") == []


# --- unique values --------------------------------------------------------------------------------------------------

UNIQUE = "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code {} UNIQUE)"


@pytest.mark.parametrize(
    "native", ["TEXT", "INTEGER NOT NULL", "TEXT NOT NULL", "VARCHAR(3) NOT NULL", "REAL NOT NULL"]
)
def test_a_unique_value_passes_from_a_deleted_item_to_a_new_one(node: StoreWorld, native: str) -> None:
    """INSERT OR REPLACE at another node evicts one row for another: both come in one message, which waited for ever."""
    installed(node, UNIQUE.format(native))
    value: Any = 7 if "INT" in native else 7.5 if "REAL" in native else "a"
    apply(node, (ONE, thing(1, value)))
    apply(node, (THREE, thing(3, value)), (ONE, None))
    assert node.execute("SELECT id, code FROM things") == [(3, value)]
    assert {(c.item, c.gone) for c in node.changes()} == {(ONE, True), (THREE, False)}


@pytest.mark.parametrize("table_options", ["", " STRICT", " WITHOUT ROWID"])
@pytest.mark.parametrize("native", ["INTEGER", "TEXT", "REAL", "BLOB"])
def test_unique_values_that_must_not_be_empty_are_exchanged(node: StoreWorld, native: str, table_options: str) -> None:
    """NULL cannot be put there for the moment; and a STRICT table takes only values of the column's class."""
    installed(node, UNIQUE.format(f"{native} NOT NULL") + table_options)
    first, second = {"INTEGER": (7, 8), "TEXT": ("a", "b"), "REAL": (7.5, 8.5), "BLOB": ("AAH/", "AAAA")}[native]
    apply(node, (ONE, thing(1, first)), (TWO, thing(2, second)))
    apply(node, (ONE, thing(1, second)), (TWO, thing(2, first)))
    assert node.value(ONE) == thing(1, second)
    assert node.value(TWO) == thing(2, first)


def test_values_pass_on_in_a_chain_with_a_deletion_and_an_insertion(node: StoreWorld) -> None:
    """One goes, the next takes its value, a new one takes that one's; whatever else the row has stays."""
    installed(
        node,
        "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY, code TEXT NOT NULL, area INTEGER NOT NULL, "
        "UNIQUE (area, code))",
    )
    apply(node, (ONE, thing(1, "a", area=1)), (TWO, thing(2, "b", area=1)))
    apply(node, (THREE, thing(3, "b", area=1)), (TWO, thing(2, "a", area=1)), (ONE, None))
    assert node.execute("SELECT id, code, area FROM things ORDER BY id") == [(2, "a", 1), (3, "b", 1)]


def test_a_unique_value_of_a_deleted_items_section_passes_on(node: StoreWorld) -> None:
    """The section's rows go with their object, and that goes last."""
    node.exchange = {THING: TypeSettings(THING, "things", reference_data=True, sections={"tags": "tags"})}
    installed(
        node,
        "CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY);\n"
        "CREATE TABLE tags (id INTEGER NOT NULL REFERENCES things (id), n INTEGER NOT NULL, tag TEXT NOT NULL UNIQUE, "
        "PRIMARY KEY (id, n))",
    )
    apply(node, (ONE, {"id": 1, "tags": [{"n": 1, "tag": "x"}]}))
    apply(node, (TWO, {"id": 2, "tags": [{"n": 1, "tag": "x"}]}), (ONE, None))
    assert node.execute("SELECT id, n, tag FROM tags") == [(2, 1, "x")]


def test_a_row_is_detached_before_its_target_goes_also_where_values_pass_on(node: StoreWorld) -> None:
    """Deleted at once, the target would take the row along by ON DELETE CASCADE."""
    node.exchange["Catalog.Member"] = TypeSettings("Catalog.Member", "members", reference_data=True)
    installed(
        node,
        f"{UNIQUE.format('TEXT NOT NULL')};\n"
        "CREATE TABLE members (id INTEGER NOT NULL PRIMARY KEY, "
        "thing INTEGER REFERENCES things (id) ON DELETE CASCADE, note TEXT, secret TEXT)",
    )
    apply(node, (ONE, thing(1, "a")))
    node.execute("INSERT INTO members VALUES (5, 1, 'n', 's')")
    member = Item("Catalog.Member", "[5]")
    apply(node, (ONE, None), (TWO, thing(2, "a")), (member, {"id": 5, "thing": 2, "note": "n"}))
    assert node.execute("SELECT id, code FROM things") == [(2, "a")]
    assert node.execute("SELECT * FROM members") == [(5, 2, "n", "s")]


def test_rows_that_follow_a_unique_column_are_not_altered(node: StoreWorld) -> None:
    """ON UPDATE CASCADE would write the placeholder into rows of others, unstamped: then the message waits."""
    installed(
        node,
        f"{UNIQUE.format('TEXT')};\nCREATE TABLE members (id INTEGER PRIMARY KEY, "
        "code TEXT REFERENCES things (code) ON UPDATE CASCADE)",
    )
    apply(node, (ONE, thing(1, "a")))
    node.execute("INSERT INTO members VALUES (5, 'a')")
    with pytest.raises(MessageError, match="unique"):
        apply(node, (TWO, thing(2, "a")), (ONE, None))
    assert node.execute("SELECT * FROM members") == [(5, "a")]
    assert node.execute("SELECT id, code FROM things") == [(1, "a")]


@pytest.mark.parametrize("check", ["", " CHECK (length(code) = 1)"])
def test_a_value_that_somebody_else_has_is_still_refused(node: StoreWorld, check: str) -> None:
    """With the reason, also where a rule lets no other value in for the moment; and nothing stays of the attempt."""
    installed(node, UNIQUE.format(f"TEXT NOT NULL{check}"))
    apply(node, (ONE, thing(1, "a")), (TWO, thing(2, "b")))
    with pytest.raises(MessageError, match=r"things\.code already \(unique\)"):
        apply(node, (THREE, thing(3, "a")), (TWO, None))
    assert node.execute("SELECT id, code FROM things ORDER BY id") == [(1, "a"), (2, "b")]


# --- the journal mode -----------------------------------------------------------------------------------------------


def journal_mode(world: StoreWorld) -> str:
    with closing(world.connect()) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


@pytest.mark.parametrize("before", ["delete", "wal"])
def test_uninstall_gives_the_journal_mode_back(node: StoreWorld, before: str) -> None:
    """What install switched on goes with it; what the application chose stays."""
    node.execute("CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY)", f"PRAGMA journal_mode = {before}")
    node.install()
    node.install()
    assert journal_mode(node) == "wal"
    node.application.close()
    node.database.uninstall()
    assert journal_mode(node) == before


def test_uninstall_does_not_fail_where_the_application_has_the_file_open(node: StoreWorld) -> None:
    """SQLite lets nobody switch then."""
    node.execute("CREATE TABLE things (id INTEGER NOT NULL PRIMARY KEY)")
    node.install()
    node.execute("BEGIN", "SELECT * FROM things")
    node.database.uninstall()
    node.execute("COMMIT")
    assert not [name for _, name in node.objects() if name.startswith("kod")]
    assert journal_mode(node) == "wal"


# --- growth ---------------------------------------------------------------------------------------------------------


def test_no_statement_of_a_portion_walks_the_register(node: StoreWorld) -> None:
    """SQLite without statistics takes the primary key for a partial index: each portion walked all items of the type,
    and took the longer the more there were."""
    installed(node, "CREATE TABLE things (id INTEGER PRIMARY KEY, code TEXT, other INTEGER REFERENCES things)")
    connection = node.store._writer  # type: ignore[attr-defined]
    statements: set[str] = set()
    connection.set_trace_callback(statements.add)
    node.execute("INSERT INTO things VALUES (1, 'a', NULL), (2, 'b', 1)")
    for _ in range(2):
        with node.store.sending() as view:
            view.fold()
            changes = view.portion(0, 100)
            items = [change.item for change in changes]
            assert len(list(view.contents(items))) == 2
            assert view.ties(items, after=0, node="01", limited=frozenset())
        node.serve("01", "02")
        node.execute("UPDATE things SET code = 'c'")
    connection.set_trace_callback(None)
    of_register = [sql for sql in statements if "kod_register" in sql and not sql.startswith("--")]
    plans = [(step, sql) for sql in of_register for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    walking = ("SCAN kod_register", "SCAN g", "USING PRIMARY KEY (type=?)")
    assert len(plans) > len(of_register)
    assert [sql for step, sql in plans if any(walk in step for walk in walking)] == []

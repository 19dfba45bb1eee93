"""Capture: whatever an application writes, and however, is stamped in its own transaction; nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serializers.keys import Item
from tests.contract.store_world import CUSTOMER, FILE, ORDER, PRICE, RATE, WORD, StoreWorld

ALICE, BOB = Item(CUSTOMER, '["A"]'), Item(CUSTOMER, '["B"]')
FIRST, SECOND = Item(ORDER, "[1]"), Item(ORDER, "[2]")


@pytest.fixture
def shop(world: StoreWorld) -> StoreWorld:
    """Two customers, two orders with lines and a note; all of it folded."""
    world.execute(
        "INSERT INTO customers (customer_id, name, nick) VALUES ('A', 'Alice', 'al'), ('B', 'Bob', 'bo')",
        "INSERT INTO orders VALUES (1, 'A', 'first'), (2, 'B', 'second')",
        "INSERT INTO order_lines VALUES (1, 1, 5, NULL), (1, 2, 6, NULL), (2, 1, 7, NULL)",
        "INSERT INTO order_notes VALUES ('n', 1, 'note')",
    )
    world.changes()
    return world


def test_insert_update_and_delete_are_stamped(world: StoreWorld) -> None:
    """The least that capture has to do."""
    world.execute("INSERT INTO customers (customer_id) VALUES ('A'), ('B')")
    assert world.changed() == {ALICE, BOB}
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'A'")
    assert world.changed() == {ALICE}
    world.execute("DELETE FROM customers WHERE customer_id = 'A'")
    (change,) = world.changes()
    assert (change.item, change.gone) == (ALICE, True)


def test_a_change_that_is_rolled_back_leaves_no_stamp(world: StoreWorld) -> None:
    """Or an item would travel that never was."""
    connection = world.connect()
    connection.execute("BEGIN")
    connection.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    connection.execute("ROLLBACK")
    connection.close()
    assert not world.store.has_changes()
    assert world.changed() == set()


def test_a_change_of_key_is_a_deletion_and_an_insertion(shop: StoreWorld) -> None:
    """Or the old item would live on at the other nodes."""
    shop.execute("INSERT INTO customers (customer_id) VALUES ('C')")
    shop.changes()
    shop.execute("UPDATE customers SET customer_id = 'D' WHERE customer_id = 'C'")
    assert {(c.item.key, c.gone) for c in shop.changes()} == {('["C"]', True), ('["D"]', False)}


def test_an_object_has_one_stamp_however_many_of_its_rows_change(shop: StoreWorld) -> None:
    """Or an order of a thousand lines would travel a thousand times."""
    shop.execute("UPDATE order_lines SET qty = qty + 1", "UPDATE orders SET title = 'x' WHERE order_id = 1")
    assert sorted(c.item for c in shop.changes()) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO order_lines VALUES (1, 3, 1, NULL)",
        "UPDATE order_lines SET qty = 9 WHERE order_id = 1 AND line = 1",
        "DELETE FROM order_lines WHERE order_id = 1 AND line = 1",
        "DELETE FROM order_notes",
    ],
)
def test_a_section_row_stamps_its_object(shop: StoreWorld, statement: str) -> None:
    """Sections have no life of their own: the object is what changed."""
    shop.execute(statement)
    assert shop.changed() == {FIRST}


def test_a_section_row_that_moves_stamps_both_objects(shop: StoreWorld) -> None:
    """Or the object that lost it would keep it elsewhere."""
    shop.execute("UPDATE order_notes SET order_id = 2 WHERE note_id = 'n'")
    assert shop.changed() == {FIRST, SECOND}


def test_a_section_row_without_object_belongs_to_nobody(shop: StoreWorld) -> None:
    """A NULL link is no key, and must not stop the application either."""
    shop.execute("INSERT INTO order_notes VALUES ('m', NULL, 'loose')")
    assert shop.changed() == set()
    shop.execute("UPDATE order_notes SET order_id = 2 WHERE note_id = 'm'")
    assert shop.changed() == {SECOND}


def test_a_cascade_is_stamped(shop: StoreWorld) -> None:
    """What the database deletes by itself is deleted too."""
    shop.execute("DELETE FROM orders WHERE order_id = 1")
    assert {(c.item, c.gone) for c in shop.changes()} == {(FIRST, True)}


def test_an_upsert_is_stamped(shop: StoreWorld) -> None:
    """ON CONFLICT DO UPDATE is how most programs synchronise."""
    standard = "ON CONFLICT (customer_id) DO UPDATE SET name = excluded.name"
    own = "ON DUPLICATE KEY UPDATE name = VALUES(name)" if shop.dialect == "mariadb" else standard
    shop.execute(f"INSERT INTO customers (customer_id, name) VALUES ('A', 'x') {own}")
    assert shop.changed() == {ALICE}
    assert shop.value(ALICE)["name"] == "x"


def test_truncate_is_stamped(shop: StoreWorld) -> None:
    """TRUNCATE fires no row triggers."""
    if shop.dialect == "mariadb":
        pytest.skip("TRUNCATE fires no trigger in MariaDB: documented, docs/how-to/mariadb.md")
    if shop.dialect == "sqlite":
        shop.execute("DELETE FROM order_lines")  # SQLite's truncate optimisation is off where there are triggers
    else:
        shop.execute("TRUNCATE order_lines")
    assert shop.changed() == {FIRST, SECOND}
    if shop.dialect == "postgresql":
        shop.execute("TRUNCATE customers CASCADE")
        assert {(c.item, c.gone) for c in shop.changes()} >= {(ALICE, True), (BOB, True), (FIRST, True)}


def test_a_row_that_replace_evicts_is_stamped(shop: StoreWorld) -> None:
    """SQLite removes it without a DELETE trigger; it would live on elsewhere, and clash there with the new one."""
    if shop.dialect != "sqlite":
        pytest.skip("REPLACE is SQLite's own")
    shop.execute("DELETE FROM order_lines", "DELETE FROM order_notes", "DELETE FROM orders")
    shop.changes()
    shop.execute("PRAGMA recursive_triggers = OFF")
    shop.execute("INSERT OR REPLACE INTO customers (customer_id, nick) VALUES ('C', 'al')")
    assert {(c.item.key, c.gone) for c in shop.changes()} == {('["A"]', True), ('["C"]', False)}
    shop.execute("UPDATE OR REPLACE customers SET nick = 'bo' WHERE customer_id = 'C'")
    assert {(c.item.key, c.gone) for c in shop.changes()} == {('["B"]', True), ('["C"]', False)}
    shop.execute("INSERT OR REPLACE INTO customers (customer_id, nick) VALUES ('C', 'new')")
    assert {(c.item.key, c.gone) for c in shop.changes()} == {('["C"]', False)}


def test_a_section_row_that_replace_takes_from_another_object_stamps_both(shop: StoreWorld) -> None:
    """Its key is its own: the object that had it has to lose it elsewhere too."""
    if shop.dialect != "sqlite":
        pytest.skip("REPLACE is SQLite's own")
    shop.execute("INSERT OR REPLACE INTO order_notes VALUES ('n', 2, 'mine')")
    assert shop.changed() == {FIRST, SECOND}


def test_a_record_set_is_stamped_as_a_whole_where_it_was_and_where_it_is(world: StoreWorld) -> None:
    """A record that moves changes two sets; neither is ever gone, an empty one is a value."""
    april, may = Item(PRICE, '["P","2026-04-01"]'), Item(PRICE, '["P","2026-05-01"]')
    world.execute(
        "INSERT INTO prices VALUES ('P', '2026-04-01', 'EUR', 1.5), ('P', '2026-04-01', 'USD', 2), "
        "('P', '2026-05-01', 'EUR', 3)"
    )
    assert {(c.item, c.gone) for c in world.changes()} == {(april, False), (may, False)}
    world.execute("UPDATE prices SET period = '2026-05-01' WHERE currency = 'USD'")
    assert world.changed() == {april, may}
    world.execute("DELETE FROM prices WHERE period = '2026-04-01'")
    assert {(c.item, c.gone) for c in world.changes()} == {(april, False)}
    assert world.value(april) == {"Filter": {"product": "P", "period": "2026-04-01"}, "Records": []}


def test_null_in_a_filter_is_a_set_of_its_own(world: StoreWorld) -> None:
    """NULL matches NULL there; anywhere else in SQL it would not."""
    world.execute("INSERT INTO rates VALUES (1, NULL, 5), (2, NULL, 6), (3, '', 7)")
    nothing, empty = Item(RATE, "[null]"), Item(RATE, '[""]')
    assert world.changed() == {nothing, empty}
    assert [r["rate"] for r in world.value(nothing)["Records"]] == [5, 6]
    assert [r["rate"] for r in world.value(empty)["Records"]] == [7]
    world.execute("UPDATE rates SET region = 'north' WHERE rate_id = 1")
    assert world.changed() == {nothing, Item(RATE, '["north"]')}


def test_names_are_any_names(world: StoreWorld) -> None:
    """Cyrillic, reserved words, spaces: they are quoted everywhere."""
    world.execute("""INSERT INTO "order" VALUES ('Ж"1', 7, 'текст')""")
    (change,) = world.changes()
    assert change.item == Item(WORD, '["Ж\\"1",7]')
    assert world.value(change.item) == {"ключ": 'Ж"1', "select": 7, "два слова": "текст"}


@pytest.mark.parametrize("text", ["", "a\nb\tc", "\x01\x1f\x7f", '"\\/', "Ж\u2028😀", "O''Reilly"])
def test_keys_are_the_same_bytes_everywhere(world: StoreWorld, text: str) -> None:
    """Registers, triggers and Python compare keys as text: orjson is the measure."""
    from serializers.keys import key_text

    plain = text.replace("''", "'")
    world.execute(f"INSERT INTO customers (customer_id) VALUES ('{text}')")
    assert world.changed() == {Item(CUSTOMER, key_text([plain]))}
    assert world.value(Item(CUSTOMER, key_text([plain])))["customer_id"] == plain


def test_a_column_that_does_not_travel_stamps_nothing(shop: StoreWorld) -> None:
    """An excluded column is the application's own business."""
    shop.execute("UPDATE customers SET secret = 'x'")
    assert shop.changed() == set()
    assert "secret" not in shop.value(ALICE)


def test_what_kod_applies_is_not_captured(world: StoreWorld) -> None:
    """Or every change would come back as a new one of this node."""
    world.receive({"customer_id": "A", "name": "x", "boss": None, "nick": None}, CUSTOMER, stamp=5)
    (change,) = world.changes()
    assert (change.item, change.version.origin, change.source) == (ALICE, "01.1", "01")
    world.execute("UPDATE customers SET name = 'y'")  # and the application still is
    (change,) = world.changes()
    assert change.source is None


def test_install_is_idempotent_and_adapts(worlds: Callable[[str], StoreWorld]) -> None:
    """It runs at every upgrade; a table that was rebuilt has lost its triggers."""
    world = worlds("00")
    assert world.install() != ()
    before = world.objects()
    assert world.install() == ()
    assert world.objects() == before
    world.execute("ALTER TABLE customers ADD COLUMN extra TEXT")
    world.install()
    world.start("01")
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    assert world.changed() == {ALICE}
    world.execute("UPDATE customers SET extra = 'x'")
    assert world.changed() == {ALICE}
    assert world.value(ALICE)["extra"] == "x"


def test_a_store_does_not_start_without_its_triggers(world: StoreWorld) -> None:
    """A table that was rebuilt has lost them, silently: changes would be lost."""
    from schemas.errors import ConfigError

    if world.dialect == "sqlite":
        ((name,),) = world.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'rates' LIMIT 1"
        )
        world.execute(f'DROP TRIGGER "{name}"')
    elif world.dialect == "mariadb":
        ((name,), *_) = world.execute(
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_NAME LIKE 'kod%'"
        )
        world.execute(f"DROP TRIGGER {name}")
    else:
        ((name,),) = world.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'rates'::regclass AND NOT tgisinternal LIMIT 1"
        )
        world.execute(f'DROP TRIGGER "{name}" ON rates')
    with pytest.raises(ConfigError, match=r"(?i)trigger") as raised:
        world.start("01")
    assert "kod install" in raised.value.hint
    world.install()
    world.start("01")


def test_a_store_does_not_start_where_nothing_is_installed(worlds: Callable[[str], StoreWorld]) -> None:
    """The first mistake that people make; the hint says what to do."""
    from schemas.errors import ConfigError

    with pytest.raises(ConfigError) as raised:
        worlds("00").start("01")
    assert "kod install" in raised.value.hint


def test_uninstall_leaves_nothing(worlds: Callable[[str], StoreWorld]) -> None:
    """And the data."""
    world = worlds("00")
    before = world.objects()
    world.install()
    world.start("01")
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    world.changes()
    world.store.close()
    assert world.objects() != before
    world.database.uninstall()
    assert world.objects() == before
    world.execute("INSERT INTO customers (customer_id) VALUES ('B')")
    assert len(world.execute("SELECT * FROM customers")) == 2


def test_existing_rows_are_stamped_on_demand(worlds: Callable[[str], StoreWorld]) -> None:
    """In portions, once each; what has a stamp keeps it."""
    world = worlds("00")
    world.execute(
        "INSERT INTO customers (customer_id) VALUES ('A'), ('B'), ('C')",
        "INSERT INTO orders VALUES (1, 'A', 'x')",
        "INSERT INTO order_files VALUES ('f', 1, 'x')",
        "INSERT INTO prices VALUES ('P', '2026-04-01', 'EUR', 1), ('P', '2026-04-01', 'USD', 1)",
        "INSERT INTO rates VALUES (1, NULL, 5)",
    )
    world.install()
    world.start("01")
    assert world.changed() == set()
    world.execute("UPDATE customers SET name = 'x' WHERE customer_id = 'B'")
    (before,) = world.changes()
    told: list[tuple[str, int, int]] = []
    structure = world.structure()
    stamped = world.database.stamp_existing(structure, lambda *args: told.append(args), 2)
    assert stamped == 6
    assert told[-1][1] == told[-1][2]
    with world.store.sending() as view:
        assert view.mark_stamped(100) == 6
    changes = {c.item: c for c in world.changes()}
    assert set(changes) == {
        ALICE,
        Item(CUSTOMER, '["C"]'),
        FIRST,
        Item(FILE, '["f"]'),
        Item(PRICE, '["P","2026-04-01"]'),
        Item(RATE, "[null]"),
    }
    assert {c.version.origin for c in changes.values()} == {before.version.origin}
    assert world.database.stamp_existing(structure, lambda *args: None, 2) == 0
    assert world.changed() == set()


def test_the_stamps_can_be_read_by_others(world: StoreWorld) -> None:
    """The view is a promise: type, key as КОД writes it, 17 digits, deleted; unfolded changes are in it."""
    view = "kod.stamps" if world.dialect == "postgresql" else "kod_stamps"
    world.execute("INSERT INTO customers (customer_id) VALUES ('A')")

    def rows() -> list[tuple[str, str, str, bool]]:
        return [(t, k, s, bool(d)) for t, k, s, d in world.execute(f'SELECT type, "key", stamp, deleted FROM {view}')]

    ((kind, key, stamp, deleted),) = rows()
    assert (kind, key, deleted) == (CUSTOMER, '[{"string":"A"}]', False)
    assert len(stamp) == 17
    assert stamp.isdigit()
    world.changes()
    assert [row[:2] for row in rows()] == [(CUSTOMER, '[{"string":"A"}]')]
    world.execute("DELETE FROM customers")
    ((_, _, later, deleted),) = rows()
    assert deleted
    assert later > stamp
    world.changes()
    assert rows()[0][3]

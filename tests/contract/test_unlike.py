"""Tables that differ from the package: what has no place is kept, also of rows; a view is written and noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.network import TypeSettings
from schemas.stamp import Stamp
from schemas.structure import Structure
from serializers.keys import Item
from tests.contract.store_world import ORDER, PRICE, StoreWorld

CLIENT = "Catalog.Client"


def narrow(world: StoreWorld, type_name: str, columns: Mapping[str, str]) -> None:
    """The node's tables lack some columns of the package's: mapped to what is not there."""
    package = generate_package(world.exchange, world.database.reflect(tables_needed(world.exchange.values())))
    settings = world.exchange[type_name]
    world.exchange = {**world.exchange, type_name: replace(settings, columns={**settings.columns, **columns})}

    def structure() -> Structure:
        tables = world.database.reflect(tables_needed(world.exchange.values()))
        return compile_structure(package, world.exchange, tables)

    world.structure = structure  # type: ignore[method-assign]


PERIOD = {"product": "tea", "period": "2026-11-01"}
SET = Item(PRICE, '["tea","2026-11-01"]')


def prices(*records: tuple[str, str | None, str | None]) -> dict[str, Any]:
    """Records of one set: currency, price, who set it."""
    return {
        "Filter": PERIOD,
        "Records": [{"currency": c, "price": p, **({} if by is None else {"set_by": by})} for c, p, by in records],
    }


def test_what_a_record_has_no_column_for_is_kept_and_goes_on(worlds: Callable[[str], StoreWorld]) -> None:
    """It would be cut for the nodes behind; and a change made here would empty it everywhere."""
    world = worlds("00")
    narrow(world, PRICE, {"price": "no_such_column"})
    world.install()
    world.start("01", "02")
    value = {"Filter": PERIOD, "Records": [{"currency": c, "price": p} for c, p in (("EUR", "1.25"), ("RUB", "2.25"))]}
    world.receive(value, PRICE, stamp=100)
    assert world.execute("SELECT currency, price FROM prices ORDER BY 1") == [("EUR", None), ("RUB", None)]
    assert world.value(SET) == value
    world.execute("DELETE FROM prices WHERE currency = 'EUR'")
    world.execute("INSERT INTO prices (product, period, currency) VALUES ('tea', '2026-11-01', 'USD')")
    assert SET in world.changed()
    assert world.value(SET) == {
        "Filter": PERIOD,
        "Records": [{"currency": "RUB", "price": "2.25"}, {"currency": "USD"}],
    }


def test_what_a_newer_node_says_of_a_record_is_kept_by_the_record(worlds: Callable[[str], StoreWorld]) -> None:
    """A property that the package here does not know: absent in a later version it stays, with a record it goes."""
    world = worlds("00")
    world.install()
    world.start("01", "02")
    world.receive(prices(("EUR", "1.25", "Olga"), ("RUB", "2.25", "Pavel"), ("USD", "3.25", None)), PRICE, stamp=100)
    assert world.value(SET) == prices(("EUR", "1.25", "Olga"), ("RUB", "2.25", "Pavel"), ("USD", "3.25", None))
    world.receive(prices(("EUR", "1.75", None), ("USD", "3.25", "Rita")), PRICE, stamp=200)
    assert world.value(SET) == prices(("EUR", "1.75", "Olga"), ("USD", "3.25", "Rita"))
    world.receive({"Filter": PERIOD, "Records": []}, PRICE, stamp=300)
    world.receive(prices(("EUR", "2.25", None)), PRICE, stamp=400)
    assert world.value(SET) == prices(("EUR", "2.25", None))


def test_what_a_sections_row_has_no_column_for_is_kept_and_goes_on(worlds: Callable[[str], StoreWorld]) -> None:
    """By the row's own key, whatever else of the object changes here."""
    world = worlds("00")
    narrow(world, ORDER, {"lines.qty": "no_such_column", "title": "nor_this"})
    world.install()
    world.start("01", "02")
    lines = [{"line": n, "qty": 10 * n, "customer_id": None} for n in (1, 2, 3)]
    value = {"order_id": 1, "customer_id": None, "title": "first", "lines": lines, "notes": []}
    world.receive(value, ORDER, stamp=100)
    assert world.execute("SELECT line, qty FROM order_lines ORDER BY 1") == [(1, None), (2, None), (3, None)]
    assert world.value(Item(ORDER, "[1]")) == value
    world.execute("DELETE FROM order_lines WHERE line = 2")
    assert world.changed() == {(ORDER, "[1]")}
    assert world.value(Item(ORDER, "[1]")) == {**value, "lines": [lines[0], lines[2]]}


def test_what_is_kept_of_rows_does_not_make_equal_versions_collide(worlds: Callable[[str], StoreWorld]) -> None:
    """Only what both sides have is compared: a node that knows of fewer properties has the same."""
    from serializers.digest import same

    item_type = worlds("00").structure()[PRICE]
    known = prices(("EUR", "1.25", "Olga"), ("RUB", "2.25", "Pavel"))
    assert same(item_type, known, prices(("RUB", "2.250", None), ("EUR", "1.250", None)))
    assert not same(item_type, known, prices(("EUR", "1.25", "Olga"), ("RUB", "2.25", "Rita")))
    assert not same(item_type, known, prices(("EUR", "1.25", None)))


# --- views ----------------------------------------------------------------------------------------------------------

PARTNERS = """
CREATE TABLE partners (id VARCHAR(20) NOT NULL PRIMARY KEY, full_name TEXT, client INTEGER DEFAULT 0, note TEXT);
CREATE VIEW clients AS SELECT id AS client_id, full_name AS name FROM partners WHERE client = 1
"""
_BODIES = {
    "INSERT": "INSERT INTO partners (id, full_name, client) VALUES (NEW.client_id, NEW.name, 1);",
    "UPDATE": "UPDATE partners SET id = NEW.client_id, full_name = NEW.name WHERE id = OLD.client_id;",
    "DELETE": "DELETE FROM partners WHERE id = OLD.client_id;",
}


def instead_of(dialect: str) -> list[str]:
    """The application's triggers on the view; MariaDB has none: there the server writes what it can."""
    if dialect == "sqlite":
        return [f"CREATE TRIGGER instead_{e} INSTEAD OF {e} ON clients BEGIN {body} END" for e, body in _BODIES.items()]
    if dialect == "mariadb":
        return ["ALTER TABLE partners ALTER COLUMN client SET DEFAULT 1"]
    return [
        statement
        for e, body in _BODIES.items()
        for statement in (
            f"CREATE FUNCTION instead_{e}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {body} RETURN {'OLD' if e == 'DELETE' else 'NEW'}; END $$",
            f"CREATE TRIGGER instead_{e} INSTEAD OF {e} ON clients FOR EACH ROW EXECUTE FUNCTION instead_{e}()",
        )
    ]


@pytest.fixture
def clients(worlds: Callable[[str], StoreWorld]) -> StoreWorld:
    """Clients are a view of the partners; an order of theirs refers to the partners' table."""
    world = worlds("00")
    world.script(PARTNERS)
    world.execute(*instead_of(world.dialect))
    world.execute(
        "CREATE TABLE deals (deal_id INTEGER NOT NULL PRIMARY KEY, client VARCHAR(20) REFERENCES partners (id))"
    )
    settings = TypeSettings(CLIENT, "clients", reference_data=True, view_of={"partners": ("id",)})
    world.exchange = {
        **world.exchange,
        CLIENT: settings,
        "Document.Deal": TypeSettings("Document.Deal", "deals", reference_data=True),
    }
    described = TypeSettings(CLIENT, "people", reference_data=True)
    world.execute("CREATE TABLE people (client_id VARCHAR(20) NOT NULL PRIMARY KEY, name TEXT)")
    elsewhere = {**world.exchange, CLIENT: described}
    package = generate_package(elsewhere, world.database.reflect(tables_needed(elsewhere.values())))

    def structure() -> Structure:
        tables = world.database.reflect(tables_needed(world.exchange.values()))
        return compile_structure(package, world.exchange, tables)

    world.structure = structure  # type: ignore[method-assign]
    world.install()
    world.start("01", "02")
    return world


ANNA = Item(CLIENT, '["A"]')


def test_a_view_is_captured_whether_it_is_written_or_the_table_behind_it(clients: StoreWorld) -> None:
    """A view bears no triggers of ours: without those of its tables nothing that is written would travel."""
    clients.execute("INSERT INTO clients VALUES ('A', 'Anna')")
    assert clients.changed() == {ANNA}
    clients.execute("UPDATE clients SET name = 'Anya'")
    assert clients.changed() == {ANNA}
    clients.execute("UPDATE partners SET full_name = 'Anne'")
    (change,) = clients.changes()
    assert (change.item, change.gone) == (ANNA, False)
    assert clients.value(ANNA) == {"client_id": "A", "name": "Anne"}
    clients.execute("UPDATE partners SET id = 'B'")
    assert {(c.item.key, c.gone) for c in clients.changes()} == {('["A"]', True), ('["B"]', False)}
    clients.execute("DELETE FROM clients")
    assert [(c.item.key, c.gone) for c in clients.changes()] == [('["B"]', True)]


def test_a_row_that_leaves_the_view_is_deleted_and_one_that_was_never_in_it_is_none(clients: StoreWorld) -> None:
    """A supplier would else be a deletion at every node, again with each of his changes."""
    clients.execute("INSERT INTO partners (id, full_name, client) VALUES ('S', 'Supplier', 0), ('A', 'Anna', 1)")
    assert clients.changed() == {ANNA}
    clients.execute("UPDATE partners SET note = 'x' WHERE id = 'S'")
    clients.execute("DELETE FROM partners WHERE id = 'S'")
    assert clients.changed() == set()
    clients.execute("UPDATE partners SET client = 0")
    (change,) = clients.changes()
    assert (change.item, change.gone) == (ANNA, True)
    clients.execute("UPDATE partners SET client = 1")
    (change,) = clients.changes()
    assert (change.item, change.gone) == (ANNA, False)


def test_what_arrives_is_written_through_the_view_and_is_no_change_of_its_own(clients: StoreWorld) -> None:
    """The table's own columns stay; and the change would else go back as one of ours."""
    clients.receive({"client_id": "A", "name": "Anna"}, CLIENT, stamp=100)
    clients.execute("UPDATE partners SET note = 'ours'")
    clients.changes()
    clients.receive({"client_id": "A", "name": "Anya"}, CLIENT, stamp=5_000_000_000_000)
    assert clients.execute("SELECT full_name, client, note FROM partners") == [("Anya", 1, "ours")]
    (change,) = clients.changes()
    assert (change.version.stamp, change.version.origin, change.source) == (Stamp(5_000_000_000_000), "01.1", "01")
    clients.receive(None, CLIENT, stamp=5_000_000_000_001, key='["A"]')
    assert clients.execute("SELECT * FROM partners") == []


def test_a_foreign_key_to_the_table_behind_a_view_is_a_reference_to_its_item(clients: StoreWorld) -> None:
    """Or a deal would travel ahead of its client."""
    clients.execute("INSERT INTO partners (id, client) VALUES ('A', 1)", "INSERT INTO deals VALUES (1, 'A')")
    clients.changes()
    with clients.store.sending() as view:
        (tie,) = view.ties([Item("Document.Deal", "[1]")], after=0, node="01", limited=frozenset())
    assert tie.target.item == ANNA
    with clients.store.receiving("01", forward=True, limited=frozenset()) as receiving:
        receiving.lock([ANNA])
        assert receiving.referred([ANNA], besides=[]) == {ANNA}


def test_rows_of_a_view_that_were_there_before_are_stamped(clients: StoreWorld) -> None:
    """And one that was never stamped is a deletion for the others when it leaves the view."""
    clients.database.uninstall()
    clients.execute("INSERT INTO partners (id, client) VALUES ('A', 1), ('B', 1), ('S', 0)")
    clients.install()
    clients.start("01")
    clients.execute("UPDATE partners SET client = 0 WHERE id = 'B'")
    clients.execute("UPDATE partners SET note = 'x' WHERE id = 'S'")
    assert [(c.item.key, c.gone) for c in clients.changes()] == [('["B"]', True)]
    assert clients.database.stamp_existing(clients.structure(), lambda *_: None, 10) == 1
    with clients.store.sending() as view:
        assert view.mark_stamped(10) == 1
    assert clients.changed() == {ANNA}

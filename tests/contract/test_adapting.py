"""What `kod install` makes of the registers where the structure has changed: the same in every database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from schemas.errors import ConfigError
from schemas.network import LookupSettings, NodeSettings, TypeSettings
from schemas.stamp import Stamp
from serializers.keys import Item
from serializers.message import Version
from tests.contract.store_world import CUSTOMER, EXCHANGE, ORDER, PRICE, StoreWorld

ALICE = Item(CUSTOMER, '["A"]')
GOODS = "Catalog.Goods"


def with_exchange(world: StoreWorld, **changes: TypeSettings | None) -> tuple[str, ...]:
    """Installs again with these types of the exchange changed (None: taken out), and starts the store again."""
    exchange = {**world.exchange, **{name.replace("_", "."): t for name, t in changes.items()}}
    world.exchange = {name: t for name, t in exchange.items() if t is not None}
    world.settings = NodeSettings(world.code, world.code, None, world.url, world.exchange)
    world.store.close()
    done = world.install()
    world.start("01", "02")
    return done


def prices(product: str, period: str, **price: str) -> dict[str, Any]:
    records = [{"currency": currency, "price": value} for currency, value in price.items()]
    return {"Filter": {"product": product, "period": period}, "Records": records}


# --- what was kept --------------------------------------------------------------------------------------------------


def test_what_was_kept_gets_into_the_column_that_is_there_now(world: StoreWorld) -> None:
    """The upgrade of this node: the newer property came before its column. Kept beside it, it would be there twice."""
    world.receive({"customer_id": "A", "name": "x", "colour": "red", "size": 7}, CUSTOMER, stamp=5)
    version = world.changes()[0].version
    world.execute("ALTER TABLE customers ADD COLUMN colour VARCHAR(20)")
    assert "1 items got what was kept for them" in with_exchange(world)
    assert world.execute("SELECT name, colour FROM customers") == [("x", "red")]
    assert world.changes() == []  # it is the same version, and the neighbours have it
    value = world.value(ALICE)
    assert (value["colour"], value["size"]) == ("red", 7)
    assert world.texts(ALICE)[0].count(b'"colour"') == 1  # type: ignore[union-attr]
    with world.store.sending() as view:
        assert view.register([ALICE])[ALICE].version == version
    world.receive({"customer_id": "A", "colour": "blue"}, CUSTOMER, stamp=6)
    assert world.value(ALICE)["colour"] == "blue"


def test_a_section_that_was_kept_gets_into_its_table(worlds: Callable[[str], StoreWorld]) -> None:
    """The same for rows: a node that had no table for a section gets one."""
    world = worlds("00")
    whole = EXCHANGE[ORDER]
    world.exchange = {**EXCHANGE, ORDER: replace(whole, sections={"lines": "order_lines"})}
    world.install()
    world.start("01", "02")
    notes = [{"note_id": "n1", "body": "x"}, {"note_id": "n2", "body": None}]
    world.receive({"order_id": 1, "title": "t", "lines": [], "notes": notes}, ORDER, stamp=5)
    with_exchange(world, Document_Order=whole)
    assert world.execute("SELECT note_id, order_id, body FROM order_notes ORDER BY 1") == [
        ("n1", 1, "x"),
        ("n2", 1, None),
    ]
    assert world.value(Item(ORDER, "[1]"))["notes"] == notes


def test_a_type_that_was_passed_on_gets_into_its_table(worlds: Callable[[str], StoreWorld]) -> None:
    """The node takes part now: what came before is there, and nobody has to send it again."""
    world = worlds("00")
    kept = {name: replace(EXCHANGE[name], takes_part=False) for name in (CUSTOMER, PRICE)}
    world.exchange = {**{n: EXCHANGE[n] for n in ("InformationRegister.Rate",)}, **EXCHANGE}
    package_of = world.structure  # with all types, from the tables
    whole = package_of()
    world.exchange = {**EXCHANGE, **kept}
    world.structure = lambda: replace(  # type: ignore[method-assign]
        whole,
        types={
            name: replace(t, table=None, fields=tuple(replace(f, column=None) for f in t.fields),
                          key=tuple(replace(f, column=None) for f in t.key), references=())
            if name in kept else t
            for name, t in whole.types.items()
        },
    )  # fmt: skip
    world.install()
    world.start("01", "02")
    world.receive({"customer_id": "A", "name": "x", "boss": None, "nick": None}, CUSTOMER, stamp=5)
    world.receive(prices("p", "2026-01-01", EUR="1.5", USD="2"), PRICE, stamp=6)
    assert world.execute("SELECT count(*) FROM customers") == [(0,)]
    world.structure = lambda: whole  # type: ignore[method-assign]
    with_exchange(world, **{name.replace(".", "_"): EXCHANGE[name] for name in kept})
    assert world.execute("SELECT customer_id, name FROM customers") == [("A", "x")]
    assert [c for (c,) in world.execute("SELECT currency FROM prices ORDER BY 1")] == ["EUR", "USD"]
    assert world.value(ALICE)["name"] == "x"


def test_a_type_that_is_passed_on_only_from_now_on_is_not_taken_for_deleted(world: StoreWorld) -> None:
    """The rows stay in their table, out of sight: read as an item without content they would go out as deletions."""
    world.execute("INSERT INTO customers (customer_id, name) VALUES ('A', 'x')")
    world.serve("01")
    whole = world.structure()
    world.structure = lambda: replace(  # type: ignore[method-assign]
        whole,
        types={
            name: replace(t, table=None, fields=tuple(replace(f, column=None) for f in t.fields),
                          key=tuple(replace(f, column=None) for f in t.key), references=())
            if name == CUSTOMER else t
            for name, t in whole.types.items()
        },
    )  # fmt: skip
    done = with_exchange(world, Catalog_Customer=replace(EXCHANGE[CUSTOMER], takes_part=False))
    assert any(text.startswith(f"{CUSTOMER} takes no part any more: 1 items") for text in done)
    assert world.changes() == []
    world.database.stamp_again([ALICE])
    assert [c.item for c in world.changes() if not c.gone] == []
    world.receive({"customer_id": "A", "name": "y"}, CUSTOMER, stamp=5)
    assert world.value(ALICE) == {"customer_id": "A", "name": "y"}
    assert world.execute("SELECT name FROM customers") == [("x",)]


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_type_goes_on_under_its_new_name(world: StoreWorld) -> None:
    """Versions, holders and the journal are the item's, whatever it is called."""
    world.receive({"customer_id": "A", "name": "x"}, CUSTOMER, stamp=5)
    world.serve("01", "02")
    renamed = replace(EXCHANGE[CUSTOMER], name=GOODS, formerly=(CUSTOMER,))
    done = with_exchange(world, Catalog_Customer=None, Catalog_Goods=renamed)
    assert f"{CUSTOMER} is {GOODS} from now on" in done
    assert world.changes() == []
    item = Item(GOODS, '["A"]')
    with world.store.sending() as view:
        assert view.register([item])[item].version == Version(Stamp(5), "01.1")
    world.execute("UPDATE customers SET name = 'y'")
    assert world.changed() == {item}


def test_a_type_that_left_the_exchange_leaves_nothing_to_be_sent(world: StoreWorld) -> None:
    """Nobody could say any more where it goes, or what it looks like."""
    world.execute(
        "INSERT INTO prices VALUES ('p', '2026-01-01', 'EUR', 1.5)", "INSERT INTO customers (customer_id) VALUES ('A')"
    )
    done = with_exchange(world, InformationRegister_Price=None)
    assert any(PRICE in text or "triggers" in text for text in done)
    assert world.changed() == {ALICE}
    assert world.execute("SELECT count(*) FROM prices") == [(1,)]


# --- filters --------------------------------------------------------------------------------------------------------

FINER = replace(EXCHANGE[PRICE], filter=("product", "period", "currency"))
COARSER = replace(EXCHANGE[PRICE], filter=("product",))


def test_a_finer_filter_keeps_the_versions(world: StoreWorld) -> None:
    """A part of a set in a version is the same wherever that version is: nodes need not agree anew."""
    world.receive(prices("p", "2026-01-01", EUR="1.5", USD="2"), PRICE, stamp=50, seen={"02.1": Stamp(7)})
    world.receive(prices("p", "2026-02-01", EUR="3"), PRICE, stamp=60)
    world.serve("01", "02")
    done = with_exchange(world, InformationRegister_Price=FINER)
    assert any("2 sets are 3 now" in text for text in done)
    changes = {c.item.key: (c.version, c.seen or {}, c.source) for c in world.changes()}
    assert changes == {
        '["p","2026-01-01","EUR"]': ((50, "01.1"), {"02.1": 7}, None),
        '["p","2026-01-01","USD"]': ((50, "01.1"), {"02.1": 7}, None),
        '["p","2026-02-01","EUR"]': ((60, "01.1"), {}, None),
    }
    value = world.value(Item(PRICE, '["p","2026-01-01","USD"]'))
    assert (value["Filter"]["currency"], len(value["Records"])) == ("USD", 1)
    world.execute("UPDATE prices SET price = 9 WHERE currency = 'USD'")
    (change,) = world.changes()
    assert (change.item.key, change.seen) == ('["p","2026-01-01","USD"]', {"01.1": 50, "02.1": 7})


def test_a_coarser_filter_makes_new_versions(world: StoreWorld) -> None:
    """Two nodes may put a set together from different versions of its parts: under one version that would stay."""
    world.receive(prices("p", "2026-01-01", EUR="1.5"), PRICE, stamp=50)
    world.receive(prices("p", "2026-02-01", EUR="3"), PRICE, stamp=60, origin="02.1")
    world.receive(prices("q", "2026-02-01", EUR="4"), PRICE, stamp=70)
    world.serve("01", "02")
    done = with_exchange(world, InformationRegister_Price=COARSER)
    assert any("3 sets are 2 now" in text for text in done)
    changes = {c.item.key: c for c in world.changes()}
    assert changes['["q"]'].version == (70, "01.1")
    assert changes['["p"]'].version.origin == world.store.origin
    assert changes['["p"]'].seen == {"01.1": 50, "02.1": 60}
    assert len(world.value(Item(PRICE, '["p"]'))["Records"]) == 2
    with closing(world.database):
        assert with_exchange(world) == ()  # all of it is there


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        (("product", "period", "currency"), ['["p","2026-01-01","EUR"]', '["p","2026-01-01","USD"]']),
        (("product",), ['["p"]', '["p"]']),
        (("currency", "period"), ['["EUR","2026-01-01"]', '["USD","2026-01-01"]']),
    ],
)
def test_what_is_kept_of_rows_follows_them_into_the_new_sets(
    world: StoreWorld, filters: tuple[str, ...], keys: list[str]
) -> None:
    """A property of records for which this node has no column would be lost on its way through it."""
    records = [{"currency": c, "price": "1.50", "note": f"of {c}"} for c in ("EUR", "USD")]
    for period in ("2026-01-01", "2026-02-01"):
        world.receive(
            {"Filter": {"product": "p", "period": period}, "Records": records if "01-01" in period else records[:1]},
            PRICE,
            stamp=50,
        )
    with_exchange(world, InformationRegister_Price=replace(EXCHANGE[PRICE], filter=filters))
    for currency, key in zip(("EUR", "USD"), keys, strict=True):
        value = world.value(Item(PRICE, key))
        notes = {row.get("note") for row in value["Records"] if {**value["Filter"], **row}["currency"] == currency}
        assert notes == {f"of {currency}"}


def test_what_was_kept_as_it_travels_is_not_put_into_columns_of_another_form(world: StoreWorld) -> None:
    """A name from the wire in a column of keys would say something else, or nothing."""
    world.receive({"customer_id": "A", "name": "x", "state": "new"}, CUSTOMER, stamp=5)
    world.store.close()
    world.execute(
        "CREATE TABLE states (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(20))",
        "INSERT INTO states VALUES (7, 'new')",
        "ALTER TABLE customers ADD COLUMN state INTEGER",
    )
    looked_up = replace(EXCHANGE[CUSTOMER], enums={"state": LookupSettings("states", "code")})
    with pytest.raises(ConfigError, match=r"Catalog.Customer: state was kept as it travels") as refused:
        with_exchange(world, Catalog_Customer=looked_up)
    assert "take the type out of nodes.yaml for one `kod install`" in str(refused.value.hint)
    assert world.execute("SELECT state FROM customers") == [(None,)]
    with_exchange(world, Catalog_Customer=None)
    with_exchange(world, Catalog_Customer=looked_up)
    world.receive({"customer_id": "A", "name": "x", "state": 7}, CUSTOMER, stamp=6)
    assert world.execute("SELECT state FROM customers") == [(7,)]


def test_a_change_that_was_not_folded_is_one_of_the_new_set(world: StoreWorld) -> None:
    """It stands in the log under the old key: folded later it would be nobody's."""
    world.receive(prices("p", "2026-01-01", EUR="1.5", USD="2"), PRICE, stamp=50)
    world.serve("01", "02")
    world.execute(
        "UPDATE prices SET price = 8 WHERE currency = 'EUR'", "INSERT INTO prices VALUES ('z', '2026-01-01', 'EUR', 1)"
    )
    with_exchange(world, InformationRegister_Price=FINER)
    versions = {c.item.key: c.version for c in world.changes()}
    assert versions.keys() == {f'["{p}","2026-01-01","{c}"]' for p, c in (("p", "EUR"), ("p", "USD"), ("z", "EUR"))}
    assert {version.origin for version in versions.values()} == {world.store.origin}


def test_holders_and_tombstones_follow_the_new_keys(world: StoreWorld) -> None:
    """Who holds a set keeps getting it, although no rule sends it there any more."""
    world.receive(prices("p", "2026-01-01", EUR="1.5", USD="2"), PRICE, stamp=50)
    with world.store.sending() as view:
        view.fold()
        view.hold({"02": {Item(PRICE, '["p","2026-01-01"]'): None}})
        view.open_session(Stamp(100))
    with_exchange(world, InformationRegister_Price=FINER)
    found = [Item(PRICE, f'["p","2026-01-01","{c}"]') for c in ("EUR", "USD")]
    with world.store.sending() as view:
        assert view.holders(found) == {item: frozenset({"02"}) for item in found}


def test_a_renamed_column_of_a_filter_is_the_same_filter(world: StoreWorld) -> None:
    """Keys are values: nothing has to be sent again."""
    world.receive(prices("p", "2026-01-01", EUR="1.5"), PRICE, stamp=50)
    world.serve("01", "02")
    world.store.close()
    world.database.close()
    world.execute("ALTER TABLE prices RENAME COLUMN product TO goods")
    with_exchange(world, InformationRegister_Price=replace(EXCHANGE[PRICE], columns={"product": "goods"}))
    assert world.changes() == []
    assert world.value(Item(PRICE, '["p","2026-01-01"]'))["Filter"] == {"product": "p", "period": "2026-01-01"}


def test_registers_are_not_rekeyed_under_a_running_daemon(world: StoreWorld) -> None:
    """It knows the sets by their old keys, and would go on to write them."""
    world.store.close()
    with world.database.daemon_lock("00"), closing(_again(world)) as other:
        other.exchange = {**EXCHANGE, PRICE: FINER}
        other.settings = NodeSettings("00", "00", None, world.url, other.exchange)
        with pytest.raises(ConfigError, match="already running"):
            other.install()


def test_an_object_with_another_key_is_refused(world: StoreWorld) -> None:
    """Its registers say nothing of the new one."""
    whole = world.structure()
    order = whole[ORDER]
    other = replace(order, key=order.fields[:2])
    world.structure = lambda: replace(whole, types={**whole.types, ORDER: other})  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="another key is another object"):
        world.install()


def _again(world: StoreWorld) -> StoreWorld:
    """The same node, as another process has it."""
    made = StoreWorld.__new__(StoreWorld)
    made.__dict__.update(world.__dict__)
    from node.databases import open_database

    made.database = open_database(world.url)
    made._stores = []
    made.application = world.connect()
    made.close = lambda: (made.database.close(), made.application.close())  # type: ignore[method-assign,assign,return-value]
    return made

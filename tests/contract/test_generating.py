"""`kod schema generate` from each database: all that travels, valid for others, the same bytes for the same tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import xmlschema
from lxml import etree

from schemas.compilation import compile_structure, generate_package
from schemas.network import TypeSettings
from schemas.xsd import read_xsd, write_xsd
from tests.contract.conftest import DIALECTS
from tests.contract.store_world import StoreWorld, new_world

PRODUCTS = """CREATE TABLE products (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL, price DECIMAL(15,2),
    parent_id INTEGER REFERENCES products (id), added TIMESTAMP NULL, weight DOUBLE PRECISION, photo {bytes})"""
ORDERS = "CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, note VARCHAR(200), payer VARCHAR(50))"
LINES = """CREATE TABLE order_lines (order_id BIGINT NOT NULL REFERENCES orders (id), line INTEGER NOT NULL,
    product_id INTEGER REFERENCES products (id), quantity DECIMAL(12,3) NOT NULL, PRIMARY KEY (order_id, line))"""
PRICES = """CREATE TABLE prices (product_id INTEGER NOT NULL REFERENCES products (id), period DATE NOT NULL,
    kind VARCHAR(20) NOT NULL, price DECIMAL(15,2), PRIMARY KEY (product_id, period, kind))"""
SETTINGS = """CREATE TABLE settings (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(20), value VARCHAR(200))"""
EXCHANGE = {
    t.name: t
    for t in (
        TypeSettings("Catalog.Product", "products", reference_data=True),
        TypeSettings("Document.Order", "orders", sections={"lines": "order_lines"}),
        TypeSettings("InformationRegister.Price", "prices", filter=("product_id", "period"), reference_data=True),
        TypeSettings("Справочник.Настройка", "settings", reference_data=True, columns={"имя": "name"}),
    )
}
Make = Callable[[tuple[str, ...]], StoreWorld]


@pytest.fixture(params=DIALECTS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def made(tables: tuple[str, ...]) -> StoreWorld:
        own = {"bytes": "BYTEA" if request.param == "postgresql" else "BLOB"}
        ddl = ";\n".join(table.replace("{bytes}", own["bytes"]) for table in tables)
        world = new_world(request.param, "00", tmp_path, ddl=ddl)
        request.addfinalizer(world.close)
        return world

    return made


def _generated(world: StoreWorld) -> bytes:
    tables = world.database.reflect([t for s in EXCHANGE.values() for t in (s.table, *s.sections.values())])
    package = generate_package(EXCHANGE, tables)
    read = read_xsd(write_xsd(package))
    assert [m for m in compile_structure(read, EXCHANGE, tables).mismatches if m.effect != "will be cut"] == []
    return write_xsd(package)


def test_the_same_tables_give_the_same_bytes(make: Make) -> None:
    """Also where they were made in another order: or every server's package would be another one."""
    one = make((PRODUCTS, ORDERS, LINES, PRICES, SETTINGS))
    other = make((SETTINGS, ORDERS, PRODUCTS, PRICES, LINES))
    assert _generated(one) == _generated(one)
    assert _generated(one) == _generated(other)


def test_a_generated_package_says_what_the_database_knows_and_others_can_read_it(make: Make) -> None:
    """Sections, record sets, references, lengths, digits, nulls; valid for xmlschema and libxml2."""
    world = make((PRODUCTS, ORDERS, LINES, PRICES, SETTINGS))
    if world.dialect == "postgresql":
        world.execute("COMMENT ON TABLE products IS 'What <we> sell'", "COMMENT ON COLUMN products.name IS 'Имя'")
    elif world.dialect == "mariadb":
        world.execute(
            "ALTER TABLE products COMMENT 'What <we> sell'",
            "ALTER TABLE products MODIFY name VARCHAR(40) NOT NULL COMMENT 'Имя'",
        )
    written = _generated(world)
    assert set(xmlschema.XMLSchema(written).types) >= set(EXCHANGE)
    etree.XMLSchema(etree.parse(io.BytesIO(written)))
    product, order, price, setting = read_xsd(written).types.values()
    by_name = {p.name: p for p in product.properties}
    assert (by_name["parent_id"].target, by_name["price"].digits) == ("Catalog.Product", (15, 2))
    assert (by_name["name"].nullable, by_name["price"].nullable) == (False, True)
    assert [by_name[n].xml for n in ("added", "weight", "photo")] == ["dateTime", "double", "base64Binary"]
    assert order.sections[0].key == ("line",)
    assert [p.target for p in order.sections[0].properties] == [None, "Catalog.Product", None]
    assert (price.kind, price.key, price.record_key) == ("record_set", ("product_id", "period"), ("kind",))
    assert [p.name for p in setting.properties] == ["id", "имя", "value"]
    if world.dialect == "sqlite":
        assert product.text == "A row of products."
    else:
        assert (by_name["name"].length, by_name["id"].bits) == (40, 32)
        assert (product.text, by_name["name"].text) == ("What <we> sell", "Имя")

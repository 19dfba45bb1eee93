"""Package, nodes.yaml and tables make a structure; what does not fit is said, and nothing is guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.compilation import compile_structure, generate_package, tables_needed
from schemas.network import TypeSettings
from schemas.structure import Routing
from schemas.tables import Column, ForeignKey, Table
from schemas.xsd import read_xsd, write_xsd

PRODUCTS = Table(
    "products",
    (
        Column("id", "integer", "integer", nullable=False, generated_key=True),
        Column("name", "varchar(40)", "string", length=40),
        Column("price", "numeric(18,4)", "decimal", digits=(18, 4)),
        Column("upper_name", "text", "string", computed=True),
    ),
    ("id",),
    uniques=(("name",),),
)
ORDERS = Table(
    "orders",
    (
        Column("id", "bigint", "integer", nullable=False),
        Column("placed", "timestamp with time zone", "dateTime"),
        Column("secret", "text", "string"),
    ),
    ("id",),
)
LINES = Table(
    "order_lines",
    (
        Column("order_id", "bigint", "integer", nullable=False),
        Column("line_no", "integer", "integer", nullable=False),
        Column("product_id", "integer", "integer"),
    ),
    ("order_id", "line_no"),
    (ForeignKey(("order_id",), "orders", ("id",)), ForeignKey(("product_id",), "products", ("id",))),
)
FILES = Table(
    "files",
    (Column("name", "text", "string", nullable=False), Column("order_id", "bigint", "integer")),
    ("name",),
    (ForeignKey(("order_id",), "orders", ("id",)),),
)
PRICES = Table(
    "prices",
    (
        Column("amount", "numeric(18,4)", "decimal", digits=(18, 4)),
        Column("period", "date", "date"),
        Column("product_id", "integer", "integer"),
        Column("kind", "text", "string"),
    ),
    ("product_id", "period", "kind"),
    (ForeignKey(("product_id",), "products", ("id",)),),
)
TABLES = {t.name: t for t in (PRODUCTS, ORDERS, LINES, FILES, PRICES)}
EXCHANGE = {
    s.name: s
    for s in (
        TypeSettings("Catalog.File", "files", owner=("order_id",)),
        TypeSettings(
            "Document.Order",
            "orders",
            sections={"lines": "order_lines"},
            exclude=("secret",),
            columns={"number": "id", "lines.product": "product_id"},
        ),
        TypeSettings("Register.Price", "prices", filter=("product_id", "period"), reference_data=True),
        TypeSettings("Catalog.Product", "products", reference_data=True),
    )
}


def test_a_generated_package_fits_the_tables_that_it_was_generated_from() -> None:
    """Also by way of its XSD: or a fresh `schema generate` would be followed by mismatches."""
    package = read_xsd(write_xsd(generate_package(EXCHANGE, TABLES)))
    structure = compile_structure(package, EXCHANGE, TABLES)
    assert structure.mismatches == ()
    assert structure.fingerprint == package.fingerprint
    assert list(structure.types) == ["Catalog.Product", "Document.Order", "Catalog.File", "Register.Price"] or [
        t.rank for t in structure.types.values()
    ] == sorted(t.rank for t in structure.types.values())
    order = structure["Document.Order"]
    assert [(f.name, f.column and f.column.name) for f in order.fields] == [("number", "id"), ("placed", "placed")]
    assert order.fields[1].prop.zoned
    assert [(f.name, f.column and f.column.name) for f in order.sections[0].fields] == [
        ("line_no", "line_no"),
        ("product", "product_id"),
    ]
    assert order.sections[0].link == (("order_id", "id"),)
    assert structure["Catalog.Product"].generated_key
    assert structure["Catalog.Product"].uniques == (("name",),)


def test_targets_come_before_what_refers_to_them() -> None:
    """Or a message would be applied in an order in which its references are broken."""
    structure = compile_structure(generate_package(EXCHANGE, TABLES), EXCHANGE, TABLES)
    for item_type in structure.types.values():
        for reference in item_type.references:
            assert structure[reference.target].rank < item_type.rank
    (owner,) = [r for r in structure["Catalog.File"].references if r.owner]
    assert owner.target == "Document.Order"
    assert structure["Catalog.File"].routing is Routing.DEPENDENT


def test_a_record_set_has_its_filter_first_in_the_filters_order() -> None:
    """Its key is the filter's values in that order, at every node, whatever the order of the columns."""
    price = generate_package(EXCHANGE, TABLES).types["Register.Price"]
    assert price.key == ("product_id", "period")
    assert [p.name for p in price.properties] == ["product_id", "period", "amount", "kind"]
    assert price.record_key == ("kind",)
    assert price.properties[0].target == "Catalog.Product"


@pytest.mark.parametrize(
    ("column", "effect"),
    [
        (Column("price", "NUMERIC", "decimal", why_inexact="kept as a double"), "will be cut"),
        (Column("price", "bigint", "integer"), "will be cut"),
        (Column("price", "double precision", "double"), "will be cut"),
        (Column("price", "text", "string"), None),
        (Column("price", "numeric(18,4)", "decimal", nullable=False), "will not arrive"),
        (None, "will not arrive"),
    ],
)
def test_a_column_that_cannot_hold_the_package_is_named(column: Column | None, effect: str | None) -> None:
    """Or values would be cut in silence at one node of the network."""
    columns = [c for c in PRODUCTS.columns if c.name != "price"] + ([column] if column else [])
    tables = {**TABLES, "products": replace(PRODUCTS, columns=tuple(columns))}
    structure = compile_structure(generate_package(EXCHANGE, TABLES), EXCHANGE, tables)
    found = [(m.property, m.effect) for m in structure.mismatches if m.type == "Catalog.Product"]
    assert found == ([("price", effect)] if effect else [])
    assert "Catalog.Product" in structure.types, "the rest of the type goes on"


def test_fifteen_digits_fit_into_a_double() -> None:
    """Or every price at a SQLite node would be reported, and nobody would read the report."""
    small = Column("price", "numeric(10,2)", "decimal", digits=(10, 2), why_inexact="kept as a double")
    tables = {**TABLES, "products": replace(PRODUCTS, columns=(PRODUCTS.columns[0], small))}
    package = generate_package(EXCHANGE, tables)
    assert compile_structure(package, EXCHANGE, tables).mismatches == ()


def test_a_type_without_its_table_is_passed_on_and_one_without_its_key_takes_no_part() -> None:
    """Or one missing table would stop the node, or the nodes behind it."""
    package = generate_package(EXCHANGE, TABLES)
    tables = {n: t for n, t in TABLES.items() if n != "files"} | {"prices": replace(PRICES, columns=PRICES.columns[:2])}
    structure = compile_structure(package, EXCHANGE, tables)
    assert {m.type for m in structure.mismatches if m.effect == "refused"} == {"Register.Price"}
    assert ("Catalog.File", None, "will not arrive") in {(m.type, m.property, m.effect) for m in structure.mismatches}
    assert structure.types.keys() == {"Catalog.Product", "Document.Order", "Catalog.File"}
    assert structure["Catalog.File"].table is None


def test_a_node_that_takes_no_part_keeps_the_type_without_columns() -> None:
    """It passes items on: so it has to know the key, and must not look for a table."""
    package = generate_package(EXCHANGE, TABLES)
    exchange = {**EXCHANGE, "Catalog.Product": replace(EXCHANGE["Catalog.Product"], takes_part=False)}
    structure = compile_structure(package, exchange, TABLES)
    assert structure["Catalog.Product"].table is None
    assert structure["Catalog.Product"].key_names == ("id",)
    assert "products" not in tables_needed(exchange.values())


def test_names_in_nodes_yaml_that_are_no_properties_are_told() -> None:
    """Or `exclude: [pasword]` would send the password to every node."""
    exchange = {**EXCHANGE, "Document.Order": replace(EXCHANGE["Document.Order"], exclude=("secert",))}
    structure = compile_structure(generate_package(exchange, TABLES), exchange, TABLES)
    assert ("secert", "note") in [(m.property, m.effect) for m in structure.mismatches]


def test_what_is_excluded_here_does_not_travel_though_the_package_has_it() -> None:
    """`exclude` is a promise."""
    open_exchange = {**EXCHANGE, "Document.Order": replace(EXCHANGE["Document.Order"], exclude=())}
    package = generate_package(open_exchange, TABLES)
    assert package.types["Document.Order"].property("secret")
    structure = compile_structure(package, EXCHANGE, TABLES)
    assert "secret" not in [f.name for f in structure["Document.Order"].fields]


def test_a_declared_exception_is_only_a_note() -> None:
    """Or `kod check` would cry for ever over what people have decided."""
    exchange = {**EXCHANGE, "Catalog.Product": replace(EXCHANGE["Catalog.Product"], exceptions={"price": ""})}
    tables = {**TABLES, "products": replace(PRODUCTS, columns=PRODUCTS.columns[:2])}
    structure = compile_structure(generate_package(EXCHANGE, TABLES), exchange, tables)
    assert [(m.property, m.effect) for m in structure.mismatches] == [("price", "note")]


def test_a_column_that_the_package_does_not_describe_is_named() -> None:
    """Or what is written into a column that was added later stays at its node, and nobody hears of it. Not what is
    excluded or computed: those stay on purpose. Not a section's link: it travels as the section's place."""
    package = generate_package(EXCHANGE, TABLES)
    tables = {
        **TABLES,
        "products": replace(PRODUCTS, columns=(*PRODUCTS.columns, Column("colour", "text", "string"))),
        "order_lines": replace(LINES, columns=(*LINES.columns, Column("discount", "integer", "integer"))),
    }
    found = compile_structure(package, EXCHANGE, tables).mismatches
    assert {(m.type, m.property, m.effect) for m in found} == {
        ("Catalog.Product", "colour", "will not arrive"),
        ("Document.Order", "lines.discount", "will not arrive"),
    }
    assert all("`kod schema generate`" in m.hint for m in found)
    wanted = {
        **EXCHANGE,
        "Catalog.Product": replace(EXCHANGE["Catalog.Product"], exclude=("colour",)),
        "Document.Order": replace(EXCHANGE["Document.Order"], exclude=("secret", "lines.discount")),
    }
    assert compile_structure(package, wanted, tables).mismatches == ()
    assert compile_structure(generate_package(EXCHANGE, tables), EXCHANGE, tables).mismatches == ()


def test_a_declared_exception_may_say_why_and_may_come_from_elsewhere() -> None:
    """A reason that stands nowhere is forgotten; hooks declare theirs beside nodes.yaml's."""
    exchange = {**EXCHANGE, "Catalog.Product": replace(EXCHANGE["Catalog.Product"], exceptions={"price": "no prices"})}
    tables = {**TABLES, "products": replace(PRODUCTS, columns=PRODUCTS.columns[:1])}
    package = generate_package(EXCHANGE, TABLES)
    structure = compile_structure(package, exchange, tables, {"Catalog.Product": {"name": "", "price": "another"}})
    found = {m.property: (m.effect, m.hint) for m in structure.mismatches}
    assert found == {"price": ("note", "declared: no prices"), "name": ("note", "")}


def test_a_property_that_cannot_be_the_columns_stops_its_type_alone_and_says_what_to_do() -> None:
    """Half an item would be a change of all of it to the others. Excepted, it is kept as if there were no column."""
    times = Column("price", "time without time zone", "time")
    columns = [c if c.name != "price" else times for c in PRODUCTS.columns]
    tables = {**TABLES, "products": replace(PRODUCTS, columns=tuple(columns))}
    package = generate_package(EXCHANGE, TABLES)
    structure = compile_structure(package, EXCHANGE, tables)
    (refused,) = [m for m in structure.mismatches if m.effect == "refused"]
    assert (refused.type, refused.property) == ("Catalog.Product", "price")
    assert "exclude" in refused.hint
    assert structure.types.keys() == EXCHANGE.keys() - {"Catalog.Product"}
    wanted = {**EXCHANGE, "Catalog.Product": replace(EXCHANGE["Catalog.Product"], exceptions={"price": ""})}
    excepted = compile_structure(package, wanted, tables)["Catalog.Product"]
    assert [f.name for f in excepted.fields if f.column is None] == ["price"]

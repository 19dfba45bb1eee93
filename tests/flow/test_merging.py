"""A package is generated again into the file that is there: what people wrote stays, what is new comes in."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from schemas.compilation import generate_package
from schemas.errors import ConfigError
from schemas.merging import merge_xsd
from schemas.network import TypeSettings
from schemas.package import Package, PackageType, Property
from schemas.tables import Column, Table
from schemas.xsd import read_xsd, write_xsd
from tests.flow.test_compilation import EXCHANGE, ORDERS, PRICES, PRODUCTS, TABLES
from tests.flow.test_xsd import BY_HAND, packages

WRITTEN = write_xsd(generate_package(EXCHANGE, TABLES))
COLOUR = Column("colour", "text", "string")


def _generated(**tables: Table | None) -> Package:
    changed = {**TABLES, **tables}
    return generate_package(EXCHANGE, {name: table for name, table in changed.items() if table is not None})


def _merged(there: bytes, generated: Package) -> tuple[str, list[tuple[str, str | None]]]:
    """The text after merging, which is valid, and what was told; merging it once more changes nothing."""
    merged = merge_xsd(there, generated, "p")
    etree.XMLSchema(etree.parse(io.BytesIO(merged.written)))
    again = merge_xsd(merged.written, generated, "p")
    assert again.written == merged.written
    assert (again.added, again.notes) == (0, merged.notes)
    return merged.written.decode(), [(of_type, prop) for of_type, prop, _ in merged.notes]


def _with(table: Table, *columns: Column, without: str = "") -> Table:
    return replace(table, columns=(*(c for c in table.columns if c.name != without), *columns))


def _swapped(text: str, one: str, other: str) -> bytes:
    assert text.count(one) >= 1
    return text.replace(one, other, 1).encode()


def test_generating_once_more_changes_not_a_byte() -> None:
    """Or every `kod schema generate` would be a change to be reviewed, and would alarm every neighbour."""
    assert _merged(WRITTEN, _generated()) == (WRITTEN.decode(), [])


def test_a_new_column_and_a_new_type_come_in_where_nothing_was_changed_by_hand() -> None:
    """What is new may be missing in messages of nodes that do not have it yet: it is optional."""
    small = generate_package({n: s for n, s in EXCHANGE.items() if n != "Register.Price"}, TABLES)
    text, notes = _merged(write_xsd(small), _generated(products=_with(PRODUCTS, COLOUR)))
    package = read_xsd(text.encode())
    assert package.types.keys() == EXCHANGE.keys()
    colour = package.types["Catalog.Product"].property("colour")
    assert colour is not None
    assert colour.optional
    assert package.types["Register.Price"] == _generated().types["Register.Price"], "a type that is new is new whole"
    assert notes == []


def test_a_column_that_the_database_changed_follows_it_and_one_that_people_changed_does_not() -> None:
    """Or a widened column would stay narrow in the package, or a limit that people set would be lifted in silence."""
    wider = replace(PRODUCTS.columns[1], native="varchar(80)", length=80)
    changed = _generated(products=replace(PRODUCTS, columns=(PRODUCTS.columns[0], wider, *PRODUCTS.columns[2:])))
    text, notes = _merged(WRITTEN, changed)
    assert '<xs:maxLength value="80"/>' in text
    assert notes == []
    tight = _swapped(WRITTEN.decode(), '<xs:maxLength value="40"/>', '<xs:maxLength value="20"/>')
    assert _merged(tight, _generated()) == (tight.decode(), []), "the database says what it said"
    assert _merged(tight, changed) == (tight.decode(), [("Catalog.Product", "name")]), "both have changed it: told"


def test_what_the_database_has_no_more_stays_and_is_named() -> None:
    """Dropping it from the package would stop what neighbours still send; saying nothing would leave it for ever."""
    without = _generated(products=_with(PRODUCTS, without="price"), files=None)
    text, notes = _merged(WRITTEN, without)
    assert text == WRITTEN.decode()
    assert notes == [("Catalog.File", None), ("Catalog.Product", "price")]


_ID, _NAME, _PRICE = (f'<xs:element name="{name}"' for name in ("id", "name", "price"))
_FILE = '<xs:complexType name="Catalog.File">'
_CODE = '<xs:simpleType name="Code"><xs:restriction base="xs:string"/></xs:simpleType>'
HAND_MADE = [
    ("a type's text", "A row of products.", "Что мы продаём"),
    ("a comment", _ID, f"<!-- ours -->\n      {_ID}"),
    ("a required property", f'{_NAME} nillable="true"', _NAME),
    ("an optional mark", f'{_NAME} nillable="true"', f'{_NAME} nillable="true" minOccurs="0"'),
    ("a property for a hook", _PRICE, f'<xs:element name="photo" type="xs:base64Binary"/>\n      {_PRICE}'),
    ("a type of their own", _FILE, f"{_CODE}\n  {_FILE}"),
    ("spaces", _PRICE, _PRICE.replace(" name=", "  name = ")),
]


@pytest.mark.parametrize(("what", "one", "other"), HAND_MADE)
def test_what_people_changed_stays_while_new_columns_come_in(what: str, one: str, other: str) -> None:
    """Or nobody could document, tighten or extend a package, or would stop generating it."""
    there = _swapped(WRITTEN.decode(), one, other)
    assert _merged(there, _generated()) == (there.decode(), [])
    text, notes = _merged(there, _generated(products=_with(PRODUCTS, COLOUR)))
    assert other in text, what
    assert notes == []
    before, after = there.decode().split("\n"), text.split("\n")
    added = [line for line in after if line not in before]
    assert added
    assert all("colour" in line or "made=" in line for line in added)
    found = read_xsd(text.encode()).types["Catalog.Product"].property("colour")
    assert found is not None
    assert found.optional


def test_a_text_of_peoples_own_does_not_keep_a_property_from_following_the_database() -> None:
    """A documented package would fall behind, property by property."""
    element = '<xs:element name="placed" type="xs:dateTime" nillable="true">\n        <xs:annotation><xs:appinfo>'
    text = "<xs:documentation>Когда &amp; где</xs:documentation>"
    there = _swapped(
        WRITTEN.decode(), element, element.replace("<xs:appinfo>", f"\n          {text}\n          <xs:appinfo>")
    )
    orders = replace(ORDERS, columns=(ORDERS.columns[0], Column("placed", "date", "date", nullable=False)))
    merged, notes = _merged(there, _generated(orders=orders))
    placed = read_xsd(merged.encode()).types["Document.Order"].property("placed")
    assert placed is not None
    assert (placed.xml, placed.nullable, placed.text, notes) == (
        "date",
        False,
        "Когда & где",
        [("Document.Order", "secret")][:0],
    )


def test_a_filter_that_changed_is_written_anew_unless_people_changed_the_type() -> None:
    """A property cannot be in the filter and in the records."""
    exchange = {**EXCHANGE, "Register.Price": replace(EXCHANGE["Register.Price"], filter=("product_id",))}
    other = generate_package(exchange, {**TABLES, "prices": PRICES})
    text, notes = _merged(WRITTEN, other)
    price = read_xsd(text.encode()).types["Register.Price"]
    assert (price.key, [p.name for p in price.properties], price.record_key) == (
        ("product_id",),
        ["product_id", "amount", "period", "kind"],
        ("period", "kind"),
    )
    assert notes == []
    touched = _swapped(WRITTEN.decode(), '<xs:element name="Filter">', '<xs:element  name="Filter">')
    assert _merged(touched, other) == (touched.decode(), [("Register.Price", None)])


def test_a_package_of_other_makers_takes_what_is_new_in_its_own_way_of_writing() -> None:
    """Prefixes that mean something else there, types that several sections share, Windows' line ends."""
    settings_of = TypeSettings("Документ.Заказ", "orders", sections={"строки": "lines"})
    orders = Table("orders", (Column("номер", "int", "integer", False), Column("город", "text", "string")), ("номер",))
    goods, amount = Column("товар", "int", "integer"), Column("сумма", "numeric", "decimal")
    lines = Table("lines", (goods, amount, Column("скидка", "int", "integer")))
    generated = generate_package({settings_of.name: settings_of}, {"orders": orders, "lines": lines})
    there = BY_HAND.replace("\n", "\r\n").encode()
    text, notes = _merged(there, generated)
    assert "\n" not in text.replace("\r\n", "")
    order = read_xsd(text.encode()).types["Документ.Заказ"]
    assert [p.name for p in order.properties] == ["номер", "город", "дата", "state"]
    assert [p.name for p in order.sections[0].properties] == ["товар", "сумма", "скидка"]
    assert order.property("номер") == Property("номер", "integer", nullable=False, bits=32), "people's own stays theirs"
    assert notes == []


def test_a_file_that_cannot_be_read_is_left_alone() -> None:
    """Writing over it would lose what people did in it."""
    with pytest.raises(ConfigError, match="cannot be read"):
        merge_xsd(WRITTEN[:-20], _generated(), "p")


@given(packages, packages)
@settings(max_examples=60, deadline=None)
def test_whatever_is_merged_is_a_package_with_all_of_both(one: Package, other: Package) -> None:
    """Or a package would be broken by generating it, and with it the node."""
    written = write_xsd(one)
    merged = merge_xsd(written, other, "p").written
    package = read_xsd(merged)
    assert merge_xsd(merged, other, "p").written == merged
    for name in other.types.keys() | one.types.keys():
        before, now = one.types.get(name), other.types.get(name)
        if before is None or now is None:
            assert package.types[name] == (before or now)
        elif before.kind == now.kind:
            assert _names(now) <= _names(package.types[name])
            turned = _roots(now) & _roots(before)
            assert {n for n in _names(before) if not turned & {*n}} <= _names(package.types[name])


def _roots(of_type: PackageType) -> set[str]:
    return {p.name for p in of_type.properties} | {s.name for s in of_type.sections}


def _names(of_type: PackageType) -> set[tuple[str, str]]:
    """Of properties, with their sections' names before them."""
    sections = {(s.name, p.name) for s in of_type.sections for p in s.properties}
    return {("", p.name) for p in of_type.properties} | sections


@given(packages, st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_package_merged_into_itself_stays_as_it_is(package: Package, at: int) -> None:
    """Also with a comment somewhere in it."""
    lines = write_xsd(package).decode().split("\n")
    lines.insert(3 + at % (len(lines) - 4), "<!-- here -->")
    written = "\n".join(lines).encode()
    try:
        etree.parse(io.BytesIO(written))
        read_xsd(written)
    except (etree.XMLSyntaxError, ConfigError):
        return  # the comment fell into a text or an attribute
    assert merge_xsd(written, package, "p").written == written

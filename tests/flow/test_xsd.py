"""The package as an XSD: what is written is read back, and what people write by hand is understood."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from schemas.errors import ConfigError
from schemas.package import ANY, XML_TYPES, Package, PackageSection, PackageType, Property
from schemas.xsd import fingerprinted, read_xsd, write_xsd

_letters = "abcXYZ_абвЯЁ"
_names = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from(_letters),
    st.text(alphabet=_letters + "0123456789.-", max_size=6),
)
_type_names = st.builds(lambda kind, name: f"{kind}.{name}", st.sampled_from(["Catalog", "Справочник"]), _names)
_texts = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="￾￿"))
_spaces = st.sampled_from(["", " ", " a", "a\nb", "\t", "<&\">'", "]]>", "\r\n"])


_composites = st.just((ANY,)) | st.lists(
    st.sampled_from(XML_TYPES) | _type_names, min_size=1, max_size=3, unique=True
).map(tuple)


@st.composite
def _properties(draw: st.DrawFn, names: list[str]) -> tuple[Property, ...]:
    return tuple(
        Property(name, ANY, draw(st.booleans()), draw(st.booleans()), composite=draw(_composites))
        if draw(st.integers(0, 9)) == 0
        else Property(
            name=name,
            xml=draw(st.sampled_from(XML_TYPES)),
            nullable=draw(st.booleans()),
            optional=draw(st.booleans()),
            target=draw(st.none() | _type_names),
            length=draw(st.none() | st.integers(0, 9000)),
            bits=draw(st.sampled_from([None, 8, 16, 32, 64, 33])),
            digits=draw(st.none() | st.tuples(st.integers(0, 1000), st.integers(-5, 1000))),
            values=tuple(draw(st.lists(_texts | _spaces, max_size=3, unique=True))),
            zoned=draw(st.booleans()),
            native=draw(
                st.sampled_from(["", "bigint", "smallint", "numeric(10,2)", "timestamp with time zone"]) | _texts
            ),
            text=draw(st.just("") | _texts | _spaces),
        )
        for name in names
    )


@st.composite
def _types(draw: st.DrawFn) -> PackageType:
    names = draw(st.lists(_names, min_size=1, max_size=6, unique=True))
    properties = draw(_properties(names))
    name = draw(_type_names)
    if draw(st.booleans()):
        count = draw(st.integers(0, len(names)))
        record_key = tuple(draw(st.lists(st.sampled_from(names[count:]), unique=True))) if names[count:] else ()
        return PackageType(name, "record_set", tuple(names[:count]), properties, (), record_key)
    sections = []
    for section in draw(st.lists(_names.filter(lambda n: n not in names), max_size=2, unique=True)):
        columns = draw(st.lists(_names, max_size=4, unique=True))
        key = tuple(draw(st.lists(st.sampled_from(columns), unique=True))) if columns else ()
        sections.append(PackageSection(section, draw(_properties(columns)), key))
    key = tuple(draw(st.lists(st.sampled_from(names), unique=True)))
    return PackageType(name, "object", key, properties, tuple(sections))


packages = st.lists(_types(), min_size=1, max_size=3, unique_by=lambda t: t.name).map(
    lambda types: Package({t.name: t for t in types})
)


@given(packages)
@settings(max_examples=150, deadline=None)
def test_a_package_comes_back_as_it_was_written(package: Package) -> None:
    """Or two nodes that share one file would mean different things by it."""
    written = write_xsd(package)
    again = read_xsd(written)
    assert again.types == package.types
    assert list(again.types) == list(package.types)
    assert write_xsd(again) == written
    assert again == fingerprinted(package)


@given(packages)
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_a_valid_xsd_for_others_too(package: Package) -> None:
    """Our own text is not validated when it is read, so it has to be valid always."""
    written = write_xsd(package)
    assert set(xmlschema.XMLSchema(written).types) >= set(package.types)
    etree.XMLSchema(etree.parse(io.BytesIO(written)))


BY_HAND = """<?xml version="1.0"?>
<schema xmlns="http://www.w3.org/2001/XMLSchema" xmlns:t="http://v8.1c.ru/doc8/CDE/1"
        targetNamespace="http://v8.1c.ru/doc8/CDE/1">
  <simpleType name="Reference"><restriction base="string"/></simpleType>
  <simpleType name="Money"><restriction base="decimal">
    <totalDigits value="15"/><fractionDigits value="2"/></restriction></simpleType>
  <complexType name="Line"><sequence>
    <element name="товар" type="t:Reference"/><element name="сумма" type="t:Money" nillable="true"/>
  </sequence></complexType>
  <complexType name="Документ.Заказ"><sequence>
    <element name="номер" type="int"/>
    <element name="дата" type="dateTime" minOccurs="0"/>
    <element name="state"><simpleType><restriction base="token"><enumeration value="new"/></restriction></simpleType>
    </element>
    <element name="строки" type="t:Line" minOccurs="0" maxOccurs="unbounded"/>
  </sequence></complexType>
  <complexType name="Register.Price"><sequence>
    <element name="Filter"><complexType><sequence><element name="product" type="string"/></sequence></complexType>
    </element>
    <element name="Records" minOccurs="0" maxOccurs="unbounded">
      <complexType><sequence><element name="price" type="t:Money"/></sequence></complexType></element>
  </sequence></complexType>
</schema>
"""


def test_a_plain_xsd_written_by_hand_is_read_with_sensible_defaults() -> None:
    """Or a package that another system's people wrote would have to be marked up for us first."""
    package = read_xsd(BY_HAND.encode())
    assert list(package.types) == ["Документ.Заказ", "Register.Price"], "Line only describes the rows of a section"
    order, price = package.types.values()
    assert order.key == ("номер",)
    assert order.properties == (
        Property("номер", "integer", nullable=False, bits=32),
        Property("дата", "dateTime", nullable=False, optional=True),
        Property("state", "string", nullable=False, values=("new",)),
    )
    assert order.sections[0].properties[1] == Property("сумма", "decimal", digits=(15, 2))
    assert (price.kind, price.key, [p.name for p in price.properties]) == (
        "record_set",
        ("product",),
        ["product", "price"],
    )


def test_the_fingerprint_is_of_the_meaning_and_not_of_the_spaces() -> None:
    """Or reformatting the file would stop every link of the network."""
    loose = BY_HAND.replace("  <complexType", "\n\n   <!-- a word -->\n <complexType")
    assert read_xsd(loose.encode()).fingerprint == read_xsd(BY_HAND.encode()).fingerprint
    assert len(read_xsd(BY_HAND.encode()).fingerprint) == 16
    assert read_xsd(BY_HAND.replace('"15"', '"16"').encode()).fingerprint != read_xsd(BY_HAND.encode()).fingerprint


def test_a_composite_is_an_any_type_that_says_what_it_may_hold() -> None:
    """Or a receiver would guess what a value of it refers to."""
    payer = Property("payer", ANY, composite=("Catalog.Customer", "Справочник.Лицо", "string", "decimal"))
    written = write_xsd(Package({"Document.Payment": PackageType("Document.Payment", "object", (), (payer,))}))
    assert b'name="payer" type="xs:anyType" nillable="true"' in written
    assert read_xsd(written).types["Document.Payment"].properties == (payer,)
    by_hand = BY_HAND.replace('name="дата" type="dateTime"', 'name="дата" type="anyType"')
    found = read_xsd(by_hand.encode()).types["Документ.Заказ"].property("дата")
    assert found == Property("дата", ANY, nullable=False, optional=True, composite=(ANY,)), "whatever there is"


@pytest.mark.parametrize(
    ("replaced", "by", "expected"),
    [
        ("t:Money", "t:Mony", "p:8: property 'сумма': there is no type 't:Mony'"),
        ('"dateTime"', '"dateTim"', "p:12: property 'дата': values of dateTim are not understood"),
        ("CDE/1", "CDE/2", "p:2: it is not for КОД's namespace"),
        ("</schema>", "", "p:24: not XML"),
        ('type="int"', 'type="int" maxOccurs="9"', "p:11: 'номер' is a list of plain values"),
        (
            'type="int"/>',
            'type="int"/><element name="номер" type="int"/>',
            "type Документ.Заказ: 'номер' is there twice",
        ),
        ('fractionDigits value="2"', 'fractionDigits value="-2"', "no valid XSD"),
        ("<schema", "<!DOCTYPE schema><schema", "p:2: an XSD has no document type"),
    ],
)
def test_a_fault_in_an_xsd_is_named_with_its_place(tmp_path: Path, replaced: str, by: str, expected: str) -> None:
    """Or its author would have to look for it among a thousand lines."""
    path = tmp_path / "p"
    path.write_text(BY_HAND.replace(replaced, by), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_xsd(path)
    faults = "\n".join(map(str, caught.value.faults)).replace(f"{tmp_path}/", "")
    assert expected in faults


def test_a_column_that_is_no_xml_name_is_named_with_the_way_out() -> None:
    """Or `kod schema generate` would write a file that nobody can read."""
    bad = PackageType("Catalog.A", "object", ("id",), (Property("id", "integer"), Property("unit price", "decimal")))
    with pytest.raises(ConfigError) as caught:
        write_xsd(Package({"Catalog.A": bad}))
    (fault,) = caught.value.faults
    assert "'unit price'" in fault.text
    assert "columns" in fault.hint


def test_our_own_package_is_read_without_loading_the_validator(tmp_path: Path) -> None:
    """Loading it takes half a second, at each start of each command."""
    path = tmp_path / "package.xsd"
    path.write_bytes(write_xsd(read_xsd(BY_HAND.encode())))
    script = (
        f"import sys; from schemas.xsd import read_xsd; read_xsd({str(path)!r}); sys.exit('xmlschema' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

"""Kinds of data in nodes.yaml and in the structure: what is right is compiled, what is wrong is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dispatcher.kinds import steps
from dispatcher.ports import Content
from dispatcher.turning import Batch, Turnable, Turning
from schemas.compilation import compile_structure, generate_package
from schemas.network import CompositeSettings, LookupSettings, TypeSettings
from schemas.package import ANY
from schemas.structure import Structure
from schemas.tables import Column, ForeignKey, Table
from serializers.keys import Item
from tests.flow.test_config import GOOD, faults, read

KINDS = """
  Catalog.Payment:
    table: payments
    reference_data: true
    composite:
      payer: {type: kind, values: {Catalog.Customer: customer, string: text}, says: {string: t}}
      about: {json: about, types: [Catalog.Customer]}
    enums: {status: {table: statuses, name: code}, colour: [red, green]}
    predefined: preset
  Constant.Company: {table: company, filter: [], reference_data: true}
kafka:"""


def test_kinds_of_data_are_read(tmp_path: Path) -> None:
    """An empty filter is a record set, no object; a lookup table is no list of values."""
    exchange = read(tmp_path, GOOD.replace("\nkafka:", KINDS)).nodes["00"].exchange
    payment = exchange["Catalog.Payment"]
    assert payment.composite == {
        "payer": CompositeSettings("kind", {"Catalog.Customer": "customer", "string": "text"}, {"string": "t"}),
        "about": CompositeSettings(json="about", types=("Catalog.Customer",)),
    }
    assert payment.enums == {"status": LookupSettings("statuses", "code"), "colour": ("red", "green")}
    assert payment.predefined == "preset"
    assert (exchange["Constant.Company"].filter, payment.filter) == ((), None)


@pytest.mark.parametrize(
    ("instead_of", "wrong", "expected"),
    [
        (
            "{json: about, types: [Catalog.Customer]}",
            "{json: about}",
            "is neither a type column",
        ),
        ("{json: about, types: [Catalog.Customer]}", "{json: a, types: [Catalog.X]}", "'Catalog.X', which is no type"),
        ("says: {string: t}", "says: {decimal: t}", "says names 'decimal', which has no column in `values`"),
        ("says: {string: t}", "says: {string: Catalog.Customer}", "two types are said by the same text"),
        ("{type: kind,", "{type: text,", "the type and a value are in one column"),
        ("{table: statuses, name: code}", "{table: statuses}", "needs a table and the column of its names"),
        ("predefined: preset", "predefined: [1, 2]", "predefined has to be a text, not a list"),
    ],
)
def test_a_wrong_declaration_is_said_with_its_line(tmp_path: Path, instead_of: str, wrong: str, expected: str) -> None:
    """Else values would be looked for in columns that nobody meant."""
    found = faults(tmp_path, GOOD.replace("\nkafka:", KINDS.replace(instead_of, wrong)))
    assert any(expected in fault and fault.startswith("nodes.yaml:") for fault in found), found


CUSTOMERS = Table(
    "customers",
    (
        Column("id", "integer", "integer", nullable=False),
        Column("preset", "text", "string", values=("Retail",)),
        Column("status", "integer", "integer"),
    ),
    ("id",),
    (ForeignKey(("status",), "statuses", ("id",)),),
)
STATUSES = Table(
    "statuses",
    (Column("id", "integer", "integer", nullable=False), Column("code", "text", "string", values=("new", "old"))),
    ("id",),
)
PAYMENTS = Table(
    "payments",
    (
        Column("id", "integer", "integer", nullable=False),
        Column("kind", "text", "string"),
        Column("customer", "integer", "integer"),
        Column("said", "text", "string"),
    ),
    ("id",),
    (ForeignKey(("customer",), "customers", ("id",)),),
)
TABLES = {t.name: t for t in (CUSTOMERS, STATUSES, PAYMENTS)}
EXCHANGE = {
    t.name: t
    for t in (
        TypeSettings(
            "Customer",
            "customers",
            reference_data=True,
            predefined="preset",
            enums={"status": LookupSettings("statuses", "code")},
        ),
        TypeSettings(
            "Payment",
            "payments",
            reference_data=True,
            composite={"payer": CompositeSettings("kind", {"Customer": "customer", "string": "said"})},
        ),
    )
}


def structure(exchange: dict[str, TypeSettings] = EXCHANGE, tables: dict[str, Table] = TABLES) -> Structure:
    return compile_structure(generate_package(EXCHANGE, TABLES), exchange, tables)


def test_the_package_has_one_property_for_a_composite_and_names_for_an_enumeration() -> None:
    """Columns are a node's own business; what travels is everybody's."""
    package = generate_package(EXCHANGE, TABLES)
    payment = package.types["Payment"]
    assert [p.name for p in payment.properties] == ["id", "payer"]
    payer = payment.property("payer")
    assert payer is not None
    assert (payer.xml, payer.composite, payer.nullable) == (ANY, ("Customer", "string"), True)
    status = package.types["Customer"].property("status")
    assert status is not None
    assert (status.xml, status.values, status.target) == ("string", ("new", "old"), None)
    assert not structure().mismatches


def test_a_name_without_counterpart_is_a_mismatch_that_says_which() -> None:
    """What comes with it will wait: better known beforehand."""
    poorer = Table("statuses", (STATUSES.columns[0], Column("code", "text", "string", values=("new",))), ("id",))
    unset = Column("preset", "text", "string")
    customers = Table("customers", (CUSTOMERS.columns[0], unset, CUSTOMERS.columns[2]), ("id",), CUSTOMERS.foreign_keys)
    found = structure(tables={**TABLES, "statuses": poorer, "customers": customers}).mismatches
    assert {(m.property, m.effect, m.text) for m in found} == {
        ("status", "cannot be read", "statuses.code does not have 'old'"),
        ("preset", "cannot be read", "customers.preset does not have 'Retail'"),
    }


def test_more_predefined_items_than_the_package_knows_are_no_mismatch() -> None:
    """The column takes any text: a word about values that wait would send people looking for nothing."""
    more = Column("preset", "text", "string", values=("Retail", "Wholesale"))
    customers = Table("customers", (CUSTOMERS.columns[0], more, CUSTOMERS.columns[2]), ("id",), CUSTOMERS.foreign_keys)
    assert not structure(tables={**TABLES, "customers": customers}).mismatches


def test_types_without_such_kinds_are_not_turned() -> None:
    """They stay the text that the database made, and pay nothing."""
    plain = {name: TypeSettings(name, s.table, reference_data=True) for name, s in EXCHANGE.items()}
    compiled = compile_structure(generate_package(plain, TABLES), plain, TABLES)
    assert Turning(compiled, steps(compiled)).types == frozenset()
    assert compiled["Customer"].on_wire is None


def test_a_type_column_that_says_nothing_known_holds_the_item_with_its_reason() -> None:
    """Dropping the value would be settling it in silence."""
    compiled = structure()
    turning = Turning(compiled, steps(compiled))
    text = b'{"id": 1, "@kind": "Customer", "@customer": null, "@said": null}'

    class NoNames:
        def names(self, names: object) -> dict[object, str]:
            return {}

    (good,) = turning.outgoing(NoNames(), [Content(Item("Payment", "[1]"), text)])  # type: ignore[arg-type]
    assert good == (b'{"id":1,"payer":{"#type":"Customer","#value":null}}', None)
    (bad,) = turning.outgoing(NoNames(), [Content(Item("Payment", "[1]"), text.replace(b"Customer", b"X"))])  # type: ignore[arg-type]
    assert bad.fault == "Payment.payer: 'X' says no type of those that `composite` names"


def test_a_composite_says_its_type_by_an_old_name() -> None:
    """While a type is renamed node by node: it would have no column here, and its message would wait for ever."""
    compiled = replace(structure(), formerly={"Client": "Customer"})
    (step, *_) = steps(compiled)
    one = Turnable({"id": 1, "payer": {"#type": "Client", "#value": 5}})
    step.incoming(None, Batch(compiled["Payment"], [one]))  # type: ignore[arg-type]
    assert one.fault is None
    assert (one.value["@kind"], one.value["@customer"]) == ("Customer", 5)

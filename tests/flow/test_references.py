"""What an item refers to, told from its value alone."""

from __future__ import annotations

from dispatcher.references import references_of, whole_of
from schemas.compilation import compile_structure, generate_package
from schemas.network import TypeSettings
from schemas.structure import Structure
from schemas.tables import Column, ForeignKey, Table
from serializers.keys import Item

CUSTOMER, ORDER, FILE, PRICE = "Catalog.Customer", "Document.Order", "Catalog.File", "InformationRegister.Price"


def column(name: str, xml: str = "integer", *, nullable: bool = True) -> Column:
    return Column(name, "integer" if xml == "integer" else "text", xml, nullable=nullable)


def structure() -> Structure:
    to_customer = ForeignKey(("customer",), "customers", ("id",))
    tables = {
        "customers": Table("customers", (column("id", nullable=False), column("boss")), ("id",),
                           (ForeignKey(("boss",), "customers", ("id",)),)),
        "orders": Table("orders", (column("id", nullable=False), column("customer")), ("id",), (to_customer,)),
        "lines": Table("lines", (column("order_id", nullable=False), column("n", nullable=False), column("customer")),
                       ("order_id", "n"), (ForeignKey(("order_id",), "orders", ("id",)), to_customer)),
        "files": Table("files", (column("name", "string", nullable=False), column("order_id")), ("name",),
                       (ForeignKey(("order_id",), "orders", ("id",)),)),
        "prices": Table("prices", (column("customer", nullable=False), column("day", nullable=False)),
                        ("customer", "day"), (to_customer,)),
    }  # fmt: skip
    exchange = {
        t.name: t
        for t in (
            TypeSettings(CUSTOMER, "customers", reference_data=True),
            TypeSettings(ORDER, "orders", reference_data=True, sections={"lines": "lines"}),
            TypeSettings(FILE, "files", reference_data=True),
            TypeSettings(PRICE, "prices", reference_data=True, filter=("customer",)),
        )
    }
    return compile_structure(generate_package(exchange, tables), exchange, tables)


def test_roots_and_sections_refer() -> None:
    """Each by its own columns; null refers to nothing, and the link to the root is none of them."""
    value = {"id": 7, "customer": 1, "lines": [{"n": 1, "customer": 2}, {"n": 2, "customer": None}]}
    found = references_of(structure()[ORDER], value, structure())
    assert found == {Item(CUSTOMER, "[1]"), Item(CUSTOMER, "[2]")}


def test_a_record_set_refers_by_its_filter() -> None:
    """Every record shares it."""
    value = {"Filter": {"customer": 3}, "Records": [{"day": 1}, {"day": 2}]}
    assert references_of(structure()[PRICE], value, structure()) == {Item(CUSTOMER, "[3]")}
    assert references_of(structure()[PRICE], {"Filter": {"customer": 3}, "Records": []}, structure()) == frozenset()


def test_what_is_of_a_strange_form_refers_to_nothing() -> None:
    """A message may say anything; what is wrong with it is found where it is written."""
    for value in ({"id": 7, "customer": {"x": 1}}, {"id": 7, "lines": 5}, {"id": 7, "lines": [5]}, {}):
        assert references_of(structure()[ORDER], value, structure()) == frozenset()
    for records in (1.5, "x", {"customer": 3}, [1, None]):
        value = {"Filter": {"customer": 3}, "Records": records}
        assert references_of(structure()[PRICE], value, structure()) == frozenset()


def test_only_types_with_sections_are_locked_beside() -> None:
    """Others let themselves be referred to while they are written."""
    assert whole_of(structure()[FILE], {"name": "f", "order_id": 7}, structure()) == {Item(ORDER, "[7]")}
    assert whole_of(structure()[ORDER], {"id": 7, "customer": 1}, structure()) == frozenset()

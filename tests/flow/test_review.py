"""Review: the rules by which items find their addressees."""

from __future__ import annotations

from dispatcher.closure import complete
from dispatcher.ports import Change, NodeView, Tie
from dispatcher.review import Facts, everywhere, leading_to, limited_types, review
from schemas.package import Property
from schemas.stamp import Stamp
from schemas.structure import Field, ItemType, Reference, Routing, Structure
from schemas.tables import Column
from serializers.keys import Item
from serializers.message import Version

NODE = NodeView("00", "99", ("01", "02"), {"99": "99", "01": "01", "02": "02", "11": "01"})


def item_type(name: str, routing: Routing, owner: str | None = None, *, nullable: bool = True) -> ItemType:
    key = Field(Property("id", "integer"), Column("id", "INTEGER", "integer", nullable=False))
    fields = [key]
    references = []
    if owner:
        fields.append(Field(Property("owner_id", "integer"), Column("owner_id", "INTEGER", "integer", nullable)))
        references.append(Reference(None, ("owner_id",), owner, ("id",), required=True, owner=True))
    return ItemType(name, "object", routing, name.lower(), (key,), tuple(fields), references=tuple(references))


STRUCTURE = Structure(
    {
        t.name: t
        for t in (
            item_type("Product", Routing.REFERENCE_DATA),
            item_type("Picture", Routing.DEPENDENT, "Product", nullable=False),
            item_type("Order", Routing.INDEPENDENT),
            item_type("File", Routing.DEPENDENT, "Order"),
            item_type("Page", Routing.DEPENDENT, "File"),
        )
    }
)


def change(name: str, number: int = 1, *, source: str | None = None, gone: bool = False) -> Change:
    return Change(Item(name, f"[{number}]"), Version(Stamp(5), "00.1"), None, 7, source, gone)


def going(changes: list[Change], facts: Facts | None = None) -> dict[str, list[Change]]:
    return review(changes, NODE, STRUCTURE, limited_types(STRUCTURE), facts or Facts())


def test_reference_data_goes_to_every_neighbour_but_where_it_came_from() -> None:
    assert set(going([change("Product")])) == {"99", "01", "02"}
    assert set(going([change("Product", source="01")])) == {"99", "02"}


def test_independent_data_without_rights_goes_to_the_parent_alone() -> None:
    assert set(going([change("Order")])) == {"99"}


def test_a_right_of_a_node_farther_down_addresses_the_child_on_the_way() -> None:
    """Or the nodes between would never hold what has to pass through them."""
    order = change("Order")
    facts = Facts(access={order.item: frozenset({"11", "77"})})
    assert set(going([order], facts)) == {"99", "01"}


def test_dependants_follow_their_owner_over_any_number_of_levels() -> None:
    page, file, order = change("Page"), change("File"), change("Order")
    facts = Facts(
        owners={page.item: file.item, file.item: order.item},
        access={order.item: frozenset({"02"})},
        holders={order.item: frozenset({"01"})},
    )
    assert set(going([page], facts)) == {"99", "01", "02"}


def test_what_was_sent_once_is_sent_again_whatever_the_rights_say() -> None:
    """Or a node would keep an outdated copy."""
    order = change("Order")
    assert set(going([order], Facts(holders={order.item: frozenset({"01"})}))) == {"99", "01"}


def test_an_item_whose_owner_is_null_is_independent() -> None:
    file = change("File")
    assert set(going([file], Facts(owners={file.item: None}))) == {"99"}


def test_what_always_has_reference_data_as_its_owner_goes_everywhere() -> None:
    assert everywhere(STRUCTURE) == {"Product", "Picture"}


def test_neighbours_to_whom_the_same_goes_share_what_goes_in_the_order_of_the_changes() -> None:
    """Or whatever is done with it would be done again for each of forty neighbours."""
    product, from_01, order, last = (
        change("Product"), change("Product", 2, source="01"), change("Order"), change("Picture"),
    )  # fmt: skip
    facts = Facts(access={order.item: frozenset({"02"})})
    found = going([product, from_01, order, last], facts)
    assert found["99"] is found["02"]
    assert found["02"] == [product, from_01, order, last]
    assert found["01"] == [product, last]


def test_closure_brings_what_the_addressee_lacks_until_nothing_new_appears() -> None:
    """Or a reference would be broken at the receiver."""
    refers = {
        Item("Page", "[1]"): [change("File")],
        Item("File", "[1]"): [change("Order", source="01")],
        Item("Order", "[1]"): [],
    }

    def ties_of(step):  # type: ignore[no-untyped-def]
        return [Tie(item, target) for item in step for target in refers[item]]

    completed = complete([Item("Page", "[1]")], ties_of, had_by=frozenset())
    assert [c.item.type for c in completed.drawn] == ["File", "Order"]
    assert len(completed.ties) == 2
    had = complete([Item("Page", "[1]")], ties_of, had_by=frozenset({"01"}))
    assert [c.item.type for c in had.drawn] == ["File"]  # the order came from 01


def test_references_lead_to_limited_types_over_any_number_of_steps() -> None:
    """Each child lacks others of them: what one portion draws for all would go to those who have it."""
    assert leading_to(STRUCTURE, frozenset({"Order"})) == {"File", "Page"}
    assert leading_to(STRUCTURE, limited_types(STRUCTURE)) == {"File", "Page"}

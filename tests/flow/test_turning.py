"""The row of steps between a node's own form and the wire's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest

from dispatcher.ports import Content, ReceivingView, SendingView
from dispatcher.turning import Batch, Turning
from schemas.errors import MessageError
from schemas.package import Property
from schemas.stamp import Stamp
from schemas.structure import Field, ItemType, Routing, Structure
from serializers.keys import Item
from serializers.message import Header, Incoming, Message, Version

SENDING, RECEIVING = cast(SendingView, None), cast(ReceivingView, None)
HEADER = Header("01", "00", 1, Stamp(5), 1)
VERSION = Version(Stamp(3), "01.1")


def a_type(name: str) -> ItemType:
    fields = tuple(Field(Property(prop, "string"), None) for prop in ("id", "name"))
    return ItemType(name, "object", Routing.REFERENCE_DATA, None, fields[:1], fields)


STRUCTURE = Structure({name: a_type(name) for name in ("Turned", "Plain")})


@dataclass
class Wraps:
    """Puts a letter around names and keys, and takes it off again; refuses the name `bad`."""

    letter: str
    types: frozenset[str] = frozenset({"Turned"})
    met: list[str] = field(default_factory=list)

    def outgoing(self, view: SendingView, batch: Batch) -> None:
        for one in batch.items:
            self.met.append(one.value["id"])
            if one.value.get("name") == "bad":
                one.fault = f"{self.letter} does not like it"
            one.value["id"] = self.letter + one.value["id"]

    def incoming(self, view: ReceivingView, batch: Batch) -> None:
        for one in batch.items:
            outer, one.value["id"] = one.value["id"][:1], one.value["id"][1:]
            if outer != self.letter:
                one.fault = f"{outer} is not {self.letter}"


def content(name: str, key: str, value: dict[str, Any] | None) -> Content:
    return Content(Item(name, orjson.dumps([key]).decode()), None if value is None else orjson.dumps(value))


def incoming(name: str, value: dict[str, Any] | None, deleted: dict[str, Any] | None = None) -> Incoming:
    return Incoming(name, VERSION, {}, value, deleted)


def test_what_no_step_concerns_stays_the_text_that_it_is() -> None:
    """Types without steps must not pay for those that have them."""
    text = b'{"id": "a",   "name": 1.50}'
    turning = Turning(STRUCTURE, [Wraps("x")])
    assert turning.outgoing(SENDING, [Content(Item("Plain", '["a"]'), text)])[0].text is text
    message = Message(HEADER, (incoming("Plain", {"id": "a"}), incoming("Unknown", {"x": 1})))
    assert turning.incoming(RECEIVING, message) is message
    assert Turning(STRUCTURE).types == frozenset()


def test_steps_are_undone_in_the_reverse_order() -> None:
    """Or a step would meet on its way in what another made on the way out; deletions are their keys."""
    turning = Turning(STRUCTURE, [Wraps("x"), Wraps("y")])
    out = turning.outgoing(
        SENDING, [content("Turned", "a", {"id": "a"}), content("Plain", "b", None), content("Turned", "c", None)]
    )
    assert [orjson.loads(one.text) for one in out] == [{"id": "yxa"}, {"id": "b"}, {"id": "yxc"}]
    message = Message(HEADER, (incoming("Turned", {"id": "yxa"}), incoming("Turned", None, {"id": "yxc"})))
    for _ in range(2):  # a transaction may be tried again
        own = turning.incoming(RECEIVING, message)
        assert [(one.value, one.deleted) for one in own.items] == [({"id": "a"}, None), (None, {"id": "c"})]


def test_only_what_cannot_be_turned_is_held() -> None:
    """The rest of the portion goes; later steps do not see what is at fault."""
    inner, outer = Wraps("x"), Wraps("y")
    turning = Turning(STRUCTURE, [inner, outer])
    out = turning.outgoing(
        SENDING,
        [content("Turned", "a", {"id": "a", "name": "bad"}), content("Turned", "b", {"id": "b", "name": "good"})],
    )
    assert [one.fault for one in out] == ["x does not like it", None]
    assert outer.met == ["xb"]


def test_a_message_with_what_cannot_be_turned_is_refused_whole() -> None:
    """It is applied in one transaction, or parked; what can be read of it is known all the same."""
    turning = Turning(STRUCTURE, [Wraps("x")])
    message = Message(HEADER, (incoming("Turned", {"id": "ya"}), incoming("Plain", {"id": "b"})))
    with pytest.raises(MessageError, match="y is not x"):
        turning.incoming(RECEIVING, message)
    assert [one.type for one in turning.incoming_as_far(RECEIVING, message).items] == ["Plain"]


def test_an_item_under_its_types_old_name_is_turned() -> None:
    """While a type is renamed node by node its old name still arrives: unturned, it would become another item."""
    structure = Structure(STRUCTURE.types, formerly={"Before": "Turned"})
    message = Message(HEADER, (incoming("Before", {"id": "xa", "name": "b"}),))
    (turned,) = Turning(structure, [Wraps("x")]).incoming(RECEIVING, message).items
    assert (turned.type, turned.value) == ("Before", {"id": "a", "name": "b"})

"""What is no message of its link is listed for people and blocks nothing, and what it hid comes again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ports import Letter, Parked
from schemas.stamp import Stamp, digits
from serializers.message import message_name
from tests.contract.store_world import CUSTOMER, FILE, ORDER, PRICE, StoreWorld, new_world
from tests.contract.tree import Tree
from tests.flow.test_bad_input import places, slowly, values

NAMES = "SELECT customer_id FROM customers ORDER BY 1"
SESSION = Stamp(1_795_000_000_000)


@pytest.fixture
def tree(worlds: Callable[[str], StoreWorld]) -> Iterator[Tree]:
    made = Tree(worlds)
    yield made
    made.close()


def letter(number: int, *values: object, **header: object) -> Letter:
    name = message_name("00", "01", SESSION, number)
    said = {"from": "00", "to": "01", "version": 1, "incarnation": 5, "session": "20261118110640000", "number": number}
    body = [{"#type": CUSTOMER, "#stamp": "20261118110640000", "#origin": "00.5", "#value": value} for value in values]
    return Letter("01", name, orjson.dumps({"message": {"header": {**said, **header}, "body": body}}))


def put(tree: Tree, *letters: Letter) -> None:
    tree.network.put(("00", "01"), letters)


def listed(tree: Tree) -> list[Parked]:
    return list(tree.children["01"].database.parked())


def test_what_is_no_message_of_its_link_is_listed_whole_and_never_tried(tree: Tree) -> None:
    """Nobody would look for it on the bus; and a retry must not apply what was refused for whom it is from."""
    strangers = [
        Letter("01", message_name("00", "01", SESSION, 1), b'{"message": {"header": '),
        letter(2, {"customer_id": "W"}, **{"from": "07"}),
        Letter("01", "../\x00\udcff" + 300 * "x", b"\x00\xff"),
        letter(4, {"customer_id": "Z"}, to="\x00"),
    ]
    put(tree, *strangers, letter(3, {"customer_id": "A"}))
    tree.receive()
    child = tree.children["01"]
    assert child.execute(NAMES) == [("A",)]
    assert [(one.payload, one.refused) for one in listed(tree)] == [(one.payload, True) for one in strangers]
    assert [one.name for one in listed(tree)[:2]] == [one.name for one in strangers[:2]]
    assert "the header says 07to01at" in listed(tree)[1].reason
    assert [one.payload for one, _ in tree.network.aside] == [one.payload for one in strangers]
    assert child.database.retry_parked([]) == 0
    assert not child.store.retry_asked()
    tree.clock.ahead_ms += 60_000
    tree.receive()
    assert [one.attempts for one in listed(tree)] == [listed(tree)[0].attempts] * 4
    tree.receivers["01"].close()
    tree.receivers["01"] = tree.receiver("01")  # the bus hands out again what was not recorded
    tree.receive()
    assert len(listed(tree)) == 4
    assert child.database.discard_parked(listed(tree)[0].id)


def test_what_is_refused_holds_up_no_tombstones(tree: Tree) -> None:
    """It is no item's state; a neighbour is told that all of it is here."""
    put(tree, Letter("01", "no message", b"?"))
    tree.world.execute("INSERT INTO customers (customer_id) VALUES ('A')")
    tree.send()
    tree.receive()
    (link,) = tree.children["01"].store.outgoing()
    assert listed(tree)
    assert link.received is not None


def test_what_is_read_ahead_is_refused_in_its_turn(tree: Tree) -> None:
    """A session behind the one that is being applied is looked at already: that must not hold up, or lose, either."""
    for session in "AB":
        rows = (f"INSERT INTO customers (customer_id, name) VALUES ('{session}{n}', '{'x' * 40}')" for n in range(100))
        tree.world.execute(*rows)
        tree.send()
    waiting = tree.network.directions["00", "01"]
    cut = waiting[2]
    cut.letter = replace(cut.letter, payload=cut.letter.payload[:-40])
    tree.receive()
    child = tree.children["01"]
    assert child.execute("SELECT count(*) FROM customers") == [(100,)]
    assert [(one.payload, one.refused) for one in listed(tree)] == [(cut.letter.payload, True)]
    completed = child.store.incoming("00").completed
    assert completed is not None
    assert digits(completed) in waiting[0].letter.name, "the second is not whole"


def test_a_large_message_that_was_cut_is_missed(tree: Tree) -> None:
    """It is read only when it is applied: were its session taken for whole, nobody would ask for it again."""
    whole = letter(2, *({"customer_id": f"L{n}", "name": "x" * 40} for n in range(100)))
    cut = Letter("01", whole.name, whole.payload[:-40])
    mark = letter(3, of=2)
    put(tree, letter(1, {"customer_id": "A"}), cut, mark)
    tree.receive()
    child = tree.children["01"]
    assert child.execute(NAMES) == [("A",)]
    assert [(one.payload, one.refused) for one in listed(tree)] == [(cut.payload, True)]
    assert child.store.incoming("00").completed is None
    put(tree, whole)
    tree.receive()
    assert len(child.execute(NAMES)) == 101
    assert child.store.incoming("00").completed == SESSION


def test_a_message_of_a_later_version_is_parked_once(tree: Tree) -> None:
    """However often the bus hands it out until it may forget it."""
    put(tree, letter(1, {"customer_id": "A"}, version=2), letter(2, of=1, version=2))
    for _ in range(3):
        tree.receive()
        tree.receivers["01"].close()
        tree.receivers["01"] = tree.receiver("01")
    assert [one.name for one in listed(tree)] == [message_name("00", "01", SESSION, n) for n in (1, 2)]
    assert all("header version 2 is not known here" in one.reason for one in listed(tree))


def test_what_the_bus_is_done_with_is_forgotten_by_it(worlds: Callable[[str], StoreWorld]) -> None:
    """Or a folder would keep a message of a later version, and show it as not received, for ever."""
    tree = Tree(worlds)
    tree.network.positions = False
    put(tree, letter(1, {"customer_id": "A"}, version=2))
    tree.receive()
    assert not tree.network.directions["00", "01"]
    tree.close()


def order(number: int, *lines: object) -> dict[str, Any]:
    return {"order_id": number, "customer_id": None, "title": "t", "lines": list(lines), "notes": []}


def line(number: Any, qty: Any) -> dict[str, Any]:
    return {"line": number, "qty": qty, "customer_id": None}


def item(type_name: str, value: object) -> dict[str, Any]:
    return {"#type": type_name, "#stamp": "20261118110640000", "#origin": "00.5", "#value": value}


def price(amount: object) -> dict[str, Any]:
    return {"Filter": {"product": "p", "period": "2026-11-01"}, "Records": [{"currency": "RUB", "price": amount}]}


REFUSED = {
    "a text for a number": (item(ORDER, order(7, line(1, "many"))), "Document.Order [7]"),
    "too large a number": (item(ORDER, order(7, line(1, 10**30))), "Document.Order [7]"),
    "no number": (item(PRICE, price("cheap")), 'InformationRegister.Price ["p","2026-11-01"]'),
    "two rows of one key": (item(ORDER, order(7, line(1, 1), line(1, 2))), "Document.Order [7]"),
    "a row without its key": (item(ORDER, order(7, line(None, 2))), "Document.Order [7]"),
    "no rows": (item(ORDER, {**order(7), "lines": "none"}), "Document.Order"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_that_no_table_takes_is_told_with_its_item(tree: Tree, case: str) -> None:
    """A message may have a thousand items: which of them is it? And a second attempt is no cure."""
    bad, named = REFUSED[case]
    good = [item(CUSTOMER, {"customer_id": str(n)}) for n in range(9)]
    body = letter(1)
    message = orjson.loads(body.payload)
    message["message"]["body"] = [*good[:5], bad, *good[5:]]
    put(tree, Letter("01", body.name, orjson.dumps(json.loads(json.dumps(message), parse_int=_as_sent))))
    put(tree, letter(2, {"customer_id": "A"}))
    tree.receive()
    assert tree.children["01"].execute(NAMES) == [("A",)]
    (parked,) = listed(tree)
    assert named in parked.reason
    tree.children["01"].database.retry_parked([])
    tree.receive()
    assert [one.reason for one in listed(tree)] == [parked.reason]


def _as_sent(digits: str) -> int | str:
    return int(digits) if len(digits) < 16 else digits


BODY = [
    item(CUSTOMER, {"customer_id": "A", "name": "a", "boss": None, "nick": "n"}),
    item(ORDER, order(1, line(1, 1), line(2, 2))),
    item(PRICE, price("1.50")),
    item(FILE, {"file_id": "f", "order_id": 1, "body": "b"}),
    {"#type": CUSTOMER, "#stamp": "20261118110640000", "#origin": "00.5", "#deleted": {"customer_id": "B"}},
]


@pytest.mark.parametrize(
    "dialect",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def test_whatever_a_message_holds_it_is_applied_or_listed(dialect: str, tmp_path: Path) -> None:
    """Anything in any place of a message that is right otherwise, also where its items meet other versions of theirs:
    what comes behind it is applied, and nothing is raised."""
    worlds: list[StoreWorld] = []

    def make(code: str) -> StoreWorld:
        worlds.append(new_world(dialect, code, tmp_path))
        return worlds[-1]

    with closing(Tree(make)) as tree:
        sessions = iter(range(SESSION, SESSION + 100_000))

        @slowly
        @given(st.sampled_from(list(places(BODY))[1:]), values, st.booleans())
        def check(place: tuple[Any, ...], value: Any, collides: bool) -> None:
            session = Stamp(next(sessions))
            body: Any = copy.deepcopy(BODY)
            if collides:
                body = [{**its, "#origin": f"02.{session}"} for its in body]
            inside = body
            for step in place[:-1]:
                inside = inside[step]
            inside[place[-1]] = value
            good = f"good{session}"
            for number, its in enumerate([body, [item(CUSTOMER, {"customer_id": good})]], 1):
                header = {"from": "00", "to": "01", "version": 1, "incarnation": 5, "number": number}
                said = {"message": {"header": {**header, "session": digits(session)}, "body": its}}
                payload = json.dumps(said).encode("utf-8", "surrogatepass")
                put(tree, Letter("01", message_name("00", "01", session, number), payload))
            tree.receive()
            assert tree.children["01"].execute(f"SELECT 1 FROM customers WHERE customer_id = '{good}'")
            for one in listed(tree):  # or each would be tried again by all that come
                tree.children["01"].database.discard_parked(one.id)

        check()
    for world in worlds:
        world.close()

"""Composites, enumerations in lookup tables, predefined items: each node in its own form and with its own keys, the
same on the wire, also past a node that has no table for the type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from schemas.compilation import generate_package, tables_needed
from schemas.network import CompositeSettings, LookupSettings, TypeSettings
from serializers.keys import Item
from tests.contract.pair import Pair, exchanged
from tests.contract.store_world import StoreWorld

DDL = """
CREATE TABLE statuses (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(20));
CREATE TABLE customers (customer_id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(50), preset VARCHAR(20),
    status INTEGER REFERENCES statuses (id));
CREATE TABLE people (person_id VARCHAR(20) NOT NULL PRIMARY KEY, name VARCHAR(50));
CREATE TABLE payments (payment_id INTEGER NOT NULL PRIMARY KEY, payer_kind VARCHAR(20),
    payer_customer INTEGER REFERENCES customers (customer_id), payer_person VARCHAR(20),
    payer_text VARCHAR(50), payer_sum NUMERIC(10, 2), subject TEXT);
CREATE TABLE payment_lines (payment_id INTEGER NOT NULL REFERENCES payments (payment_id), line INTEGER NOT NULL,
    item_kind VARCHAR(40), item_value VARCHAR(40), status INTEGER, PRIMARY KEY (payment_id, line));
CREATE TABLE limits (customer INTEGER NOT NULL REFERENCES customers (customer_id), year INTEGER NOT NULL,
    amount INTEGER, PRIMARY KEY (customer, year))
"""
CUSTOMER, PERSON, PAYMENT, LIMIT = "Catalog.Customer", "Catalog.Person", "Document.Payment", "InformationRegister.Limit"
STATUS = LookupSettings("statuses", "code")

EXCHANGE = exchanged(
    TypeSettings(CUSTOMER, "customers", reference_data=True, predefined="preset", enums={"status": STATUS}),
    TypeSettings(PERSON, "people", reference_data=True),
    TypeSettings(
        PAYMENT,
        "payments",
        reference_data=True,
        sections={"lines": "payment_lines"},
        enums={"lines.status": STATUS},
        composite={
            "payer": CompositeSettings(
                "payer_kind",
                {CUSTOMER: "payer_customer", PERSON: "payer_person", "string": "payer_text", "decimal": "payer_sum"},
                {CUSTOMER: "C", PERSON: "P", "string": "text", "decimal": "sum"},
            ),
            "subject": CompositeSettings(json="subject", types=(CUSTOMER, PERSON, "string")),
            "lines.item": CompositeSettings(
                "item_kind", {CUSTOMER: "item_value", PERSON: "item_value", "integer": "item_value"}
            ),
        },
    ),
    TypeSettings(LIMIT, "limits", reference_data=True, filter=("customer",)),
)
PRESETS = {"00": 1, "01": 701, "02": 801}
"""The key of the predefined customer 'Retail' at each node."""


@pytest.fixture
def network(worlds: Callable[[str], StoreWorld]) -> Iterator[Callable[..., Pair]]:
    """00, 01 below it, 02 below that: lookup values and a predefined customer under other keys everywhere. Types of
    `without` have no table at 01."""
    with ExitStack() as stack:

        def make(*without: str) -> Pair:
            nodes = {code: worlds(code) for code in PRESETS}
            for number, (code, world) in enumerate(nodes.items()):
                own = DDL.replace("subject TEXT", "subject JSONB") if world.dialect == "postgresql" else DDL
                world.execute(*(f'DROP TABLE "{t}"' if world.dialect != "mariadb" else f"DROP TABLE {t}" for t in _OLD))
                world.script(own)
                shift = 100 * number
                world.execute(f"INSERT INTO statuses VALUES ({shift + 1}, 'new'), ({shift + 2}, 'old')")
                world.execute(f"INSERT INTO customers VALUES ({PRESETS[code]}, 'Retail', 'Retail', {shift + 1})")
                world.exchange = EXCHANGE
            tables = dict(nodes["00"].database.reflect(tables_needed(EXCHANGE.values())))
            package = generate_package(EXCHANGE, tables)
            nodes["01"].exchange = {name: replace(t, takes_part=name not in without) for name, t in EXCHANGE.items()}
            return stack.enter_context(closing(Pair(nodes, {"00": None, "01": "00", "02": "01"}, package)))

        yield make


_OLD = ("order_files", "order_access", "order_lines", "order_notes", "orders", "customers")

PAYMENTS = "SELECT payment_id, payer_kind, payer_customer, payer_person, payer_text FROM payments ORDER BY 1"


def test_a_composite_is_one_property_on_the_wire_whatever_columns_it_has(network: Callable[..., Pair]) -> None:
    """Also null, also in a section where the types share a column, also in one column of JSON."""
    pair = network()
    root, _, last = (peer.world for peer in pair.peers.values())
    root.execute(
        "INSERT INTO people VALUES ('A', 'Anna')",
        "INSERT INTO customers (customer_id, name) VALUES (5, 'Five')",
        "INSERT INTO payments (payment_id, payer_kind, payer_person) VALUES (1, 'P', 'A')",
        "INSERT INTO payments (payment_id, payer_kind, payer_customer) VALUES (2, 'C', 5)",
        "INSERT INTO payments (payment_id, payer_kind, payer_text) VALUES (3, 'text', 'by hand')",
        "INSERT INTO payments (payment_id, payer_kind, payer_sum) VALUES (4, 'sum', 12.25)",
        """INSERT INTO payments (payment_id, subject) VALUES (5, '{"#type": "Catalog.Person", "#value": "A"}')""",
        f"INSERT INTO payment_lines VALUES (5, 1, '{PERSON}', 'A', 2), (5, 2, '{CUSTOMER}', '5', NULL),"
        " (5, 3, 'integer', '42', 1), (5, 4, NULL, NULL, NULL)",
    )
    pair.exchange()
    pair.settled()
    by_id = {value["payment_id"]: value for value in pair.wire(PAYMENT)}
    assert [by_id[n]["payer"] for n in (1, 2, 3, 4, 5)] == [
        {"#type": PERSON, "#value": "A"},
        {"#type": CUSTOMER, "#value": 5},
        {"#type": "string", "#value": "by hand"},
        {"#type": "decimal", "#value": "12.25"},
        None,
    ]
    assert by_id[5]["subject"] == {"#type": PERSON, "#value": "A"}
    assert [(row["item"], row["status"]) for row in by_id[5]["lines"]] == [
        ({"#type": PERSON, "#value": "A"}, "old"),
        ({"#type": CUSTOMER, "#value": 5}, None),
        ({"#type": "integer", "#value": 42}, "new"),
        (None, None),
    ]
    assert len(pair.equal(PAYMENTS)) == 5
    assert last.execute("SELECT item_kind, item_value, status FROM payment_lines ORDER BY line") == [
        (PERSON, "A", 202),
        (CUSTOMER, "5", None),
        ("integer", "42", 201),
        (None, None, None),
    ]
    last.execute("UPDATE payments SET payer_kind = NULL, payer_text = NULL WHERE payment_id = 3")
    last.execute("UPDATE payments SET payer_kind = 'P', payer_customer = NULL, payer_person = 'A' WHERE payment_id = 2")
    pair.exchange()
    pair.settled()
    assert pair.equal(PAYMENTS)[1:3] == [(2, "P", None, "A", None), (3, None, None, None, None)]


def test_what_a_composite_refers_to_goes_ahead_of_it_or_with_it(network: Callable[..., Pair]) -> None:
    """A reference in it is one like any other: in closure, in the order of writing, where its target is to go."""
    pair = network()
    root = pair.peers["00"].world
    root.execute("INSERT INTO people VALUES ('A', 'a'), ('B', 'b'), ('C', 'c')")
    root.execute(
        "INSERT INTO payments (payment_id, payer_kind, payer_person, subject) "
        """VALUES (1, 'P', 'A', '{"#type": "Catalog.Person", "#value": "B"}')""",
        f"INSERT INTO payment_lines VALUES (1, 1, '{PERSON}', 'C', NULL)",
    )
    with root.store.sending() as view:
        view.fold()
        ties = view.ties([Item(PAYMENT, "[1]")], after=0, node="01", limited=frozenset())
    assert {tie.target.item.key for tie in ties} == {'["A"]', '["B"]', '["C"]'}
    with root.store.receiving("01", forward=True, limited=frozenset()) as receiving:
        wanted = [Item(PERSON, f'["{key}"]') for key in "ABC"]
        receiving.lock(wanted)
        assert receiving.referred(wanted, besides=[]) == set(wanted)
    pair.exchange()
    pair.settled()
    assert len(pair.equal("SELECT person_id FROM people ORDER BY 1")) == 3


def test_a_reference_in_a_composite_that_leads_nowhere_waits_alone(network: Callable[..., Pair]) -> None:
    """No database checks it: taken in, it would point at nothing, and nobody would hear of it."""
    pair = network()
    root, one, _ = (peer.world for peer in pair.peers.values())
    root.execute(
        "INSERT INTO payments (payment_id, payer_kind, payer_person, subject) VALUES (1, 'P', 'lost', NULL), "
        """(2, 'text', NULL, NULL), (3, NULL, NULL, '{"#type": "Catalog.Person", "#value": "gone"}')""",
    )
    pair.exchange()
    assert one.execute("SELECT payment_id FROM payments") == [(2,)]
    waited_for = {item for parked in one.database.parked() for item in parked.waits_for}
    assert waited_for == {Item(PERSON, '["lost"]'), Item(PERSON, '["gone"]')}
    said = {m.property for m in root.database.check(root.structure()) if "is not there" in m.text}
    assert said == {"payer_person", "subject"}
    root.execute("INSERT INTO people VALUES ('lost', 'x'), ('gone', 'x')")
    pair.exchange()
    pair.settled()
    assert len(pair.equal(PAYMENTS)) == 3


def test_enumerations_are_names_on_the_wire(network: Callable[..., Pair]) -> None:
    """Their rows have other keys at each node; one that a node lacks makes the message wait until it is there."""
    pair = network()
    root, one, last = (peer.world for peer in pair.peers.values())
    root.execute("INSERT INTO customers VALUES (10, 'Ten', NULL, 2)")
    pair.exchange()
    assert [rows[0][0] for rows in pair.rows("SELECT status FROM customers WHERE customer_id = 10")] == [2, 102, 202]
    root.execute("INSERT INTO statuses VALUES (3, 'lost')", "UPDATE customers SET status = 3 WHERE customer_id = 10")
    pair.exchange()
    (reason,) = pair.peers["01"].parked
    assert "'lost' has no counterpart in statuses.code" in reason
    for world in (one, last):
        world.execute("INSERT INTO statuses VALUES (999, 'lost')")
    pair.clock.ahead_ms += 60_000
    pair.exchange()
    pair.settled()
    assert [rows[0][0] for rows in pair.rows("SELECT status FROM customers WHERE customer_id = 10")] == [3, 999, 999]


def test_a_predefined_item_is_the_same_under_every_key(network: Callable[..., Pair]) -> None:
    """Matched by name; references to it, also in filters and composites, are translated; equal ones do not collide."""
    pair = network()
    root, _, last = (peer.world for peer in pair.peers.values())
    root.execute("UPDATE customers SET name = 'Retail customer' WHERE customer_id = 1")
    pair.exchange()
    name = "SELECT customer_id, name FROM customers"
    assert pair.rows(name) == [[(key, "Retail customer")] for key in PRESETS.values()]
    last.execute(
        "INSERT INTO limits VALUES (801, 2026, 5)",
        "INSERT INTO payments (payment_id, payer_kind, payer_customer, subject) VALUES (1, 'C', 801, "
        """'{"#type": "Catalog.Customer", "#value": 801}')""",
    )
    pair.exchange()
    assert pair.rows("SELECT customer, amount FROM limits") == [[(key, 5)] for key in PRESETS.values()]
    assert [rows[0][0] for rows in pair.rows("SELECT payer_customer FROM payments")] == list(PRESETS.values())
    assert pair.wire(CUSTOMER)[0]["customer_id"] == {"#predefined": "Retail"}
    assert pair.wire(LIMIT)[0]["Filter"] == {"customer": {"#predefined": "Retail"}}
    last.execute("DELETE FROM limits", "DELETE FROM payments")
    pair.exchange()
    assert pair.rows("SELECT * FROM limits") == [[], [], []]
    last.execute("DELETE FROM customers")
    pair.exchange()
    assert pair.rows(name) == [[], [], []], "its tombstone bears the name, too"
    assert not any(peer.parked for peer in pair.peers.values())


def test_predefined_items_that_were_there_before_meet_without_a_collision(network: Callable[..., Pair]) -> None:
    """Unstamped and equal they are the same; different ones are an ordinary collision, no second birth."""
    pair = network()
    root, one, _ = (peer.world for peer in pair.peers.values())
    root.database.stamp_again([Item(CUSTOMER, "[1]")])
    pair.exchange()
    pair.settled()
    one.execute("UPDATE customers SET name = 'One'")
    root.execute("UPDATE customers SET name = 'Root'")
    pair.exchange()
    assert not any(peer.parked for peer in pair.peers.values())
    names = {rows[0][0] for rows in pair.rows("SELECT name FROM customers")}
    assert len(names) == 1
    assert any(peer.world.database.collisions() for peer in pair.peers.values())


def test_a_predefined_item_without_counterpart_waits_and_so_does_a_key_that_is_taken(
    network: Callable[..., Pair],
) -> None:
    """The reason is one that a person understands; nothing is overwritten."""
    pair = network()
    root, one, _ = (peer.world for peer in pair.peers.values())
    root.execute("INSERT INTO customers VALUES (2, 'Wholesale', 'Wholesale', NULL)")
    pair.exchange()
    (reason,) = pair.peers["01"].parked
    assert "the predefined Catalog.Customer 'Wholesale' has no counterpart here, by customers.preset" in reason
    one.execute("INSERT INTO customers VALUES (702, 'w', 'Wholesale', NULL)")
    pair.peers["02"].world.execute("INSERT INTO customers VALUES (802, 'w', 'Wholesale', NULL)")
    pair.clock.ahead_ms += 60_000
    pair.exchange()
    assert not pair.peers["01"].parked
    root.execute("INSERT INTO customers VALUES (701, 'not predefined', NULL, NULL)")
    pair.exchange()
    (reason,) = pair.peers["01"].parked
    assert "701 is here the key of the predefined Catalog.Customer 'Retail'" in reason
    assert one.execute("SELECT name FROM customers WHERE customer_id = 701") == [("Retail",)]


@pytest.mark.parametrize("without", [(PAYMENT, LIMIT), (CUSTOMER, PAYMENT, LIMIT)], ids=["documents", "all"])
def test_all_of_it_passes_a_node_that_has_no_table_for_it(
    network: Callable[..., Pair], without: tuple[str, ...]
) -> None:
    """It is kept as it came, in the wire's form, and the node behind finds its own keys in it."""
    pair = network(*without)
    root, _, last = (peer.world for peer in pair.peers.values())
    root.execute(
        "INSERT INTO payments (payment_id, payer_kind, payer_customer, subject) VALUES (1, 'C', 1, "
        """'{"#type": "Catalog.Customer", "#value": 1}')""",
        f"INSERT INTO payment_lines VALUES (1, 1, '{CUSTOMER}', '1', 2)",
        "INSERT INTO limits VALUES (1, 2026, 5)",
        "UPDATE customers SET name = 'R', status = 2",
    )
    pair.exchange()
    assert not any(peer.parked for peer in pair.peers.values())
    assert last.execute("SELECT customer_id, name, status FROM customers") == [(801, "R", 202)]
    assert last.execute("SELECT payer_customer FROM payments") == [(801,)]
    assert last.execute("SELECT item_value, status FROM payment_lines") == [("801", 202)]
    assert last.execute("SELECT customer FROM limits") == [(801,)]
    last.execute("DELETE FROM payment_lines", "DELETE FROM payments", "DELETE FROM limits", "DELETE FROM customers")
    pair.exchange()
    assert not any(peer.parked for peer in pair.peers.values())
    for table in ("payments", "limits", "customers"):
        assert root.execute(f"SELECT * FROM {table}") == [], table

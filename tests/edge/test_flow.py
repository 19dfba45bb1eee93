r"""What must be true of the flow from outside: real daemons, SQLite, a folder; a tree of four nodes.

        00
       /  \
      01   02
      |
      03

The nodes run for the whole module, so each test has keys of its own. That something does not arrive is seen by a
change that is made after it and does.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.edge import retail
from tests.edge.network import Node, TestNetwork

pytestmark = pytest.mark.xdist_group("edge-flow")

_FENCES = itertools.count(1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNetwork]:
    parents = {"00": None, "01": "00", "02": "00", "03": "01"}
    nodes = [Node(code, retail.SQLITE, parent) for code, parent in parents.items()]
    network = TestNetwork(tmp_path_factory.mktemp("flow"), nodes, retail.EXCHANGE)
    try:
        network.install()
        network.start_and_wait()
        yield network
    finally:
        network.close()


def fence(network: TestNetwork, code: str) -> None:
    """A change at `code` that arrives everywhere: what was made before it there has gone where it goes, too."""
    name = f"fence {next(_FENCES)}"
    network.execute(code, ("INSERT INTO customers VALUES (?, ?)", (name, name)))
    for other in network.nodes:
        network.wait_for(other, f"SELECT name FROM customers WHERE customer_id = '{name}'", [(name,)])


def wait_until_equal(network: TestNetwork) -> None:
    for sql in retail.EVERYWHERE:
        network.wait_until_equal(sql)


@pytest.mark.parametrize("code", ["00", "03"])
def test_a_transaction_at_any_node_arrives_at_every_other(network: TestNetwork, code: str) -> None:
    """Or a change of a grandchild would end at its parent, or an order would come without its lines."""
    n = 1000 + int(code)
    network.execute(
        code,
        ("INSERT INTO customers VALUES (?, 'Ёж & \"Sons\" <ltd>')", (f"C{n}",)),
        ("INSERT INTO orders VALUES (?, ?, 2)", (n, f"C{n}")),
        ("INSERT INTO order_lines VALUES (?, 1, 'tea', 3), (?, 2, '', -1)", (n, n)),
        ("INSERT INTO order_files VALUES (?, 'a.bin', ?)", (n, bytes(range(256)))),
        ("INSERT INTO prices VALUES (?, '2026-11-01', 'retail', 5), (?, '2026-11-01', 'sale', 4)", (f"p{n}", f"p{n}")),
    )
    for other in network.nodes:
        network.wait_for(other, f"SELECT count(*) FROM order_lines WHERE order_id = {n}", [(2,)])
        network.wait_for(other, f"SELECT content FROM order_files WHERE order_id = {n}", [(bytes(range(256)),)])
    wait_until_equal(network)


def test_changes_of_every_kind_travel(network: TestNetwork) -> None:
    """Updates, deletions, changes of key, cascades, REPLACE and upserts are all stamped, whoever writes."""
    network.execute(
        "01",
        "INSERT INTO customers VALUES ('K1', 'one'), ('K2', 'two'), ('K3', 'three')",
        "INSERT INTO orders VALUES (2001, 'K1', 1), (2002, 'K1', 1), (2003, 'K2', 0)",
        "INSERT INTO order_lines VALUES (2001, 1, 'a', 1), (2001, 2, 'b', 1), (2002, 1, 'c', 1)",
        "INSERT INTO order_files VALUES (2001, 'f', x'00'), (2002, 'f', x'01')",
        "INSERT INTO prices VALUES ('q', '2026-01-01', 'x', 1), ('q', '2026-01-01', 'y', 2)",
        "INSERT INTO prices VALUES ('q', '2026-02-01', 'x', 1)",
    )
    network.wait_for("02", "SELECT count(*) FROM order_files WHERE order_id IN (2001, 2002)", [(2,)])
    network.execute(
        "02",
        "UPDATE order_lines SET order_id = 2003, line = 7 WHERE order_id = 2001 AND line = 2",  # to another order
        "DELETE FROM orders WHERE order_id = 2002",  # its line and its file go with it
        "UPDATE orders SET order_id = 2004 WHERE order_id = 2001",  # and its line and its file follow
        "INSERT OR REPLACE INTO customers VALUES ('K3', 'replaced')",
        "INSERT INTO customers VALUES ('K2', 'x') ON CONFLICT DO UPDATE SET name = 'upserted'",
        "DELETE FROM prices WHERE product = 'q' AND period = '2026-02-01'",  # an empty record set
        "UPDATE prices SET price = 3 WHERE product = 'q' AND kind = 'y'",
    )
    for other in network.nodes:
        network.wait_for(
            other,
            "SELECT o.order_id, l.line, l.product FROM orders o LEFT JOIN order_lines l USING (order_id)"
            " WHERE o.order_id BETWEEN 2001 AND 2099 ORDER BY 1, 2",
            [(2003, 7, "b"), (2004, 1, "a")],
        )
        network.wait_for(other, "SELECT order_id FROM order_files WHERE order_id BETWEEN 2001 AND 2099", [(2004,)])
        network.wait_for(
            other,
            "SELECT name FROM customers WHERE customer_id LIKE 'K_' ORDER BY customer_id",
            [("one",), ("upserted",), ("replaced",)],
        )
        network.wait_for(
            other, "SELECT period, kind, price FROM prices WHERE product = 'q' ORDER BY kind",
            [("2026-01-01", "x", 1), ("2026-01-01", "y", 3)],
        )  # fmt: skip
    wait_until_equal(network)


def test_independent_data_goes_to_the_parent_alone(network: TestNetwork) -> None:
    """Or a shop would see what another one reports to the head office."""
    network.execute("03", "INSERT INTO reports VALUES ('of 03', 'x')")
    network.execute("02", "INSERT INTO reports VALUES ('of 02', 'y')")
    network.execute("00", "INSERT INTO reports VALUES ('of 00', 'z')")
    reports = "SELECT report_id FROM reports ORDER BY 1"
    network.wait_for("00", reports, [("of 00",), ("of 02",), ("of 03",)])
    for code in ("00", "02", "03"):
        fence(network, code)
    assert network.rows("01", reports) == [("of 03",)]
    assert network.rows("02", reports) == [("of 02",)]
    assert network.rows("03", reports) == [("of 03",)]

    network.execute("00", "UPDATE reports SET text = 'seen' WHERE report_id = 'of 03'")
    network.wait_for("03", "SELECT text FROM reports", [("seen",)])  # who holds a copy never keeps an outdated one
    assert network.rows("02", reports) == [("of 02",)]


def test_dependants_go_where_their_owner_goes(network: TestNetwork) -> None:
    """Or a file would arrive without its task, or a task at a node without rights to it."""
    network.execute(
        "00",
        "INSERT INTO task_access VALUES (1, '03'), (2, '02')",
        "INSERT INTO tasks VALUES (1, 'for 03'), (2, 'for 02'), (3, 'for nobody')",
        "INSERT INTO task_files VALUES ('of 1', 1, 'x'), ('of 2', 2, 'y'), ('of 3', 3, 'z')",
    )
    network.execute("00", "INSERT INTO task_files VALUES ('later, of 1', 1, 'x')")
    files = "SELECT file_id FROM task_files ORDER BY 1"
    network.wait_for("01", files, [("later, of 1",), ("of 1",)])  # it lies on the way to 03
    network.wait_for("02", files, [("of 2",)])
    fence(network, "00")
    assert network.rows("01", "SELECT task_id FROM tasks") == [(1,)]
    assert network.rows("02", "SELECT task_id FROM tasks") == [(2,)]


def test_nothing_goes_back_where_it_came_from(network: TestNetwork) -> None:
    """Or apply -> capture -> review would bounce one item between two nodes for ever."""
    fence(network, "00")
    network.wait_until_settled()
    before = {code: network.link(code, parent)["sent_items"] for code, parent in (("01", "00"), ("02", "00"))}
    back = network.link("01", "03")["received_items"]
    for _ in range(3):
        fence(network, "00")
    network.wait_until_settled()
    assert {code: network.link(code, "00")["sent_items"] for code in before} == before
    assert network.link("01", "03")["received_items"] == back


def _change_at_both(network: TestNetwork, first: tuple[str, str], second: tuple[str, str]) -> None:
    """Both statements are written while the other node's database is locked: neither can have seen the other."""
    with closing(network.sqlite(first[0])) as one, closing(network.sqlite(second[0])) as two:
        one.execute("BEGIN IMMEDIATE")
        two.execute("BEGIN IMMEDIATE")
        one.execute(first[1])
        two.execute(second[1])
        one.execute("COMMIT")
        two.execute("COMMIT")


def test_a_collision_ends_the_same_everywhere_and_the_loser_is_in_the_journal(network: TestNetwork) -> None:
    """Or two nodes would each keep their own version, or somebody's work would vanish in silence."""
    network.execute("00", "INSERT INTO orders SELECT 3001, min(customer_id), 1 FROM customers")
    network.execute("00", "INSERT INTO order_lines VALUES (3001, 1, 'tea', 1)")
    for code in network.nodes:
        network.wait_for(code, "SELECT product FROM order_lines WHERE order_id = 3001", [("tea",)])
    _change_at_both(
        network,
        ("03", "UPDATE order_lines SET product = 'says 03' WHERE order_id = 3001"),
        ("02", "INSERT INTO order_lines VALUES (3001, 2, 'says 02', 5)"),
    )
    lines = "SELECT product FROM order_lines WHERE order_id = 3001 ORDER BY line"
    by_03, by_02 = [("says 03",)], [("tea",), ("says 02",)]
    network.wait_until(
        lambda: (
            len({tuple(network.rows(code, lines)) for code in network.nodes}) == 1
            and network.rows("00", lines) in (by_03, by_02)
        ),
        "all nodes have one of both versions",
    )
    loser = "says 02" if network.rows("00", lines) == by_03 else "says 03"
    assert any(loser in text for text in _journal(network, "Document.Order")), "the loser is in no journal"


def test_a_deletion_that_collides_with_a_change_ends_the_same_everywhere(network: TestNetwork) -> None:
    """The item is there at every node, whole, or at none."""
    for n in range(4):
        network.execute("00", ("INSERT INTO customers VALUES (?, 'contested')", (f"D{n}",)))
    fence(network, "00")
    for n in range(4):
        change = f"UPDATE customers SET name = 'kept' WHERE customer_id = 'D{n}'"
        delete = f"DELETE FROM customers WHERE customer_id = 'D{n}'"
        first, second = (change, delete) if n % 2 else (delete, change)
        _change_at_both(network, ("02", first), ("01", second))
    for code in ("01", "02"):
        fence(network, code)
    network.wait_until_settled()
    network.wait_until_equal("SELECT customer_id, name FROM customers WHERE customer_id LIKE 'D%' ORDER BY 1")
    assert len(_journal(network, "Catalog.Customer")) >= 4


def _journal(network: TestNetwork, type_name: str) -> list[str]:
    """The values that lost, of a type, at any node, as `kod collisions show` tells them."""
    return [
        network.kod("collisions", "--node", code, "show", str(line["id"])).stdout
        for code in network.nodes
        for line in network.json("collisions", "--node", code)
        if line["type"] == type_name
    ]


class Reader(threading.Thread):
    """Looks at a node without a pause for what must never be seen there."""

    TORN = (
        "SELECT count(*) FROM orders o"
        " WHERE NOT EXISTS (SELECT 1 FROM customers c WHERE c.customer_id = o.customer_id)",
        "SELECT count(*) FROM orders o WHERE order_id >= 5000"
        " AND size <> (SELECT count(*) FROM order_lines l WHERE l.order_id = o.order_id)",
        "SELECT count(*) FROM orders o WHERE order_id >= 5000"
        " AND NOT EXISTS (SELECT 1 FROM order_files f WHERE f.order_id = o.order_id)",
        "SELECT count(*) FROM order_files f WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.order_id = f.order_id)",
    )

    def __init__(self, network: TestNetwork, code: str, done: threading.Event) -> None:
        super().__init__()
        self.code = code
        self.looks = 0
        self.seen: list[Any] = []
        self._network, self._done = network, done

    def run(self) -> None:
        with closing(self._network.sqlite(self.code)) as connection:
            while not self._done.wait(0.002):
                connection.execute("BEGIN")
                found = [connection.execute(sql).fetchone()[0] for sql in self.TORN]
                connection.execute("COMMIT")
                self.looks += 1
                if any(found):
                    self.seen.append(found)


def test_no_reader_ever_sees_half_a_message_or_a_broken_reference(network: TestNetwork) -> None:
    """An order comes with its customer, all its lines and its file, in one transaction, at every node."""
    done = threading.Event()
    readers = [Reader(network, code, done) for code in network.nodes]
    for reader in readers:
        reader.start()
    try:
        for n in range(5000, 5150):
            lines = n % 4
            network.execute(
                ("00", "03", "02")[n % 3],
                ("INSERT INTO customers VALUES (?, 'new')", (f"R{n}",)),
                ("INSERT INTO orders VALUES (?, ?, ?)", (n, f"R{n}", lines)),
                *(("INSERT INTO order_lines VALUES (?, ?, 'tea', 1)", (n, line)) for line in range(lines)),
                ("INSERT INTO order_files VALUES (?, 'f', x'00')", (n,)),
            )
            if n % 10 == 9:
                network.execute(
                    ("00", "03", "02")[n % 3],
                    ("INSERT INTO order_lines VALUES (?, 99, 'more', 1)", (n,)),
                    ("UPDATE orders SET size = size + 1 WHERE order_id = ?", (n,)),
                )
        for code in network.nodes:
            network.wait_for(code, "SELECT count(*) FROM orders WHERE order_id BETWEEN 5000 AND 5149", [(150,)])
        wait_until_equal(network)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert {reader.code: reader.seen for reader in readers if reader.seen} == {}
    assert all(reader.looks > 20 for reader in readers)


def test_messages_bear_the_names_and_the_form_that_are_promised(network: TestNetwork, tmp_path: Path) -> None:
    """Other programs read them: contract.md, Message, version 1."""
    network.kod("streams", "--node", "02", "--receive", "0")
    try:
        network.wait_until(lambda: network.status("02")["receive_streams_max"] == 0, "02 does not receive")
        folder = network.folder / "exchange" / network.name / "02" / "00"
        wanted = b'"customer_id":"M1"'

        def written() -> list[Path]:
            return [f for f in folder.glob("*/*.json") if wanted in f.read_bytes().replace(b" ", b"")]

        # the daemon follows within two seconds; what it took before that is applied
        numbers = itertools.count()
        network.wait_until(lambda: network.execute(
            "00", ("INSERT INTO customers VALUES ('M1', ?) ON CONFLICT DO UPDATE SET name = excluded.name",
                   (str(next(numbers)),)),
        ) or written(), "a message lies there")  # fmt: skip
        file = written()[0]
        assert file.parent.name == file.name.partition("at")[2][:12]
        assert file.name.startswith("00to02at")
        assert file.name.endswith("-1.json")
    finally:
        network.kod("streams", "--node", "02", "--reset")
    wait_until_equal(network)

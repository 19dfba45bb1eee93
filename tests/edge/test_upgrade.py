"""Rolling upgrades under load: real daemons over PostgreSQL and SQLite, each node with files of its own.

    01  SQLite ── 00  PostgreSQL ── 02  SQLite

01 and 02 are upgraded before 00, so that what is new has to get through a node that does not know it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import yaml

from tests.edge import retail
from tests.edge.network import Node, TestNetwork
from tests.servers import postgresql_url

pytestmark = [pytest.mark.postgresql, pytest.mark.xdist_group("edge-upgrade")]

ORDER = ("01", "02", "00")
CODES = ("00", "01", "02")


class Rolling(TestNetwork):
    """Every node has a nodes.yaml and a package of its own: its machine's."""

    def command(self, *arguments: str) -> list[str]:
        made = super().command(*arguments)
        code = arguments[arguments.index("--node") + 1] if "--node" in arguments else ""
        own = self.folder / f"nodes-{code}.yaml"
        return [str(own) if part == str(self.path) and own.exists() else part for part in made]

    def separate(self) -> None:
        for code in self.nodes:
            text = yaml.safe_load(self.path.read_text(encoding="utf-8"))
            text["package"] = f"package-{code}.xsd"
            self._write(code, text)
            shutil.copy(self.folder / "package.xsd", self.folder / f"package-{code}.xsd")

    def change(self, code: str, change: Callable[[dict[str, Any]], None]) -> None:
        text = yaml.safe_load((self.folder / f"nodes-{code}.yaml").read_text(encoding="utf-8"))
        change(text["exchange"])
        self._write(code, text)

    def _write(self, code: str, text: dict[str, Any]) -> None:
        path = self.folder / f"nodes-{code}.yaml"
        path.write_text(yaml.safe_dump(text, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def upgrade(self, code: str, *statements: str, change: Callable[[dict[str, Any]], None]) -> None:
        """As docs/how-to/changing-the-structure.md says: drained, stopped, changed, installed, started."""
        drained = self.json("drain", "--node", code, "--timeout", "50")
        assert drained["safe"], drained
        assert self.daemons[code].stop() == 0
        self.execute(code, *statements)
        self.change(code, change)
        newest = self.folder / "package-new.xsd"
        if newest.exists():
            shutil.copy(newest, self.folder / f"package-{code}.xsd")
        else:  # the first one that is upgraded makes it
            self.kod("schema", "generate", "--node", code)
            shutil.copy(self.folder / f"package-{code}.xsd", newest)
        self.kod("install", "--node", code)
        self.start_and_wait(code)

    def agree(self) -> None:
        """Everything is the same at every node, and nothing waits for a person."""
        self.wait_until_settled()
        for code, status in {code: self.status(code) for code in self.nodes}.items():
            assert (status["parked"], status["package"]) == (0, self.status("00")["package"]), (code, status)
            assert [link["package_is"] for link in status["links"]] == ["same"] * len(status["links"])
        for other in ("01", "02"):
            compared = self.json("compare", "--node", "00", "--with", other)
            assert compared["items"] > 0
            assert compared["differences"] == compared["parked"] == compared["on_their_way"] == []


@pytest.fixture
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolling]:
    nodes = [
        Node("00", retail.POSTGRESQL, url=postgresql_url()),
        Node("01", retail.SQLITE, "00"),
        Node("02", retail.SQLITE, "00"),
    ]
    made = Rolling(tmp_path_factory.mktemp("upgrade"), nodes, retail.EXCHANGE)
    try:
        made.install()
        made.separate()
        made.start_and_wait()
        yield made
    finally:
        made.close()


class Writer(threading.Thread):
    """An application at one node; `upgraded` ones know the new structure. Ends with the block."""

    def __init__(self, network: Rolling, code: str, *, phase: int, upgraded: bool) -> None:
        super().__init__(name=f"writer at {code}")
        self.network, self.code, self.phase, self.upgraded = network, code, phase, upgraded
        self.ending = threading.Event()
        self.written = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self.ending.wait(0.02):
                self.network.execute(self.code, *self._statements(self.written))
                self.written += 1
        except Exception as failure:
            self.failure = failure

    def _statements(self, number: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
        base = {"00": 0, "01": 1_000_000, "02": 2_000_000}[self.code] + 100_000 * self.phase
        name, order = f"{self.code} {base + number}", base + number
        yield "INSERT INTO customers (customer_id, name) VALUES (?, ?)", (name, "x")
        yield "INSERT INTO orders VALUES (?, ?, ?)", (order, name, number)
        yield "INSERT INTO order_lines VALUES (?, 1, 'tea', ?)", (order, number)
        yield "INSERT INTO prices VALUES (?, '2026-11-01', 'a', ?)", (name, number)
        if number % 3 == 0:
            yield "UPDATE customers SET name = ? WHERE customer_id = ?", (f"again {number}", f"{self.code} {base}")
        if self.upgraded:
            yield "UPDATE customers SET colour = ? WHERE customer_id = ?", (f"red {number}", name)
            yield "INSERT INTO colours VALUES (?, ?)", (name, number)


@contextmanager
def writing(network: Rolling, upgraded: set[str], *codes: str) -> Iterator[dict[str, Writer]]:
    """Applications write at these nodes, until the block ends."""
    writers = {code: Writer(network, code, phase=len(upgraded), upgraded=code in upgraded) for code in codes}
    with ExitStack() as stack:
        for writer in writers.values():
            writer.start()
            stack.callback(writer.join)
            stack.callback(writer.ending.set)
        network.wait_until(lambda: all(w.written or w.failure for w in writers.values()), "all are writing")
        yield writers
    for writer in writers.values():
        assert writer.failure is None, (writer.code, writer.failure)


NEW = (
    "ALTER TABLE customers ADD COLUMN colour TEXT",
    "CREATE TABLE colours (colour_id TEXT NOT NULL PRIMARY KEY, shade INT)",
)


def new_type(exchange: dict[str, Any]) -> None:
    exchange["Catalog.Colour"] = {"table": "colours", "reference_data": True}


def test_a_network_is_upgraded_node_by_node_while_others_write(network: Rolling) -> None:
    """A new column and a new type, with a node between that knows them last: nothing is lost, cut or left waiting."""
    upgraded: set[str] = set()
    for code in ORDER:
        others = [other for other in CODES if other != code]
        with writing(network, upgraded, *others):
            network.upgrade(code, *NEW, change=new_type)
        upgraded.add(code)
        if code == "02":  # 01 and 02 know the new type, 00 between them does not
            network.execute("01", "INSERT INTO colours VALUES ('between', 1)")
            network.wait_until(lambda: network.status("00")["parked"] > 0, "00 parks what it does not know")
            (reason,) = {one["reason"].partition(" (")[0] for one in network.json("parked", "--node", "00")}
            assert reason == "the type 'Catalog.Colour' is not known here"
            assert network.rows("02", "SELECT 1 FROM colours") == []
            network.execute("01", "INSERT INTO customers (customer_id, name, colour) VALUES ('kept', 'x', 'red')")
            network.wait_for("02", "SELECT colour FROM customers WHERE customer_id = 'kept'", [("red",)])
    network.wait_for("00", "SELECT colour FROM customers WHERE customer_id = 'kept'", [("red",)])
    for code in CODES:
        network.wait_for(code, "SELECT shade FROM colours WHERE colour_id = 'between'", [(1,)])
    network.agree()
    network.wait_until_equal("SELECT customer_id, name, colour FROM customers ORDER BY 1")


def test_a_filter_is_changed_node_by_node(network: Rolling) -> None:
    """Sets of another shape wait at who does not know it, whichever of the two is behind, and no set is overwritten by
    a part of it."""

    def finer(exchange: dict[str, Any]) -> None:
        exchange["InformationRegister.Price"]["filter"] = ["product", "period", "kind"]

    insert = "INSERT INTO prices VALUES (?, '2026-11-01', ?, ?)"
    network.execute("00", *((insert, (product, kind, 1)) for product in ("mint", "tea") for kind in "ab"))
    for code in CODES:
        network.wait_for(code, "SELECT count(*) FROM prices", [(4,)])
    network.wait_until_settled()

    network.upgrade("01", change=finer)
    network.execute("01", "UPDATE prices SET price = 7 WHERE product = 'tea' AND kind = 'a'")
    network.wait_until(lambda: network.status("00")["parked"] > 0, "00 parks the finer set")
    network.execute("02", "UPDATE prices SET price = 9 WHERE product = 'mint' AND kind = 'b'")
    network.wait_until(lambda: network.status("01")["parked"] > 0, "01 parks the coarser set")
    for code, where in (("00", "here sets are by product, period"), ("01", "here sets are by product, period, kind")):
        assert all(where in one["reason"] for one in network.json("parked", "--node", code))

    network.upgrade("00", change=finer)
    network.upgrade("02", change=finer)
    for code in CODES:
        network.wait_for(
            code,
            "SELECT product, kind, price FROM prices ORDER BY 1, 2",
            [("mint", "a", 1), ("mint", "b", 9), ("tea", "a", 7), ("tea", "b", 1)],
        )
    network.wait_until(lambda: not any(network.status(code)["parked"] for code in CODES), "nothing is parked")
    network.agree()
    assert [network.status(code)["collisions"] for code in CODES] == [0, 0, 0]

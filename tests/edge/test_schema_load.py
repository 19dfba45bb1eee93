"""`kod schema load`: running daemons go on with another package, over each database.

00  PostgreSQL
|
01  MariaDB
|
02  SQLite
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from tests.edge.conftest import MakeNetwork
from tests.edge.network import Node, TestNetwork
from tests.servers import mariadb_url, postgresql_url

pytestmark = [pytest.mark.mariadb, pytest.mark.postgresql, pytest.mark.xdist_group("edge-mariadb")]

_CUSTOMERS = "CREATE TABLE customers (id INT NOT NULL PRIMARY KEY, name VARCHAR(80));\n"
_NOTES = "CREATE TABLE notes (id INT NOT NULL PRIMARY KEY, text VARCHAR(80))"
_EXCHANGE = {"Catalog.Customer": {"table": "customers", "reference_data": True}}
_NEW_TYPE = {"Catalog.Note": {"table": "notes", "reference_data": True}}
_PHONES = "SELECT id, phone FROM customers ORDER BY 1"
_ALL_NOTES = "SELECT id, text FROM notes ORDER BY 1"


def _grow(network: TestNetwork) -> None:
    """A column and a type more, at every node and in nodes.yaml; no daemon has read that yet."""
    for code in network.nodes:
        network.execute(code, "ALTER TABLE customers ADD COLUMN phone VARCHAR(20)", _NOTES)
    text = yaml.safe_load(network.path.read_text(encoding="utf-8"))
    text["exchange"] |= _NEW_TYPE
    network.path.write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")


def test_running_daemons_go_on_with_another_package(make_network: MakeNetwork) -> None:
    """Or each new column would stop every daemon. What waits for a type that a node did not know is applied by itself;
    a restart goes on with what was loaded; a package that a node cannot do with changes nothing."""
    network = make_network(
        [
            Node("00", _CUSTOMERS, url=postgresql_url()),
            Node("01", _CUSTOMERS, "00", url=mariadb_url()),
            Node("02", _CUSTOMERS, "01"),
        ],
        _EXCHANGE,
    )
    network.install()
    network.start_and_wait()
    before = (network.folder / "package.xsd").read_bytes()
    pids = {code: daemon.pid for code, daemon in network.daemons.items()}
    _grow(network)
    network.kod("schema", "generate", "--node", "00", "-o", "new.xsd")

    bad = (network.folder / "new.xsd").read_text(encoding="utf-8").replace('key="id"', 'key="name"', 1)
    (network.folder / "bad.xsd").write_text(bad, encoding="utf-8")
    refused = network.kod("schema", "load", "bad.xsd", exit_code=2)
    assert "the primary key of 'customers' is ['id']" in refused.stderr
    assert (network.folder / "package.xsd").read_bytes() == before

    loaded = network.json("schema", "load", "new.xsd", "--node", "00")
    assert [(one["node"], one["state"]) for one in loaded["nodes"]] == [("00", "taken over")]
    network.execute("00", ("INSERT INTO notes VALUES (?, ?)", (1, "ahead")))
    network.wait_until(lambda: network.status("01")["parked"] == 1, "01 parks a type that it does not know")

    loaded = network.json("schema", "load", "new.xsd")
    assert {one["state"] for one in loaded["nodes"]} == {"taken over"}
    assert (network.folder / "package.xsd").read_bytes() == (network.folder / "new.xsd").read_bytes()
    for code in ("01", "02"):
        network.wait_for(code, _ALL_NOTES, [(1, "ahead")])
    network.execute("02", ("INSERT INTO customers VALUES (?, ?, ?)", (1, "Ada", "+7")))
    network.wait_for("00", _PHONES, [(1, "+7")])
    assert {code: daemon.pid for code, daemon in network.daemons.items()} == pids
    assert all(daemon.process.poll() is None for daemon in network.daemons.values())

    assert network.daemons["00"].stop() == 0
    assert network.json("schema", "load", "new.xsd", "--node", "00")["nodes"][0]["state"] == "no daemon"
    network.start_and_wait("00")
    network.execute("00", "UPDATE customers SET phone = '+90'")
    network.wait_for("02", _PHONES, [(1, "+90")])
    network.wait_until_settled()
    assert all(not status["parked"] and not status["collisions"] for status in network.statuses().values())


def test_a_daemon_that_does_not_find_what_was_loaded_goes_on_with_what_it_has(make_network: MakeNetwork) -> None:
    """The file may lie elsewhere for it; guessing, or stopping, would be worse than saying so."""
    network = make_network([Node("00", _CUSTOMERS), Node("01", _CUSTOMERS, "00")], _EXCHANGE)
    network.install()
    network.start_and_wait()
    network.execute("00", "ALTER TABLE customers ADD COLUMN phone VARCHAR(20)")
    network.kod("schema", "generate", "--node", "00", "-o", "new.xsd")
    elsewhere = network.folder / "elsewhere.yaml"
    text = network.path.read_text(encoding="utf-8")
    elsewhere.write_text(text.replace("package.xsd", "other.xsd"), encoding="utf-8")
    (network.folder / "other.xsd").write_bytes((network.folder / "package.xsd").read_bytes())
    done = network.kod("-c", str(elsewhere), "schema", "load", "new.xsd", "--node", "00", exit_code=1)
    assert "its log says why" in done.stdout
    assert "package not taken over" in network.daemons["00"].log
    network.execute("00", ("INSERT INTO customers (id, name) VALUES (?, ?)", (1, "Ada")))
    network.wait_for("01", "SELECT id, name FROM customers", [(1, "Ada")])


_HOOKS = """
from node.hooks import Hooks, Source


class Customer(Hooks, type="Catalog.Customer"):
    sources = (Source("remarks", id="customer"),)
"""


def test_a_package_that_is_loaded_leaves_what_hooks_declare(make_network: MakeNetwork) -> None:
    """Or from then on nobody would see what is written to the tables of a hook."""
    remarks = "CREATE TABLE remarks (customer INT NOT NULL PRIMARY KEY, text VARCHAR(80));\n"
    network = make_network([Node("00", _CUSTOMERS + remarks), Node("01", _CUSTOMERS + remarks, "00")], _EXCHANGE)
    (network.folder / "hooks.py").write_text(_HOOKS, encoding="utf-8")
    network.path.write_text(network.path.read_text(encoding="utf-8") + "hooks: hooks.py\n", encoding="utf-8")
    network.install()
    network.execute("00", ("INSERT INTO customers VALUES (?, ?)", (1, "Ada")))
    network.kod("run", "--node", "00", "--once")
    network.execute("00", "ALTER TABLE customers ADD COLUMN phone VARCHAR(20)")
    network.kod("schema", "generate", "--node", "00", "-o", "new.xsd")
    network.kod("schema", "load", "new.xsd", "--node", "00")
    network.execute("00", ("INSERT INTO remarks VALUES (?, ?)", (1, "pays late")))
    assert network.status("00")["items_waiting"] == 1


_WARM = """
import sys
from node.__main__ import main
code = main(sys.argv[1:])
print("xmlschema" in sys.modules)
sys.exit(code)
"""


def _validated(network: TestNetwork) -> bool:
    """Whether `kod run --once` had xmlschema look at the package."""
    command = [sys.executable, "-c", _WARM, "-c", str(network.path), "run", "--node", "00", "--once"]
    done = subprocess.run(command, cwd=network.folder, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1] == "True"


def test_a_start_does_not_validate_what_was_validated_before(make_network: MakeNetwork) -> None:
    """A large package that people have changed would cost every start seconds; one that changes is looked at again."""
    network = make_network([Node("00", _CUSTOMERS), Node("01", _CUSTOMERS, "00")], _EXCHANGE)
    network.install()
    package = network.folder / "package.xsd"
    package.write_text(package.read_text(encoding="utf-8").replace("A row of", "Every row of"), encoding="utf-8")
    assert not _validated(network), "a text in its place is as KOD writes it"
    package.write_text(package.read_text(encoding="utf-8").replace("<xs:element name=", "<xs:element  name="))
    assert [_validated(network), _validated(network)] == [True, False]


def test_a_daemon_names_the_property_that_keeps_it_from_starting(make_network: MakeNetwork) -> None:
    """Or it would only say that its triggers are not the right ones."""
    network = make_network([Node("00", _CUSTOMERS), Node("01", _CUSTOMERS, "00")], _EXCHANGE)
    network.install()
    package = network.folder / "package.xsd"
    text = package.read_text(encoding="utf-8")
    begins = text.index('<xs:element name="name"')
    ends = text.index("</xs:element>", begins) + len("</xs:element>")
    package.write_text(text[:begins] + '<xs:element name="name" type="xs:string"/>' + text[ends:], encoding="utf-8")
    network.execute("00", "ALTER TABLE customers RENAME COLUMN name TO old")
    network.execute("00", "ALTER TABLE customers ADD COLUMN name INTEGER")
    refused = network.kod("run", "--node", "00", "--once", exit_code=2)
    assert "node 00: Catalog.Customer.name: it is string in the package, customers.name is integer" in refused.stderr
    assert "Try: " in refused.stderr
    found = network.kod("schema", "check", "--node", "00", exit_code=1)
    assert "refused" in found.stdout

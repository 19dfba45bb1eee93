"""The program as people and scripts call it: real processes over SQLite and a folder."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from node.__main__ import main
from node.cli import SUMMARIES
from tests.edge.conftest import MakeNetwork
from tests.edge.network import Node
from tests.servers import postgresql_url

NODES = """network: shop
bus: folder:./exchange
package: shop.xsd
nodes:
  "00": {name: Head office, database: "sqlite:///head.sqlite"}
  "01": {name: Kazan, parent: "00", database: "sqlite:///kazan.sqlite", send_streams_max: 3}
exchange:
  Catalog.Product: {table: products, reference_data: true}
  Document.Order: {table: orders, sections: {lines: order_lines}, reference_data: true}
"""
TABLES = """
CREATE TABLE products (code TEXT NOT NULL PRIMARY KEY, name varchar(40) NOT NULL, price numeric(10,2));
CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, placed date);
CREATE TABLE order_lines (
  order_id bigint NOT NULL REFERENCES orders (id), line_no int NOT NULL, product TEXT REFERENCES products (code),
  PRIMARY KEY (order_id, line_no));
"""


class Kod:
    """Calls the program in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: v for name, v in os.environ.items() if not name.startswith("KOD_")}
        return subprocess.run(
            [sys.executable, "-m", "node", *arguments],
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def done(self, *arguments: str) -> str:
        result = self(*arguments)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.done(*arguments, "--json"))

    def sql(self, name: str, *statements: str) -> None:
        with closing(sqlite3.connect(self.folder / f"{name}.sqlite")) as connection:
            for statement in statements:
                connection.executescript(statement)
            connection.commit()


def network(folder: Path) -> Kod:
    """A network of two nodes with tables and rows; nothing is installed yet."""
    (folder / "nodes.yaml").write_text(NODES, encoding="utf-8")
    kod = Kod(folder)
    kod.sql("head", TABLES, "INSERT INTO products VALUES ('A1', 'Tea', 3.5), ('A2', 'Кофе', 12)")
    kod.sql("kazan", TABLES)
    return kod


def install(kod: Kod) -> Kod:
    kod.done("schema", "generate", "--node", "00")
    kod.done("install", "--node", "00", "--stamp-existing")
    kod.done("install", "--node", "01")
    return kod


@pytest.fixture
def kod(tmp_path: Path) -> Kod:
    return network(tmp_path)


@pytest.fixture
def installed(kod: Kod) -> Kod:
    return install(kod)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Kod:
    """An installed network for tests that only look at it."""
    return install(network(tmp_path_factory.mktemp("standing")))


@pytest.fixture
def exchanged(installed: Kod) -> Kod:
    installed.sql("head", "INSERT INTO orders VALUES (7, '2026-11-01'); INSERT INTO order_lines VALUES (7, 1, 'A1')")
    installed.done("run", "--node", "00", "--once")
    installed.done("run", "--node", "01", "--once")
    return installed


def test_a_change_travels_and_the_commands_agree_about_it(exchanged: Kod) -> None:
    """The whole way of an administrator: generate, install, run, look."""
    assert exchanged.json("compare", "--node", "00", "--with", "01") == {
        "node": "00",
        "with": "01",
        "items": 3,
        "types": {"Catalog.Product": 2, "Document.Order": 1},
        "differences": [],
        "on_their_way": [],
        "parked": [],
        "left_out": {},
        "repaired": 0,
    }
    story = exchanged.json("explain", "--node", "01", "Document.Order", "7")
    assert (story["exists"], story["came_from"], story["key"]) == (True, "00", '[{"integer":7}]')
    assert story["addressees"] == [
        {
            "node": "00",
            "rule": "it came from there: not sent back",
            "state": "has it: it came from there",
            "sent": None,
            "parked_there": None,
            "held_since": None,
            "held_by": None,
        }
    ]
    (there,) = exchanged.json("explain", "--node", "00", "Document.Order", "7")["addressees"]
    assert there["sent"]["message"] == f"00to01at{there['sent']['session']}-{there['sent']['number']}.json"
    assert there["state"] == f"sent in session {there['sent']['session']}, message {there['sent']['message']}"
    exchanged.sql("head", "UPDATE orders SET placed = '2026-11-02'")
    (there,) = exchanged.json("explain", "--node", "00", "Document.Order", "7")["addressees"]
    assert there["state"] == "waits for review"


def test_status_has_the_contracts_fields_and_types(exchanged: Kod) -> None:
    """Scripts read them: a field that is missing or null where a number is due breaks somebody's alarm."""
    status = exchanged.json("status", "--node", "00")
    assert status["node"] == "00"
    assert len(status["boundary"]) == 17
    assert status["boundary"].isdigit()
    assert (status["boundary_lag_ms"], status["items_waiting"], status["parked"], status["collisions"]) == (0, 0, 0, 0)
    assert (status["send_streams_max"], status["receive_streams_max"]) == (4, 4)
    assert status["last_session"].keys() >= {"stamp", "messages", "items", "took_ms"}
    assert (status["last_session"]["messages"], status["last_session"]["items"]) == (1, 3)
    (link,) = status["links"]
    numbers = "sent_messages sent_items received_messages received_items rejected_items queue_messages queue_bytes"
    assert link["node"] == "01"
    assert [link[name] for name in numbers.split()] == [1, 3, 0, 0, 0, 0, 0]
    assert link["queue_wait_ms"] == 0
    assert "end_to_end_ms" in link
    assert [s["node"] for s in exchanged.json("status")] == ["00", "01"]


def test_what_is_on_the_bus_is_in_the_receivers_queue(installed: Kod) -> None:
    """What waits is the first thing that is asked when something is late."""
    before = installed.json("status", "--node", "00")
    assert (before["items_waiting"], before["last_session"]) == (2, None)
    assert before["boundary_lag_ms"] > 0
    installed.done("run", "--node", "00", "--once")
    (link,) = installed.json("status", "--node", "01")["links"]
    assert link["queue_messages"] == 1
    assert link["queue_bytes"] > 100
    found = installed.json("compare", "--node", "00", "--with", "01")
    assert found["differences"] == []
    assert len(found["on_their_way"]) == 2


def test_compare_finds_what_changed_while_nothing_was_installed(exchanged: Kod) -> None:
    """A change behind КОД's back: nothing else would ever show it."""
    exchanged.done("uninstall", "--node", "01")
    exchanged.sql("kazan", "UPDATE products SET price = 99 WHERE code = 'A1'; DELETE FROM products WHERE code = 'A2'")
    exchanged.done("install", "--node", "01", "--stamp-existing")
    found = json.loads(exchanged("compare", "--node", "00", "--with", "01", "--json").stdout)
    assert {(d["key"], d["only_at"]) for d in found["differences"] + found["on_their_way"]} == {
        ('[{"string":"A1"}]', None),
        ('[{"string":"A2"}]', "00"),
    }
    assert exchanged("compare", "--node", "00", "--with", "02").returncode == 2


def test_compare_repairs_by_a_new_version(exchanged: Kod) -> None:
    """The same version with unlike content would stay so for ever: every receiver has seen it already."""
    with closing(sqlite3.connect(exchanged.folder / "kazan.sqlite")) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'products'")
        triggers = [name for (name,) in names.fetchall()]
    exchanged.sql("kazan", *(f'DROP TRIGGER "{name}"' for name in triggers), "UPDATE products SET price = 99")
    found = exchanged("compare", "--node", "00", "--with", "01", "--repair", "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["repaired"] == 2
    exchanged.done("install", "--node", "01")
    for node in ("00", "01"):
        exchanged.done("run", "--node", node, "--once")
    assert "they agree" in exchanged.done("compare", "--node", "00", "--with", "01")
    with closing(sqlite3.connect(exchanged.folder / "kazan.sqlite")) as connection:
        assert connection.execute("SELECT price FROM products ORDER BY code").fetchall() == [(3.5,), (12,)]


def test_compare_does_not_miss_what_was_never_meant_for_the_other(kod: Kod) -> None:
    """Independent data without rights goes to the parent alone: the parent's own stays there."""
    own = NODES.replace("sections: {lines: order_lines}, reference_data: true", "sections: {lines: order_lines}")
    (kod.folder / "nodes.yaml").write_text(own, encoding="utf-8")
    install(kod)
    kod.sql("head", "INSERT INTO orders VALUES (1, '2026-11-01')")
    kod.sql("kazan", "INSERT INTO orders VALUES (2, '2026-11-01')")
    for node in ("01", "00", "01"):
        kod.done("run", "--node", node, "--once")
    assert kod.json("compare", "--node", "00", "--with", "01")["types"] == {"Catalog.Product": 2, "Document.Order": 1}
    kod.done("uninstall", "--node", "00")
    kod.sql("head", "DELETE FROM orders WHERE id = 2")
    kod.done("install", "--node", "00", "--stamp-existing")
    found = json.loads(kod("compare", "--node", "01", "--with", "00", "--json").stdout)
    assert [d["only_at"] for d in found["differences"] + found["on_their_way"] if d["type"] == "Document.Order"] == [
        "01"
    ]


def test_streams_are_kept_in_the_database_until_they_are_reset(installed: Kod) -> None:
    """They outlive a restart, and nodes.yaml's come back on demand."""
    assert installed.json("streams", "--node", "01")["send_streams_max"] == 3
    installed.done("streams", "--node", "01", "--send", "0", "--receive", "2")
    assert installed.json("status", "--node", "01")["send_streams_max"] == 0
    assert installed.json("streams", "--node", "01")["receive_streams_max"] == 2
    installed.done("streams", "--node", "01", "--reset")
    assert installed.json("streams", "--node", "01")["send_streams_max"] == 3
    assert installed("streams", "--node", "01", "--send", "-1").returncode == 2
    assert installed("streams", "--node", "01", "--send", "1", "--reset").returncode == 2


def test_the_boundary_moves_back_and_only_with_skip_forward(exchanged: Kod) -> None:
    """Forward leaves changes unsent: nobody does that by a slip."""
    now = exchanged.json("boundary", "--node", "00")["boundary"]
    refused = exchanged("boundary", "--node", "00", "--set", "2099-01-01")
    assert (refused.returncode, "--skip" in refused.stderr) == (2, True)
    ahead = exchanged("boundary", "--node", "00", "--set", "2099-01-01", "--skip")
    assert (ahead.returncode, "later than now" in ahead.stderr) == (2, True)
    assert exchanged.json("boundary", "--node", "00")["boundary"] == now
    moved = exchanged.json("boundary", "--node", "00", "--set", "2020-01-01")
    assert (moved["boundary"], moved["from"], moved["items"]) == ("20200101000000000", now, 1)
    assert exchanged.json("status", "--node", "00")["items_waiting"] == 1


def test_check_finds_what_would_lose_data(kod: Kod) -> None:
    """And names the nodes that it could not look at, which is no fault of theirs."""
    kod.done("schema", "generate", "--node", "00")
    assert kod("check").returncode == 0
    kod.sql("kazan", "ALTER TABLE products DROP COLUMN price")
    found = kod("check", "--json")
    assert found.returncode == 1
    findings = [(f["node"], f["property"], f["effect"]) for f in json.loads(found.stdout)["findings"]]
    assert ("01", "price", "will not arrive") in findings
    assert kod("schema", "check", "--node", "01").returncode == 1
    assert kod("schema", "check", "--node", "00").returncode == 0
    (kod.folder / "kazan.sqlite").unlink()
    assert [u["node"] for u in json.loads(kod("check", "--json").stdout)["unreached"]] == ["01"]
    assert kod("check").returncode == 0
    assert kod("check", "--node", "01").returncode == 3


def test_check_names_a_column_that_was_added_after_the_package(kod: Kod) -> None:
    """It does not travel, and nothing else would say so; without a package there is nothing that lacks it. Into a
    pipe each finding goes on one line."""
    kod.done("schema", "generate", "--node", "00")
    kod.sql("head", "ALTER TABLE products ADD COLUMN colour TEXT", "ALTER TABLE order_lines ADD COLUMN note TEXT")
    checks = (kod("schema", "check", "--node", "00"), kod("check"))
    for found in checks:
        assert found.returncode == 1
        (line,) = [line for line in found.stdout.splitlines() if "colour" in line]
        assert line == (
            "node 00 Catalog.Product.colour: will not arrive: products.colour is not in the package: it does not "
            "travel from here (try: `kod schema generate`, or name it in `exclude`)"
        )
        assert "node 00 Document.Order.lines.note: will not arrive" in found.stdout
    (kod.folder / "nodes.yaml").write_text(NODES.replace("package: shop.xsd\n", ""), encoding="utf-8")
    assert "colour" not in kod.done("check")


def test_check_tells_what_nodes_yaml_says_in_vain(kod: Kod) -> None:
    """Settings that do nothing are worse than none: their writer relies on them."""
    settings = (
        NODES.replace("reference_data: true}\n", "reference_data: true}\n  Catalog.Mark: {table: marks}\n", 1)
        .replace("send_streams_max: 3", "identity: {step: 10, offset: 1}")
        .replace("order_lines}, reference_data: true", "order_lines}, access: order_access")
        .replace("exchange:\n", '  "02": {parent: "01", database: "sqlite:///third.sqlite"}\nexchange:\n')
    )
    (kod.folder / "nodes.yaml").write_text(settings + "kafka: {linger.ms: 5}\n", encoding="utf-8")
    for name in ("head", "kazan"):
        kod.sql(name, "CREATE TABLE marks (id INTEGER PRIMARY KEY); CREATE TABLE order_access (id int, node text)")
    kod.done("schema", "generate", "--node", "00")
    lines = kod.done("check").splitlines()
    assert len([line for line in lines if "generates the keys of marks" in line]) == 2, "once for each node"
    assert next(line for line in lines if "SQLite cannot generate keys in steps" in line).startswith("node 01: note")
    assert any(line.startswith("network: note: `kafka` has settings, and the bus is a folder") for line in lines)
    assert next(line for line in lines if "order_access" in line).startswith("node 01 Document.Order: note")


@pytest.mark.postgresql
def test_check_does_not_ask_for_an_identity_that_is_set(make_network: MakeNetwork) -> None:
    """Or people would look for what they have done wrong. And uninstall says that the sequence keeps its steps."""
    ddl = "CREATE TABLE marks (id serial PRIMARY KEY, name text)"
    nodes = [
        Node("00", ddl, url=postgresql_url(), settings={"identity": {"step": 10, "offset": 1}}),
        Node("01", ddl, "00", url=postgresql_url()),
    ]
    network = make_network(nodes, {"Catalog.Mark": {"table": "marks", "reference_data": True}})
    network.kod("schema", "generate", "--node", "00")
    lines = [line for line in network.kod("check").stdout.splitlines() if "generate" in line]
    assert [line[:8] for line in lines] == ["node 01 "]
    network.kod("install", "--node", "00")
    assert "stays: the sequences of marks.id go on in steps of 10" in network.kod("uninstall", "--node", "00").stdout


def test_check_gives_faults_to_programs_too(kod: Kod) -> None:
    """A deployment reads stdout: without it an exit code would be all that it has."""
    (kod.folder / "nodes.yaml").write_text(NODES.replace("table: products", "tabel: products"), encoding="utf-8")
    found = kod("check", "--json")
    assert found.returncode == 2
    faults = json.loads(found.stdout)["faults"]
    assert any("unknown key 'tabel'" in fault["text"] and fault["where"].endswith(":8") for fault in faults)
    assert "unknown key 'tabel'" in found.stderr
    assert kod("check").stdout == ""


def test_uninstall_says_what_stays(kod: Kod) -> None:
    """WAL is a property of the file, which other programs notice; a file that is in no such mode has nothing to say."""
    kod.sql("kazan", "PRAGMA journal_mode = WAL")
    install(kod)
    assert "stays: kazan.sqlite is in WAL mode" in kod.done("uninstall", "--node", "01")
    kod.sql("kazan", "PRAGMA journal_mode = DELETE")
    assert "stays" not in kod.done("uninstall", "--node", "01")


def test_an_item_in_a_parked_message_waits_and_is_no_difference(kod: Kod) -> None:
    """Or `--repair` would send a message again that cannot be applied, and nobody would be told where it waits."""
    kod.sql("kazan", "DROP TABLE products", TABLES.split(";")[0].replace("(10,2)", "(10,2) CHECK (price < 50)"))
    install(kod)
    for price in (3, 500):
        kod.sql("head", f"UPDATE products SET price = {price} WHERE code = 'A1'")
        kod.done("run", "--node", "00", "--once")
        kod("run", "--node", "01", "--once")
    (parked,) = kod.json("parked", "--node", "01")
    story = kod.json("explain", "--node", "01", "Catalog.Product", "A1")
    (told,) = story["parked"]
    assert (told["id"], told["from"], told["reason"]) == (parked["id"], "00", parked["reason"])
    said = kod.done("explain", "--node", "01", "Catalog.Product", "A1")
    assert f"waits in message {parked['id']} from 00, parked here: {parked['reason']}" in said
    said = kod.done("explain", "--node", "00", "Catalog.Product", "A1")
    assert f"waits at 01 in message {parked['id']}, parked there: {parked['reason']}" in said
    assert kod.json("explain", "--node", "01", "Catalog.Product", "A2")["parked"] == []
    found = kod("compare", "--node", "00", "--with", "01", "--repair", "--json")
    compared = json.loads(found.stdout)
    assert (found.returncode, compared["differences"], compared["on_their_way"], compared["repaired"]) == (1, [], [], 0)
    assert [d["key"] for d in compared["parked"]] == ['[{"string":"A1"}]']
    said = kod("compare", "--node", "00", "--with", "01").stdout
    assert f"waits, parked at 01: {parked['reason']}" in said
    assert "the rest agrees" in said


def test_hooks_that_cannot_be_loaded_are_found_by_check(kod: Kod) -> None:
    """Or the daemon would find out at night."""
    kod.done("schema", "generate", "--node", "00")
    (kod.folder / "nodes.yaml").write_text(NODES + "hooks: hooks.py\n", encoding="utf-8")
    (kod.folder / "hooks.py").write_text("import no_such_module\n", encoding="utf-8")
    found = kod("check")
    assert found.returncode == 1
    assert "hooks.py, line 1: hooks cannot be loaded: ModuleNotFoundError" in found.stdout


def test_the_package_goes_where_it_is_asked_to(kod: Kod) -> None:
    """Into nodes.yaml's file, into another one, or to stdout."""
    printed = kod.done("schema", "generate", "--node", "00", "-o", "-")
    assert not (kod.folder / "shop.xsd").exists()
    kod.done("schema", "generate", "--node", "00")
    kod.done("schema", "generate", "--node", "00", "-o", "sub/other.xsd")
    for path in ("shop.xsd", "sub/other.xsd"):
        assert (kod.folder / path).read_text(encoding="utf-8") == printed
    kod.sql("head", "DROP TABLE order_lines; DROP TABLE orders")
    missing = kod("schema", "generate", "--node", "00")
    assert (missing.returncode, "Document.Order" in missing.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status", "--node", "07"], 2, "there is no node '07'"),
        (["-c", "nowhere.yaml", "status"], 2, "nowhere.yaml: No such file"),
        (["status", "--nod", "00"], 2, "No such option"),
        (["stats"], 2, "did you mean 'status'?"),
        (["install"], 2, "--node"),
        (["explain", "--node", "00", "Document.Ordr", "7"], 2, "did you mean 'Document.Order'?"),
        (["explain", "--node", "00", "Document.Order", "[1,2]"], 2, "its key has 1 value(s): id: integer"),
        (["collisions", "--node", "00", "show", "5"], 2, "there is no collision '5'"),
        (["boundary", "--node", "00", "--set", "soon"], 2, "'soon' is not a stamp"),
    ],
)
def test_a_mistake_is_explained_with_a_way_out(standing: Kod, arguments: list[str], code: int, said: str) -> None:
    """On stderr, without a traceback, with a line `Try:`."""
    found = standing(*arguments)
    assert found.returncode == code
    assert said in found.stderr
    assert "Try: " in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_what_is_not_installed_or_not_there_is_said(kod: Kod) -> None:
    """2: something to do; 3: something to wait for."""
    kod.done("schema", "generate", "--node", "00")
    missing = kod("status", "--node", "00")
    assert (missing.returncode, "kod install" in missing.stderr) == (2, True)
    (kod.folder / "kazan.sqlite").unlink()
    assert kod("status", "--node", "01").returncode == 3
    assert kod("compare", "--node", "00", "--with", "01").returncode == 3
    assert not (kod.folder / "kazan.sqlite").exists(), "looking must not make an empty database"


def test_options_come_from_the_environment_too(standing: Kod) -> None:
    """As a service manager gives them."""
    found = standing("streams", "--json", KOD_NODE="01", KOD_CONFIG=str(standing.folder / "nodes.yaml"))
    assert json.loads(found.stdout)["node"] == "01"


def test_debug_shows_the_traceback(kod: Kod) -> None:
    """For whoever has to find our bug."""
    assert "Traceback" in kod("--debug", "status", "--node", "07").stderr


def test_empty_lists_are_empty_lists(standing: Kod) -> None:
    """Scripts iterate over them."""
    assert standing.json("collisions", "--node", "00") == []
    assert standing.json("parked", "--node", "00") == []
    assert "no collisions" in standing.done("collisions", "--node", "00")


def test_a_collision_is_listed_and_shown_whole(exchanged: Kod) -> None:
    """The losing version is somebody's work."""
    exchanged.sql("head", "UPDATE products SET name = 'Green tea' WHERE code = 'A1'")
    exchanged.sql("kazan", "UPDATE products SET name = 'Black tea' WHERE code = 'A1'")
    for node in ("00", "01", "00"):
        exchanged.done("run", "--node", node, "--once")
    (line,) = [c for node in ("00", "01") for c in exchanged.json("collisions", "--node", node)][:1]
    assert (line["type"], line["key"], line["policy"]) == ("Catalog.Product", '[{"string":"A1"}]', "newest")
    assert line["winner"]["stamp"] > line["loser"]["stamp"]
    assert line["winner"]["origin"].startswith("01.")
    at = next(node for node in ("00", "01") if exchanged.json("collisions", "--node", node))
    shown = exchanged.done("collisions", "--node", at, "show", str(line["id"]))
    assert "Green tea" in shown
    assert "Black tea" in shown


@pytest.fixture
def in_a_process() -> Callable[[str], float]:
    """The least of three run times of the program: what it takes when nobody disturbs."""

    def took_s(*arguments: str) -> float:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "node", *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - begun)
        return min(times)

    return took_s


def test_help_is_there_at_once(in_a_process: Callable[[str], float]) -> None:
    """A program that needs a second to say how it is called gets called less often."""
    assert in_a_process("--help") < 0.5  # measured: 0.1 s; the rest is for machines under load


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_has_help_with_examples(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """An example says more than ten options."""
    arguments = [name, "generate"] if name == "schema" else [name]
    assert main([*arguments, "--help"]) == 0
    assert f"kod {name}" in capsys.readouterr().out.partition("Examples")[2]

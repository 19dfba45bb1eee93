"""Databases that are not what they were: copied, moved, lost, restored from a backup."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.edge import retail
from tests.edge.conftest import MakeNetwork
from tests.edge.network import WITHIN_S, Node, TestNetwork, conninfo
from tests.servers import postgresql_url

INSERT = "INSERT INTO customers VALUES (?, ?)"
UPDATE = "UPDATE customers SET name = ? WHERE customer_id = ?"
NAMES = "SELECT customer_id, name FROM customers ORDER BY 1"
DIALECTS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


def trio(make_network: MakeNetwork, dialect: str = "sqlite", **settings: object) -> TestNetwork:
    """00 (with `settings`) and its children 01, the one that things happen to, and 02."""
    url = postgresql_url() if dialect == "postgresql" else ""
    network = make_network(
        [
            Node("00", retail.SQLITE, settings=settings),
            Node("01", retail.POSTGRESQL if url else retail.SQLITE, "00", url=url),
            Node("02", retail.SQLITE, "00"),
        ],
        retail.EXCHANGE,
    )
    network.install()
    return network


def copy_sqlite(source: Path, target: Path) -> None:
    """As a backup program does, the application running."""
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)


def edit_yaml(network: TestNetwork, old: str, new: str) -> None:
    text = network.path.read_text()
    assert old in text
    network.path.write_text(text.replace(old, new))


def refused(network: TestNetwork, *arguments: str) -> str:
    """What a daemon says that does not start."""
    done = network.kod("run", "--node", "01", *arguments, exit_code=2)
    assert "Try:" in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def lose(network: TestNetwork, code: str) -> None:
    """The database is gone; a new one with the application's empty tables is made and installed."""
    node = network.nodes[code]
    if node.url:
        with psycopg.connect(conninfo(node.url), autocommit=True) as connection:
            connection.execute("DROP SCHEMA kod CASCADE")
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
            connection.execute(node.ddl)  # type: ignore[arg-type]
    else:
        for file in network.folder.glob(f"{code}.sqlite*"):
            file.unlink()
        with closing(sqlite3.connect(network.folder / f"{code}.sqlite")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(node.ddl)
    network.kod("install", "--node", code)


def test_a_moved_database_goes_on_when_it_is_told_so(make_network: MakeNetwork) -> None:
    """A path that changed may also mean a copy, whose daemon would take the live node's messages: a person says."""
    network = trio(make_network)
    network.execute("00", (INSERT, ("A", "one")))
    for code in ("00", "01"):
        network.kod("run", "--node", code, "--once")
    (network.folder / "elsewhere").mkdir()
    shutil.move(network.folder / "01.sqlite", network.folder / "elsewhere" / "01.sqlite")
    edit_yaml(network, "sqlite:///01.sqlite", "sqlite:///elsewhere/01.sqlite")
    assert "--moved" in refused(network)
    network.kod("run", "--node", "01", "--once", "--moved")
    network.kod("run", "--node", "01", "--once")
    origins = network.json("status", "--node", "00")
    assert not any(link["fault"] for link in origins["links"])  # the same life: nobody noticed


def test_a_copy_never_speaks_in_the_live_nodes_name(make_network: MakeNetwork) -> None:
    """A test clone with the live nodes.yaml would take the live node's messages and answer for it."""
    network = trio(make_network)
    network.kod("run", "--node", "01", "--once")
    copy_sqlite(network.folder / "01.sqlite", network.folder / "clone.sqlite")
    network.execute("00", (INSERT, ("A", "one")))
    network.kod("run", "--node", "00", "--once")
    waiting = sorted(network.folder.glob("exchange/test/01/00/*/*.json"))
    assert waiting
    live = network.path.read_text()
    edit_yaml(network, "sqlite:///01.sqlite", "sqlite:///clone.sqlite")
    refused(network)
    assert "network" in refused(network, "--copy")  # still the live network's name
    assert sorted(network.folder.glob("exchange/test/01/00/*/*.json")) == waiting
    edit_yaml(network, "network: test", "network: test-clone")
    refused(network)
    network.kod("run", "--node", "01", "--once", "--copy")
    network.kod("run", "--node", "01", "--once")
    assert sorted(network.folder.glob("exchange/test/01/00/*/*.json")) == waiting
    network.path.write_text(live)
    network.kod("run", "--node", "01", "--once")  # the live one goes on as if nothing had been
    assert network.rows("01", NAMES) == [("A", "one")]


def test_a_second_daemon_on_a_copy_of_everything_is_found_out(make_network: MakeNetwork) -> None:
    """A whole machine restored has the same file and the same paths: what it never sent gives it away."""
    network = trio(make_network, heartbeat_s=1)
    network.kod("run", "--node", "01", "--once")
    keep = network.folder / "kept"
    keep.mkdir()
    copy_sqlite(network.folder / "01.sqlite", keep / "01.sqlite")
    note = (network.folder / ".kod" / "test-01.json").read_text()
    network.execute("01", (INSERT, ("A", "one")))
    network.kod("run", "--node", "01", "--once")
    for file in network.folder.glob("01.sqlite-*"):
        file.unlink()
    shutil.copyfile(keep / "01.sqlite", network.folder / "01.sqlite")  # the inode stays
    (network.folder / ".kod" / "test-01.json").write_text(note)
    assert "older" in refused(network)  # its own letter still lies there
    network.kod("run", "--node", "00", "--once")  # which its neighbour takes
    network.start_and_wait("00")
    network.start("01")  # nothing gives it away until its neighbour says what it has received
    clone = network.daemons.pop("01")
    assert clone.process.wait(WITHIN_S) == 2
    assert "kod recover" in clone.log
    assert "kod recover" in refused(network)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_lost_database_is_rebuilt_from_the_neighbours(make_network: MakeNetwork, dialect: str) -> None:
    """What only the lost node had and had sent is back, and what others changed meanwhile; and what it changes then is
    taken. The others go on all the time."""
    network = trio(make_network, dialect)
    network.start_and_wait()
    network.execute("01", (INSERT, ("A", "only 01 wrote this")))
    network.execute("00", (INSERT, ("B", "first")))
    network.wait_until_equal(NAMES)
    network.daemons.pop("01").stop()
    lose(network, "01")
    assert "kod recover" in refused(network)
    network.execute("02", (UPDATE, ("changed meanwhile", "B")), (INSERT, ("C", "born meanwhile")))
    done = network.kod("recover", "--node", "01", "--wait")
    assert "00 has sent everything" in done.stderr
    assert "rebuilt" in done.stdout
    network.wait_for("01", NAMES, [("A", "only 01 wrote this"), ("B", "changed meanwhile"), ("C", "born meanwhile")])
    network.start_and_wait("01")
    network.execute("01", (UPDATE, ("after", "A")), (UPDATE, ("after too", "B")))
    for code in ("00", "02"):
        network.wait_for(code, NAMES, [("A", "after"), ("B", "after too"), ("C", "born meanwhile")])
    network.wait_until_settled()
    assert not any(link["fault"] for status in network.statuses().values() for link in status["links"])
    assert [status["parked"] for status in network.statuses().values()] == [0, 0, 0]


def test_a_restored_database_is_rebuilt_and_its_changes_count(make_network: MakeNetwork) -> None:
    """What was sent after the backup comes back, what is changed after the recovery is not taken for old, and what was
    changed between, without anybody having seen the other's, is a collision in the journal."""
    network = trio(make_network)
    network.start_and_wait()
    network.execute("01", *((INSERT, (key, "old")) for key in "ABC"))
    network.wait_until_equal(NAMES)
    copy_sqlite(network.folder / "01.sqlite", network.folder / "backup.sqlite")
    network.execute("01", (UPDATE, ("sent after the backup", "A")), (UPDATE, ("sent, too", "B")))
    network.wait_for("02", NAMES, [("A", "sent after the backup"), ("B", "sent, too"), ("C", "old")])
    network.daemons.pop("01").stop()
    for file in network.folder.glob("01.sqlite*"):
        file.unlink()
    shutil.copyfile(network.folder / "backup.sqlite", network.folder / "01.sqlite")
    assert "kod recover" in refused(network)
    assert "kod recover" in refused(network, "--moved")  # that it is elsewhere is not all
    network.execute("01", (UPDATE, ("restored, then changed", "B")))
    network.execute("02", (UPDATE, ("others went on", "C")))
    network.wait_for("00", NAMES, [("A", "sent after the backup"), ("B", "sent, too"), ("C", "others went on")])
    begun = network.kod("recover", "--node", "01")
    assert "kod run" in begun.stdout
    network.start_and_wait("01")
    expected = [("A", "sent after the backup"), ("B", "restored, then changed"), ("C", "others went on")]
    for code in network.nodes:
        network.wait_for(code, NAMES, expected)
    network.execute("01", (UPDATE, ("new", "A")))
    network.wait_for("02", NAMES, [("A", "new"), *expected[1:]])
    network.wait_until_settled()
    losers = [line["loser"] for code in network.nodes for line in network.json("collisions", "--node", code)]
    assert len(losers) == 1
    network.wait_until(
        lambda: not any(link["fault"] for status in network.statuses().values() for link in status["links"]),
        "every link is well",
    )


def test_recovery_goes_on_when_its_neighbour_is_back(make_network: MakeNetwork) -> None:
    """A recovery that could not be finished is not forgotten: the daemon asks until it has everything."""
    network = trio(make_network)
    network.execute("00", (INSERT, ("A", "one")))
    for code in ("00", "01"):
        network.kod("run", "--node", code, "--once")
    lose(network, "01")
    network.kod("recover", "--node", "01")
    assert "asked" in network.link("01", "00")["fault"]
    network.start_and_wait("01")
    network.start_and_wait("00")
    network.wait_for("01", NAMES, [("A", "one")])
    network.wait_until(lambda: network.link("01", "00")["fault"] is None, "the fault is cleared")

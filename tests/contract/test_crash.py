"""A receiver whose server crashes: a message is visible before it is durable, and the bus must not forget it sooner."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dispatcher.ports import Letter, NodeView
from dispatcher.receiving import Link, Receiver
from node.buses.memory import MemoryBus, MemoryNetwork
from node.clock import SystemClock
from schemas.errors import UnavailableError
from schemas.stamp import Stamp
from serializers.message import Header, Version, item_text, message_bytes
from tests.contract.store_world import CUSTOMER, TABLES, StoreWorld
from tests.servers import PostgresqlServer, own_postgresql_server

pytestmark = pytest.mark.postgresql


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    made = own_postgresql_server(wal_writer_delay="10s", fsync="on")  # flushed is only what somebody waits for
    yield made
    made.stop()


@pytest.fixture
def world(server: PostgresqlServer) -> Iterator[StoreWorld]:
    made = StoreWorld("postgresql", "00", server.new_database())
    made.script(TABLES)
    made.install()
    made.start("01")
    yield made
    made.close()


def letters(customer: str, session: int) -> list[Letter]:
    """A session of one message, and its end mark."""
    head = Header(sender="01", to="00", incarnation=1, session=Stamp(session), number=1)
    mark = Header(sender="01", to="00", incarnation=1, session=Stamp(session), number=2, of=1)
    value = b'{"customer_id":"%s"}' % customer.encode()
    text = item_text(CUSTOMER, Version(Stamp(session), "01.1"), None, value=value, key=None)
    return [Letter("01", head.name, message_bytes(head, [text])), Letter("01", mark.name, message_bytes(mark, ()))]


def receiving(world: StoreWorld, bus: MemoryBus) -> Receiver:
    node = NodeView("00", None, ("01",), {"01": "01"})
    return Receiver(node, world.structure(), world.settings, world.store, bus, SystemClock())


def received(link: Link) -> None:
    """Steps until nothing is left, through what goes wrong meanwhile."""
    moved = True
    while moved:
        try:
            moved = link.step()
        except UnavailableError:
            moved = True


def test_what_a_crash_of_the_server_took_is_received_again(
    server: PostgresqlServer, world: StoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was there already, the crash took it: the letters must still be on the bus, and be asked for again."""
    network = MemoryNetwork()
    receiver = receiving(world, MemoryBus(network, "00"))
    link = receiver.links["01"]
    network.put(("01", "00"), letters("A", 5000))
    flush: Callable[[str], None] = world.store.flush

    def crash_first(node: str) -> None:
        assert world.execute("SELECT count(*) FROM customers") == [(1,)]  # visible already
        world.application.close()
        server.crash()
        monkeypatch.undo()
        world.application = world.connect()
        assert world.execute("SELECT count(*) FROM customers") == [(0,)]  # and lost
        flush(node)

    monkeypatch.setattr(world.store, "flush", crash_first)
    try:
        received(link)
        assert world.execute("SELECT customer_id FROM customers") == [("A",)]
        assert network.directions["01", "00"] == {}
        network.put(("01", "00"), letters("B", 6000))  # and the link goes on as if nothing had been
        received(link)
        assert world.execute("SELECT customer_id FROM customers ORDER BY 1") == [("A",), ("B",)]
    finally:
        receiver.close()

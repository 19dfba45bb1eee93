"""Sixteen workers that apply messages about the same items at once: no deadlock that anybody would notice."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import psycopg
import pytest
from sqlalchemy.engine import make_url

from dispatcher.ports import Letter, NodeView
from dispatcher.receiving import Receiver
from node.buses.memory import MemoryBus, MemoryNetwork
from node.clock import SystemClock
from node.databases.postgresql import connecting
from schemas.network import NodeSettings
from schemas.stamp import Stamp
from serializers.message import Header, Version, item_text, message_bytes
from tests.contract.store_world import CUSTOMER, EXCHANGE, FILE, ORDER, PRICE, StoreWorld, new_world

WORKERS = 16
SENDERS = ("01", "02", "03", "04")
SESSIONS, MESSAGES = 6, 8


def value_of(name: str, number: int, text: str, chance: random.Random) -> dict[str, object]:
    if name == CUSTOMER:
        boss = f"c{chance.randint(1, number)}" if chance.random() < 0.5 else None
        return {"customer_id": f"c{number}", "name": text, "boss": boss, "nick": None}
    if name == ORDER:
        lines = [
            {"line": line, "qty": chance.randint(1, 9), "customer_id": None} for line in range(chance.randint(0, 4))
        ]
        customer = f"c{chance.randint(1, 6)}"
        return {"order_id": number, "customer_id": customer, "title": text, "lines": lines, "notes": []}
    if name == FILE:
        return {"file_id": f"f{number}", "order_id": chance.randint(1, 6), "body": text}
    filtered = {"product": f"p{number}", "period": "2026-01-01"}
    return {
        "Filter": filtered,
        "Records": [{"currency": c, "price": str(chance.randint(1, 9))} for c in ("EUR", "USD")],
    }


def letters_of(sender: str, session: int, chance: random.Random) -> list[Letter]:
    """Messages that all write the same two dozen items, each in an order of its own."""
    stamp = Stamp(1_795_000_000_000 + session * 1000)
    letters = []
    for number in range(1, MESSAGES + 1):
        chosen = [(name, n) for name in (CUSTOMER, ORDER, FILE, PRICE) for n in range(1, 7) if chance.random() < 0.6]
        chance.shuffle(chosen)
        texts = [
            item_text(
                name,
                Version(Stamp(stamp + number), f"{sender}.1"),
                None,
                value=orjson.dumps(value_of(name, n, f"{sender} {session} {number}", chance)),
                key=None,
            )
            for name, n in chosen
        ]
        header = Header(sender, "00", 1, stamp, number, after=Stamp(stamp - 1000) if session else None)
        letters.append(Letter("00", header.name, message_bytes(header, texts)))
    end = Header(sender, "00", 1, stamp, MESSAGES + 1, after=Stamp(stamp - 1000) if session else None, of=MESSAGES)
    return [*letters, Letter("00", end.name, message_bytes(end, ()))]


def deadlocks(world: StoreWorld) -> int:
    address = make_url(world.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    return int(row[0]) if row else 0


@pytest.mark.postgresql
def test_sixteen_workers_apply_the_same_items_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are locked in one order, so no two messages wait for each other. The server is to find a deadlock here, not
    we to give up a lock before it does."""
    monkeypatch.setitem(connecting._SETTINGS, "lock_timeout", "60s")
    monkeypatch.setitem(connecting._SETTINGS, "deadlock_timeout", "50ms")
    world = new_world("postgresql", "00", tmp_path)
    world.install()
    world.execute(*(f"INSERT INTO customers (customer_id) VALUES ('c{n}')" for n in range(1, 7)))
    world.execute(*(f"INSERT INTO orders (order_id) VALUES ({n})" for n in range(1, 7)))
    store = world.start(*SENDERS)
    world.changes()
    network = MemoryNetwork()
    buses = {sender: MemoryBus(network, sender) for sender in SENDERS}
    for sender in SENDERS:
        chance = random.Random(sender)
        for session in range(SESSIONS):
            buses[sender].publish("00", letters_of(sender, session, chance))
    node = NodeView("00", None, SENDERS)
    settings = NodeSettings("00", "00", None, "", EXCHANGE, receive_streams_max=WORKERS)
    receiver = Receiver(node, world.structure(), settings, store, MemoryBus(network, "00"), SystemClock())
    try:

        def drain(sender: str) -> None:
            while receiver.links[sender].step():
                pass

        with ThreadPoolExecutor(len(SENDERS)) as threads:
            list(threads.map(drain, SENDERS))
        assert [(one.node, one.reason) for one in store.parked()] == []
        received = {sender: store.incoming(sender).completed for sender in SENDERS}
        assert set(received.values()) == {Stamp(1_795_000_000_000 + (SESSIONS - 1) * 1000)}
        assert deadlocks(world) == 0
    finally:
        receiver.close()
        world.close()

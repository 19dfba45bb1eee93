"""A round: a network of four nodes, applications at all of them, a row of troubles; then rest, and what has to hold."""

from __future__ import annotations

import json
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from tests.chaos import trouble
from tests.chaos.load import HALVES, SHARED, Application, Reader
from tests.edge import retail
from tests.edge.network import Daemon, Node, TestNetwork
from tests.kafka_broker import private_broker
from tests.servers import PostgresqlServer, own_postgresql_server

SIZE_MB = 200
"""Of the disk that gets full: databases, bus, logs and the nodes' files are on it."""
REST_S = 240.0
"""A deadline is for what never comes."""

UNAVAILABLE = 3
"""How a daemon ends that cannot begin while its database, bus or disk is away."""


class ChaosNetwork(TestNetwork):
    """`within`: what daemons are started with, by node."""

    within: dict[str, list[str]]

    def command(self, *arguments: str) -> list[str]:
        prefix = self.within.get(arguments[-1], []) if "run" in arguments else []
        return [*prefix, *super().command(*arguments)]


class Round:
    """One round; `play` returns its counts, and raises AssertionError that says what is wrong."""

    def __init__(self, seed: int, bus: Literal["folder", "kafka"], seconds: float) -> None:
        self.choice = random.Random(seed)
        self.seconds = seconds
        self.bus = bus
        self.counts: Counter[str] = Counter()
        self.missing: list[str] = []
        """Troubles that cannot be made here, and why."""
        self._wrong: list[str] = []
        self._done = threading.Event()

    def play(self) -> Counter[str]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kod-chaos-")))
            mounted = stack.enter_context(trouble.small_disk(folder, SIZE_MB))
            server = own_postgresql_server()
            stack.callback(server.stop)
            kafka = self.bus == "kafka"
            cable = stack.enter_context(trouble.namespace() if kafka else nullcontext())
            address = cable.address if cable is not None else "127.0.0.1"
            broker = stack.enter_context(private_broker(address)) if kafka else None
            network = self._network(folder, server, f"kafka://{broker.bootstrap}" if broker else "folder:./exchange")
            stack.callback(network.close)
            network.within = {"02": cable.prefix} if cable is not None else {}
            troubles: list[tuple[str, trouble.Trouble]] = [
                ("daemons killed", trouble.kill_daemon(network)),
                ("daemons stopped", trouble.stop_daemon(network)),
                ("databases killed", trouble.kill_database(server)),
            ]
            if mounted:
                troubles.append(("disks full", trouble.fill_disk(folder)))
            else:
                troubles.append(("files limited", trouble.limit_files(network)))
                self.missing.append("disk full: no file system may be mounted here; the daemons' files were limited")
            if broker is not None:
                troubles.append(("brokers killed", trouble.kill_broker(broker)))
            if cable is not None:
                troubles.append(("links cut", cable.cut))
            elif kafka:
                self.missing.append("links cut: no network namespace may be made here")
            else:
                troubles.append(("links cut", trouble.cut_folder(folder / "exchange", network.name, "00", "01")))
            self._play(network, troubles)
        return self.counts

    def _network(self, folder: Path, server: PostgresqlServer, bus: str) -> ChaosNetwork:
        nodes = [
            Node("00", retail.POSTGRESQL, url=server.new_database()),
            Node("01", retail.SQLITE, "00"),
            Node("02", retail.SQLITE, "00"),
            Node("03", retail.POSTGRESQL, "01", url=server.new_database()),
        ]
        settings = {"heartbeat_s": 5}
        nodes = [Node(node.code, node.ddl, node.parent, node.url, settings) for node in nodes]
        network = ChaosNetwork(folder, nodes, retail.EXCHANGE, bus=bus, name="chaos")
        network.within = {}
        network.install()
        return network

    def _play(self, network: ChaosNetwork, troubles: Sequence[tuple[str, trouble.Trouble]]) -> None:
        for customer in SHARED:
            network.execute("00", ("INSERT INTO customers VALUES (?, 'at first')", [customer]))
        network.start_and_wait()
        network.wait_until_equal(retail.CUSTOMERS)
        applications = [Application(network, code, self._done) for code in network.nodes]
        readers = [Reader(network, code, self._done) for code in network.nodes]
        for thread in (*applications, *readers):
            thread.start()
        try:
            self._make_trouble(network, troubles)
        finally:
            self._done.set()
            for thread in (*applications, *readers):
                thread.join()
        self._check(network, applications, readers)

    def _make_trouble(self, network: ChaosNetwork, troubles: Sequence[tuple[str, trouble.Trouble]]) -> None:
        """All kinds in turn, in any order."""
        until = time.monotonic() + self.seconds
        left: list[tuple[str, trouble.Trouble]] = []
        while time.monotonic() < until:
            left = left or self.choice.sample(list(troubles), k=len(troubles))
            name, act = left.pop()
            act(self.choice)
            self.counts[name] += 1
            self._pause(network, self.choice.uniform(0.2, 1.5))

    def _pause(self, network: ChaosNetwork, seconds: float) -> None:
        """Daemons that have ended meanwhile are started again, as a service manager does. By this thread: the kernel
        ends what a thread has started together with the thread."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._start_again(network)
            time.sleep(0.1)

    def _start_again(self, network: ChaosNetwork) -> None:
        for code, daemon in list(network.daemons.items()):
            ended = daemon.process.poll()
            if ended is None:
                continue
            if ended != -signal.SIGKILL:
                self.counts[f"daemons that ended by themselves (exit {ended}): {_last_word(daemon)}"] += 1
                if ended != UNAVAILABLE:
                    self._wrong.append(f"{code} ended with {ended}, and no service manager would start it again")
            with suppress(OSError):  # the log is on the disk that is full
                network.start(code)

    # --- what has to be true ---

    def _check(self, network: ChaosNetwork, applications: Sequence[Application], readers: Sequence[Reader]) -> None:
        failures = [f"{a.name}: {a.failure!r}" for a in applications if a.failure is not None]
        assert not failures, failures
        assert not self._wrong, f"{self._wrong}\n{network.logs()}"
        started = time.monotonic()
        self._wait_until_at_rest(network)
        self.counts["seconds to rest"] = round(time.monotonic() - started)
        for one in applications:
            self.counts += one.counts
        self.counts["looks of readers"] = sum(reader.looks for reader in readers)
        for reader in readers:
            assert not reader.halves, f"a reader saw halves at {reader.code}: {reader.halves}"
        for code in network.nodes:
            assert not network.rows(code, HALVES), f"halves at {code}: {network.rows(code, HALVES)}"
        for sql in retail.EVERYWHERE:
            rows = {code: network.rows(code, sql) for code in network.nodes}
            assert all(found == rows["00"] for found in rows.values()), f"unlike: {sql}"
        for child, parent in (("01", "00"), ("02", "00"), ("03", "01")):
            network.kod("compare", "--node", parent, "--with", child)
        self._nothing_lost(network, applications)
        for status in network.statuses().values():
            self.counts["messages received"] += sum(link["received_messages"] for link in status["links"])
            self.counts["items received"] += sum(link["received_items"] for link in status["links"])
            self.counts["collisions"] += status["collisions"]

    def _wait_until_at_rest(self, network: ChaosNetwork) -> None:
        until = time.monotonic() + REST_S
        while True:
            unlike = [sql for sql in retail.EVERYWHERE if len({str(network.rows(c, sql)) for c in network.nodes}) > 1]
            waits = [] if unlike else self._waits(network)
            if not unlike and not waits:
                return
            assert time.monotonic() < until, f"no rest: {unlike or waits}\n{network.logs()}"
            self._pause(network, 0.5)

    def _waits(self, network: ChaosNetwork) -> list[str]:
        """What `status` says that is not done yet."""
        found = []
        for code, status in network.statuses().items():
            of_links = {f"queue from {link['node']}": link["queue_messages"] for link in status["links"]}
            waiting = {"items": status["items_waiting"], "parked": status["parked"], **of_links}
            found += [f"{code}: {name} {number}" for name, number in waiting.items() if number]
        return found

    def _nothing_lost(self, network: ChaosNetwork, applications: Sequence[Application]) -> None:
        found = dict(network.rows("02", "SELECT order_id, size FROM orders"))
        parents: dict[str, str] = {}
        for one in applications:
            wrong = {order: (size, found.get(order)) for order, size in one.last.items() if found.get(order) != size}
            assert not wrong, f"(left so, found so), written at {one.code}: {wrong}"
            parents |= one.parents
        kept = {name for (name,) in network.rows("00", "SELECT name FROM customers")}
        for code in network.nodes:
            kept |= {value["name"] for value in _journalled(network, code)}
        reached: set[str] = set()
        for name in kept:
            while name in parents and name not in reached:
                reached.add(name)
                name = parents[name]
        lost = parents.keys() - reached
        assert not lost, f"committed, and neither there nor in a journal: {sorted(lost)}"
        self.counts["orders checked"] = sum(len(one.last) for one in applications)
        self.counts["shared changes checked"] = len(parents)


def _last_word(daemon: Daemon) -> str:
    """Why it ended, as it has said itself; without what is only this round's."""
    said = [line for line in daemon.log.splitlines() if line and "Try: " not in line]
    return re.sub(r"/\S*/|\d{4,}", "…", said[-1])[:120] if said else "nothing was said"


def _journalled(network: ChaosNetwork, code: str) -> Iterator[dict[str, Any]]:
    table = "kod.collisions" if network.nodes[code].url else "kod_collisions"
    for (text,) in network.rows(code, f"SELECT CAST(loser_text AS TEXT) FROM {table} WHERE loser_text IS NOT NULL"):
        value = json.loads(text)
        if "name" in value:  # a customer
            yield value

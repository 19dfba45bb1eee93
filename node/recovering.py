"""Rebuilding a node whose database was lost, or restored from a backup, from its neighbours.

    a new incarnation -> every neighbour is asked to send everything again -> what comes is applied as ever

Whatever had left the node comes back with what others changed meanwhile; what had never left it is lost. The rest of
the network goes on all the time. A recovery that is interrupted goes on with `kod run`, or by recovering again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dispatcher.ports import Bus, NodeView, Store
from node import identity
from node.clock import SystemClock
from node.databases import Database
from node.service import Service, opened
from schemas.network import Network

WAIT_S = 0.2


class Recovery(NamedTuple):
    """How far it is, by neighbour."""

    neighbour: str
    state: str
    """`asked`, `sending`, `done`, or why it cannot be reached."""
    received_items: int


def recover(network: Network, code: str, *, wait: bool, show: Callable[[list[Recovery]], None]) -> int:
    """Begins a new life of the node and asks its neighbours for everything; `wait`: until all of it has come.

    Returns 1 when a neighbour could not be asked, or (`wait`) something that came is parked.
    """

    def begin(database: Database, bus: Bus) -> None:
        identity.begin_again(database, bus, network, code, SystemClock().now())

    with opened(network, code, begin) as (database, service):
        ask(service.store, service.node)
        identity.settle(database, network, code)  # only now: until then a daemon would refuse to go on
        before = _received(service)
        result = service.run_once()
        show(_progress(service, before))
        while wait and any(one.state != "done" for one in _progress(service, before)):
            service.bus.wait(WAIT_S)
            result = service.run_once()
            show(_progress(service, before))
        return result


def ask(store: Store, node: NodeView) -> None:
    """Every neighbour is to send everything again; each link says so until it has."""
    for neighbour in node.neighbours:
        store.link_fault(neighbour, f"recovering: {neighbour} is asked to send everything again")
        store.wish(neighbour, f"node {node.code} is rebuilt")


def _received(service: Service) -> dict[str, int]:
    links = service.store.figures().links
    return {node: links[node]["received_items"] or 0 for node in service.node.neighbours}


def _progress(service: Service, before: dict[str, int]) -> list[Recovery]:
    items = _received(service)
    faults = {n: link["fault"] for n, link in service.store.figures().links.items()}
    wishes = {link.node: link.wish for link in service.store.outgoing()}
    found = []
    for node in service.node.neighbours:
        state = "done" if faults[node] is None else "sending" if wishes[node] is None else "asked"
        state = service.sender.delivery.unreachable.get(node, state) if state == "asked" else state
        found.append(Recovery(node, state, items[node] - before[node]))
    return found

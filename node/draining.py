"""Draining: a node stands still before its structure is changed.

    asked -> the daemon sends what is there, and then nothing more -> neighbours say that they have it -> safe

What had come when the node stopped sending has to be applied as well. Others go on: what they send meanwhile is
applied, or waits on the bus, and what applications write here waits in the capture log. A drain ends with `--end`,
or when a daemon starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dispatcher.ports import Backlog, Draining, Figures
from node.databases import Database
from node.opened import daemon_runs, open_node
from node.status import backlogs
from schemas.network import Network
from schemas.stamp import Stamp, digits

LOOK_EVERY_S = 0.25
DAEMON_WITHIN_S = 5.0
"""A running daemon takes a drain up within a second; then somebody looks whether there is one."""


class NotDrainedError(Exception):
    """The drain did not come to its end; `text` says why, `hint` what may be done."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.text, self.hint = text, hint


@dataclass(frozen=True, slots=True)
class LinkStanding:
    """How far one link is with becoming empty."""

    node: str
    sent: int | None
    """The last session that went to it; None when none ever did."""
    arrived: int | None
    """The last one that it said to have whole."""
    waiting_messages: int
    """What had come from it when this node stopped sending, and is not applied."""

    @property
    def waits_for(self) -> str | None:
        if self.waiting_messages:
            return f"{self.waiting_messages} messages from {self.node} are not applied"
        if self.sent is not None and (self.arrived or 0) < self.sent:
            return f"{self.node} has not said that it received session {digits(Stamp(self.sent))}"
        return None

    def as_dict(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "sent": None if self.sent is None else digits(Stamp(self.sent)),
            "arrived": None if not self.arrived else digits(Stamp(self.arrived)),
            "queue_messages": self.waiting_messages,
            "waits_for": self.waits_for,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a node is with standing still."""

    node: str
    state: Draining | None
    links: tuple[LinkStanding, ...]
    items_waiting: int
    parked: int

    @property
    def waits_for(self) -> tuple[str, ...]:
        """In words; nothing once it is safe."""
        if self.state != "done":
            return (f"{self.items_waiting} items wait to be sent, or to be acknowledged by the bus",)
        return tuple(why for link in self.links if (why := link.waits_for) is not None)

    @property
    def safe(self) -> bool:
        return self.state == "done" and not self.waits_for

    def as_dict(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "safe": self.safe,
            "draining": self.state,
            "items_waiting": self.items_waiting,
            "parked": self.parked,
            "waits_for": list(self.waits_for),
            "links": [link.as_dict() for link in self.links],
        }


def standing(code: str, figures: Figures, queues: Mapping[str, Backlog], stopped_ms: int | None) -> Standing:
    """`stopped_ms`: when this node was first seen to have stopped sending. What has come since need not be waited for:
    under load there would always be something."""
    links = []
    for node, raw in figures.links.items():
        queue = queues.get(node)
        old = queue is not None and (stopped_ms is None or queue.oldest_ms is None or queue.oldest_ms <= stopped_ms)
        waiting = queue.messages if queue is not None and old else 0
        links.append(LinkStanding(node, raw.get("last_session"), raw.get("arrived"), waiting))
    return Standing(code, figures.draining, tuple(links), figures.items_waiting, figures.parked)


def drain(network: Network, code: str, say: Callable[[Standing], None], *, timeout_s: float | None = None) -> Standing:
    """Asks for a drain and waits until the node stands still; `say` is told how far it is, whenever that is another
    thing. Whatever ends the waiting before ends the drain: the node then sends again.

    Raises NotDrainedError when there is no daemon that could, when it was ended, or after `timeout_s`.
    """
    database, structure = open_node(network, code)
    with closing(database):
        database.set_draining(True)
        done = False
        try:
            found = _wait(network, code, _Looking(network, code, database, structure), say, timeout_s)
            done = True
            return found
        finally:
            if not done:
                database.set_draining(False)


def end(network: Network, code: str) -> bool:
    """Whether there was a drain to be ended."""
    database, _ = open_node(network, code)
    with closing(database):
        draining = database.figures().draining is not None
        database.set_draining(False)
    return draining


class _Looking:
    """Looks again and again how far a node is."""

    def __init__(self, network: Network, code: str, database: Database, structure: Any) -> None:
        self._network, self._code, self.database, self._structure = network, code, database, structure
        self._stopped_ms: int | None = None

    def __call__(self) -> Standing:
        figures = self.database.figures()
        if figures.draining == "done" and self._stopped_ms is None:
            self._stopped_ms = time.time_ns() // 1_000_000
        queues = backlogs(self._network, self._code, self.database, self._structure, figures)
        return standing(self._code, figures, queues, self._stopped_ms)


def _wait(
    network: Network, code: str, look: _Looking, say: Callable[[Standing], None], timeout_s: float | None
) -> Standing:
    begun = time.monotonic()
    said: tuple[str, ...] | None = None
    daemon_seen = False
    while True:
        found = look()
        if found.safe:
            return found
        if found.state is None:
            raise NotDrainedError(
                "the drain was ended: a daemon was started, or somebody said --end", "once more: kod drain"
            )
        waited_s = time.monotonic() - begun
        if timeout_s is not None and waited_s >= timeout_s:
            raise NotDrainedError(f"not drained within {timeout_s:g} s: {'; '.join(found.waits_for)}")
        if found.state == "asked" and waited_s >= DAEMON_WITHIN_S and not daemon_seen:
            if not daemon_runs(look.database, code):
                raise NotDrainedError(f"no daemon runs for node {code}", f"kod run --node {code}")
            daemon_seen = True
        if found.waits_for != said:
            said = found.waits_for
            say(found)
        time.sleep(LOOK_EVERY_S)

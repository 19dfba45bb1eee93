"""Purging: tombstones that nobody needs any more.

A tombstone keeps an item from coming back with what a neighbour wrote before it heard of the deletion. It is needed
until every neighbour has it. Sessions are not acknowledged, but each end mark says up to which session of the other
direction all is here and applied (`confirmed`). So, in two looks:

    plan       up to which mark every link has been served, and by which session each
    confirmed  every neighbour has said since that it has that session, with nothing missing and nothing parked

What a neighbour sends after that has seen the deletion, or is newer; what it sent before came earlier. A neighbour that
is away confirms nothing, so tombstones wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dispatcher.events import event
from dispatcher.ports import Clock, NodeView, Outgoing, Store
from schemas.network import NodeSettings
from schemas.stamp import Stamp

log = logging.getLogger(__name__)

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Tombstones with marks up to `mark` are known to all that have these sessions (None: nothing was to be sent)."""

    mark: int
    sessions: Mapping[str, Stamp | None]


def plan(links: Sequence[Outgoing]) -> Plan | None:
    """None while a link is not served in order: then it may get anything again."""
    if not links or any(_gets_out_of_turn(link) for link in links):
        return None
    return Plan(min(link.position for link in links), {link.node: link.last_session for link in links})


def _gets_out_of_turn(link: Outgoing) -> bool:
    """By history, too: also one that was cancelled may be taken up again."""
    history = link.catching_up or link.joined is not None
    return bool(link.pending or link.ahead or history or link.restart or link.wish)


def is_confirmed(plan: Plan, confirmed: Mapping[str, Stamp | None]) -> bool:
    """Whether every neighbour has all that the plan is about."""
    for node, session in plan.sessions.items():
        said = confirmed.get(node)
        if session is not None and (said is None or said < session):
            return False
    return True


class Purging:
    """The tombstones of a node; `step` is a look."""

    def __init__(self, node: NodeView, settings: NodeSettings, store: Store, clock: Clock) -> None:
        self._node = node
        self._kept_days = settings.tombstones_kept_days
        self._store = store
        self._clock = clock
        self._plan: Plan | None = None

    def step(self, confirmed: Mapping[str, Stamp | None]) -> int:
        """Forgets what is older than nodes.yaml wants it kept and what every neighbour has; how many. `confirmed`: the
        last session that each neighbour has said to have whole."""
        if self._kept_days is None:
            return 0
        purged = 0
        if self._plan is not None and is_confirmed(self._plan, confirmed):
            before = Stamp(self._clock.now() - self._kept_days * DAY_MS)
            purged = self._store.purge_tombstones(self._plan.mark, before)
            self._plan = None
        if purged:
            event(log, logging.INFO, "tombstones purged", count=purged, kept_days=self._kept_days)
        if self._plan is None:
            self._plan = plan([link for link in self._store.outgoing() if link.node in self._node.neighbours])
        return purged

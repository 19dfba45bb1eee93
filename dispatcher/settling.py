"""Settling: what becomes of an incoming version of an item, given the one that is here.

    receive -> [ SETTLE -> apply ]

Pure, and the same at both ends of a link, so that no conversation is needed. With L the local version and V the
incoming one (correctness.md, Receiving a message; comparing whole vectors instead of these two dots would take true
successors for collisions):

    new         nothing is here                     apply
    repeat      V is in what L has seen             nothing; count as rejected, merge `seen`, answer back
    crossed     both, and they are not the same     as the policy says; where L stays it is a repeat
    successor   L is in what V has seen             apply
    concurrent  otherwise                           the policy of the type; no collision where contents are equal

Crossed are two versions that met at two places, and at each the other one won. Under `parent` that happens to a node
that lost its database: above it the old version beats what the node has written since; at the node, what a child
brings back of the old version does not. Without a decision both would be answered with the other for ever.

Two more faults are told apart here: births of different items under one key that databases invented (no version of
either is in the history of the other), and stamps of the future, from a clock that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal

from dispatcher.ports import Local
from schemas.stamp import EARLIEST, Stamp
from serializers.message import Version


class Relation(Enum):
    """How an incoming version stands to the local one."""

    NEW = "new"
    REPEAT = "repeat"
    CROSSED = "crossed"
    SUCCESSOR = "successor"
    CONCURRENT = "concurrent"


def local_version(local: Local, origin: str) -> Version | None:
    """The version here; a row without a register entry counts as (0, this origin)."""
    if local.version is None and local.exists:
        return Version(EARLIEST, origin)
    return local.version


def relation(local: Local | None, origin: str, incoming: Version, seen: Mapping[str, Stamp]) -> Relation:
    version = None if local is None else local.version or local_version(local, origin)
    if local is None or version is None:
        return Relation.NEW
    if incoming.stamp <= _newest(version, local.seen, incoming.origin):
        crossed = version != incoming and has_seen(incoming, seen, version)
        return Relation.CROSSED if crossed else Relation.REPEAT
    if version.stamp <= _newest(incoming, seen, version.origin):
        return Relation.SUCCESSOR
    return Relation.CONCURRENT


def _newest(version: Version, seen: Mapping[str, Stamp], origin: str) -> int:
    """The newest stamp of `origin` that is in the history of `version`; -1 for none."""
    return version.stamp if version.origin == origin else seen.get(origin, -1)


def merged_seen(
    winner: Version, winner_seen: Mapping[str, Stamp], other: Version | None, other_seen: Mapping[str, Stamp]
) -> dict[str, Stamp]:
    """What `winner` has seen once it has met `other`: it only grows, and never holds the winner's own origin."""
    if not (winner_seen or other_seen) and (other is None or other.origin == winner.origin):
        return {}
    seen = dict(winner_seen)
    own = [(other.origin, other.stamp)] if other is not None else []
    for origin, stamp in (*other_seen.items(), *own):
        if stamp > seen.get(origin, -1):
            seen[origin] = stamp
    seen.pop(winner.origin, None)
    return seen


def has_seen(version: Version, seen: Mapping[str, Stamp], other: Version) -> bool:
    """Whether `other` is `version` itself or in its history."""
    return other.stamp <= _newest(version, seen, other.origin)


def has_seen_all(version: Version, seen: Mapping[str, Stamp], others: Mapping[str, Stamp]) -> bool:
    """Whether all of `others` is in the history of `version`."""
    return all(stamp <= _newest(version, seen, origin) for origin, stamp in others.items())


def born_apart(local: Version, local_seen: Mapping[str, Stamp], incoming: Version, seen: Mapping[str, Stamp]) -> bool:
    """Whether two concurrent versions have no common ancestor. What one origin writes is a chain, so an origin that
    is in both histories has put a common ancestor into them."""
    return {local.origin, *local_seen}.isdisjoint({incoming.origin, *seen})


def latest_believed(now: Stamp, skew_max_ms: int, bus_ahead_ms: int | None) -> Stamp:
    """The latest stamp that is believed: by this node's clock, or, where that differs from the bus's by more than is
    allowed, by the bus's."""
    off_ms = bus_ahead_ms if bus_ahead_ms is not None and abs(bus_ahead_ms) > skew_max_ms else 0
    return Stamp(now + off_ms + skew_max_ms)


def from_the_future(local: Local | None, incoming: Version, latest: Stamp) -> bool:
    """Whether a version is stamped later than can be believed. An item that is here with such a stamp already goes on
    as it is: its changes cannot but bear larger ones."""
    known = local.version.stamp if local is not None and local.version is not None else EARLIEST
    return incoming.stamp > latest >= known


def incoming_wins(policy: Literal["newest", "parent"], local: Version, incoming: Version, *, from_parent: bool) -> bool:
    """Who wins a collision. `newest`: the larger (stamp, origin). `parent`: on each link the parent's side."""
    if policy == "parent":
        return from_parent
    return incoming > local

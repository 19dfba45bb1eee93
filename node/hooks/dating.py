"""The stamps that hooks give to what was there before КОД (`kod install --stamp-existing`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dispatcher.ports import Hooked
from node.clock import SystemClock
from node.databases import Database
from node.hooks.bound import BoundHooks
from node.opened import hooks_of
from node.service import node_view
from schemas.network import Network
from schemas.stamp import Stamp
from schemas.structure import Structure


@dataclass
class Dates:
    by_type: Mapping[str, Iterator[tuple[str, Stamp]]]
    """Read, and asked of the hooks, while they are taken."""
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By type, of how many items the hook could not tell it, and why not of the first."""

    @property
    def faults(self) -> list[str]:
        return [f"{name}: {count} items have no date: {reason}" for name, (count, reason) in self.failed.items()]


@contextmanager
def dates_by_hooks(network: Network, code: str, database: Database, structure: Structure) -> Iterator[Dates]:
    loaded = hooks_of(network, code)
    hooks = BoundHooks(loaded, structure, node_view(network.topology, code), SystemClock())
    types = [name for name in sorted(loaded.overriding("date")) if name in structure.types]
    if not types:
        yield Dates({})
        return
    with database.looking(structure) as view:
        dates = Dates({})
        dates.by_type = {name: _of_type(name, dates, hooks, database, structure, view.hooked) for name in types}
        yield dates


def _of_type(
    name: str, dates: Dates, hooks: BoundHooks, database: Database, structure: Structure, hooked: Hooked
) -> Iterator[tuple[str, Stamp]]:
    for key, moment, fault in hooks.dates(name, database.contents(structure, name), hooked):
        if fault:
            count, reason = dates.failed.get(name, (0, fault))
            dates.failed[name] = (count + 1, reason)
        if moment is not None:
            yield key, moment

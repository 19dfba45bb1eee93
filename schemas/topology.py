"""The tree of nodes: who speaks with whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Topology:
    """Nodes form a tree; a node speaks only with its neighbours: its parent and its children.

    `parents` maps every node's code to its parent's, the central node's to None. It is a tree: checked
    where nodes.yaml is read.
    """

    parents: Mapping[str, str | None]
    _towards: dict[tuple[str, str], str | None] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def _children(self) -> dict[str, tuple[str, ...]]:
        return {code: tuple(c for c, parent in self.parents.items() if parent == code) for code in self.parents}

    def parent(self, code: str) -> str | None:
        return self.parents[code]

    def children(self, code: str) -> tuple[str, ...]:
        return self._children[code]

    def neighbours(self, code: str) -> tuple[str, ...]:
        """The parent, if any, and then the children, in nodes.yaml's order."""
        parent = self.parents[code]
        return ((parent,) if parent else ()) + self._children[code]

    def towards(self, code: str, target: str) -> str | None:
        """The neighbour of `code` through which `target` is reached; None for itself and for unknown nodes."""
        cached = self._towards.get((code, target), "")
        if cached != "":
            return cached
        found = self._find_towards(code, target)
        self._towards[code, target] = found
        return found

    def _find_towards(self, code: str, target: str) -> str | None:
        if code == target or target not in self.parents:
            return None
        step: str | None = target
        while step is not None:  # up from the target: does the way lead through one of our children?
            above = self.parents[step]
            if above == code:
                return step
            step = above
        return self.parents[code]

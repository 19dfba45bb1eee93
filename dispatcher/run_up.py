"""How much of a backlog is taken at a time: little at first, then ever more.

A receiver that has nothing to do begins with a small portion while the next, larger one is selected; and what changed
first is there sooner.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_ITEMS = 1000
GROWTH = 4


class RunUp:
    """Of each neighbour, what its last portions were."""

    def __init__(self) -> None:
        self._grown: dict[str, int] = {}

    def items_max(self, nodes: Sequence[str], items_max: int) -> int:
        """The size of the next portion for neighbours that are served together; at most `items_max`."""
        return min(items_max, max((self._grown.get(node, FIRST_ITEMS) for node in nodes), default=FIRST_ITEMS))

    def went(self, nodes: Sequence[str], *, whole: bool) -> None:
        """A portion was selected for them; `whole`: nothing is left behind it."""
        for node in nodes:
            if whole:
                self._grown.pop(node, None)
            else:
                self._grown[node] = self._grown.get(node, FIRST_ITEMS) * GROWTH

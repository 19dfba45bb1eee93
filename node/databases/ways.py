"""dispatcher.ports.Ways, the same for every dialect.

ways   item, link, node: at `node`, farther on, the item is to be seen; the link is the neighbour that has been told
       so, or has told it; none ('') where it was heard
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from node.databases.hooked import HookTables
from serializers.keys import Item

HEARD = ""
ITEMS_AT_ONCE = 200

Known = dict[Item, set[str]]


class WayTables:
    def __init__(self, tables: HookTables) -> None:
        self._tables = tables

    def heard(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        return self.told(HEARD, items)

    def told(self, node: str, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        found: Known = {}
        for type_name, keys in _by_type(items):
            for key, told in self._tables.nodes_of("ways", node, type_name, keys):
                found.setdefault(Item(type_name, key), set()).add(told)
        return {item: frozenset(nodes) for item, nodes in found.items()}

    def hear(self, sender: str, ways: Mapping[Item, frozenset[str]]) -> frozenset[Item]:
        self.tell(sender, ways)
        return self._note(HEARD, ways)

    def tell(self, node: str, ways: Mapping[Item, frozenset[str]]) -> None:
        self._note(node, ways)

    def _note(self, link: str, ways: Mapping[Item, frozenset[str]]) -> frozenset[Item]:
        known = self.told(link, list(ways))
        new = {item: nodes - known.get(item, frozenset()) for item, nodes in ways.items()}
        rows = [(item, (link, node)) for item, nodes in new.items() for node in sorted(nodes)]
        self._tables.put_items("ways", ("link", "node"), rows)
        return frozenset(item for item, nodes in new.items() if nodes)

    def look_again(self, items: Sequence[Item]) -> None:
        self._tables.note_rights(items)


def _by_type(items: Sequence[Item]) -> Iterator[tuple[str, Sequence[str]]]:
    by_type: dict[str, list[str]] = {}
    for item in items:
        by_type.setdefault(item.type, []).append(item.key)
    for name, keys in by_type.items():
        for start in range(0, len(keys), ITEMS_AT_ONCE):
            yield name, keys[start : start + ITEMS_AT_ONCE]

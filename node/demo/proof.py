"""Do the nodes agree, and was nothing lost? Judged from the tables by plain SQL, not by KOD's own reading.

agreement    each node has, item for item, what it ought to have: everything that goes everywhere, and of the
             till reports those of its own subtree
ledger       an item that one node edited ends as that node left it; one that several edited, as one of them did
collisions   of each provoked collision one version is everywhere and the other stands in a journal
references   no foreign key is broken anywhere
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from node.demo.network import DemoNetwork, DemoNode
from node.demo.trade import Clash, Key, Ledger

Row = tuple[object, ...]
JournalEntry = tuple[str, str]
"""Type and text of a version that lost a collision."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a type's items are read: rows of `sql`, of which the first `key` values are the item's key and the last
    is its tag; rows of `section` (the order's lines) belong to the item whose key they begin with."""

    type: str
    table: str
    sql: str
    key: int
    section: str = ""
    to_parent_only: bool = False


KINDS = (
    Kind("Catalog.Category", "categories", "SELECT category_id, name, parent_id, edited FROM categories", 1),
    Kind(
        "Catalog.Product",
        "products",
        "SELECT product_id, name, category_id, weight_kg, picture, edited FROM products",
        1,
    ),
    Kind("Catalog.Customer", "customers", "SELECT customer_id, name, city, {phone}, edited FROM {customers}", 1),
    Kind(
        "Document.Order",
        "orders",
        "SELECT number, customer_id, placed_at, state, edited FROM orders",
        1,
        "SELECT number, line, product_id, quantity, price_cents FROM order_lines ORDER BY number, line",
    ),
    Kind("Catalog.OrderFile", "order_files", "SELECT number, name, content, edited FROM order_files", 2),
    Kind(
        "InformationRegister.Price",
        "prices",
        "SELECT product_id, period, kind, price_cents, edited FROM prices ORDER BY product_id, period, kind",
        2,
    ),
    Kind(
        "Document.TillReport",
        "till_reports",
        "SELECT shop, number, cash_cents, edited FROM till_reports",
        2,
        to_parent_only=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Found:
    """An item as a node has it."""

    digest: bytes
    tags: frozenset[str]
    """Of its rows: one, unless a record set was torn."""


Reading = Mapping[str, Mapping[Key, Found]]
"""The items of one node by type."""


def read_node(node: DemoNode) -> Reading:
    """Everything, in one snapshot."""
    connection = node.connect()
    try:
        connection.execute("BEGIN")
        return {kind.type: _read_kind(connection, kind, node) for kind in KINDS}
    finally:
        connection.close()


def _read_kind(connection: sqlite3.Connection, kind: Kind, node: DemoNode) -> dict[Key, Found]:
    sql = kind.sql.format(customers=node.customers, phone=node.phone)
    rows: dict[Key, list[Row]] = {}
    tags: dict[Key, set[str]] = {}
    for row in connection.execute(sql):
        key = Key(kind.table, row[: kind.key])
        rows.setdefault(key, []).append(row)
        tags.setdefault(key, set()).add(str(row[-1]))
    for row in connection.execute(kind.section) if kind.section else ():
        rows[Key(kind.table, row[: kind.key])].append(row)  # a line without its order is a KeyError: half an item
    return {key: Found(_digest(found), frozenset(tags[key])) for key, found in rows.items()}


def _digest(rows: Iterable[Row]) -> bytes:
    return hashlib.sha256(repr(list(rows)).encode()).digest()


def digest_of(items: Mapping[Key, Found]) -> str:
    """Of all items together, for people to compare."""
    total = hashlib.sha256()
    for key in sorted(items, key=repr):
        total.update(repr(key).encode() + items[key].digest)
    return total.hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Line:
    """A type: what each node has of it, and how many items differ from what it ought to have."""

    type: str
    to_parent_only: bool
    items: Mapping[str, int]
    digests: Mapping[str, str]
    differing: Mapping[str, int]

    @property
    def agrees(self) -> bool:
        return not any(self.differing.values())


@dataclass(frozen=True, slots=True)
class Proof:
    lines: Sequence[Line]
    lost: Sequence[str] = ()
    """Edits that are nowhere, and items that nobody left like this."""
    collisions_provoked: int = 0
    collisions_journalled: int = 0
    unjournalled: Sequence[str] = ()
    broken_references: Mapping[str, int] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        return all(line.agrees for line in self.lines)

    @property
    def holds(self) -> bool:
        return self.agrees and not self.lost and not self.unjournalled and not any(self.broken_references.values())


def compare(network: DemoNetwork, readings: Mapping[str, Reading]) -> list[Line]:
    """What each node has against what it ought to have: the head office's items, or of till reports its subtree's."""
    root = network.nodes[0].code
    lines = []
    for kind in KINDS:
        expected = readings[root][kind.type]
        if kind.to_parent_only:  # each report as the shop itself has it
            expected = {
                key: found
                for code in readings
                for key, found in readings[code][kind.type].items()
                if key.key[0] == code
            }
        ought = {node.code: _due(kind, expected, network.subtree(node.code)) for node in network.nodes}
        have = {code: reading[kind.type] for code, reading in readings.items()}
        lines.append(
            Line(
                kind.type,
                kind.to_parent_only,
                items={code: len(items) for code, items in have.items()},
                digests={code: digest_of(items) for code, items in have.items()},
                differing={code: _differing(ought[code], items) for code, items in have.items()},
            )
        )
    return lines


def _due(kind: Kind, items: Mapping[Key, Found], subtree: Collection[str]) -> Mapping[Key, Found]:
    if not kind.to_parent_only:
        return items
    return {key: found for key, found in items.items() if key.key[0] in subtree}


def _differing(ought: Mapping[Key, Found], have: Mapping[Key, Found]) -> int:
    return sum(ought.get(key) != have.get(key) for key in ought.keys() | have.keys())


def prove(
    network: DemoNetwork, ledgers: Mapping[str, Ledger], clashes: Sequence[Clash], journal: Collection[JournalEntry]
) -> Proof:
    """`journal`: every version that lost a collision, of all nodes."""
    readings = {node.code: read_node(node) for node in network.nodes}
    final: dict[Key, Found] = {}
    for items in readings[network.nodes[0].code].values():  # the head office has everything
        final.update(items)
    unjournalled = [text for clash in clashes for text in _unsettled(clash, final, journal)]
    return Proof(
        lines=compare(network, readings),
        lost=_lost(ledgers, final),
        collisions_provoked=len(clashes),
        collisions_journalled=len(journal),
        unjournalled=unjournalled,
        broken_references={node.code: _broken_references(node) for node in network.nodes},
    )


def _lost(ledgers: Mapping[str, Ledger], final: Mapping[Key, Found]) -> list[str]:
    last: dict[Key, dict[str, str | None]] = {}
    for code, ledger in ledgers.items():
        for key, tag in ledger.items():
            last.setdefault(key, {})[code] = tag
    lost = []
    for key, by_node in last.items():
        found = final.get(key)
        tags = found.tags if found is not None else frozenset({None})
        if len(tags) != 1 or not tags <= set(by_node.values()):
            now = "gone" if found is None else "left as " + ", ".join(sorted(found.tags))
            edits = ", ".join(f"{tag or 'deletion'} at {code}" for code, tag in by_node.items())
            lost.append(f"{key.table} {key.key}: {now}; last edits: {edits}")
    return lost


def _unsettled(clash: Clash, final: Mapping[Key, Found], journal: Collection[JournalEntry]) -> list[str]:
    found = final.get(clash.key)
    winners = [tag for tag in clash.tags if found is not None and found.tags == {tag}]
    if not winners:
        return [f"{clash.key.table} {clash.key.key}: neither of {clash.tags} is there"]
    loser = next(tag for tag in clash.tags if tag not in winners)
    if not any(type_ == "Catalog.Customer" and f'"{loser}"' in text for type_, text in journal):
        return [f"{clash.key.table} {clash.key.key}: {loser} is in no journal"]
    return []


def _broken_references(node: DemoNode) -> int:
    connection = node.connect()
    try:
        return len(connection.execute("PRAGMA foreign_key_check").fetchall())
    finally:
        connection.close()

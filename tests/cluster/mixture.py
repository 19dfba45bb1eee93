"""The mixture: with which options a seed is played where many are; and special applications, whose few kinds of writes
make frequent what the usual ones seldom do.

A failing seed is played again by `python -m tests.cluster.mixture SEED [deletions=0] [losses=1] [writes=trees] …`; with
nothing but the seed, as in the mixture.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from schemas.stamp import Stamp
from schemas.topology import Topology
from tests.cluster.kept import BEGINNING_MS
from tests.cluster.simulation import (
    MEMOS,
    SimNode,
    World,
    deep_tree,
    delete_customer,
    delete_order,
    history,
    put_customer,
    put_order,
    put_shelf,
    small_tree,
)

# --- special applications ---------------------------------------------------------------------------------------------

Write = Callable[[SimNode], None]


def delete_with_orders(node: SimNode) -> None:
    """A customer and all that refers to it: more than a message holds, now and then."""
    name = node.pick("SELECT id FROM customers")
    execute = node.application.execute
    execute("DELETE FROM order_files WHERE order_id IN (SELECT id FROM orders WHERE customer_id = ?)", (name,))
    node.world.deleted |= {token for (token,) in execute("SELECT token FROM orders WHERE customer_id = ?", (name,))}
    execute("DELETE FROM orders WHERE customer_id = ?", (name,))
    execute("UPDATE customers SET boss = NULL WHERE boss = ?", (name,))
    _delete_customers(node, name)


def move_and_delete(node: SimNode) -> None:
    """All orders of a customer get another one, and it goes: who misses the first must not undo the second."""
    old, new = node.pick("SELECT id FROM customers"), node.pick("SELECT id FROM customers")
    if old != new:
        node.application.execute("UPDATE orders SET customer_id = ? WHERE customer_id = ?", (new, old))
        node.application.execute("UPDATE customers SET boss = NULL WHERE boss = ?", (old,))
        _delete_customers(node, old)


def put_one_of_two(node: SimNode) -> None:
    """Each is the other's boss, where that is there; they change one by one."""
    name, token = node.world.random.choice("AB"), node.world.token(node, "customer")
    node.world.parents[token] = node.value("customers", "name", name)
    node.application.execute(
        "INSERT INTO customers VALUES (?1, ?2, (SELECT id FROM customers WHERE id <> ?1)) ON CONFLICT (id) DO UPDATE"
        " SET name = excluded.name, boss = excluded.boss",
        (name, token),
    )


def delete_both(node: SimNode) -> None:
    node.application.execute("UPDATE customers SET boss = NULL")
    _delete_customers(node, "A", "B")


def _delete_customers(node: SimNode, *names: str | None) -> None:
    for name in names:
        node.world.deleted.add(node.value("customers", "name", name))
        node.application.execute("DELETE FROM customers WHERE id = ?", (name,))


def stamp_existing(world: World, node: SimNode) -> None:
    """Rows that were there before capture get their stamps while links are there (`kod install --stamp-existing`). In
    what order they go and what draws them earlier is up to the history; orders come to refer to them."""
    execute, number = node.application.execute, world.tokens
    names = [f"{node.code}-{number}-{n}" for n in range(world.random.randint(1, 4))]
    execute("INSERT INTO kod_applying VALUES (1)")
    for name in names:
        token = world.token(node, "customer")
        world.parents[token] = None
        execute("INSERT INTO customers VALUES (?, ?, ?)", (name, token, node.pick("SELECT id FROM customers")))
    execute("DELETE FROM kod_applying")
    dates = {"Catalog.Customer": [(f'["{name}"]', Stamp(world.random.randrange(BEGINNING_MS))) for name in names]}
    with closing(node.open_database()) as database:
        database.stamp_existing(node.structure, lambda *_: None, 2, dates)
    if node.up:
        node.sender.look_for_history()


SHELVES: Sequence[Write] = [put_shelf]
MOVES: Sequence[Write] = [put_customer, put_order, put_order, delete_customer]
ORDERS: Sequence[Write] = [put_customer, put_order, put_order, delete_order, delete_customer]
TREES: Sequence[Write] = [put_customer, put_order, put_order, delete_with_orders]
CLEARINGS: Sequence[Write] = [put_customer, put_order, put_order, move_and_delete]
CIRCLES: Sequence[Write] = [put_one_of_two, put_one_of_two, put_one_of_two, delete_both]

APPLICATIONS: Mapping[str, Sequence[Write]] = {
    "memos": MEMOS,
    "shelves": SHELVES,
    "moves": MOVES,
    "orders": ORDERS,
    "trees": TREES,
    "clearings": CLEARINGS,
    "circles": CIRCLES,
}
"""By the names that `options_of` takes."""

# --- the mixture ------------------------------------------------------------------------------------------------------

Options = dict[str, Any]

KINDS: Sequence[Options] = [
    {},
    {"losses": True},
    {"cuts": True},
    {"crashes": False},
    {"one_writer": True},
    {"one_writer": True, "losses": True},
    {"deletions": False},
    {"losses": True, "cuts": True},
    {"rights": True},
    {"rights": True, "losses": True, "cuts": True},
    {"joins": True},
    {"joins": True, "losses": True},
    {"joins": True, "deletions": False},
    {"joins": True, "rights": True},
    {"lives": True},
    {"lives": True, "losses": True},
    {"lives": True, "rights": True, "cuts": True},
    {"lives": True, "joins": True, "losses": True},
]
"""Each kind of trouble alone, and together."""

SPECIAL: Sequence[Options] = [
    {"writes": MEMOS},
    {"writes": SHELVES, "steps": 120},
    {"writes": SHELVES, "lives": True},
    {"writes": ORDERS},
    {"writes": ORDERS, "lives": True},
    {"writes": MOVES, "one_writer": True, "crashes": False, "steps": 160},
    {"writes": TREES, "one_writer": True, "crashes": False},
    {"writes": TREES, "losses": True, "cuts": True},
    {"writes": CLEARINGS, "one_writer": True, "losses": True},
    {"writes": CLEARINGS, "joins": True},
    {"writes": CIRCLES},
    {"writes": CIRCLES, "losses": True, "cuts": True},
    {"lives": True, "late": True},
    {"losses": True, "crashes": False, "steps": 30},
]
"""Worlds in which rules are missed that hardly show elsewhere (tests/cluster/mutants.py), and some beside them."""


def mixed(seed: int) -> Options:
    """The options of a seed: twenty nodes now and then, every fifth special, the others by turns."""
    if seed % 200 == 199:
        return {"tree": deep_tree, "steps": 800}
    if seed % 5 == 4:
        return SPECIAL[seed // 5 % len(SPECIAL)]
    return KINDS[seed % len(KINDS)]


# --- one of them again ------------------------------------------------------------------------------------------------

TREES_OF_NODES: Mapping[str, Callable[[random.Random], Topology]] = {"small": small_tree, "deep": deep_tree}


def command(seed: int) -> str:
    """What plays this one again."""
    options = " ".join(f"{name}={_text(value)}" for name, value in sorted(mixed(seed).items()))
    return f"python -m tests.cluster.mixture {seed} {options}".rstrip()


def _text(value: Any) -> str:
    names = {id(one): name for name, one in (*APPLICATIONS.items(), *TREES_OF_NODES.items())}
    return names.get(id(value)) or str(int(value))


def options_of(arguments: Sequence[str]) -> Options:
    """name=value, as `history` takes them: numbers, or the name of a tree or of an application."""
    named = {"tree": TREES_OF_NODES, "writes": APPLICATIONS}
    pairs = dict(argument.split("=", 1) for argument in arguments)
    return {name: named[name][value] if name in named else int(value) for name, value in pairs.items()}


if __name__ == "__main__":
    asked = int(sys.argv[1])
    history(asked, **(options_of(sys.argv[2:]) or mixed(asked)))

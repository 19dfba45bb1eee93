"""Types that do not go everywhere, with rights and owners of their own that change: what applications do with them, and
what has to be true of them at rest.

Tasks are seen where an access table says so, plans where a view over it does; notes go with their task, pictures with
their note. The rows of the access table travel like others, so that every node can route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.network import TypeSettings

if TYPE_CHECKING:
    from tests.cluster.simulation import SimNode, World

EXCHANGE = {
    t.name: t
    for t in (
        TypeSettings("Document.Task", "tasks", access="task_access"),
        TypeSettings("Document.Plan", "plans", access="task_seen"),
        TypeSettings("Catalog.Note", "notes", owner=("task_id",)),
        TypeSettings("Catalog.Picture", "pictures", owner=("note_id",)),
        TypeSettings("InformationRegister.TaskAccess", "task_access", reference_data=True, filter=("id",)),
    )
}

TABLES = """
CREATE TABLE tasks (id INT NOT NULL PRIMARY KEY, token TEXT);
CREATE TABLE plans (id INT NOT NULL PRIMARY KEY, token TEXT);
CREATE TABLE task_access (id INTEGER NOT NULL, node TEXT NOT NULL, PRIMARY KEY (id, node));
CREATE VIEW task_seen AS SELECT id, node FROM task_access WHERE node <> '';
CREATE TABLE notes (id TEXT PRIMARY KEY, task_id INTEGER NOT NULL REFERENCES tasks (id), body TEXT);
CREATE TABLE pictures (id TEXT PRIMARY KEY, note_id TEXT NOT NULL REFERENCES notes (id), body TEXT);
"""

HELD = ("tasks", "plans", "notes", "pictures")

Row = tuple[str, Any]
"""A table, and the key of a row in it."""


class Reach:
    """Who may have what: whoever wrote an item, or was given a right to it, at any time."""

    def __init__(self) -> None:
        self.given: set[tuple[Row, str]] = set()
        self.owners: set[tuple[Row, Row]] = set()
        """(Item, owner) that were, at any time."""

    def may_have(self, world: World) -> set[tuple[Row, str]]:
        """Who ever wrote an item or had a right to it, or to its owner; or has what needs it; and all above them."""
        above = {code: [up for up in world.codes if code in below(world, up)] for code in world.codes}
        may = {(item, up) for item, code in self.given for up in above[code]}
        grown = True
        while grown:
            more = {(item, code) for item, owner in self.owners for o, code in may if o == owner}
            more |= {(owner, code) for item, owner in self.owners for i, code in may if i == item}
            grown = not more <= may
            may |= more
        return may


def below(world: World, code: str) -> set[str]:
    """The node and all that lie below it: what one of them gets goes through it."""
    topology = world.topology
    return {c for c in world.codes if c == code or topology.towards(code, c) in topology.children(code)}


# --- what applications do ---------------------------------------------------------------------------------------------


def put_task(node: SimNode) -> None:
    table, number = node.world.random.choice(["tasks", "plans"]), node.world.random.randint(1, 5)
    token = node.world.token(node, table)
    node.world.parents[token] = node.value(table, "token", number)
    node.world.reach.given.add(((table, number), node.code))
    node.application.execute(
        f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET token = excluded.token", (number, token)
    )


def give_right(node: SimNode) -> None:
    number, code = node.world.random.randint(1, 5), node.world.random.choice(node.world.codes)
    node.world.reach.given |= {((table, number), code) for table in ("tasks", "plans")}
    node.application.execute("INSERT INTO task_access VALUES (?, ?) ON CONFLICT (id, node) DO NOTHING", (number, code))


def take_right(node: SimNode) -> None:
    node.application.execute("DELETE FROM task_access WHERE id = ?", (node.world.random.randint(1, 5),))


def move_right(node: SimNode) -> None:
    number, code = node.world.random.randint(1, 5), node.world.random.choice(node.world.codes)
    right = node.pick("SELECT id FROM task_access")
    taken = "SELECT 1 FROM task_access WHERE id = ? AND node = ?"
    if right is not None and node.application.execute(taken, (number, code)).fetchone() is None:
        old = node.application.execute("SELECT node FROM task_access WHERE id = ?", (right,)).fetchone()[0]
        node.world.reach.given |= {((table, number), code) for table in ("tasks", "plans")}
        node.application.execute(
            "UPDATE task_access SET id = ?, node = ? WHERE id = ? AND node = ?", (number, code, right, old)
        )


def put_note(node: SimNode) -> None:
    _put_dependant(node, "notes", "task_id", "tasks")


def put_picture(node: SimNode) -> None:
    _put_dependant(node, "pictures", "note_id", "notes")


def _put_dependant(node: SimNode, table: str, column: str, owners: str) -> None:
    """A new one, or one that changes hands."""
    owner = node.pick(f"SELECT id FROM {owners}")
    if owner is not None:
        key = f"{table}-{node.world.random.randint(1, 4)}"
        node.world.reach.given.add(((table, key), node.code))
        node.world.reach.owners.add(((table, key), (owners, owner)))
        node.application.execute(
            f"INSERT INTO {table} VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body,"
            f" {column} = CASE WHEN ? THEN excluded.{column} ELSE {table}.{column} END",
            (key, owner, node.world.token(node, table), node.world.random.random() < 0.5),
        )


def save_unchanged(node: SimNode) -> None:
    """An application that writes what is there already: nobody else is to hear of it."""
    columns = {"customers": "name", "tasks": "token", "notes": "body", "order_lines": "qty"}
    table = node.world.random.choice(list(columns))
    node.application.execute(f"UPDATE {table} SET {columns[table]} = {columns[table]}")


WRITES = [
    put_task, put_task, give_right, give_right, take_right, move_right, put_note, put_note, put_picture, put_picture,
    save_unchanged,
]  # fmt: skip


# --- at rest ----------------------------------------------------------------------------------------------------------


def check(world: World) -> None:
    """Every addressee by the rules holds an item, all its holders hold the same, and nobody else has it."""
    held = {n.code: {t: {row[0]: row for row in rows} for t, rows in n.contents(HELD).items()} for n in world.nodes}
    root = held[world.nodes[0].code]
    may = world.reach.may_have(world)
    rights = world.nodes[0].contents(("task_access",))["task_access"]
    for code, there in held.items():
        for table in HELD:
            for key, row in there[table].items():
                assert row == root[table].get(key), f"{code}: {table} {key} is {row}, not {root[table].get(key)}"
                assert ((table, key), code) in may, f"{code} has {table} {key}, which nothing lets it have"
        for number, node in rights:
            for table in ("tasks", "plans") if node in below(world, code) else ():
                lacks = number in root[table] and number not in there[table]
                assert not lacks, f"{code} lacks {table} {number}, which {node} may see"
        for table, owners in (("notes", "tasks"), ("pictures", "notes")):
            for key, row in root[table].items():
                assert row[1] not in there[owners] or key in there[table], f"{code} lacks {table} {key} of {row[1]}"

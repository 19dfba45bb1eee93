"""Rights that change: what notes it in the application's transaction, and how the sender looks at items again.

    [ triggers ] -> kod.rights -> look again -> pending …

An access table bears row triggers that append the item's key. A view has none: the tables that it is made of (found in
pg_depend, or declared by `access_from`) bear statement triggers that append the type alone, and the type's items are
then walked through, from fresh to old, by a cursor in kod.walks. A type's own tables are the exception: whatever
changes there and travels is a change of the item, and one that does not travel appends that item's key.

The triggers fire whoever writes, КОД too: rights that come from another node are rights.

A row that vanishes from an access table appends nothing: what a node has got it keeps (rule 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dispatcher.ports import Again, Outgoing
from node.databases.postgresql.connecting import Connection, Statement, Transaction, literal
from node.databases.postgresql.keys import key_columns, key_text, typed_keys
from node.databases.postgresql.lexical import is_builtin, plain
from node.databases.postgresql.reading import matches
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import CHANGE, ITEMS, TypeIds
from schemas.errors import ConfigError
from schemas.structure import ItemType, Routing, Structure
from serializers.keys import Item

_SETTINGS = (
    "SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'"
)

WALKED_AT_ONCE = 10
"""Rows of the register that a walk passes in one step, as a multiple of the items that it may find."""

# --- triggers -----------------------------------------------------------------------------------------------------

# The tables that a view is made of, however deep, and which of their columns it uses.
_SOURCES = """
WITH RECURSIVE used(oid, attnum) AS (
  SELECT d.refobjid, d.refobjsubid FROM pg_rewrite w
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
  WHERE w.ev_class = to_regclass($1) AND d.refobjid <> w.ev_class
  UNION
  SELECT d.refobjid, d.refobjsubid FROM used u JOIN pg_rewrite w ON w.ev_class = u.oid
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
  WHERE d.refobjid <> w.ev_class
)
SELECT c.oid::regclass::text, c.relkind::text,
  ARRAY(SELECT DISTINCT a.attname::text FROM used o JOIN pg_attribute a ON a.attrelid = o.oid
        AND (a.attnum = o.attnum OR o.attnum = 0)
        WHERE o.oid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1)
FROM pg_class c WHERE c.oid IN (SELECT oid FROM used) AND c.relkind <> 'v' ORDER BY 1"""

# Functions that a view calls, itself or through others, and that may read anything.
_FUNCTIONS = """
WITH RECURSIVE views(oid) AS (
  SELECT to_regclass($1)::oid
  UNION
  SELECT d.refobjid FROM views v JOIN pg_rewrite w ON w.ev_class = v.oid
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
)
SELECT DISTINCT p.oid::regprocedure::text FROM views v JOIN pg_rewrite w ON w.ev_class = v.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.refobjid
WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND p.provolatile <> 'i' ORDER BY 1"""

_RELATION = """
SELECT c.oid::regclass::text, c.relkind::text,
  ARRAY(SELECT p.relid::regclass::text FROM pg_partition_tree(c.oid) p JOIN pg_class k ON k.oid = p.relid
        WHERE c.relkind = 'p' AND p.relid <> c.oid AND k.relkind IN ('r', 'p') ORDER BY 1),
  ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1)
FROM pg_class c WHERE c.oid = to_regclass($1)"""


@dataclass(frozen=True, slots=True)
class _Relation:
    """`name` is SQL for it."""

    name: str
    kind: str
    partitions: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def bears_triggers(self) -> bool:
        return self.kind in "rp"


@dataclass(frozen=True, slots=True)
class _Source:
    """A table that rights are made of, and the columns on which they hang. `own`: it is a table of the type itself,
    whose travelling columns are captured anyway."""

    relation: _Relation
    columns: tuple[str, ...]
    """Empty: on all of them."""
    own: bool = False


def statements(connection: Connection, structure: Structure, type_ids: Mapping[str, int]) -> Iterator[str]:
    """DDL of the functions and triggers that note changes of rights."""
    for item_type in structure.types.values():
        relation = _relation(connection, quoted_table(item_type.access)) if item_type.access else None
        if relation is None or item_type.table is None:
            continue
        _must_have(relation, item_type)
        number = type_ids[item_type.name]
        if relation.bears_triggers:
            yield from _row_triggers(item_type, number, relation)
        for position, source in enumerate(_sources(connection, item_type, relation)):
            if source.relation.bears_triggers:
                yield from _statement_triggers(number, position, source)


def unseen(connection: Connection, item_type: ItemType) -> str:
    """Why changes of a type's rights may go unnoticed, in words; empty where all of them are seen."""
    relation = _relation(connection, quoted_table(item_type.access or ""))
    if relation is None or relation.bears_triggers or item_type.access_from:
        return ""
    if relation.kind == "f":
        return "is a foreign table: its changes happen elsewhere"
    if relation.kind == "m":
        return "is a materialized view: its refresh is not seen"
    found = connection.execute(_SOURCES, (relation.name,)).fetchall()
    blind = [name for name, kind, _ in found if kind not in "rp"]
    blind += [name for (name,) in connection.execute(_FUNCTIONS, (relation.name,)).fetchall()]
    if blind:
        return f"is made of {', '.join(blind)}, whose changes are not seen"
    return "" if found else "is made of no table that could be found"


def _relation(connection: Connection, name: str) -> _Relation | None:
    row = connection.execute(_RELATION, (name,)).fetchone()
    return _Relation(row[0], row[1], tuple(row[2]), tuple(row[3])) if row else None


def _must_have(relation: _Relation, item_type: ItemType) -> None:
    needed = [column.name for column in key_columns(item_type)] + ["node"]
    missing = [name for name in needed if name not in relation.columns]
    if missing:
        raise ConfigError(
            f"{item_type.name}: access {item_type.access} has no column {', '.join(missing)}",
            hint="it needs the item's key columns, under their names, and `node`",
        )


def _sources(connection: Connection, item_type: ItemType, access: _Relation) -> Iterator[_Source]:
    if item_type.access_from:
        for name in item_type.access_from:
            declared = _relation(connection, quoted_table(name))
            if declared is None:
                raise ConfigError(
                    f"{item_type.name}: access_from: there is no table {name}", hint="which table is meant?"
                )
            yield _Source(declared, ())
        return
    if access.kind != "v":
        return
    travelling = _own_columns(connection, item_type)
    for name, _, columns in connection.execute(_SOURCES, (access.name,)).fetchall():
        relation = _relation(connection, name)
        if relation is not None and name in travelling:
            if others := tuple(c for c in columns if c not in travelling[name]):
                yield _Source(relation, others, own=True)
        elif relation is not None:
            yield _Source(relation, tuple(columns))


def _own_columns(connection: Connection, item_type: ItemType) -> dict[str, frozenset[str]]:
    """The type's own tables, and which of their columns are captured."""
    assert item_type.table is not None
    tables = {item_type.table: [f.column.name for f in item_type.held if f.column]}
    for section in item_type.sections:
        links = [own for own, _ in section.link]
        tables[section.table] = [*links, *(f.column.name for f in section.fields if f.column)]
    found = {}
    for table, columns in tables.items():
        relation = _relation(connection, quoted_table(table))
        if relation is not None:
            found[relation.name] = frozenset(columns)
    return found


def _row_triggers(item_type: ItemType, number: int, relation: _Relation) -> list[str]:
    columns = key_columns(item_type)
    key = key_text(item_type.key, [_cast(f"NEW.{quoted(c.name)}", c.native) for c in columns])
    missing = " OR ".join(f"NEW.{quoted(c.name)} IS NULL" for c in columns) if item_type.is_object else "false"
    body = (
        f"\nBEGIN\n  IF NOT ({missing}) THEN\n    INSERT INTO kod.rights (type, key) VALUES ({number}, {key});"
        "\n  END IF;\n  RETURN NULL;\nEND "
    )
    function = f"kod.rights_{number}"
    changed = " OR ".join(
        f"OLD.{quoted(name)} IS DISTINCT FROM NEW.{quoted(name)}" for name in (*(c.name for c in columns), "node")
    )
    made = [_function(function, body)]
    for name, event, condition in (("insert", "INSERT", ""), ("update", "UPDATE", f" WHEN ({changed})")):
        trigger = f"kod_rights_{number}_{name}"
        made.append(
            f"CREATE TRIGGER {trigger} AFTER {event} ON {relation.name} FOR EACH ROW{condition}"
            f" EXECUTE FUNCTION {function}()"
        )
        made.append(f"ALTER TABLE {relation.name} ENABLE ALWAYS TRIGGER {trigger}")
    return made


def _cast(source: str, native: str) -> str:
    """The access table's columns may be of another type than the key's."""
    if not is_builtin(native):
        return source
    return f"CAST({source} AS {native if plain(native) == 'bpchar' else plain(native)})"


def _statement_triggers(number: int, position: int, source: _Source) -> list[str]:
    """They fire once a statement, and note the type only if what the rights hang on is another after it."""
    columns = ", ".join(f"r.{quoted(name)}::text" for name in source.columns) or "CAST(r AS text)"
    function = f"kod.rights_{number}_{position}"
    changed = f"EXISTS (SELECT {columns} FROM kod_before r EXCEPT ALL SELECT {columns} FROM kod_after r)"
    body = (
        "\nBEGIN\n  IF TG_OP = 'INSERT' THEN\n    IF NOT EXISTS (SELECT FROM kod_after) THEN RETURN NULL; END IF;"
        "\n  ELSIF TG_OP = 'DELETE' THEN\n    IF NOT EXISTS (SELECT FROM kod_before) THEN RETURN NULL; END IF;"
        f"\n  ELSIF TG_OP = 'UPDATE' THEN\n    IF NOT {changed} THEN RETURN NULL; END IF;\n  END IF;"
        f"\n  INSERT INTO kod.rights (type) VALUES ({number});\n  RETURN NULL;\nEND "
    )
    before, after = "OLD TABLE AS kod_before", "NEW TABLE AS kod_after"
    events = [("update", "UPDATE", f" REFERENCING {before} {after}")]
    if not source.own:
        events.append(("insert", "INSERT", f" REFERENCING {after}"))
        events.append(("delete", "DELETE", f" REFERENCING {before}"))
        events.append(("truncate", "TRUNCATE", ""))
    made = [_function(function, body)]
    for table in (source.relation.name, *source.relation.partitions):
        for name, event, referencing in events:
            trigger = f"kod_rights_{number}_{position}_{name}"
            made.append(
                f"CREATE TRIGGER {trigger} AFTER {event} ON {table}{referencing} FOR EACH STATEMENT"
                f" EXECUTE FUNCTION {function}()"
            )
            made.append(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
    return made


def _function(name: str, body: str) -> str:
    return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} AS {literal(body)}"


# Rights may have changed while nothing noted it: all that is known already is looked at again.
ALL_AGAIN = """
INSERT INTO kod.rights (type)
SELECT t.id FROM kod.types t JOIN json_array_elements_text($1::json) AS n(name) ON n.name = t.name
WHERE EXISTS (SELECT FROM kod.register r WHERE r.type = t.id)"""

# --- the sender's side --------------------------------------------------------------------------------------------

_NAMED = """
WITH taken AS (
  DELETE FROM kod.rights WHERE ctid = ANY (ARRAY(SELECT ctid FROM kod.rights WHERE key IS NOT NULL LIMIT {limit}))
  RETURNING type, key, follow
)
SELECT type, key, bool_or(follow), (SELECT count(*) FROM taken) FROM taken GROUP BY type, key ORDER BY type, key"""

# What was applied while there was one neighbour, or stamped before there was any, has no mark: a walk by marks does
# not meet it.
_UNMARKED = """
INSERT INTO kod.rights (type, key) SELECT r.type, r.key FROM kod.register r
WHERE r.type = $1::smallint AND r.mark = 0 AND NOT r.gone
  AND EXISTS (SELECT FROM kod.outgoing o WHERE o.node IS DISTINCT FROM r.source)"""

# A type that is marked while it is being walked through: what has been passed has to be passed once more.
_MARKED = """
WITH taken AS (DELETE FROM kod.rights WHERE key IS NULL RETURNING type)
INSERT INTO kod.walks AS w (type, below)
SELECT DISTINCT t.type, n.top_mark + 1 FROM taken t, kod.node n
ON CONFLICT (type) DO UPDATE SET again_from = w.below, down_to = 0"""

_WALK = "SELECT type, below, down_to FROM kod.walks ORDER BY type LIMIT 1"

_WINDOW = """
SELECT {columns} FROM kod.register r
WHERE r.mark > 0 AND r.mark > $1::bigint AND r.mark < $2::bigint ORDER BY r.mark DESC LIMIT {scanned:d}"""

# The server stops where it has found enough of the type, mostly long before the window's end.
_PASSED = f"""
SELECT p.type, p.key, p.mark, p.gone FROM ({_WINDOW.replace("{columns}", "r.type, r.key, r.mark, r.gone")}) p
WHERE p.type = $3::smallint ORDER BY p.mark DESC LIMIT {{limit:d}}"""
_EDGE = f"SELECT count(*), min(p.mark) FROM ({_WINDOW.replace('{columns}', 'r.mark')}) p"

_WALKED = "UPDATE kod.walks SET below = $2::bigint WHERE type = $1::smallint"

_ENDED = """
WITH ended AS (DELETE FROM kod.walks WHERE type = $1::smallint AND again_from IS NULL)
UPDATE kod.walks w SET below = n.top_mark + 1, down_to = w.again_from - 1, again_from = NULL
FROM kod.node n WHERE w.type = $1::smallint AND w.again_from IS NOT NULL"""

_WAITING = "SELECT EXISTS (SELECT FROM kod.rights) OR EXISTS (SELECT FROM kod.walks)"

PEND = f"""
INSERT INTO kod.pending AS p (node, type, key, mark)
SELECT $3, r.type, r.key, r.mark FROM {ITEMS} i JOIN kod.register r ON r.type = i.type AND r.key = i.key ORDER BY i.n
ON CONFLICT (node, type, key) DO UPDATE SET mark = greatest(p.mark, excluded.mark)"""

NOTHING = -2
"""Below every mark."""
LAST = 2**63 - 1
"""Above every stamp."""


def _parameters(first: int) -> dict[str, str]:
    """By name the parameters of _LACKS, in the order of `served`."""
    names = ("node", "after", "session", "joined", "stamp", "type", "below")
    return {name: f"${first + number}" for number, name in enumerate(names)}


# What a node lacks: it was looked at before (else its own turn comes, or history comes to it), and the node is not
# known to hold it.
_LACKS = """NOT r.gone AND r.mark > -2 AND r.mark <= {after}::bigint AND r.source IS DISTINCT FROM {node}
  AND NOT EXISTS (SELECT FROM kod.presence p WHERE p.node = {node} AND p.type = r.type AND p.key = r.key
    AND p.since <= {session}::bigint)
  AND NOT EXISTS (SELECT FROM kod.pending p WHERE p.node = {node} AND p.type = r.type AND p.key = r.key)
  AND NOT (r.mark <= {joined}::bigint
    AND (r.stamp, r.type, r.key) < ({stamp}::bigint, {type}::smallint, {below}))"""

LACKING = f"""
SELECT {CHANGE} FROM {ITEMS} i JOIN kod.register r ON r.type = i.type AND r.key = i.key
WHERE {_LACKS.format(**_parameters(3))} ORDER BY i.n"""


def served(link: Outgoing, ids: TypeIds) -> tuple[str, ...]:
    """A link as _LACKS wants it: node, position, session; the mark up to which history comes, and down to where it
    is. One that was cancelled comes to nothing more."""
    first = link.node, str(link.position), str(link.last_session or 0)
    joined = link.joined
    if joined is None or joined.all_passed or not link.catching_up:
        return *first, str(NOTHING), "0", "0", ""
    if joined.passed is None:
        return *first, str(joined.mark), str(LAST), "0", ""
    return *first, str(joined.mark), str(joined.passed.stamp), str(ids.id(joined.passed.type)), joined.passed.key


def look_again(transaction: Transaction, ids: TypeIds, items_max: int) -> Again:
    rows = transaction.rows(Statement(_NAMED.format(limit=items_max)))
    if rows:
        items = [ids.item(number, key) for number, key, _, _ in rows]
        owners = [item for item, row in zip(items, rows, strict=True) if row[2]]
        return Again(items, owners, more=True)
    transaction.queue(Statement(_MARKED))
    walks = transaction.rows(Statement(_WALK))
    if not walks:
        return Again((), (), more=False)
    number, below, down_to = walks[0]
    scanned = items_max * WALKED_AT_ONCE
    window = (str(down_to), str(below))
    found = transaction.rows(Statement(_PASSED.format(scanned=scanned, limit=items_max + 1), (*window, str(number))))
    taken = found[:items_max]
    edge = None
    if len(found) > len(taken):
        edge = taken[-1][2]
    else:
        count, lowest = transaction.one(Statement(_EDGE.format(scanned=scanned), window))
        edge = lowest if count == scanned else None
    if edge is not None:
        transaction.queue(Statement(_WALKED, (str(number), str(edge))))
    else:
        transaction.queue(Statement(_ENDED, (str(number),)), Statement(_UNMARKED, (str(number),)))
    (more,) = transaction.one(Statement(_WAITING))
    return Again([ids.item(number, key) for _, key, _, gone in taken if not gone], (), more)


def dependent_types(
    structure: Structure, owners: Mapping[str, Sequence[Item]]
) -> Iterator[tuple[ItemType, Sequence[Item]]]:
    """The types that depend on those of `owners`, with these owners."""
    for item_type in structure.types.values():
        reference = item_type.owner_reference
        if item_type.routing is not Routing.DEPENDENT or item_type.table is None or reference is None:
            continue
        if reference.target in owners and structure[reference.target].table is not None:
            yield item_type, owners[reference.target]


def owned(structure: Structure, item_type: ItemType) -> str:
    """SELECT key: of the items of a type whose owners are $1 (keys)."""
    reference = item_type.owner_reference
    assert reference is not None
    assert item_type.table is not None
    owner = structure[reference.target]
    by_key = {column.name: f"k.k{position}" for position, column in enumerate(key_columns(owner))}
    source = f"{typed_keys(owner, '$1')} k"
    if set(reference.target_columns) != set(by_key):
        source += f" JOIN {quoted_table(owner.table or '')} o ON {matches(owner, 'o', 'k', ())}"
        by_key = {name: f"o.{quoted(name)}" for name in reference.target_columns}
    join = " AND ".join(
        f"t.{quoted(here)} = {by_key[there]}"
        for here, there in zip(reference.columns, reference.target_columns, strict=True)
    )
    key = key_text(item_type.key, [f"t.{quoted(column.name)}" for column in key_columns(item_type)])
    return f"SELECT DISTINCT {key} AS key FROM {source} JOIN {quoted_table(item_type.table)} t ON {join}"


def dependants(structure: Structure, item_type: ItemType, number: int, items_max: int) -> str:
    """Keys and register rows of items of a type whose owners are $1 (keys) and that $2 lacks, served up to $3 in
    sessions up to $4."""
    return (
        f"SELECT d.key, {CHANGE} FROM ({owned(structure, item_type)}) d LEFT JOIN LATERAL"
        f" (SELECT * FROM kod.register r WHERE r.type = {number} AND r.key = d.key LIMIT 1) r ON true"
        f" WHERE r.key IS NULL OR {_LACKS.format(**_parameters(2))} LIMIT {items_max:d}"
    )


def follow_later(structure: Structure, item_type: ItemType, number: int) -> str:
    """Has every item of a type whose owners are $1 (keys) looked at again."""
    return f"INSERT INTO kod.rights (type, key) SELECT {number}, d.key FROM ({owned(structure, item_type)}) d"

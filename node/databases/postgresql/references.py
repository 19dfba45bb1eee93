"""Foreign keys of a message's rows, checked set by set instead of row by row by the server's own triggers.

The row triggers are half of the cost of applying. Where it is as safe, a message's rows are written with
session_replication_role = replica, under which they do not fire, and then each foreign key is checked by one statement,
which takes the locks that they would take (FOR KEY SHARE on the rows referred to), in the same transaction.

It is as safe where nothing else would be silenced or needed:

* the role may set session_replication_role (PostgreSQL 15 on: GRANT SET ON PARAMETER; `kod check` says so);
* tables are ordinary ones, without rules, row security and triggers that fire only where a row was first written; their
  unique constraints are not deferrable (triggers check those, too); their foreign keys are enforced, MATCH SIMPLE and
  lead to primary keys of tables that travel;
* nothing is deleted and no key changes: new objects, and changed ones without sections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from node.databases.postgresql.connecting import Connection, Row, Statement
from node.databases.postgresql.keys import keys_parameter, typed_keys
from node.databases.postgresql.reading import matches
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.writing import Written
from schemas.errors import DanglingError
from schemas.structure import ItemType, Structure

ITEMS_MIN = 100
"""Below, the triggers cost less than the further statements."""

SILENCE = Statement("SET LOCAL session_replication_role = replica")
RESUME = Statement("SET LOCAL session_replication_role = origin")

# From PostgreSQL 15 on the right can be given; before that a superuser has it, and nobody runs a daemon as one.
LACKS_SILENCE = """
SELECT current_setting('server_version_num')::int >= 150000
  AND NOT has_parameter_privilege('session_replication_role', 'SET')"""
_MAY = """
SELECT CASE WHEN current_setting('server_version_num')::int >= 150000
  THEN has_parameter_privilege('session_replication_role', 'SET') ELSE false END"""

# Tables whose only silenced triggers would be those of their foreign keys; $1 their names
_ORDINARY = """
SELECT t.name FROM json_array_elements_text($1::json) AS t(name) JOIN pg_class c ON c.oid = to_regclass(t.name)
WHERE c.relkind = 'r' AND NOT c.relispartition AND NOT c.relhasrules AND NOT c.relrowsecurity AND NOT c.relhassubclass
  AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
                  AND g.tgenabled NOT IN ('A', 'D'))
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid
                  AND (k.contype IN ('p', 'u', 'x') AND k.condeferrable OR k.contype = 't'
                       OR k.contype = 'f' AND (NOT k.convalidated OR k.confmatchtype <> 's')))
  AND NOT EXISTS (SELECT FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
                  WHERE k.confrelid = c.oid AND k.contype = 'f' AND NOT i.indisprimary)"""

_FOREIGN_KEYS = """
SELECT t.name, k.conname, o.name,
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, p)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.p),
  ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, p)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.p)
FROM json_array_elements_text($1::json) AS t(name) JOIN pg_constraint k ON k.conrelid = to_regclass(t.name)
LEFT JOIN json_array_elements_text($1::json) AS o(name) ON k.confrelid = to_regclass(o.name)
WHERE k.contype = 'f'"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    table: str
    name: str
    target: str | None
    """The table that it leads to, quoted; None for one that does not travel."""
    columns: Sequence[str]
    target_columns: Sequence[str]


@dataclass(frozen=True, slots=True)
class Check:
    """Counts references of some rows of a type, by one foreign key, that lead nowhere."""

    key: ForeignKey
    sql: str

    def judge(self, rows: Sequence[Row]) -> None:
        ((broken,),) = rows
        if broken:
            table = self.key.table.rpartition(".")[2].strip('"')
            raise DanglingError(f"{table} (constraint {self.key.name}): a reference to an item that is not there")


class References:
    """Which types' references can be checked set by set here, and how."""

    def __init__(self, structure: Structure, checks: Mapping[str, Sequence[Check]]) -> None:
        self._types = structure.types
        self._checks = checks

    @property
    def types(self) -> Iterable[str]:
        return self._checks

    def checks(self, written: Sequence[Written]) -> list[tuple[Check, Statement]] | None:
        """What has to be asked after these items were written in silence; None where the triggers have to see them."""
        if len(written) < ITEMS_MIN or not all(self._may_be_silent(one) for one in written):
            return None
        keys: dict[str, list[str]] = {}
        for one in written:
            keys.setdefault(one.item.type, []).append(one.item.key)
        return [
            (check, Statement(check.sql, (keys_parameter(self._types[name], its),)))
            for name, its in keys.items()
            for check in self._checks[name]
        ]

    def _may_be_silent(self, one: Written) -> bool:
        if one.value is None or one.item.type not in self._checks:
            return False
        return not (one.existed and self._types[one.item.type].sections)


def find_references(connection: Connection, structure: Structure) -> References:
    may, *_ = connection.execute(_MAY).fetchone() or (False,)
    if not may:
        return References(structure, {})
    types = [t for t in structure.types.values() if t.table is not None and t.is_object]
    names = list(dict.fromkeys(table for item_type in types for table in _tables(item_type)))
    parameter = (orjson.dumps(names).decode(),)
    ordinary = {name for (name,) in connection.execute(_ORDINARY, parameter).fetchall()}
    keys = [ForeignKey(*row) for row in connection.execute(_FOREIGN_KEYS, parameter).fetchall()]
    refused = {key.table for key in keys if key.target not in ordinary}
    checked = [t for t in types if ordinary.issuperset(_tables(t)) and refused.isdisjoint(_tables(t))]
    return References(structure, {t.name: list(_checks(t, keys)) for t in checked})


def _tables(item_type: ItemType) -> list[str]:
    return [quoted_table(t) for t in (item_type.table, *(s.table for s in item_type.sections)) if t]


def _checks(item_type: ItemType, keys: Sequence[ForeignKey]) -> list[Check]:
    tables = _tables(item_type)
    own = [key for key in keys if key.table in tables and not _is_link(item_type, key)]
    return [Check(key, _dangling(item_type, key)) for key in own]


def _is_link(item_type: ItemType, key: ForeignKey) -> bool:
    """A section's foreign key to its object, which is written in the same message."""
    pairs = set(zip(key.columns, key.target_columns, strict=True))
    return any(quoted_table(s.table) == key.table and set(s.link) == pairs for s in item_type.sections)


def _dangling(item_type: ItemType, key: ForeignKey) -> str:
    root = _tables(item_type)[0]
    source = f"(SELECT * FROM {root} t WHERE {matches(item_type, 't', 'k', ())} OFFSET 0) t"
    alias = "t"
    section = next((s for s in item_type.sections if quoted_table(s.table) == key.table), None)
    if section is not None:
        link = " AND ".join(f"s.{quoted(column)} = t.{quoted(own)}" for column, own in section.link)
        source += f" CROSS JOIN LATERAL (SELECT * FROM {key.table} s WHERE {link} OFFSET 0) s"
        alias = "s"
    given = " AND ".join(f"{alias}.{quoted(c)} IS NOT NULL" for c in key.columns)
    selected = ", ".join(f"{alias}.{quoted(c)} AS c{i}" for i, c in enumerate(key.columns))
    same = " AND ".join(f"o.{quoted(c)} = d.c{i}" for i, c in enumerate(key.target_columns))
    return (
        f"WITH d AS MATERIALIZED (SELECT DISTINCT {selected} FROM {typed_keys(item_type, '$1')} k"
        f" CROSS JOIN LATERAL {source} WHERE {given})"
        f" SELECT count(*) FROM d WHERE NOT EXISTS (SELECT FROM ONLY {key.target} o WHERE {same} FOR KEY SHARE OF o)"
    )

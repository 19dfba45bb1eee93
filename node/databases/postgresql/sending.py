"""The sender's transaction: a fold, and then everything in one snapshot (dispatcher.ports.SendingView)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from dispatcher.ports import (
    Again,
    Change,
    Content,
    Dependants,
    Folded,
    History,
    HistoryPhase,
    HistoryPortion,
    Joined,
    Outgoing,
    Place,
    Tie,
)
from node.databases.dangling import leads_nowhere
from node.databases.postgresql import naming, rights
from node.databases.postgresql.connecting import Row, Statement, Transaction
from node.databases.postgresql.hooked import hook_tables
from node.databases.postgresql.keys import key_columns, key_text, keys_parameter, typed_keys
from node.databases.postgresql.reading import Reader, matches, referring_values
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import CHANGE, ITEMS, TOP_MARKS, TypeIds, folding
from node.databases.stamped import WAITS, waits
from node.databases.turns import turn_sql
from node.databases.ways import WayTables
from schemas.stamp import Stamp
from schemas.structure import ItemType, Names, Reference, Structure
from schemas.tables import Table
from serializers.keys import Item

_PENDING = f"""
SELECT {CHANGE} FROM kod.pending p JOIN kod.register r ON r.type = p.type AND r.key = p.key
WHERE p.node = $1 ORDER BY {{turn}}, p.n LIMIT $2::bigint"""

_AHEAD = f"""
SELECT i.n FROM {ITEMS} i JOIN json_array_elements_text($3::json) WITH ORDINALITY m(mark, n) ON m.n = i.n
WHERE EXISTS (SELECT FROM kod.ahead a
              WHERE a.node = $4 AND a.type = i.type AND a.key = i.key AND a.mark = CAST(m.mark AS bigint))"""

_HOLDERS = f"""
SELECT i.n, p.node FROM {ITEMS} i CROSS JOIN LATERAL
  (SELECT node FROM kod.presence p WHERE p.type = i.type AND p.key = i.key OFFSET 0) p"""

# Each holder with the session in which it gets the item: one that was never recorded proves nothing (the item may not
# have left), and the holder stays one all the same.
_RECORDED = "coalesce((SELECT last_session FROM kod.outgoing WHERE node = {node}), 0)"
_DOUBT = f"UPDATE kod.presence SET since = NULL WHERE node = $1 AND since > {_RECORDED.format(node='$1')}"
_HOLD = f"""
INSERT INTO kod.presence AS p (type, key, node, since, drawn_by)
SELECT i.type, i.key, $3, greatest($5::bigint, n.last_session + 1), d.by
FROM kod.node n, {ITEMS} i JOIN json_array_elements_text($4::json) WITH ORDINALITY AS d(by, n) ON d.n = i.n
ON CONFLICT (type, key, node) DO UPDATE SET since = excluded.since, drawn_by = excluded.drawn_by
WHERE p.since IS NULL OR p.since > {_RECORDED.format(node="$3")}"""

_REGISTER = f"""
SELECT {CHANGE} FROM {ITEMS} i CROSS JOIN LATERAL
  (SELECT * FROM kod.register r WHERE r.type = i.type AND r.key = i.key LIMIT 1) r"""

_OPEN_SESSION = """
UPDATE kod.node SET last_session = greatest($1::bigint, last_session + 1) + $2::bigint - 1 RETURNING last_session"""

_REVIEWED = "UPDATE kod.node SET boundary = $1::bigint WHERE boundary IS NULL OR boundary < $1::bigint"

# Rows that were never stamped get the version (0, this origin) and a mark; those that were stamped and wait for their
# mark get it.
_MARK = f"""
WITH put AS (
  INSERT INTO kod.register (type, key, stamp, origin, mark)
  SELECT i.type, i.key, 0, n.origin, n.top_mark + i.n FROM {ITEMS} i, kod.node n
  ON CONFLICT (type, key) DO UPDATE SET mark = excluded.mark WHERE register.{WAITS}
  RETURNING type, mark
), tops AS (
  UPDATE kod.types t SET top_mark = p.mark FROM (SELECT type, max(mark) AS mark FROM put GROUP BY type) p
  WHERE t.id = p.type
)
UPDATE kod.node SET top_mark = coalesce((SELECT max(mark) FROM put), top_mark)"""

# What somebody else is changing gets its mark by that.
_STAMPED = f"SELECT type, key FROM kod.register WHERE {WAITS} ORDER BY mark LIMIT {{limit:d}} FOR UPDATE SKIP LOCKED"


class PostgresqlSendingView:
    reads_only = False
    """Nothing is to be noted."""

    def __init__(
        self,
        transaction: Transaction,
        structure: Structure,
        tables: Mapping[str, Table],
        ids: TypeIds,
        reader: Reader,
    ) -> None:
        self._transaction = transaction
        self._types = structure.types
        self._structure = structure
        self._tables = tables
        self._ids = ids
        self._reader = reader
        self._top: int | None = None
        self._found: tuple[tuple[int, int], list[Row]] | None = None
        """What was looked up with the fold."""
        self._reviewed: Stamp | None = None
        self._held: dict[str, dict[Item, Item | None]] = {}
        self._tops_known: dict[str, tuple[int, bool]] | None = None
        self.folded_rows = 0
        self.hooked = hook_tables(transaction.execute, ids)
        self.ways = WayTables(self.hooked)

    def fold(self, *, then: tuple[int, int] | None = None) -> Folded:
        asked = [] if then is None else [_portion(*then)]
        folded = folding(self._transaction, self._structure, self._ids, then=asked)
        self._found = (then, folded.asked[0]) if then is not None else None
        self._top = folded.top
        self._note_tops(folded.types)
        self.folded_rows += folded.log_rows
        return Folded(folded.items, folded.missed, folded.again)

    def portion(self, after: int, items_max: int) -> Sequence[Change]:
        found, self._found = self._found, None
        if found is not None and found[0] == (after, items_max):
            return [self._ids.change(row) for row in found[1]]
        return self._changes(_portion(after, items_max))

    def top(self) -> int:
        if self._top is None:
            (self._top,) = self._transaction.one(Statement("SELECT top_mark FROM kod.node"))
        return self._top or 0

    def pending(self, node: str, items_max: int) -> Sequence[Change]:
        sql = _PENDING.format(turn=turn_sql("r", self._ids.numbers, self._structure))
        return self._changes(Statement(sql, (node, str(items_max))))

    def ahead(self, node: str, items: Sequence[Change]) -> frozenset[Item]:
        if not items:
            return frozenset()
        types, keys = self._ids.items([change.item for change in items])
        marks = orjson.dumps([change.mark for change in items]).decode()
        rows = self._transaction.rows(Statement(_AHEAD, (types, keys, marks, node)))
        return frozenset(items[number - 1].item for (number,) in rows)

    def owners(self, items: Sequence[Item]) -> Mapping[Item, Item | None]:
        dependent = [item for item in items if self._types[item.type].owner_reference and self._types[item.type].table]
        found: dict[Item, Item | None] = {}
        for name, its in _by_type(dependent).items():
            item_type = self._types[name]
            reference = item_type.owner_reference
            assert reference is not None
            rows = self._transaction.rows(self._owner(item_type, reference, its))
            found.update({its[number - 1]: Item(reference.target, key) if key else None for number, key in rows})
        return found

    def _owner(self, item_type: ItemType, reference: Reference, items: Sequence[Item]) -> Statement:
        target = self._types[reference.target]
        columns = [f"t.{quoted(column)}" for column in reference.columns]
        join = " AND ".join(
            f"o.{quoted(there)} = {here}" for here, there in zip(columns, reference.target_columns, strict=True)
        )
        key = key_text(target.key, [f"o.{quoted(column.name)}" for column in key_columns(target)])
        sql = (
            f"SELECT k.n::int, (SELECT {key} FROM {_table(target)} o WHERE {join} LIMIT 1)"
            f" FROM {typed_keys(item_type, '$1')} k CROSS JOIN LATERAL"
            f" (SELECT * FROM {_table(item_type)} t WHERE {matches(item_type, 't', 'k', ())} LIMIT 1) t"
        )
        return Statement(sql, (keys_parameter(item_type, [item.key for item in items]),))

    def access(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        found: dict[Item, set[str]] = {}
        limited = [item for item in items if self._types[item.type].access and self._types[item.type].table]
        for name, its in _by_type(limited).items():
            item_type = self._types[name]
            same = matches(item_type, "a", "k", ())
            sql = (
                f"SELECT k.n::int, a.node::text FROM {typed_keys(item_type, '$1')} k"
                f" JOIN {quoted_table(item_type.access or '')} a ON {same} WHERE a.node IS NOT NULL"
            )
            for item in its:
                found[item] = set()
            parameter = keys_parameter(item_type, [item.key for item in its])
            for number, node in self._transaction.rows(Statement(sql, (parameter,))):
                found[its[number - 1]].add(node.strip())
        return {item: frozenset(nodes) for item, nodes in found.items()}

    def holders(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        found: dict[Item, set[str]] = {item: set() for item in items}
        for number, node in self._transaction.rows(Statement(_HOLDERS, self._ids.items(items))) if items else ():
            found[items[number - 1]].add(node)
        return {item: frozenset(nodes) for item, nodes in found.items()}

    def hold(self, holders: Mapping[str, Mapping[Item, Item | None]]) -> None:
        for node, items in holders.items():
            self._held.setdefault(node, {}).update(items)

    def finish(self, now: Stamp | None = None) -> list[Statement]:
        """What is left to be noted: the holders, with the session that is going to be opened, and the boundary."""
        noted = []
        for node, items in self._held.items():
            noted.append(Statement(_DOUBT, (node,)))
            if items:
                drawn = orjson.dumps([None if by is None else f"{by.type} {by.key}" for by in items.values()]).decode()
                opened = None if now is None else str(now)
                hold = Statement(_HOLD, (*self._ids.items(list(items)), node, drawn, opened))
                noted.append(hold)
        if self._reviewed is not None:
            noted.append(Statement(_REVIEWED, (str(self._reviewed),)))
        self._held, self._reviewed = {}, None
        return noted

    def register(self, items: Sequence[Item]) -> Mapping[Item, Change]:
        if not items:
            return {}
        return {change.item: change for change in self._changes(Statement(_REGISTER, self._ids.items(items)))}

    def dangling(self, items: Sequence[Item]) -> Mapping[Item, str]:
        asked = []
        for name, its in _by_type(items).items():
            item_type = self._types[name]
            keys = keys_parameter(item_type, [item.key for item in its])
            for reference in item_type.unchecked if item_type.table is not None else ():
                target = self._types.get(reference.target)
                if target is None or target.table is None:
                    continue
                root, row = _rows_of(item_type, reference)
                values = referring_values(item_type, reference, row, target)
                nowhere = leads_nowhere(reference, target.table, values, quoted, quoted_table)
                sql = f"SELECT k.n::int FROM {typed_keys(item_type, '$1')} k CROSS JOIN LATERAL {root} WHERE {nowhere}"
                asked.append((its, reference, Statement(sql, (keys,))))
        results = self._transaction.run(*(statement for _, _, statement in asked)) if asked else []
        return {
            its[number - 1]: str(reference)
            for (its, reference, _), rows in zip(asked, results, strict=True)
            for (number,) in rows
        }

    def names(self, names: Names) -> Mapping[Any, str]:
        return naming.names(self._transaction, names, self._ids, reads_only=self.reads_only)

    def contents(self, items: Sequence[Item]) -> Iterator[Content]:
        for item, text in self._reader.contents(self._transaction, items):
            yield Content(item, text)

    def open_session(self, now: Stamp, sessions: int = 1) -> Stamp:
        ((last,),) = self._transaction.commit_with(
            *self.finish(now), Statement(_OPEN_SESSION, (str(now), str(sessions)))
        )
        return Stamp(last - sessions + 1)

    def reviewed(self, boundary: Stamp) -> None:
        self._reviewed = boundary

    def _changes(self, statement: Statement) -> list[Change]:
        return [self._ids.change(row) for row in self._transaction.rows(statement)]

    # --- what is looked at again --------------------------------------------------------------------------------------

    def look_again(self, items_max: int) -> Again:
        again = rights.look_again(self._transaction, self._ids, items_max)
        self.folded_rows += len(again.items)
        return again

    def follow_later(self, owners: Sequence[Item]) -> None:
        for item_type, its in rights.dependent_types(self._structure, _by_type(owners)):
            sql = rights.follow_later(self._structure, item_type, self._ids.id(item_type.name))
            keys = keys_parameter(self._types[its[0].type], [item.key for item in its])
            self._transaction.queue(Statement(sql, (keys,)))

    def known(self, items: Sequence[Item]) -> Sequence[Change]:
        known = dict(self.register(items))
        strange = [item for item in items if item not in known]
        there = [content.item for content in self.contents(strange) if not _is_empty(content)]
        known.update(self._mark(there))
        return [known[item] for item in items if item in known]

    def lacking(self, link: Outgoing, items: Sequence[Item]) -> Sequence[Change]:
        if not items:
            return []
        return self._changes(Statement(rights.LACKING, (*self._ids.items(items), *rights.served(link, self._ids))))

    def dependants(self, link: Outgoing, owners: Sequence[Item], *, items_max: int) -> Dependants:
        found: list[Change] = []
        strange: list[Item] = []
        more = False
        for item_type, its in rights.dependent_types(self._structure, _by_type(owners)):
            sql = rights.dependants(self._structure, item_type, self._ids.id(item_type.name), items_max)
            keys = keys_parameter(self._types[its[0].type], [item.key for item in its])
            rows = self._transaction.rows(Statement(sql, (keys, *rights.served(link, self._ids))))
            more |= len(rows) == items_max
            for key, *change in rows:
                if change[0] is None:
                    strange.append(Item(item_type.name, key))
                else:
                    found.append(self._ids.change(change))
        self._mark(strange)
        return Dependants(found, more)

    def pend(self, node: str, changes: Sequence[Change]) -> None:
        if changes:
            self._transaction.queue(Statement(rights.PEND, (*self._ids.items([c.item for c in changes]), node)))

    # --- history --------------------------------------------------------------------------------------------------

    def history(self, cursor: History, link: Outgoing, *, limited: frozenset[str], items_max: int) -> HistoryPortion:
        living = cursor.phase is HistoryPhase.ITEMS
        bound = _Bound()
        node, after = bound.text(link.node), bound.number(link.position)
        since, passed = self._passed(link.joined, bound)
        lacks = (
            f"r.source IS DISTINCT FROM {node} AND r.mark > -2 AND (r.mark < 0 OR r.mark < {since} AND NOT {passed})"
            f" AND NOT EXISTS (SELECT FROM kod.ahead a WHERE a.node = {node} AND a.type = r.type AND a.key = r.key"
            f" AND a.mark = r.mark)"
        )
        if living and limited:
            numbers = ", ".join(str(self._ids.id(name)) for name in limited)
            held = _HELD.format(number="r.type", key="r.key", node=node)
            lacks += f" OR r.type IN ({numbers}) AND r.mark >= 0 AND r.source IS DISTINCT FROM {node} AND NOT {held}"
        if cursor.type is not None:
            lacks = f"r.type = {bound.number(self._ids.id(cursor.type))} AND ({lacks})"
        beyond, direction = ("<", "DESC") if living else (">", "ASC")
        where = f"{'NOT ' if living else ''}r.gone AND r.stamp >= {bound.number(cursor.down_to or 0)}"
        if cursor.place is not None:
            where += f" AND (r.stamp, r.type, r.key) {beyond} {self._place(cursor.place, bound)}"
        order = ", ".join(f"r.{column} {direction}" for column in ("stamp", "type", "key"))
        rows = self._transaction.rows(
            Statement(
                f"SELECT {CHANGE}, r.mark <= {after} AND ({lacks}) FROM kod.register r WHERE {where}"
                f" ORDER BY {order} LIMIT {items_max:d}",
                bound.values,
            )
        )
        lacking = [n for n, row in enumerate(rows) if row[-1]]
        looked_at = len(rows)
        whole = looked_at < items_max
        place = None
        if not whole:
            number, key, stamp = rows[looked_at - 1][:3]
            place = Place(Stamp(stamp), *self._ids.item(number, key))
        return HistoryPortion([self._ids.change(rows[n][:-1]) for n in lacking], place, looked_at)

    def _passed(self, joined: Joined | None, bound: _Bound) -> tuple[str, str]:
        """SQL for the mark from which on marks say what a link has, and for what history has brought to it."""
        if joined is None:
            return "0", "false"
        since = bound.number(joined.mark + 1)
        if joined.all_passed:
            return since, f"(r.mark > -2 AND r.mark < {since} AND NOT r.gone)"
        if joined.passed is None:
            return since, "false"
        place = self._place(joined.passed, bound)
        later = f"(r.stamp, r.type, r.key) >= {place}"
        return since, f"(r.mark > -2 AND r.mark < {since} AND NOT r.gone AND {later})"

    def _place(self, place: Place, bound: _Bound) -> str:
        number = f"CAST({bound.number(self._ids.id(place.type))} AS smallint)"
        return f"({bound.number(place.stamp)}, {number}, {bound.text(place.key)})"

    # --- ties -----------------------------------------------------------------------------------------------------

    def ties(
        self,
        items: Sequence[Item],
        *,
        after: int,
        node: str,
        limited: frozenset[str],
        joined: Joined | None = None,
    ) -> Sequence[Tie]:
        its_by_type = _by_type([item for item in items if self._types[item.type].table])
        asked = [
            (its, reference, statement)
            for name, its in its_by_type.items()
            for reference, statement in self._tie_statements(self._types[name], its, after, node, limited, joined)
        ]
        if not asked:
            return []
        results = self._transaction.run(*(statement for _, _, statement in asked))
        found: dict[tuple[Item, Item], Change | None] = {}
        for (its, reference, _), rows in zip(asked, results, strict=True):
            for number, key, *change in rows:
                target = Item(reference.target, key)
                if target != its[number - 1]:
                    unmarked = change[0] is None or waits(change[5])
                    found[its[number - 1], target] = None if unmarked else self._ids.change(change)
        fresh = self._mark(list({target for (_, target), change in found.items() if change is None}))
        return [Tie(item, change or fresh[target]) for (item, target), change in found.items()]

    def _tie_statements(
        self,
        item_type: ItemType,
        items: Sequence[Item],
        after: int,
        node: str,
        limited: frozenset[str],
        joined: Joined | None,
    ) -> Iterator[tuple[Reference, Statement]]:
        tops = self._tops()
        for reference in item_type.references:
            target = self._types.get(reference.target)
            if target is None or target.table is None or not (reference.required or reference.enforced):
                continue
            top_mark, stamped = tops[reference.target]
            if reference.target not in limited and joined is None and stamped and top_mark <= after:
                continue  # every item of the target's type has been served
            bound = _Bound(keys_parameter(item_type, [item.key for item in items]))
            names = {"number": self._ids.id(target.name), "key": "o.key", "node": bound.text(node)}
            if reference.target in limited:
                known = _HELD.format(**names)
            else:
                since, passed = self._passed(joined, bound)
                known = _SERVED.format(**names, after=bound.number(after), since=since, passed=passed)
            yield reference, Statement(self._tie(item_type, reference, target, known), bound.values)

    def _tops(self) -> dict[str, tuple[int, bool]]:
        if self._tops_known is None:
            self._note_tops(self._transaction.rows(TOP_MARKS))
        return self._tops_known or {}

    def _note_tops(self, rows: Sequence[Row]) -> None:
        self._tops_known = {self._ids.name(number): (top, stamped) for number, top, stamped in rows}

    def _tie(self, item_type: ItemType, reference: Reference, target: ItemType, known: str) -> str:
        """References of one kind, from items to targets that are there and that the node is not known to have."""
        root, source = _rows_of(item_type, reference)
        columns = referring_values(item_type, reference, source, target)
        there = " AND ".join(f"o.{quoted(column)} = d.c{i}" for i, column in enumerate(reference.target_columns))
        key = key_text(target.key, [f"o.{quoted(column.name)}" for column in key_columns(target)])
        number = self._ids.id(target.name)
        return (
            f"SELECT d.n::int, o.key, {CHANGE} FROM"
            f" (SELECT DISTINCT k.n, {', '.join(f'{column} AS c{i}' for i, column in enumerate(columns))}"
            f"  FROM {typed_keys(item_type, '$1')} k CROSS JOIN LATERAL {root}"
            f"  WHERE {' AND '.join(f'{column} IS NOT NULL' for column in columns)}) d"
            f" CROSS JOIN LATERAL (SELECT {key} AS key FROM {_table(target)} o WHERE {there} LIMIT 1) o"
            f" LEFT JOIN LATERAL (SELECT * FROM kod.register r WHERE r.type = {number} AND r.key = o.key LIMIT 1) r"
            f" ON true WHERE NOT coalesce({known}, false)"
        )

    def mark_stamped(self, items_max: int) -> int:
        rows = self._transaction.rows(Statement(_STAMPED.format(limit=items_max)))
        return len(self._mark([self._ids.item(number, key) for number, key in rows]))

    def _mark(self, items: Sequence[Item]) -> Mapping[Item, Change]:
        """The next marks, for rows that have none and are to be sent; as the register has them then."""
        if not items:
            return {}
        self._transaction.run(Statement(_MARK, self._ids.items(items)))
        self._top = None
        self._tops_known = None
        return self.register(items)


# What a node is known to have: served in its turn in this version or an earlier one, by history, received from it, or
# sent before its turn; where a type does not go to everybody: what it is noted as a holder of.
_SERVED = (
    "(r.mark BETWEEN {since} AND {after} OR r.known BETWEEN {since} AND {after} OR {passed} OR r.source = {node}"
    " OR EXISTS (SELECT FROM kod.ahead a WHERE a.node = {node} AND a.type = {number} AND a.key = {key}))"
)
_HELD = (
    "EXISTS (SELECT FROM kod.presence p"
    " WHERE p.node = {node} AND p.type = {number} AND p.key = {key} AND p.since <="
    " coalesce((SELECT last_session FROM kod.outgoing WHERE node = {node}), 0))"
)


class _Bound:
    """Values of a statement that is put together, and what stands for each of them in it."""

    def __init__(self, *values: str) -> None:
        self.values: list[str] = list(values)

    def text(self, value: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def number(self, value: int) -> str:
        return f"{self.text(str(value))}::bigint"


def _portion(after: int, items_max: int) -> Statement:
    # The limit is written out, not bound: a plan made for any limit would not trust the index.
    later = "mark > $1::bigint AND mark > 0"
    return Statement(
        f"SELECT {CHANGE} FROM kod.register r WHERE {later} ORDER BY mark LIMIT {items_max:d}", (str(after),)
    )


def _rows_of(item_type: ItemType, reference: Reference) -> tuple[str, str]:
    """The rows that bear a reference of asked items (`k`), and their alias."""
    root = f"(SELECT * FROM {_table(item_type)} t WHERE {matches(item_type, 't', 'k', ())} OFFSET 0) t"
    if reference.section is None:
        return root, "t"
    section = next(s for s in item_type.sections if s.name == reference.section)
    link = " AND ".join(f"s.{quoted(column)} = t.{quoted(root)}" for column, root in section.link)
    return f"{root} CROSS JOIN LATERAL (SELECT * FROM {quoted_table(section.table)} s WHERE {link} OFFSET 0) s", "s"


def _is_empty(content: Content) -> bool:
    """Nothing is there: no object, or a record set without records."""
    return content.text is None or content.text.endswith(b'"Records":[]}')


def _by_type(items: Sequence[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.type, []).append(item)
    return found


def _table(item_type: ItemType) -> str:
    assert item_type.table is not None
    return quoted_table(item_type.table)

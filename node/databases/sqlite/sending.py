"""dispatcher.ports.SendingView over SQLite: one write transaction, so that everything is one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from node.databases.sqlite import naming, rights
from node.databases.sqlite.folding import fold
from node.databases.sqlite.hooked import hook_tables
from node.databases.sqlite.lexical import Form, key_array_sql, quoted
from node.databases.sqlite.reading import Reading, TypeReading, by_type, referring_values
from node.databases.stamped import WAITS, waits
from node.databases.turns import turn_sql
from node.databases.type_names import TypeNames
from node.databases.ways import WayTables
from schemas.stamp import Stamp
from schemas.structure import Names, Reference, Routing, Structure
from serializers.keys import Item
from serializers.message import Version

_CHANGE = "g.type, g.key, g.stamp, g.origin, g.seen, g.mark, g.source, g.gone"
_ASKED = "temp.kod_asked k JOIN kod_register g ON g.type = k.type AND g.key = k.key"

_AHEAD = "SELECT 1 FROM kod_ahead a WHERE a.node = :node AND a.type = g.type AND a.key = g.key"
_NOT_KNOWN = f"""NOT (g.mark BETWEEN :since AND :after OR coalesce(g.known BETWEEN :since AND :after, 0)
    OR {{passed}} OR coalesce(g.source = :node, 0) OR EXISTS ({_AHEAD}))"""
_NOT_HELD = """NOT EXISTS (SELECT 1 FROM kod_presence p WHERE p.type = g.type AND p.key = g.key AND p.node = :node
    AND p.since <= coalesce((SELECT last_session FROM kod_outgoing WHERE node = :node), 0))"""

_LACKS = f"""coalesce(g.source <> :node, 1) AND g.mark > -2 AND (g.mark < 0 OR g.mark < :since AND NOT {{passed}})
    AND NOT EXISTS ({_AHEAD} AND a.mark = g.mark)"""
"""What does not come in the order of marks, and has not gone yet in the version that is here."""

STAMPED_WAIT = f"EXISTS (SELECT 1 FROM kod_register INDEXED BY kod_register_stamped WHERE {WAITS})"

ITEMS_AT_ONCE = 2_000
"""While a portion is read nobody else can write (SQLite has one writer): 0.1 s for orders of five lines each."""


def change_of(row: Sequence[Any], type_names: Mapping[int, str]) -> Change:
    """A register's row (_CHANGE) as the flow knows it."""
    type_id, key, stamp, origin, seen, mark, source, gone = row
    return Change(
        Item(type_names[type_id], key),
        Version(Stamp(stamp), origin),
        orjson.loads(seen) if seen else None,
        mark,
        source,
        bool(gone),
    )


class SqliteSendingView:
    reads_only = False
    """Nothing is to be noted."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        structure: Structure,
        reading: Reading,
        type_ids: Mapping[str, int],
    ) -> None:
        self._connection = connection
        self._structure = structure
        self._reading = reading
        self._type_ids = type_ids
        self._type_names = TypeNames({type_id: name for name, type_id in type_ids.items()})
        self._opened: Stamp | None = None
        self._held: dict[str, dict[Item, Item | None]] = {}
        self.hooked = hook_tables(connection, type_ids)
        self.ways = WayTables(self.hooked)

    def fold(self, *, then: tuple[int, int] | None = None) -> Folded:
        return fold(self._connection, self._reading, self._type_names)

    def portion(self, after: int, items_max: int) -> Sequence[Change]:
        rows = self._connection.execute(
            f"SELECT {_CHANGE} FROM kod_register g WHERE g.mark > max(?, 0) AND g.mark > 0 ORDER BY g.mark LIMIT ?",
            (after, min(items_max, ITEMS_AT_ONCE)),
        )
        return [change_of(row, self._type_names) for row in rows]

    def top(self) -> int:
        (top,) = self._connection.execute("SELECT top_mark FROM kod_node").fetchone()
        return int(top)

    def pending(self, node: str, items_max: int) -> Sequence[Change]:
        rows = self._connection.execute(
            f"SELECT {_CHANGE} FROM kod_pending p JOIN kod_register g ON g.type = p.type AND g.key = p.key "
            f"WHERE p.node = ? ORDER BY {turn_sql('g', self._type_ids, self._structure)}, p.number LIMIT ?",
            (node, items_max),
        )
        return [change_of(row, self._type_names) for row in rows]

    def ahead(self, node: str, items: Sequence[Change]) -> frozenset[Item]:
        if not self._connection.execute("SELECT 1 FROM kod_ahead WHERE node = ? LIMIT 1", (node,)).fetchone():
            return frozenset()
        marks = {change.item: change.mark for change in items}
        asked = list(marks)
        self._reading.ask(asked)
        rows = self._connection.execute(
            "SELECT DISTINCT k.n, a.mark FROM temp.kod_asked k "
            "JOIN kod_ahead a ON a.node = ? AND a.type = k.type AND a.key = k.key",
            (node,),
        )
        return frozenset(asked[n] for n, mark in rows if marks[asked[n]] == mark)

    # --- references

    def ties(
        self,
        items: Sequence[Item],
        *,
        after: int,
        node: str,
        limited: frozenset[str],
        joined: Joined | None = None,
    ) -> Sequence[Tie]:
        limited_or_joined = limited if joined is None else frozenset(self._type_ids)
        pairs: dict[str, dict[tuple[Item, Item], None]] = {}
        for type_name, of_type in by_type(items).items():
            item_type = self._structure.types.get(type_name)
            if item_type is None or item_type.table is None:
                continue
            controlled = [r for r in item_type.references if r.required or r.enforced]
            references = [r for r in controlled if self._may_be_unknown(r, after, limited_or_joined)]
            if references:
                self._reading.ask(of_type)
            for reference in references:
                target = reference.target
                found_pairs = ((of_type[n], Item(target, key)) for n, key in self._targets(type_name, reference))
                pairs.setdefault(target, {}).update(dict.fromkeys(found_pairs))
        found: list[Tie] = []
        for of_target in pairs.values():
            unknown = self._unknown(sorted({target for _, target in of_target}), after, node, limited, joined)
            found += [Tie(item, unknown[target]) for item, target in of_target if target in unknown and item != target]
        return found

    def _may_be_unknown(self, reference: Reference, after: int, asked_about: frozenset[str]) -> bool:
        target = self._structure.types.get(reference.target)
        if target is None or target.table is None or target.name not in self._type_ids:
            return False
        if target.name in asked_about:
            return True
        top_mark, stamped = self._connection.execute(
            f"SELECT top_mark, stamped AND NOT {STAMPED_WAIT} FROM kod_types WHERE id = ?",
            (self._type_ids[target.name],),
        ).fetchone()
        return not stamped or top_mark > after

    def _targets(self, type_name: str, reference: Reference) -> Iterable[tuple[int, str]]:
        """(n of the asked item, key of the item that it refers to) for targets that are there."""
        source, target = self._reading.types[type_name], self._reading.types[reference.target]
        row = "s" if reference.section else "r"
        tied = " AND ".join(
            f"t.{quoted(theirs)} = {ours}"
            for ours, theirs in zip(referring_values(reference, row), reference.target_columns, strict=True)
        )
        return self._connection.execute(
            f"SELECT k.n, {target.key_of_row('t')} FROM {source.source_of(reference)} JOIN {target.table} t ON {tied}"
        )

    def _unknown(
        self, targets: Sequence[Item], after: int, node: str, limited: frozenset[str], joined: Joined | None
    ) -> dict[Item, Change]:
        """Those of one type that the node is not known to have, as the register has them."""
        if not targets:
            return {}
        self._reading.ask(targets)
        passed, values = self._passed(joined)
        unknown = _NOT_KNOWN.format(passed=passed) + (f" OR {_NOT_HELD}" if targets[0].type in limited else "")
        rows = self._connection.execute(
            f"SELECT DISTINCT k.n, {_CHANGE} FROM temp.kod_asked k "
            f"LEFT JOIN kod_register g ON g.type = k.type AND g.key = k.key WHERE g.key IS NULL OR {unknown}",
            {"after": after, "node": node, **values},
        )
        found: dict[Item, Change] = {}
        unmarked = []
        for n, *change in rows.fetchall():
            if change[0] is None or waits(change[5]):
                unmarked.append(targets[n])
            else:
                found[targets[n]] = change_of(change, self._type_names)
        if unmarked:
            found.update(self._mark(unmarked))
        return found

    def _passed(self, joined: Joined | None) -> tuple[str, dict[str, Any]]:
        """SQL for what history has brought to a link, and the values in it; `since`: from there on marks say it."""
        if joined is None:
            return "false", {"since": 0}
        values: dict[str, Any] = {"since": joined.mark + 1}
        if joined.all_passed:
            return "(g.mark > -2 AND g.mark < :since AND NOT g.gone)", values
        if joined.passed is None:
            return "false", values
        values |= self._place(joined.passed, "p")
        later = "(g.stamp, g.type, g.key) >= (:p_stamp, :p_type, :p_key)"
        return f"(g.mark > -2 AND g.mark < :since AND NOT g.gone AND {later})", values

    def _place(self, place: Place, name: str) -> dict[str, Any]:
        return {f"{name}_stamp": place.stamp, f"{name}_type": self._type_ids[place.type], f"{name}_key": place.key}

    def history(self, cursor: History, link: Outgoing, *, limited: frozenset[str], items_max: int) -> HistoryPortion:
        living = cursor.phase is HistoryPhase.ITEMS
        passed, values = self._passed(link.joined)
        lacks = f"g.mark <= :after AND {_LACKS.format(passed=passed)}"
        if living and limited:
            numbers = ", ".join(str(self._type_ids[name]) for name in limited if name in self._type_ids)
            held = f"g.mark BETWEEN 0 AND :after AND coalesce(g.source <> :node, 1) AND {_NOT_HELD}"
            lacks = f"({lacks}) OR g.type IN ({numbers}) AND {held}"
        values |= {"after": link.position, "node": link.node, "down_to": cursor.down_to or 0}
        values["type"] = self._type_ids[cursor.type] if cursor.type else None
        later, direction = "true", "DESC" if living else "ASC"
        if cursor.place is not None:
            later = f"(g.stamp, g.type, g.key) {'<' if living else '>'} (:at_stamp, :at_type, :at_key)"
            values |= self._place(cursor.place, "at")
        order = ", ".join(f"g.{column} {direction}" for column in ("stamp", "type", "key"))
        rows = self._connection.execute(
            f"SELECT {_CHANGE}, (:type IS NULL OR g.type = :type) AND ({lacks}) FROM kod_register g "
            f"WHERE g.gone = {int(not living)} AND g.stamp >= :down_to AND {later} ORDER BY {order} "
            f"LIMIT {min(items_max, ITEMS_AT_ONCE):d}",
            values,
        ).fetchall()
        lacking = [n for n, row in enumerate(rows) if row[-1]]
        looked_at = len(rows)
        whole = looked_at < min(items_max, ITEMS_AT_ONCE)
        place = None if whole else Place(Stamp(rows[looked_at - 1][2]), *self._item(rows[looked_at - 1]))
        changes = [change_of(rows[n][:-1], self._type_names) for n in lacking]
        return HistoryPortion(changes, place, looked_at)

    def _item(self, row: Sequence[Any]) -> Item:
        return Item(self._type_names[row[0]], row[1])

    def mark_stamped(self, items_max: int) -> int:
        rows = self._connection.execute(
            f"SELECT type, key FROM kod_register INDEXED BY kod_register_stamped WHERE {WAITS} ORDER BY mark LIMIT ?",
            (min(items_max, ITEMS_AT_ONCE),),
        ).fetchall()
        return len(self._mark([self._item(row) for row in rows]))

    def _mark(self, items: Sequence[Item]) -> Mapping[Item, Change]:
        """The next marks, for rows that were there before stamps were: they get the version (0, this origin); and for
        those that were stamped and wait for theirs."""
        if not items:
            return {}
        top, origin = self._connection.execute("SELECT top_mark, origin FROM kod_node").fetchone()
        marked = [(self._type_ids[item.type], item.key, origin, mark) for mark, item in enumerate(items, top + 1)]
        self._connection.executemany(
            "INSERT INTO kod_register (type, key, stamp, origin, mark) VALUES (?, ?, 0, ?, ?) "
            f"ON CONFLICT (type, key) DO UPDATE SET mark = excluded.mark WHERE {WAITS}",
            marked,
        )
        tops = {type_id: mark for type_id, _, _, mark in marked}
        self._connection.executemany(
            "UPDATE kod_types SET top_mark = ? WHERE id = ?", [(mark, type_id) for type_id, mark in tops.items()]
        )
        self._connection.execute("UPDATE kod_node SET top_mark = ?", (top + len(items),))
        return self.register(items)

    # --- routing

    def owners(self, items: Sequence[Item]) -> Mapping[Item, Item | None]:
        found: dict[Item, Item | None] = {}
        for type_name, of_type in by_type(items).items():
            item_type = self._structure.types.get(type_name)
            reference = item_type.owner_reference if item_type and item_type.table else None
            if reference is None:
                continue
            self._reading.ask(of_type)
            owner = self._reading.types.get(reference.target)
            for n, key in self._connection.execute(_owner_sql(self._reading.types[type_name], reference, owner)):
                found[of_type[n]] = Item(reference.target, key) if key is not None else None
        return found

    def access(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        found: dict[Item, frozenset[str]] = {}
        for type_name, of_type in by_type(items).items():
            item_type = self._structure.types.get(type_name)
            if item_type is None or item_type.table is None or item_type.access is None:
                continue
            self._reading.ask(of_type)
            nodes: dict[Item, set[str]] = {item: set() for item in of_type}
            for n, node in self._connection.execute(self._access_sql(self._reading.types[type_name])):
                nodes[of_type[n]].add(str(node))
            found.update({item: frozenset(named) for item, named in nodes.items()})
        return found

    def _access_sql(self, reading: TypeReading) -> str:
        assert reading.item_type.access is not None
        table = quoted(reading.item_type.access)
        names = rights.access_columns(self._connection, reading.item_type)
        keyed = " AND ".join(f"a.{quoted(name)} IS k.a{number}" for number, name in enumerate(names))
        return f"SELECT k.n, a.node FROM temp.kod_asked k CROSS JOIN {table} a ON {keyed} WHERE a.node IS NOT NULL"

    def holders(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        self._reading.ask(items)
        found: dict[Item, set[str]] = {item: set() for item in items}
        for n, node in self._connection.execute(
            "SELECT k.n, p.node FROM temp.kod_asked k JOIN kod_presence p ON p.type = k.type AND p.key = k.key"
        ):
            found[items[n]].add(node)
        return {item: frozenset(nodes) for item, nodes in found.items()}

    def hold(self, holders: Mapping[str, Mapping[Item, Item | None]]) -> None:
        for node, items in holders.items():
            self._held.setdefault(node, {}).update(items)

    def register(self, items: Sequence[Item]) -> Mapping[Item, Change]:
        self._reading.ask(items)
        rows = self._connection.execute(f"SELECT DISTINCT {_CHANGE} FROM {_ASKED}")
        return {change.item: change for change in (change_of(row, self._type_names) for row in rows)}

    def dangling(self, items: Sequence[Item]) -> Mapping[Item, str]:
        found: dict[Item, str] = {}
        for type_name, of_type in by_type(items).items():
            self._reading.ask(of_type)
            for reference in self._structure[type_name].unchecked:
                target = self._structure.types.get(reference.target)
                if target is None or target.table is None:
                    continue
                rows = self._reading.types[type_name].source_of(reference)
                values = referring_values(reference, "s" if reference.section else "r")
                nowhere = leads_nowhere(reference, target.table, values, quoted, quoted)
                for (n,) in self._connection.execute(f"SELECT DISTINCT k.n FROM {rows} WHERE {nowhere}"):
                    found.setdefault(of_type[n], str(reference))
        return found

    def names(self, names: Names) -> Mapping[Any, str]:
        return naming.names(self._connection, names, self._type_ids, reads_only=self.reads_only)

    def contents(self, items: Sequence[Item]) -> Iterator[Content]:
        return self._reading.contents(items)

    # --- what is looked at again

    def look_again(self, items_max: int) -> Again:
        return rights.look_again(self._connection, self._type_names, items_max)

    def follow_later(self, owners: Sequence[Item]) -> None:
        for name, owned in self._owned(owners):
            self._connection.execute(
                f"INSERT INTO kod_rights (type, key) SELECT {self._type_ids[name]}, d.key FROM ({owned}) d"
            )

    def known(self, items: Sequence[Item]) -> Sequence[Change]:
        known = dict(self.register(items))
        strange = [item for item in items if item not in known]
        known.update(self._mark([c.item for c in self.contents(strange) if not rights.is_empty(c)]))
        return [known[item] for item in items if item in known]

    def lacking(self, link: Outgoing, items: Sequence[Item]) -> Sequence[Change]:
        self._reading.ask(items)
        rows = self._connection.execute(
            f"SELECT DISTINCT k.n, {_CHANGE} FROM {_ASKED} WHERE {rights.LACKS} ORDER BY k.n",
            rights.served(link, self._type_ids),
        )
        return [change_of(row[1:], self._type_names) for row in rows.fetchall()]

    def dependants(self, link: Outgoing, owners: Sequence[Item], *, items_max: int) -> Dependants:
        found: list[Change] = []
        strange: list[Item] = []
        more = False
        for name, owned in self._owned(owners):
            rows = self._connection.execute(
                f"SELECT d.key, {_CHANGE} FROM ({owned}) d LEFT JOIN kod_register g "
                f"ON g.type = {self._type_ids[name]} AND g.key = d.key "
                f"WHERE g.key IS NULL OR {rights.LACKS} LIMIT {items_max:d}",
                rights.served(link, self._type_ids),
            ).fetchall()
            more |= len(rows) == items_max
            strange += [Item(name, key) for key, type_id, *_ in rows if type_id is None]
            found += [change_of(row[1:], self._type_names) for row in rows if row[1] is not None]
        self._mark(strange)
        return Dependants(found, more)

    def _owned(self, owners: Sequence[Item]) -> Iterator[tuple[str, str]]:
        """Types that depend on those of `owners`, each with SQL for the keys of what belongs to these owners, who are
        asked for."""
        of_owners = by_type(owners)
        for name, reading in self._reading.types.items():
            item_type = reading.item_type
            reference = item_type.owner_reference if item_type.routing is Routing.DEPENDENT else None
            owner = self._structure.types.get(reference.target) if reference is not None else None
            if reference is None or owner is None or owner.table is None or item_type.table is None:
                continue
            if owner.name in of_owners:
                self._reading.ask(of_owners[owner.name])
                yield name, rights.owned_by(reading, reference, self._reading.types[owner.name])

    def pend(self, node: str, changes: Sequence[Change]) -> None:
        self._connection.executemany(
            "INSERT INTO kod_pending (node, type, key, mark) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (node, type, key) DO UPDATE SET mark = max(mark, excluded.mark)",
            [(node, self._type_ids[c.item.type], c.item.key, c.mark) for c in changes],
        )

    # --- sessions

    def open_session(self, now: Stamp, sessions: int = 1) -> Stamp:
        (last,) = self._connection.execute("SELECT last_session FROM kod_node").fetchone()
        first = Stamp(max(now, (last or 0) + 1))
        self._connection.execute("UPDATE kod_node SET last_session = ?", (first + max(sessions, 1) - 1,))
        if self._opened is None:
            self._opened = first
        return first

    def reviewed(self, boundary: Stamp) -> None:
        self._connection.execute("UPDATE kod_node SET boundary = max(coalesce(boundary, 0), ?)", (boundary,))

    def finish(self) -> None:
        """Writes down the holders, each with the session in which it gets the item: one that is abandoned proves
        nothing (the item may not have left), and the holder stays one all the same."""
        for node, items in self._held.items():
            opened, last = self._connection.execute(
                "SELECT coalesce(opened, 0), coalesce(last_session, 0) FROM kod_outgoing WHERE node = ?", (node,)
            ).fetchone() or (0, 0)
            if opened > last:  # an earlier session was never recorded
                self._connection.execute(
                    "UPDATE kod_presence SET since = NULL WHERE node = ? AND since > ?", (node, last)
                )
            self._connection.executemany(
                "INSERT INTO kod_presence (node, type, key, since, drawn_by) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (type, key, node) DO UPDATE SET since = excluded.since, drawn_by = excluded.drawn_by "
                "WHERE since IS NULL OR since > ?",
                [
                    (node, self._type_ids[i.type], i.key, self._opened, f"{by.type} {by.key}" if by else None, last)
                    for i, by in items.items()
                    if i.type in self._type_ids
                ],
            )
            self._connection.execute("UPDATE kod_outgoing SET opened = ? WHERE node = ?", (self._opened, node))


def _owner_sql(reading: TypeReading, reference: Reference, owner: TypeReading | None) -> str:
    """SELECT n, the owner's key; NULL where the owner's columns are null."""
    rows = f"temp.kod_asked k CROSS JOIN {reading.table} r ON {reading.joined('r')}"
    ours = [f"r.{quoted(c)}" for c in reference.columns]
    if owner is None or owner.item_type.table is None or set(owner.key_columns) == set(reference.target_columns):
        by_target = dict(zip(reference.target_columns, ours, strict=True))
        forms, values = [], []
        if owner is not None and owner.item_type.table is not None:
            forms, values = list(owner.key_forms), [by_target[c] for c in owner.key_columns]
        else:
            forms = [
                Form.of(f) for c in reference.columns for f in reading.item_type.held if f.column and f.column.name == c
            ]
            values = ours
        null = " OR ".join(f"{value} IS NULL" for value in ours)
        return f"SELECT DISTINCT k.n, CASE WHEN {null} THEN NULL ELSE {key_array_sql(forms, values)} END FROM {rows}"
    tied = " AND ".join(
        f"o.{quoted(theirs)} = {value}" for value, theirs in zip(ours, reference.target_columns, strict=True)
    )
    return (
        f"SELECT DISTINCT k.n, CASE WHEN o.{quoted(owner.key_columns[0])} IS NULL THEN NULL "
        f"ELSE {owner.key_of_row('o')} END FROM {rows} LEFT JOIN {owner.table} o ON {tied}"
    )

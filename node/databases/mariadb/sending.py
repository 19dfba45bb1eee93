"""dispatcher.ports.SendingView over MariaDB: one transaction, one snapshot (REPEATABLE READ)."""

from __future__ import annotations

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
from node.databases.mariadb import naming, rights
from node.databases.mariadb.connection import Connection, Row
from node.databases.mariadb.folding import fold
from node.databases.mariadb.hooked import hook_tables
from node.databases.mariadb.lexical import Form, key_array_sql, literal, quoted
from node.databases.mariadb.reading import REGISTERED, Reading, TypeReading, by_type, referring_values
from node.databases.mariadb.reflection import quoted_table
from node.databases.stamped import WAITS, waits
from node.databases.turns import turn_sql
from node.databases.type_names import TypeNames
from node.databases.ways import WayTables
from schemas.stamp import Stamp
from schemas.structure import Names, Reference, Routing, Structure
from serializers.keys import Item
from serializers.message import Version

_CHANGE = "g.type, g.item_key, g.stamp, g.origin, g.seen, g.mark, g.source, g.gone"

_AHEAD = "SELECT 1 FROM kod_ahead a WHERE a.node = {node} AND a.type = g.type AND a.item_key = g.item_key"
_NOT_KNOWN = f"""NOT (g.mark BETWEEN {{since}} AND {{after}} OR COALESCE(g.known BETWEEN {{since}} AND {{after}}, 0)
    OR {{passed}} OR COALESCE(g.source = {{node}}, 0) OR EXISTS ({_AHEAD}))"""
_NOT_HELD = """NOT EXISTS (SELECT 1 FROM kod_presence p WHERE p.type = g.type AND p.item_key = g.item_key
    AND p.node = {node} AND p.since <= COALESCE((SELECT last_session FROM kod_outgoing WHERE node = {node}), 0))"""

_LACKS = f"""COALESCE(g.source <> {{node}}, 1) AND g.mark > -2 AND (g.mark < 0 OR g.mark < {{since}} AND NOT {{passed}})
    AND NOT EXISTS ({_AHEAD} AND a.mark = g.mark)"""
"""What does not come in the order of marks, and has not gone yet in the version that is here."""

STAMPED_WAIT = f"EXISTS (SELECT 1 FROM kod_register FORCE INDEX (by_mark) WHERE {WAITS})"

_PLACE = "(g.stamp, g.type, g.item_key)"

ITEMS_AT_ONCE = 5_000
"""While a portion is read nothing can be applied."""


def change_of(row: Sequence[Any], type_names: Mapping[int, str]) -> Change:
    """A register's row (_CHANGE) as the flow knows it."""
    type_id, key, stamp, origin, seen, mark, source, gone = row
    return Change(
        Item(type_names[type_id], key.decode()),
        Version(Stamp(stamp), origin),
        orjson.loads(seen) if seen else None,
        mark,
        source,
        bool(gone),
    )


class MariadbSendingView:
    reads_only = False
    """Nothing is to be noted."""

    def __init__(
        self, connection: Connection, structure: Structure, reading: Reading, type_ids: Mapping[str, int]
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
        rows = self._connection.rows(
            f"SELECT {_CHANGE} FROM kod_register g FORCE INDEX (by_mark) WHERE g.mark > %s ORDER BY g.mark LIMIT %s",
            (max(after, 0), min(items_max, ITEMS_AT_ONCE)),
        )
        return self._changes(rows)

    def _changes(self, rows: Iterable[Row]) -> list[Change]:
        return [change_of(row, self._type_names) for row in rows]

    def top(self) -> int:
        (top,) = self._connection.one("SELECT top_mark FROM kod_node")
        return int(top)

    def pending(self, node: str, items_max: int) -> Sequence[Change]:
        rows = self._connection.rows(
            f"SELECT {_CHANGE} FROM kod_pending p JOIN kod_register g ON g.type = p.type AND g.item_key = p.item_key"
            f" WHERE p.node = %s ORDER BY {turn_sql('g', self._type_ids, self._structure)}, p.number LIMIT %s",
            (node, items_max),
        )
        return self._changes(rows)

    def ahead(self, node: str, items: Sequence[Change]) -> frozenset[Item]:
        if not self._connection.rows("SELECT 1 FROM kod_ahead WHERE node = %s LIMIT 1", (node,)):
            return frozenset()
        marks = {change.item: change.mark for change in items}
        asked = list(marks)
        self._reading.ask(asked)
        rows = self._connection.rows(
            "SELECT k.n, a.mark FROM kod_asked k STRAIGHT_JOIN kod_ahead a"
            " ON a.node = %s AND a.type = k.type AND a.item_key = k.item_key",
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
        pairs: dict[str, set[tuple[Item, Item]]] = {}
        for type_name, of_type in by_type(items).items():
            item_type = self._structure.types.get(type_name)
            if item_type is None or item_type.table is None:
                continue
            controlled = [r for r in item_type.references if r.required or r.enforced]
            for reference in controlled:
                if self._may_be_unknown(reference, after, limited_or_joined):
                    reading = self._reading.ask_typed(type_name, of_type)
                    pairs.setdefault(reference.target, set()).update(
                        (of_type[n], Item(reference.target, key)) for n, key in self._targets(reading, reference)
                    )
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
        top_mark, stamped = self._connection.one(
            f"SELECT top_mark, stamped AND NOT {STAMPED_WAIT} FROM kod_types WHERE id = %s",
            (self._type_ids[target.name],),
        )
        return not stamped or top_mark > after

    def _targets(self, source: TypeReading, reference: Reference) -> Iterable[tuple[int, str]]:
        """(n of the asked item, key of the item that it refers to) for targets that are there."""
        target = self._reading.types[reference.target]
        row = "s" if reference.section else "r"
        values = referring_values(reference, row, target)
        tied = " AND ".join(
            f"t.{quoted(theirs)} = {ours}" for ours, theirs in zip(values, reference.target_columns, strict=True)
        )
        rows = self._connection.rows(
            f"SELECT DISTINCT k.n, {target.key_of_row('t')} FROM {source.source_of(reference)}"
            f" STRAIGHT_JOIN {target.table} t ON {tied}"
        )
        return [(n, key) for n, key in rows]

    def _unknown(
        self, targets: Sequence[Item], after: int, node: str, limited: frozenset[str], joined: Joined | None
    ) -> dict[Item, Change]:
        """Those of one type that the node is not known to have, as the register has them."""
        if not targets:
            return {}
        self._reading.ask(targets)
        passed, since = self._passed(joined)
        unknown = _NOT_KNOWN + (f" OR {_NOT_HELD}" if targets[0].type in limited else "")
        unknown = unknown.format(after=int(after), since=since, passed=passed, node=literal(node))
        rows = self._connection.rows(
            f"SELECT k.n, {_CHANGE} FROM kod_asked k LEFT JOIN kod_register g"
            f" ON g.type = k.type AND g.item_key = k.item_key WHERE g.item_key IS NULL OR {unknown}"
        )
        found: dict[Item, Change] = {}
        unmarked = []
        for n, *change in rows:
            if change[0] is None or waits(change[5]):
                unmarked.append(targets[n])
            else:
                found[targets[n]] = change_of(change, self._type_names)
        if unmarked:
            found.update(self._mark(unmarked))
        return found

    def _passed(self, joined: Joined | None) -> tuple[str, int]:
        """SQL for what history has brought to a link, and the mark from which on marks say it."""
        if joined is None:
            return "FALSE", 0
        since = joined.mark + 1
        if joined.all_passed:
            return f"(g.mark > -2 AND g.mark < {since} AND NOT g.gone)", since
        if joined.passed is None:
            return "FALSE", since
        later = f"{_PLACE} >= {self._place(joined.passed)}"
        return f"(g.mark > -2 AND g.mark < {since} AND NOT g.gone AND {later})", since

    def _place(self, place: Place) -> str:
        return f"({place.stamp:d}, {self._type_ids[place.type]:d}, x'{place.key.encode().hex()}')"

    def history(self, cursor: History, link: Outgoing, *, limited: frozenset[str], items_max: int) -> HistoryPortion:
        living = cursor.phase is HistoryPhase.ITEMS
        passed, since = self._passed(link.joined)
        lacks = f"g.mark <= {link.position:d} AND {_LACKS}"
        if living and limited:
            numbers = ", ".join(str(self._type_ids[name]) for name in limited if name in self._type_ids)
            held = f"g.mark BETWEEN 0 AND {link.position:d} AND COALESCE(g.source <> {{node}}, 1) AND {_NOT_HELD}"
            lacks = f"({lacks}) OR g.type IN ({numbers}) AND {held}"
        lacks = lacks.format(since=since, passed=passed, node=literal(link.node))
        of_type = f"g.type = {self._type_ids[cursor.type]:d}" if cursor.type else "TRUE"
        bounds = f"g.gone = {int(not living)} AND g.stamp >= {cursor.down_to or 0:d}"
        if cursor.place is not None:  # the stamp by itself: the server finds the beginning of a range by it
            edge = f"g.stamp {'<=' if living else '>='} {cursor.place.stamp:d}"
            bounds += f" AND {edge} AND {_PLACE} {'<' if living else '>'} {self._place(cursor.place)}"
        order = ", ".join(f"g.{column} {'DESC' if living else 'ASC'}" for column in ("stamp", "type", "item_key"))
        count = min(items_max, ITEMS_AT_ONCE)
        rows = self._connection.rows(
            f"SELECT {_CHANGE}, {of_type} AND ({lacks}) FROM kod_register g FORCE INDEX (by_stamp)"
            f" WHERE {bounds} ORDER BY {order} LIMIT {count:d}"
        )
        place = None
        if len(rows) == count:
            type_id, key, stamp = rows[-1][:3]
            place = Place(Stamp(stamp), self._type_names[type_id], key.decode())
        return HistoryPortion(self._changes(row[:-1] for row in rows if row[-1]), place, len(rows))

    def mark_stamped(self, items_max: int) -> int:
        rows = self._connection.rows(
            f"SELECT type, item_key FROM kod_register FORCE INDEX (by_mark) WHERE {WAITS} ORDER BY mark LIMIT %s",
            (min(items_max, ITEMS_AT_ONCE),),
        )
        return len(self._mark([Item(self._type_names[type_id], key.decode()) for type_id, key in rows]))

    def _mark(self, items: Sequence[Item]) -> Mapping[Item, Change]:
        """The next marks, for rows that were there before stamps were: they get the version (0, this origin); and for
        those that were stamped and wait for theirs."""
        if not items:
            return {}
        top, origin = self._connection.one("SELECT top_mark, origin FROM kod_node")
        marked = [
            (self._type_ids[item.type], item.key.encode(), origin, mark) for mark, item in enumerate(items, top + 1)
        ]
        self._connection.many(
            "INSERT INTO kod_register (type, item_key, stamp, origin, mark) VALUES (%s, %s, 0, %s, %s)"
            f" ON DUPLICATE KEY UPDATE mark = IF({WAITS}, VALUES(mark), mark)",
            marked,
        )
        for type_id, mark in {type_id: mark for type_id, _, _, mark in marked}.items():
            self._connection.run(
                "UPDATE kod_types SET top_mark = GREATEST(top_mark, %s) WHERE id = %s", (mark, type_id)
            )
        self._connection.run("UPDATE kod_node SET top_mark = %s", (top + len(items),))
        return self.register(items)

    # --- routing

    def owners(self, items: Sequence[Item]) -> Mapping[Item, Item | None]:
        found: dict[Item, Item | None] = {}
        for type_name, of_type in by_type(items).items():
            item_type = self._structure.types.get(type_name)
            reference = item_type.owner_reference if item_type and item_type.table else None
            if reference is None:
                continue
            reading = self._reading.ask_typed(type_name, of_type)
            owner = self._reading.types.get(reference.target)
            for n, key in self._connection.rows(_owner_sql(reading, reference, owner)):
                found[of_type[n]] = Item(reference.target, key) if key is not None else None
        return found

    def access(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        found: dict[Item, frozenset[str]] = {}
        for type_name, of_type in by_type(items).items():
            item_type = self._structure.types.get(type_name)
            if item_type is None or item_type.table is None or item_type.access is None:
                continue
            reading = self._reading.ask_typed(type_name, of_type)
            nodes: dict[Item, set[str]] = {item: set() for item in of_type}
            for n, node in self._connection.rows(self._access_sql(reading, item_type.access)):
                nodes[of_type[n]].add(str(node).strip())
            found.update({item: frozenset(named) for item, named in nodes.items()})
        return found

    def _access_sql(self, reading: TypeReading, access: str) -> str:
        names = rights.access_columns(self._connection, reading.item_type)
        keyed = " AND ".join(f"a.{quoted(name)} <=> k.a{number}" for number, name in enumerate(names))
        for number, (name, form) in enumerate(zip(names, reading.key_forms, strict=True)):
            if form.is_text:
                keyed += f" AND CAST(a.{quoted(name)} AS BINARY) <=> CAST(k.a{number} AS BINARY)"
        return (
            f"SELECT k.n, a.node FROM {reading.asked} k STRAIGHT_JOIN {quoted_table(access)} a ON {keyed}"
            " WHERE a.node IS NOT NULL"
        )

    def holders(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        self._reading.ask(items)
        found: dict[Item, set[str]] = {item: set() for item in items}
        for n, node in self._connection.rows(
            "SELECT k.n, p.node FROM kod_asked k STRAIGHT_JOIN kod_presence p"
            " ON p.type = k.type AND p.item_key = k.item_key"
        ):
            found[items[n]].add(node)
        return {item: frozenset(nodes) for item, nodes in found.items()}

    def hold(self, holders: Mapping[str, Mapping[Item, Item | None]]) -> None:
        for node, items in holders.items():
            self._held.setdefault(node, {}).update(items)

    def register(self, items: Sequence[Item]) -> Mapping[Item, Change]:
        self._reading.ask(items)
        changes = self._changes(self._connection.rows(f"SELECT {_CHANGE} FROM {REGISTERED}"))
        return {change.item: change for change in changes}

    def dangling(self, items: Sequence[Item]) -> Mapping[Item, str]:
        found: dict[Item, str] = {}
        for type_name, of_type in by_type(items).items():
            for reference in self._structure[type_name].unchecked if self._reading.has_table(type_name) else ():
                target = self._structure.types.get(reference.target)
                if target is None or target.table is None:
                    continue
                rows = self._reading.ask_typed(type_name, of_type).source_of(reference)
                values = referring_values(
                    reference, "s" if reference.section else "r", self._reading.types[target.name]
                )
                nowhere = leads_nowhere(reference, target.table, values, quoted, quoted_table)
                for (n,) in self._connection.rows(f"SELECT DISTINCT k.n FROM {rows} WHERE {nowhere}"):
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
            found = self._connection.rows(owned)
            self._connection.many(
                "INSERT INTO kod_rights (type, item_key) VALUES (%s, %s)",
                [(self._type_ids[name], key) for (key,) in found],
            )

    def known(self, items: Sequence[Item]) -> Sequence[Change]:
        known = dict(self.register(items))
        strange = [item for item in items if item not in known]
        known.update(self._mark([c.item for c in self.contents(strange) if not rights.is_empty(c)]))
        return [known[item] for item in items if item in known]

    def lacking(self, link: Outgoing, items: Sequence[Item]) -> Sequence[Change]:
        self._reading.ask(items)
        lacks, bound = rights.lacks(link, self._type_ids)
        return self._changes(
            self._connection.rows(f"SELECT {_CHANGE} FROM {REGISTERED} WHERE {lacks} ORDER BY k.n", bound)
        )

    def dependants(self, link: Outgoing, owners: Sequence[Item], *, items_max: int) -> Dependants:
        found: list[Change] = []
        strange: list[Item] = []
        more = False
        lacks, bound = rights.lacks(link, self._type_ids)
        for name, owned in self._owned(owners):
            rows = self._connection.rows(
                f"SELECT d.item_key, {_CHANGE} FROM ({owned}) d LEFT JOIN kod_register g"
                f" ON g.type = {self._type_ids[name]} AND g.item_key = d.item_key"
                f" WHERE g.item_key IS NULL OR ({lacks}) LIMIT {items_max:d}",
                bound,
            )
            more |= len(rows) == items_max
            strange += [Item(name, key.decode()) for key, type_id, *_ in rows if type_id is None]
            found += self._changes(row[1:] for row in rows if row[1] is not None)
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
                asked = self._reading.ask_typed(owner.name, of_owners[owner.name])
                yield name, rights.owned_by(reading, reference, asked)

    def pend(self, node: str, changes: Sequence[Change]) -> None:
        self._connection.many(
            "INSERT INTO kod_pending (node, type, item_key, mark) VALUES (%s, %s, %s, %s)"
            " ON DUPLICATE KEY UPDATE mark = GREATEST(mark, VALUES(mark))",
            [(node, self._type_ids[c.item.type], c.item.key.encode(), c.mark) for c in changes],
        )

    # --- sessions

    def open_session(self, now: Stamp, sessions: int = 1) -> Stamp:
        (last,) = self._connection.one("SELECT last_session FROM kod_node")
        first = Stamp(max(now, (last or 0) + 1))
        self._connection.run("UPDATE kod_node SET last_session = %s", (first + max(sessions, 1) - 1,))
        if self._opened is None:
            self._opened = first
        return first

    def reviewed(self, boundary: Stamp) -> None:
        self._connection.run("UPDATE kod_node SET boundary = GREATEST(COALESCE(boundary, 0), %s)", (boundary,))

    def finish(self) -> None:
        """Writes down the holders, each with the session in which it gets the item: one that is abandoned proves
        nothing (the item may not have left), and the holder stays one all the same."""
        for node, items in self._held.items():
            rows = self._connection.rows(
                "SELECT COALESCE(opened, 0), COALESCE(last_session, 0) FROM kod_outgoing WHERE node = %s", (node,)
            )
            opened, last = rows[0] if rows else (0, 0)
            if opened > last:  # an earlier session was never recorded
                self._connection.run(
                    "UPDATE kod_presence SET since = NULL WHERE node = %s AND since > %s", (node, last)
                )
            self._connection.many(
                "INSERT INTO kod_presence (node, type, item_key, since, drawn_by) VALUES (%s, %s, %s, %s, %s)"
                # one after another: `since` comes last, the other looks at what it was
                f" ON DUPLICATE KEY UPDATE drawn_by = IF(since IS NULL OR since > {int(last)}, VALUES(drawn_by),"
                f" drawn_by), since = IF(since IS NULL OR since > {int(last)}, VALUES(since), since)",
                [
                    (node, self._type_ids[i.type], i.key.encode(), self._opened, f"{by.type} {by.key}" if by else None)
                    for i, by in items.items()
                    if i.type in self._type_ids
                ],
            )
            self._connection.run("UPDATE kod_outgoing SET opened = %s WHERE node = %s", (self._opened, node))


def _owner_sql(reading: TypeReading, reference: Reference, owner: TypeReading | None) -> str:
    """SELECT n, the owner's key; NULL where the owner's columns are null. From the owner's row where there is one: it
    may be written differently ('A') from the reference to it ('a')."""
    ours = [f"r.{quoted(c)}" for c in reference.columns]
    if owner is None or owner.item_type.table is None:
        fields = {f.column.name: f for f in reading.item_type.held if f.column}
        forms = [Form.of(fields[c]) for c in reference.columns]
        null = " OR ".join(f"{value} IS NULL" for value in ours)
        return f"SELECT k.n, CASE WHEN {null} THEN NULL ELSE {key_array_sql(forms, ours)} END FROM {reading.rows}"
    tied = " AND ".join(
        f"o.{quoted(theirs)} = {value}" for value, theirs in zip(ours, reference.target_columns, strict=True)
    )
    return (
        f"SELECT k.n, CASE WHEN o.{quoted(owner.key_columns[0])} IS NULL THEN NULL ELSE {owner.key_of_row('o')} END"
        f" FROM {reading.rows} LEFT JOIN {owner.table} o ON {tied}"
    )

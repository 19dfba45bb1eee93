"""The receiver's transaction: a message, whole or not at all, its position with it (dispatcher.ports.ReceivingView).

Round trips: locks and register (one, two when the log has something of these items), each write (one), and what
records the message, with the commit (one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from dispatcher.ports import Accepted, Collision, Kept, Letter, Local, ParkedItem, Reason, Received, Taken, Waiting
from node.databases.postgresql import naming, parking
from node.databases.postgresql.connecting import Statement, TakenError, Transaction, UnreadableError
from node.databases.postgresql.hooked import hook_tables
from node.databases.postgresql.keys import keys_parameter, typed_keys
from node.databases.postgresql.reading import KEPT, Reader, matches, nulls
from node.databases.postgresql.references import RESUME, SILENCE, References
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import ITEMS, NOW_MS, TypeIds, touching
from node.databases.postgresql.sequences import Sequences
from node.databases.postgresql.writing import Writer, Written
from node.databases.ways import WayTables
from schemas.errors import DanglingError, MessageError, RefusedError
from schemas.structure import Base, ItemType, Names, Structure
from schemas.tables import Table
from serializers import beside
from serializers.keys import Item
from serializers.message import Version

_NOTHING: Mapping[str, Any] = {}

# What says that it is us who write: the triggers look at it. A setting of the session, so that it costs nothing.
SETTINGS = {"kod.applying": "on"}
DEFERRED = Statement("SET CONSTRAINTS ALL DEFERRED")

# The register's rows, locked in the order of the items; nothing but `busy` when the log has something local of them.
_REGISTER = f"""
WITH i AS MATERIALIZED (SELECT * FROM {ITEMS} i),
     b AS MATERIALIZED (SELECT EXISTS (SELECT FROM kod.log g WHERE g.local AND (g.type, g.key) IN
                                       (SELECT i.type, i.key FROM i)) AS busy)
SELECT b.busy, r.n, r.stamp, r.origin, r.seen, r.mark, r.source, r.gone FROM b LEFT JOIN LATERAL (
  SELECT i.n, r.* FROM i CROSS JOIN LATERAL (
    SELECT r.stamp, r.origin, r.seen::text AS seen, r.mark, r.source, r.gone FROM kod.register r
    WHERE r.type = i.type AND r.key = i.key LIMIT 1 FOR UPDATE) r
  WHERE NOT b.busy ORDER BY i.n) r ON true"""

# $1 to $8 a JSON array for each column (a third of the cost of rows of JSON): types, keys, stamps, origins, seen, gone,
# kept, and which are new; where all are null, or false, the last four are empty. $9 the sender, $10 whether there are
# others for whom this is marked.
_ACCEPT = """
WITH x AS MATERIALIZED (
  SELECT CAST(t AS smallint) AS t, k COLLATE "C" AS k, CAST(s AS bigint) AS s, o, CAST(e AS jsonb) AS e,
    coalesce(CAST(g AS boolean), false) AS g, p, coalesce(CAST(n AS boolean), false) AS n
  FROM ROWS FROM (
    json_array_elements_text($1::json), json_array_elements_text($2::json), json_array_elements_text($3::json),
    json_array_elements_text($4::json), json_array_elements_text($5::json), json_array_elements_text($6::json),
    json_array_elements_text($7::json), json_array_elements_text($8::json)) AS x(t, k, s, o, e, g, p, n)
), put AS (
  INSERT INTO kod.register (type, key, stamp, origin, seen, mark, source, gone, kept)
  SELECT t, k, s, o, e, CASE WHEN $10::boolean THEN -1 ELSE 0 END, $9, g, p FROM x WHERE n
), changed AS (
  UPDATE kod.register r SET stamp = s, origin = o, seen = e, source = $9, gone = g,
    mark = CASE WHEN $10::boolean AND r.gone AND NOT g THEN -1 ELSE r.mark END,
    known = CASE WHEN r.gone AND NOT g THEN NULL ELSE r.known END,
    kept = CASE WHEN g THEN NULL ELSE coalesce(p, r.kept) END
  FROM x WHERE NOT n AND r.type = t AND r.key = k
), marked AS (
  INSERT INTO kod.log (type, key, at, gone, local) SELECT t, k, s, false, false FROM x WHERE $10::boolean
)
SELECT"""

# A row that was never stamped gets its version, (0, this origin).
_KEEP = """
INSERT INTO kod.register (type, key, stamp, origin, seen, mark)
SELECT t, k, 0, n.origin, e, -1 FROM json_to_recordset($1::json) AS x(t smallint, k text, e jsonb), kod.node n
ON CONFLICT (type, key) DO UPDATE SET seen = excluded.seen"""

_HELD = f"""
INSERT INTO kod.presence AS p (type, key, node, since) SELECT DISTINCT i.type, i.key, $3, 0 FROM {ITEMS} i
ON CONFLICT (type, key, node) DO UPDATE SET since = 0 WHERE p.since IS NULL OR p.since > 0"""

# The sender has what it sends: it was to get an older version.
_NOT_PENDING = f"""
DELETE FROM kod.pending p USING {ITEMS} i WHERE p.node = $3 AND p.type = i.type AND p.key = i.key"""

# What belongs to an owner that was here already has to follow it to the sender.
_FOLLOW = f"""
INSERT INTO kod.rights (type, key, follow) SELECT i.type, i.key, true FROM {ITEMS} i
WHERE EXISTS (SELECT FROM kod.register r WHERE r.type = i.type AND r.key = i.key AND NOT r.gone)
  AND NOT EXISTS (SELECT FROM kod.presence p WHERE p.type = i.type AND p.key = i.key AND p.node = $3)"""

# Items that have no register entry were never stamped: the version is (0, this origin), and they get a mark.
_ANSWER = f"""
WITH i AS MATERIALIZED (SELECT * FROM {ITEMS} i),
put AS (
  INSERT INTO kod.register (type, key, stamp, origin, mark)
  SELECT i.type, i.key, 0, n.origin, -1 FROM i CROSS JOIN kod.node n
  WHERE NOT EXISTS (SELECT FROM kod.register r WHERE r.type = i.type AND r.key = i.key)
  RETURNING type, key
), marked AS (
  INSERT INTO kod.log (type, key, at, gone, local) SELECT type, key, 0, false, false FROM put
)
INSERT INTO kod.pending (node, type, key, mark)
SELECT $3, i.type, i.key, r.mark FROM i JOIN kod.register r ON r.type = i.type AND r.key = i.key
WHERE r.mark >= 0 AND (r.source IS NOT DISTINCT FROM $3
  -- its turn may be over, and not recorded yet: of what does not go everywhere it went by without the node
  OR r.type = ANY ($4::smallint[])
  OR NOT EXISTS (SELECT FROM kod.outgoing o WHERE o.node = $3 AND r.mark > o.position))
ON CONFLICT (node, type, key) DO UPDATE SET mark = excluded.mark"""

_DOUBT = f"""
UPDATE kod.register r SET source = NULL FROM {ITEMS} i WHERE r.type = i.type AND r.key = i.key AND r.source = $3"""

_JOURNAL = f"""
INSERT INTO kod.collisions (type, key, winner_stamp, winner_origin, winner_text, loser_stamp, loser_origin, loser_text,
                            policy, sender, at)
SELECT t, k, ws, wo, wt, ls, lo, lt, p, s, {NOW_MS}
FROM json_to_recordset($1::json) AS x(t smallint, k text, ws bigint, wo text, wt text, ls bigint, lo text, lt text,
                                      p text, s text)"""

# $1 node, $2 incarnation, $3 session, $4 number, $5 completes, $6 position, $7 items, $8 rejected, $9 bytes, $10 ms
_RECEIVED = """
WITH done AS (
  INSERT INTO kod.received (node, session, number) SELECT $1, $3::bigint, $4::integer WHERE NOT $5::boolean
  ON CONFLICT DO NOTHING
), forgotten AS (
  DELETE FROM kod.received WHERE node = $1 AND session <= $3::bigint AND $5::boolean
)
INSERT INTO kod.incoming AS c (node, incarnation, session, completed, position, messages, items, rejected, size_bytes,
                               end_to_end_ms)
VALUES ($1, $2::bigint, $3::bigint,
        CASE WHEN $5::boolean THEN $3::bigint END, $6::bigint, $11::bigint, $7::bigint, $8::bigint, $9::bigint,
        $10::bigint)
ON CONFLICT (node) DO UPDATE SET incarnation = excluded.incarnation, session = excluded.session,
  completed = coalesce(excluded.completed, c.completed), position = coalesce(excluded.position, c.position),
  messages = c.messages + excluded.messages, items = c.items + excluded.items,
  rejected = c.rejected + excluded.rejected, size_bytes = c.size_bytes + excluded.size_bytes,
  end_to_end_ms = coalesce(excluded.end_to_end_ms, c.end_to_end_ms)"""


class PostgresqlReceivingView:
    def __init__(
        self,
        transaction: Transaction,
        structure: Structure,
        tables: Mapping[str, Table],
        ids: TypeIds,
        reader: Reader,
        writer: Writer,
        sequences: Sequences,
        references: References,
        *,
        sender: str,
        forward: bool,
        limited: frozenset[str],
        fold: Callable[[], None],
        with_kept: set[str],
    ) -> None:
        self._transaction = transaction
        self._structure = structure
        self._types = structure.types
        self._tables = tables
        self._ids = ids
        self._reader = reader
        self._writer = writer
        self._sequences = sequences
        self._references = references
        self._sender = sender
        self._forward = forward
        self._limited = limited
        self._fold = fold
        self._with_kept = with_kept
        self._registered: set[Item] = set()
        self._written: Sequence[Written] = ()
        self.marked = False
        self.hooked = hook_tables(transaction.execute, ids, applying=True)
        self.ways = WayTables(self.hooked)

    def lock(self, items: Sequence[Item], *, beside: Sequence[Item] = ()) -> Mapping[Item, Local]:
        if not items:
            return {}
        self._check_types(items)
        locks = list(self._locks(items, beside))
        register = Statement(_REGISTER, self._ids.items(items))
        *found, versions = self._transaction.run(*(statement for _, statement in locks), register)
        if versions[0][0]:  # the application has changed some of them: versions first, decisions then
            self._fold()
            versions = self._transaction.rows(register)
            if versions[0][0]:
                versions = self._folded_again(register)
        there: set[Item] = set()
        for (its, _), rows in zip(locks, found, strict=True):
            there.update(its[number - 1] for (number,) in rows if its)
        locals_: dict[Item, Local] = {}
        for _, number, stamp, origin, seen, mark, source, gone in versions:
            if number is not None:
                item = items[number - 1]
                exists = item in there or (not gone and self._types[item.type].table is None)
                locals_[item] = Local(Version(stamp, origin), orjson.loads(seen) if seen else {}, exists, mark, source)
        self._registered.update(locals_)
        if strange := there.difference(locals_):
            locals_.update({item: Local(None, {}, True) for item in items if item in strange})
        return locals_

    def _check_types(self, items: Sequence[Item]) -> None:
        unknown = sorted({item.type for item in items if item.type not in self._types})
        if unknown:
            raise MessageError(
                f"type {', '.join(unknown)} is not known here", hint="add it to the package and run `kod install`"
            )
        held = [item for item in items if item.type in self._limited]
        if owners := [item for item in held if item.type in self._structure.owning]:
            self._transaction.queue(Statement(_FOLLOW, (*self._ids.items(owners), self._sender)))
        if held:
            self._transaction.queue(Statement(_HELD, (*self._ids.items(held), self._sender)))

    def _folded_again(self, register: Statement) -> list[tuple[Any, ...]]:
        """Record sets and new rows cannot be locked: an application may go on changing them while we fold."""
        while True:
            self._fold()
            versions = self._transaction.rows(register)
            if not versions[0][0]:
                return versions

    def _locks(self, items: Sequence[Item], beside: Sequence[Item]) -> Iterable[tuple[list[Item], Statement]]:
        """Statements that lock rows, in one order for every message: types by rank, keys as given. Those of roots and
        records say which items are there."""
        groups: dict[tuple[str, tuple[int, ...]], list[Item]] = {}
        for item in sorted([*items, *beside]) if beside else items:
            item_type = self._types[item.type]
            if item_type.table is not None:
                groups.setdefault((item.type, nulls(item_type, item.key)), []).append(item)
        referred = frozenset(beside)
        for (name, pattern), its in sorted(groups.items(), key=lambda group: (self._types[group[0][0]].rank, group[0])):
            item_type = self._types[name]
            for base in item_type.bases:
                yield [], Statement(_lock_base(item_type, base), (keys_parameter(item_type, [i.key for i in its]),))
            yield its, Statement(_lock_rows(item_type, pattern), (keys_parameter(item_type, [i.key for i in its]),))
            own = [item.key for item in its if item not in referred]
            for number in range(len(item_type.sections) if own else 0):
                yield [], Statement(_lock_section(item_type, number), (keys_parameter(item_type, own),))

    def names(self, names: Names) -> Mapping[Any, str]:
        return naming.names(self._transaction, names, self._ids)

    def contents(self, items: Sequence[Item]) -> Mapping[Item, bytes | None]:
        return dict(self._reader.contents(self._transaction, items))

    def write(self, accepted: Sequence[Accepted]) -> None:
        if not accepted:
            return
        written = [Written(one.item, one.value, one.existed) for one in accepted if one.write]
        old = self._kept_before([one.item for one in accepted if one.item.type in self._with_kept])
        accept = Statement(_ACCEPT, (*self._columns(accepted, old), self._sender, str(self._forward).lower()))
        if limited := [one.item for one in accepted if one.item.type in self._limited]:
            self._transaction.queue(Statement(_NOT_PENDING, (*self._ids.items(limited), self._sender)))
        self._refuse_cascades(written)
        self._run_writing(written, accept)
        self._registered.update(one.item for one in accepted)
        self.marked = self._forward

    def _run_writing(self, written: Sequence[Written], accept: Statement) -> None:
        statements = [*self._writer.statements(written), *self._sequences.statements(written), accept]
        self._written = written
        if not self._writer.has_uniques(written):
            self._write_at_once(written, statements)
            return
        try:
            self._transaction.run(Statement("SAVEPOINT kod_writing"), *statements)
        except TakenError:
            back = Statement("ROLLBACK TO SAVEPOINT kod_writing")
            self._transaction.run(back, *self._writer.releasing(written), *statements)

    def _write_at_once(self, written: Sequence[Written], statements: Sequence[Statement]) -> None:
        checks = self._references.checks(written)
        if checks is None:
            self._transaction.queue(*statements)  # in one round trip with the commit
            return
        asked = [statement for _, statement in checks]
        results = self._transaction.run(SILENCE, *statements, RESUME, *asked)
        for (check, _), rows in zip(checks, results[len(results) - len(checks) :], strict=True):
            check.judge(rows)

    def named(self, error: UnreadableError) -> MessageError:
        """The error with the name of the property whose value could not be read, where that can be told."""
        found = self._writer.unreadable(self._written)
        _, _, what = error.text.partition("the database: ")
        return RefusedError(f"{found}: {what}" if found else what) if what else error

    def twins(self) -> str | None:
        """Two rows with one key in an item that was to be written: what failed for a key that is taken will fail
        again, and nobody was faster."""
        return next(filter(None, (self._writer.twins(one) for one in self._written)), None)

    def _refuse_cascades(self, written: Sequence[Written]) -> None:
        """A deletion must not take rows of other items with it, nor change them: they would go unstamped."""
        deleted = [one.item for one in written if one.value is None and self._types[one.item.type].is_object]
        besides = [one.item for one in written]
        taken = parking.cascading(self._transaction, self._structure, self._tables, deleted, besides)
        for item in sorted(taken):
            raise DanglingError(
                f"{item.type}: an item that is to be deleted is still referred to, by rows that would go with it"
            )

    def _columns(self, accepted: Sequence[Accepted], old: Mapping[Item, Mapping[str, Any]]) -> Iterator[str]:
        """The register's rows, as _ACCEPT takes them."""
        yield from self._ids.items([one.item for one in accepted])
        yield orjson.dumps([one.version.stamp for one in accepted]).decode()
        yield orjson.dumps([one.version.origin for one in accepted]).decode()
        mostly_empty: tuple[list[Any], ...] = (
            [one.seen or None for one in accepted],
            [one.value is None and self._types[one.item.type].is_object for one in accepted],
            [self._kept(one, old.get(one.item, _NOTHING)) for one in accepted],
            [one.item not in self._registered for one in accepted],
        )
        for column in mostly_empty:
            yield orjson.dumps(column if any(column) else ()).decode()

    def _kept_before(self, items: Sequence[Item]) -> dict[Item, Mapping[str, Any]]:
        items = [item for item in items if self._types[item.type].table is not None]
        if not items:
            return {}
        rows = self._transaction.rows(Statement(KEPT, self._ids.items(items)))
        return {items[n - 1]: orjson.loads(text) for n, text in rows}

    def _kept(self, one: Accepted, old: Mapping[str, Any]) -> str | None:
        """What of a value has no place in the tables here, as JSON text; None leaves what is kept already."""
        item_type = self._types[one.item.type]
        if one.value is None:
            return None
        if item_type.table is None:
            return orjson.dumps(one.value).decode()
        if not old and beside.is_held(item_type, one.value):
            return None
        kept = beside.kept(item_type, one.value, old if one.existed else {})
        if kept == old:
            return None
        self._with_kept.add(item_type.name)
        return orjson.dumps(kept).decode()

    def keep(self, kept: Sequence[Kept]) -> None:
        rows = [{"t": self._ids.id(one.item.type), "k": one.item.key, "e": one.seen or None} for one in kept]
        if rows:
            self._transaction.queue(Statement(_KEEP, (orjson.dumps(rows).decode(),)))

    def answer_back(self, node: str, items: Sequence[Item]) -> None:
        if items:
            limited = "{" + ",".join(sorted(str(self._ids.id(name)) for name in self._limited)) + "}"
            self._transaction.queue(Statement(_ANSWER, (*self._ids.items(items), node, limited)))

    def doubt(self, items: Sequence[Item]) -> None:
        if items:
            self._transaction.queue(Statement(_DOUBT, (*self._ids.items(items), self._sender)))
            self.answer_back(self._sender, items)

    def journal(self, collisions: Sequence[Collision]) -> None:
        rows = [
            {
                "t": self._ids.id(one.item.type),
                "k": one.item.key,
                "ws": one.winner.stamp,
                "wo": one.winner.origin,
                "wt": one.winner_text.decode() if one.winner_text is not None else None,
                "ls": one.loser.stamp,
                "lo": one.loser.origin,
                "lt": one.loser_text.decode() if one.loser_text is not None else None,
                "p": one.policy,
                "s": one.sender,
            }
            for one in collisions
        ]
        if rows:
            self._transaction.queue(Statement(_JOURNAL, (orjson.dumps(rows).decode(),)))

    def received(self, received: Received) -> None:
        parameters = (
            received.node,
            received.incarnation,
            received.session,
            received.number,
            str(received.completes).lower(),
            received.position,
            received.items,
            received.rejected,
            received.size_bytes,
            received.end_to_end_ms,
            1 if received.items or received.rejected else 0,  # end marks are not counted
        )
        self._transaction.queue(Statement(_RECEIVED, [None if p is None else str(p) for p in parameters]))

    def park(self, letter: Letter, reason: Reason, items: Sequence[ParkedItem] = (), *, refused: bool = False) -> None:
        self._transaction.queue(parking.park(letter, reason, items, refused=refused))

    def waiting(self) -> Sequence[Waiting]:
        return parking.waiting(self._transaction, self._sender)

    def taken(self, values: Mapping[Item, Mapping[str, Any]]) -> Mapping[Item, Sequence[Taken]]:
        return parking.taken(self._transaction, self._structure, self._tables, values)

    def unpark(self, parked_id: int) -> None:
        self._transaction.queue(parking.unpark(parked_id))

    def there(self, items: Sequence[Item]) -> frozenset[Item]:
        return parking.there(self._transaction, self._structure, items)

    def referred(
        self, items: Sequence[Item], *, besides: Sequence[Item], only_unchecked: bool = False
    ) -> frozenset[Item]:
        return parking.referred(self._transaction, self._structure, items, besides, only_unchecked=only_unchecked)

    def touch(self, items: Sequence[Item]) -> None:
        if items:
            self._transaction.queue(touching(self._structure, self._ids, items))


def _lock_base(item_type: ItemType, base: Base) -> str:
    """Locks the rows of a table behind a view: the view itself may be one whose rows cannot be locked."""
    same = " AND ".join(f"t.{quoted(column)} = k.k{position}" for position, column in enumerate(base.columns))
    return (
        f"SELECT FROM {typed_keys(item_type, '$1')} k CROSS JOIN LATERAL"
        f" (SELECT FROM {quoted_table(base.table)} t WHERE {same} FOR UPDATE) t"
    )


def _lock_rows(item_type: ItemType, pattern: tuple[int, ...]) -> str:
    """Locks root rows or records, in the order of the keys. Where an object has sections, so that rows cannot be added
    to them either (their foreign key takes a key-share lock); else rows that refer to it need not wait."""
    assert item_type.table is not None
    strength = "UPDATE" if item_type.sections else "NO KEY UPDATE"
    limit = " LIMIT 1" if item_type.is_object else ""
    lock = "" if item_type.view else f" FOR {strength}"
    return (
        f"SELECT k.n::int FROM {typed_keys(item_type, '$1')} k CROSS JOIN LATERAL"
        f" (SELECT FROM {quoted_table(item_type.table)} t WHERE {matches(item_type, 't', 'k', pattern)}{limit}"
        f"{lock}) t"
    )


def _lock_section(item_type: ItemType, number: int) -> str:
    assert item_type.table is not None
    section = item_type.sections[number]
    link = " AND ".join(f"s.{quoted(column)} = t.{quoted(root)}" for column, root in section.link)
    order = ", ".join(f"s.{quoted(column)}" for column in section.order)
    return (
        f"SELECT FROM {typed_keys(item_type, '$1')} k CROSS JOIN LATERAL"
        f" (SELECT FROM {quoted_table(section.table)} s, {quoted_table(item_type.table)} t"
        f" WHERE {matches(item_type, 't', 'k', ())} AND {link}"
        f"{f' ORDER BY {order}' if order else ''} FOR NO KEY UPDATE OF s) s"
    )

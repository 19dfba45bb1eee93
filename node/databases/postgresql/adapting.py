"""node.databases.adapted.Registers over PostgreSQL, inside the transaction of `kod install`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson

from node.databases.adapted import Adopted, Entry
from node.databases.postgresql import capture, rights
from node.databases.postgresql.connecting import Connection, Transaction, translated
from node.databases.postgresql.keys import key_columns, key_text
from node.databases.postgresql.reading import Reader
from node.databases.postgresql.receiving import DEFERRED
from node.databases.postgresql.reflection import quoted, quoted_table, reflect
from node.databases.postgresql.registers import NOW_MS, TYPE_IDS, TypeIds
from node.databases.postgresql.writing import Writer, Written
from schemas.stamp import Stamp
from schemas.structure import ItemType, Structure
from serializers.keys import Item
from serializers.message import Version

_OF_ITEMS = ("log", "register", "presence", "rights", "ahead", "pending", "ways")

_FORGET = """
WITH old AS (
  DELETE FROM kod.register WHERE type = $1 AND kept IS NULL AND NOT gone RETURNING type, key
), ahead AS (
  DELETE FROM kod.ahead a USING old WHERE a.type = old.type AND a.key = old.key
), pending AS (
  DELETE FROM kod.pending p USING old WHERE p.type = old.type AND p.key = old.key
), logged AS (
  DELETE FROM kod.log WHERE type = $1 AND local
), unstamped AS (
  UPDATE kod.types SET stamped = false WHERE id = $1
)
SELECT count(*) FROM old"""

# $1 the type, $2 its register by new keys
_PUT = f"""
WITH x AS MATERIALIZED (
  SELECT * FROM json_to_recordset($2::json) AS x(k text, s bigint, o text, e jsonb, p text, c boolean)
), logged AS (
  INSERT INTO kod.log (type, key, at, gone, local)
  SELECT $1::smallint, k, CASE WHEN c THEN {NOW_MS} ELSE s END, false, c FROM x
)
INSERT INTO kod.register (type, key, stamp, origin, seen, mark, kept)
SELECT $1::smallint, k, s, coalesce(nullif(o, ''), n.origin), e, -1, p FROM x, kod.node n"""

_HELD = """
INSERT INTO kod.presence (type, key, node, since, drawn_by)
SELECT $1::smallint, k, n, s, d FROM json_to_recordset($2::json) AS x(k text, n text, s bigint, d text)
ON CONFLICT DO NOTHING"""


class PostgresqlRegisters:
    def __init__(self, connection: Connection, structure: Structure) -> None:
        self._connection = connection
        self._structure = structure

    def types(self) -> Mapping[str, str | None]:
        return dict(self._connection.execute("SELECT name, key FROM kod.types ORDER BY id").fetchall())

    def _id(self, name: str) -> str:
        row = self._connection.execute("SELECT id FROM kod.types WHERE name = $1", (name,)).fetchone()
        assert row is not None
        return str(row[0])

    def rename(self, old: str, new: str) -> None:
        self._connection.execute("UPDATE kod.types SET name = $2 WHERE name = $1", (old, new))

    def note_key(self, name: str, key: str) -> None:
        self._connection.execute("UPDATE kod.types SET key = $2 WHERE name = $1", (name, key))

    def forget(self, name: str) -> int:
        row = self._connection.execute(_FORGET, (self._id(name),)).fetchone()
        return int(row[0]) if row else 0

    def forget_wholly(self, name: str) -> int:
        number = self._id(name)
        row = self._connection.execute("SELECT count(*) FROM kod.register WHERE type = $1", (number,)).fetchone()
        for table in (*_OF_ITEMS, "walks", "history"):
            self._connection.execute(f"DELETE FROM kod.{table} WHERE type = $1", (number,))
        self._connection.execute("UPDATE kod.types SET stamped = false, key = NULL WHERE id = $1", (number,))
        return int(row[0]) if row else 0

    def entries(self, name: str) -> Mapping[str, Entry]:
        rows = self._connection.execute(
            "SELECT key, stamp, origin, seen::text, kept FROM kod.register WHERE type = $1 AND NOT gone",
            (self._id(name),),
        ).fetchall()
        return {
            key: Entry(Version(Stamp(stamp), origin), orjson.loads(seen) if seen else {}, kept=kept)
            for key, stamp, origin, seen, kept in rows
        }

    def logged(self, name: str) -> frozenset[str]:
        sql = "SELECT DISTINCT key FROM kod.log WHERE type = $1 AND local"
        return frozenset(key for (key,) in self._connection.execute(sql, (self._id(name),)).fetchall())

    def pairs(self, old: ItemType, new: ItemType) -> Iterable[tuple[str, str]]:
        assert new.table is not None
        before, now = (
            key_text(of_type.key, [f"t.{quoted(column.name)}" for column in key_columns(of_type)])
            for of_type in (old, new)
        )
        sql = f"SELECT DISTINCT {before}, {now} FROM {quoted_table(new.table)} t"
        return [(one, other) for one, other in self._connection.execute(sql).fetchall()]

    def put(self, name: str, entries: Mapping[str, Entry], moved: Mapping[str, Sequence[str]]) -> None:
        number = self._id(name)
        held = self._connection.execute(
            "SELECT node, key, since, drawn_by FROM kod.presence WHERE type = $1", (number,)
        ).fetchall()
        for table in _OF_ITEMS:
            self._connection.execute(f"DELETE FROM kod.{table} WHERE type = $1", (number,))
        rows = [
            {
                "k": key,
                "s": one.version.stamp,
                "o": one.version.origin,
                "e": dict(one.seen) or None,
                "p": one.kept,
                "c": one.changed,
            }
            for key, one in entries.items()
        ]
        self._connection.execute(_PUT, (number, orjson.dumps(rows).decode()))
        holders = [
            {"k": key, "n": node, "s": since, "d": drawn}
            for node, old, since, drawn in held
            for key in moved.get(old, ())
        ]
        self._connection.execute(_HELD, (number, orjson.dumps(holders).decode()))
        if self._structure[name].access:
            self._connection.execute(rights.ALL_AGAIN, (orjson.dumps([name]).decode(),))

    def kept(self, name: str) -> Mapping[Item, str]:
        rows = self._connection.execute(
            "SELECT key, kept FROM kod.register WHERE type = $1 AND kept IS NOT NULL AND NOT gone", (self._id(name),)
        ).fetchall()
        return {Item(name, key): kept for key, kept in rows}

    def contents(self, items: Sequence[Item]) -> Mapping[Item, bytes | None]:
        ids = TypeIds(self._connection.execute(TYPE_IDS.sql).fetchall())
        reader = Reader(self._structure, ids, {item.type for item in items})
        within = Transaction(self._connection, (), lambda _: True)
        return dict(zip(items, reader.read(within, items), strict=True))

    def adopt(self, adopted: Sequence[Adopted]) -> None:
        if not adopted:
            return
        tables = reflect(self._connection, capture.tables_of(self._structure))
        written = [Written(a.item, a.value, a.existed) for a in adopted]
        ours = "SELECT set_config('kod.applying', $1, true)"
        with translated():
            self._connection.execute(ours, ("on",))
            self._connection.run([DEFERRED, *Writer(self._structure, tables).statements(written)])
            self._connection.execute(ours, ("off",))
            for one in adopted:
                self._connection.execute(
                    "UPDATE kod.register SET kept = $3 WHERE type = $1 AND key = $2",
                    (self._id(one.item.type), one.item.key, one.kept),
                )

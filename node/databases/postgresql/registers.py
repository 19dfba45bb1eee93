"""KOD's own tables, in a schema of their own, and the statements that everybody needs of them.

    log        what triggers append, until a fold takes it in
    register   one row per item: its version, its mark, where it came from
    types      the types' numbers; node: this node, packages: with which its daemons ran; outgoing, incoming,
               received: the links
    presence   holders of items that do not go everywhere; ahead, pending: what went, or goes, out of turn
    rights     items, or types (no key), whose rights may have changed, until they are looked at again
    below      nodes farther down, and the children through which they are reached
    walks      how far a type whose rights changed has been looked at again, by marks, from the largest down
    history    cursors over what neighbours lack of what was there before
    sent       which item went in which message of the latest sessions (dispatcher.manifest)
    collisions the journal; parked: messages that could not be applied yet; triggers: what `kod install` made
    held, owned, deferred    what hooks need (node.databases.hooked)
    ways       where items are to be seen, farther on (node.databases.ways)

The view `stamps` is for others: type, key, stamp, deleted (with what is not folded yet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from dispatcher.ports import Change
from node.databases.postgresql.connecting import Row, Statement, Transaction
from node.databases.postgresql.keys import key_columns, keys_parameter, typed_keys
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.stamped import WAITS
from node.databases.type_names import TypeNames
from schemas.structure import Structure
from serializers.keys import Item
from serializers.message import Version

VERSION = 1

TABLES = """
CREATE SCHEMA kod;
CREATE TABLE kod.node (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version integer NOT NULL,
  code text NOT NULL,
  incarnation bigint NOT NULL,
  origin text NOT NULL,
  boundary bigint,
  top_mark bigint NOT NULL DEFAULT 0,
  last_session bigint NOT NULL DEFAULT 0,
  missed bigint NOT NULL DEFAULT 0,
  send_streams_max integer,
  receive_streams_max integer,
  capture text NOT NULL DEFAULT '',
  kept_at text,
  network text,
  told_incarnation bigint,
  told_session bigint,
  bus_ahead_ms bigint,
  package_asked text,
  draining text,
  hooks text NOT NULL DEFAULT ''
);
-- The packages with which daemons ran here, and since when.
CREATE TABLE kod.packages (fingerprint text PRIMARY KEY, since bigint NOT NULL);
CREATE TABLE kod.types (
  id smallint PRIMARY KEY,
  name text NOT NULL UNIQUE,
  top_mark bigint NOT NULL DEFAULT 0,
  stamped boolean NOT NULL DEFAULT false,
  key_types json NOT NULL,
  key text
);
-- Predefined items, by the names that they bear: also when they are gone.
CREATE TABLE kod.named (
  type smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  name text NOT NULL,
  PRIMARY KEY (type, key)
);
-- No index: applications append to it. A fold reads all of it and deletes what it took.
CREATE TABLE kod.log (
  type smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  at bigint NOT NULL,
  gone boolean NOT NULL,
  local boolean NOT NULL
) WITH (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 1000000,
        autovacuum_vacuum_cost_delay = 0);
CREATE TABLE kod.register (
  type smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  stamp bigint NOT NULL,
  origin text NOT NULL,
  seen jsonb,
  mark bigint NOT NULL,
  known bigint,
  source text,
  gone boolean NOT NULL DEFAULT false,
  kept text,
  PRIMARY KEY (type, key)
);
CREATE INDEX register_kept ON kod.register (type) WHERE kept IS NOT NULL;
CREATE INDEX register_gone ON kod.register (mark) WHERE gone;
CREATE INDEX register_stamped ON kod.register (mark) WHERE mark < -1;
CREATE INDEX register_mark ON kod.register (mark) WHERE mark > 0;
CREATE INDEX register_fresh ON kod.register (stamp, type, key) WHERE NOT gone;
CREATE INDEX register_deleted ON kod.register (stamp, type, key) WHERE gone;
CREATE TABLE kod.presence (
  type smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  node text NOT NULL,
  since bigint,
  drawn_by text,
  PRIMARY KEY (type, key, node)
);
-- No index: the triggers of access tables append to it. Taken in portions.
CREATE TABLE kod.rights (
  type smallint NOT NULL,
  key text COLLATE "C",
  follow boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 1000000,
        autovacuum_vacuum_cost_delay = 0);
CREATE TABLE kod.walks (
  type smallint PRIMARY KEY,
  below bigint NOT NULL,
  down_to bigint NOT NULL DEFAULT 0,
  again_from bigint
);
CREATE INDEX presence_since ON kod.presence (node, since);
CREATE TABLE kod.outgoing (
  node text PRIMARY KEY,
  position bigint NOT NULL DEFAULT 0,
  last_session bigint,
  arrived bigint,
  joined bigint,
  joined_session bigint,
  history bigint,
  restart integer NOT NULL DEFAULT 0,
  wish text,
  messages bigint NOT NULL DEFAULT 0,
  items bigint NOT NULL DEFAULT 0,
  size_bytes bigint NOT NULL DEFAULT 0,
  last_session_facts json
) WITH (fillfactor = 50);
CREATE TABLE kod.history (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node text NOT NULL,
  type smallint,
  down_to bigint,
  reason text NOT NULL,
  state text NOT NULL DEFAULT 'open',
  phase integer NOT NULL DEFAULT 0,
  at_stamp bigint,
  at_type smallint,
  at_key text COLLATE "C",
  bottom bigint,
  passed bigint NOT NULL DEFAULT 0,
  sent bigint NOT NULL DEFAULT 0,
  total bigint NOT NULL DEFAULT 0,
  begun bigint NOT NULL,
  ended bigint
);
CREATE TABLE kod.below (
  node text NOT NULL,
  via text NOT NULL,
  PRIMARY KEY (node, via)
);
CREATE TABLE kod.ahead (
  node text NOT NULL,
  type smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  mark bigint NOT NULL,
  PRIMARY KEY (node, type, key)
);
CREATE INDEX ahead_mark ON kod.ahead (node, mark);
CREATE TABLE kod.pending (
  node text NOT NULL,
  type smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  mark bigint NOT NULL,
  n bigint GENERATED ALWAYS AS IDENTITY,
  PRIMARY KEY (node, type, key)
);
CREATE TABLE kod.sent (
  node text NOT NULL,
  session bigint NOT NULL,
  items bigint NOT NULL,
  lowest bigint NOT NULL,
  highest bigint NOT NULL,
  manifest bytea STORAGE EXTERNAL NOT NULL,
  PRIMARY KEY (node, session)
);
CREATE TABLE kod.incoming (
  node text PRIMARY KEY,
  incarnation bigint,
  session bigint,
  completed bigint,
  position bigint,
  messages bigint NOT NULL DEFAULT 0,
  items bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  size_bytes bigint NOT NULL DEFAULT 0,
  end_to_end_ms bigint,
  fault text,
  package text,
  package_since bigint
) WITH (fillfactor = 50);
CREATE TABLE kod.received (
  node text NOT NULL,
  session bigint NOT NULL,
  number integer NOT NULL,
  PRIMARY KEY (node, session, number)
);
CREATE TABLE kod.collisions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  type smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  winner_stamp bigint NOT NULL,
  winner_origin text NOT NULL,
  winner_text text,
  loser_stamp bigint NOT NULL,
  loser_origin text NOT NULL,
  loser_text text,
  policy text NOT NULL,
  sender text NOT NULL,
  at bigint NOT NULL
);
CREATE TABLE kod.parked (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node text NOT NULL,
  name text NOT NULL,
  payload bytea NOT NULL,
  reason text NOT NULL,
  since bigint NOT NULL,
  attempts integer NOT NULL DEFAULT 1,
  items text NOT NULL DEFAULT '[]',
  waits_for text NOT NULL DEFAULT '[]',
  refused boolean NOT NULL DEFAULT false
);
CREATE TABLE kod.held (
  node text NOT NULL,
  type smallint NOT NULL,
  item_key text COLLATE "C" NOT NULL,
  mark bigint NOT NULL,
  reason text NOT NULL,
  since bigint NOT NULL,
  next_at bigint NOT NULL,
  PRIMARY KEY (node, type, item_key)
);
CREATE TABLE kod.owned (
  type smallint NOT NULL,
  item_key text COLLATE "C" NOT NULL,
  owner_type smallint NOT NULL,
  owner_key text COLLATE "C" NOT NULL,
  PRIMARY KEY (type, item_key)
);
CREATE INDEX owned_owner ON kod.owned (owner_type, owner_key);
CREATE TABLE kod.ways (
  type smallint NOT NULL,
  item_key text COLLATE "C" NOT NULL,
  link text NOT NULL,
  node text NOT NULL,
  PRIMARY KEY (type, item_key, link, node)
);
CREATE TABLE kod.deferred (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  type text NOT NULL,
  work text NOT NULL,
  since bigint NOT NULL,
  attempts integer NOT NULL,
  next_at bigint NOT NULL,
  reason text
);
CREATE TABLE kod.triggers (
  relation text NOT NULL,
  name text NOT NULL,
  definition text NOT NULL,
  source text NOT NULL,
  PRIMARY KEY (relation, name)
);
CREATE VIEW kod.stamps AS
WITH waiting AS (
  SELECT type, key, max(at) AS at, bool_or(local) AS local,
         (array_agg(gone ORDER BY at DESC, ctid DESC))[1] AS gone
  FROM kod.log GROUP BY type, key
), latest AS (
  SELECT coalesce(w.type, r.type) AS type, coalesce(w.key, r.key) AS key,
         CASE WHEN w.local THEN greatest(w.at, r.stamp + 1) ELSE coalesce(r.stamp, w.at) END AS stamp,
         CASE WHEN w.local THEN w.gone ELSE coalesce(r.gone, w.gone) END AS gone
  FROM kod.register r FULL JOIN waiting w ON w.type = r.type AND w.key = r.key
)
SELECT t.name AS type,
       (SELECT '[' || string_agg('{' || to_json(k.name)::text || ':' || v.value::text || '}', ',' ORDER BY v.n) || ']'
        FROM json_array_elements(l.key::json) WITH ORDINALITY v(value, n)
        JOIN json_array_elements_text(t.key_types) WITH ORDINALITY k(name, n) ON k.n = v.n) AS key,
       to_char(timestamp '1970-01-01' + l.stamp * interval '1 millisecond', 'YYYYMMDDHH24MISSMS') AS stamp,
       l.gone AS deleted
FROM latest l JOIN kod.types t ON t.id = l.type;
COMMENT ON VIEW kod.stamps IS
  'The newest stamp of every item: type, key (pairs type: value), stamp (YYYYMMDDHHmmssuuu, UTC), deleted';
"""

NOW_MS = "CAST(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000 AS bigint)"

# Items as a parameter: two JSON arrays, of the types' numbers and of the keys.
ITEMS = (
    '(SELECT CAST(t AS smallint) AS type, k COLLATE "C" AS key, n FROM'
    " ROWS FROM (json_array_elements_text($1::json), json_array_elements_text($2::json)) WITH ORDINALITY AS i(t, k, n))"
)

# Items as if the application had changed them now. `gone` makes the fold look whether they are there.
TOUCH = f"""
INSERT INTO kod.log (type, key, at, gone, local)
SELECT i.type, i.key, {NOW_MS}, i.type = ANY(CAST($3 AS smallint[])), true FROM {ITEMS} i"""

# A change as Change wants it; `r` is the register.
CHANGE = "r.type, r.key, r.stamp, r.origin, r.seen::text, r.mark, r.source, r.gone"

# All parts see the log as it was before: what is deleted is what is taken. (Rows that a DELETE returns are put aside
# and read again: for 300,000 of them that took longer than reading the log twice.)
# Of a link that catches up, marks say what it has only after the one at which it began (since).
# What is counted waits for the rows that are changed, so that it is these that draw the versions, one by one, and each
# row is found and changed while its pages are at hand: 10,000 keys at random among a million cost half as much more
# otherwise. It is the numbers that need all rows before the first, so they are given before any is looked for.
FOLD = """
WITH taken AS (
  DELETE FROM kod.log
), item AS (
  SELECT type, key, max(at) AS at, bool_or(local) AS local, bool_or(gone) AS gone, count(*) AS rows,
    row_number() OVER (ORDER BY max(at), type, key) AS n
  FROM kod.log GROUP BY type, key
), node AS (
  SELECT origin, top_mark, boundary, coalesce(o.served, -1) AS served, coalesce(o.since, 0) AS since
  FROM kod.node, (SELECT min(position) AS served, max(joined) + 1 AS since FROM kod.outgoing) o
), versioned AS MATERIALIZED (
  SELECT i.type, i.key, i.rows, i.local, i.local AND i.gone AS perhaps_gone,
    CASE WHEN r.stamp IS NULL THEN i.at WHEN NOT i.local THEN r.stamp
         -- newer than what it replaces, and than this node's own versions in its history: not every collision is won
         -- by the newest
         ELSE greatest(i.at, r.stamp + 1, CAST(r.seen ->> n.origin AS bigint) + 1) END AS stamp,
    CASE WHEN r.stamp IS NULL OR i.local THEN n.origin ELSE r.origin END AS origin,
    CASE WHEN NOT i.local OR r.seen IS NULL AND (r.origin IS NULL OR r.origin = n.origin) THEN r.seen
         ELSE nullif((coalesce(r.seen, '{}') || jsonb_build_object(r.origin, r.stamp)) - n.origin, '{}')
    END AS seen,
    n.top_mark + i.n AS mark,
    CASE WHEN r.gone THEN NULL WHEN r.mark BETWEEN n.since AND n.served THEN r.mark ELSE r.known END AS known,
    CASE WHEN i.local THEN NULL ELSE r.source END AS source,
    CASE WHEN i.local THEN i.gone ELSE coalesce(r.gone, false) END AS gone,
    CASE WHEN i.local AND i.gone THEN NULL ELSE r.kept END AS kept, n.boundary, r.place
  FROM node n CROSS JOIN item i
  -- LIMIT keeps the planner from reading the whole register when it takes the log for a large table
  LEFT JOIN LATERAL
    (SELECT r.ctid AS place, r.* FROM kod.register r WHERE r.type = i.type AND r.key = i.key LIMIT 1) r ON true
), changed AS (
  UPDATE kod.register r SET stamp = v.stamp, origin = v.origin, seen = v.seen, mark = v.mark, known = v.known,
    source = v.source, gone = v.gone, kept = v.kept
  FROM versioned v WHERE r.ctid = v.place RETURNING 1
), added AS (
  -- meets no row but one that was put in meanwhile: then the transaction is tried again
  INSERT INTO kod.register (type, key, stamp, origin, seen, mark, known, source, gone, kept)
  SELECT type, key, stamp, origin, seen, mark, known, source, gone, kept FROM versioned
  WHERE place IS NULL ORDER BY mark
  ON CONFLICT (type, key) DO UPDATE SET mark = excluded.mark
), counted AS (
  SELECT count(*) AS marks, coalesce(sum(rows), 0)::bigint AS rows, count(*) FILTER (WHERE local) AS items,
         count(*) FILTER (WHERE local AND stamp <= boundary) AS missed
  FROM versioned WHERE (SELECT count(*) FROM changed) >= 0
), tops AS (
  UPDATE kod.types t SET top_mark = m.mark
  FROM (SELECT type, max(mark) AS mark FROM versioned GROUP BY type) m WHERE t.id = m.type
), moved AS (
  UPDATE kod.node m SET top_mark = m.top_mark + c.marks, missed = m.missed + c.missed FROM counted c WHERE c.marks > 0
)
SELECT c.items, c.missed, c.rows, n.top_mark + c.marks,
  (SELECT json_agg(json_build_array(type, key)) FROM versioned WHERE perhaps_gone)::text,
  EXISTS (SELECT FROM kod.rights) OR EXISTS (SELECT FROM kod.walks)
FROM counted c, node n"""


class FoldResult(NamedTuple):
    items: int
    missed: int
    log_rows: int
    top: int
    types: list[Row]
    """Of each type: its number, its largest mark, and whether all its rows have stamps and marks."""
    again: bool
    """Items wait to be looked at again."""
    asked: list[list[Row]]


class TypeIds:
    """The types' numbers in the registers."""

    def __init__(self, rows: list[Row]) -> None:
        self._names: dict[int, str] = TypeNames(dict(rows))
        self._ids = {name: number for number, name in self._names.items()}

    @property
    def numbers(self) -> Mapping[str, int]:
        """By name."""
        return self._ids

    def id(self, name: str) -> int:
        return self._ids[name]

    def name(self, number: int) -> str:
        return self._names[number]

    def items(self, items: Sequence[Item]) -> tuple[str, str]:
        """Items as the parameters of ITEMS."""
        return (
            orjson.dumps([str(self._ids[item.type]) for item in items]).decode(),
            orjson.dumps([item.key for item in items]).decode(),
        )

    def item(self, number: int, key: str) -> Item:
        return Item(self._names[number], key)

    def change(self, row: Sequence[Any]) -> Change:
        """A row of CHANGE."""
        number, key, stamp, origin, seen, mark, source, gone = row
        return Change(
            Item(self._names[number], key),
            Version(stamp, origin),
            orjson.loads(seen) if seen else None,
            mark,
            source,
            gone,
        )


STAMPED_WAIT = f"EXISTS (SELECT FROM kod.register WHERE {WAITS})"
TOP_MARKS = Statement(f"SELECT id, top_mark, stamped AND NOT {STAMPED_WAIT} FROM kod.types")
TYPE_IDS = Statement("SELECT id, name FROM kod.types")


def touching(structure: Structure, ids: TypeIds, items: Sequence[Item]) -> Statement:
    """A log row for each item, as if the application had changed it now."""
    may_be_gone = [t for t in structure.types.values() if t.is_object and t.table is not None]
    numbers = "{" + ",".join(str(ids.id(item_type.name)) for item_type in may_be_gone) + "}"
    return Statement(TOUCH, (*ids.items(items), numbers))


def folding(
    transaction: Transaction, structure: Structure, ids: TypeIds, *, then: Sequence[Statement] = ()
) -> FoldResult:
    """Takes in the whole log. In a transaction of REPEATABLE READ, one at a time. `then`: what is asked after it, in
    the same round trip."""
    ((items, missed, rows, top, perhaps_gone, again),), types, *asked = transaction.run(
        Statement(FOLD), TOP_MARKS, *then
    )
    if perhaps_gone:
        mended = transaction.run(*_still_there(structure, ids, orjson.loads(perhaps_gone)), *then)
        asked = mended[len(mended) - len(then) :]
    return FoldResult(items, missed, rows, top, types, again, asked)


def _still_there(structure: Structure, ids: TypeIds, items: Sequence[tuple[int, str]]) -> list[Statement]:
    """Items whose row was deleted and that are there nevertheless: put in again, or another row has the key now."""
    by_type: dict[int, list[str]] = {}
    for number, key in items:
        by_type.setdefault(number, []).append(key)
    statements = []
    for number, keys in by_type.items():
        item_type = structure.types.get(ids.name(number))
        if item_type is None or item_type.table is None:
            continue
        columns = [quoted(column.name) for column in key_columns(item_type)]
        same = " AND ".join(f"t.{column} = k.k{i}" for i, column in enumerate(columns))
        statements.append(
            Statement(
                f"UPDATE kod.register r SET gone = false FROM {typed_keys(item_type, '$1')} k"
                " JOIN json_array_elements_text($2::json) WITH ORDINALITY AS i(key, n) ON i.n = k.n"
                f" WHERE r.type = {number} AND r.key = i.key"
                f" AND EXISTS (SELECT FROM {quoted_table(item_type.table)} t WHERE {same})",
                (keys_parameter(item_type, keys), orjson.dumps(keys).decode()),
            )
        )
    return statements

"""Names under which all nodes know rows that each has under a key of its own."""

from __future__ import annotations

from typing import Any

import orjson

from node.databases.postgresql.connecting import Statement, Transaction
from node.databases.postgresql.keys import key_text
from node.databases.postgresql.reflection import quoted, quoted_table
from node.databases.postgresql.registers import TypeIds
from schemas.structure import Names

_KNOWN = "SELECT key, name FROM kod.named WHERE type = $1::smallint"
_REMEMBER = """
INSERT INTO kod.named (type, key, name)
SELECT $1::smallint, x.k, x.n FROM json_to_recordset($2::json) AS x(k text, n text)
ON CONFLICT (type, key) DO UPDATE SET name = excluded.name"""


def names(transaction: Transaction, asked: Names, ids: TypeIds, *, reads_only: bool = False) -> dict[Any, str]:
    """By key, in its lexical form. Those of predefined items are remembered, in the caller's transaction."""
    if asked.of_type is None:
        return _by_value(dict(transaction.rows(Statement(there(asked)))))
    number = str(ids.id(asked.of_type))
    rows, remembered = transaction.run(Statement(there(asked)), Statement(_KNOWN, (number,)))
    found: dict[str, str] = dict(rows)
    known: dict[str, str] = dict(remembered)
    new = [{"k": key, "n": name} for key, name in found.items() if known.get(key) != name]
    if new and not reads_only:
        transaction.queue(Statement(_REMEMBER, (number, orjson.dumps(new).decode())))
    left = {key: name for key, name in known.items() if name not in set(found.values())}
    return _by_value({**left, **found})


def there(asked: Names) -> str:
    """SQL for the keys' texts, and the names."""
    assert asked.key.column is not None
    name = quoted(asked.column)
    key = key_text([asked.key], [f"t.{quoted(asked.key.column.name)}"])
    return f"SELECT {key}, t.{name}::text FROM {quoted_table(asked.table)} t WHERE t.{name}::text <> ''"


def remembering(asked: Names, number: int) -> str:
    """SQL that notes all that there are, before any of them goes."""
    return (
        f"INSERT INTO kod.named (type, key, name) SELECT {number}, k, n FROM ({there(asked)}) x(k, n)"
        " ON CONFLICT (type, key) DO UPDATE SET name = excluded.name"
    )


def _by_value(found: dict[str, str]) -> dict[Any, str]:
    return {orjson.loads(key)[0]: name for key, name in found.items()}

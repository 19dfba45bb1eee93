"""Keys as SQL: the text that triggers build, and the typed columns that statements look up."""

from __future__ import annotations

from collections.abc import Sequence

from node.databases.postgresql.lexical import key_element, plain
from schemas.structure import Field, ItemType
from schemas.tables import Column


def key_text(fields: Sequence[Field], sources: Sequence[str]) -> str:
    """SQL for the key text of an item whose key's columns are `sources`. Without operators, whose meaning would
    depend on the session's search_path."""
    parts = ["'['"]
    for position, (field, source) in enumerate(zip(fields, sources, strict=True)):
        if position:
            parts.append("','")
        parts.append(key_element(source, field))
    return f"pg_catalog.concat({', '.join(parts)}, ']')"


def key_columns(item_type: ItemType) -> list[Column]:
    return [field.column for field in item_type.key if field.column is not None]


def typed_keys(item_type: ItemType, parameter: str) -> str:
    """SQL for a relation (n, k0, k1 …): the keys of a parameter as `keys_parameter` makes it, typed and numbered."""
    columns = key_columns(item_type)
    if len(columns) == 1:
        value = _typed("v", columns[0])
        return f"(SELECT n, {value} AS k0 FROM json_array_elements_text({parameter}::json) WITH ORDINALITY AS e(v, n))"
    values = "".join(f", {_typed(f'(v ->> {i})', column)} AS k{i}" for i, column in enumerate(columns))
    return f"(SELECT n{values} FROM json_array_elements({parameter}::json) WITH ORDINALITY AS e(v, n))"


def _typed(text: str, column: Column) -> str:
    if column.xml == "base64Binary":
        return f"decode({text}, 'base64')"
    return f"CAST({text} AS {plain(column.native)})"


def keys_parameter(item_type: ItemType, keys: Sequence[str]) -> str:
    """Keys as one JSON array: of values for keys of one column, else of arrays. Nothing is parsed here."""
    if len(item_type.key) == 1:
        return "[" + ",".join([key[1:-1] for key in keys]) + "]"
    return "[" + ",".join(keys) + "]"

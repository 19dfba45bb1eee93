"""How long a node with a large package takes to start: 300 types, 5,000 columns, sections, references.

From the start of the process to "daemon started": the first time, and once what does not change is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

TYPES = 300
COLUMNS = 5_000
SECTIONED = 3
"""Every third type has a section."""

_KINDS = ("varchar(80)", "numeric(15,2)", "integer", "timestamp", "date", "boolean", "varchar(20)", "double precision")


def tables(types: int, columns: int) -> Iterator[str]:
    """CREATE TABLE statements that every database takes: each type refers to the one before it, and has its share of
    the columns, sections' among them."""
    for number in range(types):
        share = columns * (number + 1) // types - columns * number // types
        in_section = share // 2 if number % SECTIONED == 0 else 0
        yield _table(f"t{number:03}", share - in_section, f"t{number - 1:03}" if number else None)
        if in_section:
            key = f"owner integer NOT NULL REFERENCES t{number:03} (id), line integer NOT NULL"
            named = ", ".join(f"c{i} {_KINDS[i % len(_KINDS)]}" for i in range(in_section - 2))
            yield f"CREATE TABLE t{number:03}_lines ({key}, {named}, PRIMARY KEY (owner, line))"


def _table(name: str, columns: int, target: str | None) -> str:
    named = [f"c{i} {_KINDS[i % len(_KINDS)]}" for i in range(columns - 2)]
    reference = f" REFERENCES {target} (id)" if target else ""
    return f"CREATE TABLE {name} (id integer NOT NULL PRIMARY KEY, earlier integer{reference}, {', '.join(named)})"


def exchange(types: int) -> str:
    lines = ["exchange:"]
    for number in range(types):
        section = f", sections: {{lines: t{number:03}_lines}}" if number % SECTIONED == 0 else ""
        lines.append(f"  Catalog.T{number:03}: {{table: t{number:03}, reference_data: true{section}}}")
    return "\n".join(lines) + "\n"

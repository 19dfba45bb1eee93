"""Presence: what is kept of which neighbour has which item, where a type does not go to everybody.

A million items, each to be seen at five nodes, are sent once; beside it the same items as reference data, of which
nothing has to be kept for each item and node. What the bus does is left out.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.servers import Server
from benchmarks.source import Cost, Source
from schemas.network import TypeSettings

NODES = 5
ITEMS = 1_000_000
ON_PAPER_ITEMS, ON_PAPER_NODES = 10_000_000, 20

_DDL = """
CREATE TABLE tasks (task_id bigint PRIMARY KEY, title text NOT NULL, done boolean NOT NULL);
CREATE TABLE nodes (node text PRIMARY KEY);
CREATE VIEW task_access AS SELECT task_id, node FROM tasks CROSS JOIN nodes;
"""
_LIMITED = {"Document.Task": TypeSettings("Document.Task", "tasks", access="task_access")}
_EVERYWHERE = {"Document.Task": TypeSettings("Document.Task", "tasks", reference_data=True)}


@dataclass(frozen=True, slots=True)
class Presence:
    items: int
    nodes: int
    rows: int
    size_mb: float
    """With its indexes."""
    took_s: float
    cpu_s: float
    """This process and the server, to send all of it."""
    everywhere_rows: int
    everywhere_took_s: float
    everywhere_cpu_s: float
    again_cpu_s: float
    """To send a tenth of the items once more: their rows are there already."""
    everywhere_again_cpu_s: float

    @property
    def bytes_a_row(self) -> float:
        return self.size_mb * 1e6 / max(1, self.rows)

    @property
    def cpu_us_a_row(self) -> float:
        return (self.cpu_s - self.everywhere_cpu_s) * 1e6 / max(1, self.rows)

    @property
    def on_paper_gb(self) -> float:
        """10 million items at 20 nodes."""
        return self.bytes_a_row * ON_PAPER_ITEMS * ON_PAPER_NODES / 1e9


def presence(server: Server, scale: float) -> Presence:
    count = int(ITEMS * scale)
    with ExitStack() as stack:
        everywhere = Source(server, "presence_everywhere", neighbours=NODES, exchange=_EVERYWHERE, ddl=_DDL)
        stack.callback(everywhere.drop)
        first, again = _sent_twice(everywhere, count)
        everywhere_rows = everywhere.figure("SELECT count(*) FROM kod.presence")
    with ExitStack() as stack:
        limited = Source(server, "presence_limited", neighbours=NODES, exchange=_LIMITED, ddl=_DDL)
        stack.callback(limited.drop)
        mine, mine_again = _sent_twice(limited, count)
        return Presence(
            items=count,
            nodes=NODES,
            rows=limited.figure("SELECT count(*) FROM kod.presence"),
            size_mb=limited.figure("SELECT pg_total_relation_size('kod.presence')") / 1e6,
            took_s=mine.took_s,
            cpu_s=mine.cpu_s,
            everywhere_rows=everywhere_rows,
            everywhere_took_s=first.took_s,
            everywhere_cpu_s=first.cpu_s,
            again_cpu_s=mine_again.cpu_s,
            everywhere_again_cpu_s=again.cpu_s,
        )


def _sent_twice(source: Source, count: int) -> tuple[Cost, Cost]:
    source.application.execute(f"INSERT INTO nodes SELECT lpad(n::text, 2, '0') FROM generate_series(1, {NODES}) n")
    source.application.execute(f"INSERT INTO tasks SELECT n, 'Task ' || n, false FROM generate_series(1, {count}) n")
    source.tidy()
    first = source.send()
    source.application.execute("UPDATE tasks SET done = true WHERE task_id % 10 = 0")
    return first, source.send()

"""The rival: PostgreSQL's own logical replication, a publication of all tables and a subscription to it.

Its apply worker runs with session_replication_role = replica: it checks no foreign keys. KOD checks them.
"""

from __future__ import annotations

import time

import psycopg

from benchmarks.rivals import Started
from benchmarks.servers import Server
from benchmarks.tables import CREATE

STOP_TIMEOUT_S = 30


class Native:
    name = "native"
    note = "PostgreSQL's logical replication, no foreign-key checks"

    def __init__(self, source: Server, target: Server, database: str) -> None:
        self.source = source
        self.target = target
        self.database = database

    def create(self) -> None:
        for server in (self.source, self.target):
            server.create_database(self.database)
            with server.connect(self.database) as connection:
                connection.execute(CREATE)
        with self.source.connect(self.database) as connection:
            connection.execute("CREATE PUBLICATION trade FOR ALL TABLES")
        with self.target.connect(self.database) as connection:
            # the slot is created now, so all that is written from here on waits in it
            connection.execute(
                f"CREATE SUBSCRIPTION {self.database} CONNECTION '{self.source.conninfo(self.database)}' "
                f"PUBLICATION trade WITH (copy_data = false, enabled = false)"
            )

    def start(self) -> Started:
        moment = time.monotonic()
        with self.target.connect(self.database) as connection:
            connection.execute(f"ALTER SUBSCRIPTION {self.database} ENABLE")
        return Started(moment, 0.0)

    def client_cpu_s(self) -> float:
        return 0.0

    def peak_rss_mb(self) -> float | None:
        return None

    def check(self) -> None:
        with self.target.connect(self.database) as connection:
            row = connection.execute(
                "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = %s", [self.database]
            ).fetchone()
        if row is not None and row[0]:
            raise RuntimeError(f"native replication stopped with an error: {self.target.folder / 'log'}")

    def stop(self) -> None:
        with self.target.connect(self.database) as connection:
            connection.execute(f"ALTER SUBSCRIPTION {self.database} DISABLE")
            _wait_for(connection, "SELECT count(*) = 0 FROM pg_stat_subscription WHERE pid IS NOT NULL")
        with self.source.connect(self.database) as connection:
            _wait_for(connection, "SELECT count(*) = 0 FROM pg_replication_slots WHERE active")

    def drop(self) -> None:
        with self.target.connect(self.database) as connection:
            connection.execute(f"DROP SUBSCRIPTION IF EXISTS {self.database}")
        for server in (self.source, self.target):
            server.drop_database(self.database)


def _wait_for(connection: psycopg.Connection[tuple[bool]], query: str) -> None:
    until = time.monotonic() + STOP_TIMEOUT_S
    while not (row := connection.execute(query).fetchone()) or not row[0]:
        if time.monotonic() > until:
            raise RuntimeError(f"did not come true within {STOP_TIMEOUT_S} s: {query}")
        time.sleep(0.02)

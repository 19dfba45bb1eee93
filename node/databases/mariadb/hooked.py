"""Hooks' statements over MariaDB (node.databases.hooked)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pymysql

from dispatcher.ports import Rows
from node.databases.hooked import HookTables, Names
from node.databases.mariadb.connection import Connection, translate
from node.databases.statements import bound


def hook_tables(connection: Connection, type_ids: Mapping[str, int]) -> HookTables:
    names = Names("kod_", "item_key", keys_are_bytes=True, upsert="ON DUPLICATE KEY")
    return HookTables(_Driver(connection), names, type_ids)


class _Driver:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ours(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        return self._connection.rows(*bound(sql, parameters, "%s"))

    def theirs(self, sql: str, parameters: Mapping[str, Any], *, stamps: bool) -> Rows:
        text, values = bound(sql, parameters, "%s")
        try:
            with self._unstamped() if not stamps else _nothing():
                return Rows(*self._connection.fetch(text, values))
        except pymysql.err.Error as error:
            raise translate(error) from error

    @contextmanager
    def _unstamped(self) -> Iterator[None]:
        self._connection.run("INSERT INTO kod_applying (connection) VALUES (CONNECTION_ID())")
        try:
            yield
        finally:
            self._connection.run("DELETE FROM kod_applying WHERE connection = CONNECTION_ID()")


@contextmanager
def _nothing() -> Iterator[None]:
    yield

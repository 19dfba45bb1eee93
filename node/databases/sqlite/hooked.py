"""Hooks' statements over SQLite (node.databases.hooked)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dispatcher.ports import Rows
from node.databases.hooked import HookTables, Names
from node.databases.sqlite.writing import in_words
from schemas.errors import MessageError


def hook_tables(connection: sqlite3.Connection, type_ids: Mapping[str, int]) -> HookTables:
    return HookTables(_Driver(connection), Names("kod_", "key"), type_ids)


class _Driver:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def ours(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        return self._connection.execute(sql, parameters).fetchall()

    def theirs(self, sql: str, parameters: Mapping[str, Any], *, stamps: bool) -> Rows:
        try:
            with self._unstamped() if not stamps else _nothing():
                cursor = self._connection.execute(sql, parameters)
                names = [column[0] for column in cursor.description or ()]
                return Rows(names, cursor.fetchall(), max(cursor.rowcount, 0))
        except sqlite3.IntegrityError as error:
            raise MessageError(in_words(error)) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            if code & 0xFF in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE):
                raise MessageError(f"the database refuses a statement: {error}") from error
            raise

    @contextmanager
    def _unstamped(self) -> Iterator[None]:
        self._connection.execute("INSERT INTO kod_applying (one) VALUES (1)")
        try:
            yield
        finally:
            self._connection.execute("DELETE FROM kod_applying")


@contextmanager
def _nothing() -> Iterator[None]:
    yield

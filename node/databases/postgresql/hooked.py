"""Hooks' statements over PostgreSQL (node.databases.hooked)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg

from dispatcher.ports import Rows
from node.databases.hooked import HookTables, Names
from node.databases.postgresql.connecting import Row, translate
from node.databases.postgresql.registers import TypeIds
from node.databases.statements import bound

Execute = Callable[[str, Sequence[Any]], "psycopg.Cursor[Row]"]


def hook_tables(execute: Execute, ids: TypeIds | None, *, applying: bool = False) -> HookTables:
    """`applying`: what the connection writes is not captured, unless it is said otherwise."""
    return HookTables(_Driver(execute, applying), Names("kod.", "key"), {} if ids is None else ids.numbers)


class _Driver:
    def __init__(self, execute: Execute, applying: bool) -> None:
        self._execute = execute
        self._applying = applying

    def ours(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        cursor = self._execute(*bound(sql, parameters, "$"))
        return cursor.fetchall() if cursor.description else ()

    def theirs(self, sql: str, parameters: Mapping[str, Any], *, stamps: bool) -> Rows:
        """A statement that fails would end the transaction: it is run within a savepoint."""
        text, values = bound(sql, parameters, "$")
        self._execute("SAVEPOINT kod_hook", ())
        try:
            if stamps == self._applying:
                self._apply(not stamps)
            cursor = self._execute(text, values)
            names = [column.name for column in cursor.description or ()]
            found = Rows(names, cursor.fetchall() if names else (), max(cursor.rowcount, 0))
            if stamps == self._applying:
                self._apply(stamps)
        except psycopg.Error as error:
            self._execute("ROLLBACK TO SAVEPOINT kod_hook", ())
            raise translate(error) from error
        self._execute("RELEASE SAVEPOINT kod_hook", ())
        return found

    def _apply(self, applying: bool) -> None:
        self._execute("SELECT set_config('kod.applying', $1, true)", ("on" if applying else "off",))

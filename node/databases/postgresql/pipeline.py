"""Statements in one round trip, driven on libpq itself.

A session of the sender or a small message of a receiver is some twenty statements; psycopg's cursors and pipeline cost
240 µs for five of them, this 65 µs (server included). What psycopg is good at stays with it: connecting, reading
values, errors.

Every statement is prepared once for each connection, whatever its parameters are: they are texts, which it casts.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
from psycopg.types.string import ByteaBinaryLoader

Row = tuple[Any, ...]

PREPARED_MAX = 500
"""Statements that a connection keeps prepared; what was prepared first is forgotten first."""


class Statement(NamedTuple):
    sql: str
    parameters: Sequence[str | None] = ()
    raw: bool = False
    """Text comes as bytes: it is passed on, not looked at."""


class Connection(psycopg.Connection[Row]):
    """psycopg's, with the statements that `run` has prepared on it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names: dict[str, bytes] = {}
        self._count = 0
        self._texts = Transformer(self)
        raw = self.cursor()
        raw.adapters.register_loader("text", ByteaBinaryLoader)  # a text's binary form is its bytes
        self._bytes = Transformer(raw)

    def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """The rows of each statement. Raises psycopg's errors; those behind the one that failed were not run."""
        pgconn = self.pgconn
        pgconn.enter_pipeline_mode()
        try:
            sent = [sql for statement in statements for sql in self._send(pgconn, statement)]
            pgconn.pipeline_sync()
            results = self._results(pgconn, sent)
        finally:
            self._leave(pgconn)
        return [self._rows(result, statement) for result, statement in zip(results, statements, strict=True)]

    def _send(self, pgconn: PGconn, statement: Statement) -> Iterator[str | None]:
        """For each result that will come: the text of what is prepared with it, None where it is the rows."""
        parameters = [None if value is None else _encoded(value) for value in statement.parameters]
        name = self._names.get(statement.sql)
        if name is None:
            if len(self._names) >= PREPARED_MAX:
                yield from self._forget_oldest(pgconn)
            self._count += 1
            name = self._names[statement.sql] = b"kod_%d" % self._count
            pgconn.send_prepare(name, statement.sql.encode())
            yield statement.sql
        format_ = Format.BINARY if statement.raw else Format.TEXT
        pgconn.send_query_prepared(name, parameters, result_format=format_)
        yield None

    def _forget_oldest(self, pgconn: PGconn) -> Iterator[str]:
        sql = next(iter(self._names))
        pgconn.send_close_prepared(self._names.pop(sql))
        yield sql

    def _results(self, pgconn: PGconn, sent: Sequence[str | None]) -> list[PGresult]:
        rows: list[PGresult] = []
        failure: psycopg.Error | None = None
        for sql in sent:
            result = _next(pgconn)
            if result.status in (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED):
                if failure is None:
                    failure = _error(pgconn, result)
                if sql is not None:
                    self._names.pop(sql, None)  # it is not prepared after all
            elif sql is None:
                rows.append(result)
        _next(pgconn)  # the sync's
        if failure is not None:
            raise failure
        return rows

    def _leave(self, pgconn: PGconn) -> None:
        try:
            pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:  # it broke off in between: nobody knows what is still to come
            self.close()

    def _rows(self, result: PGresult, statement: Statement) -> list[Row]:
        if result.nfields == 0:
            return []
        reading = self._bytes if statement.raw else self._texts
        reading.set_pgresult(result)
        return reading.load_rows(0, result.ntuples, tuple)


def _encoded(value: str) -> bytes:
    encoded = value.encode()
    if b"\0" in encoded:  # libpq would end the text there
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return encoded


def _next(pgconn: PGconn) -> PGresult:
    """The next result. Other threads go on while the server works."""
    while True:
        _wait(pgconn)
        result = pgconn.get_result()
        if result is not None:
            return result
        if pgconn.status == ConnStatus.BAD:
            raise psycopg.OperationalError(pgconn.get_error_message())


def _wait(pgconn: PGconn) -> None:
    """Until a result can be had without waiting; what the server has not taken yet is sent meanwhile."""
    poll: select.poll | None = None
    while True:
        unsent = pgconn.flush()
        if not unsent and not pgconn.is_busy():
            return
        if poll is None:
            poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
        poll.poll()
        pgconn.consume_input()


def _error(pgconn: PGconn, result: PGresult) -> psycopg.Error:
    if pgconn.status == ConnStatus.BAD:
        return psycopg.OperationalError(pgconn.get_error_message())
    return errors.error_from_result(result)

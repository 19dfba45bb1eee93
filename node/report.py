"""What commands print: tables for people (plain where it is no terminal), JSON for programs, errors with a way out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from schemas.errors import ConfigError, KodError

Row = Sequence[Any]


def print_json(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Row], *, empty: str = "") -> None:
    """A table; `empty` is said where there are no rows. Long cells are wrapped on a terminal and never cut."""
    if not rows and empty:
        click.echo(empty)
        return
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cells, rows)
    else:
        _plain_table(columns, cells)


def print_findings(columns: Sequence[str], findings: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """What a check found: a table on a terminal, else a line for each. `columns` names what the table shows."""
    if sys.stdout.isatty() or not findings:
        titles = [{"text": "what", "hint": "try"}.get(name, name) for name in columns]
        print_table(titles, [[finding[name] for name in columns] for finding in findings], empty=empty)
        return
    for finding in findings:
        click.echo(_finding_line(finding))


def _finding_line(finding: Mapping[str, Any]) -> str:
    place = ".".join(part for part in (finding["type"], finding["property"]) if part)
    where = " ".join(part for part in (f"node {finding['node']}" if finding["node"] else "network", place) if part)
    hint = f" (try: {finding['hint']})" if finding["hint"] else ""
    return " ".join(f"{where}: {finding['effect']}: {finding['text']}{hint}".split())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name.ljust(width)}  {_cell(value)}".rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(r[position], int | float | None) for r in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _plain_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_error(error: KodError) -> None:
    """What, where, and what to try, on stderr. Faults of a configuration each have their own place and hint."""
    faults = error.faults if isinstance(error, ConfigError) else ()
    for fault in faults:
        _print_problem(str(fault), fault.hint)
    if not faults or error.hint:
        _print_problem(f"Error: {error.text}", error.hint)


def print_problem(text: str, hint: str = "") -> None:
    """Something worth knowing, on stderr, so that it does not get into what a program reads."""
    _print_problem(text, hint)


def _print_problem(text: str, hint: str) -> None:
    click.echo(text, err=True)
    if hint:
        click.echo(f"  Try: {hint}", err=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each type on a terminal, else a line when a type is done: call it with (type, done, total)."""
    if not sys.stderr.isatty():
        yield _said_when_done(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn(f"{title} {{task.description}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield show


def _said_when_done(title: str) -> Callable[[str, int, int], None]:
    def show(name: str, done: int, total: int) -> None:
        if done >= total:
            click.echo(f"{title} {name}: {done} of {total}", err=True)

    return show

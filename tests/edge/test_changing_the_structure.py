"""docs/how-to/changing-the-structure.md, run from its own blocks: real daemons over SQLite and a folder.

sh NODE             commands in that node's folder; `systemctl start|stop kod@NODE` is this test's
sql NODE …          a change, or a query whose rows the next `text` block has, sooner or later
yaml nodes.yaml …   the whole file, or what changes in those nodes' (an empty value takes a key out)
parked NODE         how the reason of what is parked there begins, sooner or later
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.edge.network import WITHIN_S
from tests.servers import _end_with_parent

pytestmark = [
    pytest.mark.xdist_group("edge-how-to"),
    pytest.mark.timeout(900),  # the whole page, command by command
]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "changing-the-structure.md"
CODES = ("00", "01", "02")


class Block(NamedTuple):
    line: int
    kind: str
    nodes: tuple[str, ...]
    text: str
    rows: str | None = None
    """What the `text` block after a query says."""


def blocks() -> Iterator[Block]:
    text = PAGE.read_text(encoding="utf-8")
    found = list(re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for number, match in enumerate(found):
        kind, *words = match[1].split()
        if kind == "text":
            continue
        after = found[number + 1] if number + 1 < len(found) else None
        rows = after[2].strip() if kind == "sql" and after is not None and after[1] == "text" else None
        nodes = tuple(word for word in words if word in CODES) or CODES
        yield Block(text.count("\n", 0, match.start()) + 1, kind, nodes, match[2], rows)


class Page:
    """A folder for each node, as if each were a machine of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        programs = folder / "bin"
        programs.mkdir()
        sqlite = programs / "sqlite3"  # there may be none on the machine
        sqlite.write_text(
            f"#!{sys.executable}\nimport sqlite3, sys\ncon = sqlite3.connect(sys.argv[1], timeout=30)\n"
            "con.executescript(sys.argv[2])\ncon.close()\n"
        )
        kod = programs / "kod"
        kod.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m node "$@"\n')
        for program in (sqlite, kod):
            program.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        for code in CODES:
            (folder / code).mkdir()

    def begin(self) -> None:
        """Installed and running: how that is done is another page's."""
        self.shell("00", "kod schema generate --node 00")
        for code in CODES:
            self.shell(code, "" if code == "00" else "cp ../00/trade.xsd .", f"kod install --node {code}")
            self.start(code)

    def shell(self, code: str, *lines: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-ec", "\n".join(lines)],
            cwd=self.folder / code,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, (lines, done.stdout, done.stderr)

    def service(self, line: str) -> None:
        what, code = re.fullmatch(r"systemctl (start|stop) kod@(\d\d)", line).groups()  # type: ignore[union-attr]
        if what == "start":
            self.start(code)
        else:
            daemon = self.daemons.pop(code)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0

    def start(self, code: str) -> None:
        log = self.folder / f"{code}.log"
        before = log.read_text().count("daemon started") if log.exists() else 0
        with log.open("ab") as output:
            self.daemons[code] = subprocess.Popen(
                ["kod", "run", "--node", code],
                cwd=self.folder / code,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,
            )
        self.wait_until(lambda: log.read_text().count("daemon started") > before, f"{code} has started")

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < until, f"{what}: did not come\n{self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"--- {log.stem}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def database(self, code: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / code / "trade.sqlite", timeout=30, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def rows(self, code: str, query: str) -> str:
        with closing(self.database(code)) as connection:
            return "\n".join("|".join(map(str, row)) for row in connection.execute(query))

    def reasons(self, code: str) -> list[str]:
        with closing(self.database(code)) as connection:
            return [reason for (reason,) in connection.execute("SELECT reason FROM kod_parked")]

    def run(self, block: Block) -> None:
        for code in block.nodes:
            if block.kind == "sh":
                self.run_commands(code, block.text)
            elif block.kind == "yaml":
                self.configure(code, yaml.safe_load(block.text))
            elif block.kind == "parked":
                wanted = block.text.strip()
                self.wait_until(
                    lambda code=code, wanted=wanted: any(r.startswith(wanted) for r in self.reasons(code)),
                    f"line {block.line}: parked at {code}: {wanted}",
                )
            elif block.rows is not None:
                self.wait_until(
                    lambda code=code: self.rows(code, block.text) == block.rows,
                    f"line {block.line}: {block.text.strip()} at {code} gives {block.rows!r}",
                )
            else:
                with closing(self.database(code)) as connection:
                    connection.executescript(block.text)

    def run_commands(self, code: str, text: str) -> None:
        waiting: list[str] = []
        for line in text.strip().splitlines():
            if line.startswith("systemctl"):
                self.shell(code, *waiting)
                waiting = []
                self.service(line)
            else:
                waiting.append(line)
        self.shell(code, *waiting)

    def configure(self, code: str, change: dict[str, Any]) -> None:
        path = self.folder / code / "nodes.yaml"
        there = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(yaml.safe_dump(_merged(there, change), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def close(self) -> None:
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait(10)


def _merged(there: Any, change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    there = there if isinstance(there, dict) else {}
    found = {name: value for name, value in there.items() if name not in change or change[name] is not None}
    return found | {name: _merged(there.get(name), value) for name, value in change.items() if value is not None}


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = Page(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_the_page_is_true(page: Page) -> None:
    """Whoever follows it word by word gets what it says."""
    first, tables, *others = blocks()
    page.run(first)
    page.run(tables)
    page.begin()
    assert len(others) > 40
    for block in others:
        page.run(block)
    assert [page.reasons(code) for code in CODES] == [[], [], []]

"""kod recover"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from node.cli import Call, Command, node_option

if TYPE_CHECKING:
    from node.recovering import Recovery


@click.command(
    cls=Command,
    examples="""
        kod recover --node 01
        kod recover --node 01 --wait
    """,
)
@node_option()
@click.option("--wait", is_flag=True, help="Until everything is back; else the daemon goes on with it.")
@click.pass_obj
def command(call: Call, code: str, wait: bool) -> int:
    """Rebuilds a node whose database was lost, or restored from a backup, from its neighbours, while the rest of the
    network works. After `kod install` where the database is new. Exit 1 if a neighbour could not be asked, or
    something that came is parked.

    Never on a copy of a database whose node is alive: it would take that node's place."""
    network = call.network(code)
    from node.config import filled_in
    from node.recovering import recover

    show = _Shown()
    result = recover(filled_in(network, code), code, wait=wait, show=show)
    show.end()
    if not show.progress:
        click.echo(f"node {code} has no neighbours: there is nobody to rebuild it from")
    elif all(one.state == "done" for one in show.progress):
        click.echo(f"node {code} is rebuilt; `kod run --node {code}` starts it")
    else:
        click.echo(f"node {code}: begun; `kod run --node {code}` goes on with it, `kod status` shows how far it is")
    return result


class _Shown:
    """A line that is written over on a terminal; elsewhere one for each state of a neighbour."""

    def __init__(self) -> None:
        self.progress: list[Recovery] = []
        self._terminal = sys.stderr.isatty()

    def __call__(self, progress: list[Recovery]) -> None:
        before = {one.neighbour: one.state for one in self.progress}
        self.progress = progress
        if self._terminal:
            click.echo("\r\x1b[K" + "; ".join(map(_text, progress)), nl=False, err=True)
            return
        for one in progress:
            if before.get(one.neighbour) != one.state:
                click.echo(_text(one), err=True)

    def end(self) -> None:
        if self._terminal and self.progress:
            click.echo(err=True)


def _text(one: Recovery) -> str:
    said = {"asked": "is asked for everything", "sending": "sends again", "done": "has sent everything"}
    return f"{one.neighbour} {said.get(one.state, one.state)}, {one.received_items} items received"

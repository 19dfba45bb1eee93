"""kod drain"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_json, print_problem

if TYPE_CHECKING:
    from node.draining import Standing


@click.command(
    cls=Command,
    examples="""
        kod drain --node 01
        kod drain --node 01 --timeout 120 --json
        kod drain --node 01 --end
    """,
)
@node_option()
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Seconds to wait at most; then exit 1.")
@click.option("--end", is_flag=True, help="Ends it: the node sends again.")
@json_option
@click.pass_obj
def command(call: Call, code: str, timeout_s: float | None, end: bool, as_json: bool) -> int:
    """Has a running node send what is there and then stand still, waits until its neighbours have received that and
    what had come is applied, and says that it is safe to upgrade. Applications may go on writing: that waits. The node
    sends again when its daemon is started the next time, or with --end. Interrupted (Ctrl-C), timed out or failed, the
    drain is taken back. Exit 1 if the node does not stand still."""
    network = call.network(code)
    from node import draining

    if end:
        ended = draining.end(network, code)
        if as_json:
            print_json({"node": code, "ended": ended})
        else:
            click.echo(f"node {code} sends again" if ended else f"node {code} was not drained")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = draining.drain(network, code, _say(as_json), timeout_s=timeout_s)
    except draining.NotDrainedError as error:
        if as_json:
            print_json({"node": code, "safe": False, "error": error.text})
        print_problem(f"node {code} does not stand still, and sends again: {error.text}", error.hint)
        return 1
    except KeyboardInterrupt:
        if as_json:
            print_json({"node": code, "safe": False, "error": "interrupted"})
        print_problem(f"interrupted: node {code} sends again")
        return 1
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)
    return 0


def _say(as_json: bool) -> Callable[[Standing], None]:
    def say(standing: Standing) -> None:
        if not as_json:
            for text in standing.waits_for:
                click.echo(f"waiting: {text}", err=True)

    return say


def _print(found: Standing) -> None:
    for link in found.links:
        if link.sent is None:
            click.echo(f"{link.node}: nothing was ever sent to it; what came from it is applied")
        else:
            click.echo(f"{link.node}: has received all that was sent to it; what came from it is applied")
    if found.parked:
        click.echo(f"{found.parked} messages are parked (kod parked): an upgrade may be what they wait for")
    click.echo(f"node {found.node} stands still: it is safe to stop its daemon and to upgrade it")
    click.echo("it sends again when its daemon is started, or with --end")

"""kod boundary"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_json
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.stamp import Stamp


@click.command(
    cls=Command,
    examples="""
        kod boundary --node 00
        kod boundary --node 00 --set 2026-11-22
        kod boundary --node 00 --set 20261122093015042 --skip
    """,
)
@node_option()
@click.option("--set", "wanted", metavar="STAMP", help="17 digits YYYYMMDDHHmmssuuu, or their beginning.")
@click.option("--skip", is_flag=True, help="Forward: what lies between counts as reviewed and is not sent.")
@json_option
@click.pass_obj
def command(call: Call, code: str, wanted: str | None, skip: bool, as_json: bool) -> None:
    """Shows or moves the review boundary: the stamp up to which changes have been looked at.

    Back: every item with a later stamp is marked again. Forward, with --skip only: what lies between is not sent."""
    if skip and wanted is None:
        raise click.UsageError("--skip needs --set STAMP")
    from schemas.stamp import digits, parse

    stamp = parse(wanted) if wanted is not None else None
    network = call.network(code)
    if stamp is not None and skip:
        _refuse_the_future(stamp, network.nodes[code].clock_skew_max_s)
    from node.opened import connect

    with closing(connect(network, code)) as database:
        before = database.boundary()
        items = 0
        if stamp is not None:
            if stamp > (before or 0) and not skip:
                now = digits(before) if before is not None else "not set yet"
                raise ConfigError(
                    f"the boundary is {now}, before {digits(stamp)}",
                    hint="forward only with --skip: what lies between is then not sent",
                )
            items = database.set_boundary(stamp, skip=skip)
        after = database.boundary()
    text = digits(after) if after is not None else None
    if as_json:
        moved = {"items": items, "from": digits(before) if before is not None else None} if stamp is not None else {}
        print_json({"node": code, "boundary": text, **moved})
        return
    click.echo(text or "nothing has been reviewed yet")
    if stamp is not None:
        forward = stamp > (before or 0)
        click.echo(f"{items} items skipped: they are not sent" if forward else f"{items} items marked again")


def _refuse_the_future(stamp: Stamp, skew_max_s: int) -> None:
    """A boundary ahead of the clock would leave changes unsent that nobody has made yet."""
    from schemas.stamp import Stamp, digits

    now = Stamp(time.time_ns() // 1_000_000)
    if stamp > now + skew_max_s * 1000:
        raise ConfigError(
            f"{digits(stamp)} is later than now, {digits(now)}, by more than clock_skew_max_s ({skew_max_s} s): "
            "changes that are still to be made would not be sent",
            hint=f"--skip up to now at most: --set {digits(now)} --skip",
        )

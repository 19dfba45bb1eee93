"""kod boundary"""

from __future__ import annotations

from contextlib import closing

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_json
from schemas.errors import ConfigError


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

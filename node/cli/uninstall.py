"""kod uninstall"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli import Call, Command, node_option

if TYPE_CHECKING:
    from node.databases import Database
    from schemas.network import NodeSettings

_WRITE_VERSION = 18
"""Where a SQLite file says how it is written: 2 there is WAL (its file format, "The Database Header")."""


@click.command(cls=Command, examples="kod uninstall --node 00")
@node_option()
@click.pass_obj
def command(call: Call, code: str) -> None:
    """Takes the registers and triggers out of the node's database again; the data stays. Says what else stays."""
    network = call.network(code)
    from node import identity
    from node.config import database_url
    from node.opened import connect

    with closing(connect(network, code)) as database, database.daemon_lock(code):
        identity.forget(database, network, code)
        database.uninstall()
        stays = [*_steps(network.nodes[code], database), *_wal(database_url(network, code))]
    click.echo(f"node {code}: registers and triggers are taken out, the data is as it was")
    for text in stays:
        click.echo(f"stays: {text}")


def _steps(settings: NodeSettings, database: Database) -> Iterator[str]:
    """The application goes on to take keys from its sequences, and another node may still be there: they keep steps."""
    if settings.identity is None or database.dialect != "postgresql":
        return
    from schemas.compilation import tables_needed

    tables = database.reflect(tables_needed(settings.exchange.values()))
    names = [f"{t.name}.{c.name}" for t in tables.values() for c in t.columns if c.generated_key]
    if names:
        yield (
            f"the sequences of {', '.join(names)} go on in steps of {settings.identity[0]}, as `identity` set them; "
            "ALTER SEQUENCE … INCREMENT BY 1 changes that"
        )


def _wal(url: str) -> Iterator[str]:
    if not url.startswith("sqlite:///"):
        return
    file = Path(url.removeprefix("sqlite:///").partition("?")[0])
    with file.open("rb") as opened:
        header = opened.read(_WRITE_VERSION + 1)
    if header[_WRITE_VERSION:] == b"\x02":
        yield f"{file.name} is in WAL mode; PRAGMA journal_mode = DELETE changes that"

"""kod schema generate | check | load"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_findings, print_json, print_problem
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.package import Package


@click.group()
def command() -> None:
    """Writes the package from a database, compares them, or swaps it on running nodes."""


@command.command(
    cls=Command,
    examples="""
        kod schema generate --node 00
        kod schema generate --node 00 -o schemas/retail.xsd
        kod schema generate --node 00 -o - > now.xsd
    """,
)
@node_option()
@click.option("-o", "--output", help="The file; nodes.yaml's package unless given; - for stdout, as if there was none.")
@click.option("--fresh", is_flag=True, help="Writes the file anew: what people changed in it is lost.")
@click.pass_obj
def generate(call: Call, code: str, output: str | None, fresh: bool) -> int:
    """Writes the package (XSD) from the database's metadata. Into a file that is there it puts what is new, and leaves
    what people changed; what the database has no more is left, and named. Exit 1 if a type's table is not there."""
    network = call.network(code, package_needed=False)
    from node.opened import connect, tables_of
    from schemas.compilation import generate_package

    exchange = network.nodes[code].exchange
    with closing(connect(network, code)) as database:
        tables = tables_of(database, exchange)
    package = generate_package(exchange, tables)
    target = Path(output) if output else network.package
    if target is None or output == "-":
        from schemas.xsd import write_xsd

        sys.stdout.buffer.write(write_xsd(package))
    else:
        _write(package, target, fresh=fresh)
    missing = [name for name, settings in exchange.items() if settings.takes_part and name not in package.types]
    for name in missing:
        print_problem(f"{name}: left out, there is no table {exchange[name].table!r} at node {code}")
    return 1 if missing else 0


def _write(package: Package, target: Path, *, fresh: bool) -> None:
    """Into the file, whole or not at all; one that would stay as it is is not touched."""
    from node.packages import put_in_place
    from schemas.merging import merge_xsd
    from schemas.xsd import file_bytes, write_xsd

    there = file_bytes(target) if target.exists() and not fresh else b""
    if not there.strip():
        put_in_place(write_xsd(package), target)
        click.echo(f"{target}: {len(package.types)} types", err=True)
        return
    merged = merge_xsd(there, package, str(target))
    if merged.written != there:
        put_in_place(merged.written, target)
    news = f"{merged.added} new" if merged.added else "brought up to date" if merged.written != there else "as it was"
    click.echo(f"{target}: {len(package.types)} types, {news}", err=True)
    for type_name, prop, text in merged.notes:
        print_problem(f"{type_name}{f'.{prop}' if prop else ''}: {text}")


@command.command(cls=Command, examples="kod schema check --node 00")
@node_option()
@json_option
@click.pass_obj
def check(call: Call, code: str, as_json: bool) -> int:
    """Compares the package with the database; exit 1 if anything does not match."""
    network = call.network(code)
    if network.package is None:
        raise ConfigError(
            "nodes.yaml names no package to compare with", hint="add `package:`, then kod schema generate"
        )
    from node.checking import findings_of, losing
    from node.opened import open_node

    database, structure = open_node(network, code)
    database.close()
    found = findings_of(code, structure.mismatches)
    if as_json:
        print_json([f.as_dict() for f in found])
    else:
        print_findings(
            ("type", "property", "effect", "text", "hint"),
            [f.as_dict() for f in found],
            empty=f"node {code}: the package and the database match, {len(structure.types)} types",
        )
    return 1 if losing(found) else 0


@command.command(
    cls=Command,
    examples="""
        kod schema load new.xsd
        kod schema load schemas/retail.xsd --node 00
    """,
)
@click.argument("file", type=click.Path(path_type=Path))
@node_option(needed=False, help="This node only (KOD_NODE); else all whose databases are within reach.")
@json_option
@click.pass_obj
def load(call: Call, file: Path, code: str | None, as_json: bool) -> int:
    """Puts FILE in the place of nodes.yaml's package and has running daemons go on with it, and with nodes.yaml's
    exchange as it is now; what is new is installed. What waits for a type that it describes is then applied.

    Validates first, and changes nothing where a type that takes part would not any more. Exit 1 if a daemon did not
    take it over."""
    network = call.network(code)
    from node.loading import load as load_package

    package, loaded = load_package(network, file, [code] if code else list(network.nodes))
    if as_json:
        said = [{"node": one.node, "state": one.state, "done": list(one.done)} for one in loaded]
        print_json({"package": package.fingerprint, "types": len(package.types), "nodes": said})
    else:
        click.echo(f"package {package.fingerprint}: {len(package.types)} types, in {network.package}")
    for one in loaded:
        if not as_json:
            click.echo(f"{one.node}  {_STATES[one.state]}")
        for m in one.mismatches:
            print_problem(f"{one.node}  {m.type}{f'.{m.property}' if m.property else ''}: {m.effect}: {m.text}", m.hint)
        if one.error is not None:
            print_problem(f"{one.node}  {one.error.text}", one.error.hint)
    return 1 if any(one.state == "refused" for one in loaded) else 0


_STATES = {
    "taken over": "the daemon goes on with it",
    "no daemon": "no daemon is running: it will start with it",
    "refused": "the daemon has not taken it over: its log says why",
    "not reached": "not reached: it starts with it if it reads the same file",
}

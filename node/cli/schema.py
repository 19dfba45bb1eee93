"""kod schema generate | check"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_findings, print_json, print_problem
from schemas.errors import ConfigError


@click.group()
def command() -> None:
    """Writes the package from a database, or compares them."""


@command.command(
    cls=Command,
    examples="""
        kod schema generate --node 00
        kod schema generate --node 00 -o schemas/retail.xsd
    """,
)
@node_option()
@click.option("-o", "--output", help="The file; nodes.yaml's package unless given; - for stdout.")
@click.pass_obj
def generate(call: Call, code: str, output: str | None) -> int:
    """Writes the package (XSD) from the database's metadata. Exit 1 if a type's table is not there."""
    network = call.network(code, package_needed=False)
    from node.opened import connect
    from schemas.compilation import generate_package, tables_needed
    from schemas.xsd import write_xsd

    exchange = network.nodes[code].exchange
    with closing(connect(network, code)) as database:
        tables = database.reflect(tables_needed(exchange.values()))
    package = generate_package(exchange, tables)
    written = write_xsd(package)
    target = Path(output) if output else network.package
    if target is None or output == "-":
        sys.stdout.buffer.write(written)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(written)
        click.echo(f"{target}: {len(package.types)} types", err=True)
    missing = [name for name, settings in exchange.items() if settings.takes_part and name not in package.types]
    for name in missing:
        print_problem(f"{name}: left out, there is no table {exchange[name].table!r} at node {code}")
    return 1 if missing else 0


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

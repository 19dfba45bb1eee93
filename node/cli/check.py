"""kod check"""

from __future__ import annotations

import click

from node.cli import Call, Command, json_option, node_option
from node.report import print_findings, print_json, print_problem
from schemas.errors import ConfigError, Fault


@click.command(
    cls=Command,
    examples="""
        kod check
        kod check --node 01 --json
    """,
)
@node_option(needed=False, help="This node only, whose database then has to be within reach (KOD_NODE).")
@json_option
@click.pass_obj
def command(call: Call, code: str | None, as_json: bool) -> int:
    """Checks nodes.yaml, hooks, the package, and each database within reach against it.

    Exit 1 if something would lose or stop data; 2 if nodes.yaml or the package is faulty; 3 if the node that was
    named cannot be reached."""
    try:
        return _check(call, code, as_json)
    except ConfigError as error:
        if as_json:  # for programs; people find the same on stderr
            faults = error.faults or (Fault("", error.text, error.hint),)
            print_json({"faults": [{"where": f.where, "text": f.text, "hint": f.hint} for f in faults]})
        raise


def _check(call: Call, code: str | None, as_json: bool) -> int:
    network = call.network(code)
    from node.checking import check_network, kod_error_text, losing

    checked = check_network(network, [code] if code else list(network.nodes))
    if code and checked.unreached:
        raise checked.unreached[0][1]
    if as_json:
        print_json(
            {
                "network": network.name,
                "faults": [],
                "reached": list(checked.reached),
                "unreached": [{"node": node, "reason": kod_error_text(e)} for node, e in checked.unreached],
                "findings": [f.as_dict() for f in checked.findings],
                "rights": list(checked.rights),
            }
        )
        return 1 if losing(checked.findings) else 0
    print_findings(
        ("node", "type", "property", "effect", "text", "hint"),
        [f.as_dict() for f in checked.findings],
        empty="nothing to mend",
    )
    for right in checked.rights:
        click.echo(f"needs on Kafka  {right}")
    click.echo(f"network {network.name}: {len(network.nodes)} nodes, looked at {', '.join(checked.reached) or 'none'}")
    for node, error in checked.unreached:
        print_problem(f"node {node} was not looked at: {kod_error_text(error)}", error.hint)
    return 1 if losing(checked.findings) else 0

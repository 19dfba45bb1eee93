"""The commands of `kod`, one file each: node/cli/NAME.py has `command`.

Their names and summaries are here, so that `kod --help` loads none of them.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.network import Network

SUMMARIES = {
    "demo": "Shows a network of its own at work, and proves that its nodes agree.",
    "check": "Checks nodes.yaml, hooks, the package, and each database against it.",
    "schema": "Writes the package from a database, compares them, or swaps it on running nodes.",
    "install": "Puts the registers and the capture triggers into a node's database.",
    "uninstall": "Takes all of it out again; the data stays.",
    "run": "Runs a node: sends and receives until it is told to stop.",
    "status": "Shows how far nodes are, what waits, and each link both ways.",
    "streams": "Shows or sets how many streams send and receive at once.",
    "drain": "Has a node stand still before an upgrade: all that is there sent and applied.",
    "boundary": "Shows or moves the review boundary.",
    "history": "Sends what a neighbour lacks, from fresh to old; lists and cancels that.",
    "parked": "Lists messages that could not be applied, and why.",
    "collisions": "Lists the journal of collisions, or shows one whole.",
    "compare": "Compares what two nodes should both have.",
    "recover": "Rebuilds a lost node, or one restored from a backup, from its neighbours.",
    "explain": "Tells the story of one item: version, addressees, where it waits.",
}


@dataclass
class Call:
    """What the options before the command say."""

    path: Path = Path("nodes.yaml")
    debug: bool = False

    def network(self, started: str | None = None, *, package_needed: bool = True) -> Network:
        """nodes.yaml, read and checked. `started`: the node that will be opened."""
        from node.config import read_network

        return read_network(self.path, started=started, package_needed=package_needed)


class _Program(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUMMARIES:
            return None
        command: click.Command = importlib.import_module(f"node.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in SUMMARIES:
            import difflib

            close = difflib.get_close_matches(args[0], SUMMARIES, n=1)
            raise click.UsageError(f"no command {args[0]!r}" + (f"; did you mean {close[0]!r}?" if close else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


class Command(click.Command):
    """A command whose help shows examples: `\\b`-free, as they are written."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = textwrap.dedent(examples).strip()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"kod {version('kod')}")
        context.exit()


@click.command(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="КОД, controlled data exchange: ties several databases into one multi-node base.",
    epilog="kod demo shows it at work; kod COMMAND --help shows examples.",
)
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("nodes.yaml"),
    envvar="KOD_CONFIG",
    help="The network's file (KOD_CONFIG); nodes.yaml in this folder unless given.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    envvar="KOD_LOG",
    help="What the log on stderr tells (KOD_LOG): `kod run` from info on, other commands warnings.",
)
@click.option("--log-json", is_flag=True, envvar="KOD_LOG_JSON", help="The log as JSON lines.")
@click.option("--debug", is_flag=True, help="Shows tracebacks, and logs everything.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Shows it.")
@click.pass_context
def program(context: click.Context, path: Path, log_level: str | None, log_json: bool, debug: bool) -> None:
    from node.log import set_up

    call = context.ensure_object(Call)
    call.path, call.debug = path, debug
    usual = "info" if context.invoked_subcommand == "run" else "warning"
    set_up("debug" if debug else log_level or usual, json_lines=log_json)


F = TypeVar("F", bound=Callable[..., Any])


def node_option(*, needed: bool = True, help: str = "The node's code (KOD_NODE).") -> Callable[[F], F]:  # noqa: A002
    return click.option("--node", "code", metavar="CODE", envvar="KOD_NODE", required=needed, help=help)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(function)


def type_names(structure_types: Any, name: str) -> str:
    """`name` if it is a type of the exchange. Raises ConfigError with the nearest one."""
    if name in structure_types:
        return name
    from node.marked import nearest

    raise ConfigError(f"there is no type {name!r} in the exchange", hint=nearest(name, structure_types))

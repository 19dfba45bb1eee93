"""The program `kod`. Commands are in node.cli, one file each; they are loaded when they are called."""

from __future__ import annotations

import os
import sys

import click

from node.cli import Call, program
from node.report import print_error, print_problem
from schemas.errors import ConfigError, ConflictError, KodError, UnavailableError

DIFFERS, USAGE, UNAVAILABLE = 1, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; the exit code: 0 done, 1 differs or failed, 2 usage or configuration, 3 cannot be reached."""
    arguments = sys.argv[1:] if arguments is None else arguments
    call = Call()
    try:
        code = program.main(args=arguments, prog_name="kod", standalone_mode=False, obj=call)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # `kod … | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if call.debug:
            raise
        return _explained(error)


def _explained(error: Exception) -> int:
    """Says what went wrong, without a traceback."""
    if isinstance(error, click.UsageError):
        context = error.ctx.command_path if error.ctx else "kod"
        print_problem(f"Error: {error.format_message()}", f"{context} --help")
        return USAGE
    if isinstance(error, click.ClickException):
        print_problem(f"Error: {error.format_message()}")
        return USAGE
    if isinstance(error, KodError):
        print_error(error)
        return _code_of(error)
    print_problem(
        f"Error: {type(error).__name__}: {error}",
        "the same with `kod --debug …`, and report what it shows: it is our bug",
    )
    return DIFFERS


def _code_of(error: KodError) -> int:
    if isinstance(error, ConfigError):
        return USAGE
    # a database that is locked by another program is out of reach just now
    return UNAVAILABLE if isinstance(error, UnavailableError | ConflictError) else DIFFERS


if __name__ == "__main__":
    sys.exit(main())

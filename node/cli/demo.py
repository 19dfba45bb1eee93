"""kod demo"""

from __future__ import annotations

from pathlib import Path

import click

from node.cli import Command, json_option


@click.command(
    cls=Command,
    examples="""
        kod demo
        kod demo --dir demo --nodes 5 --seconds 20
    """,
)
@click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), help="Kept for looking around.")
@click.option("--nodes", type=click.IntRange(2, 20), default=3, show_default=True, help="How many.")
@click.option("--seconds", type=click.FloatRange(min=1), default=10, show_default=True, help="How long edits go on.")
@json_option
def command(directory: Path | None, nodes: int, seconds: float, as_json: bool) -> int:
    """Shows a network of its own at work: edits at every node at once, collisions among them; then proves that the
    nodes agree. Exit 0 only if they do."""
    from node import demo

    code: int = demo.run(directory, nodes, seconds, as_json)
    return code

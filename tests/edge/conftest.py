"""Networks of real processes; each test's, or each module's, own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.network import TestNetwork

MakeNetwork = Callable[..., TestNetwork]


@pytest.fixture
def make_network(tmp_path: Path) -> Iterator[MakeNetwork]:
    """Makes a network below the test's folder; all that it starts ends with the test."""
    made: list[TestNetwork] = []

    def make(*arguments: object, **settings: object) -> TestNetwork:
        folder = tmp_path / f"network-{len(made)}"
        folder.mkdir()
        made.append(TestNetwork(folder, *arguments, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for network in made:
        network.close()

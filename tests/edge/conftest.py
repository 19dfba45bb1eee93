"""Networks of real processes; each test's, or each module's, own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.network import TestNetwork

MakeNetwork = Callable[..., TestNetwork]


@pytest.fixture(autouse=True, scope="session")
def _interrupts() -> Iterator[None]:
    """Programs can be interrupted, also where the tests run in the background of a shell, which ignores that for them
    and for all that they start."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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

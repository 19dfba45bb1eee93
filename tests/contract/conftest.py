"""Every database keeps the same promises: what uses `world` or `worlds` runs on each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.store_world import StoreWorld, new_world

DIALECTS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(params=DIALECTS)
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], StoreWorld]]:
    """Makes a fresh node of a code, with the tables of store_world, not installed yet."""
    with ExitStack() as stack:

        def make(code: str) -> StoreWorld:
            world = new_world(request.param, code, tmp_path)
            stack.callback(world.close)
            return world

        yield make


@pytest.fixture
def world(worlds: Callable[[str], StoreWorld]) -> StoreWorld:
    """Node 00, installed on empty tables, its store started with the neighbours 01 and 02."""
    made = worlds("00")
    made.install()
    made.start("01", "02")
    return made

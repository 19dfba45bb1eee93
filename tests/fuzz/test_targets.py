"""The targets of the fuzzer, a little, in every `make test`: without the fuzzer, by its way of altering."""

from __future__ import annotations

import pytest

from tests.fuzz.mutating import altered
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_reads_its_examples_and_what_is_made_of_them(name: str) -> None:
    """Or `make fuzz` would begin from what is refused at once, and find nothing."""
    reads, examples, _ = TARGETS[name]
    for example in examples:
        reads(example)
        for seed in range(100):
            reads(altered(example, 4096, seed))

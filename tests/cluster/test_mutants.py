"""Each rule that keeps the network right is switched off in turn: the simulation has to notice every one."""

from __future__ import annotations

import pytest

from tests.cluster.mutants import RULES, SEEDS, Patch, first_missed_in
from tests.cluster.simulation import history


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_simulation_notices_that_a_rule_is_gone(rule: Patch) -> None:
    """Or it would prove nothing; and the same history has to go well with the rule."""
    seed = first_missed_in(rule)
    assert seed is not None, f"{SEEDS} histories went well without it"
    history(seed, **RULES[rule])

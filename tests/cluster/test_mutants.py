"""Each rule that keeps the network right is switched off in turn: the simulation has to notice every one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import dispatcher.applying
import dispatcher.delivery
import dispatcher.parking
import dispatcher.receiving
import dispatcher.review
import dispatcher.rights
import dispatcher.settling
from dispatcher.settling import Relation
from node.databases.sqlite import folding, receiving, sending
from tests.cluster.simulation import history

SEEDS = range(80)
look_again = sending.SqliteSendingView.look_again

Patch = Callable[[pytest.MonkeyPatch], None]


def without_journal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(receiving.SqliteReceivingView, "journal", lambda self, collisions: None)


def without_tie_break(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.applying, "incoming_wins", lambda *_, **__: True)


def without_telling_repeats(patch: pytest.MonkeyPatch) -> None:
    relation = dispatcher.settling.relation

    def all_new(*arguments: Any) -> Relation:
        found = relation(*arguments)
        return Relation.SUCCESSOR if found is Relation.REPEAT else found

    patch.setattr(dispatcher.applying, "relation", all_new)


def without_reference_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.parking.Parking, "_last_resort", lambda self, parked: False)


def without_retrying(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.parking.Parking, "retry", lambda self: False)


def without_resync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.receiving.Link, "_note_gap", lambda self, text: None)


def recorded_before_the_bus_has_it(patch: pytest.MonkeyPatch) -> None:
    hand_over = dispatcher.delivery.Delivery.hand_over

    def recorded_first(self: Any, parcels: Any, *rest: Any) -> bool:
        self._store.record_sent([parcel.sent for parcel in parcels if parcel.letters])
        return hand_over(self, parcels, *rest)

    patch.setattr(dispatcher.delivery.Delivery, "hand_over", recorded_first)


def versions_of_the_clock_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folding, "_VERSIONS", re.sub(r"ELSE max\(f\.at.* END,", "ELSE f.at END,", folding._VERSIONS))


def without_looking_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.rights.Rights, "review_again", lambda self, view, links: False)


def without_dependants_that_follow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.rights.Rights, "_follow", lambda *_, **__: False)


def without_following_what_a_child_sends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        sending.SqliteSendingView, "look_again", lambda *arguments: look_again(*arguments)._replace(owners=())
    )


def everywhere_what_is_limited(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.review, "_by_rules", lambda item, node, *_: frozenset(node.children))


MUTANTS: dict[Patch, dict[str, bool]] = {
    without_journal: {},
    without_tie_break: {},
    without_telling_repeats: {},
    without_reference_wins: {},
    without_retrying: {},
    without_resync: {"losses": True},
    recorded_before_the_bus_has_it: {},
    versions_of_the_clock_alone: {},
    without_looking_again: {"rights": True},
    without_dependants_that_follow: {"rights": True},
    without_following_what_a_child_sends: {"rights": True},
    everywhere_what_is_limited: {"rights": True},
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulation_notices_that_a_rule_is_gone(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would prove nothing."""
    mutant(monkeypatch)
    for seed in SEEDS:
        try:
            history(seed, **MUTANTS[mutant])
        except Exception:
            return
    pytest.fail(f"{len(SEEDS)} histories went well without it")

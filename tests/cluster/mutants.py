"""The rules that keep the network right (correctness.md), each with what takes it away from the real code.

    RULES: what takes the rule away -> the options of histories in which it must be missed

`python -m tests.cluster.mutants` says for each in which history it is missed first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

import dispatcher.applying
import dispatcher.closure
import dispatcher.delivery
import dispatcher.grouping
import dispatcher.parking
import dispatcher.receiving
import dispatcher.review
import dispatcher.rights
import dispatcher.sending
import dispatcher.settling
from dispatcher.grouping import Group
from dispatcher.ports import HistoryPortion, Life
from dispatcher.review import Facts
from dispatcher.settling import Relation
from node import identity, recovering
from node.databases.sqlite import folding, receiving, sending, store
from node.databases.sqlite.database import SqliteDatabase
from schemas.errors import KodError
from schemas.stamp import Stamp
from serializers.message import read_message
from tests.cluster.mixture import CIRCLES, CLEARINGS, MOVES, ORDERS, SHELVES, TREES
from tests.cluster.simulation import MEMOS, history

SEEDS = 200

Patch = Callable[[pytest.MonkeyPatch], None]


def first_missed_in(rule: Patch, seeds: int = SEEDS) -> int | None:
    """The first history in which it shows that the rule is gone; None where it never does."""
    with pytest.MonkeyPatch.context() as patch:
        rule(patch)
        for seed in range(seeds):
            try:
                history(seed, **RULES[rule])
            except (AssertionError, KodError):  # anything else is a mutant that does not work
                return seed
    return None


# --- versions


def monotone_stamps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folding, "_VERSIONS", re.sub(r"ELSE max\(f\.at.* END,", "ELSE f.at END,", folding._VERSIONS))


def own_versions_in_the_history(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folding, "_VERSIONS", re.sub(r", coalesce\(json_extract.*\+ 1\) END,", ") END,", folding._VERSIONS))


def tie_break(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.applying, "incoming_wins", lambda *_, **__: True)


def link_side_for_parent(patch: pytest.MonkeyPatch) -> None:
    wins = dispatcher.settling.incoming_wins
    patch.setattr(
        dispatcher.applying,
        "incoming_wins",
        lambda policy, *versions, from_parent: (
            True if policy == "parent" else wins(policy, *versions, from_parent=True)
        ),
    )


def repeats(patch: pytest.MonkeyPatch) -> None:
    relation = dispatcher.settling.relation

    def all_new(*arguments: Any) -> Relation:
        found = relation(*arguments)
        return Relation.SUCCESSOR if found is Relation.REPEAT else found

    patch.setattr(dispatcher.applying, "relation", all_new)


def dot_tests(patch: pytest.MonkeyPatch) -> None:
    """Whole vectors are compared instead."""

    def by_vectors(local: Any, origin: str, incoming: Any, seen: Mapping[str, Stamp]) -> Relation:
        version = dispatcher.settling.local_version(local, origin) if local is not None else None
        if local is None or version is None:
            return Relation.NEW
        ours = {**local.seen, version.origin: version.stamp}
        theirs = {**seen, incoming.origin: incoming.stamp}
        if all(stamp <= ours.get(node, -1) for node, stamp in theirs.items()):
            return Relation.REPEAT
        if all(stamp <= theirs.get(node, -1) for node, stamp in ours.items()):
            return Relation.SUCCESSOR
        return Relation.CONCURRENT

    patch.setattr(dispatcher.applying, "relation", by_vectors)


def seen_grows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.applying, "merged_seen", lambda winner, seen, other, other_seen: dict(seen))


def journal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(receiving.SqliteReceivingView, "journal", lambda self, collisions: None)


def tombstones(patch: pytest.MonkeyPatch) -> None:
    local = receiving.SqliteReceivingView._local

    def forgetful(self: Any, items: Sequence[Any]) -> Any:
        return {item: here for item, here in local(self, items).items() if here.exists}

    patch.setattr(receiving.SqliteReceivingView, "_local", forgetful)


# --- selection and sending


def selection_by_commit_order(patch: pytest.MonkeyPatch) -> None:
    """By the stamp, from the review boundary."""
    portion = sending.SqliteSendingView.portion

    def by_stamp(self: Any, after: int, items_max: int) -> Any:
        (boundary,) = self._connection.execute("SELECT coalesce(boundary, -1) FROM kod_node").fetchone()
        return [change for change in portion(self, after, items_max) if change.version.stamp > boundary]

    patch.setattr(sending.SqliteSendingView, "portion", by_stamp)


def rising_sessions(patch: pytest.MonkeyPatch) -> None:
    opened = sending.SqliteSendingView.open_session

    def by_the_clock(self: Any, now: Stamp, sessions: int = 1) -> Stamp:
        opened(self, now, sessions)
        return now

    patch.setattr(sending.SqliteSendingView, "open_session", by_the_clock)


def recorded_after_the_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    hand_over = dispatcher.delivery.Delivery.hand_over

    def recorded_first(self: Any, parcels: Any, *rest: Any) -> bool:
        self._store.record_sent([parcel.sent for parcel in parcels if parcel.letters])
        return hand_over(self, parcels, *rest)

    patch.setattr(dispatcher.delivery.Delivery, "hand_over", recorded_first)


def recorded_for_each_addressee(patch: pytest.MonkeyPatch) -> None:
    """Where one of them has got it, it is recorded for all."""

    def for_all(self: Any, parcels: Any, plan: Any, started: Stamp) -> bool:
        arrived = [self.publish(parcel.sent.node, parcel.letters) for parcel in parcels]
        self._record([(parcel, started) for parcel in parcels] if any(arrived) else [])
        return any(arrived)

    patch.setattr(dispatcher.delivery.Delivery, "hand_over", for_all)


def marked_again_stays(patch: pytest.MonkeyPatch) -> None:
    """What was marked again while it was sent counts as sent."""
    record = store.SqliteStore._record

    def up_to_now(self: Any, connection: Any, sent: Any) -> None:
        (top,) = connection.execute("SELECT top_mark FROM kod_node").fetchone()
        record(self, connection, replace(sent, position=max(top, sent.position)))

    patch.setattr(store.SqliteStore, "_record", up_to_now)


def holders_before_emission(patch: pytest.MonkeyPatch) -> None:
    """They are noted when the session is recorded."""
    noted: dict[int, list[Any]] = {}

    def hold(self: Any, holders: Mapping[str, Sequence[Any]]) -> None:
        rows = [(node, self._type_ids[i.type], i.key) for node, items in holders.items() for i in items]
        noted.setdefault(id(self._connection), []).extend(rows)

    record = store.SqliteStore._record

    def record_and_hold(self: Any, connection: Any, sent: Any) -> None:
        rows = noted.get(id(connection), [])
        now = [row for row in rows if row[0] == sent.node]
        noted[id(connection)] = [row for row in rows if row[0] != sent.node]
        connection.executemany("INSERT OR IGNORE INTO kod_presence (node, type, key, since) VALUES (?, ?, ?, 0)", now)
        record(self, connection, sent)

    start = store.SqliteStore.start

    def forget(self: Any, *neighbours: Any) -> None:
        start(self, *neighbours)
        noted.pop(id(self._writer), None)  # as a process that died forgets

    patch.setattr(sending.SqliteSendingView, "hold", hold)
    patch.setattr(store.SqliteStore, "_record", record_and_hold)
    patch.setattr(store.SqliteStore, "start", forget)


def stickiness(patch: pytest.MonkeyPatch) -> None:
    """Who holds an item gets its changes only while the rules say so."""
    facts_of = dispatcher.rights.facts_of

    def without_holders(*arguments: Any) -> Facts:
        return replace(facts_of(*arguments), holders={})

    patch.setattr(dispatcher.rights, "facts_of", without_holders)


def closure(patch: pytest.MonkeyPatch) -> None:
    complete = dispatcher.closure.complete

    def as_selected(items: Any, ties_of: Any, **options: Any) -> Any:
        return replace(complete(items, ties_of, **options), drawn=())

    patch.setattr(dispatcher.sending, "complete", as_selected)


def together_what_refers_to_each_other(patch: pytest.MonkeyPatch) -> None:
    group = dispatcher.grouping.group
    patch.setattr(dispatcher.sending, "group", lambda items, ties, *rest, **options: group(items, (), *rest, **options))


def item_once_a_session(patch: pytest.MonkeyPatch) -> None:
    group = dispatcher.grouping.group

    def twice(items: Any, *rest: Any, **options: Any) -> Any:
        phases = group(items, *rest, **options)
        return [[*phase, Group(phase[0].items[:1], phase[0].size_bytes)] for phase in phases]

    patch.setattr(dispatcher.sending, "group", twice)


def echo_rule(patch: pytest.MonkeyPatch) -> None:
    review = dispatcher.sending.review

    def whatever_its_source(changes: Any, *rest: Any) -> Any:
        return review([change._replace(source=None) for change in changes], *rest)

    patch.setattr(dispatcher.sending, "review", whatever_its_source)


def deletion_order(patch: pytest.MonkeyPatch) -> None:
    """Parents before children."""
    phases = dispatcher.grouping._deletion_phases

    def parents_first(deletions: Any, sizes: Any, limits: Any, rank: Any) -> Any:
        return phases(deletions, sizes, limits, lambda name: -rank(name))

    patch.setattr(dispatcher.grouping, "_deletion_phases", parents_first)


def deletions_wait_for_the_rest(patch: pytest.MonkeyPatch) -> None:
    take = dispatcher.sending.Load.take
    patch.setattr(dispatcher.sending.Load, "take", lambda self, changes, *, whole: take(self, changes, whole=True))


def one_sequence_an_addressee(patch: pytest.MonkeyPatch) -> None:
    """A session names a predecessor that another one has named already."""
    of = dispatcher.delivery.Plan.of

    def as_recorded(self: Any, link: Any) -> Any:
        return replace(of(self, link), last_session=link.last_session)

    patch.setattr(dispatcher.delivery.Plan, "of", as_recorded)
    patch.setattr(dispatcher.delivery, "FOLLOWED_ITEMS_MIN", 0)  # where small parcels, too, are followed at once


# --- receiving


def position_with_the_data(patch: pytest.MonkeyPatch) -> None:
    """In a transaction of its own, before."""
    apply = dispatcher.receiving.Link._apply

    def position_first(self: Any, arrived: Any, completing: Any, *rest: Any) -> None:
        incarnation = arrived.read().header.incarnation
        with self.store.receiving(self.sender, forward=self.node.forwards, limited=self._limited) as view:
            view.received(self._received(arrived, incarnation, completing))
        apply(self, arrived, completing, *rest)

    patch.setattr(dispatcher.receiving.Link, "_apply", position_first)


def answer_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(receiving.SqliteReceivingView, "answer_back", lambda *_: None)


def parking_instead_of_dropping(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(receiving.SqliteReceivingView, "park", lambda *_, **__: None)


def blocked_deletions_wait(patch: pytest.MonkeyPatch) -> None:
    """They are dropped."""
    park = receiving.SqliteReceivingView.park

    def only_others(self: Any, letter: Any, *rest: Any, **options: Any) -> None:
        if any(item.value is not None for item in read_message(letter.payload).items):
            park(self, letter, *rest, **options)

    patch.setattr(receiving.SqliteReceivingView, "park", only_others)


def retrying(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.parking.Parking, "retry", lambda self: False)


def joint_retry(patch: pytest.MonkeyPatch) -> None:
    attempt = dispatcher.parking.Parking._try

    def one_by_one(self: Any, parked: Any, **options: Any) -> bool:
        return len(parked) == 1 and attempt(self, parked, **options)

    patch.setattr(dispatcher.parking.Parking, "_try", one_by_one)


def reference_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.parking.Parking, "_last_resort", lambda self, parked: False)


def no_forcing_while_catching_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.parking.Parking, "catching_up", lambda *_: None)


# --- loss


def after_chain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.receiving.Link, "_look_for_gap", lambda *_: None)


def resync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.receiving.Link, "_note_gap", lambda self, text: None)


def heartbeat(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.sending.Sender, "ask_heartbeat", lambda self: None)


# --- lives


def incarnation(patch: pytest.MonkeyPatch) -> None:
    """A restored database goes on as it was."""
    begin_life = SqliteDatabase.begin_life

    def the_old_one(self: Any, life: Life, *, links: bool) -> None:
        begin_life(self, Life(self.standing().life.incarnation, life.session), links=links)

    patch.setattr(SqliteDatabase, "begin_life", the_old_one)


def what_came_from_a_lost_life_proves_nothing(patch: pytest.MonkeyPatch) -> None:
    """Who sent an item before it lost its database is taken to have it."""
    restart_asked = store.SqliteStore.restart_asked
    patch.setattr(store.SqliteStore, "restart_asked", lambda self, node, *, lost: restart_asked(self, node, lost=False))


def what_comes_late_from_a_lost_life_proves_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(receiving.SqliteReceivingView, "doubt", lambda *_: None)


def resync_at_first_sight(patch: pytest.MonkeyPatch) -> None:
    """A new incarnation is not sent everything before it asks for it; and nobody asks."""
    restart_asked = store.SqliteStore.restart_asked

    def when_asked(self: Any, node: str, *, lost: bool) -> None:
        if not lost:
            restart_asked(self, node, lost=lost)

    patch.setattr(store.SqliteStore, "restart_asked", when_asked)
    patch.setattr(recovering, "ask", lambda *_: None)


def orphans(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.parking.Parking, "_journal_orphans", lambda *_, **__: False)


def crossed_versions_are_settled(patch: pytest.MonkeyPatch) -> None:
    """Each of two that have seen the other is a repeat."""
    patch.setattr(dispatcher.applying, "_uncrossed", lambda *_: Relation.REPEAT)


def a_database_that_is_too_old_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(identity, "age_fault", lambda *_: None)
    patch.setattr(identity, "_bus_fault", lambda *_: None)


def a_database_elsewhere_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(identity, "place_fault", lambda *_: None)


# --- history


def history_of_what_was_there(patch: pytest.MonkeyPatch) -> None:
    """Cursors pass everything and send nothing."""
    nothing = HistoryPortion([], None, 0)
    patch.setattr(sending.SqliteSendingView, "history", lambda self, *_, **__: nothing)


# --- rights and owners


def looking_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.rights.Rights, "review_again", lambda self, view, links: False)


def dependants_follow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.rights.Rights, "_follow", lambda *_, **__: False)


def following_what_a_child_sends(patch: pytest.MonkeyPatch) -> None:
    look_again = sending.SqliteSendingView.look_again
    patch.setattr(
        sending.SqliteSendingView, "look_again", lambda *arguments: look_again(*arguments)._replace(owners=())
    )


def only_where_the_rules_say(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher.review, "_by_rules", lambda item, node, *_: frozenset(node.children))


RULES: dict[Patch, dict[str, Any]] = {
    monotone_stamps: {},
    own_versions_in_the_history: {"writes": SHELVES},
    tie_break: {},
    link_side_for_parent: {},
    repeats: {},
    dot_tests: {"deletions": False},
    seen_grows: {"writes": SHELVES, "steps": 120},
    journal: {},
    tombstones: {"writes": ORDERS},
    selection_by_commit_order: {},
    rising_sessions: {},
    recorded_after_the_acknowledgement: {},
    recorded_for_each_addressee: {"cuts": True},
    marked_again_stays: {},
    holders_before_emission: {"writes": MEMOS},
    stickiness: {"writes": MEMOS},
    closure: {"deletions": False},
    together_what_refers_to_each_other: {"deletions": False},
    item_once_a_session: {},
    echo_rule: {},
    deletions_wait_for_the_rest: {"one_writer": True, "crashes": False, "writes": MOVES, "steps": 160},
    deletion_order: {"one_writer": True, "crashes": False, "writes": TREES},
    one_sequence_an_addressee: {"losses": True},
    position_with_the_data: {},
    answer_back: {"writes": MEMOS},
    parking_instead_of_dropping: {"writes": ORDERS},
    blocked_deletions_wait: {"writes": ORDERS},
    retrying: {"writes": ORDERS},
    joint_retry: {"writes": CIRCLES},
    reference_wins: {"writes": ORDERS},
    no_forcing_while_catching_up: {"one_writer": True, "losses": True, "writes": CLEARINGS},
    after_chain: {"losses": True},
    resync: {"losses": True},
    heartbeat: {"losses": True, "crashes": False, "steps": 30},
    history_of_what_was_there: {"joins": True},
    looking_again: {"rights": True},
    dependants_follow: {"rights": True},
    following_what_a_child_sends: {"rights": True},
    only_where_the_rules_say: {"rights": True},
    incarnation: {"lives": True},
    what_came_from_a_lost_life_proves_nothing: {"lives": True},
    what_comes_late_from_a_lost_life_proves_nothing: {"lives": True, "late": True},
    resync_at_first_sight: {"lives": True},
    orphans: {"lives": True, "writes": ORDERS},
    crossed_versions_are_settled: {"lives": True, "writes": SHELVES},
    a_database_that_is_too_old_is_refused: {"lives": True},
    a_database_elsewhere_is_refused: {"lives": True},
}


if __name__ == "__main__":
    for asked in RULES:
        if len(sys.argv) < 2 or asked.__name__ in sys.argv[1:]:
            print(f"{asked.__name__:40} {first_missed_in(asked)}", flush=True)

"""Settling: both ends come to the same without a conversation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ports import Local
from dispatcher.settling import (
    Relation,
    born_apart,
    from_the_future,
    has_seen,
    has_seen_all,
    incoming_wins,
    merged_seen,
    relation,
)
from schemas.stamp import Stamp
from serializers.message import Version

HERE = "00.1"


def version(stamp: int, origin: str) -> Version:
    return Version(Stamp(stamp), origin)


def local(stamp: int, origin: str, seen: dict[str, int] | None = None) -> Local:
    return Local(version(stamp, origin), {k: Stamp(v) for k, v in (seen or {}).items()}, exists=True)


def test_what_is_not_here_is_new() -> None:
    assert relation(None, HERE, version(5, "01.1"), {}) is Relation.NEW


def test_the_same_version_again_is_a_repeat() -> None:
    """Or a message that came twice would be applied twice."""
    assert relation(local(5, "01.1"), HERE, version(5, "01.1"), {}) is Relation.REPEAT


def test_a_version_that_the_local_one_has_seen_is_a_repeat() -> None:
    assert relation(local(9, HERE, {"01.1": 5}), HERE, version(4, "01.1"), {}) is Relation.REPEAT


def test_a_version_that_has_seen_the_local_one_succeeds_it() -> None:
    """Or every ordinary exchange of edits would be taken for a collision."""
    assert relation(local(5, HERE), HERE, version(9, "01.1"), {HERE: Stamp(5)}) is Relation.SUCCESSOR


def test_a_smaller_stamp_may_still_be_the_successor() -> None:
    """A node whose clock is behind edits what it has seen: that is no collision."""
    assert relation(local(100, HERE), HERE, version(7, "01.1"), {HERE: Stamp(100)}) is Relation.SUCCESSOR


def test_versions_that_have_each_seen_the_other_are_told_from_a_repeat() -> None:
    """Each would be answered with the other for ever."""
    assert relation(local(5, HERE, {"01.1": 9}), HERE, version(9, "01.1"), {HERE: Stamp(5)}) is Relation.CROSSED


def test_neither_has_seen_the_other_is_a_collision() -> None:
    assert relation(local(5, HERE), HERE, version(9, "01.1"), {}) is Relation.CONCURRENT


def test_a_row_without_a_stamp_is_never_overwritten_silently() -> None:
    """It counts as version (0, this node), which nobody else has seen."""
    unstamped = Local(None, {}, exists=True)
    assert relation(unstamped, HERE, version(9, "01.1"), {}) is Relation.CONCURRENT


versions = st.builds(version, st.integers(1, 50), st.sampled_from(["00.1", "01.1", "02.1"]))
seens = st.dictionaries(st.sampled_from(["00.1", "01.1", "02.1", "03.1"]), st.integers(0, 50).map(Stamp), max_size=3)


@given(versions, versions, seens, seens)
def test_both_ends_of_a_link_choose_the_same_winner(a: Version, b: Version, seen_a: dict, seen_b: dict) -> None:  # type: ignore[type-arg]
    """Or two nodes would keep different versions for ever."""
    if a == b:
        return
    one = incoming_wins("newest", a, b, from_parent=False)
    other = incoming_wins("newest", b, a, from_parent=True)
    assert one != other  # what wins as the incoming one here stays as the local one there
    at_parent = incoming_wins("parent", a, b, from_parent=False)
    at_child = incoming_wins("parent", b, a, from_parent=True)
    assert at_parent != at_child


@given(versions, versions, seens, seens)
def test_what_has_been_seen_only_grows(a: Version, b: Version, seen_a: dict, seen_b: dict) -> None:  # type: ignore[type-arg]
    """Or an old version could come back as a new one."""
    merged = merged_seen(a, seen_a, b, seen_b)
    assert a.origin not in merged
    for origin, stamp in (*seen_a.items(), *seen_b.items(), (b.origin, b.stamp)):
        assert origin == a.origin or merged[origin] >= stamp


def test_two_births_have_no_common_ancestor() -> None:
    """They are different items, if their key is one that databases invent."""
    assert born_apart(version(5, HERE), {}, version(9, "01.1"), {})
    assert born_apart(version(5, HERE), {"02.1": Stamp(3)}, version(9, "01.1"), {"03.1": Stamp(4)})


def test_versions_of_one_birth_have_a_common_ancestor() -> None:
    """What one origin writes is a chain: an origin in both histories is in the history of the item itself."""
    assert not born_apart(version(5, HERE), {}, version(9, "01.1"), {HERE: Stamp(3)})
    assert not born_apart(version(5, HERE), {"02.1": Stamp(3)}, version(9, "01.1"), {"02.1": Stamp(4)})
    assert not born_apart(version(5, "01.1"), {}, version(9, "01.1"), {})


def test_a_stamp_beyond_the_latest_is_of_the_future() -> None:
    """A clock that is wrong; to the millisecond."""
    assert not from_the_future(None, version(50, "01.1"), Stamp(50))
    assert from_the_future(None, version(51, "01.1"), Stamp(50))
    assert from_the_future(local(50, HERE), version(51, "01.1"), Stamp(50))


def test_an_item_that_is_ahead_already_is_not_cut_off() -> None:
    """Its changes cannot but bear larger stamps."""
    assert not from_the_future(local(51, HERE), version(52, "01.1"), Stamp(50))


def test_a_version_has_seen_itself_and_its_history() -> None:
    """A newer state takes the place of an older one that waits."""
    assert has_seen(version(9, "01.1"), {HERE: Stamp(5)}, version(9, "01.1"))
    assert has_seen(version(9, "01.1"), {HERE: Stamp(5)}, version(4, HERE))
    assert not has_seen(version(9, "01.1"), {HERE: Stamp(5)}, version(6, HERE))
    assert not has_seen(version(9, "01.1"), {}, version(1, "02.1"))


def test_a_successor_may_lack_what_the_local_version_has_beaten() -> None:
    """The parent's version had won against another of equal content; the child succeeds it without having met that one,
    which is on its way to it and, the parent's too, would beat it there."""
    successor = version(9, "02.1"), {"01.1": Stamp(5)}
    assert relation(local(5, "01.1", {"01.2": 5}), HERE, *successor) is Relation.SUCCESSOR
    assert not has_seen_all(*successor, {"01.2": Stamp(5)})
    assert has_seen_all(*successor, {"01.1": Stamp(5), "02.1": Stamp(8)})

"""A life that ended, and what is still on its way from it: the real flow, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.ports import Life
from node.identity import NodeFile
from schemas.errors import IdentityError
from schemas.topology import Topology
from tests.cluster.kept import connections
from tests.cluster.lives import Lives
from tests.cluster.simulation import CrashError, SimNode, World, put_customer, quiet_log


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two nodes, 00 and its child 01; nothing happens by itself."""
    with quiet_log(), connections():
        made = World(1, tmp_path, crashes=False, lives=True, tree=lambda _: Topology({"00": None, "01": "00"}))
        made.quiet = True
        yield made
        made.close()


def write(node: SimNode) -> None:
    node.tick(1)
    put_customer(node)


def die(*_: object) -> None:
    raise CrashError


def lives(world: World) -> Lives:
    assert world.lives is not None
    return world.lives


def lose_with_its_machine(world: World, node: SimNode) -> None:
    """The node's file goes with the database."""
    node.stop()
    NodeFile(lives(world).network, node.code).remove()
    lives(world).go_back(node)


def live_on(node: SimNode, neighbour: SimNode) -> None:
    """It writes, and all of that has come."""
    write(node)
    node.send_all()
    while neighbour.step("receive"):
        pass
    assert neighbour.contents()["customers"]


def test_what_comes_late_from_a_lost_life_is_given_back(world: World) -> None:
    """It lay on the bus while its sender lost its database; the new life, on a machine whose clock is behind, is met
    first. That the item came from there proves nothing any more: nobody else would bring it back."""
    top, child = world.nodes
    top.step("receive")
    write(child)
    child.send_all()
    world.settle()
    write(child)
    child.send_all()
    late = world.links["01", "00"].letters[:]
    assert late
    child.tick(-500_000)
    lives(world).go_back(child)
    world.links["01", "00"].letters.clear()
    child.send_all()
    while top.step("receive"):  # the new life is met
        pass
    while top.send_all():  # and offered everything
        pass
    world.links["01", "00"].letters.extend(late)
    world.settle()
    world.check()
    assert child.contents()["customers"]


def test_sessions_of_a_new_life_may_have_smaller_stamps(world: World) -> None:
    """The machine that replaced the lost one has a clock that is behind: what it sends is not late."""
    top, child = world.nodes
    write(child)
    child.send_all()
    world.settle()
    child.tick(-500_000)
    lives(world).go_back(child)
    child.send_all()
    child.application.execute("INSERT INTO customers (id, name) VALUES ('new', 'customer-01-99')")
    child.send_all()
    top.stop()  # also a receiver that was started again knows where the new life stands
    while top.step("receive"):
        pass
    assert "new" in {row[0] for row in top.contents()["customers"]}
    world.settle()
    world.check()


def test_a_database_that_hears_of_sessions_it_never_sent_does_not_go_on(world: World) -> None:
    """It was restored, its node's file too, and nobody said so."""
    top, child = world.nodes
    write(child)
    child.send_all()
    world.settle()
    known = top.store.incoming("01").completed
    assert known is not None
    child.application.execute("UPDATE kod_node SET last_session = ?", (known - 1,))
    top.ask_heartbeat()
    top.send_all()
    with pytest.raises(IdentityError, match="restored from a backup"):
        child.step_on("receive")
    child.stop()
    standing = child.open_database().standing()
    assert standing.told == Life(standing.life.incarnation, known)
    with pytest.raises(IdentityError, match="older than the node"):
        child.start()


def test_a_resync_ends_although_the_last_session_was_never_recorded(world: World) -> None:
    """The sender died after all of it had left. What it sends again covers that session; it does not remember it,
    and the receiver waited for it to say so: everything was sent again and again, ever more seldom."""
    top, child = world.nodes
    write(child)
    child.boot()
    child.store.record_sent = die  # type: ignore[method-assign]
    child.send_all()
    while top.step("receive"):
        pass
    assert top.store.incoming("01").completed is not None
    lives(world).back_up(top)
    lives(world).go_back(top)
    world.settle()
    world.check()


def test_two_lives_from_one_backup_have_two_names(world: World) -> None:
    """The clocks of both machines were behind, and what knew of the first life was lost with it: the second took its
    name, so its neighbour believed it to have what it had sent in the first, and gave nothing of it back."""
    top, child = world.nodes
    lives(world).back_up(child)
    child.tick(-500_000)
    lives(world).go_back(child)
    first = child.origin()
    live_on(child, top)
    lose_with_its_machine(world, child)
    assert child.origin() != first
    child.tick(600_000)  # the clock is set right
    world.settle()
    world.check()
    assert child.contents()["customers"]


def test_a_life_that_passes_for_an_earlier_one_hears_of_the_later_on_a_busy_link(world: World) -> None:
    """It was rebuilt on a machine whose clock is behind and asked for everything; its question was put away as one of
    a past life, and only a sign of life of an idle link would have said so."""
    top, child = world.nodes
    lives(world).back_up(child)
    began = child.clock.ms
    child.tick(100_000)
    lives(world).go_back(child)
    later = child.origin()
    live_on(child, top)
    world.settle()
    child.tick(began + 50_000 - child.clock.ms)
    lose_with_its_machine(world, child)
    assert child.origin() < later
    world.settle(beating=False)
    assert child.origin() > later
    world.check()
    assert child.contents()["customers"]

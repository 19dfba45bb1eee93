"""Whose life a database holds: what is let in, what is refused, and what it is told to do."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from dispatcher.ports import Life
from node.databases import Standing
from node.identity import NodeFile, Note, age_fault, next_life, place_fault
from schemas.errors import ConfigError, UnavailableError
from schemas.network import Network
from schemas.stamp import Stamp

LIFE = Life(1_763_800_000, Stamp(1_763_800_500_000))
LATER = Life(LIFE.incarnation, Stamp(LIFE.session + 1))
HERE, THERE = "/srv/01.sqlite, inode 7", "/tmp/01.sqlite, inode 8"
KEPT = Standing(LIFE, HERE, HERE, "retail")


def test_the_database_that_it_was_is_let_in() -> None:
    """With its file, without it, and when the file has not been written for a while."""
    for note in (None, Note(LIFE, HERE), Note(Life(LIFE.incarnation, Stamp(1)), HERE)):
        assert age_fault(KEPT, note, "01") is None
        assert place_fault(KEPT, note, "retail", "01") is None


def test_a_new_node_is_let_in() -> None:
    assert age_fault(Standing(LIFE, HERE), None, "01") is None
    assert place_fault(Standing(LIFE, HERE), None, "retail", "01") is None


def test_a_full_disk_is_no_fault_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager starts no daemon again whose configuration is wrong: one that began while the disk was full
    would stay down when there is room again."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    file = NodeFile(Network("retail", "folder:x", {}, tmp_path / "nodes.yaml", state=tmp_path), "01")
    with pytest.raises(UnavailableError, match="No space left"):
        file.write(Note(LIFE, HERE))


@pytest.mark.parametrize(
    ("standing", "note"),
    [
        (Standing(LIFE, THERE, HERE, "retail"), None),
        (Standing(LIFE, THERE, HERE, "retail"), Note(LIFE, HERE)),
        (Standing(LIFE, THERE, THERE, "retail"), Note(LIFE, HERE)),
    ],
    ids=["by the database", "by both", "by the file"],
)
def test_another_place_is_refused_with_both_ways_out(standing: Standing, note: Note | None) -> None:
    """A copy's daemon would take the live node's messages."""
    fault = place_fault(standing, note, "retail", "01")
    assert fault is not None
    assert "--moved" in fault.hint
    assert "--copy" in fault.hint
    assert HERE in fault.text


def test_another_network_is_refused() -> None:
    fault = place_fault(KEPT, None, "retail-test", "01")
    assert fault is not None
    assert "--copy" in fault.hint


@pytest.mark.parametrize(
    ("standing", "note"),
    [
        (KEPT, Note(LATER, HERE)),
        (KEPT, Note(Life(LIFE.incarnation + 1, Stamp(0)), HERE)),
        (Standing(LIFE, HERE, HERE, "retail", told=LATER), Note(LIFE, HERE)),
        (Standing(LIFE, HERE), Note(Life(LIFE.incarnation - 50, Stamp(3)), HERE)),
    ],
    ids=["sessions", "an earlier incarnation", "a neighbour knows more", "installed anew"],
)
def test_a_database_that_has_not_come_so_far_is_to_be_recovered(standing: Standing, note: Note) -> None:
    """It would give versions and sessions again that others know already."""
    fault = age_fault(standing, note, "01")
    assert fault is not None
    assert "kod recover --node 01" in fault.hint


@pytest.mark.parametrize("ahead_s", [0, 1, 50])
def test_a_new_life_bears_its_second(ahead_s: int) -> None:
    """And is later than all that is known of, were it recovered within the second of its install."""
    now = Stamp((LIFE.incarnation + ahead_s) * 1000)
    assert next_life([LIFE], now, random.Random(1)) == Life(LIFE.incarnation + max(ahead_s, 1), LIFE.session)


def test_where_the_clock_is_behind_two_lives_from_one_backup_differ() -> None:
    """Each would be the next after those that the backup knows of, and the second be taken for the first."""
    chance = random.Random(1)
    born = {next_life([LIFE], Stamp(0), chance).incarnation for _ in range(5)}
    assert len(born) == 5
    assert min(born) > LIFE.incarnation


def test_the_nodes_file_is_read_as_it_was_written_and_never_guessed(tmp_path: Path) -> None:
    """A broken file must not let a copy in."""
    file = NodeFile(Network("retail", "folder:x", {}, tmp_path / "nodes.yaml", state=tmp_path / "state"), "01")
    assert file.read() is None
    file.write(Note(LIFE, HERE))
    assert file.read() == Note(LIFE, HERE)
    assert file.path == tmp_path / "state" / "retail-01.json"
    file.path.write_text("{}")
    with pytest.raises(ConfigError, match="not what KOD wrote"):
        file.read()


def test_a_folder_that_may_not_be_written_is_said_at_once(tmp_path: Path) -> None:
    """Or a restored database would go unnoticed one day."""
    (tmp_path / "state").touch()
    file = NodeFile(Network("retail", "folder:x", {}, tmp_path / "nodes.yaml", state=tmp_path / "state"), "01")
    with pytest.raises(ConfigError) as error:
        file.write(Note(LIFE, HERE))
    assert "state:" in error.value.hint

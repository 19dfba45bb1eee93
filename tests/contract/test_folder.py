"""What only a folder can do to us: half-written files, strangers, links, a full disk, a share that is gone."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from node.buses.folder import FolderBus
from schemas.errors import InvariantError, UnavailableError
from schemas.stamp import digits
from tests.contract.letters import FIRST, names, receive, session

MINUTE = digits(FIRST)[:12]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "exchange"


@pytest.fixture
def sender(root: Path) -> FolderBus:
    return FolderBus(root, "retail", "00", ["01"])


@pytest.fixture
def receiver(root: Path) -> FolderBus:
    bus = FolderBus(root, "retail", "01", ["00"])
    bus.open({"00": None})
    return bus


@pytest.fixture
def link(root: Path) -> Path:
    return root / "retail" / "01" / "00"


def test_letters_lie_where_the_contract_says_and_go_when_they_are_done(
    sender: FolderBus, receiver: FolderBus, link: Path
) -> None:
    """Scripts look there; and a folder that only grows fills the disk."""
    sent = session("00", "01", 0)
    sender.publish("01", sent)

    assert {path.name: path.read_bytes() for path in (link / MINUTE).iterdir()} == {
        letter.name: letter.payload for letter in sent
    }
    receiver.done(receive(receiver, "00", 2))
    assert list(link.iterdir()) == []


def test_strangers_are_set_aside_and_block_nothing(sender: FolderBus, receiver: FolderBus, link: Path) -> None:
    """Whoever puts something else there must find it again; links must not lead the daemon elsewhere."""
    minute = link / MINUTE
    minute.mkdir(parents=True)
    other_minute, other_link, linked, piped = (
        session("00", "01", 120_000)[0].name,
        session("02", "01", 0)[0].name,
        session("00", "01", 1)[0].name,
        session("00", "01", 2)[0].name,
    )
    secret = link.parent / "secret"
    secret.write_text("{}")
    for name in ("notes.txt", other_minute, other_link, "00to01at20261118110640000-01.json", "я" * 127):
        (minute / name).write_text("a stranger")
    (link / "loose.json").write_text("a stranger")
    (minute / linked).symlink_to(secret)
    os.mkfifo(minute / piped)
    (minute / "folder.json").mkdir()
    sent = session("00", "01", 3)
    sender.publish("01", sent)

    received = receive(receiver, "00", 2)

    assert names(received) == names(sent)
    aside = {path.name for path in (link / "aside").iterdir() if not path.name.endswith(".reason")}
    assert {"notes.txt", other_minute, other_link, linked, piped, "loose.json", "folder.json"} <= aside
    assert (link / "aside" / "notes.txt").read_text() == "a stranger"
    assert "from 00 to 01" in (link / "aside" / f"{other_link}.reason").read_text()
    assert secret.exists()
    assert len(aside) == 9
    assert len(list((link / "aside").glob("*.reason"))) == 9


def test_a_name_that_is_set_aside_twice_is_kept_twice(receiver: FolderBus, link: Path) -> None:
    """Nothing that is set aside is ever deleted, by a later one of the same name neither."""
    for text in ("first", "second"):
        (link / MINUTE).mkdir(exist_ok=True)
        (link / MINUTE / "notes.txt").write_text(text)
        receiver.receive("00", letters_max=1)

    assert (link / "aside" / "notes.txt").read_text() == "first"
    assert (link / "aside" / "notes.txt-2").read_text() == "second"


def test_half_written_letters_are_neither_read_nor_kept(root: Path, receiver: FolderBus, link: Path) -> None:
    """A sender that was killed in the middle leaves them; its successor clears up, the receiver never looks."""
    (link / MINUTE).mkdir(parents=True)
    leftover = link / MINUTE / f".{session('00', '01', 0)[0].name}.tmp"
    leftover.write_text('{"message"')

    assert receiver.receive("00", letters_max=10) == []
    assert leftover.exists()
    FolderBus(root, "retail", "00", ["01"]).publish("01", session("00", "01", 1))
    assert not leftover.exists()


def test_letters_appear_when_they_are_durable_and_the_end_mark_last(
    sender: FolderBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a receiver could read half a file, or count messages that it does not see yet."""
    events: list[str] = []
    rename, fsync = os.rename, os.fsync

    def noted_rename(source: str, target: str, **folders: int) -> None:
        events.append(target)
        rename(source, target, **folders)

    def noted_fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        events.append("folder" if path.name == MINUTE else f"file {path.name}")
        fsync(fd)

    sender.publish("01", session("00", "01", 0))
    monkeypatch.setattr(os, "rename", noted_rename)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    one, two, end = names(letters := session("00", "01", 1, messages=2))

    sender.publish("01", letters)

    assert sorted(events[:3]) == [f"file .{name}.tmp" for name in (one, two, end)]
    assert events[3:] == [one, two, end, "folder"]


def test_a_full_disk_is_told_and_leaves_nothing_half(
    sender: FolderBus, receiver: FolderBus, link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session goes out again later, whole, once there is room."""
    sender.publish("01", session("00", "01", 0))
    receiver.done(receive(receiver, "00", 2))
    write = os.write

    def full(fd: int, rest: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UnavailableError) as caught:
        sender.publish("01", session("00", "01", 1))
    monkeypatch.setattr(os, "write", write)

    assert str(link) in caught.value.text
    assert "make room" in caught.value.hint
    assert [path for path in link.rglob("*") if path.is_file()] == []
    sender.publish("01", session("00", "01", 2))
    assert names(receive(receiver, "00", 2)) == names(session("00", "01", 2))


def test_a_share_that_is_gone_is_unavailable_until_it_is_back(
    sender: FolderBus, receiver: FolderBus, root: Path
) -> None:
    """Or letters would be written into the hole that the share left, acknowledged, and never seen again."""
    sender.publish("01", session("00", "01", 0))
    away = root.with_name("away")
    root.rename(away)

    with pytest.raises(UnavailableError, match="exchange"):
        sender.publish("01", session("00", "01", 1))
    with pytest.raises(UnavailableError, match="exchange"):
        receiver.receive("00", letters_max=1)
    assert not root.exists()
    away.rename(root)

    sender.publish("01", session("00", "01", 2))
    assert names(receive(receiver, "00", 4)) == names([*session("00", "01", 0), *session("00", "01", 2)])


def test_a_folder_that_vanishes_under_the_writer_is_made_again(
    sender: FolderBus, receiver: FolderBus, link: Path
) -> None:
    """The receiver removes empty folders of past minutes while the sender opens them."""
    ended = threading.Event()

    def remove() -> None:
        while not ended.wait(0.0005):
            receiver.backlog("00")  # a look removes empty folders
            try:
                (link / MINUTE).rmdir()
            except OSError:
                continue

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for number in range(50):
            letters = session("00", "01", number)
            sender.publish("01", letters)
            receiver.done(received := receive(receiver, "00", 2))
            assert names(received) == names(letters)
    finally:
        ended.set()
        remover.join()


def test_a_letter_of_another_link_is_our_fault(sender: FolderBus) -> None:
    """Names become paths, so what is no name of this link's is never joined to one."""
    (letter, _) = session("00", "02", 0)

    with pytest.raises(InvariantError):
        sender.publish("01", [letter])


def test_an_empty_link_costs_no_error(root: Path) -> None:
    """A receiver may look before its neighbour ever wrote, and after somebody has removed the empty folders."""
    receiver = FolderBus(root, "retail", "01", ["00"])
    receiver.open({"00": None})
    shutil.rmtree(root / "retail")

    assert receiver.receive("00", letters_max=10) == []
    assert receiver.backlog("00").messages == 0


def test_a_neighbour_that_is_away_finds_one_heartbeat(sender: FolderBus, receiver: FolderBus) -> None:
    """Or a link that is idle for weeks would fill its folder with files that all say the same."""
    for number in range(3):
        sender.publish("01", session("00", "01", number, messages=0))
    assert [letter.name for letter in receiver.receive("00", letters_max=10)] == names(
        session("00", "01", 2, messages=0)
    )

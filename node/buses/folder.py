"""The folder bus: letters as files that both neighbours reach.

    <bus>/<network>/<to>/<from>/<minute YYYYMMDDHHmm of the session>/<name>

Writing: a temporary name in the same folder, fsync, rename, fsync of the folder; a session's end mark is renamed
last, so that whoever sees it sees its messages. Reading: in the order of
(session, number); a file is removed when its letter is done, a minute's folder when it is empty.

Names are taken apart and rebuilt (serializers.message), never joined to a path from content; only regular files are
read, links are not followed. What is no message of its link is moved to `<bus>/<network>/<to>/<from>/aside/` with a
file `.reason` beside it, and blocks nothing. Names that begin with a dot are somebody's half-written files.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dispatcher.events import event
from dispatcher.ports import Backlog, Letter, Life
from node.buses.end_marks import END_MARK_BYTES_MAX, end_mark_of, life_of
from node.buses.noticing import Noticing
from node.buses.offers import Offers
from node.buses.skew import Skew, now_ms
from schemas.errors import InvariantError, MessageError, UnavailableError
from schemas.stamp import Stamp, digits
from serializers.message import Name, message_name, parse_name, read_header

log = logging.getLogger(__name__)

ASIDE = "aside"
WAIT_MIN_S = 0.0005
WAIT_MAX_S = 0.1
WAIT_GROWTH = 1.25
"""A wait looks every half millisecond while there is traffic, then less and less, ten times a second at rest; a look
costs about 80 µs a link."""

WAIT_NOTICING_S = 0.01
"""How often it looks at least where what comes is noticed at once: then that is needed in doubt only."""

ATTEMPTS_MAX = 100
"""How often a folder that vanishes under the writer is made again before that is called a fault."""

WRITTEN_AT_ONCE = 8

_syncing = ThreadPoolExecutor(WRITTEN_AT_ONCE - 1, thread_name_prefix="sync")

_MINUTE = re.compile(r"\d{12}", re.ASCII)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe of that name must not hold us up

_HINTS = {
    errno.ENOSPC: "the disk is full: make room; what was not acknowledged is sent again",
    errno.EDQUOT: "the quota is used up: make room; what was not acknowledged is sent again",
    errno.EACCES: "may the daemon's user read and write there?",
    errno.EPERM: "may the daemon's user read and write there?",
    errno.EROFS: "it is mounted read-only",
    errno.ENOENT: "is the share mounted?",
    errno.ENOTDIR: "something else than a folder lies there",
    errno.ELOOP: "a link lies there: links are not followed",
}


class FolderBus:
    """A node's end of a folder. Nothing is touched before the first call."""

    message_bytes_max = None
    """A file may be of any size: no message travels in parts, whose names would be one file's."""

    def __init__(self, root: Path, network: str, node: str, neighbours: Sequence[str]) -> None:
        self._root = Root(root)
        skew = Skew()
        self._outboxes = {n: Outbox(self._root, Path(network) / n / node, node, n, skew) for n in neighbours}
        self._inboxes = {n: Inbox(self._root, Path(network) / node / n, n, node) for n in neighbours}
        self._wait_s = WAIT_MIN_S
        self._noticing = Noticing(inbox.path for inbox in self._inboxes.values())
        self._offers = Offers()
        self._skew = skew

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        self._outboxes[to].publish(letters)

    def open(self, positions: Mapping[str, int | None]) -> None:
        """A folder needs no positions: what lies there is not applied. The links' own folders are made, so that
        rights that are missing show at the start."""
        for sender in positions:
            inbox = self._inboxes[sender]
            try:
                inbox.open()
            except UnavailableError as error:  # that link's trouble, not the others'
                event(log, logging.WARNING, "link unavailable", node=sender, error=error.text)

    def receive(self, sender: str, *, letters_max: int) -> Sequence[Letter]:
        self._offers.asked(sender)
        letters = self._inboxes[sender].take(letters_max)
        if letters:
            self._wait_s = self._wait_min_s
        return letters

    def rewind(self, sender: str, position: int | None) -> None:
        self._inboxes[sender].rewind()

    def done(self, letters: Sequence[Letter]) -> None:
        for sender, group in itertools.groupby(letters, key=lambda letter: letter.node):
            self._inboxes[sender].done([letter.name for letter in group])

    def set_aside(self, letter: Letter, reason: str) -> None:
        self._inboxes[letter.node].set_aside(letter.name, reason)

    def wait(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not self._offers.new(sender for sender, inbox in self._inboxes.items() if inbox.look()):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            if not self._noticing.wait(min(self._wait_s, left_s)):
                self._wait_s = min(self._wait_s * WAIT_GROWTH, WAIT_MAX_S)
        self._wait_s = self._wait_min_s

    @property
    def _wait_min_s(self) -> float:
        return WAIT_NOTICING_S if self._noticing.notices else WAIT_MIN_S

    def backlog(self, sender: str) -> Backlog:
        return self._inboxes[sender].backlog()

    def sent_up_to(self, to: str) -> Life | None:
        return self._outboxes[to].sent_up_to()

    def clock_ahead_ms(self) -> int | None:
        """By what the file system says of files just written: on a share, that is its server's clock."""
        return self._skew.ahead_ms

    def gap(self, sender: str) -> str | None:
        """Files are missed when a session's end mark says how many there were, not here."""
        return None

    def close(self) -> None:
        self._noticing.close()


class Root:
    """The bus's folder. It is made at the first use; if it is gone later, a share was unmounted, and nothing is
    written into the hole that it left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found = False

    def check(self) -> None:
        """Raises OSError when the folder is not there (any more)."""
        if self._found:
            os.stat(self.path)  # noqa: PTH116 - looked at for every letter
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._found = True

    def make(self, below: Path) -> Path:
        """The folder `below` the root, made durably where it is missing."""
        self.check()
        path = self.path
        for part in below.parts:
            with suppress(FileExistsError):
                (path / part).mkdir()
                _sync_folder(path)
            path = path / part
        return path


@contextmanager
def _reaching(path: Path) -> Iterator[None]:
    """Whatever the file system refuses becomes an UnavailableError that says where."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "is the disk or the share well?")
        raise UnavailableError(f"bus folder {path}: {error.strerror or error}", hint=hint) from error


def _sync_folder(path: Path) -> None:
    fd = os.open(path, _FOLDER)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _minute(session: Stamp) -> str:
    return digits(session)[:12]


def _this_minute() -> str:
    return _minute(Stamp(time.time_ns() // 1_000_000))


# --- writing --------------------------------------------------------------------------------------------------------


class Outbox:
    """The writing end of one link."""

    def __init__(self, root: Root, below: Path, node: str, to: str, skew: Skew) -> None:
        self._skew = skew
        self._root = root
        self._below = below
        self._node = node
        self._to = to
        self._path = root.path / below
        self._begun = False
        self._heartbeat: Name | None = None
        """The last letter, if it was a heartbeat."""
        self._lock = threading.Lock()

    def publish(self, letters: Sequence[Letter]) -> None:
        names = [self._name(letter) for letter in letters]
        with self._lock, _reaching(self._path):
            self._begin()
            for session, group in itertools.groupby(range(len(names)), key=lambda n: names[n].session):
                self._publish_session(session, {message_name(*names[n]): n for n in group}, letters)
            self._keep_one_heartbeat(names, letters)

    def sent_up_to(self) -> Life | None:
        """Only looks: nothing is made. What the neighbour takes away meanwhile is passed over."""
        with self._lock, _reaching(self._path):
            for minute in sorted(_entries(self._path), key=lambda entry: entry.name, reverse=True):
                if not _MINUTE.fullmatch(minute.name) or not minute.is_dir(follow_symlinks=False):
                    continue
                for name in sorted(filter(None, (parse_name(e.name) for e in _entries(minute.path))), reverse=True):
                    if (name.sender, name.to) == (self._node, self._to) and (life := self._life_of(name)) is not None:
                        return life
        return None

    def _life_of(self, name: Name) -> Life | None:
        with suppress(FileNotFoundError):
            payload = _read_regular(self._path / _minute(name.session) / message_name(*name))
            return life_of(payload) if payload is not None else None
        return None

    def _keep_one_heartbeat(self, names: Sequence[Name], letters: Sequence[Letter]) -> None:
        """Of heartbeats that nobody reads the last is enough: a neighbour may be away for weeks."""
        old, self._heartbeat = self._heartbeat, None
        if len(names) == 1 and _is_heartbeat(letters[0].payload):
            self._heartbeat = names[0]
            if old is not None:
                (self._path / _minute(old.session) / message_name(*old)).unlink(missing_ok=True)

    def _name(self, letter: Letter) -> Name:
        name = parse_name(letter.name)
        if name is None or (name.sender, name.to) != (self._node, self._to):
            raise InvariantError(f"{letter.name!r} is not the name of a message from {self._node} to {self._to}")
        return name

    def _begin(self) -> None:
        """At the first letter: nobody else writes here (a node has one daemon), so what is half-written was left by
        one that was killed. Only then, since a bus is also opened just to look."""
        if self._begun:
            return
        path = self._root.make(self._below)
        for folder in (path, *path.parents[: len(self._below.parts)]):
            _sync_folder(folder)  # whoever made it may not have lived to do so
        for leftover in path.glob("*/.*.tmp"):
            leftover.unlink(missing_ok=True)
        self._begun = True

    def _publish_session(self, session: Stamp, numbers: Mapping[str, int], letters: Sequence[Letter]) -> None:
        """Those of the letters that are of one session, by their names; the last is its end mark."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with self._open_minute(session) as (fd, made):
                    self._write_all(fd, numbers, letters, made=made)
                return
            except FileNotFoundError:  # the receiver removed the folder before the first letter was in it
                if attempt == ATTEMPTS_MAX:
                    raise

    @contextmanager
    def _open_minute(self, session: Stamp) -> Iterator[tuple[int, bool]]:
        """The minute's folder, and whether it was made just now (it is not durable then)."""
        minute = self._path / _minute(session)
        made = False
        try:
            fd = os.open(minute, _FOLDER)
        except FileNotFoundError:
            self._root.make(self._below)
            with suppress(FileExistsError):
                minute.mkdir()
            fd = os.open(minute, _FOLDER)
            made = True
        try:
            yield fd, made
        finally:
            os.close(fd)

    def _write_all(self, fd: int, numbers: Mapping[str, int], letters: Sequence[Letter], *, made: bool) -> None:
        written: list[str] = []
        try:
            for start in range(0, len(numbers), WRITTEN_AT_ONCE):
                names = list(numbers)[start : start + WRITTEN_AT_ONCE]
                written += names
                _write(fd, [(_temporary(name), letters[numbers[name]].payload) for name in names], self._skew)
            if made:  # now that it has something in it, nobody takes it away
                _sync_folder(self._path)
            for name in written:  # the end mark is the last
                _rename(fd, name)
            # One for all: if a crash of the machine keeps the end mark and loses a message, nothing of the session
            # was acknowledged, and it goes out again under a new stamp.
            os.fsync(fd)
        except OSError:
            for name in written:
                with suppress(OSError):
                    os.unlink(_temporary(name), dir_fd=fd)
            raise


def _is_heartbeat(payload: bytes) -> bool:
    """An end mark of an empty session that says nothing else but how far the other direction has come."""
    if len(payload) > END_MARK_BYTES_MAX:
        return False
    try:
        header = read_header(payload)
    except MessageError:
        return False
    return header.of == 0 and not header.extra.keys() - {"received", "confirmed"}


def _temporary(name: str) -> str:
    return f".{name}.tmp"


def _write(folder: int, files: Sequence[tuple[str, bytes]], skew: Skew) -> None:
    """Writes the files durably. They are synced side by side: the file system's journal takes them in together."""
    began_ms = now_ms()
    with ExitStack() as opened:
        descriptors = []
        for name, payload in files:
            fd = os.open(name, _WRITE, 0o666, dir_fd=folder)
            opened.callback(os.close, fd)
            descriptors.append(fd)
            rest = memoryview(payload)
            while rest:
                rest = rest[os.write(fd, rest) :]
        others = [_syncing.submit(os.fsync, fd) for fd in descriptors[1:]]
        try:
            os.fsync(descriptors[0])
        finally:
            wait(others)  # before anything is closed
        for other in others:
            other.result()
        skew.note(began_ms, os.fstat(descriptors[0]).st_mtime_ns // 1_000_000, now_ms())


def _rename(folder: int, name: str) -> None:
    os.rename(_temporary(name), name, src_dir_fd=folder, dst_dir_fd=folder)


# --- reading --------------------------------------------------------------------------------------------------------


class Inbox:
    """The reading end of one link."""

    def __init__(self, root: Root, below: Path, sender: str, node: str) -> None:
        self._root = root
        self._below = below
        self._sender = sender
        self._node = node
        self.path = root.path / below
        self._ready: deque[Name] = deque()
        """Found and not handed out yet, in order."""
        self._out: set[Name] = set()
        """Handed out and not done."""
        self._stuck: set[str] = set()
        """What could not even be set aside: left alone, and said once."""
        self._lock = threading.Lock()

    def open(self) -> None:
        with self._lock, _reaching(self.path):
            self._root.make(self._below)

    def take(self, letters_max: int) -> list[Letter]:
        letters: list[Letter] = []
        with self._lock, _reaching(self.path):
            self._find()
            while self._ready and len(letters) < letters_max:
                name = self._ready[0]
                payload = self._read(name)  # if this raises, the letter is still the next one
                self._ready.popleft()
                if payload is not None:
                    self._out.add(name)
                    letters.append(Letter(self._sender, message_name(*name), payload))
        return letters

    def look(self) -> bool:
        """Whether there is anything to hand out; False also when the folder cannot be reached: `take` says so."""
        with self._lock, suppress(OSError):
            self._find()
        return bool(self._ready)

    def rewind(self) -> None:
        with self._lock:
            self._ready.clear()
            self._out.clear()

    def done(self, names: Iterable[str]) -> None:
        with self._lock, _reaching(self.path):
            minutes = set()
            for text in names:
                name = self._own(text)
                if name is not None:
                    self._file(name).unlink(missing_ok=True)
                    self._out.discard(name)
                    minutes.add(_minute(name.session))
            for minute in minutes:
                self._remove_if_empty(minute)

    def set_aside(self, text: str, reason: str) -> None:
        name = self._own(text)
        if name is None:
            return
        with self._lock, _reaching(self.path):
            with suppress(FileNotFoundError):
                self._move_aside(self._file(name), reason)
            self._out.discard(name)
            self._remove_if_empty(_minute(name.session))

    def backlog(self) -> Backlog:
        messages, size_bytes, oldest_ms = 0, 0, None
        with self._lock, _reaching(self.path):
            for name in self._names():
                found = self._weigh(self._file(name))
                if found is None:
                    continue
                messages += 1
                size_bytes += found.st_size
                came_ms = found.st_mtime_ns // 1_000_000
                oldest_ms = came_ms if oldest_ms is None else min(oldest_ms, came_ms)
        return Backlog(messages, size_bytes, oldest_ms)

    def _weigh(self, path: Path) -> os.stat_result | None:
        """A waiting message's size and time; None for an end mark and for what is gone meanwhile."""
        with suppress(FileNotFoundError):
            found = path.lstat()
            small = found.st_size <= END_MARK_BYTES_MAX
            return None if small and end_mark_of(_read_regular(path) or b"") is not None else found
        return None

    # --- what is there ---

    def _find(self) -> None:
        """Fills `_ready` when it is empty.

        A listing may miss what is put there while it runs, and show what came after it. So nothing is taken that the
        first listing did not reach, and what the first one missed before that, the second one has.
        """
        if self._ready:
            return
        self._root.check()
        first = self._names() - self._out
        if first:
            last = max(first)
            self._ready.extend(sorted(name for name in self._names() - self._out if name <= last))

    def _names(self) -> set[Name]:
        """The messages of this link that are there; what does not belong there is set aside."""
        names: set[Name] = set()
        for entry in _entries(self.path):
            if entry.name == ASIDE or entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if _MINUTE.fullmatch(entry.name):
                    names.update(self._names_of_minute(entry))
            else:
                self._reject(Path(entry.path), "not in the folder of a minute")
        return names

    def _names_of_minute(self, folder: os.DirEntry[str]) -> Iterator[Name]:
        entries = [entry for entry in _entries(folder.path) if not entry.name.startswith(".")]
        if not entries:
            self._remove_if_empty(folder.name)
        for entry in entries:
            name = self._own(entry.name)
            if name is None:
                self._reject(Path(entry.path), f"not the name of a message from {self._sender} to {self._node}")
            elif _minute(name.session) != folder.name:
                self._reject(Path(entry.path), f"its session is not of the minute {folder.name}")
            elif not entry.is_file(follow_symlinks=False):
                self._reject(Path(entry.path), "not a regular file")
            else:
                yield name

    def _own(self, text: str) -> Name | None:
        name = parse_name(text)
        return name if name is not None and (name.sender, name.to) == (self._sender, self._node) else None

    def _file(self, name: Name) -> Path:
        return self.path / _minute(name.session) / message_name(*name)

    def _read(self, name: Name) -> bytes | None:
        """None when it has gone, or was exchanged for something that is no regular file."""
        path = self._file(name)
        try:
            payload = _read_regular(path)
        except FileNotFoundError:
            return None
        if payload is None:
            self._reject(path, "not a regular file")
        return payload

    def _remove_if_empty(self, minute: str) -> None:
        """Not in the minute itself: the sender would only have to make the folder again, durably."""
        if minute < _this_minute():
            with suppress(OSError):  # not empty, gone, or not ours to remove: it does no harm
                (self.path / minute).rmdir()

    # --- what does not belong there ---

    def _reject(self, path: Path, reason: str) -> None:
        if path.name in self._stuck:
            return
        try:
            self._move_aside(path, reason)
        except FileNotFoundError:
            return
        except OSError as error:
            self._stuck.add(path.name)
            event(log, logging.ERROR, "file cannot be set aside", file=path, reason=reason, error=error.strerror)
            return
        event(log, logging.ERROR, "file set aside", file=path, reason=reason)

    def _move_aside(self, path: Path, reason: str) -> None:
        aside = self._root.make(self._below / ASIDE)
        plain = os.fsdecode(os.fsencode(path.name)[:200])  # with its endings it stays within 255 bytes
        for attempt in itertools.count(1):
            target = aside / (plain if attempt == 1 else f"{plain}-{attempt}")
            if not os.path.lexists(target):
                break
        path.rename(target)
        target.with_name(f"{target.name}.reason").write_text(f"{reason}\n", encoding="utf-8")


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except FileNotFoundError:  # nothing has come yet, or the sender and we met over an empty folder
        return []


def _read_regular(path: Path) -> bytes | None:
    """None when something else than a regular file lies there."""
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        found = os.fstat(fd)
        return _read_all(fd, found.st_size) if stat.S_ISREG(found.st_mode) else None
    finally:
        os.close(fd)


def _read_all(fd: int, size: int) -> bytes:
    chunks = []
    while chunk := os.read(fd, max(size, 65536)):
        chunks.append(chunk)
    return b"".join(chunks)

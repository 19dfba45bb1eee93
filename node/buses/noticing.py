"""Notices at once what is put into folders, where the kernel tells (inotify, on this machine's own file systems). Over
a share, and on other systems, a wait only ends: who waits has to look all the same."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from dispatcher.events import event

if sys.platform == "linux":
    from inotify_simple import INotify, flags

    _PUT = flags.MOVED_TO | flags.ONLYDIR | flags.DONT_FOLLOW
    _MADE = _PUT | flags.CREATE

log = logging.getLogger(__name__)


class Noticing:
    """Waits for letters put into the given folders, and into those in them. One thread waits at a time; others who
    come meanwhile only sleep."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._links = tuple(folders)
        self._watches: dict[int, Path] = {}
        """Links by the kernel's number of them; minutes are not needed again."""
        self._kernel: INotify | None = None
        self._without = sys.platform != "linux"
        self.notices = False
        """A wait was ended by something that was put there: looking often is not needed."""

    def wait(self, timeout_s: float) -> bool:
        """Until something was put there, at most so long; whether it was."""
        if self._without:
            time.sleep(timeout_s)
            return False
        try:
            kernel = self._kernel or self._begin()
            self._watch_links(kernel)
            put = self._read(kernel, timeout_s)
        except OSError as error:  # the kernel gives no more of them: looking does
            self._without = True
            event(log, logging.INFO, "folders are looked at instead of watched", error=error.strerror)
            return False
        self.notices |= put
        return put

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()

    def _begin(self) -> INotify:
        self._kernel = INotify(nonblocking=True)
        return self._kernel

    def _watch_links(self, kernel: INotify) -> None:
        """Those that are not watched yet, or were taken away and made again."""
        watched = set(self._watches.values())
        for link in self._links:
            if link not in watched and (number := _watch(kernel, link, _MADE)) is not None:
                self._watches[number] = link
                for entry in os.scandir(link):
                    if entry.is_dir(follow_symlinks=False):
                        _watch(kernel, Path(entry.path), _PUT)

    def _read(self, kernel: INotify, timeout_s: float) -> bool:
        put = False
        for number, mask, _, name in kernel.read(timeout=int(timeout_s * 1000) + 1):
            if mask & flags.IGNORED:
                self._watches.pop(number, None)
                continue
            put = True
            if mask & flags.ISDIR and number in self._watches:
                _watch(kernel, self._watches[number] / name, _PUT)
        return put


def _watch(kernel: INotify, folder: Path, mask: int) -> int | None:
    """The kernel's number of the watch; None where no folder is."""
    try:
        return int(kernel.add_watch(folder, mask))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        raise

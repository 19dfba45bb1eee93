"""Deferring: work that hooks have put off, after the message that it came from.

    receive -> settle -> apply -> [ LATER ]

The queue is in the node's database: work is put into it in the transaction of its message, and taken out in the one in
which it is done. Each is by itself: what fails waits longer and longer, and holds up nothing.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from dispatcher.events import event
from dispatcher.hooks import Hooks
from dispatcher.ports import Clock, Deferred, Hooked, Store
from schemas.errors import ConflictError, MessageError
from schemas.stamp import Stamp

log = logging.getLogger(__name__)

RETRY_S = 5.0
RETRY_MAX_S = 600.0
WORKS_AT_ONCE = 100


class Deferring:
    """The deferred work of a node."""

    def __init__(self, store: Store, hooks: Hooks, clock: Clock) -> None:
        self._store = store
        self._hooks = hooks
        self._clock = clock
        self._tried: set[int] = set()
        """Of `once`."""

    def is_needed(self) -> bool:
        """Hooks may put work off, or have done so before they were changed."""
        if self._hooks.defers:
            return True
        with self._store.hooked() as hooked:
            return hooked.figures().deferred > 0

    def step(self, *, once: bool = False) -> bool:
        """Does what is due; whether anything was done. `once`: whatever there is, but each work only once."""
        with self._store.hooked() as hooked:
            items_max = WORKS_AT_ONCE + (len(self._tried) if once else 0)
            due = hooked.deferred(self._clock.now(), all_of_them=once, items_max=items_max)
        new = [work for work in due if not (once and work.id in self._tried)]
        if once:
            self._tried.update(work.id for work in new)
        done = [self._do(work) for work in new]
        return any(done)

    def _do(self, work: Deferred) -> bool:
        try:
            with ExitStack() as stack:
                opened: list[Hooked] = []

                def hooked() -> Hooked:
                    """Begins the transaction when it is first asked for."""
                    if not opened:
                        opened.append(stack.enter_context(self._store.hooked()))
                    return opened[0]

                self._hooks.work(hooked, work.type, work.text)
                hooked().done(work.id)
        except ConflictError:
            return False
        except MessageError as error:
            self._put_off(work, error)
            return False
        self._tried.discard(work.id)  # a number may be given again
        event(log, logging.DEBUG, "deferred work done", type=work.type, id=work.id)
        return True

    def _put_off(self, work: Deferred, error: MessageError) -> None:
        retry_s = min(RETRY_S * 2**work.attempts, RETRY_MAX_S)
        with self._store.hooked() as hooked:
            hooked.failed(work.id, error.text, Stamp(self._clock.now() + int(retry_s * 1000)))
        event(log, logging.WARNING, "deferred work failed", type=work.type, retry_in_s=retry_s, error=error.text)

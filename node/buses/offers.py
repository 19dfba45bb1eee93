"""What `wait` has told already: a link that stands still must not keep the others' waits from waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterable


class Offers:
    """Each waiting thread hears of a sender's letters once, and again when somebody has asked for them since."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._told = threading.local()

    def asked(self, sender: str) -> None:
        self._asked[sender] = self._asked.get(sender, 0) + 1

    def new(self, senders: Iterable[str]) -> bool:
        """Whether one of `senders`, who have letters, is news to this thread."""
        told: dict[str, int] = self._told.__dict__
        for sender in senders:
            asked = self._asked.get(sender, 0)
            if told.get(sender) != asked:
                told[sender] = asked
                return True
        return False

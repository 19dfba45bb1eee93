"""History: what a neighbour lacks of what was there already goes to it from fresh to old, behind live changes.

    a link begins (again)  ->  its position is the largest mark: live changes flow at once
                               a cursor walks what has a mark up to that one, by stamps downwards
    rights grow, or somebody asks (`kod history`)  ->  one more cursor, over what the neighbour is not known to have

    rows are stamped while links are there  ->  in each turn the freshest of them get marks, and go to all like changes

Each portion is a small session of its own in the addressee's one sequence; the cursor moves when it is recorded (T2).
Deletions are a second pass, from old to fresh, so that they overtake nothing that frees what they delete.

What a neighbour is known to have while its first cursor is open: what live changes brought (marks after the one at
which it joined), what the cursor has passed, what went ahead of it, and what came from the neighbour.

Pure: what goes when, and what has to be noted. `Sender` reads and sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from dispatcher.ports import Change, History, HistoryPhase, HistoryPortion, Joined, Outgoing, Passed, Place

ITEMS_MAX = 500
"""Of a portion while there is live traffic: a change that comes while it is applied has to wait for it."""
BYTES_PER_ITEM = 2_000
"""A portion of larger items has fewer of them."""

LIVE_FOR_MS = 5_000
"""Live changes within so long count as traffic that history must not be in the way of."""
REST = 2
"""While there is such traffic history rests this many times as long as its last portion took: most live changes then
meet nothing of it, at this node or at the next."""
STARVED_MS = 1_000
"""Live changes that never cease let a portion through this often."""


@dataclass(slots=True)
class Turns:
    """Whose portion is next, and when. `paced`: a daemon; without, everything goes as fast as it can."""

    paced: bool = False
    _live_at: int = -LIVE_FOR_MS
    _sent_at: int = 0
    _rest_until: int = 0
    _last: dict[str, int] = field(default_factory=dict)

    def may_go(self, now: int, *, live: bool) -> bool:
        """`live`: this step has sent live changes; they come first."""
        if live:
            self._live_at = now
        if not self.paced:
            return True
        starved = now - self._sent_at >= STARVED_MS
        return starved if live else starved or now >= self._rest_until

    def items_max(self, now: int, usual: int) -> int:
        return min(usual, ITEMS_MAX) if self._traffic(now) else usual

    def _traffic(self, now: int) -> bool:
        return now - self._live_at < LIVE_FOR_MS

    def went(self, now: int, took_ms: int) -> None:
        self._sent_at = now
        self._rest_until = now + REST * took_ms if self._traffic(now) else now

    def next(self, cursors: Sequence[History], nodes: Iterable[str]) -> list[History]:
        """One cursor of each link, its open ones in turn: a long one does not keep a short one waiting."""
        chosen = []
        for node in nodes:
            own = [cursor for cursor in cursors if cursor.node == node]
            if own:
                last = self._last.get(node, 0)
                cursor = next((c for c in own if c.id > last), own[0])
                self._last[node] = cursor.id
                chosen.append(cursor)
        return chosen


def cut(portion: HistoryPortion, taken: Sequence[Change]) -> HistoryPortion:
    """The portion ended after the first `taken` of what is lacking: more does not fit."""
    last = taken[-1]
    left = len(portion.lacking) - len(taken)
    return HistoryPortion(taken, Place(last.version.stamp, *last.item), portion.looked_at - left)


def passed(cursor: History, portion: HistoryPortion, *, sent: int, top: int) -> Passed:
    """How far the cursor is with this portion; `top`, the largest mark when it was read."""
    phase, bottom = cursor.phase, None
    if portion.place is None:
        phase = HistoryPhase(phase + 1)
        bottom = top if phase is HistoryPhase.BOTTOM else None
    return Passed(cursor.id, phase, portion.place, portion.looked_at, sent, bottom, cursor.joins)


def deletions_of(cursor: History) -> History:
    return replace(cursor, phase=HistoryPhase.DELETIONS, place=None)


def link_after(link: Outgoing, cursor: History, move: Passed) -> Outgoing:
    """The last portion makes whole what the neighbour has, and its session says so."""
    whole = cursor.joins and move.phase is HistoryPhase.BOTTOM and link.position >= (move.bottom or 0)
    return replace(link, catching_up=False) if whole else link


def cursor_after(cursor: History, move: Passed | None) -> History:
    if move is None or move.id != cursor.id:
        return cursor
    return replace(cursor, phase=move.phase, place=move.place, bottom=move.bottom)


def joined_after(joined: Joined | None, move: Passed | None) -> Joined | None:
    """What the link is known to have once the portion is recorded."""
    if joined is None or move is None or not move.joins:
        return joined
    if move.phase is HistoryPhase.ITEMS:
        return replace(joined, passed=move.place)
    return replace(joined, all_passed=True)


def out_of_turn(changes: Iterable[Change], joined: Joined | None, position: int) -> list[Change]:
    """Those that go before their turn, live or in history: noted, so that they do not go once more in it."""
    return [c for c in changes if c.mark > position or (joined is not None and _is_before(c, joined))]


def _is_before(change: Change, joined: Joined) -> bool:
    if change.mark > joined.mark:
        return False
    if change.gone:
        return True
    place = joined.passed
    return not (joined.all_passed or (place is not None and change.version.stamp > place.stamp))

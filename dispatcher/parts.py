"""Parts: what has come of messages that are too large for the bus and are not all here yet.

    publish ... bus ... -> [ PARTS -> receive -> settle -> apply ]

Only whole messages are received: until its last part is here a message is missing, like one that is lost. Bookkeeping
only; the letters stay the bus's until the message that they make is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dispatcher.ports import Letter
from schemas.stamp import Stamp
from serializers.message import Name, Part, put_together


@dataclass(slots=True)
class _Come:
    """`letters` are all that came, repeated ones included."""

    letters: list[Letter] = field(default_factory=list)
    payloads: dict[int, bytes] = field(default_factory=dict)


class Parts:
    """Of one link."""

    def __init__(self) -> None:
        self._come: dict[tuple[Name, int], _Come] = {}

    def add(self, name: Name, part: Part, letter: Letter) -> tuple[Letter, Sequence[Letter]] | None:
        """The message as one letter, and the letters that it came in, once they are all here, in whichever order.
        Raises MessageError when they do not make one."""
        come = self._come.setdefault((name, part.of), _Come())
        come.letters.append(letter)
        come.payloads[part.number] = letter.payload
        if len(come.payloads) < part.of:
            return None
        whole = put_together([come.payloads[number] for number in sorted(come.payloads)])
        del self._come[name, part.of]
        return Letter(letter.node, letter.name, whole, letter.position), come.letters

    def give_up(self, before: Stamp) -> list[Letter]:
        """What came of messages of sessions before this one: the rest of them does not come any more."""
        old = [key for key in self._come if key[0].session < before]
        return [letter for key in old for letter in self._come.pop(key).letters]

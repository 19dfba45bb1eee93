"""Letters: the messages of a session as the bus takes them, made when it asks for them.

    capture -> [ select -> review -> complete -> group -> split -> PUBLISH ] -> receive

Items are read and put into a message's text once; what differs between addressees is the header. A letter is made
anew each time it is asked for and not kept: what goes to forty neighbours is not in memory forty times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

from dispatcher.ports import Letter
from serializers.message import Header, body_bytes, payload_of, payloads
from serializers.signature import UNSIGNED, sign

HEADER_BYTES_MAX = 1000
"""More than a header's, so that it need not be written to know that a message is below a bus's limit."""


@dataclass(frozen=True, slots=True)
class Body:
    """A message's items, as text; all its addressees share it."""

    text: bytes
    items: int

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Body:
        return cls(body_bytes(texts), len(texts))


EMPTY = Body.of(())


class Letters(Sequence[Letter]):
    """To one neighbour. A message above `bytes_max` is several letters, its parts."""

    def __init__(
        self, node: str, messages: Sequence[tuple[Header, Body]], bytes_max: int | None, key: bytes | None = None
    ) -> None:
        """`key`: by which each letter is signed."""
        self._node = node
        self._key = key
        self._made: list[Letter | tuple[Header, Body]] = []
        for plain, body in messages:
            header = plain if key is None else replace(plain, extra={**plain.extra, "signature": UNSIGNED})
            if bytes_max is None or len(body.text) + HEADER_BYTES_MAX <= bytes_max or header.is_end_mark:
                self._made.append((header, body))
            else:
                parts = payloads(header, body.text, bytes_max)
                self._made += [self._letter(header, payload) for payload in parts]

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, index: int) -> Letter: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Letter]: ...

    def __getitem__(self, index: int | slice) -> Letter | Sequence[Letter]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        made = self._made[index]
        if isinstance(made, Letter):
            return made
        header, body = made
        return self._letter(header, payload_of(header, body.text))

    def _letter(self, header: Header, payload: bytes) -> Letter:
        return Letter(self._node, header.name, payload if self._key is None else sign(payload, self._key))

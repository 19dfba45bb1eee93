"""Hooks: what an installation overrides, type by type, as the flow asks for it.

    capture -> [ select -> REVIEW -> read -> TURN -> … publish ] -> receive -> [ TURN -> settle -> APPLY -> later ]

The flow asks only about types that are named in one of the sets; others never come here. What a hook does to an item on
its way between the node's form and the wire's is a step of dispatcher.turning. node.hooks has the authors' side.

A hook that raises, or gives nonsense, is a MessageError that names it: on receipt the message is parked, on sending
the item is held (`Found.faults`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from dispatcher.ports import Accepted, Hooked, ReceivingView, SendingView
from schemas.errors import InvariantError, MessageError
from serializers.keys import Item
from serializers.message import Version


@dataclass(frozen=True, slots=True)
class Found:
    """What hooks say of items: by `items` those of which they say something, by `faults` why others failed."""

    items: Mapping[Item, Any] = field(default_factory=dict)
    faults: Mapping[Item, str] = field(default_factory=dict)


class Side(NamedTuple):
    """One of two versions that collide; `value` is None where it is a deletion."""

    version: Version
    value: Mapping[str, Any] | None


class Hooks(Protocol):
    """Sets of types, and what is asked about items of these."""

    @property
    def owner(self) -> frozenset[str]: ...

    @property
    def addressees(self) -> frozenset[str]: ...

    @property
    def writes(self) -> frozenset[str]:
        """Types that hear of what is applied: before it is written, or after."""
        ...

    @property
    def defers(self) -> frozenset[str]: ...

    @property
    def settles(self) -> frozenset[str]: ...

    @property
    def unlike(self) -> frozenset[str]:
        """Types whose values bear properties here that the tables do not tell: two values with different ones are not
        the same."""
        ...

    def owners(self, view: SendingView, items: Sequence[Item]) -> Found:
        """Of each item that is there its owner; None where it has none."""
        ...

    def nodes(self, view: SendingView, items: Sequence[Item]) -> Found:
        """Of each item that is there the nodes at which it is to be seen, as an access table names them."""
        ...

    def before_write(self, view: ReceivingView, sender: str, accepted: Sequence[Accepted]) -> Sequence[Any]:
        """What `applied` has to be given, once they are written."""
        ...

    def applied(self, view: ReceivingView, sender: str, written: Sequence[Any]) -> None: ...

    def settle(
        self, view: ReceivingView, sender: str, item: Item, ours: Side, theirs: Side
    ) -> Mapping[str, Any] | None:
        """What both become, as a new version of this node; None: a deletion."""
        ...

    def work(self, hooked: Callable[[], Hooked], type_name: str, text: str) -> None:
        """Does work that a hook has put off; `hooked` begins the transaction of it."""
        ...


class NoHooks:
    """Nothing is overridden."""

    owner: frozenset[str] = frozenset()
    addressees: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    defers: frozenset[str] = frozenset()
    settles: frozenset[str] = frozenset()
    unlike: frozenset[str] = frozenset()

    def owners(self, view: SendingView, items: Sequence[Item]) -> Found:
        return Found()

    def nodes(self, view: SendingView, items: Sequence[Item]) -> Found:
        return Found()

    def before_write(self, view: ReceivingView, sender: str, accepted: Sequence[Accepted]) -> Sequence[Any]:
        return ()

    def applied(self, view: ReceivingView, sender: str, written: Sequence[Any]) -> None:
        """Nobody has to hear of it."""

    def settle(
        self, view: ReceivingView, sender: str, item: Item, ours: Side, theirs: Side
    ) -> Mapping[str, Any] | None:
        raise InvariantError(f"{item.type} has no hook that settles collisions")

    def work(self, hooked: Callable[[], Hooked], type_name: str, text: str) -> None:
        raise MessageError(f"{type_name} has no hook `deferred` any more", hint="put it back, or delete the work")


NO_HOOKS = NoHooks()

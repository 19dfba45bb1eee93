"""Hooks: what an installation overrides in Python, type by type. nodes.yaml names the file: `hooks: retail_hooks.py`.

    from node.hooks import Hooks, Reading, Value

    class Product(Hooks, type="Catalog.Product"):
        def on_write_to_message(self, value: Value, db: Reading) -> Value:
            return {**value, "name": value["name"].strip()}

One class for each type; only what it overrides is ever called, and types without a class pay nothing. A class has the
methods of `Hooks`, and helpers of its own whose names begin with an underscore. One object of it serves all threads of
the daemon: it keeps nothing between calls. docs/how-to/hooks.md has an example of each.

A hook that raises, or gives back what it must not, stops nothing: a message that it was asked about is parked with the
hook's name and the error, an item that was to go is held, and both are tried again. Reading and writing go through
`db`, in the transaction in which the hook is called.

    loading   the file, and all that is wrong with it
    bound     the classes as the flow asks for them (dispatcher.hooks, dispatcher.turning)
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

Value = dict[str, Any]
"""An item as `#value` has it: its properties in XML's lexical form; of a record set `Filter` and `Records`."""


class Reading(Protocol):
    """The database, as it is at this moment."""

    @property
    def node(self) -> str:
        """The code of this node."""
        ...

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a SELECT with parameters `:name`."""
        ...


class Writing(Reading, Protocol):
    """The database, and changes to it."""

    def execute(self, sql: str, /, **parameters: Any) -> int:
        """A change made at this node: what takes part in the exchange is stamped and travels, back to the sender too.
        How many rows were changed."""
        ...

    def execute_unstamped(self, sql: str, /, **parameters: Any) -> int:
        """Writes what belongs to items that have come and is kept elsewhere: nothing is stamped."""
        ...


class Applying(Writing, Protocol):
    """The transaction in which a message is applied."""

    @property
    def sender(self) -> str:
        """The neighbour that the message came from."""
        ...

    def defer(self, work: Any) -> None:
        """Has `deferred` called with this, which has to be JSON, after the message is committed."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """An item by its type and key: `Key("Document.Order", order_id=7)`."""

    type: str
    properties: Mapping[str, Any]

    def __init__(self, type_name: str, /, **properties: Any) -> None:
        object.__setattr__(self, "type", type_name)
        object.__setattr__(self, "properties", properties)


@dataclass(frozen=True, slots=True)
class Change:
    """An item of a message that is applied. What is changed in `value` has no effect."""

    key: Mapping[str, Any]
    """The key's properties."""
    value: Value | None
    """None where it is deleted."""
    before: Value | None
    """What was here before; None where there was nothing."""
    node: str
    """Where this version was made."""


@dataclass(frozen=True, slots=True)
class Version:
    """One side of a collision."""

    value: Value | None
    """None where the item is deleted."""
    stamp: str
    """17 digits, UTC."""
    node: str
    """Where it was made."""


@dataclass(frozen=True, slots=True)
class Collision:
    """Two versions that were made without having seen each other."""

    key: Mapping[str, Any]
    ours: Version
    theirs: Version

    @property
    def newest(self) -> Value | None:
        """What the policy `newest` would choose."""
        return max((self.ours, self.theirs), key=lambda one: (one.stamp, one.node)).value


@dataclass(frozen=True, slots=True)
class Source:
    """A table outside the type: a write to it stamps the item that the row belongs to.

    `Source("product_texts", product_id="product")`: the property product_id of the key is in the row's column product.
    A row that has NULL in one of them belongs to no item. `kod install` puts the triggers there.
    """

    table: str
    key: Mapping[str, str] = field(default_factory=dict)

    def __init__(self, table: str, /, **key: str) -> None:
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "key", key)


class Hooks:
    """What can be overridden for a type. As it stands here nothing is: it is never called."""

    type: ClassVar[str] = ""
    sources: ClassVar[Sequence[Source]] = ()
    """Tables outside the type whose writes stamp its items."""

    def __init_subclass__(cls, *, type: str = "", **more: Any) -> None:  # noqa: A002 - as authors write it
        """`type`: which type it is for. Without one a class is only there to be inherited from."""
        super().__init_subclass__(**more)
        cls.type = type

    # --- on the way

    def on_write_to_message(self, value: Value, db: Reading) -> Value:
        """What travels instead of the item as the tables have it. The key stays as it is. Of a deletion nothing is
        asked. `db` only reads."""
        return value

    def on_read_from_message(self, value: Value, db: Reading) -> Value:
        """What has come, as this node has it; asked before anything is decided, so it may be asked more than once, also
        about what is here already. The key stays as it is. `db` only reads."""
        return value

    # --- when it arrives

    def before_write(self, change: Change, db: Applying) -> None:
        """Before an item is written. Raising keeps its message from being applied. It cannot change the item."""

    def on_message_applied(self, changes: Sequence[Change], db: Applying) -> None:
        """After all of a message is written, in its transaction: all its items of this type that changed something."""

    def deferred(self, work: Any, db: Writing) -> None:
        """Work that was put off with `db.defer`, some time after its message. What it writes by `db` and that it is
        done are one transaction, which begins with its first statement; whatever else it does may be done twice. Where
        it raises it is tried again, at longer and longer intervals."""

    def settle_collision(self, collision: Collision, db: Applying) -> Value | None:
        """What both versions become; None: the item is deleted. Asked at the parent's end of a link alone; the result
        is a new version of the parent, and both versions are in the journal."""
        return collision.newest

    # --- where it goes

    def owner(self, value: Value, db: Reading) -> Key | None:
        """The item that this one follows, instead of what `owner` in nodes.yaml says; None: it is independent."""
        return None

    def addressees(self, value: Value, db: Reading) -> Iterable[str]:
        """The codes of the nodes at which the item is to be seen, instead of the rows of an access table. The parent
        gets everything, and what a node once got it keeps and is kept up to date."""
        return ()

    # --- what is known before anything moves

    def controlled_references(self) -> Mapping[str, bool]:
        """For every reference of the type, by property (`section.property`, several with commas), whether what it
        refers to has to be where the item is. One that the database checks always is."""
        return {}

    def date(self, value: Value, db: Reading) -> datetime.datetime | datetime.date | str | None:
        """By which an item that was there before КОД is stamped, instead of the column that `date` names."""
        return None

    def schema_exceptions(self) -> Iterable[str]:
        """Properties whose difference from the package is known and wanted."""
        return ()


NAMES = (
    "on_write_to_message",
    "on_read_from_message",
    "before_write",
    "on_message_applied",
    "deferred",
    "settle_collision",
    "owner",
    "addressees",
    "controlled_references",
    "date",
    "schema_exceptions",
)
"""Of all that can be overridden."""

__all__ = [
    "Applying",
    "Change",
    "Collision",
    "Hooks",
    "Key",
    "Reading",
    "Source",
    "Value",
    "Version",
    "Writing",
]

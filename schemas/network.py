"""What nodes.yaml says, once it has been checked: the network, its nodes, and what takes part in the exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from schemas.topology import Topology


@dataclass(frozen=True, slots=True)
class CompositeSettings:
    """Where values of several types are kept: a type column, and for each type the column of its values; or one column
    of JSON."""

    type_column: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    """Type -> column."""
    says: Mapping[str, str] = field(default_factory=dict)
    """Type -> what the type column has, where that is not the type's name."""
    json: str = ""
    types: tuple[str, ...] = ()
    """That a column of JSON may hold."""

    @property
    def all_types(self) -> tuple[str, ...]:
        return self.types or tuple(self.values)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.json,) if self.json else (self.type_column, *self.values.values())))


@dataclass(frozen=True, slots=True)
class LookupSettings:
    """A table whose rows are an enumeration's values: its keys are each node's own, the names are everybody's."""

    table: str
    name: str
    key: str | None = None
    """None: the primary key."""


@dataclass(frozen=True, slots=True)
class TypeSettings:
    """How one type takes part: its table and where it goes. Names of columns are the package's property names,
    save in `columns`, which maps properties to this node's columns."""

    name: str
    table: str
    takes_part: bool = True
    """False where a node's own exchange says `false`: it passes the type on, and does not keep it in a table."""
    reference_data: bool = False
    owner: tuple[str, ...] = ()
    access: str | None = None
    access_from: tuple[str, ...] = ()
    """Tables that `access` is made of, where the database cannot tell: when they change, rights may have."""
    view_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Where `table` is a view: the tables that it is made of, each with its columns that hold the item's key."""
    filter: tuple[str, ...] | None = None
    """None: an object. Empty: all rows of the table are one set (a constant)."""
    sections: Mapping[str, str] = field(default_factory=dict)
    section_order: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    collision: Literal["newest", "parent"] = "newest"
    date: str | None = None
    formerly: tuple[str, ...] = ()
    composite: Mapping[str, CompositeSettings] = field(default_factory=dict)
    """Properties that hold values of several types."""
    enums: Mapping[str, tuple[str, ...] | LookupSettings] = field(default_factory=dict)
    """Properties with the only values that they may have, or the table that has them."""
    predefined: str | None = None
    """The property that names items which every node has, under a key of its own."""
    exceptions: Mapping[str, str] = field(default_factory=dict)
    """Properties whose difference from the package is known and wanted, and why, where people say it."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """One node. Limits bear their units in their names."""

    code: str
    name: str
    parent: str | None
    database: str
    """SQLAlchemy's URL with ${VAR} still in it: it is filled in only for the node that is opened."""
    exchange: Mapping[str, TypeSettings] = field(default_factory=dict)
    """Every type of the network as this node has it."""
    send_streams_max: int = 4
    receive_streams_max: int = 4
    portion_items_max: int = 10_000
    message_items_max: int = 1_000
    message_bytes_max: int = 1_000_000
    stream_items_min: int = 100
    receive_portion_messages_max: int = 64
    clock_skew_max_s: int = 300
    heartbeat_s: int = 60
    signature_key: str | None = field(default=None, repr=False)
    """By which messages between this node and its parent are signed, with ${VAR} still in it."""
    signature_key_file: Path | None = None
    """The file that holds that key instead."""
    tombstones_kept_days: int | None = None
    """How long what was deleted is remembered at least; None: for ever."""
    identity: tuple[int, int] | None = None
    """(step, offset) of the keys that this node's database generates."""


@dataclass(frozen=True)
class Network:
    """nodes.yaml, checked."""

    name: str
    bus: str
    nodes: Mapping[str, NodeSettings]
    path: Path
    """Where the file lies: relative paths and state are beside it."""
    package: Path | None = None
    hooks: Path | None = None
    kafka: Mapping[str, str] = field(default_factory=dict)
    state: Path = Path(".kod")
    """The folder of the nodes' own files (node/identity.py)."""

    @property
    def topology(self) -> Topology:
        return Topology({code: node.parent for code, node in self.nodes.items()})

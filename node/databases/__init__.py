"""Databases that a node can live in: one folder each, the same file names in each.

    reflection   what tables there are                        -> schemas.tables
    lexical      a column's value in XML's lexical form, and back, as SQL
    capture      the triggers that stamp                      (kod install)
    rights       the triggers that note changes of rights, and what is looked at again for them
    registers    KOD's own tables, and their upgrades
    reading      items as JSON text
    writing      items from JSON
    sending      dispatcher.ports.SendingView
    receiving    dispatcher.ports.ReceivingView
    store        dispatcher.ports.Store
    dangling     (shared) references that lead nowhere
    hooked       (shared) dispatcher.ports.Hooked; in each folder, the way of its statements to the server
    naming       names under which all nodes know rows that each has under a key of its own
    stamped      (shared) marks of rows that are stamped while links are there
    parked       (shared) what is kept of a parked message beside its bytes
    database     Database: what install, check, status and the other commands need
    address      (shared) a database's URL

The drivers are used as they are, and statements are the dialect's own. A dialect is imported when a node lives in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from dispatcher.manifest import Went
from dispatcher.ports import Content, Figures, Life, Parked, SendingView, Store
from schemas.errors import ConfigError
from schemas.network import NodeSettings
from schemas.stamp import Stamp
from schemas.structure import Mismatch, Structure
from schemas.tables import Table
from serializers.keys import Item


@dataclass(frozen=True, slots=True)
class Installed:
    """What `kod install` did: texts for people, in the order in which it was done; empty when all was there."""

    done: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whose life a database says that it holds, and how far that has come (node/identity.py)."""

    life: Life
    place: str
    """Where this database is: what another one, or a copy of it, does not have."""
    kept_at: str | None = None
    """The place where a daemon last ran on it; None before the first, and while a new life has not been begun whole."""
    network: str | None = None
    """The network that it then belonged to."""
    told: Life | None = None
    """A further life of this node that a neighbour knows of: this database is older than that."""


@dataclass(frozen=True, slots=True)
class Held:
    """Since when, and by what, a neighbour holds an item."""

    since: Stamp | None
    """The session in which it went there; 0 when it came from there; None when it is not certain that it arrived."""
    drawn_by: str | None
    """Type and key of the item whose reference drew it along; None where the rules sent it."""


@dataclass(frozen=True, slots=True)
class Story:
    """What the registers know of one item, for `kod explain`."""

    exists: bool
    stamp: Stamp | None = None
    origin: str | None = None
    seen: Mapping[str, Stamp] | None = None
    mark: int = 0
    source: str | None = None
    gone: bool = False
    waiting_in_log: bool = False
    holders: Mapping[str, Held] = field(default_factory=dict)
    """Neighbours that hold it, or may; only of types that do not go everywhere."""
    pending_for: tuple[str, ...] = ()
    ahead_of: tuple[str, ...] = ()
    went: Mapping[str, Went] = field(default_factory=dict)
    """With which message this version went to each neighbour, as far back as that is kept."""


class Database(Protocol):
    """A node's database, for administration. Raises UnavailableError when it cannot be reached, ConfigError when the
    registers are not installed (hint: kod install)."""

    dialect: str
    """postgresql, sqlite, mariadb"""

    def table_names(self) -> Sequence[str]:
        """Tables and views of the application, KOD's own left out."""
        ...

    def reflect(self, names: Iterable[str]) -> Mapping[str, Table]:
        """The tables and views of these names; what is not there is absent."""
        ...

    def values(self, table: str, column: str) -> Sequence[str]:
        """The different values of a column as texts, in order, without null and empty ones."""
        ...

    def check(self, structure: Structure) -> Sequence[Mismatch]:
        """What people should know about this database: columns that cannot hold every value, settings that cost
        speed or safety, keys that the database generates, roles shared with the application."""
        ...

    def install(self, settings: NodeSettings, structure: Structure, *, stamps_only: bool = False) -> Installed:
        """Registers, capture triggers, identity; idempotent, one transaction; adapts when tables have changed."""
        ...

    def stamp_existing(
        self,
        structure: Structure,
        progress: Callable[[str, int, int], None],
        portion: int,
        dates: Mapping[str, Iterable[tuple[str, Stamp]]] | None = None,
    ) -> int:
        """Stamps rows that have no stamp: by the type's date column, dependants by their owner's, else the earliest.
        In portions, each its own transaction; `progress(type, done, total)`. `dates`: by type, for items by their
        keys, moments that go before all that. Returns how many were stamped."""
        ...

    def uninstall(self) -> None:
        """Takes out everything that install put in. The data stays."""
        ...

    def store(self, settings: NodeSettings, structure: Structure) -> Store: ...

    def daemon_lock(self, code: str) -> AbstractContextManager[None]:
        """Held while a daemon (or `--once`) runs. Raises ConfigError when another one holds it. Freed by the
        operating system or the server when the process dies."""
        ...

    def standing(self) -> Standing: ...

    def keep_at(self, place: str, network: str) -> None:
        """This is where the node lives from now on."""
        ...

    def begin_life(self, life: Life, *, links: bool) -> None:
        """Begins the incarnation `life`, whose sessions come after `life.session`. Versions that are there keep their
        origins. `links` False: what is known of neighbours is forgotten, as if there had never been any."""
        ...

    def figures(self) -> Figures: ...

    def set_streams(self, *, send: int | None, receive: int | None, reset: bool = False) -> None: ...

    def ask_package(self, fingerprint: str) -> None:
        """Has the running daemon take over the package of this fingerprint, which lies in its file by now."""
        ...

    def package(self) -> tuple[str | None, str | None]:
        """The fingerprints of the package that the daemon is asked to take over (None: of none), and of the one that
        it began with."""
        ...

    def set_draining(self, asked: bool) -> None:
        """Asks a running daemon to send what is there and then to stand still; False: to go on."""
        ...

    def boundary(self) -> Stamp | None: ...

    def set_boundary(self, stamp: Stamp, *, skip: bool) -> int:
        """Moves the boundary; the number of items marked again (back) or skipped (forward, `skip`)."""
        ...

    def collisions(self) -> Sequence[Mapping[str, Any]]:
        """The journal: id, type, key (inner text), winner and loser (stamp, origin, text), policy, sender, at."""
        ...

    def parked(self) -> Sequence[Parked]:
        """Messages that wait because they could not be applied, in the order in which they came."""
        ...

    def retry_parked(self, ids: Sequence[int]) -> int:
        """Has them (all, where none is named) tried at once by the running daemon, or when it starts; how many."""
        ...

    def discard_parked(self, parked_id: int) -> bool:
        """Throws one away: what it says will not arrive by it. Whether it was there."""
        ...

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        """As Store.history_add; a running daemon sees it within a second."""
        ...

    def history_cancel(self, history_id: int) -> bool:
        """Ends an open history cursor: what it has not sent by then stays unsent. Whether it was open."""
        ...

    def story(self, item: Item) -> Story: ...

    def looking(self, structure: Structure) -> AbstractContextManager[SendingView]:
        """The registers and tables as review sees them, from one snapshot; to be read, nothing is kept."""
        ...

    def contents(self, structure: Structure, type_name: str) -> Iterator[Content]:
        """Every item of a type that is in its table now, with its value, for `kod compare`: from one snapshot, in no
        particular order, without holding up anybody. A type without a table here has none."""
        ...

    def stamp_again(self, items: Sequence[Item]) -> None:
        """Puts the items into the capture log as if the application had changed them now: each becomes a new version
        of this node and goes to all that it concerns (`kod compare --repair`)."""
        ...

    def restore(self, structure: Structure, item: Item, value: Mapping[str, Any] | None) -> None:
        """Writes an item as the application would have: a change like any other, captured, made now. None deletes it.

        Raises MessageError where the database does not take it (a reference that is not there, say)."""
        ...

    def close(self) -> None: ...


def open_database(url: str) -> Database:
    """The database behind a SQLAlchemy URL. Nothing is connected yet.

    Raises ConfigError for a URL that is none, or a database that is not supported.
    """
    from node.databases.address import address_of  # late: commands that need no database start faster

    dialect = address_of(url).kind
    if dialect == "postgresql":
        from node.databases.postgresql.database import PostgresqlDatabase

        return PostgresqlDatabase(url)
    if dialect == "sqlite":
        from node.databases.sqlite.database import SqliteDatabase

        return SqliteDatabase(url)
    if dialect in ("mariadb", "mysql"):
        from node.databases.mariadb.database import MariadbDatabase

        return MariadbDatabase(url)
    raise ConfigError(f"databases of the kind {dialect!r} are not supported", hint="postgresql, sqlite or mariadb")

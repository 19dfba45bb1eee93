"""The ports of the flow: what it needs of a node's database, of the bus and of the clock. Three, and small.

Every implementation runs the contract suite of its port (tests/contract). Data that crosses a port is frozen.

How a Store keeps what the flow relies on (correctness.md; docs/decisions/0002-capture-log.md):

* capture: triggers append to a log, without a lock that applications could wait for;
* fold: one at a time, everything committed in the log becomes versions in the stamp register, and each item that is
  folded gets a new *mark*, larger than all before: marks are the order in which changes became visible;
* position: for each link the mark up to which it has been served. What lies behind it and is routed to the neighbour
  has been recorded as sent or was received from it. There is no row per item and neighbour for what goes everywhere;
* history: what was there before a link began (again) goes to it by a cursor, from fresh to old, beside live changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, NamedTuple, Protocol

from dispatcher.manifest import Manifest
from schemas.stamp import Stamp
from schemas.structure import Names
from serializers.keys import Item
from serializers.message import Version


class Change(NamedTuple):
    """An item as the register has it."""

    item: Item
    version: Version
    seen: Mapping[str, Stamp] | None
    mark: int
    source: str | None
    """The neighbour from which this version came; None when it was made here."""
    gone: bool
    """A tombstone: the item is not there any more."""


class Tie(NamedTuple):
    """A reference from an item to one that an addressee is not known to have, in any version."""

    item: Item
    target: Change


class Again(NamedTuple):
    """Items whose addressees are to be looked at again."""

    items: Sequence[Item]
    owners: Sequence[Item]
    """Those of them whose dependants may be lacking where they are held."""
    more: bool


class Dependants(NamedTuple):
    changes: Sequence[Change]
    more: bool
    """There were too many: others are left."""


class Content(NamedTuple):
    item: Item
    text: bytes | None
    """Its `#value` as JSON text; None when the item is gone."""


class Life(NamedTuple):
    """How far a node has come: its incarnation, and the newest session of it. Compared as such: a database that has
    come less far than its node is known to have was restored from a backup."""

    incarnation: int
    session: Stamp


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold found: items that changed here, and how many of them with a stamp behind the boundary."""

    items: int
    missed: int
    again: bool = False
    """Items wait whose addressees are to be looked at again (`look_again`)."""


class Place(NamedTuple):
    """Where a history cursor stands, in the order of stamps (then of types, as the store numbers them, and keys)."""

    stamp: Stamp
    type: str
    key: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A link that began (again) when `mark` was the largest: what had a mark by then comes by history."""

    mark: int
    passed: Place | None
    """Items at this place and above have gone by history (deletions apart); None: none yet."""
    all_passed: bool = False
    """Nothing but deletions is left."""
    session: Stamp | None = None
    """The last session that had been opened when it began (again): what is sent since covers all up to it, recorded or
    not."""


class HistoryPhase(IntEnum):
    ITEMS = 0
    """From fresh to old."""
    DELETIONS = 1
    """After all items, so that they overtake nothing that frees what they delete; from old to fresh."""
    BOTTOM = 2
    """Nothing is left but what live changes of `bottom` and before bring."""


@dataclass(frozen=True, slots=True)
class History:
    """A history cursor: what `node` lacks is sent to it, behind live changes."""

    id: int
    node: str
    type: str | None
    """None: of every type."""
    down_to: Stamp | None
    """Items with an older stamp are left out."""
    reason: str
    state: str
    """open, done, cancelled; replaced: everything is sent again by a newer one."""
    phase: HistoryPhase
    place: Place | None
    """How far the phase is; None: at its beginning."""
    bottom: int | None
    """The largest mark when the last phase ended: what was left to live changes has gone once the link is there."""
    passed: int
    """Items that were looked at; `sent`, those of them that went; `total`, those that there were when it was added."""
    sent: int
    total: int
    joins: bool
    """It is what Outgoing.joined waits for."""
    begun: Stamp
    ended: Stamp | None = None


@dataclass(frozen=True, slots=True)
class HistoryPortion:
    """The next items of a cursor's phase."""

    lacking: Sequence[Change]
    """Those that the node is not known to have; the rules have not been asked."""
    place: Place | None
    """After them; None where nothing is left of the phase."""
    looked_at: int


@dataclass(frozen=True, slots=True)
class Passed:
    """How far a history cursor is once a session is acknowledged."""

    id: int
    phase: HistoryPhase
    place: Place | None
    looked_at: int
    sent: int
    bottom: int | None
    joins: bool


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A link's sending side, as recorded."""

    node: str
    position: int
    last_session: Stamp | None
    pending: int
    """Items that are to go to this node out of turn: answers, what it newly may see, deletions that were held back.
    Counted up to 1,000: whoever is away for long must not cost the others more and more."""
    ahead: int
    """The largest mark of an item that went to it before its turn; 0 for none."""
    catching_up: bool = False
    """It is new, or is sent everything again, and history has not brought all of it yet."""
    restart: bool = False
    """Everything has to be offered to it again."""
    wish: str | None = None
    """Why it is to be asked to send everything again; None when there is no need."""
    received: Stamp | None = None
    """Its last session that is here whole; None too while something of it is missing or parked."""
    joined: Joined | None = None
    """None: history has brought everything that was there before."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A link's receiving side, as recorded.

    `session` is the one that is being received and `done` the numbers of it that are applied; `completed` the last
    one whose end mark and messages are all in. `position` is the bus's: what comes next was not yet applied.
    """

    node: str
    incarnation: int | None = None
    session: Stamp | None = None
    done: frozenset[int] = frozenset()
    completed: Stamp | None = None
    position: int | None = None
    catching_up: bool = False
    """What was missing is being sent again: the sender has begun with that, and has not said that it is done."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What is recorded of a session to one addressee once the bus has acknowledged all of it."""

    node: str
    position: int
    stamp: Stamp | None
    """None when nothing had to go: the position moves, no session is recorded."""
    messages: int = 0
    items: int = 0
    size_bytes: int = 0
    took_ms: int = 0
    ahead: Sequence[Change] = ()
    """Sent before their turn (references drew them): not to be sent again when the position reaches their marks."""
    settled: Sequence[Change] = ()
    """Pending ones that went out; they are removed unless they were marked again."""
    deferred: Sequence[Change] = ()
    """Deletions of the portion that are held back: they become pending."""
    history: Passed | None = None
    manifest: Manifest | None = None
    """Which item went in which message; `stamp` is the last of its sessions."""


class Rows(NamedTuple):
    """What a statement of a hook gave."""

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    changed: int
    """How many rows it changed."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """An item that a fault of its own keeps from a neighbour: it is tried again."""

    node: str
    item: Item
    reason: str
    since: Stamp


@dataclass(frozen=True, slots=True)
class Deferred:
    """Work that a hook has put off until after its message; `text` is JSON."""

    id: int
    type: str
    text: str
    since: Stamp
    attempts: int
    reason: str | None = None
    """Why the last attempt came to nothing."""


@dataclass(frozen=True, slots=True)
class HookFigures:
    """What `kod status` says of the hooks' registers."""

    held: int = 0
    held_reason: str | None = None
    """Of the one that is held the longest."""
    deferred: int = 0
    deferred_failing: int = 0
    deferred_oldest: Stamp | None = None
    deferred_reason: str | None = None
    """Of the last that failed."""


class Hooked(Protocol):
    """What hooks need of a database, in the transaction of whoever gives it; types without hooks never come here.
    Of a receiver's and a deferred work's, writes count as the application's: what takes part is captured."""

    def run(self, sql: str, parameters: Mapping[str, Any], *, stamps: bool = True) -> Rows:
        """A statement with parameters `:name`. `stamps` False: it is not captured. One that fails leaves the
        transaction as it was. Raises MessageError where the database refuses it."""
        ...

    def hold_back(self, node: str, held: Sequence[tuple[Change, str]], now: Stamp) -> None:
        """Notes items that cannot go to `node`, and why. They are tried again with `try_held`."""
        ...

    def try_held(self, now: Stamp, *, all_of_them: bool = False) -> int:
        """Makes pending what is held and whose time has come; what a newer state has taken the place of is forgotten.
        How many are held still."""
        ...

    def let_go(self, node: str, items: Sequence[Item]) -> None:
        """Nothing is wrong with these any more."""
        ...

    def held(self, item: Item | None = None, *, items_max: int = 100) -> Sequence[HeldBack]: ...

    def note_owners(self, owners: Mapping[Item, Item | None]) -> None:
        """By which owners hooks have these items go."""
        ...

    def owned(self, owners: Sequence[Item], *, items_max: int) -> Sequence[Item]:
        """Items that `note_owners` has noted with one of these; at most about `items_max`."""
        ...

    def routed_by(self, fingerprint: str, types: Sequence[str]) -> bool:
        """Notes by which hooks items find their addressees. Where they are others than before, all that is known of
        these types is looked at again; whether it is so."""
        ...

    def defer(self, type_name: str, text: str, now: Stamp) -> None: ...

    def deferred(self, now: Stamp, *, all_of_them: bool = False, items_max: int = 100) -> Sequence[Deferred]:
        """Work whose time has come, the oldest first."""
        ...

    def done(self, deferred_id: int) -> None: ...

    def failed(self, deferred_id: int, reason: str, next_at: Stamp) -> None: ...

    def figures(self) -> HookFigures: ...


class Ways(Protocol):
    """Where items are to be seen, farther on than a neighbour: what was heard of it with the items, and what each
    neighbour has been told. What was once heard stays."""

    def heard(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        """Of items of which nothing was heard there is nothing."""
        ...

    def told(self, node: str, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        """Nodes of which `node` has been told, or has told itself."""
        ...

    def hear(self, sender: str, ways: Mapping[Item, frozenset[str]]) -> frozenset[Item]:
        """Those of the items of which something is new."""
        ...

    def tell(self, node: str, ways: Mapping[Item, frozenset[str]]) -> None: ...

    def look_again(self, items: Sequence[Item]) -> None:
        """The sender looks at them again, as if their rights had changed."""
        ...


class SendingView(Protocol):
    """One transaction of the sender: a fold, and then everything in one snapshot. Nothing is seen outside before
    it ends; an exception rolls all of it back. At most one is open at a time in a node."""

    @property
    def hooked(self) -> Hooked: ...

    @property
    def ways(self) -> Ways: ...

    def fold(self, *, then: tuple[int, int] | None = None) -> Folded:
        """`then`: what `portion` is going to be asked for; it may be looked up in the same round trip.

        Takes in what the capture log has: each changed item gets the version
        (max(time of its change, old stamp + 1), this origin), `seen` with what it replaces, and a new mark.
        Items that were applied from neighbours get their mark only. In the order of their stamps."""
        ...

    def portion(self, after: int, items_max: int) -> Sequence[Change]:
        """The first changes with a mark above `after`, in the order of marks: at most `items_max`, or fewer where more
        would hold up applications; none only when there are none."""
        ...

    def top(self) -> int:
        """The largest mark given so far; 0 before the first."""
        ...

    def pending(self, node: str, items_max: int) -> Sequence[Change]:
        """Items that are to go to `node` out of turn, as the register has them now: the oldest first, deletions after
        all others, those of types that refer to others before theirs."""
        ...

    def ahead(self, node: str, items: Sequence[Change]) -> frozenset[Item]:
        """Those of `items` that went to `node` before their turn with exactly the mark that they have now."""
        ...

    def ties(
        self,
        items: Sequence[Item],
        *,
        after: int,
        node: str,
        limited: frozenset[str],
        joined: Joined | None = None,
    ) -> Sequence[Tie]:
        """References from `items` to items that exist here and that `node`, served up to `after`, is not known to
        have in any version. References to types in `limited` (that do not go to everybody) are known only where
        `node` is a holder. With `joined`, of what is not later only what history has passed is known. Rows that were
        never stamped get the version (0, this origin) and a mark, and count as not known. A reference to a row that
        is not there is left out."""
        ...

    def history(self, cursor: History, link: Outgoing, *, limited: frozenset[str], items_max: int) -> HistoryPortion:
        """What comes next in the cursor's phase. What live changes bring is left out (a mark that the link has not
        reached, or reached since it began), and what is known: sent ahead, received from there, held (`limited`)."""
        ...

    def mark_stamped(self, items_max: int) -> int:
        """Gives the freshest of the rows that were stamped while links were there the next marks; how many. Until
        then nobody is known to have them, and no cursor brings them; what a reference draws gets its mark at once."""
        ...

    def owners(self, items: Sequence[Item]) -> Mapping[Item, Item | None]:
        """The owner of each dependent item that exists; None where the owner's columns are null."""
        ...

    def access(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        """The nodes that the access tables name for each item (all nodes, not only neighbours)."""
        ...

    def holders(self, items: Sequence[Item]) -> Mapping[Item, frozenset[str]]:
        """The neighbours that hold, or may hold, each item: sent to them once, or received from them."""
        ...

    def hold(self, holders: Mapping[str, Mapping[Item, Item | None]]) -> None:
        """Notes neighbours as holders. Before anything leaves. With each item the one whose reference draws it; None
        where the rules send it. What was noted of these neighbours with a session that was never recorded proves
        nothing from now on, whatever is recorded later; so they are all named, also without items."""
        ...

    def look_again(self, items_max: int) -> Again:
        """Takes the next items that wait to be looked at again, about `items_max` of them: those that changes of an
        access table named, and `follow_later`; and when there are none, items of a type whose rights changed without
        naming any, from fresh to old, as far as a cursor in the database says."""
        ...

    def follow_later(self, owners: Sequence[Item]) -> None:
        """Has all that belongs to these owners looked at again, item by item."""
        ...

    def known(self, items: Sequence[Item]) -> Sequence[Change]:
        """What the register has of `items`; those that are there and were never stamped get the version
        (0, this origin) and a mark. Others are absent."""
        ...

    def lacking(self, link: Outgoing, items: Sequence[Item]) -> Sequence[Change]:
        """Those of `items` (of types that do not go everywhere) that a neighbour, served as far as `link` says, is not
        known to have, and that are neither due to go to it in their turn nor pending, nor gone."""
        ...

    def dependants(self, link: Outgoing, owners: Sequence[Item], *, items_max: int) -> Dependants:
        """Items whose owner is one of `owners` and that a neighbour lacks, as in `lacking`: one level, at most
        `items_max`. Those that were never stamped get a mark, and so are due in their turn."""
        ...

    def pend(self, node: str, changes: Sequence[Change]) -> None:
        """Makes the items pending for `node`, in this order."""
        ...

    def register(self, items: Sequence[Item]) -> Mapping[Item, Change]:
        """What the register has of these items; those without an entry are absent."""
        ...

    def dangling(self, items: Sequence[Item]) -> Mapping[Item, str]:
        """Those of `items` with a required reference that leads nowhere and to which the database does not see: the
        names of its columns and of its target's type."""
        ...

    def contents(self, items: Sequence[Item]) -> Iterator[Content]:
        """The items' values from this snapshot, in the order asked for."""
        ...

    def names(self, names: Names) -> Mapping[Any, str]:
        """The names of a table's rows by their keys, in the keys' lexical form; of predefined items also of those that
        are gone, as far as they were known by then."""
        ...

    def open_session(self, now: Stamp, sessions: int = 1) -> Stamp:
        """The stamp of the first of `sessions` new ones (the others follow by a millisecond each): larger than every
        earlier one, and never used again, also not after a crash. The last thing that is asked of the view: the
        transaction may be committed with it."""
        ...

    def reviewed(self, boundary: Stamp) -> None:
        """Moves the review boundary forward to `boundary`; never back."""
        ...


class Local(NamedTuple):
    """An item as it is here while an incoming message is decided: locked, and folded."""

    version: Version | None
    """None: no register entry. With `exists` that counts as (0, this origin)."""
    seen: Mapping[str, Stamp]
    exists: bool
    mark: int = 0
    source: str | None = None


class Accepted(NamedTuple):
    """An incoming version that becomes the local one. `value` is None for a deletion."""

    item: Item
    version: Version
    seen: Mapping[str, Stamp]
    value: Mapping[str, Any] | None
    existed: bool
    write: bool = True
    """False when the content here is the same already: only the version is taken over."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A local version that stays; `seen` has grown by what the rejected one had seen."""

    item: Item
    seen: Mapping[str, Stamp]


@dataclass(frozen=True, slots=True)
class Collision:
    """A line of the journal: both versions, and the loser whole."""

    item: Item
    winner: Version
    loser: Version
    winner_text: bytes | None
    loser_text: bytes | None
    """The values as JSON text; None for a deletion."""
    policy: str
    sender: str


class ParkedItem(NamedTuple):
    """An item of a parked message. `apart`: what is here under its key is another item, born without it."""

    item: Item
    version: Version
    apart: bool = False


class Waiting(NamedTuple):
    """The items of one parked message."""

    id: int
    items: Sequence[ParkedItem]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a message is parked, for people, and the items that it waits for, where they are known."""

    text: str
    waits_for: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class Parked:
    """A message that could not be applied, whole, and why; it is tried again. Of a message of which only some items
    have to wait, these."""

    id: int
    node: str
    """The neighbour that sent it."""
    name: str
    payload: bytes
    reason: str
    since: Stamp
    attempts: int
    """-1: an administrator wants it tried at once."""
    waits_for: Sequence[Item] = ()
    refused: bool = False
    """It is no message of its link (broken, or another's): kept for people, never tried."""


@dataclass(frozen=True, slots=True)
class Received:
    """How far a link is with the message that is applied in this transaction."""

    node: str
    incarnation: int
    session: Stamp
    number: int
    completes: bool
    """With this message the session is whole (all messages and the end mark are here)."""
    position: int | None
    """The bus's position to go on from, once everything before it is applied; None leaves it."""
    items: int = 0
    rejected: int = 0
    size_bytes: int = 0
    end_to_end_ms: int | None = None
    """From the oldest change in it to now."""


class Taken(NamedTuple):
    """Properties of an item whose values, together unique, another item has."""

    properties: tuple[str, ...]
    by: Item


class ReceivingView(Protocol):
    """One transaction of a receiver: a message, whole or not at all, its position with it.

    Application triggers of capture do not see what it writes. Raises ConflictError where the transaction may be
    tried again, MessageError where the message is at fault (it names table and constraint)."""

    @property
    def hooked(self) -> Hooked: ...

    @property
    def ways(self) -> Ways: ...

    def lock(self, items: Sequence[Item], *, beside: Sequence[Item] = ()) -> Mapping[Item, Local]:
        """Locks the items' rows (root, sections, records) in the order given, takes in what the capture log has of
        them, and says what is here. Items of which nothing is known are absent. `beside`: items of types with sections
        to which rows of these refer: writing such a reference waits for whoever writes them, so their rows are locked
        too, in the same order."""
        ...

    def contents(self, items: Sequence[Item]) -> Mapping[Item, bytes | None]:
        """The values here as JSON text, as `SendingView.contents`."""
        ...

    def write(self, accepted: Sequence[Accepted]) -> None:
        """Writes the items, parents first; deletions, children first; sections are merged by their primary key; only
        rows that differ are touched; columns of absent properties are left alone. Then the register: version, seen,
        where it came from. On a node with other neighbours than the sender the items are marked for them."""
        ...

    def keep(self, kept: Sequence[Kept]) -> None: ...

    def answer_back(self, node: str, items: Sequence[Item]) -> None:
        """Makes the items pending for `node` unless they are due to go to it anyway (their mark is above the link's
        position)."""
        ...

    def doubt(self, items: Sequence[Item]) -> None:
        """The sender is not known to have these, although they came from it: it may have lost them since. They are
        offered to it."""
        ...

    def names(self, names: Names) -> Mapping[Any, str]:
        """As `SendingView.names`."""
        ...

    def journal(self, collisions: Sequence[Collision]) -> None: ...

    def received(self, received: Received) -> None: ...

    def park(self, letter: Letter, reason: Reason, items: Sequence[ParkedItem] = (), *, refused: bool = False) -> None:
        """Keeps the letter, whole, until it can be applied. `items`: those of it whose keys could be told. `refused`:
        it never can be; it is kept for people."""
        ...

    def waiting(self) -> Sequence[Waiting]:
        """What is parked of the sender, in the order in which it came."""
        ...

    def taken(self, values: Mapping[Item, Mapping[str, Any]]) -> Mapping[Item, Sequence[Taken]]:
        """For items that are to be written: which of their unique values other items here have."""
        ...

    def unpark(self, parked_id: int) -> None: ...

    def there(self, items: Sequence[Item]) -> frozenset[Item]:
        """Those of `items`, of types with a table, that are here; they are not deleted before the transaction ends."""
        ...

    def referred(
        self, items: Sequence[Item], *, besides: Sequence[Item], only_unchecked: bool = False
    ) -> frozenset[Item]:
        """Those of `items` to which rows of other items here (but for `besides`) refer, whoever checks it.
        `only_unchecked`: by references to which the database does not see."""
        ...

    def touch(self, items: Sequence[Item]) -> None:
        """Makes the items changed here and now, as if an application had written them: they get a new version."""
        ...


LINK_FIGURES = (
    "sent_messages",
    "sent_items",
    "received_messages",
    "received_items",
    "rejected_items",
    "end_to_end_ms",
    "position",
    "pending",
    "fault",
    "last_session",
    "arrived",
    "package",
    "package_since",
    "package_was",
)
"""What `Figures.links` says of each, in the order in which the dialects ask for it. `fault`: what is wrong, or null.
`last_session` went to it; `arrived` is the last one that it said to have whole. `package`: the fingerprint of the
neighbour's, since when it said so, and since when this node itself had that one (null: never)."""

Draining = Literal["asked", "done"]
"""A drain (`kod drain`): asked for; done once everything that was there then is acknowledged, and nothing goes out."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What `kod status` needs of the database (contract.md); links by neighbour."""

    boundary: Stamp | None
    items_waiting: int
    oldest_waiting: Stamp | None
    """Of those that were changed in this life of the node; its beginning, where others wait and none was reviewed."""
    missed: int
    last_session: Mapping[str, Any] | None
    """stamp, messages, items, took_ms."""
    links: Mapping[str, Mapping[str, Any]]
    """LINK_FIGURES by neighbour."""
    parked: int
    collisions: int
    send_streams_max: int | None
    """As set by `kod streams`; None: nodes.yaml's."""
    receive_streams_max: int | None
    histories: Sequence[History] = ()
    """Open, and the latest ended of each kind."""
    bus_ahead_ms: int | None = None
    """As the daemon noted it last (Bus.clock_ahead_ms)."""
    draining: Draining | None = None
    package: str | None = None
    """The fingerprint of the package with which a daemon ran here last; None before the first."""
    hooks: HookFigures = HookFigures()
    stamped_waiting: int = 0
    """Rows that were stamped while links were there, and wait for their marks; part of `items_waiting`."""
    stamped_next: Stamp | None = None
    """The stamp of the next of them."""


class Store(Protocol):
    """Everything that a node's database does for the flow. Safe to use from several threads."""

    origin: str
    """This node and its incarnation, `00.1763800000`."""

    def start(self, neighbours: Sequence[str], below: Mapping[str, str] | None = None) -> None:
        """Makes sure that the node is installed and its links are known. A neighbour that is new starts at the largest
        mark, and with a history cursor for what is there already. One that is a neighbour no more is not served, and
        begins anew if it comes back. `below`: for each node farther down the child through which it is reached; None
        leaves it as it was. Where one is new below a child that was here already, rights may have named it before: all
        types with rights are looked at again.

        Raises ConfigError when `kod install` has not been run or the triggers are not the installed ones.
        """
        ...

    def check(self) -> None:
        """Raises ConfigError when the triggers are not the installed ones any more."""
        ...

    def has_changes(self) -> bool:
        """Whether the capture log has anything in it, or items wait to be looked at again. Cheap: asked every few
        milliseconds."""
        ...

    def outgoing(self) -> Sequence[Outgoing]: ...

    def incoming(self, node: str) -> Incoming: ...

    def sending(self) -> AbstractContextManager[SendingView]: ...

    def hooked(self) -> AbstractContextManager[Hooked]:
        """A transaction of its own."""
        ...

    def receiving(
        self, sender: str, *, forward: bool, limited: frozenset[str]
    ) -> AbstractContextManager[ReceivingView]:
        """`forward`: there are other neighbours, for whom what is written gets marked. `limited`: types for which
        the sender is noted as a holder of what it sent. What is committed is visible, and durable after `flush`."""
        ...

    def flush(self, node: str) -> None:
        """Makes durable what was received from `node`. Raises UnavailableError where some of it may be lost, because
        the database was away since `incoming` was asked: then that is to be asked again."""
        ...

    def record_sent(self, sent: Iterable[Sent]) -> None:
        """Moves positions, records sessions, in one transaction. Positions never go back."""
        ...

    def wish(self, node: str, reason: str | None) -> None:
        """Something of this neighbour is missing: it is to be asked to send everything again. None: it was asked."""
        ...

    def restart_asked(self, node: str, *, lost: bool) -> None:
        """The neighbour lacks something: everything is to be offered to it again. `lost`: it is a new incarnation,
        and may lack what it made itself."""
        ...

    def new_incarnation(self, node: str, incarnation: int) -> None:
        """The neighbour begins anew: nothing of its earlier sessions counts for those to come."""
        ...

    def told(self, life: Life) -> bool:
        """Somebody knows of this `life` of this node. Whether this database has not come so far: then it is older
        than what its node has sent, which is noted."""
        ...

    def restart(self, node: str) -> None:
        """Begins to serve the neighbour anew, by a history cursor for everything, tombstones included; nothing is
        known any more of what it has. Only while no session to it is under way."""
        ...

    def history_add(self, node: str, type_name: str | None, down_to: Stamp | None, reason: str) -> int:
        """Queues the sending of what `node` lacks (of one type; of stamps from `down_to` on): the cursor's number. One
        for the same that has not begun is enough; cursors that are open go on as they were."""
        ...

    def histories(self) -> Sequence[History]:
        """The open cursors, in the order in which they were added. Cheap when there are none."""
        ...

    def stamped_wait(self) -> bool:
        """Whether rows that were stamped while links were there wait for their marks. Cheap."""
        ...

    def history_done(self, history_id: int) -> None:
        """It is at the bottom, and the link has got what was left to live changes."""
        ...

    def abandon(self, node: str, session: Stamp, position: int | None) -> None:
        """A newer session of the sender has begun: the numbers done of `session` are forgotten."""
        ...

    def link_fault(self, node: str, text: str | None) -> None:
        """Notes what is wrong with what comes over the link, for `status`; None clears it."""
        ...

    def parked(self) -> Sequence[Parked]:
        """Messages that wait, in the order in which they came. Cheap when there are none."""
        ...

    def retry_asked(self) -> bool:
        """Whether an administrator wants parked messages tried at once."""
        ...

    def parked_again(self, parked_id: int, reason: Reason) -> None:
        """It was tried once more, in vain."""
        ...

    def purge_tombstones(self, mark: int, before: Stamp) -> int:
        """Forgets what was deleted before a moment and has been looked at up to this mark; how many. What is still on
        its way is left."""
        ...

    def note_clock(self, bus_ahead_ms: int | None) -> None:
        """How far the bus's clock is ahead of this node's own, for `status`."""
        ...

    def forget_sessions(self) -> None:
        """Forgets the oldest manifests, of each link so many that KEPT_MAX (dispatcher.manifest) is kept."""
        ...

    def streams(self) -> tuple[int | None, int | None]:
        """The maxima for sending and receiving as `kod streams` set them; None: nodes.yaml's."""
        ...

    def package_asked(self) -> str | None:
        """The fingerprint of the package that `kod schema load` wants this node to take over; None: of none."""
        ...

    def package_settled(self) -> None:
        """Whatever was asked for: the node goes on with the one that it began with (`start` notes which)."""
        ...

    def draining(self) -> Draining | None: ...

    def drained(self) -> None:
        """What was asked for is done, unless it has been taken back meanwhile."""
        ...

    def heard(self, node: str, *, package: str | None, received: Stamp | None) -> None:
        """What a neighbour says of itself: the package that it works with, and the last session of this node's that
        it has whole. None: it does not say."""
        ...

    def figures(self) -> Figures: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as the bus carries it. `position` is where the bus goes on after it (Kafka's offset + 1); None where
    the bus itself forgets what was applied (the folder)."""

    node: str
    """The neighbour it goes to, or comes from: by where it was found, not by what it says."""
    name: str
    payload: bytes
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What has come from a neighbour and is not applied."""

    messages: int
    size_bytes: int
    oldest_ms: int | None = None
    """Epoch milliseconds at which the oldest of it came."""


class Bus(Protocol):
    """Carries letters between neighbours, in order for each direction of a link. Does not lose what it acknowledged.
    Raises UnavailableError; `publish` and the receiving calls may be used from different threads.

    The parts of a message too large for it are letters that share the message's name."""

    @property
    def message_bytes_max(self) -> int | None:
        """The largest payload that it takes; None: any. A message above it travels in parts."""
        ...

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        """Returns once every letter is acknowledged (durable); if it raises, any of them may have gone or not.
        `letters` may be made as they are asked for, each time anew: one at a time need not be much."""
        ...

    def open(self, positions: Mapping[str, int | None]) -> None:
        """Begins to receive: for every neighbour from its position (None: from the beginning)."""
        ...

    def receive(self, sender: str, *, letters_max: int) -> Sequence[Letter]:
        """The next letters of `sender` that are here, in order, without waiting; each is handed out once."""
        ...

    def rewind(self, sender: str, position: int | None) -> None:
        """Hands out again what was not applied: everything after `position` that has not been `done`."""
        ...

    def done(self, letters: Sequence[Letter]) -> None:
        """These letters are applied, their transactions committed: the bus may forget them."""
        ...

    def set_aside(self, letter: Letter, reason: str) -> None:
        """Puts away what is no message or does not belong here: kept for people, out of the way."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Waits until something may have come, at most so long."""
        ...

    def backlog(self, sender: str) -> Backlog: ...

    def sent_up_to(self, to: str) -> Life | None:
        """The newest of this node's letters to a neighbour that are still there, whoever of its incarnations wrote
        it; None when there are none, or they may not be read. Raises UnavailableError."""
        ...

    def clock_ahead_ms(self) -> int | None:
        """How far the bus's clock is ahead of this node's own (negative: behind), as seen when something was last
        published; None where it has not been seen."""
        ...

    def gap(self, sender: str) -> str | None:
        """What the bus itself no longer has although it was never received, in words; None while nothing is missing."""
        ...

    def close(self) -> None: ...


class Clock(Protocol):
    def now(self) -> Stamp: ...

    def wait(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the flow must know of its node: who it is, and with whom it speaks."""

    code: str
    parent: str | None
    children: tuple[str, ...]
    towards: Mapping[str, str] = field(default_factory=dict)
    """For every other node of the network the neighbour through which it is reached."""

    @property
    def below(self) -> Mapping[str, str]:
        """For every node farther down than the children the child through which it is reached."""
        return {node: via for node, via in self.towards.items() if via in self.children and node != via}

    @property
    def neighbours(self) -> tuple[str, ...]:
        return ((self.parent,) if self.parent else ()) + self.children

    @property
    def forwards(self) -> bool:
        """What comes from one neighbour goes on to others."""
        return len(self.neighbours) > 1

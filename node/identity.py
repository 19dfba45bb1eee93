"""Whose life a database holds: is it the one in which this node lived, at its place, and has it come as far?

    the database   incarnation, newest session, and where it was when a daemon last ran on it
    the node's file, <state>/<network>-<code>.json   the same, from outside of the database
    the bus        the node's own letters that still lie there; and neighbours say what they have received

What does not fit is not guessed. A copy that went on would take the live node's messages and answer in its name; a
database restored from a backup would use versions and sessions again that others know already. So a daemon refuses
until a person says what it was: `kod run --moved`, `kod run --copy`, `kod recover`.

A place is the file's path and inode for SQLite; server, cluster and database for PostgreSQL (Database.standing).
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from dispatcher.events import event
from dispatcher.ports import Bus, Life
from node.databases import Database, Standing
from schemas.errors import ConfigError, IdentityError, UnavailableError, file_error
from schemas.network import Network
from schemas.stamp import Stamp, digits, from_digits

log = logging.getLogger(__name__)

SPREAD_S = 86_400
"""Where the clock is behind what is known, the new incarnation is any of so many."""
_CHANCE = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Note:
    """What the node's file says."""

    life: Life
    place: str


class NodeFile:
    """The node's file: what its database said of itself when it was last looked at."""

    def __init__(self, network: Network, code: str) -> None:
        self.path = network.state / f"{network.name}-{code}.json"
        self._code = code

    def read(self) -> Note | None:
        try:
            said = json.loads(self.path.read_bytes())
            life = Life(int(said["incarnation"]), from_digits(said["session"]))
            return Note(life, str(said["place"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror or error}", hint="may this user read it?") from None
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{self.path}: this is not what KOD wrote there", hint="restore it, or remove it if it is beyond repair"
            ) from None

    def write(self, note: Note) -> None:
        """Durably, whole or not at all. Raises UnavailableError where the disk is full."""
        said = {
            "node": self._code,
            "incarnation": note.life.incarnation,
            "session": digits(note.life.session),
            "place": note.place,
        }
        half = self.path.with_name(f".{self.path.name}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with half.open("w", encoding="utf-8") as file:
                file.write(json.dumps(said, indent=2, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            half.replace(self.path)
        except OSError as error:
            hint = "`state: FOLDER` in nodes.yaml names a folder that the daemon may write"
            raise file_error(self.path, error, hint=hint) from None

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()


def admit(database: Database, bus: Bus, network: Network, code: str, now: Stamp, *, moved: bool, copy: bool) -> None:
    """Lets a daemon begin on the database, and notes where it lives. Raises IdentityError when it is not, or may not
    be, the one that the node lived in, and nobody said what became of it."""
    standing = database.standing()
    file = NodeFile(network, code)
    note = file.read()
    if copy:
        _begin_as_copy(database, standing, note, network, code, now)
    else:
        fault = age_fault(standing, note, code) or (None if moved else place_fault(standing, note, network.name, code))
        fault = fault or _bus_fault(standing, bus, network, code)
        if fault is not None:
            raise fault
    settle(database, network, code)


def settle(database: Database, network: Network, code: str) -> None:
    """From now on the node lives here."""
    standing = database.standing()
    NodeFile(network, code).write(Note(standing.life, standing.place))
    if (standing.kept_at, standing.network) != (standing.place, network.name):
        database.keep_at(standing.place, network.name)


def follow(database: Database, network: Network, code: str) -> None:
    """Writes down how far the node has come, while it runs and when it ends; a disk that is full keeps nobody from
    working. Raises IdentityError when somebody has exchanged the database under it."""
    standing = database.standing()
    file = NodeFile(network, code)
    note = file.read()
    fault = age_fault(standing, note, code) or place_fault(standing, note, network.name, code)
    if fault is not None:
        raise fault
    if note != (now := Note(standing.life, standing.place)):
        try:
            file.write(now)
        except UnavailableError as error:
            event(log, logging.WARNING, "life not noted", error=error.text, hint=error.hint)


def forget(database: Database, network: Network, code: str) -> None:
    """The node is taken out of its database; one that was installed in another is not this one."""
    file = NodeFile(network, code)
    note = file.read()
    with suppress(ConfigError):  # nothing is installed here
        if note is not None and note.place == database.standing().place:
            file.remove()


# --- what does not fit ---


def age_fault(standing: Standing, note: Note | None, code: str) -> IdentityError | None:
    """The database has not come so far as the node is known to have: it was restored, or is new."""
    recover = f"kod recover --node {code}"
    if standing.kept_at is None and note is not None and note.life.incarnation != standing.life.incarnation:
        return IdentityError(
            f"node {code} lived in another database until now ({note.place}, incarnation {note.life.incarnation}); "
            "this one is new",
            hint=f"{recover}, if that one is lost; else mend `database` in nodes.yaml",
        )
    for life, who in ((note.life if note else None, "the node's file knows of"), (standing.told, "a neighbour has")):
        if life is not None and life > standing.life:
            return _older(standing, life, who, code)
    return None


def _older(standing: Standing, life: Life, who: str, code: str) -> IdentityError:
    text = f"node {code}'s database is older than the node: it knows of sessions up to {digits(standing.life.session)}"
    if life.incarnation != standing.life.incarnation:
        text += f" of incarnation {standing.life.incarnation}"
    text += f", {who} {digits(life.session)}"
    if life.incarnation != standing.life.incarnation:
        text += f" of incarnation {life.incarnation}"
    return IdentityError(
        text,
        hint=f"kod recover --node {code}, if it was restored from a backup; {_if_copy('it', code)}",
    )


def _if_copy(what: str, code: str) -> str:
    return f"if {what} is a copy for a test, give nodes.yaml another `network:`, then `kod run --node {code} --copy`"


def place_fault(standing: Standing, note: Note | None, network: str, code: str) -> IdentityError | None:
    """The database is not where it was, or not of the network that it was of."""
    hint = f"`kod run --node {code} --moved`, if the node itself is here now; {_if_copy('this', code)}"
    if standing.network not in (None, network):
        return IdentityError(
            f"node {code}'s database is of the network {standing.network}, nodes.yaml of the network {network}",
            hint=f"`kod run --node {code} --copy`, if this is a copy for a test; --moved, if the network was renamed",
        )
    for place in (standing.kept_at, note.place if note else None):
        if place not in (None, standing.place):
            return IdentityError(
                f"node {code}'s database was copied or moved: it is {standing.place}, and was {place}", hint=hint
            )
    return None


def _bus_fault(standing: Standing, bus: Bus, network: Network, code: str) -> IdentityError | None:
    for life in lives_on(bus, network, code):
        if life > standing.life:
            return _older(standing, life, "on the bus is", code)
    return None


def lives_on(bus: Bus, network: Network, code: str) -> Iterator[Life]:
    """What the node's own letters that still lie on the bus say of it."""
    for neighbour in network.topology.neighbours(code):
        try:
            life = bus.sent_up_to(neighbour)
        except UnavailableError as error:  # neighbours will say what they have received
            event(log, logging.WARNING, "own letters not looked at", to=neighbour, error=error.text)
            return
        if life is not None:
            yield life


# --- beginning anew ---


def begin_again(
    database: Database, bus: Bus, network: Network, code: str, now: Stamp, chance: random.Random = _CHANCE
) -> Life:
    """A new incarnation, later than all that is known of: of a database that was lost or restored."""
    standing = database.standing()
    note = NodeFile(network, code).read()
    known = [standing.life, *lives_on(bus, network, code)]
    known += [note.life] if note else []
    known += [standing.told] if standing.told else []
    life = next_life(known, now, chance)
    database.begin_life(life, links=True)
    return life


def _begin_as_copy(
    database: Database, standing: Standing, note: Note | None, network: Network, code: str, now: Stamp
) -> None:
    """A life of its own, in a network of its own: neighbours of the live node never hear of it."""
    if standing.network in (None, network.name):
        lives = f"the live node's network, {network.name}" if standing.network else "no network yet"
        raise IdentityError(
            f"a copy would take the live node's messages: this database is of {lives}",
            hint="another `network:` in the copy's nodes.yaml (it names topics and folders), "
            f"then `kod run --node {code} --copy`",
        )
    known = [standing.life, *([note.life] if note else [])]
    database.begin_life(next_life(known, now, _CHANCE), links=False)


def next_life(known: Iterable[Life], now: Stamp, chance: random.Random) -> Life:
    """Later than those known. The second tells it from lives that nobody here remembers; a clock that is behind has
    none to give, and the number after those known is the one that the last recovery from the same backup took too.
    Neighbours would take the new life for that one, with its versions and sessions. Chance keeps them apart; a life
    that then passes for an earlier one hears of the later (`told`)."""
    lives = list(known)
    newest, second = max(life.incarnation for life in lives), now // 1000
    behind = second < newest
    incarnation = newest + 1 + chance.randrange(SPREAD_S) if behind else max(second, newest + 1)
    return Life(incarnation, max(life.session for life in lives))

"""Errors, sorted by what their reader can do about them.

    ConfigError       mend nodes.yaml, the package or the call      exit 2
    IdentityError     say what became of the database: moved, copied, restored      exit 2
    UnavailableError  wait: the database or the bus is away; it is retried      exit 3
    MessageError      look at that message: it cannot be applied as it is
    ConflictError     try the transaction again: somebody else was there first
    InvariantError    our bug: stop

The text says what and where, the hint says what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass


class KodError(Exception):
    """What all errors of KOD have in common: a text and a hint."""

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the configuration: where, what, and what to do."""

    where: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class ConfigError(KodError):
    """The configuration (or the call) is wrong; all faults are reported at once."""

    def __init__(self, text: str, *, hint: str = "", faults: Sequence[Fault] = ()) -> None:
        super().__init__(text, hint=hint)
        self.faults = tuple(faults)


class IdentityError(ConfigError):
    """The database is not the one that the node lived in, or is older than it was: nothing is done before a person
    says what became of it."""


class UnavailableError(KodError):
    """The database or the bus cannot be reached now; whoever asked tries again later."""


class MessageError(KodError):
    """A message cannot be applied: it is broken, strange, or contradicts what is here."""


class DuplicateError(MessageError):
    """A value that has to be unique is taken by another item."""


class DanglingError(MessageError):
    """A reference would lead nowhere: its target is not there, or is to go."""


class RefusedError(MessageError):
    """The database refuses a value, and does not say of which item it is."""


class FilterError(MessageError):
    """A record set by another filter than this node's: its sender is not upgraded yet, or this node is not."""


def file_error(path: object, error: OSError, *, hint: str) -> KodError:
    """Of a file that cannot be written: UnavailableError where that may be over in a while without anybody mending the
    configuration (then whoever starts daemons tries again), else ConfigError with the hint."""
    text = f"{path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return UnavailableError(text, hint="is the disk full, or not well?")
    return ConfigError(text, hint=hint)


class ConflictError(KodError):
    """A deadlock, a lock time-out or a serialisation failure: the transaction may be tried again as it was."""


class InvariantError(KodError):
    """Something that cannot be: a fault of ours. Nothing is guessed; the daemon stops."""

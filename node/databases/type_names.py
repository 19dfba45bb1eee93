"""The types' names by their numbers in the registers, shared by all dialects."""

from __future__ import annotations

from schemas.errors import ConfigError


class TypeNames(dict[int, str]):
    """As they were when the daemon began. A type that was installed since is not known to it: what its tables'
    triggers wrote stays in the log until the daemon begins anew."""

    def __missing__(self, number: int) -> str:
        raise ConfigError(
            f"a type was installed since this daemon began (number {number})",
            hint="restart the daemon; after `kod schema load` it goes on by itself",
        )

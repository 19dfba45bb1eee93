"""The package that nodes.yaml names, and what is kept of it between starts.

Reading a large XSD, and having xmlschema validate one that people have written, takes longer than all else at a start.
What was read is kept in the node's state folder under the hash of the file's bytes and of the code that reads them: it
says what reading would say, or it is not used. Where that folder is not there or cannot be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import orjson

from schemas import package as words
from schemas import xsd
from schemas.errors import file_error
from schemas.network import Network
from schemas.package import Package, PackageSection, PackageType, Property


def package_of(network: Network) -> Package | None:
    """The package that nodes.yaml names; None where it names none. Raises ConfigError with all its faults."""
    if network.package is None:
        return None
    found = _package(xsd.file_bytes(network.package), str(network.package), _kept_in(network))
    return Package(dict(found.types), found.fingerprint)


def keep_package(network: Network) -> None:
    """Has the next start find the package as it is now."""
    if network.package is not None:
        data = xsd.file_bytes(network.package)
        kept = _kept_in(network)
        if not _is_kept(data, kept):
            _keep(_package(data, str(network.package), kept), data, kept)


def put_in_place(data: bytes, path: Path) -> None:
    """Writes a file, whole or not at all, durably."""
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            half.chmod(stat.S_IMODE(path.stat().st_mode))
        half.replace(path)
    except OSError as error:
        with suppress(OSError):
            half.unlink()
        raise file_error(path, error, hint="may this user write there?") from None


def _kept_in(network: Network) -> Path:
    return network.state / f"{network.name}-package.json"


@lru_cache(maxsize=4)
def _package(data: bytes, name: str, kept: Path) -> Package:
    found = _kept(data, kept)
    if found is None:
        found = xsd.read_xsd(data, name)
        _keep(found, data, kept)
    return found


def _is_kept(data: bytes, kept: Path) -> bool:
    """By the file's beginning, where `_keep` writes what it is of."""
    beginning = orjson.dumps({"of": _hash(data)})[:-1]
    try:
        with kept.open("rb") as file:
            return file.read(len(beginning)) == beginning
    except OSError:
        return False


def _kept(data: bytes, kept: Path) -> Package | None:
    try:
        said = orjson.loads(kept.read_bytes())
        if said["of"] != _hash(data):
            return None
        types = {name: _type(found) for name, found in said["types"].items()}
        return Package(types, said["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # nothing is there, or it is not ours
        return None


def _keep(package: Package, data: bytes, kept: Path) -> None:
    """Whole or not at all. The daemon makes the folder: one made by another user's command would lock it out."""
    half = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    said = {"of": _hash(data), "fingerprint": package.fingerprint, "types": package.types}
    with suppress(OSError):
        half.write_bytes(orjson.dumps(said))
        half.replace(kept)


def _hash(data: bytes) -> str:
    return hashlib.sha256(_code() + data).hexdigest()


@cache
def _code() -> bytes:
    """A hash of the code that makes a package of bytes: another release may read more out of the same file."""
    return hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in (words, xsd))).digest()


def _type(said: Mapping[str, Any]) -> PackageType:
    return PackageType(
        said["name"],
        said["kind"],
        tuple(said["key"]),
        tuple(map(_property, said["properties"])),
        tuple(
            PackageSection(s["name"], tuple(map(_property, s["properties"])), tuple(s["key"])) for s in said["sections"]
        ),
        tuple(said["record_key"]),
    )


def _property(said: dict[str, Any]) -> Property:
    for name in ("digits", "values", "composite"):
        said[name] = None if said[name] is None else tuple(said[name])
    return Property(**said)

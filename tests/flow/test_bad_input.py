"""Whatever comes from outside is read, or refused in words: nothing else is ever raised."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.__main__ import main
from node.buses.folder import FolderBus
from node.config import read_network
from schemas.errors import ConfigError, MessageError
from schemas.package import Package, PackageSection, PackageType, Property
from schemas.xsd import read_xsd, write_xsd
from serializers.message import parse_name, read_message
from tests.flow.test_config import GOOD

slowly = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

MESSAGE: dict[str, Any] = {
    "message": {
        "header": {
            "from": "00", "to": "01", "version": 1, "incarnation": 1763800000, "session": "20261122093015042",
            "number": 1, "after": "20261122093015041",
        },
        "body": [
            {"#type": "Catalog.Customer", "#stamp": "20261122093015042", "#origin": "00.1763800000",
             "#seen": {"01.1763800000": "20261122093015040"}, "#value": {"id": "A", "lines": [{"line": 1}]}},
            {"#type": "Catalog.Customer", "#stamp": "20261122093015042", "#origin": "00.1763800000",
             "#deleted": {"id": "B"}},
        ],
    }
}  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40), st.floats(allow_nan=False), st.text(),
    st.sampled_from(["", "0" * 17, "9" * 17, "00.1", "2026", "\x00", "é", -1, 2**63, 2**64, 1e308]),
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*here, key))


def altered(place: tuple[Any, ...], value: Any, *, without: bool) -> Any:
    if not place:
        return value
    document = copy.deepcopy(MESSAGE)
    inside: Any = document
    for step in place[:-1]:
        inside = inside[step]
    if without:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return document


def is_read_or_refused(payload: bytes) -> None:
    with suppress(MessageError):
        read_message(payload)


@slowly
@given(st.binary(max_size=400))
def test_any_bytes_as_a_message(payload: bytes) -> None:
    """A file on the bus may hold anything."""
    is_read_or_refused(payload)


@slowly
@given(st.sampled_from(list(places(MESSAGE))), values, st.booleans())
def test_a_message_with_one_thing_in_it_that_is_wrong(place: tuple[Any, ...], value: Any, without: bool) -> None:
    """Types, numbers and depths that nobody expects in one place of a message that is right otherwise."""
    is_read_or_refused(json.dumps(altered(place, value, without=without)).encode("utf-8", "surrogatepass"))


@slowly
@given(st.data())
def test_a_message_that_was_cut_or_altered_on_its_way(data: st.DataObject) -> None:
    payload = bytearray(json.dumps(MESSAGE).encode())
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=10))
    is_read_or_refused(bytes(payload))


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"message":' * 5_000, b'{"message":{"header":' + b"[" * 2_000])
def test_a_message_of_endless_depth(deep: bytes) -> None:
    """It must not take the process with it."""
    with pytest.raises(MessageError):
        read_message(deep)


@slowly
@given(st.text(max_size=60) | st.from_regex(r"[0-9A-Z]{2}to[0-9A-Z]{2}at\d{17}-\d{1,12}\.json"))
def test_any_text_as_a_message_name(name: str) -> None:
    """It decides on folders: nothing but a code, a stamp and a number may come out of it."""
    found = parse_name(name)
    assert found is None or (found.sender.isalnum() and found.to.isalnum() and found.number > 0)


LINES = GOOD.strip("\n").split("\n")


@slowly
@given(st.data())
def test_a_nodes_yaml_that_is_wrong_is_refused_in_words(data: st.DataObject) -> None:
    """Lines left out, doubled, moved, and cut; values of any kind: never anything but a ConfigError."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        what = data.draw(st.sampled_from(["out", "twice", "indent", "value", "cut", "any"]))
        line = lines[at]
        lines[at : at + 1] = {
            "out": [],
            "twice": [line, line],
            "indent": ["  " + line],
            "value": [line.partition(":")[0] + ": " + json.dumps(data.draw(values))],
            "cut": [line[: data.draw(st.integers(0, len(line)))]],
            "any": [data.draw(st.text(max_size=30))],
        }[what]
        lines = lines or [""]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "nodes.yaml"
        path.write_bytes("\n".join(lines).encode("utf-8", "replace"))
        with suppress(ConfigError):
            read_network(path)


@slowly
@given(st.binary(max_size=300))
def test_any_bytes_as_nodes_yaml(text: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "nodes.yaml"
        path.write_bytes(text)
        with suppress(ConfigError):
            read_network(path)


PACKAGE = write_xsd(
    Package(
        {
            "Catalog.Customer": PackageType(
                "Catalog.Customer",
                "object",
                ("id",),
                (Property("id", "string", nullable=False), Property("price", "decimal", digits=(10, 2))),
                (PackageSection("lines", (Property("line", "integer", nullable=False),), ("line",)),),
            )
        }
    )
)


@slowly
@given(st.data())
def test_a_package_that_is_wrong_is_refused_in_words(data: st.DataObject) -> None:
    text = bytearray(PACKAGE)
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=40))
    with suppress(ConfigError):
        read_xsd(bytes(text))


COMMANDS = ["check", "schema", "install", "uninstall", "run", "status", "streams", "boundary", "parked", "collisions",
            "compare", "explain", "--help", "--version", "--node", "00", "99", "--json", "--set", "--send", "-1", "x",
            "show", "retry", "discard", "--yes", ""]  # fmt: skip


@slowly
@given(st.lists(st.sampled_from(COMMANDS) | st.text(max_size=8).filter(lambda t: "\x00" not in t), max_size=5))
def test_any_arguments_end_in_words_and_a_code(arguments: list[str]) -> None:
    """0 done, 1 differs or failed, 2 usage or configuration, 3 cannot be reached: never a traceback."""
    if "demo" in arguments or any(a.startswith("--c") for a in arguments):
        return
    with TemporaryDirectory() as folder:
        assert main(["--config", f"{folder}/nodes.yaml", *arguments]) in (0, 2)


@slowly
@given(st.lists(st.tuples(st.text(min_size=1, max_size=40), st.binary(max_size=50)), max_size=5))
def test_a_folder_with_anything_in_it(files: list[tuple[str, bytes]]) -> None:
    """Names of any kind, folders and links beside the letters: nothing is handed out, and nothing is raised."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        secret = root / "secret"
        secret.write_text("not yours")
        bus = FolderBus(root / "bus", "net", "01", ["00"])
        bus.open({"00": None})
        places = [p for p in (root / "bus").rglob("*") if p.is_dir()] or [root / "bus"]
        name = "00to01at20261122093015042-1.json"
        for place in places:
            for text, content in files:
                with suppress(OSError, ValueError):
                    (place / text.replace("/", "_")).write_bytes(content)
            with suppress(OSError):
                (place / name).symlink_to(secret)
            with suppress(OSError):
                (place / "202611220930").mkdir()
                (place / "202611220930" / name).symlink_to(secret)
        bus.open({"00": None})
        for letter in bus.receive("00", letters_max=100):
            assert letter.payload != b"not yours"
        bus.close()

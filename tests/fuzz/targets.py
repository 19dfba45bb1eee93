"""What is read of what comes from outside. A target takes any bytes, and raises nothing but what it found wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import zstandard

from dispatcher.references import references_of, whole_of
from node.buses.end_marks import end_mark_of, life_of
from node.buses.kafka.encoding import ENCODING, ZSTD, decode
from node.config import read_network
from schemas.compilation import compile_structure, generate_package
from schemas.errors import ConfigError, MessageError
from schemas.merging import merge_xsd
from schemas.network import CompositeSettings, TypeSettings
from schemas.stamp import parse as parse_stamp
from schemas.structure import ItemType
from schemas.tables import Column, Table
from schemas.xsd import read_xsd, write_xsd
from serializers.beside import kept
from serializers.digest import differences, digest, same
from serializers.keys import key_of, read, written
from serializers.message import only, parse_name, part_of, put_together, read_message
from serializers.signature import check
from tests.flow.test_bad_input import MESSAGE
from tests.flow.test_compilation import EXCHANGE, TABLES
from tests.flow.test_config import GOOD
from tests.flow.test_xsd import BY_HAND


class Target(NamedTuple):
    reads: Callable[[bytes], None]
    examples: Sequence[bytes]
    is_json: bool = False


# --- one type of each kind -----------------------------------------------------------------------------------------

PAYMENTS = Table(
    "payments",
    (
        Column("id", "uuid", "string", nullable=False),
        Column("at", "timestamp", "dateTime"),
        Column("rate", "real", "double"),
        Column("paid", "boolean", "boolean"),
        Column("about", "json", "json"),
        Column("kind", "text", "string"),
        Column("product", "integer", "integer"),
        Column("said", "text", "string"),
    ),
    ("id",),
)
PAYMENT = TypeSettings(
    "Catalog.Payment",
    "payments",
    reference_data=True,
    composite={
        "payer": CompositeSettings("kind", {"Catalog.Product": "product", "string": "said"}),
        "about": CompositeSettings(json="about", types=("Catalog.Product", "decimal")),
    },
)
_EXCHANGE = {**EXCHANGE, PAYMENT.name: PAYMENT}
_TABLES = {**TABLES, "payments": PAYMENTS}
PACKAGE = generate_package(_EXCHANGE, _TABLES)
STRUCTURE = compile_structure(PACKAGE, _EXCHANGE, _TABLES)

VALUES: Mapping[str, dict[str, Any]] = {
    "Catalog.File": {"name": "a", "order_id": 7},
    "Document.Order": {
        "number": 7, "placed": "2026-11-22T10:00:00.5Z", "lines": [{"line_no": 1, "product": 3}]
    },
    "Register.Price": {
        "Filter": {"product_id": 3, "period": "2026-11-01"}, "Records": [{"kind": "retail", "amount": "21.350"}]
    },
    "Catalog.Product": {"id": 3, "name": "tea", "price": "1.50"},
    "Catalog.Payment": {
        "id": "p", "at": "2026-11-22T10:00:00.10", "rate": 1, "paid": True,
        "payer": {"#type": "Catalog.Product", "#value": 3}, "about": {"#type": "decimal", "#value": "1.0"},
    },
}  # fmt: skip


def _body(type_name: str, value: object) -> bytes:
    item = {**MESSAGE["message"]["body"][0], "#type": type_name, "#value": value}
    return orjson.dumps({"message": {**MESSAGE["message"], "body": [item]}})


# --- messages ------------------------------------------------------------------------------------------------------


def message(payload: bytes) -> None:
    """What a receiver asks of a message before it is given to a database, and people of what is parked or lost."""
    with suppress(MessageError):
        check(payload, b"key")
    end_mark_of(payload), life_of(payload)
    with suppress(MessageError):
        if part_of(payload) is not None:
            put_together([payload])
    try:
        found = read_message(payload)
    except MessageError:
        return
    assert read_message(only(payload, range(len(found.items)))).items == found.items
    for item in found.items:
        item_type = STRUCTURE.named(item.type)
        if item_type is not None:
            with suppress(MessageError):
                key_of(item_type, (item.deleted if item.value is None else item.value) or {}, on_wire=True)
                if item.value is not None:
                    _value(item_type, item.value)


def _value(item_type: ItemType, value: Mapping[str, Any]) -> None:
    """Against another value of its type, as when the two collide."""
    own = VALUES[item_type.name]
    references_of(item_type, value, STRUCTURE), whole_of(item_type, value, STRUCTURE)
    same(item_type, own, value)
    differences(item_type, own, value)
    digest(item_type, value)
    kept(item_type, value, {})


def packed(payload: bytes) -> None:
    """A record of Kafka."""
    with suppress(MessageError):
        decode({ENCODING: ZSTD}, payload)


def name(payload: bytes) -> None:
    parse_name(payload.decode("utf-8", "surrogateescape"))


# --- files that people write ----------------------------------------------------------------------------------------


def nodes_yaml(source: bytes) -> None:
    _FILE.write_bytes(source)
    with suppress(ConfigError):
        read_network(_FILE, started="00")


def package(source: bytes) -> None:
    """What is read is written, and read again as the same; and what is generated comes into it."""
    try:
        found = read_xsd(source)
    except ConfigError:
        return
    assert read_xsd(write_xsd(found)).types == found.types
    with suppress(ConfigError):
        merged = merge_xsd(source, PACKAGE, "package.xsd")
        assert merge_xsd(merged.written, PACKAGE, "package.xsd").written == merged.written


# --- arguments -------------------------------------------------------------------------------------------------------


def key(argument: bytes) -> None:
    """A key as people type it; what is read is shown, and read again as the same."""
    text = argument.decode("utf-8", "surrogateescape")  # as the arguments of a program are
    for item_type in STRUCTURE.types.values():
        with suppress(ConfigError):
            found = read(item_type, text)
            assert read(item_type, written([f.prop for f in item_type.key], found)) == found


def stamp(argument: bytes) -> None:
    with suppress(ConfigError):
        parse_stamp(argument.decode("utf-8", "surrogateescape"))


_FOLDER = tempfile.TemporaryDirectory(prefix="kod-fuzz-")
_FILE = Path(_FOLDER.name) / "nodes.yaml"
(_FILE.parent / "schemas").mkdir()

TARGETS: Mapping[str, Target] = {
    "message": Target(message, [orjson.dumps(MESSAGE), *(_body(*one) for one in VALUES.items())], is_json=True),
    "packed": Target(packed, [zstandard.ZstdCompressor().compress(orjson.dumps(MESSAGE))]),
    "name": Target(name, [b"00to01at20261122093015042-3.json"]),
    "nodes.yaml": Target(nodes_yaml, [GOOD.encode(), Path("nodes.yaml").read_bytes()]),
    "package": Target(package, [write_xsd(PACKAGE), BY_HAND.encode()]),
    "key": Target(
        key, [b"7", b'["a"]', b'[{"date":"2026-11-01"},{"Catalog.Product":11}]', b'[3,"2026-11-01"]'], is_json=True
    ),
    "stamp": Target(stamp, [b"20261122093015042", b"2026-11-22T09:30:15.042Z"]),
}

"""The message, version 1: an envelope around items, as bytes.

    {"message": {"header": {"from": …, "session": …, "number": …}, "body": [{"#type": …, "#value": …}, …]}}

Items' values are JSON text made by the database and are not looked at here when a message is written; when one is
read, it is parsed once and checked to be of the form that the contract gives.

A message too large for the bus travels in parts. Each has the message's header with `part` and `parts`, and as its
body a text: a piece of the body's JSON. The pieces in their order are the body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from schemas.errors import MessageError
from schemas.package import NAMESPACE
from schemas.stamp import Stamp, digits, from_digits

VERSION = 1
BYTES_MAX = 256_000_000
"""More than any bus takes by far; a message of this size would be read into memory several times over."""

DEPTH_MAX = 32
_DEEP = b"\n" + b"  " * DEPTH_MAX
_NAME = re.compile(r"([0-9A-Z]{2,8})to([0-9A-Z]{2,8})at(\d{17})-([1-9]\d{0,8})\.json", re.ASCII)
_PART = re.compile(rb'"part"\s*:')
_HEAD_BYTES = 1024
_PARTS_MAX = 10**9
_NODE = re.compile(r"[0-9A-Z]{2,8}", re.ASCII)
_ORIGIN = re.compile(r"[0-9A-Z]{2,8}\.\d{1,15}", re.ASCII)


class UnknownVersionError(MessageError):
    """A message of a header version that this program does not know: it waits for the upgrade."""


class Version(NamedTuple):
    """(stamp, origin): compared as such, it is the total order that settles collisions by `newest`."""

    stamp: Stamp
    origin: str
    """Node and incarnation: `00.1763800000`."""


Seen = Mapping[str, Stamp]
"""For the other origins that ever wrote an item, their newest stamps."""


@dataclass(frozen=True, slots=True)
class Header:
    sender: str
    to: str
    incarnation: int
    session: Stamp
    number: int
    after: Stamp | None = None
    of: int | None = None
    """In an end mark only: how many messages the session has for this addressee. 0 in a heartbeat."""
    package: str | None = None
    part: int | None = None
    """1, 2 … `parts` where this is one of the parts of a message."""
    parts: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return message_name(self.sender, self.to, self.session, self.number)

    @property
    def is_end_mark(self) -> bool:
        return self.of is not None


class Incoming(NamedTuple):
    """An item of a message as it was read. `value` is None for a deletion, whose key properties are in `deleted`."""

    type: str
    version: Version
    seen: dict[str, Stamp]
    value: dict[str, Any] | None
    deleted: dict[str, Any] | None
    nodes: frozenset[str] = frozenset()
    """Where the sender knows it to be seen, farther on."""


@dataclass(frozen=True, slots=True)
class Message:
    header: Header
    items: tuple[Incoming, ...]


def message_name(sender: str, to: str, session: Stamp, number: int) -> str:
    return f"{sender}to{to}at{digits(session)}-{number}.json"


class Name(NamedTuple):
    sender: str
    to: str
    session: Stamp
    number: int


@lru_cache(maxsize=4096)
def parse_name(name: str) -> Name | None:
    """What a message's name says; None when it is none."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    try:
        return Name(found[1], found[2], from_digits(found[3]), int(found[4]))
    except ValueError:
        return None


def item_text(
    type_name: str,
    version: Version,
    seen: Seen | None,
    *,
    value: bytes | None,
    key: bytes | None,
    nodes: Collection[str] = (),
) -> bytes:
    """One item of a body: `value` is its JSON text, or, for a deletion, `key` the JSON object of its key. `nodes`:
    where it is to be seen, for the nodes between."""
    stamp, origin = version
    head = b'%b%b","#origin":"%b"' % (_head_of(type_name), digits(stamp).encode(), origin.encode())
    if seen:
        head += b',"#seen":' + orjson.dumps({origin: digits(stamp) for origin, stamp in seen.items()})
    if nodes:
        head += b',"#nodes":' + orjson.dumps(sorted(nodes))
    if value is None:
        assert key is not None
        return b'%b,"#deleted":%b}' % (head, key)
    return b'%b,"#value":%b}' % (head, value)


@lru_cache(maxsize=1024)
def _head_of(type_name: str) -> bytes:
    return b'{"#ns":"%b","#type":%b,"#stamp":"' % (NAMESPACE.encode(), orjson.dumps(type_name))


def message_bytes(header: Header, items: Iterable[bytes]) -> bytes:
    """A whole message from its items' texts (item_text)."""
    return payload_of(header, body_bytes(items))


def body_bytes(items: Iterable[bytes]) -> bytes:
    """A message's body from its items' texts."""
    return b"[%b]" % b",".join(items)


def payloads(header: Header, body: bytes, bytes_max: int) -> Iterator[bytes]:
    """The message as one payload, or, where that is larger than `bytes_max`, in parts that are not."""
    payload = payload_of(header, body)
    if len(payload) <= bytes_max:
        yield payload
        return
    largest = payload_of(replace(header, part=_PARTS_MAX, parts=_PARTS_MAX), b'""')
    pieces = list(_pieces(body, bytes_max - len(largest)))
    for part, piece in enumerate(pieces, 1):
        yield payload_of(replace(header, part=part, parts=len(pieces)), orjson.dumps(piece))


def _pieces(body: bytes, room: int) -> Iterator[str]:
    """The text of `body` cut so that no piece takes more than `room` bytes as a JSON string (at the least, one
    character): there a quote or a backslash takes two."""
    start = 0
    while start < len(body):
        end = min(len(body), start + max(room // 2, 4))
        while end < len(body) and body[end] & 0xC0 == 0x80:  # not in the middle of a character
            end -= 1
        yield body[start:end].decode()
        start = end


def payload_of(header: Header, body: bytes) -> bytes:
    """A message from its body's text, which is copied once."""
    fields: dict[str, Any] = {
        "from": header.sender,
        "to": header.to,
        "version": VERSION,
        "incarnation": header.incarnation,
        "session": digits(header.session),
        "number": header.number,
    }
    if header.parts is not None:
        fields["part"], fields["parts"] = header.part, header.parts
    if header.after is not None:
        fields["after"] = digits(header.after)
    if header.of is not None:
        fields["of"] = header.of
    if header.package:
        fields["package"] = header.package
    fields.update(header.extra)
    return _enveloped(fields, body)


def _enveloped(fields: Mapping[str, Any], body: bytes) -> bytes:
    return b"".join((b'{"message":{"header":', orjson.dumps(fields), b',"body":', body, b"}}"))


def read_header(payload: bytes) -> Header:
    """The header of a message, checked. Raises MessageError."""
    return _header(_envelope(payload))


class Part(NamedTuple):
    number: int
    of: int


def part_of(payload: bytes) -> Part | None:
    """Which part of a message this is; None when it is a whole one. Does not parse what cannot be a part: a header's
    `part` is expected near the beginning. Raises MessageError."""
    if not _PART.search(payload, 0, _HEAD_BYTES):
        return None
    raw = _raw_header(_envelope(payload))
    if "part" not in raw:  # something in the body is called so
        return None
    try:
        part = Part(_number(raw, "part"), _number(raw, "parts"))
    except ValueError as error:
        raise MessageError(f"header: {error}") from None
    if not 1 <= part.number <= part.of:
        raise MessageError(f"header: part {part.number} of {part.of} cannot be")
    return part


def put_together(parts: Sequence[bytes]) -> bytes:
    """The message whose parts, all of them and in order, these are; of whatever header version. Raises MessageError."""
    envelopes = [_envelope(part) for part in parts]
    headers = [{k: v for k, v in _raw_header(e).items() if k not in ("part", "signature")} for e in envelopes]
    if any(header != headers[0] for header in headers):
        raise MessageError("parts with different headers", hint="who may write to this link's topic?")
    header = {k: v for k, v in headers[0].items() if k != "parts"}
    bodies = [envelope.get("body") for envelope in envelopes]
    if all(isinstance(body, list) for body in bodies):  # also understood: each part a list of items
        return _enveloped(header, orjson.dumps([item for body in bodies if body for item in body]))
    if not all(isinstance(body, str) for body in bodies):
        raise MessageError("parts whose bodies are no texts")
    return _enveloped(header, "".join(body for body in bodies if body).encode())


def read_message(payload: bytes) -> Message:
    """A whole message, checked to be of the contract's form. Raises MessageError that says what is wrong with it."""
    envelope = _envelope(payload, strict=True)
    header = _header(envelope)
    if header.parts is not None:
        raise MessageError(f"part {header.part} of {header.parts} of a message, and not the message")
    body = envelope.get("body")
    if isinstance(body, dict):
        body = body.get("object")
    if not isinstance(body, list):
        raise MessageError("the message has no body", hint="a body is a list of items")
    return Message(header, tuple(_item(position, element) for position, element in enumerate(body, 1)))


def only(payload: bytes, positions: Collection[int]) -> bytes:
    """The message with no other items than those at these places of its body, from 0."""
    document = orjson.loads(payload)
    body = document["message"]["body"]
    items = body["object"] if isinstance(body, dict) else body
    document["message"]["body"] = [items[position] for position in sorted(positions)]
    return orjson.dumps(document)


def _envelope(payload: bytes, *, strict: bool = False) -> dict[str, Any]:
    if len(payload) > BYTES_MAX:
        raise MessageError(f"the message has {len(payload)} bytes, more than {BYTES_MAX}: it is not even looked at")
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise MessageError(f"not JSON: {error}", hint="was the file cut short or altered on its way?") from None
    if strict:
        _check_depth(document)
        _check_keys(document, payload)
    envelope = document.get("message") if isinstance(document, dict) else None
    if not isinstance(envelope, dict):
        raise MessageError("there is no object 'message' in it")
    return envelope


def _check_depth(document: Any) -> None:
    """At most DEPTH_MAX objects and lists within each other. Lines of what is written with indentation begin with two
    blanks for each; strings have no line ends in JSON. So nearly every message is through with one search."""
    try:
        if _DEEP not in orjson.dumps(document, option=orjson.OPT_INDENT_2):
            return
    except orjson.JSONEncodeError:  # deeper than can be written
        pass
    level = [document]
    for _ in range(DEPTH_MAX):
        inner = (value for one in level for value in (one.values() if isinstance(one, dict) else one))
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise MessageError(f"more than {DEPTH_MAX} objects and lists within each other")


def _check_keys(document: Any, payload: bytes) -> None:
    """No key twice in an object: parsers differ in which of the two they take. What reads as it would be written has
    none; other spellings are looked at pair by pair."""
    try:
        if orjson.dumps(document) != payload:
            json.loads(payload, object_pairs_hook=_unique_keys, parse_int=str, parse_float=str)
    except UnicodeDecodeError as error:
        raise MessageError(f"not JSON: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise MessageError(f"the key {next(n for n in names if names.count(n) > 1)!r} is twice in one object")
    return found


def _raw_header(envelope: dict[str, Any]) -> dict[str, Any]:
    raw = envelope.get("header")
    if not isinstance(raw, dict):
        raise MessageError("the message has no header")
    return raw


def _header(envelope: dict[str, Any]) -> Header:
    raw = _raw_header(envelope)
    if raw.get("version") != VERSION:
        raise UnknownVersionError(
            f"header version {raw.get('version')!r} is not known here",
            hint="upgrade this node: the sender is newer",
        )
    try:
        of = raw.get("of")
        header = Header(
            sender=_text(raw, "from"),
            to=_text(raw, "to"),
            incarnation=_number(raw, "incarnation"),
            session=from_digits(raw.get("session", "")),
            number=_number(raw, "number"),
            after=from_digits(raw["after"]) if raw.get("after") is not None else None,
            of=None if of is None else _number(raw, "of"),
            package=raw.get("package"),
            part=None if raw.get("part") is None else _number(raw, "part"),
            parts=None if raw.get("parts") is None else _number(raw, "parts"),
            extra={k: v for k, v in raw.items() if k not in _HEADER_FIELDS},
        )
    except ValueError as error:
        raise MessageError(f"header: {error}") from None
    if header.number < 1 or (header.of is not None and header.number != header.of + 1):
        raise MessageError(f"header: number {header.number} of {header.of} cannot be")
    return header


_HEADER_FIELDS = frozenset(
    ("from", "to", "version", "incarnation", "session", "number", "after", "of", "package", "part", "parts")
)


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name!r} is not a text")
    return value


def _number(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name!r} is not a number")
    return value


def _item(position: int, raw: Any) -> Incoming:
    try:
        value, deleted = raw.get("#value"), raw.get("#deleted")
        if (value is None) == (deleted is None) or not isinstance(value if deleted is None else deleted, dict):
            raise ValueError("exactly one of #value and #deleted has to be there, an object")
        seen, nodes = raw.get("#seen"), raw.get("#nodes")
        return Incoming(
            _text(raw, "#type"),
            Version(from_digits(raw.get("#stamp", "")), _origin(raw.get("#origin"))),
            {_origin(o): from_digits(s) for o, s in seen.items()} if seen else {},
            value,
            deleted,
            frozenset(map(_node, nodes)) if nodes else _NOWHERE,
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise MessageError(f"item {position} of the body: {error}") from None


_NOWHERE: frozenset[str] = frozenset()


def _node(code: Any) -> str:
    if not isinstance(code, str) or not _NODE.fullmatch(code):
        raise ValueError(f"{code!r} in #nodes is no node")
    return code


@lru_cache(maxsize=1024)
def _origin(text: Any) -> str:
    if not isinstance(text, str) or not _ORIGIN.fullmatch(text):
        raise ValueError(f"{text!r} is no origin: a node and an incarnation, e.g. 00.1763800000")
    return text

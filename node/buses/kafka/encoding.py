"""A letter as a record of Kafka: its name in the header `kod-name`; a body above some size is compressed with zstd
(header `kod-encoding`), here and not by the client, whose limit of size looks at what is not compressed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import zstandard

from schemas.errors import MessageError

NAME = "kod-name"
ENCODING = "kod-encoding"
ZSTD = "zstd"
COMPRESS_FROM_BYTES = 2048
PAYLOAD_BYTES_MAX = 1 << 30
"""What a record may unpack to: a bomb is refused before it is unpacked."""

Headers = list[tuple[str, str | bytes | None]]

_local = threading.local()  # neither compressor nor decompressor may be shared by threads


def encode(name: str, payload: bytes) -> tuple[bytes, Headers]:
    headers: Headers = [(NAME, name.encode())]
    if len(payload) < COMPRESS_FROM_BYTES:
        return payload, headers
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
    packed = _local.compressor.compress(payload)
    if len(packed) >= len(payload):
        return payload, headers
    return packed, [*headers, (ENCODING, ZSTD.encode())]


def headers_of(raw: Any) -> dict[str, str]:
    """The headers as texts; of a name that is there twice, the last."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in raw or ()}


def decode(headers: Mapping[str, str], value: bytes) -> bytes:
    """The payload. Raises MessageError when it cannot be unpacked."""
    encoding = headers.get(ENCODING)
    if encoding is None:
        return value
    if encoding != ZSTD:
        raise MessageError(f"{ENCODING} {encoding!r} is not known here", hint="is the sender newer than this node?")
    try:
        size = zstandard.frame_content_size(value)
        if not 0 <= size <= PAYLOAD_BYTES_MAX:
            raise MessageError(f"zstd: unpacks to {size} bytes, {PAYLOAD_BYTES_MAX} at most are taken")
        if not hasattr(_local, "decompressor"):
            _local.decompressor = zstandard.ZstdDecompressor()
        return bytes(_local.decompressor.decompress(value))
    except zstandard.ZstdError as error:
        raise MessageError(f"zstd: {error}") from None

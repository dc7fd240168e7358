"""Records of third-party files by the rules of protocol buffers, written by hand: nothing here imports vlpipe's writer or TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np


def varint(number: int) -> bytes:
    """A varint of a 64-bit number."""
    number &= (1 << 64) - 1
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, *content: bytes) -> bytes:
    """A field of bytes."""
    inside = b"".join(content)
    return varint(number << 3 | 2) + varint(len(inside)) + inside


def floats(values: Any) -> bytes:
    """A Feature with packed floats."""
    return field(2, field(1, np.asarray(values, "<f4").tobytes()))


def ints(*values: int) -> bytes:
    """A Feature with packed integers."""
    return field(3, field(1, b"".join(map(varint, values))))


def texts(*values: bytes) -> bytes:
    """A Feature with bytes."""
    return field(1, *(field(1, value) for value in values))


def example(features: dict[str, bytes]) -> bytes:
    """A serialized Example; the context of a SequenceExample has the same bytes."""
    return field(1, *(field(1, field(1, key.encode()), field(2, feature)) for key, feature in features.items()))


def feature_list(key: str, frames: Iterable[bytes]) -> bytes:
    """The feature lists of a serialized SequenceExample with one list; it follows the context."""
    return field(2, field(1, field(1, key.encode()), field(2, *(field(1, frame) for frame in frames))))


def masked(data: bytes) -> int:
    """The masked CRC32C of data."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header(length: int) -> bytes:
    """The 12 bytes before a record."""
    return struct.pack("<Q", length) + struct.pack("<I", masked(struct.pack("<Q", length)))


def framed(data: bytes) -> bytes:
    """A record in a TFRecord file."""
    return header(len(data)) + data + struct.pack("<I", masked(data))


def write(path: Path, records: Iterable[bytes]) -> Path:
    """Write a TFRecord file."""
    path.write_bytes(b"".join(map(framed, records)))
    return path


def records_of(content: bytes) -> list[bytes]:
    """The records of an intact TFRecord file."""
    records, at = [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        records.append(content[at + 12 : at + 12 + size])
        at += 16 + size
    return records

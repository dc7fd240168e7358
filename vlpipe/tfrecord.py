"""The TFRecord framing: how records stand in a file, and the checksum that guards each.

A file is a sequence of frames and nothing else:

    uint64  length n of the data, little-endian
    uint32  masked CRC32C of the 8 length bytes
    n bytes data
    uint32  masked CRC32C of the data

The mask is TensorFlow's: rotate right by 15 bits, add 0xa282ead8, modulo 2**32.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from vlpipe.errors import DatasetError

HEADER_BYTES = 12
FOOTER_BYTES = 4
_HEADER = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")


class RecordFrame(NamedTuple):
    """One record as it stands in a file: `offset` is where its header begins, `data` its content."""

    offset: int
    data: bytes
    checksum: int


def masked_crc(data: bytes | np.ndarray) -> int:
    """CRC32C of `data` (bytes, or a read-only array of them), masked as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header_of(length: int) -> bytes:
    """The 12 bytes that stand before `length` bytes of data."""
    size = _LENGTH.pack(length)
    return size + _CHECKSUM.pack(masked_crc(size))


def length_in(header: bytes) -> int | None:
    """The bytes of data that a header of 12 bytes announces; None where its checksum says that it is damaged."""
    length, checksum = _HEADER.unpack(header)
    return length if masked_crc(header[:8]) == checksum else None


def footer_of(checksum: int) -> bytes:
    """The 4 bytes that stand after data whose masked CRC is `checksum`."""
    return _CHECKSUM.pack(checksum)


def read_frames(path: str | os.PathLike[str]) -> Iterator[RecordFrame]:
    """Every record of an uncompressed TFRecord file, in order, each checked.

    Raises:
        DatasetError: a record is damaged or cut; the message names the file, the record and its first byte. Or the file cannot be read.
    """
    path = Path(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected an uncompressed TFRecord file.") from error
    with stream as file:
        size = os.fstat(file.fileno()).st_size
        offset = number = 0
        while offset < size:
            where = f"{path.name}, record {number} at byte {offset}"
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                raise DatasetError(f"{where}: the file ends after {len(header)} of {HEADER_BYTES} header bytes. {_NEXT_STEP}")
            length = length_in(header)
            if length is None:
                raise DatasetError(f"{where}: the checksum of its length does not match. {_NEXT_STEP}")
            if length > size - offset - HEADER_BYTES - FOOTER_BYTES:
                left = max(0, size - offset - HEADER_BYTES - FOOTER_BYTES)
                raise DatasetError(f"{where}: the header says {length} bytes of data, the file has {left} left. {_NEXT_STEP}")
            data = file.read(length)
            (checksum,) = _CHECKSUM.unpack(file.read(FOOTER_BYTES))
            if masked_crc(data) != checksum:
                raise DatasetError(f"{where}: the checksum of its {length} bytes of data does not match. {_NEXT_STEP}")
            yield RecordFrame(offset, data, checksum)
            offset += HEADER_BYTES + length + FOOTER_BYTES
            number += 1


_NEXT_STEP = "The file is damaged or was cut: restore it from a copy, or write the dataset again."

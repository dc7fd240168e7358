"""The TFRecord framing: how records stand in a file, and the checksum that guards each.

A file is a sequence of frames and nothing else:

    uint64  length n of the data, little-endian
    uint32  masked CRC32C of the 8 length bytes
    n bytes data
    uint32  masked CRC32C of the data

The mask is TensorFlow's: rotate right by 15 bits, add 0xa282ead8, modulo 2**32.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from vlpipe.errors import DAMAGED, NOT_TFRECORD, DatasetError, record_place

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


def read_frames(path: str | os.PathLike[str], content: BinaryIO | None = None) -> Iterator[RecordFrame]:
    """Every record of a TFRecord file, in order, each checked.

    Args:
        content: what is in it, where it is compressed.

    Raises:
        DatasetError: a record is damaged or cut; the message names the file, the record and its first byte. Or the file cannot be read.
    """
    path = Path(path)
    try:
        stream = content or path.open("rb")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected an uncompressed TFRecord file.") from error
    with stream as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        offset = number = 0
        while offset < size:
            where = record_place(path.name, number, offset)
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                raise DatasetError(f"{where}: the file ends after {len(header)} of {HEADER_BYTES} header bytes. {DAMAGED}")
            length = length_in(header)
            if length is None:
                raise DatasetError(f"{where}: the checksum of its length does not match. {_what_else(number)}")
            if length > size - offset - HEADER_BYTES - FOOTER_BYTES:
                left = max(0, size - offset - HEADER_BYTES - FOOTER_BYTES)
                raise DatasetError(f"{where}: the header says {length} bytes of data, the file has {left} left. {DAMAGED}")
            data = file.read(length)
            (checksum,) = _CHECKSUM.unpack(file.read(FOOTER_BYTES))
            if masked_crc(data) != checksum:
                raise DatasetError(f"{where}: the checksum of its {length} bytes of data does not match. {DAMAGED}")
            yield RecordFrame(offset, data, checksum)
            offset += HEADER_BYTES + length + FOOTER_BYTES
            number += 1


def scan(data: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the records of a whole file stand: their headers tested, their data not touched.

    Args:
        data: uint8, the file, as it is mapped into memory.
        name: what to call it in an error.

    Returns:
        int64 offsets of the headers, int64 bytes of the data.

    Raises:
        DatasetError: a header is damaged or cut, or the file is something else; the message names the record and its first byte.
    """
    size, at = len(data), 0
    offsets: list[int] = []
    view: Any = data  # which offers its bytes, though NumPy does not say so
    length_at, add = _LENGTH.unpack_from, offsets.append
    problem = ""
    while at < size:  # a fifth of a microsecond a record: each says only where the next is
        left = size - at - HEADER_BYTES - FOOTER_BYTES
        if left < 0:
            problem = f"the file ends after {size - at} bytes, a record has at least {HEADER_BYTES + FOOTER_BYTES}"
            break
        (length,) = length_at(view, at)
        if length > left or length >= 1 << 32:
            problem = f"the header says {length} bytes of data, the file has {left} left (at most {(1 << 32) - 1} are read)"
            break
        add(at)
        at += HEADER_BYTES + length + FOOTER_BYTES
    found = np.array(offsets, np.int64)
    bad = np.flatnonzero(_header_checksums(data, found) != _unaligned(data, "<u4", found + 8))
    if len(bad) or problem:
        number = int(bad[0]) if len(bad) else len(found)
        at = int(found[number]) if len(bad) else at
        left = size - at - HEADER_BYTES - FOOTER_BYTES
        if (
            not len(bad)
            and left >= 0
            and int(_header_checksums(data, np.array([at]))[0]) != int.from_bytes(data[at + 8 : at + 12], "little")
        ):
            problem = ""  # a length that makes no sense is one that was damaged
        where = record_place(name, number, at)
        raise DatasetError(f"{where}: {problem or 'the checksum of its length does not match'}. {_what_else(number)}")
    return found, np.diff(found, append=size) - (HEADER_BYTES + FOOTER_BYTES)


def data_checksums(data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """uint32: the checksum that stands behind the data of each record."""
    return _unaligned(data, "<u4", offsets + HEADER_BYTES + sizes)


def _unaligned(data: np.ndarray, dtype: str, at: np.ndarray) -> np.ndarray:
    """Numbers that begin at any byte of a file."""
    width = np.dtype(dtype).itemsize
    if len(data) < width:
        return np.zeros(0, dtype)
    return np.ndarray((len(data) - width + 1,), dtype, data, strides=(1,))[at]


def _header_checksums(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint32: `masked_crc` of the 8 bytes at each offset."""
    crc = np.full(len(offsets), 0xFFFFFFFF, np.uint32)
    for position in range(8):
        crc = _crc_table()[(crc ^ data[offsets + position]) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


@functools.cache
def _crc_table() -> np.ndarray:
    """uint32 `[256]`: CRC32C of each byte (the polynomial 0x1EDC6F41, reflected)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (np.uint32(0x82F63B78) * (table & np.uint32(1)))
    return table


def _what_else(number: int) -> str:
    """What to do about a file in which a header is damaged: at its first record it may be something else."""
    if number == 0:
        return NOT_TFRECORD
    return DAMAGED

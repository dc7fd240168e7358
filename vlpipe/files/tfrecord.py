"""The TFRecord format: records in a file, each with a length and checksums.

A file is a sequence of records without gaps:

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
from vlpipe.regular_files import open_regular

HEADER_BYTES = 12
FOOTER_BYTES = 4
_HEADER = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")


class RecordFrame(NamedTuple):
    """A record of a file.

    Attributes:
        offset: position of its header in the file.
        data: its content.
        checksum: masked CRC32C of the data.
    """

    offset: int
    data: bytes
    checksum: int


def masked_crc(data: bytes | np.ndarray) -> int:
    """Return the masked CRC32C of data (bytes, or a read-only array of uint8), as TFRecord stores it.

    Example:
        >>> hex(masked_crc(b"123456789"))
        '0xc78ab0e5'
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header_of(length: int) -> bytes:
    """Return the 12 bytes before `length` bytes of data."""
    size = _LENGTH.pack(length)
    return size + _CHECKSUM.pack(masked_crc(size))


def headers_of(lengths: np.ndarray) -> np.ndarray:
    """Return `header_of` each of these lengths (int64 `[N]`): uint8 `[N, 12]`."""
    headers = np.empty((len(lengths), HEADER_BYTES), np.uint8)
    headers[:, :8] = lengths.astype("<u8")[:, None].view(np.uint8)
    starts = np.arange(len(lengths)) * HEADER_BYTES
    headers[:, 8:] = _header_checksums(headers.reshape(-1), starts).astype("<u4")[:, None].view(np.uint8)
    return headers


def length_in(header: bytes) -> int | None:
    """Return the length of the data behind a header of 12 bytes; None if the checksum of the header does not match."""
    length, checksum = _HEADER.unpack(header)
    return length if masked_crc(header[:8]) == checksum else None


def footer_of(checksum: int) -> bytes:
    """Return the 4 bytes behind data with this masked CRC."""
    return _CHECKSUM.pack(checksum)


def read_frames(path: str | os.PathLike[str], content: BinaryIO | None = None) -> Iterator[RecordFrame]:
    """Yield the records of a TFRecord file in order, and check their checksums.

    Args:
        path: of the file.
        content: the uncompressed content, open for reading; None: the file is not compressed.

    Raises:
        DatasetError: a record is damaged or cut (the message has file, record and byte), or the file cannot be read.
    """
    path = Path(path)
    try:
        stream = content or open_regular(path)
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
                raise DatasetError(f"{where}: the checksum of its length is wrong. {_next_step(number)}")
            if length > size - offset - HEADER_BYTES - FOOTER_BYTES:
                left = max(0, size - offset - HEADER_BYTES - FOOTER_BYTES)
                raise DatasetError(f"{where}: the header announces {length} bytes of data, of which the file has {left}. {DAMAGED}")
            data = file.read(length)
            footer = file.read(FOOTER_BYTES)
            if len(data) < length or len(footer) < FOOTER_BYTES:
                raise DatasetError(f"{where}: the file was cut while it was read, inside this record. {DAMAGED}")
            (checksum,) = _CHECKSUM.unpack(footer)
            if masked_crc(data) != checksum:
                raise DatasetError(f"{where}: the checksum of its {length} bytes of data is wrong. {DAMAGED}")
            yield RecordFrame(offset, data, checksum)
            offset += HEADER_BYTES + length + FOOTER_BYTES
            number += 1


def scan(data: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Locate the records of a whole file by their headers, which are checked; their data are not read.

    Args:
        data: uint8, the content of the file, such as a memory map.
        name: of the file, for an error.

    Returns:
        int64 `[N]`, offsets of the headers; int64 `[N]`, lengths of the data in bytes.

    Raises:
        DatasetError: a header is damaged or cut, or the file is not a TFRecord file; the message has the record and its first byte.
    """
    size, at = len(data), 0
    offsets: list[int] = []
    view: Any = data  # arrays support the buffer protocol, which NumPy's annotations lack
    length_at, add = _LENGTH.unpack_from, offsets.append
    problem = ""
    while at < size:  # 0.2 microseconds per record; each length only tells where the next record begins
        left = size - at - HEADER_BYTES - FOOTER_BYTES
        if left < 0:
            problem = f"the file ends after {size - at} bytes, a record has at least {HEADER_BYTES + FOOTER_BYTES}"
            break
        (length,) = length_at(view, at)
        if length > left or length >= 1 << 32:
            problem = f"the header announces {length} bytes of data, the file has {left} left (at most {(1 << 32) - 1} are read)"
            break
        add(at)
        at += HEADER_BYTES + length + FOOTER_BYTES
    starts = np.array(offsets, np.int64)
    bad = np.flatnonzero(_header_checksums(data, starts) != _unaligned(data, "<u4", starts + 8))
    if len(bad) or problem:
        number = int(bad[0]) if len(bad) else len(starts)
        at = int(starts[number]) if len(bad) else at
        left = size - at - HEADER_BYTES - FOOTER_BYTES
        if left >= 0 and int(_header_checksums(data, np.array([at]))[0]) != int.from_bytes(data[at + 8 : at + 12], "little"):
            problem = ""  # the length is damaged, so what follows from it is not the problem
        where = record_place(name, number, at)
        raise DatasetError(f"{where}: {problem or 'the checksum of its length does not match'}. {_next_step(number)}")
    return starts, np.diff(starts, append=size) - (HEADER_BYTES + FOOTER_BYTES)


def data_checksums(data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the stored checksum of the data of each record, uint32 `[N]`."""
    return _unaligned(data, "<u4", offsets + HEADER_BYTES + sizes)


def _unaligned(data: np.ndarray, dtype: str, at: np.ndarray) -> np.ndarray:
    """Read numbers at any positions of a file, aligned or not."""
    width = np.dtype(dtype).itemsize
    if len(data) < width:
        return np.zeros(0, dtype)
    return np.ndarray((len(data) - width + 1,), dtype, data, strides=(1,))[at]


def _header_checksums(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return `masked_crc` of the 8 bytes at each offset, uint32 `[N]`."""
    crc = np.full(len(offsets), 0xFFFFFFFF, np.uint32)
    for position in range(8):
        crc = _crc_table()[(crc ^ data[offsets + position]) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


@functools.cache
def _crc_table() -> np.ndarray:
    """Return the CRC32C of each byte, uint32 `[256]` (polynomial 0x1EDC6F41, reflected)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (np.uint32(0x82F63B78) * (table & np.uint32(1)))
    return table


def _next_step(number: int) -> str:
    """Say what to do about a damaged header: if it is the first one, the file may not be TFRecord at all."""
    if number == 0:
        return NOT_TFRECORD
    return DAMAGED

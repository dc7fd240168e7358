"""The TFRecord format: records in a file, each with a length and checksums.

A file is a sequence of records without gaps:

    uint64  length n of the data, little-endian
    uint32  masked CRC32C of the 8 length bytes
    n bytes data
    uint32  masked CRC32C of the data

The mask is TensorFlow's: rotate right by 15 bits, add 0xa282ead8, modulo 2**32.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from vlpipe.errors import DAMAGED, NOT_TFRECORD, DatasetError, record_place
from vlpipe.regular_files import open_regular

HEADER_BYTES = 12
FOOTER_BYTES = 4
_HEADER = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_PIECE = 1 << 16  # bytes of a file that are scanned together


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


class Scan(NamedTuple):
    """The records of a file: int64 `[N]`, offsets of the headers and lengths of the data in bytes; uint32 `[N]`, the stored checksums."""

    offsets: np.ndarray
    sizes: np.ndarray
    checksums: np.ndarray


def scan(file: BinaryIO, name: str) -> Scan:
    """Locate the records of a whole local file by their headers, which are checked; their data are not read.

    The file is read in pieces, not mapped: a mapped file that another process cuts ends this one (SIGBUS).

    Raises:
        DatasetError: a header is damaged or cut, or the file is not a TFRecord file; the message has the record and its first byte.
    """
    descriptor, size, at = file.fileno(), os.fstat(file.fileno()).st_size, 0
    begin, end, window = 0, 0, b""  # the piece that was read last
    offsets: list[int] = []
    around: list[bytes] = []  # the footer before each header, and the header
    length_at, add, keep = _LENGTH.unpack_from, offsets.append, around.append
    problem, length = "", 0
    while at < size:  # 0.3 microseconds per record; each length only tells where the next record begins
        left = size - at - HEADER_BYTES - FOOTER_BYTES
        if left < 0:
            problem = f"the file ends after {size - at} bytes, a record has at least {HEADER_BYTES + FOOTER_BYTES}"
            break
        if at + HEADER_BYTES > end:
            begin = at - FOOTER_BYTES
            window = _piece(descriptor, begin, 64 if length > _PIECE else _PIECE)
            end = begin + len(window)
            if at + HEADER_BYTES > end:
                raise DatasetError(f"{record_place(name, len(offsets), at)}: the file became shorter while it was scanned. {DAMAGED}")
        (length,) = length_at(window, at - begin)
        if length > left or length >= 1 << 32:
            problem = f"the header announces {length} bytes of data, the file has {left} left (at most {(1 << 32) - 1} are read)"
            break
        add(at)
        keep(window[at - begin - FOOTER_BYTES : at - begin + HEADER_BYTES])
        at += HEADER_BYTES + length + FOOTER_BYTES
    last = _piece(descriptor, at - FOOTER_BYTES, FOOTER_BYTES + HEADER_BYTES).ljust(FOOTER_BYTES + HEADER_BYTES, b"\0")
    bytes_around = np.frombuffer(b"".join([*around, last]), np.uint8).reshape(-1, FOOTER_BYTES + HEADER_BYTES)
    starts = np.array(offsets, np.int64)
    right = _header_checksums(bytes_around.reshape(-1), np.arange(len(bytes_around)) * bytes_around.shape[1] + FOOTER_BYTES)
    good = right == np.ascontiguousarray(bytes_around[:, -4:]).view("<u4")[:, 0]
    bad = np.flatnonzero(~good[:-1])
    if len(bad) or problem:
        number = int(bad[0]) if len(bad) else len(starts)
        at = int(starts[number]) if len(bad) else at
        if size - at >= HEADER_BYTES + FOOTER_BYTES and not good[number]:
            problem = ""  # the length is damaged, so what follows from it is not the problem
        where = record_place(name, number, at)
        raise DatasetError(f"{where}: {problem or 'the checksum of its length does not match'}. {_next_step(number)}")
    sizes = np.diff(starts, append=size) - (HEADER_BYTES + FOOTER_BYTES)
    return Scan(starts, sizes, np.ascontiguousarray(bytes_around[1:, :FOOTER_BYTES]).view("<u4")[:, 0])


def _piece(descriptor: int, begin: int, size: int) -> bytes:
    """Read a piece of a file; before its first byte there are zeros."""
    return bytes(max(0, -begin)) + os.pread(descriptor, size + min(0, begin), max(0, begin))


@contextlib.contextmanager
def named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file where reading from a descriptor fails.

    Raises:
        DatasetError: instead of an `OSError`.
    """
    try:
        yield
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{path}: reading it failed ({error.strerror}). Try again, or restore it from a copy.") from error


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

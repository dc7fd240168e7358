"""FLAC files (RFC 9639): the header, and the number of samples where a writer to a pipe left it out."""

from __future__ import annotations

import functools
import struct

from vlpipe.audio.header import Header
from vlpipe.audio.tags import begin_of_trailing_tags
from vlpipe.errors import COPY_AGAIN, AudioError

_MAX_CHECKS = 64  # checksums over possible last frames: a false one passes the checksum of its header by a chance of 1/256


def read_flac(data: bytes, begin: int, name: str) -> Header:
    """Read the STREAMINFO of a FLAC file, whose "fLaC" is at `begin`; without a total there, find the last frame.

    Raises:
        AudioError: the header has no total and the file does not end with a frame, or several files are joined.
        struct.error: the file ends within its header.
    """
    (packed,) = struct.unpack_from(">Q", data, begin + 18)
    rate, channels, bits, samples = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
    (md5,) = struct.unpack_from("16s", data, begin + 26)
    joined = data.find(b"fLaC\0\0\0\x22", begin + 4)
    if joined >= 0:
        raise AudioError(f"{name}: a second FLAC file begins at byte {joined}: recordings were joined. Decode and join them instead.")
    prefix, first = b"", begin
    if not samples:
        samples = _samples_by_last_frame(data, begin, channels * (bits // 8 + 1), name)
        prefix, first = data[begin : begin + 18] + struct.pack(">Q", packed | samples), begin + 26
    parts = ((first, len(data)),) if first else ()
    return Header("FLAC", rate, channels, bits, samples=samples, md5=md5 if any(md5) else None, parts=parts, prefix=prefix)


def _samples_by_last_frame(data: bytes, begin: int, sample_bytes: int, name: str) -> int:
    """Return the number of the sample behind the last frame."""
    first, end = _end_of_metadata(data, begin), begin_of_trailing_tags(data)
    if first >= end:
        return 0
    shortest, longest = struct.unpack_from(">HH", data, begin + 8)
    sync, at, checks = data[first : first + 2], end, 0
    earliest = max(first, end - longest * sample_bytes - 1024)  # a frame is no larger than its samples
    while sync in (b"\xff\xf8", b"\xff\xf9") and checks < _MAX_CHECKS:
        at = data.rfind(sync, earliest, at + 1)
        if at < 0:
            break
        header = _frame_header(data, at)
        if header is not None:
            checks += 1
            if _crc(data[at:end], 16, 0x8005) == 0:  # its own checksum is at its end
                number, count = header
                return (number if sync[1] & 1 else number * shortest) + count
    raise AudioError(f"{name}: the FLAC header has no total, and the file does not end with a whole frame: it is truncated. {COPY_AGAIN}")


def _end_of_metadata(data: bytes, begin: int) -> int:
    position, last = begin + 4, False
    while not last and position + 4 <= len(data):
        last = data[position] >= 128
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    return position


def _frame_header(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the number (of the frame or of its first sample) and the samples of the frame at a position; None if there is none."""
    head = data[at : at + 16]
    if len(head) < 6:
        return None
    size, rate = head[2] >> 4, head[2] & 15
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # as in UTF-8: how many bytes hold the number
    length = max(ones, 1)
    after = 4 + length + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if size == 0 or ones in (1, 8) or after >= len(head) or _crc(head[:after], 8, 0x07) != head[after]:
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 63
    if size in (6, 7):
        return number, int.from_bytes(head[4 + length : 4 + length + size - 5], "big") + 1
    return number, 192 if size == 1 else 576 << (size - 2) if size < 6 else 256 << (size - 8)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    table, value, mask = _table(bits, polynomial), 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 ^ table[value >> (bits - 8) ^ byte]) & mask
    return value


@functools.cache
def _table(bits: int, polynomial: int) -> list[int]:
    """The checksum of each byte."""
    table = []
    for byte in range(256):
        entry = byte << (bits - 8)
        for _ in range(8):
            entry = entry << 1 ^ (polynomial if entry >> (bits - 1) & 1 else 0)
        table.append(entry & ((1 << bits) - 1))
    return table

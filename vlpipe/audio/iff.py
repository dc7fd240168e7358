"""Files made of chunks: WAV (RIFF, RIFX and RF64) and AIFF.

By Microsoft's "Multimedia Programming Interface and Data Specifications 1.0", EBU Tech 3306 (RF64) and Apple's "Audio Interchange File
Format 1.3". Writers that cannot go back leave a placeholder as the size of the samples; others forget the byte that pads a chunk of odd
size. Decoders therefore get a new header in front of the samples.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vlpipe.audio.header import Header
from vlpipe.errors import COPY_AGAIN, AudioError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LATER_CHUNKS = (b"LIST", b"fact", b"cue ", b"smpl", b"bext", b"id3 ", b"ID3 ", b"PEAK")
_KNOWN_CHUNKS = (*_LATER_CHUNKS, b"fmt ", b"data", b"JUNK", b"junk", b"PAD ", b"FLLR", b"iXML", b"inst", b"ds64", b"RIFF")
_AIFF_PLAIN = (b"NONE", b"sowt", b"twos", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64")
_MAX_CHUNKS = 10_000
_MAX_FMT = 40  # bytes of the longest format chunk of PCM


def read_wav(data: bytes, begin: int, name: str) -> Header:
    """Read the header of a WAV file, whose "RIFF", "RIFX" or "RF64" is at `begin`.

    Raises:
        AudioError: the file is truncated, its header is inconsistent, or it holds several recordings.
        struct.error: the file ends within its header.
    """
    order = ">" if data.startswith(b"RIFX", begin) else "<"
    fmt, fmt_at, large = None, 0, None
    for chunk, at, size in _chunks(data, begin + 12, order):
        if chunk == b"fmt ":
            encoding, channels, rate, _, align, bits = struct.unpack_from(f"{order}HHIIHH", data, at)
            if encoding == _EXTENSIBLE and size >= 26:
                (encoding,) = struct.unpack_from(f"{order}H", data, at + 24)
            fmt, fmt_at = (encoding, channels, rate, align, bits), at
            fmt_size = min(size, _MAX_FMT)
        elif chunk == b"ds64":
            (large,) = struct.unpack_from("<Q", data, at + 8)
        elif chunk == b"data":
            if fmt is None:
                raise AudioError(f"{name}: the data chunk comes before the fmt chunk, expected fmt first. Convert the recording again.")
            size = large if large is not None and size == 0xFFFFFFFF else size
            end, closed = _end_of_samples(data, at, size, name)
            if closed:
                _check_later_chunks(data, end, order, name)
            elif data.find(b"WAVEfmt ", at) >= 0:
                raise AudioError(
                    f"{name}: another WAV header follows within the samples: recordings were joined. Join their samples instead."
                )
            header = _wav_header(fmt, end - at - _pad_inside(data, fmt[3], at, end), name)
            return _with_contents(header, data, begin, (fmt_at, fmt_size), (at, end), closed)
    raise AudioError(f"{name}: the WAV file has no data chunk, expected one with samples. {COPY_AGAIN}")


def _chunks(data: bytes, position: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, where its content begins, and the size that it announces."""
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        size = int(struct.unpack_from(f"{order}I", data, position + 4)[0])
        yield data[position : position + 4], position + 8, size
        after = position + 8 + size
        position = after + size % 2
        if data[position : position + 4] not in _KNOWN_CHUNKS:
            # Some writers leave out the byte behind a chunk of odd size, others add one behind each.
            position = next((at for at in (after, after + 1) if data[at : at + 4] in _KNOWN_CHUNKS), position)


def _end_of_samples(data: bytes, at: int, size: int, name: str) -> tuple[int, bool]:
    """Return where the samples end, and whether the header tells it: a file written to a pipe has a placeholder as the size."""
    left = len(data) - at
    if size > left and (size >= 0xFFFF0000 or 0x7FFF0000 <= size <= 0x7FFFFFFF) and size <= 0xFFFFFFFF:
        return len(data), False
    if size > left:
        raise AudioError(f"{name}: the header announces {size} bytes of samples, the file has {left}: it is truncated. {COPY_AGAIN}")
    if size == 0 and left >= 8 and data[at : at + 4] not in _LATER_CHUNKS:
        raise AudioError(f"{name}: the header announces 0 bytes of samples, the file has {left}: it was never closed. Write it again.")
    return at + size, True


def _check_later_chunks(data: bytes, end: int, order: str, name: str) -> None:
    """Refuse samples behind the first data chunk: decoders leave them out."""
    first = next((at for at in (end + end % 2, end, end + 1) if data[at : at + 4] in _KNOWN_CHUNKS), end + end % 2)
    for chunk, at, _ in _chunks(data, first, order):
        if chunk == b"data":
            raise AudioError(f"{name}: a second data chunk begins at byte {at - 8}, expected one. Convert the recording again.")
        if chunk == b"RIFF" and data[at : at + 4] == b"WAVE":
            raise AudioError(f"{name}: a second WAV file begins at byte {at - 8}: recordings were joined. Join their samples instead.")


def _pad_inside(data: bytes, align: int, at: int, end: int) -> int:
    """1 if the size counts the byte that pads an odd number of bytes, as some writers of 24 bits do; else 0."""
    return int(align % 2 == 1 and (end - at) % 2 == 0 and (end - at) % align == 1 and data[end - 1] == 0)


def _wav_header(fmt: tuple[int, int, int, int, int], size: int, name: str) -> Header:
    encoding, channels, rate, align, bits = fmt
    plain = encoding in (_PCM, _FLOAT)
    if plain and (align != channels * ((bits + 7) // 8) or align == 0 or size % align):
        raise AudioError(
            f"{name}: the WAV header is inconsistent: {size} bytes of samples in blocks of {align} bytes, for {channels} channels of "
            f"{bits} bits. Convert the recording again."
        )
    return Header("WAV", rate, channels, bits, encoding == _FLOAT, samples=size // align if plain else None, plain=plain)


def _with_contents(header: Header, data: bytes, begin: int, fmt: tuple[int, int], samples: tuple[int, int], closed: bool) -> Header:
    """Add what a decoder gets."""
    values, (at, end) = vars(header), samples
    if data.startswith(b"RIFX", begin):
        return Header(**{**values, "kind": "RIFX WAV", "parts": ((begin, len(data)),) if begin else ()})
    if end - at > 0xFFFFFF00:
        return Header(**{**values, "kind": "RF64 WAV", "parts": ((begin, len(data)),) if begin else ()})
    size = struct.pack("<I", end - at)
    if header.plain:
        content = data[fmt[0] : fmt[0] + fmt[1]]
        body = b"WAVEfmt " + struct.pack("<I", len(content)) + content + b"data" + size
        prefix = b"RIFF" + struct.pack("<I", min(len(body) + end - at, 0xFFFFFFFF)) + body
        return Header(**{**values, "prefix": prefix, "parts": ((at, end),)})
    if closed:
        return Header(**{**values, "parts": ((begin, len(data)),) if begin else ()})
    return Header(**{**values, "prefix": data[begin : at - 4] + size, "parts": ((at, end),)})


def read_aiff(data: bytes, begin: int, name: str) -> Header:
    """Read the header of an AIFF file, whose "FORM" is at `begin`.

    Raises:
        AudioError: the file is truncated, or lacks a chunk.
        struct.error: the file ends within its header.
    """
    header = None
    for chunk, at, size in _chunks(data, begin + 12, ">"):
        if chunk == b"COMM":
            channels, frames, bits, exponent, mantissa = struct.unpack_from(">HIHHQ", data, at)
            rate = mantissa >> max(16446 - exponent, 0) if exponent else 0  # an 80-bit float
            kind = data[at + 18 : at + 22] if data.startswith(b"AIFC", begin + 8) else b"NONE"
            parts, floating, plain = ((begin, len(data)),) if begin else (), kind.lower() in (b"fl32", b"fl64"), kind in _AIFF_PLAIN
            header = Header("AIFF", rate, channels, bits, floating, frames if plain else None, plain=plain, parts=parts)
        elif chunk == b"SSND" and at + size > len(data):
            raise AudioError(
                f"{name}: the AIFF header announces {size} bytes of samples, the file has {len(data) - at}: it is truncated. {COPY_AGAIN}"
            )
    if header is None:
        raise AudioError(f"{name}: the AIFF file has no COMM chunk, expected one with the rate. {COPY_AGAIN}")
    return header

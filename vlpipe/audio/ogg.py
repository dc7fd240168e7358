"""The pages of an Ogg file (RFC 3533): streams one after another (links of a chain), their lengths, and the checksum of each page.

Decoders deliver the first link alone and leave out pages whose checksum is wrong, both without a word. Streams: Vorbis I, section 4.2.2;
Opus (RFC 7845, section 5.1); FLAC (RFC 9639, section 10.1).
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from dataclasses import dataclass

from vlpipe.audio.flac import read_flac
from vlpipe.audio.header import Header
from vlpipe.errors import AudioError

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_OPUS_RATES = (48000, 24000, 16000, 12000, 8000)
_FIRST, _LAST = 2, 4  # flags of a page
_CORRUPT = "Copy it again, or leave it out."


@dataclass(frozen=True)
class _Page:
    begin: int
    body: int
    end: int
    flags: int
    granule: int
    serial: int
    sequence: int
    crc: int


@dataclass(frozen=True)
class _Stream:
    """One link: what it holds, and its bytes."""

    kind: str
    rate: int
    channels: int
    samples: int
    begin: int
    end: int


def read_ogg(data: bytes, begin: int, name: str) -> Header:
    """Read all pages of an Ogg file.

    Args:
        data: the whole file.
        begin: position of the first page.
        name: name of the file in errors.

    Returns:
        The header, with the samples of all links, each a part.

    Raises:
        AudioError: the file is truncated or corrupt, holds something else than Vorbis, Opus or FLAC, holds several streams at once, or
            links with different rates or channels.
    """
    _kind(data[begin : begin + 512], name)
    pages, whole = _pages(data, begin)
    end = pages[-1].end if pages else begin
    after = data.find(b"OggS", end)
    if whole and after > end:
        raise AudioError(
            f"{name}: {after - end} bytes between two Ogg pages, at byte {end}, belong to neither: the file is corrupt. {_CORRUPT}"
        )
    if not pages or not whole or not pages[-1].flags & _LAST or pages[-1].granule < 0:
        raise AudioError(f"{name}: the Ogg stream ends without a last page, after {len(data)} bytes: it is truncated. {_CORRUPT}")
    links = _links(data, pages, name)
    _check_sums(data, pages, name)
    first = links[0]
    for link in links:
        if (link.kind, link.rate, link.channels) != (first.kind, first.rate, first.channels):
            raise AudioError(
                f"{name}: changes from {first.kind} with {first.channels} channels at {first.rate} Hz to {link.kind} with "
                f"{link.channels} at {link.rate} Hz, at byte {link.begin}: several recordings were joined. Decode and join them as WAV, or "
                "leave the file out."
            )
    if first.kind == "Ogg FLAC":
        if len(links) > 1:
            raise AudioError(f"{name}: the Ogg file is a chain of FLAC streams, which is not supported. Decode and join them instead.")
        flac = b"".join(data[page.body : page.end] for page in pages)[9:]  # behind the name and the version of the mapping
        header = read_flac(flac, 0, name)
        return dataclasses.replace(header, prefix=header.contents(flac)[0], parts=((0, 0),))
    parts = tuple((link.begin, link.end) for link in links)
    return Header(first.kind, first.rate, first.channels, samples=sum(link.samples for link in links), parts=parts)


def _pages(data: bytes, position: int) -> tuple[list[_Page], bool]:
    """Return consecutive pages from a position on, and whether the last one ends within the file."""
    pages: list[_Page] = []
    while data.startswith(b"OggS", position):
        if position + 27 > len(data):
            return pages, False
        _, version, flags, granule, serial, sequence, crc, segments = struct.unpack_from("<4sBBqIIIB", data, position)
        body = position + 27 + segments
        end = body + sum(data[position + 27 : body])
        if end > len(data) or version:
            return pages, False
        pages.append(_Page(position, body, end, flags, granule, serial, sequence, crc))
        position = end
    return pages, True


def _links(data: bytes, pages: list[_Page], name: str) -> list[_Stream]:
    links: list[_Stream] = []
    first = 0
    for at, page in enumerate(pages):
        opens, before = at == first, pages[max(at - 1, 0)]
        if not opens and page.flags & _FIRST and page.serial != before.serial and not before.flags & _FIRST:
            raise AudioError(
                f"{name}: an Ogg stream begins at byte {page.begin}, and the one in front of it has no last page: it is truncated. "
                f"{_CORRUPT}"
            )
        if not opens and page.serial != before.serial:
            raise AudioError(
                f"{name}: the Ogg file holds several streams at once, which is not supported. Extract the audio to a file of its own."
            )
        if bool(page.flags & _FIRST) != opens or (not opens and page.sequence != before.sequence + 1):
            raise AudioError(
                f"{name}: an Ogg page is missing before byte {page.begin}: page {page.sequence} follows page {before.sequence}. {_CORRUPT}"
            )
        if page.flags & _LAST:
            links.append(_stream(data, pages[first], page, name))
            first = at + 1
    return links


def _kind(content: bytes, name: str) -> tuple[str, int, int, int]:
    """Return kind, rate, channels, and samples before the first one that is heard, from the first packet of a stream."""
    at = content.find(b"\x01vorbis")
    if at >= 0:
        _, channels, rate = struct.unpack_from("<IBI", content, at + 7)
        return "Ogg Vorbis", rate, channels, 0
    at = content.find(b"OpusHead")
    if at >= 0:
        _, channels, skip, rate = struct.unpack_from("<BBHI", content, at + 8)
        # Opus itself has 48,000 Hz. The header has the rate of the recording, which soundfile decodes to where Opus can.
        return "Ogg Opus", rate if rate in _OPUS_RATES else _OPUS_RATES[0], channels, skip
    at = content.find(b"\x7fFLAC")
    if at >= 0:
        (packed,) = struct.unpack_from(">Q", content, at + 27)
        return "Ogg FLAC", packed >> 44, (packed >> 41 & 7) + 1, 0
    raise AudioError(
        f"{name}: the Ogg file holds something else than Vorbis, Opus or FLAC ({content[28:36]!r}), which is not supported. Convert it "
        "to FLAC or WAV."
    )


def _stream(data: bytes, first: _Page, last: _Page, name: str) -> _Stream:
    kind, rate, channels, skip = _kind(data[first.body : first.end], name)
    samples = max(last.granule - skip, 0)
    return _Stream(kind, rate, channels, samples * rate // _OPUS_RATES[0] if kind == "Ogg Opus" else samples, first.begin, last.end)


def _check_sums(data: bytes, pages: list[_Page], name: str) -> None:
    for number, page in enumerate(pages):
        if _crc(data[page.begin : page.begin + 22] + bytes(4) + data[page.begin + 26 : page.end]) != page.crc:
            raise AudioError(f"{name}: the checksum of Ogg page {number}, at byte {page.begin}, is wrong: the file is corrupt. {_CORRUPT}")


def _crc(data: bytes) -> int:
    """The checksum of a page: the CRC of zlib with bits in the other order, from 0 and not inverted."""
    value = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)

"""Headers of audio files: format, sample rate, channels, and the number of samples that the file must hold.

The decoders do not compare the number of decoded samples with the header: a truncated file would pass as a shorter one.
This module therefore parses the header itself, by the published specifications:

    WAV     RIFF chunks (Microsoft, "Multimedia Programming Interface and Data Specifications 1.0")
    FLAC    STREAMINFO (RFC 9639, section 8.2)
    Ogg     pages (RFC 3533) with a Vorbis identification header (Vorbis I, section 4.2.2)
    MP3     ISO/IEC 11172-3 and 13818-3 frame header
"""

from __future__ import annotations

import struct

from vlpipe.audio.header import Header
from vlpipe.audio.mpeg import read_mp3
from vlpipe.audio.ogg import read_ogg
from vlpipe.audio.tags import end_of_leading_tags
from vlpipe.errors import AudioError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LATER_CHUNKS = (b"LIST", b"fact", b"cue ", b"smpl", b"bext", b"id3 ", b"ID3 ", b"PEAK")


def read_header(data: bytes, name: str) -> Header:
    """Read the header of a WAV, FLAC, Ogg Vorbis or MP3 file, recognised by its content and not by its name.

    Args:
        data: the whole file: the length of an Ogg stream is at its end.
        name: name of the file in error messages.

    Raises:
        AudioError: the file is in none of these formats, is truncated, or its header is inconsistent.
    """
    if not data:
        raise AudioError(f"{name}: the file is empty, expected WAV, FLAC, Ogg Vorbis or MP3. Copy it again.")
    try:
        header = _read(data, name)
    except struct.error:
        raise AudioError(f"{name}: the file ends within its header, after {len(data)} bytes. Copy it again.") from None
    if header.rate < 1 or header.channels < 1:
        raise AudioError(
            f"{name}: the {header.kind} header announces {header.channels} channels at {header.rate} Hz, expected at least 1 channel and "
            "1 Hz. Convert the recording again, or leave it out."
        )
    return header


def _read(data: bytes, name: str) -> Header:
    begin = end_of_leading_tags(data, name)
    if data[begin : begin + 4] == b"RIFF" and data[begin + 8 : begin + 12] == b"WAVE":
        return _read_wav(data, name)
    if data[begin : begin + 4] == b"fLaC":
        return _read_flac(data)
    if data[begin : begin + 4] == b"OggS":
        return read_ogg(data, begin, name)
    padding = len(data) - begin - len(data[begin:].lstrip(b"\0"))
    header = read_mp3(data, begin + padding, name)
    if header is None:
        raise AudioError(f"{name}: begins with {data[:8]!r}, expected WAV, FLAC, Ogg Vorbis or MP3. Convert it, or leave it out.")
    return header


def _read_wav(data: bytes, name: str) -> Header:
    position, fmt = 12, None
    while position + 8 <= len(data):
        chunk, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        if chunk == b"fmt ":
            encoding, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", data, position + 8)
            if encoding == _EXTENSIBLE and size >= 26:
                (encoding,) = struct.unpack_from("<H", data, position + 8 + 24)
            fmt = encoding, channels, rate, align, bits
        elif chunk == b"data":
            if fmt is None:
                raise AudioError(f"{name}: the data chunk comes before the fmt chunk, expected fmt first. Convert the recording again.")
            left = len(data) - position - 8
            if size > left:
                raise AudioError(
                    f"{name}: the header announces {size} bytes of samples, the file has {left}: it is truncated. Copy it again."
                )
            if size == 0 and left >= 8 and data[position + 8 : position + 12] not in _LATER_CHUNKS:
                raise AudioError(
                    f"{name}: the header announces 0 bytes of samples, the file has {left}: it was never closed. Write it again."
                )
            return _wav_header(fmt, size, name)
        position += 8 + size + size % 2
    raise AudioError(f"{name}: the WAV file has no data chunk, expected one with samples. Copy it again.")


def _wav_header(fmt: tuple[int, int, int, int, int], size: int, name: str) -> Header:
    encoding, channels, rate, align, bits = fmt
    plain = encoding in (_PCM, _FLOAT)
    if plain and (align != channels * ((bits + 7) // 8) or align == 0 or size % align):
        raise AudioError(
            f"{name}: the WAV header is inconsistent: {size} bytes of samples in blocks of {align} bytes, for {channels} channels of "
            f"{bits} bits. Convert the recording again."
        )
    return Header("WAV", rate, channels, bits, encoding == _FLOAT, samples=size // align if plain else None, plain=plain)


def _read_flac(data: bytes) -> Header:
    (packed,) = struct.unpack_from(">Q", data, 18)
    rate, channels, bits, samples = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
    (md5,) = struct.unpack_from("16s", data, 26)
    return Header("FLAC", rate, channels, bits, samples=samples or None, md5=md5 if any(md5) else None)

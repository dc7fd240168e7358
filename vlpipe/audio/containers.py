"""What the first bytes of an audio file say: its kind, rate and channels, and how many samples it must hold.

The decoders do not compare what they decoded with what the file announced; a file that was cut would pass as a shorter
one. So its header is read here, by the published layouts:

    WAV     RIFF chunks (Microsoft, "Multimedia Programming Interface and Data Specifications 1.0")
    FLAC    STREAMINFO (RFC 9639, section 8.2)
    Ogg     pages (RFC 3533) with a Vorbis identification header (Vorbis I, section 4.2.2)
    MP3     ISO/IEC 11172-3 and 13818-3 frame header
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vlpipe.errors import AudioError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LATER_CHUNKS = (b"LIST", b"fact", b"cue ", b"smpl", b"bext", b"id3 ", b"ID3 ", b"PEAK")


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        kind: "WAV", "FLAC", "Ogg Vorbis" or "MP3".
        rate: samples a second.
        channels: number of channels.
        bits: bits a sample, 0 where the format has no such number.
        floating: the samples are floats.
        samples: samples in each channel, None where the header does not say.
        md5: of the samples as integers, by which FLAC proves its content; None where the header has none.
        plain: the encoding is one that every decoder knows (PCM or IEEE float, and not A-law or ADPCM).
    """

    kind: str
    rate: int
    channels: int
    bits: int = 0
    floating: bool = False
    samples: int | None = None
    md5: bytes | None = None
    plain: bool = True


def read_header(data: bytes, name: str) -> Header:
    """The header of a WAV, FLAC, Ogg Vorbis or MP3 file, by its content and not by its name.

    Raises:
        AudioError: it is none of these, or is cut or contradicts itself.
    """
    if not data:
        raise AudioError(f"{name}: the file is empty, expected WAV, FLAC, Ogg Vorbis or MP3. Copy it again.")
    try:
        header = _read(data, name)
    except struct.error:
        raise AudioError(f"{name}: the file ends within its header, after {len(data)} bytes. Copy it again.") from None
    if header.rate < 1 or header.channels < 1:
        raise AudioError(f"{name}: {header.kind} of {header.channels} channels at {header.rate} Hz, expected at least 1 of each.")
    return header


def _read(data: bytes, name: str) -> Header:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _read_wav(data, name)
    if data[:4] == b"fLaC":
        return _read_flac(data)
    if data[:4] == b"OggS":
        return _read_ogg(data, name)
    start = 10 + _synchsafe(data[6:10]) if data[:3] == b"ID3" and len(data) >= 10 else 0
    if start and start + 4 > len(data):
        raise AudioError(f"{name}: the file ends within its ID3 tag, after {len(data)} bytes: it was cut. Copy it again.")
    header = _read_mp3(data[start : start + 4])
    if header is None:
        raise AudioError(f"{name}: begins with {data[:8]!r}, expected WAV, FLAC, Ogg Vorbis or MP3. Convert it, or leave it out.")
    return header


def _read_wav(data: bytes, name: str) -> Header:
    position, layout = 12, None
    while position + 8 <= len(data):
        chunk, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        if chunk == b"fmt ":
            encoding, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", data, position + 8)
            if encoding == _EXTENSIBLE and size >= 26:
                (encoding,) = struct.unpack_from("<H", data, position + 8 + 24)
            layout = encoding, channels, rate, align, bits
        elif chunk == b"data":
            if layout is None:
                raise AudioError(f"{name}: its data come before their format, expected a fmt chunk first. Convert it anew.")
            left = len(data) - position - 8
            if size > left:
                raise AudioError(f"{name}: the header says {size} bytes of samples, the file has {left}: it was cut. Copy it again.")
            if size == 0 and left >= 8 and data[position + 8 : position + 12] not in _LATER_CHUNKS:
                raise AudioError(f"{name}: the header says 0 bytes of samples, the file has {left}: it was never finished. Write it again.")
            return _wav_header(layout, size, name)
        position += 8 + size + size % 2
    raise AudioError(f"{name}: a WAV file without samples: the data chunk is missing. Copy it again.")


def _wav_header(layout: tuple[int, int, int, int, int], size: int, name: str) -> Header:
    encoding, channels, rate, align, bits = layout
    plain = encoding in (_PCM, _FLOAT)
    if plain and (align != channels * ((bits + 7) // 8) or align == 0 or size % align):
        raise AudioError(f"{name}: {size} bytes of samples in blocks of {align}, {channels} channels of {bits} bits: these do not agree.")
    return Header("WAV", rate, channels, bits, encoding == _FLOAT, samples=size // align if plain else None, plain=plain)


def _read_flac(data: bytes) -> Header:
    (packed,) = struct.unpack_from(">Q", data, 18)
    rate, channels, bits, samples = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
    (md5,) = struct.unpack_from("16s", data, 26)
    return Header("FLAC", rate, channels, bits, samples=samples or None, md5=md5 if any(md5) else None)


def _read_ogg(data: bytes, name: str) -> Header:
    at = data.find(b"\x01vorbis", 0, 512)
    if at < 0:
        raise AudioError(f"{name}: an Ogg file whose first stream is not Vorbis (Opus?). Convert it to FLAC or WAV.")
    _, channels, rate = struct.unpack_from("<IBI", data, at + 7)
    last = data.rfind(b"OggS")
    version, flags, granule = struct.unpack_from("<BBq", data, last + 4)
    (segments,) = struct.unpack_from("<B", data, last + 26)
    end = last + 27 + segments + sum(data[last + 27 : last + 27 + segments])
    if version != 0 or not flags & 4 or end > len(data) or granule < 0:
        raise AudioError(f"{name}: the stream has no last page, after {len(data)} bytes: it was cut. Copy it again.")
    return Header("Ogg Vorbis", rate, channels, samples=granule)


def _read_mp3(frame: bytes) -> Header | None:
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    version, layer, bitrate, rate = frame[1] >> 3 & 3, frame[1] >> 1 & 3, frame[2] >> 4, frame[2] >> 2 & 3
    if version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return None
    halved = {3: 0, 2: 1, 0: 2}[version]  # MPEG 1, 2 and 2.5
    return Header("MP3", (44100, 48000, 32000)[rate] >> halved, 1 if frame[3] >> 6 == 3 else 2)


def _synchsafe(data: bytes) -> int:
    return data[0] << 21 | data[1] << 14 | data[2] << 7 | data[3]

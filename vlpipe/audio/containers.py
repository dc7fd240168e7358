"""Headers of audio files: format, sample rate, channels, and the number of samples that the file must hold.

The decoders do not compare the number of decoded samples with the header: a truncated file would pass as a shorter one. vlpipe therefore
parses the headers itself: WAV and AIFF in `iff.py`, FLAC in `flac.py`, Ogg in `ogg.py`, MP3 in `mpeg.py`, and the tags around them in
`tags.py`.
"""

from __future__ import annotations

import struct
from typing import NoReturn

from vlpipe.audio.flac import read_flac
from vlpipe.audio.header import Header
from vlpipe.audio.iff import read_aiff, read_wav
from vlpipe.audio.mpeg import read_mp3
from vlpipe.audio.ogg import read_ogg
from vlpipe.audio.tags import end_of_leading_tags
from vlpipe.errors import COPY_AGAIN, AudioError

_UNSUPPORTED = (
    (4, b"ftyp", "MP4 or M4A"),
    (8, b"AVI ", "AVI"),
    (0, b".snd", "AU"),
    (0, b"caff", "CAF"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"#!AMR", "AMR"),
    (0, b"0&\xb2u", "WMA"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"NIST_1A", "NIST SPHERE"),
)


def read_header(data: bytes, name: str) -> Header:
    """Read the header of an audio file, recognised by its content and not by its name.

    Args:
        data: the whole file: the length of an Ogg stream is at its end, and an MP3 file is read frame by frame.
        name: name of the file in error messages.

    Raises:
        AudioError: the file is in none of these formats, is truncated, or its header is inconsistent.
    """
    if not data:
        raise AudioError(f"{name}: the file is empty, expected WAV, FLAC, Ogg Vorbis, MP3 or AIFF. {COPY_AGAIN}")
    try:
        header = _read(data, name)
    except struct.error:
        raise AudioError(f"{name}: the file ends within its header, after {len(data)} bytes. {COPY_AGAIN}") from None
    if header.rate < 1 or header.channels < 1:
        raise AudioError(
            f"{name}: the {header.kind} header announces {header.channels} channels at {header.rate} Hz, expected at least 1 channel and "
            "1 Hz. Convert the recording again, or leave it out."
        )
    return header


def _read(data: bytes, name: str) -> Header:
    begin = end_of_leading_tags(data, name)
    magic, kind = data[begin : begin + 4], data[begin + 8 : begin + 12]
    if magic in (b"RIFF", b"RIFX", b"RF64") and kind == b"WAVE":
        return read_wav(data, begin, name)
    if magic == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return read_aiff(data, begin, name)
    if magic == b"fLaC":
        return read_flac(data, begin, name)
    if magic == b"OggS":
        return read_ogg(data, begin, name)
    padding = len(data) - begin - len(data[begin:].lstrip(b"\0"))
    header = read_mp3(data, begin + padding, name)
    if header is None:
        _refuse(data, begin, name)
    return header


def _refuse(data: bytes, begin: int, name: str) -> NoReturn:
    """Say what a file is that is none of the supported formats."""
    if data.startswith(b"version https://git-lfs") or (len(data) < 1000 and b"/annex/objects/" in data):
        raise AudioError(f"{name}: a pointer of Git LFS or git-annex, not the file itself. Fetch it: git lfs pull, or git annex get.")
    if data[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise AudioError(f"{name}: a web page, not an audio file. Download the recording again.")
    other = next((kind for at, magic, kind in _UNSUPPORTED if data.startswith(magic, begin + at)), None)
    if other is None and data[begin : begin + 1] == b"\xff" and len(data) > begin + 3:
        layer = data[begin + 1] & 0xF6
        other = {0xF0: "AAC", 0xF4: "MPEG audio of layer II", 0xF6: "MPEG audio of layer I"}.get(layer)
    if other is not None:
        raise AudioError(f"{name}: is {other}, which is not supported. Convert it to FLAC or WAV, or leave it out.")
    raise AudioError(f"{name}: begins with {data[:8]!r}, expected WAV, FLAC, Ogg Vorbis, MP3 or AIFF. Convert it, or leave it out.")

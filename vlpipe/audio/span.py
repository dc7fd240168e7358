"""A part of a recording, from one time to another, and the samples that it has.

Only the part is read of a WAV file, and the decoder seeks in FLAC and AIFF files. MP3 and Ogg files are decoded from the beginning, as
libsndfile does not seek in them exactly. In version 1.2.2, from one of 200 places of a Vorbis file it delivers samples that lie 115 to
195 later, and says nothing; what it decodes of MP3 from a place on differs by 1e-7 from the decoded file, with a variable bitrate by up to
4e-6, and of Opus, from some places on, by 3e-7.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from vlpipe.arguments import number
from vlpipe.audio.containers import read_header
from vlpipe.audio.header import Header
from vlpipe.errors import COPY_AGAIN, ArgumentError, AudioError, MissingExtraError, import_extra
from vlpipe.regular_files import open_regular

_MAX_SECONDS = 1e9  # 30 years
_ROUNDING = Fraction(1, 100)  # seconds by which a duration may differ from end - start: both are rounded in many tables
_DECIMAL = re.compile(r"(?=\.?[0-9])[0-9]{0,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,2})?")
_SOUGHT = ("FLAC", "AIFF", "RIFX WAV", "RF64 WAV")  # libsndfile seeks in these to any sample


@dataclass(frozen=True)
class Span:
    """The part of a recording from `start` to `end`, in seconds; the end None is that of the recording.

    Raises:
        ArgumentError: `start` is not before `end`.
    """

    start: Fraction = Fraction(0)
    end: Fraction | None = None

    def __post_init__(self) -> None:
        if self.end is not None and self.start >= self.end:
            raise ArgumentError(f"start: came as {float(self.start):.9g} s and end as {float(self.end):.9g} s, expected start < end.")

    @classmethod
    def of(cls, start: Any, end: Any) -> Span:
        """The span of two numbers of seconds.

        Raises:
            ArgumentError: one is not such a number, or `start` is not before `end`.
        """
        return cls(_seconds("start", start), None if end is None else _seconds("end", end))

    @classmethod
    def of_texts(cls, start: str, end: str, duration: str = "", *, start_name: str = "start") -> Span:
        """The span of texts, such as "1.25"; without a start it begins with the recording, without end and duration it ends with it.

        Args:
            start_name: of the start, for errors.

        Raises:
            ArgumentError: one is not such a number, the span has no length, or end and duration contradict each other.
        """
        begin = _seconds_of(start_name, start) if start.strip() else Fraction(0)
        until = _seconds_of("end", end) if end.strip() else None
        span = cls(begin, until)
        if not duration.strip():
            return span
        length = _seconds_of("duration", duration)
        if not length:
            raise ArgumentError(f"duration: came as {duration!r}, expected more than 0 seconds.")
        if until is not None and abs(until - begin - length) > _ROUNDING:
            raise ArgumentError(
                f"duration: came as {duration!r}, but from {float(begin):.9g} s to {float(until):.9g} s there are "
                f"{float(until - begin):.9g} s. Leave one of end and duration empty."
            )
        return cls(begin, begin + length) if until is None else span

    @property
    def is_whole(self) -> bool:
        """Whether the span is all of a recording."""
        return self.start == 0 and self.end is None

    @property
    def fragment(self) -> str:
        """The span as in the address of a part of a recording (W3C Media Fragments): "t=1.5,2.75"."""
        return f"t={_decimal(self.start)}" + (f",{_decimal(self.end)}" if self.end is not None else "")

    def samples(self, rate: int, total: int, name: str) -> tuple[int, int]:
        """The first sample and that behind the last one: the sample nearest to each time, the later of two as near.

        Args:
            rate: of the recording, in Hz.
            total: samples that the recording has.
            name: of the recording, for the error.

        Raises:
            AudioError: the span ends behind the recording, or has no sample.
        """
        first = _nearest(self.start * rate)
        end = total if self.end is None else _nearest(self.end * rate)
        if end > total or first >= total:
            raise AudioError(
                f"{name}: the part {self.fragment} (in seconds) ends behind the recording, which has {total:,} samples at {rate} Hz: "
                f"{total / rate:.6f} s. Leave the end, or the duration, out for a part up to there."
            )
        if first >= end:
            raise AudioError(f"{name}: the part {self.fragment} (in seconds) has no sample at {rate} Hz. Choose a longer part.")
        return first, end


WHOLE = Span()


def read_span(path: str | os.PathLike[str], span: Span) -> tuple[np.ndarray, int] | bytes | None:
    """Read a part of an audio file without the rest of it.

    Args:
        path: of the file.
        span: the part.

    Returns:
        Samples, float32 `[N, channels]`, and their rate; or the bytes of a WAV file with the part alone; or None: the file has to be
        decoded from its beginning.

    Raises:
        OSError: the file cannot be opened.
        AudioError: the file is none that can be decoded, or does not have the part.
    """
    name = os.fspath(path)
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return None
        with _Mapped(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] not in (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC"):
                return None
            header = read_header(data, name)  # type: ignore[arg-type]
            if header.kind == "WAV" and header.plain and header.samples:
                return _wav_part(data, header, span.samples(header.rate, header.samples, name))
            if header.kind not in _SOUGHT or header.parts or header.prefix or not header.samples:
                return None
        first, end = span.samples(header.rate, header.samples, name)
        return _sought(file, header, first, end, name)


class _Mapped(mmap.mmap):
    """A file as bytes of which only those are read that are looked at."""

    def startswith(self, prefix: bytes, at: int = 0) -> bool:
        return self[at : at + len(prefix)] == prefix


def _wav_part(data: _Mapped, header: Header, samples: tuple[int, int]) -> bytes:
    """A WAV file with some samples of another."""
    ((at, end),) = header.parts
    size = (end - at) // (header.samples or 1)
    content = data[at + samples[0] * size : at + samples[1] * size]
    prefix = header.prefix[:4] + struct.pack("<I", len(header.prefix) - 8 + len(content)) + header.prefix[8:-4]
    return prefix + struct.pack("<I", len(content)) + content


def _sought(file: Any, header: Header, first: int, end: int, name: str) -> tuple[np.ndarray, int] | None:
    try:
        soundfile = import_extra("soundfile", extra="audio", needed_for=f"decoding a part of {name}")
    except MissingExtraError:
        return None
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as opened:
            opened.seek(first)
            samples = opened.read(end - first, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise AudioError(f"{name}: the decoder failed at a part of the {header.kind} file ({error}). {COPY_AGAIN}") from error
    if samples.shape != (end - first, header.channels):
        raise AudioError(
            f"{name}: decoded {len(samples)} samples from sample {first} on, the {header.kind} header announces {end - first}: the file is "
            f"truncated or corrupt. {COPY_AGAIN}"
        )
    return samples, header.rate


def _seconds(name: str, value: Any) -> Fraction:
    # By the shortest decimal number that is this float: 0.1 is a tenth of a second, not 0.1000000000000000055.
    return Fraction(repr(number(name, value, 0, _MAX_SECONDS, expected="seconds, as a number >= 0")))


def _seconds_of(name: str, text: str) -> Fraction:
    if not _DECIMAL.fullmatch(text.strip()) or float(text) > _MAX_SECONDS:
        raise ArgumentError(f"{name}: came as {text!r}, expected a number of seconds from 0 on, such as 1.25.")
    return Fraction(text.strip())


def _nearest(position: Fraction) -> int:
    return (2 * position.numerator + position.denominator) // (2 * position.denominator)


def _decimal(seconds: Fraction) -> str:
    """A number of seconds without an exponent or zeros at its end; one that was read from a text has finitely many digits."""
    digits = 0
    while (seconds * 10**digits).denominator > 1:
        digits += 1
    whole = str(int(seconds * 10**digits)).rjust(digits + 1, "0")
    return whole if not digits else f"{whole[:-digits]}.{whole[-digits:]}"

"""What the header of an audio file says, and which bytes of the file a decoder gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """The header of an audio file.

    Attributes:
        kind: "WAV", "FLAC", "Ogg Vorbis", "MP3", or one that only soundfile decodes: "RIFX WAV", "AIFF", "Ogg Opus", "Ogg FLAC".
        rate: sample rate in Hz.
        channels: number of channels.
        bits: bits per sample; 0 for Vorbis, Opus and MP3, which have no fixed number.
        floating: whether the samples are floats.
        samples: samples in each channel; None if the file does not contain the number.
        md5: MD5 of the samples as integers (FLAC); None if the header has none.
        plain: whether every decoder supports the encoding: PCM or IEEE float, as opposed to A-law or ADPCM.
        parts: byte ranges (begin, end) of the file that are decoded one after another; () for the whole file.
        prefix: what a decoder gets in front of each part, in place of the bytes of the file there.
        lead: numbers of samples that the prefix can decode to; () if it holds none.
        trim: samples that are dropped from the front and from the back of what was decoded: the delay and the padding of the encoder.
    """

    kind: str
    rate: int
    channels: int
    bits: int = 0
    floating: bool = False
    samples: int | None = None
    md5: bytes | None = None
    plain: bool = True
    parts: tuple[tuple[int, int], ...] = ()
    prefix: bytes = b""
    lead: tuple[int, ...] = ()
    trim: tuple[int, int] = (0, 0)

    @property
    def decoded(self) -> int | None:
        """Samples in each channel before `trim`; None if the file does not contain the number."""
        return None if self.samples is None else self.samples + sum(self.trim)

    def contents(self, data: bytes, *, prefix: bool = True) -> list[bytes]:
        """Return the bytes of each part of the file `data`, for a decoder, with or without the prefix."""
        before = self.prefix if prefix else b""
        if not self.parts or (self.parts == ((len(before), len(data)),) and data.startswith(before)):
            return [data]
        return [before + data[begin:end] for begin, end in self.parts]

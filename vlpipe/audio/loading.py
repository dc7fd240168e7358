"""Read an audio file, or a part of it: its channels, at a sample rate."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from vlpipe.audio.channels import Channels, check_channels, keep_channels
from vlpipe.audio.decoding import decode, resample
from vlpipe.audio.span import Span, read_span
from vlpipe.errors import AudioError
from vlpipe.regular_files import read_regular

Path = str | os.PathLike[str]
Loaded = tuple[np.ndarray, int]


def load(
    path: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    channels: Channels = "mix",
    start: float = 0,
    end: float | None = None,
) -> tuple[np.ndarray, int]:
    """Read an audio file, or a part of it.

    A part is that of the decoded file, sample by sample: from the sample nearest to `start` up to the one before that nearest to `end`, at
    the rate of the file, so that a part begins with the sample behind the part before. It is resampled without what is around it. Only
    the part is read of a WAV file, and decoded of a FLAC or AIFF file (the MD5 of a FLAC file is not compared then); an MP3 or Ogg file is
    decoded from its beginning to its end, because decoders do not find a sample in it exactly.

    Args:
        path: an audio file, see `decode`.
        sample_rate: resample to this rate, in Hz; None: keep the rate of the file.
        channels: "mix": the mean of the channels, which are added in float32 from the first to the last, and divided by their number;
            "first": the first one; "all": each.
        start, end: the part, in seconds; end=None: up to the end of the recording.

    Returns:
        Samples, float32 in [-1, 1], `[N]` or with channels="all" `[N, C]`; and their sample rate in Hz.

    Raises:
        AudioError: the file cannot be decoded, or ends before the part; the message names the file and the reason.
        ArgumentError: `sample_rate` is not a positive integer, `channels` is unknown, or the part has no length.
        MissingExtraError: no decoder is installed, or soxr is needed and not installed.

    Example:
        >>> import soundfile, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/silence.flac", np.zeros(8000), 8000)
        ...     samples, rate = vlpipe.audio.load(f"{folder}/silence.flac", sample_rate=16000)
        >>> samples.shape, rate
        ((16000,), 16000)
    """
    return load_span(path, Span.of(start, end), sample_rate, check_channels(channels))


def load_whole(path: Path, channels: Channels) -> Loaded:
    """The samples of a file, at its own rate.

    Raises:
        OSError: it cannot be read.
        AudioError: it cannot be decoded.
    """
    samples, rate = decode(read_regular(path), name=os.fspath(path))
    return keep_channels(samples, channels), rate


def load_span(
    path: Path, span: Span, sample_rate: int | None, channels: Channels, whole: Callable[[Path, Channels], Loaded] = load_whole
) -> Loaded:
    """The samples of a part of a file, as `load` returns them.

    Args:
        whole: decodes the file where the part cannot be read alone; a caller can keep the last result.
    """
    name = os.fspath(path)
    try:
        part = None if span.is_whole else read_span(path, span)
        samples, rate = whole(path, channels) if part is None else _kept(part, channels, name)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if part is None and not span.is_whole:
        first, end = span.samples(rate, len(samples), name)
        samples = samples[first:end]
    if sample_rate is not None:
        try:
            samples, rate = resample(samples, rate, sample_rate), sample_rate
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from None
    return samples, rate


def _kept(part: bytes | Loaded, channels: Channels, name: str) -> Loaded:
    samples, rate = decode(part, name=name) if isinstance(part, bytes) else part
    return keep_channels(samples, channels), rate

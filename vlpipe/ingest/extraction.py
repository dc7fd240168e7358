"""Decode recordings and compute features in several processes, in order, with few files in memory at a time."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Generator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from vlpipe.audio import MFCC, Frames, LogMel
from vlpipe.audio.channels import Channels, check_channels
from vlpipe.audio.containers import read_header
from vlpipe.audio.loading import load_span, load_whole
from vlpipe.errors import ArgumentError, AudioError, VlpipeError
from vlpipe.ingest.recordings import Recording
from vlpipe.ingest.waveform import Waveform
from vlpipe.processes import start_pool
from vlpipe.regular_files import read_regular

Features = Frames | LogMel | MFCC | Waveform
Extraction = tuple[np.ndarray, float] | str  # frames [T, d] and seconds, or the reason why the recording cannot be used

_MAX_PENDING = 4  # submitted files per process whose features have not been consumed: this bounds the memory


class IngestError(VlpipeError):
    """Recordings cannot be used."""


def extract(
    recordings: list[Recording], features: Features, dtype: str, workers: int, channels: Channels = "mix"
) -> Generator[tuple[Recording, Extraction], None, None]:
    """Yield each recording, in order, with its frames [T, d] and its seconds, or with the reason why it cannot be used.

    Raises:
        IngestError: a process died; the message names the files that it may have been decoding.
    """
    pool = start_pool(workers)
    pending: collections.deque[tuple[Recording, Future[Extraction]]] = collections.deque()
    try:
        for recording in recordings:
            pending.append((recording, pool.submit(_extract_one, recording, features, dtype, channels)))
            if len(pending) > _MAX_PENDING * workers:
                yield pending[0][0], pending[0][1].result()
                pending.popleft()
        while pending:
            yield pending[0][0], pending[0][1].result()
            pending.popleft()
    except BrokenProcessPool as error:
        # Processes take files in order: they were decoding the first unfinished ones.
        unfinished = [recording.key for recording, future in pending if not future.done() or future.exception()]
        raise IngestError(
            f"a worker process died while decoding one of these files: {', '.join(unfinished[:workers])}; nothing was written. It was "
            "killed or ran out of memory: use fewer --workers, or leave these files out."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def with_channels(features: Features, channels: Channels, recordings: list[Recording]) -> Features:
    """The features, or waveforms with as many channels as the first recording that can be read, if all channels are kept.

    Raises:
        ArgumentError: `channels` is unknown, or all channels are kept for features, which are those of one.
    """
    if check_channels(channels) != "all":
        return features
    if not isinstance(features, Waveform):
        raise ArgumentError(
            f'channels: came as "all", but {features.kind} features are those of one channel. Pass "mix" or "first", or store waveforms '
            "(--raw)."
        )
    for recording in recordings:
        with contextlib.suppress(AudioError, OSError):  # reported when the recording is decoded
            header = read_header(read_regular(recording.path), recording.key)
            return dataclasses.replace(features, channels=header.channels)
    return features


def _extract_one(recording: Recording, features: Features, dtype: str, channels: Channels) -> Extraction:
    path = str(recording.path)
    try:
        samples, rate = _load(recording, features.sample_rate, channels)
        if not len(samples):
            raise AudioError(f"{path}: the recording has no samples, expected at least one. Leave it out.")
        return features(samples).astype(dtype, copy=False), len(samples) / rate
    except AudioError as error:
        reason = str(error) if path in str(error) else f"{path}: {error}"
        return f"{recording.where}: {reason}" if recording.where else reason
    except MemoryError:
        return f"{path}: not enough memory to decode it. Split it into shorter recordings, or use fewer --workers."


def _load(recording: Recording, sample_rate: int, channels: Channels) -> tuple[np.ndarray, int]:
    """The samples of a recording, as `audio.load` reads them; of its parts, one after another, the file is decoded once."""
    whole = load_whole if recording.span.is_whole else _last_whole
    return load_span(recording.path, recording.span, sample_rate, channels, whole)


def _last_whole(path: str | os.PathLike[str], channels: Channels) -> tuple[np.ndarray, int]:
    return _kept_whole(os.fspath(path), channels, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _kept_whole(path: str, channels: Channels, _: int) -> tuple[np.ndarray, int]:
    return load_whole(path, channels)

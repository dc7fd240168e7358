"""Decode recordings and compute features in several processes, in order, with few files in memory at a time."""

from __future__ import annotations

import collections
from collections.abc import Generator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from vlpipe.audio import MFCC, Frames, LogMel, load
from vlpipe.errors import AudioError, VlpipeError
from vlpipe.ingest.recordings import Recording
from vlpipe.ingest.waveform import Waveform
from vlpipe.processes import start_pool

Features = Frames | LogMel | MFCC | Waveform
Extraction = tuple[np.ndarray, float] | str  # frames [T, d] and seconds, or the reason why the recording cannot be used

_MAX_PENDING = 4  # submitted files per process whose features have not been consumed: this bounds the memory


class IngestError(VlpipeError):
    """Recordings cannot be used."""


def extract(
    recordings: list[Recording], features: Features, dtype: str, workers: int
) -> Generator[tuple[Recording, Extraction], None, None]:
    """Yield each recording, in order, with its frames [T, d] and its seconds, or with the reason why it cannot be used.

    Raises:
        IngestError: a process died; the message names the files that it may have been decoding.
    """
    pool = start_pool(workers)
    pending: collections.deque[tuple[Recording, Future[Extraction]]] = collections.deque()
    try:
        for recording in recordings:
            pending.append((recording, pool.submit(_extract_one, str(recording.path), features, dtype)))
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


def _extract_one(path: str, features: Features, dtype: str) -> Extraction:
    try:
        samples, rate = load(path, sample_rate=features.sample_rate)
        if not len(samples):
            raise AudioError(f"{path}: the recording has no samples, expected at least one. Leave it out.")
        return features(samples).astype(dtype, copy=False), len(samples) / rate
    except AudioError as error:
        reason = str(error)
        return reason if path in reason else f"{path}: {reason}"
    except MemoryError:
        return f"{path}: not enough memory to decode it. Split it into shorter recordings, or use fewer --workers."

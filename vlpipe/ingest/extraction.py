"""Decoding and features in several processes: results come in order, and few files are under way at a time."""

from __future__ import annotations

import collections
from collections.abc import Generator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from vlpipe.audio import MFCC, Frames, LogMel, load
from vlpipe.errors import AudioError, VlpipeError
from vlpipe.ingest.recordings import Recording
from vlpipe.processes import start_pool

Features = Frames | LogMel | MFCC
Result = tuple[np.ndarray, float] | str

_AHEAD = 4  # files a process that may be under way or done and waiting for one before them: this bounds the memory


class IngestError(VlpipeError):
    """Some recordings cannot be used."""


def extract(recordings: list[Recording], features: Features, dtype: str, workers: int) -> Generator[tuple[Recording, Result], None, None]:
    """Of each recording, in order, its frames [T, d] and its seconds, or the reason why it cannot be used.

    Raises:
        IngestError: a process died; the files are named of which one was the last that it had.
    """
    pool = start_pool(workers)
    waiting: collections.deque[tuple[Recording, Future[Result]]] = collections.deque()
    try:
        for recording in recordings:
            waiting.append((recording, pool.submit(_extract_one, str(recording.path), features, dtype)))
            if len(waiting) > _AHEAD * workers:
                yield waiting[0][0], waiting[0][1].result()
                waiting.popleft()
        while waiting:
            yield waiting[0][0], waiting[0][1].result()
            waiting.popleft()
    except BrokenProcessPool as error:
        # Files are taken in order, so the processes were at the first of those that are not done.
        unfinished = [recording.key for recording, future in waiting if not future.done() or future.exception()]
        raise IngestError(
            f"a worker process died at one of these files: {', '.join(unfinished[:workers])}; nothing was written. It was killed or ran "
            "out of memory: try fewer --workers, or leave these files out."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _extract_one(path: str, features: Features, dtype: str) -> Result:
    try:
        samples, rate = load(path, sample_rate=features.sample_rate)
        if not len(samples):
            raise AudioError(f"{path}: holds no samples, expected at least one. Leave it out.")
        return features(samples).astype(dtype), len(samples) / rate
    except AudioError as error:
        reason = str(error)
        return reason if path in reason else f"{path}: {reason}"
    except MemoryError:
        return f"{path}: there is not enough memory to decode it. Cut it into shorter recordings, or try fewer --workers."

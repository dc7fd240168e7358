"""Mean and variance of frames of which nobody has noted them: each file read once, and what was found kept for the next time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np

from vlpipe.processes import start_pool, worker_count
from vlpipe.sources.records import Records
from vlpipe.sources.statistics_cache import load_moments, measured_sequences, save_moments
from vlpipe.storage.index import Index
from vlpipe.storage.statistics import Moments, merged

_log = logging.getLogger("vlpipe")
# Numbers that are taken in together: fewer, and each call costs more than its work; more, and they leave the cache (a third of the speed).
_NUMBERS = 1 << 14
_REPORT_EVERY = 1 << 23  # bytes between two calls of `progress`

Found = dict[str, Moments]
Tell = Callable[[int], None]


def measured(index: Index, *, workers: int | None = None, progress: Callable[[int, int], None] = lambda done, total: None) -> Index:
    """The index with the statistics of all its sequences: those that it has, that are kept, or that are computed now and then kept.

    Each file is accumulated in float64 by itself, and the files are merged in their order, so that the result is the same however many
    work at it, and whoever computed which part of it before.

    Args:
        index: of local files.
        workers: processes; None: one a core where there is work for them.
        progress: called with the bytes of records that are read and those that there are to read.

    Raises:
        DatasetError: a record is damaged; the message names it. The files before it are kept.
    """
    names = measured_sequences(index)
    if all(name in index.statistics for name in names):
        return index
    parts = index.parts()
    found = {number: load_moments(index, index.shards[number], part) for number, part in enumerate(parts) if len(part)}
    missing = [number for number, of in found.items() if of is None]
    sizes = [int(index.rows["bytes"][parts[number]].sum(dtype=np.int64)) for number in missing]
    done = 0

    def tell(read: int) -> None:
        nonlocal done
        done += read
        progress(done, sum(sizes))

    tell(0)
    if index.foreign is not None and index.foreign.parse is not None:  # a function of the user's, which may not go to another process
        workers = 1
    else:  # processes, not threads: half of the time is spent in the interpreter, and with small records all of it
        workers = worker_count(workers, tasks=len(missing), work_bytes=sum(sizes))
    tasks = [_alone(index, number, parts[number]) for number in missing]
    for number, of in zip(missing, _all(tasks, names, sizes, workers, tell), strict=True):
        found[number] = of
        if not save_moments(index, index.shards[number], parts[number], of):
            _log.warning("%s: its statistics cannot be kept; they are computed anew each time", index.shards[number].path)
    return replace(index, statistics=merged([of for of in found.values() if of is not None]))


def _alone(index: Index, number: int, part: np.ndarray) -> Index:
    """The index of one file alone, of which only frames are read."""
    rows = np.array(index.rows[part])
    rows["shard"] = 0
    foreign = None if index.foreign is None else replace(index.foreign, lists={})
    return Index(index.schema, (index.shards[number],), rows, index.ids[part], foreign=foreign)


def _all(tasks: list[Index], names: list[str], sizes: list[int], workers: int, tell: Tell) -> Iterator[Found]:
    """The statistics of each file, in order."""
    if workers < 2:
        for task in tasks:
            yield _measure(task, names, tell)
        return
    pool = start_pool(workers)
    try:
        waiting: list[Future[Found]] = [pool.submit(_measure, task, names) for task in tasks]
        for task, size, future in zip(tasks, sizes, waiting, strict=True):
            try:
                found = future.result()
            except BrokenProcessPool:  # killed, or out of memory: what is left is done here
                found = _measure(task, names)
            tell(size)
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def _measure(index: Index, names: list[str], tell: Tell = lambda read: None) -> Found:
    """The statistics of the files of an index."""
    read = 0
    with Records(index) as records:
        sequences = records.schema.sequences
        gathered = {name: _Gathered(math.prod(sequences[name].dimensions)) for name in names}
        for row, size in enumerate(index.rows["bytes"].tolist()):
            for name, frames in records.values(row, names).items():
                gathered[name].add(np.asarray(frames))
            read += size
            if read >= _REPORT_EVERY:
                tell(read)
                read = 0
    tell(read)
    return {name: of.moments() for name, of in gathered.items()}


class _Gathered:
    """Frames that wait until there are enough of them."""

    def __init__(self, dimensions: int) -> None:
        self._moments = Moments(dimensions)
        self._frames: list[np.ndarray] = []
        self._numbers = 0
        self._step = max(1, 2 * _NUMBERS // max(1, dimensions))  # frames that are taken in together at the most

    def add(self, frames: np.ndarray) -> None:
        self._frames.append(frames)
        self._numbers += frames.size
        if self._numbers >= _NUMBERS:
            self._take()

    def moments(self) -> Moments:
        self._take()
        return self._moments

    def _take(self) -> None:
        frames = self._frames[0] if len(self._frames) == 1 else np.concatenate(self._frames) if self._frames else np.zeros((0, 1))
        for first in range(0, len(frames), self._step):
            self._moments.update(frames[first : first + self._step])
        self._frames, self._numbers = [], 0

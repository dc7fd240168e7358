"""Compute mean and variance of frames where they are unknown: each file is read once, and its statistics are cached."""

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
from vlpipe.sources.statistics_cache import counted_sequences, load_moments, save_moments
from vlpipe.storage.index import Index
from vlpipe.storage.statistics import Moments, merged
from vlpipe.text_tables import Show, progress_bar

_log = logging.getLogger("vlpipe")
# Numbers that are accumulated together: with fewer, calls cost more than their work; more do not fit into the cache (a third of the speed).
_NUMBERS = 1 << 14
_REPORT_EVERY = 1 << 23  # bytes between calls of `progress`

MomentsByName = dict[str, Moments]
Report = Callable[[int], None]


def with_statistics(index: Index, *, workers: int | None = None, progress: Show | None = None) -> Index:
    """The index with the statistics of all its sequences: known, cached, or computed now and then cached.

    Each file is accumulated separately in float64, and the files are merged in order, so that the result does not depend on the number of
    processes, nor on which files were computed before.

    Args:
        index: of local files.
        workers: processes; None: one for each core if there is enough work.
        progress: called with the bytes of records that are read, and the bytes of all records to read; None: a bar, on a terminal.

    Raises:
        DatasetError: a record is damaged; the message names it. The statistics of the files before it are cached.
    """
    names = counted_sequences(index)
    if all(name in index.statistics for name in names):
        return index
    with progress_bar("computing statistics", "MB", 1e6, progress) as show:
        return _with_statistics(index, names, workers, show)


def _with_statistics(index: Index, names: list[str], workers: int | None, progress: Show) -> Index:
    parts = index.parts()
    by_file = {number: load_moments(index, index.shards[number], part) for number, part in enumerate(parts) if len(part)}
    missing = [number for number, moments in by_file.items() if moments is None]
    sizes = [int(index.rows["bytes"][parts[number]].sum(dtype=np.int64)) for number in missing]
    done = 0

    def report(read: int) -> None:
        nonlocal done
        done += read
        progress(done, sum(sizes))

    report(0)
    if index.foreign is not None and index.foreign.parse is not None:  # the user's function may not work in another process
        workers = 1
    else:  # processes, not threads: half of the time is spent in the interpreter, and with small records all of it
        workers = worker_count(workers, tasks=len(missing), work_bytes=sum(sizes))
    tasks = [_index_of_file(index, number, parts[number]) for number in missing]
    for number, moments in zip(missing, _compute(tasks, names, sizes, workers, report), strict=True):
        by_file[number] = moments
        if not save_moments(index, index.shards[number], parts[number], moments):
            _log.warning("%s: its statistics cannot be cached; they are computed again each time", index.shards[number].path)
    return replace(index, statistics=merged([moments for moments in by_file.values() if moments is not None]))


def _index_of_file(index: Index, number: int, part: np.ndarray) -> Index:
    """The index of a single file, sufficient for reading frames."""
    if index.taken is not None:  # with all records of the file, which errors count
        whole, taken = index.taken.whole, index.taken.rows[part]
        of_file = np.flatnonzero(whole.rows["shard"] == number)
        return _index_of_file(whole, number, of_file).take(np.searchsorted(of_file, taken))
    rows = np.array(index.rows[part])
    rows["shard"] = 0
    foreign = None if index.foreign is None else replace(index.foreign, lists={})
    written = index.written[number : number + 1]
    return Index(index.schema, (index.shards[number],), rows, index.ids[part], foreign=foreign, written=written)


def _compute(tasks: list[Index], names: list[str], sizes: list[int], workers: int, report: Report) -> Iterator[MomentsByName]:
    """The statistics of each file, in order."""
    if workers < 2:
        for task in tasks:
            yield _of_file(task, names, report)
        return
    pool = start_pool(workers)
    try:
        futures: list[Future[MomentsByName]] = [pool.submit(_of_file, task, names) for task in tasks]
        for task, size, future in zip(tasks, sizes, futures, strict=True):
            try:
                moments = future.result()
            except BrokenProcessPool:  # killed, or out of memory: this process computes the rest
                moments = _of_file(task, names)
            report(size)
            yield moments
    finally:
        pool.shutdown(cancel_futures=True)


def _of_file(index: Index, names: list[str], report: Report = lambda read: None) -> MomentsByName:
    """The statistics of the file of an index."""
    read = 0
    with Records(index) as records:
        sequences = records.schema.sequences
        gathered = {name: _Accumulator(math.prod(sequences[name].dimensions)) for name in names}
        for row, size in enumerate(index.rows["bytes"].tolist()):
            for name, frames in records.values(row, names).items():
                gathered[name].add(np.asarray(frames))
            read += size
            if read >= _REPORT_EVERY:
                report(read)
                read = 0
    report(read)
    return {name: accumulator.moments() for name, accumulator in gathered.items()}


class _Accumulator:
    """Collects frames until there are enough to accumulate them together."""

    def __init__(self, dimensions: int) -> None:
        self._moments = Moments(dimensions)
        self._frames: list[np.ndarray] = []
        self._numbers = 0
        self._step = max(1, 2 * _NUMBERS // max(1, dimensions))  # maximum frames in one update

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

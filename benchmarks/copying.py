"""Bare copies of the frames of a dataset, in batches: the upper bounds of any loader."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.racing import seconds

if TYPE_CHECKING:  # not at run time: the processes of `CopyOnEveryCore` import this module, and would each load TensorFlow
    from benchmarks.pipelines import Task


class Frames(NamedTuple):
    """Where the frames of each record are, in their stored dtype, and which records make which batch.

    Attributes:
        files: the shards.
        shards: int `[n]`, the shard of each record.
        starts: int64 `[n]`, its first byte in the shard.
        sizes: int64 `[n]`, its bytes.
        batches: int64 `[B]` each, records of similar length.
    """

    files: list[str]
    shards: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    batches: list[np.ndarray]

    @classmethod
    def of(cls, task: Task) -> Frames:
        """Those of a task."""
        rows = np.load(task.native / "index.npy")
        start = "start" if task.features == next(iter(task.schema.sequences)) else f"start:{task.features}"
        starts = rows["offset"].astype(np.int64) + 12 + rows[start]
        order = np.argsort(task.lengths, kind="stable")
        batches = [order[first : first + task.batch_size] for first in range(0, len(order), task.batch_size)]
        shuffled = [batches[number] for number in np.random.default_rng(0).permutation(len(batches))]
        return cls(task.shards, rows["shard"].astype(np.int64), starts, task.lengths * task.sequence.frame_bytes, shuffled)

    def part(self, number: int, count: int) -> Frames:
        """Every `count`-th batch."""
        return self._replace(batches=self.batches[number::count])


class CopyFloor:
    """Batches copied from the mapped files into one warm padded buffer: no framework, no checksums, no consumer."""

    def __init__(self, frames: Frames) -> None:
        self._maps = {shard: _mapped(frames.files[shard]) for shard in np.unique(frames.shards).tolist()}  # an empty file cannot be mapped
        self._views = {shard: memoryview(mapped) for shard, mapped in self._maps.items()}
        self._shards, self._starts, self._sizes, self._batches = frames.shards.tolist(), *frames[2:]
        self._buffer = np.zeros(max((len(batch) * int(self._sizes[batch].max()) for batch in self._batches), default=0), np.uint8)
        self._zeros = memoryview(bytes(int(self._sizes.max())))

    def numpy(self) -> None:
        """Copy by slices of arrays."""
        for batch in self._batches:
            sizes = self._sizes[batch]
            room = int(sizes.max())
            out = self._buffer[: len(batch) * room].reshape(len(batch), room)
            for row, (record, size, start) in enumerate(zip(batch.tolist(), sizes.tolist(), self._starts[batch].tolist(), strict=True)):
                out[row, :size] = self._maps[self._shards[record]][start : start + size]
                out[row, size:] = 0

    def memoryview(self) -> None:
        """Copy by slices of memoryviews."""
        out = memoryview(self._buffer)
        for batch in self._batches:
            sizes = self._sizes[batch]
            room = int(sizes.max())
            position = 0
            for record, size, start in zip(batch.tolist(), sizes.tolist(), self._starts[batch].tolist(), strict=True):
                out[position : position + size] = self._views[self._shards[record]][start : start + size]
                out[position + size : position + room] = self._zeros[: room - size]
                position += room


def _mapped(file: str) -> np.ndarray:
    with open(file, "rb") as opened:
        return np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


class CopyOnEveryCore:
    """`CopyFloor` in a process for each core, each with its share of the batches: what the memory of the machine allows.

    Used as a context, which ends the processes.
    """

    def __init__(self, frames: Frames) -> None:
        context, count = multiprocessing.get_context("spawn"), os.cpu_count() or 1
        self._processes: list[tuple[BaseProcess, Connection]] = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(frames.part(number, count), theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append((process, ours))
        self._wait()

    def __enter__(self) -> CopyOnEveryCore:
        return self

    def __exit__(self, *_: object) -> None:
        for process, connection in self._processes:
            connection.close()
            process.join()

    def __call__(self) -> None:
        """Copy all batches."""
        for _, connection in self._processes:
            connection.send(None)
        self._wait()

    def _wait(self) -> None:
        for _, connection in self._processes:
            connection.recv()


def _serve(frames: Frames, requests: Connection) -> None:
    """Run as one of the processes: after the faster way to copy is known, copy once for each request."""
    floor = CopyFloor(frames)
    floor.numpy()
    copy = min((floor.numpy, floor.memoryview), key=seconds)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the other end is closed
        while True:
            requests.send(None)
            requests.recv()
            copy()

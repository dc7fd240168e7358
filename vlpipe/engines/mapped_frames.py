"""The frames of one sequence, copied from memory-mapped shards into the array of a batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vlpipe.engines.buffer_pool import Pool
from vlpipe.engines.mapped_shards import Padding, Segments, Shards
from vlpipe.files.tfrecord import HEADER_BYTES
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.pieces import Pieces
from vlpipe.planning.schedule import Batch
from vlpipe.storage.field_access import FieldAccess
from vlpipe.storage.stored_frames import FrameDecoder


class Block(NamedTuple):
    """Consecutive batches of an epoch that are looked up together.

    Attributes:
        epoch: number of the epoch.
        batches: as the schedule makes them.
        ends: int64 `[batches]`, the end of each batch among the pieces.
        planned: the pieces of all batches, one after another, as the plan has them.
        table: `[pieces]`, the rows of their records.
        ids: int64 `[pieces]`, of their records.
        pieces: which frames of the key feature, and of all that is aligned with it, are read of each record.
    """

    epoch: int
    batches: list[Batch]
    ends: np.ndarray
    planned: Pieces
    table: np.ndarray
    ids: np.ndarray
    pieces: PieceFrames

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """The values of each batch, from an array with a value for every piece."""
        ends = self.ends.tolist()
        return [values[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]  # np.split takes 20 times as long

    def longest(self, frames: np.ndarray) -> np.ndarray:
        """int64 `[batches]`: the most frames that a piece of each batch has."""
        return np.maximum.reduceat(frames, self.ends - self.sizes)

    @property
    def sizes(self) -> np.ndarray:
        """int64 `[batches]`: pieces in each batch."""
        return np.diff(self.ends, prepend=0)


class FrameSpan:
    """Which frames of a sequence are read: those of the pieces, or all.

    Args:
        access: to the sequence.
        of_pieces: it is the key feature, or aligned with it.
    """

    def __init__(self, access: FieldAccess, *, of_pieces: bool) -> None:
        self.access, self._of_pieces = access, of_pieces

    def counts(self, block: Block) -> np.ndarray:
        """int64 `[pieces]`: frames that are read of each record."""
        return block.pieces.counts if self._of_pieces else self.access.counts(block.table)

    def firsts(self, block: Block) -> np.ndarray | None:
        """int64 `[pieces]`: the first frame that is read of each record; None: frame 0 of all."""
        return block.pieces.firsts if self._of_pieces else None


class CopyJob(NamedTuple):
    """How to fill one array with frames.

    Attributes:
        shape: of the array.
        segments: the bytes of each record's frames.
        frames: int64 `[records]`, how many each has.
    """

    shape: tuple[int, ...]
    segments: Segments
    frames: np.ndarray


class FrameCopier:
    """Copies the frames of one sequence from the shards.

    Args:
        span: which frames of a sequence are read.
        dtype: of the delivered values.
        padding: value of padded frames.
        shards: to read from.
        pool: memory for the arrays.

    Attributes:
        dtype: of the delivered values.
        is_copy: the stored bytes are these values.
    """

    def __init__(self, span: FrameSpan, dtype: np.dtype, padding: float, shards: Shards, pool: Pool) -> None:
        access = span.access
        self._access, self._span, self._shards, self._pool = access, span, shards, pool
        self.dtype = np.dtype(dtype)
        self._dimensions = access.sequence.dimensions
        self._frame_values = math.prod(self._dimensions)
        self._decoder = FrameDecoder(access.sequence, access.stored, self.dtype)
        self._padding = np.asarray(padding).astype(self.dtype)
        self._pattern = np.empty(0, self.dtype)  # of the longest padding so far
        self.is_copy = self._decoder.is_copy

    def padded(self, block: Block, frames: np.ndarray, upper: np.ndarray) -> list[CopyJob]:
        """Jobs for an array `[B, upper, ...]` of each batch, every record padded to the `upper` frames of its batch."""
        shapes = [(size, length, *self._dimensions) for size, length in zip(block.sizes.tolist(), upper.tolist(), strict=True)]
        return self._jobs(block, frames, shapes, np.repeat(upper, block.sizes) - frames)

    def flat(self, block: Block, frames: np.ndarray) -> list[CopyJob]:
        """Jobs for an array `[frames of the batch, ...]` of each batch, nothing padded."""
        return self._jobs(block, frames, [(int(counts.sum()), *self._dimensions) for counts in block.split(frames)], None)

    def in_blocks(self, block: Block, frames: np.ndarray, missing: np.ndarray, size: int) -> list[CopyJob]:
        """Jobs for an array `[blocks of the batch, size]` of each batch: every record padded by its `missing` frames to whole blocks."""
        shapes: list[tuple[int, ...]] = [(int(counts.sum()) // size, size) for counts in block.split(frames + missing)]
        return self._jobs(block, frames, shapes, missing)

    def _jobs(self, block: Block, frames: np.ndarray, shapes: list[tuple[int, ...]], missing: np.ndarray | None) -> list[CopyJob]:
        """The frames of each record, followed by its `missing` frames of padding."""
        begins = block.table["offset"].astype(np.int64) + HEADER_BYTES + self._access.starts(block.table)
        firsts = self._span.firsts(block)
        if firsts is not None:
            begins += firsts * self._decoder.stride
        padding = self._padding_of(missing) if missing is not None and self._decoder.is_copy else None
        segments = self._shards.segments(block.table["shard"], self._decoder.begins(begins), frames * self._decoder.stride, padding)
        ends = block.ends.tolist()
        return [
            CopyJob(shape, segments.part(begin, end), frames[begin:end])
            for shape, begin, end in zip(shapes, [0, *ends[:-1]], ends, strict=True)
        ]

    def __call__(self, job: CopyJob) -> np.ndarray:
        """The array of a job."""
        array = self._pool.empty(job.shape, self.dtype)
        if self._decoder.is_copy:
            self._shards.copy(array, job.segments)
            return array
        values, flat = self._decoded(job), array.reshape(-1)
        if len(values) == len(flat):
            flat[:] = values
            return array
        row_values = job.shape[1] * self._frame_values
        sizes = job.frames * self._frame_values
        for row, (size, end) in enumerate(zip(sizes.tolist(), np.cumsum(sizes).tolist(), strict=True)):
            flat[row * row_values : row * row_values + size] = values[end - size : end]
            flat[row * row_values + size : (row + 1) * row_values] = self._padding
        return array

    def _decoded(self, job: CopyJob) -> np.ndarray:
        """The values of all frames of a job, one record after another."""
        raw = np.empty(int(job.frames.sum()) * self._decoder.stride, np.uint8)
        self._shards.copy(raw, job.segments)
        return self._decoder.values(raw)

    def _padding_of(self, missing: np.ndarray) -> Padding:
        values = missing * self._frame_values
        pattern, longest = self._pattern, int(values.max())
        if len(pattern) < longest:
            self._pattern = pattern = np.full(longest, self._padding)
        return Padding(pattern.view(np.uint8), values * self.dtype.itemsize)

"""The frames of a sequence, from memory-mapped shards into the array of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlpipe.engines.buffer_pool import Pool
from vlpipe.engines.mapped_shards import Padding, Pieces, Shards
from vlpipe.files.tfrecord import HEADER_BYTES
from vlpipe.planning.options import Options
from vlpipe.planning.schedule import Batch
from vlpipe.planning.splitmix import CROPS, draws
from vlpipe.storage.index import Index, column


class _Block(NamedTuple):
    """Some batches that follow each other, as the schedule names them, and what the index knows of their records, one after another."""

    epoch: int
    batches: list[Batch]
    ends: np.ndarray  # int64, where among the records each batch ends
    rows: np.ndarray
    table: np.ndarray

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """What belongs to each batch, of an array that has a value for every record."""
        ends = self.ends.tolist()
        return [values[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]  # np.split takes 20 times as long

    def longest(self, frames: np.ndarray) -> np.ndarray:
        """int64, the most frames that a record of each batch has."""
        return np.maximum.reduceat(frames, self.ends - self.sizes)

    @property
    def sizes(self) -> np.ndarray:
        """int64, records in each batch."""
        return np.diff(self.ends, prepend=0)


class _Span:
    """Which frames of one sequence of the schema are read.

    Args:
        limited: truncated by `length_range` and cropped, as the key feature is.
    """

    def __init__(self, index: Index, name: str, options: Options, *, limited: bool) -> None:
        self.name, self._ids, self._seed = name, index.ids, options.seed or 0
        self._frames = column(index.schema, "frames", name)
        self._most = options.truncation if limited else None
        self._crop = options.crop if limited else None

    def counts(self, block: _Block) -> np.ndarray:
        """int64: how many of each record."""
        counts = self._uncropped(block)
        return counts if self._crop is None else np.minimum(counts, self._crop.frames)

    def firsts(self, block: _Block, counts: np.ndarray) -> np.ndarray | None:
        """int64: the first of each record; None: they begin at the beginning."""
        if self._crop is None or not self._crop.random:
            return None
        numbers = draws(self._seed, block.epoch, CROPS, np.asarray(self._ids[block.rows]))
        return np.asarray(self._crop.firsts(self._uncropped(block) - counts, numbers))

    def _uncropped(self, block: _Block) -> np.ndarray:
        counts = block.table[self._frames].astype(np.int64)
        return counts if self._most is None else np.minimum(counts, self._most)


class _Copy(NamedTuple):
    """What an array of frames is made of."""

    shape: tuple[int, ...]
    pieces: Pieces
    frames: np.ndarray  # int64, those of each record


class _Copier:
    """The frames of one sequence of the schema, copied from the shards."""

    def __init__(self, index: Index, span: _Span, dtype: Any, padding: float, shards: Shards, pool: Pool) -> None:
        field = index.schema.sequences[span.name]
        self._span, self._start = span, column(index.schema, "start", span.name)
        stored = index.stored(span.name)
        self._stored, self._dtype = np.dtype(field.dtype).newbyteorder("<" if stored.byteorder == "little" else ">"), np.dtype(dtype)
        self._gap, self._table = stored.gap, stored.table(self._dtype)
        self._is_copied = self._stored == self._dtype and not self._gap and self._table is None
        self._dimensions, self._shards, self._pool = field.dimensions, shards, pool
        self._values = int(np.prod(field.dimensions, dtype=np.int64))  # in a frame
        self._padding = np.asarray(padding).astype(self._dtype)
        self._pattern = np.empty(0, self._dtype)  # of the longest padding so far

    def padded(self, block: _Block, frames: np.ndarray, rooms: np.ndarray) -> list[_Copy]:
        """For a `[B, room, ...]` of each batch."""
        shapes = [(size, room, *self._dimensions) for size, room in zip(block.sizes.tolist(), rooms.tolist(), strict=True)]
        return self._copies(block, frames, shapes, np.repeat(rooms, block.sizes) - frames)

    def flat(self, block: _Block, frames: np.ndarray) -> list[_Copy]:
        """For a `[sum of the frames, ...]` of each batch."""
        return self._copies(block, frames, [(int(of_batch.sum()), *self._dimensions) for of_batch in block.split(frames)], None)

    def _copies(self, block: _Block, frames: np.ndarray, shapes: list[tuple[int, ...]], lacking: np.ndarray | None) -> list[_Copy]:
        """The frames of each record, and as many frames of padding as it lacks."""
        begins = block.table["offset"].astype(np.int64) + HEADER_BYTES + block.table[self._start]
        frame_bytes = self._gap + self._values * self._stored.itemsize
        firsts = self._span.firsts(block, frames)
        if firsts is not None:
            begins += firsts * frame_bytes
        if self._gap:  # a record without frames begins nowhere
            begins = np.maximum(begins - self._gap, 0)
        sizes = frames * frame_bytes
        padding = self._padding_of(lacking) if lacking is not None and self._is_copied else None
        pieces = self._shards.pieces(block.table["shard"], begins, sizes, padding)
        ends = block.ends.tolist()
        return [
            _Copy(shape, pieces.part(begin, end), frames[begin:end])
            for shape, begin, end in zip(shapes, [0, *ends[:-1]], ends, strict=True)
        ]

    def __call__(self, copy: _Copy) -> np.ndarray:
        out = self._pool.empty(copy.shape, self._dtype)
        flat = out.reshape(-1)
        if self._is_copied:
            self._shards.copy(flat.view(np.uint8), copy.pieces)
            return out
        values = self._unpacked(copy)
        if len(values) == len(flat):
            flat[:] = values
            return out
        room = copy.shape[1] * self._values
        ends = np.cumsum(copy.frames) * self._values
        for row, (size, end) in enumerate(zip((copy.frames * self._values).tolist(), ends.tolist(), strict=True)):
            flat[row * room : row * room + size] = values[end - size : end]
            flat[row * room + size : (row + 1) * room] = self._padding
        return out

    def _unpacked(self, copy: _Copy) -> np.ndarray:
        """The values of all frames, one after another, as they are stored, or as what bytes stand for."""
        frames = int(copy.frames.sum())
        raw = np.empty(frames * (self._gap + self._values * self._stored.itemsize), np.uint8)
        self._shards.copy(raw, copy.pieces)
        if self._gap:  # what stands before each frame is copied with it, and left out here
            raw = np.ascontiguousarray(raw.reshape(frames, len(raw) // max(1, frames))[:, self._gap :]).reshape(-1)
        return raw.view(self._stored) if self._table is None else self._table[raw]

    def _padding_of(self, lacking: np.ndarray) -> Padding:
        values = lacking * self._values
        pattern, longest = self._pattern, int(values.max())
        if len(pattern) < longest:
            self._pattern = pattern = np.full(longest, self._padding)
        return Padding(pattern.view(np.uint8), values * self._dtype.itemsize)

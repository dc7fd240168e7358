"""The mapped engine: a batch is copied from memory-mapped shards straight to where TensorFlow will read it.

One Python call makes a batch: the schedule names its records, the index where their frames stand, and they are copied, once, into a
padded array (or the flat values of a ragged one) that TensorFlow takes over as it is. Nothing is parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vlpipe.batching import Flat
from vlpipe.calls import outlived
from vlpipe.index import Index, column
from vlpipe.memory import Pool
from vlpipe.planning import Plan
from vlpipe.record import parse_batch
from vlpipe.schedule import Batch
from vlpipe.schema import Fixed, Sequence
from vlpipe.shards import Padding, Shards
from vlpipe.tfrecord import HEADER_BYTES

IN_TRANSIT = 4  # batches between the call that made them and the end of the user's step: prefetched, delivered, in use


def batches(index: Index, plan: Plan, epochs: tf.data.Dataset, deliver: Callable[[Flat], Any]) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: pairs of int64: the number of an epoch, and its first batch: 0, or beyond the last where there shall be none.
        deliver: makes of a flat batch what the user gets.
    """
    fetch = _Fetch(index, plan)
    untouched = tf.autograph.experimental.do_not_convert
    steps = plan.steps_per_epoch
    # One number says epoch and batch: each function that tf.data calls a batch takes longer than copying a hundred short records.
    places = epochs.flat_map(untouched(lambda epoch, first: tf.data.Dataset.range(epoch * steps + first, (epoch + 1) * steps)))
    return places.map(
        untouched(lambda place: deliver(fetch.in_graph(place))),
        num_parallel_calls=_parallelism(plan),
        deterministic=True,
    )


def _parallelism(plan: Plan) -> int:
    """Batches that are made at a time: more than two only wait for each other, for the interpreter lock."""
    return plan.options.num_parallel_calls or 2


class _Rows(NamedTuple):
    """A batch as the schedule names it, and as the index knows its records: their rows, and what stands in these."""

    batch: Batch
    rows: np.ndarray
    table: np.ndarray


class _Part(NamedTuple):
    """One tensor of a flat batch."""

    name: str
    dtype: tf.DType
    shape: list[int | None]
    make: Callable[[_Rows], np.ndarray]


class _Fetch:
    """The batch at a place of a run, as arrays and as tensors."""

    def __init__(self, index: Index, plan: Plan) -> None:
        self._index, self._plan, self._options = index, plan, plan.options
        self._rows = np.asarray(index.rows)  # a memmap is a subclass, whose every slice takes ten times as long
        self._shards = Shards(index, plan.options.verify)
        self._keep = _parallelism(plan) + IN_TRANSIT
        self._count = plan.static_shape[0]  # rows of a batch, where all have as many
        self._parsed: list[str] = []
        self._parts = self._all_parts()

    def in_graph(self, place: tf.Tensor) -> Flat:
        """The batch at a place: its number, counted from the first batch of epoch 0."""
        # Stateless: the same place always gives the same batch.
        tensors = tf.numpy_function(outlived(self), [place], [part.dtype for part in self._parts], stateful=False)
        batch = {}
        for part, tensor in zip(self._parts, tensors, strict=True):
            tensor.set_shape(part.shape)
            batch[part.name] = tensor
        if self._parsed:
            values = parse_batch(self._index.schema, self._parsed, batch.pop("records"))
            batch |= {f"y:{name}": value for name, value in values.items()}
        for name in [name for name in batch if name.startswith("splits:")]:
            values = batch[name.removeprefix("splits:")]
            batch[name.removeprefix("splits:")] = tf.RaggedTensor.from_row_splits(values, batch.pop(name), validate=False)
        return batch

    def __call__(self, place: np.ndarray) -> list[np.ndarray]:
        epoch, step = divmod(int(place), self._plan.steps_per_epoch)
        batch = self._plan.schedule.batch(epoch, step)
        rows = self._plan.rows[batch.records]
        table = self._rows[rows]
        self._shards.begin(epoch, first=step == 0)
        self._shards.check(rows, table)
        found = _Rows(batch, rows, table)
        return [part.make(found) for part in self._parts]

    def _all_parts(self) -> list[_Part]:
        options, selection, schema = self._options, self._plan.selection, self._index.schema
        parts: list[_Part] = []
        for name in selection.features:
            parts += self._feature(name, schema.sequences[name])
        for name in selection.labels:
            field = schema.fields[name]
            if isinstance(field, Sequence):
                parts += self._list(name, field)
            elif f"value:{name}" in (self._index.rows.dtype.names or ()):
                parts.append(_inline(name, field))  # type: ignore[arg-type]
            else:
                self._parsed.append(name)
        if self._parsed:
            parts.append(_Part("records", tf.string, [None], lambda found: self._shards.records(found.table)))
        if options.ids:
            parts.append(_Part("id", tf.int64, [None], lambda found: self._index.ids[found.rows]))
        if options.remainder == "pad":
            parts.append(_Part("weight", tf.float32, [None], _weights))
        return parts

    def _feature(self, name: str, field: Sequence) -> list[_Part]:
        dtype = tf.as_dtype(self._options.dtype)
        pool = Pool(self._plan.peak_bytes(name), self._keep)
        copy = _Copier(self._index, name, dtype.as_numpy_dtype, self._options.padding_value, self._shards, pool)
        dims = list(field.dimensions)
        key = name == self._plan.selection.key
        most = self._options.length_range[1] if key and self._options.out_of_range == "truncate" else None
        upper = np.asarray(self._plan.boundaries, np.int64) if key and self._options.pad_to == "boundary" else None

        def frames(table: np.ndarray) -> np.ndarray:
            counts = table[copy.frames].astype(np.int64)
            return counts if most is None else np.minimum(counts, most)

        def padded(found: _Rows) -> np.ndarray:
            counts = frames(found.table)
            return copy.padded(found.table, counts, int(counts.max() if upper is None else upper[found.batch.bucket]))

        lengths = _Part(f"n:x:{name}", tf.int32, [None], lambda found: frames(found.table).astype(np.int32))
        if self._options.batching == "ragged":
            values = _Part(f"x:{name}", dtype, [None, *dims], lambda found: copy.flat(found.table, frames(found.table)))
            splits = _Part(
                f"splits:x:{name}", tf.int64, [self._count and self._count + 1], lambda found: np.r_[0, np.cumsum(frames(found.table))]
            )
            found = [values, splits]
        else:
            found = [_Part(f"x:{name}", dtype, [None, None, *dims], padded)]
        return [*found, lengths] if self._options.lengths else found

    def _list(self, name: str, field: Sequence) -> list[_Part]:
        """A label of varying length: integers as int64, as CTC wants them."""
        dtype = tf.int64 if np.dtype(field.dtype).kind in "iu" else tf.as_dtype(field.dtype)
        copy = _Copier(self._index, name, dtype.as_numpy_dtype, self._options.label_padding, self._shards, Pool(0, 0))

        def padded(found: _Rows) -> np.ndarray:
            counts = found.table[copy.frames].astype(np.int64)
            return copy.padded(found.table, counts, int(counts.max()))

        lengths = _Part(f"n:y:{name}", tf.int32, [None], lambda found: found.table[copy.frames].astype(np.int32))
        return [_Part(f"y:{name}", dtype, [None, None, *field.dimensions], padded)] + [lengths] * self._options.lengths


def _inline(name: str, field: Fixed) -> _Part:
    """A label that stands in the index."""
    dtype = np.dtype(field.dtype)
    return _Part(
        f"y:{name}", tf.as_dtype(dtype), [None, *field.dimensions], lambda found: np.ascontiguousarray(found.table[f"value:{name}"], dtype)
    )


def _weights(found: _Rows) -> np.ndarray:
    return (np.arange(len(found.rows)) < found.batch.real).astype(np.float32)


class _Copier:
    """The frames of one sequence of the schema, copied from the shards."""

    def __init__(self, index: Index, name: str, dtype: Any, padding: float, shards: Shards, pool: Pool) -> None:
        field = index.schema.sequences[name]
        self.frames, self._start = column(index.schema, "frames", name), column(index.schema, "start", name)
        self._stored, self._dtype = np.dtype(field.dtype).newbyteorder("<"), np.dtype(dtype)
        self._dimensions, self._shards, self._pool = field.dimensions, shards, pool
        self._values = int(np.prod(field.dimensions, dtype=np.int64))  # in a frame
        self._padding = np.asarray(padding).astype(self._dtype)
        self._pattern = np.empty(0, self._dtype)  # of the longest padding so far

    def padded(self, table: np.ndarray, frames: np.ndarray, room: int) -> np.ndarray:
        """`[B, room, ...]`."""
        out = self._pool.empty((len(table), room, *self._dimensions), self._dtype)
        self._fill(out, table, frames, room - frames)
        return out

    def flat(self, table: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """`[sum of the frames, ...]`."""
        out = self._pool.empty((int(frames.sum()), *self._dimensions), self._dtype)
        self._fill(out, table, frames, None)
        return out

    def _fill(self, out: np.ndarray, table: np.ndarray, frames: np.ndarray, lacking: np.ndarray | None) -> None:
        """The frames of each record, and as many frames of padding as it lacks, one record after another."""
        begins = table["offset"].astype(np.int64) + HEADER_BYTES + table[self._start]
        sizes = frames * (self._values * self._stored.itemsize)
        if self._stored == self._dtype:
            padding = None if lacking is None else self._padding_of(lacking)
            self._shards.copy(out.reshape(-1).view(np.uint8), table["shard"], begins, sizes, padding)
            return
        values = np.empty(int(frames.sum()) * self._values, self._stored)
        self._shards.copy(values.view(np.uint8), table["shard"], begins, sizes)
        if lacking is None:
            out.reshape(-1)[:] = values
            return
        ends = np.cumsum(frames) * self._values
        for row, (begin, end) in enumerate(zip((ends - frames * self._values).tolist(), ends.tolist(), strict=True)):
            target = out[row].reshape(-1)
            target[: end - begin] = values[begin:end]
            target[end - begin :] = self._padding

    def _padding_of(self, lacking: np.ndarray) -> Padding:
        values = lacking * self._values
        pattern, longest = self._pattern, int(values.max())
        if len(pattern) < longest:
            self._pattern = pattern = np.full(longest, self._padding)
        return Padding(pattern.view(np.uint8), values * self._dtype.itemsize)

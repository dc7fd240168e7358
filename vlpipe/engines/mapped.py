"""The mapped engine: a batch is copied from memory-mapped shards straight to where TensorFlow will read it.

One Python call makes a batch: the schedule names its records, the index says where their frames are, and they are copied once, into a
padded array (or the flat values of a ragged one) that TensorFlow takes over without another copy. Nothing is parsed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vlpipe.engines.apply_transforms import transform_batch
from vlpipe.engines.buffer_pool import Pool
from vlpipe.engines.grouping import Flat
from vlpipe.engines.labels import list_dtype, multi_hot, padded
from vlpipe.engines.mapped_frames import Block, CopyJob, FrameCopier, FrameSpan
from vlpipe.engines.mapped_shards import Shards
from vlpipe.engines.parse import Parser
from vlpipe.engines.python_calls import keep_alive, wait_at_exit
from vlpipe.files.tfrecord import HEADER_BYTES
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.plan import Plan
from vlpipe.planning.splitmix import CROPS, draws, part_numbers
from vlpipe.storage.example import parse_batch
from vlpipe.storage.field_access import FieldAccess, Location
from vlpipe.storage.schema import Fixed

# Batches that are looked up together. With 128 records a batch, one batch at a time takes 100 us of Python, for which the loop over the
# batches waits as well (the interpreter lock): 40 % more time a batch.
BLOCK_STEPS = 16
MAX_BLOCKS = 4  # kept in memory: several iterators may be active
# Batches that are made ahead of the model; each waits, finished, in its place of the parallel map. Two keep two cores busy only as long as
# no thread waits for the interpreter lock (10 % more time a batch), and a prefetch after the map costs one more thread switch (5 to 10 %).
AHEAD = 4
IN_TRANSIT = 4  # batches between the call that made them and the end of the user's step: delivered, in use, not yet returned to the pool


def batches(plan: Plan, epochs: tf.data.Dataset, deliver: Callable[[Flat], Any]) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: pairs of int64: the number of an epoch, and the first batch to deliver of it; beyond the last batch: none.
        deliver: turns a flat batch into the user's element.
    """
    reader = _BatchReader(plan)
    untouched = tf.autograph.experimental.do_not_convert
    steps = plan.steps_per_epoch
    # One number for epoch and batch: each further function that tf.data calls for a batch takes longer than copying 100 short records.
    numbers = epochs.flat_map(untouched(lambda epoch, first: tf.data.Dataset.range(epoch * steps + first, (epoch + 1) * steps)))
    delivered = numbers.map(
        untouched(lambda number: deliver(reader.in_graph(number))),
        num_parallel_calls=_parallelism(plan),
        deterministic=True,
    )
    keep_alive(reader, delivered, _BatchReader.release)
    return delivered


def _parallelism(plan: Plan) -> int:
    return plan.options.num_parallel_calls or AHEAD


class _Part(NamedTuple):
    """One tensor of a flat batch, made in two steps: inputs for all batches of a block at once, the array when the batch is requested."""

    name: str
    dtype: tf.DType
    shape: list[int | None]
    inputs: Callable[[Block], list[Any]]
    make: Callable[[Any], np.ndarray] = lambda inputs: inputs


class _BatchReader:
    """Reads the batch with a given number, as arrays and as tensors. Batches are numbered from the first one of epoch 0."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._index, self._options = plan, plan.index, plan.options
        self._rows = np.asarray(plan.index.rows)  # slices of a memmap, which is a subclass, take ten times as long
        self._shards = Shards(plan.index, plan.options.verify)
        self._static_rows = plan.static_shape[0]  # rows of a batch, where all have the same number
        # Inputs of a batch may hold any shard open: where not all can be open at once, one batch at a time.
        self._block_size = BLOCK_STEPS if self._shards.can_all_be_open else 1
        self._blocks: dict[tuple[int, int, int], list[tuple[Any, ...]]] = {}
        self._lock = threading.Lock()
        self._parser = Parser(plan)
        self._key = self._index.access(plan.selection.key, as_feature=True)
        self._example_labels: list[str] = []
        self._pools: list[Pool] = []
        self._parts = self._all_parts()

    def release(self) -> None:
        """Close files and free memory. An iterator that is still active opens them again."""
        with self._lock:
            self._blocks.clear()
        self._shards.close()
        for pool in self._pools:
            pool.clear()

    def in_graph(self, number: tf.Tensor) -> Flat:
        """The flat batch with a number, as tensors."""
        # Stateless: the same number always gives the same batch.
        tensors = tf.numpy_function(
            wait_at_exit(_BatchReader.__call__, self), [number], [part.dtype for part in self._parts], stateful=False
        )
        batch = {}
        for part, tensor in zip(self._parts, tensors, strict=True):
            tensor.set_shape(part.shape)
            batch[part.name] = tensor
        epoch = number // self._plan.steps_per_epoch
        data = batch.pop("records", None)
        if self._example_labels:
            values = parse_batch(self._index.schema, self._example_labels, data)
            batch |= {f"y:{name}": value for name, value in values.items()}
        if self._parser:
            frames = {name: batch.pop(f"frames:{name}") for name in self._parser.features}
            cut = PieceFrames(batch.pop("first", None), batch.pop("count")) if "count" in batch else None
            batch |= self._parser(data, batch.pop("rows"), frames, cut)
        for name in [name for name in batch if name.startswith("splits:")]:
            values = batch[name.removeprefix("splits:")]
            batch[name.removeprefix("splits:")] = tf.RaggedTensor.from_row_splits(values, batch.pop(name), validate=False)
        return transform_batch(self._plan, {**batch, "epoch": epoch}) if self._plan.has_transforms else batch

    def __call__(self, number: np.ndarray) -> list[np.ndarray]:
        """The arrays of the batch with a number, part by part."""
        epoch, step = divmod(int(number), self._plan.steps_per_epoch)
        self._shards.begin(epoch, first=step == 0)
        block, position = divmod(step, self._block_size)
        rows, table, *inputs = self._inputs(epoch, block)[position]
        self._shards.check(rows, table)
        return [part.make(part_inputs) for part, part_inputs in zip(self._parts, inputs, strict=True)]

    def _inputs(self, epoch: int, block: int) -> list[tuple[Any, ...]]:
        """For each batch of a block: its rows, their entries in the index, and the inputs of its parts."""
        key = (self._shards.changes, epoch, block)
        with self._lock:  # the call that makes the next batch needs the same block
            if key not in self._blocks:
                while len(self._blocks) >= MAX_BLOCKS:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[key] = self._look_up(epoch, block * self._block_size)
            return self._blocks[key]

    def _look_up(self, epoch: int, first: int) -> list[tuple[Any, ...]]:
        schedule = self._plan.schedule
        batches = [schedule.batch(epoch, step) for step in range(first, min(first + self._block_size, self._plan.steps_per_epoch))]
        pieces = self._plan.pieces.take(np.concatenate([batch.pieces for batch in batches]))
        ends = np.cumsum([len(batch.pieces) for batch in batches])
        table, ids = self._rows.take(pieces.rows), np.asarray(self._index.ids[pieces.rows])
        frames = self._plan.frame_plan.frame_range.moved(
            PieceFrames(pieces.firsts, pieces.frames),
            lambda: self._key.counts(table),
            np.minimum,
            lambda: draws(self._options.seed or 0, epoch, CROPS, pieces.copy_numbers(ids, part_numbers)),
        )
        block = Block(epoch, batches, ends, pieces, table, ids, frames)
        columns = [block.split(pieces.rows), block.split(block.table), *(part.inputs(block) for part in self._parts)]
        return list(zip(*columns, strict=True))

    def _all_parts(self) -> list[_Part]:
        options, selection = self._options, self._plan.selection
        parts: list[_Part] = []
        for name in selection.features:
            access = self._index.access(name, as_feature=True)
            parts += self._frame_counts(access) if name in self._parser.features else self._feature(access)
        for name in selection.labels:
            parts += self._label(self._index.access(name))
        if self._parser:
            parts.append(_Part("rows", tf.int64, [None], lambda block: block.split(block.pieces.rows)))
            parts += self._cut()
        if self._example_labels or self._parser:
            parts.append(_Part("records", tf.string, [None], lambda block: block.split(block.table), self._shards.records))
        if options.ids or self._plan.has_transforms:
            parts.append(_Part("id", tf.int64, [None], lambda block: block.split(block.ids)))
        if options.augment is not None:
            parts.append(_Part("number", tf.int64, [None], lambda block: block.split(block.pieces.numbers(block.ids, part_numbers))))
        if options.remainder == "pad":
            parts.append(_Part("weight", tf.float32, [None], _weights))
        if self._plan.has_transforms and options.pad_to == "boundary":
            parts.append(_Part("bucket", tf.int64, [], lambda block: [np.asarray(batch.bucket) for batch in block.batches]))
        return parts

    def _frame_counts(self, access: FieldAccess) -> list[_Part]:
        """The frames that the index has for a feature that is parsed in the graph."""
        return [_Part(f"frames:{access.name}", tf.int64, [None], lambda block: block.split(access.counts(block.table)))]

    def _cut(self) -> list[_Part]:
        """The frames that are read of a key feature that is parsed in the graph; nothing where all of them are."""
        if self._plan.frame_plan.frame_range.is_all or self._plan.selection.key not in self._parser.features:
            return []
        return [
            _Part("count", tf.int64, [None], lambda block: block.split(block.frames.counts)),
            _Part("first", tf.int64, [None], lambda block: block.split(_firsts(block))),
        ]

    def _feature(self, access: FieldAccess) -> list[_Part]:
        plan, options, name = self._plan, self._options, access.name
        dtype = tf.as_dtype(plan.reading_dtype(name))
        pool = Pool(plan.peak_bytes_read(name), _parallelism(plan) + IN_TRANSIT)
        self._pools.append(pool)
        is_key = name == plan.selection.key
        span = FrameSpan(access, with_key=is_key)
        # Frames that are transformed in the graph are padded after that.
        unpadded = options.batching == "ragged" or plan.has_transforms
        copy = FrameCopier(
            access, span, dtype.as_numpy_dtype, 0 if unpadded else plan.selection.paddings.number(f"x:{name}"), self._shards, pool
        )
        dimensions = list(access.sequence.dimensions)
        boundaries = np.asarray(plan.boundaries, np.int64) if is_key and options.pad_to == "boundary" else None

        def padded_jobs(block: Block) -> list[CopyJob]:
            counts = span.counts(block)
            upper = block.longest(counts) if boundaries is None else boundaries[[batch.bucket for batch in block.batches]]
            return copy.padded(block, counts, upper)

        def splits(block: Block) -> list[np.ndarray]:
            return [np.r_[0, np.cumsum(counts)] for counts in block.split(span.counts(block))]

        if unpadded:
            static_splits = self._static_rows and self._static_rows + 1
            parts = [
                _Part(f"x:{name}", dtype, [None, *dimensions], lambda block: copy.flat(block, span.counts(block)), copy),
                _Part(f"splits:x:{name}", tf.int64, [static_splits], splits),
            ]
        else:
            parts = [_Part(f"x:{name}", dtype, [None, None, *dimensions], padded_jobs, copy)]
        return parts + self._lengths(f"n:x:{name}", span.counts)

    def _lengths(self, name: str, counts: Callable[[Block], np.ndarray]) -> list[_Part]:
        """The true lengths, where they are requested."""
        part = _Part(name, tf.int32, [None], lambda block: block.split(counts(block).astype(np.int32)))
        return [part] if self._options.lengths else []

    def _label(self, access: FieldAccess) -> list[_Part]:
        """The parts of a label; none where it is parsed in the graph."""
        if access.location is Location.EXAMPLE:
            self._example_labels.append(access.name)
        parts = {
            Location.FRAMES: self._sequence_label,
            Location.LIST: self._list_label,
            Location.TEXT: self._text_label,
            Location.ROW: self._row_label,
        }
        return parts[access.location](access) if access.location in parts else []

    def _sequence_label(self, access: FieldAccess) -> list[_Part]:
        """A label of varying length: integers as int64, as CTC wants them."""
        dtype = list_dtype(access.sequence)
        span = FrameSpan(access)
        padding = self._plan.selection.paddings.number(f"y:{access.name}")
        copy = FrameCopier(access, span, dtype.as_numpy_dtype, padding, self._shards, Pool(0, 0))

        def padded_jobs(block: Block) -> list[CopyJob]:
            counts = span.counts(block)
            return copy.padded(block, counts, block.longest(counts))

        label = _Part(f"y:{access.name}", dtype, [None, None, *access.sequence.dimensions], padded_jobs, copy)
        return [label, *self._lengths(f"n:y:{access.name}", span.counts)]

    def _list_label(self, access: FieldAccess) -> list[_Part]:
        """A label whose values are in the index."""
        name, values = f"y:{access.name}", access.values
        padding = self._plan.selection.paddings.number(name)

        def tables(block: Block) -> list[np.ndarray]:
            return block.split(block.table)

        if isinstance(access.field, Fixed):
            classes = access.field.dimensions[0]

            def hot(table: np.ndarray) -> np.ndarray:
                return multi_hot(values, access.starts(table), access.counts(table), classes)

            return [_Part(name, tf.float32, [None, classes], tables, hot)]
        lists = _Part(
            name, tf.int64, [None, None], tables, lambda table: padded(values, access.starts(table), access.counts(table), padding)
        )
        return [lists, *self._lengths(f"n:{name}", lambda block: access.counts(block.table))]

    def _text_label(self, access: FieldAccess) -> list[_Part]:
        """A text whose bytes the index locates."""

        def texts(table: np.ndarray) -> np.ndarray:
            begins = table["offset"].astype(np.int64) + HEADER_BYTES + access.starts(table)
            return self._shards.texts(table["shard"], begins, access.counts(table))

        return [_Part(f"y:{access.name}", tf.string, [None], lambda block: block.split(block.table), texts)]

    def _row_label(self, access: FieldAccess) -> list[_Part]:
        """A label that is in the rows of the index."""
        shape: list[int | None] = [None, *access.field.dimensions] if isinstance(access.field, Fixed) else [None]
        return [_Part(f"y:{access.name}", tf.as_dtype(access.dtype), shape, lambda block: block.split(access.row_values(block.table)))]


def _firsts(block: Block) -> np.ndarray:
    """int64 `[pieces]`: the first frame that is read."""
    firsts: np.ndarray | None = block.frames.firsts
    return np.zeros_like(block.frames.counts) if firsts is None else firsts


def _weights(block: Block) -> list[np.ndarray]:
    return [(np.arange(len(batch.pieces)) < batch.real).astype(np.float32) for batch in block.batches]

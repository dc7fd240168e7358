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
from vlpipe.engines.augment import Augmenter
from vlpipe.engines.buffer_pool import Pool
from vlpipe.engines.grouping import Flat
from vlpipe.engines.labels import multi_hot
from vlpipe.engines.mapped_frames import Block, FrameCopier, FrameSpan
from vlpipe.engines.mapped_lists import ListCopier
from vlpipe.engines.mapped_shards import Shards
from vlpipe.engines.parse import Parser
from vlpipe.engines.python_calls import keep_alive, wait_at_exit
from vlpipe.engines.screen import Report, Screen
from vlpipe.files.tfrecord import HEADER_BYTES
from vlpipe.planning.damage import Skipped
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.pieces import Pieces
from vlpipe.planning.plan import Plan
from vlpipe.planning.schedule import Batch
from vlpipe.planning.selection import FramePart
from vlpipe.planning.splitmix import CROPS, draws, part_numbers
from vlpipe.storage.example import parse_batch
from vlpipe.storage.field_access import FieldAccess, Location
from vlpipe.storage.schema import Fixed, Sequence
from vlpipe.transforms.augmentations import speed_of

# Batches that are looked up together. With 128 records a batch, one batch at a time takes 100 us of Python, for which the loop over the
# batches waits as well (the interpreter lock): 40 % more time a batch.
BLOCK_STEPS = 16
MAX_BLOCKS = 4  # kept in memory: several iterators may be active
# Batches that are made ahead of the model; each waits, finished, in its place of the parallel map. Two keep two cores busy only as long as
# no thread waits for the interpreter lock (10 % more time a batch), and a prefetch after the map costs one more thread switch (5 to 10 %).
AHEAD = 4
IN_TRANSIT = 4  # batches between the call that made them and the end of the user's step: delivered, in use, not yet returned to the pool


def batches(plan: Plan, epochs: tf.data.Dataset, deliver: Callable[[Flat], Any], skipped: Skipped | None = None) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: pairs of int64: the number of an epoch, and the first batch to deliver of it; beyond the last batch: none.
        deliver: turns a flat batch into the user's element.
        skipped: counts the damaged records, which are left out; None: the first one is an error.
    """
    reader = _BatchReader(plan, skipped)
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


class _Records:
    """A `Reader` of mapped records."""

    def __init__(self, shards: Shards, rows: np.ndarray) -> None:
        self._shards, self._rows = shards, rows

    def check(self, rows: np.ndarray, report: Report) -> None:
        self._shards.check(rows, self._rows.take(rows), report)

    def data(self, rows: np.ndarray) -> list[bytes]:
        return list(self._shards.records(self._rows.take(rows)))


class _Part(NamedTuple):
    """One tensor of a flat batch, made in two steps: inputs for all batches of a block at once, the array when the batch is requested."""

    name: str
    dtype: tf.DType
    shape: list[int | None]
    inputs: Callable[[Block], list[Any]]
    make: Callable[[Any], np.ndarray] = lambda inputs: inputs


class _BatchReader:
    """Reads the batch with a given number, as arrays and as tensors. Batches are numbered from the first one of epoch 0."""

    def __init__(self, plan: Plan, skipped: Skipped | None = None) -> None:
        self._plan, self._index, self._options = plan, plan.index, plan.options
        self._rows = np.asarray(plan.index.rows)  # slices of a memmap, which is a subclass, take ten times as long
        self._shards = Shards(plan.index, plan.options.verify)
        self._screen = None if skipped is None else Screen(plan, skipped, _Records(self._shards, self._rows))
        self._static_rows = plan.static_shape[0]  # rows of a batch, where all have the same number
        # Inputs of a batch may hold any shard open: where not all can be open at once, one batch at a time.
        self._block_size = BLOCK_STEPS if self._shards.can_all_be_open else 1
        self._blocks: dict[tuple[int, int, int], list[tuple[Any, ...]]] = {}
        self._lock = threading.Lock()
        self._parser, self._augmenter = Parser(plan), Augmenter(plan)
        self._key = plan.index.access(plan.selection.key, as_feature=True)
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
            frames = {name: batch.pop(f"frames:{name}") for name in self._parser.lengths}
            pieces = PieceFrames(batch.pop("firsts", None), batch.pop("counts"))
            batch |= self._parser(data, batch.pop("rows"), frames, pieces, batch.get("bucket"))
        for name in [name for name in batch if name.startswith("splits:")]:
            values = batch[name.removeprefix("splits:")]
            batch[name.removeprefix("splits:")] = tf.RaggedTensor.from_row_splits(values, batch.pop(name), validate=False)
        if self._plan.has_transforms:
            return transform_batch(self._plan, {**batch, "epoch": epoch}, self._augmenter)
        batch.pop("bucket", None)
        return batch

    def __call__(self, number: np.ndarray) -> list[np.ndarray]:
        """The arrays of the batch with a number, part by part."""
        epoch, step = divmod(int(number), self._plan.steps_per_epoch)
        self._shards.begin(epoch, first=step == 0)
        block, position = divmod(step, self._block_size)
        batch, rows, table, *inputs = self._inputs(epoch, block)[position]
        if self._screen is None:
            self._shards.check(rows, table)
        elif (screened := self._screen(batch, epoch)) is not batch:
            _, _, _, *inputs = self._looked_up(epoch, [screened])[0]
        return [part.make(part_inputs) for part, part_inputs in zip(self._parts, inputs, strict=True)]

    def _inputs(self, epoch: int, block: int) -> list[tuple[Any, ...]]:
        """For each batch of a block: itself, its rows, their entries in the index, and the inputs of its parts."""
        key = (self._shards.changes, epoch, block)
        with self._lock:  # the call that makes the next batch needs the same block
            if key not in self._blocks:
                while len(self._blocks) >= MAX_BLOCKS:
                    del self._blocks[next(iter(self._blocks))]
                first, schedule = block * self._block_size, self._plan.schedule
                steps = range(first, min(first + self._block_size, self._plan.steps_per_epoch))
                self._blocks[key] = self._looked_up(epoch, [schedule.batch(epoch, step) for step in steps])
            return self._blocks[key]

    def _looked_up(self, epoch: int, batches: list[Batch]) -> list[tuple[Any, ...]]:
        planned = self._plan.pieces.take(np.concatenate([batch.pieces for batch in batches]))
        ends = np.cumsum([len(batch.pieces) for batch in batches])
        table, ids = self._rows.take(planned.rows), np.asarray(self._index.ids[planned.rows])
        block = Block(epoch, batches, ends, planned, table, ids, self._pieces(epoch, planned, table, ids))
        columns = [batches, block.split(planned.rows), block.split(block.table), *(part.inputs(block) for part in self._parts)]
        return list(zip(*columns, strict=True))

    def _pieces(self, epoch: int, planned: Pieces, table: np.ndarray, ids: np.ndarray) -> PieceFrames:
        """Which frames are read of the records in `table`: the one place from which every part has them."""
        seed, frame_range = self._options.seed or 0, self._plan.frame_plan.frame_range
        return frame_range.moved(
            PieceFrames(planned.firsts, planned.frames),
            lambda: self._key.counts(table),
            np.minimum,
            lambda: draws(seed, epoch, CROPS, planned.copy_numbers(ids, part_numbers)),
        )

    def _all_parts(self) -> list[_Part]:
        options, selection = self._options, self._plan.selection
        parts: list[_Part] = []
        for name in (*selection.features, *selection.labels):
            if name in self._parser.lengths:
                parts.append(self._parsed_lengths(name))
            elif name in selection.features:
                parts += self._sequence(selection.part(name), self._index.access(name, as_feature=True))
            else:
                parts += self._label(self._index.access(name))
        if self._parser:
            parts += self._parsed_pieces()
            parts.append(_Part("rows", tf.int64, [None], lambda block: block.split(block.planned.rows)))
        if self._example_labels or self._parser:
            parts.append(_Part("records", tf.string, [None], lambda block: block.split(block.table), self._shards.records))
        if options.needs_ids or self._plan.has_transforms:
            parts.append(_Part("id", tf.int64, [None], lambda block: block.split(block.ids)))
        if options.augment is not None:
            parts.append(_Part("number", tf.int64, [None], lambda block: block.split(block.planned.numbers(block.ids, part_numbers))))
        if speed_of(options.augment) is not None:
            parts.append(_Part("speed", tf.int64, [None], lambda block: block.split(block.planned.copies % options.speeds)))
        if options.remainder == "pad":
            parts.append(_Part("weight", tf.float32, [None], _weights))
        if options.ids and options.windows is not None:
            parts.append(_Part("start", tf.int64, [None], lambda block: block.split(block.pieces.firsts)))
        if (self._plan.has_transforms or self._parser.labels) and self._plan.has_least_frames:
            parts.append(_Part("bucket", tf.int64, [], lambda block: [np.asarray(batch.bucket) for batch in block.batches]))
        return parts

    def _parsed_lengths(self, name: str) -> _Part:
        """The frames that the index has for a sequence that is parsed in the graph."""
        access = self._parser.lengths[name]
        return _Part(f"frames:{name}", tf.int64, [None], lambda block: block.split(access.counts(block.table)))

    def _parsed_pieces(self) -> list[_Part]:
        """Which frames are kept of a sequence that is parsed in the graph."""
        parts = [_Part("counts", tf.int64, [None], lambda block: block.split(block.pieces.counts))]
        if self._plan.frame_plan.frame_range.is_random:
            parts.append(_Part("firsts", tf.int64, [None], lambda block: block.split(block.pieces.firsts)))
        return parts

    def _sequence(self, part: FramePart, access: FieldAccess) -> list[_Part]:
        """A feature, or a label of varying length."""
        plan, options, name = self._plan, self._options, part.flat
        dtype = tf.as_dtype(plan.reading_dtype(part.name))
        # Frames that are transformed in the graph are padded after that.
        unpadded = part in plan.selection.frame_parts and (options.batching == "ragged" or plan.has_transforms)
        padding = 0 if unpadded else plan.selection.paddings.number(name)
        span = FrameSpan(access, of_pieces=part.with_key)
        copy = self._copier(part, span, dtype, padding)
        dimensions = list(access.sequence.dimensions)
        least = plan.least_by_part[name]

        def padded_jobs(block: Block) -> list[Any]:
            counts = span.counts(block)
            upper = block.longest(counts)
            if least.any():
                upper = np.maximum(upper, least[[batch.bucket for batch in block.batches]])
            return copy.padded(block, counts, upper)

        def splits(block: Block) -> list[np.ndarray]:
            return [np.r_[0, np.cumsum(counts)] for counts in block.split(span.counts(block))]

        if unpadded:
            static_splits = self._static_rows and self._static_rows + 1
            parts = [
                _Part(name, dtype, [None, *dimensions], lambda block: copy.flat(block, span.counts(block)), copy),
                _Part(f"splits:{name}", tf.int64, [static_splits], splits),
            ]
        else:
            parts = [_Part(name, dtype, [None, None, *dimensions], padded_jobs, copy)]
        needed = options.lengths if part.is_feature else options.label_lengths
        return parts + self._lengths(f"n:{name}", span.counts, needed or plan.has_infinite_padding(name))

    def _copier(self, part: FramePart, span: FrameSpan, dtype: tf.DType, padding: float) -> FrameCopier | ListCopier:
        if span.access.location is Location.LIST:
            return ListCopier(span, padding)
        pool = Pool(0, 0)
        if part.is_feature:
            pool = Pool(self._plan.peak_bytes_read(part.name), _parallelism(self._plan) + IN_TRANSIT)
            self._pools.append(pool)
        return FrameCopier(span, dtype.as_numpy_dtype, padding, self._shards, pool)

    def _lengths(self, name: str, counts: Callable[[Block], np.ndarray], needed: bool) -> list[_Part]:
        """The true lengths, where they are needed."""
        part = _Part(name, tf.int32, [None], lambda block: block.split(counts(block).astype(np.int32)))
        return [part] if needed else []

    def _label(self, access: FieldAccess) -> list[_Part]:
        """The parts of a label; none where it is parsed in the graph."""
        if access.location is Location.EXAMPLE:
            self._example_labels.append(access.name)
        if isinstance(access.field, Sequence) and access.location in (Location.FRAMES, Location.LIST):
            return self._sequence(self._plan.selection.part(access.name), access)
        if isinstance(access.field, Fixed) and access.location is Location.LIST:
            return [self._multi_hot_label(access, access.field.dimensions[0])]
        parts = {Location.TEXT: self._text_label, Location.ROW: self._row_label}
        return parts[access.location](access) if access.location in parts else []

    def _multi_hot_label(self, access: FieldAccess, classes: int) -> _Part:
        """A label whose values, class numbers, are in the index."""

        def hot(table: np.ndarray) -> np.ndarray:
            return multi_hot(access.values, access.starts(table), access.counts(table), classes)

        return _Part(f"y:{access.name}", tf.float32, [None, classes], lambda block: block.split(block.table), hot)

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


def _weights(block: Block) -> list[np.ndarray]:
    return [(np.arange(len(batch.pieces)) < batch.real).astype(np.float32) for batch in block.batches]

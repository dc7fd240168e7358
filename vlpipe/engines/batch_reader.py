"""A batch, copied from memory-mapped shards into arrays, without TensorFlow: for the mapped engine and for `vlpipe.batches`.

One call makes a batch: the schedule names its records, the index says where their frames are, and they are copied once, into a padded
array, or the flat values of sequences of which something is computed before they are padded. Nothing is parsed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vlpipe.engines.buffer_pool import Pool
from vlpipe.engines.mapped_frames import Block, FrameCopier, FrameSpan
from vlpipe.engines.mapped_lists import ListCopier, multi_hot
from vlpipe.engines.mapped_shards import Shards
from vlpipe.engines.parsed_fields import ParsedFields
from vlpipe.engines.screen import Report, Screen
from vlpipe.files.tfrecord import HEADER_BYTES
from vlpipe.planning.damage import Skipped
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.pieces import Pieces
from vlpipe.planning.plan import Plan
from vlpipe.planning.schedule import Batch
from vlpipe.planning.selection import FramePart
from vlpipe.planning.splitmix import CROPS, draws, part_numbers
from vlpipe.storage.field_access import FieldAccess, Location
from vlpipe.storage.schema import Fixed, Sequence
from vlpipe.transforms.audio_features import WaveformFeatures

# Batches that are looked up together. With 128 records a batch, one batch at a time takes 100 us of Python, for which the loop over the
# batches waits as well (the interpreter lock): 40 % more time a batch.
BLOCK_STEPS = 16
MAX_BLOCKS = 8  # kept in memory: two of each active iterator
# Batches that are made ahead of the model; each waits, finished, in its place of the parallel map. Two keep two cores busy only as long as
# no thread waits for the interpreter lock (10 % more time a batch), and a prefetch after the map costs one more thread switch (5 to 10 %).
AHEAD = 4
IN_TRANSIT = 4  # batches between the call that made them and the end of the user's step: delivered, in use, not yet returned to the pool
_INT64, _INT32, _FLOAT32, _OBJECT = (np.dtype(name) for name in ("int64", "int32", "float32", "object"))


def dtype_of(name: str) -> np.dtype:
    """The dtype of arrays with a name that an argument or a schema has; bfloat16 is that of the package ml_dtypes, as TensorFlow's is."""
    if name != "bfloat16":
        return np.dtype(name)
    from ml_dtypes import bfloat16

    return np.dtype(bfloat16)


class _Records:
    """A `Reader` of mapped records."""

    def __init__(self, shards: Shards, rows: np.ndarray) -> None:
        self._shards, self._rows = shards, rows

    def check(self, rows: np.ndarray, report: Report) -> None:
        self._shards.check(rows, self._rows.take(rows), report)

    def data(self, rows: np.ndarray) -> list[bytes]:
        return list(self._shards.records(self._rows.take(rows)))


class Part(NamedTuple):
    """One tensor of a flat batch, made in two steps: inputs for all batches of a block at once, the array when the batch is requested."""

    name: str
    dtype: np.dtype
    shape: list[int | None]
    inputs: Callable[[Block], list[Any]]
    make: Callable[[Any], np.ndarray] | None = None  # None: the inputs are the array, which later calls may return again

    def array(self, inputs: Any) -> np.ndarray:
        """The array of a batch."""
        array: np.ndarray = inputs if self.make is None else self.make(inputs)
        return array


class BatchReader:
    """Reads the batch with a given number, as arrays. Batches are numbered from the first one of epoch 0. Several threads may use it.

    Args:
        skipped: counts the damaged records, which are left out; None: the first one is an error.
        ahead: batches that are made at the same time, or wait to be delivered.

    Attributes:
        parts: of a flat batch, in the order of the arrays.
        parsed: the fields that are parsed of each record. Their values are not among the arrays: these have the records, and the lengths.
        example_labels: further labels that are not among them, because only the Example says where they are.
    """

    def __init__(self, plan: Plan, skipped: Skipped | None = None, *, ahead: int = AHEAD) -> None:
        self._plan, self._index, self._options = plan, plan.index, plan.options
        self._rows = np.asarray(plan.index.rows)  # slices of a memmap, which is a subclass, take ten times as long
        self._shards = Shards(plan.index, plan.options.verify)
        self._screen = None if skipped is None else Screen(plan, skipped, _Records(self._shards, self._rows))
        self._static_rows = plan.static_shape[0]  # rows of a batch, where all have the same number
        # Inputs of a batch may hold any shard open: where not all can be open at once, one batch at a time.
        self._block_size = BLOCK_STEPS if self._shards.can_all_be_open else 1
        self._blocks: dict[tuple[int, int, int], list[tuple[Any, ...]]] = {}
        self._lock = threading.Lock()
        self.parsed = ParsedFields(plan)
        self._key = plan.index.access(plan.selection.key, as_feature=True)
        self.example_labels: list[str] = []
        self._kept, self._pools = ahead + IN_TRANSIT, list[Pool]()
        self.parts = self._all_parts()

    def release(self) -> None:
        """Close files and free memory. An iterator that is still active opens them again."""
        with self._lock:
            self._blocks.clear()
        self._shards.close()
        for pool in self._pools:
            pool.clear()

    def __call__(self, number: int | np.integer | np.ndarray) -> list[np.ndarray]:
        """The arrays of the batch with a number, part by part."""
        epoch, step = divmod(int(number), self._plan.steps_per_epoch)
        self._shards.begin(epoch, first=step == 0)
        block, position = divmod(step, self._block_size)
        batch, rows, table, *inputs = self._inputs(epoch, block)[position]
        if position == BLOCK_STEPS // 2 and (block + 1) * self._block_size < self._plan.steps_per_epoch:
            self._inputs(epoch, block + 1)  # before the calls need it: they would all wait for it
        if self._screen is None:
            self._shards.check(rows, table)
        elif (screened := self._screen(batch, epoch)) is not batch:
            _, _, _, *inputs = self._looked_up(epoch, [screened])[0]
        return [part.array(part_inputs) for part, part_inputs in zip(self.parts, inputs, strict=True)]

    def _inputs(self, epoch: int, block: int) -> list[tuple[Any, ...]]:
        """For each batch of a block: itself, its rows, their entries in the index, and the inputs of its parts."""
        key = (self._shards.changes, epoch, block)
        if (known := self._blocks.get(key)) is not None:
            return known
        with self._lock:  # another call may need the same block
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
        columns = [batches, block.split(planned.rows), block.split(block.table), *(part.inputs(block) for part in self.parts)]
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

    def _all_parts(self) -> list[Part]:
        options, selection = self._options, self._plan.selection
        parts: list[Part] = []
        for name in (*selection.features, *selection.labels):
            if name in self.parsed.lengths:
                parts.append(self._parsed_lengths(name))
            elif name in selection.features:
                parts += self._sequence(selection.part(name), self._index.access(name, as_feature=True))
            else:
                parts += self._label(self._index.access(name))
        if self.parsed:
            parts += self._parsed_pieces()
            parts.append(Part("rows", _INT64, [None], lambda block: block.split(block.planned.rows)))
        if self.example_labels or self.parsed:
            parts.append(Part("records", _OBJECT, [None], lambda block: block.split(block.table), self._shards.records))
        if options.needs_ids or self._plan.frame_plan.has_transforms:
            parts.append(Part("id", _INT64, [None], lambda block: block.split(block.ids)))
        if options.augment is not None:
            parts.append(Part("number", _INT64, [None], lambda block: block.split(block.planned.numbers(block.ids, part_numbers))))
        if options.speed is not None:
            parts.append(Part("speed", _INT64, [None], lambda block: block.split(block.planned.copies % options.speeds)))
        if options.remainder == "pad":
            parts.append(Part("weight", _FLOAT32, [None], _weights))
        if options.ids and options.windows is not None:
            parts.append(Part("start", _INT64, [None], lambda block: block.split(block.pieces.firsts)))
        if (self._plan.frame_plan.has_transforms or self.parsed.labels) and self._plan.has_least_frames:
            parts.append(Part("bucket", _INT64, [], lambda block: [np.asarray(batch.bucket) for batch in block.batches]))
        return parts

    def _parsed_lengths(self, name: str) -> Part:
        """The frames that the index has for a sequence that is parsed in the graph."""
        access = self.parsed.lengths[name]
        return Part(f"frames:{name}", _INT64, [None], lambda block: block.split(access.counts(block.table)))

    def _parsed_pieces(self) -> list[Part]:
        """Which frames are kept of a sequence that is parsed in the graph."""
        parts = [Part("counts", _INT64, [None], lambda block: block.split(block.pieces.counts))]
        if self._plan.frame_plan.frame_range.is_random:
            parts.append(Part("firsts", _INT64, [None], lambda block: block.split(block.pieces.firsts)))
        return parts

    def _sequence(self, part: FramePart, access: FieldAccess) -> list[Part]:
        """A feature, or a label of varying length."""
        plan, options, name = self._plan, self._options, part.flat
        dtype = dtype_of(plan.frame_plan.reading_dtype(part.name))
        # Frames that are transformed in the graph are padded after that.
        unpadded = part in plan.selection.frame_parts and (options.batching == "ragged" or plan.frame_plan.has_transforms)
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

        waveform = plan.frame_plan.waveform(part.name)
        if waveform is not None and plan.frame_plan.keeps_samples(part.name) and isinstance(copy, FrameCopier) and copy.is_copy:
            return self._in_blocks(name, waveform, span, copy)
        if unpadded:
            parts = [
                Part(name, dtype, [None, *dimensions], lambda block: copy.flat(block, span.counts(block)), copy),
                self._splits(name, span.counts),
            ]
        else:
            parts = [Part(name, dtype, [None, None, *dimensions], padded_jobs, copy)]
        needed = options.lengths if part.is_feature else options.label_lengths
        return parts + self._lengths(f"n:{name}", span.counts, needed or plan.has_infinite_padding(name))

    def _in_blocks(self, name: str, waveform: WaveformFeatures, span: FrameSpan, copy: FrameCopier) -> list[Part]:
        """A waveform, padded to whole blocks as its audio features need it; in TensorFlow that takes a tenth of their time, or more."""
        hop = waveform.features.hop

        def jobs(block: Block) -> list[Any]:
            samples = span.counts(block)
            return copy.in_blocks(block, samples, waveform.missing(samples), hop)

        def counts(block: Block) -> np.ndarray:
            samples = span.counts(block)
            return (samples + waveform.missing(samples)) // hop

        name = f"blocks:{name}"
        return [Part(name, copy.dtype, [None, hop], jobs, copy), self._splits(name, counts)]

    def _splits(self, name: str, counts: Callable[[Block], np.ndarray]) -> Part:
        """Where the rows of a ragged part begin and end."""
        static_splits = self._static_rows and self._static_rows + 1
        return Part(f"splits:{name}", _INT64, [static_splits], lambda block: [np.r_[0, np.cumsum(n)] for n in block.split(counts(block))])

    def _copier(self, part: FramePart, span: FrameSpan, dtype: np.dtype, padding: float) -> FrameCopier | ListCopier:
        if span.access.location is Location.LIST:
            return ListCopier(span, padding)
        pool = Pool(0, 0)
        if part.is_feature:
            pool = Pool(self._plan.memory.peak_bytes_read(part.name), self._kept)
            self._pools.append(pool)
        return FrameCopier(span, dtype, padding, self._shards, pool)

    def _lengths(self, name: str, counts: Callable[[Block], np.ndarray], needed: bool) -> list[Part]:
        """The true lengths, where they are needed."""
        part = Part(name, _INT32, [None], lambda block: block.split(counts(block).astype(np.int32)))
        return [part] if needed else []

    def _label(self, access: FieldAccess) -> list[Part]:
        """The parts of a label; none where it is parsed in the graph."""
        if access.location is Location.EXAMPLE:
            self.example_labels.append(access.name)
        if isinstance(access.field, Sequence) and access.location in (Location.FRAMES, Location.LIST):
            return self._sequence(self._plan.selection.part(access.name), access)
        if isinstance(access.field, Fixed) and access.location is Location.LIST:
            return [self._multi_hot_label(access, access.field.dimensions[0])]
        parts = {Location.TEXT: self._text_label, Location.ROW: self._row_label}
        return parts[access.location](access) if access.location in parts else []

    def _multi_hot_label(self, access: FieldAccess, classes: int) -> Part:
        """A label whose values, class numbers, are in the index."""

        def hot(table: np.ndarray) -> np.ndarray:
            return multi_hot(access.values, access.starts(table), access.counts(table), classes)

        return Part(f"y:{access.name}", _FLOAT32, [None, classes], lambda block: block.split(block.table), hot)

    def _text_label(self, access: FieldAccess) -> list[Part]:
        """A text whose bytes the index locates."""

        def texts(table: np.ndarray) -> np.ndarray:
            begins = table["offset"].astype(np.int64) + HEADER_BYTES + access.starts(table)
            return self._shards.texts(table["shard"], begins, access.counts(table))

        return [Part(f"y:{access.name}", _OBJECT, [None], lambda block: block.split(block.table), texts)]

    def _row_label(self, access: FieldAccess) -> list[Part]:
        """A label that is in the rows of the index."""
        shape: list[int | None] = [None, *access.field.dimensions] if isinstance(access.field, Fixed) else [None]
        return [Part(f"y:{access.name}", access.dtype, shape, lambda block: block.split(access.row_values(block.table)))]


def _weights(block: Block) -> list[np.ndarray]:
    return [(np.arange(len(batch.pieces)) < batch.real).astype(np.float32) for batch in block.batches]

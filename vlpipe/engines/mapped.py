"""The mapped engine: a batch is copied from memory-mapped shards straight to where TensorFlow will read it.

One Python call makes a batch: the schedule names its records, the index where their frames stand, and they are copied, once, into a
padded array (or the flat values of a ragged one) that TensorFlow takes over as it is. Nothing is parsed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vlpipe.engines.apply_transforms import transform_batch
from vlpipe.engines.buffer_pool import Pool
from vlpipe.engines.grouping import Flat
from vlpipe.engines.labels import multi_hot, padded
from vlpipe.engines.mapped_frames import _Block, _Copier, _Copy, _Span
from vlpipe.engines.mapped_shards import Shards
from vlpipe.engines.parse import Parser
from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.files.tfrecord import HEADER_BYTES
from vlpipe.planning.plan import Plan
from vlpipe.storage.example import parse_batch
from vlpipe.storage.index import Index, column
from vlpipe.storage.schema import Fixed, Sequence, Text

# Batches that are prepared together. With 128 records a batch, looking them up one batch at a time takes 100 us of Python, for which the
# loop over the batches waits as well (the interpreter lock): 40 % more time a batch.
BLOCK_STEPS = 16
BLOCKS_KEPT = 4  # more than one iterator may be under way
# Batches that are made ahead of the model; each waits, ready, in its place of the parallel map. Two keep two cores busy only while nobody
# waits for the interpreter lock (10 % more time a batch), and a prefetch behind the map costs one more change of threads (5 to 10 %).
AHEAD = 4
IN_TRANSIT = 4  # batches between the call that made them and the end of the user's step: delivered, in use, not yet taken back


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
    made = places.map(
        untouched(lambda place: deliver(fetch.in_graph(place))),
        num_parallel_calls=_parallelism(plan),
        deterministic=True,
    )
    # TensorFlow keeps the function of a numpy_function for ever, and with it what it holds: with every dataset some files and batches.
    weakref.finalize(made, fetch.rest).atexit = False
    return made


def _parallelism(plan: Plan) -> int:
    return plan.options.num_parallel_calls or AHEAD


class _Part(NamedTuple):
    """One tensor of a flat batch: prepared for each batch of a block, and made of that when the batch is asked for."""

    name: str
    dtype: tf.DType
    shape: list[int | None]
    prepare: Callable[[_Block], list[Any]]
    make: Callable[[Any], np.ndarray] = lambda prepared: prepared


class _Fetch:
    """The batch at a place of a run, as arrays and as tensors."""

    def __init__(self, index: Index, plan: Plan) -> None:
        self._index, self._plan, self._options = index, plan, plan.options
        self._rows = np.asarray(index.rows)  # a memmap is a subclass, whose every slice takes ten times as long
        self._shards = Shards(index, plan.options.verify)
        self._keep = _parallelism(plan) + IN_TRANSIT
        self._count = plan.static_shape[0]  # rows of a batch, where all have as many
        # A part of a prepared batch may hold any shard: where not all fit, one batch at a time.
        self._block_size = BLOCK_STEPS if self._shards.fit else 1
        self._recent: dict[tuple[int, int, int], list[tuple[Any, ...]]] = {}
        self._lock = threading.Lock()
        self._parser = Parser(index, plan)
        self._parsed: list[str] = []
        self._pools: list[Pool] = []
        self._parts = self._all_parts()

    def rest(self) -> None:
        """Let go of files and memory. What still iterates, if anything does, takes them up again."""
        with self._lock:
            self._recent.clear()
        self._shards.close()
        for pool in self._pools:
            pool.clear()

    def in_graph(self, place: tf.Tensor) -> Flat:
        """The batch at a place: its number, counted from the first batch of epoch 0."""
        # Stateless: the same place always gives the same batch.
        tensors = tf.numpy_function(wait_at_exit(self), [place], [part.dtype for part in self._parts], stateful=False)
        batch = {}
        for part, tensor in zip(self._parts, tensors, strict=True):
            tensor.set_shape(part.shape)
            batch[part.name] = tensor
        epoch = place // self._plan.steps_per_epoch
        data = batch.pop("records", None)
        if self._parsed:
            values = parse_batch(self._index.schema, self._parsed, data)
            batch |= {f"y:{name}": value for name, value in values.items()}
        if self._parser:
            frames = {name: batch.pop(f"frames:{name}") for name in self._parser.features}
            batch |= self._parser(data, batch.pop("rows"), frames, batch["id"], epoch)
        for name in [name for name in batch if name.startswith("splits:")]:
            values = batch[name.removeprefix("splits:")]
            batch[name.removeprefix("splits:")] = tf.RaggedTensor.from_row_splits(values, batch.pop(name), validate=False)
        return transform_batch(self._plan, {**batch, "epoch": epoch}) if self._plan.has_transforms else batch

    def __call__(self, place: np.ndarray) -> list[np.ndarray]:
        epoch, step = divmod(int(place), self._plan.steps_per_epoch)
        self._shards.begin(epoch, first=step == 0)
        block, position = divmod(step, self._block_size)
        rows, table, *prepared = self._prepared(epoch, block)[position]
        self._shards.check(rows, table)
        return [part.make(of_part) for part, of_part in zip(self._parts, prepared, strict=True)]

    def _prepared(self, epoch: int, block: int) -> list[tuple[Any, ...]]:
        """Of each batch of a block: its rows, what the index knows of them, and what its parts are made of."""
        key = (self._shards.changes, epoch, block)
        with self._lock:  # whoever makes the next batch needs the same
            if key not in self._recent:
                while len(self._recent) >= BLOCKS_KEPT:
                    del self._recent[next(iter(self._recent))]
                self._recent[key] = self._prepare(epoch, block * self._block_size)
            return self._recent[key]

    def _prepare(self, epoch: int, first: int) -> list[tuple[Any, ...]]:
        schedule = self._plan.schedule
        batches = [schedule.batch(epoch, step) for step in range(first, min(first + self._block_size, self._plan.steps_per_epoch))]
        rows = self._plan.rows[np.concatenate([batch.records for batch in batches])]
        block = _Block(epoch, batches, np.cumsum([len(batch.records) for batch in batches]), rows, self._rows.take(rows))
        columns = [block.split(block.rows), block.split(block.table), *(part.prepare(block) for part in self._parts)]
        return list(zip(*columns, strict=True))

    def _all_parts(self) -> list[_Part]:
        options, selection, schema = self._options, self._plan.selection, self._index.schema
        parts: list[_Part] = []
        for name in selection.features:
            parts += self._counts(name) if name in self._parser.features else self._feature(name, schema.sequences[name])
        for name in selection.labels:
            field = schema.fields[name]
            if name in self._parser.labels:
                continue
            if name in self._index.lists:
                parts += self._listed(name, field)
            elif self._index.foreign is not None and isinstance(field, Text):
                parts.append(self._text(name))
            elif isinstance(field, Sequence):
                parts += self._list(name, field)
            elif self._index.is_inline(name):
                parts.append(_inline(name, field))  # type: ignore[arg-type]
            else:
                self._parsed.append(name)
        if self._parser:
            parts.append(_Part("rows", tf.int64, [None], lambda block: block.split(block.rows)))
        if self._parsed or self._parser:
            parts.append(_Part("records", tf.string, [None], lambda block: block.split(block.table), self._shards.records))
        if options.ids or self._plan.has_transforms or self._parser:
            parts.append(_Part("id", tf.int64, [None], lambda block: block.split(np.asarray(self._index.ids[block.rows]))))
        if options.remainder == "pad":
            parts.append(_Part("weight", tf.float32, [None], _weights))
        if self._plan.has_transforms and options.pad_to == "boundary":
            parts.append(_Part("bucket", tf.int64, [], lambda block: [np.asarray(batch.bucket) for batch in block.batches]))
        return parts

    def _counts(self, name: str) -> list[_Part]:
        """How many frames the index says that a feature has which is parsed in the graph."""
        key = column(self._index.schema, "frames", name)
        return [_Part(f"frames:{name}", tf.int64, [None], lambda block: block.split(block.table[key].astype(np.int64)))]

    def _feature(self, name: str, field: Sequence) -> list[_Part]:
        dtype = tf.as_dtype(self._plan.reading_dtype(name))
        pool = Pool(self._plan.peak_bytes_read(name), self._keep)
        self._pools.append(pool)
        key = name == self._plan.selection.key
        span = _Span(self._index, name, self._options, limited=key)
        # Where the frames are changed first, they are padded after that.
        unpadded = self._options.batching == "ragged" or self._plan.has_transforms
        padding = 0 if unpadded else self._options.padding_value
        copy = _Copier(self._index, span, dtype.as_numpy_dtype, padding, self._shards, pool)
        dims = list(field.dimensions)
        upper = np.asarray(self._plan.boundaries, np.int64) if key and self._options.pad_to == "boundary" else None

        def rooms(block: _Block, counts: np.ndarray) -> np.ndarray:
            return block.longest(counts) if upper is None else upper[[batch.bucket for batch in block.batches]]

        def padded(block: _Block) -> list[_Copy]:
            counts = span.counts(block)
            return copy.padded(block, counts, rooms(block, counts))

        lengths = _Part(f"n:x:{name}", tf.int32, [None], lambda block: block.split(span.counts(block).astype(np.int32)))
        if unpadded:
            splits = [self._count and self._count + 1]
            found = [
                _Part(f"x:{name}", dtype, [None, *dims], lambda block: copy.flat(block, span.counts(block)), copy),
                _Part(
                    f"splits:x:{name}", tf.int64, splits, lambda block: [np.r_[0, np.cumsum(of)] for of in block.split(span.counts(block))]
                ),
            ]
        else:
            found = [_Part(f"x:{name}", dtype, [None, None, *dims], padded, copy)]
        return [*found, lengths] if self._options.lengths else found

    def _list(self, name: str, field: Sequence) -> list[_Part]:
        """A label of varying length: integers as int64, as CTC wants them."""
        dtype = tf.int64 if np.dtype(field.dtype).kind in "iu" else tf.as_dtype(field.dtype)
        span = _Span(self._index, name, self._options, limited=False)
        copy = _Copier(self._index, span, dtype.as_numpy_dtype, self._options.label_padding, self._shards, Pool(0, 0))

        def padded(block: _Block) -> list[_Copy]:
            counts = span.counts(block)
            return copy.padded(block, counts, block.longest(counts))

        lengths = _Part(f"n:y:{name}", tf.int32, [None], lambda block: block.split(span.counts(block).astype(np.int32)))
        return [_Part(f"y:{name}", dtype, [None, None, *field.dimensions], padded, copy)] + [lengths] * self._options.lengths

    def _listed(self, name: str, field: Any) -> list[_Part]:
        """A label whose values stand in the index, each record's one after another."""
        values, padding = self._index.lists[name], self._options.label_padding

        def places(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return table[f"start:{name}"].astype(np.int64), table[f"frames:{name}"].astype(np.int64)

        def prepare(block: _Block) -> list[np.ndarray]:
            return block.split(block.table)

        if isinstance(field, Fixed):
            classes = field.dimensions[0]
            return [_Part(f"y:{name}", tf.float32, [None, classes], prepare, lambda table: multi_hot(values, *places(table), classes))]
        lengths = _Part(f"n:y:{name}", tf.int32, [None], lambda block: block.split(block.table[f"frames:{name}"].astype(np.int32)))
        lists = _Part(f"y:{name}", tf.int64, [None, None], prepare, lambda table: padded(values, *places(table), padding))
        return [lists] + [lengths] * self._options.lengths

    def _text(self, name: str) -> _Part:
        """A text of which the index knows the place."""

        def make(table: np.ndarray) -> np.ndarray:
            begins = table["offset"].astype(np.int64) + HEADER_BYTES + table[f"start:{name}"]
            return self._shards.texts(table["shard"], begins, table[f"frames:{name}"].astype(np.int64))

        return _Part(f"y:{name}", tf.string, [None], lambda block: block.split(block.table), make)


def _inline(name: str, field: Fixed) -> _Part:
    """A label that stands in the index."""
    dtype = np.dtype(field.dtype)
    return _Part(
        f"y:{name}",
        tf.as_dtype(dtype),
        [None, *field.dimensions],
        lambda block: block.split(np.ascontiguousarray(block.table[f"value:{name}"], dtype)),
    )


def _weights(block: _Block) -> list[np.ndarray]:
    return [(np.arange(len(batch.records)) < batch.real).astype(np.float32) for batch in block.batches]

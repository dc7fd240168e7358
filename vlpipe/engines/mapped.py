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

from vlpipe.engines.apply_transforms import prepared_batch
from vlpipe.engines.buffer_pool import Pool
from vlpipe.engines.grouping import Flat
from vlpipe.engines.labels import multi_hot, padded
from vlpipe.engines.mapped_shards import Padding, Pieces, Shards
from vlpipe.engines.parse import Parser
from vlpipe.engines.python_calls import outlived
from vlpipe.files.tfrecord import HEADER_BYTES
from vlpipe.planning.make_plan import Plan
from vlpipe.planning.options import Options
from vlpipe.planning.schedule import CROPS, Batch, draws
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
        tensors = tf.numpy_function(outlived(self), [place], [part.dtype for part in self._parts], stateful=False)
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
        return prepared_batch(self._plan, {**batch, "epoch": epoch}) if self._plan.prepares else batch

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
        if options.ids or self._plan.prepares or self._parser:
            parts.append(_Part("id", tf.int64, [None], lambda block: block.split(np.asarray(self._index.ids[block.rows]))))
        if options.remainder == "pad":
            parts.append(_Part("weight", tf.float32, [None], _weights))
        if self._plan.prepares and options.pad_to == "boundary":
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
        unpadded = self._options.batching == "ragged" or self._plan.prepares
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

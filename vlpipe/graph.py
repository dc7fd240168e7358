"""The graph engine: the same epochs as the mapped engine's, read by TensorFlow's own ops, for whatever must be a pure graph.

The order is computed in the graph, once an epoch, by the integers of `schedule`. A batch is one call: each of its records is read by
`TFRecordDatasetV2` from its byte offset on, which tests its checksum; then the frames of all are cut out and decoded together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe import hashing, schedule
from vlpipe.batching import Flat
from vlpipe.hashing import uint64
from vlpipe.index import Index, Stored, column
from vlpipe.listed import multi_hot_in_graph, padded_in_graph, unpacked
from vlpipe.options import default_parallelism
from vlpipe.planning import Plan
from vlpipe.preparation import cropped_from, prepared_batch
from vlpipe.record import parse_batch, require
from vlpipe.schedule import Schedule
from vlpipe.schema import Fixed, Sequence, Text

_SAME_WIDTH = {"float16": "uint16"}  # decode_raw to a fixed length has no kernel for it
_DAMAGED = "The file is damaged, or was changed or replaced after it was written: restore it from a copy, or write the dataset again."


def batches(index: Index, plan: Plan, epochs: tf.data.Dataset, deliver: Callable[[Flat], Any]) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: pairs of int64: the number of an epoch, and its first batch: 0, or beyond the last where there shall be none.
        deliver: makes of a flat batch what the user gets.
    """
    if plan.options.verify != "never" and index.is_local:
        index.check_ends()
    untouched = tf.autograph.experimental.do_not_convert
    order = _Order(plan.schedule)
    with tf.device("CPU:0"):  # even where there is a GPU: tf.data runs there
        reader = _Reader(index, plan)
    places = epochs.flat_map(untouched(order.steps))
    return places.map(
        untouched(lambda *place: deliver(reader.read(*place))),
        num_parallel_calls=default_parallelism(plan.options, per_core=2),  # each waits for its reads, one after the other
        deterministic=True,
    )


class _Order:
    """`Schedule` in the graph: the same integers from the same arithmetic."""

    def __init__(self, plan: Schedule) -> None:
        self._schedule = plan
        with tf.device("CPU:0"):
            self._buckets = tf.constant(plan.bucket_of.astype(np.int64))
            self._starts, self._counts, self._sizes, self._bucket_of = (tf.constant(column) for column in plan.cuts)

    def steps(self, epoch: tf.Tensor, first: tf.Tensor) -> tf.data.Dataset:
        """What each batch of an epoch holds, from the first on: records `[B]`, how many of them count, bucket; and the epoch."""
        nothing = tf.zeros([0], tf.int64)
        records, cuts = tf.cond(first < self._schedule.steps, lambda: self._orders(epoch), lambda: (nothing, nothing))
        return tf.data.Dataset.from_tensor_slices(cuts[first:]).map(
            tf.autograph.experimental.do_not_convert(lambda cut: (*self._batch(records, cut), epoch))
        )

    def _orders(self, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        plan = self._schedule
        if plan.seed is None:
            return tf.constant(plan.records_in_order(0)), tf.constant(plan.batches_in_order(0))
        left, right, either = tf.bitwise.left_shift, tf.bitwise.right_shift, tf.bitwise.bitwise_or
        packed = right(self._hashes(epoch, schedule.RECORDS, len(plan.bucket_of)), uint64(64 - plan.hash_bits))
        packed = either(packed, left(tf.cast(self._buckets, tf.uint64), uint64(plan.hash_bits)))
        packed = either(left(packed, uint64(plan.index_bits)), tf.cast(tf.range(len(plan.bucket_of), dtype=tf.int64), tf.uint64))
        records = tf.bitwise.bitwise_and(tf.sort(tf.bitcast(packed, tf.int64)), (1 << plan.index_bits) - 1)
        cuts = tf.argsort(tf.bitcast(self._hashes(epoch, schedule.BATCHES, plan.steps), tf.int64), stable=True)
        return records, tf.cast(cuts, tf.int64)

    def _hashes(self, epoch: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
        """`schedule.hashes`."""
        return hashing.hashes(self._schedule.seed or 0, epoch, uint64(purpose), tf.range(count, dtype=tf.int64))

    def _batch(self, records: tf.Tensor, cut: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        rank, world = self._schedule.shard
        start, count, rows = self._starts[cut], self._counts[cut], self._sizes[cut] // world
        first, end = rank * rows, (rank + 1) * rows
        places = tf.range(first, end) % count if self._schedule.complete else tf.range(first, tf.minimum(end, count))
        return tf.gather(records, start + places), tf.clip_by_value(count - first, 0, rows), self._bucket_of[cut]


def _records_from(paths: tf.Tensor, offsets: tf.Tensor) -> tf.data.Dataset:
    """The serialized records of files, each from a byte offset on."""
    # buffer_size=0: no more is read than the records that are asked for.
    variant = tf.raw_ops.TFRecordDatasetV2(filenames=paths, compression_type="", buffer_size=tf.constant(0, tf.int64), byte_offsets=offsets)
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


def _foreign_values(raw: tf.Tensor, field: Sequence, stored: Stored, dtype: tf.DType) -> tf.Tensor:
    """The frames `[..., *field.dimensions]` as delivered, of their bytes, uint8 `[..., gap + bytes of a frame]`."""
    values = unpacked(raw, field.dtype, stored.byteorder, stored.gap)
    values = tf.reshape(values, tf.concat([tf.shape(raw)[:-1], field.dimensions], 0)) if len(field.dimensions) != 1 else values
    table = stored.table(dtype.as_numpy_dtype)
    return tf.cast(values, dtype) if table is None else tf.gather(tf.constant(table), tf.cast(values, tf.int32))


class _Reader:
    """Reads the records of a batch and makes the flat batch of them."""

    def __init__(self, index: Index, plan: Plan) -> None:
        self._index, self._plan, self._options = index, plan, plan.options
        rows = index.rows[plan.rows]
        self._rows = tf.constant(plan.rows)
        self._shard, self._offset, self._bytes = (tf.constant(rows[name].astype(np.int64)) for name in ("shard", "offset", "bytes"))
        self._ids = tf.constant(index.ids[plan.rows])
        self._paths = tf.constant([shard.path for shard in index.shards])
        self._sizes = tf.constant([shard.bytes for shard in index.shards], tf.int64)
        self._names = tf.constant([shard.name for shard in index.shards])
        selection, schema = plan.selection, index.schema
        sequences = [name for name in (*selection.features, *selection.labels) if isinstance(schema.fields[name], Sequence)]
        self._frames = {name: tf.constant(rows[column(schema, "frames", name)].astype(np.int64)) for name in sequences}
        self._starts = {name: tf.constant(rows[column(schema, "start", name)].astype(np.int64)) for name in sequences}
        inline = [name for name in selection.labels if f"value:{name}" in (rows.dtype.names or ())]
        self._values = {name: tf.constant(rows[f"value:{name}"].astype(np.dtype(schema.fields[name].dtype))) for name in inline}  # type: ignore[union-attr]
        self._boundaries = tf.constant(plan.boundaries or (0,), tf.int64)
        placed = [name for name in selection.labels if name in index.lists or (index.foreign and isinstance(schema.fields[name], Text))]
        self._placed = {name: [tf.constant(rows[f"{what}:{name}"].astype(np.int64)) for what in ("start", "frames")] for name in placed}
        self._lists = {name: tf.constant(values) for name, values in index.lists.items() if name in placed}

    def read(self, records: tf.Tensor, real: tf.Tensor, bucket: tf.Tensor, epoch: tf.Tensor) -> Flat:
        """The flat batch of the records, which are positions among those of the plan."""
        records.set_shape([self._plan.static_shape[0]])
        data = self._serialized(records)
        selection, schema, options = self._plan.selection, self._index.schema, self._options
        flat: Flat = {}
        for name in selection.features:
            flat |= self._feature(name, schema.sequences[name], data, records, bucket, epoch)
        names = [name for name in selection.labels if self._is_parsed(name)]
        parsed = parse_batch(schema, names, data) if names else {}
        for name in selection.labels:
            field = schema.fields[name]
            if name in self._placed:
                flat |= self._foreign_label(name, data, records)
            elif isinstance(field, Sequence):
                frames = tf.gather(self._frames[name], records)
                dtype = tf.int64 if np.dtype(field.dtype).kind in "iu" else tf.as_dtype(field.dtype)
                room = tf.reduce_max(frames)
                payloads = self._payloads(name, field, data, records, frames)
                flat[f"y:{name}"] = _padded(payloads, field, self._index.stored(name), frames, room, dtype, options.label_padding)
                flat[f"n:y:{name}"] = tf.cast(frames, tf.int32)
            else:
                flat[f"y:{name}"] = parsed[name] if name in parsed else tf.gather(self._values[name], records)
        if options.ids or options.prepares:
            flat["id"] = tf.gather(self._ids, records)
        if options.remainder == "pad":
            flat["weight"] = tf.cast(tf.range(tf.size(records, tf.int64)) < real, tf.float32)
        if options.prepares:
            return prepared_batch(self._plan, {**flat, "epoch": epoch, "bucket": bucket})
        return flat

    def _is_parsed(self, name: str) -> bool:
        return name not in self._values and name not in self._placed and not isinstance(self._index.schema.fields[name], Sequence)

    def _foreign_label(self, name: str, data: tf.Tensor, records: tf.Tensor) -> Flat:
        """A label that the index holds, or a text of which it knows the place."""
        starts, counts = (tf.gather(column, records) for column in self._placed[name])
        field = self._index.schema.fields[name]
        if name not in self._lists:
            return {f"y:{name}": tf.strings.substr(data, starts, counts)}
        if isinstance(field, Fixed):
            return {f"y:{name}": multi_hot_in_graph(self._lists[name], starts, counts, field.dimensions[0])}
        values = padded_in_graph(self._lists[name], starts, counts, self._options.label_padding)
        return {f"y:{name}": values, f"n:y:{name}": tf.cast(counts, tf.int32)}

    def _feature(self, name: str, field: Sequence, data: tf.Tensor, records: tf.Tensor, bucket: tf.Tensor, epoch: tf.Tensor) -> Flat:
        options = self._options
        key = name == self._plan.selection.key
        frames, first = tf.gather(self._frames[name], records), None
        if key and options.truncation is not None:
            frames = tf.minimum(frames, options.truncation)
        if key and options.crop is not None:
            uncropped, frames = frames, tf.minimum(frames, options.crop.frames)
            first = cropped_from(options, uncropped - frames, tf.gather(self._ids, records), epoch)
        payloads = self._payloads(name, field, data, records, frames, first)
        lengths = {f"n:x:{name}": tf.cast(frames, tf.int32)}
        dtype, stored = tf.as_dtype(self._plan.reading_dtype(name)), self._index.stored(name)
        if options.batching == "ragged" or options.prepares:
            payload = tf.strings.reduce_join(payloads)
            if stored == Stored():
                values = tf.cast(tf.reshape(tf.io.decode_raw(payload, field.dtype), [-1, *field.dimensions]), dtype)
            else:
                raw = tf.reshape(tf.io.decode_raw(payload, tf.uint8), [-1, stored.gap + field.frame_bytes])
                values = _foreign_values(raw, field, stored, dtype)
            return {f"x:{name}": tf.RaggedTensor.from_row_lengths(values, frames, validate=False), **lengths}
        room = self._boundaries[bucket] if key and options.pad_to == "boundary" else tf.reduce_max(frames)
        return {f"x:{name}": _padded(payloads, field, stored, frames, room, dtype, options.padding_value), **lengths}

    def _payloads(
        self, name: str, field: Sequence, data: tf.Tensor, records: tf.Tensor, frames: tf.Tensor, first: tf.Tensor | None = None
    ) -> tf.Tensor:
        """string `[B]`: the bytes of so many frames of each record, from the first on, and what stands before each frame."""
        gap = self._index.stored(name).gap
        starts = tf.gather(self._starts[name], records)
        if first is not None:
            starts += first * (gap + field.frame_bytes)
        if gap:  # a record without frames begins nowhere
            starts = tf.maximum(starts - gap, 0)
        return tf.strings.substr(data, starts, frames * (gap + field.frame_bytes))

    def _serialized(self, records: tf.Tensor) -> tf.Tensor:
        """string `[B]`: the records, each tested by its own checksum."""
        shards, offsets = tf.gather(self._shard, records), tf.gather(self._offset, records)
        used, _ = tf.unique(shards)
        # Each file from the end on that the index knows: brings nothing, or there is more in it now.
        beyond = _records_from(tf.gather(self._paths, used), tf.gather(self._sizes, used))
        untouched = tf.autograph.experimental.do_not_convert
        places = tf.data.Dataset.from_tensor_slices((tf.gather(self._paths, shards), offsets))
        read = places.interleave(untouched(lambda path, offset: _records_from(path[None], offset[None]).take(1)), cycle_length=1)
        count = tf.size(records, tf.int64)
        # All in one call of a map, in which an error costs that call. A reader's own errors come for ever where its file cannot be opened.
        attempt = tf.data.Dataset.from_tensors(0).map(
            untouched(lambda _: beyond.concatenate(read).batch(2 * count + 1).get_single_element())
        )
        nothing = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string))
        data = attempt.ignore_errors().concatenate(nothing).take(1).get_single_element()

        def message() -> tf.Tensor:
            return tf.strings.join([self._where(records[self._first_unread(records)]), ": cannot be read. ", _DAMAGED])

        with tf.control_dependencies([require(tf.size(data, tf.int64) == count, message)]):
            data = tf.identity(data)
        same = tf.strings.length(data) == tf.cast(tf.gather(self._bytes, records), tf.int32)

        def changed() -> tf.Tensor:
            which = records[tf.argmin(tf.cast(same, tf.int32))]
            return tf.strings.join([self._where(which), ": is not the record that the index knows. ", _DAMAGED])

        with tf.control_dependencies([require(tf.reduce_all(same), changed)]):
            return tf.identity(data)

    def _first_unread(self, records: tf.Tensor) -> tf.Tensor:
        """The place of the first record that cannot be read: TensorFlow's own errors name neither file nor record."""

        def one(place: tf.Tensor) -> tf.Tensor:
            record = records[place]
            data = _records_from(self._paths[self._shard[record]][None], self._offset[record][None]).take(1).get_single_element()
            with tf.control_dependencies([data]):
                return tf.identity(place)

        count = tf.size(records, tf.int64)
        readable = tf.data.Dataset.range(count).map(tf.autograph.experimental.do_not_convert(one)).ignore_errors()
        places = readable.concatenate(tf.data.Dataset.from_tensors(count)).batch(count + 1).get_single_element()
        return tf.math.count_nonzero(places == tf.range(tf.size(places, tf.int64))) % count

    def _where(self, record: tf.Tensor) -> tf.Tensor:
        """Names a record as `Index.where` does."""
        shard, offset = self._shard[record], self._offset[record]
        # Among those of the plan, as the index has no others in a graph.
        number = tf.math.count_nonzero((self._shard == shard) & (self._offset < offset))
        return tf.strings.join([self._names[shard], ", record ", tf.strings.as_string(number), " at byte ", tf.strings.as_string(offset)])


def _padded(
    payloads: tf.Tensor, field: Sequence, stored: Stored, frames: tf.Tensor, room: tf.Tensor, dtype: tf.DType, padding: float
) -> tf.Tensor:
    """The frames whose bytes these are, `[B, room, ...]`."""
    # It pads with zeros, and knows no rows without a byte.
    size = tf.cast(tf.maximum(room, 1) * (stored.gap + field.frame_bytes), tf.int32)
    if stored == Stored():
        values = tf.io.decode_raw(payloads, _SAME_WIDTH.get(field.dtype, field.dtype), fixed_length=size)
        values = tf.reshape(values, [tf.size(payloads), -1, *field.dimensions])[:, :room]
        values = tf.cast(tf.bitcast(values, field.dtype), dtype)
    else:
        raw = tf.io.decode_raw(payloads, tf.uint8, fixed_length=size)
        raw = tf.reshape(raw, [tf.size(payloads), -1, stored.gap + field.frame_bytes])[:, :room]
        values = _foreign_values(raw, field, stored, dtype)
    if padding != 0 or np.signbit(padding) or stored.scale is not None:
        inside = tf.sequence_mask(frames, room)[(...,) + (None,) * len(field.dimensions)]
        values = tf.where(inside, values, tf.cast(tf.constant(padding, tf.float64 if isinstance(padding, float) else tf.int64), dtype))
    return tf.ensure_shape(values, [None, None, *field.dimensions])

"""The graph engine: the same epochs as the mapped engine's, read by TensorFlow's own ops, for whatever must be a pure graph.

The order is computed in the graph, once an epoch, by the integers of `schedule`. A batch is one call: each of its records is read by
`TFRecordDatasetV2` from its byte offset on, which tests its checksum; then the frames of all are cut out and decoded together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines import splitmix_graph
from vlpipe.engines.apply_transforms import transform_batch
from vlpipe.engines.decode import BatchDecoder
from vlpipe.engines.grouping import Flat
from vlpipe.engines.splitmix_graph import uint64
from vlpipe.planning import splitmix
from vlpipe.planning.options import default_parallelism
from vlpipe.planning.plan import Plan
from vlpipe.planning.schedule import Schedule
from vlpipe.sources.records import check_ends
from vlpipe.storage.example import require
from vlpipe.storage.index import Index

_DAMAGED = "The file is damaged, or was changed or replaced after it was written: restore it from a copy, or write the dataset again."


def batches(index: Index, plan: Plan, epochs: tf.data.Dataset, deliver: Callable[[Flat], Any]) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: pairs of int64: the number of an epoch, and its first batch: 0, or beyond the last where there shall be none.
        deliver: makes of a flat batch what the user gets.
    """
    if plan.options.verify != "never" and index.is_local:
        check_ends(index)
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
        packed = right(self._hashes(epoch, splitmix.RECORDS, len(plan.bucket_of)), uint64(64 - plan.hash_bits))
        packed = either(packed, left(tf.cast(self._buckets, tf.uint64), uint64(plan.hash_bits)))
        packed = either(left(packed, uint64(plan.index_bits)), tf.cast(tf.range(len(plan.bucket_of), dtype=tf.int64), tf.uint64))
        records = tf.bitwise.bitwise_and(tf.sort(tf.bitcast(packed, tf.int64)), (1 << plan.index_bits) - 1)
        cuts = tf.argsort(tf.bitcast(self._hashes(epoch, splitmix.BATCHES, plan.steps), tf.int64), stable=True)
        return records, tf.cast(cuts, tf.int64)

    def _hashes(self, epoch: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
        """`splitmix.hashes`."""
        return splitmix_graph.hashes(self._schedule.seed or 0, epoch, uint64(purpose), tf.range(count, dtype=tf.int64))

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


class _Reader:
    """Reads the records of a batch and makes the flat batch of them."""

    def __init__(self, index: Index, plan: Plan) -> None:
        self._plan = plan
        rows = index.rows[plan.rows]
        self._shard, self._offset, self._bytes = (tf.constant(rows[name].astype(np.int64)) for name in ("shard", "offset", "bytes"))
        self._paths = tf.constant([shard.path for shard in index.shards])
        self._sizes = tf.constant([shard.bytes for shard in index.shards], tf.int64)
        self._names = tf.constant([shard.name for shard in index.shards])
        self._assembled = BatchDecoder(index, plan, plan.rows)

    def read(self, records: tf.Tensor, real: tf.Tensor, bucket: tf.Tensor, epoch: tf.Tensor) -> Flat:
        """The flat batch of the records, which are positions among those of the plan."""
        records.set_shape([self._plan.static_shape[0]])
        flat = self._assembled(self._serialized(records), records, real, bucket, epoch)
        return transform_batch(self._plan, {**flat, "epoch": epoch, "bucket": bucket}) if self._plan.has_transforms else flat

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

"""The graph engine: the same epochs as the mapped engine's, read by TensorFlow's own ops, for pipelines that must be a pure graph.

The order is computed in the graph, once an epoch, with the integer arithmetic of `splitmix`. A batch is one call: `TFRecordDatasetV2` reads
each of its records from its byte offset and tests its checksum; then the frames of all records are cut out and decoded together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines import splitmix_graph
from vlpipe.engines.apply_transforms import transform_batch
from vlpipe.engines.decode import BatchDecoder
from vlpipe.engines.graph_pieces import GraphPieces
from vlpipe.engines.grouping import Flat
from vlpipe.engines.python_calls import keep_alive
from vlpipe.engines.splitmix_graph import uint64
from vlpipe.errors import REWRITTEN, printable
from vlpipe.planning import splitmix
from vlpipe.planning.drawing import Drawing
from vlpipe.planning.options import default_parallelism
from vlpipe.planning.plan import Plan
from vlpipe.planning.schedule import Schedule
from vlpipe.sources.records import check_ends
from vlpipe.storage.example import require


def batches(plan: Plan, epochs: tf.data.Dataset, deliver: Callable[[Flat], Any]) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: pairs of int64: the number of an epoch, and the first batch to deliver of it; beyond the last batch: none.
        deliver: turns a flat batch into the user's element.
    """
    if plan.options.verify != "never" and plan.index.is_local:
        check_ends(plan.index)
    untouched = tf.autograph.experimental.do_not_convert
    order = _Order(plan.schedule)
    with tf.device("CPU:0"):  # where tf.data runs, even on a machine with a GPU
        reader = _Reader(plan)
    steps = epochs.flat_map(untouched(order.steps))
    delivered = steps.map(
        untouched(lambda *step: deliver(reader.read(*step))),
        num_parallel_calls=default_parallelism(plan.options, per_core=2),  # a call waits for its reads one after another
        deterministic=True,
    )
    keep_alive(reader, delivered)
    return delivered


class _Order:
    """`Schedule` in the graph: the same integers from the same arithmetic."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        with tf.device("CPU:0"):
            self._buckets = tf.constant(schedule.bucket_of.astype(np.int64))
            self._starts, self._counts, self._sizes, self._bucket_of = (tf.constant(column) for column in schedule.spans)

    def steps(self, epoch: tf.Tensor, first: tf.Tensor) -> tf.data.Dataset:
        """The batches of an epoch, from `first` on, as (pieces `[B]`, how many of them have weight 1, bucket, epoch)."""
        empty = tf.zeros([0], tf.int64)
        pieces, spans = tf.cond(first < self._schedule.steps, lambda: self._orders(epoch), lambda: (empty, empty))
        return tf.data.Dataset.from_tensor_slices(spans[first:]).map(
            tf.autograph.experimental.do_not_convert(lambda span: (*self._batch(pieces, span), epoch))
        )

    def _orders(self, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The pieces of the slots in order, and `Schedule.batches_in_order`."""
        schedule = self._schedule
        if schedule.seed is None:
            slots, spans = tf.constant(schedule.slots_in_order(0)), tf.constant(schedule.batches_in_order(0))
            return self._pieces_of(epoch, slots), spans
        left, right, either = tf.bitwise.left_shift, tf.bitwise.right_shift, tf.bitwise.bitwise_or
        packed = right(self._hashes(epoch, splitmix.RECORDS, len(schedule.bucket_of)), uint64(64 - schedule.hash_bits))
        packed = either(packed, left(tf.cast(self._buckets, tf.uint64), uint64(schedule.hash_bits)))
        packed = either(left(packed, uint64(schedule.index_bits)), tf.cast(tf.range(len(schedule.bucket_of), dtype=tf.int64), tf.uint64))
        slots = tf.bitwise.bitwise_and(tf.sort(tf.bitcast(packed, tf.int64)), (1 << schedule.index_bits) - 1)
        spans = tf.argsort(tf.bitcast(self._hashes(epoch, splitmix.BATCHES, schedule.steps), tf.int64), stable=True)
        if schedule.uneven is not None:
            last = tf.constant(schedule.uneven.astype(np.int64))
            spans = tf.gather(spans, tf.argsort(tf.gather(last, spans), stable=True))
        return self._pieces_of(epoch, slots), tf.cast(spans, tf.int64)

    def _pieces_of(self, epoch: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
        """`Schedule.pieces_of`."""
        return slots if self._schedule.drawing is None else tf.gather(self._table(self._schedule.drawing, epoch), slots)

    def _table(self, drawing: Drawing, epoch: tf.Tensor) -> tf.Tensor:
        """`Drawing.table`."""
        fixed = tf.range(drawing.fixed, dtype=tf.int64)
        if not len(drawing.slot_strata):
            return fixed
        strata = drawing.strata
        cycles, blocks, skipped, sizes, firsts = map(
            tf.constant, (strata.cycles, strata.blocks, strata.skipped, strata.sizes, strata.firsts)
        )
        stratum_of, slot_strata = tf.constant(drawing.stratum_of), tf.constant(drawing.slot_strata)
        left, right, either = tf.bitwise.left_shift, tf.bitwise.right_shift, tf.bitwise.bitwise_or
        numbers = tf.range(len(drawing.stratum_of), dtype=tf.int64)
        epochs = tf.gather(epoch // cycles, stratum_of)
        packed = right(splitmix_graph.hashes(drawing.seed, epochs, uint64(splitmix.MIXES), numbers), uint64(64 - drawing.hash_bits))
        packed = either(packed, left(tf.cast(stratum_of, tf.uint64), uint64(drawing.hash_bits)))
        packed = either(left(packed, uint64(drawing.index_bits)), tf.cast(numbers, tf.uint64))
        order = tf.bitwise.bitwise_and(tf.sort(tf.bitcast(packed, tf.int64)), (1 << drawing.index_bits) - 1)
        begins = tf.gather(epoch % cycles * blocks + skipped, slot_strata)
        places = (begins + tf.constant(drawing.slot_places)) % tf.gather(sizes, slot_strata)
        return tf.concat([fixed, drawing.fixed + tf.gather(order, tf.gather(firsts, slot_strata) + places)], 0)

    def _hashes(self, epoch: tf.Tensor, purpose: int, count: int) -> tf.Tensor:
        """`splitmix.hashes`."""
        return splitmix_graph.hashes(self._schedule.seed or 0, epoch, uint64(purpose), tf.range(count, dtype=tf.int64))

    def _batch(self, pieces: tf.Tensor, span: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`Schedule.batch`."""
        rank, world = self._schedule.shard
        start, count, rows = self._starts[span], self._counts[span], self._sizes[span] // world
        first, end = rank * rows, (rank + 1) * rows
        within = tf.range(first, end) % count if self._schedule.complete else tf.range(first, tf.minimum(end, count))
        return tf.gather(pieces, start + within), tf.clip_by_value(count - first, 0, rows), self._bucket_of[span]


def _records_from(paths: tf.Tensor, offsets: tf.Tensor) -> tf.data.Dataset:
    """The serialized records of some files, each file from a byte offset on."""
    # buffer_size=0: only the requested records are read.
    variant = tf.raw_ops.TFRecordDatasetV2(filenames=paths, compression_type="", buffer_size=tf.constant(0, tf.int64), byte_offsets=offsets)
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


class _Reader:
    """Reads the records of the pieces of a batch, and decodes them into a flat batch."""

    def __init__(self, plan: Plan) -> None:
        self._plan, index = plan, plan.index
        rows = index.rows
        self._shard, self._offset, self._bytes = (tf.constant(rows[name].astype(np.int64)) for name in ("shard", "offset", "bytes"))
        self._paths = tf.constant([os.fsencode(shard.path) for shard in index.shards])
        self._sizes = tf.constant([shard.bytes for shard in index.shards], tf.int64)
        self._names = tf.constant([printable(shard.name) for shard in index.shards])
        self._numbers = tf.constant(index.numbers())
        self._pieces, self._decode = GraphPieces(plan), BatchDecoder(plan, np.arange(len(index)))

    def read(self, pieces: tf.Tensor, real: tf.Tensor, bucket: tf.Tensor, epoch: tf.Tensor) -> Flat:
        """The flat batch of some pieces, given by their positions in the plan."""
        pieces.set_shape([self._plan.static_shape[0]])
        taken = self._pieces.take(pieces, epoch)
        flat = self._decode(self._serialized(taken.records), taken, real, bucket)
        return transform_batch(self._plan, {**flat, "epoch": epoch, "bucket": bucket}) if self._plan.has_transforms else flat

    def _serialized(self, records: tf.Tensor) -> tf.Tensor:
        """string `[B]`: the records, each compared with the checksum that is stored with it."""
        shards, offsets = tf.gather(self._shard, records), tf.gather(self._offset, records)
        used, _ = tf.unique(shards)
        # Each file from the end that the index knows: yields nothing, unless the file has grown.
        beyond = _records_from(tf.gather(self._paths, used), tf.gather(self._sizes, used))
        untouched = tf.autograph.experimental.do_not_convert
        positions = tf.data.Dataset.from_tensor_slices((tf.gather(self._paths, shards), offsets))
        read = positions.interleave(untouched(lambda path, offset: _records_from(path[None], offset[None]).take(1)), cycle_length=1)
        count = tf.size(records, tf.int64)
        # All reads in one call of a map, so that an error ends that call: a reader repeats its error forever if the file cannot be opened.
        attempt = tf.data.Dataset.from_tensors(0).map(
            untouched(lambda _: beyond.concatenate(read).batch(2 * count + 1).get_single_element())
        )
        empty = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string))
        data = attempt.ignore_errors().concatenate(empty).take(1).get_single_element()

        def message() -> tf.Tensor:
            return tf.strings.join([self._where(records[self._first_unread(records)]), ": TensorFlow cannot read the record. ", REWRITTEN])

        with tf.control_dependencies([require(tf.size(data, tf.int64) == count, message)]):
            data = tf.identity(data)
        same = tf.strings.length(data) == tf.cast(tf.gather(self._bytes, records), tf.int32)

        def changed() -> tf.Tensor:
            which = records[tf.argmin(tf.cast(same, tf.int32))]
            return tf.strings.join([self._where(which), ": is not the record that was indexed. ", REWRITTEN])

        with tf.control_dependencies([require(tf.reduce_all(same), changed)]):
            return tf.identity(data)

    def _first_unread(self, records: tf.Tensor) -> tf.Tensor:
        """Position in the batch of the first record that cannot be read: TensorFlow's own errors name neither file nor record."""

        def position_if_readable(position: tf.Tensor) -> tf.Tensor:
            record = records[position]
            data = _records_from(self._paths[self._shard[record]][None], self._offset[record][None]).take(1).get_single_element()
            with tf.control_dependencies([data]):
                return tf.identity(position)

        count = tf.size(records, tf.int64)
        readable = tf.data.Dataset.range(count).map(tf.autograph.experimental.do_not_convert(position_if_readable)).ignore_errors()
        positions = readable.concatenate(tf.data.Dataset.from_tensors(count)).batch(count + 1).get_single_element()
        return tf.math.count_nonzero(positions == tf.range(tf.size(positions, tf.int64))) % count

    def _where(self, record: tf.Tensor) -> tf.Tensor:
        """Names a record as `Index.where` does."""
        shard, offset = self._shard[record], self._offset[record]
        number = tf.strings.as_string(self._numbers[record])
        return tf.strings.join([self._names[shard], ", record ", number, " at byte ", tf.strings.as_string(offset)])

"""The graph engine: the same epochs as the mapped engine's, read by TensorFlow's own ops, for pipelines that must be a pure graph.

The order is computed in the graph, once an epoch, with the integer arithmetic of `splitmix`. A batch is one call: `TFRecordDatasetV2` reads
each of its records from its byte offset and tests its checksum; then the frames of all records are cut out and decoded together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines import splitmix_graph
from vlpipe.engines.apply_transforms import transform_batch
from vlpipe.engines.augment import Augmenter
from vlpipe.engines.decode import BatchDecoder
from vlpipe.engines.epochs import Epochs
from vlpipe.engines.framing import other_frame, other_frames
from vlpipe.engines.graph_pieces import GraphPieces
from vlpipe.engines.graph_records import GraphRecords
from vlpipe.engines.grouping import Flat
from vlpipe.engines.python_calls import keep_alive, wait_at_exit
from vlpipe.engines.screen import Screen
from vlpipe.engines.splitmix_graph import uint64
from vlpipe.planning import splitmix
from vlpipe.planning.damage import Skipped
from vlpipe.planning.drawing import Drawing
from vlpipe.planning.options import default_parallelism
from vlpipe.planning.plan import Plan
from vlpipe.planning.schedule import Batch, Schedule
from vlpipe.sources.records import RecordFiles, check_ends


def batches(plan: Plan, epochs: Epochs, deliver: Callable[[Flat], Any], skipped: Skipped | None = None) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: those to deliver.
        deliver: turns a flat batch into the user's element.
        skipped: counts the damaged records, which are left out; None: the first one is an error.
    """
    others = _checked_files(plan, skips=skipped is not None)
    untouched = tf.autograph.experimental.do_not_convert
    order = _Order(plan.schedule)
    with tf.device("CPU:0"):  # where tf.data runs, even on a machine with a GPU
        reader = _Reader(plan, skipped, others)
    steps = epochs.numbers.flat_map(untouched(order.steps))
    delivered = steps.map(
        untouched(lambda *step: deliver(reader.read(*step))),
        num_parallel_calls=default_parallelism(plan.options, per_core=2),  # a call waits for its reads one after another
        deterministic=True,
    )
    keep_alive(reader, delivered)
    return delivered


def _checked_files(plan: Plan, *, skips: bool) -> np.ndarray:
    """Compare local files with the index, unless verify="never"; return int64, the rows of records that are others.

    The graph can test neither the checksum in the index nor whether a file has changed: TensorFlow has no op for either.

    Raises:
        DatasetError: a file was replaced, or without `skips` a record is not the one that was indexed; the message names it.
    """
    if plan.options.verify == "never" or not plan.index.is_local:
        return np.zeros(0, np.int64)
    check_ends(plan.index, skips=skips)
    others = other_frames(plan.index, np.unique(plan.pieces.rows).astype(np.int64))
    if len(others) and not skips:
        raise other_frame(plan.index, int(others[0]))
    return others


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
        count = len(schedule.bucket_of)
        slots = splitmix_graph.order_in_groups(self._buckets, self._hashes(epoch, splitmix.RECORDS, count), count, schedule.last_bucket)
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
        count = len(drawing.stratum_of)
        epochs = tf.gather(epoch // cycles, stratum_of)
        hashed = splitmix_graph.hashes(drawing.seed, epochs, uint64(splitmix.MIXES), tf.range(count, dtype=tf.int64))
        order = splitmix_graph.order_in_groups(stratum_of, hashed, count, len(strata.sizes))
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


class _Reader:
    """Reads the records of the pieces of a batch, and decodes them into a flat batch."""

    def __init__(self, plan: Plan, skipped: Skipped | None, others: np.ndarray) -> None:
        self._plan, self._records = plan, GraphRecords(plan, others)
        self._pieces, self._decode = GraphPieces(plan), BatchDecoder(plan, np.arange(len(plan.index)))
        self._augmenter = Augmenter(plan)
        self._screen = None if skipped is None else Screen(plan, skipped, RecordFiles(plan.index))

    def read(self, pieces: tf.Tensor, real: tf.Tensor, bucket: tf.Tensor, epoch: tf.Tensor) -> Flat:
        """The flat batch of some pieces, given by their positions in the plan."""
        taken = self._pieces.take(pieces, epoch)
        data, agree = self._records.attempt(taken.records)
        if self._screen is not None:
            readable = self._records.are_whole(data, agree, taken.records)
            kept, real = _screened(self._screen, Batch(pieces, real, bucket), epoch, readable)
            same = readable & (tf.size(kept) == tf.size(pieces)) & tf.reduce_all(kept[: tf.size(pieces)] == pieces[: tf.size(kept)])
            taken = self._pieces.take(kept, epoch)
            data, agree = tf.cond(same, lambda: (data, agree), lambda: self._records.attempt(taken.records))
            pieces = kept
        pieces.set_shape([self._plan.static_shape[0]])
        taken = self._pieces.take(pieces, epoch)
        flat = self._decode(self._records.checked(data, agree, taken.records), taken, real, bucket)
        if not self._plan.frame_plan.has_transforms:
            return flat
        return transform_batch(self._plan, {**flat, "epoch": epoch, "bucket": bucket}, self._augmenter)


def _screened(screen: Screen, batch: Batch, epoch: tf.Tensor, readable: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The pieces of a batch without those of damaged records, and how many have weight 1. Python is called only where it is needed."""
    unchanged = tf.cast(batch.pieces, tf.int64), tf.cast(batch.real, tf.int64)
    scalars = [tf.cast(scalar, tf.int64) for scalar in (batch.real, batch.bucket, epoch, ~readable)]

    def in_python() -> tuple[tf.Tensor, tf.Tensor]:
        pieces, real = tf.numpy_function(wait_at_exit(_leave_out, screen), [unchanged[0], *scalars], [tf.int64, tf.int64])
        return tf.ensure_shape(pieces, [None]), tf.ensure_shape(real, [])

    pieces, real = in_python() if screen.has_values else tf.cond(readable, lambda: unchanged, in_python)
    return pieces, real


def _leave_out(screen: Screen, pieces: np.ndarray, *scalars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, bucket, epoch, unread = map(int, scalars)
    batch = screen(Batch(pieces, real, bucket), epoch, unread=bool(unread))
    return np.asarray(batch.pieces, np.int64), np.array(batch.real, np.int64)

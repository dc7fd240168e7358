"""The stream engine: each epoch is read from the shards in order, shuffled in a buffer, and batched by tf.data (`grouping`).

TensorFlow's reader does not report a shard that ends early, names neither file nor record when one cannot be read, and cannot know that a
file was replaced. The graph detects the first two by comparing with the index; Python compares the lengths before the records of a local
file before TensorFlow reads it, and then the checksum of each record (`StreamedRecords`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.apply_transforms import transform_record
from vlpipe.engines.augment import Augmenter, Draws
from vlpipe.engines.decode import BatchDecoder
from vlpipe.engines.epochs import Epochs
from vlpipe.engines.graph_pieces import pieces_of_records
from vlpipe.engines.grouping import Flat, Grouping, group, with_lengths
from vlpipe.engines.python_calls import keep_alive
from vlpipe.engines.streamed_records import StreamedRecords
from vlpipe.errors import REWRITTEN, printable
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.options import default_parallelism
from vlpipe.planning.plan import Plan
from vlpipe.storage.example import parse, require
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Sequence

SHUFFLE_BYTES = 1 << 28  # of serialized records in the shuffle buffer
READ_BYTES = 1 << 20
BLOCK = 32  # records that are read together from a shard
INTERLEAVED = 8  # shards that are read in turn
PREFETCHED = 1  # finished batches that wait for the model; bucketing makes batches one after another, so that more would not help


def batches(plan: Plan, epochs: Epochs, deliver: Callable[[Flat], Any]) -> tf.data.Dataset:
    """The batches of the epochs.

    Args:
        epochs: those to deliver.
        deliver: turns a flat batch into the user's element.
    """
    longest = {name: tuple(frames.tolist()) for name, frames in plan.least_by_part.items() if frames.any()}
    selected = None if plan.index.taken is None else _selected(plan.index)
    rows = plan.rows if plan.index.taken is None else plan.index.taken.rows[plan.rows]
    plan = dataclasses.replace(plan, index=plan.index.whole)  # the files are read from first to last
    index = plan.index
    table, augmenter, streamed = _Table.of(plan, rows), Augmenter(plan), StreamedRecords(plan)
    if index.foreign is None:
        example = functools.partial(_example, table, plan, augmenter)
    else:
        with tf.device("CPU:0"):
            example = functools.partial(_third_party_example, table, plan, augmenter, BatchDecoder(plan, index.by_shard(), whole=True))
    # Without records the plan has no buckets; a grouping needs one.
    key, paddings = f"x:{plan.selection.key}", plan.selection.paddings
    aligned = tuple(plan.selection.part(name).flat for name in plan.selection.aligned)
    grouping = Grouping(plan.options, paddings, key, plan.boundaries or (1,), plan.batch_sizes or (1,), aligned, longest)

    @tf.autograph.experimental.do_not_convert  # not needed here, and converting takes most of the tracing time
    def epoch(number: tf.Tensor, _: tf.Tensor) -> tf.data.Dataset:
        # The order depends on the seed of this dataset alone, whatever seed the user has set. (In tf.data's debug mode this function runs
        # eagerly, and would change the user's seed.)
        if not tf.executing_eagerly():
            tf.random.set_seed(1)
        records = _read(table, streamed, plan, number, selected)
        if plan.refused.keys() - {"remainder"}:
            records = records.filter(lambda position, copy, _: table.delivered[position, copy])
        examples = records.map(
            lambda position, copy, data: example(position, copy, data, number),
            num_parallel_calls=default_parallelism(plan.options),
            deterministic=True,
        )
        return group(examples, grouping)

    untouched = tf.autograph.experimental.do_not_convert
    delivered = epochs.numbers.filter(untouched(lambda _, first: first == 0)).flat_map(epoch).map(untouched(deliver)).prefetch(PREFETCHED)
    keep_alive((example, streamed), delivered)
    return delivered


def _selected(index: Index) -> np.ndarray:
    """bool: whether a selection has each record of its whole, in the order of the records in the shards."""
    mask = np.zeros(len(index.whole), bool)
    mask[index.taken.rows if index.taken is not None else slice(None)] = True
    return mask[index.whole.by_shard()]


@dataclass(frozen=True, eq=False)
class _Table:
    """The index as tensors, in the order of the records in the shards; records are named by their position in this order."""

    paths: tf.Tensor
    names: tf.Tensor
    compression: tf.Tensor
    first: tf.Tensor
    count: tf.Tensor
    offset: tf.Tensor
    bytes: tf.Tensor
    id: tf.Tensor
    delivered: tf.Tensor
    frames: dict[str, tf.Tensor]
    renumbered: dict[str, tf.Tensor]

    @classmethod
    def of(cls, plan: Plan, rows: np.ndarray) -> _Table:
        index = plan.index
        order = index.by_shard()
        delivered = np.zeros((len(index), plan.options.speeds), bool)
        delivered[rows, 0 if plan.pieces.copies is None else plan.pieces.copies] = True
        renumbered = {part.label for part in (index.renumbered, index.numbered) if part is not None}
        count = np.bincount(index.rows["shard"], minlength=len(index.shards)).astype(np.int64)
        # tf.data runs on the CPU, even on a machine with a GPU.
        with tf.device("CPU:0"):
            return cls(
                paths=tf.constant([os.fsencode(shard.path) for shard in index.shards]),
                names=tf.constant([printable(shard.name) for shard in index.shards]),
                compression=tf.constant([shard.compression for shard in index.shards]),
                first=tf.constant(np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64)),
                count=tf.constant(count),
                offset=tf.constant(index.rows["offset"][order].astype(np.int64)),
                bytes=tf.constant(index.rows["bytes"][order].astype(np.int64)),
                id=tf.constant(index.ids[order]),
                delivered=tf.constant(delivered[order]),
                frames={name: tf.constant(index.frames(name)[order]) for name in index.counted},
                renumbered={name: tf.constant(index.access(name).row_values(index.rows[order])) for name in renumbered},
            )

    def where(self, position: tf.Tensor) -> tf.Tensor:
        """Names a record as `Index.where` does."""
        shard = tf.searchsorted(self.first, position[None], side="right")[0] - 1
        number = tf.strings.as_string(position - self.first[shard])
        return tf.strings.join([self.names[shard], ", record ", number, " at byte ", tf.strings.as_string(self.offset[position])])


def _read(table: _Table, streamed: StreamedRecords, plan: Plan, number: tf.Tensor, selected: np.ndarray | None) -> tf.data.Dataset:
    """The records of an epoch as (position, copy, serialized Example); with several speeds each comes as several copies, from 0 on.

    Args:
        selected: bool, which records to deliver, by their position; None: all.
    """
    count = table.count.shape[0]
    shards = tf.range(count, dtype=tf.int64)
    if selected is not None:  # only files with records to deliver are read
        positions = np.flatnonzero(selected)
        used = np.unique(np.searchsorted(np.asarray(table.first), positions, side="right") - 1)
        count, shards = len(used), tf.constant(used, tf.int64)
    chosen, speeds = None if selected is None else tf.constant(selected), plan.options.speeds

    def keep(blocks: tf.data.Dataset) -> tf.data.Dataset:
        records = blocks.unbatch()
        records = records if chosen is None else records.filter(lambda position, _: chosen[position])
        if speeds == 1:
            return records.map(lambda position, data: (position, tf.constant(0, tf.int64), data))
        # Before the shuffle, so that copies of a record are not in one batch. They share the memory of the record.
        return records.flat_map(lambda position, data: tf.data.Dataset.range(speeds).map(lambda copy: (position, copy, data)))

    if not plan.options.shuffle:
        return keep(tf.data.Dataset.from_tensor_slices(shards).flat_map(lambda shard: _read_shard(table, streamed, shard)))
    seeds = tf.random.stateless_uniform([2], seed=[plan.options.seed or 0, number], minval=None, maxval=None, dtype=tf.int64)
    shards = tf.gather(shards, tf.argsort(tf.random.stateless_uniform(tf.shape(shards), seed=seeds), stable=True))
    blocks = tf.data.Dataset.from_tensor_slices(shards).interleave(
        lambda shard: _read_shard(table, streamed, shard),
        cycle_length=min(INTERLEAVED, count),
        num_parallel_calls=min(default_parallelism(plan.options), INTERLEAVED, count),
        deterministic=True,
    )
    return keep(blocks).shuffle(_shuffle_buffer(plan.index) * speeds, seed=seeds[0], reshuffle_each_iteration=False)


def _shuffle_buffer(index: Index) -> int:
    """Size of the shuffle buffer in records: all, or as many serialized records as fit into `SHUFFLE_BYTES`."""
    record_bytes = 64 + int(index.rows["bytes"].mean()) if len(index) else 64
    return max(1, min(len(index), SHUFFLE_BYTES // record_bytes))


def _read_shard(table: _Table, streamed: StreamedRecords, shard: tf.Tensor) -> tf.data.Dataset:
    """Blocks of (position [n], serialized Example [n]) of one shard; their records are counted and compared with the index.

    The reader's own errors name neither file nor record, and a shard that is cut inside its last header reads as a clean end. So errors
    are ignored, which ends the shard, and an empty block after the end triggers the comparison of the count.
    """
    path = table.paths[shard]
    # A file that cannot be opened would keep ignore_errors in an endless loop. This opens it first, and its error names the file.
    opened = tf.data.FixedLengthRecordDataset(path, record_bytes=1, buffer_size=1).take(1).filter(lambda _: False)
    # The element that lets the reader begin comes only where the lengths agree: threads that read ahead go on behind an error.
    checked = tf.data.Dataset.from_tensors("").map(lambda _: streamed.checked_lengths(shard))
    compression = table.compression[shard]
    read = checked.flat_map(lambda _: tf.data.TFRecordDataset(path, compression, READ_BYTES).ignore_errors())
    records = opened.concatenate(read)
    blocks = records.batch(BLOCK)
    blocks = blocks.concatenate(tf.data.Dataset.from_tensors(tf.zeros([0], tf.string)))

    def count(seen: tf.Tensor, block: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        size = tf.size(block, out_type=tf.int64)
        total = seen + size
        expected = table.count[shard]

        def missing() -> tf.Tensor:
            where = table.where(table.first[shard] + seen)
            read = [": cannot be read; read ", tf.strings.as_string(seen), " of ", tf.strings.as_string(expected), " records. "]
            return tf.strings.join([where, *read, REWRITTEN])

        def more() -> tf.Tensor:
            return tf.strings.join([table.names[shard], ": holds more than ", tf.strings.as_string(expected), " records. ", REWRITTEN])

        with tf.control_dependencies([require((size > 0) | (total == expected), missing), require(total <= expected, more)]):
            positions = table.first[shard] + seen + tf.range(size)
            return total, (streamed.checked(positions, block), tf.identity(block))

    return blocks.scan(tf.constant(0, tf.int64), count)


def _example(
    table: _Table, plan: Plan, augmenter: Augmenter, position: tf.Tensor, copy: tf.Tensor, data: tf.Tensor, epoch: tf.Tensor
) -> Flat:
    """One record: parsed, compared with the index, cropped and transformed."""
    options, selection, schema = plan.options, plan.selection, plan.index.schema
    parsed = [name for name in (*selection.features, *selection.labels) if plan.index.numbered is None or name != plan.index.numbered.label]
    values = parse(schema, parsed, data, lambda: table.where(position))
    checks = [_frames_agree(table, position, name, values[name]) for name in values if name in table.frames]
    with tf.control_dependencies(checks):
        values = {name: tf.identity(value) for name, value in values.items()}
    frames = tf.shape(values[selection.key], tf.int64)[:1]
    batch = pieces_of_records(plan, position[None], table.id[position][None], frames, epoch, _copies(plan, copy))
    pieces, flat = batch.frames, {}
    for name in (*selection.features, *selection.labels):
        part, value = selection.part(name), table.renumbered[name][position] if name in table.renumbered else values[name]
        if isinstance(schema.fields[name], Sequence):
            value = tf.cast(_cut(plan, value, pieces) if part.with_key else value, plan.frame_plan.reading_dtype(name))
        flat[part.flat] = value
    if plan.frame_plan.has_transforms:
        flat = transform_record(plan, flat, table.id[position], Draws(batch.numbers, epoch, batch.copies), augmenter)
    if options.needs_ids:
        flat["id"] = table.id[position]
    return with_lengths(flat)


def _third_party_example(
    table: _Table,
    plan: Plan,
    augmenter: Augmenter,
    decode: BatchDecoder,
    position: tf.Tensor,
    copy: tf.Tensor,
    data: tf.Tensor,
    epoch: tf.Tensor,
) -> Flat:
    """The same for a third-party record: decoded as a batch of one, without the batch axis."""
    same = tf.strings.length(data) == tf.cast(table.bytes[position], tf.int32)

    def changed() -> tf.Tensor:
        sizes = tf.strings.as_string(tf.strings.length(data)), tf.strings.as_string(table.bytes[position])
        return tf.strings.join([table.where(position), ": has ", sizes[0], " bytes of data, but ", sizes[1], " were indexed. ", REWRITTEN])

    with tf.control_dependencies([require(same, changed)]):
        data = tf.identity(data)
    zero = tf.constant(0, tf.int64)
    frames = table.frames[plan.selection.key][position]
    pieces = pieces_of_records(plan, position[None], table.id[position][None], frames[None], epoch, _copies(plan, copy))
    batch = decode(data[None], pieces, zero, zero)
    flat = {name: value.values if isinstance(value, tf.RaggedTensor) else value[0] for name, value in batch.items() if name[:2] != "n:"}
    if plan.frame_plan.has_transforms:
        flat = transform_record(plan, flat, flat["id"], Draws(pieces.numbers, epoch, pieces.copies), augmenter)
    if not plan.options.needs_ids:
        flat.pop("id", None)
    flat.pop("number", None)
    flat.pop("speed", None)
    return with_lengths(flat)


def _copies(plan: Plan, copy: tf.Tensor) -> tf.Tensor | None:
    """int64 `[1]`, where there are copies; None where each record comes once."""
    return copy[None] if plan.options.speed is not None else None


def _cut(plan: Plan, frames: tf.Tensor, pieces: PieceFrames) -> tf.Tensor:
    """The frames of a record that are read."""
    if plan.frame_plan.frame_range.is_all:
        return frames
    begin = 0 if pieces.firsts is None else pieces.firsts[0]
    return frames[begin : begin + pieces.counts[0]]


def _frames_agree(table: _Table, position: tf.Tensor, name: str, value: tf.Tensor) -> tf.Tensor:
    """Detects a replaced file, whose records usually have other lengths."""
    frames, expected = tf.shape(value, tf.int64)[0], table.frames[name][position]

    def message() -> tf.Tensor:
        numbers = tf.strings.as_string(frames), tf.strings.as_string(expected)
        text = [f': "{name}" has ', numbers[0], " frames, but ", numbers[1], " were indexed. ", REWRITTEN]
        return tf.strings.join([table.where(position), *text])

    return require(frames == expected, message)

"""Records in a TensorFlow graph: read by TensorFlow's own ops, each from its byte offset, and compared with the index."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from vlpipe.errors import REWRITTEN, printable
from vlpipe.storage.example import require
from vlpipe.storage.index import Index


def _records_from(paths: tf.Tensor, offsets: tf.Tensor) -> tf.data.Dataset:
    """The serialized records of some files, each file from a byte offset on."""
    # buffer_size=0: only the requested records are read.
    variant = tf.raw_ops.TFRecordDatasetV2(filenames=paths, compression_type="", buffer_size=tf.constant(0, tf.int64), byte_offsets=offsets)
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


class GraphRecords:
    """Reads the records of an index, which are named by their rows."""

    def __init__(self, index: Index) -> None:
        rows = index.rows
        self._shard, self._offset, self._bytes = (tf.constant(rows[name].astype(np.int64)) for name in ("shard", "offset", "bytes"))
        self._paths = tf.constant([os.fsencode(shard.path) for shard in index.shards])
        self._sizes = tf.constant([shard.bytes for shard in index.shards], tf.int64)
        self._names = tf.constant([printable(shard.name) for shard in index.shards])
        self._numbers = tf.constant(index.numbers())

    def attempt(self, records: tf.Tensor) -> tf.Tensor:
        """string `[B]`: the records, each compared with the checksum that is stored with it; another number if one cannot be read."""
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
        return attempt.ignore_errors().concatenate(empty).take(1).get_single_element()

    def are_whole(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """bool: whether an attempt has read all records, each of the size that the index says."""
        return tf.cond(
            tf.size(data) == tf.size(records), lambda: tf.reduce_all(self._have_sizes(data, records)), lambda: tf.constant(False)
        )

    def _have_sizes(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        return tf.strings.length(data) == tf.cast(tf.gather(self._bytes, records), tf.int32)

    def checked(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """What an attempt has read.

        Raises:
            tf.errors.InvalidArgumentError: a record cannot be read, or has another size; the text names it.
        """

        def message() -> tf.Tensor:
            return tf.strings.join([self._where(records[self._first_unread(records)]), ": TensorFlow cannot read the record. ", REWRITTEN])

        with tf.control_dependencies([require(tf.size(data) == tf.size(records), message)]):
            data = tf.identity(data)
        same = self._have_sizes(data, records)

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

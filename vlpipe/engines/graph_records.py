"""Records in a TensorFlow graph: read by TensorFlow's own ops, each from its byte offset, and compared with the index."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vlpipe.engines.indexed_values import IndexedValues
from vlpipe.errors import REWRITTEN, printable
from vlpipe.planning.plan import Plan
from vlpipe.storage.example import require

_STRING = tf.TensorSpec([], tf.string)
_MORE = 1 << 62  # more bytes than a file can have


def _records_from(path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
    """The serialized records of a file, from a byte offset on."""
    # buffer_size=0: only the requested records are read.
    zero = tf.constant(0, tf.int64)
    variant = tf.raw_ops.TFRecordDatasetV2(filenames=path[None], compression_type="", buffer_size=zero, byte_offsets=offset[None])
    return tf.data.experimental.from_variant(variant, _STRING)


def _record_at(path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
    """The record at a byte offset, or nothing where its header announces more bytes than the file has.

    TensorFlow's reader allocates what a header announces, and a length of 2^40 under a right checksum ends the process (SIGSEGV). Skipping
    a record allocates nothing: it tests the header, and that the file goes on to the end of the record. `skip` alone would read the
    record behind it, so it skips in an interleave whose next element is a marker.
    """

    def record_or_marker(number: tf.Tensor) -> tf.data.Dataset:
        def record() -> tf.Tensor:
            return tf.data.experimental.to_variant(_records_from(path, offset))

        def marker() -> tf.Tensor:
            return tf.data.experimental.to_variant(tf.data.Dataset.from_tensors(""))

        return tf.data.experimental.from_variant(tf.cond(number == 0, record, marker), _STRING)

    untouched = tf.autograph.experimental.do_not_convert
    skipped = tf.data.Dataset.range(2).interleave(untouched(record_or_marker), cycle_length=2, block_length=1).skip(1).take(1)
    return skipped.flat_map(untouched(lambda _: _records_from(path, offset).take(1)))


def _sizes_differ(paths: tf.Tensor, sizes: tf.Tensor) -> tf.data.Dataset:
    """Nothing, if all files have these sizes in bytes; otherwise an error. No file is read."""

    def body(path: tf.Tensor, size: tf.Tensor) -> tf.data.Dataset:
        more, zero = tf.constant(_MORE, tf.int64), tf.constant(0, tf.int64)
        # All bytes belong to the footer of the file; others would have to be whole records of 2^62 bytes.
        return tf.data.FixedLengthRecordDataset(path, record_bytes=more, header_bytes=zero, footer_bytes=size, buffer_size=1)

    return tf.data.Dataset.from_tensor_slices((paths, sizes)).flat_map(tf.autograph.experimental.do_not_convert(body))


class GraphRecords:
    """Reads the records of the index of a plan, which are named by their rows.

    Args:
        suspects: int64, rows of records that were already found not to be those that were indexed.
    """

    def __init__(self, plan: Plan, suspects: np.ndarray) -> None:
        index, rows = plan.index, plan.index.rows
        self._shard, self._offset, self._bytes = (tf.constant(rows[name].astype(np.int64)) for name in ("shard", "offset", "bytes"))
        self._paths = tf.constant([os.fsencode(shard.path) for shard in index.shards])
        self._sizes = tf.constant([shard.bytes for shard in index.shards], tf.int64)
        self._names = tf.constant([printable(shard.name) for shard in index.shards])
        self._numbers = tf.constant(index.numbers())
        self._suspects = tf.constant(suspects) if len(suspects) else None
        self._values = IndexedValues(plan)

    def attempt(self, records: tf.Tensor) -> tf.Tensor:
        """string `[B]`: the records, each compared with the checksum that is stored with it; another number if one cannot be read."""
        shards, offsets = tf.gather(self._shard, records), tf.gather(self._offset, records)
        used, _ = tf.unique(shards)
        beyond = _sizes_differ(tf.gather(self._paths, used), tf.gather(self._sizes, used))
        untouched = tf.autograph.experimental.do_not_convert
        positions = tf.data.Dataset.from_tensor_slices((tf.gather(self._paths, shards), offsets))
        read = positions.flat_map(untouched(_record_at))
        count = tf.size(records, tf.int64)
        # All reads in one call of a map, so that an error ends that call: a reader repeats its error forever if the file cannot be opened.
        attempt = tf.data.Dataset.from_tensors(0).map(
            untouched(lambda _: beyond.concatenate(read).batch(2 * count + 1).get_single_element())
        )
        return _or_nothing(attempt, tf.string)

    def are_whole(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """bool: whether an attempt has read all records, and each agrees with the index as far as the graph can tell."""
        return tf.cond(tf.size(data) == tf.size(records), lambda: self._agree(data, records), lambda: tf.constant(False))

    def _agree(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """bool: whether the size of each record, and what the index has of its values, are those of the index."""
        same = tf.reduce_all(tf.strings.length(data) == tf.cast(tf.gather(self._bytes, records), tf.int32))
        if self._suspects is not None:
            same &= tf.reduce_all(records[:, None] != self._suspects)
        if not self._values:
            return same
        untouched = tf.autograph.experimental.do_not_convert
        compared = tf.data.Dataset.from_tensors(0).map(untouched(lambda _: self._values.agree(data, records)))
        # A record that is no Example cannot be parsed: an error, and nothing comes.
        return same & tf.equal(tf.size(tf.where(_or_nothing(compared.map(lambda agree: agree[None]), tf.bool))), 1)

    def checked(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """What an attempt has read.

        Raises:
            tf.errors.InvalidArgumentError: a record cannot be read, or disagrees with the index; the text names it.
        """

        def message() -> tf.Tensor:
            return tf.strings.join([self._where(records[self._first_unread(records)]), ": TensorFlow cannot read the record. ", REWRITTEN])

        with tf.control_dependencies([require(tf.size(data) == tf.size(records), message)]):
            data = tf.identity(data)

        def changed() -> tf.Tensor:
            which = records[self._first_other(data, records)]
            return tf.strings.join([self._where(which), ": is not the record that was indexed. ", REWRITTEN])

        with tf.control_dependencies([require(self._agree(data, records), changed)]):
            return tf.identity(data)

    def _first_unread(self, records: tf.Tensor) -> tf.Tensor:
        """Position in the batch of the first record that cannot be read: TensorFlow's own errors name neither file nor record."""

        def is_readable(position: tf.Tensor) -> tf.Tensor:
            record = records[position]
            data = _record_at(self._paths[self._shard[record]], self._offset[record]).get_single_element()
            with tf.control_dependencies([data]):
                return tf.constant(True)

        return _first_that_is_not(is_readable, tf.size(records, tf.int64))

    def _first_other(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """Position in the batch of the first record that disagrees with the index."""

        def agrees(position: tf.Tensor) -> tf.Tensor:
            return self._agree(data[position][None], records[position][None])

        return _first_that_is_not(agrees, tf.size(records, tf.int64))

    def _where(self, record: tf.Tensor) -> tf.Tensor:
        """Names a record as `Index.where` does."""
        shard, offset = self._shard[record], self._offset[record]
        number = tf.strings.as_string(self._numbers[record])
        return tf.strings.join([self._names[shard], ", record ", number, " at byte ", tf.strings.as_string(offset)])


def _or_nothing(made: tf.data.Dataset, dtype: tf.DType) -> tf.Tensor:
    """The only element of a dataset, a vector; an empty one if making it fails."""
    return made.ignore_errors().concatenate(tf.data.Dataset.from_tensors(tf.zeros([0], dtype))).take(1).get_single_element()


def _first_that_is_not(function: Callable[[tf.Tensor], tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    """The first number below `count` for which a function returns False or fails; 0 if there is none."""

    def number_if(number: tf.Tensor) -> tf.Tensor:
        return tf.where(function(number), number, -1)

    good = tf.data.Dataset.range(count).map(tf.autograph.experimental.do_not_convert(number_if)).ignore_errors()
    numbers = good.concatenate(tf.data.Dataset.from_tensors(count)).batch(count + 1).get_single_element()
    return tf.math.count_nonzero(tf.math.cumprod(tf.cast(numbers == tf.range(tf.size(numbers, tf.int64)), tf.int64))) % count

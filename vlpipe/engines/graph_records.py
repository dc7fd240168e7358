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
    a record allocates nothing: it tests the header, and that the file goes on to the end of the record. `skip` alone would then read the
    record behind it. So two readers of the same record take turns: the first one skips it, and the second one reads it; where the first
    cannot skip it, the second has to, and cannot either.
    """
    records = _records_from(path, offset)
    twice = tf.data.Dataset.range(2).interleave(tf.autograph.experimental.do_not_convert(lambda _: records), cycle_length=2, block_length=1)
    return twice.skip(1).take(1)


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
        self._values = IndexedValues(plan) if plan.options.verify != "never" else None

    def attempt(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Read some records, given by their rows (int64 `[B]`).

        Returns:
            string `[B]`, the records, each compared with the checksum that is stored with it; another number if one cannot be read.
            bool `[B]`, whether each agrees with the index, as far as the graph can tell.
        """
        shards, offsets = tf.gather(self._shard, records), tf.gather(self._offset, records)
        used, _ = tf.unique(shards)
        beyond = _sizes_differ(tf.gather(self._paths, used), tf.gather(self._sizes, used))
        untouched = tf.autograph.experimental.do_not_convert
        positions = tf.data.Dataset.from_tensor_slices((tf.gather(self._paths, shards), offsets))
        read = positions.flat_map(untouched(_record_at))
        count = tf.size(records, tf.int64)

        def read_all(_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            data = beyond.concatenate(read).batch(2 * count + 1).get_single_element()
            return data, tf.cond(tf.size(data) == tf.size(records), lambda: self._agree(data, records), lambda: tf.zeros([0], tf.bool))

        # All reads in one call of a map, so that an error ends that call: a reader repeats its error forever if the file cannot be opened.
        attempt = tf.data.Dataset.from_tensors(0).map(untouched(read_all)).ignore_errors()
        nothing = tf.data.Dataset.from_tensors((tf.zeros([0], tf.string), tf.zeros([0], tf.bool)))
        data, agree = attempt.concatenate(nothing).take(1).get_single_element()
        return data, agree

    def are_whole(self, data: tf.Tensor, agree: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """bool: whether an attempt has read all records, and they agree with the index."""
        return (tf.size(data) == tf.size(records)) & tf.reduce_all(agree)

    def _agree(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """bool `[B]`: whether the size of each record, and what the index has of its values, are those of the index."""
        same = tf.strings.length(data) == tf.cast(tf.gather(self._bytes, records), tf.int32)
        if self._suspects is not None:
            same &= tf.reduce_all(records[:, None] != self._suspects, 1)
        if self._values:  # only of records of the right size are the positions in the index those of bytes
            same = tf.cond(tf.reduce_all(same), lambda: self._values.agree(data, records), lambda: same)
        return same

    def checked(self, data: tf.Tensor, agree: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """What an attempt has read.

        Raises:
            tf.errors.InvalidArgumentError: a record cannot be read, or disagrees with the index; the text names it.
        """

        def message() -> tf.Tensor:
            last = tf.size(records, tf.int64) - 1
            unread, other = self._first_failure(self._read_one, records), self._first_failure(self._test_size, records)
            record = self._where(records[tf.minimum(unread, last)])
            shard = self._shard[records[tf.minimum(other, last)]]
            size = tf.strings.as_string(self._sizes[shard])
            return tf.where(
                (unread <= last) | (other > last),
                tf.strings.join([record, ": TensorFlow cannot read the record. ", REWRITTEN]),
                tf.strings.join([self._names[shard], ": does not have the ", size, " bytes that were indexed. ", REWRITTEN]),
            )

        with tf.control_dependencies([require(tf.size(data) == tf.size(records), message)]):
            data = tf.identity(data)

        def changed() -> tf.Tensor:
            which = records[tf.argmin(tf.cast(agree, tf.int32))]
            return tf.strings.join([self._where(which), ": is not the record that was indexed. ", REWRITTEN])

        with tf.control_dependencies([require(tf.reduce_all(agree), changed)]):
            return tf.identity(data)

    def _read_one(self, record: tf.Tensor) -> tf.Tensor:
        """int64, 0 or more; an error if the record cannot be read."""
        data = _record_at(self._paths[self._shard[record]], self._offset[record]).get_single_element()
        # Of the sizes, because TensorFlow drops ops without side effects whose results nobody uses.
        return tf.add_n([tf.size(value, tf.int64) for value in (data, *(self._values.parsed(data[None]) if self._values else []))])

    def _test_size(self, record: tf.Tensor) -> tf.Tensor:
        """int64, 0; an error if the file of the record does not have its size."""
        shard = self._shard[record]
        return _sizes_differ(self._paths[shard][None], self._sizes[shard][None]).reduce(np.int64(0), lambda count, _: count + 1)

    def _first_failure(self, test: Callable[[tf.Tensor], tf.Tensor], records: tf.Tensor) -> tf.Tensor:
        """Position of the first record at which a test fails, or their number: TensorFlow's own errors name neither file nor record."""

        def position_if_passed(position: tf.Tensor) -> tf.Tensor:
            return tf.maximum(position, -test(records[position]))

        count = tf.size(records, tf.int64)
        passed = tf.data.Dataset.range(count).map(tf.autograph.experimental.do_not_convert(position_if_passed)).ignore_errors()
        positions = passed.concatenate(tf.data.Dataset.from_tensors(count + 1)).batch(count + 1).get_single_element()
        return tf.math.count_nonzero(positions == tf.range(tf.size(positions, tf.int64)))

    def _where(self, record: tf.Tensor) -> tf.Tensor:
        """Names a record as `Index.where` does."""
        shard, offset = self._shard[record], self._offset[record]
        number = tf.strings.as_string(self._numbers[record])
        return tf.strings.join([self._names[shard], ", record ", number, " at byte ", tf.strings.as_string(offset)])

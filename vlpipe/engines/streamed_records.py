"""What the stream engine compares with the index in Python: lengths before TensorFlow reads a file, and the records that it has read."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.engines.framing import check_lengths
from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.errors import REWRITTEN, DatasetError
from vlpipe.files.filesystem import is_address
from vlpipe.files.tfrecord import masked_crc
from vlpipe.planning.plan import Plan
from vlpipe.storage.example import decode, parse_batch


class StreamedRecords:
    """Compares the records of a plan with its index; they are named by their position in the order of the shards.

    TensorFlow's reader compares a record with the checksum behind it, which is right too in a file that was exchanged.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._index = plan, plan.index
        self._parts, self._order = plan.index.parts(), plan.index.by_shard()
        self._checksums = np.ascontiguousarray(plan.index.rows["checksum"][self._order])
        # Of third-party records, the index was made by parsing them.
        self._parsed = np.full(len(self._order), plan.index.foreign is not None)

    def checked_lengths(self, shard: tf.Tensor) -> tf.Tensor:
        """An empty string, once the lengths before the records of a shard agree with the index.

        A compressed file has none that could be read without uncompressing it, and reading a few bytes at an address takes as long as
        reading a block. TensorFlow's reader of compressed files does not allocate what a header announces.

        Raises:
            tf.errors.OpError: one is another; the text names the record.
        """

        def check(self: StreamedRecords, shard: np.ndarray) -> bytes:
            entry = self._index.shards[int(shard)]
            if not entry.compression and not is_address(entry.path):
                check_lengths(self._index, self._parts[int(shard)])
            return b""

        return tf.ensure_shape(tf.numpy_function(wait_at_exit(check, self), [shard], tf.string, stateful=False), [])

    def checked(self, positions: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
        """int64 `[n]`: the positions, once the records there (string `[n]`) agree with the index; with verify="never" at once.

        Raises:
            tf.errors.OpError: one is not the record that was indexed, or no Example of the schema; the text names it.
        """
        if self._plan.options.verify == "never":
            return positions

        def check(self: StreamedRecords, positions: np.ndarray, data: np.ndarray) -> np.ndarray:
            for position, record in zip(positions.tolist(), data.tolist(), strict=True):
                checksum = masked_crc(record)
                if checksum != self._checksums[position]:
                    self._index.check_record(int(self._order[position]), checksum)
                if not self._parsed[position]:
                    self._parse(position, record)
            return positions

        # The result has to be used: TensorFlow drops a call without side effects that others only wait for.
        checked = tf.numpy_function(wait_at_exit(check, self), [positions, data], tf.int64, stateful=False)
        return tf.ensure_shape(checked, positions.shape)

    def _parse(self, position: int, record: bytes) -> None:
        """Parse a native record once: TensorFlow's errors name neither file nor record, and may be no text at all.

        Raises:
            DatasetError: it is no Example of the schema; the message names it.
        """
        index, row = self._index, int(self._order[position])
        schema = index.written[int(index.rows["shard"][row])] if index.written else index.schema
        try:
            decode(schema, record)
        except ValueError as error:  # it may still be one that TensorFlow takes, which is less strict
            try:
                parse_batch(index.schema, (*self._plan.selection.features, *self._plan.selection.labels), [record])
            except (tf.errors.OpError, UnicodeError) as refusal:
                raise DatasetError(f"{index.where(row)}: is no tf.train.Example of the schema: {error}. {REWRITTEN}") from refusal
        self._parsed[position] = True

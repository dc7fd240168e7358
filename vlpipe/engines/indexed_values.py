"""What the index has of the values of the records, compared in the graph with the records themselves.

The graph engine takes labels and the positions of frames from the index, and frames from the file. A file that is rewritten while it is
open, with records of the same lengths, would otherwise give the frames of one record the label of another.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.planning.plan import Plan
from vlpipe.storage.field_access import FieldAccess, Location
from vlpipe.storage.index import Index, Numbered

_MOST = 5  # bytes of the varint of a length below 2^32


class IndexedValues:
    """The labels that a plan takes from the index, and where it says that native frames are."""

    def __init__(self, plan: Plan) -> None:
        index, selection = plan.index, plan.selection
        numbered = index.numbered if index.numbered is not None and index.numbered.label in selection.labels else None
        labels = [index.access(name) for name in selection.labels if numbered is None or name != numbered.label]
        self._is_native = index.foreign is None
        self._numbers: dict[str, _Numbers | _TextLabel] = {
            access.name: _Numbers(index, access) for access in labels if access.location in (Location.ROW, Location.LIST)
        }
        if numbered is not None:
            self._numbers[numbered.label] = _TextLabel(index, numbered)
        sequences = [*(index.access(name, as_feature=True) for name in selection.features), *labels]
        located = [access for access in sequences if access.location is Location.FRAMES and index.foreign is None]
        self._frames = [_FramesPlace(access, index.rows) for access in located]

    def __bool__(self) -> bool:
        return bool(self._numbers or self._frames)

    def agree(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """bool `[B]`: which of some records (string `[B]`, and their rows) have the values that the index has of them.

        Raises:
            tf.errors.InvalidArgumentError: a native one is no Example.
        """
        agree = tf.ones_like(records, tf.bool)
        if self._numbers:
            agree = self._numbers_agree(data, records) if self._is_native else self._numbers_agree_where_parsed(data, records)
        for place in self._frames:
            agree &= place.agrees(data, records)
        return agree

    def parsed(self, data: tf.Tensor) -> list[tf.Tensor]:
        """What has to be parsed of some native records to compare them; an error where one is no Example."""
        if not self._numbers or not self._is_native:
            return []
        parsed = tf.io.parse_example(data, {name: numbers.feature for name, numbers in self._numbers.items()})
        return [value.values for value in parsed.values()]

    def _numbers_agree(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        parsed = tf.io.parse_example(data, {name: numbers.feature for name, numbers in self._numbers.items()})
        return tf.reduce_all(tf.stack([numbers.agree(parsed[name], records) for name, numbers in self._numbers.items()]), 0)

    def _numbers_agree_where_parsed(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        """The same, where TensorFlow can parse all of the records: the index also takes unusual encodings, which it cannot."""
        untouched = tf.autograph.experimental.do_not_convert
        compared = tf.data.Dataset.from_tensors(0).map(untouched(lambda _: self._numbers_agree(data, records))).ignore_errors()
        unknown = tf.data.Dataset.from_tensors(tf.ones_like(records, tf.bool))
        return compared.concatenate(unknown).take(1).get_single_element()


class _Numbers:
    """The numbers of one label: a fixed number of each row, or a list of each."""

    def __init__(self, index: Index, access: FieldAccess) -> None:
        is_float = access.dtype.kind == "f" and access.location is Location.ROW
        self.feature = tf.io.RaggedFeature(tf.float32 if is_float else tf.int64, row_splits_dtype=tf.int64)
        self._is_list = access.location is Location.LIST
        if self._is_list:
            starts, counts, values = access.starts(index.rows), access.counts(index.rows), access.values
        else:
            table = _as_written(index, access).reshape(len(index), -1)
            counts = np.full(len(table), table.shape[1], np.int64)
            starts, values = np.arange(len(table), dtype=np.int64) * table.shape[1], table.ravel()
        self._starts, self._counts = tf.constant(starts), tf.constant(counts)
        # Bits, so that a NaN equals itself.
        values = values.astype(np.float32).view(np.int32) if is_float else values.astype(np.int64)
        self._values = tf.constant(np.append(values, values.dtype.type(0)))  # one more, so that there is one at 0

    def agree(self, found: tf.RaggedTensor, records: tf.Tensor) -> tf.Tensor:
        counts, lengths = tf.gather(self._counts, records), found.row_lengths()
        same = lengths == counts
        starts = tf.gather(self._starts, records)
        steps = tf.range(tf.reduce_max(counts))
        inside = (steps < counts[:, None]) & same[:, None]
        expected = tf.gather(self._values, tf.where(inside, starts[:, None] + steps, 0))
        values = tf.where(inside, tf.gather(self._padded(found), tf.where(inside, found.row_starts()[:, None] + steps, 0)), expected)
        same &= tf.reduce_all(values == expected, 1)
        return same if self._is_list else same | (lengths == 0)  # the index has the default of the layout

    def _padded(self, found: tf.RaggedTensor) -> tf.Tensor:
        """The values, and one more, so that there is one at 0."""
        values = found.values if found.dtype == tf.int64 else tf.bitcast(found.values, tf.int32)
        return tf.concat([values, tf.zeros([1], values.dtype)], 0)


def _as_written(index: Index, access: FieldAccess) -> np.ndarray:
    """`[records, ...]`: the values of a label in the rows as they are in the records."""
    values = access.row_values(index.rows)
    if index.renumbered is None or index.renumbered.label != access.name:
        return values
    written = np.array(values)
    for shard, table in enumerate(index.renumbered.tables):
        own = index.rows["shard"] == shard
        numbers = np.zeros(int(max(values[own].max(initial=0), table.max(initial=0))) + 1, np.int64)
        numbers[table] = np.arange(len(table))
        written[own] = numbers[values[own]]
    return written


class _TextLabel:
    """A label that is a text in the records, and in the index the number of its class."""

    def __init__(self, index: Index, numbered: Numbered) -> None:
        self.feature = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
        self._classes = tf.constant([name.encode("utf-8", "surrogateescape") for name in numbered.classes])
        self._numbers = tf.constant(index.access(numbered.label).row_values(index.rows).astype(np.int64))

    def agree(self, found: tf.RaggedTensor, records: tf.Tensor) -> tf.Tensor:
        expected = tf.gather(self._classes, tf.gather(self._numbers, records))
        one = found.row_lengths() == 1  # a record without the text has the empty one
        first = tf.gather(tf.concat([found.values, [b""]], 0), tf.where(one, found.row_starts(), tf.size(found.values, tf.int64)))
        return (found.row_lengths() <= 1) & (first == expected)


class _FramesPlace:
    """The frames of a native sequence: the varint before them has to be their size, where the index says that they start."""

    def __init__(self, access: FieldAccess, rows: np.ndarray) -> None:
        self._starts, self._sizes = tf.constant(access.starts(rows)), tf.constant(access.counts(rows) * access.sequence.frame_bytes)

    def agrees(self, data: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        sizes, steps = tf.gather(self._sizes, records)[:, None], tf.range(_MOST, dtype=tf.int64)
        groups = tf.bitwise.right_shift(sizes, 7 * steps)  # of seven bits, the lowest first
        lengths = tf.reduce_sum(tf.cast(groups > 0, tf.int64), 1, keepdims=True)
        lengths = tf.maximum(lengths, 1)
        bytes_of = tf.bitwise.bitwise_or(groups % 128, tf.where(steps < lengths - 1, np.int64(128), np.int64(0)))
        before = tf.strings.substr(data, tf.gather(self._starts, records) - lengths[:, 0], lengths[:, 0])
        found = tf.cast(tf.io.decode_raw(before, tf.uint8, fixed_length=_MOST), tf.int64)
        return tf.reduce_all((found == bytes_of) | (steps >= lengths), 1)

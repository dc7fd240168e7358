"""From single records to batches, with tf.data's own ways to batch: for `builders` and the stream engine.

All engines pass a record, or a batch of records, on as one flat dict of tensors:

    x:NAME    a feature, [T, ...] and then [B, T, ...]
    y:NAME    a part of the label
    n:x:NAME  int32, true length of each x whose first axis varies (and n:y:NAME of each y)
    id        int64, the record's row in the index
    weight    float32 [B], 0 for rows that repeat records to complete a batch (remainder="pad")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from vlpipe.planning.options import MAX_BATCH_SIZE, Options
from vlpipe.planning.paddings import Paddings, Value

Flat = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Grouping:
    """How records are grouped into batches.

    Attributes:
        options: of these, `batching`, `pad_to`, `remainder` and the sizes of batches are used.
        paddings: what each part is padded with.
        key: the key feature, such as "x:features".
        boundaries: inclusive upper lengths of the buckets, ascending; no record is longer than the last.
        batch_sizes: sequences in a batch of each bucket.
        aligned: the parts that have one value for each frame of the key feature.
        longest: for each bucket, the length to which other sequences are padded with pad_to="boundary", where it is known.
    """

    options: Options
    paddings: Paddings
    key: str
    boundaries: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    aligned: tuple[str, ...] = ()
    longest: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def drop_remainder(self) -> bool:
        """Whether short batches are left out."""
        return self.options.remainder == "drop"

    def size_for(self, frames: tf.Tensor) -> tf.Tensor:
        """`Options.batch_size_for` in the graph, int64."""
        cap = tf.constant(MAX_BATCH_SIZE if self.options.batch_cap is None else self.options.batch_cap, tf.int64)
        if self.options.frames_per_batch is None:
            size = cap
        else:
            size = tf.minimum(cap, tf.maximum(self.options.frames_per_batch // tf.maximum(tf.cast(frames, tf.int64), 1), 1))
        multiple = tf.constant(self.options.multiple_of or 1, tf.int64)
        return tf.maximum(multiple, size - size % multiple)


def with_lengths(record: Flat) -> Flat:
    """Add the true length of every part whose first axis varies."""
    lengths = {f"n:{name}": tf.shape(value)[0] for name, value in record.items() if _varies(tf.TensorSpec.from_tensor(value))}
    return {**record, **lengths}


def _varies(spec: tf.TensorSpec) -> bool:
    return spec.shape.rank != 0 and spec.shape[0] is None


def group(records: tf.data.Dataset, grouping: Grouping) -> tf.data.Dataset:
    """Batches of records that have their lengths (`with_lengths`)."""
    batch_by = {"bucket": _bucket, "pad": _pad, "ragged": _ragged, "same_length": _same_length}[grouping.options.batching]
    batches = batch_by(records, grouping)
    return batches.map(lambda batch: _completed(_to_boundary(batch, grouping), grouping))


def _bucket(records: tf.data.Dataset, grouping: Grouping) -> tf.data.Dataset:
    # tf.data's boundaries are exclusive, and its last bucket is open. Its option to pad to the boundary would pad labels as well.
    return records.bucket_by_sequence_length(
        element_length_func=lambda record: record[f"n:{grouping.key}"],
        bucket_boundaries=[boundary + 1 for boundary in grouping.boundaries[:-1]],
        bucket_batch_sizes=list(grouping.batch_sizes),
        padded_shapes=_shapes(records),
        padding_values=_paddings(records, grouping),
        drop_remainder=grouping.drop_remainder,
    )


def _pad(records: tf.data.Dataset, grouping: Grouping) -> tf.data.Dataset:
    return _padded(records, grouping.batch_sizes[0], grouping)


def _padded(records: tf.data.Dataset, batch_size: int | tf.Tensor, grouping: Grouping) -> tf.data.Dataset:
    shapes, paddings = _shapes(records), _paddings(records, grouping)
    return records.padded_batch(batch_size, shapes, paddings, drop_remainder=grouping.drop_remainder)


def _same_length(records: tf.data.Dataset, grouping: Grouping) -> tf.data.Dataset:
    return records.group_by_window(
        key_func=lambda record: tf.cast(record[f"n:{grouping.key}"], tf.int64),
        reduce_func=lambda length, window: _padded(window, grouping.size_for(length), grouping),
        window_size_func=grouping.size_for,
    )


def _ragged(records: tf.data.Dataset, grouping: Grouping) -> tf.data.Dataset:
    batches = records.ragged_batch(grouping.batch_sizes[0], drop_remainder=grouping.drop_remainder)
    paddings = _paddings(records, grouping)
    padded = [name for name in paddings if name.startswith("y:") and name not in grouping.aligned]

    def labels_padded(batch: Flat) -> Flat:
        return {
            name: value.to_tensor(paddings[name]) if name in padded and isinstance(value, tf.RaggedTensor) else value
            for name, value in batch.items()
        }

    return batches.map(labels_padded)


def _shapes(records: tf.data.Dataset) -> dict[str, tf.TensorShape]:
    return {name: spec.shape for name, spec in records.element_spec.items()}


def _paddings(records: tf.data.Dataset, grouping: Grouping) -> Flat:
    return {name: padding_tensor(grouping.paddings.of(name), spec.dtype) for name, spec in records.element_spec.items()}


def padding_tensor(value: Value, dtype: tf.DType) -> tf.Tensor:
    """A padding that `Paddings` gives, as a scalar of the dtype of its part."""
    if isinstance(value, str):
        return tf.constant(value)
    wide = np.float64 if isinstance(value, float) else np.int64 if value < 2**63 else np.uint64
    # An array: TensorFlow keeps the constants of Python numbers, and takes -0.0 for a 0.0 that it has seen.
    return tf.cast(tf.constant(np.array(value, wide)), dtype)


def _to_boundary(batch: Flat, grouping: Grouping) -> Flat:
    """Pad the key feature, and what is aligned with it, further: to the upper length of its bucket; other sequences to their own."""
    if grouping.options.pad_to != "boundary":
        return batch
    bucket = _bucket_of(batch, grouping)

    def padded(name: str, uppers: tuple[int, ...]) -> tf.Tensor:
        part, shape = batch[name], batch[name].shape
        upper, frames = tf.constant(uppers)[bucket], uppers[0] if len(uppers) == 1 else None
        paddings = [[0, 0], [0, upper - tf.shape(part)[1]]] + [[0, 0]] * (shape.rank - 2)
        part = tf.pad(part, paddings, constant_values=padding_tensor(grouping.paddings.of(name), part.dtype))
        return tf.ensure_shape(part, [shape[0], frames, *shape[2:]])

    uppers = {**grouping.longest, **dict.fromkeys((grouping.key, *grouping.aligned), grouping.boundaries)}
    return {**batch, **{name: padded(name, lengths) for name, lengths in uppers.items()}}


def _bucket_of(batch: Flat, grouping: Grouping) -> tf.Tensor:
    longest = tf.reduce_max(batch[f"n:{grouping.key}"])
    return tf.searchsorted(tf.constant(grouping.boundaries), longest[None], side="left")[0]


def _completed(batch: Flat, grouping: Grouping) -> Flat:
    """With remainder="pad", complete a short batch by repeating its rows in turn, with weight 0."""
    if grouping.options.remainder != "pad":
        return batch
    lengths = batch[f"n:{grouping.key}"]
    rows = tf.shape(lengths)[0]
    if grouping.options.batching == "same_length":
        size = tf.cast(grouping.size_for(lengths[0]), tf.int32)
    else:
        size = tf.constant(grouping.batch_sizes)[_bucket_of(batch, grouping)]
    chosen = tf.range(size)
    completed = {name: tf.gather(value, chosen % rows) for name, value in batch.items()}
    return {**completed, "weight": tf.cast(chosen < rows, tf.float32)}

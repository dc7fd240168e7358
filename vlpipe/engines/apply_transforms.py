"""From frames as they are read to frames as they are padded, in the graph: transformed, normalised, augmented.

The frames of all sequences of a batch are concatenated to `[N, ...]`, so that padding is never counted, masked or computed with (on padded
batches the same work takes six times as long). They are padded at the end. A dataset without transform, normalize and augment skips this
module.
"""

from __future__ import annotations

import tensorflow as tf

from vlpipe.engines.grouping import Flat, padding_tensor
from vlpipe.engines.splitmix_graph import draws
from vlpipe.planning.plan import Plan
from vlpipe.planning.splitmix import MASKS
from vlpipe.transforms.augment import masked
from vlpipe.transforms.normalize import by_moments, by_utterance, means
from vlpipe.transforms.transform import transformed


def transform_batch(plan: Plan, batch: Flat) -> Flat:
    """A flat batch with its features transformed and padded.

    Args:
        batch: x:NAME are ragged, of `plan.reading_dtype(NAME)`. In addition to the parts of a flat batch it has "id", "epoch" (int64
            scalar), with `augment` "number" (int64 `[B]`, from which masks are drawn), and with pad_to="boundary" "bucket" (int64 scalar).
    """
    epoch, bucket, numbers = batch.pop("epoch"), batch.pop("bucket", None), batch.pop("number", None)
    result = dict(batch)
    for name in plan.selection.features:
        sequences = _transformed(plan, name, batch[f"x:{name}"], batch["id"], numbers, epoch)
        result[f"n:x:{name}"] = tf.cast(sequences.row_lengths(), tf.int32)
        at_boundary = bucket if plan.options.pad_to == "boundary" and name == plan.selection.key else None
        result[f"x:{name}"] = sequences if plan.options.batching == "ragged" else _padded(plan, name, sequences, at_boundary)
    return result


def transform_record(plan: Plan, record: Flat, number: tf.Tensor, epoch: tf.Tensor) -> Flat:
    """A single record with its features x:NAME `[T, ...]` transformed.

    Args:
        number: int64 scalar, its id.
        epoch: int64 scalar.
    """

    def one(name: str, frames: tf.Tensor) -> tf.Tensor:
        sequence = tf.RaggedTensor.from_row_lengths(frames, tf.shape(frames, tf.int64)[:1], validate=False)
        values = _transformed(plan, name, sequence, number[None], number[None], epoch).values
        return tf.ensure_shape(values, [None, *plan.dimensions(name)])

    return {**record, **{f"x:{name}": one(name, record[f"x:{name}"]) for name in plan.selection.features}}


def _transformed(
    plan: Plan, name: str, sequences: tf.RaggedTensor, ids: tf.Tensor, numbers: tf.Tensor | None, epoch: tf.Tensor
) -> tf.RaggedTensor:
    """A feature `[B, None, ...]`, transformed, normalised and augmented, in this order."""
    options, frame_plan = plan.options, plan.frame_plan
    is_key = name == plan.selection.key
    if is_key and frame_plan.traced is not None and frame_plan.lengths is not None:
        sequences = transformed(frame_plan.traced, sequences, frame_plan.lengths, ids)
    if options.normalize is not None:
        values = tf.cast(sequences.values, tf.float64)
        if options.normalize == "utterance":
            values = by_utterance(values, sequences.value_rowids(), sequences.nrows())
        else:
            values = by_moments(values, frame_plan.moments[name])
        sequences = sequences.with_values(values)
    if is_key and options.augment is not None:
        fill = _fill(sequences, options.augment.fill)
        drawn = draws(options.seed or 0, epoch, MASKS, numbers, options.augment.draws)
        sequences = sequences.with_values(masked(options.augment, sequences, fill, drawn))
    return sequences.with_values(tf.cast(sequences.values, options.dtype))


def _fill(sequences: tf.RaggedTensor, fill: str) -> tf.Tensor:
    """`[B, d]`: the value of masked frames of each sequence."""
    values = sequences.values
    if fill == "zero":
        return tf.zeros([sequences.nrows(), *values.shape[1:]], values.dtype)
    return tf.cast(means(tf.cast(values, tf.float64), sequences.value_rowids(), sequences.nrows()), values.dtype)


def _padded(plan: Plan, name: str, sequences: tf.RaggedTensor, bucket: tf.Tensor | None) -> tf.Tensor:
    """`[B, T, ...]`: padded to the longest of the batch, or to the boundary of a bucket."""
    dimensions = plan.dimensions(name)
    padding = padding_tensor(plan.selection.paddings.of(f"x:{name}"), sequences.dtype)
    frames = tf.reduce_max(sequences.row_lengths()) if bucket is None else tf.constant(plan.boundaries or (0,), tf.int64)[bucket]
    shape = tf.stack([sequences.nrows(), frames, *(tf.constant(n, tf.int64) for n in dimensions)])
    static = sequences.shape[0]
    return tf.ensure_shape(sequences.to_tensor(padding, shape=shape), [static, None, *dimensions])

"""From frames as they are read to frames as they are padded, in the graph: transformed, normalised, augmented.

The frames of all sequences of a batch are concatenated to `[N, ...]`, so that padding is never counted, masked or computed with (on padded
batches the same work takes six times as long). They are padded at the end. A dataset without transform, normalize and augment, whose dtype
holds every stored value, skips this module.
"""

from __future__ import annotations

import tensorflow as tf

from vlpipe.engines.augment import Augmenter, Draws
from vlpipe.engines.check_finite import checked, zeroed
from vlpipe.engines.exact_cast import cast_exactly
from vlpipe.engines.grouping import Flat, padding_tensor
from vlpipe.engines.waveforms import waveforms_of
from vlpipe.planning.plan import Plan
from vlpipe.planning.selection import FramePart
from vlpipe.transforms.normalize import by_moments, by_utterance
from vlpipe.transforms.transform import transformed


def transform_batch(plan: Plan, batch: Flat, augmenter: Augmenter) -> Flat:
    """A flat batch with its features and aligned labels transformed and padded.

    Args:
        batch: these are ragged, of `FramePlan.reading_dtype(NAME)`; where an engine reads a waveform padded to whole blocks, it has
            "blocks:NAME" instead (`WaveformFeatures.of_blocks`). In addition to the parts of a flat batch it has "id", "epoch" (int64
            scalar), with `augment` "number" (int64 `[B]`, from which its random numbers are drawn), with `SpeedPerturb` "speed" (int64
            `[B]`, the position of the factor), and where the plan `has_least_frames` "bucket" (int64 scalar).
        augmenter: that of the plan.
    """
    epoch, bucket, numbers = batch.pop("epoch"), batch.pop("bucket", None), batch.pop("number", None)
    draws = None if numbers is None else Draws(numbers, epoch, batch.pop("speed", None))
    result = dict(batch)
    for part in plan.selection.frame_parts:
        blocks, waveform = result.pop(f"blocks:{part.flat}", None), plan.frame_plan.waveform(part.name)
        if blocks is not None and waveform is not None:
            sequences = waveform.of_blocks(blocks, batch["id"])
        else:
            sequences = _transformed(plan, part, batch[part.flat], batch["id"], draws, augmenter)
        sequences = _normalized(plan, part, sequences, draws, augmenter)
        if draws is not None and (mixing := augmenter.mixing(sequences, draws)) is not None:
            if plan.options.check_finite is not None:  # here, where a NaN is still in the record that it comes from
                batch = checked({**batch, part.flat: sequences}, plan)
                sequences = batch[part.flat]
            sequences = mixing.frames(sequences)
            result |= {f"y:{name}": mixing.labels(name, batch[f"y:{name}"]) for name in plan.selection.labels}
            result |= {"partner": tf.gather(batch["id"], mixing.partners)} if plan.options.ids else {}
        result[f"n:{part.flat}"] = tf.cast(sequences.row_lengths(), tf.int32)
        result[part.flat] = sequences if plan.options.batching == "ragged" else _padded(plan, part, sequences, bucket)
    return result


def transform_record(plan: Plan, record: Flat, number: tf.Tensor, draws: Draws, augmenter: Augmenter) -> Flat:
    """A single record with its features and aligned labels `[T, ...]` transformed.

    Args:
        number: int64 scalar, its id.
        draws: of a batch of this record alone.
        augmenter: that of the plan.
    """

    def one(part: FramePart, frames: tf.Tensor) -> tf.Tensor:
        sequence = tf.RaggedTensor.from_row_lengths(frames, tf.shape(frames, tf.int64)[:1], validate=False)
        sequence = _transformed(plan, part, sequence, number[None], draws, augmenter)
        values = _normalized(plan, part, sequence, draws, augmenter).values
        return tf.ensure_shape(values, [None, *plan.frame_plan.dimensions_of(part.name)])

    return {**record, **{part.flat: one(part, record[part.flat]) for part in plan.selection.frame_parts}}


def _transformed(
    plan: Plan,
    part: FramePart,
    sequences: tf.RaggedTensor,
    ids: tf.Tensor,
    draws: Draws | None,
    augmenter: Augmenter,
) -> tf.RaggedTensor:
    """A sequence `[B, None, ...]`, transformed. What augments a waveform comes before the transform."""
    options, frame_plan, name = plan.options, plan.frame_plan, part.name
    if part.is_feature and options.check_finite == "zero" and sequences.dtype.is_floating:  # a NaN would make the whole mean one
        sequences = sequences.with_values(zeroed(sequences.values))
    if part.is_feature and plan.frame_plan.can_lose(name) and not plan.frame_plan.normalizes_stored(name):
        sequences = cast_exactly(plan.index, name, sequences, plan.selection.dtypes[name], ids)
    waveform = frame_plan.waveform(name)
    changing = draws if name == plan.selection.key and augmenter.changes_samples else None
    if waveform is not None and not frame_plan.keeps_samples(name) and (waveform.is_resampled or changing is None):
        sequences = waveforms_of(waveform, sequences)
    if changing is not None:
        sequences = augmenter.samples(sequences, ids, changing, waveform)
        if waveform is not None:
            return waveform.of_blocks(sequences, ids)
    if name in frame_plan.traced and frame_plan.lengths is not None:
        sequences = transformed(frame_plan.traced[name], sequences, frame_plan.lengths, ids)
    return sequences


def _normalized(plan: Plan, part: FramePart, sequences: tf.RaggedTensor, draws: Draws | None, augmenter: Augmenter) -> tf.RaggedTensor:
    """A sequence `[B, None, ...]` after its transform: a feature is normalised, and then augmented, in its dtype."""
    options, frame_plan, name = plan.options, plan.frame_plan, part.name
    if not part.is_feature:
        return sequences
    dtype = plan.selection.dtypes[name]
    if options.normalize is not None:
        values = tf.cast(sequences.values, tf.float64)
        if options.normalize == "utterance":
            values = by_utterance(values, sequences.value_rowids(), sequences.nrows())
        else:
            values = by_moments(values, frame_plan.moments[name])
        sequences = sequences.with_values(values)
    if name == plan.selection.key and draws is not None:
        sequences = augmenter.features(sequences, draws)
    return sequences.with_values(tf.cast(sequences.values, dtype))


def _padded(plan: Plan, part: FramePart, sequences: tf.RaggedTensor, bucket: tf.Tensor | None) -> tf.Tensor:
    """`[B, T, ...]`: padded to the longest of the batch, or to the least frames of a bucket."""
    dimensions = plan.frame_plan.dimensions_of(part.name)
    padding = padding_tensor(plan.selection.paddings.of(part.flat), sequences.dtype)
    frames = tf.reduce_max(sequences.row_lengths())
    least = plan.least_by_part[part.flat]
    if bucket is not None and least.any():
        frames = tf.maximum(frames, tf.constant(least)[bucket])
    shape = tf.stack([sequences.nrows(), frames, *(tf.constant(n, tf.int64) for n in dimensions)])
    static = sequences.shape[0]
    return tf.ensure_shape(sequences.to_tensor(padding, shape=shape), [static, None, *dimensions])

"""Normalisation: every dimension of the frames to mean 0 and variance 1, accumulated in float64 over real frames.

    x' = (x - mean) / deviation

where the deviation is the square root of the population variance. A dimension that is constant but for the rounding of float32 (its
deviation is at most 1e-7 of its mean) has none to divide by: it is divided by 1, and so comes out as 0 but for rounding. That is the
case of every dimension of a sequence of one frame. The rule knows no absolute scale, so that it is the same for watts and microwatts;
with a constant such as 1e-8 added to the variance it would not be.

Values that are not finite are left out of mean and variance, and stay where they are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.index import Index

if TYPE_CHECKING:
    import tensorflow as tf

CONSTANT = 1e-7  # of the mean: float32 has 24 bits


class MeanVariance(NamedTuple):
    """Mean and population variance of each dimension, float64."""

    mean: np.ndarray
    variance: np.ndarray


def of_source(index: Index, name: str) -> MeanVariance:
    """Those of a sequence over all frames of a source, as `vlpipe.json` has them; of several datasets together, weighted by their frames.

    Raises:
        DatasetError: the metadata do not have them of just these records, or not as finite numbers.
    """
    found = index.statistics.get(name)
    directory = os.path.dirname(index.shards[0].path)
    where = f'{directory}: normalize="global": the statistics of "{name}"'
    if found is None:
        raise DatasetError(
            f"{where} are missing in vlpipe.json, or only some shards of a dataset are read. Read it whole, write it again with "
            'vlpipe.Writer, which notes them, or use normalize="utterance".'
        )
    if not np.isfinite([found.mean, found.variance]).all():
        raise DatasetError(f'{where} are beyond the range of float64. Use normalize="utterance".')
    dimensions = index.schema.sequences[name].dimensions
    return MeanVariance(found.mean.reshape(dimensions), found.variance.reshape(dimensions))


def by_moments(values: tf.Tensor, of: MeanVariance) -> tf.Tensor:
    """float64 `[N, ...]`: frames (float64) normalised by one mean and variance for all."""
    return (values - of.mean) / _divisor(of.mean, of.variance)


def by_utterance(values: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """float64 `[N, ...]`: the frames of each sequence normalised by its own mean and variance; arguments as in `means`."""
    import tensorflow as tf

    mean = means(values, rows, count)
    # A second pass over the differences: the mean of the squares less the square of the mean would lose what large means leave of 53 bits.
    difference = values - tf.gather(mean, rows)
    variance = means(tf.square(difference), rows, count)
    return difference / tf.gather(_divisor(mean, variance), rows)


def means(values: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """float64 `[B, ...]`: the mean of each dimension of each sequence over its finite values; 0 where there is none.

    Args:
        values: float64 `[N, ...]`, the frames of B sequences one after another.
        rows: int64 `[N]`, the sequence of each frame.
        count: int64 scalar, B.
    """
    import tensorflow as tf

    def total(numbers: tf.Tensor) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(numbers, rows, count)

    sums = total(values)

    def of_all() -> tf.Tensor:
        frames = total(tf.ones_like(rows, tf.float64))
        return sums / tf.maximum(tf.reshape(frames, [-1] + [1] * (values.shape.rank - 1)), 1.0)

    def of_finite() -> tf.Tensor:
        finite = tf.math.is_finite(values)
        return total(tf.where(finite, values, 0.0)) / tf.maximum(total(tf.cast(finite, tf.float64)), 1.0)

    # To look at every value takes as long as all the rest; where all are finite, so are their sums.
    return tf.cond(tf.reduce_all(tf.math.is_finite(sums)), of_all, of_finite)


def _divisor(mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    deviation = tf.sqrt(variance)
    return tf.where(deviation > CONSTANT * tf.abs(mean), deviation, 1.0)

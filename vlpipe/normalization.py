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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlpipe.errors import DatasetError

if TYPE_CHECKING:
    import tensorflow as tf

CONSTANT = 1e-7  # of the mean: float32 has 24 bits


class Moments(NamedTuple):
    """Mean and population variance of each dimension, float64."""

    mean: np.ndarray
    variance: np.ndarray


def pooled(statistics: Mapping[str, Any], name: str, dimensions: tuple[int, ...]) -> Moments:
    """Mean and variance of a sequence of the schema over several datasets together, each weighted by its frames.

    Args:
        statistics: the object "statistics" of each dataset's `vlpipe.json`, by its directory.
        name: of the sequence.
        dimensions: of its frames.

    Raises:
        DatasetError: a dataset has no such statistics, or no usable ones.
    """
    size = int(np.prod(dimensions, dtype=np.int64))
    parts = [_checked(directory, document, name, size) for directory, document in statistics.items()]
    counts, means, variances = (np.stack(column) for column in zip(*parts, strict=True))
    total = np.maximum(counts.sum(0), 1.0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + np.square(means - mean))).sum(0) / total
    return Moments(mean.reshape(dimensions), variance.reshape(dimensions))


def _checked(directory: str, document: Any, name: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and variance, float64 `[size]`."""
    where = f'{os.path.join(directory, "vlpipe.json")}: normalize="global": the statistics of "{name}"'
    instead = 'Write the dataset again with vlpipe.Writer, which notes them, or use normalize="utterance".'
    entry = document.get(name) if isinstance(document, dict) else None
    if entry is None:
        raise DatasetError(f"{where} are missing. {instead}")
    try:
        count, mean, variance = (np.asarray([float(number) for number in entry[key]]) for key in ("count", "mean", "variance"))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DatasetError(f"{where} are not three lists of numbers ({error!r}); null is beyond the range of float64. {instead}") from error
    numbers = np.stack([count, mean, variance]) if len(count) == len(mean) == len(variance) else np.empty(0)
    if numbers.shape != (3, size) or not np.isfinite(numbers).all() or (count < 0).any() or (variance < 0).any():
        raise DatasetError(f"{where} are not count, mean and variance of {size} dimensions, finite and >= 0. {instead}")
    return count, mean, variance


def by_moments(values: tf.Tensor, of: Moments) -> tf.Tensor:
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

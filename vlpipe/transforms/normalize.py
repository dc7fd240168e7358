"""Normalisation: every dimension of the frames to mean 0 and variance 1, accumulated in float64 over real frames.

    x' = (x - mean) / deviation

where the deviation is the square root of the population variance. A dimension that is constant but for the rounding of float32 (its
deviation is at most 1e-7 of its mean) has none to divide by: it is divided by 1, and so comes out as 0 but for rounding. That is the
case of every dimension of a sequence of one frame. The rule knows no absolute scale, so that it is the same for watts and microwatts;
with a constant such as 1e-8 added to the variance it would not be.

Values that are not finite are left out of mean and variance, and stay where they are.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.storage.index import FORMAT, METADATA_NAME, Index
from vlpipe.storage.schema import Schema
from vlpipe.storage.statistics import Moments

if TYPE_CHECKING:
    import tensorflow as tf

CONSTANT = 1e-7  # of the mean: float32 has 24 bits

_PATHS = (
    "Pass a dataset directory that vlpipe wrote, its vlpipe.json, or a file that `vlpipe stats SOURCE --json` wrote (of TFRecords of "
    "others, with --compute)."
)


class MeanVariance(NamedTuple):
    """Mean and population variance of each dimension, float64."""

    mean: np.ndarray
    variance: np.ndarray


def of_source(index: Index, name: str) -> MeanVariance:
    """Those of a sequence over all frames of a source, as they are known; of several datasets together, weighted by their frames.

    Raises:
        DatasetError: they are not known of just these records, or not as finite numbers.
    """
    where = f'{os.path.dirname(index.shards[0].path)}: normalize="global"'
    if name not in index.statistics:
        raise DatasetError(
            f'{where}: the statistics of "{name}" are not known: vlpipe notes those of whole datasets that it writes. Compute them '
            "with `vlpipe stats SOURCE --compute` (and the same --layout), which reads the frames and keeps what it finds; pass "
            'normalize="data/train" to take those of another dataset; or use normalize="utterance".'
        )
    return _finite(index.statistics[name], name, index.schema.sequences[name].dimensions, where)


def of_path(path: str, features: dict[str, tuple[int, ...]]) -> dict[str, MeanVariance]:
    """Those that a dataset directory, its `vlpipe.json`, or what `vlpipe stats SOURCE --json` printed, has of sequences of the same names.

    Args:
        features: the dimensions of the frames of each.

    Raises:
        DatasetError: there are none at the path, not all, or of frames of another shape.
    """
    path = os.path.join(path, METADATA_NAME) if os.path.isdir(path) else path
    entries = _read_entries(path)
    found = {}
    for name, dimensions in features.items():
        shape, entry = entries.get(name, (None, None))
        if shape is None or entry is None:
            known = [other for other, (_, of) in entries.items() if of is not None]
            raise DatasetError(
                f'normalize: {path}: has no statistics of "{name}", only of {known}. Compute them with `vlpipe stats SOURCE --compute '
                "--json`, of a source whose sequence has this name."
            )
        if shape != dimensions:
            raise DatasetError(
                f'normalize: {path}: its statistics of "{name}" are of frames {list(shape)}, here they are {list(dimensions)}. Pass those '
                "of a dataset of the same features."
            )
        try:
            moments = Moments.from_json(entry, math.prod(dimensions))
        except ValueError as error:
            raise DatasetError(f'normalize: {path}: of "{name}", {error}. {_PATHS}') from error
        found[name] = _finite(moments, name, dimensions, f"normalize: {path}")
    return found


def _read_entries(path: str) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The shape of a frame of each sequence, and what is said of its statistics (None: nothing)."""
    if not os.path.isfile(path):  # to read a pipe would wait for somebody who writes into it
        raise DatasetError(f"normalize: {path}: there is no such file. {_PATHS}")
    try:
        document = json.loads(Path(path).read_text("utf-8"))
        if document.get("format") == FORMAT:
            sequences, statistics = Schema.from_json(document["schema"]).sequences, document["statistics"]
            return {name: (sequence.dimensions, statistics.get(name)) for name, sequence in sequences.items()}
        return {name: (tuple(sequence["shape"]), sequence["statistics"]) for name, sequence in document["sequences"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(f"normalize: {path}: no statistics can be read there ({type(error).__name__}: {error}). {_PATHS}") from error


def _finite(moments: Moments, name: str, dimensions: tuple[int, ...], where: str) -> MeanVariance:
    if not np.isfinite([moments.mean, moments.variance]).all():
        raise DatasetError(f'{where}: the statistics of "{name}" are beyond the range of float64. Use normalize="utterance".')
    return MeanVariance(moments.mean.reshape(dimensions), moments.variance.reshape(dimensions))


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

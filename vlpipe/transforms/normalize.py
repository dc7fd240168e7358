"""Normalisation: every dimension of the frames to mean 0 and variance 1, accumulated in float64 over real frames.

    x' = (x - mean) / deviation

The deviation is the square root of the population variance. A dimension that is constant up to the rounding of float32 (its deviation is at
most 1e-7 of its mean) is divided by 1 instead, and so becomes 0 up to rounding; every dimension of a sequence of one frame is. This rule
has no absolute scale: it is the same for watts and microwatts, which it would not be with a constant such as 1e-8 added to the variance.

Values that are not finite do not enter mean and variance, and are delivered unchanged.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.files.filesystem import read_file
from vlpipe.files.json_files import MAX_JSON_BYTES, parse_json
from vlpipe.sources.statistics_cache import known_statistics
from vlpipe.storage.index import FORMAT, METADATA_NAME, Index
from vlpipe.storage.metadata import parse_metadata
from vlpipe.storage.paths import Opened
from vlpipe.storage.statistics import Moments

if TYPE_CHECKING:
    import tensorflow as tf

CONSTANT = 1e-7  # of the mean: float32 has 24 bits

_PATHS = (
    "Pass a dataset directory that vlpipe wrote, its vlpipe.json, or a file that `vlpipe stats SOURCE --json` wrote (for third-party "
    "TFRecords with --compute)."
)


class MeanVariance(NamedTuple):
    """Mean and population variance of each dimension, float64."""

    mean: np.ndarray
    variance: np.ndarray


class _Statistics(NamedTuple):
    """Statistics of one sequence in a file: the shape of its frames, and its moments if they are known."""

    shape: tuple[int, ...]
    moments: Moments | None


def of_source(index: Index, name: str) -> MeanVariance:
    """Mean and variance of a sequence over all frames of a source; of several datasets together, weighted by their frames.

    Raises:
        DatasetError: they are not known for exactly these records, or are not finite numbers.
    """
    where = f'{os.path.dirname(index.shards[0].path)}: normalize="global"'
    statistics = known_statistics(index)
    if name not in statistics:
        raise DatasetError(
            f'{where}: the statistics of "{name}" are unknown: vlpipe stores those of whole datasets that it writes. Compute them with '
            "`vlpipe.open(SOURCE).with_statistics()` (of a selection: `selection.with_statistics()`) or `vlpipe stats SOURCE --compute` "
            "(and the same --layout and --where), which read all frames and keep the result; pass "
            'normalize="data/train" for the statistics of another dataset; or use normalize="utterance".'
        )
    return _finite(statistics[name], name, index.schema.sequences[name].dimensions, where)


def of_opened(source: Opened, features: dict[str, tuple[int, ...]]) -> dict[str, MeanVariance]:
    """Mean and variance of sequences over all frames of an open source, such as the training part of a split.

    Args:
        features: shape of a frame, by name of the sequence.

    Raises:
        DatasetError: they are not known for exactly its records, it lacks a sequence, or its frames have another shape.
    """
    sequences = source.index.schema.sequences
    for name, dimensions in features.items():
        if name not in sequences or sequences[name].dimensions != dimensions:
            found = f"frames {list(sequences[name].dimensions)}" if name in sequences else f"only {list(sequences)}"
            raise DatasetError(
                f'normalize: the source has {found}, expected a sequence "{name}" of frames {list(dimensions)}. Pass a source with the '
                "same features."
            )
    return {name: of_source(source.index, name) for name in features}


def of_path(path: str, features: dict[str, tuple[int, ...]]) -> dict[str, MeanVariance]:
    """Mean and variance of sequences, from a dataset directory, its `vlpipe.json`, or the output of `vlpipe stats SOURCE --json`.

    Args:
        features: shape of a frame, by name of the sequence.

    Raises:
        DatasetError: the path has no statistics, lacks a sequence, or its frames have another shape.
    """
    path = os.path.join(path, METADATA_NAME) if os.path.isdir(path) else path
    statistics = _read(path)
    result = {}
    for name, dimensions in features.items():
        shape, moments = statistics.get(name, _Statistics((), None))
        if moments is None:
            known = [other for other, entry in statistics.items() if entry.moments is not None]
            raise DatasetError(
                f'normalize: {path}: has no statistics of "{name}", only of {known}. Compute them with `vlpipe stats SOURCE --compute '
                "--json`, for a source whose sequence has this name."
            )
        if shape != dimensions:
            raise DatasetError(
                f'normalize: {path}: its statistics of "{name}" are of frames {list(shape)}, here frames are {list(dimensions)}. Pass the '
                "statistics of a dataset with the same features."
            )
        result[name] = _finite(moments, name, dimensions, f"normalize: {path}")
    return result


def _read(path: str) -> dict[str, _Statistics]:
    """The statistics in a file, by sequence."""
    if not os.path.isfile(path):  # reading a pipe would wait for a writer
        raise DatasetError(f"normalize: {path}: no such file. {_PATHS}")
    try:
        content = read_file(path, MAX_JSON_BYTES)
        document = parse_json(content)
        if document.get("format") != FORMAT:
            return {name: _entry(name, sequence) for name, sequence in document["sequences"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(f"normalize: {path}: contains no readable statistics ({type(error).__name__}: {error}). {_PATHS}") from error
    metadata = parse_metadata(content, path)
    sequences = metadata.schema.sequences
    return {name: _Statistics(sequence.dimensions, metadata.statistics.get(name)) for name, sequence in sequences.items()}


def _entry(name: str, sequence: Any) -> _Statistics:
    """One sequence of `vlpipe stats --json`."""
    dimensions, statistics = tuple(sequence["shape"]), sequence["statistics"]
    if statistics is None:
        return _Statistics(dimensions, None)
    try:
        return _Statistics(dimensions, Moments.from_json(statistics, math.prod(dimensions)))
    except ValueError as error:
        raise ValueError(f'of "{name}", {error}') from error


def _finite(moments: Moments, name: str, dimensions: tuple[int, ...], where: str) -> MeanVariance:
    if not np.isfinite([moments.mean, moments.variance]).all():
        raise DatasetError(f'{where}: the statistics of "{name}" exceed the range of float64. Use normalize="utterance".')
    return MeanVariance(moments.mean.reshape(dimensions), moments.variance.reshape(dimensions))


def by_moments(values: tf.Tensor, moments: MeanVariance) -> tf.Tensor:
    """float64 `[N, ...]`: frames (float64), normalised with one mean and variance for all."""
    return (values - moments.mean) / _divisor(moments.mean, moments.variance)


def by_utterance(values: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """float64 `[N, ...]`: the frames of each sequence, normalised with its own mean and variance; arguments as for `means`."""
    import tensorflow as tf

    mean = means(values, rows, count)
    # A second pass over the differences: with a large mean, the mean of squares minus the squared mean has few correct bits left.
    difference = values - tf.gather(mean, rows)
    variance = means(tf.square(difference), rows, count)
    return difference / tf.gather(_divisor(mean, variance), rows)


def means(values: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """float64 `[B, ...]`: the mean of each dimension of each sequence over its finite values; 0 without any.

    Args:
        values: float64 `[N, ...]`, the frames of B sequences, concatenated.
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

    # Testing every value takes as long as the rest of this function; if the sums are finite, so are all values.
    return tf.cond(tf.reduce_all(tf.math.is_finite(sums)), of_all, of_finite)


def _divisor(mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    deviation = tf.sqrt(variance)
    return tf.where(deviation > CONSTANT * tf.abs(mean), deviation, 1.0)

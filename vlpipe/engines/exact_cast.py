"""Converts values to another dtype, and refuses records of which a value would be lost."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.storage.example import require
from vlpipe.storage.index import Index


def cast_exactly(index: Index, name: str, sequences: tf.RaggedTensor, dtype: str, ids: tf.Tensor) -> tf.RaggedTensor:
    """The feature `name` `[B, None, ...]` in a float dtype that can lose values of its own (`planning.conversions`).

    Args:
        ids: int64 `[B]`, of the records.

    Raises:
        tf.errors.InvalidArgumentError: while iterating, a value is lost; the text names the record and the value.
    """
    values = sequences.values
    cast = tf.cast(values, dtype)
    kept = _kept(values, cast)

    def text(index: Index, number: np.ndarray, value: np.ndarray) -> bytes:
        where = index.where(int(np.flatnonzero(index.ids == number)[0]))
        way_out = "leave dtype out to get the integers" if np.dtype(value.dtype).kind in "iu" else 'pass dtype="float64"'
        return f'{where}: "{name}" has the value {value.item()!r}, which dtype={dtype!r} does not hold: {way_out}.'.encode()

    def message() -> tf.Tensor:
        wrong = tf.where(~kept)[0]  # the first lost value: its frame and its place there
        number = ids[sequences.value_rowids()[wrong[0]]]
        return tf.numpy_function(wait_at_exit(text, index), [number, tf.gather_nd(values, wrong)], tf.string, stateful=False)

    with tf.control_dependencies([require(tf.reduce_all(kept), message)]):
        return sequences.with_values(tf.identity(cast))


def _kept(values: tf.Tensor, cast: tf.Tensor) -> tf.Tensor:
    """Which values are still there after the conversion, bool."""
    if values.dtype.is_floating:
        return tf.math.is_finite(cast) | ~tf.math.is_finite(values)
    wide = tf.cast(cast, tf.float64)  # exact
    inside = tf.math.is_finite(wide) & (tf.abs(wide) <= 2.0**63) & (wide < 2.0**63)
    return inside & (tf.cast(tf.where(inside, wide, 0), tf.int64) == tf.cast(values, tf.int64))

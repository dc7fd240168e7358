"""The argument `class_weight` in the graph: sample weights from labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.engines.grouping import Flat
from vlpipe.planning.selection import Selection


def sample_weights(batch: Flat, selection: Selection, tables: Mapping[str, np.ndarray]) -> Any:
    """float32 weights in the structure of the labels: `[B]`, or for the values of a sequence `[B, U]`, ragged where that is.

    Those of padding and repeated rows are 0.

    Args:
        batch: with the lengths of labels that are sequences.
        tables: the weight of each class, by label; other labels have the weight of the row.
    """
    weights = {}
    for name in selection.labels:
        y, lengths = batch[f"y:{name}"], batch.get(f"n:y:{name}")
        is_ragged = isinstance(y, tf.RaggedTensor)
        weight = tf.ones([y.nrows()] if is_ragged else tf.shape(y)[:1])
        if name in tables:
            sequences = y.values if is_ragged else y
            weight = _of_classes(sequences, tables[name], vectors=y.shape.rank > (1 if lengths is None else 2))
            if is_ragged:
                weight = y.with_values(weight)
            elif lengths is not None:
                weight *= tf.sequence_mask(lengths, tf.shape(y)[1], tf.float32)
        if "weight" in batch:
            weight *= tf.reshape(batch["weight"], [-1] + [1] * (weight.shape.rank - 1))
        weights[name] = weight
    return weights[selection.labels[0]] if selection.single_label else weights


def _of_classes(y: tf.Tensor, table: np.ndarray, vectors: bool) -> tf.Tensor:
    """The weight of each class number, or the mean weight of the classes of each vector; 1 for what is no class of the table."""
    known = tf.constant(table)
    if not vectors:
        number = tf.cast(y, tf.int64)
        inside = (number >= 0) & (number < len(table))
        return tf.where(inside, tf.gather(known, tf.where(inside, number, 0)), 1.0)
    # In float64, whose sums, rounded to float32, do not depend on the order of the additions: that differs between machines and in NumPy.
    hot, known = tf.cast(tf.cast(y, tf.float32), tf.float64), tf.cast(known, tf.float64)
    total = tf.reduce_sum(hot, -1)
    known = tf.pad(known, [[0, max(0, y.shape[-1] - len(table))]], constant_values=tf.ones([], tf.float64))[: y.shape[-1]]
    mean = tf.reduce_sum(hot * known, -1) / tf.where(total > 0, total, tf.ones([], tf.float64))
    return tf.where(total > 0, tf.cast(mean, tf.float32), 1.0)

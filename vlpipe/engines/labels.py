"""Labels of third-party records whose values are in the index, in the graph; for arrays: `engines/mapped_lists.py`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.planning.paddings import label_dtype
from vlpipe.storage.schema import Sequence


def list_dtype(field: Sequence) -> tf.DType:
    """`label_dtype`, as a dtype of TensorFlow."""
    return tf.as_dtype(label_dtype(field))


def padded_in_graph(values: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, padding: float, upper: tf.Tensor | None = None) -> tf.Tensor:
    """int64 `[B, upper]`: for each record its `counts` values from `starts` on, padded to the longest list, or to `upper`."""
    steps = tf.range(tf.reduce_max(counts) if upper is None else upper)
    inside = steps < counts[:, None]
    positions = tf.where(inside, starts[:, None] + steps, 0)
    # The appended value keeps position 0 valid where no record has a value.
    return tf.where(inside, tf.gather(tf.concat([values, [padding]], 0), positions), tf.constant(padding, tf.int64))


def multi_hot_in_graph(values: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, classes: int) -> tf.Tensor:
    """float32 `[B, classes]`: 1 for each class that is among the values of a record."""
    lists = padded_in_graph(values, starts, counts, -1)  # -1 is no class
    zeros = tf.zeros([tf.size(counts), classes])
    rows = tf.where(lists >= 0)
    return tf.tensor_scatter_nd_max(zeros, tf.stack([rows[:, 0], tf.gather_nd(lists, rows)], 1), tf.ones([tf.shape(rows)[0]]))


def unpacked(payload: tf.Tensor, dtype: str, byteorder: str, gap: int) -> tf.Tensor:
    """The values of frames, in the graph: from their bytes, uint8 `[..., gap + bytes of a frame]`, without the gap before each."""
    frames = payload[..., gap:]
    width = np.dtype(dtype).itemsize
    if width == 1:
        return tf.bitcast(frames, dtype)
    values = tf.reshape(frames, tf.concat([tf.shape(frames)[:-1], [frames.shape[-1] // width, width]], 0))
    return tf.bitcast(values[..., ::-1] if byteorder == "big" else values, dtype)

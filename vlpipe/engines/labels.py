"""Labels and texts of records that vlpipe did not write, for a batch: in NumPy for the mapped engine, in the graph beside it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def padded(values: np.ndarray, starts: np.ndarray, counts: np.ndarray, padding: int) -> np.ndarray:
    """int64 `[B, U]`: of each record its values, `counts` of them from `starts` on, padded to the longest."""
    steps = np.arange(int(counts.max(initial=0)))
    inside = steps < counts[:, None]
    found = np.full(inside.shape, padding, np.int64)
    found[inside] = values[(starts[:, None] + steps)[inside]]
    return found


def padded_in_graph(values: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, padding: int) -> tf.Tensor:
    """`padded` in the graph."""
    steps = tf.range(tf.reduce_max(counts))
    inside = steps < counts[:, None]
    places = tf.where(inside, starts[:, None] + steps, 0)
    # Where no record has a value there is nothing to gather from.
    return tf.where(inside, tf.gather(tf.concat([values, [padding]], 0), places), tf.constant(padding, tf.int64))


def multi_hot(values: np.ndarray, starts: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    """float32 `[B, classes]`: 1 for the classes that are among the values of a record."""
    found = np.zeros((len(counts), classes), np.float32)
    rows = np.repeat(np.arange(len(counts)), counts)
    steps = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found[rows, values[np.repeat(starts, counts) + steps]] = 1
    return found


def multi_hot_in_graph(values: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, classes: int) -> tf.Tensor:
    """`multi_hot` in the graph."""
    found = padded_in_graph(values, starts, counts, -1)  # which is no class
    none = tf.zeros([tf.size(counts), classes])
    rows = tf.where(found >= 0)
    return tf.tensor_scatter_nd_max(none, tf.stack([rows[:, 0], tf.gather_nd(found, rows)], 1), tf.ones([tf.shape(rows)[0]]))


def unpacked(payload: tf.Tensor, dtype: str, byteorder: str, gap: int) -> tf.Tensor:
    """The values of frames in the graph: from their bytes, uint8 `[..., gap + bytes of a frame]`, without what stands before each."""
    frames = payload[..., gap:]
    width = np.dtype(dtype).itemsize
    if width == 1:
        return tf.bitcast(frames, dtype)
    values = tf.reshape(frames, tf.concat([tf.shape(frames)[:-1], [frames.shape[-1] // width, width]], 0))
    return tf.bitcast(values[..., ::-1] if byteorder == "big" else values, dtype)

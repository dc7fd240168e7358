"""Checks that lengths can be lengths, and masks prefixes, on every backend, inside and outside of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from vlpipe.errors import ArgumentError

ADVICE = (
    'Pass the numbers that make_dataset(..., lengths=True) delivers under "lengths". A model made with keras.Model takes a dict with '
    'further keys, such as "id", by position: make it with vlpipe.layers.Model, which takes its inputs by key.'
)


NARROW = ("bool", "int8", "uint8", "int16", "uint16", "int32")  # dtypes whose values an int32 holds


def possible_lengths(lengths: Any, frames: Any) -> Any:
    """Return which lengths `[B]`, of any dtype, are whole numbers from 0 to `frames` (booleans `[B]`)."""
    counts = ops.cast(lengths, "int32")
    whole = ops.cast(counts, lengths.dtype) == lengths  # false for fractions, and for integers that int32 cannot hold
    return ops.logical_and(whole, ops.logical_and(counts >= 0, counts <= ops.cast(frames, "int32")))


def possible_masks(mask: Any) -> Any:
    """Return which rows of a mask `[B, T]` are prefixes: no frame counts after one that does not (booleans `[B]`)."""
    mask = ops.cast(mask, "bool")
    return ops.logical_not(ops.any(ops.logical_and(mask[:, 1:], ops.logical_not(mask[:, :-1])), axis=1))


def known(x: Any) -> Any:
    """Return a tensor as a NumPy array; None inside a graph, where its values are not known yet."""
    if isinstance(x, np.ndarray):
        return x
    try:
        return ops.convert_to_numpy(x)
    except (TypeError, NotImplementedError, RuntimeError):  # what JAX, TensorFlow and PyTorch raise for a value that is only traced
        return None


def check_lengths(name: str, lengths: Any, frames: int) -> None:
    """Refuse lengths `[B]` (NumPy) that a batch of `frames` frames cannot have.

    Raises:
        ArgumentError: a length is not a whole number from 0 to `frames`.
    """
    lengths = np.ravel(lengths)
    impossible = np.flatnonzero(~((lengths >= 0) & (lengths <= frames) & (np.floor(lengths) == lengths)))
    if len(impossible):
        row = int(impossible[0])
        raise ArgumentError(
            f'LengthMask "{name}": row {row} has the length {lengths[row]} in a batch of {frames} frames; '
            f"expected whole numbers from 0 to {frames}. {ADVICE}"
        )


def check_counts(caller: str, lengths: Any) -> None:
    """Refuse numbers of frames that are known and below zero, or no whole numbers: arithmetic would make other numbers of them.

    Raises:
        ArgumentError: one is; the message names it. Or they are a dict, as a model with several inputs takes it.
    """
    if isinstance(lengths, Mapping):
        raise ArgumentError(
            f"{caller}: got a dict with the keys {sorted(lengths)}; expected the lengths [B] of one sequence. Pass those of the input that "
            "the first output follows."
        )
    array = known(lengths) if ops.is_tensor(lengths) else np.asarray(lengths)
    impossible: Any = [] if array is None else np.flatnonzero(~((array >= 0) & (np.floor(array) == array)))
    if len(impossible):
        place = int(impossible[0])
        raise ArgumentError(
            f"{caller}: length {place} is {np.ravel(array)[place]}; expected whole numbers of frames, none negative. Pass true lengths."
        )


def check_mask(name: str, mask: Any) -> None:
    """Refuse a mask `[B, T]` (NumPy) that is true again after it was false.

    Raises:
        ArgumentError: a row is not a prefix.
    """
    mask = mask.astype(bool)
    impossible = np.flatnonzero((mask[:, 1:] & ~mask[:, :-1]).any(axis=1))
    if len(impossible):
        raise ArgumentError(
            f'LengthMask "{name}": the mask of row {int(impossible[0])} is true after it was false; expected a mask that is true for the '
            "first frames of a sequence and false after them. Remove frames before they are batched, not with the mask."
        )


def check_known(name: str, companion: str, values: Any, frames: Any) -> bool:
    """Check `"lengths"` or a `"mask"` if its values are known; return whether they were."""
    array = known(values)
    if array is None:
        return False
    if companion == "lengths":
        check_lengths(name, array, int(frames))
    else:
        check_mask(name, array)
    return True


def narrowed(name: str, lengths: Any, features: Any) -> Any:
    """Return lengths that stay what they are when Keras casts them to int32: 11.5 and 2**32 + 11 would become the length 11.

    Raises:
        ArgumentError: a length is not a whole number from 0 to the frames of the features. Where a graph cannot raise, it becomes -1.
    """
    if keras.backend.standardize_dtype(lengths.dtype) in NARROW or isinstance(lengths, keras.KerasTensor):
        return lengths
    frames = features.shape[1]
    if isinstance(frames, int) and check_known(name, "lengths", lengths, frames):
        return lengths
    possible = possible_lengths(lengths, ops.shape(features)[1])
    return asserted(ops.where(possible, ops.cast(lengths, "int32"), -1), name, "lengths", possible, lengths, features)


def asserted(x: Any, name: str, companion: str, possible: Any, values: Any, features: Any) -> Any:
    """Return the tensor `x`, such that a graph which needs it fails when a row is not possible.

    On TensorFlow without XLA only: no other graph can raise. Whatever follows, the update of the weights too, waits for the check.
    """
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    if companion == "lengths":
        text = f'LengthMask "{name}": lengths that cannot be lengths; expected whole numbers from 0 to the frames of the batch. {ADVICE}'
    else:
        text = f'LengthMask "{name}": the mask of a row is true after it was false; expected true for its first frames only.'
    received = [text, "Received:", values, "Shape of the features:", tf.shape(features)]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(possible), received, summarize=32)]):
        return tf.identity(x)

"""Whether a Python function mixes the frames of a sequence: found out by calling it, because a name proves nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

FRAMES, KEPT = 5, 3  # frames of the probe, and how many of them stay as they are
LONG = 1031  # frames of a second probe: a dilation of 8 reads beyond 5 frames only; a prime, so that shifts by round numbers show
OPEN_WIDTH = 3  # width of an axis of unknown size


def mixes_frames(function: Callable[[Any], Any], shape: Any, dtype: str = "float32", *, frames: bool = True) -> bool:
    """Return whether an output frame of a function depends on later frames, on the number of frames, or on other rows.

    Calls the function on four random arrays: as they are, with the last frames changed, with these cut off, and with one row alone;
    first small ones, then long ones, for what lies at a distance. A function that an array makes fail, that removes frames, or that is
    random, counts as one that mixes.

    Args:
        function: takes one tensor and returns one, such as an activation.
        shape: of its input, `(B, T, ...)`; the first two and unknown sizes are replaced.
        dtype: of its input.
        frames: whether axis 1 is the frames; without, only the rows may not mix.
    """
    rng = np.random.default_rng(0)
    width = [OPEN_WIDTH if size is None else int(size) for size in tuple(shape)[2 if frames else 1 :]]
    try:
        if mixes(function, drawn(rng, (2, *([FRAMES] if frames else []), *width), dtype), rng, dtype, frames):
            return True
    except Exception:  # a user's function may raise anything, and whatever it raises, it is not one that takes any number of frames
        return True
    count = LONG if frames else 0
    while count > FRAMES:
        try:
            return mixes(function, drawn(rng, (2, count, *width), dtype), rng, dtype, frames)
        except Exception:  # such as a table of positions, which ends somewhere
            count //= 2
    return False


def mixes(function: Callable[[Any], Any], x: Any, rng: Any, dtype: str, frames: bool) -> bool:
    """Return what `mixes_frames` does for a probe `x`; raise what the function raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as Keras' of a softmax over one value, where the model has more
        whole = called(function, x, dtype)
        if whole.shape[: 1 + frames] != x.shape[: 1 + frames]:
            return True
        pairs = [(called(function, x[1:], dtype), whole[1:])]
        if frames:
            changed = x.copy()
            changed[:, KEPT:] = drawn(rng, changed[:, KEPT:].shape, dtype, 40)
            pairs.append((called(function, changed, dtype)[:, :KEPT], whole[:, :KEPT]))
            pairs.append((called(function, x[:, :KEPT], dtype), whole[:, :KEPT]))
    return any(not same(one, other, dtype) for one, other in pairs)


def drawn(rng: Any, shape: tuple[int, ...], dtype: str, scale: float = 1) -> Any:
    """Return random values; of integers 0 and 1 only, because a table that the function looks up may be small."""
    if dtype == "bool" or "int" in dtype:
        return rng.integers(0, 2, shape).astype(dtype)
    return (scale * rng.normal(size=shape)).astype("float32")


def called(function: Callable[[Any], Any], x: Any, dtype: str) -> Any:
    x = ops.convert_to_tensor(x, dtype=dtype)
    check_windows(function, x)
    y = ops.convert_to_numpy(function(x))
    return y if y.dtype.kind in "biu" else y.astype("float32")  # bfloat16 is none of NumPy's own


def check_windows(function: Callable[..., Any], *tensors: Any) -> None:
    """Raise ValueError where a window of a function is longer than the frames of the tensors, before these are passed to it.

    TensorFlow 2.17 to 2.21 with oneDNN ends the process (SIGFPE) where no window of a maximum fits. A graph is refused while it is made.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    try:
        tf.function(function, autograph=False).get_concrete_function(*[tf.TensorSpec(x.shape, x.dtype) for x in tensors])
    except Exception as error:
        if "Negative dimension size" in str(error):  # whatever else keeps it from being a graph, the call tells
            raise


def same(one: Any, other: Any, dtype: str) -> bool:
    """Return whether two results are equal but for rounding; other shapes of a batch round otherwise."""
    tolerance = {"float16": 1e-2, "bfloat16": 5e-2}.get(keras.backend.standardize_dtype(dtype), 1e-5)
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True))


def written_by_user(layer: Any) -> bool:
    return not type(layer).__module__.startswith(("keras.", "vlpipe."))


def own_activation(layer: Any) -> Any:
    """Return the activation of a layer if Keras did not write it, else None."""
    activation = getattr(layer, "activation", None)
    return None if is_of_keras(activation) else activation


def is_of_keras(activation: Any) -> bool:
    """Return whether an activation is None or one of `keras.activations`, which act on each value or along the last axis."""
    if activation is None or isinstance(activation, str):  # of another library, which has its name only
        return True
    return str(getattr(activation, "__module__", "")).startswith("keras.src.activations.")


def mixing_activation(layer: Any, x: Any) -> bool:
    """Return whether an activation of a layer that is called on the symbolic tensor `x` mixes frames, which its name does not tell."""
    inner = [getattr(layer, name, None) for name in ("forward_layer", "backward_layer", "layer")]
    for part in [layer, *(part for part in inner if isinstance(part, keras.layers.Layer))]:
        activation, recurrent = own_activation(part), getattr(part, "recurrent_activation", None)
        if hasattr(part, "recurrent_activation") or hasattr(part, "state_size"):  # its cell sees one frame at a time, [B, units]
            shape, frames = (None, getattr(part, "units", None)), False  # cells of the user have none
        else:
            shape, frames = (x.shape if activation is None else part.compute_output_shape(tuple(x.shape))), True
        for function in (activation, None if is_of_keras(recurrent) else recurrent):
            if function is not None and mixes_frames(function, shape, part.compute_dtype, frames=frames):
                return True
    return False

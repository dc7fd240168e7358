"""What every mask-aware layer is made of: prefix masks, and one base class.

A batch of sequences of different lengths is padded on the right, so the mask of a row is true for its first frames
and false after them: a prefix. It says the same as the number of frames, and travels the way that Keras masks do.

Only `keras.ops` is used, so that the layers run on TensorFlow, JAX and PyTorch.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import keras
from keras import ops

from vlpipe.errors import ArgumentError

registered = keras.saving.register_keras_serializable(package="vlpipe")


class Reach(NamedTuple):
    """How far a layer looks: the input frames behind one output frame, and how many it moves on for the next."""

    span: int = 1
    stride: Fraction = Fraction(1)


def count_frames(mask: Any) -> Any:
    """Lengths `[B]` (int32) of a prefix mask `[B, T]`."""
    return ops.sum(ops.cast(mask, "int32"), axis=1)


def prefix_mask(lengths: Any, frames: Any) -> Any:
    """The mask `[B, frames]` whose row `b` is true for its first `lengths[b]` frames."""
    return ops.expand_dims(ops.cast(lengths, "int32"), 1) > ops.expand_dims(ops.arange(frames, dtype="int32"), 0)


def align_mask(mask: Any, x: Any) -> Any:
    """The mask `[B, T]` with the axes of length one that broadcast it against `x` `[B, T, ...]`."""
    return ops.reshape(mask, (*ops.shape(mask), *[1] * (len(x.shape) - 2)))


def keep_frames(x: Any, mask: Any, fill: float = 0.0) -> Any:
    """`x` `[B, T, ...]` with `fill` in place of every frame that the mask leaves out.

    Chosen rather than multiplied: a NaN in the padding times zero would still be NaN.
    """
    return ops.where(align_mask(mask, x), x, ops.cast(fill, x.dtype))


def at_least(x: Any, frames: int) -> Any:
    """`x` `[B, T, ...]` with zeros appended where `T` is less than `frames`.

    A window that is longer than the whole batch then gives one frame, which the mask leaves out, instead of an error:
    what a short sequence gets does not depend on whether a longer one shares its batch.
    """
    here = ops.shape(x)[1]
    if isinstance(here, int):
        missing: Any = max(frames - here, 0)
        if missing == 0:
            return x
    else:  # TensorFlow, tracing for any number of frames
        missing = ops.maximum(frames - here, 0)
    if "bool" in str(x.dtype):  # not every backend pads booleans
        return ops.cast(at_least(ops.cast(x, "int32"), frames), "bool")
    return ops.pad(x, [[0, 0], [0, missing], *[[0, 0]] * (len(x.shape) - 2)])


class MaskAware:
    """Base of the layers: the Keras layer of the same name comes after it in the bases and does the arithmetic.

    Without a mask, a layer is exactly its Keras parent. With one, it respects the true length of every row, and gives
    its output the mask that belongs to it. `mask_aware` and `check_model` trust every layer with this base.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True  # some parents say no
        if getattr(self, "data_format", "channels_last") != "channels_last":
            raise ArgumentError(
                f'{type(self).__name__} "{getattr(self, "name", "")}": data_format="channels_first" has its frames on the last axis; '
                'expected [batch, frames, features]. Build the layer with data_format="channels_last".'
            )

    def output_frames(self, frames: Any) -> Any:
        """Frames that come out for `frames` that go in (int, array or tensor); below one means none."""
        return frames

    def reach(self) -> Reach:
        """How far one output frame looks."""
        return Reach()

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the output, `[B, output_frames(T)]`."""
        if mask is None or isinstance(mask, keras.KerasTensor):
            return None  # masks are not part of the graph that Keras draws: they travel with the tensors when it runs
        frames = self.output_frames(ops.shape(inputs)[1])
        frames = max(frames, 1) if isinstance(frames, int) else ops.maximum(frames, 1)
        return prefix_mask(self.output_frames(count_frames(mask)), frames)

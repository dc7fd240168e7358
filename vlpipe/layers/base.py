"""What every mask-aware layer is built on: prefix masks and one base class.

A batch of sequences of different lengths is padded on the right, so the mask of a row is true for its first frames and
false after them: a prefix. It carries the same information as the row's length, and travels the way Keras masks do.

Only `keras.ops` is used, so that the layers run on TensorFlow, JAX and PyTorch.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from vlpipe.errors import ArgumentError

registered = keras.saving.register_keras_serializable(package="vlpipe")


class Reach(NamedTuple):
    """The receptive field of one layer: input frames per output frame, and input frames from one output frame to the next."""

    span: int = 1
    stride: Fraction = Fraction(1)


def call_with(select: Callable[[Any], Any], call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a layer or model with `select` applied to its inputs, which Keras passes by position or as `inputs`."""
    if args:
        args = (select(args[0]), *args[1:])
    elif "inputs" in kwargs:
        kwargs = {**kwargs, "inputs": select(kwargs["inputs"])}
    return call(*args, **kwargs)


def count_frames(mask: Any) -> Any:
    """Return the lengths `[B]` (int32) of a prefix mask `[B, T]`."""
    return ops.sum(ops.cast(mask, "int32"), axis=1)


def prefix_mask(lengths: Any, frames: Any) -> Any:
    """Return the mask `[B, frames]` whose row `b` is true for its first `lengths[b]` frames."""
    return ops.expand_dims(ops.cast(lengths, "int32"), 1) > ops.expand_dims(ops.arange(frames, dtype="int32"), 0)


def align_mask(mask: Any, x: Any) -> Any:
    """Return the mask `[B, T]` with trailing axes of length one, so that it broadcasts against `x` `[B, T, ...]`."""
    return ops.reshape(mask, (*ops.shape(mask), *[1] * (len(x.shape) - 2)))


def fill_padding(x: Any, mask: Any, fill: float = 0.0) -> Any:
    """Return `x` `[B, T, ...]` with every frame outside the mask set to `fill`.

    Selects instead of multiplying: a NaN in the padding times zero would still be NaN.
    """
    if fill == 0 and getattr(x, "_vlpipe_zero_outside", None) is mask:
        return x  # `with_zeros` noted it
    return ops.where(align_mask(mask, x), x, ops.cast(held(fill, x.dtype), x.dtype))


def held(fill: float, dtype: Any) -> Any:
    """Return a fill that a data type holds: in place of an infinite one, which no integer and no boolean is, its extreme value."""
    dtype = keras.backend.standardize_dtype(dtype)
    if not math.isinf(fill) or keras.backend.is_float_dtype(dtype):
        return fill
    if dtype == "bool":
        return fill > 0
    return np.iinfo(dtype).max if fill > 0 else np.iinfo(dtype).min


def with_zeros(x: Any, mask: Any) -> Any:
    """Return `x`, which `fill_padding` has just made zero outside `mask`, with this mask and a note that no layer need do so again.

    The note holds for this very mask alone, and is lost with the tensor in every operation. An output that happens to be zero in the
    padding does not get one: filling also keeps the gradient out of what is filled. On TensorFlow only: XLA joins fills by itself.
    """
    if keras.backend.backend() == "tensorflow":
        x._keras_mask = x._vlpipe_zero_outside = mask  # Keras computes no mask for what has one; it would be equal, but another tensor
    return x


def pad_to_minimum(x: Any, minimum: Any) -> Any:
    """Return `x` `[B, T, ...]` with zeros appended where `T` is less than `minimum`.

    A window longer than the whole batch then gives one frame, which the mask excludes, instead of an error: the output of
    a short sequence does not depend on whether a longer one shares its batch.
    """
    frames = ops.shape(x)[1]
    if isinstance(frames, int) and isinstance(minimum, int):
        missing: Any = max(minimum - frames, 0)
        if missing == 0:
            return x
    elif keras.backend.backend() == "jax":  # the open size with which Keras asks a layer for the shape of its output
        import jax

        missing = jax.core.max_dim(minimum - frames, 0)
    else:  # TensorFlow, tracing for any number of frames
        missing = ops.maximum(minimum - frames, 0)
    if "bool" in str(x.dtype):  # not every backend pads booleans
        return ops.cast(pad_to_minimum(ops.cast(x, "int32"), minimum), "bool")
    return ops.pad(x, [[0, 0], [0, missing], *[[0, 0]] * (len(x.shape) - 2)])


def cut(x: Any, *spans: tuple[int, Any]) -> Any:
    """Return the part of `x` `[B, T, ...]` at spans, each a first index and a size: of the frames, then of the axes after them.

    On TensorFlow by a slice: the gradient of an index takes three times as long.
    """
    if keras.backend.backend() != "tensorflow":
        index = (slice(None), *[slice(first, first + size) for first, size in spans])
        return x[index]
    batch, *sizes = ops.shape(x)
    spans += tuple((0, size) for size in sizes[len(spans) :])
    return ops.slice(x, [0, *[first for first, _ in spans]], [batch, *[size for _, size in spans]])


AS_IT_COMES: dict[str, Any] = {"autocast": False}  # what comes in half precision leaves in half precision, and float32 in float32


class MaskAware:
    """Mixin for mask-aware layers; list it before the Keras layer that does the arithmetic.

    Without a mask, the layer does exactly what its Keras parent does. With one, it respects the true length of every row
    and computes the mask of its output. `mask_aware` and `check_model` trust every layer with this base.

    Raises:
        ArgumentError: `data_format="channels_first"`.

    Example:
        >>> import keras
        >>> from vlpipe.layers import MaskAware, check_model, mask_aware
        >>> class Doubled(MaskAware, keras.layers.Layer):
        ...     def call(self, inputs, mask=None):
        ...         return inputs * 2
        >>> model = keras.Sequential([keras.Input((None, 4)), Doubled(), keras.layers.GlobalMaxPooling1D()])
        >>> check_model(mask_aware(model)).ok
        True
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True  # some parents set it to False
        if getattr(self, "data_format", "channels_last") != "channels_last":
            raise ArgumentError(
                f'{type(self).__name__} "{getattr(self, "name", "")}": data_format="channels_first" puts the frames on the last axis; '
                'expected [batch, frames, features]. Build the layer with data_format="channels_last".'
            )

    def output_frames(self, frames: Any) -> Any:
        """Return the number of output frames for `frames` input frames (int, array or tensor); below one means none."""
        return frames

    def reach(self) -> Reach:
        """Return the receptive field of this layer."""
        return Reach()

    def sides(self) -> tuple[Fraction | int, Fraction | int]:
        """Return how many input frames before and after input frame j * stride output frame j depends on, at most."""
        span = self.reach().span
        return span - 1, span - 1

    def endless(self) -> str:
        """Return why an output frame depends on frames at any distance, such as "attends to all frames"; "" if it does not."""
        return ""

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask of the output, `[B, output_frames(T)]`, or None without a mask."""
        if mask is None or isinstance(mask, keras.KerasTensor):
            return None  # Keras' symbolic graph holds no masks: they travel with the tensors when the model runs
        frames = self.output_frames(ops.shape(inputs)[1])
        frames = max(frames, 1) if isinstance(frames, int) else ops.maximum(frames, 1)
        return prefix_mask(self.output_frames(count_frames(mask)), frames)


class AlsoOperation(MaskAware):
    """Base of the layers that stand for operations of `keras.ops` too, which compute in the dtype that comes: with `AS_IT_COMES`."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **({} if self.autocast else AS_IT_COMES)}  # type: ignore[misc,attr-defined]  # of the Keras layer

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        spec = super().compute_output_spec(inputs)  # type: ignore[misc]
        return spec if self.autocast else keras.KerasTensor(spec.shape, dtype=inputs.dtype)  # type: ignore[attr-defined]

"""Layers that reduce all frames of a sequence to one: global pooling, statistics, dot products over time.

The output of a row without frames is zero.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, align_mask, count_frames, fill_padding, registered


def frame_sum(x: Any, mask: Any, keepdims: bool = False, axes: Sequence[int] = (1,)) -> Any:
    """Return the sum of `x` `[B, T, ...]` over the real frames, and over further axes."""
    return ops.sum(fill_padding(x, mask), axis=tuple(axes), keepdims=keepdims)


def frame_mean(x: Any, mask: Any, keepdims: bool = False, axes: Sequence[int] = (1,)) -> Any:
    """Return the mean of `x` `[B, T, ...]` over the real frames, and over further axes; 0 for a row without frames.

    Sums in float32: in float16, a few thousand frames overflow, and even their count is not exact.
    """
    total = frame_sum(ops.cast(x, keras.backend.result_type(x.dtype, "float32")), mask, keepdims, axes)
    count = ops.cast(ops.maximum(count_frames(mask), 1), total.dtype)
    for axis in axes[1:]:
        count = count * ops.cast(ops.shape(x)[axis], total.dtype)
    return ops.cast(total / ops.reshape(count, (-1, *[1] * (len(total.shape) - 1))), x.dtype)


def frame_extreme(x: Any, mask: Any, keepdims: bool, largest: bool, axes: Sequence[int] = (1,)) -> Any:
    """Return the maximum (or minimum) of `x` `[B, T, ...]` over the real frames, and over further axes; 0 for a row without frames."""
    reduce, neutral = (ops.max, float("-inf")) if largest else (ops.min, float("inf"))
    extreme = reduce(fill_padding(x, mask, neutral), axis=tuple(axes), keepdims=keepdims)
    any_real = ops.any(align_mask(mask, x), axis=tuple(axes), keepdims=keepdims)
    return ops.where(any_real, extreme, ops.cast(0, x.dtype))


def frame_variance(x: Any, mask: Any, keepdims: bool, axes: Sequence[int] = (1,)) -> Any:
    """Return the variance of `x` `[B, T, ...]` over the real frames, and over further axes, in two passes; 0 for a row without frames."""
    mean = frame_mean(x, mask, True, axes)
    return frame_mean(ops.square(fill_padding(x - mean, mask)), mask, keepdims, axes)


def frame_deviation(x: Any, mask: Any, keepdims: bool, axes: Sequence[int] = (1,)) -> Any:
    """Return the square root of the variance; where that is 0 its gradient is 0 too, not infinite."""
    variance = frame_variance(x, mask, keepdims, axes)
    return ops.where(variance > 0, ops.sqrt(ops.where(variance > 0, variance, 1)), 0)


def frame_logsumexp(x: Any, mask: Any, keepdims: bool, axes: Sequence[int] = (1,)) -> Any:
    """Return the logarithm of the sum of the exponentials over the real frames, and over further axes; 0 for a row without frames."""
    largest = ops.stop_gradient(frame_extreme(x, mask, True, True, axes))
    shifted = fill_padding(x - largest, mask)  # before exp as well: an infinite exponential times zero would be NaN in the gradient
    total = frame_sum(ops.exp(shifted), mask, True, axes)
    y = ops.where(total > 0, ops.log(ops.where(total > 0, total, 1)) + largest, 0)
    return y if keepdims else ops.squeeze(y, axis=tuple(axes))


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": frame_mean,
    "sum": frame_sum,
    "max": functools.partial(frame_extreme, largest=True),
    "min": functools.partial(frame_extreme, largest=False),
    "std": frame_deviation,
    "var": frame_variance,
    "logsumexp": frame_logsumexp,
}


class Reduction(MaskAware):
    """Base of the layers that remove the frame axis; their output has no mask.

    Example:
        >>> import keras, numpy as np
        >>> from vlpipe.layers import LengthMask, Reduction
        >>> class FirstFrame(Reduction, keras.layers.Layer):
        ...     def call(self, inputs, mask=None):
        ...         return inputs[:, 0]
        >>> x = LengthMask()({"features": np.ones((2, 7, 4), "float32"), "lengths": np.array([7, 3])})
        >>> tuple(FirstFrame()(x).shape)
        (2, 4)
    """

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None


@registered
class GlobalAveragePooling1D(Reduction, keras.layers.GlobalAveragePooling1D):
    """`keras.layers.GlobalAveragePooling1D` over real frames; zeros (not NaN) for a row without frames.

    Takes the arguments of its parent.

    Shapes: features `[B, T, d]` with mask `[B, T]` in; `[B, d]` out (`[B, 1, d]` with `keepdims`).

    Raises:
        ArgumentError: `data_format="channels_first"`.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import GlobalAveragePooling1D, LengthMask
        >>> x = LengthMask()({"features": np.ones((2, 7, 1), "float32"), "lengths": np.array([7, 0])})
        >>> [float(value) for value in GlobalAveragePooling1D()(x)[:, 0]]
        [1.0, 0.0]
    """

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return super().call(inputs) if mask is None else frame_mean(inputs, mask, self.keepdims)


@registered
class GlobalMaxPooling1D(Reduction, keras.layers.GlobalMaxPooling1D):
    """`keras.layers.GlobalMaxPooling1D` over real frames; arguments, shapes and errors as for `GlobalAveragePooling1D`."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return super().call(inputs) if mask is None else frame_extreme(inputs, mask, self.keepdims, largest=True)


@registered
class StatisticsPooling1D(Reduction, keras.layers.Layer):
    """Concatenate the mean and standard deviation of the real frames: the statistics pooling of x-vectors.

    Takes two passes (the mean, then the squares around it): the one-pass formula E[x²] - E[x]² loses all digits if the mean
    is much larger than the deviation. The standard deviation is `sqrt(variance + epsilon)`, so that its gradient is finite
    for a sequence of one frame.

    Args:
        epsilon: added to the variance (the population variance: divided by n, not n - 1).

    Shapes: features `[B, T, d]` with mask `[B, T]` in; `[B, 2 * d]` out.

    Source: Snyder et al., X-vectors: Robust DNN embeddings for speaker recognition, ICASSP 2018.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import StatisticsPooling1D
        >>> tuple(StatisticsPooling1D()(np.ones((2, 7, 4), "float32")).shape)
        (2, 8)
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            mask = ops.ones_like(inputs[:, :, 0], dtype="bool")
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        mean = frame_mean(x, mask, keepdims=True)
        has_frames = ops.any(mask, axis=1)[:, None]
        variance = frame_mean(ops.square(x - mean), mask) + self.epsilon
        deviation = ops.where(has_frames, ops.sqrt(ops.where(has_frames, variance, 1)), ops.zeros_like(variance))  # for epsilon=0
        return ops.cast(ops.concatenate([mean[:, 0], deviation], axis=-1), inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape[0], 2 * input_shape[-1]  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


@registered
class ReduceFrames(Reduction, keras.layers.Layer):
    """`keras.ops.mean`, `sum`, `max`, `min`, `std`, `var` or `logsumexp` over the real frames; `mask_aware` replaces these with it.

    Args:
        reduction: the name of the operation.
        keepdims: keep the reduced axes, with length one.
        axis: the frame axis, 1, alone or with axes after it: `(1, 2)`.

    Shapes: `[B, T, ...]` with mask `[B, T]` in; `[B, ...]` out (`[B, 1, ...]` with `keepdims`).

    Raises:
        ArgumentError: `reduction` is none of these, or `axis` lacks the frames.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import ReduceFrames
        >>> tuple(ReduceFrames("sum")(np.ones((2, 7, 4), "float32")).shape)
        (2, 4)
    """

    def __init__(self, reduction: str, keepdims: bool = False, axis: Any = 1, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # what comes in half precision leaves in half precision
        if reduction not in REDUCTIONS:
            raise ArgumentError(f"ReduceFrames: reduction={reduction!r}; expected one of {', '.join(REDUCTIONS)}.")
        self.axes = sorted([axis] if isinstance(axis, int) else axis)
        if self.axes[:1] != [1]:
            raise ArgumentError(f"ReduceFrames: axis={axis!r}; expected 1, the frames, alone or with axes after it, such as (1, 2).")
        self.reduction, self.keepdims = reduction, keepdims

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return getattr(ops, self.reduction)(inputs, axis=tuple(self.axes), keepdims=self.keepdims)
        if self.reduction not in ("sum", "max", "min") and not keras.backend.is_float_dtype(inputs.dtype):
            inputs = ops.cast(inputs, keras.config.floatx())
        return REDUCTIONS[self.reduction](inputs, mask, keepdims=self.keepdims, axes=self.axes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction, "keepdims": self.keepdims, "axis": self.axes}


@registered
class Dot(Reduction, keras.layers.Dot):
    """`keras.layers.Dot(axes=1)`: the sum of products over the real frames, as in attention pooling.

    Takes the arguments of its parent, but sums over the frames (axis 1) only.

    Shapes: a list of `[B, T, d]` and `[B, T, e]`, each with its mask, in; `[B, d, e]` out.

    Raises:
        ArgumentError: `axes` is not 1, or `normalize=True`.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Dot
        >>> tuple(Dot(axes=1)([np.ones((2, 7, 1), "float32"), np.ones((2, 7, 4), "float32")]).shape)
        (2, 1, 4)
    """

    def __init__(self, axes: Any, normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(axes=axes, normalize=normalize, **kwargs)
        if axes not in (1, (1, 1), [1, 1]) or normalize:
            raise ArgumentError(
                f'Dot "{self.name}": axes={axes!r}, normalize={normalize!r}; expected axes=1 and normalize=False, '
                "the sum over the frames. Use keras.layers.Dot for other axes."
            )

    def call(self, inputs: Any, mask: Any = None) -> Any:
        masks = mask or [None] * len(inputs)
        # one masked input is enough: its zeros cancel the padding of the other, whose values are finite
        return super().call([x if m is None else fill_padding(x, m) for x, m in zip(inputs, masks, strict=True)])

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return super().compute_output_spec(inputs)

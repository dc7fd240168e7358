"""Layers whose statistics run over time: batch and group normalization, softmax."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, count_frames, keep_frames, registered
from vlpipe.layers.reduce import frame_extreme


@registered
class BatchNormalization(MaskAware, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the statistics of real frames only.

    In training, mean and variance are those of all real frames of the batch laid end to end, and so are the moving
    averages; a batch without any real frame leaves those as they are. (Keras also takes a mask, and divides by the count
    plus 1e-7; for one channel its squeeze loses the axis.)

    Takes the arguments of its parent. Shapes: `[B, T, d]` with mask `[B, T]` in, the same out.

    Raises:
        ArgumentError: `axis` is not the last, or `synchronized=True`, which the parent ignores when there is a mask.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import BatchNormalization
        >>> tuple(BatchNormalization()(np.ones((2, 7, 4), "float32")).shape)
        (2, 7, 4)
    """

    def __init__(self, axis: int = -1, synchronized: bool = False, **kwargs: Any) -> None:
        super().__init__(axis=axis, synchronized=synchronized, **kwargs)
        if axis not in (-1, 2) or synchronized:
            raise ArgumentError(
                f'BatchNormalization "{self.name}": axis={axis}, synchronized={synchronized}; expected axis=-1 (features) and '
                "synchronized=False. With several replicas, each normalizes with the real frames of its own rows."
            )

    def _moments(self, inputs: Any, mask: Any) -> Any:
        if mask is None:
            return super()._moments(inputs, None)
        count = ops.sum(ops.cast(mask, inputs.dtype))
        divisor = ops.maximum(count, 1)
        mean = ops.sum(keep_frames(inputs, mask), axis=(0, 1)) / divisor
        squares = ops.square(keep_frames(inputs - mean, mask))
        variance = ops.sum(squares, axis=(0, 1)) / divisor
        mean_so_far, variance_so_far = ops.cast(self.moving_mean, mean.dtype), ops.cast(self.moving_variance, mean.dtype)
        return ops.where(count > 0, mean, mean_so_far), ops.where(count > 0, variance, variance_so_far)


@registered
class GroupNormalization(MaskAware, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` whose groups run over the real frames of each row.

    Takes the arguments of its parent. Shapes: `[B, T, d]` with mask `[B, T]` in, the same out.

    Raises:
        ArgumentError: `axis` is not the last.
    """

    def __init__(self, groups: int = 32, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(groups=groups, axis=axis, **kwargs)
        if axis not in (-1, 2):
            raise ArgumentError(f'GroupNormalization "{self.name}": axis={axis}; expected axis=-1, the features.')

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        x = ops.cast(inputs, "float32")
        size = inputs.shape[-1] // self.groups
        count = ops.cast(ops.maximum(count_frames(mask), 1) * size, x.dtype)[:, None, None]

        def group_mean(values: Any) -> Any:
            """The mean over real frames and the channels of a group, `[B, 1, d]`; time first: what is left is small."""
            sums = ops.reshape(ops.sum(keep_frames(values, mask), axis=1), (-1, self.groups, size))
            means = ops.sum(sums, axis=2, keepdims=True) / count
            return ops.reshape(ops.broadcast_to(means, ops.shape(sums)), (-1, 1, self.groups * size))

        x = x - group_mean(x)
        scale = ops.rsqrt(group_mean(ops.square(x)) + self.epsilon)
        x = x * (scale * ops.cast(self.gamma, x.dtype) if self.scale else scale)
        if self.center:
            x = x + ops.cast(self.beta, x.dtype)
        return ops.cast(x, self.compute_dtype)


@registered
class RMSNormalization(MaskAware, keras.layers.RMSNormalization):
    """`keras.layers.RMSNormalization` that hands its mask on, which its parent does not. Arguments and shapes of its parent."""


@registered
class Softmax(MaskAware, keras.layers.Softmax):
    """`keras.layers.Softmax` over the features, or with `axis=1` over the real frames, as attention pooling needs it.

    Over time, the weight of padding is exactly zero, and a row without frames has all weights zero.

    Takes the arguments of its parent. Shapes: `[B, T]` or `[B, T, d]` with mask `[B, T]` in, the same out.

    Raises:
        ArgumentError: several axes.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import LengthMask, Softmax
        >>> x = LengthMask()({"features": np.zeros((1, 4, 1), "float32"), "lengths": np.array([2])})
        >>> [float(value) for value in Softmax(axis=1)(x)[0, :, 0]]
        [0.5, 0.5, 0.0, 0.0]
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(axis=axis, **kwargs)
        if not isinstance(axis, int):
            raise ArgumentError(f'Softmax "{self.name}": axis={axis!r}; expected one axis: 1 for the frames, -1 for the features.')

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None or self.axis % len(inputs.shape) != 1:
            return super().call(inputs)
        top = ops.stop_gradient(frame_extreme(inputs, mask, keepdims=True, largest=True))
        weights = keep_frames(ops.exp(keep_frames(inputs - top, mask)), mask)
        total = ops.sum(weights, axis=1, keepdims=True)
        return weights / ops.where(total > 0, total, ops.ones_like(total))

"""Layers that take statistics over time: batch and group normalization, softmax."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import AlsoOperation, MaskAware, align_mask, count_frames, fill_padding, registered
from vlpipe.layers.gradients import with_gradient
from vlpipe.layers.reduce import frame_extreme


def check_axis(layer: Any, axis: int, rank: int | None = None) -> None:
    """Raise ArgumentError unless a layer normalizes the features: the last axis, once the number of axes is known."""
    if axis < 2 and axis != -1 if rank is None else axis % rank != rank - 1:
        raise ArgumentError(
            f'{type(layer).__name__} "{layer.name}": axis={axis}; expected axis=-1 (features). Normalize with axis=-1: the features of '
            "[batch, frames, features], or the channels of [batch, frames, bins, channels]."
        )


def moments(inputs: Any, mask: Any, real: Any, count: Any) -> tuple[Any, Any]:
    """Return the mean and the variance `[C]` of the real frames of `inputs` `[B, T, ..., C]`.

    Args:
        real: the mask as numbers, of the rank of `inputs`.
        count: how many values of each channel are real, at least 1.
    """

    def mean_of(values: Any) -> Any:
        """Sum the frames first: TensorFlow takes the sum over two axes at once in twice the time."""
        return ops.sum(ops.sum(values, axis=1), axis=tuple(range(len(inputs.shape) - 2))) / count

    def forward(inputs: Any) -> tuple[Any, Any]:
        x = fill_padding(inputs, mask)
        mean = mean_of(x)
        deviation = x - mean  # finite, so that multiplying by the mask is safe, and faster than selecting again

        def gradient(of_mean: Any, of_variance: Any) -> Any:
            return (deviation * (2 * of_variance / count) + of_mean / count) * real  # TensorFlow would tile the gradient of each sum

        return (mean, mean_of(ops.square(deviation) * real)), gradient

    result: tuple[Any, Any] = with_gradient(forward, inputs)
    return result


@registered
class BatchNormalization(MaskAware, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with statistics over real frames only.

    In training, the mean and variance, and so the moving averages, cover all real frames of the batch laid end to end; a
    batch without any real frame leaves the moving averages unchanged. (Keras' own layer also takes a mask, but divides by
    the count plus 1e-7, and for one channel its squeeze loses the axis.)

    Takes the arguments of its parent. Shapes: `[B, T, d]` or `[B, T, F, C]` with mask `[B, T]` in, the same out.

    Raises:
        ArgumentError: `axis` is not the last one, or `synchronized=True`, which the parent ignores when there is a mask.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import BatchNormalization
        >>> tuple(BatchNormalization()(np.ones((2, 7, 4), "float32")).shape)
        (2, 7, 4)
    """

    def __init__(self, axis: int = -1, synchronized: bool = False, **kwargs: Any) -> None:
        super().__init__(axis=axis, synchronized=synchronized, **kwargs)
        check_axis(self, axis)
        if synchronized:
            raise ArgumentError(
                f'BatchNormalization "{self.name}": synchronized=True; expected False. '
                "With several replicas, each one normalizes with the real frames of its own rows."
            )

    def build(self, input_shape: Any) -> None:
        check_axis(self, self.axis, len(input_shape))
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        # Keras wants a mask with an axis for each axis of the input but the last
        full = None if mask is None else ops.reshape(mask, (*ops.shape(mask)[:2], *[1] * (len(inputs.shape) - 3)))
        return super().call(inputs, training=training, mask=full)

    def _moments(self, inputs: Any, mask: Any) -> Any:
        if mask is None:
            return super()._moments(inputs, None)
        mask = ops.reshape(mask, ops.shape(mask)[:2])
        real = ops.cast(align_mask(mask, inputs), inputs.dtype)
        count = ops.sum(real)
        for size in ops.shape(inputs)[2:-1]:
            count = count * ops.cast(size, count.dtype)
        mean, variance = moments(inputs, mask, real, ops.maximum(count, 1))
        moving_mean, moving_variance = ops.cast(self.moving_mean, mean.dtype), ops.cast(self.moving_variance, mean.dtype)
        return ops.where(count > 0, mean, moving_mean), ops.where(count > 0, variance, moving_variance)


@registered
class GroupNormalization(MaskAware, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` with statistics over the real frames of each row.

    Takes the arguments of its parent. Shapes: `[B, T, d]` or `[B, T, F, C]` with mask `[B, T]` in, the same out.

    Raises:
        ArgumentError: `axis` is not the last one.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import GroupNormalization
        >>> tuple(GroupNormalization(2)(np.ones((2, 7, 4), "float32")).shape)
        (2, 7, 4)
    """

    def __init__(self, groups: int = 32, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(groups=groups, axis=axis, **kwargs)
        check_axis(self, axis)

    def build(self, input_shape: Any) -> None:
        check_axis(self, self.axis, len(input_shape))
        super().build(input_shape)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        x = ops.cast(inputs, "float32")
        size, between = inputs.shape[-1] // self.groups, len(inputs.shape) - 2  # axes of the frames and the bins
        count = ops.cast(ops.maximum(count_frames(mask), 1) * size, x.dtype)[:, None, None]
        for bins in ops.shape(inputs)[2:-1]:
            count = count * ops.cast(bins, count.dtype)

        def group_mean(values: Any) -> Any:
            """Return the mean over real frames and the channels of a group, `[B, 1, d]`; time is summed first, to leave little to do."""
            sums = ops.reshape(ops.sum(fill_padding(values, mask), axis=tuple(range(1, between + 1))), (-1, self.groups, size))
            means = ops.sum(sums, axis=2, keepdims=True) / count
            return ops.reshape(ops.broadcast_to(means, ops.shape(sums)), (-1, *[1] * between, self.groups * size))

        x = x - group_mean(x)
        variance = group_mean(ops.square(x)) + self.epsilon
        scale = ops.rsqrt(ops.where(variance > 0, variance, 1))  # a row without frames, with epsilon=0
        x = x * (scale * ops.cast(self.gamma, x.dtype) if self.scale else scale)
        if self.center:
            x = x + ops.cast(self.beta, x.dtype)
        return ops.cast(x, self.compute_dtype)


@registered
class RMSNormalization(MaskAware, keras.layers.RMSNormalization):
    """`keras.layers.RMSNormalization` that passes its mask on, which its parent does not; arguments and shapes of its parent."""


@registered
class Softmax(AlsoOperation, keras.layers.Softmax):
    """`keras.layers.Softmax` over the features, or over the real frames with `axis=1`, as in attention pooling.

    Over time, padding gets a weight of exactly zero, and a row without frames gets zeros only.

    Takes the arguments of its parent. Shapes: `[B, T]` or `[B, T, d]` with mask `[B, T]` in, the same out.

    Raises:
        ArgumentError: `axis` is not a single integer.

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
            raise ArgumentError(f'Softmax "{self.name}": axis={axis!r}; expected one axis, 1 (frames) or -1 (features).')

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None or self.axis % len(inputs.shape) != 1:
            return super().call(inputs)
        maximum = ops.stop_gradient(frame_extreme(inputs, mask, keepdims=True, largest=True))
        weights = fill_padding(ops.exp(fill_padding(inputs - maximum, mask)), mask)
        total = ops.sum(weights, axis=1, keepdims=True)
        return weights / ops.where(total > 0, total, ops.ones_like(total))

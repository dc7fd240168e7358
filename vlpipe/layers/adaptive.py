"""Pooling to a fixed number of bins: each row divides its own length among them."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

import keras
from keras import ops

from vlpipe.layers.base import count_frames, fill_padding, registered
from vlpipe.layers.reduce import Reduction


def bins(mask: Any, size: int) -> Any:
    """Which frames belong to which bin, booleans `[B, size, T]`: bin i has those from floor(i n / size) up to ceil((i + 1) n / size)."""
    lengths = ops.reshape(count_frames(mask), (-1, 1, 1))
    number = ops.reshape(ops.arange(size, dtype="int32"), (1, -1, 1))
    frame = ops.reshape(ops.arange(ops.shape(mask)[1], dtype="int32"), (1, 1, -1))
    first, end = number * lengths // size, ((number + 1) * lengths + size - 1) // size
    return ops.logical_and(frame >= first, frame < end)


@registered
class AdaptiveAveragePooling1D(Reduction, getattr(keras.layers, "AdaptiveAveragePooling1D", keras.layers.Layer)):  # type: ignore[misc]
    """`keras.layers.AdaptiveAveragePooling1D` over the real frames of each row; zeros for a row without frames.

    Takes the arguments of its parent. Shapes: `[B, T, d]` with mask `[B, T]` in; `[B, output_size, d]` out.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import AdaptiveAveragePooling1D, LengthMask
        >>> x = LengthMask()({"features": np.arange(6.0, dtype="float32").reshape(1, 6, 1), "lengths": np.array([4])})
        >>> [float(value) for value in AdaptiveAveragePooling1D(2)(x)[0, :, 0]]
        [0.5, 2.5]
    """

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        chosen = ops.cast(bins(mask, self.output_size[0]), inputs.dtype)
        counts = ops.maximum(ops.sum(chosen, axis=2, keepdims=True), 1)
        return ops.matmul(chosen / counts, fill_padding(inputs, mask))


@registered
class AdaptiveMaxPooling1D(Reduction, getattr(keras.layers, "AdaptiveMaxPooling1D", keras.layers.Layer)):  # type: ignore[misc]
    """`keras.layers.AdaptiveMaxPooling1D` over the real frames of each row; arguments and shapes as for `AdaptiveAveragePooling1D`."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        chosen = bins(mask, self.output_size[0])
        pooled = []
        for number in range(self.output_size[0]):  # one bin at a time: [B, size, T, d] would need too much memory
            filled = fill_padding(inputs, chosen[:, number], float("-inf"))
            pooled.append(ops.max(filled, axis=1))
        y = ops.stack(pooled, axis=1)
        return ops.where(ops.reshape(ops.any(mask, axis=1), (-1, 1, 1)), y, ops.cast(0, y.dtype))

"""Layers that slide a window over the frames: convolutions and pooling.

How padding affects each case, and the remedy:

- `valid` and `causal`: the windows of real output frames never reach the padding; only the mask has to be computed.
- `same`: windows read beyond the last frame, where a sequence alone would have zeros. The padding is set to zero first.
- `same` with a stride: the offset of the first window depends on the length. Keras uses the *padded* length, so the same
  sequence gets another output in another batch. Here every row is shifted to its own offset.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
from keras import ops

from vlpipe.layers.base import MaskAware, Reach, count_frames, fill_padding, pad_to_minimum, registered


class Windowed(MaskAware):
    """Base of the layers with a kernel or pool size, a stride, and `padding`."""

    fill = 0.0  # value beyond the ends of a sequence
    slide: Any  # (x) -> the output for padding="valid"; each layer defines it
    padding: str
    strides: tuple[int, ...]

    def span(self) -> int:
        """Return the number of frames from the first to the last one that a window reads."""
        size: Any = getattr(self, "kernel_size", None) or getattr(self, "pool_size", None)
        return int((size[0] - 1) * getattr(self, "dilation_rate", (1,))[0] + 1)

    def stride(self) -> int:
        return int(self.strides[0])

    def reach(self) -> Reach:
        return Reach(self.span(), Fraction(self.stride()))

    def offsets(self) -> list[int]:
        """Return how many frames before input frame j * stride window j begins; under `same` for every remainder of the length."""
        if self.padding == "same":
            return [max(self.span() - remainder, 0) // 2 for remainder in range(1, self.stride() + 1)]
        return [self.span() - 1 if self.padding == "causal" else 0]

    def sides(self) -> tuple[int, int]:
        return max(self.offsets()), self.span() - 1 - min(self.offsets())

    def output_frames(self, frames: Any) -> Any:
        if self.padding == "valid":
            return (frames - self.span()) // self.stride() + 1
        return (frames - 1) // self.stride() + 1

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None or self.padding == "causal":
            return super().call(inputs)  # type: ignore[misc]
        if self.padding == "valid":
            return super().call(pad_to_minimum(inputs, self.span()))  # type: ignore[misc]
        return self.call_same(inputs, mask)

    def call_same(self, inputs: Any, mask: Any) -> Any:
        """Return the output for `padding="same"`, with each row aligned by its own length."""
        if self.stride() > 1:
            return self.slide(self.aligned(inputs, mask))
        if self.span() == 1:
            return super().call(inputs)  # type: ignore[misc]
        return super().call(fill_padding(inputs, mask))  # type: ignore[misc]

    def aligned(self, inputs: Any, mask: Any) -> Any:
        """Return `inputs`, shifted and padded so that a `valid` window gives each row the `same` output of the row alone.

        The last stride of a row of n frames covers r = 1 + (n - 1) mod stride frames, and TensorFlow's rule then puts
        (span - r) // 2 padding frames before the first. The result has T + span - 1 frames, so that the output has the
        (T - 1) // stride + 1 frames of `same`. One gather from a copy with one extra frame of padding does all of it; chains
        of pads, slices and selects took twice as long.
        """
        if len(set(self.offsets())) == 1:  # as in pooling whose size is its stride
            before = self.offsets()[0]
            x, rest = fill_padding(inputs, mask, self.fill), [[0, 0]] * (len(inputs.shape) - 2)
            return ops.pad(x, [[0, 0], [before, self.span() - 1 - before], *rest], constant_values=self.fill)
        batch, frames, width = ops.shape(inputs)
        lengths, span = ops.expand_dims(count_frames(mask), 1), self.span()
        remainder = (lengths - 1) % self.stride() + 1
        frame = ops.expand_dims(ops.arange(frames + span - 1, dtype="int32"), 0) - ops.maximum(span - remainder, 0) // 2
        frame = ops.where((frame >= 0) & (frame < lengths), frame, frames)
        row = ops.expand_dims(ops.arange(batch, dtype="int32"), 1) * (frames + 1)
        x = ops.pad(inputs, [[0, 0], [0, 1], [0, 0]], constant_values=self.fill)
        return ops.take(ops.reshape(x, (-1, width)), row + frame, axis=0)

    def finish(self, outputs: Any) -> Any:
        """Return the outputs with bias and activation applied, as at the end of a convolution."""
        if self.use_bias:  # type: ignore[attr-defined]
            outputs = outputs + ops.cast(self.bias, outputs.dtype)  # type: ignore[attr-defined]
        return outputs if self.activation is None else self.activation(outputs)  # type: ignore[attr-defined]


@registered
class Conv1D(Windowed, keras.layers.Conv1D):
    """`keras.layers.Conv1D` that gives a sequence the same output alone, padded or in a batch.

    Takes the arguments of its parent. The output has `(n - span) // stride + 1` frames for `valid`, else `ceil(n / stride)`.

    Shapes: features `[B, T, d]` with mask `[B, T]` in; `[B, T', filters]` with mask `[B, T']` out.

    Raises:
        ArgumentError: `data_format="channels_first"`.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Conv1D, LengthMask
        >>> x = LengthMask()({"features": np.ones((2, 7, 4), "float32"), "lengths": np.array([7, 3])})
        >>> tuple(Conv1D(8, 3, strides=2, padding="same")(x).shape)
        (2, 4, 8)
    """

    def slide(self, x: Any) -> Any:
        return self.finish(ops.conv(x, self.kernel, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


@registered
class DepthwiseConv1D(Windowed, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` that respects true lengths; arguments, shapes and errors as for `Conv1D`."""

    def slide(self, x: Any) -> Any:
        return self.finish(ops.depthwise_conv(x, self.kernel, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


@registered
class SeparableConv1D(Windowed, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` that respects true lengths; arguments, shapes and errors as for `Conv1D`."""

    def slide(self, x: Any) -> Any:
        kernels = self.depthwise_kernel, self.pointwise_kernel
        return self.finish(ops.separable_conv(x, *kernels, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


@registered
class MaxPooling1D(Windowed, keras.layers.MaxPooling1D):
    """`keras.layers.MaxPooling1D` over real frames only.

    Takes the arguments of its parent. Shapes and errors as for `Conv1D`; the padding of the output is zero under `same`.
    """

    fill = float("-inf")

    def call_same(self, inputs: Any, mask: Any) -> Any:
        pooled = self.slide(self.aligned(inputs, mask))
        return fill_padding(pooled, self.compute_mask(inputs, mask))  # -inf must not reach the next layer

    def slide(self, x: Any) -> Any:
        return ops.max_pool(x, self.pool_size, strides=self.strides, padding="valid")


@registered
class AveragePooling1D(Windowed, keras.layers.AveragePooling1D):
    """`keras.layers.AveragePooling1D` over real frames only: under `same`, a window divides by the real frames in it.

    Takes the arguments of its parent. Shapes and errors as for `Conv1D`; the padding of the output is zero under `same`. On PyTorch, Keras
    itself repeats the edge where such a window reaches further beyond one end than beyond the other; this layer answers as on TensorFlow.
    """

    def call_same(self, inputs: Any, mask: Any) -> Any:
        mean = self.slide(self.aligned(inputs, mask))
        real_share = self.slide(self.aligned(ops.cast(ops.expand_dims(mask, -1), inputs.dtype), mask))
        return ops.where(real_share > 0, mean / ops.where(real_share > 0, real_share, 1), 0)  # the inner where avoids 0/0 in the gradient

    def slide(self, x: Any) -> Any:
        return ops.average_pool(x, self.pool_size, strides=self.strides, padding="valid")

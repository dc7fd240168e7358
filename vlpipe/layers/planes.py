"""Layers over spectrograms `[B, T, F, C]`: frames, a second axis of fixed size, and channels.

Only the frames have lengths, so each layer treats axis 1 as its one-dimensional namesake does (`windows.py`, `resize.py`, `reduce.py`),
and the second axis as Keras does.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, Reach, align_mask, fill_padding, pad_to_minimum, registered
from vlpipe.layers.reduce import Reduction, frame_extreme, frame_mean
from vlpipe.layers.resize import Transposed
from vlpipe.layers.windows import Windowed


class Plane(Windowed):
    """Base of the layers whose window has a second axis; windows that each row aligns by its own length are `valid` along the frames."""

    def aligned(self, inputs: Any, mask: Any) -> Any:
        batch, frames, *rest = ops.shape(inputs)
        width = 1
        for size in rest:
            width = width * size
        x = super().aligned(ops.reshape(inputs, (batch, frames, width)), mask)
        return self.padded(ops.reshape(x, (batch, -1, *rest)))

    def padded(self, x: Any) -> Any:
        """Return `x` with the padding of `same` along its second axis, whose size is the same in every row."""
        size: Any = getattr(self, "kernel_size", None) or getattr(self, "pool_size", None)
        span = (size[1] - 1) * getattr(self, "dilation_rate", (1, 1))[1] + 1
        stride = self.strides[1]
        width = ops.shape(x)[2]
        missing: Any = (width - 1) // stride * stride + span - width
        missing = max(missing, 0) if isinstance(missing, int) else ops.maximum(missing, 0)
        return ops.pad(x, [[0, 0], [0, 0], [missing // 2, missing - missing // 2], [0, 0]], constant_values=self.fill)


@registered
class Conv2D(Plane, keras.layers.Conv2D):
    """`keras.layers.Conv2D` over spectrograms that gives one the same output alone, padded or in a batch.

    Takes the arguments of its parent. The output has `(n - span) // stride + 1` frames for `valid`, else `ceil(n / stride)`.

    Shapes: `[B, T, F, C]` with mask `[B, T]` in; `[B, T', F', filters]` with mask `[B, T']` out.

    Raises:
        ArgumentError: `data_format="channels_first"`.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Conv2D, LengthMask
        >>> x = LengthMask()({"features": np.ones((2, 7, 40, 1), "float32"), "lengths": np.array([7, 3])})
        >>> tuple(Conv2D(8, 3, strides=2, padding="same")(x).shape)
        (2, 4, 20, 8)
    """

    def slide(self, x: Any) -> Any:
        return self.finish(ops.conv(x, self.kernel, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


@registered
class DepthwiseConv2D(Plane, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that respects true lengths; arguments, shapes and errors as for `Conv2D`."""

    def slide(self, x: Any) -> Any:
        return self.finish(ops.depthwise_conv(x, self.kernel, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


@registered
class SeparableConv2D(Plane, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` that respects true lengths; arguments, shapes and errors as for `Conv2D`."""

    def slide(self, x: Any) -> Any:
        kernels = self.depthwise_kernel, self.pointwise_kernel
        return self.finish(ops.separable_conv(x, *kernels, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


@registered
class MaxPooling2D(Plane, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` over real frames only; arguments of its parent, shapes and errors as for `Conv2D`."""

    fill = float("-inf")

    def call_same(self, inputs: Any, mask: Any) -> Any:
        pooled = self.slide(self.aligned(inputs, mask))
        return fill_padding(pooled, self.compute_mask(inputs, mask))  # -inf must not reach the next layer

    def slide(self, x: Any) -> Any:
        return ops.max_pool(x, self.pool_size, strides=self.strides, padding="valid")


@registered
class AveragePooling2D(Plane, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` over real frames only; arguments of its parent, shapes and errors as for `Conv2D`.

    On PyTorch, it answers as on TensorFlow under `same`: see `AveragePooling1D`.
    """

    def call_same(self, inputs: Any, mask: Any) -> Any:
        mean = self.slide(self.aligned(inputs, mask))
        real = ops.broadcast_to(align_mask(mask, inputs), ops.shape(inputs[..., :1]))
        share = self.slide(self.aligned(ops.cast(real, inputs.dtype), mask))
        return ops.where(share > 0, mean / ops.where(share > 0, share, 1), 0)  # the inner where avoids 0/0 in the gradient

    def slide(self, x: Any) -> Any:
        return ops.average_pool(x, self.pool_size, strides=self.strides, padding="valid")


@registered
class GlobalAveragePooling2D(Reduction, keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` over real frames and the second axis; zeros (not NaN) for a row without frames.

    Takes the arguments of its parent. Shapes: `[B, T, F, C]` with mask `[B, T]` in; `[B, C]` out (`[B, 1, 1, C]` with `keepdims`).

    Raises:
        ArgumentError: `data_format="channels_first"`.
    """

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        mean = frame_mean(inputs, mask, self.keepdims)
        return ops.mean(mean, axis=2 if self.keepdims else 1, keepdims=self.keepdims)


@registered
class GlobalMaxPooling2D(Reduction, keras.layers.GlobalMaxPooling2D):
    """`keras.layers.GlobalMaxPooling2D` over real frames; arguments, shapes and errors as for `GlobalAveragePooling2D`."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        return frame_extreme(ops.max(inputs, axis=2, keepdims=self.keepdims), mask, self.keepdims, largest=True)


@registered
class Conv2DTranspose(Transposed, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` over real frames only; arguments of its parent, shapes and errors as for `Conv2D`."""


@registered
class ZeroPadding2D(MaskAware, keras.layers.ZeroPadding2D):
    """`keras.layers.ZeroPadding2D` that appends its zeros after the last real frame of each row; they count as frames, as in Keras."""

    def output_frames(self, frames: Any) -> Any:
        return frames + sum(self.padding[0])

    def sides(self) -> tuple[int, int]:
        return self.padding[0][0], 0

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return super().call(inputs if mask is None else fill_padding(inputs, mask))


@registered
class Cropping2D(MaskAware, keras.layers.Cropping2D):
    """`keras.layers.Cropping2D` that crops real frames at both ends of each row. Arguments of its parent; shapes as for `Conv2D`."""

    def output_frames(self, frames: Any) -> Any:
        return frames - sum(self.cropping[0])

    def sides(self) -> tuple[int, int]:
        return 0, sum(self.cropping[0])

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return super().call(inputs if mask is None else pad_to_minimum(inputs, sum(self.cropping[0]) + 1))


@registered
class UpSampling2D(MaskAware, keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` that repeats frames, and whose output has a mask. Arguments of its parent; shapes as for `Conv2D`.

    Raises:
        ArgumentError: frames would be interpolated: `interpolation` is not `"nearest"`, and the first `size` is not 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.interpolation != "nearest" and self.size[0] != 1:
            raise ArgumentError(
                f'UpSampling2D "{self.name}": interpolation={self.interpolation!r} with size={self.size}; expected "nearest" along the '
                'frames, because Keras interpolates up to the padded length. Use interpolation="nearest" or size=(1, k).'
            )

    def reach(self) -> Reach:
        return Reach(1, Fraction(1, self.size[0]))

    def sides(self) -> tuple[Fraction, int]:
        return Fraction(self.size[0] - 1, self.size[0]), 0

    def output_frames(self, frames: Any) -> Any:
        return frames * self.size[0]

    def call(self, inputs: Any, mask: Any = None) -> Any:  # without a `mask` argument, Keras would not call compute_mask with one
        return super().call(inputs)


@registered
class STFTSpectrogram(Windowed, keras.layers.STFTSpectrogram):
    """`keras.layers.STFTSpectrogram` of waveforms `[B, N, C]` by their true lengths.

    Takes the arguments of its parent; its windows are those of a convolution of `frame_length` with stride `frame_step`.

    Shapes: `[B, N, C]` with mask `[B, N]` in; `[B, T, F]`, or `[B, T, F, C]` with `expand_dims`, and a mask `[B, T]` out.

    Raises:
        ArgumentError: `data_format="channels_first"`.
    """

    @property
    def strides(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self._frame_step,)

    def span(self) -> int:
        return int(self.frame_length)

    def slide(self, x: Any) -> Any:
        padding, self.padding = self.padding, "valid"
        try:
            return keras.layers.STFTSpectrogram.call(self, x)
        finally:
            self.padding = padding

"""Layers over spectrograms `[B, T, F, C]`: frames, a second axis of fixed size, and channels.

Only the frames have lengths, so each layer treats axis 1 as its one-dimensional namesake does (`sliding.py`, `resize.py`, `reduce.py`),
and the second axis as Keras does.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import AlsoOperation, MaskAware, Reach, cut, fill_padding, pad_to_minimum, registered, with_zeros
from vlpipe.layers.reduce import Reduction, frame_extreme, frame_mean
from vlpipe.layers.resize import Transposed
from vlpipe.layers.sliding import AveragePooling, Conv, DepthwiseConv, MaxPooling, SeparableConv, Windowed


@registered
class Conv2D(Conv, keras.layers.Conv2D):
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


@registered
class DepthwiseConv2D(DepthwiseConv, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that respects true lengths; arguments, shapes and errors as for `Conv2D`."""


@registered
class SeparableConv2D(SeparableConv, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` that respects true lengths; arguments, shapes and errors as for `Conv2D`."""


@registered
class MaxPooling2D(MaxPooling, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` over real frames only; arguments of its parent, shapes and errors as for `Conv2D`."""


@registered
class AveragePooling2D(AveragePooling, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` over real frames only; arguments of its parent, shapes and errors as for `Conv2D`.

    On PyTorch, it answers as on TensorFlow under `same`: see `AveragePooling1D`.
    """


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
class ZeroPadding2D(AlsoOperation, keras.layers.ZeroPadding2D):
    """`keras.layers.ZeroPadding2D` that appends its zeros after the last real frame of each row; they count as frames, as in Keras."""

    def output_frames(self, frames: Any) -> Any:
        return frames + sum(self.padding[0])

    def sides(self) -> tuple[int, int]:
        return self.padding[0][0], 0

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        return with_zeros(super().call(fill_padding(inputs, mask)), self.compute_mask(inputs, mask))


@registered
class Cropping2D(MaskAware, keras.layers.Cropping2D):
    """`keras.layers.Cropping2D` that crops real frames at both ends of each row. Arguments of its parent; shapes as for `Conv2D`."""

    def output_frames(self, frames: Any) -> Any:
        return frames - sum(self.cropping[0])

    def sides(self) -> tuple[int, int]:
        return 0, sum(self.cropping[0])

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        x = pad_to_minimum(inputs, sum(self.cropping[0]) + 1)
        sizes = ops.shape(x)[1:3]
        return cut(x, *[(ends[0], size - sum(ends)) for ends, size in zip(self.cropping, sizes, strict=True)])


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

    def span(self, axis: int = 0) -> int:
        return int(self.frame_length)

    def slide(self, x: Any) -> Any:
        padding, self.padding = self.padding, "valid"
        try:
            return keras.layers.STFTSpectrogram.call(self, x)
        finally:
            self.padding = padding

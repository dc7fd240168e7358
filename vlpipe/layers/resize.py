"""Layers that change the number of frames without a sliding window: transposed convolution, padding, cropping, repetition."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
from keras import ops

from vlpipe.layers.base import AlsoOperation, MaskAware, Reach, cut, fill_padding, pad_to_minimum, registered, with_zeros


class Transposed(MaskAware):
    """A transposed convolution over real frames only; it may have further axes, such as frequency, behind the frames."""

    kernel_size: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    strides: tuple[int, ...]
    filters: int
    compute_output_shape: Any

    def reach(self) -> Reach:
        span = (self.kernel_size[0] - 1) * self.dilation_rate[0] + 1
        return Reach(-(-span // self.strides[0]), Fraction(1, self.strides[0]))

    def sides(self) -> tuple[Fraction, Fraction]:
        side = Fraction((self.kernel_size[0] - 1) * self.dilation_rate[0], self.strides[0])
        return side, side

    def _frames_from_one(self) -> int:
        """Return how many frames one frame becomes."""
        return int(self.compute_output_shape((None, *[1] * len(self.kernel_size), self.filters))[1])

    def output_frames(self, frames: Any) -> Any:
        return (frames - 1) * self.strides[0] + self._frames_from_one()

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return super().call(inputs if mask is None else fill_padding(inputs, mask))  # type: ignore[misc]  # that of the Keras layer


@registered
class Conv1DTranspose(Transposed, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` over real frames only: padding contributes nothing to the output.

    Takes the arguments of its parent. The output of n frames has as many frames as in Keras: `n * stride` for `same`.

    Shapes: features `[B, T, d]` with mask `[B, T]` in; `[B, T', filters]` with mask `[B, T']` out.

    Raises:
        ArgumentError: `data_format="channels_first"`.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Conv1DTranspose, LengthMask
        >>> x = LengthMask()({"features": np.ones((2, 7, 4), "float32"), "lengths": np.array([7, 3])})
        >>> tuple(Conv1DTranspose(8, 4, strides=2, padding="same")(x).shape)
        (2, 14, 8)
    """


@registered
class ZeroPadding1D(AlsoOperation, keras.layers.ZeroPadding1D):
    """`keras.layers.ZeroPadding1D` that appends its zeros after the last real frame of each row.

    The added zeros count as real frames, as in Keras. Takes the arguments of its parent; shapes as for `Conv1D`.
    """

    def output_frames(self, frames: Any) -> Any:
        return frames + sum(self.padding)

    def sides(self) -> tuple[int, int]:
        return self.padding[0], 0

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        return with_zeros(super().call(fill_padding(inputs, mask)), self.compute_mask(inputs, mask))


@registered
class Cropping1D(MaskAware, keras.layers.Cropping1D):
    """`keras.layers.Cropping1D` that crops real frames at both ends of each row. Arguments of its parent; shapes as for `Conv1D`."""

    def output_frames(self, frames: Any) -> Any:
        return frames - sum(self.cropping)

    def sides(self) -> tuple[int, int]:
        return 0, sum(self.cropping)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        x = pad_to_minimum(inputs, sum(self.cropping) + 1)
        return cut(x, (self.cropping[0], ops.shape(x)[1] - sum(self.cropping)))


@registered
class UpSampling1D(MaskAware, keras.layers.UpSampling1D):
    """`keras.layers.UpSampling1D` whose output has a mask. Arguments of its parent; shapes as for `Conv1D`."""

    def reach(self) -> Reach:
        return Reach(1, Fraction(1, self.size))

    def sides(self) -> tuple[Fraction, int]:
        return Fraction(self.size - 1, self.size), 0

    def output_frames(self, frames: Any) -> Any:
        return frames * self.size

    def call(self, inputs: Any, mask: Any = None) -> Any:  # without a `mask` argument, Keras would not call compute_mask with one
        return super().call(inputs)

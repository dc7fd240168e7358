"""Layers that slide a window over the frames: convolutions and pooling. Their arithmetic is in `sliding.py`."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, fill_padding, registered
from vlpipe.layers.resize import Transposed
from vlpipe.layers.sliding import AveragePooling, Conv, DepthwiseConv, MaxPooling, SeparableConv, Windowed

CONVOLUTIONS = ("conv", "depthwise_conv", "separable_conv")


@registered
class Conv1D(Conv, keras.layers.Conv1D):
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


@registered
class DepthwiseConv1D(DepthwiseConv, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` that respects true lengths; arguments, shapes and errors as for `Conv1D`."""


@registered
class SeparableConv1D(SeparableConv, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` that respects true lengths; arguments, shapes and errors as for `Conv1D`."""


@registered
class MaxPooling1D(MaxPooling, keras.layers.MaxPooling1D):
    """`keras.layers.MaxPooling1D` over real frames only.

    Takes the arguments of its parent. Shapes and errors as for `Conv1D`; the padding of the output is zero under `same`.
    """


@registered
class AveragePooling1D(AveragePooling, keras.layers.AveragePooling1D):
    """`keras.layers.AveragePooling1D` over real frames only: under `same`, a window divides by the real frames in it.

    Takes the arguments of its parent. Shapes and errors as for `Conv1D`. On PyTorch, Keras itself repeats the edge where such a
    window reaches further beyond one end than beyond the other; this layer answers as on TensorFlow, and `mask_aware` refuses such a layer
    of Keras there.
    """


class KernelOperation(MaskAware):
    """Base of the layers that stand for a convolution of `keras.ops`: their inputs are a list of the sequences and the kernels."""

    kernel_size: tuple[int, ...]
    _convolved: Any  # (inputs, padding) -> the output of the operation
    padding: str
    _own: tuple[str, ...]  # the names of the arguments

    def _of_each_axis(self, value: int | Sequence[int]) -> tuple[int, ...]:
        return (value,) * len(self.kernel_size) if isinstance(value, int) else tuple(value)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return super().compute_mask(inputs[0], None if mask is None else mask[0])

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        y = self._convolved(inputs, self.padding)
        return keras.KerasTensor(y.shape, dtype=y.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in self._own}}  # type: ignore[misc]  # that of a Keras layer


@registered
class ConvOperation(KernelOperation, Windowed, keras.layers.Layer):
    """A convolution of `keras.ops` whose kernels are tensors; `mask_aware` puts it in the place of `keras.ops.conv` in a layer of your own.

    Args:
        operation: `"conv"`, `"depthwise_conv"` or `"separable_conv"`.
        kernel_size: of each axis that the kernels slide along, the frames first.
        strides, padding, dilation_rate: as for the operation.
        data_format: `"channels_last"`, or None where that is the default of Keras.

    Shapes: a list of `[B, T, d]` or `[B, T, F, C]`, with a mask `[B, T]`, and of the kernels, as the operation takes them, in;
    `[B, T', filters]` or `[B, T', F', filters]` with a mask `[B, T']` out.

    Raises:
        ArgumentError: `operation` is none of these; `data_format` is `"channels_first"`.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import ConvOperation, LengthMask
        >>> x = LengthMask()({"features": np.ones((2, 7, 4), "float32"), "lengths": np.array([7, 3])})
        >>> kernel = np.ones((3, 4, 8), "float32")
        >>> tuple(ConvOperation("conv", [3], strides=2, padding="same")([x, kernel]).shape)
        (2, 4, 8)
    """

    _own = ("operation", "kernel_size", "strides", "padding", "dilation_rate", "data_format")

    def __init__(
        self,
        operation: str,
        kernel_size: Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation_rate: int | Sequence[int] = 1,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.data_format = data_format or keras.config.image_data_format()  # before the base class, which refuses "channels_first"
        super().__init__(autocast=False, **kwargs)  # what comes in half precision leaves in half precision
        if operation not in CONVOLUTIONS:
            raise ArgumentError(f"ConvOperation: operation={operation!r}; expected one of {', '.join(CONVOLUTIONS)}.")
        self.operation, self.kernel_size, self.padding = operation, tuple(kernel_size), padding
        self.strides, self.dilation_rate = self._of_each_axis(strides), self._of_each_axis(dilation_rate)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        x, is_aligned = self.ready(inputs[0], None if mask is None else mask[0])
        return self._convolved([x, *inputs[1:]], "valid" if is_aligned else self.padding)

    def _convolved(self, inputs: Any, padding: str) -> Any:
        return getattr(ops, self.operation)(*inputs, strides=self.strides, padding=padding, dilation_rate=self.dilation_rate)


@registered
class ConvTransposeOperation(KernelOperation, Transposed, keras.layers.Layer):
    """`keras.ops.conv_transpose` over real frames only; `mask_aware` puts it in the place of that operation in a layer of your own.

    Args:
        kernel_size: of each axis that the kernel slides along, the frames first.
        strides, padding, output_padding, dilation_rate: as for the operation.
        data_format: `"channels_last"`, or None where that is the default of Keras.

    Shapes: a list of `[B, T, d]` or `[B, T, F, C]`, with a mask `[B, T]`, and of the kernel, as the operation takes it, in;
    `[B, T', filters]` or `[B, T', F', filters]` with a mask `[B, T']` out.

    Raises:
        ArgumentError: `data_format` is `"channels_first"`.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import ConvTransposeOperation, LengthMask
        >>> x = LengthMask()({"features": np.ones((2, 7, 4), "float32"), "lengths": np.array([7, 3])})
        >>> kernel = np.ones((3, 8, 4), "float32")
        >>> tuple(ConvTransposeOperation([3], strides=2, padding="same")([x, kernel]).shape)
        (2, 14, 8)
    """

    _own = ("kernel_size", "strides", "padding", "output_padding", "dilation_rate", "data_format")

    def __init__(
        self,
        kernel_size: Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
        dilation_rate: int | Sequence[int] = 1,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.data_format = data_format or keras.config.image_data_format()  # as in ConvOperation
        super().__init__(autocast=False, **kwargs)
        self.kernel_size, self.padding = tuple(kernel_size), padding
        self.strides, self.dilation_rate = self._of_each_axis(strides), self._of_each_axis(dilation_rate)
        self.output_padding = None if output_padding is None else self._of_each_axis(output_padding)

    def _frames_from_one(self) -> int:
        ones = [1] * len(self.kernel_size)
        frame, kernel = keras.KerasTensor((1, *ones, 1)), keras.KerasTensor((*self.kernel_size, 1, 1))
        return int(self._convolved([frame, kernel], self.padding).shape[1])

    def call(self, inputs: Any, mask: Any = None) -> Any:
        mask = None if mask is None else mask[0]
        x = inputs[0] if mask is None else fill_padding(inputs[0], mask)
        return self._convolved([x, *inputs[1:]], self.padding)

    def _convolved(self, inputs: Any, padding: str) -> Any:
        return ops.conv_transpose(
            *inputs, strides=self.strides, padding=padding, output_padding=self.output_padding, dilation_rate=self.dilation_rate
        )

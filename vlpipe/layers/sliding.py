"""Windows that slide over the frames: the arithmetic of convolutions and pooling, for sequences `[B, T, d]` and planes `[B, T, F, C]`.

How padding affects each case, and the remedy:

- `valid` and `causal`: the windows of real output frames never reach the padding; only the mask has to be computed.
- `same`: windows read beyond the last frame, where a sequence alone would have zeros. The padding is set to zero first.
- `same` with a stride: the offset of the first window depends on the length. Keras uses the *padded* length, so the same
  sequence gets another output in another batch. Here every row is shifted to its own offset.

Only the frames have lengths: along the second axis of a plane the windows are those of Keras.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from fractions import Fraction
from typing import Any

from keras import ops

from vlpipe.layers.base import MaskAware, Reach, align_mask, count_frames, fill_padding, pad_to_minimum


class Windowed(MaskAware):
    """Base of the layers with a kernel or pool size, a stride, and `padding`."""

    fill = 0.0  # value beyond the ends of a sequence
    always_aligned = False  # with a stride of one, too: what is beyond the ends is not what Keras takes for it, zeros
    slide: Any  # (x) -> the output for padding="valid"; each kind of layer defines it
    padding: str
    strides: tuple[int, ...]

    def size(self) -> tuple[int, ...]:
        """Return the kernel or pool size, along the frames and along the second axis of a plane."""
        size: Any = getattr(self, "kernel_size", None) or getattr(self, "pool_size", None)
        return tuple(size)

    def span(self, axis: int = 0) -> int:
        """Return the number of frames from the first to the last one that a window reads; or of values along the second axis."""
        return int((self.size()[axis] - 1) * getattr(self, "dilation_rate", (1, 1))[axis] + 1)

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
        x, is_aligned = self.ready(inputs, mask)
        return self.slide(x) if is_aligned else super().call(x)  # type: ignore[misc]

    def ready(self, inputs: Any, mask: Any) -> tuple[Any, bool]:
        """Return `inputs` such that no window of a real output frame reads padding, and whether these windows are `valid` ones.

        If not, they keep the `padding` of the layer.
        """
        if mask is None or self.padding == "causal":
            return inputs, False
        if self.padding == "valid":
            return pad_to_minimum(inputs, self.span()), False
        if self.always_aligned or self.stride() > 1:
            return self.aligned(inputs, mask), True
        return (inputs if self.span() == 1 else fill_padding(inputs, mask)), False

    def aligned(self, inputs: Any, mask: Any) -> Any:
        """Return `inputs`, shifted and padded so that a `valid` window gives each row the `same` output of the row alone.

        The last stride of a row of n frames covers r = 1 + (n - 1) mod stride frames, and TensorFlow's rule then puts
        (span - r) // 2 padding frames before the first. The result has T + span - 1 frames, so that the output has the
        (T - 1) // stride + 1 frames of `same`. One gather from a copy with one extra frame of padding does all of it; chains
        of pads, slices and selects took twice as long.
        """
        if len(set(self.offsets())) == 1:  # as in pooling whose size is its stride
            before = self.offsets()[0]
            x = fill_padding(inputs, mask, self.fill)
            return self.padded(x, [before, self.span() - 1 - before])
        batch, frames = ops.shape(inputs)[:2]
        lengths, span = ops.expand_dims(count_frames(mask), 1), self.span()
        remainder = (lengths - 1) % self.stride() + 1
        frame = ops.expand_dims(ops.arange(frames + span - 1, dtype="int32"), 0) - ops.maximum(span - remainder, 0) // 2
        frame = ops.where((frame >= 0) & (frame < lengths), frame, frames)
        row = ops.expand_dims(ops.arange(batch, dtype="int32"), 1) * (frames + 1)
        x = self.padded(inputs, [0, 1])
        return ops.take(ops.reshape(x, (-1, *ops.shape(x)[2:])), row + frame, axis=0)

    def padded(self, x: Any, frames: list[int]) -> Any:
        """Return `x` with so many frames before and after it, and with the padding of `same` along the second axis of a plane."""
        rest = [[0, 0]] * (len(x.shape) - 2)
        if len(self.strides) > 1:
            width, stride = ops.shape(x)[2], self.strides[1]
            missing: Any = (width - 1) // stride * stride + self.span(1) - width
            missing = max(missing, 0) if isinstance(missing, int) else ops.maximum(missing, 0)
            rest[0] = [missing // 2, missing - missing // 2]
        return ops.pad(x, [[0, 0], frames, *rest], constant_values=self.fill)


class Convolving(Windowed):
    """Base of the convolutions: each kind applies its kernels, and all end alike."""

    dilation_rate: Any
    use_bias: bool
    bias: Any
    activation: Any

    def finish(self, outputs: Any) -> Any:
        """Return the outputs with bias and activation applied, as at the end of a convolution."""
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)


class Conv(Convolving):
    kernel: Any

    def slide(self, x: Any) -> Any:
        return self.finish(ops.conv(x, self.kernel, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


class DepthwiseConv(Convolving):
    kernel: Any

    def slide(self, x: Any) -> Any:
        return self.finish(ops.depthwise_conv(x, self.kernel, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


class SeparableConv(Convolving):
    depthwise_kernel: Any
    pointwise_kernel: Any

    def slide(self, x: Any) -> Any:
        kernels = self.depthwise_kernel, self.pointwise_kernel
        return self.finish(ops.separable_conv(x, *kernels, strides=self.strides, padding="valid", dilation_rate=self.dilation_rate))


class MaxPooling(Windowed):
    """Base of maxima over real frames only; the padding of the output is zero under `same`."""

    fill = float("-inf")
    always_aligned = True
    pool_size: Any

    def call(self, inputs: Any, mask: Any = None) -> Any:
        pooled = super().call(inputs, mask)
        # -inf must not reach the next layer
        return pooled if mask is None or self.padding != "same" else fill_padding(pooled, self.compute_mask(inputs, mask))

    def slide(self, x: Any) -> Any:
        return ops.max_pool(x, self.pool_size, strides=self.strides, padding="valid")


class AveragePooling(Windowed):
    """Base of means over real frames only: under `same`, a window divides by the real frames in it; the padding of the output is zero."""

    always_aligned = True
    pool_size: Any

    def call(self, inputs: Any, mask: Any = None) -> Any:
        mean = super().call(inputs, mask)
        if mask is None or self.padding != "same":
            return mean
        real = ops.broadcast_to(align_mask(mask, inputs), ops.shape(inputs[..., :1]))
        share = self.slide(self.aligned(ops.cast(real, inputs.dtype), mask))
        return ops.where(share > 0, mean / ops.where(share > 0, share, 1), 0)  # the inner where avoids 0/0 in the gradient

    def slide(self, x: Any) -> Any:
        return ops.average_pool(x, self.pool_size, strides=self.strides, padding="valid")

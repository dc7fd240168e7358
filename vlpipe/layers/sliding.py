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

import math
from fractions import Fraction
from typing import Any

from keras import ops

from vlpipe.layers.base import AlsoOperation, MaskAware, Reach, count_frames, cut, fill_padding, pad_to_minimum, with_zeros
from vlpipe.layers.frames import gather_frames
from vlpipe.layers.gradients import with_gradient


class Windowed(MaskAware):
    """Base of the layers with a kernel or pool size, a stride, and `padding`."""

    fill = 0.0  # value beyond the ends of a sequence
    always_aligned = False  # whether what Keras has beyond the ends of a batch is never what `fill` is beyond those of a row
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
        begins_alike = len(set(self.offsets())) == 1 and self.span() >= self.stride()  # in rows of all lengths, so also in the padded ones
        if self.always_aligned or not begins_alike:
            return self.aligned(inputs, mask), True
        return (inputs if self.span() == 1 else fill_padding(inputs, mask, self.fill)), False

    def _before(self, lengths: Any) -> Any:
        """Return how many frames before the first one of each row its first window begins, under `same`.

        The last stride of a row of n frames covers r = 1 + (n - 1) mod stride frames, and TensorFlow's rule then puts
        (span - r) // 2 padding frames before the first.
        """
        return ops.maximum(self.span() - 1 - (lengths - 1) % self.stride(), 0) // 2

    def aligned(self, inputs: Any, mask: Any) -> Any:
        """Return `inputs`, shifted and padded so that a `valid` window gives each row the `same` output of the row alone.

        The result has T + span - 1 frames, so that the output has the (T - 1) // stride + 1 frames of `same`. One gather from a
        copy with one extra frame of padding does all of it; chains of pads, slices and selects took twice as long.
        """
        if len(set(self.offsets())) == 1:  # as in an average of two frames with a stride of two
            before = self.offsets()[0]
            x = fill_padding(inputs, mask, self.fill)
            return self.padded(x, [before, self.span() - 1 - before])
        lengths = ops.expand_dims(count_frames(mask), 1)
        before = self._before(lengths)

        def shifted(x: Any) -> tuple[Any, Any]:
            frames, *rest = ops.shape(x)[1:]
            frame = ops.expand_dims(ops.arange(frames + self.span() - 1, dtype="int32"), 0) - before
            y = gather_frames(self.padded(x, [0, 1]), ops.where((frame >= 0) & (frame < lengths), frame, frames))

            def gradient(of_y: Any) -> Any:
                """Fetch that of each real frame from the one place it has gone to; TensorFlow would add up over the places."""
                if len(rest) > 1:
                    of_y = cut(of_y, (0, frames + self.span() - 1), (self._missing(rest[0]) // 2, rest[0]))
                place = ops.expand_dims(ops.arange(frames, dtype="int32"), 0) + before
                return fill_padding(gather_frames(of_y, place), mask)

            return y, gradient

        return with_gradient(shifted, inputs)

    def padded(self, x: Any, frames: list[int]) -> Any:
        """Return `x` with so many frames before and after it, and with the padding of `same` along the second axis of a plane."""
        rest = [[0, 0]] * (len(x.shape) - 2)
        if len(self.strides) > 1:
            missing = self._missing(ops.shape(x)[2])
            rest[0] = [missing // 2, missing - missing // 2]
        return ops.pad(x, [[0, 0], frames, *rest], constant_values=self.fill)

    def _missing(self, width: Any) -> Any:
        """Return how many values the windows along the second axis of a plane read beyond its ends, under `same`."""
        missing: Any = (width - 1) // self.strides[1] * self.strides[1] + self.span(1) - width
        return max(missing, 0) if isinstance(missing, int) else ops.maximum(missing, 0)


class Convolving(Windowed):
    """Base of the convolutions: each kind applies its kernels, and all end alike."""

    dilation_rate: Any
    use_bias: bool
    bias: Any
    activation: Any

    def finish(self, outputs: Any) -> Any:
        """Return the outputs with bias and activation applied, as at the end of a convolution."""
        if self.use_bias:
            outputs = ops.add(outputs, ops.cast(self.bias, outputs.dtype))  # not `+`: Keras makes a BiasAdd of it, whose gradient is faster
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


class MaxPooling(AlsoOperation, Windowed):
    """Base of maxima over real frames only; the padding of the output is zero under `same`."""

    fill = float("-inf")
    pool_size: Any

    def call(self, inputs: Any, mask: Any = None) -> Any:
        pooled = super().call(inputs, mask)
        if mask is None or self.padding != "same":
            return pooled
        real = self.compute_mask(inputs, mask)
        return with_zeros(fill_padding(pooled, real), real)  # -inf must not reach the next layer

    def slide(self, x: Any) -> Any:
        return ops.max_pool(x, self.pool_size, strides=self.strides, padding="valid")


class AveragePooling(AlsoOperation, Windowed):
    """Base of means over real frames only: under `same`, a window divides by the real frames in it."""

    always_aligned = True
    pool_size: Any

    def call(self, inputs: Any, mask: Any = None) -> Any:
        mean = super().call(inputs, mask)
        if mask is None or self.padding != "same":
            return mean
        size = math.prod(self.size())
        count = self._real_values(ops.expand_dims(count_frames(mask), 1), ops.shape(inputs), ops.shape(mean))
        return mean * ops.cast(size / ops.maximum(count, 1), mean.dtype)  # a window of padding alone has the mean 0

    def _real_values(self, lengths: Any, shape: Any, output_shape: Any) -> Any:
        """Return how many values each window averages that are none of the padding `[B, T', 1]`, or `[B, T', F', 1]` of a plane.

        Computed from where the windows begin: the average of a mask, which is the same, took TensorFlow longer than that of the values.
        """

        def inside(axis: int, before: Any, end: Any) -> Any:
            first = ops.arange(output_shape[axis], dtype="int32") * self.strides[axis - 1] - before
            return ops.maximum(ops.minimum(first + self.span(axis - 1), end) - ops.maximum(first, 0), 0)

        count = ops.expand_dims(inside(1, self._before(lengths), lengths), 2)
        if len(shape) > 3:
            count = ops.expand_dims(count * inside(2, self._missing(shape[2]) // 2, shape[2]), 3)
        return count

    def slide(self, x: Any) -> Any:
        return ops.average_pool(x, self.pool_size, strides=self.strides, padding="valid")

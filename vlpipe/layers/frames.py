"""Layers that select, reverse or regroup frames, each row by its own length."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import keras
import numpy as np
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import AS_IT_COMES, AlsoOperation, MaskAware, Reach, count_frames, cut, fill_padding, pad_to_minimum, registered
from vlpipe.layers.reduce import Reduction


def minimum(frames: Any, limit: int) -> Any:
    """Return the smaller of a number of frames (int, array or tensor) and a limit."""
    return np.minimum(frames, limit) if isinstance(frames, (int, np.integer, np.ndarray)) else ops.minimum(frames, limit)


def gather_frames(x: Any, frame: Any) -> Any:
    """Return `x` `[B, T, ...]` at the frames `[B, J]` of each row, which lie in 0..T-1: `[B, J, ...]`."""
    batch, frames, *rest = ops.shape(x)
    row = ops.expand_dims(ops.arange(batch, dtype="int32"), 1) * frames
    return ops.take(ops.reshape(x, (batch * frames, *rest)), row + frame, axis=0)


def encoded(key: Any) -> list[Any]:
    """Return an index as JSON can hold it: a slice is `[start, stop, step]`, an ellipsis `"..."`, a new axis `None`."""
    key = key if isinstance(key, (tuple, list)) else (key,)
    return [[part.start, part.stop, part.step] if isinstance(part, slice) else "..." if part is Ellipsis else part for part in key]


def decoded(key: list[Any]) -> tuple[Any, ...]:
    return tuple(slice(*part) if isinstance(part, (list, tuple)) else Ellipsis if isinstance(part, str) else part for part in key)


@registered
class SliceFrames(MaskAware, keras.layers.Layer):
    """`x[:, start:stop:step]` of each row by its own length: `x[:, -5:]` are its last five real frames, `x[:, ::-1]` its frames reversed.

    Args:
        start, stop, step: of the slice, as in Python; negative ones count from the last real frame of the row.
        rest: index of the axes after the frames, such as `(..., slice(3))`.

    Shapes: `[B, T, ...]` with mask `[B, T]` in; `[B, T', ...]` with a mask out.

    Raises:
        ArgumentError: `step` is negative with a `start` or `stop`, or zero; `start` counts from the last frame and `stop` from the first.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import LengthMask, SliceFrames
        >>> x = LengthMask()({"features": np.arange(4.0).reshape(1, 4, 1), "lengths": np.array([3])})
        >>> [float(value) for value in SliceFrames(-2)(x)[0, :, 0]]
        [1.0, 2.0]
    """

    def __init__(self, start: int | None = None, stop: int | None = None, step: int | None = None, rest: Any = (), **kwargs: Any) -> None:
        super().__init__(**AS_IT_COMES, **kwargs)
        self.start, self.stop, self.step, self.rest = start or 0, stop, 1 if step is None else step, encoded(tuple(rest))
        reverses = self.step < 0 and (start, stop) == (None, None)
        if stop == 0 or (not reverses and (self.step < 1 or (self.start < 0 <= (-1 if stop is None else stop)))):
            raise ArgumentError(
                f'SliceFrames "{self.name}": [{start}:{stop}:{step}]; expected a positive step, or -1 alone, and a stop that '
                "counts from the last frame if the start does. Count both from the same end."
            )

    def endless(self) -> str:
        return "counts frames from the last one" if self.step < 0 or self.start < 0 else ""

    def output_frames(self, frames: Any) -> Any:
        step = abs(self.step)
        stop = 0 if self.stop is None else self.stop
        end = minimum(frames, stop) if stop > 0 else frames + stop
        first = self.start if self.start >= 0 else frames - minimum(frames, -self.start)
        return (end - first + step - 1) // step

    def reach(self) -> Reach:
        return Reach(1, Fraction(abs(self.step)))

    def sides(self) -> tuple[int, int]:
        return 0, max(self.start, 0)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        rest = (slice(None), slice(None), *decoded(self.rest))
        if not self.endless() or mask is None:
            x = inputs if mask is None else pad_to_minimum(inputs, self.start + 1 - min(self.stop or 0, 0))
            if self.step < 0:  # PyTorch has no slices with a negative step
                return ops.flip(x, axis=1)[:, :: -self.step][rest]
            return x[:, slice(self.start or None, self.stop, self.step)][rest]
        frames = ops.shape(inputs)[1]
        lengths = ops.expand_dims(count_frames(mask), 1)
        out = self.output_frames(frames)
        place = ops.expand_dims(ops.arange(max(out, 1) if isinstance(out, int) else ops.maximum(out, 1), dtype="int32"), 0)
        first = lengths - (1 if self.step < 0 else ops.minimum(lengths, -self.start))
        frame = first + self.step * place
        return gather_frames(inputs, ops.clip(frame, 0, frames - 1))[rest]

    def get_config(self) -> dict[str, Any]:
        whole = self.step < 0
        own = {"start": None if whole else self.start, "stop": self.stop, "step": self.step, "rest": self.rest}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{**config, "rest": decoded(config["rest"])})


@registered
class SelectFrame(Reduction, keras.layers.Layer):
    """`x[:, index]` of each row by its own length: `x[:, -1]` is its last real frame. Zeros for a row without this frame.

    Args:
        index: number of the frame; a negative one counts from the last real frame of the row.
        rest: index of the axes after the frames.

    Shapes: `[B, T, ...]` with mask `[B, T]` in; `[B, ...]` out.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import LengthMask, SelectFrame
        >>> x = LengthMask()({"features": np.arange(4.0).reshape(1, 4, 1), "lengths": np.array([3])})
        >>> float(SelectFrame(-1)(x)[0, 0])
        2.0
    """

    def __init__(self, index: int, rest: Any = (), **kwargs: Any) -> None:
        super().__init__(**AS_IT_COMES, **kwargs)
        self.index, self.rest = index, encoded(tuple(rest))

    def call(self, inputs: Any, mask: Any = None) -> Any:
        rest = (slice(None), *decoded(self.rest))
        if mask is None:
            return inputs[:, self.index][rest]
        lengths = ops.expand_dims(count_frames(mask), 1)
        frame = lengths + self.index if self.index < 0 else ops.full_like(lengths, self.index)
        exists = ops.logical_and(frame >= 0, frame < lengths)
        y = gather_frames(inputs, ops.clip(frame, 0, ops.shape(inputs)[1] - 1))
        return fill_padding(y, exists)[:, 0][rest]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "index": self.index, "rest": self.rest}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{**config, "rest": decoded(config["rest"])})


@registered
class Reshape(AlsoOperation, keras.layers.Reshape):
    """`keras.layers.Reshape` that keeps the frames, joins `r` of them to one, or splits each into `r`.

    A sequence whose length is no multiple of `r` loses the frames after the last multiple, where Keras would fail.

    Args:
        target_shape: `(-1, ...)`; the size of the axes after it says how many frames become one.

    Shapes: `[B, T, ...]` with mask `[B, T]` in; `[B, T', *target_shape[1:]]` with a mask out.

    Raises:
        ArgumentError: `target_shape` does not begin with -1; or it has sizes that neither divide the values of a frame nor are a multiple.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Reshape
        >>> tuple(Reshape((-1, 12))(np.ones((2, 7, 4, 3), "float32")).shape)
        (2, 7, 12)
    """

    def __init__(self, target_shape: Any, **kwargs: Any) -> None:
        super().__init__(target_shape, **kwargs)
        self.ratio = Fraction(1)  # frames of the output for one of the input
        self.built = False  # Keras has nothing to build here
        if not self.target_shape or self.target_shape[0] != -1 or -1 in self.target_shape[1:]:
            raise ArgumentError(
                f'Reshape "{self.name}": target_shape={self.target_shape}; expected (-1, ...), where -1 stands for the frames. '
                "Give the sizes of all axes after the frames."
            )

    def build(self, input_shape: Any) -> None:
        values, wanted = math.prod(input_shape[2:]), math.prod(self.target_shape[1:])
        self.ratio = Fraction(values, wanted)
        if 1 not in (self.ratio.numerator, self.ratio.denominator):
            raise ArgumentError(
                f'Reshape "{self.name}": target_shape={self.target_shape} puts {wanted} values in a frame that has {values}; expected a '
                "multiple or a part of them, so that whole frames are joined or split. Project the features with a Dense layer before it."
            )
        super().build(input_shape)

    def output_frames(self, frames: Any) -> Any:
        return frames * self.ratio.numerator // self.ratio.denominator

    def reach(self) -> Reach:
        return Reach(self.ratio.denominator, 1 / self.ratio)

    def sides(self) -> tuple[Fraction, int]:
        return Fraction(self.ratio.numerator - 1, self.ratio.numerator), self.ratio.denominator - 1

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return super().compute_output_spec(inputs)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        batch = ops.shape(inputs)[0]
        if mask is not None:
            inputs = pad_to_minimum(inputs, self.ratio.denominator)
            inputs = cut(inputs, (0, ops.shape(inputs)[1] // self.ratio.denominator * self.ratio.denominator))
        return ops.reshape(inputs, (batch, -1, *self.target_shape[1:]))


@registered
class FilledFrames(MaskAware, keras.layers.Layer):
    """An operation that mixes frames, with the padding of its inputs set to a value that does not count for it.

    `mask_aware` replaces operations such as `keras.ops.normalize(x, axis=1)` with it.

    Args:
        operation: a layer or an operation of `keras.ops`; for several inputs it is called with all of them.
        fill: value in the padding: 0 for sums, minus infinity for `argmax`.

    Shapes: `[B, T, ...]` with mask `[B, T]` in, or a list of tensors; `[B, T, ...]` with the mask of the inputs out.

    Example:
        >>> import keras, numpy as np
        >>> from vlpipe.layers import FilledFrames
        >>> tuple(FilledFrames(keras.layers.UnitNormalization(axis=1))(np.ones((2, 7, 4), "float32")).shape)
        (2, 7, 4)
    """

    def __init__(self, operation: Any, fill: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**AS_IT_COMES, **kwargs)
        self.operation, self.fill = operation, fill

    def endless(self) -> str:
        return "looks at all frames"

    def call(self, inputs: Any, mask: Any = None) -> Any:
        xs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        masks = mask if isinstance(mask, (list, tuple)) else [mask] * len(xs)
        return self.operation(*[x if m is None else fill_padding(x, m, self.fill) for x, m in zip(xs, masks, strict=True)])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = [m for m in (mask if isinstance(mask, (list, tuple)) else [mask]) if m is not None]
        return masks[0] if masks else None

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return self.operation.compute_output_spec(*(inputs if isinstance(inputs, (list, tuple)) else [inputs]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "operation": keras.saving.serialize_keras_object(self.operation), "fill": str(self.fill)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{**config, "operation": keras.saving.deserialize_keras_object(config["operation"]), "fill": float(config["fill"])})


@registered
class FilledReduction(Reduction, FilledFrames):
    """`FilledFrames` for an operation that reduces all frames to one, such as `keras.ops.prod(x, axis=1)`; arguments of its parent."""

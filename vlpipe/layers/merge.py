"""Layers that merge branches: they combine the masks and reject branches with different numbers of frames."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, count_frames, cut, pad_to_minimum, prefix_mask, registered
from vlpipe.layers.frame_count import spread


class Merge(MaskAware):
    """Base of the merging layers: a frame of the output is real if it is real in every branch.

    Keras combines the masks by "or", and drops them if a branch has none, such as a squeeze-and-excitation gate.
    """

    operation: Callable[[Any, Any], Any]

    def _merge_function(self, inputs: Any) -> Any:
        return functools.reduce(type(self).operation, inputs)

    def build(self, input_shape: Any) -> None:
        # Keras would also reject the shapes, but with a message about broadcasting.
        check_frame_counts(self, [shape[1] for shape in input_shape if len(shape) > 2 and shape[1] != 1])
        super().build(input_shape)  # type: ignore[misc]

    def call(self, inputs: Any, mask: Any = None) -> Any:
        check_frame_counts(self, [m.shape[1] for m in mask or [] if m is not None])
        return super().call(inputs)  # type: ignore[misc]

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return super().compute_output_spec(inputs)  # type: ignore[misc]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = [m for m in mask or [] if m is not None]
        if not masks or isinstance(masks[0], keras.KerasTensor):
            return None
        return functools.reduce(ops.logical_and, masks)


def check_frame_counts(layer: Any, frames: Iterable[int | None]) -> None:
    """Raise ArgumentError if the known numbers of frames differ between branches."""
    known = sorted({count for count in frames if count is not None})
    if len(known) > 1:
        raise ArgumentError(
            f'{type(layer).__name__} "{layer.name}": got branches of {" and ".join(map(str, known))} frames; expected the same '
            "number in every branch. Give the branches the same strides and padding, or crop the longer one; for a U-Net, pad the "
            "batches to a multiple of its total stride."
        )


@registered
class CommonFrames(MaskAware, keras.layers.Layer):
    """Cut branches to the frames that all of them have; `mask_aware` puts it before a layer that merges branches of unequal lengths.

    A strided `same` convolution and a `valid` pooling have the same number of frames for every other length only. In a batch, the number
    that the padded length gives says nothing about a row: without the cut, the merging layer would fail for every other batch. A row whose
    branches are of unequal lengths, for which Keras fails, gets the frames that they have in common.

    Args:
        spreads: a row in which a branch has one frame gets this frame as often as the other branches have frames: Keras does not fail
            for such a row, but broadcasts.

    Shapes: a list of `[B, T, ...]` with masks in; the same list cut to the smallest T, or padded to the largest one if it `spreads`, each
    tensor with the mask of the common frames, out.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import CommonFrames
        >>> [tuple(x.shape) for x in CommonFrames()([np.ones((2, 7, 4), "float32"), np.ones((2, 6, 3), "float32")])]
        [(2, 6, 4), (2, 6, 3)]
    """

    def __init__(self, spreads: bool = False, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the layer that merges them casts them, or not
        self.spreads = spreads

    def call(self, inputs: Any, mask: Any = None) -> Any:
        lengths = self._lengths(inputs, mask)
        if not lengths:
            frames = self._size(inputs, False)
            return [cut(x, (0, frames)) for x in inputs]
        frames, common = self._size(inputs, True), functools.reduce(spread, lengths)
        return [self._spread(pad_to_minimum(x, frames), length, common) for x, length in zip(inputs, lengths, strict=True)]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = [m for m in mask or [] if m is not None]
        if not masks or isinstance(masks[0], keras.KerasTensor):
            return None
        if lengths := self._lengths(inputs, mask):
            return [prefix_mask(functools.reduce(spread, lengths), self._size(inputs, True))] * len(inputs)
        frames = self._size(inputs, False)
        return [functools.reduce(ops.logical_and, [m[:, :frames] for m in masks])] * len(inputs)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        known = [x.shape[1] for x in inputs]
        frames = None if None in known else max(known) if self.spreads else min(known)
        return [keras.KerasTensor((x.shape[0], frames, *x.shape[2:]), dtype=x.dtype) for x in inputs]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spreads": self.spreads}

    def _lengths(self, inputs: Any, mask: Any) -> list[Any]:
        """Return the lengths `[B]` of each branch, if they decide: frames are spread, and every branch has a mask."""
        masks = [m for m in mask or [] if m is not None]
        return [count_frames(m) for m in masks] if self.spreads and len(masks) == len(inputs) else []

    @staticmethod
    def _size(inputs: Any, largest: bool) -> Any:
        """Return the smallest or largest T. In a batch of one row of 2 and 4 frames, and one of 1 and 4, the second still needs its 4."""
        sizes = [ops.shape(x)[1] for x in inputs]
        if all(isinstance(size, int) for size in sizes):
            return max(sizes) if largest else min(sizes)
        return functools.reduce(ops.maximum if largest else ops.minimum, sizes)

    @staticmethod
    def _spread(x: Any, length: Any, common: Any) -> Any:
        """Return `x` with the first frame in place of all others in each row that has no second one, but needs it."""
        repeats = ops.logical_and(length == 1, common > 1)
        return ops.where(ops.reshape(repeats, (-1, *[1] * (len(x.shape) - 1))), cut(x, (0, 1)), x)


@registered
class Add(Merge, keras.layers.Add):
    """`keras.layers.Add` with combined masks; a branch without a mask, such as a gate `[B, d]` or `[B, 1, d]`, does not restrict them.

    Takes the arguments of its parent. Shapes: a list of `[B, T, d]` with masks `[B, T]` in; `[B, T, d]` with a mask out.

    Raises:
        ArgumentError: two branches have different numbers of frames.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Add
        >>> tuple(Add()([np.ones((2, 7, 4), "float32"), np.ones((2, 7, 4), "float32")]).shape)
        (2, 7, 4)
    """

    operation = ops.add


@registered
class Subtract(Merge, keras.layers.Subtract):
    """`keras.layers.Subtract` with combined masks; arguments, shapes and errors as for `Add`."""

    operation = ops.subtract


@registered
class Multiply(Merge, keras.layers.Multiply):
    """`keras.layers.Multiply` with combined masks; arguments, shapes and errors as for `Add`."""

    operation = ops.multiply


@registered
class Maximum(Merge, keras.layers.Maximum):
    """`keras.layers.Maximum` with combined masks; arguments, shapes and errors as for `Add`."""

    operation = ops.maximum


@registered
class Minimum(Merge, keras.layers.Minimum):
    """`keras.layers.Minimum` with combined masks; arguments, shapes and errors as for `Add`."""

    operation = ops.minimum


@registered
class Average(Merge, keras.layers.Average):
    """`keras.layers.Average` with combined masks; arguments, shapes and errors as for `Add`."""

    def _merge_function(self, inputs: Any) -> Any:
        return functools.reduce(ops.add, inputs) / len(inputs)


@registered
class Concatenate(Merge, keras.layers.Concatenate):
    """`keras.layers.Concatenate` along the features, with combined masks; arguments and shapes as for `Add`.

    Raises:
        ArgumentError: `axis=1`, because the real frames of a padded row would no longer be a prefix; or the branches have
            different numbers of frames.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Concatenate
        >>> tuple(Concatenate()([np.ones((2, 7, 4), "float32"), np.ones((2, 7, 3), "float32")]).shape)
        (2, 7, 7)
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(axis=axis, **kwargs)
        self.check_axis(axis)

    def check_axis(self, axis: int) -> None:
        if axis in (0, 1):
            raise ArgumentError(
                f'Concatenate "{self.name}": axis={axis}; expected axis=-1, the features. '
                "Sequences of different lengths cannot be joined along the frames; frames of zeros are ZeroPadding1D or keras.ops.pad."
            )

    def build(self, input_shape: Any) -> None:
        if len(input_shape[0]) > 2:  # vectors have no frames
            self.check_axis(self.axis % len(input_shape[0]))
        super().build(input_shape)

    def _merge_function(self, inputs: Any) -> Any:
        return ops.concatenate(inputs, axis=self.axis)

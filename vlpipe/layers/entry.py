"""Where lengths enter a model, and where a mask is handed on by hand."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, at_least, keep_frames, prefix_mask, registered
from vlpipe.layers.merge import refuse_mismatch


@registered
class LengthMask(MaskAware, keras.layers.Layer):
    """The first layer of a mask-aware model: sets the padding to zero and attaches the mask that the others follow.

    Takes what `make_dataset(..., lengths=True)` delivers, `{"features": x, "lengths": n}`, or `{"features": x, "mask": m}`
    with a mask that is true for the first frames of a row and false after them.

    Shapes: `x` `[B, T, ...]` with `n` `[B]` or `m` `[B, T]` in; `[B, T, ...]` with a mask out. A batch of no frames at all
    gets one frame of padding.

    Raises:
        ArgumentError: the input is not such a dict.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import LengthMask
        >>> x = LengthMask()({"features": np.ones((1, 4, 1), "float32"), "lengths": np.array([3])})
        >>> [float(value) for value in x[0, :, 0]]
        [1.0, 1.0, 1.0, 0.0]
    """

    def call(self, inputs: Any) -> Any:
        self._refuse_other(inputs)
        return keep_frames(at_least(inputs["features"], 1), self._mask(inputs))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        if isinstance(inputs["features"], keras.KerasTensor):
            return None
        return self._mask(inputs)

    def _mask(self, inputs: Any) -> Any:
        if "mask" in inputs:
            return at_least(ops.cast(inputs["mask"], "bool"), 1)
        return prefix_mask(inputs["lengths"], ops.shape(at_least(inputs["features"], 1))[1])

    def compute_output_spec(self, inputs: Any) -> Any:
        self._refuse_other(inputs)
        return keras.KerasTensor(inputs["features"].shape, dtype=inputs["features"].dtype)

    def _refuse_other(self, inputs: Any) -> None:
        if not isinstance(inputs, dict) or sorted(inputs) not in (["features", "lengths"], ["features", "mask"]):
            given = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise ArgumentError(
                f'LengthMask "{self.name}": called on {given}; expected {{"features": x, "lengths": n}} or '
                '{"features": x, "mask": m}. Call it on a dict with these keys.'
            )


@registered
class Embedding(MaskAware, keras.layers.Embedding):
    """`keras.layers.Embedding` that hands the mask of its tokens on, which its parent does not.

    Takes the arguments of its parent. Shapes: tokens `[B, T]` with mask `[B, T]` in; `[B, T, d]` with the mask out.

    Raises:
        ArgumentError: `mask_zero=True`, which would take the token 0 for padding.
    """

    def __init__(self, *args: Any, mask_zero: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, mask_zero=mask_zero, **kwargs)
        if mask_zero:
            raise ArgumentError(f'Embedding "{self.name}": mask_zero=True; expected False: the lengths say where the padding begins.')


@registered
class ToPadded(keras.layers.Layer):
    """A ragged batch as `{"features": x, "lengths": n}`, inside the model, so that `batching="ragged"` feeds `fit`.

    TensorFlow only: no other backend has ragged tensors.

    Shapes: a `tf.RaggedTensor` `[B, None, d]` in; `x` `[B, T, d]` and `n` `[B]` (int32) out.

    Raises:
        ArgumentError: the input is not ragged.

    Example:
        >>> import keras
        >>> from vlpipe.layers import ToPadded, mask_aware
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3), keras.layers.GlobalMaxPooling1D()])
        >>> inputs = keras.Input((None, 4), ragged=True)
        >>> ragged_model = keras.Model(inputs, mask_aware(model)(ToPadded()(inputs)))
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._convert_input_args = False  # Keras would try to make a dense tensor of it

    def call(self, inputs: Any) -> Any:
        if not hasattr(inputs, "row_lengths"):
            raise ArgumentError(
                f'ToPadded "{self.name}": got a dense tensor of shape {tuple(inputs.shape)}; expected a ragged one. '
                "A padded batch goes to LengthMask or a mask-aware model with its lengths."
            )
        return {"features": ops.cast(inputs.to_tensor(), self.compute_dtype), "lengths": ops.cast(inputs.row_lengths(), "int32")}

    def compute_output_spec(self, inputs: Any) -> Any:
        return {
            "features": keras.KerasTensor(inputs.shape, dtype=self.compute_dtype),
            "lengths": keras.KerasTensor(inputs.shape[:1], dtype="int32"),
        }


@registered
class CarryMask(MaskAware, keras.layers.Layer):
    """Gives the first tensor of a list the mask of the others: `keras.ops` operations drop masks.

    Shapes: a list of `[B, T, ...]` and of tensors with masks `[B, T]` in; the first tensor, with a mask, out.

    Example:
        >>> from vlpipe.layers import CarryMask
        >>> def swish(x):
        ...     return CarryMask()([x * keras.ops.sigmoid(x), x])
    """

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return inputs[0]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = [m for m in (mask or [])[1:] if m is not None]
        if not masks or isinstance(masks[0], keras.KerasTensor):
            return None
        refuse_mismatch(self, [m.shape[1] for m in masks])
        return functools.reduce(ops.logical_and, masks)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)

"""Layers that bring lengths into a model, and one that passes a mask on by hand."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import functools
import math
import operator
from typing import Any, Literal

import keras
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, align_mask, call_with, fill_padding, pad_to_minimum, prefix_mask, registered, with_zeros
from vlpipe.layers.lengths import asserted, check_known, possible_lengths, possible_masks
from vlpipe.layers.merge import check_frame_counts


@registered
class LengthMask(MaskAware, keras.layers.Layer):
    """The first layer of a mask-aware model: set the padding to zero and attach the mask for the layers after it.

    Takes what `make_dataset(..., lengths=True)` delivers, `{"features": x, "lengths": n}`, or `{"features": x, "mask": m}`
    where the mask of a row is true for its first frames and false after. Other keys, such as `"id"`, are ignored. In a model
    made by hand, use it with `vlpipe.layers.Model`, which takes its inputs by key as well.

    Shapes: `x` `[B, T, ...]` with `n` `[B]` or `m` `[B, T]` in; `[B, T, ...]` with a mask out. A batch without any frames
    gets one frame of padding.

    Raises:
        ArgumentError: the input is not a dict with these keys, or has both; a length is below 0, beyond T or not a whole
            number; a mask is not a prefix, or has another shape than `[B, T]`. Inside a graph of TensorFlow, an impossible length
            or mask is a `tf.errors.InvalidArgumentError`. A graph compiled by XLA, as JAX's, cannot raise: it delivers NaN
            for all frames of the row (values that are integers, such as tokens, stay).

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import LengthMask
        >>> x = LengthMask()({"features": np.ones((1, 4, 1), "float32"), "lengths": np.array([3])})
        >>> [float(value) for value in x[0, :, 0]]
        [1.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the features keep their dtype, as behind keras.Input in the plain model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call_with(self._selected, super().__call__, args, kwargs)

    def call(self, inputs: Any) -> Any:
        features, values = self._selected(inputs).values()
        companion = "mask" if "mask" in inputs else "lengths"
        if check_known(self.name, companion, values, ops.shape(features)[1]):
            return with_zeros(fill_padding(pad_to_minimum(features, 1), self._mask(inputs)), self.compute_mask(inputs))
        possible = self._possible(inputs)
        features = asserted(features, self.name, companion, possible, values, features)
        filled = fill_padding(pad_to_minimum(features, 1), self._mask(inputs))
        if keras.backend.is_float_dtype(features.dtype):
            filled = fill_padding(filled, ops.expand_dims(possible, 1), math.nan)  # seen where XLA has removed the assertion
        return with_zeros(filled, self.compute_mask(inputs))  # impossible rows have no padding there

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        if isinstance(inputs["features"], keras.KerasTensor):
            return None
        # In an impossible row all frames count: it shall not pass for a row without frames, nor lose the NaN of `call`.
        return ops.logical_or(self._mask(inputs), ops.expand_dims(ops.logical_not(self._possible(inputs)), 1))

    def compute_output_spec(self, inputs: Any) -> Any:
        features = self._selected(inputs)["features"]
        return keras.KerasTensor(features.shape, dtype=features.dtype)

    def _mask(self, inputs: Any) -> Any:
        if "mask" in inputs:
            return pad_to_minimum(ops.cast(inputs["mask"], "bool"), 1)
        return prefix_mask(inputs["lengths"], ops.shape(pad_to_minimum(inputs["features"], 1))[1])

    def _possible(self, inputs: Any) -> Any:
        if "mask" in inputs:
            return possible_masks(inputs["mask"])
        return possible_lengths(inputs["lengths"], ops.shape(inputs["features"])[1])

    def _selected(self, inputs: Any) -> Any:
        """Return the features, and the lengths or the mask."""
        keys = {"features", "lengths", "mask"} & set(inputs) if isinstance(inputs, dict) else set()
        if "features" not in keys or len(keys) != 2:
            received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise ArgumentError(
                f'LengthMask "{self.name}": called on {received}; expected {{"features": x, "lengths": n}} or '
                '{"features": x, "mask": m}. Call it on a dict with these keys.'
            )
        companion = max(keys)  # "lengths" or "mask"
        x, values = inputs["features"], inputs[companion]
        expected = tuple(x.shape)[: 1 if companion == "lengths" else 2]
        known_dims = [pair for pair in zip(expected, values.shape, strict=False) if None not in pair]
        if len(values.shape) != len(expected) or any(wanted != got for wanted, got in known_dims):
            raise ArgumentError(
                f'LengthMask "{self.name}": the {companion} have the shape {tuple(values.shape)}, the features {tuple(x.shape)}; '
                f"expected {expected}. Pass one length, or one row of a mask, for each sequence."
            )
        return {"features": x, companion: values}


@registered
class Embedding(MaskAware, keras.layers.Embedding):
    """`keras.layers.Embedding` that passes the mask of its tokens on, which its parent does not.

    Takes the arguments of its parent. Shapes: tokens `[B, T]` with mask `[B, T]` in; `[B, T, d]` with the mask out.

    Raises:
        ArgumentError: `mask_zero=True`, which would treat token 0 as padding; `mask_aware` makes it False.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Embedding, LengthMask
        >>> tokens = LengthMask()({"features": np.array([[5, 0, 2]]), "lengths": np.array([2])})
        >>> tuple(Embedding(10, 4)(tokens).shape)
        (1, 3, 4)
    """

    def __init__(self, *args: Any, mask_zero: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, mask_zero=mask_zero, **kwargs)
        if mask_zero:
            raise ArgumentError(
                f'Embedding "{self.name}": mask_zero=True; expected False, because the lengths already define the padding. '
                "Build the layer with mask_zero=False."
            )


@registered
class ToPadded(keras.layers.Layer):
    """Convert a ragged batch to `{"features": x, "lengths": n}` inside the model, so that `batching="ragged"` feeds `fit`.

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
        >>> ragged_model.output_shape
        (None, 8)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._convert_input_args = False  # Keras would try to convert the ragged tensor to a dense one

    def call(self, inputs: Any) -> Any:
        if not hasattr(inputs, "row_lengths"):
            raise ArgumentError(
                f'ToPadded "{self.name}": got a dense tensor of shape {tuple(inputs.shape)}; expected a ragged one. '
                "Pass a padded batch and its lengths to LengthMask or to a mask-aware model instead."
            )
        return {"features": inputs.to_tensor(), "lengths": ops.cast(inputs.row_lengths(), "int32")}

    def compute_output_spec(self, inputs: Any) -> Any:
        return {
            "features": keras.KerasTensor(inputs.shape, dtype=inputs.dtype),
            "lengths": keras.KerasTensor(inputs.shape[:1], dtype="int32"),
        }


@registered
class FillPadding(MaskAware, keras.layers.Layer):
    """Set the padding to one value, in a tensor of its own; a tensor without a mask stays as it is.

    `mask_aware` puts it before operations that have no finite value or gradient for some inputs, such as `ops.log`, because zero times
    the gradient of the padding would be NaN, and before attention, which deletes the mask of the very tensors that it is called on.

    Args:
        value: what the padding becomes; `"spread"` are values between 0.25 and 0.75 that differ within each frame, for operations that
            fail where all are equal; they are 1 in integers.

    Shapes: `[B, T, ...]` with mask `[B, T]` in, the same out. Or a list of `[B, ...]` and a tensor with a mask in: the first out, with
    `value` in the rows for which the second has no frames.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import FillPadding, LengthMask
        >>> x = LengthMask()({"features": np.full((1, 4, 1), 7.0, "float32"), "lengths": np.array([3])})
        >>> [float(value) for value in FillPadding(1.0)(x)[0, :, 0]]
        [7.0, 7.0, 7.0, 1.0]
    """

    def __init__(self, value: float | Literal["spread"] = 0.0, autocast: bool = False, **kwargs: Any) -> None:
        super().__init__(autocast=autocast, **kwargs)  # what comes in half precision leaves in half precision
        self.value = value

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if not isinstance(inputs, (list, tuple)):
            # a copy also where `fill_padding` would return the tensor itself: attention deletes the mask of what it is called on
            return inputs if mask is None else ops.where(align_mask(mask, inputs), inputs, self._fill(inputs, 2))
        x, mask = inputs[0], None if mask is None else mask[1]
        if mask is None:
            return x
        row_has_frames = ops.reshape(ops.any(mask, axis=1), (-1, *[1] * (len(x.shape) - 1)))
        return ops.where(row_has_frames, x, self._fill(x, 1))

    def _fill(self, x: Any, first: int) -> Any:
        """Return the value in the data type of `x`; values that differ are given to its axes from `first` on."""
        if self.value != "spread" or not keras.backend.is_float_dtype(x.dtype):
            return ops.cast(1 if self.value == "spread" else self.value, x.dtype)
        sizes = ops.shape(x)[first:]
        count = functools.reduce(operator.mul, sizes, 1)
        values = 0.25 + 0.5 * ops.cast(ops.arange(count, dtype="int32"), "float32") / ops.cast(ops.maximum(count, 1), "float32")
        return ops.cast(ops.reshape(values, sizes), x.dtype)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return None if isinstance(mask, (list, tuple, keras.KerasTensor)) else mask

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        x = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "value": self.value}


@registered
class CarryMask(MaskAware, keras.layers.Layer):
    """Give the first tensor of a list the combined mask of the others, because `keras.ops` operations drop masks.

    Shapes: a list of one tensor `[B, T, ...]` and others with masks `[B, T]` in; the first tensor, with a mask, out.

    Raises:
        ArgumentError: the masks have different numbers of frames.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import CarryMask, GlobalAveragePooling1D, LengthMask
        >>> x = LengthMask()({"features": np.ones((1, 4, 1), "float32"), "lengths": np.array([2])})
        >>> y = CarryMask()([x + 1, x])
        >>> float(GlobalAveragePooling1D()(y)[0, 0])
        2.0
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # what comes in half precision leaves in half precision

    def call(self, inputs: Any, mask: Any = None) -> Any:
        own = None if mask is None or isinstance(inputs[0], keras.KerasTensor) else mask[0]
        return inputs[0] if own is None else ops.copy(inputs[0])  # Keras would leave the tensor its mask

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = [m for m in (mask or [])[1:] if m is not None]
        if not masks or isinstance(masks[0], keras.KerasTensor):
            return None
        check_frame_counts(self, [m.shape[1] for m in masks])
        return functools.reduce(ops.logical_and, masks)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)

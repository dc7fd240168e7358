"""What the padding is set to before an operation that has no finite value, or no finite gradient, everywhere.

A mask selects real frames from a result, but the gradient of what was not selected is zero times that of the operation: NaN where that
is infinite. One frame of padding then makes the gradient of a whole batch NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import keras
from keras import layers as plain

from vlpipe.layers.probe import own_activation, written_by_user
from vlpipe.layers.walk import TracedTensor

Fill = float | Literal["spread"]  # the value of a `FillPadding`

ATTENTION = {plain.MultiHeadAttention, plain.GroupQueryAttention, plain.Attention, plain.AdditiveAttention}

# Class names of keras.ops operations, and a value at which each is finite and smooth.
SAFE_VALUES: dict[str, Fill] = {
    **dict.fromkeys(("Log", "Log10", "Log1p", "Log2", "Sqrt", "Rsqrt", "Reciprocal", "Divide", "TrueDivide", "DivideNoNan"), 1.0),
    **dict.fromkeys(("Power", "FloorDivide", "Mod", "Tan", "Normalize", "Norm", "Logaddexp", "Arctan2", "Cbrt"), 1.0),
    **dict.fromkeys(("Fmod", "Hypot", "Sinc", "Angle"), 1.0),
    **dict.fromkeys(("Arcsin", "Arccos", "Arctanh", "Erfinv"), 0.0),
    "Arccosh": 2.0,
    "Logit": 0.5,
    "Std": "spread",  # of equal values it is 0, and has no gradient
}
# Of these, only what comes second has no place at 0.
DIVISIONS = {"Divide", "TrueDivide", "FloorDivide", "Mod", "Fmod"}
SMALL = 1e-9  # the gradient of a normalization by zero plus less than this may be infinite


def fill_of(operation: Any, arguments: Any, activation: Any) -> Fill | None:
    """Return the value that the padding of an operation's inputs is set to; None leaves it.

    Args:
        operation: a layer or an operation of `keras.ops`.
        arguments: what it is called with, `TracedTensor` in place of tensors.
        activation: the function of an Activation layer if Keras did not write it.
    """
    if type(operation) in ATTENTION:
        return 0.0  # a weight of zero times NaN is NaN; the copy also keeps Keras from deleting the mask of the input
    if type(operation) is plain.UnitNormalization or activation is not None:
        return 1.0
    if divides_by_spread(operation) or (isinstance(operation, plain.TimeDistributed) and any(map(needs_fill, parts_of(operation.layer)))):
        return "spread"
    if not type(operation).__module__.startswith("keras.src.ops"):
        return None
    name, second = type(operation).__name__, arguments[1] if len(arguments) > 1 else None
    constant = second is not None and not isinstance(second, TracedTensor)
    if constant and (name in ("Divide", "TrueDivide") or (name == "Power" and second in (1, 2, 3, 4))):
        return None
    return SAFE_VALUES.get(name)


def divides_by_spread(layer: Any) -> bool:
    """Return whether a layer divides by the deviation or the norm of a frame, which may be 0."""
    normalizes = isinstance(layer, (plain.LayerNormalization, plain.RMSNormalization)) and layer.epsilon < SMALL
    return normalizes or (isinstance(layer, plain.Dot) and layer.normalize)


def needs_fill(part: Any) -> bool:
    """Return whether an operation in the model of a TimeDistributed may have no finite gradient; a layer of the user may have none."""
    own = isinstance(part, (plain.Lambda, plain.UnitNormalization)) or written_by_user(part) or own_activation(part) is not None
    return own or type(part).__name__ in SAFE_VALUES or divides_by_spread(part)


def parts_of(layer: Any) -> Iterator[Any]:
    """Return the operations of a layer or a model, those of nested models among them."""
    if not isinstance(layer, keras.Model):
        yield layer
        return
    for part in getattr(layer, "operations", None) or layer.layers:
        yield from parts_of(part)

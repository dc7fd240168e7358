"""What the padding is set to before an operation that has no finite value, or no finite gradient, everywhere.

A mask selects real frames from a result, but the gradient of what was not selected is zero times that of the operation: NaN where that
is infinite. One frame of padding then makes the gradient of a whole batch NaN.
"""

from __future__ import annotations

from typing import Any

from keras import layers as plain

from vlpipe.layers.walk import TracedTensor

ATTENTION = {plain.MultiHeadAttention, plain.GroupQueryAttention, plain.Attention, plain.AdditiveAttention}

# Class names of keras.ops operations, and a value at which each is finite and smooth.
SAFE_VALUES = {
    **dict.fromkeys(("Log", "Log10", "Log1p", "Log2", "Sqrt", "Rsqrt", "Reciprocal", "Divide", "TrueDivide", "DivideNoNan"), 1.0),
    **dict.fromkeys(("Power", "FloorDivide", "Mod", "Tan", "Normalize", "Norm", "Logaddexp", "Arctan2", "Cbrt"), 1.0),
    **dict.fromkeys(("Arcsin", "Arccos", "Arctanh", "Erfinv"), 0.0),
    "Arccosh": 2.0,
    "Logit": 0.5,
}


def fill_of(operation: Any, arguments: Any, activation: Any) -> float | None:
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
    if not type(operation).__module__.startswith("keras.src.ops"):
        return None
    name, second = type(operation).__name__, arguments[1] if len(arguments) > 1 else None
    constant = second is not None and not isinstance(second, TracedTensor)
    if constant and (name in ("Divide", "TrueDivide") or (name == "Power" and second in (1, 2, 3, 4))):
        return None
    return SAFE_VALUES.get(name)

"""The role of each operation of `keras.ops`, by the axes it acts along."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vlpipe.layers import frames, normalize, reduce
from vlpipe.layers.arranging import ACROSS_SEQUENCES, ARRANGING, NEW_AXIS, along_frames, axes_of, no
from vlpipe.layers.base import AS_IT_COMES
from vlpipe.layers.role import CARRY, Role, refuse, replaced
from vlpipe.layers.walk import TracedTensor, leaves

# Class names of operations that compute each value from the values at the same place of their operands.
ELEMENTWISE_OPS = {
    "Absolute", "Abs", "Fabs", "Negative", "Square", "Sqrt", "Rsqrt", "Cbrt", "Exp", "Exp2", "Expm1", "Log", "Log10", "Log1p", "Log2",
    "Sin", "Cos", "Tan", "Tanh", "Sinh", "Cosh", "Arcsin", "Arccos", "Arctan", "Arcsinh", "Arccosh", "Arctanh", "Sinc", "Reciprocal",
    "Round", "Floor", "Ceil", "Trunc", "Sign", "Signbit", "Clip", "Cast", "SaturateCast", "StopGradient", "Erf", "Erfc", "Erfinv",
    "Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Softplus", "SparsePlus", "SoftShrink", "HardShrink", "TanhShrink", "Threshold",
    "Softsign", "Silu", "Squareplus", "LogSigmoid", "LeakyRelu", "HardSigmoid", "HardSilu", "Elu", "Selu", "Gelu", "Celu", "HardTanh",
    "Identity", "Copy", "NanToNum", "Isnan", "Isinf", "Isfinite", "LogicalNot", "BitwiseNot", "OnesLike", "ZerosLike", "FullLike",
    "Real", "Imag", "Conjugate", "Angle", "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "DivideNoNan", "FloorDivide", "Mod",
    "Fmod", "Maximum", "Minimum", "Fmax", "Fmin", "Power", "Arctan2", "Hypot", "Logaddexp", "Logaddexp2", "Equal", "NotEqual",
    "Greater", "GreaterEqual", "Less", "LessEqual", "Isclose", "LogicalAnd", "LogicalOr", "LogicalXor", "BitwiseAnd", "BitwiseOr",
    "BitwiseXor", "Where",
}  # fmt: skip


def reduction(name: str) -> Callable[..., Role]:
    """Over the frames: a reduction of the real ones, which `ReduceFrames` knows."""

    def role(op: Any, axes: set[int]) -> Role:
        keepdims = getattr(op, "keepdims", False)
        return replaced(lambda: reduce.ReduceFrames(name, keepdims, axis=sorted(axes), name=op.name), frames=False)

    return role


def filled(fill: float, keeps: bool = False) -> Callable[..., Role]:
    """Over the frames: exact once the padding holds `fill`."""

    def role(op: Any, axes: set[int]) -> Role:
        cls = frames.FilledFrames if keeps else frames.FilledReduction
        return replaced(lambda: cls(op, fill, name=op.name), frames=keeps)

    return role


def running(op: Any, axes: set[int]) -> Role:
    """Over the frames: each output frame depends on those before it only."""
    return Role(carries=False, endless="accumulates all frames before")


def reversing(op: Any, axes: set[int]) -> Role:
    if axes != {1}:
        return refuse("reverses other axes with the frames", "Flip one axis at a time.")
    return replaced(lambda: frames.SliceFrames(step=-1, name=op.name), "puts the padding before the first frame")


def norm(op: Any, axes: set[int]) -> Role:
    """Over the frames: frames of zeros change no norm but those of a negative order, which look for the smallest values."""
    if isinstance(op.ord, (int, float)) and op.ord < 0:
        return refuse(
            f"takes the norm of order {op.ord} over the frames, which zeros in the padding would change",
            "Write it out: keras.ops.min(keras.ops.abs(x), axis=1) for ord=-inf of vectors, else with ** and keras.ops.sum; or use "
            "ord=2, 1 or inf.",
        )
    return filled(0)(op, axes)


def softmax(op: Any, axes: set[int]) -> Role:
    if axes != {1}:
        return refuse("weights the values along several axes", "Use one axis: 1 for the frames, -1 for the features.")
    return replaced(lambda: normalize.Softmax(axis=1, name=op.name, **AS_IT_COMES), "gives weight to the padding")


# Operations that act along their `axis` only, and what they are if the frames are among its axes.
ALONG: dict[str, Callable[..., Role]] = {
    **{name: reduction(name.lower()) for name in ("Mean", "Sum", "Max", "Min", "Std", "Var", "Logsumexp")},
    "Amax": reduction("max"),
    "Amin": reduction("min"),
    "Prod": filled(1),
    "Any": filled(0),
    "All": filled(1),
    "CountNonzero": filled(0),
    "Argmax": filled(-math.inf),
    "Argmin": filled(math.inf),
    "Norm": norm,
    "Normalize": filled(0, keeps=True),
    "Cumsum": running,
    "Cumprod": running,
    "Flip": reversing,
    "Softmax": softmax,
    **dict.fromkeys(
        ("LogSoftmax", "Sparsemax", "Glu", "RMSNorm", "LayerNorm"),
        no("acts along the frame axis", "Use softmax, or act along the features, axis=-1."),
    ),
    **dict.fromkeys(
        ("Sort", "Argsort", "Median", "Quantile", "Percentile", "Roll", "Diff", "Repeat", "Split", "ArraySplit", "Unstack"),
        along_frames,
    ),
    **dict.fromkeys(
        ("Concatenate", "Stack"),
        no(
            "joins sequences along the frames, so that a padded row has padding in its middle",
            "Join them along the features, axis=-1; frames of zeros are keras.ops.pad: "
            "a shift by one frame is pad(x, [[0, 0], [0, 1], [0, 0]])[:, 1:].",
        ),
    ),
}  # fmt: skip


def role_of_op(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """Return the role of an operation of `keras.ops` whose first operand with frames has `rank` axes."""
    name = type(op).__name__
    operands = leaves(arguments, options)
    if name in ELEMENTWISE_OPS:
        if frame_axes_match(operands, rank):
            return CARRY
        if frames := fixed_frames(operands, rank):
            return refuse_fixed(frames)
        return refuse("broadcasts across the frames", "Give both operands the same rank.")
    if name in ALONG:
        axes = axes_of(op.axis, rank + (name in NEW_AXIS))
        if axes is None or 0 in axes:
            return ACROSS_SEQUENCES
        if 1 in axes:
            return ALONG[name](op, axes)
        if name in ("Concatenate", "Stack") and not all(isinstance(x, TracedTensor) and x.frames for x in operands):
            return refuse("joins a sequence with a tensor that has no frames", "Add such a tensor, or multiply by it: these broadcast.")
        return CARRY
    return ARRANGING[name](op, arguments, options, rank) if name in ARRANGING else unknown_op()


def unknown_op() -> Role:
    """Return the role of an operation that is in no table: a layer around it would be tried out."""
    advice = (
        "Call it in a layer of your own, a subclass of keras.layers.Layer: one that treats each frame alone is kept, and one that "
        "respects the mask gets the base class vlpipe.layers.MaskAware."
    )
    return replace(refuse("is an operation that vlpipe does not know and may mix frames with padding", advice, "unknown"), counted=False)


def frame_axes_match(operands: list[Any], rank: int) -> bool:
    """Return whether every operand has frames on axis 1, or broadcasts along that axis."""
    for operand in operands:
        shape: Any = getattr(operand.tensor if isinstance(operand, TracedTensor) else operand, "shape", ())
        if isinstance(operand, TracedTensor) and operand.frames:
            if len(shape) != rank:
                return False
        elif isinstance(operand, TracedTensor) and shape[:1] == (None,) and len(shape) != rank:
            return False  # its rows would meet another axis
        elif (len(shape) >= rank and shape[1] != 1) or (len(shape) == rank - 1 and shape[0] != 1):
            return False
    return True


def fixed_frames(operands: list[Any], rank: int) -> int:
    """Return the frames of an operand that has equally many for every sequence, such as a table of positions; 0 if none has them."""
    for operand in operands:
        shape: Any = getattr(operand.tensor if isinstance(operand, TracedTensor) else operand, "shape", ())
        if isinstance(operand, TracedTensor) and operand.frames:
            continue
        axis = 1 if len(shape) == rank else 0 if len(shape) == rank - 1 and not isinstance(operand, TracedTensor) else None
        if axis is not None and isinstance(shape[axis], int) and shape[axis] != 1:
            return int(shape[axis])
    return 0


def refuse_fixed(frames: int) -> Role:
    return refuse(
        f"has an operand of {frames} frames, so it takes sequences of {frames} frames only",
        "Cut the operand to the frames of the batch, in a layer with the base class vlpipe.layers.MaskAware: "
        "table[:, :keras.ops.shape(x)[1]]. On PyTorch it needs a compute_output_shape as well.",
    )

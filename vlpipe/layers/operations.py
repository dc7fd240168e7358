"""The role of each operation of `keras.ops`, by the axes it acts along."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from vlpipe.layers import frames, normalize, planes, reduce, resize
from vlpipe.layers.role import CARRY, KEEP_AXES, POOL, Role, refuse, refuse_unknown, replaced
from vlpipe.layers.walk import TracedTensor, framed, leaves
from vlpipe.layers.window_roles import WINDOW_OPS

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


def no(reason: str, advice: str) -> Callable[..., Role]:
    return lambda op, axes: refuse(reason, advice)


def softmax(op: Any, axes: set[int]) -> Role:
    if axes != {1}:
        return refuse("weights the values along several axes", "Use one axis: 1 for the frames, -1 for the features.")
    return replaced(lambda: normalize.Softmax(axis=1, name=op.name), "gives weight to the padding")


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
    "Norm": filled(0),
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
        ("Sort", "Argsort", "Median", "Quantile", "Percentile", "Roll", "Diff", "Repeat", "Split", "ArraySplit", "Unstack", "Take"),
        no("acts along the frame axis, whose length differs between the rows", "Act along the features, axis=-1, or slice: x[:, 1:]."),
    ),
    **dict.fromkeys(
        ("Concatenate", "Stack"),
        no("joins sequences along the frames, so that a padded row has padding in its middle", "Join them along the features, axis=-1."),
    ),
}  # fmt: skip
ACROSS_SEQUENCES = refuse("acts across the sequences of a batch", "Name the axes: 1 for the frames, -1 for the features.", "unknown")
NEW_AXIS = {"Stack", "ExpandDims", "OneHot"}  # their axis counts the axes of the output


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
    return ARRANGING[name](op, arguments, options, rank) if name in ARRANGING else refuse_unknown()


def axes_of(axis: Any, rank: int) -> set[int] | None:
    """Return the axes, counted from 0; None for all of them."""
    return None if axis is None else {int(one) % rank for one in leaves(axis)}


def frame_axes_match(operands: list[Any], rank: int) -> bool:
    """Return whether every operand has frames on axis 1, or broadcasts along that axis."""
    for operand in operands:
        shape: Any = getattr(operand.tensor if isinstance(operand, TracedTensor) else operand, "shape", ())
        if isinstance(operand, TracedTensor) and operand.frames:
            if len(shape) != rank:
                return False
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


MOVES = refuse("moves the frame axis from its place", KEEP_AXES)


def one_axis(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """ExpandDims, Squeeze and OneHot: axes after the frames come and go."""
    axes = axes_of(op.axis, rank + (type(op).__name__ in NEW_AXIS))
    return MOVES if axes is None or min(axes) < 2 else CARRY


def moments(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """The mean and the variance, each as an operation of its own."""
    axes = axes_of(op.axes, rank)
    if axes is None or 0 in axes:
        return ACROSS_SEQUENCES
    if 1 not in axes:
        return CARRY
    x = framed(arguments, options)[0].tensor
    inputs = keras.Input(batch_shape=x.shape, dtype=x.dtype)
    parts = [part(inputs, axis=sorted(axes), keepdims=op.keepdims) for part in (keras.ops.mean, keras.ops.var)]
    return Role(graph=keras.Model(inputs, parts, name=op.name))


def transpose(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    order = list(range(rank))
    if type(op).__name__ == "Transpose":
        order = [axis % rank for axis in (op.axes or range(rank)[::-1])]
    elif type(op).__name__ == "Swapaxes":
        order[op.axis1], order[op.axis2] = order[op.axis2], order[op.axis1]
    else:
        moved = dict(zip((axis % rank for axis in op.destination), (axis % rank for axis in op.source), strict=True))
        others = iter(axis for axis in range(rank) if axis not in moved.values())
        order = [moved[place] if place in moved else next(others) for place in range(rank)]
    return CARRY if order[:2] == [0, 1] else MOVES


def get_item(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """`x[:, -1]`, `x[:, ::2]`, `x[..., 0]`."""
    key = options.get("key", arguments[-1])
    key = tuple(key) if isinstance(key, (tuple, list)) else (key,)
    plain_parts = all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in key)
    if not plain_parts or any(type(edge) not in (int, type(None)) for part in key if isinstance(part, slice) for edge in limits(part)):
        return refuse("takes frames whose numbers vlpipe cannot see", "Index with integers and slices of integers.")
    if Ellipsis in key:
        place = key.index(Ellipsis)
        missing = rank - sum(part is not None for part in key) + 1
        key = (*key[:place], *[slice(None)] * missing, *key[place + 1 :])
    key = (*key, *[slice(None)] * (rank - sum(part is not None for part in key)))
    batch, time, rest = key[0], key[1], key[2:]
    if batch != slice(None) or time is None:
        return refuse("selects sequences of a batch, or moves the frame axis", KEEP_AXES)
    if time == slice(None):
        return CARRY
    if isinstance(time, int):
        return replaced(lambda: frames.SelectFrame(time, rest, name=op.name), "also selects padding" if time < 0 else "", frames=False)
    leak = "counts from the last frame of the batch" if min(time.start or 0, time.stop or 0, time.step or 0) < 0 else ""
    return replaced(lambda: frames.SliceFrames(*limits(time), rest, name=op.name), leak)


def limits(part: slice) -> tuple[Any, Any, Any]:
    return part.start, part.stop, part.step


def reshape(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """`keras.ops.reshape` with the batch left open: `(-1, T, ...)` of a model for T frames."""
    shape = framed(arguments, options)[0].tensor.shape
    return role_of_reshape(op.name, tuple(op.newshape)[1:], shape)


def role_of_reshape(name: str, target: tuple[int, ...], shape: Any) -> Role:
    """Return the role of a reshaping of tensors of a shape to `target`, which leaves out the batch."""
    values, wanted = [*shape[2:]], [*target[1:]]
    if not target or None in values or -1 in wanted or (target[0] != -1 and math.prod(values) != math.prod(wanted)):
        return refuse("reshapes the frame axis", f"Begin the shape with -1, for the frames: Reshape((-1, k)). {POOL}")
    ratio = max(math.prod(values), 1), max(math.prod(wanted), 1)

    def make() -> Any:
        layer = frames.Reshape((-1, *wanted), name=name)
        layer.build(shape)
        return layer

    return replaced(make, "" if ratio[0] % ratio[1] == 0 else "joins the last real frame with padding")


def pad(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    widths = [tuple(width) for width in op.pad_width] * (rank if len(op.pad_width) == 1 else 1)
    value = options.get("constant_values", arguments[1] if len(arguments) > 1 else None)
    if widths[0] != (0, 0):
        return refuse("adds sequences to a batch", "Pad the axes after the batch.")
    if widths[1] == (0, 0):
        return CARRY
    if op.mode != "constant" or value not in (None, 0) or rank not in (3, 4) or (rank == 3 and widths[2] != (0, 0)):
        return refuse("pads the frames by other values than zero", "Pad with zeros along the frames alone, as ZeroPadding1D does.")
    leak = "appends its zeros after the padding, not after the last real frame"
    if rank == 3:
        return replaced(lambda: resize.ZeroPadding1D(widths[1], name=op.name), leak)
    if widths[3] != (0, 0):
        return refuse("pads the channels together with the frames", "Pad them one after the other.")
    return replaced(lambda: planes.ZeroPadding2D((widths[1], widths[2]), name=op.name), leak)


def matmul(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """A product with a matrix `[d, k]` for each frame; sums over frames are written with einsum."""
    advice = 'Write it with keras.ops.einsum, such as "btd,btk->bdk", or give the frames to the first operand, on axis 1.'
    refused = refuse("multiplies along the frames", advice)
    first, second = [leaf if isinstance(leaf, TracedTensor) else TracedTensor(leaf) for leaf in leaves(arguments, options)]
    sizes = [len(x.tensor.shape) for x in (first, second)]
    if first.frames and second.frames:
        return CARRY if sizes[0] == sizes[1] == 4 else refused
    if not first.frames or sizes[0] < 3 or sizes[1] > sizes[0]:
        return refused
    place = 1 - (sizes[0] - sizes[1])  # axis of the second operand that meets the frames
    return refused if 0 <= place < sizes[1] - 2 and second.tensor.shape[place] != 1 else CARRY


def einsum(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """Frame by frame if the letter of the frames stays the second one; a sum over the frames if it goes."""
    operands = leaves(arguments, options)
    inputs, _, output = op.subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    refused = refuse(
        "pairs frames with frames, or moves them", 'Keep batch and frames the first two letters, as in "btd,dk->btk" or "btd,btk->bdk".'
    )
    if "." in inputs or not output or len(terms) != len(operands):
        return refused
    with_frames = [isinstance(x, TracedTensor) and x.frames is not None for x in operands]
    pairs = {term[:2] for term, has in zip(terms, with_frames, strict=True) if has}
    (letters, *more) = pairs
    batch, frame = letters
    elsewhere = "".join(term if not has else term[2:] for term, has in zip(terms, with_frames, strict=True))
    if more or frame in elsewhere or output[:1] != batch:
        return refused
    if frame in output:
        return CARRY if output[:2] == letters else refused
    if not all(isinstance(x, TracedTensor) for x in operands):
        return refuse("sums a product with a constant over the frames", "Multiply by the constant after the sum.")
    return replaced(lambda: frames.FilledReduction(op, name=op.name), frames=False)


ARRANGING: dict[str, Callable[..., Role]] = {
    "ExpandDims": one_axis,
    "Squeeze": one_axis,
    "OneHot": one_axis,
    "Moments": moments,
    "Transpose": transpose,
    "Swapaxes": transpose,
    "Moveaxis": transpose,
    "GetItem": get_item,
    "Reshape": reshape,
    "Pad": pad,
    "Matmul": matmul,
    "Einsum": einsum,
    **WINDOW_OPS,
}

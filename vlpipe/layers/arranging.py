"""The roles of operations of `keras.ops` that arrange axes, select frames or multiply matrices: their arguments decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from vlpipe.layers import frames, planes, resize
from vlpipe.layers.base import AS_IT_COMES
from vlpipe.layers.role import CARRY, KEEP_AXES, POOL, Role, refuse, replaced
from vlpipe.layers.walk import TracedTensor, framed, leaves
from vlpipe.layers.window_roles import WINDOW_OPS

ACROSS_SEQUENCES = refuse("acts across the sequences of a batch", "Name the axes: 1 for the frames, -1 for the features.", "unknown")
NEW_AXIS = {"Stack", "ExpandDims", "OneHot"}  # their axis counts the axes of the output


def no(reason: str, advice: str) -> Callable[..., Role]:
    return lambda op, axes: refuse(reason, advice)


along_frames = no(
    "acts along the frame axis, whose length differs between the rows", "Act along the features, axis=-1, or slice: x[:, 1:]."
)


def axes_of(axis: Any, rank: int) -> set[int] | None:
    """Return the axes, counted from 0; None for all of them."""
    return None if axis is None else {int(one) % rank for one in leaves(axis)}


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
    batch, *target = op.newshape
    if batch == -1 and target and target[0] != -1 and not built_for(op, target[0]):
        return refuse(
            f"cuts sequences into pieces of {target[0]} frames, as rows",
            "Join the frames of a piece to one, which keeps the batch: keras.layers.Reshape((-1, k)) with k = frames * features.",
        )
    return role_of_reshape(tuple(target), shape, name=op.name, **AS_IT_COMES)


def built_for(op: Any, frames: Any) -> bool:
    """Return whether the model had sequences of so many frames when it was built: `mask_aware` opens their number."""
    return any(x.shape[1] == frames for node in op._inbound_nodes for x in node.input_tensors if len(x.shape) > 1)


def role_of_reshape(target: tuple[int, ...], shape: Any, **config: Any) -> Role:
    """Return the role of a reshaping of tensors of a shape to `target`, which leaves out the batch; `config` is that of the layer."""
    values, wanted = [*shape[2:]], [*target[1:]]
    if not target or None in values or -1 in wanted or (target[0] != -1 and math.prod(values) != math.prod(wanted)):
        return refuse("reshapes the frame axis", f"Begin the shape with -1, for the frames: Reshape((-1, k)). {POOL}")
    ratio = max(math.prod(values), 1), max(math.prod(wanted), 1)

    def make() -> Any:
        layer = frames.Reshape((-1, *wanted), **config)
        layer.build(shape)
        return layer

    return replaced(make, "" if ratio[0] % ratio[1] == 0 else "joins the last real frame with padding")


def take(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """`take(table, tokens, axis=0)`; or of a sequence, by numbers that have no frames."""
    table, *indices = leaves(arguments, options)
    if isinstance(table, TracedTensor) and table.frames:
        axes = axes_of(op.axis, rank)
        if axes is None or 0 in axes:
            return ACROSS_SEQUENCES
        return along_frames(op, axes) if 1 in axes or framed(indices) else CARRY
    size = len(table.tensor.shape if isinstance(table, TracedTensor) else table.shape)
    return CARRY if axes_of(op.axis, size) == {0} else MOVES


def tile(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    repeats = [op.repeats] if isinstance(op.repeats, int) else [*op.repeats]
    repeats = [1] * (rank - len(repeats)) + repeats
    if len(repeats) == rank and repeats[:2] == [1, 1]:
        return CARRY
    return refuse("repeats whole sequences", "Repeat the features alone: (1, 1, k). Each frame k times: UpSampling1D(k).")


def top_k(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    return CARRY if rank > 2 else along_frames(op, {1})


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
        return replaced(lambda: resize.ZeroPadding1D(widths[1], name=op.name, **AS_IT_COMES), leak)
    if widths[3] != (0, 0):
        return refuse("pads the channels together with the frames", "Pad them one after the other.")
    return replaced(lambda: planes.ZeroPadding2D((widths[1], widths[2]), name=op.name, **AS_IT_COMES), leak)


def matmul(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    """A product with a matrix `[d, k]` for each frame; sums over frames are written with einsum."""
    advice = 'Write it with keras.ops.einsum, such as "btd,btk->bdk", or give the frames to the first operand, on axis 1.'
    refused = refuse("multiplies along the frames", advice)
    first, second = [leaf if isinstance(leaf, TracedTensor) else TracedTensor(leaf) for leaf in leaves(arguments, options)]
    sizes = [len(x.tensor.shape) for x in (first, second)]
    if first.frames and second.frames:
        return CARRY if sizes[0] == sizes[1] == 4 else refused
    if not first.frames or sizes[0] < 3 or sizes[1] > sizes[0] or (second.tensor.shape[0] is None and sizes[1] < sizes[0]):
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
    rows = {term[0] for term, x in zip(terms, operands, strict=True) if getattr(getattr(x, "tensor", None), "shape", (0,))[0] is None}
    if more or frame in elsewhere or output[:1] != batch or not rows <= {batch}:
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
    "Take": take,
    "Tile": tile,
    "TopK": top_k,
    "Matmul": matmul,
    "Einsum": einsum,
    **WINDOW_OPS,
}

"""The role of each Keras operation: what it does to the frames of a sequence, for both `mask_aware` and `check_model`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from keras import layers as plain

from vlpipe.errors import ArgumentError
from vlpipe.layers import entry, merge, normalize, reduce, resize, windows
from vlpipe.layers.base import MaskAware
from vlpipe.layers.walk import TracedTensor, framed, leaves


@dataclass(frozen=True)
class Role:
    """How to treat an operation whose input has frames.

    Attributes:
        twin: creates the mask-aware layer that replaces the operation; None keeps the operation.
        carries: whether the operation itself passes a Keras mask on.
        frames: whether its output has frames.
        leak: how padding reaches its output without a mask, or "".
        leak_masked: how padding reaches its output despite a mask, or "".
        problem: code of the leak or of the refusal.
        refused: why it cannot be made mask-aware, or "".
        advice: what to use instead of a refused operation.
        counted: whether the number of frames of its output is known; of a layer that vlpipe does not know, it is not.
    """

    twin: Callable[[], Any] | None = None
    carries: bool = True
    frames: bool = True
    leak: str = ""
    leak_masked: str = ""
    problem: str = ""
    refused: str = ""
    advice: str = ""
    counted: bool = True


KEEP = Role()


def refuse(reason: str, advice: str, problem: str = "fixed_length") -> Role:
    return Role(refused=reason, advice=advice, problem=problem)


POOL = "Use GlobalAveragePooling1D, GlobalMaxPooling1D or StatisticsPooling1D to reduce the frames to one."

# Elementwise: each output value depends on the input value at the same place only.
ELEMENTWISE = {
    plain.ReLU, plain.LeakyReLU, plain.ELU, plain.Dropout, plain.GaussianDropout, plain.GaussianNoise, plain.AlphaDropout,
    plain.Rescaling, plain.Identity,
}  # fmt: skip

# Frame by frame: they need a feature axis after the frame axis.
FRAMEWISE = {plain.Dense, plain.SpatialDropout1D, plain.Normalization}

NORMALIZED = {plain.LayerNormalization, plain.RMSNormalization, plain.UnitNormalization}
RECURRENT = {plain.LSTM, plain.GRU, plain.SimpleRNN}
ATTENTION = {plain.MultiHeadAttention, plain.GroupQueryAttention, plain.Attention, plain.AdditiveAttention}

TWINS: dict[type, type] = {
    getattr(plain, name): getattr(module, name)
    for module, names in {
        windows: ["Conv1D", "DepthwiseConv1D", "SeparableConv1D", "MaxPooling1D", "AveragePooling1D"],
        resize: ["Conv1DTranspose", "ZeroPadding1D", "Cropping1D", "UpSampling1D"],
        reduce: ["GlobalAveragePooling1D", "GlobalMaxPooling1D", "Dot"],
        normalize: ["BatchNormalization", "GroupNormalization", "RMSNormalization"],
        entry: ["Embedding"],
        merge: ["Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate"],
    }.items()
    for name in names
}

REFUSALS = {
    plain.Flatten: ("concatenates all frames, so its width depends on the padding", POOL),
    plain.Reshape: ("reshapes the frame axis", POOL),
    plain.Permute: (
        "moves the frame axis, as before a Dense layer over time",
        "Keep [batch, frames, features]; a Dense layer over time needs a fixed length.",
    ),
    plain.Lambda: (
        "runs Python code that vlpipe cannot inspect",
        "Write it with keras.ops, or as a layer with the base class vlpipe.layers.MaskAware.",
    ),
    plain.Masking: (
        "infers the lengths from the values, so it takes a silent frame for padding",
        "Remove it: the lengths are an input of the mask-aware model.",
    ),
    plain.MelSpectrogram: (
        "centres its frames on the padding, compares them with the loudest of the batch (top_db), and returns [B, mels, frames]",
        "Use vlpipe.layers.LogMel on [B, N, 1].",
    ),
    plain.STFTSpectrogram: (
        "computes frames of the padding, and does not tell which frames are real",
        "Use vlpipe.layers.LogMel on [B, N, 1].",
    ),
}

# Class names of elementwise keras.ops operations; those in BINARY_OPS take two tensors.
UNARY_OPS = {
    "Absolute", "Abs", "Negative", "Square", "Sqrt", "Rsqrt", "Exp", "Expm1", "Log", "Log10", "Log1p", "Log2", "Sin", "Cos", "Tan",
    "Tanh", "Sinh", "Cosh", "Arctan", "Reciprocal", "Round", "Floor", "Ceil", "Sign", "Clip", "Cast", "StopGradient", "Erf", "Relu",
    "Relu6", "Sigmoid", "Softplus", "Softsign", "Silu", "Squareplus", "LogSigmoid", "LeakyRelu", "HardSigmoid", "HardSilu", "Elu",
    "Selu", "Gelu", "Celu", "HardTanh", "Identity", "NanToNum",
}  # fmt: skip
BINARY_OPS = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "DivideNoNan", "Maximum", "Minimum", "Power"}
REDUCTIONS = {"Mean": "mean", "Sum": "sum", "Max": "max", "Amax": "max", "Min": "min", "Amin": "min"}


def role_of(operation: Any, arguments: Any, options: Any) -> Role:
    """Return the role of an operation that is called with at least one tensor that has frames."""
    rank = len(framed(arguments, options)[0].tensor.shape)
    kind = type(operation)
    if isinstance(operation, MaskAware):
        return Role(frames=not isinstance(operation, reduce.Reduction))
    if getattr(operation, "activity_regularizer", None) is not None:
        return refuse("has an activity_regularizer, which counts the padding", "Remove it, or regularize the kernel.", "padding_statistics")
    if kind.__module__.startswith("keras.src.ops"):
        return role_of_op(operation, arguments, options, rank)
    return role_of_layer(operation, kind, rank)


def role_of_layer(layer: Any, kind: type, rank: int) -> Role:
    if kind in REFUSALS:
        return refuse(*REFUSALS[kind])
    if kind in (plain.Activation, plain.Softmax):
        return role_of_activation(layer, rank)
    if kind in ELEMENTWISE:
        return KEEP
    if kind is plain.Embedding:
        return role_of_twin(layer, kind)
    if rank < 3:
        return refuse("uses the frame axis as the feature axis", "Pass it [batch, frames, features].")
    if kind in FRAMEWISE:
        return KEEP
    if kind in NORMALIZED and {int(axis) % rank for axis in leaves(layer.axis)} != {rank - 1}:
        return refuse("normalizes over time", "Use axis=-1, or GroupNormalization(groups=1).", "padding_statistics")
    if kind in (plain.LayerNormalization, plain.UnitNormalization):
        return KEEP
    if kind in TWINS:
        return role_of_twin(layer, kind)
    if kind in RECURRENT or kind is plain.Bidirectional:
        return role_of_recurrent(layer)
    if kind in ATTENTION:
        return Role(leak="attends to the padding", problem="reads_padding")
    if kind is plain.PReLU:
        return KEEP if 1 in (layer.shared_axes or []) else refuse("has a slope for every frame", "Use shared_axes=[1].")
    if kind is plain.TimeDistributed and is_framewise(layer.layer):
        leak = "may answer a batch with the number of frames of an earlier one (in fit, evaluate and predict of Keras)"
        return Role(lambda: entry.TimeDistributed(layer.layer, name=layer.name), True, True, leak, leak, "mismatch")
    if kind is entry.ToPadded:  # outside of a mask-aware model, never in one
        return replace(refuse_unknown(), counted=True)
    return refuse_unknown()


def is_framewise(inner: Any) -> bool:
    """Return whether a layer in TimeDistributed does with `[B, T, d]` what it does with each frame `[B, d]`."""
    if isinstance(inner, (plain.LayerNormalization, plain.Normalization)) and {int(axis) for axis in leaves(inner.axis)} != {-1}:
        return False
    return type(inner) in ELEMENTWISE | {plain.Dense, plain.Activation, plain.LayerNormalization, plain.Normalization}


def refuse_unknown() -> Role:
    reason = "is unknown to vlpipe and may mix frames with padding"
    advice = "If it respects the mask, add the base class vlpipe.layers.MaskAware to it; otherwise build it from layers of vlpipe.layers."
    return replace(refuse(reason, advice, "unknown"), counted=False)


def role_of_twin(layer: Any, kind: type) -> Role:
    def make(cls: type = TWINS[kind]) -> Any:
        return twin_of(layer, cls)

    if issubclass(TWINS[kind], reduce.Reduction):
        divides = kind is plain.GlobalAveragePooling1D
        leak = "also averages the padding" if divides else "also reads the padding"
        return Role(make, False, False, leak, "divides by zero for a row without frames" if divides else leak, "reads_padding")
    if kind is plain.BatchNormalization:
        return Role(make, True, True, "includes the padding in its statistics", "", "padding_statistics")
    if kind is plain.GroupNormalization:
        return Role(make, True, True, leak := "includes the padding in its statistics", leak, "padding_statistics")
    if issubclass(TWINS[kind], merge.Merge):
        return Role(make)
    leak, problem = leak_of_window(layer)
    return Role(make, False, True, leak, leak, problem)


def leak_of_window(layer: Any) -> tuple[str, str]:
    """Return how a plain window layer reads padding, and its code; `valid` and `causal` windows of real output frames never do."""
    if isinstance(layer, plain.Conv1DTranspose):
        return "spreads the padding into the last real frames", "reads_padding"
    if isinstance(layer, plain.ZeroPadding1D):
        return "appends its zeros after the padding, not after the last real frame", "reads_padding"
    if getattr(layer, "padding", None) != "same":
        return "", ""
    if layer.strides[0] > 1:
        return 'aligns the windows of "same" to the padded length', "stride_alignment"
    size = getattr(layer, "kernel_size", None) or layer.pool_size
    return ("reads the padding beyond the last frame", "reads_padding") if size[0] > 1 else ("", "")


def role_of_activation(layer: Any, rank: int) -> Role:
    axis = getattr(layer, "axis", -1)
    if not isinstance(layer, plain.Softmax):
        acts_along_frames = getattr(layer.activation, "__name__", "") in ("softmax", "log_softmax", "sparsemax", "glu")
        if not acts_along_frames or rank > 2:
            return KEEP
        if layer.activation.__name__ != "softmax":
            return refuse("acts along the frame axis", "Use softmax, or act along the features.")
    elif not isinstance(axis, int):
        return refuse("acts along several axes", "Use one axis: 1 for the frames, -1 for the features.")
    return role_of_softmax(axis, rank, layer.name)


def role_of_softmax(axis: int, rank: int, name: str) -> Role:
    if axis % rank != 1:
        return KEEP
    leak = "gives weight to the padding"
    return Role(lambda: normalize.Softmax(axis=1, name=name), True, True, leak, leak, "reads_padding")


def role_of_recurrent(layer: Any) -> Role:
    forward = getattr(layer, "forward_layer", layer)
    if type(forward) not in RECURRENT or forward.stateful or forward.return_state:
        reason = "keeps or returns states, which vlpipe does not support"
        refused = refuse(reason, "Use stateful=False and return_state=False.", "unknown")
        return replace(refused, frames=layer.return_sequences, counted=type(forward) in RECURRENT)
    if layer.return_sequences and getattr(layer, "go_backwards", False):
        return refuse("returns the frames in reverse order, with the padding first", "Use Bidirectional, or return_sequences=False.")
    if layer.return_sequences and getattr(layer, "merge_mode", "concat") is None:
        return refuse("returns two sequences", 'Use merge_mode="concat".', "unknown")
    return Role(None, True, layer.return_sequences, "also reads the padding", "", "reads_padding")


def role_of_op(op: Any, arguments: Any, options: Any, rank: int) -> Role:
    name = type(op).__name__
    needs_carry = Role(carries=False)
    if name in UNARY_OPS:
        return needs_carry
    if name in BINARY_OPS:
        if frame_axes_match(leaves(arguments, options), rank):
            return needs_carry
        return refuse("broadcasts across the frames", "Give both operands the same rank.")
    if name == "Softmax" and isinstance(op.axis, int):
        role = role_of_softmax(op.axis, rank, op.name)
        return role if role.twin else needs_carry
    if name in REDUCTIONS and op.axis is not None:
        axes = {int(axis) % rank for axis in leaves(op.axis)}
        if 1 not in axes and 0 not in axes:
            return needs_carry
        if axes == {1}:
            leak = "also reads the padding"
            return Role(lambda: reduce.ReduceFrames(REDUCTIONS[name], op.keepdims, name=op.name), False, False, leak, leak, "reads_padding")
    if name == "Concatenate" and op.axis % rank > 1:
        return needs_carry
    if name in ("ExpandDims", "Squeeze") and isinstance(op.axis, int):
        axis = op.axis % (rank + (name == "ExpandDims"))
        return needs_carry if axis > 1 else refuse("moves the frame axis", "Keep [batch, frames, features].")
    if name == "GetItem" and keeps_all_frames(options.get("key", arguments[-1]), rank):
        return needs_carry
    return refuse_unknown()


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


def keeps_all_frames(key: Any, rank: int) -> bool:
    """Return whether an index such as `[:, :, 3:]` or `[..., 0]` selects all of the first two axes."""
    key = tuple(key) if isinstance(key, (tuple, list)) else (key,)
    if key[0] is Ellipsis:
        return rank > 2 and len(key) == 2
    return len(key) > 1 and key[:2] == (slice(None), slice(None))


def twin_of(layer: Any, cls: type) -> Any:
    """Return a layer of class `cls` with the configuration of `layer`; its weights are set once its input shape is known."""
    try:
        return cls.from_config(layer.get_config())  # type: ignore[attr-defined]
    except TypeError as error:  # Keras wraps what a constructor raises
        if isinstance(error.__context__, ArgumentError):
            raise error.__context__ from None
        raise


def share_weights(twin: Any, layer: Any, input_shape: Any) -> None:
    """Build `twin` with the variables of `layer` instead of new ones.

    `build` requests each variable from `add_weight` by name. A temporary `add_weight` returns the layer's variable, so that
    `build` still sets up everything else and no variable is created in vain.
    """
    variables = {variable.name: variable for variable in layer.variables}
    twin.add_weight = lambda *args, name, **kwargs: variables[name]
    twin.build(input_shape)
    del twin.add_weight

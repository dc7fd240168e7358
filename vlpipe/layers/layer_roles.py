"""The roles of the layers whose arguments decide what they do to the frames."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import keras
from keras import layers as plain
from keras import ops

from vlpipe.layers.arranging import role_of_reshape
from vlpipe.layers.calls import refused_inside
from vlpipe.layers.probe import mixes_frames, written_by_user
from vlpipe.layers.role import CARRY, KEEP, POOL, Role, refuse, refuse_unknown
from vlpipe.layers.trace import operations_of
from vlpipe.layers.walk import TracedTensor, leaves
from vlpipe.layers.wrappers import FrameWise, TimeDistributed

# Methods that a subclass of a known layer may have and still be one.
HARMLESS = {"__init__", "get_config", "from_config"}
RECURRENT = {getattr(plain, name) for name in ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D")}


def known_kind(kind: type) -> type:
    """Return the class of Keras or of vlpipe whose methods a class leaves as they are: a subclass of LSTM with a constructor is an LSTM."""
    methods: tuple[type, ...] = (FunctionType, property, classmethod, staticmethod)
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("keras", "vlpipe"):
            return base
        if any(isinstance(value, methods) and name not in HARMLESS for name, value in vars(base).items()):
            return kind
    return kind


def like(layer: Any) -> dict[str, Any]:
    """Return the arguments of a layer that casts its inputs as another does, and has its name."""
    return {"name": layer.name, "dtype": layer.dtype_policy, "autocast": layer.autocast}


def framewise(layer: Any) -> Role:
    """Return the role of a layer that treats each frame alone, whether or not it passes masks on."""
    return KEEP if layer.supports_masking else Role(lambda: FrameWise(layer, name=layer.name), carries=False)


def codes(layer: Any) -> Role:
    """Return the role of a layer that makes an integer of each value."""
    if layer.output_mode != "int":
        advice = 'Use output_mode="int", and keras.ops.one_hot after it.'
        return refuse(f'has output_mode="{layer.output_mode}", which counts or encodes the frames of a sequence together', advice)
    return framewise(layer)


def flatten(layer: Any, x: Any) -> Role:
    if any(size != 1 for size in x.shape[2:]):
        return refuse("concatenates all frames, so its width depends on the padding", POOL)
    return role_of_reshape((-1,), x.shape, **like(layer))


def reshape(layer: Any, x: Any) -> Role:
    return role_of_reshape(layer.target_shape, x.shape, **like(layer))


def permute(layer: Any, x: Any) -> Role:
    if layer.dims[0] == 1:
        return framewise(layer)
    return refuse(
        "moves the frame axis, as before a Dense layer over time",
        "Keep [batch, frames, features]; a Dense layer over time needs a fixed length.",
    )


def prelu(layer: Any, x: Any) -> Role:
    return KEEP if 1 in (layer.shared_axes or []) else refuse("has a slope for every frame", "Use shared_axes=[1].")


def einsum_dense(layer: Any, x: Any) -> Role:
    """Frame by frame if batch and frames are the first two axes before and after."""
    inputs, _, rest = layer.equation.replace(" ", "").partition(",")
    kernel, _, output = rest.partition("->")
    if "..." in inputs:
        alone = inputs.startswith("...") and output.startswith("...") and len(x.shape) - len(inputs[3:]) >= 2
    else:
        alone = inputs[:2] == output[:2] and not set(inputs[:2]) & set(kernel) and inputs[1] not in (layer.bias_axes or "")
    return (
        framewise(layer)
        if alone
        else refuse("has an equation that moves or sums the frames", 'Use an equation such as "abc,cd->abd", with the frames second.')
    )


def recurrent(layer: Any, x: Any) -> Role:
    forward = getattr(layer, "forward_layer", layer)
    known = known_kind(type(forward)) in RECURRENT
    if not known or forward.stateful:
        refused = refuse("keeps states from one batch to the next", "Use stateful=False.", "unknown")
        return replace(refused, frames=layer.return_sequences, counted=known)
    if known_kind(type(forward)).__name__.startswith("ConvLSTM") and keras.backend.backend() != "tensorflow":
        return refuse("has no masks in Keras but on TensorFlow", "Run it on TensorFlow, or use convolutions and then an LSTM.", "unknown")
    if layer.return_sequences and getattr(layer, "go_backwards", False):
        return refuse("returns the frames in reverse order, with the padding first", "Use Bidirectional, or return_sequences=False.")
    if layer.return_sequences and getattr(layer, "merge_mode", "concat") is None:
        return refuse("returns two sequences", 'Use merge_mode="concat".', "unknown")
    endless = "carries a state through all frames"
    return Role(None, True, layer.return_sequences or forward.return_state, "also reads the padding", "", "reads_padding", endless=endless)


def time_distributed(layer: Any, x: Any) -> Role:
    inner = layer.layer
    parts = list(inner._flatten_layers())
    if any(isinstance(part, plain.BatchNormalization) for part in parts):
        return refuse(
            "wraps BatchNormalization, whose statistics would include the padding",
            "Put BatchNormalization behind the TimeDistributed layer, or LayerNormalization inside it.",
            "padding_statistics",
        )
    if any(getattr(part, "stateful", False) for part in parts):
        return refuse("wraps a layer that keeps states", "Use stateful=False.", "unknown")
    if any(map(written_by_user, parts)) and mixes_frames(inner, (None, *x.shape[2:]), x.dtype, frames=False):
        return refuse(
            "wraps a layer that mixes the rows of a batch, or that fails on some number of them", "Treat each row alone.", "unknown"
        )
    leak = "may answer a batch with the number of frames of an earlier one (in fit, evaluate and predict of Keras)"
    return Role(lambda: TimeDistributed(inner, name=layer.name, dtype=layer.dtype_policy), True, True, leak, leak, "mismatch")


def unknown(layer: Any, arguments: Any, options: Any) -> Role:
    """Return the role of a layer that vlpipe does not know, or of a Lambda: it is tried out, on a few frames and on symbolic tensors."""
    if not isinstance(layer, plain.Layer):
        return refuse_unknown()
    is_lambda = isinstance(layer, plain.Lambda)
    graph = operations_of(layer, arguments, options) if is_lambda else None  # each operation by itself tells more than their result
    takes_mask = layer._fn_expects_mask_arg if is_lambda else layer._call_has_mask_arg
    others = {name for name, value in options.items() if value is not None and name != "training"}  # Keras also records mask=None
    single = len(arguments) == 1 and isinstance(arguments[0], TracedTensor) and not others
    if graph is None and single and not takes_mask and is_framewise(layer, x := arguments[0].tensor):
        # in the padding it may be infinite, or have no gradient, where all values are 0, or equal
        return Role(lambda: FrameWise(layer, name=layer.name), carries=False, fill="spread", endless=earlier_frames(layer, x))
    graph = graph or operations_of(layer, arguments, options)
    if graph is not None:
        return refused_inside(layer, graph) or Role(graph=graph)
    if is_lambda:
        advice = "Write it with keras.ops, or as a layer with the base class vlpipe.layers.MaskAware."
        return refuse("runs Python code that mixes frames, and is not written with keras.ops", advice)
    return refuse_unknown(type(layer).__name__)


def is_framewise(layer: Any, x: Any) -> bool:
    """Return whether a layer treats frames and rows independently, in inference and in training; its variables stay as they are."""
    before = [ops.convert_to_numpy(variable) for variable in layer.variables]
    modes: list[dict[str, Any]] = [{"training": False}, {"training": True}] if layer._call_has_training_arg else [{}]
    try:
        mixes = any(mixes_frames(functools.partial(layer.call, **mode), x.shape, x.dtype) for mode in modes)
        after = [ops.convert_to_numpy(variable) for variable in layer.variables]
    finally:
        for variable, value in zip(layer.variables, before, strict=False):
            variable.assign(value)
    learns = any((old != new).any() for old, new in zip(before, after, strict=False))
    return not mixes and not learns and not layer._losses


def earlier_frames(layer: Any, x: Any) -> str:
    """Return why the layer has no finite context: it may look at earlier frames, and only trying tells. Reversed, these would be later."""
    mixes = mixes_frames(lambda v: ops.flip(layer.call(ops.flip(v, axis=1)), axis=1), x.shape, x.dtype)
    return "accumulates frames" if mixes else ""


def dot(layer: Any, arguments: Any) -> Role | None:
    """Return the role of a Dot along other axes than the frames; None if it sums over them, which its twin does."""
    axes = (layer.axes, layer.axes) if isinstance(layer.axes, int) else tuple(layer.axes)
    operands = leaves(arguments)
    if len(operands) == 2 and sum(x.frames is not None for x in operands) == 1:
        along = [axis % len(x.tensor.shape) for axis, x in zip(axes, operands, strict=True)]
        one = next(x for x in operands if x.frames is None)
        if len(one.tensor.shape) == 2 and along[operands[0].frames is None] != 1:
            return CARRY
    if axes == (1, 1) and not layer.normalize:
        return None
    return refuse(
        "multiplies along other axes than the frames, or normalizes over them",
        "Sum over the frames with axes=1, or score every frame by one vector y of the sequence: Dot(axes=(1, 2))([y, x]).",
    )


def masked_softmax(layer: Any, x: Any, mask: Any) -> Role | None:
    """Return the role of a Softmax with a mask of its own, with as many axes as `x`: the operations of Keras' layer; None without it."""
    if not isinstance(mask, TracedTensor) or len(mask.tensor.shape) != len(x.shape):
        return None
    inputs, given = (keras.Input(batch_shape=one.shape, dtype=one.dtype) for one in (x, mask.tensor))
    keep = given if given.dtype == "bool" else ops.greater(given, 0.5)
    selected = ops.where(keep, inputs, -3e4 if inputs.dtype == "float16" else -1e9)
    weights = ops.where(keep, ops.softmax(selected, axis=layer.axis), 0.0)
    return Role(graph=keras.Model([inputs, given], weights, name=layer.name))


SPECIAL: dict[type, Callable[[Any, Any], Role]] = {
    plain.Flatten: flatten,
    plain.Reshape: reshape,
    plain.Permute: permute,
    plain.PReLU: prelu,
    plain.EinsumDense: einsum_dense,
    plain.Bidirectional: recurrent,
    **dict.fromkeys(RECURRENT, recurrent),
    plain.TimeDistributed: time_distributed,
}


def axes_without_frames(layer: Any, rank: int) -> bool:
    """Return whether a normalization acts along axes after the frames only."""
    return min(int(axis) % rank for axis in leaves(layer.axis)) > 1

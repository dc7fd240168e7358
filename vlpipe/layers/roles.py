"""The role of each Keras operation: what it does to the frames of a sequence, for both `mask_aware` and `check_model`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
from keras import layers as plain

from vlpipe.errors import ArgumentError
from vlpipe.layers import adaptive, entry, merge, normalize, planes, reduce, resize, windows
from vlpipe.layers.base import MaskAware
from vlpipe.layers.calls import arguments_by_name, misses_mask, refused_mask, takes_one_frame_to_all, with_mask_of_first
from vlpipe.layers.fills import ATTENTION, fill_of
from vlpipe.layers.frame_count import fewer, spread
from vlpipe.layers.layer_roles import RECURRENT, SPECIAL, axes_without_frames, codes, dot, known_kind, like, masked_softmax, unknown
from vlpipe.layers.operations import ELEMENTWISE_OPS, fixed_frames, refuse_fixed, role_of_op
from vlpipe.layers.probe import is_of_keras, mixing_activation, own_activation
from vlpipe.layers.role import KEEP, Role, refuse, refuse_unknown
from vlpipe.layers.walk import FrameAxis, TracedTensor, framed, leaves
from vlpipe.layers.window_roles import leak_of_window, refuse_uneven_average
from vlpipe.layers.wrappers import SpectralNormalization

# Elementwise: each output value depends on the input value at the same place only.
ELEMENTWISE = {
    plain.ReLU, plain.LeakyReLU, plain.ELU, plain.Dropout, plain.GaussianDropout, plain.GaussianNoise, plain.AlphaDropout,
    plain.Rescaling, plain.Identity,
}  # fmt: skip

# Elementwise as well, from values to integers.
CODES = {plain.Hashing, plain.IntegerLookup, plain.Discretization}

# Frame by frame: they need a feature axis after the frame axis.
FRAMEWISE = {plain.Dense, plain.SpatialDropout1D, plain.SpatialDropout2D, plain.Normalization}

NORMALIZED = {plain.LayerNormalization, plain.RMSNormalization, plain.UnitNormalization}

TWINS: dict[type, type] = {
    getattr(plain, name): getattr(module, name)
    for module, names in {
        windows: ["Conv1D", "DepthwiseConv1D", "SeparableConv1D", "MaxPooling1D", "AveragePooling1D"],
        resize: ["Conv1DTranspose", "ZeroPadding1D", "Cropping1D", "UpSampling1D"],
        reduce: ["GlobalAveragePooling1D", "GlobalMaxPooling1D", "Dot"],
        normalize: ["BatchNormalization", "GroupNormalization", "RMSNormalization"],
        planes: [
            "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "MaxPooling2D", "AveragePooling2D",
            "GlobalAveragePooling2D", "GlobalMaxPooling2D", "ZeroPadding2D", "Cropping2D", "UpSampling2D", "STFTSpectrogram",
        ],
        adaptive: ["AdaptiveAveragePooling1D", "AdaptiveMaxPooling1D"],
        entry: ["Embedding"],
        merge: ["Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate"],
    }.items()
    for name in names
    if hasattr(plain, name)  # adaptive pooling came with Keras 3.13
}  # fmt: skip

# Layers that end in their activation: one that Keras did not write gets a layer of its own, before which the padding is made harmless.
LINEAR = {
    plain.Dense, plain.Conv1D, plain.DepthwiseConv1D, plain.SeparableConv1D, plain.Conv1DTranspose,
    plain.Conv2D, plain.DepthwiseConv2D, plain.SeparableConv2D, plain.Conv2DTranspose,
}  # fmt: skip

ACTIVATION_ADVICE = "Call the function on the output of the layer, with keras.ops; weights over the frames are Softmax(axis=1)."
RECURRENT_ADVICE = 'Give the layer an activation that treats each value alone, such as "tanh".'

REFUSALS = {
    plain.Masking: (
        "infers the lengths from the values, so it takes a silent frame for padding",
        "Remove it: the lengths are an input of the mask-aware model.",
    ),
    plain.MelSpectrogram: (
        "centres its frames on the padding, compares them with the loudest of the batch (top_db), and returns [B, mels, frames]",
        "Use vlpipe.layers.LogMel on [B, N, 1].",
    ),
    plain.RepeatVector: (
        "repeats values of the frames, [batch, frames], as if they were features",
        "Keep the frames on axis 1: weights [batch, frames, 1] of Softmax(axis=1) are multiplied by each feature as they are.",
    ),
}


def role_of(operation: Any, arguments: Any, options: Any) -> Role:
    """Return the role of an operation that is called with at least one tensor that has frames."""
    if isinstance(operation, plain.Layer):
        named = arguments_by_name(operation, arguments, options)
        if refused := refused_mask(operation, named, options):
            return refused
        if misses_mask(operation, named):
            return with_mask_of_first(operation, named, role_of_call(operation, arguments, options))
    return role_of_call(operation, arguments, options)


def role_of_call(operation: Any, arguments: Any, options: Any) -> Role:
    x = framed(arguments, options)[0].tensor
    kind = known_kind(type(operation))
    if isinstance(operation, MaskAware):
        role = Role(frames=not isinstance(operation, reduce.Reduction), endless=operation.endless())
        return role_with_activation(role, operation, x) if kind.__module__.startswith("vlpipe.") else role
    if getattr(operation, "activity_regularizer", None) is not None:
        return refuse("has an activity_regularizer, which counts the padding", "Remove it, or regularize the kernel.", "padding_statistics")
    if is_merge(operation) and not joins_frames(operation, len(x.shape)) and takes_one_frame_to_all(framed(arguments, options)):
        return refuse("merges one frame, taken by a slice, with all frames", "Index it and add the axis: x[:, -1][:, None].", "mismatch")
    if kind in TWINS and is_merge(operation) and (frames := fixed_frames(leaves(arguments, options), len(x.shape))):
        return refuse_fixed(frames)
    if kind.__module__.startswith("keras.src.ops"):
        role = role_of_op(operation, arguments, options, len(x.shape))
    else:
        role = role_of_layer(operation, kind, arguments, options)
        role = role if role.refused else role_with_activation(role, operation, x)
    activation = own_activation(operation) if kind is plain.Activation else None
    if role.refused or role.graph is not None or role.fill is not None:
        return role
    return replace(role, fill=fill_of(operation, arguments, activation))


def axis_of_output(operation: Any, arguments: Any, options: Any) -> FrameAxis | None:
    """Return the frame axis on which an operation works, of several inputs the one that they share; None if they share none.

    Of an attention it is that of the query: keys and values may have any number of frames.
    """
    axes = [leaf.frames for leaf in framed(arguments, options) if leaf.frames]
    if type(operation) in ATTENTION:
        query = options.get("query", leaves(arguments)[0] if leaves(arguments) else None)
        own = query.frames if isinstance(query, TracedTensor) and query.frames else axes[0]
        return replace(own, masked=all(axis.masked for axis in axes))
    return axes[0].joined(axes[1:], spread if adds_one_frame_to_all(operation) else fewer)


def joins_frames(operation: Any, rank: int) -> bool:
    """Return whether an operation puts the frames of one tensor behind those of another."""
    return type(operation).__name__ == "Concatenate" and operation.axis % rank == 1


def adds_one_frame_to_all(operation: Any) -> bool:
    """Return whether an operation merges a branch of one frame with each frame of another, as `Add` does and `Concatenate` does not."""
    if isinstance(operation, merge.CommonFrames):
        return operation.spreads
    return is_merge(operation) and known_kind(type(operation)).__name__ not in ("Concatenate", "Stack", "Dot")


def is_merge(operation: Any) -> bool:
    """Return whether an operation joins branches frame by frame."""
    kind = known_kind(type(operation))
    if kind.__module__.startswith("keras.src.ops"):
        return kind.__name__ in ELEMENTWISE_OPS | {"Concatenate", "Stack"}
    return kind in TWINS and issubclass(TWINS[kind], (merge.Merge, reduce.Dot))


def role_with_activation(role: Role, layer: Any, x: Any) -> Role:
    """Return the role of a layer that is called on `x`, given the one without its activation."""
    kind = known_kind(type(layer))
    if mixing_activation(layer, x):
        return refuse(
            "has an activation that mixes frames or rows, or that fails on some number of them",
            RECURRENT_ADVICE if kind in RECURRENT or kind is plain.Bidirectional else ACTIVATION_ADVICE,
            "reads_padding",
        )
    activation = own_activation(layer)
    if isinstance(activation, plain.Layer) and type(activation) not in ELEMENTWISE:
        return refuse(f"has the layer {type(activation).__name__} as its activation", "Call that layer on its output instead.", "unknown")
    if kind is plain.TimeDistributed and own_activation(layer.layer) is not None:
        return refuse(
            "wraps a layer with an activation that Keras did not write",
            "Use the inner layer without TimeDistributed: it works frame by frame by itself.",
            "unknown",
        )
    if activation is None or kind not in LINEAR:
        return role
    return replace(role, twin=lambda: linear_twin(layer, TWINS.get(kind, kind)), activation=activation)


def role_of_layer(layer: Any, kind: type, arguments: Any, options: Any) -> Role:
    x = framed(arguments, options)[0].tensor
    rank = len(x.shape)
    if kind in REFUSALS:
        return refuse(*REFUSALS[kind])
    if kind in (plain.Activation, plain.Softmax):
        role = role_of_activation(layer, rank)
        return role if role.refused or kind is plain.Activation else masked_softmax(layer, x, options.get("mask")) or role
    if kind in ELEMENTWISE:
        return KEEP
    if kind in CODES:
        return codes(layer)
    if kind in (plain.Flatten, plain.Reshape):
        return SPECIAL[kind](layer, x)
    if kind is plain.Embedding:
        return role_of_twin(layer, kind)
    if kind is entry.ToPadded:  # outside of a mask-aware model, never in one
        return replace(refuse_unknown(), counted=True)
    if kind is plain.Lambda or not kind.__module__.startswith("keras."):
        return unknown(layer, arguments, options)
    if kind is plain.Dot:  # of scores [B, T], too
        return dot(layer, arguments) or role_of_twin(layer, kind)
    if rank < 3:
        return refuse("uses the frame axis as the feature axis", "Pass it [batch, frames, features].")
    if kind is plain.Normalization and 1 in {int(axis) % rank for axis in layer.axis}:
        frames = (layer._build_input_shape or x.shape)[1]
        return refuse(
            f"has a mean and a variance for each of {frames} frames", "Use Normalization(axis=-1), adapted to the frames of all sequences."
        )
    if kind in FRAMEWISE:
        return KEEP
    if kind in NORMALIZED and not axes_without_frames(layer, rank):
        return refuse("normalizes over time", "Use axis=-1, or GroupNormalization(groups=1).", "padding_statistics")
    if kind in (plain.LayerNormalization, plain.UnitNormalization):
        return KEEP
    if kind is plain.SpectralNormalization:
        return role_of_spectral(layer, x, arguments)
    if kind in TWINS:
        return role_of_twin(layer, kind)
    if kind in ATTENTION:
        axes = getattr(layer, "_attention_axes", None)
        if axes is not None and 1 not in {int(axis) % rank for axis in leaves(axes)}:
            return refuse(
                "attends along other axes than the frames, for which the mask of the frames has the wrong shape",
                "Build a model of one frame with it, keras.Model(y, layer(y, y)), and call TimeDistributed(that model).",
                "unknown",
            )
        return Role(leak="attends to the padding", problem="reads_padding", endless="attends to all frames")
    return SPECIAL[kind](layer, x) if kind in SPECIAL else unknown(layer, arguments, options)


def role_of_spectral(layer: Any, x: Any, arguments: Any) -> Role:
    inner = layer.layer
    role = role_of_layer(inner, known_kind(type(inner)), arguments, {})
    if role.refused:
        return role

    def make() -> Any:
        twin = role.twin() if role.twin else inner
        if twin is not inner:
            share_weights(twin, inner, x.shape)
        return SpectralNormalization(twin, layer.power_iterations, name=layer.name, dtype=layer.dtype_policy)

    return replace(role, twin=make, carries=True)


def role_of_twin(layer: Any, kind: type) -> Role:
    def make(cls: type = TWINS[kind]) -> Any:
        return twin_of(layer, cls)

    if issubclass(TWINS[kind], reduce.Reduction):
        leak = "also averages the padding" if "Average" in kind.__name__ else "also reads the padding"
        divides = kind is plain.GlobalAveragePooling1D
        return Role(make, False, False, leak, "divides by zero for a row without frames" if divides else leak, "reads_padding")
    if kind is plain.BatchNormalization:
        return Role(make, True, True, "includes the padding in its statistics", "", "padding_statistics")
    if kind is plain.GroupNormalization:
        leak = "includes the padding in its statistics"
        return Role(make, True, True, leak, leak, "padding_statistics")
    if issubclass(TWINS[kind], merge.Merge):
        return Role(make)
    if uneven := refuse_uneven_average(layer):
        return uneven
    leak, problem = leak_of_window(layer)
    return Role(make, False, True, leak, leak, problem)


def role_of_activation(layer: Any, rank: int) -> Role:
    axis = getattr(layer, "axis", -1)
    if not isinstance(layer, plain.Softmax):
        acts_along_frames = is_of_keras(layer.activation) and layer.activation.__name__ in ("softmax", "log_softmax", "sparsemax", "glu")
        if not acts_along_frames or rank > 2:
            return KEEP
        if layer.activation.__name__ != "softmax":
            return refuse("acts along the frame axis", "Use softmax, or act along the features.")
    elif not isinstance(axis, int):
        return refuse("acts along several axes", "Use one axis: 1 for the frames, -1 for the features.")
    if isinstance(layer, plain.Softmax) and axis % rank != 1:
        return role_of_feature_softmax(layer)
    return role_of_softmax(layer, axis, rank)


def role_of_feature_softmax(layer: Any) -> Role:
    leak = "takes the mask of the frames for one of its values, which fails or, for some shapes, gives other weights"
    return Role(lambda: twin_of(layer, normalize.Softmax), True, True, "", leak, "reads_padding")


def role_of_softmax(layer: Any, axis: int, rank: int) -> Role:
    if axis % rank != 1:
        return KEEP
    leak = "gives weight to the padding"
    return Role(lambda: normalize.Softmax(axis=1, **like(layer)), True, True, leak, leak, "reads_padding")


def linear_twin(layer: Any, cls: type) -> Any:
    """Return a layer like `layer` but without its activation, which Keras may be unable to write into a configuration."""
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        return twin_of(layer, cls)
    finally:
        layer.activation = activation


def twin_of(layer: Any, cls: type) -> Any:
    """Return a layer of class `cls` with the configuration of `layer`; its weights are set once its input shape is known."""
    config = known_kind(type(layer)).get_config(layer)  # type: ignore[attr-defined]
    if "mask_zero" in config:
        config["mask_zero"] = False  # the lengths say what is padding
    try:
        twin = cls.from_config(config)  # type: ignore[attr-defined]
    except TypeError as error:  # Keras wraps what a constructor raises
        if isinstance(error.__context__, ArgumentError):
            raise error.__context__ from None
        raise
    twin.autocast = layer.autocast  # no configuration has it
    return twin


def share_weights(twin: Any, layer: Any, input_shape: Any) -> None:
    """Build `twin` with the variables of `layer` instead of new ones.

    `build` requests each variable from `add_weight` by name. A temporary `add_weight` returns the layer's variable, so that
    `build` still sets up everything else and no variable is created in vain.
    """
    variables = {variable.name: variable for variable in layer.variables}
    twin.add_weight = lambda *args, name, **kwargs: variables[name]
    twin.build(input_shape)
    del twin.add_weight

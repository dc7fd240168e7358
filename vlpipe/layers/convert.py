"""`mask_aware`: build the equivalent of an ordinary model that respects true lengths, on the same weights."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import keras

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import registered
from vlpipe.layers.calls import own_masks
from vlpipe.layers.entry import CarryMask, FillPadding, LengthMask
from vlpipe.layers.fills import ATTENTION
from vlpipe.layers.merge import CommonFrames
from vlpipe.layers.model import Model
from vlpipe.layers.replace import Replacements
from vlpipe.layers.role import Role
from vlpipe.layers.roles import axis_of_output, is_merge, role_of, share_weights
from vlpipe.layers.walk import (
    FrameAxis,
    TracedTensor,
    as_functional,
    framed,
    have_equal_frames,
    is_sequence,
    leaves,
    replay,
    tensors,
    traced_tensors,
    with_axis,
)


def mask_aware(
    model: Any, *, given: Literal["lengths", "mask"] = "lengths", layers: Mapping[type, Callable[..., Any]] | None = None
) -> Any:
    """Return an equivalent of a Keras model, sharing its weights, in which padding never changes the output.

    Every layer that mixes or reduces frames is replaced by its namesake in `vlpipe.layers`; all others are the layers of
    `model` itself. For one sequence without padding, both models give the same output; in a batch, the new model gives each
    row the output it would get alone. Training either model trains both. Freeze layers before the call.

    Args:
        model: a built Sequential or Functional model with input `[B, T, d]`, or spectrograms `[B, T, F, C]`; branches and nested models are
            supported. A layer of your own is kept if it works frame by frame, which is tried out, or else replaced by the operations of
            `keras.ops` and the layers in its `call`, with its weights. For `mask_zero` embeddings too, only lengths say what is padding.
        given: `"lengths"`: the new model takes `{"features": x, "lengths": n}`, as `make_dataset(..., lengths=True)` delivers it;
            `"mask"`: it takes `{"features": x, "mask": m}`, where the mask of a row is true for its first frames and false after.
        layers: replacements for layers that vlpipe does not know, such as `{TCN: AwareTCN}`: from their class to a class with the base
            `vlpipe.layers.MaskAware`, made from the same configuration, or to a function that makes the replacement from the layer. It
            gets a copy of the weights of the layer, unless the function returns it built. It is trusted only after it has given the
            answers of the layer to sequences without padding, and the same ones with padding.

    Shapes: `x` `[B, T, ...]`, with `n` `[B]` (integers) or `m` `[B, T]` (booleans). A model with several sequence inputs, or with a dict
    of inputs, takes NAME and NAME_lengths (or NAME_mask) for each sequence, and its other inputs under their own names; beside an input
    with an open number of frames, one of fixed size is no sequence. An output with frames carries
    its mask, so that Keras' losses and metrics count real frames only.

    Returns:
        A `vlpipe.layers.Model`, which takes its inputs by key and ignores other keys, such as `"id"`. It saves to `.keras`, and
        loads without custom_objects once `vlpipe.layers` is imported.

    Raises:
        ArgumentError: an operation needs a fixed length, or is unknown and touches frames (the message names it); merged
            branches never have the same number of frames; no input is a sequence; the model is subclassed, not built or mask-aware
            already; a layer or input has a name that the new model needs; a replacement fails its test, or replaces nothing.

    Example:
        >>> import keras, numpy as np
        >>> from vlpipe.layers import mask_aware
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3), keras.layers.GlobalMaxPooling1D()])
        >>> batch = {"features": np.ones((2, 9, 4), "float32"), "lengths": np.array([9, 5])}
        >>> tuple(mask_aware(model)(batch).shape)
        (2, 8)
    """
    if given not in ("lengths", "mask"):
        raise ArgumentError(f'mask_aware: given={given!r}; expected "lengths" or "mask".')
    functional = as_functional(model, "mask_aware")
    refuse_mask_aware(functional)
    keys = input_keys(functional)
    sequences = [x for x in functional.inputs if is_sequence(x, functional.inputs)]
    if not sequences:
        shapes = ", ".join(f'"{x.name}" {tuple(x.shape)}' for x in functional.inputs)
        raise ArgumentError(
            f"mask_aware: no input of the model is a sequence: {shapes}; expected one of shape (None, None, d). "
            "Build the model with keras.Input((None, d)), or keras.Input((None, bins, channels)) for spectrograms."
        )
    inputs: dict[str, Any] = {}
    traced = []
    for x, name in zip(functional.inputs, keys, strict=True):
        if not any(x is sequence for sequence in sequences):
            inputs[name] = keras.Input(batch_shape=x.shape, dtype=x.dtype, name=name)
            traced.append(TracedTensor(inputs[name]))
        elif len(sequences) == 1 and not isinstance(functional._inputs_struct, dict):
            traced.append(TracedTensor(sequence_input(x, "features", given, given, inputs), FrameAxis()))
        else:
            companion = given if name == "features" and len(sequences) == 1 else f"{name}_{given}"
            traced.append(TracedTensor(sequence_input(x, name, companion, given, inputs), FrameAxis()))
    check_names(functional, inputs, len(traced) + len(sequences))
    converter = Converter(replacements=Replacements(layers))
    outputs = replay(functional, traced, converter)
    converter.check_scores(outputs)
    converter.replacements.check_used(model.name)
    return Model(inputs, tensors(outputs), name=model.name)


def refuse_mask_aware(functional: Any) -> None:
    for operation in functional.operations:
        if isinstance(operation, LengthMask):
            raise ArgumentError(
                f'mask_aware: the model "{functional.name}" is mask-aware already: it has the layer "{operation.name}" (LengthMask); '
                "expected a model of ordinary layers. Use it as it is, or pass the model that it was made from."
            )


def check_names(functional: Any, inputs: dict[str, Any], count: int) -> None:
    """Raise ArgumentError if a name of the new model, which has `count` inputs, is taken."""
    entries = {f"{name}_mask_entry" for name in inputs}
    taken = [x.name for x in functional.operations if x.name in {*inputs, *entries} and not isinstance(x, keras.layers.InputLayer)]
    what = f'the layer "{taken[0]}" has the name' if taken else "two inputs have the same name, one of them that"
    if taken or len(inputs) < count:
        raise ArgumentError(
            f"mask_aware: {what} of an input of the mask-aware model, {sorted(inputs)}; expected other names. Give the layer or the "
            'keras.Input another name=, or use given="mask", which needs no lengths.'
        )


def input_keys(functional: Any) -> list[str]:
    """Return the name of each input: its key in a dict of inputs, which is how data are passed to the model, or else its own."""
    structure = functional._inputs_struct
    keys = {id(x): key for key, x in structure.items()} if isinstance(structure, dict) else {}
    return [keys.get(id(x), x.name) for x in functional.inputs]


def sequence_input(x: Any, name: str, key: str, companion: str, inputs: dict[str, Any]) -> Any:
    """Add a sequence `name` and its companion `key`, `"lengths"` or a `"mask"`, to `inputs`; return the sequence with its mask."""
    inputs[name] = keras.Input((None, *x.shape[2:]), dtype=x.dtype, name=name)
    inputs[key] = keras.Input((), dtype="int32", name=key) if companion == "lengths" else keras.Input((None,), dtype="bool", name=key)
    return LengthMask(name=f"{name}_mask_entry")({"features": inputs[name], companion: inputs[key]})


@registered
class NestedModel(keras.Model):
    """A model nested in a mask-aware model: input masks reach its layers, and the masks of its outputs pass through unchanged."""

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None  # its layers have already attached the output masks; Keras would overwrite them with the input mask


class Converter:
    """Visitor for `replay` that calls the mask-aware twin of each operation; a shared layer has one twin for all its calls."""

    def __init__(self, path: str = "", replacements: Replacements | None = None) -> None:
        self.path, self.replacements = path, replacements or Replacements(None)
        self.twins: dict[Any, Any] = {}
        self.scores: list[tuple[Any, str]] = []  # tensors of attention scores, and the layers that they come from

    def __call__(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        self.check_scores(arguments, options)
        if isinstance(operation, keras.Model):
            return self.convert_nested(operation, arguments)
        sequences = framed(arguments, options)
        axes = [leaf.frames for leaf in sequences if leaf.frames]
        if not axes:
            return keras.tree.map_structure(TracedTensor, operation(*tensors(arguments), **tensors(options)))
        own = self.replacement(operation, sequences[0].tensor)
        role = role_of(own or operation, arguments, options)
        if role.refused:
            raise refusal(self.path, operation, role)
        if role.graph is not None:
            graph = self.twins.setdefault((id(operation), "graph"), role.graph)
            return self.convert_nested(graph, (arguments, options))
        layer = own or self.layer_for(operation, role, sequences[0].tensor.shape)
        joined = axis_of_output(operation, arguments, options)
        if joined is None:
            raise ArgumentError(
                f"mask_aware: {label(self.path, operation)} merges branches that never have the same number of frames. "
                "Give the branches the same strides and padding, or crop the longer one."
            )
        if is_merge(operation) and not have_equal_frames(axes):
            arguments, options = self.with_common_frames(operation, joined, arguments, options)
            sequences = framed(arguments, options)
        options = self.with_masks_of_real_frames(operation, options)
        if role.fill is not None:
            arguments, options = self.filled(operation, role.fill, arguments, options)
        if role.packed and layer is not operation:
            operands = [leaf.tensor for leaf in role.operands or traced_tensors(arguments, options)]
            outputs = layer(operands[0] if len(operands) == 1 else operands)
        else:
            outputs = layer(*tensors(arguments), **tensors(options))
        if type(operation) in ATTENTION and isinstance(outputs, (list, tuple)):
            self.scores.append((outputs[1], label(self.path, operation)))
        if role.activation is not None:
            outputs = self.activated(operation, role.activation, outputs)
        if not role.frames:
            return keras.tree.map_structure(TracedTensor, outputs)
        if not role.carries and layer is operation:
            carry, masks = CarryMask(name=f"{operation.name}_mask"), [leaf.tensor for leaf in sequences]
            outputs = keras.tree.map_structure(lambda y: carry([y, *masks]), outputs)  # of a split there are several
        return with_axis(outputs, joined.after(layer), sequences[0].tensor)

    def replacement(self, operation: Any, x: Any) -> Any:
        """Return the layer that the user gave for an operation, or None."""
        key = (id(operation), "replacement")
        if key not in self.twins:
            self.twins[key] = self.replacements(operation, x)
        return self.twins[key]

    def check_scores(self, *structures: Any) -> None:
        """Raise ArgumentError if one of the tensors holds attention scores."""
        for leaf in leaves(structures):
            for scores, layer in self.scores:
                if isinstance(leaf, TracedTensor) and leaf.tensor is scores:
                    raise ArgumentError(
                        f"mask_aware: {layer} returns its attention scores, in which no mask tells real frames from padding, and the model "
                        "uses them. Build the model without them, and get the scores from keras.Model(model.input, scores), one "
                        "sequence at a time."
                    )

    def with_common_frames(self, operation: Any, joined: FrameAxis, *structures: Any) -> Any:
        """Return the arguments of a merging operation with their branches cut to the frames that all of them have."""
        branches = framed(structures)
        cut = self.part(operation, "frames", lambda name: CommonFrames(name=name))([leaf.tensor for leaf in branches])
        ready = {id(leaf): TracedTensor(x, joined) for leaf, x in zip(branches, cut, strict=True)}
        return keras.tree.map_structure(lambda leaf: ready.get(id(leaf), leaf), structures)

    def layer_for(self, operation: Any, role: Role, input_shape: Any) -> Any:
        """Return the layer to call for an operation; its role creates it at the first call."""
        key = (id(operation), "twin", role.variant)
        if key not in self.twins:
            layer = self.twins[key] = role.twin() if role.twin else operation
            if layer is not operation and getattr(operation, "variables", None):
                share_weights(layer, operation, input_shape)
        return self.twins[key]

    def with_masks_of_real_frames(self, operation: Any, options: Any) -> Any:
        """Return the options of a layer with the padding taken out of its masks, which Keras passes on in place of those of the tensors."""
        own = own_masks(options) if isinstance(operation, keras.layers.Layer) else []

        def filled(leaf: Any) -> Any:
            if not isinstance(leaf, TracedTensor) or not leaf.frames:
                return leaf
            fill = self.part(operation, "own_mask", lambda name: FillPadding(name=name))
            return replace(leaf, tensor=fill(leaf.tensor))

        return {name: keras.tree.map_structure(filled, value) if name in own else value for name, value in options.items()}

    def filled(self, operation: Any, value: float, *structures: Any) -> Any:
        """Return the arguments of an operation with their padding set to a value: as copies, one for each tensor."""
        fill = self.part(operation, "fill", lambda name: FillPadding(value, name=name))
        first = framed(structures)[0].tensor
        copies: dict[int, Any] = {}

        def copy_of(leaf: Any) -> Any:
            if not isinstance(leaf, TracedTensor) or not (leaf.frames or (leaf.tensor.shape and leaf.tensor.shape[0] is None)):
                return leaf
            if id(leaf) not in copies:
                copies[id(leaf)] = replace(leaf, tensor=fill(leaf.tensor if leaf.frames else [leaf.tensor, first]))
            return copies[id(leaf)]

        return keras.tree.map_structure(copy_of, structures)

    def activated(self, operation: Any, activation: Any, outputs: Any) -> Any:
        """Return the activation of the outputs of a layer whose twin has none."""
        fill = self.part(operation, "fill", lambda name: FillPadding(1.0, name=name))
        activate = self.part(operation, "activation", lambda name: keras.layers.Activation(activation, name=name))
        return activate(fill(outputs))

    def part(self, operation: Any, kind: str, make: Callable[[str], Any]) -> Any:
        """Return the layer that stands beside an operation in all its calls."""
        key = (id(operation), kind)
        if key not in self.twins:
            self.twins[key] = make(f"{operation.name}_{kind}")
        return self.twins[key]

    def convert_nested(self, model: Any, arguments: Any) -> Any:
        """Convert a nested model, which stays one model; its frame axes are followed anew at every call."""
        inputs = traced_tensors(arguments)
        functional = as_functional(model, "mask_aware", nested=True)
        inner_inputs = [TracedTensor(keras.Input(batch_shape=x.tensor.shape, dtype=x.tensor.dtype), x.frames) for x in inputs]
        nested = Converter(f"{self.path}{model.name}/", self.replacements)
        nested.twins = self.twins
        inner_outputs = replay(functional, inner_inputs, nested)
        nested.check_scores(inner_outputs)
        if id(model) not in self.twins:
            self.twins[id(model)] = NestedModel(tensors(inner_inputs), tensors(inner_outputs), name=model.name)
        # Pass a single input as a bare tensor: for a list, Keras would record the masks of the symbolic call (None) and pass them on.
        outputs = self.twins[id(model)](inputs[0].tensor if len(inputs) == 1 else tensors(inputs))
        return keras.tree.map_structure(lambda y, inner: TracedTensor(y, inner.frames), outputs, inner_outputs)


def label(path: str, operation: Any) -> str:
    return f'"{path}{operation.name}" ({type(operation).__name__})'


def refusal(path: str, operation: Any, role: Role) -> ArgumentError:
    return ArgumentError(f"mask_aware: {label(path, operation)} {role.refused}. {role.advice}")

"""`mask_aware`: build the equivalent of an ordinary model that respects true lengths, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras

from vlpipe.errors import ArgumentError
from vlpipe.layers.converter import Converter
from vlpipe.layers.entry import LengthMask
from vlpipe.layers.model import Model
from vlpipe.layers.replace import Replacements
from vlpipe.layers.twins import Twins
from vlpipe.layers.walk import (
    FrameAxis,
    TracedTensor,
    as_functional,
    is_sequence,
    replay,
    tensors,
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
        layers: replacements for layers that vlpipe does not know, such as `{SincConv: AwareSincConv}`: from their class to a class with
            the base `vlpipe.layers.MaskAware`, made from the same configuration, or to a function that makes the replacement from the
            layer. It gets a copy of the weights of the layer, unless the function returns it built. It is trusted only after it has given
            the answers of the layer to sequences without padding, and the same ones with padding.

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
    converter = Converter(Twins(functional), Replacements(layers))
    outputs = replay(functional, traced, converter)
    if converter.twins.unfinished:
        converter = Converter(Twins(functional, converter.twins), converter.replacements)
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

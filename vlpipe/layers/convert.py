"""`mask_aware`: an ordinary model in, one that respects true lengths out, on the same weights."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import registered
from vlpipe.layers.entry import CarryMask, LengthMask
from vlpipe.layers.roles import Role, role_of, share_weights
from vlpipe.layers.walk import Frames, Traced, as_functional, has_frames, leaves, replay, tensors


def mask_aware(model: Any, *, given: str = "lengths") -> Any:
    """An equivalent of a Keras model, sharing its weights, in which padding never changes the answer.

    Every layer that mixes or reduces frames is replaced by the one of the same name in `vlpipe.layers`; the others are the
    layers of `model` themselves. On one sequence without padding, both models give the same numbers; in a batch, the new
    one gives each row the numbers that it would get alone. Training either trains both. Freeze layers before the call.

    Args:
        model: a built Sequential or Functional model, with branches and nested models, whose input is `[B, T, d]`.
        given: `"lengths"`: the new input is `{"features": x, "lengths": n}`, as `make_dataset(..., lengths=True)` delivers it;
            `"mask"`: it is `{"features": x, "mask": m}`, with a mask that is true for the first frames of a row only.

    Shapes: `x` `[B, T, d]`, with `n` `[B]` (integers) or `m` `[B, T]` (booleans). A model with several inputs that are sequences
    takes NAME and NAME_lengths (or NAME_mask) for each, and its other inputs under their names. An output with frames
    comes with the mask that belongs to it, and Keras' losses and metrics count real frames only.

    Returns:
        A Functional model. It saves to `.keras`, and loads without custom_objects where `vlpipe.layers` is imported.

    Raises:
        ArgumentError: the model holds an operation that needs a fixed length, or that is not known and touches frames (the
            message names it), or branches that never have the same number of frames; or the model is subclassed or not built.

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
    sequences = [x for x in functional.inputs if has_frames(x)]
    if not sequences:
        shapes = ", ".join(f'"{x.name}" {tuple(x.shape)}' for x in functional.inputs)
        raise ArgumentError(f"mask_aware: no input of the model is a sequence: {shapes}; expected one of shape (None, None, d).")
    inputs: dict[str, Any] = {}
    traced = []
    for x in functional.inputs:
        if has_frames(x):
            name = "features" if len(sequences) == 1 else x.name
            traced.append(Traced(sequence_input(x, name, given, inputs), Frames()))
        else:
            inputs[x.name] = keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)
            traced.append(Traced(inputs[x.name]))
    outputs = replay(functional, traced, Converter())
    return keras.Model(inputs, tensors(outputs), name=model.name)


def sequence_input(x: Any, name: str, given: str, inputs: dict[str, Any]) -> Any:
    """Add the inputs for one sequence to `inputs`; returns it with its mask attached."""
    key = given if name == "features" else f"{name}_{given}"
    inputs[name] = keras.Input((None, *x.shape[2:]), dtype=x.dtype, name=name)
    inputs[key] = keras.Input((), dtype="int32", name=key) if given == "lengths" else keras.Input((None,), dtype="bool", name=key)
    return LengthMask(name=f"{name}_mask_entry")({"features": inputs[name], given: inputs[key]})


@registered
class NestedModel(keras.Model):
    """A model inside a mask-aware model: the masks of its inputs reach its layers, and those of its outputs leave it."""

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None  # its layers have attached the masks already; Keras would attach that of the input


class Converter:
    """Stands in for every call of the model's operations; makes the twin of a layer once, however often it is called."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.twins: dict[int, Any] = {}

    def __call__(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        met = [leaf for leaf in leaves(arguments, options) if isinstance(leaf, Traced) and leaf.frames]
        frames = [leaf.frames for leaf in met if leaf.frames]
        if isinstance(operation, keras.Model):
            return self.nested(operation, arguments, options)
        if not met:
            return keras.tree.map_structure(Traced, operation(*tensors(arguments), **tensors(options)))
        role = role_of(operation, arguments, options)
        if role.refused:
            raise refusal(self.path, operation, role)
        layer = self.once(operation, role.twin or (lambda: operation), met[0].tensor.shape)
        joined = frames[0].joined(frames[1:])
        if joined is None:
            raise ArgumentError(
                f"mask_aware: {label(self.path, operation)} joins branches whose frames are never the same number. "
                "Give the branches the same strides and padding, or crop the longer one."
            )
        outputs = layer(*tensors(arguments), **tensors(options))
        if not role.frames:
            return keras.tree.map_structure(Traced, outputs)
        if not role.carries and layer is operation:
            outputs = CarryMask(name=f"{operation.name}_mask")([outputs, *[leaf.tensor for leaf in met]])
        return keras.tree.map_structure(lambda y: Traced(y, joined.through(layer)), outputs)

    def once(self, operation: Any, make: Callable[[], Any], input_shape: Any) -> Any:
        if id(operation) not in self.twins:
            layer = self.twins[id(operation)] = make()
            if layer is not operation and getattr(operation, "variables", None):
                share_weights(layer, operation, input_shape)
        return self.twins[id(operation)]

    def nested(self, model: Any, arguments: Any, options: Any) -> Any:
        """Convert a nested model, which stays one model; its frames are followed at every call."""
        given = leaves(arguments)
        functional = as_functional(model, "mask_aware")
        inner = [Traced(keras.Input(batch_shape=x.tensor.shape, dtype=x.tensor.dtype), x.frames) for x in given]
        inside = Converter(f"{self.path}{model.name}/")
        inside.twins = self.twins
        outputs = replay(functional, inner, inside)
        if id(model) not in self.twins:
            self.twins[id(model)] = NestedModel(tensors(inner), tensors(outputs), name=model.name)
        # A bare tensor where there is one: with a list, Keras records the masks of the drawing, none, and passes those on.
        result = self.twins[id(model)](given[0].tensor if len(given) == 1 else tensors(given))
        return keras.tree.map_structure(lambda y, old: Traced(y, old.frames), result, outputs)


def label(path: str, operation: Any) -> str:
    return f'"{path}{operation.name}" ({type(operation).__name__})'


def refusal(path: str, operation: Any, role: Role) -> ArgumentError:
    return ArgumentError(f"mask_aware: {label(path, operation)} {role.refused}. {role.advice}")

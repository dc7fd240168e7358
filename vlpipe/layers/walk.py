"""Walking through a Keras model, operation by operation, with what is known of the frames of every tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import Reach

PROBE = np.arange(1, 4097)  # lengths at which the branches of a model are compared


@dataclass(frozen=True)
class Frames:
    """What is known of the frames, on axis 1, of a tensor.

    Attributes:
        count: from the lengths of the input to those of this tensor (integer arrays).
        span: input frames that one frame of this tensor depends on.
        stride: input frames between one frame and the next.
        masked: whether a Keras mask has come along.
        dropped: name and class of the operation that has just dropped it.
    """

    count: Callable[[Any], Any] = lambda lengths: lengths
    span: int = 1
    stride: Fraction = Fraction(1)
    masked: bool = True
    dropped: tuple[str, str] | None = None

    def through(self, layer: Any) -> Frames:
        """The frames after a mask-aware layer."""
        count, reach = self.count, getattr(layer, "reach", Reach)()
        after = getattr(layer, "output_frames", lambda frames: frames)
        return replace(
            self,
            count=lambda lengths: np.maximum(after(count(lengths)), 0),
            span=self.span + math.ceil((reach.span - 1) * self.stride),
            stride=self.stride * reach.stride,
            dropped=None,
        )

    def joined(self, others: Iterable[Frames]) -> Frames | None:
        """The frames of branches brought together, or None where their numbers agree at no length at all."""
        joined = self
        for other in others:
            ours, theirs = joined.count, other.count
            here, there = ours(PROBE), theirs(PROBE)
            if not np.any((here == there) & (here > 0)):
                return None
            joined = Frames(
                count=ours if np.array_equal(here, there) else lambda lengths, a=ours, b=theirs: np.minimum(a(lengths), b(lengths)),  # type: ignore[misc]
                span=max(joined.span, other.span),
                stride=max(joined.stride, other.stride),
                masked=joined.masked and other.masked,
            )
        return joined


@dataclass(frozen=True)
class Traced:
    """A symbolic tensor, and its frames if it has any."""

    tensor: Any
    frames: Frames | None = None


Visit = Callable[..., Any]  # (operation, *arguments, **options) with Traced in place of tensors -> Traced, or several


def leaves(*structures: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structures) if leaf is not None]


def tensors(structure: Any) -> Any:
    """The structure with plain tensors in place of `Traced`."""
    return keras.tree.map_structure(lambda leaf: leaf.tensor if isinstance(leaf, Traced) else leaf, structure)


def as_functional(model: Any, caller: str) -> Any:
    """The Functional model that a built Keras model is.

    Raises:
        ArgumentError: a subclassed model, whose `call` cannot be looked into, or one that is not built.
    """
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ArgumentError(f'{caller}: the Sequential model "{model.name}" is not built. Begin it with keras.Input((None, d)).')
        return keras.Model(model.inputs, model.outputs, name=model.name)
    if not hasattr(model, "operations"):
        raise ArgumentError(
            f"{caller}: got {type(model).__name__}; expected a built Sequential or Functional model: the call of a subclassed model "
            "cannot be looked into. Build it from keras.Input and layers, or use the layers of vlpipe.layers in it by hand."
        )
    return model


def replay(functional: Any, inputs: Any, visit: Visit) -> Any:
    """Run through the nodes of a Functional model in order, `visit` standing in for every call.

    Args:
        functional: the model; each of its `operations` is visited, as often as it is called.
        inputs: a `Traced` for each input, in the structure of `functional.inputs`.
        visit: called with the operation and its arguments.

    Returns:
        What the last visits returned, in the structure of the model's outputs.
    """
    return functional._run_through_graph(inputs, call_fn=visit)  # what keras.models.clone_model does


def has_frames(tensor: Any) -> bool:
    """Whether an input counts as a sequence: `[B, T, d]`, or tokens `[B, None]`."""
    return tensor.dtype != "bool" and (len(tensor.shape) == 3 or (len(tensor.shape) == 2 and tensor.shape[1] is None))

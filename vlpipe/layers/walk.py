"""Walk through a Keras model, operation by operation, and follow the frame axis of every tensor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware, Reach
from vlpipe.layers.frame_count import FrameCount, compared, fewer


@dataclass(frozen=True)
class FrameAxis:
    """The frame axis (axis 1) of a tensor, relative to the model's input.

    Attributes:
        count: function from input lengths to the lengths of this tensor (integer arrays, or tensors).
        span: input frames that one frame of this tensor depends on.
        stride: input frames from one frame of this tensor to the next.
        back: of the input frames that frame j depends on, at most so many come before input frame j * stride.
        ahead: and at most so many after it.
        masked: whether a Keras mask travels with the tensor.
        dropped: name and class of the operation that has just dropped the mask.
        counted: whether `count` is known; after a layer that vlpipe does not know, it is a guess.
    """

    count: FrameCount = field(default_factory=FrameCount)
    span: int = 1
    stride: Fraction = Fraction(1)
    back: Fraction = Fraction(0)
    ahead: Fraction = Fraction(0)
    masked: bool = True
    dropped: tuple[str, str] | None = None
    counted: bool = True

    def after(self, layer: Any) -> FrameAxis:
        """Return the frame axis after a mask-aware layer."""
        reach = getattr(layer, "reach", Reach)()
        back, ahead = getattr(layer, "sides", lambda: (reach.span - 1, reach.span - 1))()
        output_frames = getattr(layer, "output_frames", None)
        keeps_count = output_frames is None or getattr(output_frames, "__func__", None) is MaskAware.output_frames
        return replace(
            self,
            count=self.count.after(None if keeps_count else output_frames),
            span=self.span + math.ceil((reach.span - 1) * self.stride),
            stride=self.stride * reach.stride,
            back=self.back + back * self.stride,
            ahead=self.ahead + ahead * self.stride,
            dropped=None,
        )

    def joined(self, others: Iterable[FrameAxis], merged: Callable[..., Any] = fewer) -> FrameAxis | None:
        """Return the frame axis of merged branches, or None if their lengths differ for every input length.

        Args:
            others: the other branches.
            merged: how many frames come of two branches of unequal lengths.
        """
        joined = self
        for other in others:
            first, second = joined.count, other.count
            first_lengths, second_lengths = compared([first, second])
            if not np.any((first_lengths == second_lengths) & (first_lengths > 0)):
                return None
            always_equal = np.array_equal(first_lengths, second_lengths)
            joined = FrameAxis(
                count=first if always_equal else FrameCount(merged, (first, second)),
                span=max(joined.span, other.span),
                stride=max(joined.stride, other.stride),
                back=max(joined.back, other.back),
                ahead=max(joined.ahead, other.ahead),
                masked=joined.masked and other.masked,
                counted=joined.counted and other.counted,
            )
        return joined


def have_equal_frames(axes: list[FrameAxis]) -> bool:
    """Return whether branches have the same number of frames for every input length."""
    first, *others = compared(axis.count for axis in axes)
    return all(np.array_equal(first, other) for other in others)


@dataclass(frozen=True)
class TracedTensor:
    """A symbolic tensor and its frame axis, None if it has no frames; if it was reduced from one that has them, this `source`."""

    tensor: Any
    frames: FrameAxis | None = None
    source: Any = None


Visit = Callable[..., Any]  # (operation, *arguments, **options) with TracedTensor in place of tensors -> TracedTensor, or several


def leaves(*structures: Any) -> list[Any]:
    """Return the leaves of nested structures, without None."""
    return [leaf for leaf in keras.tree.flatten(structures) if leaf is not None]


def tensors(structure: Any) -> Any:
    """Return the structure with the plain tensor in place of each `TracedTensor`."""
    return keras.tree.map_structure(lambda leaf: leaf.tensor if isinstance(leaf, TracedTensor) else leaf, structure)


def traced_tensors(*structures: Any) -> list[TracedTensor]:
    """Return the leaves that are traced tensors."""
    return [leaf for leaf in leaves(*structures) if isinstance(leaf, TracedTensor)]


def framed(*structures: Any) -> list[TracedTensor]:
    """Return the leaves that are traced tensors with frames."""
    return [leaf for leaf in leaves(*structures) if isinstance(leaf, TracedTensor) and leaf.frames]


def described(*structures: Any) -> str:
    """Return what tells the arguments of two calls apart: shapes and types of tensors and which have frames; all other values."""
    return repr(keras.tree.map_structure(description, structures))


def description(value: Any) -> str:
    if isinstance(value, TracedTensor):
        return f"{tuple(value.tensor.shape)} {value.tensor.dtype} {value.frames is not None}"
    if isinstance(value, slice):
        return f"slice {[description(edge) for edge in (value.start, value.stop, value.step)]}"
    if value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex, str, bytes, type, np.generic, np.dtype)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
        array = keras.ops.convert_to_numpy(value)
        return f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}"
    return f"{type(value).__name__} {id(value)}"  # kept alive by the model


def shapes_of(*structures: Any) -> tuple[Any, ...]:
    """Return shape and type of each tensor."""
    return tuple((tuple(leaf.tensor.shape), str(leaf.tensor.dtype)) for leaf in traced_tensors(structures))


def with_axis(outputs: Any, axis: FrameAxis | None, x: TracedTensor) -> Any:
    """Return the outputs of an operation as traced tensors: those that have frames, unlike the states of an LSTM, with the axis.

    Args:
        outputs: symbolic tensors, in any structure.
        axis: the frame axis of those that have one.
        x: the input with frames. If their number is open, so is that of an output; else an output with frames has no fewer axes.
    """

    # JAX knows how many frames a slice x[:, :3] leaves; TensorFlow does not. Behind it, a state [B, 3] has no frames.
    limit = axis.count.of_long if axis else None
    sliced = x.frames is not None and x.frames.count.of_long != limit
    rank = len(x.tensor.shape)

    def traced(y: Any) -> TracedTensor:
        if x.tensor.shape[1] is None:
            has_frames = len(y.shape) > 1 and (y.shape[1] is None or (y.shape[1] == limit and (sliced or len(y.shape) >= rank)))
        else:
            has_frames = len(y.shape) >= max(rank, 2)
        return TracedTensor(y, axis) if axis and has_frames else TracedTensor(y, source=x.tensor)

    return keras.tree.map_structure(traced, outputs)


OWN_STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")  # of a model that is trained itself


def as_functional(model: Any, caller: str, *, nested: bool = False) -> Any:
    """Return the Functional form of a built Keras model; of one that is `nested` in another, Keras calls no steps.

    Raises:
        ArgumentError: the model is subclassed, so its methods cannot be inspected, or it is not built.
    """
    refuse_own_methods(model, caller, nested)
    if isinstance(model, keras.Sequential):
        if not model.built or not hasattr(model, "inputs"):  # no inputs: Keras could not tell the shapes
            raise ArgumentError(f'{caller}: the Sequential model "{model.name}" is not built. Start it with keras.Input((None, d)).')
        return keras.Model(model.inputs, model.outputs, name=model.name)
    if not hasattr(model, "operations"):
        raise ArgumentError(
            f"{caller}: got {type(model).__name__}; expected a built Sequential or Functional model, because the call method of a "
            "subclassed model cannot be inspected. Pass keras.Model(inputs, model.call(inputs)) with inputs = keras.Input((None, d)), "
            "which has the same layers and weights."
        )
    return model


def refuse_own_methods(model: Any, caller: str, nested: bool) -> None:
    """Raise ArgumentError if the class of a Functional or Sequential model replaces methods of Keras that its graph does not contain."""
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        return  # it has no graph at all
    methods = ("call", "__call__", "compute_mask", *(() if nested else OWN_STEPS))
    # The class that Python takes each method from: on PyTorch, Keras' models derive from torch.nn.Module, whose own come last.
    owners = {name: next(cls for cls in type(model).__mro__ if name in vars(cls)) for name in methods}
    for cls in type(model).__mro__:
        if cls.__module__.split(".")[0] in ("keras", "vlpipe", "builtins"):
            continue
        own = [name for name in methods if owners[name] is cls]
        if own:
            raise ArgumentError(
                f'{caller}: the model "{model.name}" ({cls.__name__}) has a {" and a ".join(own)} of its own, which cannot be inspected '
                "and would be lost; expected a model whose graph is all that it does. Move what call adds into the graph; for the graph "
                "alone pass keras.Model(model.input, model.output), and give steps and losses of your own to a subclass of "
                "vlpipe.layers.Model, built from the input and output of the mask-aware model."
            )


def replay(functional: Any, inputs: Any, visit: Visit) -> Any:
    """Run through the nodes of a Functional model in order, with `visit` in place of every call.

    Args:
        functional: the model; each of its `operations` is visited once per call.
        inputs: a `TracedTensor` for each input, in the structure of `functional.inputs`.
        visit: called with the operation and its arguments.

    Returns:
        The results of the last visits, in the structure of the model's outputs.
    """
    return functional._run_through_graph(inputs, call_fn=visit)  # private, but also how keras.models.clone_model does it


def is_sequence(tensor: Any, inputs: Any) -> bool:
    """Return whether one of the inputs of a model is a sequence.

    Sequences are the inputs with an open number of frames, `(None, None, ...)`. A model without any was built for one length: its
    sequences are those of shape `[B, T, d]`, or else spectrograms `[B, T, F, C]`. Beside an open one, an input of fixed size is none.
    """
    numeric = [x for x in inputs if x.dtype not in ("bool", "string") and len(x.shape) > 1]
    kinds = ([x for x in numeric if x.shape[1] is None], *([x for x in numeric if len(x.shape) == rank] for rank in (3, 4)))
    return any(x is tensor for x in next(filter(None, kinds), []))

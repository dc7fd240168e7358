"""The visitor of `mask_aware`: call by call, the mask-aware twin of each operation of a model."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import registered
from vlpipe.layers.calls import given_masks, refused_inside
from vlpipe.layers.entry import CarryMask, FillPadding
from vlpipe.layers.fills import ATTENTION, DIVISIONS, Fill
from vlpipe.layers.frame_count import one_meets_several
from vlpipe.layers.layer_roles import like
from vlpipe.layers.merge import CommonFrames
from vlpipe.layers.replace import Replacements
from vlpipe.layers.role import Role, refuse
from vlpipe.layers.roles import adds_one_frame_to_all, axis_of_output, is_merge, role_of
from vlpipe.layers.rows import role_without_frames
from vlpipe.layers.trace import operations_of
from vlpipe.layers.twins import Twins
from vlpipe.layers.walk import (
    FrameAxis,
    TracedTensor,
    as_functional,
    framed,
    have_equal_frames,
    leaves,
    replay,
    shapes_of,
    tensors,
    traced_tensors,
    with_axis,
)
from vlpipe.layers.wrappers import Weight


@registered
class NestedModel(keras.Model):
    """A model nested in a mask-aware model: input masks reach its layers, and the masks of its outputs pass through unchanged."""

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None  # its layers have already attached the output masks; Keras would overwrite them with the input mask


class Converter:
    """Visitor for `replay` that calls the mask-aware twin of each operation."""

    def __init__(self, twins: Twins, replacements: Replacements, path: str = "", training: dict[str, Any] | None = None) -> None:
        self.twins, self.replacements, self.path = twins, replacements, path
        self.training = training or {}  # what a nested model was called with, if its layers are called in its place
        self.called: list[Any] = []  # in order: two calls of a model that call the same layers are calls of one model
        self.scores: list[tuple[Any, str]] = []  # tensors of attention scores, and the layers that they come from

    def __call__(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        self.check_scores(arguments, options)
        if getattr(operation, "_call_has_training_arg", False):
            options = {**self.training, **options}
        if isinstance(operation, keras.Model):
            if refused := refused_inside(operation, as_functional(operation, "mask_aware", nested=True)):
                raise refusal(self.path, operation, refused)
            return self.convert_nested(operation, arguments, options)
        if isinstance(operation, Weight):
            operation = self.twins.weight(operation)
        sequences = framed(arguments, options)
        axes = [leaf.frames for leaf in sequences if leaf.frames]
        if not axes:
            return self.without_frames(operation, arguments, options)
        own = self.replacement(operation, sequences[0].tensor)
        role = role_of(own or operation, arguments, options)
        if role.refused:
            raise refusal(self.path, operation, role)
        self.twins.note(operation, role)
        if role.graph is not None:
            return self.convert_graph(operation, role.graph, arguments, options)
        layer = self.noted(own or self.twins.twin(operation, role, sequences[0].tensor.shape, arguments, options))
        joined = axis_of_output(operation, arguments, options)
        if joined is None:
            raise ArgumentError(
                f"mask_aware: {label(self.path, operation)} merges branches that never have the same number of frames. "
                "Give the branches the same strides and padding, or crop the longer one."
            )
        if is_merge(operation) and not have_equal_frames(axes):
            spreads = adds_one_frame_to_all(operation) and one_meets_several(axis.count for axis in axes)
            arguments, options = self.with_common_frames(operation, joined, spreads, arguments, options)
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
            return with_axis(outputs, None, sequences[0])
        outputs = with_axis(outputs, joined.after(layer), sequences[0])
        if (not role.carries and layer is operation) or given_masks(operation, options):
            carry, masks = self.part(operation, "mask", lambda name: CarryMask(name=name)), [leaf.tensor for leaf in sequences]
            outputs = keras.tree.map_structure(lambda y: replace(y, tensor=carry([y.tensor, *masks])) if y.frames else y, outputs)
        return outputs

    def without_frames(self, operation: Any, arguments: Any, options: Any) -> Any:
        """Call an operation on tensors without frames: itself, or the twin that has its weights, which without a mask does the same.

        In rows that had no frames, the tensors get values that the operation can take.
        """
        rows = role_without_frames(operation, arguments, options)
        if rows.refused:
            raise refusal(self.path, operation, rows)
        sources = [leaf.source for leaf in traced_tensors(arguments, options) if leaf.source is not None]
        kept = arguments[: type(operation).__name__ in DIVISIONS]  # a mean by hand of no frames is 0, as that of a layer
        arguments, options = self.rows_filled(operation, rows.fill, arguments[len(kept) :], options)
        arguments = (*kept, *arguments)
        role = self.twins.role_without_frames(operation)
        if getattr(operation, "mask_zero", False) and role.twin:
            raise refusal(self.path, operation, SHARED_MASK_ZERO)
        if role.graph is not None:
            graph = operations_of(operation, arguments, options)
            if graph is None:
                raise refusal(self.path, operation, SHARED_UNKNOWN)
            return self.convert_graph(operation, graph, arguments, options)
        shape = next((leaf.tensor.shape for leaf in traced_tensors(arguments, options)), None)
        several = role.packed  # a SeveralInputs, around the layer itself
        layer = operation if several else self.twins.replacement(operation) or self.twins.twin(operation, role, shape)
        if layer is operation:
            self.twins.call_as_it_is(operation)
        outputs = self.noted(layer)(*tensors(arguments), **tensors(options))
        if role.activation is not None:
            outputs = self.activated(operation, role.activation, outputs)
        return keras.tree.map_structure(lambda y: TracedTensor(y, source=next(iter(sources), None)), outputs)

    def rows_filled(self, operation: Any, value: Fill | None, *structures: Any) -> Any:
        """Return the arguments of an operation with a value in the rows of those that were reduced from no frames at all."""

        def filled(leaf: Any) -> Any:
            if value is None or not isinstance(leaf, TracedTensor) or leaf.source is None or leaf.tensor.shape[:1] != (None,):
                return leaf
            fill = self.part(operation, "fill", lambda name: FillPadding(value, name=name))
            return replace(leaf, tensor=fill([leaf.tensor, leaf.source]))

        return keras.tree.map_structure(filled, structures)

    def replacement(self, operation: Any, x: Any) -> Any:
        """Return the layer that the user gave for an operation, or None."""
        return self.twins.get(operation, "replacement", lambda: self.replacements(operation, x))

    def noted(self, layer: Any) -> Any:
        self.called.append(id(layer))
        return layer

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

    def with_common_frames(self, operation: Any, joined: FrameAxis, spreads: bool, *structures: Any) -> Any:
        """Return the arguments of a merging operation with their branches at the same number of frames."""
        branches = framed(structures)
        common = self.part(operation, "spread_frames" if spreads else "frames", lambda name: CommonFrames(spreads, name=name))
        tensors_in_common = common([leaf.tensor for leaf in branches])
        ready = {id(leaf): TracedTensor(x, joined) for leaf, x in zip(branches, tensors_in_common, strict=True)}
        return keras.tree.map_structure(lambda leaf: ready.get(id(leaf), leaf), structures)

    def with_masks_of_real_frames(self, operation: Any, options: Any) -> Any:
        """Return the options of a layer with the padding taken out of its masks, which Keras passes on in place of those of the tensors."""
        own = given_masks(operation, options)

        def filled(leaf: Any) -> Any:
            if not isinstance(leaf, TracedTensor) or not leaf.frames:
                return leaf
            fill = self.part(operation, "own_mask", lambda name: FillPadding(name=name))
            return replace(leaf, tensor=fill(leaf.tensor))

        return {name: keras.tree.map_structure(filled, value) if name in own else value for name, value in options.items()}

    def filled(self, operation: Any, value: Fill, *structures: Any) -> Any:
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
        fill = self.part(operation, "fill", lambda name: FillPadding("spread", name=name))
        activate = self.part(operation, "activation", lambda name: keras.layers.Activation(activation, **{**like(operation), "name": name}))
        return activate(fill(outputs))

    def part(self, operation: Any, kind: str, make: Callable[[str], Any]) -> Any:
        """Return the layer that stands beside an operation in all its calls."""
        return self.noted(self.twins.part(operation, kind, make))

    def convert_graph(self, operation: Any, graph: Any, arguments: Any, options: Any) -> Any:
        """Convert the operations found inside an operation, once for each way in which it is called."""
        graph = self.twins.graph(operation, graph, arguments, options)
        if self.twins.inlined(operation):
            return self.inlined(graph, traced_tensors(arguments, options), {})
        if graph.variables and self.twins.variants(operation, "graph") > 1:
            self.twins.inline(operation)
        return self.convert_nested(graph, (arguments, options), owner=operation)

    def convert_nested(self, model: Any, arguments: Any, options: Any = None, owner: Any = None) -> Any:
        """Convert a nested model, which stays one model, unless shapes or frames of its calls ask for other layers in it."""
        inputs = traced_tensors(arguments)
        if not framed(inputs):
            inputs = self.rows_filled(model, role_without_frames(model, arguments, {}).fill, inputs)[0]
        training = {"training": options["training"]} if options and options.get("training") is not None else {}
        if self.twins.inlined(model):
            return self.inlined(model, inputs, training)
        functional = as_functional(model, "mask_aware", nested=True)
        inner_inputs = [TracedTensor(keras.Input(batch_shape=x.tensor.shape, dtype=x.tensor.dtype), x.frames) for x in inputs]
        nested = Converter(self.twins, self.replacements, f"{self.path}{model.name}/")
        inner_outputs = replay(functional, inner_inputs, nested)
        nested.check_scores(inner_outputs)

        def make() -> Any:
            return NestedModel(tensors(inner_inputs), tensors(inner_outputs), name=model.name)

        twin = self.noted(self.twins.get(owner or model, ("model", id(model), shapes_of(inputs), *nested.called), make))
        if twin.variables and self.twins.variants(model, "model") > 1:
            self.twins.inline(model)
        # Pass a single input as a bare tensor: for a list, Keras would record the masks of the symbolic call (None) and pass them on.
        outputs = twin(inputs[0].tensor if len(inputs) == 1 else tensors(inputs), **training)
        source = next((x.tensor if x.frames else x.source for x in inputs if x.frames or x.source is not None), None)
        return keras.tree.map_structure(
            lambda y, inner: TracedTensor(y, inner.frames, None if inner.frames else source), outputs, inner_outputs
        )

    def inlined(self, model: Any, inputs: list[TracedTensor], training: dict[str, Any]) -> Any:
        """Convert the layers in a nested model in its place."""
        functional = as_functional(model, "mask_aware", nested=True)
        if clash := self.twins.clash(functional):
            raise ArgumentError(
                f"mask_aware: {label(self.path, model)} is called in several ways, for which its layers are called in its place, but its "
                f'layer "{clash}" has the name of another layer; expected names of their own. Give one of them another name=.'
            )
        nested = Converter(self.twins, self.replacements, f"{self.path}{model.name}/", {**self.training, **training})
        outputs = replay(functional, inputs, nested)
        nested.check_scores(outputs)
        self.called += nested.called
        return outputs


SHARED_MASK_ZERO = refuse(
    "has mask_zero=True and is called on a sequence and on a tensor without frames, whose zeros it masks", "Use mask_zero=False."
)
SHARED_UNKNOWN = refuse(
    "is called on a sequence and on a tensor without frames, and what it does to the latter cannot be told",
    "Write its call with keras.ops alone, or use two layers.",
)


def label(path: str, operation: Any) -> str:
    return f'"{path}{operation.name}" ({type(operation).__name__})'


def refusal(path: str, operation: Any, role: Role) -> ArgumentError:
    return ArgumentError(f"mask_aware: {label(path, operation)} {role.refused}. {role.advice}")

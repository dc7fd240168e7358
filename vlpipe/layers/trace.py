"""The operations inside a layer that vlpipe does not know, and inside a Lambda: found out by calling it on symbolic tensors."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np

from vlpipe.layers.probe import check_windows, same
from vlpipe.layers.walk import TracedTensor, description, leaves
from vlpipe.layers.wrappers import Weight

# Of the random arrays on which the layer and its operations are compared: its windows may need more frames than a few.
FRAMES, OPEN_WIDTH = (5, 50, 500), 3


def operations_of(layer: Any, arguments: Any, options: Any) -> Any:
    """Return what a layer computes as a Functional model of its tensors in order; None if it cannot be told.

    It can if the layer is written with `keras.ops` and with layers. Its own variables become layers `Weight`, which the model saves.

    Args:
        layer: a layer that is built.
        arguments, options: what it is called with, `TracedTensor` in place of tensors.
    """
    graphs = [graph_of(layer, arguments, options, training) for training in (False, True)]
    if any(graph is None for graph in graphs):
        return None
    inference, training = map(structure_of, graphs)
    variables = {id(variable) for variable in graphs[0].variables}
    complete = variables >= {id(variable) for variable in layer.variables} and inference == training and not layer._losses
    return graphs[0] if complete and agrees(layer, graphs[0], arguments, options) else None


def structure_of(graph: Any) -> list[Any]:
    """Return what tells two graphs of one layer apart: each call in it, with the tensors that it takes, its settings and its constants."""
    places: dict[int, str] = {}

    def told(value: Any) -> str:
        return places.get(id(value), "tensor") if isinstance(value, keras.KerasTensor) else description(value)

    calls = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            options = {name: value for name, value in node.arguments.kwargs.items() if name != "training"}
            calls.append(f"{settings_of(node.operation)} {keras.tree.map_structure(told, (node.arguments.args, options))!r}")
            places.update({id(y): f"output {index} of {len(calls)}" for index, y in enumerate(node.outputs)})
    return [*calls, *map(told, graph.outputs)]


def settings_of(operation: Any) -> str:
    """Return what an operation is called with in every call: of a layer with variables, which one it is."""
    kind = type(operation).__name__
    if isinstance(operation, keras.layers.Layer):
        if isinstance(operation, Weight):
            return f"{kind} {id(operation.weight)}"
        if operation.variables or not type(operation).__module__.startswith("keras."):
            return f"{kind} {id(operation)}"
        settings = {name: value for name, value in operation.get_config().items() if name != "name"}
    else:
        settings = {name: value for name, value in vars(operation).items() if name not in ("name", "call") and name[0] != "_"}
    return f"{kind} {keras.tree.map_structure(description, settings)!r}"


def graph_of(layer: Any, arguments: Any, options: Any, training: bool) -> Any:
    """Return the graph of one call; None if the layer cannot be called on symbolic tensors, or does nothing with them."""
    inputs: list[Any] = []

    def symbolic(leaf: Any) -> Any:
        if not isinstance(leaf, TracedTensor):
            return leaf
        inputs.append(keras.Input(batch_shape=leaf.tensor.shape, dtype=leaf.tensor.dtype))
        return cast_by(layer, inputs[-1])

    given, named = keras.tree.map_structure(symbolic, (arguments, options))
    if getattr(layer, "_call_has_training_arg", False):
        named = {**named, "training": training}
    own = {name: value for name, value in vars(layer).items() if isinstance(value, keras.Variable)}
    try:
        vars(layer).update({name: tensor_of(variable, layer, f"{layer.name}_{name}", inputs[0]) for name, variable in own.items()})
        outputs = layer.call(*given, **named)
        if any(not isinstance(y, keras.KerasTensor) or any(y is x for x in inputs) for y in leaves(outputs)):
            return None
        graph = keras.Model(inputs, outputs, name=layer.name)
        for operation in graph.operations:
            if type(operation).__name__ == "ConvTranspose":
                operation.call = functools.partial(conv_transpose, operation)
        return graph
    except Exception:  # a user's code may raise anything on a tensor without values, and is then code that cannot be followed
        return None
    finally:
        vars(layer).update(own)


def cast_by(layer: Any, x: Any) -> Any:
    """Return a tensor in the dtype in which the `call` of a layer gets it."""
    return layer.dtype_policy.convert_input(x, layer.autocast, layer.input_dtype)


def conv_transpose(op: Any, x: Any, kernel: Any) -> Any:
    """Return what the operation of this name should: in Keras 3.15 it confuses two of its arguments when a graph runs."""
    return keras.ops.conv_transpose(x, kernel, op.strides, op.padding, op.output_padding, op.data_format, op.dilation_rate)


def tensor_of(variable: Any, layer: Any, name: str, x: Any) -> Any:
    """Return a variable of a layer as a symbolic tensor in the graph that begins with `x`."""
    weight = Weight(variable.shape, variable.trainable, dtype=layer.dtype_policy, name=name)
    weight.add_weight = lambda *args, **kwargs: variable
    weight.build(x.shape)
    del weight.add_weight
    return weight(x)


def agrees(layer: Any, graph: Any, arguments: Any, options: Any) -> bool:
    """Return whether the graph gives what the layer gives for random arrays, so that nothing else happens in it."""
    for frames in FRAMES:
        try:
            pairs = answers(layer, graph, arguments, options, frames)
        except Exception:  # as above; or the layer needs more frames
            continue
        if any(one.size for one, _ in pairs):
            return all(same(one, other, layer.compute_dtype) for one, other in pairs)
    return False


def answers(layer: Any, graph: Any, arguments: Any, options: Any, frames: int) -> list[list[Any]]:
    """Return each output of the layer beside that of the graph, for random arrays of so many frames."""
    rng = np.random.default_rng(0)
    arrays: list[Any] = []

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, TracedTensor):
            return leaf
        open_sizes = (2, frames, *[OPEN_WIDTH] * len(leaf.tensor.shape))
        shape = [size or open_sizes[axis] for axis, size in enumerate(leaf.tensor.shape)]
        arrays.append(keras.ops.convert_to_tensor(rng.integers(0, 2, shape) if "int" in leaf.tensor.dtype else rng.normal(size=shape)))
        arrays[-1] = keras.ops.cast(arrays[-1], leaf.tensor.dtype)
        return arrays[-1]

    given, named = keras.tree.map_structure(drawn, (arguments, options))
    check_windows(lambda *tensors: graph([*tensors]), *arrays)
    given, named = keras.tree.map_structure(functools.partial(cast_by, layer), (given, named))
    pairs = zip(leaves(layer.call(*given, **named)), leaves(graph(arrays)), strict=True)
    return [[keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in pair] for pair in pairs]

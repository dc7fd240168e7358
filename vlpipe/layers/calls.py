"""How a layer is called: on several tensors, with masks of its own, on branches of one frame."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import keras

from vlpipe.layers.entry import CarryMask
from vlpipe.layers.role import Role, refuse
from vlpipe.layers.walk import TracedTensor, framed, leaves, traced_tensors
from vlpipe.layers.wrappers import SeveralInputs


def own_masks(names: Any) -> list[str]:
    """Return which arguments of a layer are masks of frames: passed in the call, or recorded by Keras behind `mask_zero`."""
    return [name for name in names if (name == "mask" or name.endswith("_mask")) and name not in ("attention_mask", "use_causal_mask")]


def given_masks(operation: Any, options: Any) -> list[str]:
    """Return which options of a layer are masks that it is called with."""
    return [name for name in own_masks(options) if traced_tensors(options[name])] if isinstance(operation, keras.layers.Layer) else []


def refused_inside(operation: Any, functional: Any) -> Role | None:
    """Return the refusal of a model, or of a layer of the user, for masks that Keras hands in and out when it runs, or None.

    Args:
        operation: it.
        functional: the layers in it.
    """
    handed = [(x, node) for node in operation._inbound_nodes for x in node.input_tensors]
    masks = [mask for x, node in handed for mask in (getattr(x, "_keras_mask", None), node.arguments.kwargs.get("mask"))]
    takes = any(own_masks(inspect.signature(layer.call).parameters) for layer in functional._flatten_layers(include_self=False))
    if takes and any(map(is_own_mask, masks)):
        return refuse(
            "is called on a tensor with a mask of its own, which Keras hands to the layers inside",
            "Call it on keras.ops.copy(x), which has none, and pass the mask on as an input.",
            "unknown",
        )
    if any(is_own_mask(getattr(y, "_keras_mask", None)) for y in functional.outputs):
        return refuse(
            "returns a sequence with a mask of its own, which Keras hands to later layers",
            "Return keras.ops.copy(y), which has none.",
            "unknown",
        )
    return None


def takes_unseen_mask(layer: Any) -> bool:
    """Return whether Keras hands a layer a mask of the user's that is not among the arguments in the graph of the model.

    It is there if the layer is called with one tensor and nothing else.
    """
    parameters = inspect.signature(layer.call).parameters
    for node in layer._inbound_nodes:
        named = arguments_by_name(layer, node.arguments.args, node.arguments.kwargs)
        given = {name: [x for x in leaves(value) if isinstance(x, keras.KerasTensor)] for name, value in named.items()}
        several = len([xs for xs in given.values() if xs]) > 1
        for name, xs in given.items():
            taken = f"{name}_mask" if several else "mask"
            ignored = name == "query"  # MultiHeadAttention takes the mask of the tensor even if it is called with a `query_mask`
            if taken in parameters and (ignored or taken not in named) and any(is_own_mask(getattr(x, "_keras_mask", None)) for x in xs):
                return True
    return False


def is_own_mask(mask: Any) -> bool:
    """Return whether a mask in the plain model is one that the user made; that of an Embedding with `mask_zero` is the padding."""
    if not isinstance(mask, keras.KerasTensor):
        return False
    operation, node, _ = mask._keras_history
    compared = operation._inbound_nodes[node].input_tensors if operation._inbound_nodes else []
    return not (type(operation).__name__ == "NotEqual" and compared and "int" in str(compared[0].dtype))


def refused_mask(layer: Any, named: dict[str, Any], options: Any) -> Role | None:
    """Return the refusal of a layer because of a mask that it is called with, or None."""
    if wrong := [name for name in own_masks(named) if name not in options or not framed(named[name])]:
        return refuse(
            f"is called with a {wrong[0]} that is no tensor of frames passed by name, so that the padding cannot be taken out of it",
            "Call it without: the mask of the real frames reaches it with the tensor.",
            "unknown",
        )
    if not isinstance(layer, CarryMask) and takes_unseen_mask(layer):
        return refuse(
            "takes the mask that a layer before it was called with, which Keras hands on when the model runs",
            "Call the layer on keras.ops.copy(x), which has none, and with the masks that it shall use.",
            "unknown",
        )
    if isinstance(layer, keras.layers.TimeDistributed) and own_masks(named) and layer.layer._call_has_mask_arg:
        return refuse(
            "passes its mask to the layer inside, one value for a frame",
            "Call it without a mask, or use the inner layer without TimeDistributed.",
            "unknown",
        )
    return None


def misses_mask(layer: Any, named: dict[str, Any]) -> bool:
    """Return whether Keras gives a layer no mask, because it is called with several tensors and has no `NAME_mask` for the first."""
    several = "mask" not in named and len([value for value in named.values() if traced_tensors(value)]) > 1
    parameters = inspect.signature(layer.call).parameters
    return several and "mask" in parameters and f"{next(iter(named))}_mask" not in parameters


def with_mask_of_first(layer: Any, named: dict[str, Any], role: Role) -> Role:
    """Return the role of a layer that gets the mask of its first tensor from a `SeveralInputs` around it."""
    if role.refused or role.twin or role.graph is not None or not isinstance(next(iter(named.values())), TracedTensor):
        return role
    names = {name: len(value) if isinstance(value, (list, tuple)) else 0 for name, value in named.items() if traced_tensors(value)}
    constants = {name: value for name, value in named.items() if name not in names}
    leak = "gets no mask, because it is called with several tensors"

    def make() -> Any:
        return SeveralInputs(layer, names, constants, name=f"{layer.name}_inputs")

    return replace(
        role, twin=make, carries=True, leak=role.leak or leak, leak_masked=leak, problem=role.problem or "reads_padding",
        packed=True, operands=traced_tensors([named[name] for name in names]), variant=f"{names} {constants}",
    )  # fmt: skip


def arguments_by_name(layer: Any, arguments: Any, options: Any) -> dict[str, Any]:
    """Return what a layer is called with, in the order of the parameters of its `call`; without those that are None."""
    try:
        bound = inspect.signature(layer.call).bind_partial(*arguments, **options).arguments
    except TypeError:  # a call that takes other arguments than __call__, whose masks cannot be told
        return {}
    named = {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}
    return {name: value for name, value in named.items() if value is not None}


def takes_one_frame_to_all(branches: list[TracedTensor]) -> bool:
    """Return whether a branch has one frame of each long sequence, and another branch more: Keras broadcasts the one."""
    counts = {branch.frames.count.of_long for branch in branches if branch.frames}
    return 1 in counts and len(counts) > 1

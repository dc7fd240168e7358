"""How a layer is called: on several tensors, with masks of its own, on branches of one frame."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np

from vlpipe.layers.role import Role
from vlpipe.layers.walk import LONG, TracedTensor, traced_tensors
from vlpipe.layers.wrappers import SeveralInputs


def own_masks(names: Any) -> list[str]:
    """Return which arguments of a layer are masks of frames: passed in the call, or recorded by Keras behind `mask_zero`."""
    return [name for name in names if (name == "mask" or name.endswith("_mask")) and name not in ("attention_mask", "use_causal_mask")]


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
    counts = {int(branch.frames.count(np.array([LONG]))[0]) for branch in branches if branch.frames}
    return 1 in counts and len(counts) > 1

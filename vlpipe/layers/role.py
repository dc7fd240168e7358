"""What an operation does to the frames of a sequence: the answer of `roles.py` for layers, and of `operations.py` for `keras.ops`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Role:
    """How to treat an operation whose input has frames.

    Attributes:
        twin: creates the mask-aware layer that replaces the operation; None keeps the operation.
        carries: whether the operation itself passes a Keras mask on.
        frames: whether its output has frames.
        leak: how padding reaches its output without a mask, or "".
        leak_masked: how padding reaches its output despite a mask, or "".
        problem: code of the leak or of the refusal.
        refused: why it cannot be made mask-aware, or "".
        advice: what to use instead of a refused operation.
        counted: whether the number of frames of its output is known; of a layer that vlpipe does not know, it is not.
        packed: whether the twin takes the tensors alone, one or a list; the other arguments of the operation are in its configuration.
        fill: the value that the padding of its inputs is set to before it is called, or None.
        activation: the activation that `twin` leaves out, to be called on its output, or None.
        operands: the tensors that a packed twin takes, if their order is not that of the call.
        variant: tells the twins of one operation apart that is called in several ways.
        graph: a Functional model of the operations inside a layer, which are treated one by one in its place, or None.
        endless: why an output frame of an operation that is kept depends on frames at any distance, or "".
    """

    twin: Callable[[], Any] | None = None
    carries: bool = True
    frames: bool = True
    leak: str = ""
    leak_masked: str = ""
    problem: str = ""
    refused: str = ""
    advice: str = ""
    counted: bool = True
    packed: bool = False
    fill: float | Literal["spread"] | None = None
    activation: Any = None
    operands: Any = ()
    variant: str = ""
    graph: Any = None
    endless: str = ""


KEEP = Role()  # it passes the mask on by itself
CARRY = Role(carries=False)


def refuse(reason: str, advice: str, problem: str = "fixed_length") -> Role:
    return Role(refused=reason, advice=advice, problem=problem)


def refuse_unknown(layer: str = "") -> Role:
    reason = "is unknown to vlpipe and may mix frames with padding"
    advice = (
        "Write its call with keras.ops alone, and mask_aware follows it inside; or, if it respects the mask, add the base class "
        "vlpipe.layers.MaskAware to it (vlpipe.layers.Reduction, if it leaves no frames)."
    )
    if layer:
        advice = f"{advice} Pass a mask-aware layer for it: mask_aware(model, layers={{{layer}: Aware{layer}}})."
    return replace(refuse(reason, advice, "unknown"), counted=False)


def replaced(make: Callable[[], Any], leak: str = "also reads the padding", *, frames: bool = True, problem: str = "reads_padding") -> Role:
    """Return the role of an operation that `make` replaces, because it reads padding with or without a mask."""
    return Role(make, False, frames, leak, leak, problem if leak else "", packed=True)


POOL = "Use GlobalAveragePooling1D, GlobalMaxPooling1D or StatisticsPooling1D to reduce the frames to one."
KEEP_AXES = "Keep [batch, frames, features]."

"""How many frames around a frame a model looks at: what a window needs so that its output is that of the whole recording."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware
from vlpipe.layers.check import Checker
from vlpipe.layers.normalize import GroupNormalization, Softmax
from vlpipe.layers.reduce import Reduction
from vlpipe.layers.role import Role
from vlpipe.layers.sliding import Windowed
from vlpipe.layers.walk import FrameAxis, TracedTensor, as_functional, leaves


@dataclass(frozen=True)
class Context:
    """What an output frame of a model depends on. Output frame j stands for input frame j * stride.

    Attributes:
        before: input frames before that one, at most.
        after: input frames after it, at most.
        stride: input frames from one output frame to the next.
        alignment: the least common multiple of the strides of all layers: windows that begin at its multiples are cut alike by all of them.
        counts: from numbers of input frames (int array) to numbers of output frames.
        aligned_to_end: the first layer whose strides begin elsewhere in recordings of other lengths (modulo `alignment`), or "".
    """

    before: int
    after: int
    stride: Fraction
    alignment: int
    counts: Callable[[Any], Any]
    aligned_to_end: str


def context_of(model: Any, caller: str) -> Context:
    """The context of a built Sequential or Functional model.

    Args:
        caller: for errors.

    Raises:
        ArgumentError: the model is subclassed or not built, its output has no frames, or a layer looks at frames at any distance.
    """
    finder = _Finder()
    functional = as_functional(model, caller)
    axes = [leaf.frames for leaf in leaves(finder.run(functional)) if isinstance(leaf, TracedTensor)]
    if finder.endless:
        raise ArgumentError(
            f"{caller}: {finder.endless[0]}, so no window has all of the context of a frame; expected layers of finite reach, such as "
            "convolutions, before an output that has frames. Use plain overlapping windows, vlpipe.Windows(frames, hop=...)."
        )
    framed = [axis for axis in axes if axis is not None]
    if not framed or len({axis.stride for axis in framed}) > 1:
        what = "outputs of different strides" if framed else f'no output with frames; "{functional.name}" gives one vector a sequence'
        raise ArgumentError(f"{caller}: the model has {what}. Expected [batch, frames, ...].")
    strides = [axis.stride.numerator for axis in (*finder.axes, *framed)]
    before, after = (math.ceil(max(getattr(axis, side) for axis in framed)) for side in ("back", "ahead"))
    return Context(before, after, framed[0].stride, math.lcm(*strides), framed[0].count, finder.aligned_to_end)


class _Finder(Checker):
    """A `Checker` that notes the layers without a finite context."""

    def __init__(self, path: str = "", shortest: int | None = None) -> None:
        super().__init__(path, shortest)
        self.endless: list[str] = []
        self.aligned_to_end = ""

    def check_operation(self, operation: Any, role: Role, arguments: Any, options: Any, axes: list[FrameAxis]) -> FrameAxis | None:
        output = super().check_operation(operation, role, arguments, options, axes)
        try:
            layer = operation if role.refused or not role.twin else role.twin()
        except ArgumentError:
            layer, reason = operation, "has no exact equivalent"
        else:
            reason = role.refused or _endless(role, layer)
        if reason:
            self.endless.append(f'"{self.path}{operation.name}" ({type(operation).__name__}) {reason}')
        if isinstance(layer, Windowed) and layer.padding == "same" and len(set(layer.offsets())) > 1:
            self.aligned_to_end = self.aligned_to_end or operation.name
        return output

    def check_nested(self, model: Any, arguments: Any) -> Any:
        outputs = super().check_nested(model, arguments)
        nested = _Finder(f"{self.path}{model.name}/")
        nested.run(as_functional(model, "check_model"))
        self.endless += nested.endless
        self.aligned_to_end = self.aligned_to_end or nested.aligned_to_end
        return outputs


def _endless(role: Role, layer: Any) -> str:
    """Why a layer has no finite context, or ""."""
    if not role.frames or isinstance(layer, Reduction):
        return "reduces all frames to one"
    if reason := role.endless or (layer.endless() if isinstance(layer, MaskAware) else ""):
        return reason
    if isinstance(layer, GroupNormalization) or (isinstance(layer, Softmax) and layer.axis == 1):
        return "normalizes over all frames"
    if isinstance(layer, MaskAware) and not type(layer).__module__.startswith("vlpipe.") and type(layer).reach is MaskAware.reach:
        return "does not say how far it looks: it has no method `reach` of its own"
    return ""

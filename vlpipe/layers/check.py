"""`check_model`: find the layers that fail for variable lengths or let padding in, without any data."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from vlpipe.errors import ArgumentError, counted
from vlpipe.layers.base import MaskAware
from vlpipe.layers.convert import mask_aware
from vlpipe.layers.entry import CarryMask, LengthMask
from vlpipe.layers.frame_count import shortest_length
from vlpipe.layers.role import Role
from vlpipe.layers.roles import axis_of_output, role_of
from vlpipe.layers.rows import role_without_frames
from vlpipe.layers.walk import (
    FrameAxis,
    TracedTensor,
    as_functional,
    framed,
    is_sequence,
    leaves,
    replay,
    tensors,
    traced_tensors,
    with_axis,
)

ADVICE = "Use vlpipe.layers.{twin}, or mask_aware(model) for all layers at once"
NEEDS_MASK = "Let a mask reach it: start the model with LengthMask, or use mask_aware(model)"

MAX_NAMES = 3  # of the layers with the same finding, in the report

DELETED = (
    "mask_lost",
    "deletes the mask of its own inputs, so layers that use these later treat padding as frames",
    "Call it on vlpipe.layers.FillPadding()(x), or use mask_aware(model)",
)
DROPPED = ("mask_lost", "drops the mask, so later layers treat padding as frames", "Restore it with vlpipe.layers.CarryMask()([y, x])")


@dataclass(frozen=True)
class Finding:
    """One layer that is not exact for sequences of variable length.

    Attributes:
        layer: name of the layer, prefixed with the names of the models that contain it.
        kind: class of the layer.
        problem: `"fixed_length"`, `"reads_padding"`, `"stride_alignment"`, `"padding_statistics"`, `"mask_lost"`, `"too_short"`,
            `"mismatch"`, `"unknown"` or `"refused"` (by `mask_aware`, for a reason that is none of these).
        message: what the layer does.
        advice: what to do instead.
    """

    layer: str
    kind: str
    problem: str
    message: str
    advice: str


@dataclass(frozen=True)
class ModelCheck:
    """The result of `check_model`.

    Attributes:
        findings: in the order of the layers; empty if padding cannot change the output.
        receptive_field: input frames that one output frame of the convolutions depends on.
        shortest: smallest number of input frames that gives every layer at least one frame; 0 if no length does.
    """

    findings: tuple[Finding, ...]
    receptive_field: int
    shortest: int

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __repr__(self) -> str:
        found = "no layer lets padding change an answer"
        if self.findings:
            found = f"{counted(len(self.findings), 'finding')}; .report() lists them"
        return f"ModelCheck: {found}; receptive field {self.receptive_field}, shortest {self.shortest}"

    def grouped(self) -> dict[tuple[str, str, str, str], list[str]]:
        """Return the names of the layers for each kind of finding: `(kind, problem, message, advice)`."""
        groups: dict[tuple[str, str, str, str], list[str]] = {}
        for finding in self.findings:
            groups.setdefault((finding.kind, finding.problem, finding.message, finding.advice), []).append(finding.layer)
        return groups

    def report(self) -> str:
        """Return the findings as a table for a terminal, those of one kind in one row, with a line on the receptive field."""
        text = io.StringIO()
        console = Console(file=text, width=120, color_system=None)
        if self.findings:
            table = Table("layer", "problem", "what it does, and what to use instead", show_lines=True)
            for (kind, problem, message, advice), names in self.grouped().items():
                more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
                table.add_row(f"{', '.join(names[:MAX_NAMES])}{more}\n({kind})", problem, f"{message}. {advice}.")
            console.print(table)
        else:
            console.print("No layer lets padding change an answer.")
        console.print(
            f"Receptive field: {self.receptive_field} frames. Shortest sequence that gives every layer at least one frame: {self.shortest}."
        )
        return text.getvalue()


def check_model(model: Any, *, shortest: int | None = None) -> ModelCheck:
    """Find every layer of a model that fails for variable lengths or lets padding change the output. Needs no data.

    Args:
        model: a built Sequential or Functional Keras model, ordinary or mask-aware.
        shortest: frames of the shortest sequence, if known. Layers that leave no frame of it, or whose receptive field is
            longer, are then findings too.

    Returns:
        A `ModelCheck`: `.findings` as data, `.report()` as a table, `.ok`.

    Raises:
        ArgumentError: the model is subclassed or not built.

    Example:
        >>> import keras
        >>> from vlpipe.layers import check_model
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3), keras.layers.GlobalMaxPooling1D()])
        >>> [finding.problem for finding in check_model(model).findings]
        ['reads_padding']
    """
    checker = Checker(shortest=shortest)
    checker.run(as_functional(model, "check_model"))
    if not checker.findings:
        checker.findings += refused_by_mask_aware(model)
    shortest_possible = shortest_length(axis.count for axis in checker.axes)
    return ModelCheck(tuple(checker.findings), max((axis.span for axis in checker.axes), default=1), shortest_possible)


def refused_by_mask_aware(model: Any) -> list[Finding]:
    """Return a finding if `mask_aware` refuses a model without findings, so that both functions have one verdict.

    A model that is mask-aware already, or was built by hand on LengthMask, is not converted again.
    """
    if any(isinstance(layer, LengthMask) for layer in model._flatten_layers()):
        return []
    try:
        mask_aware(model)
    except ArgumentError as error:
        reason, _, advice = str(error).removeprefix("mask_aware: ").rstrip(".").rpartition(". ")
        return [Finding(model.name, type(model).__name__, "refused", f"cannot be made mask-aware: {reason}", advice)]
    return []


class Checker:
    """Visitor for `replay` that records what each operation of a model does to the frames."""

    def __init__(self, path: str = "", shortest: int | None = None) -> None:
        self.path, self.shortest = path, shortest
        self.findings: list[Finding] = []
        self.axes: list[FrameAxis] = []
        self.ends: list[str] = []  # the operations that have frames before them, and an output without any
        self.deleted: dict[int, tuple[TracedTensor, Any]] = {}  # tensors whose mask an attention has deleted, and which

    def run(self, functional: Any) -> Any:
        """Check a whole model; return its outputs as traced tensors."""
        inputs = []
        for x in functional.inputs:
            sequence = is_sequence(x, functional.inputs)
            if sequence and x.shape[1] is not None:
                self.add(x.name, "InputLayer", "fixed_length", f"takes exactly {x.shape[1]} frames", "Use keras.Input((None, d))")
            inputs.append(TracedTensor(x, FrameAxis(masked=False) if sequence else None))
        return replay(functional, inputs, self)

    def add(self, name: str, kind: str, problem: str, message: str, advice: str) -> None:
        self.findings.append(Finding(self.path + name, kind, problem, message, advice))

    def __call__(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(operation, keras.Model):
            return self.check_nested(operation, arguments)
        outputs = operation.compute_output_spec(*tensors(arguments), **tensors(options))
        arguments, options = keras.tree.map_structure(self.without_deleted_mask, (arguments, options))
        sequences = framed(arguments, options)
        axes = [leaf.frames for leaf in sequences if leaf.frames]
        if not axes:
            role = role_without_frames(operation, arguments, options)
            if role.refused:
                self.add(operation.name, type(operation).__name__, role.problem, role.refused, role.advice.rstrip("."))
            return keras.tree.map_structure(TracedTensor, outputs)
        role = role_of(operation, arguments, options)
        if role.graph is not None:
            return self.check_nested(role.graph, (arguments, options))
        output_axis = self.check_operation(operation, role, arguments, options, axes)
        if isinstance(operation, keras.layers.MultiHeadAttention):
            self.deleted.update({id(leaf): (leaf, operation) for leaf in sequences if leaf.frames and leaf.frames.masked})
        if output_axis:
            self.check_length(operation, output_axis, axes[0])
        traced = with_axis(outputs, output_axis, sequences[0])
        if len(framed(traced)) < len(leaves(traced)):
            self.ends.append(f'"{self.path}{operation.name}" ({type(operation).__name__})')
        return traced

    def without_deleted_mask(self, leaf: Any) -> Any:
        """Return an argument as a layer sees it: without a mask if Keras' attention has deleted it; that is a finding."""
        if id(leaf) not in self.deleted:
            return leaf
        attention = self.deleted[id(leaf)][1]
        finding = Finding(self.path + attention.name, type(attention).__name__, *DELETED)
        if finding not in self.findings:
            self.findings.append(finding)
        return replace(leaf, frames=replace(leaf.frames, masked=False))

    def check_operation(self, operation: Any, role: Role, arguments: Any, options: Any, axes: list[FrameAxis]) -> FrameAxis | None:
        """Record the problems of an operation; return the frame axis of its output, None if it has no frames."""
        add = functools.partial(self.add, operation.name, type(operation).__name__)
        carrier = isinstance(operation, CarryMask)
        for name, kind in {axis.dropped for axis in axes if axis.dropped and not carrier}:
            self.add(name, kind, *DROPPED)
        if role.refused:
            add(role.problem, role.refused, role.advice.rstrip("."))
            kept = role.frames and role.problem != "fixed_length"
            return replace(axes[0], masked=False, counted=axes[0].counted and role.counted) if kept else None
        joined = axis_of_output(operation, arguments, options)
        if joined is None:
            add("mismatch", "merges branches that never have the same number of frames", "Give them the same strides and padding")
            return None
        try:
            layer = role.twin() if role.twin else operation
        except ArgumentError as error:
            reason, _, advice = str(error).partition("; ")
            add("unknown", f"has no exact equivalent: {reason}", advice.removesuffix("."))
            return None
        masked = any(axis.masked for axis in axes) if carrier else joined.masked
        advice = ADVICE.format(twin=type(layer).__name__) if role.twin else NEEDS_MASK
        has_unframed = len(axes) < len(leaves(arguments))
        masked, dropped = self.check_mask(operation, role, masked, has_unframed, functools.partial(add, advice=advice))
        if not role.frames:
            return None
        return replace(joined.after(layer), masked=masked, dropped=(operation.name, type(operation).__name__) if dropped else None)

    def check_mask(self, operation: Any, role: Role, masked: bool, has_unframed: bool, add: Any) -> tuple[bool, bool]:
        """Record how an operation lets padding in.

        Args:
            operation: the operation.
            role: its role.
            masked: whether a mask reaches it.
            has_unframed: whether one of its inputs, such as a gate, has no frames.
            add: adds a finding.

        Returns:
            Whether a mask leaves the operation, and whether it drops the mask in a way that only CarryMask can undo.
        """
        if isinstance(operation, LengthMask):
            return True, False
        if isinstance(operation, MaskAware):
            if not masked:
                add("mask_lost", "receives no mask, so it treats padding as frames", advice=NEEDS_MASK)
            return masked, False
        leak = role.leak_masked if masked else role.leak
        if leak:
            add(role.problem, leak)
        merge_base = keras.layers.Add.__base__  # private in Keras: the base of all its merging layers
        loses = not role.carries or (has_unframed and operation.__class__.__base__ is merge_base)
        if masked and loses and role.frames and role.twin and not leak:
            add(*DROPPED[:2])
        return masked and not loses, masked and loses and not role.twin

    def check_length(self, operation: Any, output_axis: FrameAxis, input_axis: FrameAxis) -> None:
        """Record a layer that the shortest sequence is too short for."""
        self.axes.append(output_axis)
        if self.shortest is None:
            return
        length = np.array([self.shortest])
        advice = f"Exclude shorter sequences with length_range, or use fewer or smaller windows; the field is {output_axis.span} frames"
        add = functools.partial(self.add, operation.name, type(operation).__name__, "too_short")
        if output_axis.count(length)[0] == 0 < input_axis.count(length)[0]:
            add(f"leaves no frame of a sequence of {self.shortest}", advice)
        elif output_axis.span > self.shortest >= input_axis.span:
            add(f"has a receptive field longer than a sequence of {self.shortest} frames, and reads zeros beyond its ends", advice)

    def check_nested(self, model: Any, arguments: Any) -> Any:
        nested = Checker(f"{self.path}{model.name}/", self.shortest)
        nested.findings, nested.axes, nested.ends, nested.deleted = self.findings, self.axes, self.ends, self.deleted
        return replay(as_functional(model, "check_model", nested=True), traced_tensors(arguments), nested)

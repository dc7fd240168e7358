"""`check_model`: which layers break under variable length or let padding in, without any data."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware
from vlpipe.layers.entry import CarryMask, LengthMask
from vlpipe.layers.roles import Role, role_of
from vlpipe.layers.walk import PROBE, Frames, Traced, as_functional, has_frames, leaves, replay, tensors

ADVICE = "Use vlpipe.layers.{twin}, or mask_aware(model) for all layers at once"
NEEDS_MASK = "Let a mask reach it: begin the model with LengthMask, or use mask_aware(model)"

DROPPED = ("mask_lost", "drops the mask, and the layers after it see padding as frames", "Give it back: vlpipe.layers.CarryMask()([y, x])")


@dataclass(frozen=True)
class Finding:
    """One layer that does not fit sequences of variable length.

    Attributes:
        layer: its name, after those of the models that it is nested in.
        kind: its class.
        problem: `"fixed_length"`, `"reads_padding"`, `"stride_alignment"`, `"padding_statistics"`, `"mask_lost"`, `"too_short"`,
            `"mismatch"` or `"unknown"`.
        message: what it does.
        advice: what to use instead.
    """

    layer: str
    kind: str
    problem: str
    message: str
    advice: str


@dataclass(frozen=True)
class ModelCheck:
    """What `check_model` found.

    Attributes:
        findings: in the order of the layers; empty if padding cannot change an answer.
        receptive_field: input frames that one frame at the end of the convolutions depends on.
        shortest: the least number of input frames that leaves a frame everywhere; 0 if no length does.
    """

    findings: tuple[Finding, ...]
    receptive_field: int
    shortest: int

    @property
    def ok(self) -> bool:
        return not self.findings

    def report(self) -> str:
        """The findings as a table, with a line on the receptive field, for a terminal."""
        text = io.StringIO()
        console = Console(file=text, width=120, color_system=None)
        if self.findings:
            table = Table("layer", "problem", "what it does, and what to use instead", show_lines=True)
            for finding in self.findings:
                table.add_row(f"{finding.layer}\n({finding.kind})", finding.problem, f"{finding.message}. {finding.advice}.")
            console.print(table)
        else:
            console.print("No layer lets padding change an answer.")
        console.print(f"Receptive field: {self.receptive_field} frames. Shortest sequence that leaves a frame everywhere: {self.shortest}.")
        return text.getvalue()


def check_model(model: Any, *, shortest: int | None = None) -> ModelCheck:
    """Name every layer of a model that breaks under variable length or lets padding change its answer. Needs no data.

    Args:
        model: a built Sequential or Functional Keras model, ordinary or mask-aware.
        shortest: the length of the shortest sequence, if known: is the receptive field longer, is a frame left of it?

    Returns:
        `ModelCheck`: `.findings` as data, `.report()` as a table, `.ok`.

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
    alive = np.all([seen.count(PROBE) > 0 for seen in checker.seen] or [PROBE > 0], axis=0)
    least = int(PROBE[np.argmax(alive)]) if alive.any() else 0
    return ModelCheck(tuple(checker.findings), max((seen.span for seen in checker.seen), default=1), least)


class Checker:
    """Stands in for every call of the model's operations, and notes what each does to the frames."""

    def __init__(self, path: str = "", shortest: int | None = None) -> None:
        self.path, self.shortest = path, shortest
        self.findings: list[Finding] = []
        self.seen: list[Frames] = []

    def run(self, functional: Any) -> Any:
        """Check a whole model; returns what is known of its outputs."""
        inputs = []
        for x in functional.inputs:
            if has_frames(x) and x.shape[1] is not None:
                self.add(x.name, "InputLayer", "fixed_length", f"takes exactly {x.shape[1]} frames", "Use keras.Input((None, d))")
            inputs.append(Traced(x, Frames(masked=False) if has_frames(x) else None))
        return replay(functional, inputs, self)

    def add(self, name: str, kind: str, problem: str, message: str, advice: str) -> None:
        self.findings.append(Finding(self.path + name, kind, problem, message, advice))

    def __call__(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(operation, keras.Model):
            return self.nested(operation, arguments)
        outputs = operation.compute_output_spec(*tensors(arguments), **tensors(options))
        met = [leaf.frames for leaf in leaves(arguments, options) if isinstance(leaf, Traced) and leaf.frames]
        frames = self.follow(operation, arguments, options, met) if met else None
        if frames:
            self.measure(operation, frames, met[0])
        return keras.tree.map_structure(lambda y: Traced(y, frames), outputs)

    def follow(self, operation: Any, arguments: Any, options: Any, met: list[Frames]) -> Frames | None:
        """The frames of the output, after noting what is wrong with the operation."""
        note = functools.partial(self.add, operation.name, type(operation).__name__)
        carrier = isinstance(operation, CarryMask)
        for name, kind in {frames.dropped for frames in met if frames.dropped and not carrier}:
            self.add(name, kind, *DROPPED)
        role = role_of(operation, arguments, options)
        if role.refused:
            note(role.problem, role.refused, role.advice.rstrip("."))
            return None if role.problem == "fixed_length" else replace(met[0], masked=False)
        joined = met[0].joined(met[1:])
        if joined is None:
            note("mismatch", "joins branches whose frames are never the same number", "Give them the same strides and padding")
            return None
        try:
            layer = role.twin() if role.twin else operation
        except ArgumentError as error:
            why, _, way_out = str(error).partition("; ")
            note("unknown", f"cannot be exact: {why}", way_out.removesuffix("."))
            return None
        masked = any(frames.masked for frames in met) if carrier else joined.masked
        advice = ADVICE.format(twin=type(layer).__name__) if role.twin else NEEDS_MASK
        masked, dropped = self.judge(operation, role, masked, len(met) < len(leaves(arguments)), functools.partial(note, advice=advice))
        if not role.frames:
            return None
        return replace(joined.through(layer), masked=masked, dropped=(operation.name, type(operation).__name__) if dropped else None)

    def judge(self, operation: Any, role: Role, masked: bool, gated: bool, note: Any) -> tuple[bool, bool]:
        """Note how the operation leaks, given whether a mask reaches it; returns whether one leaves it, or else was dropped here."""
        if isinstance(operation, LengthMask):
            return True, False
        if isinstance(operation, MaskAware):
            if not masked:
                note("mask_lost", "has no mask to follow, and treats padding as frames", advice=NEEDS_MASK)
            return masked, False
        leak = role.leak_masked if masked else role.leak
        if leak:
            note(role.problem, leak)
        loses = not role.carries or (gated and operation.__class__.__base__ is keras.layers.Add.__base__)
        if masked and loses and role.frames and role.twin and not leak:
            note(*DROPPED[:2])
        return masked and not loses, masked and loses and not role.twin

    def measure(self, operation: Any, frames: Frames, before: Frames) -> None:
        """Follow the receptive field, and note where the shortest sequence falls short of it."""
        self.seen.append(frames)
        if self.shortest is None:
            return
        n = np.array([self.shortest])
        advice = f"Leave shorter sequences out (length_range), or use fewer or smaller windows; the field is {frames.span} frames"
        note = functools.partial(self.add, operation.name, type(operation).__name__, "too_short")
        if frames.count(n)[0] == 0 < before.count(n)[0]:
            note(f"leaves no frame of a sequence of {self.shortest}", advice)
        elif frames.span > self.shortest >= before.span:
            note(f"looks further than a sequence of {self.shortest} frames, into the zeros of its own padding", advice)

    def nested(self, model: Any, arguments: Any) -> Any:
        inside = Checker(f"{self.path}{model.name}/", self.shortest)
        inside.findings, inside.seen = self.findings, self.seen
        return replay(as_functional(model, "check_model"), leaves(arguments), inside)

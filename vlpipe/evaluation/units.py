"""What losses and metrics get: real frames or real rows, flat, without the padding between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from vlpipe.evaluation.batches import Batch

Step = tuple[Any, Any, Any]  # labels, answers, weights


@dataclass(frozen=True)
class Pair:
    """One output of a batch with its label.

    Attributes:
        answers: `[B, ...]`.
        frames: int64 `[B]`, how many answers of each record are real; None: each record has one answer.
        label: `[B, ...]`.
        label_frames: int64 `[B]`, true lengths of a label that is a sequence; None where they are not known, or it is none.
        weight: sample weights `[B]`, or `[B, T]` for each frame; None: all are 1.
        is_framewise: each answer of a record has its own value of the label.
    """

    answers: np.ndarray
    frames: np.ndarray | None
    label: np.ndarray
    label_frames: np.ndarray | None
    weight: np.ndarray | None
    is_framewise: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the answers of each record are as many as the values of its label."""
        if self.frames is None:
            return False
        if self.label_frames is None:
            return self.label.shape[1:2] == self.answers.shape[1:2]
        return bool((self.label_frames == self.frames).all())

    @property
    def is_alone(self) -> bool:
        """Whether answers and label have lengths of their own, so that only the whole record is one unit."""
        return not self.is_framewise and (self.frames is not None or self.label_frames is not None)

    def units(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Label, answers and weights of some rows (a single one if the pair is alone): one entry for each frame or row."""
        label, answers, weight = self.label[rows], self.answers[rows], None if self.weight is None else self.weight[rows]
        if self.is_framewise and self.frames is not None:
            frames = self.frames[rows]
            if weight is not None:
                weight = np.repeat(weight, frames) if weight.ndim == 1 else weight[_inside(frames, weight.shape[1])]
            label, answers = label[_inside(frames, label.shape[1])], answers[_inside(frames, answers.shape[1])]
        elif self.is_alone:
            row = rows[0]
            label = label if self.label_frames is None else label[:, : self.label_frames[row]]
            answers = answers if self.frames is None else answers[:, : self.frames[row]]
            weight = weight if weight is None or weight.ndim == 1 else weight[:, : label.shape[1]]
        if label.ndim == answers.ndim == 1:  # Keras takes the mean over the last axis
            label, answers = label[:, None], answers[:, None]
        return label, answers, weight


def _inside(frames: np.ndarray, width: int) -> np.ndarray:
    return np.arange(width) < frames[:, None]


def steps_of(pairs: list[Pair], batch: Batch, like: Any) -> Iterator[tuple[Step, int]]:
    """The real units of a batch in the structure of the outputs, with their number: at once, or row by row if they must be alone."""
    rows = np.flatnonzero(batch.is_real)
    for chosen in np.split(rows, len(rows)) if len(rows) and any(pair.is_alone for pair in pairs) else [rows]:
        parts = [pair.units(chosen) for pair in pairs]
        count = sum(len(answers) for _, answers, _ in parts)
        if count:
            y, y_pred, weight = (keras.tree.pack_sequence_as(like, list(column)) for column in zip(*parts, strict=True))
            yield (y, y_pred, None if all(part[2] is None for part in parts) else weight), count

"""The values of one label that the index holds beside its rows, as the array of a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vlpipe.engines.mapped_frames import Block, FrameSpan


class ListJob(NamedTuple):
    """How to fill one array with the values of lists.

    Attributes:
        starts: int64 `[records]`, position of the first value of each record.
        counts: int64 `[records]`, how many values each has.
        upper: to which each is padded; None: they are not padded.
    """

    starts: np.ndarray
    counts: np.ndarray
    upper: int | None


class ListCopier:
    """Copies the values of one label, as `FrameCopier` copies frames.

    Args:
        span: which values of each list are delivered.
        padding: value of padded positions.
    """

    def __init__(self, span: FrameSpan, padding: float) -> None:
        self._span, self._padding = span, padding

    def padded(self, block: Block, counts: np.ndarray, upper: np.ndarray) -> list[ListJob]:
        """Jobs for an array `[B, upper]` of each batch."""
        return self._jobs(block, counts, upper.tolist())

    def flat(self, block: Block, counts: np.ndarray) -> list[ListJob]:
        """Jobs for an array `[values of the batch]` of each batch, nothing padded."""
        return self._jobs(block, counts, [None] * len(block.ends))

    def _jobs(self, block: Block, counts: np.ndarray, uppers: list[int | None]) -> list[ListJob]:
        starts, firsts = self._span.access.starts(block.table), self._span.firsts(block)
        starts = starts if firsts is None else starts + firsts
        return [ListJob(*columns) for columns in zip(block.split(starts), block.split(counts), uppers, strict=True)]

    def __call__(self, job: ListJob) -> np.ndarray:
        """The array of a job, int64."""
        steps = np.arange(int(job.counts.max(initial=0)) if job.upper is None else job.upper)
        inside = steps < job.counts[:, None]
        values = self._span.access.values[(job.starts[:, None] + steps)[inside]]
        if job.upper is None:
            return values
        lists = np.full(inside.shape, self._padding, np.int64)
        lists[inside] = values
        return lists


def multi_hot(values: np.ndarray, starts: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    """float32 `[B, classes]`: 1 for each class that is among the values of a record."""
    hot = np.zeros((len(counts), classes), np.float32)
    rows = np.repeat(np.arange(len(counts)), counts)
    steps = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    hot[rows, values[np.repeat(starts, counts) + steps]] = 1
    return hot

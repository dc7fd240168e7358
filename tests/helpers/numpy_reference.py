"""A NumPy reference for the batches of the library, written independently of it: slow, obvious, and compared bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def pad_rows(rows: list[np.ndarray], frames: int, value: float, dtype: str) -> np.ndarray:
    """Arrays [T, ...] stacked to [B, frames, ...]."""
    batch = np.full((len(rows), frames, *rows[0].shape[1:]), value, dtype)
    for number, row in enumerate(rows):
        batch[number, : len(row)] = row
    return batch


def bucket_order(lengths: list[int], boundaries: list[int], batch_sizes: list[int]) -> list[list[int]]:
    """Batches of positions in the order of a bucketing reader: each when it is full, and finally the short ones by length."""
    waiting: list[list[int]] = [[] for _ in boundaries]
    batches = []
    for position, length in enumerate(lengths):
        bucket = next(number for number, boundary in enumerate(boundaries) if length <= boundary)
        waiting[bucket].append(position)
        if len(waiting[bucket]) == batch_sizes[bucket]:
            batches.append(waiting[bucket])
            waiting[bucket] = []
    return batches + [batch for batch in waiting if batch]


def plain_order(count: int, batch_size: int) -> list[list[int]]:
    """Batches of positions in order."""
    return [list(range(count))[start : start + batch_size] for start in range(0, count, batch_size)]


def equal(actual: Any, expected: Any) -> bool:
    """Same dtype, same shape, same bits; NaN equals NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    return actual.dtype == expected.dtype and actual.shape == expected.shape and actual.tobytes() == expected.tobytes()

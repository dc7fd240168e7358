"""A plain NumPy reference for what the library delivers, written separately from it: slow, obvious, and compared bit by bit."""

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
    """Batches of positions as a bucketing reader emits them: each as soon as it is full, then the short ones by length."""
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


def equal(found: Any, expected: Any) -> bool:
    """Same dtype, same shape, same bits; NaN equals NaN."""
    found, expected = np.asarray(found), np.asarray(expected)
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()

"""NumPy references for crop, transform, normalize and augment, written independently of the library: slow and obvious."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CROP, MASK = 3, 4


def draw(seed: int, epoch: int, purpose: int, record: int) -> int:
    """A number below 2**32: the upper half of output `record` of SplitMix64 (Steele, Lea and Flood)."""

    def finish(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    state = finish((finish((finish(seed) + epoch) % 2**64) + purpose) % 2**64)
    return finish((state + (record + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 32


def below(number: int, draw: int) -> int:
    """Map a draw to one of 0, 1, ... number - 1."""
    return number * draw >> 32


def cropped(x: np.ndarray, frames: int, draw: int | None) -> np.ndarray:
    if len(x) <= frames:
        return x
    first = 0 if draw is None else below(len(x) - frames + 1, draw)
    return x[first : first + frames]


def normalized(x: np.ndarray, mean: np.ndarray | None = None, variance: np.ndarray | None = None) -> np.ndarray:
    """`[T, ...]` in float64, one dimension at a time."""
    out = x.astype(np.float64)
    for position in np.ndindex(x.shape[1:]):
        values = x[(slice(None), *position)].astype(np.float64)
        finite = values[np.isfinite(values)]
        m = (finite.mean() if len(finite) else 0.0) if mean is None else mean[position]
        s = (finite.std() if len(finite) else 0.0) if variance is None else np.sqrt(variance[position])
        out[(slice(None), *position)] = (values - m) / (s if s > 1e-7 * abs(m) else 1.0)
    return out


def spans(draws: list[int], size: int, widest: int) -> list[tuple[int, int]]:
    result = []
    for first, second in zip(draws[0::2], draws[1::2], strict=True):
        width = below(widest + 1, first)
        begin = below(size - width + 1, second)
        result.append((begin, begin + width))
    return result


def augmented(x: np.ndarray, augment: Any, draws: list[int]) -> np.ndarray:
    """`[T, d]` with masks of time and frequency."""
    out, (frames, size) = x.copy(), x.shape
    with np.errstate(invalid="ignore"):
        fill = np.array([column[np.isfinite(column)].mean() if np.isfinite(column).any() else 0.0 for column in x.T.astype(np.float64)])
    if augment.fill == "zero":
        fill = np.zeros(size)
    masks = 2 * augment.time_masks
    for begin, end in spans(draws[:masks], frames, min(augment.time_width, int(augment.time_share * frames))):
        assert 0 <= begin <= end <= frames
        out[begin:end] = fill
    for begin, end in spans(draws[masks:], size, augment.frequency_width):
        assert 0 <= begin <= end <= size
        out[:, begin:end] = fill[begin:end]
    return out


def changed(
    x: np.ndarray,
    record: int,
    seed: int,
    epoch: int,
    *,
    crop: Any = None,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    normalize: Any = None,
    augment: Any = None,
) -> np.ndarray:
    """The delivered frames of a record; `normalize` is "utterance" or (mean, variance)."""
    if crop is not None:
        x = cropped(x, crop.frames, draw(seed, epoch, CROP, record) if crop.random else None)
    if transform is not None:
        x = transform(x)
    if normalize is not None:
        x = normalized(x) if normalize == "utterance" else normalized(x, *normalize)
    if augment is not None:
        count = 2 * (augment.time_masks + augment.frequency_masks)
        x = augmented(x, augment, [draw(seed, epoch, MASK + number, record) for number in range(count)])
    return x

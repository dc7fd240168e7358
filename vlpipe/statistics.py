"""Mean and variance of each dimension of a sequence, accumulated record by record in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Moments:
    """Running count, mean and squared deviation of every dimension of the frames seen.

    Values that are not finite are left out and counted, so that one NaN does not spoil a whole dataset's statistics.
    The parallel form of Welford's update (Chan, Golub and LeVeque 1983) keeps float64 accuracy over any number of frames.

    Args:
        dimensions: numbers in one frame.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = np.zeros(dimensions, np.int64)
        self.mean = np.zeros(dimensions, np.float64)
        self._deviation = np.zeros(dimensions, np.float64)
        self.not_finite = 0

    def update(self, frames: np.ndarray) -> None:
        """Take in the frames of one record: `[T, ...]`, each frame with as many numbers as there are dimensions."""
        values = frames.reshape(len(frames), self.mean.size).astype(np.float64)
        finite = np.isfinite(values)
        count = finite.sum(axis=0)
        self.not_finite += values.size - int(count.sum())
        if self.not_finite:
            values[~finite] = 0.0
        total = np.maximum(self.count + count, 1)
        with np.errstate(over="ignore", invalid="ignore"):  # a float64 whose square has none: null in the end, no reason to stop
            mean = values.sum(axis=0) / np.maximum(count, 1)
            difference = np.where(finite, values - mean, 0.0)
            shift = mean - self.mean
            self.mean += shift * count / total
            self._deviation += np.square(difference).sum(axis=0) + np.square(shift) * self.count * count / total
        self.count += count

    @property
    def variance(self) -> np.ndarray:
        """Population variance of each dimension; 0 where nothing was seen."""
        return self._deviation / np.maximum(self.count, 1)

    def to_json(self) -> dict[str, Any]:
        """The statistics as a dict of JSON values; null where a mean or variance is beyond the range of float64."""
        return {
            "count": self.count.tolist(),
            "mean": _finite_or_none(self.mean),
            "variance": _finite_or_none(self.variance),
            "not_finite": self.not_finite,
        }


def _finite_or_none(numbers: np.ndarray) -> list[float | None]:
    return [number if math.isfinite(number) else None for number in numbers.tolist()]

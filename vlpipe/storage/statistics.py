"""Mean and variance of each dimension of a sequence, accumulated in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_BLOCK = 1 << 17  # values per step: as float64 they fit into the processor's cache


class Moments:
    """Running count, mean and squared deviation of every dimension of a sequence.

    Values that are not finite are left out and counted, so that one NaN does not spoil the statistics of a whole dataset.
    The parallel form of Welford's update (Chan, Golub and LeVeque 1983) keeps float64 accuracy over any number of frames.

    Args:
        dimensions: number of values in one frame, d.

    Attributes:
        count: int64 `[d]`, finite values of each dimension.
        mean: float64 `[d]`, their mean.
        not_finite: number of NaNs and infinities in all dimensions.

    Example:
        >>> moments = Moments(2)
        >>> moments.update(np.array([[1.0, 0.0], [3.0, np.nan]]))
        >>> moments.mean.tolist(), moments.variance.tolist(), moments.not_finite
        ([2.0, 0.0], [1.0, 0.0], 1)
    """

    def __init__(self, dimensions: int) -> None:
        self.count = np.zeros(dimensions, np.int64)
        self.mean = np.zeros(dimensions, np.float64)
        self._deviation = np.zeros(dimensions, np.float64)
        self.not_finite = 0

    def __repr__(self) -> str:
        least, most = (self.count.min(), self.count.max()) if self.count.size else (0, 0)
        return f"Moments: d = {self.mean.size:,}, {f'{least:,} to ' if least != most else ''}{most:,} values of each; .mean, .variance"

    def update(self, frames: np.ndarray) -> None:
        """Add frames `[T, ...]`, each with d values."""
        frames = frames.reshape(len(frames), self.mean.size)
        step = max(1, _BLOCK // self.mean.size)
        for first in range(0, len(frames), step):
            self._update(frames[first : first + step])

    def _update(self, frames: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # signalling NaNs; squares beyond float64, which become null in JSON
            values = frames.astype(np.float64)
            count: Any = len(values)
            total = values.sum(axis=0)
            finite = None
            if not np.isfinite(total).all():  # a finite sum means that all values are finite
                finite = np.isfinite(values)
                count = finite.sum(axis=0)
                self.not_finite += values.size - int(count.sum())
                values[~finite] = 0.0
                total = values.sum(axis=0)
            mean = total / np.maximum(count, 1)
            values -= mean
            if finite is not None:
                values[~finite] = 0.0
            self._add(count, mean, np.square(values, out=values).sum(axis=0))

    def merge(self, other: Moments) -> None:
        """Add the frames that `other` has seen."""
        self.not_finite += other.not_finite
        with np.errstate(over="ignore", invalid="ignore"):
            self._add(other.count, other.mean, other._deviation)

    def _add(self, count: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> None:
        total = np.maximum(self.count + count, 1)
        shift = mean - self.mean
        self.mean += shift * count / total
        self._deviation += deviation + np.square(shift) * self.count * count / total
        self.count += count

    @property
    def variance(self) -> np.ndarray:
        """float64 `[d]`: the population variance of each dimension; 0 without values."""
        return self._deviation / np.maximum(self.count, 1)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON values; a mean or variance beyond the range of float64 is null."""
        return {
            "count": self.count.tolist(),
            "mean": _finite_or_none(self.mean),
            "variance": _finite_or_none(self.variance),
            "not_finite": self.not_finite,
        }

    def state(self) -> dict[str, Any]:
        """Return the whole state, exactly, as a dict of Python numbers, for `from_state`."""
        return {
            "count": self.count.tolist(),
            "mean": self.mean.tolist(),
            "deviation": self._deviation.tolist(),
            "not_finite": self.not_finite,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Moments:
        """Return the moments with this `state`."""
        moments = cls(len(state["count"]))
        moments.count, moments.not_finite = np.array(state["count"], np.int64), state["not_finite"]
        moments.mean, moments._deviation = np.array(state["mean"], np.float64), np.array(state["deviation"], np.float64)
        return moments

    @classmethod
    def from_json(cls, document: Any, dimensions: int) -> Moments:
        """Return the moments that `to_json` described; null becomes NaN.

        Args:
            document: JSON values, from anywhere.
            dimensions: number of values in one frame.

        Raises:
            ValueError: the document is not the description of statistics with this many dimensions.
        """
        try:
            count = np.array(document["count"], np.int64)
            mean, variance = (np.array(document[key], np.float64) for key in ("mean", "variance"))
            not_finite = int(document["not_finite"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"its statistics cannot be read ({type(error).__name__}: {error})") from error
        fits = all(array.shape == (dimensions,) for array in (count, mean, variance))
        if not fits or not_finite < 0 or (count < 0).any() or (variance < 0).any():
            raise ValueError(f"its statistics are not count, mean and variance of {dimensions} numbers")
        moments = cls(dimensions)
        moments.count, moments.mean, moments._deviation = count, mean, variance * np.maximum(count, 1)
        moments.not_finite = not_finite
        return moments


def merged(parts: list[dict[str, Moments]]) -> dict[str, Moments]:
    """Return the statistics of all parts together, by name; a name that a part lacks is left out."""
    total = {}
    for name in parts[0] if parts else ():
        if all(name in part for part in parts):
            total[name] = Moments(len(parts[0][name].mean))
            for part in parts:
                total[name].merge(part[name])
    return total


def _finite_or_none(numbers: np.ndarray) -> list[float | None]:
    return [number if math.isfinite(number) else None for number in numbers.tolist()]

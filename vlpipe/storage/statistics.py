"""Mean and variance of each dimension of a sequence, accumulated record by record in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_BLOCK = 1 << 17  # values that are taken in at a time: as float64 they fit into a cache


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
        """Take in frames: `[T, ...]`, each with as many numbers as there are dimensions."""
        frames = frames.reshape(len(frames), self.mean.size)
        step = max(1, _BLOCK // self.mean.size)
        for first in range(0, len(frames), step):
            self._update(frames[first : first + step])

    def _update(self, frames: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN; a float64 whose square has none: null in the end
            values = frames.astype(np.float64)
            count: Any = len(values)
            total = values.sum(axis=0)
            finite = None
            if not np.isfinite(total).all():  # else all values are
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
        """Take in all that another has seen."""
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

    def state(self) -> dict[str, Any]:
        """All that it knows, to the last bit, as a dict of Python's numbers; `from_state` gives it back."""
        return {
            "count": self.count.tolist(),
            "mean": self.mean.tolist(),
            "deviation": self._deviation.tolist(),
            "not_finite": self.not_finite,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Moments:
        """What had this `state`."""
        moments = cls(len(state["count"]))
        moments.count, moments.not_finite = np.array(state["count"], np.int64), state["not_finite"]
        moments.mean, moments._deviation = np.array(state["mean"], np.float64), np.array(state["deviation"], np.float64)
        return moments

    @classmethod
    def from_json(cls, document: Any, dimensions: int) -> Moments:
        """What `to_json` described; NaN where it has null.

        Raises:
            ValueError: the document is no such description of frames of so many numbers.
        """
        try:
            count = np.array(document["count"], np.int64)
            mean, variance = (np.array(document[key], np.float64) for key in ("mean", "variance"))
            not_finite = int(document["not_finite"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"its statistics cannot be read ({type(error).__name__}: {error})") from error
        fits = all(array.shape == (dimensions,) for array in (count, mean, variance))  # first of all: dimensions may be anything
        if not fits or not_finite < 0 or (count < 0).any() or (variance < 0).any():
            raise ValueError(f"its statistics are not count, mean and variance of {dimensions} numbers")
        moments = cls(dimensions)
        moments.count, moments.mean, moments._deviation = count, mean, variance * np.maximum(count, 1)
        moments.not_finite = not_finite
        return moments


def merged(parts: list[dict[str, Moments]]) -> dict[str, Moments]:
    """The statistics of all parts together, by name; without those that one of them lacks."""
    together = {}
    for name in parts[0] if parts else ():
        if all(name in part for part in parts):
            together[name] = Moments(len(parts[0][name].mean))
            for part in parts:
                together[name].merge(part[name])
    return together


def _finite_or_none(numbers: np.ndarray) -> list[float | None]:
    return [number if math.isfinite(number) else None for number in numbers.tolist()]

"""Sequences of a batch, one after another, and what is computed of them before they are padded: the twin in NumPy of what
`engines/apply_transforms.py` computes in the graph, value for value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from vlpipe.transforms.augment import SpecAugment
from vlpipe.transforms.mixup import Mixup, quantiles
from vlpipe.transforms.normalize import CONSTANT, MeanVariance


@dataclass(frozen=True)
class Sequences:
    """The sequences of a batch.

    Attributes:
        values: `[N, ...]`, their frames, concatenated.
        splits: int64 `[B + 1]`, where each begins, and the end of the last.
    """

    values: np.ndarray
    splits: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[B]`: frames of each."""
        return np.diff(self.splits)

    @property
    def rows(self) -> np.ndarray:
        """int64 `[N]`: the sequence of each frame."""
        return np.repeat(np.arange(len(self.splits) - 1), self.lengths)

    def having(self, values: np.ndarray) -> Sequences:
        """The same sequences with other frames."""
        return replace(self, values=values)

    def padded(self, target: np.ndarray, padding: np.ndarray) -> np.ndarray:
        """Fill an array `[B, T, ...]` with the sequences, padded."""
        for row, (begin, end) in enumerate(zip(self.splits[:-1].tolist(), self.splits[1:].tolist(), strict=True)):
            target[row, : end - begin] = self.values[begin:end]
            target[row, end - begin :] = padding
        return target


def is_float(dtype: np.dtype) -> bool:
    """Whether a dtype holds fractions; NumPy does not know that bfloat16 does."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values in another dtype, as TensorFlow converts them: to floats of two bytes by way of float32."""
    with np.errstate(all="ignore"):
        if is_float(dtype) and dtype.itemsize == 2 and values.dtype != dtype:
            values = values.astype(np.float32, copy=False)
        return values.astype(dtype, copy=False)


def by_moments(values: np.ndarray, moments: MeanVariance) -> np.ndarray:
    """float64 `[N, ...]`: frames (float64), normalised with one mean and variance for all."""
    return (values - moments.mean) / _divisor(moments.mean, moments.variance)


def by_utterance(sequences: Sequences) -> np.ndarray:
    """float64 `[N, ...]`: the frames (float64) of each sequence, normalised with its own mean and variance."""
    mean, rows = means(sequences), sequences.rows
    difference = sequences.values - mean[rows]
    variance = means(sequences.having(np.square(difference)))
    return difference / _divisor(mean, variance)[rows]


def means(sequences: Sequences) -> np.ndarray:
    """float64 `[B, ...]`: the mean of each dimension of each sequence over its finite values (float64); 0 without any."""
    sums = totals(sequences)
    if np.isfinite(sums).all():
        return sums / np.maximum(sequences.lengths, 1).astype(np.float64).reshape(-1, *[1] * (sums.ndim - 1))
    finite = np.isfinite(sequences.values)
    counts = totals(sequences.having(finite.astype(np.float64)))
    return totals(sequences.having(np.where(finite, sequences.values, 0.0))) / np.maximum(counts, 1.0)


def totals(sequences: Sequences) -> np.ndarray:
    """float64 `[B, ...]`: the sum of the frames of each sequence, added one after another, as TensorFlow adds them."""
    values, count = sequences.values, len(sequences.splits) - 1
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    if flat.shape[1] == 1:  # NumPy's sums of consecutive numbers are pairwise, which rounds in another way
        return np.bincount(sequences.rows, flat[:, 0], minlength=count).reshape(count, *values.shape[1:])
    result = np.zeros((count, flat.shape[1]))
    for row, (begin, end) in enumerate(zip(sequences.splits[:-1].tolist(), sequences.splits[1:].tolist(), strict=True)):
        if begin < end:
            result[row] += flat[begin:end].sum(axis=0)  # row by row; `np.add.reduceat` adds in another order
    return result.reshape(count, *values.shape[1:])


def _divisor(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(variance)
    return np.where(deviation > CONSTANT * np.abs(mean), deviation, 1.0)


def masked(augment: SpecAugment, sequences: Sequences, draws: np.ndarray) -> Sequences:
    """The sequences `[B, None, d]`, masked; draws: int64 `[B, augment.draws]`, random numbers below 2**32."""
    values, rows, lengths = sequences.values, sequences.rows, sequences.lengths
    fill = np.zeros((len(lengths), values.shape[1]), values.dtype)
    if augment.fill == "mean":
        fill = cast(means(sequences.having(values.astype(np.float64))), values.dtype)
    of_time, of_frequency = np.split(draws, [2 * augment.time_masks], axis=1)
    share = np.floor(augment.time_share * lengths.astype(np.float64)).astype(np.int64)
    begins, ends = _spans(lengths[:, None], np.minimum(share, augment.time_width)[:, None], of_time)
    frames = np.arange(len(rows)) - sequences.splits[rows]
    hidden = _inside(frames[:, None], begins[rows], ends[rows])[:, None]
    begins, ends = _spans(values.shape[1], augment.frequency_width, of_frequency)
    bands = _inside(np.arange(values.shape[1])[:, None], begins[:, None], ends[:, None])
    return sequences.having(np.where(hidden | bands[rows], fill[rows], values))


def _spans(size: np.ndarray | int, widest: np.ndarray | int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 `[B, masks]`: begin and end of each mask, for draws `[B, 2 * masks]`."""
    widths = draws[:, 0::2] * (widest + 1) // 2**32
    begins = draws[:, 1::2] * (size - widths + 1) // 2**32
    return begins, begins + widths


def _inside(positions: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """bool: whether a position is inside one of the spans along the last axis."""
    return np.asarray(((positions >= begins) & (positions < ends)).any(axis=-1))


@dataclass(frozen=True)
class Mixing:
    """How the sequences of a batch are mixed.

    Attributes:
        partners: int64 `[B]`, the row of each one's partner.
        share: float64 `[B]`, of the sequence itself; 1 where the partner has no frames.
    """

    partners: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, augment: Mixup, sequences: Sequences, draws: np.ndarray) -> Mixing:
        """The mixing for draws (int64 `[B, 2]`) below 2**32."""
        partners = draws[:, 0] * len(draws) // 2**32
        table = quantiles(augment.alpha)
        step = 2**32 // (len(table) - 1)
        place, within = draws[:, 1] // step, draws[:, 1] % step
        low, high = table[place], table[place + 1]
        t = low + (high - low) * (within.astype(np.float64) / step)
        share = (1 - np.power(t, 1 / min(augment.alpha, 1))).astype(np.float32).astype(np.float64)
        return cls(partners, np.where(sequences.lengths[partners] > 0, share, 1.0))

    def frames(self, sequences: Sequences) -> Sequences:
        """The sequences, mixed."""
        values, rows, starts = sequences.values, sequences.rows, sequences.splits[:-1]
        of_partner = sequences.lengths[self.partners]
        within = np.arange(len(rows)) - starts[rows]
        origins = starts[self.partners][rows] + within % np.maximum(of_partner, 1)[rows]
        others = values[np.where(of_partner[rows] > 0, origins, 0)]
        return sequences.having(self._mixed(values, others, self.share[rows]))

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """The labels `[B, ...]`, mixed."""
        return self._mixed(labels, labels[self.partners], self.share)

    @staticmethod
    def _mixed(own: np.ndarray, other: np.ndarray, shares: np.ndarray) -> np.ndarray:
        share = cast(shares, own.dtype).reshape(-1, *[1] * (own.ndim - 1))
        is_mixed = (shares < 1).reshape(share.shape)
        return np.where(is_mixed, share * own + (own.dtype.type(1) - share) * other, own)

"""Augmentations of waveforms: `Gain` and `TimeShift`, and what all augmentations of waveforms have in common."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlpipe.arguments import MAX_FRAMES, integer, number
from vlpipe.errors import ArgumentError
from vlpipe.storage.schema import Sequence

if TYPE_CHECKING:
    import tensorflow as tf

MAX_DECIBELS = 120.0  # 10 ** 6 in amplitude: float32 still holds the product of any two such factors and a sample


@dataclass(frozen=True)
class Gain:
    """Makes each waveform `[N]` or `[N, 1]` louder or quieter, by a new number of decibels in every epoch.

    All samples of a sequence are multiplied by 10 ** (g / 20), where g has a uniform distribution between the two numbers of `db`. The
    product is not clipped. g depends on (seed, epoch, record) alone, and each window and each copy of a record has its own.

    Args:
        db: the least and the greatest gain in decibels, from -120 to 120. 6 dB double the amplitude.

    Raises:
        ArgumentError: `db` is not such a pair.

    Example:
        >>> vlpipe.write("data/train", [{"audio": np.ones(900, np.float32)}])
        >>> louder = vlpipe.Gain(db=(6, 12))
        >>> [bool((x > 1.99).all()) for x, in vlpipe.make_dataset("data/train", augment=louder, seed=1).as_numpy_iterator()]
        [True]
    """

    db: tuple[float, float] = (-6.0, 6.0)

    stage: ClassVar[str] = "samples"
    draws: ClassVar[int] = 1
    makes_fractions: ClassVar[bool] = True
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "db", interval("Gain: db", self.db))


@dataclass(frozen=True)
class TimeShift:
    """Moves each waveform `[N]` or `[N, 1]` in time, by a new number of samples in every epoch; its length stays.

    Samples that move beyond an end are lost, and zeros follow from the other end. The shift is -m, ..., m samples with equal probability,
    where m = min(most, N - 1), so that at least one sample stays; later ones are positive. It depends on (seed, epoch, record) alone, and
    each window and each copy of a record has its own.

    Args:
        most: the greatest shift in samples, >= 0.

    Raises:
        ArgumentError: `most` is no such number.

    Example:
        >>> vlpipe.write("data/train", [{"audio": np.ones(900, np.float32)}])
        >>> moved = vlpipe.make_dataset("data/train", augment=vlpipe.TimeShift(100), seed=1)
        >>> [(x.shape, bool((x == 0).any())) for x, in moved.as_numpy_iterator()]
        [((1, 900), True)]
    """

    most: int

    stage: ClassVar[str] = "samples"
    draws: ClassVar[int] = 1
    makes_fractions: ClassVar[bool] = False
    keeps_time: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", integer("TimeShift: most", self.most, 0, MAX_FRAMES))


def interval(name: str, value: Any) -> tuple[float, float]:
    """The least and the greatest number of decibels.

    Raises:
        ArgumentError: they are not two ascending numbers from -120 to 120.
    """
    if not isinstance(value, Items) or isinstance(value, (str, bytes)) or len(value) != 2:
        raise ArgumentError(
            f"{name}: came as {value!r:.100}, expected (least, greatest) in decibels, from {-MAX_DECIBELS:g} to {MAX_DECIBELS:g}."
        )
    expected = f"a number of decibels from {-MAX_DECIBELS:g} to {MAX_DECIBELS:g}"
    least, greatest = (number(name, entry, -MAX_DECIBELS, MAX_DECIBELS, expected=expected) for entry in value)
    if least > greatest:
        raise ArgumentError(f"{name}: came as {value!r}, where the first number exceeds the second. Pass the smaller one first.")
    return least, greatest


def check_waveform(augment: Any, name: str, field: Sequence, aligned: tuple[str, ...]) -> None:
    """Check that the key feature is a waveform, one number a sample, which an augmentation can change.

    Args:
        name: of the key feature.
        field: as the values are that the augmentation gets.
        aligned: the sequences that have one value for each of its samples.

    Raises:
        ArgumentError: its frames are neither `[]` nor `[1]`, or are unsigned; or the augmentation would move it away from what is aligned.
    """
    kind = type(augment).__name__
    if field.dimensions not in ((), (1,)):
        raise ArgumentError(
            f'augment: {kind} changes a waveform, [N] or [N, 1], but "{name}" has frames of shape {list(field.dimensions)}. Leave {kind} '
            f"out, or name the waveform: features=... ({kind} comes before transform, and gets the samples as they are stored)."
        )
    if np.dtype(field.dtype).kind == "u":
        raise ArgumentError(
            f'augment: {kind} changes a waveform around 0, but "{name}" is stored as {field.dtype}, which has no negative samples. Leave '
            f"{kind} out, or store signed integers or floats."
        )
    if aligned and not augment.keeps_time:
        raise ArgumentError(
            f'augment: {kind} moves the samples of "{name}", but {list(aligned)} have one value for each of them and would stay. Leave '
            f"{kind} out, or pass aligned=False."
        )


def uniform(draw: tf.Tensor, bounds: tuple[float, float]) -> tf.Tensor:
    """float64 scalar: a number with a uniform distribution between the bounds, for a draw (int64) below 2**32."""
    import tensorflow as tf

    least, greatest = bounds
    return least + tf.cast(draw, tf.float64) * ((greatest - least) / 2**32)


def amplified(augment: Gain, samples: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """A louder or quieter waveform.

    Args:
        samples: floats `[N]` or `[N, 1]`.
        draws: int64 `[1]`, random numbers below 2**32.
    """
    import tensorflow as tf

    return samples * rounded(tf.pow(tf.constant(10.0, tf.float64), uniform(draws[0], augment.db) / 20), samples.dtype)


def moved(augment: TimeShift, samples: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """A waveform that is moved in time; arguments as for `amplified`."""
    import tensorflow as tf

    count = tf.shape(samples, tf.int64)[0]
    most = tf.clip_by_value(count - 1, 0, augment.most)
    shift = draws[0] * (2 * most + 1) // 2**32 - most
    before, after = tf.maximum(shift, 0), tf.maximum(-shift, 0)
    return tf.pad(samples[after : count - before], [[before, after], *([0, 0] for _ in samples.shape[1:])])


def rounded(factor: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """A factor (float64), rounded to a float32: a sum or a power may differ in its last bit with the machine; this does not."""
    import tensorflow as tf

    return tf.cast(tf.cast(factor, tf.float32), dtype)

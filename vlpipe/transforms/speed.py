"""Speed perturbation: each waveform comes once at each of several speeds in an epoch, resampled in the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlpipe.errors import ArgumentError

if TYPE_CHECKING:
    import tensorflow as tf

MIN_FACTOR, MAX_FACTOR, MAX_FACTORS = 0.5, 2.0, 16
_HALF_WIDTH = 32  # of the interpolation filter, in samples of the lower rate
_CUTOFF = 0.92  # of half the lower rate, where the filter passes half of the amplitude: it passes all up to 0.84, and 1e-4 from 1 on
_BETA = 8.0  # of the Kaiser window
_BLOCK = 64  # samples that one product of matrices takes at least: with fewer, each sample is copied too often


@dataclass(frozen=True)
class SpeedPerturb:
    """Plays each waveform `[N]` or `[N, 1]` at each of several speeds: an epoch has one copy of each record for each factor.

    A copy with factor f is f times as fast and as high: pitch and length change together, as for a tape (Kaldi's three-way speed
    perturbation; Ko et al., Audio Augmentation for Speech Recognition, Interspeech 2015). It has N / f samples, rounded (half up), at least
    one if N > 0; sample m is the waveform at sample m f, by interpolation with a windowed sinc, which keeps frequencies up to 84 % of half
    the lower sample rate. Before and after the waveform there is silence. Factor 1 is the waveform itself.

    The epoch is longer: with three factors `plan.records` and `len(dataset)` are about three times those without, and all copies of all
    records come once in each epoch, in a new order. The plan knows their lengths. Each copy has its own draws of the other augmentations
    and of a random crop; that with the first factor has those of a run without SpeedPerturb. In a mix (`vlpipe.mix`) each copy counts as a
    record. `length_range` and `crop` count samples as stored, before the speed changes; class weights stay, as all classes have more.

    Labels that say when something happens do not move with it: sequences that are `aligned` with the samples are refused.

    Args:
        factors: different numbers from 0.5 to 2, with at most two decimals.

    Raises:
        ArgumentError: `factors` are not such numbers.

    Example:
        >>> vlpipe.write("data/train", [{"audio": np.ones(900, np.float32)}])
        >>> faster = vlpipe.make_dataset("data/train", augment=vlpipe.SpeedPerturb((0.9, 1.0, 1.1)), batch_size=1, seed=1)
        >>> len(faster), sorted(x.shape[1] for x, in faster.as_numpy_iterator())
        (3, [818, 900, 1000])
    """

    factors: tuple[float, ...] = (0.9, 1.0, 1.1)

    stage: ClassVar[str] = "samples"
    draws: ClassVar[int] = 0
    makes_fractions: ClassVar[bool] = True
    keeps_time: ClassVar[bool] = False

    def __post_init__(self) -> None:
        came = self.factors
        given = tuple(came) if isinstance(came, Items) and not isinstance(came, (str, bytes)) else ()
        factors = tuple(round(float(entry), 2) for entry in given if isinstance(entry, Real) and not isinstance(entry, bool))
        fit = len(set(factors)) == len(given) and all(
            MIN_FACTOR <= factor <= MAX_FACTOR and abs(factor - entry) < 1e-6 for factor, entry in zip(factors, given, strict=True)
        )
        if not 0 < len(given) <= MAX_FACTORS or not fit:
            raise ArgumentError(
                f"SpeedPerturb: factors: came as {came!r:.100}, expected up to {MAX_FACTORS} different numbers from {MIN_FACTOR:g} to "
                f"{MAX_FACTOR:g} with at most two decimals, such as (0.9, 1.0, 1.1)."
            )
        object.__setattr__(self, "factors", factors)

    @property
    def fractions(self) -> tuple[Fraction, ...]:
        """The factors, exactly."""
        return tuple(Fraction(round(factor * 100), 100) for factor in self.factors)

    def lengths(self, samples: np.ndarray, copies: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the samples of copies of waveforms.

        Args:
            samples: int64 `[n]`, of the waveforms.
            copies: integers `[n]`, the position of the factor of each.
        """
        above, below = (
            np.array(part, np.int64)[copies] for part in zip(*((f.numerator, f.denominator) for f in self.fractions), strict=True)
        )
        return _scaled_length(np.asarray(samples, np.int64), above, below, np.minimum, np.maximum)


def _scaled_length(samples: Any, above: Any, below: Any, minimum: Any, maximum: Any) -> Any:
    """Samples at a speed of above / below: NumPy arrays, or the same as tensors."""
    return maximum((2 * samples * below + above) // (2 * above), minimum(samples, 1))


@lru_cache(maxsize=64)
def filter_of(factor: Fraction) -> tuple[np.ndarray, int, int]:
    """The interpolation of one block: a matrix, how many samples it takes, and how many before the block the first row belongs to.

    Returns:
        float64 `[S * samples, outputs]`, of which row i is the weight of sample i - `before` of the block; `samples`; `before`.
    """
    above, below = factor.numerator, factor.denominator
    times = -(-_BLOCK // above)
    samples, outputs = above * times, below * times
    lower = min(1.0, below / above)  # the lower rate of the two, in units of that of the waveform
    half = _HALF_WIDTH / lower
    before = math.ceil(half)
    blocks = 1 + -(-(2 * before + 1) // samples)
    rows = np.arange(blocks * samples)[:, None] - before
    away = np.arange(outputs) * above / below - rows
    inside = np.sqrt(np.maximum(1 - (away / half) ** 2, 0))
    # A weight at the very end is none, whichever way the quotient of two floats is rounded.
    window = np.where(np.abs(away) < half - 1e-9, np.i0(_BETA * inside) / np.i0(_BETA), 0)
    return _CUTOFF * lower * np.sinc(_CUTOFF * lower * away) * window, samples, before


def at_speed(augment: SpeedPerturb, samples: tf.Tensor, copy: tf.Tensor) -> tf.Tensor:
    """A waveform at another speed.

    Args:
        samples: floats `[N]` or `[N, 1]`.
        copy: int64 scalar, the position of its factor.
    """
    import tensorflow as tf

    if len(augment.factors) == 1:
        return _interpolated(augment.fractions[0], samples)
    branches = [lambda factor=factor: _interpolated(factor, samples) for factor in augment.fractions]
    result = tf.switch_case(tf.cast(copy, tf.int32), branches)
    return tf.ensure_shape(result, [None, *samples.shape[1:]])


def _interpolated(factor: Fraction, samples: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    if factor == 1:
        return tf.identity(samples)
    weights, size, before = filter_of(factor)
    blocks_of, outputs = len(weights) // size, weights.shape[1]
    flat = tf.reshape(samples, [-1])
    count = tf.size(flat, tf.int64)
    wanted = _scaled_length(count, factor.numerator, factor.denominator, tf.minimum, tf.maximum)
    rows = -(-wanted // outputs)
    padded = tf.pad(flat, [[before, (rows + blocks_of - 1) * size - before - count]])
    blocks = tf.reshape(padded, [-1, size])
    frames = tf.concat([blocks[first : first + rows] for first in range(blocks_of)], 1)
    values = tf.reshape(tf.matmul(frames, tf.constant(weights, samples.dtype)), [-1])[:wanted]
    return tf.reshape(values, [-1, *samples.shape[1:]])

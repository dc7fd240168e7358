"""SpecAugment: stretches of time and of frequency masked at random, in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlpipe.errors import ArgumentError

if TYPE_CHECKING:
    import tensorflow as tf

MAX_MASKS = 1000
MAX_WIDTH = 2**31 - 2
FILLS = ("mean", "zero")


@dataclass(frozen=True)
class SpecAugment:
    """Masks stretches of time and bands of frequency in each sequence `[T, d]`, anew in every epoch.

    Each of the `time_masks` masks is w frames wide, w = 0, 1, ..., W with equal probability, where W = min(time_width, floor(time_share *
    T)), and begins at 0, 1, ..., T - w with equal probability. So it never reaches beyond the true length, and a sequence of fewer than
    1 / time_share frames has none. Each of the `frequency_masks` masks has frequency_width in the place of W, and d in that of T. Masks
    may overlap. They depend on (seed, epoch, record) alone: the same on every machine and rank, whatever the engine, and after resuming.

    Park et al., SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition, Interspeech 2019, without the warping of
    time. The defaults are the paper's policy SM.

    Args:
        time_masks: how many masks of time, 0 to 1000.
        time_width: widest of them, in frames.
        time_share: of the length that one mask may take at the most, 0 to 1.
        frequency_masks: how many masks of frequency, 0 to 1000.
        frequency_width: widest of them, in dimensions; d at the most.
        fill: what masked values become: "mean", of their dimension over the real frames of the sequence, or "zero".

    Raises:
        ArgumentError: a value is not one of these.

    Example:
        >>> vlpipe.make_dataset("data/train", normalize="utterance", augment=vlpipe.SpecAugment(time_width=40))
    """

    time_masks: int = 2
    time_width: int = 70
    time_share: float = 0.2
    frequency_masks: int = 2
    frequency_width: int = 15
    fill: str = "mean"

    def __post_init__(self) -> None:
        for name, most in (
            ("time_masks", MAX_MASKS),
            ("time_width", MAX_WIDTH),
            ("frequency_masks", MAX_MASKS),
            ("frequency_width", MAX_WIDTH),
        ):
            value = getattr(self, name)
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not 0 <= value <= most:
                raise ArgumentError(f"SpecAugment: {name} came as {value!r}, expected an integer from 0 to {most}.")
            object.__setattr__(self, name, int(value))
        share = self.time_share
        if isinstance(share, (bool, np.bool_)) or not isinstance(share, (int, float, np.integer, np.floating)) or not 0 <= share <= 1:
            raise ArgumentError(f"SpecAugment: time_share came as {share!r}, expected a share of the length from 0 to 1.")
        object.__setattr__(self, "time_share", float(share))
        if self.fill not in FILLS:
            raise ArgumentError(f"SpecAugment: fill came as {self.fill!r}, expected one of {', '.join(map(repr, FILLS))}.")

    @property
    def draws(self) -> int:
        """Random numbers that a sequence takes: for each mask its width and its beginning, those of time first."""
        return 2 * (self.time_masks + self.frequency_masks)

    def check(self, name: str, dimensions: tuple[int, ...]) -> None:
        """Refuse frames that have no frequencies, or fewer than a mask may be wide.

        Raises:
            ArgumentError: see there.
        """
        if len(dimensions) != 1:
            raise ArgumentError(
                f'augment: "{name}" has frames of shape {list(dimensions)}, expected [d]: SpecAugment masks time and frequency of [T, d]. '
                "Leave it out, or bring them into this shape by transform=."
            )
        if self.frequency_masks and self.frequency_width > dimensions[0]:
            raise ArgumentError(
                f'augment: frequency_width={self.frequency_width} is more than the {dimensions[0]} dimensions of "{name}". '
                f"Pass SpecAugment(frequency_width=...) of at most {dimensions[0]}, or frequency_masks=0."
            )


def masked(augment: SpecAugment, sequences: tf.RaggedTensor, fill: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """The frames `[N, d]` of the sequences, with their masks.

    Args:
        augment: how many masks, and how wide.
        sequences: `[B, None, d]`.
        fill: `[B, d]`, what masked values become.
        draws: int64 `[B, augment.draws]`, random numbers below 2**32.
    """
    import tensorflow as tf

    values, rows, lengths = sequences.values, sequences.value_rowids(), sequences.row_lengths()
    of_time, of_frequency = tf.split(draws, [2 * augment.time_masks, 2 * augment.frequency_masks], axis=1)
    share = tf.cast(tf.floor(augment.time_share * tf.cast(lengths, tf.float64)), tf.int64)
    begins, ends = _spans(lengths[:, None], tf.minimum(share, augment.time_width)[:, None], of_time)
    frames = tf.range(tf.size(rows, tf.int64)) - tf.gather(sequences.row_starts(), rows)
    hidden = _inside(frames[:, None], tf.gather(begins, rows), tf.gather(ends, rows))[:, None]
    size = values.shape[1]
    begins, ends = _spans(size, augment.frequency_width, of_frequency)
    bands = _inside(tf.range(size, dtype=tf.int64)[:, None], begins[:, None], ends[:, None])
    return tf.where(hidden | tf.gather(bands, rows), tf.gather(fill, rows), values)


def _spans(size: Any, widest: Any, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """int64 `[B, masks]`: where each mask begins and ends, for draws `[B, 2 * masks]`."""
    # A number below n from one below 2**32 by integers, which is the same everywhere; n is less than 2**31.
    widths = draws[:, 0::2] * (widest + 1) // 2**32
    begins = draws[:, 1::2] * (size - widths + 1) // 2**32
    return begins, begins + widths


def _inside(places: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """bool: whether a place is inside one of the spans along the last axis."""
    import tensorflow as tf

    return tf.reduce_any((places >= begins) & (places < ends), axis=-1)

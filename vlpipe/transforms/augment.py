"""SpecAugment: random masks of time and frequency, in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError

if TYPE_CHECKING:
    import tensorflow as tf

MAX_MASKS = 1000
MAX_WIDTH = 2**31 - 2
Fill = Literal["mean", "zero"]
FILLS = get_args(Fill)


@dataclass(frozen=True)
class SpecAugment:
    """Masks intervals of time and bands of frequency in each sequence `[T, d]`, new ones in every epoch.

    Each of the `time_masks` masks is w frames wide, w = 0, 1, ..., W with equal probability, where W = min(time_width, floor(time_share *
    T)), and begins at 0, 1, ..., T - w with equal probability. So a mask never extends beyond the true length, and a sequence of fewer
    than 1 / time_share frames has none. The `frequency_masks` masks are drawn alike, with frequency_width for W and d for T. Masks may
    overlap. They depend on (seed, epoch, record) alone, and each window has its own: they are the same on every machine, rank and
    engine, and after resuming.

    Park et al., SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition, Interspeech 2019, without time warping.
    The defaults are the paper's policy SM.

    Args:
        time_masks: number of time masks, 0 to 1000.
        time_width: maximum width of a time mask, in frames.
        time_share: maximum share of the length that one time mask may cover, 0 to 1.
        frequency_masks: number of frequency masks, 0 to 1000.
        frequency_width: maximum width of a frequency mask, in dimensions, at most d.
        fill: value of masked elements: "mean" of their dimension over the real frames of the sequence, or "zero".

    Raises:
        ArgumentError: a value is not allowed.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.random.normal(size=(900, 20)).astype("float32")}])
        >>> augment = vlpipe.SpecAugment(time_width=40, fill="zero")
        >>> [bool((x == 0).any()) for x, in vlpipe.make_dataset("data/train", augment=augment, seed=1).as_numpy_iterator()]
        [True]
    """

    time_masks: int = 2
    time_width: int = 70
    time_share: float = 0.2
    frequency_masks: int = 2
    frequency_width: int = 15
    fill: Fill = "mean"

    stage: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        for name, most in (
            ("time_masks", MAX_MASKS),
            ("time_width", MAX_WIDTH),
            ("frequency_masks", MAX_MASKS),
            ("frequency_width", MAX_WIDTH),
        ):
            object.__setattr__(self, name, integer(f"SpecAugment: {name}", getattr(self, name), 0, most))
        share = self.time_share
        if isinstance(share, (bool, np.bool_)) or not isinstance(share, (int, float, np.integer, np.floating)) or not 0 <= share <= 1:
            raise ArgumentError(f"SpecAugment: time_share came as {share!r}, expected a share of the length from 0 to 1.")
        object.__setattr__(self, "time_share", float(share))
        if self.fill not in FILLS:
            raise ArgumentError(f"SpecAugment: fill came as {self.fill!r}, expected one of {', '.join(map(repr, FILLS))}.")

    @property
    def draws(self) -> int:
        """Random numbers that a sequence needs: width and beginning of each mask, time masks first."""
        return 2 * (self.time_masks + self.frequency_masks)

    @property
    def makes_fractions(self) -> bool:
        """Whether it makes fractions of integers."""
        return self.fill == "mean"

    def check(self, name: str, dimensions: tuple[int, ...]) -> None:
        """Check that the masks fit the frames.

        Raises:
            ArgumentError: frames are not `[d]`, or a frequency mask may be wider than d.
        """
        if len(dimensions) != 1:
            raise ArgumentError(
                f'augment: "{name}" has frames of shape {list(dimensions)}, expected [d]: SpecAugment masks time and frequency of [T, d]. '
                "Leave augment out, or reshape the frames with transform=."
            )
        if self.frequency_masks and self.frequency_width > dimensions[0]:
            raise ArgumentError(
                f'augment: frequency_width={self.frequency_width} exceeds the {dimensions[0]} dimensions of "{name}". '
                f"Pass SpecAugment(frequency_width=...) of at most {dimensions[0]}, or frequency_masks=0."
            )


def masked(augment: SpecAugment, sequences: tf.RaggedTensor, fill: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """The masked frames `[N, d]` of the sequences.

    Args:
        augment: number and width of the masks.
        sequences: `[B, None, d]`.
        fill: `[B, d]`, values of masked elements.
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
    """int64 `[B, masks]`: begin and end of each mask, for draws `[B, 2 * masks]`."""
    # From a number below 2**32 to one below n (less than 2**31), by integer arithmetic, which is the same everywhere.
    widths = draws[:, 0::2] * (widest + 1) // 2**32
    begins = draws[:, 1::2] * (size - widths + 1) // 2**32
    return begins, begins + widths


def _inside(positions: tf.Tensor, begins: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """bool: whether a position is inside one of the spans along the last axis."""
    import tensorflow as tf

    return tf.reduce_any((positions >= begins) & (positions < ends), axis=-1)

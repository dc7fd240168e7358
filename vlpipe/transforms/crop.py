"""Cropping: at most so many frames of each sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError

MAX_FRAMES = 2**31 - 2


@dataclass(frozen=True)
class Crop:
    """At most `frames` frames of each sequence; shorter ones stay as they are.

    Args:
        frames: the most, >= 1.
        random: where they begin: False, at the beginning of the sequence; True, anywhere, each place as likely as another, drawn from
            (seed, epoch, record) alone.

    Raises:
        ArgumentError: a value is not one of these.

    Example:
        >>> vlpipe.make_dataset("data/train", crop=vlpipe.Crop(300, random=True))
    """

    frames: int
    random: bool = False

    def __post_init__(self) -> None:
        value = self.frames
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not 1 <= value <= MAX_FRAMES:
            raise ArgumentError(f"crop: frames came as {value!r}, expected an integer from 1 to {MAX_FRAMES}.")
        if not isinstance(self.random, (bool, np.bool_)):
            raise ArgumentError(f"crop: random came as {self.random!r}, expected True or False.")
        object.__setattr__(self, "frames", int(value))
        object.__setattr__(self, "random", bool(self.random))

    def firsts(self, left_out: Any, draws: Any) -> Any:
        """The first frame that is kept of each sequence, for NumPy and TensorFlow alike.

        Args:
            left_out: int64 `[n]`, how many frames of each are left out.
            draws: int64 `[n]`, a random number below 2**32 for each.
        """
        return draws * (left_out + 1) // 2**32 if self.random else left_out * 0

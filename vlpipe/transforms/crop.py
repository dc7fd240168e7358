"""Cropping: a limited number of frames of each sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.arguments import MAX_FRAMES, integer
from vlpipe.errors import ArgumentError


@dataclass(frozen=True)
class Crop:
    """At most `frames` frames of each sequence; shorter sequences are unchanged.

    Args:
        frames: maximum number of frames, >= 1.
        random: False: the first frames of the sequence; True: from a random position, all equally likely, drawn from (seed, epoch,
            record) alone.

    Raises:
        ArgumentError: a value is not allowed.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.ones((900, 2), np.float32)}])
        >>> dataset = vlpipe.make_dataset("data/train", crop=vlpipe.Crop(300, random=True))
        >>> [x.shape for x, in dataset.as_numpy_iterator()]
        [(1, 300, 2)]
    """

    frames: int
    random: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.random, (bool, np.bool_)):
            raise ArgumentError(f"crop: random came as {self.random!r}, expected True or False.")
        object.__setattr__(self, "frames", integer("crop: frames", self.frames, 1, MAX_FRAMES))
        object.__setattr__(self, "random", bool(self.random))

    def firsts(self, left_out: Any, draws: Any) -> Any:
        """The first frame of the crop of each sequence, for NumPy arrays and tensors alike.

        Args:
            left_out: int64 `[n]`, number of frames that are left out of each.
            draws: int64 `[n]`, a random number below 2**32 for each.
        """
        return draws * (left_out + 1) // 2**32 if self.random else left_out * 0

"""The samples of a recording themselves, in the place of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import AudioError

_MOST = 2.0  # the samples of an MP3 file exceed 1 by a quarter at most; integers that are stored as floats, by far more


@dataclass(frozen=True)
class Waveform:
    """The samples of a recording as int16 `[N, 1]`: round(32768 x), as in a WAV file of 16 bits, which is stored without a loss.

    `make_dataset(transform=vlpipe.audio.LogMel(...))` computes features of them during training.

    Args:
        sample_rate: in Hz.

    Raises:
        ArgumentError: the rate is not a positive integer.

    Example:
        >>> Waveform(8000)(np.array([-1, 0, 0.5, 1.1], np.float32)).tolist()
        [[-32768], [0], [16384], [32767]]
    """

    sample_rate: int = 16000

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "sample_rate",
            integer("sample_rate", self.sample_rate, 1, expected="a positive integer, the rate of the stored samples in Hz"),
        )

    @property
    def dim(self) -> int:
        """Numbers in a frame: 1, for a frame is a sample."""
        return 1

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The stored samples of a mono waveform, floats `[N]`; those beyond ±1 are clipped.

        Raises:
            AudioError: a sample is not finite, or so far beyond ±1 that the unit is another.
        """
        in_range = np.abs(samples) <= _MOST
        if not in_range.all():
            first = int(np.argmin(in_range))
            raise AudioError(
                f"sample {first} is {samples[first]}, expected floats in [-1, 1], of which 16 bits are stored. If they are integers stored "
                "as floats, convert the recording; else leave it out."
            )
        stored: np.ndarray = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)[:, None]
        return stored

    def settings(self) -> dict[str, Any]:
        """The entries of the metadata."""
        return {"sample_rate": self.sample_rate}

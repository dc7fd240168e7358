"""The samples of a recording themselves, in the place of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import AudioError, counted

_MOST = 2.0  # the samples of an MP3 file exceed 1 by a quarter at most; integers that are stored as floats, by far more


@dataclass(frozen=True)
class Waveform:
    """The samples of a recording as int16 `[N, channels]`: round(32768 x), as in a WAV file of 16 bits, which is stored without a loss.

    `make_dataset(transform=vlpipe.audio.LogMel(...))` computes features of them during training.

    Args:
        sample_rate: in Hz.
        channels: number of channels that are stored.

    Raises:
        ArgumentError: the rate or the number of channels is not a positive integer.

    Example:
        >>> Waveform(8000)(np.array([-1, 0, 0.5, 1.1], np.float32)).tolist()
        [[-32768], [0], [16384], [32767]]
    """

    sample_rate: int = 16000
    channels: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "sample_rate",
            integer("sample_rate", self.sample_rate, 1, expected="a positive integer, the rate of the stored samples in Hz"),
        )
        object.__setattr__(self, "channels", integer("Waveform: channels", self.channels, 1, 255))

    @property
    def dim(self) -> int:
        """Numbers in a frame: one for each channel, for a frame is a sample."""
        return self.channels

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The stored samples of a waveform, floats `[N]` or `[N, channels]`; those beyond ±1 are clipped.

        Raises:
            AudioError: the waveform has another number of channels; or a sample is not finite, or so far beyond ±1 that the unit is
                another.
        """
        samples = samples.reshape(len(samples), -1) if len(samples) else np.zeros((0, self.channels), np.float32)
        if samples.shape[1] != self.channels:
            raise AudioError(
                f"has {counted(samples.shape[1], 'channel')}, but the first recording has {self.channels}: all must have one number. Pass "
                'channels="mix" or "first", or leave it out.'
            )
        in_range = np.abs(samples) <= _MOST
        if not in_range.all():
            first, channel = np.unravel_index(int(np.argmin(in_range)), in_range.shape)
            raise AudioError(
                f"sample {first} is {samples[first, channel]}, expected floats in [-1, 1], of which 16 bits are stored. If they are "
                "integers stored as floats, convert the recording; else leave it out."
            )
        stored: np.ndarray = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
        return stored

    def settings(self) -> dict[str, Any]:
        """The entries of the metadata."""
        return {"sample_rate": self.sample_rate}

"""Which channels of a recording are kept: their mean, the first, or all of them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from vlpipe.errors import ArgumentError

Channels = Literal["mix", "first", "all"]
CHANNELS: tuple[Channels, ...] = get_args(Channels)


def check_channels(channels: Any) -> Channels:
    """Return `channels`.

    Raises:
        ArgumentError: it is none of `CHANNELS`.
    """
    if not isinstance(channels, str) or channels not in CHANNELS:
        raise ArgumentError(f'channels: came as {channels!r}, expected "mix" (their mean), "first" or "all".')
    return channels


def keep_channels(samples: np.ndarray, channels: Channels) -> np.ndarray:
    """Return the channels of a recording that are kept.

    Args:
        samples: float32 `[N, C]`.
        channels: "mix": the sum of the channels, added in float32 from the first to the last, divided by C; "first": the first one; "all":
            unchanged.

    Returns:
        float32 `[N]`, or `[N, C]` with "all".
    """
    if channels == "all":
        return samples
    if channels == "first" or samples.shape[1] == 1:
        return samples[:, 0]
    total = samples[:, 0] + samples[:, 1]
    for channel in range(2, samples.shape[1]):
        total += samples[:, channel]
    return total / np.float32(samples.shape[1])

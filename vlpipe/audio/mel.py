"""The triangular filters of a log-mel spectrum, for NumPy and for the graph alike."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from vlpipe.errors import ArgumentError

if TYPE_CHECKING:
    from vlpipe.audio.features import LogMel

_MAX_FFT = 1 << 14
_MAX_WEIGHTS = 1 << 25  # of all filters: 0.5 GB while they are computed; metadata may hold any settings


def upper_hz(features: LogMel) -> float:
    """Upper edge of the last filter in Hz."""
    return features.sample_rate / 2 if features.high_hz is None else features.high_hz


def hann(window: int) -> np.ndarray:
    """float64 `[W]`: the window by which each frame is multiplied."""
    weights: np.ndarray = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return weights


def cosines(mels: int, coefficients: int) -> np.ndarray:
    """float64 `[mels, coefficients]`: the orthonormal DCT-II of log-mel energies."""
    phase = np.pi / mels * np.outer(np.arange(mels) + 0.5, np.arange(coefficients))
    scale = np.where(np.arange(coefficients) == 0, 1, 2) / mels
    matrix: np.ndarray = np.cos(phase) * np.sqrt(scale)
    return matrix


@functools.lru_cache(maxsize=64)
def filters(features: LogMel) -> np.ndarray:
    """The triangles w, float64 [K, mels], for an FFT of 2 (K - 1) points."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (features.low_hz, upper_hz(features)))
    edges = 700 * (10 ** (np.linspace(low, high, features.mels + 2) / 2595) - 1)
    points = 1 << (features.window - 1).bit_length()
    while points <= max(_MAX_FFT, features.window * 2):
        resolution = features.sample_rate / points
        first_bin = (np.floor(edges[:-2] / resolution) + 1) * resolution  # above the lower edge of each filter
        if np.all(first_bin < edges[2:]):
            if points * features.mels > _MAX_WEIGHTS:
                raise ArgumentError(
                    f"mels: {features.mels} filters of an FFT of {points} points are too many to compute "
                    f"(window_ms={features.window_ms} at {features.sample_rate} Hz). Use fewer filters or a shorter window."
                )
            frequencies = np.arange(points // 2 + 1)[:, None] * resolution
            rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
            falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
            return np.maximum(0, np.minimum(rising, falling))
        points *= 2
    raise ArgumentError(
        f"mels: {features.mels} filters between {features.low_hz} and {upper_hz(features)} Hz are too narrow for the resolution of an FFT of "
        f"{_MAX_FFT} points. Use fewer filters or a wider band."
    )

"""The triangular filters of a log-mel spectrum, for NumPy and for the graph alike."""

from __future__ import annotations

import functools
import math

import numpy as np

from vlpipe.errors import ArgumentError

_MAX_FFT = 1 << 14
_MAX_WEIGHTS = 1 << 25  # of all filters: 0.5 GB while they are computed; metadata may hold any settings


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
def filters(sample_rate: int, window: int, mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """The triangles w, float64 [K, mels], for an FFT of 2 (K - 1) points.

    Args:
        window: samples in a frame.
        low_hz, high_hz: the lower edge of the first filter and the upper edge of the last.

    Raises:
        ArgumentError: they are too many, or too narrow.
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (low_hz, high_hz))
    edges = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    points = 1 << (window - 1).bit_length()
    while points <= max(_MAX_FFT, window * 2):
        resolution = sample_rate / points
        first_bin = (np.floor(edges[:-2] / resolution) + 1) * resolution  # above the lower edge of each filter
        if np.all(first_bin < edges[2:]):
            if points * mels > _MAX_WEIGHTS:
                raise ArgumentError(
                    f"mels: {mels} filters of an FFT of {points} points are too many to compute (frames of {window} samples at "
                    f"{sample_rate} Hz). Use fewer filters or a shorter window."
                )
            frequencies = np.arange(points // 2 + 1)[:, None] * resolution
            rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
            falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
            return np.maximum(0, np.minimum(rising, falling))
        points *= 2
    raise ArgumentError(
        f"mels: {mels} filters between {low_hz} and {high_hz} Hz are too narrow for the resolution of an FFT of {_MAX_FFT} points. Use "
        "fewer filters or a wider band."
    )

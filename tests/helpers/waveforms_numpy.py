"""NumPy references for the augmentations of waveforms, written independently of the library: one waveform at a time."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from tests.helpers.transforms_numpy import below, draw

GAIN, NOISE, SHIFT, FUNCTION = 73728, 81920, 90112, 98304


def between(bounds: tuple[float, float], number: int) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * number / 2**32


def gained(x: np.ndarray, augment: Any, draws: list[int]) -> np.ndarray:
    return x * np.float32(10 ** (between(augment.db, draws[0]) / 20))


def shifted(x: np.ndarray, augment: Any, draws: list[int]) -> np.ndarray:
    most = min(augment.most, max(len(x) - 1, 0))
    shift = below(2 * most + 1, draws[0]) - most
    out = np.zeros_like(x)
    for n in range(len(x)):
        if 0 <= n - shift < len(x):
            out[n] = x[n - shift]
    return out


def noise_for(n: int, recordings: list[np.ndarray], draws: list[int]) -> np.ndarray:
    """The n samples of noise that are added, before they are scaled; each recording, of at least one sample, is equally probable."""
    noise = recordings[below(len(recordings), draws[0])].reshape(-1)
    if len(noise) >= n:
        first = below(len(noise) - n + 1, draws[1])
        return noise[first : first + n]
    first = below(len(noise), draws[1])
    return np.array([noise[(first + i) % len(noise)] for i in range(n)])


def noised(x: np.ndarray, augment: Any, recordings: list[np.ndarray], draws: list[int]) -> np.ndarray:
    noise = noise_for(len(x), recordings, draws).astype(np.float64)
    if draws[3] >= augment.probability * 2**32 or not x.any() or not noise.any():
        return x
    speech = np.sum(x.astype(np.float64) ** 2)
    factor = np.sqrt(speech / (np.sum(noise**2) * 10 ** (between(augment.snr_db, draws[2]) / 10)))
    return x + (np.float32(factor) * noise.astype(x.dtype)).reshape(x.shape).astype(x.dtype)


def augmented_waveform(x: np.ndarray, number: int, seed: int, epoch: int, augments: list[Any], recordings: list[np.ndarray]) -> np.ndarray:
    """The waveform `[N]` or `[N, 1]` of floats after each of the augmentations, no two of a kind."""
    for augment in augments:
        kind = type(augment).__name__
        purpose, count = {"Gain": (GAIN, 1), "AddNoise": (NOISE, 4), "TimeShift": (SHIFT, 1)}[kind]
        draws = [draw(seed, epoch, purpose + k, number) for k in range(count)]
        if kind == "AddNoise":
            x = noised(x, augment, recordings, draws)
        else:
            x = gained(x, augment, draws) if kind == "Gain" else shifted(x, augment, draws)
    return x


def speeded_length(n: int, factor: float) -> int:
    """n / factor, rounded half up; at least one sample of at least one."""
    hundredths = round(factor * 100)
    return max(math.floor(Fraction(n * 100, hundredths) + Fraction(1, 2)), min(n, 1))


def speeded(x: np.ndarray, factor: float) -> np.ndarray:
    """The waveform `[N]` between its samples, one output sample at a time: a sinc of 92 % of the lower rate in a Kaiser window."""
    x = x.astype(np.float64)
    if factor == 1:
        return x
    lower = min(1.0, 1 / factor)
    out = np.zeros(speeded_length(len(x), factor))
    for m in range(len(out)):
        away = lower * (m * factor - np.arange(len(x))) / 32
        near = np.abs(away) < 1 - 1e-9
        weights = 0.92 * lower * np.sinc(0.92 * 32 * away[near]) * np.i0(8 * np.sqrt(1 - away[near] ** 2)) / np.i0(8)
        out[m] = np.sum(x[near] * weights)
    return out

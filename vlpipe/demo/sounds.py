"""Synthesise a small corpus of sounds in ten classes by ten players, whose lengths are independent of both; and noise."""

from __future__ import annotations

import re
import wave
from pathlib import Path

import numpy as np

import vlpipe

RATE = 16000
TIMBRES = {"flute": (1, 0.3, 0.1), "reed": (1, 0, 0.7, 0, 0.5)}  # strength of each harmonic
GESTURES = ("rising", "falling", "siren", "pulses", "trill")
PLAYERS = ("ada", "ben", "cleo", "dan", "eva", "fay", "gus", "hana", "ida", "jim")


def write_corpus(folder: Path, files: int) -> None:
    """Write WAV files of 0.3 to 3 s, as CLASS/PLAYER_NUMBER.wav: five gestures in two timbres, at random loudness, in noise.

    Each player has a pitch and a pace, and plays every class.
    """
    random = np.random.default_rng(0)
    classes = [(gesture, timbre) for gesture in GESTURES for timbre in TIMBRES]
    for number in range(files):
        gesture, timbre = classes[number % len(classes)]
        player = number // len(classes) % len(PLAYERS)
        samples = _sound(gesture, TIMBRES[timbre], player / (len(PLAYERS) - 1), random)
        path = folder / f"{timbre}-{gesture}" / f"{PLAYERS[player]}_{number:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((samples * 32767).astype("<i2").tobytes())


def is_of_corpus(path: str) -> bool:
    """Whether a path relative to the folder is one that `write_corpus` writes."""
    classes = "|".join(f"{timbre}-{gesture}" for gesture in GESTURES for timbre in TIMBRES)
    return re.fullmatch(rf"({classes})/({'|'.join(PLAYERS)})_[0-9]{{4,}}\.wav", path) is not None


def write_noise(directory: Path, rate: int, seconds: float = 10.0) -> None:
    """Write a vlpipe dataset of noise as waveforms: white, pink and brown, whose power falls by 0, 3 and 6 dB an octave."""
    random = np.random.default_rng(0)

    def noise(slope: float) -> np.ndarray:
        spectrum = np.fft.rfft(random.standard_normal(int(rate * seconds)))
        samples = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** slope)
        return (samples / np.abs(samples).max()).astype(np.float32)

    vlpipe.write(directory, ({"features": noise(slope)} for slope in (0, 0.5, 1)), overwrite=True)


def _sound(gesture: str, harmonics: tuple[float, ...], player: float, random: np.random.Generator) -> np.ndarray:
    """One sound; `player`, from 0 to 1, sets its pitch and pace."""
    count = int(RATE * random.uniform(0.3, 3.0))
    time = np.arange(count) / RATE
    cycle = 2 * np.pi * (4 + 2.5 * (player * 7 % 1) + random.uniform(0, 0.5)) * time + random.uniform(0, 2 * np.pi)
    sweep = (time * random.uniform(1.5, 3) + random.uniform()) % 1  # repeatedly from 0 to 1
    octaves = {
        "rising": sweep,
        "falling": 1 - sweep,
        "siren": 0.5 + 0.5 * np.sin(cycle),
        "pulses": np.full(count, random.uniform()),
        "trill": 0.5 + 0.25 * np.sign(np.sin(cycle)),
    }[gesture]
    phase = 2 * np.pi * np.cumsum((200 + 180 * player + random.uniform(0, 20)) * 2**octaves) / RATE
    tone = sum(strength * np.sin((number + 1) * phase) for number, strength in enumerate(harmonics))
    if gesture == "pulses":
        tone = tone * (np.sin(cycle) > 0)
    sound = random.uniform(0.1, 0.4) * tone + random.uniform(0.002, 0.03) * random.standard_normal(count)
    return np.clip(sound, -1, 1)

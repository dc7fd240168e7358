"""Small audio files for the tests, and a way to ingest them without the seconds it takes to start worker processes."""

from __future__ import annotations

import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RATE = 8000


def tone(seconds: float, pitch: float = 440.0) -> np.ndarray:
    """A sine wave, float64 [N]."""
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)


def write_wav(path: Path, seconds: float = 0.1, pitch: float = 440.0) -> Path:
    """Write a sine wave as a mono 16-bit WAV file; create folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((tone(seconds, pitch) * 32767).astype("<i2").tobytes())
    return path


def write_tones(folder: Path, names: list[str]) -> Path:
    """Write WAV files of different lengths and pitches, which depend only on their names."""
    for name in names:
        number = sum(name.encode())
        write_wav(folder / name, 0.05 + number % 7 / 50, 200 + number % 31 * 20)
    return folder


def work_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace worker processes by threads."""

    class Threads(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: Any) -> None:
            super().__init__(workers)

    monkeypatch.setattr("vlpipe.processes.Pool", Threads)

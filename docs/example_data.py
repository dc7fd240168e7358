"""Write a folder of short recordings for the pages of this documentation: `python docs/example_data.py [FOLDER]`, a second of work.

Six speakers say ten "digits" four times each: FOLDER/ann_seven_2.wav is the third time that ann says seven. A digit is a melody of three
tones, a speaker has a pitch, and each recording its own speed (0.3 to 1.2 s at 8 kHz), so that lengths differ within every class.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np

SPEAKERS = {"ann": 1.0, "bob": 0.9, "cem": 0.95, "dana": 1.12, "eve": 1.06, "finn": 0.92}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TAKES, RATE = 4, 8000


def write_recordings(folder: Path) -> None:
    """Write 240 WAV files, always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    melodies = 2 ** random.uniform(-1, 1, (10, 3))  # of each digit, relative to the pitch of the speaker
    for speaker, pitch in SPEAKERS.items():
        for digit, melody in zip(DIGITS, melodies, strict=True):
            for take in range(TAKES):
                count = int(RATE * random.uniform(0.1, 0.4))  # samples of a tone
                phase = 2 * np.pi * np.cumsum(np.repeat(700 * pitch * melody, count)) / RATE
                sound = 0.3 * np.sin(phase) + 0.1 * np.sin(2 * phase) + 0.01 * random.standard_normal(3 * count)
                with wave.open(str(folder / f"{speaker}_{digit}_{take}.wav"), "wb") as file:
                    file.setparams((1, 2, RATE, 0, "NONE", ""))
                    file.writeframes((sound * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    write_recordings(Path(sys.argv[1] if len(sys.argv) > 1 else "recordings"))

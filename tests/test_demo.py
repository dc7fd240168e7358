"""The demo with few sounds and epochs; and its classes cannot be distinguished by length or loudness."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthesis import write_corpus

ROOT = Path(__file__).parents[1]


def run_demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in its own directory, without the log level that the tests set."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-m", "benchmarks.demo", *arguments]
    result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    # TensorFlow 2.21 logs two lines that no setting silences.
    result.stderr = re.sub(r"(WARNING: All log messages before absl|I0000 ).*\n", "", result.stderr)
    return result


def accuracy_of(result: subprocess.CompletedProcess[str]) -> float:
    assert (result.returncode, result.stderr) == (0, "")
    last = re.fullmatch(r"held-out accuracy: (\d+\.\d) %", result.stdout.splitlines()[-1])
    assert last, result.stdout
    return float(last[1])


def test_the_demo_with_synthesised_sounds_and_with_a_folder(tmp_path: Path) -> None:
    result = run_demo(tmp_path, "--files", "200", "--epochs", "25")
    assert accuracy_of(result) > 40  # chance is 10; the full demo, with four times the sounds, reaches 98
    for split in ("train", "val"):
        assert re.search(rf"^demo-output/data/{split}: \d+ records, ", result.stdout, re.MULTILINE)
    assert "10 classes: flute-falling, " in result.stdout
    assert re.search(r"^valid frames +\d+\.\d%", result.stdout, re.MULTILINE)
    assert re.search(r"^reading: [\d,]+ records/s$", result.stdout, re.MULTILINE)
    padding = re.search(r"^padding: (\S+)% of all frames with buckets, (\S+)% with plain padded batches$", result.stdout, re.MULTILINE)
    assert padding
    assert float(padding[1]) <= float(padding[2])  # equal: so few sounds fill only one bucket
    assert (tmp_path / "demo-output/plan.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "demo-output/audio").rglob("*.wav"))) == 200

    flat = tmp_path / "flat/my_audio"
    flat.mkdir(parents=True)
    for number in range(40):
        for path in (tmp_path / "demo-output/audio").glob(f"*/{number:04d}.wav"):
            path.rename(flat / f"{path.parent.name}_{path.name}")
    result = run_demo(tmp_path, "--data", "flat", "--epochs", "1", "--on-the-fly")
    assert 0 <= accuracy_of(result) <= 100
    assert "10 classes: flute-falling, flute-pulses" in result.stdout
    assert "40 files in " in result.stdout


def test_a_folder_without_recordings_gives_one_message(tmp_path: Path) -> None:
    result = run_demo(tmp_path, "--data", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == f"demo: {tmp_path} holds no WAV, FLAC, Ogg or MP3 files. Pass another folder: make demo DATA=DIR\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The class and the duration in seconds of each of 400 sounds, and the sounds."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, 400)
    names, sounds = [], []
    for path in sorted(folder.rglob("*.wav")):
        with wave.open(str(path)) as file:
            sounds.append(np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768)
            names.append(path.parent.name)
    _, classes = np.unique(names, return_inverse=True)
    return classes, np.array([len(sound) / 16000 for sound in sounds]), sounds


def nearest_class_mean(classes: np.ndarray, values: np.ndarray) -> float:
    """Accuracy on half of the sounds of a classifier by the nearest class mean, learnt from the other half."""
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    learn = np.arange(len(classes)) % 2 == 0
    means = np.stack([values[learn & (classes == number)].mean(axis=0) for number in range(10)])
    predicted = np.argmin(((values[~learn, None] - means) ** 2).sum(axis=2), axis=1)
    return float(np.mean(predicted == classes[~learn]))


def test_lengths_differ_but_do_not_predict_the_class(corpus: tuple[np.ndarray, np.ndarray, list[np.ndarray]]) -> None:
    classes, seconds, _ = corpus
    assert np.bincount(classes).tolist() == [40] * 10
    assert seconds.min() < 0.4
    assert seconds.max() > 2.9
    assert nearest_class_mean(classes, seconds[:, None]) < 0.2


def test_loudness_hardly_predicts_the_class(corpus: tuple[np.ndarray, np.ndarray, list[np.ndarray]]) -> None:
    classes, _, sounds = corpus
    loudness = np.array([[np.std(sound), np.abs(sound).max()] for sound in sounds])
    assert nearest_class_mean(classes, loudness) < 0.35


def test_the_sounds_are_reproducible(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a", 10)
    write_corpus(tmp_path / "b", 10)
    for path in (tmp_path / "a").rglob("*.wav"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()

"""`vlpipe demo` with few sounds and epochs; what it finds in file names; and its classes cannot be distinguished by length or loudness."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.cli.test_cli import run
from vlpipe.cli.demonstration import _forecast, _synthesised
from vlpipe.demo.names import naming_of
from vlpipe.demo.sounds import PLAYERS, write_corpus
from vlpipe.ingest import label_by_parent, label_by_regex
from vlpipe.ingest.recordings import Recording

ROOT = Path(__file__).parents[1]


def run_demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in its own directory, without the log level that the tests set."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-m", "vlpipe.cli", "demo", *arguments]
    result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    # TensorFlow 2.21 logs two lines that no setting silences.
    result.stderr = re.sub(r"(WARNING: All log messages before absl|I0000 ).*\n", "", result.stderr)
    return result


def accuracy_of(result: subprocess.CompletedProcess[str], split: str) -> float:
    assert (result.returncode, result.stderr) == (0, "")
    last = re.fullmatch(rf"held-out accuracy: (\d+\.\d)%, {split}", result.stdout.splitlines()[-1])
    assert last, result.stdout
    return float(last[1])


@pytest.mark.usefixtures("quick_graphs")
def test_the_demo_with_synthesised_sounds_and_with_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_demo(tmp_path, "--files", "200", "--epochs", "6")
    assert accuracy_of(result, "by speaker") > 30  # chance is 10, 55 were measured; the full demo, with four times the sounds, reaches 100
    for split in ("train", "val"):
        assert re.search(rf"^demo-output/data/{split}: \d+ records, ", result.stdout, re.MULTILINE)
    assert "10 classes: flute-falling, " in result.stdout
    assert "split: by speaker, part 1 of the file names (ada, ben, cleo, …): " in result.stdout
    assert re.search(r"^valid frames +\d+\.\d%", result.stdout, re.MULTILINE)
    assert re.search(r"^reading: [\d,]+ records/s$", result.stdout, re.MULTILINE)
    padding = re.search(r"^padding: (\S+)% of all frames with buckets, (\S+)% with plain padded batches$", result.stdout, re.MULTILINE)
    assert padding
    assert float(padding[1]) <= float(padding[2])  # equal: so few sounds fill only one bucket
    assert (tmp_path / "demo-output/plan.png").read_bytes().startswith(b"\x89PNG")
    sounds = tmp_path / "demo-output/audio"
    assert len(list(sounds.rglob("*.wav"))) == 200
    train, val = (vlpipe.open(tmp_path / "demo-output/data" / name) for name in ("train", "val"))
    heard, scored = (set(source.table()["speaker"]) for source in (train, val))
    assert (heard | scored, heard & scored, len(scored)) == (set(PLAYERS), set(), 2)

    flat = tmp_path / "flat/my_audio"
    flat.mkdir(parents=True)
    for path in sounds.rglob("*.wav"):
        if (number := int(path.stem.split("_")[1])) < 40:
            path.rename(flat / f"{path.parent.name}_{number:04d}.wav")
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--data", "flat", "--epochs", "1", "--on-the-fly")  # in this process, where TensorFlow is loaded
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search(r"^held-out accuracy: \d+\.\d%, by recording$", result.stdout, re.MULTILINE)
    assert "10 classes: flute-falling, flute-pulses" in result.stdout
    assert "40 files in " in result.stdout
    assert "label: part 1 of the file names\n       (of another part of the names: --data DIR --label-regex REGEX" in result.stdout
    assert "split: by recording, as the names tell no speaker: " in result.stdout
    assert {path.name for path in (tmp_path / "demo-output").iterdir()} == {"audio", "data", "noise", "plan.png"}


def test_what_cannot_be_used_gives_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--data", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"vlpipe: {tmp_path}: contains 0 files, none of which ends in .wav, ")
    result = run("demo", "--label-regex", "(a)")
    assert result.exit_code == 2
    assert "--label-regex says where the names of --data have the label: pass --data DIR too." in result.stderr
    Path("demo-output").touch()
    result = run("demo", "--files", 20)
    assert (result.exit_code, "demo-output/audio: cannot be made (" in result.stderr) == (1, True)


def test_recordings_that_give_no_model_are_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "sounds", 20)
    sounds = sorted((tmp_path / "sounds").rglob("*.wav"))
    for number, sound in enumerate(sounds):
        copy = tmp_path / "days" / ("20200101", "20221231")[number % 2] / f"{number}.wav"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(sound.read_bytes())
    result = run("demo", "--data", tmp_path / "days")
    assert result.exit_code == 1
    assert "demo: the labels are the numbers 20200101 to 20221231, expected classes from 0 to 9999. Pass --label-regex" in result.stderr
    (tmp_path / "one").mkdir()
    (tmp_path / "one/yes_1.wav").write_bytes(sounds[0].read_bytes())
    result = run("demo", "--data", tmp_path / "one")
    assert result.exit_code == 1
    assert "has no recordings after the split, expected some in both parts. Pass more recordings." in result.stderr


def test_the_sounds_of_an_earlier_demo_are_replaced_and_no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("demo-output/audio")
    for files in (30, 20):
        assert _synthesised(folder, files) == folder
        assert len(list(folder.rglob("*.wav"))) == files
    for name in (".DS_Store", "bell-rising/.DS_Store", "._bell-rising", "Thumbs.db", "flute-pulses/.nomedia"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"of a file manager")
    _synthesised(folder, 20)
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 20
    (folder / ".git").mkdir()
    for name, make in ((".git/config", Path.touch), (".link", lambda path: path.symlink_to(tmp_path))):
        make(folder / name)
        with pytest.raises(vlpipe.DatasetExistsError, match=f"because it holds {re.escape(name)}, which is no sound of an earlier demo"):
            _synthesised(folder, 20)
        (folder / name).unlink()
    mine = folder / "trills/eva_0001.wav"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    result = run("demo", "--files", 20)
    assert result.exit_code == 1
    assert "not replaced, because it holds trills/eva_0001.wav, which is no sound of an earlier demo. Choose" in result.stderr
    assert (mine.read_bytes(), len(list(folder.rglob("*.wav")))) == (b"mine", 21)
    assert [path.name for path in folder.parent.iterdir()] == ["audio"]


def test_a_picture_of_the_user_is_kept(tmp_path: Path) -> None:
    frames = [{"features": np.ones((t, 2), np.float32)} for t in range(1, 9)]
    vlpipe.write(tmp_path / "data", frames)
    other = tmp_path / "mine.png"
    other.write_bytes(b"mine")
    for _ in range(2):
        _forecast(str(tmp_path / "data"), tmp_path, {})
        assert [path.name for path in tmp_path.glob("plan*")] == ["plan.png"]
    (tmp_path / "plan.png").write_bytes(b"mine")
    (tmp_path / "plan-2.png").symlink_to(other)
    for _ in range(2):
        _forecast(str(tmp_path / "data"), tmp_path, {})
        assert sorted(path.name for path in tmp_path.glob("plan*")) == ["plan-2.png", "plan-3.png", "plan.png"]
    assert (tmp_path / "plan.png").read_bytes() == other.read_bytes() == b"mine"
    assert (tmp_path / "plan-3.png").read_bytes().startswith(b"\x89PNG")


SPEAKERS = ("ann", "bob", "eve")
NAMES = {  # the paths, and the label and the speaker of the second
    "speech commands": ([f"{word}/{who}{n}_nohash_{n}.wav" for word in ("no", "yes") for who in "abc" for n in (0, 0)], ("no", "a0")),
    "spoken digits": ([f"{digit}_{who}_{n}.wav" for digit in "012" for who in SPEAKERS for n in "01"], ("0", "ann")),
    "speaker last": ([f"x_y/{n}/{n % 3}_{n}_{who}.2.wav" for n in range(9) for who in SPEAKERS], ("0", "bob.2")),
    "numbers": ([f"{digit}_{who}.wav" for digit in "0123" for who in range(9)], ("0", None)),
    "two speakers": ([f"{digit}_{who}_{n}.wav" for digit in "0123" for who in "ab" for n in "01"], ("0", None)),
    "each label once": ([f"{who}_{who}_{n}.wav" for who in SPEAKERS for n in range(9)], ("ann", None)),
    "folders": ([f"{word}/{n}.wav" for word in ("no", "yes") for n in range(9)], ("no", None)),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_label_and_the_speaker_are_found_in_the_names(name: str) -> None:
    paths, expected = NAMES[name]
    naming = naming_of(paths)
    recordings = [Recording(Path(path), path) for path in paths]
    if naming.options == ["--label-from-parent"]:
        found = label_by_parent(recordings)
    else:
        assert naming.options[0] == "--label-regex"
        found = label_by_regex(recordings, naming.options[1], "speaker" if naming.speaker else None)
    assert (found[1].label, found[1].texts.get("speaker")) == expected
    assert (naming.speaker is None) == (expected[1] is None) == ("--split-by" not in naming.options)


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

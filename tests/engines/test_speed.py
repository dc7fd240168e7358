"""SpeedPerturb through `make_dataset`, on every engine, compared with NumPy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.engines.test_augment import ENGINES, NOISES, delivered, waveforms, written
from tests.helpers.resuming import hashes_of
from tests.helpers.transforms_numpy import cropped, draw
from tests.helpers.waveforms_numpy import augmented_waveform, speeded, speeded_length
from vlpipe import ArgumentError, SpeedPerturb
from vlpipe.planning.splitmix import part_numbers

pytestmark = pytest.mark.usefixtures("quick_graphs")

FACTORS = (1.1, 1.0, 0.9)
LENGTHS = [0, 1, 40, 55, 7, 160]


def copies_of(dataset: tf.data.Dataset) -> dict[int, dict[int, np.ndarray]]:
    """The delivered frames by record and length, of an epoch; without padding."""
    found: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for x, y in dataset:
        for number, label, length, frames in zip(x["id"].numpy(), y.numpy(), x["lengths"].numpy(), x["features"].numpy(), strict=True):
            assert (frames[length:] == -7.5).all()
            assert label == number
            found[int(number)].setdefault(int(length), frames[:length])
    return found


def number_of(row: int, copy: int) -> int:
    """From which a copy of a record draws."""
    return (row + int(part_numbers(np.array([copy * 2**32]))[0])) % 2**64


@pytest.mark.parametrize(("dtype", "shape", "engine"), [("float32", (), "graph"), ("int16", (1,), "stream")])
def test_each_record_comes_at_each_speed_as_by_numpy_and_alike_on_every_engine(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], engine: str
) -> None:
    speech, noise = waveforms(LENGTHS, dtype, shape), waveforms(NOISES, "float32", (1,), seed=1)
    source = written(tmp_path / "speech", speech)
    augments = [vlpipe.AddNoise(written(tmp_path / "noise", noise)), SpeedPerturb(FACTORS), vlpipe.TimeShift(9)]
    named = "float64" if shape else "float32"
    datasets = [delivered(source, augments, engine=of, dtype=named, length_range=(0, None)) for of in ("mapped", engine)]
    plan = vlpipe.plan(source, augment=augments, batch_size=4, length_range=(0, None))
    assert (plan.records, len(datasets[0]), plan.steps_per_epoch) == (3 * len(LENGTHS), 5, 5)
    for epoch in range(2):
        each = [copies_of(dataset) for dataset in datasets]
        for row, x in enumerate(speech):
            assert sorted(each[0][row]) == sorted({speeded_length(len(x), factor) for factor in FACTORS})
            for copy, factor in enumerate(FACTORS) if len(x) > 9 else ():
                number = number_of(row, copy)
                noisy = augmented_waveform(x.astype(named), number, 5, epoch, augments[:1], noise).reshape(-1)
                should = augmented_waveform(speeded(noisy, factor), number, 5, epoch, augments[2:], noise).reshape(-1, *shape)
                found = each[0][row][len(should)]
                assert found.dtype == named
                np.testing.assert_allclose(found, should, rtol=2e-6, atol=2e-6 * float(np.abs(x).max()))
            for other in each[1:] if len(x) > 9 else ():
                assert all(np.array_equal(other[row][length], frames) for length, frames in each[0][row].items())


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_features_crops_and_normalisation_get_the_copies_and_the_plan_knows_their_lengths(tmp_path: Path, engine: str) -> None:
    lengths = [900, 2500, 700, 1300]  # of which no two copies have equally many frames
    random, log_mel = np.random.default_rng(2), vlpipe.audio.LogMel(sample_rate=8000, mels=8)
    speech = [random.integers(-9999, 9999, n).astype("int16") for n in lengths]
    source = written(tmp_path / "speech", speech)
    arguments: dict[str, Any] = {"transform": log_mel, "crop": vlpipe.Crop(1000, random=True), "engine": engine}
    dataset = delivered(source, SpeedPerturb(FACTORS), **arguments)
    found = copies_of(dataset)
    for row, x in enumerate(speech):
        for copy, factor in enumerate(FACTORS):
            part = cropped(x, 1000, draw(5, 0, 3, number_of(row, copy)))
            should = log_mel(speeded((part / 32768).astype(np.float32), factor).astype(np.float32))
            np.testing.assert_allclose(found[row][len(should)], should, rtol=1e-4, atol=1e-4)
    plan = vlpipe.plan(source, augment=SpeedPerturb(FACTORS), transform=log_mel, crop=1000, batch_size=4)
    assert sorted(plan.frames.tolist()) == sorted(len(frames) for copies in found.values() for frames in copies.values())


def test_copies_that_the_transform_leaves_no_frame_of_are_left_out_and_selections_keep_their_records(tmp_path: Path) -> None:
    source = vlpipe.open(written(tmp_path / "speech", waveforms([50, 95, 20, 200, 300])))
    halves = vlpipe.Transform(lambda x: x[100:], frames=lambda t: np.maximum(t - 100, 0))
    for engine in ENGINES[::2]:
        arguments: dict[str, Any] = {"engine": engine, "out_of_range": "drop", "length_range": (30, None)}
        dataset = delivered(source.select(rows=[1, 2, 3, 4]), SpeedPerturb(FACTORS), transform=halves, **arguments)
        found = [(int(number), int(length)) for x, _ in dataset for number, length in zip(x["id"], x["lengths"], strict=True)]
        assert sorted(found) == [(1, 6), (3, 82), (3, 100), (3, 122), (4, 173), (4, 200), (4, 233)]
        whole = vlpipe.make_dataset(source.select(rows=[0, 1, 3]), ids=True, **arguments | {"length_range": (80, None)}, seed=1)
        assert sorted(int(number) for x, _ in whole for number in x["id"]) == [1, 3]


def test_a_mix_draws_copies_and_each_has_its_own_numbers(tmp_path: Path) -> None:
    sources = [vlpipe.open(written(tmp_path / name, waveforms([64] * 6, seed=seed))) for seed, name in enumerate("ab")]
    mixed = vlpipe.mix([(sources[0], 2), (sources[1], 1)], records=54)
    augments = [SpeedPerturb((0.8, 1.0)), vlpipe.Gain()]
    seen = {}
    for engine in ("mapped", "graph"):
        dataset = delivered(mixed, augments, engine=engine, batch_size=5)
        batches = [x for x, _ in dataset]
        rows = [frames.tobytes() for x in batches for frames in x["features"].numpy()]
        lengths = [int(length) for x in batches for length in x["lengths"]]
        assert (len(rows), len(set(rows)), lengths.count(80), lengths.count(64)) == (54, 54, 27, 27)
        seen[engine] = rows
    assert seen["mapped"] == seen["graph"]


def augments_of(of_noise: str) -> list[Any]:
    return [vlpipe.AddNoise(of_noise), SpeedPerturb(), vlpipe.Gain(), vlpipe.TimeShift(9)]


def resumed(source: str, of_noise: str, state: dict[str, Any], engine: Any = "auto") -> list[str]:
    """The five batches after a state."""
    arguments: dict[str, Any] = {"augment": augments_of(of_noise), "batch_size": 4, "seed": 2}
    return hashes_of(vlpipe.make_dataset(source, repeat=True, resume=state, engine=engine, **arguments), 5)


def test_a_resumed_run_has_the_same_copies_here_and_in_another_process(tmp_path: Path) -> None:
    source, of_noise = written(tmp_path / "speech", waveforms(LENGTHS[1:])), written(tmp_path / "noise", waveforms(NOISES, seed=1))
    arguments: dict[str, Any] = {"augment": augments_of(of_noise), "batch_size": 4, "seed": 2}
    whole = hashes_of(vlpipe.make_dataset(source, repeat=True, **arguments), 10)
    assert len(set(whole)) == 10
    state = vlpipe.plan(source, **arguments).state(1, 1)
    program = "import json, sys; from tests.engines.test_speed import resumed; print(json.dumps(resumed(*json.loads(sys.argv[1]))))"
    call = [sys.executable, "-c", program, json.dumps([source, of_noise, state])]
    assert json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()[-1]) == whole[5:]
    assert resumed(source, of_noise, state, "graph") == whole[5:]
    other = [vlpipe.AddNoise(of_noise), SpeedPerturb((0.9, 1.0)), vlpipe.Gain(), vlpipe.TimeShift(9)]
    with pytest.raises(ArgumentError, match=r"augment is .* SpeedPerturb\(factors=\(0.9, 1.0, 1.1\)\), Gain"):
        vlpipe.make_dataset(source, repeat=True, resume=state, **arguments | {"augment": other})
    report = vlpipe.plan(source, **arguments).report()
    assert "samples: SpeedPerturb(factors=(0.9, 1.0, 1.1))" in report
    assert "5 records, each at 3 speeds" in report


def test_tones_change_their_frequency_and_nothing_is_mirrored_into_the_band(tmp_path: Path) -> None:
    time = np.arange(4000) / 8000
    tones = [np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (500, 3900)]
    source = written(tmp_path / "tones", tones)
    found = copies_of(delivered(source, SpeedPerturb((1.25, 0.8))))
    for factor in (1.25, 0.8):
        length = speeded_length(4000, factor)
        wave = np.sin(2 * np.pi * 500 * factor * np.arange(length) / 8000)
        np.testing.assert_allclose(found[0][length][100:-100], wave[100:-100], atol=2e-4)
    assert np.abs(found[1][3200][100:-100]).max() < 5e-4  # 4,875 Hz, which 8 kHz cannot hold


def test_what_it_refuses(tmp_path: Path) -> None:
    for factors in (0.9, (), "09", (0.4,), (2.1,), ("fast",), (0.9,) * 17, (0.9, 0.9), (0.955,), (1.0, 1), (float("nan"),)):
        with pytest.raises(
            ArgumentError, match="SpeedPerturb: factors: came as .*, expected up to 16 different numbers from 0.5 to 2 with"
        ):
            SpeedPerturb(factors)  # type: ignore[arg-type]
    source = written(tmp_path / "speech", waveforms([50]))
    aligned = str(tmp_path / "aligned")
    schema = vlpipe.Schema(audio=vlpipe.Sequence((), "float32"), vad=vlpipe.Sequence((), "int64", aligned=True))
    vlpipe.write(aligned, [{"audio": np.ones(5, np.float32), "vad": np.ones(5, np.int64)}], schema)
    cases: list[tuple[str, dict[str, Any], str]] = [
        (aligned, {"features": "audio"}, r"SpeedPerturb moves the samples of \"audio\", but \['vad'\] have one value for each of them"),
        (source, {"windows": 20}, "windows: SpeedPerturb would make windows of different lengths. Leave one out"),
        (source, {"augment": [SpeedPerturb(), SpeedPerturb((0.5,))]}, "augment: has several vlpipe.SpeedPerturb, expected one"),
    ]
    for data, arguments, said in cases:
        with pytest.raises(ArgumentError, match=said):
            vlpipe.plan(data, **{"augment": SpeedPerturb()} | arguments)

"""Augmentations and features of odd waveforms: order, full scale, silence, sample rates, and values that a dtype does not hold."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import vlpipe
from tests.engines.test_augment import ENGINES, delivered, epoch_of, waveforms, written
from vlpipe import AddNoise, ArgumentError, DatasetError, Gain, SpecAugment, SpeedPerturb, TimeShift
from vlpipe.audio import Augment, LogMel

pytestmark = pytest.mark.usefixtures("quick_graphs")

LOG_MEL = LogMel(sample_rate=8000, mels=8)


def test_a_list_in_another_order_than_that_of_the_stages_is_the_same_run(tmp_path: Path) -> None:
    source, of_noise = written(tmp_path / "speech", waveforms([900, 400])), written(tmp_path / "noise", waveforms([300], seed=1))
    masks, mixed = SpecAugment(1, 5, 1.0, 1, 2), vlpipe.Mixup(0.2, classes=2)
    orders = [[AddNoise(of_noise), Gain(), masks, mixed], [mixed, masks, AddNoise(of_noise), Gain()]]
    plans = [vlpipe.plan(source, augment=augment, transform=LOG_MEL, seed=5) for augment in orders]
    assert plans[0].report() == plans[1].report()
    rows = [
        line.strip() for line in plans[1].report().splitlines() if any(f"{stage}: " in line for stage in ("samples", "features", "batch"))
    ]
    assert [row.split(": ")[1].split("(")[0] for row in rows] == ["AddNoise", "Gain", "SpecAugment", "Mixup"]
    assert plans[0].state(0, 0) == plans[1].state(0, 0)
    first, second = (epoch_of(delivered(source, augment, transform=LOG_MEL)) for augment in orders)
    assert all(np.array_equal(first[number], second[number]) for number in range(2))
    within = vlpipe.plan(source, augment=[Gain(), AddNoise(of_noise)], transform=LOG_MEL, seed=5)
    assert within.state(0, 0)["augment"] != vlpipe.plan(source, augment=[AddNoise(of_noise), Gain()], seed=5).state(0, 0)["augment"]


@pytest.mark.parametrize("engine", ENGINES)
def test_full_scale_and_no_samples(tmp_path: Path, engine: str) -> None:
    speech = [np.array(values, np.int16) for values in ([-32768] * 400, [-32768, 32767] * 300, [], [-32768])]
    source = written(tmp_path / "speech", speech)
    whole: dict[str, Any] = {"engine": engine, "length_range": (0, None)}
    found = epoch_of(delivered(source, Gain((0, 0)), transform=LOG_MEL, **whole))
    for number, x in enumerate(speech):
        np.testing.assert_allclose(found[number], LOG_MEL((x / 32768).astype(np.float32)), rtol=1e-4)
    if engine == "mapped":  # all engines call the same functions of them; `TimeShift` and `Gain` alike on each: `test_augment.py`
        found = epoch_of(delivered(source, [TimeShift(2**31 - 2), Gain((20, 20))], **whole))
        assert [sorted(set(np.abs(found[number]).tolist()) - {0.0}) for number in (0, 2, 3)] == [[327680.0], [], [327680.0]]
    found = epoch_of(delivered(source, SpeedPerturb((2.0,)), **whole))
    assert [len(found[number]) for number in range(4)] == [200, 300, 0, 1]


def test_noise_of_one_value_of_full_scale_and_of_silence(tmp_path: Path) -> None:
    source = written(tmp_path / "speech", [np.ones(50, np.float32)])
    for number, (dtype, value) in enumerate((("int16", -32768), ("int32", -(2**31)), ("int64", -(2**63)), ("float16", 6e-8))):
        augment = AddNoise(written(tmp_path / f"noise{number}", [np.full(3, value, dtype)]), snr_db=(20, 20))
        np.testing.assert_allclose(epoch_of(delivered(source, augment))[0], 1 + np.sign(value) * 0.1, rtol=1e-6)
    silent = AddNoise(written(tmp_path / "silent", [np.zeros(9, np.int16), np.zeros(0, np.int16)]))
    with pytest.raises(DatasetError, match="AddNoise: all 9 samples of the noise are 0, so that there is nothing to add. Pass recordings"):
        vlpipe.make_dataset(source, augment=silent, seed=1)


def test_a_sample_rate_is_known_as_a_float_and_of_datasets_that_are_joined(tmp_path: Path) -> None:
    speech = waveforms([900, 400])
    rates: dict[str, Any] = {"slow": 8000, "fast": 16000.0, "unknown": "8000", "other": True, "nan": float("inf")}
    sources = {name: written(tmp_path / name, speech, sample_rate=rate) for name, rate in list(rates.items())[:4]}
    known = {name: vlpipe.plan(source).index.sample_rates for name, source in sources.items()}
    assert known == {"slow": (8000,), "fast": (16000,), "unknown": (), "other": ()}
    slow, fast, unknown = (sources[name] for name in ("slow", "fast", "unknown"))
    assert vlpipe.open(fast).table()["seconds"].tolist() == [900 / 16000, 400 / 16000]
    with pytest.raises(ArgumentError, match='transform: LogMel has sample_rate=8000, but "audio" is stored at 16000 Hz. Pass LogMel'):
        vlpipe.plan(fast, transform=LOG_MEL)
    mixed = vlpipe.mix([(slow, 1), (fast, 1)])
    for joined in ([slow, fast], [fast, slow], mixed, mixed.select(rows=[0])):
        with pytest.raises(
            ArgumentError,
            match='of the datasets that are read together "audio" is stored at 8000 and 16000 Hz. Store all at one rate, or read them one',
        ):
            vlpipe.plan(joined, transform=LOG_MEL)
        with pytest.raises(ArgumentError, match="AddNoise: the noise has 16000 samples a second, but the data has 8000"):
            vlpipe.plan(slow, augment=AddNoise(joined))
        with pytest.raises(ArgumentError, match="AddNoise: the noise has 8000 samples a second, but the data has 16000"):
            vlpipe.plan(joined, augment=AddNoise(slow))
    with pytest.raises(ArgumentError, match='"audio" is stored at 16000 Hz'):
        vlpipe.plan([unknown, fast], transform=LOG_MEL)
    assert vlpipe.plan([slow, unknown], transform=LOG_MEL, augment=AddNoise([unknown, slow])).records == 4
    encoded = []
    for rate in (8000, 16000):
        soundfile.write(file := BytesIO(), speech[0], rate, format="WAV")
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.getvalue()]))
        example = tf.train.Example(features=tf.train.Features(feature={"audio": value}))
        with tf.io.TFRecordWriter(str(tmp_path / f"{rate}.tfrecord")) as writer:
            writer.write(example.SerializeToString())
        encoded.append(vlpipe.open(tmp_path / f"{rate}.tfrecord", layout=vlpipe.layouts.encoded_audio("audio")))
    assert vlpipe.plan(encoded[1], transform=LOG_MEL).records == 1  # it is resampled
    with pytest.raises(ArgumentError, match='"audio" is stored at 8000 and 16000 Hz'):
        vlpipe.plan(vlpipe.mix([(entry, 1) for entry in encoded]), transform=LOG_MEL)


def test_a_function_in_python_that_returns_too_much(tmp_path: Path) -> None:
    source = written(tmp_path / "speech", waveforms([40]))
    large = Augment(lambda samples, _: samples.astype(np.float64) * 0 + 1e300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(epoch_of(delivered(source, large))[0]).all()
        with pytest.raises(tf.errors.OpError, match="transform: record with id 0: sample 0 is inf; audio features need finite samples"):
            list(delivered(source, large, transform=LOG_MEL))
    with pytest.raises(tf.errors.OpError, match=r"sample 0 is 1e\+30; audio"):
        list(delivered(source, Augment(lambda samples, _: samples * 0 + 1e30), transform=LOG_MEL))
    with pytest.raises(
        tf.errors.OpError, match=r"returns complex64 \[40\], expected 40 samples, as many as it gets, in integers or floats"
    ):
        list(delivered(source, Augment(lambda samples, _: samples * 1j)))


def test_factors_are_numbers() -> None:
    assert SpeedPerturb([np.float32(0.9), 1]).factors == (0.9, 1.0)  # type: ignore[arg-type]
    for factors in ((True, 2), (float("nan"),), (), (0.9, 0.9), "1"):
        with pytest.raises(ArgumentError, match="SpeedPerturb: factors: came as .*, expected up to 16 different numbers from 0.5 to 2"):
            SpeedPerturb(factors)  # type: ignore[arg-type]

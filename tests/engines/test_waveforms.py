"""Audio features as a transform: the same frames and values as the NumPy objects compute, from every engine and every form of storage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers import foreign_files as foreign
from tests.helpers.resuming import hashes_of
from tests.helpers.transforms_numpy import CROP, cropped, draw, normalized
from tests.helpers.windows_numpy import places
from vlpipe import Crop, SpecAugment, Transform, Windows, layouts
from vlpipe.audio import MFCC, Frames, LogMel
from vlpipe.engines.batch_reader import BatchReader
from vlpipe.transforms.audio_features import scaled

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
RATE = 8000
FEATURES = (
    LogMel(sample_rate=RATE, mels=20),
    MFCC(sample_rate=RATE, mels=20, coefficients=7, floor=1e-40, deltas=2),
    Frames(sample_rate=RATE),
    LogMel(sample_rate=RATE, mels=4, window_ms=4, hop_ms=9.5),  # samples between the windows are left out
    LogMel(sample_rate=RATE, mels=8, window_ms=13.1, hop_ms=4.9, deltas=1),
    Frames(sample_rate=RATE, window_ms=1, hop_ms=0.125),
)
W = FEATURES[0].window
LENGTHS = (0, 1, W - 1, W, W + 1, W + FEATURES[0].hop, 3001, 9000, *np.random.default_rng(3).integers(1, 5000, 6).tolist())


def waveforms(dtype: str = "int16", lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    """Noise and full-scale tones, in turn: beside a loud tone, quiet bands are where rounding shows."""
    rng, found = np.random.default_rng(5), []
    for number, length in enumerate(lengths):
        tone = np.sin(2 * np.pi * (400 + 119.3 * number) * np.arange(length) / RATE)
        wave = tone if number % 2 else rng.uniform(-0.3, 0.3, length)
        if dtype.startswith("float"):
            found.append(wave.astype(dtype))
        else:
            limits = np.iinfo(dtype)
            found.append(np.clip(np.round((wave + (limits.min == 0)) * 2.0 ** (limits.bits - 1)), limits.min, limits.max).astype(dtype))
    return found


def in_range(wave: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1], as a file with these samples is decoded."""
    if wave.dtype.kind == "f":
        return wave.reshape(-1)
    half = 2 ** (8 * wave.dtype.itemsize - 1)
    return ((wave.reshape(-1).astype(np.float64) - half * (wave.dtype.kind == "u")) / half).astype(np.float32)


def stored(kind: str, folder: Path) -> tuple[Any, dict[str, Any], list[np.ndarray]]:
    """A source of waveforms, the arguments that it needs, and its waveforms."""
    if kind in ("int32", "float64", "float32"):
        waves = waveforms(kind)
        vlpipe.write(folder / "own", [{"audio": wave[:, None] if kind == "float32" else wave} for wave in waves])
        return folder / "own", {}, waves
    waves = waveforms("int16")
    if kind == "int16":
        vlpipe.write(folder / "own", [{"audio": wave} for wave in waves])
        return folder / "own", {}, waves
    feature = {
        "int_list": lambda wave: foreign.ints(*wave.tolist()),
        "raw_bytes": lambda wave: foreign.raw(wave.astype(">i2")),
        "encoded_audio": lambda wave: foreign.raw(foreign.audio_file(wave, RATE)),
    }[kind]
    layout = {
        "int_list": layouts.int_list("audio", d=1, dtype="int16"),
        "raw_bytes": layouts.raw_bytes("audio", dtype="int16", d=1, byteorder="big"),
        "encoded_audio": layouts.encoded_audio("audio"),
    }[kind]
    return foreign.write(folder / "x.tfrecord", [foreign.example({"audio": feature(wave)}) for wave in waves]), {"layout": layout}, waves


def delivered(source: Any, **arguments: Any) -> dict[int, np.ndarray]:
    """The frames of each record of an epoch, without the padding; the plan is compared with them."""
    arguments = {"length_range": (0, None), "batch_size": 4, "label": False, "seed": 3, "padding_value": -7.5} | arguments
    plan, found = vlpipe.plan(source, **arguments), {}
    dataset = vlpipe.make_dataset(source, ids=True, lengths=True, **arguments)
    steps = 0
    for (x,) in dataset:
        steps += 1
        for number, length, frames in zip(x["id"].numpy().tolist(), x["lengths"].numpy(), x["features"], strict=True):
            assert (frames.numpy()[length:] == -7.5).all()
            found[number] = frames.numpy()[:length]
    assert steps == plan.steps_per_epoch == len(dataset)
    assert {row: len(frames) for row, frames in found.items()} == dict(zip(plan.rows.tolist(), plan.frames.tolist(), strict=True))
    return found


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


CASES = [
    ("int16", 0, "mapped"), ("int16", 1, "mapped"), ("int16", 2, "mapped"),
    ("int16", 1, "graph"), ("int16", 2, "graph"),
    ("int16", 1, "stream"), ("int_list", 0, "mapped"), ("int_list", 2, "stream"), ("raw_bytes", 2, "mapped"), ("raw_bytes", 0, "graph"),
    ("encoded_audio", 2, "mapped"), ("encoded_audio", 2, "graph"), ("encoded_audio", 0, "stream"),
    ("float32", 3, "mapped"), ("float64", 0, "graph"), ("int32", 2, "mapped"), ("int16", 4, "mapped"), ("int16", 5, "mapped"),
    ("int16", 3, "mapped"), ("int16", 3, "graph"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "number", "engine"), CASES)
def test_the_graph_computes_what_numpy_computes(kind: str, number: int, engine: str, tmp_path: Path) -> None:
    source, arguments, waves = stored(kind, tmp_path)
    feature = FEATURES[number]
    found = delivered(source, transform=feature, engine=engine, **arguments)
    assert len(found) == len(waves)
    for row, frames in found.items():
        samples = len(waves[row])
        assert len(frames) == (0 if not samples else 1 + max(0, -(-(samples - feature.window) // feature.hop)))
        assert_close(frames, feature(in_range(waves[row])))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64"])
def test_samples_are_scaled_as_those_of_a_file(dtype: str) -> None:
    waves = np.concatenate(waveforms(dtype))
    found = scaled(tf.constant(waves)).numpy()
    assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert np.array_equal(found, in_range(waves))
    assert -1 <= found.min() < -0.99
    assert 0.99 < found.max() <= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_pieces_are_cut_in_samples_and_their_features_normalised(engine: str, tmp_path: Path) -> None:
    source, _, waves = stored("int16", tmp_path)
    feature, crop = FEATURES[0], Crop(1500, random=True)
    arguments = {"batching": "ragged"} if engine == "mapped" else {"pad_to": "boundary", "buckets": 2}
    found = delivered(source, transform=feature, crop=crop, normalize="utterance", engine=engine, **arguments)
    for row in range(0, len(waves), 2):  # in a tone, bands are silent but for the rounding of a sample, which normalisation makes large
        piece = cropped(waves[row], crop.frames, draw(3, 0, CROP, row))
        np.testing.assert_allclose(found[row], normalized(feature(in_range(piece))), rtol=1e-4, atol=1e-4)


def test_features_are_masked(tmp_path: Path) -> None:
    source, _, waves = stored("int16", tmp_path)
    masks = SpecAugment(0, frequency_masks=1, frequency_width=20, fill="zero")
    masked = delivered(source, transform=FEATURES[0], augment=masks)
    assert sum(bool((frames == 0).any()) for frames in masked.values()) > 5
    for row, frames in masked.items():
        assert_close(frames, np.where(frames == 0, 0, FEATURES[0](in_range(waves[row]))).astype(np.float32))


@pytest.mark.parametrize(("engine", "tail"), [("mapped", "shift"), ("mapped", "keep"), ("mapped", "pad"), ("graph", "pad")])
def test_windows_are_cut_in_samples(engine: str, tail: str, tmp_path: Path) -> None:
    source, _, waves = stored("int16", tmp_path)
    feature, windows = FEATURES[0], Windows(2000, hop=700, tail=tail)
    most, seen = int(feature.lengths(np.array(2000))), 0
    arguments: dict[str, Any] = {"transform": feature, "windows": windows, "length_range": (0, None), "engine": engine}
    for (x,) in vlpipe.make_dataset(source, ids=True, lengths=True, **arguments):
        for row, first, length, frames in zip(*(x[name].numpy() for name in ("id", "start", "lengths", "features")), strict=True):
            size = dict(places(len(waves[row]), 2000, 700, tail)[0])[first]
            assert_close(frames[:length], feature(in_range(waves[row][first : first + size])))
            assert tail != "pad" or len(frames) == most
            seen += 1
    assert seen == sum(len(places(len(wave), 2000, 700, tail)[0]) for wave in waves)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_audio_files_of_another_rate_are_resampled(engine: str, tmp_path: Path) -> None:
    source, arguments, waves = stored("encoded_audio", tmp_path)
    feature = LogMel(sample_rate=11025, mels=20)
    found = delivered(source, transform=feature, engine=engine, crop=4000, **arguments)
    for row, frames in found.items():
        assert_close(frames, feature(vlpipe.audio.resample(in_range(waves[row][:4000]), RATE, 11025)))


def test_lengths_after_resampling_are_those_of_soxr() -> None:
    from vlpipe.audio.decoding import resampled_lengths

    rng = np.random.default_rng(1)
    for rate, sample_rate in ((8000, 16000), (16000, 8000), (44100, 16000), (16000, 44100), (7919, 16000), (48000, 16000)):
        samples = np.r_[np.arange(20), rng.integers(20, 9000, 30)]
        expected = [len(vlpipe.audio.resample(np.zeros(count, np.float32), rate, sample_rate)) for count in samples]
        assert resampled_lengths(samples, rate, sample_rate).tolist() == expected


def test_the_mapped_engine_reads_waveforms_padded_to_whole_blocks(tmp_path: Path) -> None:
    source, _, waves = stored("int16", tmp_path)
    for number in (0, 3, 5):
        feature = FEATURES[number]
        plan = vlpipe.plan(source, transform=feature, length_range=(0, None), batch_size=4, seed=3)
        reader = BatchReader(plan)
        names, most = [part.name for part in reader.parts], 0
        for step in range(plan.steps_per_epoch):
            arrays = dict(zip(names, reader(step), strict=True))
            blocks, splits = arrays["blocks:x:audio"], arrays["splits:blocks:x:audio"]
            most = max(most, blocks.nbytes)
            for row, begin, end in zip(arrays["id"], splits, splits[1:], strict=False):
                samples, wave = blocks[begin:end].reshape(-1), waves[row]
                frames = int(feature.lengths(np.array(len(wave))))
                assert len(samples) == (frames + -(-feature.window // feature.hop) - 1) * feature.hop * (frames > 0)
                assert samples.tobytes() == np.pad(wave, (0, len(samples) - len(wave))).tobytes()
        longest = 9000 + int(plan.frame_plan.waveform("audio").missing(np.array(9000)))
        assert most <= plan.memory.peak_bytes_read("audio") == 4 * longest * 2


def test_many_portions_are_one_after_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vlpipe.transforms.audio_features._PORTION", 1 << 12)
    source, _, waves = stored("int16", tmp_path)
    for row, frames in delivered(source, transform=FEATURES[0], batch_size=14, batching="pad").items():
        assert_close(frames, FEATURES[0](in_range(waves[row])))


def test_samples_are_read_as_they_are_stored_and_features_delivered_in_any_float(tmp_path: Path) -> None:
    source, _, waves = stored("int16", tmp_path)
    plan = vlpipe.plan(source, transform=FEATURES[0], length_range=(0, None), dtype="float16")
    assert plan.frame_plan.reading_dtype("audio") == "int16"
    assert plan.frame_bytes == {"audio": 40}
    dataset = vlpipe.make_dataset(source, transform=FEATURES[0], dtype="float16", lengths=True, ids=True, length_range=(0, None))
    for (x,) in dataset:
        assert x["features"].dtype == tf.float16
        for row, length, frames in zip(x["id"].numpy(), x["lengths"].numpy(), x["features"].numpy(), strict=True):
            np.testing.assert_allclose(frames[:length], FEATURES[0](in_range(waves[row])), rtol=2e-3, atol=1e-3)


def test_batches_do_not_depend_on_engine_or_ranks_and_resume(tmp_path: Path) -> None:
    source, _, _ = stored("int16", tmp_path)
    arguments: dict[str, Any] = {"transform": LogMel(sample_rate=RATE), "seed": 4, "length_range": (0, None), "batch_size": 4}
    for features in (*FEATURES[:2], arguments["transform"]):
        first = delivered(source, **{**arguments, "transform": features})
        for changed in ({"engine": "graph" if features == FEATURES[1] else "stream"}, {"batch_size": 1}):
            for row, frames in delivered(source, **{**arguments, "transform": features, **changed}).items():
                assert frames.tobytes() == first[row].tobytes(), (features, changed, row)
    plan = vlpipe.plan(source, **arguments)
    whole = hashes_of(vlpipe.make_dataset(source, repeat=True, **arguments), 2 * plan.steps_per_epoch)
    state = plan.state(1, 1)
    same = {**arguments, "transform": Transform(LogMel(sample_rate=RATE, window_ms=25))}
    assert hashes_of(vlpipe.make_dataset(source, repeat=True, resume=state, **same), 2) == whole[plan.steps_per_epoch + 1 :][:2]
    other = {**arguments, "transform": LogMel(sample_rate=RATE, floor=1e-5)}
    with pytest.raises(vlpipe.ArgumentError, match="transform is 'kind=log_mel, sample_rate=8000.0, .* floor=1e-06, rate=8000.0 .T, 80."):
        vlpipe.make_dataset(source, repeat=True, resume=state, **other)


def test_the_plan_of_features_does_not_load_tensorflow(tmp_path: Path) -> None:
    source, _, _ = stored("int16", tmp_path)
    code = (
        f"import sys, vlpipe; plan = vlpipe.plan({str(source)!r}, transform=vlpipe.audio.MFCC(sample_rate=8000), length_range=(0, None));"
        "print(plan.frames.sum(), plan.shapes[0][-1], 'tensorflow' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(sum(len(FEATURES[0](in_range(wave))) for wave in waveforms())), "13", "False"]


def test_what_is_aligned_is_transformed_or_refused(tmp_path: Path) -> None:
    waves = waveforms(lengths=(0, 150, 900, 2000))
    vlpipe.write(tmp_path / "data", [{"audio": wave, "voiced": (wave > 0).astype(np.int64)} for wave in waves])
    arguments: dict[str, Any] = {"features": "audio", "label": "voiced", "length_range": (0, None)}
    with pytest.raises(vlpipe.ArgumentError, match=r"transform: changes the number of frames, but \['voiced'\] have one value for each"):
        vlpipe.plan(tmp_path / "data", transform=FEATURES[0], **arguments)
    frame_by_frame = Frames(sample_rate=RATE, window_ms=10, hop_ms=10)

    def first_of_frame(values: tf.Tensor) -> tf.Tensor:
        return values[::80]

    aligned = Transform(frame_by_frame, aligned=first_of_frame)
    rows = 0
    for x, y in vlpipe.make_dataset(tmp_path / "data", transform=aligned, ids=True, lengths=True, **arguments):
        for row, length, label in zip(x["id"].numpy(), x["lengths"].numpy(), y.numpy(), strict=True):
            assert label[:length].tolist() == (waves[row][::80] > 0).astype(int).tolist()
            rows += 1
    assert rows == 4
    assert len(delivered(tmp_path / "data", transform=FEATURES[0], features="audio", aligned=False)) == 4


def test_what_features_cannot_be_computed_of_is_refused(tmp_path: Path) -> None:
    kind = LogMel(sample_rate=RATE, mels=20)
    vlpipe.write(tmp_path / "frames", [{"features": np.ones((9, 3), np.float32)}])
    with pytest.raises(vlpipe.ArgumentError, match=r'LogMel takes a waveform, \[N\] or \[N, 1\], but "features" has frames \[3\]'):
        vlpipe.plan(tmp_path / "frames", transform=kind)
    vlpipe.write(tmp_path / "wide", [{"audio": np.ones(9, np.int64)}])
    with pytest.raises(vlpipe.ArgumentError, match='range of their dtype, but "audio" is stored as int64, which says nothing about it'):
        vlpipe.plan(tmp_path / "wide", transform=kind)
    with vlpipe.Writer(tmp_path / "rate", vlpipe.Schema(audio=vlpipe.Sequence((), "int16"))) as writer:
        writer.write({"audio": np.ones(9, np.int16)})
        writer.metadata["sample_rate"] = 16000
    with pytest.raises(vlpipe.ArgumentError, match='has sample_rate=8000, but "audio" is stored at 16000 Hz. Pass LogMel.sample_rate'):
        vlpipe.plan(tmp_path / "rate", transform=kind)
    source, _, _ = stored("int16", tmp_path)
    for arguments, said in (
        ({"dtype": "int16"}, "transform: LogMel computes fractions, which dtype='int16' cannot hold"),
        ({"normalize": "global"}, 'normalize="global": the statistics describe stored samples, but transform=LogMel'),
        ({"normalize": str(source)}, "the statistics describe stored samples, but transform=LogMel"),
    ):
        with pytest.raises(vlpipe.ArgumentError, match=said):
            vlpipe.plan(source, transform=kind, length_range=(0, None), **arguments)
    with pytest.raises(vlpipe.ArgumentError, match="transform: frames came with LogMel, which knows the lengths of its features itself"):
        Transform(kind, frames=lambda n: n)
    foreign.write(tmp_path / "low.tfrecord", [foreign.example({"audio": foreign.raw(foreign.audio_file(waveforms()[6], 4))})])
    with pytest.raises(vlpipe.AudioError, match="cannot be resampled from 4 to 8000 Hz"):
        vlpipe.plan(tmp_path / "low.tfrecord", layout=layouts.encoded_audio("audio"), transform=kind)


@pytest.mark.parametrize("engine", ENGINES[::2])
def test_a_sample_that_is_not_finite_is_named(engine: str, tmp_path: Path) -> None:
    waves = waveforms("float32", (300, 200, 400))
    waves[1][17] = np.nan
    vlpipe.write(tmp_path / "data", [{"audio": wave} for wave in waves])
    with pytest.raises(tf.errors.InvalidArgumentError, match="record with id 1: sample 17 is nan; audio features need finite samples"):
        delivered(tmp_path / "data", transform=FEATURES[0], engine=engine)


def test_deltas_of_silence_are_zero_also_after_normalisation(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "data", [{"audio": np.zeros(n, np.int16)} for n in (300, 1999, 800)])
    for floor in (1e-3, 1e-9):
        silent = LogMel(sample_rate=RATE, mels=4, floor=floor, deltas=2)
        for engine in ENGINES:
            for frames in delivered(tmp_path / "data", transform=silent, engine=engine, normalize="utterance").values():
                assert not frames[:, 4:].any()

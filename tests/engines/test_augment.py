"""Augmentations of waveforms through `make_dataset`, on every engine, compared with NumPy."""

from __future__ import annotations

import struct
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.resuming import hashes_of
from tests.helpers.transforms_numpy import augmented as masked
from tests.helpers.transforms_numpy import draw
from tests.helpers.waveforms_numpy import FUNCTION, NOISE, augmented_waveform, between
from vlpipe import AddNoise, ArgumentError, Gain, SpecAugment, TimeShift
from vlpipe.transforms import noise as noise_module

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
LENGTHS = [1, 40, 55, 7, 160, 90, 33]
NOISES = [30, 1, 500, 77]
Waveforms = list[np.ndarray]


def waveforms(lengths: list[int], dtype: str = "float32", shape: tuple[int, ...] = (), seed: int = 0) -> Waveforms:
    random = np.random.default_rng(seed)
    scale = 0.1 if np.dtype(dtype).kind == "f" else 1000
    return [(random.normal(size=(n, *shape)) * scale).astype(dtype) for n in lengths]


def written(path: Path, arrays: Waveforms, **metadata: Any) -> str:
    schema = vlpipe.Schema(audio=vlpipe.Sequence(arrays[0].shape[1:], arrays[0].dtype.name), label=vlpipe.Fixed())
    with vlpipe.Writer(path, schema) as writer:
        writer.metadata = metadata
        for number, audio in enumerate(arrays):
            writer.write({"audio": audio, "label": number})
    return str(path)


def epoch_of(dataset: tf.data.Dataset) -> dict[int, np.ndarray]:
    """The delivered frames of each record without padding, which must be -7.5."""
    found = {}
    for x, *_ in dataset:
        for number, length, frames in zip(x["id"].numpy().tolist(), x["lengths"].numpy().tolist(), x["features"].numpy(), strict=True):
            assert (frames[length:] == -7.5).all()
            found[number] = frames[:length]
    return found


def delivered(source: Any, augment: Any, **arguments: Any) -> tf.data.Dataset:
    arguments = {"seed": 5, "batch_size": 4, "padding_value": -7.5} | arguments
    return vlpipe.make_dataset(source, augment=augment, ids=True, lengths=True, **arguments)


@pytest.mark.parametrize(
    ("dtype", "shape", "engines"), [("float32", (), ("mapped", "graph")), ("int16", (1,), ("mapped", "stream")), ("int32", (), ("mapped",))]
)
def test_each_waveform_is_changed_as_by_numpy_and_alike_on_every_engine(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], engines: tuple[str, ...]
) -> None:
    speech = waveforms([0, *LENGTHS], dtype, shape)
    noise = waveforms(NOISES, "int16" if dtype == "float32" else "float32", (1,), seed=1)
    source, of_noise = written(tmp_path / "speech", speech), written(tmp_path / "noise", noise)
    augments = [Gain(db=(-6, 3)), AddNoise(of_noise, snr_db=(0, 20), probability=0.8), TimeShift(5)]
    named = "float64" if dtype in ("float64", "int32") else "float32"
    datasets = [delivered(source, augments, engine=engine, dtype=named, length_range=(0, None)) for engine in engines]
    for epoch in range(2):
        each = [epoch_of(dataset) for dataset in datasets]
        for number, x in enumerate(speech):
            should = augmented_waveform(x.astype(named), number, 5, epoch, augments, noise)
            assert each[0][number].dtype == named
            np.testing.assert_allclose(each[0][number], should, rtol=2e-6, atol=2e-6 * float(np.abs(x).max(initial=0)))
            for other in each[1:]:
                assert np.array_equal(each[0][number], other[number])


def test_the_ratio_is_the_drawn_one_over_the_real_samples_of_whole_records_and_windows(tmp_path: Path) -> None:
    speech, noise = waveforms([900, 1000, 30, 1234]), waveforms([50, 2000, 400], seed=1)
    source = written(tmp_path / "speech", speech)
    augment = AddNoise(written(tmp_path / "noise", noise), snr_db=(5, 20))
    for windows in (None, vlpipe.Windows(300, hop=200, tail="pad")):
        ratios = []
        for x, *_ in vlpipe.make_dataset(source, augment=augment, ids=True, lengths=True, windows=windows, seed=3):
            starts = x["start"].numpy() if windows else np.zeros(len(x["id"]), int)
            for number, start, length, frames in zip(x["id"].numpy(), starts, x["lengths"].numpy(), x["features"].numpy(), strict=True):
                clean = speech[number][start : start + length].astype(np.float64)
                assert not frames[length:].any()
                ratios.append(10 * np.log10(np.sum(clean**2) / np.sum((frames[:length] - clean) ** 2)))
                if not windows:
                    wanted = between((5.0, 20.0), draw(3, 0, NOISE + 2, int(number)))
                    assert ratios[-1] == pytest.approx(wanted, abs=0.02)
        assert min(ratios) > 4.98
        assert max(ratios) < 20.02
        assert len({round(ratio, 3) for ratio in ratios}) == len(ratios)  # each window has its own


def test_silence_and_numbers_that_are_not_finite_stay_as_they_are(tmp_path: Path) -> None:
    tone = np.sin(np.arange(64, dtype=np.float32))
    speech = [np.zeros(50, np.float32), tone, np.where(np.arange(64) == 7, np.nan, tone).astype(np.float32), np.zeros(0, np.float32)]
    source, loud = written(tmp_path / "speech", speech), written(tmp_path / "loud", [tone])
    quiet = written(tmp_path / "quiet", [np.eye(1, 50_000, 49_999, dtype=np.float32)[0]])  # silent but for its last sample
    for noise, same in ((quiet, [0, 1, 2, 3]), (loud, [0, 2, 3])):
        found = epoch_of(delivered(source, AddNoise(noise), length_range=(0, None)))
        assert [number for number in range(4) if np.array_equal(found[number], speech[number], equal_nan=True)] == same
        assert np.isfinite(found[1]).all()


def test_recordings_places_and_probability_have_the_documented_distribution(tmp_path: Path) -> None:
    source = written(tmp_path / "speech", [np.ones(2, np.float32)] * 3000)
    noise = [np.float32([1, 2, 3]), np.float32([7]), np.zeros(0, np.float32), np.float32([10, 20])]
    of_noise = vlpipe.open(written(tmp_path / "noise", noise))

    def counts(source_of_noise: Any, probability: float) -> dict[tuple[float, ...], float]:
        """The share of each pair of noise samples, by their ratio to the first."""
        augment = AddNoise(source_of_noise, snr_db=(0, 0), probability=probability)
        found = np.concatenate([x for x, _ in vlpipe.make_dataset(source, augment=augment, seed=1, batch_size=1000).as_numpy_iterator()])
        added = found - 1
        ratios = np.round(added[:, 1] / np.where(added[:, 0] == 0, 1, added[:, 0]), 2)
        return {ratio: float(np.mean(ratios == ratio)) for ratio in np.unique(ratios).tolist()}

    # Each of three recordings a third: (1, 2) or (2, 3) of the first, (7, 7) because it is repeated, and (10, 20).
    expected = {1.0: 1 / 3, 1.5: 1 / 6, 2.0: 1 / 2}
    found = counts(of_noise, 1.0)
    assert found.keys() == expected.keys()
    assert all(abs(found[ratio] - share) < 0.03 for ratio, share in expected.items())
    assert counts(of_noise, 0.25)[0.0] == pytest.approx(0.75, abs=0.03)
    rare = vlpipe.mix([(of_noise.select(rows=[1]), 0.9), (of_noise.select(rows=[3]), 0.1)], records=10)
    assert counts(rare, 1.0)[1.0] == pytest.approx(0.9, abs=0.03)


def test_copies_and_epochs_have_their_own_noise_and_another_order_the_same(tmp_path: Path) -> None:
    source = vlpipe.open(written(tmp_path / "speech", waveforms([64] * 6)))
    augment = [Gain(), AddNoise(written(tmp_path / "noise", waveforms(NOISES, seed=1))), TimeShift(9)]
    twice = vlpipe.mix([(source, 1)], records=12)
    dataset = delivered(twice, augment)
    seen = {row.tobytes() for _ in range(2) for x, _ in dataset for row in x["features"].numpy()}
    assert len(seen) == 24
    once = delivered(source, augment, batch_size=4)
    other = delivered(source, augment, batch_size=1, shuffle=False, engine="graph", num_parallel_calls=5)
    found, same = epoch_of(once), epoch_of(other)
    assert all(np.array_equal(found[number], same[number]) for number in range(6))


def test_a_list_applies_at_each_stage_in_order_and_kinds_do_not_depend_on_each_other(tmp_path: Path) -> None:
    speech = waveforms([40, 24, 56])
    source, of_noise = written(tmp_path / "speech", speech), written(tmp_path / "noise", waveforms(NOISES, seed=1))
    framed = vlpipe.Transform(lambda x: tf.reshape(x[: tf.size(x) // 4 * 4], [-1, 4]), frames=lambda t: t // 4)
    masks = SpecAugment(1, 5, 1.0, 1, 2, fill="zero")
    samples = [AddNoise(of_noise), Gain()]
    found = epoch_of(delivered(source, [masks, *samples], transform=framed))
    for number, x in enumerate(speech):
        should = augmented_waveform(x, number, 5, 0, samples, waveforms(NOISES, seed=1))
        draws = [draw(5, 0, 4 + k, number) for k in range(masks.draws)]  # those of a single SpecAugment
        np.testing.assert_allclose(found[number], masked(should[: len(x) // 4 * 4].reshape(-1, 4), masks, draws), rtol=1e-5)
    gains = epoch_of(delivered(source, [Gain(), Gain()], dtype="float64"))
    assert all(np.ptp(gains[number] / speech[number]) < 1e-6 for number in gains)
    single = epoch_of(delivered(source, Gain(), dtype="float64"))
    second = [float((gains[number] / single[number])[0] / (single[number] / speech[number])[0]) for number in gains]
    assert all(abs(ratio - 1) > 1e-3 for ratio in second)  # the second one has its own draws
    report = vlpipe.plan(source, augment=[masks, *samples], transform=framed).report()
    assert "samples: AddNoise(4 recordings, snr_db=(5.0, 20.0), probability=1.0), 0.0" in report
    assert report.index("samples: Gain(") < report.index("features: SpecAugment(")


def test_waveforms_are_scaled_then_augmented_then_become_features(tmp_path: Path) -> None:
    logmel = vlpipe.audio.LogMel(sample_rate=8000, mels=8)
    noise, masks = waveforms([300, 9000], seed=1), SpecAugment(1, 5, 1.0, 1, 2, fill="zero")
    samples = [Gain(), AddNoise(written(tmp_path / "noise", noise)), TimeShift(300)]
    random = np.random.default_rng(2)
    for dtype, zero in (("int16", 0), ("uint8", 128)):
        speech = [(random.integers(-99, 100, n) + zero).astype(dtype) for n in (900, 2500, 400)]
        source = written(tmp_path / dtype, speech)
        engines = ("mapped", "graph" if zero else "mapped")
        found, same = (epoch_of(delivered(source, [masks, *samples], transform=logmel, engine=engine)) for engine in engines)
        for number, x in enumerate(speech):
            scaled = ((x.astype(np.float64) - zero) / (128 if zero else 32768)).astype(np.float32)
            frames = logmel(augmented_waveform(scaled, number, 5, 0, samples, noise))
            draws = [draw(5, 0, 4 + k, number) for k in range(masks.draws)]
            np.testing.assert_allclose(found[number], masked(frames, masks, draws), rtol=1e-4, atol=1e-4)
            assert np.array_equal(found[number], same[number])
    other = written(tmp_path / "other", noise, sample_rate=16000)
    with pytest.raises(ArgumentError, match="the noise has 16000 samples a second, but LogMel takes 8000"):
        vlpipe.plan(source, augment=AddNoise(other), transform=logmel)


def test_a_resumed_run_has_the_same_noise_and_refuses_other_noise(tmp_path: Path) -> None:
    source, noise = written(tmp_path / "speech", waveforms(LENGTHS)), waveforms(NOISES, seed=1)
    first, moved = written(tmp_path / "noise", noise), written(tmp_path / "elsewhere" / "noise", noise)
    other = written(tmp_path / "other", waveforms(NOISES, seed=2))
    arguments: dict[str, Any] = {"batch_size": 3, "seed": 2, "repeat": True}
    whole = hashes_of(vlpipe.make_dataset(source, augment=[AddNoise(first), Gain()], **arguments), 9)
    assert len(set(whole)) == 9
    state = vlpipe.plan(source, augment=[AddNoise(first), Gain()], batch_size=3, seed=2).state(1, 1)
    for engine in ("mapped", "graph"):
        rest = vlpipe.make_dataset(
            source, augment=[AddNoise(moved), Gain()], resume=state, engine=engine, num_parallel_calls=3, **arguments
        )
        assert hashes_of(rest, 5) == whole[4:]
    for augment in ([AddNoise(other), Gain()], [Gain(), AddNoise(first)], [AddNoise(first, probability=0.5), Gain()], AddNoise(first)):
        with pytest.raises(ArgumentError, match="the state belongs to another run: augment is 'AddNoise"):
            vlpipe.make_dataset(source, augment=augment, resume=state, **arguments)
    masks = SpecAugment(frequency_width=1)
    features = written(tmp_path / "features", waveforms([9], shape=(2,)))
    assert vlpipe.plan(features, augment=masks, seed=2).state(0, 0)["augment"] == repr(masks)  # as before there were lists
    assert vlpipe.plan(features, augment=[], seed=2).state(0, 0)["augment"] is None


def test_the_graph_engine_calls_no_python(tmp_path: Path) -> None:
    source, of_noise = written(tmp_path / "speech", waveforms(LENGTHS)), written(tmp_path / "noise", waveforms(NOISES))
    dataset = vlpipe.make_dataset(source, augment=AddNoise(of_noise), engine="graph", seed=1)
    graph = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset._variant_tensor, external_state_policy=1).numpy()
    assert b"PyFunc" not in graph
    assert len(list(dataset)) == len(dataset)


def test_noise_from_audio_files_and_other_layouts(tmp_path: Path) -> None:
    def wav(samples: np.ndarray) -> bytes:
        buffer = BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(samples.astype("<i2").tobytes())
        return buffer.getvalue()

    noise = [np.round(entry * 3000) for entry in waveforms([70, 200], seed=1)]

    def example(audio: bytes) -> bytes:
        return tf.train.Example(
            features=tf.train.Features(feature={"audio": tf.train.Feature(bytes_list=tf.train.BytesList(value=[audio]))})
        ).SerializeToString()

    for name, encode in (("wav", wav), ("raw", lambda samples: struct.pack(f"<{len(samples)}h", *samples.astype(int)))):
        with tf.io.TFRecordWriter(str(tmp_path / f"{name}.tfrecord"), "GZIP" if name == "raw" else None) as writer:
            for samples in noise:
                writer.write(example(encode(samples)))
    layouts = {"wav": vlpipe.layouts.encoded_audio("audio"), "raw": vlpipe.layouts.raw_bytes("audio", dtype="int16", d=1)}
    speech = waveforms(LENGTHS)
    source = written(tmp_path / "speech", speech, sample_rate=8000)
    for name, layout in layouts.items():
        augment = AddNoise(vlpipe.open(str(tmp_path / f"{name}.tfrecord"), layout=layout))
        found = epoch_of(delivered(source, augment))
        for number, x in enumerate(speech):
            np.testing.assert_allclose(found[number], augmented_waveform(x, number, 5, 0, [augment], noise), rtol=1e-5, atol=1e-6)
    faster = written(tmp_path / "faster", speech, sample_rate=16000)
    augment = AddNoise(vlpipe.open(str(tmp_path / "wav.tfrecord"), layout=layouts["wav"]))
    with pytest.raises(ArgumentError, match="AddNoise: the noise has 8000 samples a second, but the data has 16000. Resample the noise"):
        vlpipe.plan(faster, augment=augment)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gain(db=3), r"Gain: db: came as 3, expected \(least, greatest\) in decibels, from -120 to 120"),
        (lambda: Gain(db=(1, float("nan"))), "Gain: db: came as nan, expected a number of decibels from -120 to 120"),
        (lambda: Gain(db=(3, -3)), r"Gain: db: came as \(3, -3\), where the first number exceeds the second"),
        (lambda: Gain(db=(0, 121)), "Gain: db: came as 121"),
        (lambda: TimeShift(-1), "TimeShift: most: came as -1, expected an integer >= 0"),
        (lambda: AddNoise("noise", snr_db=(5,)), "AddNoise: snr_db: came as"),
        (lambda: AddNoise([]), "AddNoise: source: an empty list, expected at least one directory, glob or file"),
        (lambda: AddNoise("noise", probability=1.1), "AddNoise: probability: came as 1.1, expected a probability from 0 to 1"),
    ],
)
def test_what_they_refuse(make: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make()


def test_what_does_not_fit_the_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, of_noise = written(tmp_path / "speech", waveforms(LENGTHS)), written(tmp_path / "noise", waveforms(NOISES))
    features = written(tmp_path / "features", waveforms(LENGTHS, shape=(3,)))
    unsigned = written(tmp_path / "unsigned", [np.ones(9, np.uint8)])
    aligned = str(tmp_path / "aligned")
    vlpipe.write(aligned, [{"audio": np.ones(9, np.float32), "vad": np.ones(9, np.int64)}] * 3)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (features, {"augment": Gain()}, r'augment: Gain changes a waveform, \[N\] or \[N, 1\], but "audio" has frames of shape \[3\]'),
        (unsigned, {"augment": AddNoise(of_noise)}, 'changes a waveform around 0, but "audio" is stored as uint8, which has no negative'),
        (
            aligned,
            {"augment": TimeShift(1), "features": "audio"},
            r"moves the samples of \"audio\", but \['vad'\] have one value for each of them",
        ),
        (source, {"augment": [Gain(), "loud"]}, r"augment: came as 'loud', expected one of vlpipe.Gain\(...\), vlpipe.TimeShift"),
        (source, {"augment": "loud"}, "augment: came as 'loud', expected one of"),
        (source, {"augment": [[Gain()]]}, r"augment: came as \[Gain"),
        (source, {"augment": SpecAugment()}, r"frames of shape \[\], expected \[d\]: SpecAugment masks time and frequency"),
        (source, {"augment": Gain(), "dtype": "int16"}, "augment: results are fractions, which dtype='int16' cannot hold"),
    ]
    for data, arguments, said in cases:
        with pytest.raises(ArgumentError, match=said):
            vlpipe.plan(data, **arguments)
    vlpipe.plan(aligned, augment=[Gain(), AddNoise(of_noise)], features="audio", label="vad")
    vlpipe.plan(aligned, augment=TimeShift(1), aligned=False, features="audio", label="vad")
    whole = {"augment": TimeShift(3), "dtype": "int16", "seed": 1, "transform": lambda x: x + 1, "batch_size": 1, "shuffle": False}
    assert {x.dtype for x, _ in vlpipe.make_dataset(written(tmp_path / "int16", waveforms([9], "int16")), **whole)} == {tf.int16}
    with pytest.raises(ArgumentError, match=r"the source has the sequences .*, expected one waveform, \[N\] or \[N, 1\], of floats or"):
        AddNoise(features)
    with pytest.raises(ArgumentError, match='AddNoise: "audio" of the source has no samples in 1 record'):
        AddNoise(written(tmp_path / "empty", waveforms([0])))
    with pytest.raises(vlpipe.DatasetError, match="not found"):
        AddNoise(str(tmp_path / "missing"))
    monkeypatch.setattr(noise_module, "MAX_NOISE_BYTES", 1000)
    with pytest.raises(ArgumentError, match=r"AddNoise: the source has 608 samples, .* GiB are kept in memory. Pass a part of it, such as"):
        AddNoise(of_noise)


def test_noise_that_is_damaged_is_named_before_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "speech", waveforms(LENGTHS))
    noise = waveforms(NOISES)
    noise[2][3] = np.inf
    augment = AddNoise(written(tmp_path / "noise", noise))
    with pytest.raises(vlpipe.DatasetError, match="record 0 at byte 0: the noise has a sample that is not finite, expected finite ones"):
        vlpipe.make_dataset(source, augment=augment, seed=1)
    augment = AddNoise(written(tmp_path / "whole", waveforms(NOISES)))
    shard = max((tmp_path / "whole").glob("*.tfrecord"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(vlpipe.DatasetError, match="the checksum of its"):
        vlpipe.make_dataset(source, augment=augment, seed=1)
    augment = AddNoise(written(tmp_path / "short", waveforms(NOISES)))
    monkeypatch.setattr(noise_module.Records, "values", lambda *_: {"audio": np.zeros(5, np.float32)})
    with pytest.raises(vlpipe.DatasetError, match="the noise has 5 samples, but .* were indexed. Index it again"):
        vlpipe.make_dataset(source, augment=augment, seed=1)


def test_a_function_in_python_does_the_same_everywhere(tmp_path: Path) -> None:
    speech = waveforms([0, *LENGTHS], "int16", (1,))
    source = written(tmp_path / "speech", speech)

    def tilted(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """As libraries do, it draws from a global state."""
        np.random.seed(int(generator.integers(2**32)))
        samples += np.float32(np.random.random())
        return samples * np.float32(generator.uniform(1, 2))

    def should(x: np.ndarray, number: int, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([draw(5, epoch, FUNCTION + k, number) for k in range(2)])
        state = np.random.RandomState(int(generator.integers(2**32)))
        return (x.astype("f4") + np.float32(state.random_sample())) * np.float32(generator.uniform(1, 2))

    augment = vlpipe.audio.Augment(tilted)
    datasets = [
        delivered(source, augment, length_range=(0, None), **arguments)
        for arguments in ({"num_parallel_calls": 4, "batch_size": 2}, {"engine": "stream"})
    ]
    for epoch in range(2):
        for found in map(epoch_of, datasets):
            assert all(np.array_equal(found[number], should(x, number, epoch)) for number, x in enumerate(speech))
    assert repr(augment) == "Augment(test_a_function_in_python_does_the_same_everywhere.<locals>.tilted)"
    with pytest.raises(ArgumentError, match=r"augment: Augment\(.*tilted\) calls Python, but the graph engine is a pure graph"):
        vlpipe.plan(source, augment=[Gain(), augment], engine="graph")
    with pytest.raises(ArgumentError, match=r"Augment: came as 3, expected a function of samples \[N\] and a numpy.random.Generator"):
        vlpipe.audio.Augment(3)  # type: ignore[arg-type]
    for fn, said in (
        (
            lambda samples: samples,
            r"record with id \d+: fails for float32 \[\d+\] \(TypeError: .*It is called with samples \[N\] and a numpy",
        ),
        (
            lambda samples, _: samples[1:],
            r"record with id \d+: returns float32 \[\d+\], expected \d+ samples, as many as it gets, in integers or floats. Cut",
        ),
    ):
        with pytest.raises(tf.errors.OpError, match=said):
            list(vlpipe.make_dataset(source, augment=vlpipe.audio.Augment(fn), seed=1, length_range=(0, None)))


def test_the_unit_of_the_noise_does_not_matter(tmp_path: Path) -> None:
    speech, noise = [x * np.float32(1e7) for x in waveforms([40, 90])], waveforms([50], seed=1)[0].astype(np.float64)
    source = written(tmp_path / "speech", speech)
    usual = AddNoise(written(tmp_path / "usual", [noise]), snr_db=(-100, 20))
    should = epoch_of(delivered(source, usual))
    for unit, dtype in ((1e-37, "float32"), (1e30, "float32"), (1e200, "float64"), (1e-200, "float64")):
        other = AddNoise(written(tmp_path / f"{unit}", [(noise * unit).astype(dtype)]), snr_db=(-100, 20))
        found = epoch_of(delivered(source, other))
        for number, x in enumerate(speech):
            assert not np.array_equal(found[number], x), unit
            np.testing.assert_allclose(
                found[number], should[number], rtol=1e-5, atol=1e-5 * float(np.abs(should[number]).max()), err_msg=f"{unit}"
            )


def test_noise_is_named_among_several_sequences_and_what_is_no_object_is_refused(tmp_path: Path) -> None:
    speech, noise = waveforms(LENGTHS), waveforms(NOISES, seed=1)
    source = written(tmp_path / "speech", speech)
    vlpipe.write(tmp_path / "noise", [{"left": x, "right": x[::-1] * 2} for x in noise])
    with pytest.raises(ArgumentError, match=r"expected one waveform, .* Name it, vlpipe.AddNoise\(..., features=NAME\)"):
        AddNoise(tmp_path / "noise")
    with pytest.raises(ArgumentError, match="expected the waveform 'middle'"):
        AddNoise(tmp_path / "noise", features="middle")
    augment = AddNoise(tmp_path / "noise", features="right")
    found = epoch_of(delivered(source, augment))
    for number, x in enumerate(speech):
        should = augmented_waveform(x, number, 5, 0, [augment], [entry[::-1] for entry in noise])
        np.testing.assert_allclose(found[number], should, rtol=2e-6, atol=1e-6)
    log_mel = vlpipe.audio.LogMel
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"transform": log_mel},
            r"transform: came as the class vlpipe.audio.LogMel, expected an object. Call it: transform=vlpipe.audio.Log",
        ),
        (
            {"transform": [log_mel(), Gain()]},
            r"transform: came as a list of 2, expected one function or audio feature. .*belong in augment=",
        ),
        ({"transform": Gain()}, r"transform: came as Gain\(.*, which is an augmentation. Pass augment="),
        ({"augment": [Gain(), SpecAugment]}, r"augment: came as the class SpecAugment, expected an object. Call it: SpecAugment\(...\)"),
        ({"augment": [log_mel(), Gain()]}, "augment: came as LogMel.*, which is a transform. Pass transform=..., beside augment="),
    ]
    for arguments, said in cases:
        with pytest.raises(ArgumentError, match=said):
            vlpipe.plan(source, **arguments)

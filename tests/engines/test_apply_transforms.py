"""Crop, transform, normalize and augment, through `make_dataset` on every engine, compared with a NumPy reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import vlpipe
from tests.helpers.resuming import hashes_of
from tests.helpers.transforms_numpy import changed
from tests.test_dataset import make_records, write
from vlpipe import Crop, SpecAugment, Transform

pytestmark = pytest.mark.usefixtures("quick_graphs")

ENGINES = ("mapped", "graph", "stream")
Numpy = Callable[[np.ndarray], np.ndarray]
TRANSFORMS: dict[str, tuple[Any, Numpy | None]] = {
    "none": (None, None),
    "same": (lambda x: x * 2 + 1, lambda x: x * 2 + 1),
    "wider": (lambda x: tf.concat([x, tf.abs(x)], 1), lambda x: np.concatenate([x, np.abs(x)], 1)),
    "shorter": (Transform(lambda x: x[1::3], frames=lambda t: (t + 1) // 3), lambda x: x[1::3]),
    "longer": (Transform(lambda x: tf.repeat(x, 2, 0), frames=lambda t: 2 * t), lambda x: np.repeat(x, 2, 0)),
}


def delivered(dataset: tf.data.Dataset) -> dict[int, np.ndarray]:
    """The delivered frames of each record, without the padding, which is checked."""
    found: dict[int, np.ndarray] = {}
    for x, *_ in dataset:
        features = x["features"]
        for row, (number, length) in enumerate(zip(x["id"].numpy().tolist(), x["lengths"].numpy().tolist(), strict=True)):
            frames = features[row].numpy()
            assert isinstance(features, tf.RaggedTensor) <= (len(frames) == length)
            assert (frames[length:] == -7.5).all()
            if number in found:  # a row that completes a batch
                assert np.array_equal(found[number], frames[:length], equal_nan=True)
            found[number] = frames[:length]
    return found


def statistics(records: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    frames = np.concatenate(records).astype(np.float64)
    frames = np.where(np.isfinite(frames), frames, np.nan)
    if not len(frames):
        return np.zeros(frames.shape[1:]), np.zeros(frames.shape[1:])
    return np.nanmean(frames, 0), np.nanvar(frames, 0)


cases = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(0, 12), min_size=1, max_size=12),
        "d": st.integers(1, 3),
        "dtype": st.sampled_from(["float32", "float16", "int16"]),
        "batching": st.sampled_from(["bucket", "bucket", "pad", "ragged", "same_length"]),
        "remainder": st.sampled_from(["keep", "drop", "pad"]),
        "engine": st.sampled_from(ENGINES),
        "crop": st.sampled_from([None, 4, Crop(5, random=True), Crop(1, random=True)]),
        "transform": st.sampled_from(sorted(TRANSFORMS)),
        "normalize": st.sampled_from([None, "utterance", "global"]),
        "augment": st.sampled_from(
            [
                None,
                SpecAugment(time_share=0.6, frequency_width=1),
                SpecAugment(1, 3, 1.0, 0, fill="zero"),
                SpecAugment(0, frequency_width=1),
            ]
        ),
        "boundary": st.booleans(),
        "seed": st.integers(0, 2**40),
    }
)


@settings(max_examples=12)
@given(case=cases)
def test_every_record_comes_as_the_reference_has_it(case: dict[str, Any], tmp_path: Path) -> None:
    records = make_records(case["lengths"], case["d"], case["dtype"], "sequence")
    source = write(tmp_path / "data", records, "sequence")
    frames = [record["features"] for record in records]
    transform, reference = TRANSFORMS[case["transform"]]
    normalize = case["normalize"]
    if normalize == "global" and case["transform"] == "wider":
        normalize = "utterance"
    arguments: dict[str, Any] = {name: case[name] for name in ("batching", "remainder", "engine", "crop", "augment", "seed")}
    arguments |= {"transform": transform, "normalize": normalize, "length_range": (0, None), "batch_size": 3, "padding_value": -7.5}
    if case["boundary"] and case["batching"] in ("bucket", "pad"):
        arguments["pad_to"] = "boundary"
    plan = vlpipe.plan(source, **arguments)
    dataset = vlpipe.make_dataset(source, lengths=True, ids=True, **arguments)
    assert len(dataset) == plan.steps_per_epoch
    expected = {"crop": plan.options.crop, "transform": reference, "augment": case["augment"], "normalize": normalize}
    if normalize == "global":
        expected["normalize"] = statistics(frames)
    known = dict(zip(plan.rows.tolist(), plan.frames.tolist(), strict=True))
    for epoch in range(2):
        found = delivered(dataset)
        assert len(found) == plan.records
        for number, x in found.items():
            should = changed(frames[number].astype(np.float32), number, case["seed"], epoch, **expected)
            assert len(x) == known[number]
            assert (x.shape, x.dtype) == (should.shape, np.float32)
            np.testing.assert_allclose(x, should, rtol=1e-5, atol=1e-5)
    for x, y in ((element[0], element[1]) for element in dataset):  # a label that is a sequence is unchanged
        for number, label, length in zip(x["id"].numpy(), y.numpy(), x["label_lengths"].numpy(), strict=True):
            assert label[:length].tolist() == records[number]["label"].tolist()
        assert x["features"].shape[0] is None or x["features"].dtype == tf.float32


def test_both_engines_and_every_rank_deliver_the_same_bytes_and_other_epochs_others(tmp_path: Path) -> None:
    source = write(tmp_path / "data", make_records(np.random.default_rng(1).integers(1, 40, 40).tolist(), 4))
    arguments: dict[str, Any] = {
        "crop": Crop(20, random=True),
        "normalize": "utterance",
        "augment": SpecAugment(time_share=0.5, frequency_width=2),
        "batch_size": 4,
        "lengths": True,
        "ids": True,
        "seed": 6,
        "padding_value": -7.5,
    }
    mapped = vlpipe.make_dataset(source, num_parallel_calls=1, **arguments)
    first, second = delivered(mapped), delivered(mapped)
    assert sum(np.array_equal(first[number], second[number]) for number in first) < 10
    ranks = [vlpipe.make_dataset(source, engine="graph", shard=(rank, 2), remainder="pad", **arguments) for rank in range(2)]
    parts = [delivered(rank) for rank in ranks]
    stream = delivered(vlpipe.make_dataset(source, engine="stream", **arguments))
    for number in range(40):
        same = [part[number] for part in parts if number in part] + [stream[number]]
        assert all(x.tobytes() == first[number].tobytes() for x in same)
    other = delivered(vlpipe.make_dataset(source, **{**arguments, "seed": 7}))
    assert sum(np.array_equal(first[number], other[number]) for number in first) < 10
    files = sorted(str(path) for path in source.glob("*.tfrecord"))[1:]  # random draws do not depend on the other records
    for number, x in delivered(vlpipe.make_dataset(files, **arguments)).items():
        assert x.tobytes() == first[number].tobytes()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    source = write(tmp_path / "data", make_records(np.random.default_rng(2).integers(1, 30, 30).tolist()))
    arguments: dict[str, Any] = {
        "crop": Crop(9, random=True),
        "transform": Transform(lambda x: x[::2], frames=lambda t: (t + 1) // 2),
        "augment": SpecAugment(time_share=1.0, frequency_width=1),
        "batch_size": 4,
        "seed": 2,
    }
    plan = vlpipe.plan(source, **arguments)
    whole = hashes_of(vlpipe.make_dataset(source, repeat=True, **arguments), 3 * plan.steps_per_epoch)
    assert len(set(whole)) == len(whole)
    for stop, engine in ((plan.steps_per_epoch + 3, "graph"), (2, "mapped")):
        state = plan.state(*divmod(stop, plan.steps_per_epoch))
        assert len(str(state)) < 1000
        rest = vlpipe.make_dataset(source, repeat=True, resume=state, engine=engine, num_parallel_calls=3, **arguments)
        assert hashes_of(rest, len(whole) - stop) == whole[stop:]
    for change, said in (
        ({"crop": 9}, "crop is 'Crop(frames=9, random=True)' in the state, 'Crop(frames=9, random=False)' here"),
        ({"crop": None}, "crop is 'Crop(frames=9, random=True)' in the state, None here"),
        ({"augment": None}, 'augment is "SpecAugment('),
        ({"normalize": "utterance"}, "normalize is None in the state, 'utterance' here"),
        ({"transform": None}, "transform is '[T, 2] of lengths crc32c:"),
        ({"transform": lambda x: x}, "transform is '[T, 2] of lengths crc32c:"),
        ({"seed": None, "shuffle": False}, "resume: needs the seed of the run"),
    ):
        with pytest.raises(vlpipe.ArgumentError) as caught:
            vlpipe.make_dataset(source, repeat=True, resume=state, **{**arguments, **change})
        assert said in str(caught.value)


def test_a_state_from_before_these_arguments_still_serves(tmp_path: Path) -> None:
    source = write(tmp_path / "data", make_records([3] * 8))
    state = vlpipe.plan(source, batch_size=2, seed=1).state(0, 2)
    old = {name: value for name, value in state.items() if name not in ("crop", "transform", "normalize", "augment")}
    assert len(state) == len(old) + 4
    runs = [vlpipe.make_dataset(source, batch_size=2, seed=1, repeat=True, resume=of) for of in (state, old)]
    assert hashes_of(runs[0], 3) == hashes_of(runs[1], 3)


def test_without_shuffle_what_is_random_still_draws_a_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "data", make_records([9] * 4))
    with caplog.at_level("INFO", "vlpipe"):
        vlpipe.make_dataset(source, shuffle=False, crop=5)
        assert "was drawn" not in caplog.text
        vlpipe.make_dataset(source, shuffle=False, crop=Crop(5, random=True))
    assert "was drawn" in caplog.text
    with pytest.raises(vlpipe.ArgumentError, match="seed=None draws a different order in every process"):
        vlpipe.plan(source, shuffle=False, augment=SpecAugment(frequency_width=1)).state(0, 0)
    assert vlpipe.plan(source, shuffle=False, crop=5).state(0, 0)["seed"] is None


def test_the_length_range_is_of_the_true_lengths_and_the_crop_after_it(tmp_path: Path) -> None:
    records = make_records([2, 5, 9, 14])
    source = write(tmp_path / "data", records)
    for engine in ENGINES:
        arguments: dict[str, Any] = {"engine": engine, "crop": Crop(4, random=True), "seed": 3, "padding_value": -7.5}
        shown = {**arguments, "lengths": True, "ids": True}
        with pytest.raises(vlpipe.ArgumentError, match="has 14 frames, expected 3 to 10"):
            vlpipe.plan(source, length_range=(3, 10), out_of_range="error", **{**arguments, "crop": 1, "shuffle": False, "seed": None})
        dropped = vlpipe.plan(source, length_range=(3, 10), out_of_range="drop", **arguments)
        assert (dropped.refused, dropped.truncated, dropped.cropped) == ({"too_short": 1, "too_long": 1}, 0, 2)
        if engine != "graph":  # which gets its records from the same schedule as the mapped engine
            found = delivered(vlpipe.make_dataset(source, length_range=(3, 10), out_of_range="drop", **shown))
            assert {number: len(x) for number, x in found.items()} == {1: 4, 2: 4}
        plan = vlpipe.plan(source, length_range=(3, 6), out_of_range="truncate", **arguments)
        assert (plan.refused, plan.truncated, plan.cropped) == ({"too_short": 1}, 2, 3)
        assert "3 to 4 frames" in plan.report()
        found = delivered(vlpipe.make_dataset(source, length_range=(3, 6), out_of_range="truncate", **shown))
        for number in (1, 2, 3):  # cropped after the truncation
            should = changed(records[number]["features"][:6], number, 3, 0, crop=Crop(4, random=True))
            assert np.array_equal(found[number], should)


def test_of_several_features_all_are_normalised_and_the_first_is_changed(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    schema = vlpipe.Schema(a=vlpipe.Sequence(3), b=vlpipe.Sequence((2, 2), "float64"))
    frames = [(random.normal(size=(n, 3)).astype("f4"), random.normal(size=(12 - n, 2, 2)) + 1e6) for n in range(1, 12)]
    vlpipe.write(tmp_path / "d", [{"a": a, "b": b} for a, b in frames], schema)
    augment = SpecAugment(time_share=0.5, frequency_width=2)
    for engine in ENGINES:
        for normalize in {"mapped": ("utterance", "global"), "graph": ("global",), "stream": ("utterance",)}[engine]:
            dataset = vlpipe.make_dataset(
                tmp_path / "d",
                features=("a", "b"),
                crop=4,
                normalize=normalize,
                augment=augment,
                ids=True,
                lengths=True,
                engine=engine,
                seed=1,
            )
            of = [statistics([pair[part] for pair in frames]) if normalize == "global" else normalize for part in (0, 1)]
            for (x,) in dataset:
                for row, number in enumerate(x["id"].numpy().tolist()):
                    a, b = frames[number]
                    should = changed(a, number, 1, 0, crop=Crop(4), normalize=of[0], augment=augment)
                    np.testing.assert_allclose(x["a"][row, : len(should)], should, rtol=1e-5, atol=1e-5)
                    np.testing.assert_allclose(x["b"][row, : len(b)], changed(b, 0, 1, 0, normalize=of[1]), rtol=1e-5, atol=1e-5)
                    assert (x["a_lengths"][row], x["b_lengths"][row]) == (len(should), len(b))
                    assert not x["b"][row, len(b) :].numpy().any()


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [*(("mapped", dtype) for dtype in ("float16", "bfloat16", "float64")), ("graph", "bfloat16"), ("stream", "float64")],
)
def test_every_float_is_delivered_as_what_was_asked_for(tmp_path: Path, engine: str, dtype: str) -> None:
    records = make_records([3, 7, 5])
    source = write(tmp_path / "data", records)
    dataset = vlpipe.make_dataset(
        source,
        normalize="utterance",
        augment=SpecAugment(0, frequency_width=1),
        dtype=dtype,
        engine=engine,
        ids=True,
        seed=1,
        padding_value=-3,
    )
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-12}[dtype]
    for x, _ in dataset:
        assert x["features"].dtype == dtype
        for row, number in enumerate(x["id"].numpy().tolist()):
            frames = records[number]["features"]
            should = changed(frames, number, 1, 0, normalize="utterance", augment=SpecAugment(0, frequency_width=1))
            found = tf.cast(x["features"][row], tf.float64).numpy()
            np.testing.assert_allclose(found[: len(frames)], should, rtol=tolerance, atol=tolerance)
            assert (found[len(frames) :] == -3).all()


def test_nothing_is_added_where_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "data", make_records([3, 7, 5]))

    def never(*_: Any) -> Any:
        raise RuntimeError("called")

    for engine in ("mapped", "graph"):
        monkeypatch.setattr(f"vlpipe.engines.{engine}.transform_batch", never)
    for engine in ("mapped", "graph"):
        vlpipe.make_dataset(source, engine=engine)
        vlpipe.make_dataset(source, engine=engine, crop=4)
        with pytest.raises(RuntimeError, match="called"):
            vlpipe.make_dataset(source, engine=engine, normalize="utterance")

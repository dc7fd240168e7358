"""Crop and Transform: the arguments they accept, their effect on the plan, and transforms that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.test_dataset import make_records, write
from vlpipe import ArgumentError, Crop, Transform
from vlpipe.planning.splitmix import CROPS, draws

pytestmark = pytest.mark.usefixtures("quick_graphs")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train", make_records([1, 4, 4, 9, 12, 30]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"frames": 0}, "crop: frames: came as 0, expected an integer >= 1, at most 2147483646"),
        ({"frames": 2**31}, "crop: frames: came as 2147483648"),
        ({"frames": True}, "crop: frames: came as True"),
        ({"frames": 1.0}, "crop: frames: came as 1.0"),
        ({"frames": 3, "random": 1}, "crop: random came as 1, expected True or False"),
    ],
)
def test_crops_that_are_none(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        Crop(**arguments)


def test_a_random_crop_begins_anywhere_with_equal_probability() -> None:
    numbers = draws(5, 0, CROPS, np.arange(12_000))
    firsts = Crop(7, random=True).firsts(np.full(12_000, 3), numbers)
    assert np.bincount(firsts, minlength=4) == pytest.approx(3000, abs=250)
    longest = np.full(2, 2**31 - 2)  # the product of the two just fits into an int64
    assert Crop(1, random=True).firsts(longest, np.array([0, 2**32 - 1])).tolist() == [0, 2**31 - 2]


def test_a_number_is_a_crop_at_the_beginning(source: Path) -> None:
    assert vlpipe.plan(source, crop=5).options.crop == Crop(np.int64(5)) == Crop(5, random=False)
    plan = vlpipe.plan(source, crop=5, batch_size=2)
    assert (sorted(plan.frames.tolist()), plan.cropped, plan.boundaries[-1]) == ([1, 4, 4, 5, 5, 5], 3, 5)
    assert plan.peak_batch_bytes == 2 * 5 * 2 * 4
    assert vlpipe.plan(source, crop=5, batching="same_length").steps_per_epoch == 3


def test_the_plan_knows_what_a_transform_makes(source: Path) -> None:
    stacked = Transform(lambda x: tf.reshape(x[: tf.shape(x)[0] // 2 * 2], [-1, 4]), frames=lambda t: t // 2)
    plan = vlpipe.plan(source, crop=10, transform=stacked, batch_size=3, dtype="float64", length_range=(0, None))
    assert sorted(plan.frames.tolist()) == [0, 2, 2, 4, 5, 5]
    assert plan.shapes[0][2] == 4
    assert plan.peak_batch_bytes == 3 * 5 * 4 * 8
    spec = vlpipe.make_dataset(
        source, crop=10, transform=stacked, dtype="float64", length_range=(2, None), out_of_range="drop"
    ).element_spec[0]
    assert (spec.shape.as_list(), spec.dtype) == ([None, None, 4], tf.float64)
    deeper = vlpipe.make_dataset(source, transform=lambda x: tf.stack([x, x], 2), batching="ragged").element_spec[0]
    assert deeper.shape.as_list() == [None, None, 2, 2]


@pytest.mark.parametrize(("engine", "batching"), [("mapped", "bucket"), ("mapped", "ragged"), ("graph", "pad"), ("stream", "same_length")])
def test_a_record_that_the_transform_leaves_no_frame_of_is_refused_counted_or_asked_for(source: Path, engine: str, batching: Any) -> None:
    """An STFT of a recording shorter than its window: one such row makes the mean over its frames, and then the loss, NaN."""
    fourths = Transform(lambda x: x[3::4], frames=lambda t: t // 4)  # of 1, 4, 4, 9, 12 and 30 frames
    arguments: dict[str, Any] = {"transform": fourths, "engine": engine, "batching": batching, "lengths": True, "ids": True, "seed": 1}
    for crop, gone in ((None, 1), (3, 6)):
        with pytest.raises(
            ArgumentError, match=rf'the transform leaves no frame of the . of "features" \({gone} of 6 records are too short'
        ):
            vlpipe.plan(source, crop=crop, **arguments)
        for length_range, outside in (((1, 10), "drop"), ((1, 10), "truncate"), ((0, None), "error")):
            chosen = {**arguments, "crop": crop, "length_range": length_range, "out_of_range": outside}
            plan = vlpipe.plan(source, **chosen)
            read = np.array([1, 4, 4, 9, 12, 30])
            read = read[read <= 10] if outside == "drop" else np.minimum(read, 10) if outside == "truncate" else read
            frames = (read if crop is None else np.minimum(read, crop)) // 4
            kept = frames if outside == "error" else frames[frames > 0]
            refused = {"too_long": 2 if outside == "drop" else 0, "transformed_too_short": len(frames) - len(kept)}
            assert plan.refused == {reason: count for reason, count in refused.items() if count}
            assert sorted(plan.frames.tolist()) == sorted(kept.tolist())
            assert (plan.records, plan.total) == (len(kept), 6)
            assert plan.truncated == (2 if outside == "truncate" and crop is None else 0)
            if not len(kept) and engine != "mapped":
                continue  # a graph takes a second, and here no record is left
            delivered = [length for x, *_ in vlpipe.make_dataset(source, **chosen) for length in x["lengths"].numpy().tolist()]
            assert sorted(delivered) == sorted(kept.tolist())
    assert "5 transformed too short" not in vlpipe.plan(source, **arguments, out_of_range="drop").report()
    assert "1 transformed too short" in vlpipe.plan(source, **arguments, out_of_range="drop").report()


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda x: x.numpy(), r"transform: fails for x \[\?, 2\] of float32 \(AttributeError: .*It is traced for sequences of any length"),
        (lambda x: (x, x), r"transform: returns tuple, expected one tensor \[T', ...\]"),
        (lambda x: None, "transform: returns NoneType, expected one tensor"),
        (lambda x: tf.cast(x, tf.float64), "transform: returns float64, expected float32, as the dataset's dtype. Return tf.cast"),
        (lambda x: tf.reduce_sum(x), r"transform: returns \[\], expected \[T', ...\] with every axis but the first known"),
        (lambda x: tf.reshape(x, [-1, tf.shape(x)[0]]), r"transform: returns \[\?, \?\], expected \[T', ...\] with every axis"),
        (
            Transform(lambda x: x, frames=lambda t: t / 2),
            r"transform: frames returns float64 \[5\] \[0.5, 2.0, 4.5\] for 5 lengths such as \[1, 4, 9\]",
        ),
        (Transform(lambda x: x, frames=lambda t: t - 3), r"transform: frames returns int64 \[5\] \[-2, 1, 6\]"),
        (Transform(lambda x: x, frames=lambda t: 7), r"transform: frames returns int64 \[\] \[7\] for 5 lengths"),
        (Transform(lambda x: x, frames=lambda t: 1 if t > 3 else 2), "transform: frames fails for an array of lengths such as"),
    ],
)
def test_transforms_that_are_refused_before_the_first_batch(source: Path, transform: Any, said: str) -> None:
    for function in (vlpipe.plan, vlpipe.make_dataset):
        with pytest.raises(ArgumentError, match=said):
            function(source, transform=transform)


def test_frames_that_are_no_function() -> None:
    with pytest.raises(ArgumentError, match="transform: frames came as 3, expected a function of an array of lengths, or None"):
        Transform(abs, frames=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["mapped", "graph", "stream"])
def test_a_length_that_was_not_declared_is_an_error_that_names_the_record(source: Path, engine: str) -> None:
    wrong: list[tuple[Any, str]] = [
        (lambda x: x[:8], "record with id 3: returned 8 frames, expected 9. Declare how it changes lengths: vlpipe.Transform"),
        (Transform(lambda x: x[1:], frames=lambda t: np.maximum(t - 1, 1)), "record with id 0: returned 0 frames, expected 1"),
    ]
    for transform, said in wrong:
        dataset = vlpipe.make_dataset(source, transform=transform, engine=engine, shuffle=False, batch_size=1, batching="pad")
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            list(dataset)
        assert "transform: record with id " in str(caught.value)
        assert said in str(caught.value)


def test_statistics_do_not_describe_what_a_transform_makes(source: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r'normalize="global": the statistics describe stored frames \[2\], but the transform returns frames \[1\]'
    ):
        vlpipe.plan(source, normalize="global", transform=lambda x: x[:, :1])


def test_a_transform_may_branch_and_hold_variables(source: Path) -> None:
    scale = tf.Variable(2.0)

    def halves(x: tf.Tensor) -> tf.Tensor:
        if tf.shape(x)[0] > 5:
            x = x * scale
        return x

    for engine in ("mapped", "graph"):
        for x, _ in vlpipe.make_dataset(source, transform=halves, engine=engine, lengths=True, ids=True, batch_size=2):
            records = make_records([1, 4, 4, 9, 12, 30])
            for row, (number, length) in enumerate(zip(x["id"].numpy(), x["lengths"].numpy(), strict=True)):
                assert np.array_equal(x["features"][row, :length], records[number]["features"] * (2 if length > 5 else 1))


def test_augmented_and_transformed_data_train_a_model(source: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(4, 3, padding="same"), keras.layers.GlobalMaxPooling1D()])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    arguments: dict[str, Any] = {
        "crop": Crop(8, random=True),
        "transform": lambda x: tf.concat([x, x], 1),
        "normalize": "utterance",
        "augment": vlpipe.SpecAugment(frequency_width=2),
    }
    history = model.fit(vlpipe.make_dataset(source, batch_size=2, **arguments), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()

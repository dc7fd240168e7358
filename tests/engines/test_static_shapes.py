"""With pad_to="boundary" every part of a batch has one shape a bucket, also labels and features with lengths of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.helpers.foreign_files import example, floats, ints, write
from vlpipe import layouts

ENGINES = ("mapped", "graph", "stream")
WORDS = [int(n) for n in np.random.default_rng(3).integers(0, 9, 60)]


def frames_of(number: int) -> int:
    return 1 + 7 * number % 40


def check(dataset: tf.data.Dataset, plan: vlpipe.Plan, words: dict[int, list[int]], parts: list[str]) -> None:
    """One shape of each part for each bucket; the label of each row followed by padding; and nothing beyond what the bucket needs."""
    shapes: dict[int, set[tuple[Any, ...]]] = {}
    for x, y in dataset:
        upper = x["features"].shape[1]
        shapes.setdefault(upper, set()).add(tuple(part.shape[1] for part in (y, *(x[name] for name in parts))))
        for row, length, label in zip(x["id"].numpy().tolist(), x["label_lengths"].numpy().tolist(), y.numpy().tolist(), strict=True):
            assert label[:length] == words[row]
            assert set(label[length:]) <= {-1}
    assert all(len(of_bucket) == 1 for of_bucket in shapes.values())
    assert set(shapes) <= set(plan.boundaries)
    for upper, ((longest, *_),) in shapes.items():
        assert longest == max(len(words[row]) for row in words if frames_of(row) <= upper)


WAYS: tuple[dict[str, Any], ...] = ({}, {"normalize": "utterance"}, {"remainder": "pad"})


@pytest.mark.parametrize(("engine", "more"), [*(("mapped", way) for way in WAYS), ("graph", WAYS[1]), ("stream", WAYS[0])])
def test_labels_and_features_of_other_lengths(tmp_path: Path, engine: Any, more: dict[str, Any]) -> None:
    words = {n: list(range(count)) for n, count in enumerate(WORDS)}
    vlpipe.write(
        tmp_path / "d",
        (
            {"features": np.ones((frames_of(n), 2), "f4"), "wave": np.ones((3 * WORDS[-n - 1], 1), "f4"), "words": np.array(words[n], "i4")}
            for n in words
        ),
    )
    arguments: dict[str, Any] = {"pad_to": "boundary", "buckets": 3, "batch_size": 5, "label": "words", "seed": 1, "lengths": True}
    arguments |= {"features": ("features", "wave"), "length_range": (0, None), "engine": engine, **more}
    plan = vlpipe.plan(tmp_path / "d", **arguments)
    dataset = vlpipe.make_dataset(tmp_path / "d", ids=True, **arguments)
    check(dataset.map(lambda x, y, *_: (x, y)), plan, words, ["wave"])


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_that_are_parsed_or_in_the_index(tmp_path: Path, engine: Any) -> None:
    words = {n: [7 + w for w in range(count)] for n, count in enumerate(WORDS)}
    records = [example({"x": floats([1.0] * (2 * frames_of(n))), "w": ints(*words[n])}) for n in words]
    path = write(tmp_path / "a.tfrecord", records)
    arguments: dict[str, Any] = {"pad_to": "boundary", "buckets": 3, "batch_size": 5, "seed": 1, "lengths": True, "engine": engine}
    arguments |= {"layout": layouts.float_list("x", d=2, label="w"), "label": "w"}
    plan = vlpipe.plan(path, **arguments)
    check(vlpipe.make_dataset(path, ids=True, **arguments).map(as_features), plan, words, [])


def as_features(x: dict[str, tf.Tensor], y: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    return x, y

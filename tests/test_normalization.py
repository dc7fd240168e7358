"""Mean and variance: of each sequence, and of whole datasets from their metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.changes_numpy import normalized as reference
from tests.test_dataset import make_records, write
from vlpipe import ArgumentError, DatasetError
from vlpipe.normalization import by_utterance

special = st.sampled_from([0.0, 1.0, -1.0, 3e4, 1e-30, float("nan"), float("inf"), float("-inf")])


def normalized(sequences: list[np.ndarray]) -> list[np.ndarray]:
    values = tf.constant(np.concatenate(sequences).astype(np.float64))
    rows = tf.constant(np.repeat(np.arange(len(sequences)), [len(x) for x in sequences]))
    found = by_utterance(values, rows, tf.constant(len(sequences), tf.int64)).numpy()
    return np.split(found, np.cumsum([len(x) for x in sequences])[:-1])


@given(st.lists(st.lists(st.tuples(special, st.floats(-100, 100, width=32)), max_size=6), min_size=1, max_size=5))
def test_each_sequence_by_its_own_finite_frames(sequences: list[list[tuple[float, float]]]) -> None:
    arrays = [np.array(frames, np.float32).reshape(-1, 2) for frames in sequences]
    for x, found in zip(arrays, normalized(arrays), strict=True):
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(found, reference(x), rtol=1e-9, atol=1e-9)
        assert np.array_equal(np.isnan(found), np.isnan(x))
        assert np.array_equal(np.isinf(found), np.isinf(x))


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e18])
def test_mean_0_and_variance_1_at_every_scale_and_offset(scale: float) -> None:
    x = (np.random.default_rng(0).normal(size=(500, 3)) * scale + np.array([0, 10, 1e4]) * scale).astype(np.float32)
    (found,) = normalized([x])
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(found.var(0), 1, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 3e38, 7.0])
@pytest.mark.parametrize("frames", [1, 3, 1000])
def test_a_constant_dimension_is_zero_and_never_nan(value: float, frames: int) -> None:
    (found,) = normalized([np.full((frames, 2), value, np.float32)])
    assert np.abs(found).max() <= 1e-12 * abs(value)


def test_datasets_read_together_are_pooled_by_their_frames(tmp_path: Path) -> None:
    parts = [make_records([3, 8, 5], 4), make_records([40, 2], 4), make_records([0], 4)]
    parts[1] = [{**record, "features": record["features"] * 3 + 100} for record in parts[1]]
    sources = [write(tmp_path / str(number), records) for number, records in enumerate(parts)]
    frames = np.concatenate([record["features"] for records in parts for record in records]).astype(np.float64)
    plan = vlpipe.plan(sources, normalize="global", length_range=(0, None))
    np.testing.assert_allclose(plan.changes.moments["features"].mean, frames.mean(0), rtol=1e-12)
    np.testing.assert_allclose(plan.changes.moments["features"].variance, frames.var(0), rtol=1e-12)
    delivered = np.concatenate(
        [
            x[row, :length]
            for x, _ in vlpipe.make_dataset(sources, normalize="global", lengths=True, length_range=(0, None))
            for x, lengths in [(x["features"].numpy(), x["lengths"].numpy())]
            for row, length in enumerate(lengths)
        ]
    )
    np.testing.assert_allclose(delivered.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(delivered.var(0), 1, rtol=1e-5)


def with_statistics(source: Path, statistics: Any) -> None:
    document = json.loads((source / "vlpipe.json").read_text())
    (source / "vlpipe.json").write_text(json.dumps({**document, "statistics": statistics}))


def test_a_dataset_without_statistics_says_what_to_do(tmp_path: Path) -> None:
    source = write(tmp_path / "d", make_records([3]), num_shards=2)
    some = [sorted(source.glob("*.tfrecord"))[0]]
    for change, sources in ((False, some), (True, source)):
        if change:
            with_statistics(source, {})
        for function in (vlpipe.plan, vlpipe.make_dataset):
            with pytest.raises(
                DatasetError,
                match="are not known: vlpipe notes .*`vlpipe stats SOURCE --compute` .* or use normalize=",
            ):
                function(sources, normalize="global")
            function(sources, normalize="utterance")


def test_statistics_without_numbers_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "d", make_records([3]))
    size = len(json.loads((source / "vlpipe.json").read_text())["statistics"]["features"]["mean"])
    entry = {"count": [3] * size, "mean": [None] * size, "variance": [1.0] * size, "not_finite": 0}
    with_statistics(source, {"features": entry})
    with pytest.raises(DatasetError, match='the statistics of "features" are beyond the range of float64. Use normalize="utterance"'):
        vlpipe.plan(source, normalize="global")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"normalize": "utterance"}, "normalize: makes fractions, which dtype='int32' cannot hold"),
        ({"augment": vlpipe.SpecAugment()}, "augment: makes fractions, which dtype='int32' cannot hold"),
    ],
)
def test_integers_cannot_hold_it(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        vlpipe.options.Options.of(dtype="int32", **arguments)
    vlpipe.options.Options.of(dtype="int32", augment=vlpipe.SpecAugment(fill="zero"))

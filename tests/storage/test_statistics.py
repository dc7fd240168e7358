"""`Moments`, compared with NumPy in float64 over all frames at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vlpipe.storage.statistics import Moments

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, -0.0])


@st.composite
def records(draw: st.DrawFn) -> list[np.ndarray]:
    d = draw(st.integers(1, 3))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return [draw(hnp.arrays(dtype, (draw(st.integers(0, 5)), d), elements=NUMBERS)) for _ in range(draw(st.integers(0, 6)))]


def moments_of(parts: list[np.ndarray], dimensions: int) -> Moments:
    moments = Moments(dimensions)
    for frames in parts:
        moments.update(frames)
    return moments


@given(records())
def test_moments_are_those_of_all_frames_at_once(parts: list[np.ndarray]) -> None:
    d = parts[0].shape[1] if parts else 2
    moments = moments_of(parts, d)
    whole = np.concatenate([np.empty((0, d)), *parts]).astype(np.float64)
    for dimension in range(d):
        finite = whole[np.isfinite(whole[:, dimension]), dimension]
        assert moments.count[dimension] == len(finite)
        mean, variance = (finite.mean(), finite.var()) if len(finite) else (0.0, 0.0)
        scale = np.abs(finite).max(initial=1.0)
        np.testing.assert_allclose(moments.mean[dimension], mean, rtol=1e-12, atol=1e-12 * scale)
        np.testing.assert_allclose(moments.variance[dimension], variance, rtol=1e-9, atol=1e-12 * scale**2)
    assert moments.not_finite == np.count_nonzero(~np.isfinite(whole))


@given(records())
def test_the_state_restores_every_bit(parts: list[np.ndarray]) -> None:
    moments = moments_of(parts, parts[0].shape[1] if parts else 2)
    again = Moments.from_state(json.loads(json.dumps(moments.state())))
    assert again.not_finite == moments.not_finite
    for name in ("count", "mean", "_deviation"):
        assert getattr(again, name).tobytes() == getattr(moments, name).tobytes()


def test_more_values_than_one_step_takes() -> None:
    values = np.random.default_rng(0).standard_normal((100_000, 3)).astype("f4")
    values[70_000, 1] = np.nan
    moments = moments_of([values, values[:5]], 3)
    whole = np.concatenate([values, values[:5]]).astype("f8")
    np.testing.assert_allclose(moments.mean, np.nanmean(whole, axis=0), rtol=1e-9)
    np.testing.assert_allclose(moments.variance, np.nanvar(whole, axis=0), rtol=1e-12)
    assert (moments.count.tolist(), moments.not_finite) == ([100_005, 100_004, 100_005], 1)


def test_a_great_offset_does_not_cost_the_variance() -> None:
    # The textbook formula, E[x^2] - E[x]^2, has no correct digit here.
    values = 1e8 + np.random.default_rng(0).standard_normal((10_000, 1))
    moments = moments_of(list(values.reshape(100, 100, 1)), 1)
    np.testing.assert_allclose(moments.variance, values.var(axis=0), rtol=1e-7)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16"])
def test_no_dtype_overflows(dtype: str) -> None:
    values = np.full((1000, 2), 250, dtype)
    moments = moments_of([values], 2)
    assert moments.mean.tolist() == [250, 250]
    assert moments.variance.tolist() == [0, 0]


def test_frames_of_several_axes_are_flattened() -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    assert moments_of([values], 12).mean.tolist() == values.mean(axis=0).ravel().tolist()


def test_the_frames_are_not_changed() -> None:
    frames = np.array([[np.nan, 1.0]])
    frames.flags.writeable = False
    moments_of([frames, frames], 2)
    assert np.isnan(frames[0, 0])


def test_no_frames() -> None:
    assert Moments(2).to_json() == {"count": [0, 0], "mean": [0.0, 0.0], "variance": [0.0, 0.0], "not_finite": 0}
    assert moments_of([np.full((3, 1), np.nan)], 1).to_json() == {"count": [0], "mean": [0.0], "variance": [0.0], "not_finite": 3}


@pytest.mark.parametrize("values", [[1e200, -1e200], [1.7e308, 1.7e308], [1e308, 1e308, 1e308, -1e308]])
def test_a_float64_beyond_the_range_of_its_square_is_null_in_json(values: list[float]) -> None:
    document = moments_of([np.array([[value]]) for value in values], 1).to_json()
    document_at_once = moments_of([np.array(values)[:, None]], 1).to_json()
    for statistics in (document, document_at_once):
        assert statistics["count"] == [len(values)]
        assert all(number is None or np.isfinite(number) for number in (*statistics["mean"], *statistics["variance"]))
        json.dumps(statistics, allow_nan=False)


@given(records(), records())
def test_two_halves_merge_to_the_whole(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    dimensions = first[0].shape[1] if first else 1
    second = [np.resize(part, (len(part), dimensions)) for part in second]
    merged, whole = moments_of(first, dimensions), moments_of([*first, *second], dimensions)
    merged.merge(moments_of(second, dimensions))
    assert merged.count.tolist() == whole.count.tolist()
    assert merged.not_finite == whole.not_finite
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(merged.variance, whole.variance, rtol=1e-9, atol=1e-3)


@given(records().filter(bool))
def test_json_restores_the_statistics(parts: list[np.ndarray]) -> None:
    document = json.loads(json.dumps(moments_of(parts, parts[0].shape[1]).to_json()))
    again = Moments.from_json(document, parts[0].shape[1]).to_json()
    assert {key: again[key] for key in ("count", "mean", "not_finite")} == {key: document[key] for key in ("count", "mean", "not_finite")}
    np.testing.assert_allclose(again["variance"], document["variance"], rtol=1e-12)

"""The figures of `benchmarks.models`: a difference is one of real frames, and float64 is float64."""

import keras
import numpy as np
import pytest

from benchmarks import models
from benchmarks.networks.parts import randomized

plain = keras.layers


def strided(frames=True):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, models.INPUTS["frames"][0]))
    x = plain.Conv1D(4, 5, strides=8, padding="same")(inputs)
    return randomized(keras.Model(inputs, x if frames else plain.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize("frames", [True, False])
def test_a_row_of_one_output_frame_is_not_compared_with_padding(frames):
    rows = models.sequences("frames", (8, 30))
    worst, compared = models.difference(strided(frames), rows, {})
    assert (worst <= 1e-6, compared) == (True, 2)


def test_a_wrong_number_of_frames_and_nan_are_no_small_difference():
    want = np.ones((1, 3))
    assert models.relative(np.ones((2, 3)), want) == np.inf
    assert models.relative(np.full((1, 3), np.nan), want) == np.inf
    assert models.relative(want * 1.5, want) == 0.5


def test_float64_is_float64(monkeypatch):
    """The policy of Keras outlives `set_floatx`: the figure of a network that amplifies rounding errors would be that of float32 again."""
    strided()  # Keras keeps its policy from here on
    with models.in_float64():
        assert strided().layers[1].compute_dtype == "float64"
    assert strided().layers[1].compute_dtype == "float32"
    monkeypatch.setattr(models, "LIMIT", -1.0)  # every network is tried in float64
    monkeypatch.setitem(models.NETWORKS, "strided", ("a test", "frames", strided))
    verdict, detail = models.outcome("strided")
    single, _, double = detail.partition(" in float32, ")
    assert verdict == "exact"
    assert float(single) <= 1e-6
    assert float(double.removesuffix(" in float64")) <= 1e-14


def test_a_leak_is_not_taken_for_rounding(monkeypatch):
    """A network that amplifies rounding differs from itself without padding, one that leaks does not."""
    monkeypatch.setitem(models.NETWORKS, "strided", ("a test", "frames", strided))
    monkeypatch.setattr(models, "difference", lambda model, rows, replaced: (1e-3, len(rows)))
    verdict, detail = models.outcome("strided")
    assert verdict == "NOT EXACT"
    assert detail.startswith("1.0e-03 in float32, 1.0e-03 in float64; ")
    monkeypatch.setattr(models, "rounding", lambda model, rows: 5e-4)
    assert models.outcome("strided")[0] == "rounding"

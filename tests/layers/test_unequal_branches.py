"""Branches of unequal lengths: each row is merged as the plain model merges it alone, which broadcasts a branch of one frame."""

import keras
import numpy as np
import pytest

from tests.layers.layers_tools import gradients, numpy
from vlpipe import layers
from vlpipe.layers import check_model, mask_aware, output_lengths
from vlpipe.layers.merge import CommonFrames

plain, ops = keras.layers, keras.ops
TOTAL = 8


def conv(size=3, strides=1, padding="same"):
    return plain.Conv1D(4, size, strides=strides, padding=padding, bias_initializer="ones")


def around(x, factor):
    """As many frames as the next multiple of the factor: the way down and up of a U-Net."""
    return plain.UpSampling1D(factor)(conv(strides=factor)(x))


PAIRS = {
    "conv and pool": lambda x: [conv(strides=2)(x), plain.MaxPooling1D(2)(x)],
    "u-net": lambda x: [around(x, 4), conv()(x)],
    "three": lambda x: [conv(strides=2)(x), plain.MaxPooling1D(2)(x), around(plain.MaxPooling1D(2)(x), 2)],
    "first frames": lambda x: [x[:, :3], conv(strides=2)(x)],
}
MERGES = {
    "add": lambda branches: plain.Add()(branches),
    "average": lambda branches: plain.Average()(branches),
    "multiply": lambda branches: ops.multiply(branches[0], branches[1]),
    "concatenate": lambda branches: plain.Concatenate()(branches),
}
CASES = [("conv and pool", name) for name in MERGES] + [("u-net", "add"), ("three", "add"), ("first frames", "multiply")]
CASES = CASES[::4] if keras.backend.backend() == "jax" else CASES  # JAX compiles anew for each length


def model_of(pair, merge):
    """Behind the merge, a convolution that sees how many frames there are, and an output with frames."""
    inputs = keras.Input((None, 4))
    merged = MERGES[merge](PAIRS[pair](inputs))
    return keras.Model(inputs, [merged, plain.GlobalAveragePooling1D()(conv(5)(merged))])


@pytest.mark.parametrize(("pair", "merge"), CASES)
def test_each_row_is_merged_as_alone(pair, merge, tmp_path):
    model = model_of(pair, merge)
    aware = mask_aware(model)
    aware.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(TOTAL, TOTAL, 4)).astype("float32")
    lengths = np.arange(1, TOTAL + 1)
    alone = {}
    for row, frames in enumerate(lengths):
        try:
            alone[row] = [numpy(y)[0] for y in model(x[row : row + 1, :frames])]
        except Exception:  # what the backend raises: rows whose branches Keras cannot merge
            continue
        x[row, frames:] = np.nan
    alone = {row: answers for row, answers in alone.items() if len(answers[0])}  # with no frame, the plain mean is NaN
    assert len(alone) >= 2
    assert ("concat" in merge) or any(1 in [y.shape[1] for y in branches(model, row)] and len(alone[row][0]) > 1 for row in alone)
    rows = sorted(alone)
    for first in (0, len(rows) // 2):  # in a batch of all, and of the shorter ones
        chosen = rows[: len(rows) - first]
        longest = lengths[chosen].max()
        for one in [keras.models.load_model(tmp_path / "model.keras"), aware][first == 0 :]:
            sequences, vectors = (numpy(y) for y in one({"features": x[chosen, :longest], "lengths": lengths[chosen]}))
            for place, row in enumerate(chosen):
                frames = len(alone[row][0])
                assert output_lengths(aware, lengths[[row]])[0] == output_lengths(model, lengths[[row]])[0] == frames
                np.testing.assert_allclose(sequences[place, :frames], alone[row][0], rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(vectors[place], alone[row][1], rtol=1e-5, atol=1e-6)
    assert check_model(aware).ok


def branches(model, row):
    """The branches of a row alone."""
    merge = next(layer for layer in model.operations if type(layer).__name__ in ("Add", "Average", "Multiply"))
    return keras.Model(model.input, [*merge.input] if isinstance(merge.input, (list, tuple)) else merge.input)(np.zeros((1, row + 1, 4)))


def test_gradients_of_a_spread_frame():
    model = model_of("conv and pool", "add")
    aware = mask_aware(model)
    x, lengths = np.random.default_rng(1).normal(size=(3, 8, 4)).astype("float32"), np.array([3, 8, 4])
    alone = [gradients(aware, {"features": x[r : r + 1, :n], "lengths": lengths[r : r + 1]}, squares, True) for r, n in enumerate(lengths)]
    for row, frames in enumerate(lengths):
        x[row, frames:] = np.nan
    for got, *wanted in zip(gradients(aware, {"features": x, "lengths": lengths}, squares, True), *alone, strict=True):
        np.testing.assert_allclose(got, np.sum(wanted, axis=0), rtol=1e-4, atol=1e-5)


def squares(y):
    return ops.sum(ops.square(y[1]))


def test_only_where_a_frame_can_be_spread():
    """Concatenation never broadcasts; and without masks, branches are cut."""
    kinds = {}
    for pair, merge in [("conv and pool", "add"), ("conv and pool", "concatenate")]:
        kinds[merge] = [layer.spreads for layer in mask_aware(model_of(pair, merge)).layers if isinstance(layer, CommonFrames)]
    assert kinds == {"add": [True], "concatenate": [False]}
    x = np.ones((2, 3, 4), "float32")
    assert [y.shape[1] for y in layers.CommonFrames(spreads=True)([x, x[:, :2]])] == [2, 2]

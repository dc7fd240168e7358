"""`mixes_frames`: which functions may work on a padded batch."""

import keras
import numpy as np
import pytest
from keras import ops

from vlpipe.layers.probe import mixes_frames

FRAMEWISE = {
    "relu": keras.activations.relu,
    "softmax over features": keras.activations.softmax,
    "glu": keras.activations.glu,
    "log, which has no value below zero": ops.log,
    "a gate": lambda x: x * ops.sigmoid(1.7 * x),
    "a slice of features": lambda x: x[..., 1:],
    "the first differences of features": lambda x: x[:, :, 1:] - x[:, :, :-1],
    "running sums, which padding comes too late for": lambda x: ops.cumsum(x, axis=1),
}
MIXING = {
    "softmax over frames": lambda x: ops.softmax(x, axis=1),
    "minus the mean": lambda x: x - ops.mean(x, axis=1, keepdims=True),
    "minus the largest": lambda x: x - ops.max(x, axis=1, keepdims=True),
    "reversed": lambda x: ops.flip(x, axis=1),
    "the frame after": lambda x: ops.roll(x, -1, axis=1),
    "divided by the number of frames": lambda x: x / x.shape[1],
    "minus the mean of the batch": lambda x: x - ops.mean(x, axis=0, keepdims=True),
    "the last frame": lambda x: x[:, -1],
    "a fixed number of frames": lambda x: x + np.ones((1, 5, 4), "float32"),
    "random": lambda x: x + keras.random.normal(ops.shape(x)),
    "no tensor": lambda x: 1 / 0,
}


@pytest.mark.parametrize("name", FRAMEWISE)
def test_functions_of_each_frame_do_not_mix(name):
    assert not mixes_frames(FRAMEWISE[name], (None, None, 4))


@pytest.mark.parametrize("name", MIXING)
def test_functions_that_mix_are_found(name):
    assert mixes_frames(MIXING[name], (None, None, 4))


@pytest.mark.parametrize("shape", [(None, None), (None, None, 3, 2), (None, None, None)])
def test_other_ranks(shape):
    assert not mixes_frames(ops.tanh, shape)
    assert mixes_frames(lambda x: ops.softmax(x, axis=1), shape)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "bool"])
def test_other_types(dtype):
    assert not mixes_frames(lambda x: ops.cast(x, "float32") * 2, (None, None, 4), dtype)
    assert mixes_frames(lambda x: ops.flip(ops.cast(x, "float32"), axis=1), (None, None, 4), dtype)


def test_without_frames_only_rows_may_not_mix():
    assert not mixes_frames(lambda x: ops.softmax(x, axis=1), (None, 4), frames=False)
    assert mixes_frames(lambda x: ops.softmax(x, axis=0), (None, 4), frames=False)

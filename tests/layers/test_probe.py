"""`mixes_frames`: which functions may work on a padded batch."""

import re
import subprocess
import sys

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


# In TensorFlow with oneDNN, each of these maxima ends the process (SIGFPE) on a number of frames that is tried out.
TOO_LONG_WINDOWS = """
import keras, tensorflow
from keras import ops
from vlpipe import layers
from vlpipe.errors import ArgumentError

def pooled(x):
    return ops.max_pool(x, 6, 1, "valid")

def with_stride(x):
    return ops.max_pool(x, 7, 2, "valid")

def causal(x):  # fails on the first three frames of five
    return ops.pad(ops.max_pool(x, 4, 1, "valid"), [[0, 0], [3, 0], [0, 0]])

def longer_than_all(x):
    return ops.max_pool(x, 501, 1, "valid")

def outside_of_keras(x):
    return tensorflow.nn.max_pool1d(x, 6, 1, "VALID")

class Own(keras.layers.Layer):
    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, shape):
        return shape[0], None, shape[2]

def verdict(body):
    inputs = keras.Input((None, 3))
    try:
        return type(layers.mask_aware(keras.Model(inputs, body(inputs)))).__name__
    except ArgumentError as error:
        return str(error)[:48]

for function in pooled, with_stride, causal, longer_than_all, outside_of_keras:
    layer = Own(name="own")
    layer.function = function
    print(function.__name__, verdict(layer))
print("activation", verdict(keras.layers.Activation(causal, name="own")))

class Aware(layers.MaskAware, Own):
    pass

layer = Own(name="own")
layer.function = lambda x: tensorflow.nn.max_pool1d(x, 2, 1, "VALID")
inputs = keras.Input((None, 3))
model = keras.Model(inputs, layer(inputs))
given = {Own: lambda layer: Aware(name="own")}
for attempt in lambda: layers.mask_aware(model, layers=given), lambda: layers.assert_padding_invariant(model):
    try:
        attempt()
    except (ArgumentError, AssertionError) as error:
        print(str(error))
"""
VERDICTS = r"""pooled Model
with_stride Model
causal Model
longer_than_all mask_aware: "own" \(Own\) is unknown to vlpipe.*
outside_of_keras mask_aware: "own" \(Own\) is unknown to vlpipe.*
activation mask_aware: "own" \(Activation\) has an activation.*
mask_aware: .* on 1 frames the layer fails with ValueError: .*Negative dimension.* Return in reach.*
A sequence of 1 frames alone: the model fails with ValueError: .*Negative dimension.* Pass lengths.*
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends raise an error")
def test_a_window_longer_than_the_frames_does_not_end_the_process():
    result = subprocess.run([sys.executable, "-c", TOO_LONG_WINDOWS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.returncode, result.stdout, result.stderr)
    assert re.fullmatch(VERDICTS, result.stdout), result.stdout

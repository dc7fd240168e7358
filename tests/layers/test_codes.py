"""Layers that make codes of values are elementwise; a state behind a slice has as many values as frames, and no frames."""

import keras
import numpy as np
import pytest

from tests.layers.layers_tools import numpy
from vlpipe.layers import check_model, mask_aware

plain = keras.layers
LENGTHS = np.array([5, 2, 3])
CODES = {
    "hashing": lambda: plain.Hashing(5),
    "lookup": lambda: plain.IntegerLookup(vocabulary=[3, 5, 7]),
    "bins": lambda: plain.Discretization([0.5, 3.5]),
}


def model_of(body, shape=(None,), dtype="int32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, body(inputs))


@pytest.mark.parametrize("name", CODES)
def test_codes_of_tokens(name):
    layer = CODES[name]()
    model = model_of(lambda x: plain.GRU(3)(plain.Embedding(9, 4)(layer(x))), dtype="float32" if name == "bins" else "int32")
    x = np.random.default_rng(0).integers(0, 9, (3, 6)) * (0.5 if name == "bins" else 1)
    assert_alone(model, x)


@pytest.mark.parametrize("mode", ["multi_hot", "one_hot", "count"])
def test_modes_that_drop_the_frames_are_refused(mode):
    layer = plain.Discretization([0.0], output_mode=mode)
    model = model_of(lambda x: layer(x), dtype="float32")
    with pytest.raises(ValueError, match=f'output_mode="{mode}", which counts or encodes'):
        mask_aware(model)


def test_a_state_with_as_many_values_as_frames():
    model = model_of(lambda x: plain.Dense(2)(plain.GRU(3, return_sequences=True, return_state=True)(x[:, :3])[1]), (None, 4), "float32")
    assert_alone(model, np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32"))


def assert_alone(model, x):
    aware = mask_aware(model)
    together = numpy(aware({"features": x, "lengths": LENGTHS}))
    for row, frames in enumerate(LENGTHS):
        np.testing.assert_allclose(together[row], numpy(model(x[row : row + 1, :frames]))[0], rtol=1e-5, atol=1e-6)
    assert check_model(aware).ok

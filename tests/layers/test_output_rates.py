"""Two outputs with frames, one at half the rate: the loss of each is the mean over its own real frames, whatever the padding."""

import keras
import numpy as np
import pytest

from tests.layers.layers_tools import gradients, numpy
from vlpipe.layers import mask_aware

plain, ops = keras.layers, keras.ops
LENGTHS = np.array([9, 4, 1, 7])
RATES = {"fine": 1, "coarse": 2}


def model_of():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 3))
    x = plain.Conv1D(4, 3, padding="same", activation="tanh")(inputs)
    coarse = plain.Conv1D(4, 3, strides=2, padding="same", activation="tanh")(x)
    return keras.Model(inputs, {"fine": plain.Dense(2, name="fine")(x), "coarse": plain.Dense(2, name="coarse")(coarse)})


def rows():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 3)).astype("float32") for n in LENGTHS]
    targets = {name: [rng.normal(size=(-(-n // rate), 2)).astype("float32") for n in LENGTHS] for name, rate in RATES.items()}
    return x, targets


def padded(arrays, frames, value):
    out = np.full((len(arrays), frames, arrays[0].shape[-1]), value, "float32")
    for row, array in enumerate(arrays):
        out[row, : len(array)] = array
    return out


def reference(model, weights, shares):
    """The loss and its gradient, as a weighted sum over the frames of single sequences, through the plain model."""
    x, targets = rows()
    total, slopes = 0.0, [0.0] * len(model.trainable_variables)
    counts = {name: sum(len(one) for one in ones) for name, ones in targets.items()}
    for row in range(len(LENGTHS)):

        def loss(y, row=row):
            parts = [
                ops.sum(ops.mean(ops.square(y[name][0] - ops.convert_to_tensor(targets[name][row])), -1)) * shares[name] / counts[name]
                for name in RATES
            ]
            return (parts[0] + parts[1]) * float(weights[row])

        total += float(numpy(loss(model(x[row][None]))))
        slopes = [old + new for old, new in zip(slopes, gradients(model, x[row][None], loss, True), strict=True)]
    return total, slopes


@pytest.mark.parametrize(("frames", "weights"), [(9, None), (16, None), (10, np.array([1, 0.5, 2, 0], "float32"))])
def test_the_loss_and_its_gradient_are_those_of_the_frames(frames, weights):
    model = model_of()
    aware, shares = mask_aware(model), {"fine": 1.0, "coarse": 0.25}
    aware.compile(keras.optimizers.SGD(1.0), dict.fromkeys(RATES, "mse"), loss_weights=shares)
    x, targets = rows()
    batch = {"features": padded(x, frames, np.nan), "lengths": LENGTHS}
    y = {name: padded(ones, -(-frames // RATES[name]), 0) for name, ones in targets.items()}
    loss, slopes = reference(model, np.ones(len(LENGTHS)) if weights is None else weights, shares)
    before = [numpy(w) for w in aware.trainable_variables]
    got = aware.train_on_batch(batch, y, sample_weight=weights, return_dict=True)["loss"]
    np.testing.assert_allclose(got, loss, rtol=1e-5)
    for old, new, slope in zip(before, aware.trainable_variables, slopes, strict=True):
        np.testing.assert_allclose(old - numpy(new), slope, rtol=1e-4, atol=1e-6)

"""Convolutions and pooling of `keras.ops` inside a layer that vlpipe does not know: exact, like the layers of these names."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import numpy
from tests.layers.test_replace import SincConv
from vlpipe import layers

plain = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 14, 4)).astype("float32")
LENGTHS = np.array([13, 6, 9, 5])


class Sliding(plain.Layer):
    """An operation of `keras.ops` with kernels of its own."""

    def __init__(self, operation, kernels=(), **how):
        super().__init__()
        self.operation, self.shapes, self.how = operation, kernels, how

    def build(self, shape):
        for number, kernel in enumerate(self.shapes):
            setattr(self, f"kernel_{number}", self.add_weight(shape=kernel, initializer="normal", name=f"kernel_{number}"))

    def call(self, inputs):
        return ops.tanh(getattr(ops, self.operation)(inputs, *[getattr(self, f"kernel_{n}") for n in range(len(self.shapes))], **self.how))


LINES = {
    "conv": [(3, 4, 5)],
    "depthwise_conv": [(4, 4, 2)],
    "separable_conv": [(3, 4, 1), (1, 4, 5)],
    "max_pool": [],
    "average_pool": [],
}
PLANES = {
    "conv": [(3, 2, 2, 5)],
    "depthwise_conv": [(4, 2, 2, 2)],
    "separable_conv": [(3, 2, 2, 1), (1, 1, 2, 5)],
    "max_pool": [],
    "average_pool": [],
}
HOW = [
    {"padding": "same"},
    {"padding": "same", "strides": 2},
    {"padding": "same", "strides": 3},
    {"padding": "valid", "strides": 2},
    {"padding": "same", "dilation_rate": 2},
]


def assert_exact(model):
    """Each padded row has the plain model's answer to the row alone, with as many frames; both tools agree that it does."""
    aware = layers.mask_aware(model)
    assert layers.check_model(aware).ok
    together = numpy(aware({"features": X, "lengths": LENGTHS}))
    alone = [numpy(model(x[None, :n]))[0] for x, n in zip(X, LENGTHS, strict=True)]
    assert layers.output_lengths(aware, LENGTHS).tolist() == [len(y) for y in alone]
    for got, want in zip(together, alone, strict=True):
        np.testing.assert_allclose(got[: len(want)], want, rtol=1e-5, atol=1e-5)
    return aware


def a_model(layer, is_plane=False):
    inputs = keras.Input((None, 4))
    return keras.Model(inputs, layer(plain.Reshape((-1, 2, 2))(inputs) if is_plane else inputs))


CASES = [
    (is_plane, operation, how)
    for is_plane in (False, True)
    for operation in LINES
    for how in HOW
    if not (operation.endswith("pool") and "dilation_rate" in how) and not (is_plane and how.get("strides") == 3)
]


@pytest.mark.parametrize(("is_plane", "operation", "how"), CASES, ids=str)
def test_an_operation_in_a_layer_is_exact(is_plane, operation, how):
    size = (3, 2) if is_plane else 3  # on JAX, keras.ops cannot do without strides
    own = {"pool_size": size, "strides": size} if operation.endswith("pool") else {}
    model = a_model(Sliding(operation, (PLANES if is_plane else LINES)[operation], **{**own, **how}), is_plane)
    leaks = how["padding"] == "same"
    assert any(finding.problem in ("reads_padding", "stride_alignment") for finding in layers.check_model(model).findings) == leaks
    assert_exact(model)


def test_the_whole_contract_holds_and_the_kernels_learn():
    model = a_model(Sliding("conv", [(3, 4, 5)], padding="same", strides=2))
    aware = layers.mask_aware(model)
    assert [weight.path for weight in aware.trainable_variables] == [weight.path for weight in model.trainable_variables]
    layers.assert_padding_invariant(aware, plain=model, lengths=(2, 9), padding=(1, 4))


def test_a_kernel_that_is_constant_or_computed():
    kernel = RNG.normal(size=(3, 4, 2)).astype("float32")
    assert_exact(a_model(lambda x: ops.conv(x, kernel, strides=2, padding="same")))
    waves = keras.Input((None, 1))
    model = keras.Model(waves, SincConv(8, 25)(waves))
    x = RNG.normal(size=(2, 90, 1)).astype("float32")
    got = numpy(layers.mask_aware(model)({"features": x, "lengths": np.array([80, 51])}))
    for row, n in enumerate((80, 51)):
        want = numpy(model(x[row : row + 1, :n]))[0]
        np.testing.assert_allclose(got[row, : len(want)], want, rtol=1e-4, atol=1e-5)


def test_the_layer_without_masks_is_the_operation():
    kernel = RNG.normal(size=(3, 4, 2)).astype("float32")
    layer = layers.ConvOperation("conv", [3], strides=2, padding="same")
    again = layers.ConvOperation.from_config(layer.get_config())
    want = numpy(ops.conv(X, kernel, strides=2, padding="same"))
    np.testing.assert_array_equal(numpy(layer([X, kernel])), want)
    np.testing.assert_array_equal(numpy(again([X, kernel])), want)

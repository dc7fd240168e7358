"""Convolutions and pooling of `keras.ops` inside a layer that vlpipe does not know: exact, like the layers of these names."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import numpy
from tests.layers.test_replace import SincConv
from vlpipe import layers
from vlpipe.errors import ArgumentError

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
    "conv_transpose": [(4, 5, 4)],
    "max_pool": [],
    "average_pool": [],
}
PLANES = {
    "conv": [(3, 2, 2, 5)],
    "depthwise_conv": [(4, 2, 2, 2)],
    "separable_conv": [(3, 2, 2, 1), (1, 1, 2, 5)],
    "conv_transpose": [(4, 2, 5, 2)],
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
    x = plain.Dense(4, bias_initializer="normal")(inputs)  # so that the padding, which arrives as zeros, is none
    return keras.Model(inputs, layer(plain.Reshape((-1, 2, 2))(x) if is_plane else x))


CASES = [
    (is_plane, operation, how)
    for is_plane in (False, True)
    for operation in LINES
    for how in HOW
    if not (operation.endswith("pool") and "dilation_rate" in how)
    and not (is_plane and how.get("strides") == 3)
    and not (is_plane and operation == "conv_transpose" and how != HOW[1])
]


@pytest.mark.parametrize(("is_plane", "operation", "how"), CASES, ids=str)
def test_an_operation_in_a_layer_is_exact(is_plane, operation, how):
    size = (3, 2) if is_plane else 3  # on JAX, keras.ops cannot do without strides
    own = {"pool_size": size, "strides": size} if operation.endswith("pool") else {}
    model = a_model(Sliding(operation, (PLANES if is_plane else LINES)[operation], **{**own, **how}), is_plane)
    if keras.backend.backend() == "torch" and operation == "average_pool" and how["padding"] == "same":  # none of these is even
        with pytest.raises(ArgumentError, match="repeats the first and the last frame on PyTorch"):
            layers.mask_aware(model)
        return
    leaks = how["padding"] == "same" or operation == "conv_transpose"
    assert any(finding.problem in ("reads_padding", "stride_alignment") for finding in layers.check_model(model).findings) == leaks
    assert_exact(model)


def test_the_frames_that_a_transposed_convolution_appends():
    model = a_model(Sliding("conv_transpose", [(5, 6, 4)], strides=3, padding="valid", output_padding=1))
    assert layers.output_lengths(assert_exact(model), [1, 2, 9]).tolist() == [6, 9, 30]


def test_branches_meet_behind_a_transposed_convolution():
    """A U-Net of one stage: half as many frames, and back in the time scale of the input."""

    def body(x):
        half = plain.Conv1D(3, 3, strides=2, padding="same", bias_initializer="normal")(x)
        return plain.Concatenate()([x, Sliding("conv_transpose", [(4, 5, 3)], strides=2, padding="same")(half)])

    inputs = keras.Input((None, 4))
    aware = layers.mask_aware(model := keras.Model(inputs, body(inputs)))
    together = numpy(aware({"features": X, "lengths": LENGTHS - LENGTHS % 2}))
    for got, x, n in zip(together, X, LENGTHS - LENGTHS % 2, strict=True):
        np.testing.assert_allclose(got[:n], numpy(model(x[None, :n]))[0], rtol=1e-5, atol=1e-5)


OWN_KERNELS = {"conv": [(3, 4, 5)], "conv_transpose": [(4, 5, 4)]}


@pytest.mark.parametrize("operation", OWN_KERNELS)
def test_the_whole_contract_holds_and_the_kernels_learn(operation):
    model = a_model(Sliding(operation, OWN_KERNELS[operation], padding="same", strides=2))
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


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_the_layer_without_masks_is_the_operation(operation):
    kernel = RNG.normal(size=(3, 4, 4)).astype("float32")
    kind, name = (layers.ConvOperation, ["conv"]) if operation == "conv" else (layers.ConvTransposeOperation, [])
    layer = kind(*name, [3], strides=2, padding="same")
    again = kind.from_config(layer.get_config())
    want = numpy(getattr(ops, operation)(X, kernel, strides=2, padding="same"))
    np.testing.assert_array_equal(numpy(layer([X, kernel])), want)
    np.testing.assert_array_equal(numpy(again([X, kernel])), want)

"""Layers of other libraries: their replacements are tested before `mask_aware` trusts them."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError
from vlpipe.layers.base import fill_padding

plain = keras.layers
rng = np.random.default_rng(0)
X = rng.normal(size=(3, 12, 4)).astype("float32")
LENGTHS = np.array([12, 5, 8])


class Smooth(plain.Layer):
    """The mean of each frame and its neighbors, times a weight; a third-party layer that knows nothing of masks."""

    def __init__(self, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.gain, self.dense = gain, plain.Dense(3, bias_initializer="normal")

    def build(self, input_shape):
        self.dense.build(input_shape)
        super().build(input_shape)

    def call(self, inputs):
        return self.dense(ops.average_pool(inputs, 3, strides=1, padding="valid")) * self.gain

    def get_config(self):
        return {**super().get_config(), "gain": self.gain}


class AwareSmooth(layers.MaskAware, Smooth):
    def call(self, inputs, mask=None):
        return super().call(layers.base.pad_to_minimum(inputs, 3))

    def output_frames(self, frames):
        return frames - 2

    def reach(self):
        return layers.base.Reach(3)


class LeakySmooth(AwareSmooth):
    """Adds what the padding has more than the frames: nothing without padding."""

    def call(self, inputs, mask=None):
        if mask is None:
            return super().call(inputs)
        leak = ops.max(ops.abs(inputs)) - ops.max(ops.abs(fill_padding(inputs, mask)))
        return super().call(inputs + leak)


class Unmasked(AwareSmooth):
    def output_frames(self, frames):
        return frames


class WithoutReach(AwareSmooth):
    def reach(self):
        return layers.base.Reach()


def a_model(gain=2.0):
    inputs = keras.Input((None, 4))
    return keras.Model(inputs, plain.GlobalMaxPooling1D()(Smooth(gain, name="smooth")(plain.Dense(4)(inputs))), name="m")


def assert_exact(aware, model, x=X, lengths=LENGTHS):
    got = numpy(aware({"features": x, "lengths": lengths}))
    want = np.concatenate([numpy(model(x[b : b + 1, :n])) for b, n in enumerate(lengths)])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_class_replaces_a_class_with_its_configuration_and_weights(tmp_path):
    model = a_model()
    aware = layers.mask_aware(model, layers={Smooth: AwareSmooth})
    assert_exact(aware, model)
    assert layers.check_model(aware).ok
    assert aware.get_layer("smooth").gain == 2.0
    aware.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", custom_objects={"AwareSmooth": AwareSmooth})
    assert_exact(loaded, model)


def test_a_function_makes_the_replacement_and_may_share_weights():
    model = a_model()

    def sharing(layer):
        new = AwareSmooth(layer.gain, name=layer.name)
        new.dense, new.built = layer.dense, True
        return new

    aware = layers.mask_aware(model, layers={Smooth: sharing})
    assert_exact(aware, model)
    model.get_layer("smooth").dense.kernel.assign(rng.normal(size=(4, 3)))
    assert_exact(aware, model)


def test_a_layer_called_twice_and_one_in_a_nested_model():
    inputs = keras.Input((None, 4))
    smooth = Smooth()
    inner = keras.Model(inputs, plain.Dense(4)(smooth(inputs)))
    outer = keras.Input((None, 4))
    model = keras.Model(outer, plain.GlobalAveragePooling1D()(smooth(inner(outer))))
    assert_exact(layers.mask_aware(model, layers={Smooth: AwareSmooth}), model)


class Plain(Smooth):
    """Not mask-aware."""


class Wide(AwareSmooth):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dense = plain.Dense(5)


class Louder(AwareSmooth):
    def call(self, inputs, mask=None):
        return 2 * super().call(inputs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({Smooth: LeakySmooth}, r'replacement for "smooth" \(Smooth\), LeakySmooth, lets padding in\. A sequence of 3 frames padded by'),
        ({Smooth: Unmasked}, r"gives an output of \(1, 1, 3\) the mask \(1, 3\); expected a mask"),
        (
            {Smooth: WithoutReach},
            r"depends on 1 frames, but on 1 frames the layer (fails with .*|returns .*)\. Return in reach\(\) as many",
        ),
        ({Smooth: Plain}, "is a Plain; expected a layer with the base class vlpipe.layers.MaskAware"),
        ({Smooth: Wide}, r"has weights of the shapes \[\(4, 5\), \(5,\)\]; expected those of the layer, \[\(4, 3\), \(3,\)\]"),
        ({Smooth: Louder}, r"answers a sequence of 3 frames without padding by \(1, 1, 3\), 1 from the answer \(1, 1, 3\) of the layer"),
        ({Smooth: AwareSmooth, Wide: Wide}, 'layers={Wide: ...}, but no layer of the model "m" that sees frames is a Wide'),
        ({"Smooth": AwareSmooth}, "layers={'Smooth': .*}; expected classes of layers, each with its mask-aware class"),
    ],
)
def test_replacements_that_cannot_be_trusted_are_refused(given, message):
    with pytest.raises(ArgumentError, match=f"mask_aware: .*{message}"):
        layers.mask_aware(a_model(), layers=given)


def test_a_replacement_that_cannot_be_tested_is_refused():
    class Lookup(plain.Embedding):
        pass

    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, plain.GlobalMaxPooling1D()(Lookup(9, 4, name="e")(inputs)))
    with pytest.raises(
        ArgumentError, match=r'"e" \(Lookup\) is called on int32 \(None, None\); expected numbers \[batch, frames, features\]'
    ):
        layers.mask_aware(model, layers={Lookup: lambda layer: layers.Embedding(9, 4)})


class SincConv(plain.Layer):
    """The first layer of SincNet: band-pass filters of which only the two cut-off frequencies are learned (Ravanelli and Bengio, 2018)."""

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, kernel_size

    def build(self, input_shape):
        edges = np.linspace(0.01, 0.4, self.filters + 1)
        self.low = self.add_weight(name="low", shape=(self.filters,), initializer=lambda shape, dtype: ops.cast(edges[:-1], dtype))
        self.band = self.add_weight(name="band", shape=(self.filters,), initializer=lambda shape, dtype: ops.cast(np.diff(edges), dtype))

    def kernels(self):
        time = np.arange(self.kernel_size) - self.kernel_size // 2
        time = ops.cast(np.where(time == 0, 1e-6, time)[:, None, None], "float32")
        low, high = ops.abs(self.low), ops.abs(self.low) + ops.abs(self.band)
        passed = [ops.sin(2 * np.pi * edge * time) / (np.pi * time) for edge in (high, low)]
        return (passed[0] - passed[1]) * ops.cast(np.hamming(self.kernel_size)[:, None, None], "float32")

    def call(self, inputs):
        return ops.conv(inputs, self.kernels(), strides=2, padding="valid")

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}


class AwareSincConv(layers.MaskAware, SincConv):
    def call(self, inputs, mask=None):
        return super().call(layers.base.pad_to_minimum(inputs, self.kernel_size))

    def output_frames(self, frames):
        return (frames - self.kernel_size) // 2 + 1

    def reach(self):
        return layers.base.Reach(self.kernel_size, layers.base.Fraction(2))


def test_sincnet():
    inputs = keras.Input((None, 1))
    x = plain.MaxPooling1D(3)(SincConv(8, 25)(inputs))
    x = plain.LeakyReLU()(plain.LayerNormalization()(x))
    x = plain.BatchNormalization()(plain.Conv1D(8, 5)(x))
    model = keras.Model(inputs, plain.Dense(4)(plain.GlobalAveragePooling1D()(x)))
    aware = layers.mask_aware(model, layers={SincConv: AwareSincConv})
    waves = rng.normal(size=(3, 400, 1)).astype("float32")
    assert_exact(aware, model, waves, np.array([400, 150, 299]))


def aware_tcn():
    """Return keras-tcn's layer and a mask-aware one: causal, so that only the choice of the last frame and `same` see the padding."""
    tcn = pytest.importorskip("tcn")

    class AwareTCN(layers.MaskAware, tcn.TCN):
        def call(self, inputs, training=None, mask=None):
            self.return_sequences, whole = True, self.return_sequences
            try:
                x = super().call(inputs if mask is None else fill_padding(inputs, mask), training=training)
            finally:
                self.return_sequences = whole
            if whole or mask is None:
                return x if whole else x[:, -1]
            return layers.SelectFrame(-1).call(x, mask)

        def compute_mask(self, inputs, mask=None):
            return super().compute_mask(inputs, mask) if self.return_sequences else None

        def reach(self):
            return layers.base.Reach(self.receptive_field)

    return tcn.TCN, AwareTCN


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="keras-tcn runs on TensorFlow only")
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.filterwarnings("ignore")  # of keras-tcn
def test_keras_tcn(return_sequences):
    TCN, AwareTCN = aware_tcn()
    inputs = keras.Input((None, 4))
    x = TCN(6, 2, dilations=(1, 2), return_sequences=return_sequences, use_layer_norm=True)(inputs)
    model = keras.Model(inputs, plain.Dense(2)(plain.GlobalMaxPooling1D()(x) if return_sequences else x))
    assert_exact(layers.mask_aware(model), model)
    assert_exact(layers.mask_aware(model, layers={TCN: AwareTCN}), model)


class Residual(plain.Layer):
    """A block as keras-tcn has it: the name of an activation, layers that are told whether they train, and one that does nothing."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation, self.conv, self.drop = "relu", plain.Conv1D(4, 3, padding="causal", bias_initializer="normal"), plain.Dropout(0.5)
        self.first, self.same = plain.Activation(self.activation), plain.Lambda(lambda x: x)

    def build(self, shape):
        self.conv.build(shape)
        super().build(shape)

    def call(self, inputs, training=None):
        return self.same(inputs) + self.drop(self.first(self.conv(inputs)), training=training)[:, ::-1]

    def compute_output_shape(self, shape):
        return shape


def test_a_layer_of_layers_is_followed_to_its_lambdas():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, plain.GlobalMaxPooling1D()(Residual()(plain.Conv1D(4, 3, padding="same")(inputs))))
    aware = layers.mask_aware(model)
    assert_exact(aware, model)
    batch = {"features": X, "lengths": LENGTHS}
    assert not np.allclose(numpy(aware(batch, training=True)), numpy(aware(batch)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = plain.Conv1D(3, 3, padding="same"), plain.GlobalMaxPooling1D()

    def call(self, inputs, training=None):
        return self.pool(self.conv(inputs))


def test_a_subclassed_model_becomes_a_functional_one():
    model = Subclassed()
    with pytest.raises(
        ArgumentError, match=r"got Subclassed; .* Pass keras.Model\(inputs, model.call\(inputs\)\) with inputs = keras.Input"
    ):
        layers.mask_aware(model)
    inputs = keras.Input((None, 4))
    aware = layers.mask_aware(keras.Model(inputs, model.call(inputs)))
    assert_exact(aware, model)
    assert aware.weights[0] is model.conv.kernel

"""Models whose answers padding changed without any finding: layers of several tensors, distant frames, one frame merged with all."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers


@keras.saving.register_keras_serializable(package="vlpipe-tests")
class Shifted(layers.MaskAware, plain.Layer):
    """Add a vector, and subtract the mean of the real frames."""

    def call(self, x, shift, mask=None):
        if mask is None:
            return x - ops.mean(x, axis=1, keepdims=True) + shift[:, None, :]
        return x - layers.GlobalAveragePooling1D(keepdims=True)(x, mask=mask) + shift[:, None, :]


@keras.saving.register_keras_serializable(package="vlpipe-tests")
class Ahead(plain.Layer):
    """Each frame plus the one 200 frames later; written with the number of frames, so that it cannot be followed."""

    def call(self, x):
        return x + ops.pad(x, [[0, 0], [0, 200], [0, 0]])[:, 200 : 200 + ops.shape(x)[1]]


@keras.saving.register_keras_serializable(package="vlpipe-tests")
class Positions(plain.Layer):
    """Add a table of 64 positions: no longer sequence passes."""

    def build(self, shape):
        self.table = self.add_weight(shape=(64, shape[-1]), name="table")

    def call(self, x):
        return x + self.table[: ops.shape(x)[1]]

    def compute_output_shape(self, shape):
        return shape


def model_of(body):
    x, start = keras.Input((None, 4), name="x"), keras.Input((4,), name="start")
    return keras.Model([x, start], body(x, start))


def shared(x, start):
    """One GRU called without and with a state."""
    gru = plain.GRU(4, return_sequences=True)
    return plain.Concatenate()([gru(x), gru(x, initial_state=start)])


SEVERAL = {
    "by name": lambda x, s: plain.GRU(4)(x, initial_state=s),
    "by place": lambda x, s: plain.GRU(4, return_sequences=True)(x, s),
    "two states": lambda x, s: plain.LSTM(4)(x, initial_state=[s, s]),
    "both directions": lambda x, s: plain.Bidirectional(plain.GRU(4))(x, initial_state=[s, s]),
    "a table of positions": lambda x, s: Positions()(x),
    "a shared layer": shared,
    "a mask in the call": lambda x, s: plain.LSTM(4)(x, mask=x[:, :, 0] < 0.5),
    "a mask and a state": lambda x, s: plain.GRU(4)(x, initial_state=s, mask=x[:, :, 0] < 0.5),
    "a mask for a mean": lambda x, s: plain.GlobalAveragePooling1D()(x, mask=x[:, :, 0] < 100),
    "masks for attention": lambda x, s: plain.MultiHeadAttention(2, 3)(x, x, value_mask=x[:, :, 0] < 100),
    "a layer of the user": lambda x, s: plain.GlobalMaxPooling1D()(Shifted()(x, s)),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_layer_of_several_tensors_gets_the_mask_of_the_first(name, tmp_path):
    model = model_of(SEVERAL[name])
    aware = layers.mask_aware(model)
    rng = np.random.default_rng(0)
    x, start, lengths = rng.normal(size=(3, 9, 4)).astype("float32"), rng.normal(size=(3, 4)).astype("float32"), np.array([9, 5, 1])
    batch = {"features": x, "lengths": lengths, "start": start}
    got = numpy(aware(batch))
    for row, n in enumerate(lengths):
        want = numpy(model([x[row : row + 1, :n], start[row : row + 1]]))[0]
        np.testing.assert_allclose(got[row][: len(want)] if want.ndim > 1 else got[row], want, rtol=1e-5, atol=1e-5)
    assert layers.check_model(aware).ok
    aware.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(numpy(keras.models.load_model(tmp_path / "m.keras")(batch)), got)


def test_a_model_made_by_hand_loses_the_mask_and_check_model_says_so():
    inputs = {"features": keras.Input((None, 4)), "lengths": keras.Input((), dtype="int32")}
    start = keras.Input((3,))
    y = plain.GRU(3)(layers.LengthMask()(inputs), initial_state=start)
    findings = layers.check_model(keras.Model([*inputs.values(), start], y)).findings
    assert [finding.message for finding in findings] == ["gets no mask, because it is called with several tensors"]


REFUSED = {
    "is called with a mask that is no tensor of frames": lambda x, s: plain.LSTM(4)(x, mask=np.ones((1, 9), bool)),
    "is unknown to vlpipe": lambda x, s: Ahead()(x),
    "Ahead": lambda x, s: Ahead()(x),
    "merges one frame, taken by a slice, with all frames": lambda x, s: x - x[:, -1:],
    "Index it and add the axis": lambda x, s: plain.Subtract()([x, x[:, :1]]),
    "attends along other axes than the frames": lambda x, s: plain.MultiHeadAttention(2, 3, attention_axes=(2,))(
        plain.Reshape((-1, 2, 2))(x), plain.Reshape((-1, 2, 2))(x)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_let_padding_in_is_refused(message):
    model = model_of(REFUSED[message])
    with pytest.raises(ArgumentError, match=message):
        layers.mask_aware(model)
    assert not layers.check_model(model).ok


def test_ways_out():
    y = keras.Input((2, 2))
    frame = keras.Model(y, plain.MultiHeadAttention(2, 3, attention_axes=(1,))(y, y))

    def body(x, start):
        x = x - x[:, -1][:, None]
        return plain.TimeDistributed(frame)(plain.Reshape((-1, 2, 2))(x))

    model = model_of(body)
    x, start = np.random.default_rng(0).normal(size=(1, 7, 4)).astype("float32"), np.zeros((1, 4), "float32")
    got = numpy(layers.mask_aware(model)({"features": x, "lengths": np.array([5]), "start": start}))
    np.testing.assert_allclose(got[:, :5], numpy(model([x[:, :5], start])), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keys", [lambda x: plain.Conv1D(4, 3, strides=2, padding="same")(x), lambda x: plain.AveragePooling1D(2)(x)])
def test_keys_of_an_attention_may_have_fewer_frames_than_its_query(keys):
    x = keras.Input((None, 4))
    model = keras.Model(x, plain.Add()([x, plain.Attention()([x, keys(x)])]))
    aware = layers.mask_aware(model)
    assert layers.output_lengths(aware, [7, 4]).tolist() == [7, 4]
    x = np.random.default_rng(0).normal(size=(1, 7, 4)).astype("float32")
    got = numpy(aware({"features": x, "lengths": np.array([4])}))
    np.testing.assert_allclose(got[:, :4], numpy(model(x[:, :4])), rtol=1e-5, atol=1e-5)

"""Models that `mask_aware` converts, and operations that it refuses by name."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import ExtractMask, numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers


def functional(body, features=4):
    inputs = keras.Input((None, features))
    return keras.Model(inputs, body(inputs), name="m")


def same_outputs(model, lengths=(9, 5), features=4):
    """Compare each row of a padded batch with the plain model on the row alone; return the mask-aware model."""
    aware = layers.mask_aware(model)
    x = np.random.default_rng(0).normal(size=(len(lengths), max(lengths) + 3, features)).astype("float32")
    y = aware({"features": x, "lengths": np.array(lengths)})
    for b, n in enumerate(lengths):
        want = numpy(model(x[b : b + 1, :n]))[0]
        got = numpy(y)[b]
        np.testing.assert_allclose(got[: len(want)] if want.ndim > 1 else got, want, rtol=1e-5, atol=1e-5)
    return aware


BODIES = {
    "squeeze and expand": lambda x: ops.max(ops.expand_dims(ops.squeeze(plain.Dense(1)(x), -1), -1), axis=1),
    "softmax of scores without features": lambda x: ops.sum(
        x * ops.expand_dims(ops.softmax(ops.squeeze(plain.Dense(1)(x), -1), axis=-1), -1), axis=1
    ),
    "softmax layer over [B, T]": lambda x: ops.sum(plain.Activation("softmax")(ops.squeeze(plain.Dense(1)(x), -1)), axis=1, keepdims=True),
    "softmax of ops over time": lambda x: ops.sum(ops.softmax(x, axis=1) * x, axis=1),
    "softmax of ops over features": lambda x: ops.mean(ops.softmax(x) * x, axis=1),
    "slices of features": lambda x: ops.max(ops.concatenate([x[:, :, 1:], x[..., :1]], axis=-1), axis=1),
    "minimum over time": lambda x: ops.min(plain.Conv1D(4, 2)(x), axis=1),
    "mean over features first": lambda x: ops.mean(ops.mean(x, axis=-1), axis=1, keepdims=True),
    "a gate from the mean": lambda x: plain.GlobalMaxPooling1D()(x * ops.sigmoid(ops.mean(x, axis=1, keepdims=True))),
    "merges": lambda x: plain.GlobalMaxPooling1D()(
        plain.Average()([plain.Maximum()([x, x * 2]), plain.Minimum()([x, plain.Subtract()([x, x * 0.5])])])
    ),
    "group normalization": lambda x: plain.GlobalAveragePooling1D()(plain.GroupNormalization(2)(x)),
    "root mean square": lambda x: plain.GlobalMaxPooling1D()(plain.RMSNormalization()(x)),
    "time distributed": lambda x: plain.GlobalMaxPooling1D()(plain.TimeDistributed(plain.Dense(3))(x)),
    "prelu": lambda x: plain.GlobalMaxPooling1D()(plain.PReLU(shared_axes=[1])(plain.Conv1D(3, 3, padding="same")(x))),
    "simple rnn": lambda x: plain.SimpleRNN(3, go_backwards=True)(x),
    "attention layer": lambda x: plain.GlobalMaxPooling1D()(plain.Attention()([x, x])),
    "a layer called twice": lambda x: (lambda conv: plain.GlobalMaxPooling1D()(conv(conv(x))))(plain.Conv1D(4, 3, padding="same")),
    "no frames after pooling": lambda x: plain.Flatten()(plain.Reshape((2, 2))(plain.GlobalMaxPooling1D()(x))),
}


@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning")
@pytest.mark.parametrize("name", BODIES)
def test_models_give_each_row_the_output_it_has_alone(name):
    aware = same_outputs(functional(BODIES[name]))
    assert layers.check_model(aware).ok


def test_tokens():
    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), plain.Embedding(10, 4), plain.Conv1D(4, 3, padding="same"), plain.GlobalMaxPooling1D()]
    )
    x = np.array([[1, 2, 3, 9, 9], [4, 5, 9, 9, 9]])
    y = numpy(layers.mask_aware(model)({"features": x, "lengths": np.array([3, 2])}))
    np.testing.assert_allclose(y[1], numpy(model(x[1:, :2]))[0], rtol=1e-5)


def test_token_zero_as_padding_is_refused():
    model = keras.Sequential([keras.Input((None,), dtype="int32"), plain.Embedding(10, 4, mask_zero=True, name="e"), plain.LSTM(4)])
    with pytest.raises(ArgumentError, match='Embedding "e": mask_zero=True; expected False'):
        layers.mask_aware(model)


def test_nested_models_stay_models_and_are_shared():
    encoder = keras.Sequential([keras.Input((None, 4)), plain.Conv1D(4, 3, padding="same"), plain.BatchNormalization()], name="encoder")
    inner = functional(lambda x: encoder(encoder(x)))
    model = functional(lambda x: plain.GlobalAveragePooling1D()(plain.Add()([inner(x), encoder(x)])))
    aware = same_outputs(model)
    assert {type(layer).__name__ for layer in aware.layers} >= {"NestedModel", "Add"}
    assert len(aware.weights) == len(model.weights) == 6


def test_a_nested_model_that_pools():
    encoder = keras.Sequential([keras.Input((None, 4)), plain.Conv1D(4, 3), plain.GlobalMaxPooling1D()])
    aware = same_outputs(functional(lambda x: plain.Dense(2)(encoder(x))))
    assert ExtractMask()(aware({"features": np.ones((1, 5, 4)), "lengths": np.array([4])})) is None


def test_a_nested_model_of_two_inputs():
    first, second = keras.Input((None, 4)), keras.Input((None, 4))
    pair = keras.Model([first, second], plain.Conv1D(3, 3, padding="same")(plain.Add()([first, second])), name="pair")
    aware = same_outputs(functional(lambda x: plain.GlobalAveragePooling1D()(pair([x, plain.Conv1D(4, 3, padding="same")(x)]))))
    assert "pair" in [layer.name for layer in aware.layers]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    """The masks reach nested layers through the casts; float16 ends at 65504, which the sum of these frames exceeds, but not their mean."""
    keras.config.set_dtype_policy(policy)
    try:
        front = keras.Sequential([keras.Input((None, 4)), plain.Conv1D(4, 3, strides=2, padding="same"), plain.BatchNormalization()])
        model = functional(lambda x: plain.GlobalAveragePooling1D()(front(x)))
        model.set_weights([np.ones(w.shape) for w in model.weights])
        aware = layers.mask_aware(model)
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.full((2, 300, 4), 100, "float32")
    y = numpy(aware({"features": x, "lengths": np.array([300, 20])})).astype("float32")
    alone = [numpy(aware({"features": x[:1, :n], "lengths": np.array([n])})).astype("float32")[0] for n in (300, 20)]
    np.testing.assert_allclose(y, alone, rtol=0.01)
    np.testing.assert_allclose(y[0], np.full(4, 1200), rtol=0.02)


def test_a_mask_as_input():
    model = functional(lambda x: plain.GlobalAveragePooling1D()(plain.Conv1D(3, 3, padding="same")(x)))
    aware = layers.mask_aware(model, given="mask")
    x = np.random.default_rng(0).normal(size=(1, 8, 4)).astype("float32")
    y = aware({"features": x, "mask": np.arange(8)[None] < 5})
    np.testing.assert_allclose(numpy(y), numpy(model(x[:, :5])), rtol=1e-5, atol=1e-6)
    layers.assert_padding_invariant(aware, 4)


def test_several_inputs_are_passed_by_name():
    first, second, extra = keras.Input((None, 4), name="audio"), keras.Input((None, 3), name="video"), keras.Input((2,), name="speaker")
    pooled = [plain.GlobalMaxPooling1D()(plain.Conv1D(3, 3, padding="same")(x)) for x in (first, second)]
    model = keras.Model([first, second, extra], plain.Dense(2)(plain.Concatenate()([*pooled, extra])))
    aware = layers.mask_aware(model)
    rng = np.random.default_rng(0)
    x, y, z = (rng.normal(size=shape).astype("float32") for shape in ((1, 9, 4), (1, 6, 3), (1, 2)))
    got = aware({"audio": x, "audio_lengths": np.array([7]), "video": y, "video_lengths": np.array([4]), "speaker": z})
    np.testing.assert_allclose(numpy(got), numpy(model([x[:, :7], y[:, :4], z])), rtol=1e-5, atol=1e-6)


def test_a_dict_of_outputs_keeps_its_structure():
    inputs = keras.Input((None, 4))
    x = plain.Conv1D(3, 3, padding="same")(inputs)
    aware = layers.mask_aware(keras.Model(inputs, {"frames": x, "clip": plain.GlobalMaxPooling1D()(x)}))
    y = aware({"features": np.ones((2, 6, 4), "float32"), "lengths": np.array([6, 2])})
    assert sorted(y) == ["clip", "frames"]
    np.testing.assert_array_equal(numpy(ExtractMask()(y["frames"])).sum(1), [6, 2])


class Shuffle(keras.layers.Layer):
    def call(self, inputs):
        return ops.flip(inputs, axis=1)


class Doubled(layers.MaskAware, keras.layers.Layer):
    def call(self, inputs, mask=None):
        return inputs * 2


def test_a_users_layer_with_the_base_is_trusted():
    aware = same_outputs(functional(lambda x: plain.GlobalMaxPooling1D()(Doubled()(x))))
    assert layers.check_model(aware).ok


REFUSED = {
    "concatenates all frames, so its width": lambda x: plain.Flatten()(x),
    "reshapes the frame axis": lambda x: plain.Reshape((-1, 2))(x),
    "moves the frame axis, as before a Dense": lambda x: plain.Permute((2, 1))(x),
    "runs Python code that vlpipe cannot inspect": lambda x: plain.Lambda(lambda v: v[:, -1])(x),
    "infers the lengths from the values": lambda x: plain.Masking()(x),
    r"\(Shuffle\) is unknown to vlpipe and may mix frames": lambda x: Shuffle()(x),
    r"\(GetItem\) is unknown to vlpipe": lambda x: x[:, -1],
    r"\(Flip\) is unknown to vlpipe": lambda x: ops.flip(x, axis=1),
    r"\(Mean\) is unknown to vlpipe": lambda x: ops.mean(x, axis=(1, 2)),
    "normalizes over time": lambda x: plain.UnitNormalization(axis=1)(x),
    "keeps or returns states": lambda x: plain.LSTM(3, return_state=True)(x)[0],
    "returns the frames in reverse order": lambda x: plain.GRU(3, go_backwards=True, return_sequences=True)(x),
    "returns two sequences": lambda x: plain.Bidirectional(plain.GRU(3, return_sequences=True), merge_mode=None)(x)[0],
    "uses the frame axis as the feature axis": lambda x: plain.Dot(axes=1)([ops.mean(x, axis=-1)] * 2),
    r"\(ExpandDims\) moves the frame axis\. Keep": lambda x: ops.expand_dims(x, 1),
    "broadcasts across the frames": lambda x: x * ops.ones((5, 4)),
    "acts along several axes": lambda x: plain.Softmax(axis=(1, 2))(x),
    "acts along the frame axis": lambda x: plain.Activation("log_softmax")(ops.mean(x, axis=-1)),
    "has an activity_regularizer, which counts the padding": lambda x: plain.Dense(3, activity_regularizer="l2")(x),
    "merges branches that never have the same number of frames": lambda x: ops.concatenate([x, plain.UpSampling1D(2)(x)], axis=-1),
    'Concatenate "c": axis=1': lambda x: plain.Concatenate(axis=1, name="c")([x, x]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_unsupported_operations_are_refused_by_name(message):
    model = functional(REFUSED[message])
    with pytest.raises(ArgumentError, match=message):
        layers.mask_aware(model)
    assert not layers.check_model(model).ok


def test_a_refusal_names_the_nested_layer_and_an_alternative():
    encoder = keras.Sequential([keras.Input((None, 4)), plain.Permute((2, 1), name="turn")], name="encoder")
    with pytest.raises(ArgumentError, match=r'mask_aware: "encoder/turn" \(Permute\) moves .*\. Keep \[batch, frames, features\]'):
        layers.mask_aware(functional(encoder))


def test_a_slope_for_every_frame_is_refused():
    inputs = keras.Input((7, 4))
    with pytest.raises(ArgumentError, match=r"has a slope for every frame. Use shared_axes="):
        layers.mask_aware(keras.Model(inputs, plain.PReLU()(inputs)))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subclassed(), "mask_aware: got Subclassed; expected a built Sequential or Functional model"),
        (lambda: keras.Sequential([plain.Dense(2)], name="s"), 'mask_aware: the Sequential model "s" is not built. Start it with'),
        (lambda: keras.Sequential([keras.Input((3,), name="x"), plain.Dense(2)]), r'no input of the model is a sequence: "x" \(None, 3\)'),
    ],
)
def test_models_that_cannot_be_inspected_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        layers.mask_aware(make())


def test_given_is_checked():
    with pytest.raises(ArgumentError, match=r"mask_aware: given='ids'; expected \"lengths\" or \"mask\""):
        layers.mask_aware(functional(plain.GlobalMaxPooling1D()), given="ids")

"""Models that crashed inside Keras: converted, or refused by name with a way out, which runs here."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers
rng = np.random.default_rng(0)
X = rng.normal(size=(4, 13, 4)).astype("float32")
LENGTHS = np.array([12, 6, 8, 4])


def functional(body, frames=None):
    inputs = keras.Input((frames, 4))
    return keras.Model(inputs, body(inputs), name="m")


def assert_exact(model, lengths=LENGTHS, frames=(12, 13)):
    """Each row has the plain model's answer to the row alone, whatever number of frames the batch has."""
    aware = layers.mask_aware(model)
    for count in frames:
        got = numpy(aware({"features": X[:, :count], "lengths": lengths}))
        for row, n in enumerate(lengths):
            want = numpy(model(X[row : row + 1, :n]))[0]
            np.testing.assert_allclose(got[row][: len(want)] if want.ndim > 1 else got[row], want, rtol=1e-5, atol=1e-5)
    return aware


def conv(x, **options):
    return plain.Conv1D(4, 3, padding="same", bias_initializer="normal", **options)(x)


BRANCHES = {
    "add": lambda x: plain.Add()([conv(x, strides=2), plain.MaxPooling1D(2)(x)]),
    "an operation": lambda x: conv(x, strides=2) + plain.AveragePooling1D(2)(x),
    "joined features": lambda x: ops.concatenate([plain.MaxPooling1D(2)(x), conv(x, strides=2)], axis=-1),
    "three branches": lambda x: plain.Maximum()([conv(x, strides=2), plain.MaxPooling1D(2)(x), plain.MaxPooling1D(2, padding="same")(x)]),
    "a gate beside them": lambda x: plain.Multiply()(
        [conv(x, strides=2), plain.MaxPooling1D(2)(x), plain.GlobalMaxPooling1D()(x)[:, None]]
    ),
    "doubled again": lambda x: plain.Add()([x, plain.UpSampling1D(2)(conv(x, strides=2))]),
    "in a nested model": lambda x: functional(lambda y: plain.Add()([conv(y, strides=2), plain.MaxPooling1D(2)(y)]))(conv(x)),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_of_unequal_lengths_are_cut_to_common_frames(name, tmp_path):
    """Lengths are even, so each sequence alone has equal branches; a batch of 13 frames has unequal ones."""
    model = functional(lambda x: plain.GlobalAveragePooling1D()(BRANCHES[name](x)))
    aware = assert_exact(model)
    assert layers.check_model(aware).ok
    per_frame = functional(BRANCHES[name])
    assert_exact(per_frame)
    if name == "add":
        aware.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        batch = {"features": X, "lengths": LENGTHS}
        np.testing.assert_allclose(numpy(loaded(batch)), numpy(aware(batch)), rtol=1e-6)
        odd = {"features": X[:1, :7], "lengths": np.array([7])}  # Keras has no answer; alone and in a batch it is that of 3 frames
        together = aware({"features": X, "lengths": np.array([7, 12, 3, 4])})
        np.testing.assert_allclose(numpy(aware(odd))[0], numpy(together)[0], rtol=1e-5)
        assert layers.output_lengths(layers.mask_aware(per_frame), [7, 8]).tolist() == [3, 4]


def test_branches_of_equal_lengths_are_not_cut():
    aware = layers.mask_aware(functional(lambda x: plain.Add()([x, conv(x)])))
    assert not [layer for layer in aware.layers if isinstance(layer, layers.CommonFrames)]


class Positions(layers.MaskAware, plain.Layer):
    """The way out that the refusal names."""

    def call(self, inputs, mask=None):
        table = np.arange(32 * 4, dtype="float32").reshape(1, 32, 4) / 9
        return inputs + ops.convert_to_tensor(table)[:, : ops.shape(inputs)[1]]

    def compute_output_shape(self, input_shape):
        return input_shape


def adapted(axis):
    normalization = plain.Normalization(axis=axis)
    normalization.adapt(rng.normal(size=(8, 32, 4)).astype("float32"))
    return normalization


FIXED = {
    r'"add" \(Add\) has an operand of 32 frames, so it takes sequences of 32 frames only\. Cut the operand': lambda x: plain.Add(
        name="add"
    )([x, ops.ones((1, 32, 4))]),
    r"\(Multiply\) has an operand of 32 frames": lambda x: x * ops.ones((32, 4)),
    r"\(Subtract\) has an operand of 32 frames": lambda x: plain.Subtract()([x, ops.ones((1, 32, 1))]),
    r"\(Normalization\) has a mean and a variance for each of 32 frames. Use Normalization\(axis=-1\)": lambda x: adapted((1, 2))(x),
}


@pytest.mark.parametrize("message", FIXED)
def test_constants_with_a_number_of_frames_are_refused(message):
    model = functional(lambda x: plain.GlobalAveragePooling1D()(FIXED[message](x)), frames=32)
    with pytest.raises(ArgumentError, match=message):
        layers.mask_aware(model)
    assert not layers.check_model(model).ok


def test_the_ways_out_of_constants():
    assert_exact(functional(lambda x: plain.GlobalAveragePooling1D()(Positions()(x))))
    assert_exact(functional(lambda x: plain.GlobalAveragePooling1D()(adapted(-1)(x))))


def with_scores(x):
    return plain.MultiHeadAttention(2, 4, name="attend")(x, x, return_attention_scores=True)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: with_scores(x)[1],
        lambda x: list(with_scores(x)),
        lambda x: plain.GlobalAveragePooling1D()(ops.mean(with_scores(x)[1], axis=1)),
        lambda x: plain.Dense(2)(plain.GlobalAveragePooling1D()(functional(lambda y: list(with_scores(y)))(x)[0])),
    ],
)
def test_attention_scores_are_refused(body):
    message = (
        r'attend" \(MultiHeadAttention\) returns its attention scores.*Build the model without them, and get the scores from keras.Model'
    )
    with pytest.raises(ArgumentError, match=message):
        layers.mask_aware(functional(body))


def test_the_way_out_of_attention_scores():
    inputs = keras.Input((None, 4))
    y, scores = with_scores(inputs)
    assert_exact(keras.Model(inputs, plain.GlobalAveragePooling1D()(y)))
    assert tuple(keras.Model([inputs], scores)([X[:1, :5]]).shape) == (1, 2, 5, 5)


def test_normalization_of_more_than_three_axes():
    model = functional(lambda x: plain.GlobalAveragePooling1D()(ops.squeeze(plain.BatchNormalization()(ops.expand_dims(x, -1)), -1)))
    model.set_weights([np.full(w.shape, 0.7) for w in model.weights])
    assert_exact(model)


def test_a_model_that_is_mask_aware_is_refused():
    model = functional(lambda x: plain.GlobalAveragePooling1D()(conv(x)))
    aware = layers.mask_aware(model)
    with pytest.raises(ArgumentError, match=r'the model "m" is mask-aware already: it has the layer "features_mask_entry" \(LengthMask\)'):
        layers.mask_aware(aware)
    assert_exact(model)


def test_names_that_the_new_model_needs_are_refused():
    def model_of(name, layer="d"):
        inputs, extra = keras.Input((None, 4), name="x"), keras.Input((1,), name=name)
        pooled = plain.GlobalAveragePooling1D()(plain.Dense(4, name=layer)(inputs))
        return keras.Model([inputs, extra], plain.Concatenate()([pooled, extra]))

    for name in ("lengths", "features"):
        with pytest.raises(
            ArgumentError, match="two inputs have the same name, one of them that of an input of the mask-aware model, .*'lengths'"
        ):
            layers.mask_aware(model_of(name))
        with pytest.raises(ArgumentError, match=f'the layer "{name}" has the name of an input of the mask-aware model'):
            layers.mask_aware(model_of("extra", layer=name))
    with pytest.raises(ArgumentError, match='the layer "features_mask_entry" has the name of an input'):
        layers.mask_aware(model_of("extra", layer="features_mask_entry"))
    for aware, key in (
        (layers.mask_aware(model_of("seconds")), "seconds"),
        (layers.mask_aware(model_of("lengths"), given="mask"), "lengths"),
    ):
        batch = {"features": X, "mask": np.ones(X.shape[:2], bool), "lengths": np.full(4, 13), key: np.ones((4, 1))}
        assert tuple(aware(batch).shape) == (4, 5)

"""One layer called in several ways: on other shapes, with other arguments, without frames, in training, with a mask of the user's own."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import gradients, numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers
pytestmark = [  # warnings of the plain models: on one frame, and behind a layer with a mask
    pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached:UserWarning"),
]
LENGTHS = np.array([9, 4, 1], "int32")
X = np.random.default_rng(0).normal(size=(3, 11, 4)).astype("float32")
X[:, 0, 0] = 1  # so that the masks with holes keep a frame of each row: of none, the plain model's mean is NaN
for row, length in zip(X, LENGTHS, strict=True):
    row[length:] = np.nan


def functional(body):
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, body(inputs))
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(numpy(weight) + rng.normal(0, 0.3, weight.shape))
    return model


def loss(y):
    return ops.sum(ops.square(y))


def assert_exact(model, tmp_path=None):
    """Answer and gradient of a padded batch are those of the plain model on each row alone; the loaded model has the same weights."""
    aware, batch = layers.mask_aware(model), {"features": X, "lengths": LENGTHS}
    rows = [row[None, :n] for row, n in zip(X, LENGTHS, strict=True)]
    want = np.concatenate([numpy(model(row)) for row in rows])
    np.testing.assert_allclose(numpy(aware(batch)), want, rtol=1e-5, atol=1e-6)
    assert layers.check_model(aware).ok
    if model.trainable_variables and keras.backend.backend() != "jax":  # which compiles the gradient of every row for minutes
        parts = zip(*[gradients(model, row, loss, training=False) for row in rows], strict=True)
        together = dict(zip(map(id, aware.trainable_variables), gradients(aware, batch, loss, training=False), strict=True))
        for weight, alone in zip(model.trainable_variables, parts, strict=True):
            np.testing.assert_allclose(together[id(weight)], sum(alone), rtol=1e-4, atol=1e-4)
    if tmp_path is not None:
        aware.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
        np.testing.assert_allclose(numpy(loaded(batch)), want, rtol=1e-5, atol=1e-6)
        assert len(loaded.trainable_variables) == len(model.trainable_variables)
    return aware


def largest(x):
    return plain.GlobalMaxPooling1D()(x)


def mean(x):
    return plain.GlobalAveragePooling1D()(x)


def three(x):
    """Three frames, always, made of the sequence."""
    return plain.Reshape((3, 4))(plain.Dense(12)(largest(x)))


def pooled(x, softmax, scores_first):
    """Attention pooling of class probabilities, with one softmax for the scores [B, T] and the classes [B, T, 4]."""
    scores, classes = ops.squeeze(plain.Dense(1)(x), -1), plain.Dense(4)(x)
    if scores_first:
        weights, classes = softmax(scores), softmax(classes)
    else:
        classes, weights = softmax(classes), softmax(scores)
    return ops.sum(ops.expand_dims(weights, -1) * classes, axis=1)


@pytest.mark.parametrize("scores_first", [True, False])
@pytest.mark.parametrize(
    "make", [plain.Softmax, lambda: plain.Activation("softmax"), lambda: plain.Lambda(lambda v: ops.softmax(v, axis=-1))]
)
def test_one_softmax_for_scores_and_for_features(make, scores_first):
    assert_exact(functional(lambda x: pooled(x, make(), scores_first)))


@keras.saving.register_keras_serializable("vlpipe-tests")
class Strided(plain.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")
        self.dense = plain.Dense(3)
        self.dense.build(shape)

    def call(self, x, step=1, table=None):
        return ops.max(self.dense(x[:, ::step] * self.scale) * (1 if table is None else ops.convert_to_tensor(table)), axis=1)


def test_a_custom_layer_called_with_other_arguments(tmp_path):
    def body(x):
        layer, one, two = Strided(), np.ones(3, "float32"), np.full(3, 2, "float32")
        calls = [layer(x), layer(x, step=2), layer(x, table=one), layer(x, table=two), layer(three(x))]
        return ops.concatenate(calls, axis=-1)

    assert_exact(functional(body), tmp_path)


def encoder(*after):
    parts = [keras.Input((None, 4)), plain.Conv1D(4, 3, padding="same"), plain.BatchNormalization(), plain.GlobalMaxPooling1D()]
    return keras.Sequential([*parts, *after])


SHARED = {
    "convolution": lambda: (plain.Conv1D(4, 3, padding="same"), largest),
    "own activation": lambda: (plain.Conv1D(4, 3, padding="same", activation=ops.sin), largest),
    "pooling": lambda: (plain.GlobalMaxPooling1D(), None),
    "flip": lambda: (plain.Lambda(lambda v: ops.flip(v, 1)), lambda y: plain.Dense(2)(y[:, 0])),
    "spectral": lambda: (plain.SpectralNormalization(plain.Conv1D(4, 3, padding="same")), largest),
    "nested": lambda: (encoder(), None),
    "nested twice": lambda: (keras.Sequential([keras.Input((None, 4)), encoder(plain.Dense(2)), plain.Dense(3)]), None),
}


@pytest.mark.parametrize("fixed_first", [True, False])
@pytest.mark.parametrize("name", SHARED)
def test_a_layer_shared_with_a_tensor_without_frames(name, fixed_first, tmp_path):
    def body(x):
        layer, after = SHARED[name]()
        outputs = [layer(y) for y in ((three(x), x) if fixed_first else (x, three(x)))]
        return plain.Concatenate()([after(y) if after else y for y in outputs])

    assert_exact(functional(body), tmp_path if name.startswith(("nested", "conv", "spec")) else None)


def test_a_layer_that_merges_sequences_and_vectors():
    def body(x):
        add = plain.Add()
        return add([largest(add([x, x])), mean(x)])

    assert_exact(functional(body))


@pytest.mark.parametrize(
    "make",
    [
        lambda: plain.Reshape((-1, 2)),
        lambda: plain.Lambda(lambda v: ops.cumsum(v, axis=1)[..., :2], output_shape=(None, 2)),
    ],
)
def test_a_layer_shared_by_tensors_of_other_widths(make):
    def body(x):
        layer = make()
        return plain.Concatenate()([largest(plain.Conv1D(3, 3, padding="same")(layer(y))) for y in (x, plain.Dense(8)(x))])

    assert_exact(functional(body))


def test_names_of_parts_are_free():
    assert_exact(functional(lambda x: largest(ops.cumsum(plain.Dense(3, name="cumsum_mask")(x), axis=1))))
    merged = [lambda x: plain.Conv1D(4, 3, strides=2, padding="same")(x), plain.MaxPooling1D(2, name="m_frames")]
    layers.mask_aware(functional(lambda x: largest(plain.Add(name="m")([branch(x) for branch in merged]))))


def test_a_nested_model_whose_layers_have_the_names_of_others():
    def body(x):
        inner = keras.Sequential([keras.Input((None, 4)), plain.Conv1D(4, 3, name="same"), plain.GlobalMaxPooling1D()], name="inner")
        return inner(three(x)) + inner(plain.Dense(4, name="same")(x))

    with pytest.raises(ArgumentError, match='"inner" .* is called in several ways.*"same" has the name of another layer; expected names'):
        layers.mask_aware(functional(body))


class Mode(plain.Layer):
    """Does something else in training, by the same operations."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        if what == "dropout":  # its random state is a variable, and one that no operation uses is refused for that alone
            self.dropout = plain.Dropout(0.5)

    def call(self, x, training=None):
        one, other = ops.mean(x, axis=1), ops.max(x, axis=1)
        if self.what == "number":
            return one * (0.5 if training else 1.0)
        if self.what == "tensors":
            return one - other if training else other - one
        if self.what == "setting":
            return plain.Activation("tanh" if training else "relu")(one)
        return self.dropout(plain.Activation("tanh")(one[:, :3]), training=training)


@pytest.mark.parametrize("what", ["number", "tensors", "setting"])
def test_a_layer_that_computes_something_else_in_training(what):
    with pytest.raises(ArgumentError, match=r"\(Mode\) is unknown to vlpipe"):
        layers.mask_aware(functional(lambda x: Mode(what)(x)))
    assert_exact(functional(lambda x: Mode("dropout")(x)))


def positive(x):
    return x[..., 0] > 0


def recurrent(x, **options):
    return plain.LSTM(4, return_sequences=True)(x, **options)


MASKED = {  # the mask has holes; what Keras' layers after it get of it, they keep
    "convolution after": lambda x: largest(plain.Conv1D(4, 3, padding="same")(recurrent(x, mask=positive(x)))),
    "states": lambda x: plain.Concatenate()([largest(y := (z := gru(x))[0]), z[1], mean(plain.ReLU()(y))]),
    "average after": lambda x: mean(plain.Dropout(0.5)(plain.Dense(4)(recurrent(x, mask=positive(x))))),
    "operation after": lambda x: mean(recurrent(x, mask=positive(x)) * 2.0),
    "sum after": lambda x: mean(plain.Add()([x, recurrent(x, mask=positive(x))])),
    "attention after": lambda x: largest(plain.MultiHeadAttention(2, 3)(*[ops.copy(recurrent(x, mask=positive(x)))] * 2)),
    "wrapped": lambda x: largest(plain.TimeDistributed(plain.Dense(3))(x, mask=positive(x))),
    "scores": lambda x: ops.sum(plain.Softmax()(ops.squeeze(plain.Dense(1)(x), -1), mask=positive(x))[..., None] * x, axis=1),
    "scores of one": lambda x: ops.sum(plain.Softmax(axis=1)(plain.Dense(1)(x), mask=x[..., :1] > -1) * x, axis=1),
    "classes": lambda x: largest(plain.Softmax()(plain.Dense(4)(x), mask=ops.cast(x > -1, "float32"))),
}


def gru(x):
    return plain.GRU(4, return_sequences=True, return_state=True)(x, mask=positive(x))


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_of_the_user_ends_where_its_layer_ends(name):
    assert_exact(functional(MASKED[name]))


def test_attention_takes_the_mask_of_its_query_whatever_it_is_called_with():
    def body(x):
        y, mask = recurrent(x, mask=positive(x)), positive(x)
        return largest(plain.MultiHeadAttention(2, 3)(y, y, query_mask=mask, value_mask=mask))

    with pytest.raises(ArgumentError, match="takes the mask that a layer before it was called with"):
        layers.mask_aware(functional(body))


def test_what_a_nested_model_is_called_with_in_training():
    model = functional(lambda x: mean(keras.Sequential([keras.Input((None, 4)), plain.Dropout(0.5)])(x, training=True)))
    batch = {"features": np.ones((1, 50, 4), "float32"), "lengths": np.array([50])}
    assert numpy(layers.mask_aware(model)(batch)).std() > 0

"""The way out that each refusal of `mask_aware` names, run to an exact model; every refusal in the code has its case here."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError
from vlpipe.layers import window_roles

plain = keras.layers
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached:UserWarning"),  # the plain models with masks of their own
]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 9, 4)).astype("float32")
LENGTHS = np.array([8, 6])  # even, for the models that join two frames


def functional(body):
    inputs = keras.Input((None, 4))
    return keras.Model(inputs, body(inputs))


def assert_exact(model, given=None):
    """Each padded row has the plain model's answer to the row alone."""
    together = ops.convert_to_numpy(layers.mask_aware(model, layers=given)({"features": X, "lengths": LENGTHS}))
    for got, row, n in zip(together, X, LENGTHS, strict=True):
        want = numpy(model(row[None, :n]))[0]
        np.testing.assert_allclose(got[: len(want)] if got.shape != want.shape else got, want, rtol=1e-5, atol=1e-5)


def mean(x):
    return plain.GlobalAveragePooling1D()(x)


def image(x):
    return plain.Reshape((-1, 2, 2))(x)


def over_time(t):
    return ops.softmax(t, axis=1)


class Turned(plain.Layer):
    """Reverses the frames outside of keras.ops, which nobody can follow."""

    def call(self, inputs):
        return ops.convert_to_tensor(numpy(inputs)[:, ::-1])

    def compute_output_shape(self, shape):
        return shape


class AwareTurned(layers.MaskAware, plain.Layer):
    def call(self, inputs, mask=None):
        return layers.SliceFrames(step=-1).call(inputs, mask)

    def compute_output_shape(self, shape):
        return shape


class Binned(plain.Layer):
    """Calls an operation that vlpipe does not know."""

    def call(self, inputs):
        return ops.cast(ops.digitize(inputs, np.array([-1.0, 0.0, 1.0])), "float32")

    def compute_output_shape(self, shape):
        return shape


class AwareBinned(layers.MaskAware, Binned):
    def call(self, inputs, mask=None):
        return super().call(inputs)


class Table(layers.MaskAware, plain.Layer):
    def call(self, inputs, mask=None):
        table = ops.convert_to_tensor(np.arange(48, dtype="float32").reshape(1, 12, 4) / 9)
        return inputs + table[:, : ops.shape(inputs)[1]]

    def compute_output_shape(self, shape):
        return shape


class Centred(plain.Layer):
    def __init__(self, axis, stateful=False):
        super().__init__()
        self.axis, self.stateful = axis, stateful

    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=self.axis, keepdims=True)

    def compute_output_shape(self, shape):
        return shape


def nested_axes(x):
    """Attention over the bands of each frame, as a model of one frame."""
    frame = keras.Input((2, 2))
    return plain.Reshape((-1, 4))(plain.TimeDistributed(keras.Model(frame, plain.MultiHeadAttention(1, 2)(frame, frame)))(image(x)))


def adapted(axis, shape):
    normalization = plain.Normalization(axis=axis)
    normalization.adapt(RNG.normal(size=(8, *shape)).astype("float32"))
    return normalization


def both(x):
    """What one Bidirectional(merge_mode=None) gives: two sequences."""
    return plain.Bidirectional(plain.GRU(2, return_sequences=True), merge_mode=None)(x)


def positive(x):
    """A mask with holes."""
    return x[..., 0] > 0


def recurrent(x, **options):
    return plain.LSTM(4, return_sequences=True)(x, **options)


def means(x):
    frames = keras.Input((None, 4))
    return keras.Model(frames, mean(frames))(x)


def looked_up(x, **options):
    """One table for the tokens of the sequence and for four others."""
    table = plain.Embedding(2, 3, **options)
    others = table(ops.cast(mean(x) > 0, "int32"))
    return ops.max(table(ops.cast(positive(x), "int32")), axis=1) + ops.max(others, axis=1)


class Scaled(plain.Layer):
    def __init__(self, followed):
        super().__init__()
        self.followed = followed

    def build(self, shape):
        self.scale = self.add_weight(shape=(4,), initializer="ones")

    def call(self, inputs):
        y = ops.flip(inputs * self.scale, axis=1) if len(inputs.shape) == 3 else inputs * self.scale
        return y if self.followed or len(inputs.shape) == 3 else ops.convert_to_tensor(numpy(y))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


def scaled_twice(x, followed):
    layer = Scaled(followed)
    return mean(layer(x)) + layer(mean(x))


# Words of the refusal: a body that is refused, and what its advice says to do instead.
WAYS = {
    "concatenates all frames": (plain.Flatten(), lambda x: layers.StatisticsPooling1D()(x)),
    "as before a Dense layer over time": (plain.Permute((2, 1)), plain.Conv1D(4, 5, padding="same")),
    "has a slope for every frame": (plain.PReLU, plain.PReLU(shared_axes=[1])),
    "has an equation that moves or sums": (
        lambda x: plain.EinsumDense("abc,dc->adb", output_shape=(3, None))(x),
        plain.EinsumDense("abc,cd->abd", output_shape=(None, 3)),
    ),
    "keeps states from one batch": (lambda x: with_states(x), plain.LSTM(3)),
    "has no masks in Keras but": (None, lambda x: plain.LSTM(3)(plain.Conv1D(4, 3)(x))),
    "repeats the first and the last frame on PyTorch": (None, plain.AveragePooling1D(3, 1, padding="same")),
    "returns the frames in reverse order": (
        plain.GRU(3, go_backwards=True, return_sequences=True),
        lambda x: plain.Bidirectional(plain.GRU(3, return_sequences=True))(x),
    ),
    "returns two sequences": (lambda x: both(x)[0], lambda x: plain.Bidirectional(plain.GRU(2, return_sequences=True))(x)),
    "wraps BatchNormalization": (
        plain.TimeDistributed(plain.BatchNormalization()),
        lambda x: plain.BatchNormalization()(plain.TimeDistributed(plain.Dense(3))(x)),
    ),
    "wraps a layer that keeps states": (
        lambda x: plain.TimeDistributed(Centred(0, True))(x),
        lambda x: plain.TimeDistributed(Centred(1))(x),
    ),
    "wraps a layer that mixes the rows": (lambda x: plain.TimeDistributed(Centred(0))(x), lambda x: plain.TimeDistributed(Centred(1))(x)),
    "runs Python code that mixes frames": (
        lambda x: plain.Lambda(lambda t: ops.convert_to_tensor(numpy(t)[:, ::-1]), output_shape=(None, 4))(x),
        lambda x: plain.Lambda(lambda t: ops.flip(t, axis=1), output_shape=(None, 4))(x),
    ),
    "is unknown to vlpipe": (lambda x: Turned()(x), lambda x: ops.flip(x, axis=1)),
    "is an operation that vlpipe does not know": (
        lambda x: ops.digitize(x, np.array([-1.0, 0.0, 1.0])),
        lambda x: Binned()(x) + AwareBinned()(x),
    ),
    "which zeros in the padding would change": (
        lambda x: ops.norm(x, ord=-1, axis=1),
        lambda x: ops.min(ops.abs(x), axis=1) + ops.sum(ops.abs(x) ** -1.0, axis=1) ** -1.0,
    ),
    "cuts sequences into pieces of": (lambda x: ops.reshape(x, (-1, 2, 4)), plain.Reshape((-1, 8))),
    "repeats whole sequences": (lambda x: ops.tile(x, (1, 2, 1)), lambda x: plain.UpSampling1D(2)(ops.tile(x, (1, 1, 2)))),
    "lets each row of a batch depend on the others": (
        lambda x: mean(x) - ops.mean(mean(x), axis=0, keepdims=True),
        lambda x: mean(x) - ops.mean(mean(x), axis=-1, keepdims=True),
    ),
    "multiplies along other axes than the frames": (
        lambda x: plain.Dot(axes=(2, 2))([x, x]),
        lambda x: plain.Dot(axes=1)([plain.Dot(axes=(1, 2))([mean(x), x]), x]),
    ),
    "reverses other axes with the frames": (lambda x: ops.flip(x, axis=(1, 2)), lambda x: ops.flip(ops.flip(x, axis=1), axis=2)),
    "weights the values along several axes": (
        lambda x: ops.softmax(x, axis=(1, 2)),
        lambda x: ops.softmax(ops.softmax(x, axis=1), axis=-1),
    ),
    "acts along the frame axis, whose length": (lambda x: ops.sort(x, axis=1), lambda x: ops.sort(x, axis=-1)[:, 1:]),
    "acts along the frame axis": (lambda x: ops.glu(x, axis=1), lambda x: ops.glu(ops.softmax(x, axis=1), axis=-1)),
    "joins sequences along the frames": (lambda x: ops.concatenate([x, x], axis=1), lambda x: ops.concatenate([x, x], axis=-1)),
    "so that a padded row has padding in its middle": (
        lambda x: ops.concatenate([x[:, 1:], ops.zeros_like(x[:, :1])], axis=1),
        lambda x: ops.pad(x, [[0, 0], [0, 1], [0, 0]])[:, 1:],
    ),
    "which counts or encodes the frames of a sequence together": (
        plain.Discretization([0.0], output_mode="multi_hot"),
        lambda x: ops.one_hot(plain.Discretization([0.0])(x), 2),
    ),
    "repeats values of the frames": (
        lambda x: x * plain.Permute((2, 1))(plain.RepeatVector(4)(plain.Softmax()(plain.Flatten()(plain.Dense(1)(x))))),
        lambda x: x * plain.Softmax(axis=1)(plain.Dense(1)(x)),
    ),
    "broadcasts across the frames": (lambda x: x * ops.mean(x, axis=-1), lambda x: x * ops.mean(x, axis=-1, keepdims=True)),
    "acts across the sequences of a batch": (lambda x: ops.mean(x, axis=(0, 1)), lambda x: ops.mean(x, axis=(1, 2))),
    "joins a sequence with a tensor that has no frames": (
        lambda x: ops.concatenate([x, ops.ones((1, 5, 2))], axis=-1),
        lambda x: x * ops.expand_dims(mean(x), 1) + ops.expand_dims(mean(x), 1),
    ),
    " frames, so it takes sequences of": (lambda x: x + ops.ones((1, 12, 4)), lambda x: Table()(x)),
    "moves the frame axis from its place": (lambda x: ops.expand_dims(x, 1), lambda x: ops.expand_dims(x, -1)),
    "takes frames whose numbers vlpipe cannot see": (lambda x: x[:, : keras.Input((), dtype="int32")], lambda x: x[:, :3]),
    "selects sequences of a batch": (lambda x: x[1:, :], lambda x: x[:, 1:]),
    "reshapes the frame axis": (plain.Reshape((2, -1)), plain.Reshape((-1, 8))),
    "adds sequences to a batch": (
        lambda x: ops.pad(x, [[1, 0], [0, 0], [0, 0]]),
        lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0]]),
    ),
    "pads the frames by other values than zero": (
        lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 0]], constant_values=1),
        lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 0]]),
    ),
    "pads the channels together with the frames": (
        lambda x: ops.pad(image(x), [[0, 0], [1, 0], [0, 0], [1, 0]]),
        lambda x: ops.pad(ops.pad(image(x), [[0, 0], [1, 0], [0, 0], [0, 0]]), [[0, 0], [0, 0], [0, 0], [1, 0]]),
    ),
    "multiplies along the frames": (
        lambda x: ops.matmul(ops.ones((1, 3, 5)), x),
        lambda x: ops.einsum("btd,btk->bdk", x, plain.Dense(3)(x)),
    ),
    "pairs frames with frames": (lambda x: ops.einsum("btd,bsd->bts", x, x), lambda x: ops.einsum("btd,dk->btk", x, ops.ones((4, 3)))),
    "sums a product with a constant": (
        lambda x: ops.einsum("btd,bd->bd", x, ops.ones((1, 4))),
        lambda x: ops.sum(x, axis=1) * ops.ones((1, 4)),
    ),
    "that is no tensor of frames passed by name": (
        lambda x: plain.LSTM(3)(x, mask=ops.ones((1, 5), dtype="bool")),
        plain.LSTM(3),
    ),
    "has an activity_regularizer": (plain.Dense(3, activity_regularizer="l2"), plain.Dense(3, kernel_regularizer="l2")),
    "merges one frame, taken by a slice": (lambda x: plain.Add()([x, x[:, -1:]]), lambda x: plain.Add()([x, x[:, -1][:, None]])),
    "has an activation that mixes frames": (
        lambda x: plain.Dense(2, activation=over_time)(x),
        lambda x: plain.Softmax(axis=1)(plain.Dense(2)(x)),
    ),
    " as its activation": (
        plain.Activation(plain.LayerNormalization()),
        lambda x: plain.LayerNormalization()(x),
    ),
    "with an activation that Keras did not write": (
        plain.TimeDistributed(plain.Dense(3, activation=ops.sin)),
        plain.Dense(3, activation=ops.sin),
    ),
    "uses the frame axis as the feature axis": (
        lambda x: plain.Dense(3)(ops.mean(x, axis=-1)),
        lambda x: plain.Dense(3)(ops.mean(x, axis=-1, keepdims=True)),
    ),
    "has a mean and a variance for each of": (lambda x: adapted((1, 2), (12, 4))(x), adapted(-1, (12, 4))),
    "normalizes over time": (plain.UnitNormalization(axis=1), lambda x: plain.GroupNormalization(1)(plain.UnitNormalization()(x))),
    "attends along other axes than the frames": (
        lambda x: plain.MultiHeadAttention(1, 2, attention_axes=2)(image(x), image(x)),
        nested_axes,
    ),
    "acts along several axes": (plain.Softmax(axis=(1, 2)), lambda x: plain.Softmax(axis=1)(x)),
    "infers the lengths from the values": (plain.Masking(), plain.Dense(3)),
    "centres its frames on the padding": (None, None),
    # Masks of the user's own, and layers that are called with and without frames.
    "takes the mask that a layer before it was called with": (
        lambda x: plain.BatchNormalization()(recurrent(x, mask=positive(x)), training=False),
        lambda x: plain.BatchNormalization()(ops.copy(recurrent(x, mask=positive(x))), training=False, mask=positive(x)),
    ),
    "passes its mask to the layer inside": (
        lambda x: plain.TimeDistributed(plain.GlobalAveragePooling1D())(image(x), mask=positive(x)),
        lambda x: plain.TimeDistributed(plain.GlobalAveragePooling1D())(image(x)),
    ),
    "is called on a tensor with a mask of its own": (
        lambda x: means(recurrent(x, mask=positive(x))),
        lambda x: means(ops.copy(recurrent(x, mask=positive(x)))),
    ),
    "returns a sequence with a mask of its own": (
        lambda x: mean(keras.Model(inner := keras.Input((None, 4)), recurrent(inner, mask=positive(inner)))(x)),
        lambda x: mean(keras.Model(inner := keras.Input((None, 4)), ops.copy(recurrent(inner, mask=positive(inner))))(x)),
    ),
    "has mask_zero=True and is called on a sequence": (lambda x: looked_up(x, mask_zero=True), looked_up),
    "what it does to the latter cannot be told": (lambda x: scaled_twice(x, False), lambda x: scaled_twice(x, True)),
    # The refusals of the layers that mask_aware makes, and of models as a whole.
    'expected "nearest" along the frames': (
        lambda x: plain.UpSampling2D(2, interpolation="bilinear")(image(x)),
        lambda x: plain.UpSampling2D(2)(image(x)),
    ),
    "axis=2; expected axis=-1": (lambda x: plain.BatchNormalization(axis=2)(image(x)), lambda x: plain.BatchNormalization()(image(x))),
    "axis=1; expected": (lambda x: plain.Concatenate(axis=1)([x, x]), lambda x: plain.Concatenate()([x, x])),
    "expected a positive step, or -1 alone": (lambda x: x[:, -3:2], lambda x: x[:, -3:-1]),
    "puts 3 values in a frame that has 4": (plain.Reshape((-1, 3)), lambda x: plain.Reshape((-1, 3))(plain.Dense(3)(x))),
    "merges branches that never have the same number of frames": (
        lambda x: x + plain.UpSampling1D(2)(x),
        lambda x: x + plain.UpSampling1D(2)(plain.MaxPooling1D(2)(x)),
    ),
    "returns its attention scores": (
        lambda x: plain.MultiHeadAttention(1, 2)(x, x, return_attention_scores=True)[1],
        lambda x: plain.MultiHeadAttention(1, 2)(x, x),
    ),
}


def with_states(x):  # Keras builds no such layer where the number of sequences is open, as in these models
    layer = plain.LSTM(3)
    y = layer(x)
    layer.stateful = True
    return y


# The refused models that Keras can build for one number of frames only.
FOR_TWELVE = [
    "has a slope for every frame", " frames, so it takes sequences of", "has a mean and a variance for each of",
    "uses the frame axis as the feature axis",
]  # fmt: skip


@pytest.mark.parametrize("words", [words for words, (refused, _) in WAYS.items() if refused is not None])
def test_a_refusal_names_a_way_out_that_is_exact(words):
    refused, way_out = WAYS[words]
    inputs = keras.Input((12 if words in FOR_TWELVE else None, 4))
    model = keras.Model(inputs, (refused() if refused is plain.PReLU else refused)(inputs))
    with pytest.raises(ArgumentError, match=words) as raised:
        layers.mask_aware(model)
    assert ". " in str(raised.value).partition(words)[2]  # the advice
    assert_exact(functional(way_out))


@pytest.mark.parametrize(("size", "strides", "refused"), [(2, 1, True), (3, 1, False), (3, 2, True), (2, 2, True), (5, 1, False)])
def test_averages_that_keras_pads_unevenly_on_pytorch(size, strides, refused, monkeypatch):
    pools = [plain.AveragePooling1D(size, strides, padding="same"), plain.AveragePooling2D((size, 3), (strides, 1), padding="same")]
    others = [plain.AveragePooling1D(size, strides), plain.MaxPooling1D(size, strides, padding="same")]
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert [window_roles.refuse_uneven_average(layer) is not None for layer in (*pools, *others)] == [refused, refused, False, False]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert window_roles.refuse_uneven_average(pools[0]) is None


def test_other_ways_out():
    assert_exact(functional(WAYS["repeats the first and the last frame on PyTorch"][1]))
    assert_exact(functional(WAYS["has no masks in Keras but"][1]))  # ConvLSTM, on a backend without its masks
    waves = keras.Input((None, 1))
    mel = plain.MelSpectrogram(fft_length=64, sequence_stride=16)(waves[..., 0])
    with pytest.raises(ArgumentError, match="centres its frames on the padding"):
        layers.mask_aware(keras.Model(waves, mel))
    logs = layers.LogMel(sample_rate=1000, window_ms=64, hop_ms=16, mels=8, high_hz=400)
    model = keras.Model(waves, logs(waves))
    x = RNG.normal(size=(1, 300, 1)).astype("float32")
    want = numpy(model(x[:, :200]))[0]
    got = numpy(layers.mask_aware(model)({"features": x, "lengths": np.array([200])}))[0]
    np.testing.assert_allclose(got[: len(want)], want, rtol=1e-4, atol=1e-4)
    # A layer that cannot be followed, with a replacement.
    assert_exact(functional(lambda x: Turned()(x)), given={Turned: lambda layer: AwareTurned(name=layer.name)})


def reasons(tree):
    """Yield the words of each refusal in a module: the longest part of its first text that is no placeholder."""
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("refuse", "no")
        first = node.args[0] if called and node.args else None
        if isinstance(first, ast.Constant):
            yield first.value
        if isinstance(first, ast.JoinedStr):
            yield max((part.value for part in first.values if isinstance(part, ast.Constant)), key=len)
        if isinstance(node, ast.Assign | ast.AnnAssign) and "REFUSALS" in ast.dump(node):
            for pair in node.value.values if isinstance(node.value, ast.Dict) else []:
                yield pair.elts[0].value


def test_every_refusal_has_a_way_out_here():
    found = [text for path in Path(layers.__file__).parent.glob("*.py") for text in reasons(ast.parse(path.read_text()))]
    assert len(found) > 40
    assert [text for text in found if not any(words in text for words in WAYS)] == []

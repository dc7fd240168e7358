"""Models that `mask_aware` converts, and operations that it refuses by name."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import ExtractMask, gradients, numpy
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
        got = got[: len(want)] if want.ndim > 1 else got
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return aware


def pooled(*sequences):
    """Each sequence, reduced to one frame by an operation that leaks without a mask, side by side."""
    return ops.concatenate([ops.max(x, axis=(1, 2) if len(x.shape) == 4 else 1) for x in sequences], axis=-1)


def spectrogram(x):
    return plain.Reshape((-1, 4, 1))(plain.Dense(4)(x))


class Scaled(keras.layers.Layer):
    """Works frame by frame, and knows nothing of masks."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal", name="scale")

    def call(self, inputs):
        return inputs * self.scale


class Pooling(keras.layers.Layer):
    """Attention pooling as many write it: layers and a weight of its own, in operations of keras.ops."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.dropout = plain.Dense(5, activation="tanh"), plain.Dropout(0.2)

    def build(self, shape):
        self.hidden.build(shape)
        self.direction = self.add_weight(shape=(5, 1), initializer="random_normal", name="direction")

    def call(self, inputs, training=None):
        scores = ops.matmul(self.dropout(self.hidden(inputs), training=training), self.direction)
        return ops.sum(ops.softmax(scores, axis=1) * inputs, axis=1)


class Memory(plain.LSTM):
    """A layer of Keras with a constructor of its own."""

    def __init__(self, units=3, **kwargs):
        super().__init__(units, **kwargs)


FRAME_MODEL = [keras.Input((4,)), plain.Dense(6), plain.Reshape((3, 2)), plain.Conv1D(2, 2, padding="same"), plain.Flatten()]

# On PyTorch, Keras repeats the edge where windows hang over the ends unequally: see the docstring of AveragePooling1D.
AVERAGED = {"pool_size": 3, "strides": 1} if keras.backend.backend() == "torch" else {"pool_size": (3, 2)}


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
    "states of recurrences": lambda x: ops.concatenate(
        [*plain.LSTM(3, return_state=True)(x), *plain.Bidirectional(plain.GRU(2, return_sequences=True, return_state=True))(x)[1:]], axis=-1
    ),
    "a score for each frame": lambda x: (
        plain.Dot(axes=1)([plain.Softmax()(plain.Dot(axes=(1, 2))([x[:, -1], x])), x])
        + plain.Dot(axes=1)([ops.mean(x, axis=-1)] * 2)
        + plain.Dot(axes=1)([plain.Dot(axes=(2, 1), normalize=True)([x, x[:, 0]]), x])
    ),
    "moments": lambda x: ops.concatenate([*ops.moments(x, axes=[1]), ops.max(ops.moments(x, axes=[2], keepdims=True)[1], axis=1)], axis=-1),
    "simple rnn": lambda x: plain.SimpleRNN(3, go_backwards=True)(x),
    "attention layer": lambda x: plain.GlobalMaxPooling1D()(plain.Attention()([x, x])),
    "a layer called twice": lambda x: (lambda conv: plain.GlobalMaxPooling1D()(conv(conv(x))))(plain.Conv1D(4, 3, padding="same")),
    "convolutions over spectrograms": lambda x: pooled(
        plain.Conv2D(3, (3, 2), strides=2, padding="same")(y := spectrogram(x)),
        plain.Conv2D(2, 3, dilation_rate=(2, 1), padding="same")(y),
        plain.SeparableConv2D(2, (2, 1))(plain.DepthwiseConv2D(3, strides=2, padding="same")(y)),
        plain.Conv2DTranspose(2, 4, strides=2, padding="same")(y),
        plain.UpSampling2D((2, 1))(plain.ZeroPadding2D(1)(plain.Cropping2D(((1, 0), (1, 0)))(y))),
    ),
    "pooling over spectrograms": lambda x: plain.Concatenate()(
        [
            plain.GlobalAveragePooling2D()(plain.MaxPooling2D((3, 2), strides=2, padding="same")(y := plain.Conv2D(3, 2)(spectrogram(x)))),
            plain.GlobalMaxPooling2D()(plain.AveragePooling2D(**AVERAGED, padding="same")(y)),
            plain.Flatten()(plain.GlobalMaxPooling2D(keepdims=True)(plain.GroupNormalization(1)(plain.SpatialDropout2D(0.1)(y)))),
            plain.GRU(2)(plain.Reshape((-1, 9))(plain.BatchNormalization()(plain.Permute((1, 3, 2))(y)))),
        ]
    ),
    "frames by number": lambda x: ops.concatenate([x[:, 0], x[:, -1], x[:, -2, 1:], ops.flip(x, axis=1)[:, 1]], axis=-1),
    "slices of frames": lambda x: pooled(
        *(x[:, ::2], x[:, 1:], x[:, :-1], x[:, -3:], x[:, -4:-1:2, 1:], x[:, 1:3, None, 0]),
        *([] if keras.backend.backend() == "torch" else [x[:, ::-1]]),  # a plain model has no negative steps there
    ),
    "reshaped frames": lambda x: pooled(plain.Reshape((-1, 1))(plain.Flatten()(plain.Dense(1)(x))), plain.Reshape((-1, 2))(x)),
    "elementwise operations": lambda x: pooled(
        ops.where(ops.logical_or(x > 0.5, x <= -1), ops.floor(x), ops.zeros_like(x) - ops.ones_like(x)), ops.cast(x != 0, x.dtype)
    ),
    "reductions over time": lambda x: ops.concatenate(
        [ops.std(x, axis=1), ops.var(x, axis=1), ops.logsumexp(x, axis=1), ops.prod(x, axis=1)]
        + ([] if keras.backend.backend() == "jax" else [ops.norm(x, axis=1)])  # which in Keras on JAX fails for any x
        + [ops.cast(y, x.dtype) for y in (ops.any(x > 1, axis=1), ops.all(x > -1, axis=1), ops.argmax(x, axis=1), ops.argmin(x, axis=1))],
        axis=-1,
    ),
    "reductions over time and features": lambda x: ops.concatenate(
        [getattr(ops, name)(x, axis=(1, -1), keepdims=True) for name in ("mean", "sum", "max", "min", "std", "var", "logsumexp")], axis=-1
    ),
    "operations along the features": lambda x: pooled(
        *ops.split(x, 2, axis=-1),
        ops.glu(x),
        ops.cumsum(x, axis=-1),
        ops.sort(x, axis=-1),
        ops.normalize(x, axis=-1),
        ops.stack([x, x], axis=2),
    ),
    "operations along the frames": lambda x: pooled(
        ops.normalize(x, axis=1),
        ops.cumsum(x, axis=1),
        ops.pad(x, [[0, 0], [2, 1], [0, 0]]),
        ops.pad(x[..., None], [(0, 0), (1, 1), (1, 0), (0, 0)]),
    ),
    "axes after the frames": lambda x: pooled(
        ops.transpose(y := plain.Reshape((-1, 2, 2))(x), (0, 1, 3, 2)),
        ops.swapaxes(y, 2, -1),
        ops.moveaxis(y, 3, 2),
        ops.one_hot(ops.argmax(x, -1), 4),
    ),
    "products": lambda x: ops.concatenate(
        [
            pooled(ops.matmul(x, ops.ones((4, 2))), ops.einsum("btd,dk->btk", x, ops.ones((4, 3)))),
            ops.reshape(ops.einsum("btd,btk->bdk", x, plain.Dense(2)(x)), (-1, 8)),
        ],
        axis=-1,
    ),
    "lambdas": lambda x: ops.concatenate([plain.Lambda(lambda v: v[:, -1])(x), pooled(plain.Lambda(lambda v: v**2)(x))], axis=-1),
    "layers of the user": lambda x: plain.Add()([Pooling()(plain.Conv1D(4, 3, padding="same")(x)), pooled(Scaled()(x))]),
    "recurrent cells": lambda x: plain.Concatenate()([plain.RNN([plain.LSTMCell(3), plain.GRUCell(2)])(x), Memory()(x)]),
    "a model for each frame": lambda x: plain.LSTM(2)(plain.TimeDistributed(keras.Sequential(FRAME_MODEL))(x)),
    "attention with queries that have no frames": lambda x: plain.Reshape((-1,))(
        plain.MultiHeadAttention(2, 4)(plain.Reshape((2, 2))(plain.GlobalMaxPooling1D()(x)), x)
    ),
    "spectral normalization": lambda x: pooled(
        plain.SpectralNormalization(plain.Conv1D(3, 3, strides=2, padding="same"))(plain.SpectralNormalization(plain.Dense(3))(x))
    ),
    "a dense layer by einsum": lambda x: pooled(plain.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d")(x)),
    "adaptive pooling": lambda x: plain.Add()([plain.AdaptiveAveragePooling1D(3)(x), plain.AdaptiveMaxPooling1D(3)(x)]),
    "spectrograms of waveforms": lambda x: pooled(
        plain.STFTSpectrogram(frame_length=4, frame_step=2, fft_length=4, padding="same")(x[:, :, :1]),
        plain.STFTSpectrogram(frame_length=4, frame_step=3, fft_length=4, mode="psd", expand_dims=True)(x),
    ),
    "what refusals advise": lambda x: pooled(
        ops.flip(ops.flip(x, axis=1), axis=2),
        plain.TimeDistributed(plain.LayerNormalization())(x),
        plain.BatchNormalization()(plain.TimeDistributed(plain.Dense(3))(x)),
        plain.UpSampling2D((1, 2), interpolation="bilinear")(spectrogram(x)),
        x + ops.ones((1, 1, 4)),
        ops.pad(ops.pad(spectrogram(x), [[0, 0], [1, 0], [1, 0], [0, 0]]), [[0, 0], [0, 0], [0, 0], [1, 0]]),
        ops.expand_dims(ops.einsum("btd,btk->bdk", x, x), 1)[:, 0] * ops.ones((1, 4, 1)),
    ),
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


def test_token_zero_is_no_padding_once_there_are_lengths():
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, plain.LSTM(4)(plain.SpatialDropout1D(0.1)(plain.Embedding(10, 4, mask_zero=True)(tokens))))
    x = np.array([[1, 2, 3, 7, 7], [4, 5, 0, 0, 0]])
    y = numpy(layers.mask_aware(model)({"features": x, "lengths": np.array([3, 2])}))
    np.testing.assert_allclose(y, np.concatenate([numpy(model(x[:1, :3])), numpy(model(x[1:]))]), rtol=1e-5)
    with pytest.raises(ArgumentError, match='Embedding "e": mask_zero=True; expected False'):
        layers.Embedding(10, 4, mask_zero=True, name="e")


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


def test_a_dict_of_inputs_keeps_its_keys_and_an_input_of_fixed_size_is_no_sequence():
    inputs = {"audio": keras.Input((None, 4), name="audio"), "speaker": keras.Input((5, 3), name="speaker")}
    pooled = plain.GlobalMaxPooling1D()(plain.Conv1D(3, 3, padding="same")(inputs["audio"]))
    model = keras.Model(inputs, plain.Concatenate()([pooled, plain.Flatten()(inputs["speaker"])]))
    aware = layers.mask_aware(model)
    rng = np.random.default_rng(0)
    batch = {"audio": rng.normal(size=(1, 9, 4)).astype("float32"), "speaker": rng.normal(size=(1, 5, 3)).astype("float32")}
    got = numpy(aware({**batch, "audio_lengths": np.array([7])}))
    np.testing.assert_allclose(got, numpy(model({**batch, "audio": batch["audio"][:, :7]})), rtol=1e-5, atol=1e-6)


def test_a_convolution_in_a_recurrence_on_tensorflow(monkeypatch):
    model = functional(lambda x: plain.GlobalAveragePooling1D()(plain.ConvLSTM1D(2, 2)(spectrogram(x))))
    if keras.backend.backend() == "tensorflow":
        same_outputs(model)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ArgumentError, match=r"\(ConvLSTM1D\) has no masks in Keras but on TensorFlow\. Run it"):
        layers.mask_aware(model)


def test_branches_that_lose_thousands_of_frames_are_merged():
    """The receptive field of SpliceAI, for one, has 10,001 frames."""
    model = functional(
        lambda x: plain.GlobalMaxPooling1D()(plain.Add()([plain.Cropping1D(5000)(x), plain.Cropping1D(2500)(plain.Conv1D(4, 5001)(x))]))
    )
    same_outputs(model, (10_020, 10_003))
    assert layers.check_model(model).shortest == 10_001


@pytest.mark.parametrize("shape", [(16, 10, 1), (16, 10)])
def test_a_spectrogram_model_of_fixed_length_takes_any(shape):
    inputs = keras.Input(shape)
    x = plain.Conv2D(3, 3, strides=2, padding="same")(plain.Reshape((16, 10, 1))(inputs))
    model = keras.Model(inputs, plain.GlobalAveragePooling2D()(x))
    aware = layers.mask_aware(model)
    x = np.random.default_rng(0).normal(size=(2, 21, *shape[1:])).astype("float32")
    y = numpy(aware({"features": x, "lengths": np.array([16, 21])}))
    np.testing.assert_allclose(y[0], numpy(model(x[:1, :16]))[0], rtol=1e-5, atol=1e-6)


def test_frames_are_joined_and_the_rest_is_left_out():
    model = functional(lambda x: plain.LSTM(3)(plain.Reshape((-1, 8))(x)))
    aware = same_outputs(model, (8, 6))
    x = np.random.default_rng(0).normal(size=(1, 7, 4)).astype("float32")
    np.testing.assert_allclose(numpy(aware({"features": x, "lengths": np.array([7])})), numpy(model(x[:, :6])), rtol=1e-5, atol=1e-6)


def test_statistics_of_spectrograms_in_training():
    """Batch normalization over [B, T, F, C]: those of all real frames laid end to end."""
    model = functional(lambda x: plain.BatchNormalization(momentum=0.0)(plain.Reshape((-1, 2, 2))(x)))
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype("float32")
    layers.mask_aware(model)({"features": x, "lengths": np.array([9, 4])}, training=True)
    real = np.concatenate([x[0], x[1, :4]]).reshape(-1, 2)
    for weight, want in zip(model.non_trainable_weights, (real.mean(0), real.var(0)), strict=True):
        np.testing.assert_allclose(numpy(weight), want, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning")
@pytest.mark.parametrize(
    "name", ["frames by number", "slices of frames", "reshaped frames", "operations along the frames", "layers of the user"]
)
def test_rows_without_frames_are_finite_and_models_load(name, tmp_path):
    aware = layers.mask_aware(functional(lambda x: BODIES[name](plain.Dense(4)(x))))
    batch = {"features": np.random.default_rng(0).normal(size=(3, 12, 4)).astype("float32"), "lengths": np.array([12, 0, 1])}
    batch["features"][1:, 1:] = np.nan
    y = numpy(aware(batch))
    assert np.isfinite(y).all()
    assert all(np.isfinite(g).all() for g in gradients(aware, batch, ops.sum, training=True))
    aware.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Scaled": Scaled})
    np.testing.assert_array_equal(numpy(loaded(batch)), y)
    assert layers.check_model(loaded).ok


def test_a_dict_of_outputs_keeps_its_structure():
    inputs = keras.Input((None, 4))
    x = plain.Conv1D(3, 3, padding="same")(inputs)
    aware = layers.mask_aware(keras.Model(inputs, {"frames": x, "clip": plain.GlobalMaxPooling1D()(x)}))
    y = aware({"features": np.ones((2, 6, 4), "float32"), "lengths": np.array([6, 2])})
    assert sorted(y) == ["clip", "frames"]
    np.testing.assert_array_equal(numpy(ExtractMask()(y["frames"])).sum(1), [6, 2])


class Shuffle(keras.layers.Layer):
    def call(self, inputs):
        return turned(inputs)

    def compute_output_shape(self, shape):
        return shape


class CustomOperation(keras.Operation):
    def call(self, x):
        return x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


class Centred(keras.layers.Layer):
    def __init__(self, stateful=False):
        super().__init__()
        self.stateful = stateful

    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=0, keepdims=True)

    def compute_output_shape(self, shape):
        return shape


def both_ways(x):
    return ops.flip(x, axis=(1, 2))


def turned(x):
    """Reverses the frames outside of keras.ops, which nobody can follow."""
    return ops.convert_to_tensor(numpy(x)[:, ::-1])


class Doubled(layers.MaskAware, keras.layers.Layer):
    def call(self, inputs, mask=None):
        return inputs * 2


def test_a_users_layer_with_the_base_is_trusted():
    aware = same_outputs(functional(lambda x: plain.GlobalMaxPooling1D()(Doubled()(x))))
    assert layers.check_model(aware).ok


REFUSED = {
    "concatenates all frames, so its width": lambda x: plain.Flatten()(x),
    "reshapes the frame axis": lambda x: plain.Reshape((2, -1))(x),
    r"puts 3 values in a frame that has 4; expected a": lambda x: plain.Reshape((-1, 3))(x),
    "moves the frame axis, as before a Dense": lambda x: plain.Permute((2, 1))(x),
    "runs Python code that mixes frames, and is not written with keras.ops": lambda x: plain.Lambda(turned, output_shape=(None, 4))(x),
    r'"turn/flip\S*" \(Flip\) reverses other axes with the frames': lambda x: plain.Lambda(both_ways, name="turn")(x),
    "infers the lengths from the values": lambda x: plain.Masking()(x),
    r"\(Shuffle\) is unknown to vlpipe and may mix frames": lambda x: Shuffle()(x),
    r"\(CustomOperation\) is unknown to vlpipe": lambda x: CustomOperation()(x),
    r"takes frames whose numbers vlpipe cannot see\. Index with integers": lambda x: x[:, : keras.Input((), dtype="int32")],
    "selects sequences of a batch, or moves": lambda x: x[1:, :],
    r"\[-3:2:None\]; expected a positive step, or -1 alone": lambda x: x[:, -3:2],
    "acts across the sequences of a batch": lambda x: ops.mean(x, axis=(0, 1)),
    "acts along the frame axis, whose length differs": lambda x: ops.sort(x, axis=1),
    r"\(Glu\) acts along the frame axis\. Use softmax": lambda x: ops.glu(x, axis=1),
    "joins sequences along the frames, so that": lambda x: ops.concatenate([x, x], axis=1),
    "joins a sequence with a tensor that has no frames": lambda x: ops.concatenate([x, ops.ones((1, 5, 2))], axis=-1),
    r"weights the values along several axes": lambda x: ops.softmax(x, axis=(1, 2)),
    r"\(Transpose\) moves the frame axis from its place": lambda x: ops.transpose(x, (0, 2, 1)),
    "multiplies along the frames. Write it with": lambda x: ops.matmul(ops.ones((1, 3, 5)), x),
    "pairs frames with frames, or moves them": lambda x: ops.einsum("btd,bsd->bts", x, x),
    "sums a product with a constant over the frames": lambda x: ops.einsum("btd,bd->bd", x, ops.ones((1, 4))),
    "adds sequences to a batch": lambda x: ops.pad(x, [[1, 0], [0, 0], [0, 0]]),
    "pads the frames by other values than zero": lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 0]], constant_values=1),
    "pads the channels together with the frames": lambda x: ops.pad(x[..., None], 1 * [[0, 0]] + 3 * [[1, 0]]),
    r"has an equation that moves or sums the frames": lambda x: plain.EinsumDense("abc,dc->adb", output_shape=(3, None))(x),
    "wraps BatchNormalization, whose statistics": lambda x: plain.TimeDistributed(plain.BatchNormalization())(x),
    "wraps a layer that keeps states": lambda x: plain.TimeDistributed(Centred(stateful=True))(x),
    "wraps a layer that mixes the rows of a batch": lambda x: plain.TimeDistributed(Centred())(x),
    'UpSampling2D "u": .*expected "nearest" along the frames, because Keras interpolates': lambda x: plain.UpSampling2D(
        2, interpolation="bilinear", name="u"
    )(spectrogram(x)),
    'BatchNormalization "b": axis=2; expected axis=-1': lambda x: plain.BatchNormalization(axis=2, name="b")(spectrogram(x)),
    'BatchNormalization "b": synchronized=True; expected': lambda x: plain.BatchNormalization(synchronized=True, name="b")(x),
    "normalizes over time": lambda x: plain.UnitNormalization(axis=1)(x),
    "returns the frames in reverse order": lambda x: plain.GRU(3, go_backwards=True, return_sequences=True)(x),
    "returns two sequences": lambda x: plain.Bidirectional(plain.GRU(3, return_sequences=True), merge_mode=None)(x)[0],
    "multiplies along other axes than the frames": lambda x: plain.Dot(axes=2)([x, x]),
    r"\(ExpandDims\) moves the frame axis from its place\. Keep": lambda x: ops.expand_dims(x, 1),
    "broadcasts across the frames": lambda x: x * ops.mean(x, axis=-1),
    "acts along several axes": lambda x: plain.Softmax(axis=(1, 2))(x),
    "acts along the frame axis": lambda x: plain.Activation("log_softmax")(ops.mean(x, axis=-1)),
    "has an activity_regularizer, which counts the padding": lambda x: plain.Dense(3, activity_regularizer="l2")(x),
    "merges branches that never have the same number of frames": lambda x: ops.concatenate([x, plain.UpSampling1D(2)(x)], axis=-1),
    'Concatenate "c": axis=1': lambda x: plain.Concatenate(axis=1, name="c")([x, x]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_unsupported_operations_are_refused_by_name(message):
    if "synchronized" in message and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras itself refuses it")
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

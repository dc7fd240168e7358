"""Under mixed precision, a mask-aware model computes each value in the dtype in which the plain model does."""

import keras
import numpy as np
import pytest

from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.layers import mask_aware

plain, ops = keras.layers, keras.ops
LENGTHS = np.array([12, 6, 8])


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@keras.saving.register_keras_serializable(package="vlpipe-tests")
class Scaled(plain.Layer):
    """Treats each frame alone."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale


@keras.saving.register_keras_serializable(package="vlpipe-tests")
class ScaledMax(Scaled):
    """Is replaced by its operations."""

    def call(self, x):
        return ops.max(x * self.scale, axis=1)


def own(x):
    return ops.sin(x) + x


keras.saving.register_keras_serializable(package="vlpipe-tests")(own)


def kinds(**dtype):
    """Layers, each of one dtype policy: the twin of a layer, or what stands in its place, casts as the layer does."""
    return {
        "reshape": plain.Reshape((-1, 2, 2), **dtype),
        "flatten": lambda x: plain.Flatten(**dtype)(x[..., :1]),
        "permute": lambda x: plain.Permute((1, 3, 2), **dtype)(ops.expand_dims(x, 2)),
        "scaled": Scaled(**dtype),
        "scaled_max": ScaledMax(**dtype),
        "own_activation": plain.Dense(4, activation=own, kernel_initializer="identity", **dtype),
        "softmax_layer": plain.Softmax(axis=1, **dtype),
        "softmax_activation": lambda x: plain.Activation("softmax", **dtype)(x[..., 0]),
        "mean": plain.GlobalAveragePooling1D(**dtype),
        "inner": plain.TimeDistributed(plain.Dense(4, kernel_initializer="identity", **dtype)),
        "unequal": lambda x: plain.Add(**dtype)([plain.MaxPooling1D(2, dtype="float32")(x), x[:, ::2]]),
    }


BODIES = {
    "sum": lambda x: ops.sum(x, axis=1),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "last": lambda x: x[:, -1],
    "softmax": lambda x: ops.softmax(x, axis=1),
    "max_pool": lambda x: ops.max_pool(x, 2, 2),
    "average_pool": lambda x: ops.average_pool(x, 2, 2),
    "pad": lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0]]),
    "pad_bins": lambda x: ops.pad(ops.expand_dims(x, -1), [[0, 0], [1, 1], [1, 1], [0, 0]]),
    "unequal_ops": lambda x: ops.max_pool(x, 2, 2) + x[:, ::2],
    "uncast": plain.Conv1D(4, 3, strides=2, padding="same", kernel_initializer="ones", autocast=False),
    **kinds(),
    **{f"{name}_float32": body for name, body in kinds(dtype="float32").items()},
}


def test_each_value_has_the_dtype_of_the_plain_model(policy, tmp_path):
    inputs = keras.Input((None, 4))
    names = [name for name in BODIES if keras.backend.backend() != "torch" or name != "uncast"]  # its convolution takes one dtype only
    ordinary = keras.Model(inputs, {name: body(inputs) for name, body in ((name, BODIES[name]) for name in names)})
    aware = mask_aware(ordinary)
    aware.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(3, 14, 4)).astype("float32")
    batch = {"features": x, "lengths": LENGTHS}
    for row, frames in enumerate(LENGTHS):
        x[row, frames:] = np.nan
    answers = [model(batch) for model in (aware, keras.models.load_model(tmp_path / "model.keras"))]
    for row, frames in enumerate(LENGTHS):
        alone = ordinary(x[row : row + 1, :frames])
        for name, expected in alone.items():
            dtype = keras.backend.standardize_dtype(expected.dtype)
            scale = np.abs(numpy(ops.cast(expected, "float32"))).max()
            tolerance = scale * (1e-6 if dtype == "float32" else 0.05)
            for answer in answers[: 1 if name == "uncast" else 2]:  # autocast=False is not in a configuration
                got, wanted = (numpy(ops.cast(y, "float32")) for y in (answer[name], expected))
                got = got[row : row + 1, : wanted.shape[1]] if wanted.ndim > 2 or wanted.shape[1] == frames else got[row : row + 1]
                assert keras.backend.standardize_dtype(answer[name].dtype) == dtype, name
                np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance, err_msg=name)
    assert {name: y.dtype for name, y in aware.output.items()} == {name: y.dtype for name, y in ordinary.output.items()}


@pytest.mark.parametrize("given", ["lengths", "mask"])
def test_features_enter_as_they_are(policy, given):
    """More frames than half precision can count, and values that it cannot hold; a second input with other values."""
    many, large = keras.Input((None, 1), name="many"), keras.Input((None, 2), name="large")
    count = ops.max(ops.cumsum(many, axis=1), axis=1)
    ordinary = keras.Model([many, large], [count, ops.max(plain.Rescaling(1e-5, dtype="float32")(large), axis=1)])
    frames = {"many": (3000, 2999), "large": (7, 4)}
    x = {"many": np.ones((2, 3000, 1), "float32"), "large": np.full((2, 7, 2), 1e5, "float32")}
    companions = {
        "lengths": lambda name: np.array(frames[name]),
        "mask": lambda name: np.arange(x[name].shape[1]) < np.array(frames[name])[:, None],
    }
    answer = mask_aware(ordinary, given=given)({**x, **{f"{name}_{given}": companions[given](name) for name in x}})
    assert [numpy(y).tolist() for y in answer] == [[[3000.0], [2999.0]], [[np.float32(1e5) * np.float32(1e-5)] * 2] * 2]


def test_layers_by_hand_keep_the_dtype(policy):
    for dtype in ("float32", "float16", "int32"):
        x = layers.LengthMask()({"features": ops.ones((2, 3, 1), dtype), "lengths": np.array([3, 1])})
        cut = layers.CommonFrames()([x, x])[0]
        assert [keras.backend.standardize_dtype(y.dtype) for y in (x, cut)] == [dtype, dtype]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="ragged tensors")
def test_ragged_batches_keep_the_dtype(policy):
    import tensorflow as tf

    for dtype in ("float32", "int32"):
        assert layers.ToPadded()(tf.ragged.constant([[[1], [2]], [[3]]], dtype=dtype, ragged_rank=1))["features"].dtype == dtype

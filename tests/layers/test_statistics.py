"""Layers that reduce or normalize over time, merge branches, or bring lengths into a model."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.layers_tools import LENGTHS, WIDTH, ExtractMask, few, numpy, padded
from vlpipe import layers
from vlpipe.errors import ArgumentError


def masked(batch):
    return layers.LengthMask()(batch)


def mean_and_deviation(x):
    return np.concatenate([x.mean(0), np.sqrt(x.var(0) + 1e-6)])


REDUCTIONS = [
    (layers.GlobalAveragePooling1D(), lambda x: x.mean(0)),
    (layers.GlobalMaxPooling1D(), lambda x: x.max(0)),
    (layers.GlobalMaxPooling1D(keepdims=True), lambda x: x.max(0, keepdims=True)),
    (layers.GlobalAveragePooling1D(keepdims=True), lambda x: x.mean(0, keepdims=True)),
    (layers.StatisticsPooling1D(), mean_and_deviation),
    (layers.ReduceFrames("sum"), lambda x: x.sum(0)),
    (layers.ReduceFrames("mean", keepdims=True), lambda x: x.mean(0, keepdims=True)),
    (layers.ReduceFrames("max"), lambda x: x.max(0)),
    (layers.ReduceFrames("min"), lambda x: x.min(0)),
]


@pytest.mark.parametrize(("layer", "expected"), REDUCTIONS, ids=lambda value: getattr(value, "name", ""))
def test_reductions(layer, expected):
    rows, batch = padded([5, 1, 0, 12], extra=3)
    got = numpy(layer(masked(batch)))
    for row, value in zip(rows, got, strict=True):
        want = expected(row) if len(row) else np.zeros_like(value)
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5)
    alone = numpy(layer(rows[3][None]))  # without a mask, every frame counts
    np.testing.assert_allclose(alone[0], got[3], rtol=1e-5, atol=1e-5)


def test_statistics_of_a_large_mean():
    """E[x²] - E[x]² would lose every digit of a deviation of 0.01 around 1000 in float32."""
    x = (1000 + 0.01 * np.random.default_rng(0).normal(size=(1, 200, 2))).astype("float32")
    got = numpy(layers.StatisticsPooling1D()(x))[0, 2:]
    np.testing.assert_allclose(got, np.sqrt(x[0].astype("float64").var(0) + 1e-6), rtol=1e-2)


def test_dot_is_attention_pooling():
    rows, batch = padded([5, 1, 0], extra=3)
    x = masked(batch)
    weights = layers.Softmax(axis=1)(x[:, :, :1])  # without a mask: slicing drops it
    weights = layers.Softmax(axis=1)(layers.CarryMask()([x[:, :, :1], x]))
    got = numpy(layers.Dot(axes=1)([weights, x]))[:, 0]
    for row, value in zip(rows, got, strict=True):
        w = np.exp(row[:, 0]) / np.exp(row[:, 0]).sum()
        np.testing.assert_allclose(value, w @ row, rtol=1e-5, atol=1e-5)


@few(10)
@given(LENGTHS.filter(any))
def test_batch_normalization_sees_real_frames_only(lengths):
    rows, batch = padded(lengths, extra=2)
    layer = layers.BatchNormalization(momentum=0.9)
    y = numpy(layer(masked(batch), training=True))
    frames = np.concatenate(rows).astype("float64")
    np.testing.assert_allclose(numpy(layer.moving_mean), 0.1 * frames.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy(layer.moving_variance), 0.9 + 0.1 * frames.var(0), rtol=1e-5, atol=1e-6)
    for row, got in zip(rows, y, strict=True):
        want = (row - frames.mean(0)) / np.sqrt(frames.var(0) + 1e-3)
        np.testing.assert_allclose(got[: len(row)], want, rtol=1e-4, atol=1e-4)


def test_batch_normalization_without_frames_keeps_its_moving_averages():
    layer = layers.BatchNormalization()
    y = numpy(layer(masked(padded([0, 0], extra=2)[1]), training=True))
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(numpy(layer.moving_mean), np.zeros(WIDTH))
    np.testing.assert_array_equal(numpy(layer.moving_variance), np.ones(WIDTH))


def test_batch_normalization_of_one_channel():
    x = layers.LengthMask()({"features": np.ones((2, 4, 1), "float32"), "lengths": np.array([4, 2])})
    layer = layers.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    np.testing.assert_allclose(numpy(layer.moving_mean), [1.0])


@pytest.mark.parametrize("groups", [1, 3, -1])
def test_group_normalization(groups):
    rows, batch = padded([5, 1, 0, 12], extra=3)
    ours, theirs = layers.GroupNormalization(groups), keras.layers.GroupNormalization(groups)
    theirs.build((None, None, WIDTH))
    ours.build((None, None, WIDTH))
    scale = np.arange(2.0 * WIDTH).reshape(2, WIDTH)
    ours.set_weights(list(scale))
    theirs.set_weights(list(scale))
    got = numpy(ours(masked(batch)))
    assert np.isfinite(got).all()
    for row, value in zip(rows, got, strict=True):
        if len(row):
            np.testing.assert_allclose(value[: len(row)], numpy(theirs(row[None]))[0], rtol=1e-4, atol=1e-4)


def test_softmax_over_features_needs_no_mask():
    _, batch = padded([5, 2])
    got = numpy(layers.Softmax()(masked(batch)))
    np.testing.assert_allclose(got[1, :2].sum(-1), [1, 1], rtol=1e-6)


MERGES = [
    (layers.Add, np.add),
    (layers.Subtract, np.subtract),
    (layers.Multiply, np.multiply),
    (layers.Maximum, np.maximum),
    (layers.Minimum, np.minimum),
    (layers.Average, lambda a, b: (a + b) / 2),
    (layers.Concatenate, lambda a, b: np.concatenate([a, b], -1)),
]


@pytest.mark.parametrize(("kind", "expected"), MERGES, ids=lambda value: value.__name__)
def test_merges_combine_masks(kind, expected):
    rows, batch = padded([5, 2, 0], extra=2)
    x = masked(batch)
    y = layers.UpSampling1D(1)(masked({**batch, "features": batch["features"] * 2, "lengths": np.array([4, 3, 1])}))
    merged = kind()([x, y])
    np.testing.assert_array_equal(numpy(ExtractMask()(merged)).sum(1), [4, 2, 0])
    np.testing.assert_allclose(numpy(merged)[0, :4], expected(rows[0], rows[0] * 2)[:4], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, WIDTH), (3, 1, WIDTH)])
def test_a_gate_without_frames_keeps_the_mask(shape):
    _, batch = padded([5, 2, 0], extra=2)
    y = layers.Multiply()([masked(batch), np.full(shape, 0.5, "float32")])
    assert y.shape == batch["features"].shape
    np.testing.assert_array_equal(numpy(ExtractMask()(y)).sum(1), [5, 2, 0])


def test_branches_of_different_lengths_are_refused():
    x = masked(padded([5, 2])[1])
    y = layers.UpSampling1D(2)(x)
    with pytest.raises(ArgumentError, match='Concatenate "join": got branches of 5 and 10 frames; expected the same number'):
        layers.Concatenate(name="join")([x, y])
    with pytest.raises(ArgumentError, match="CarryMask .*: got branches of 5 and 10 frames"):
        layers.CarryMask()([x + 1, x, y])


def test_length_mask_takes_lengths_or_a_mask():
    rows, batch = padded([3, 0], extra=1)
    for length_input in ({"lengths": batch["lengths"]}, {"mask": np.array([[1, 1, 1, 0], [0, 0, 0, 0]])}):
        x = masked({"features": batch["features"], **length_input})
        np.testing.assert_array_equal(numpy(x), np.stack([np.pad(rows[0], [(0, 1), (0, 0)]), np.zeros((4, WIDTH))]))
        np.testing.assert_array_equal(numpy(ExtractMask()(x)).sum(1), [3, 0])


def test_length_mask_sets_nan_in_the_padding_to_zero():
    _, batch = padded([3], extra=1)
    batch["features"][0, 3] = np.nan
    assert np.isfinite(numpy(masked(batch))).all()


def test_a_batch_without_frames():
    x = masked({"features": np.zeros((2, 0, WIDTH), "float32"), "lengths": np.zeros(2, "int32")})
    for layer in (layers.Conv1D(4, 3), layers.Conv1D(4, 3, padding="same", strides=2), layers.Cropping1D(2)):
        layer.build((None, None, WIDTH))
        y = numpy(layers.GlobalMaxPooling1D()(layer(x)))
        np.testing.assert_array_equal(y, np.zeros_like(y))


def test_length_mask_refuses_other_inputs():
    with pytest.raises(ArgumentError, match=r"LengthMask \"entry\": called on \['features'\]; expected .*lengths.*mask"):
        layers.LengthMask(name="entry")({"features": np.zeros((1, 2, 3))})
    with pytest.raises(ArgumentError, match="called on KerasTensor"):
        layers.LengthMask()(keras.Input((None, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.BatchNormalization(axis=1, name="b"), 'BatchNormalization "b": axis=1; expected axis=-1'),
        (
            lambda: layers.BatchNormalization(synchronized=True),
            r"synchronized=True; expected False. With several replicas",
        ),
        (
            lambda: layers.GroupNormalization(axis=1, name="g"),
            'GroupNormalization "g": axis=1; expected axis=-1 \\(features\\). Normalize with',
        ),
        (lambda: layers.Softmax(axis=(1, 2), name="s"), r'Softmax "s": axis=\(1, 2\); expected one axis'),
        (
            lambda: layers.Concatenate(axis=1, name="c"),
            'Concatenate "c": axis=1; expected axis=-1, the features. Sequences of different lengths',
        ),
        (lambda: layers.Dot(axes=2, name="d"), 'Dot "d": axes=2, normalize=False; expected axes=1 and normalize=False, the sum over the'),
        (lambda: layers.ReduceFrames("median"), "ReduceFrames: reduction='median'; expected one of mean, sum, max, min, std"),
        (lambda: layers.ReduceFrames("mean", axis=2), "ReduceFrames: axis=2; expected 1, the frames, alone or with axes after it"),
        (lambda: layers.Reshape((4, -1), name="r"), r'Reshape "r": target_shape=\(4, -1\); expected \(-1, ...\), where -1 stands'),
        (lambda: layers.SliceFrames(step=0, name="s"), r'SliceFrames "s": \[None:None:0\]; expected a positive step, or -1 alone'),
    ],
)
def test_arguments_that_cannot_be_exact_are_refused(make, message):
    if "synchronized" in message and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras itself refuses it")
    with pytest.raises(ArgumentError, match=message):
        make()


def test_to_padded_refuses_a_dense_batch():
    with pytest.raises(ArgumentError, match=r'ToPadded "p": got a dense tensor of shape \(1, 2, 3\); expected a ragged one'):
        layers.ToPadded(name="p")(keras.ops.zeros((1, 2, 3)))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4))
@few(5)
def test_to_padded(lengths):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has ragged tensors")
    rows, _ = padded(lengths)
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(rows), lengths)
    got = layers.ToPadded()(ragged)
    np.testing.assert_array_equal(numpy(got["lengths"]), lengths)
    assert got["features"].shape == (len(lengths), max(lengths), WIDTH)
    np.testing.assert_array_equal(numpy(got["features"])[0, : lengths[0]], rows[0])

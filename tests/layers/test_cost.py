"""What is left out of a step on TensorFlow, because it is known to change nothing, and the gradients that are written out."""

import keras
import numpy as np
import pytest
from keras import layers as plain

from tests.layers.layers_tools import numpy, padded
from vlpipe import layers

if keras.backend.backend() != "tensorflow":
    pytest.skip("JAX and PyTorch take their own gradients, and fill each time", allow_module_level=True)

import tensorflow as tf

RNG = np.random.default_rng(5)
MASK = np.arange(9) < np.array([9, 4, 7])[:, None]


def random(*shape):
    return RNG.normal(size=shape).astype("float32")


def derive(layer, x, weight, **options):
    """The gradients of the sum of the outputs times a weight, for `x` and for the weights of a layer; it leaves the weights as they are."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **options)
        total = tf.reduce_sum(tf.where(weight == 0, 0.0, y * weight))
    return [numpy(g) for g in tape.gradient(total, [x, *[w.value for w in layer.trainable_variables]])]


def twins(kind, *args, shape, **options):
    """A layer of Keras, built on `shape` with random weights, and its mask-aware twin."""
    pair = [getattr(module, kind)(*args, **options) for module in (plain, layers)]
    for layer in pair:
        layer.build((None, None, *shape))
    pair[0].set_weights([random(*w.shape) ** 2 + 0.1 for w in pair[0].get_weights()])
    pair[1].set_weights(pair[0].get_weights())
    return pair


@pytest.mark.parametrize("padding", [0.0, 1e4, np.nan])
@pytest.mark.parametrize("shape", [(3,), (5, 3)])
def test_gradient_of_batch_normalization(shape, padding):
    """That of Keras for the real frames of all rows, laid end to end."""
    reference, aware = twins("BatchNormalization", shape=shape)
    x, weight = random(3, 9, *shape) * 3 + 2, random(3, 9, *shape)
    x[~MASK], weight[~MASK] = padding, 0
    want = derive(reference, tf.constant(x[MASK][None]), weight[MASK][None], training=True)
    # the normalization itself, unlike the statistics, acts on the padding too: it must be finite, as it is in a model
    ready = tf.constant(np.where(np.isnan(x), 7, x).astype("float32"))
    got = derive(aware, ready, weight, training=True, mask=tf.constant(MASK))
    np.testing.assert_allclose(got[0][MASK], want[0][0], rtol=1e-4, atol=1e-5)
    assert not got[0][~MASK].any()
    for a, b in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    mean, variance = aware._moments(tf.constant(x), tf.constant(MASK))
    np.testing.assert_allclose(mean, x[MASK].reshape(-1, 3).mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, x[MASK].reshape(-1, 3).var(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "args", "options", "shape"),
    [
        ("Conv1D", (4, 3), {"strides": 2}, (3,)),
        ("Conv1D", (4, 5), {"strides": 3}, (3,)),
        ("Conv1D", (4, 2), {"strides": 4}, (3,)),
        ("DepthwiseConv1D", (4,), {"strides": 3}, (3,)),
        ("MaxPooling1D", (3,), {"strides": 2}, (3,)),
        ("Conv2D", (4, (3, 3)), {"strides": 2}, (4, 2)),
        ("Conv2D", (4, (5, 2)), {"strides": (3, 1)}, (5, 2)),
        ("MaxPooling2D", ((3, 2),), {"strides": (2, 2)}, (5, 2)),
        ("AveragePooling2D", ((3, 3),), {"strides": (2, 2)}, (5, 2)),
    ],
)
def test_gradient_of_shifted_frames(kind, args, options, shape):
    """Strided windows under "same" begin elsewhere in rows of other lengths; gradients are those of the rows alone, also next to NaN."""
    reference, aware = twins(kind, *args, shape=shape, padding="same", **options)
    x = random(3, 9, *shape)
    x[~MASK] = np.nan
    rows = [row[real] for row, real in zip(x, MASK, strict=True)]
    outputs = aware(tf.constant(x), mask=tf.constant(MASK))
    weight = random(*outputs.shape)
    counts = [int(aware.output_frames(len(row))) for row in rows]
    weight[np.arange(weight.shape[1]) >= np.array(counts)[:, None]] = 0
    alone = [derive(reference, tf.constant(row[None]), w[None, :n]) for row, w, n in zip(rows, weight, counts, strict=True)]
    got = derive(aware, tf.constant(x), weight, mask=tf.constant(MASK))
    assert not got[0][~MASK].any()
    for row, real, want in zip(got[0], MASK, alone, strict=True):
        np.testing.assert_allclose(row[real], want[0][0], rtol=1e-4, atol=1e-5)
    for a, b in zip(got[1:], zip(*[g[1:] for g in alone], strict=True), strict=True):
        np.testing.assert_allclose(a, sum(b), rtol=1e-4, atol=1e-4)


def a_model(*middle, width=3):
    model = keras.Sequential([keras.Input((None, width)), *middle])
    keras.utils.set_random_seed(3)
    model.set_weights([random(*w.shape) for w in model.get_weights()])
    return model


def selections(model):
    """How often the mask-aware model selects by a mask."""
    traced = tf.function(lambda x, n: layers.mask_aware(model)({"features": x, "lengths": n}))
    shapes = tf.TensorSpec((3, 9, model.inputs[0].shape[-1]), "float32"), tf.TensorSpec((3,), "int32")
    return sum(op.type == "SelectV2" for op in traced.get_concrete_function(*shapes).graph.get_operations())


def test_zeros_are_not_filled_again():
    pool, conv = plain.MaxPooling1D(2, padding="same"), plain.Conv1D(3, 3, padding="same")
    for first in (pool, plain.ZeroPadding1D(1)):
        assert selections(a_model(first, conv)) == selections(a_model(first))
        assert selections(a_model(first, plain.ReLU(), conv)) == selections(a_model(first)) + 1
    assert selections(a_model(conv)) == selections(a_model(plain.Dense(3)))


@pytest.mark.parametrize(
    "between",
    [
        list,
        lambda: [plain.Dense(3)],
        lambda: [plain.BatchNormalization()],
        lambda: [plain.Conv1D(3, 1)],
        lambda: [plain.Rescaling(1, 5)],
        lambda: [plain.AveragePooling1D(3, 1, padding="same")],
        lambda: [plain.Cropping1D((0, 2))],
        lambda: [plain.UpSampling1D(2)],
        lambda: [plain.Identity(), plain.Dropout(0.5)],
        lambda: [plain.ZeroPadding1D((0, 0)), plain.Activation("sigmoid")],
    ],
)
@pytest.mark.parametrize("first", [lambda: plain.MaxPooling1D(2, 1, padding="same"), lambda: plain.ZeroPadding1D(2)])
def test_what_is_no_longer_zero_is_filled(first, between):
    """Layers between one that leaves zeros in the padding and one that needs them there."""
    model = a_model(first(), *between(), plain.Conv1D(2, 5, padding="same"), plain.GlobalAveragePooling1D())
    rows, batch = padded([9, 5, 7], extra=3)
    got = numpy(layers.mask_aware(model)(batch))
    for row, y in zip(rows, got, strict=True):
        np.testing.assert_allclose(y, numpy(model(row[None]))[0], rtol=1e-4, atol=1e-4)


def test_zeros_by_one_mask_are_filled_by_another():
    rows, batch = padded([9, 5, 7])
    x = layers.LengthMask()(batch)
    shorter = tf.constant(np.arange(9) < np.array([4, 5, 2])[:, None])
    conv = layers.Conv1D(2, 5, padding="same")
    got = numpy(conv(x, mask=shorter))
    for row, y, n in zip(rows, got, (4, 5, 2), strict=True):
        np.testing.assert_allclose(y[:n], numpy(conv(row[None, :n]))[0], rtol=1e-5, atol=1e-5)


def test_branches_after_zeros():
    """Attention deletes the mask of what it is called on, and a merge takes the frames that all branches have: neither sees the zeros."""
    inputs = keras.Input((None, 3))
    x = plain.MaxPooling1D(2, 1, padding="same")(inputs)
    y = plain.Add()([plain.MultiHeadAttention(1, 2)(x, x), plain.Conv1D(3, 3, padding="same")(x)])
    y = plain.Add()([plain.Cropping1D((1, 1))(y), plain.Conv1D(3, 3)(x)])
    y = plain.Conv1D(3, 5, padding="same")(plain.Concatenate()([y, y]))
    means = [plain.GlobalAveragePooling1D()(branch) for branch in (x, y)]  # that of x after the attention
    model = keras.Model(inputs, plain.Concatenate()(means))
    rows, batch = padded([9, 5, 7], extra=3)
    got = numpy(layers.mask_aware(model)(batch))
    for row, y in zip(rows, got, strict=True):
        np.testing.assert_allclose(y, numpy(model(row[None]))[0], rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_what_was_filled():
    """A layer that relies on zeros passes a gradient to the padding before it; the layer that made them zero stops it there."""
    conv = plain.Conv1D(3, 1)
    model = a_model(conv, plain.MaxPooling1D(2, 1, padding="same"), plain.Conv1D(2, 5, padding="same"), plain.GlobalAveragePooling1D())
    aware = layers.mask_aware(model)
    rows, batch = padded([9, 5, 7], extra=3)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(aware(batch) ** 2)
    got = tape.gradient(total, [w.value for w in model.trainable_variables])
    with tf.GradientTape() as tape:
        total = tf.add_n([tf.reduce_sum(model(row[None]) ** 2) for row in rows])
    for a, b in zip(got, tape.gradient(total, [w.value for w in model.trainable_variables]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_slow_gradients_are_not_in_a_step():
    """That of an index, which takes three times as long as that of a slice, and that of a gather, which TensorFlow adds up by places."""
    inputs = keras.Input((None, 4))
    x = plain.Cropping1D((1, 1))(plain.Dense(4)(inputs))
    x = plain.Add()([plain.MaxPooling1D(2)(x), plain.Conv1D(4, 3, padding="same", strides=2)(x)])
    x = plain.Reshape((-1, 2, 2))(plain.Reshape((-1, 8))(x))
    x = plain.Cropping2D((1, 0))(plain.BatchNormalization()(plain.Conv2D(2, 3, strides=2, padding="same")(x)))
    aware = layers.mask_aware(keras.Model(inputs, x))

    @tf.function
    def step(batch):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(aware(batch, training=True) ** 2)
        return tape.gradient(total, [w.value for w in aware.trainable_variables])

    batch = {"features": tf.TensorSpec((2, None, 4), "float32"), "lengths": tf.TensorSpec((2,), "int32")}
    operations = {op.type for op in step.get_concrete_function(batch).graph.get_operations()}
    assert not operations & {"StridedSliceGrad", "UnsortedSegmentSum"}

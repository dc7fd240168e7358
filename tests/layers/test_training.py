"""Training a mask-aware model: statistics of real frames, loss per frame, XLA, ragged batches."""

import keras
import numpy as np
import pytest

from tests.layers import zoo
from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

TENSORFLOW = keras.backend.backend() == "tensorflow"
LENGTHS = [9, 4, 0, 6]


def a_batch(lengths=LENGTHS, extra=3, seed=0, width=zoo.FEATURES):
    rng = np.random.default_rng(seed)
    x = 9 * rng.normal(size=(len(lengths), max(lengths) + extra, width)).astype("float32")
    return [x[b, :n] for b, n in enumerate(lengths)], {"features": x, "lengths": np.array(lengths, "int32")}


def per_frame(units=1):
    return keras.Sequential([keras.Input((None, zoo.FEATURES)), keras.layers.Conv1D(units, 3, padding="same")])


def test_moving_statistics_are_those_of_the_concatenated_real_frames():
    """The reference convolves each sequence alone and feeds all output frames, end to end, to Keras' own BatchNormalization."""
    model = keras.Sequential(
        [
            keras.Input((None, zoo.FEATURES)),
            keras.layers.Conv1D(6, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(momentum=0.5),
        ]
    )
    conv, norm = model.layers
    rows, batch = a_batch()
    frames = np.concatenate([numpy(conv(row[None]))[0] for row in rows if len(row)])
    reference = keras.layers.BatchNormalization(momentum=0.5)
    want = numpy(reference(frames[None], training=True))[0]
    y = layers.mask_aware(model)(batch, training=True)
    np.testing.assert_allclose(numpy(norm.moving_mean), numpy(reference.moving_mean), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy(norm.moving_variance), numpy(reference.moving_variance), rtol=1e-5, atol=1e-6)
    counts = layers.output_lengths(model, LENGTHS)
    got = np.concatenate([row[:count] for row, count in zip(numpy(y), counts, strict=True)])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_loss_and_metrics_count_real_frames_only():
    model = per_frame()
    aware = layers.mask_aware(model)
    rows, batch = a_batch()
    targets = np.random.default_rng(1).normal(size=(*batch["features"].shape[:2], 1)).astype("float32")
    aware.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    loss, error = aware.evaluate(batch, targets, batch_size=4, verbose=0)
    errors = np.concatenate([numpy(model(row[None]))[0] - targets[b, : len(row)] for b, row in enumerate(rows) if len(row)])
    np.testing.assert_allclose([loss, error], [np.mean(errors**2), np.mean(np.abs(errors))], rtol=1e-4)


def test_sample_weight_makes_a_plain_loss_count_real_frames_only():
    model = per_frame()
    rows, batch = a_batch()
    weight = layers.sample_weight(model, batch["lengths"], frames=batch["features"].shape[1])
    np.testing.assert_array_equal(weight.sum(1), LENGTHS)
    y = numpy(layers.mask_aware(model)(batch))
    outputs = np.concatenate([numpy(model(row[None]))[0] for row in rows if len(row)])
    np.testing.assert_allclose((weight[..., None] * y**2).sum() / weight.sum(), np.mean(outputs**2), rtol=1e-4)
    assert layers.sample_weight(model, LENGTHS).shape == (4, 9)


def test_output_lengths_equal_the_masks_of_the_output():
    for name in zoo.PER_FRAME:
        aware = layers.mask_aware(zoo.build(name, zoo.Draw(padding="valid")))
        lengths = [0, 4, 16, 40]
        _, batch = a_batch(lengths, extra=0)
        real = [int(count) for count in numpy(keras.ops.sum(keras.ops.cast(mask_of(aware(batch)), "int32"), axis=1))]
        assert layers.output_lengths(aware, lengths).tolist() == real


def mask_of(y):
    from tests.layers.layers_tools import ExtractMask

    return ExtractMask()(y)


def test_output_lengths_refuses_a_model_without_output_frames():
    message = r'output_lengths: the output of "m" has shape \(None, 5\) and no frame axis that can be followed'
    with pytest.raises(ArgumentError, match=message):
        layers.output_lengths(keras.Sequential([keras.Input((None, 5)), keras.layers.GlobalMaxPooling1D()], name="m"), [3])


@pytest.mark.parametrize("name", ["speaker", "attention"])
def test_a_training_step_is_the_same_with_other_padding(name):
    """One step of SGD gives the same weights for a batch and for the batch with more padding."""
    after = []
    for extra in (0, 7):
        aware = layers.mask_aware(zoo.build(name))
        _, batch = a_batch([16, 12], extra=0)
        batch["features"] = np.pad(batch["features"], [(0, 0), (0, extra), (0, 0)])
        aware.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
        aware.train_on_batch(batch, np.ones((2, aware.output_shape[-1]), "float32"))
        after.append([numpy(w) for w in aware.weights])
    for a, b in zip(*after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch has no XLA")
@pytest.mark.parametrize("name", ["m5", "unet", "attention"])
def test_runs_under_jit_compile(name):
    model = zoo.build(name)
    aware = layers.mask_aware(model)
    _, batch = a_batch([16, 12], extra=4, width=model.inputs[0].shape[-1])
    want = numpy(aware(batch))
    aware.compile(optimizer="sgd", loss="mse", jit_compile=True)
    np.testing.assert_allclose(aware.predict_on_batch(batch), want, rtol=1e-4, atol=1e-5)
    assert np.isfinite(aware.train_on_batch(batch, np.zeros(want.shape, "float32")))


@pytest.mark.skipif(not TENSORFLOW, reason="only TensorFlow has ragged tensors")
def test_ragged_batches_feed_fit():
    import tensorflow as tf

    model = zoo.build("squeeze_excite")
    inputs = keras.Input((None, zoo.FEATURES), ragged=True)
    ragged_model = keras.Model(inputs, layers.mask_aware(model)(layers.ToPadded()(inputs)))
    rows, _ = a_batch([16, 12, 5, 9])
    data = tf.data.Dataset.from_tensor_slices(
        (tf.RaggedTensor.from_row_lengths(np.concatenate(rows), [16, 12, 5, 9]), np.zeros((4, 4), "float32"))
    )
    ragged_model.compile(optimizer=keras.optimizers.SGD(1e-3), loss="mse")
    history = ragged_model.fit(data.batch(2), epochs=2, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[1] < history[0]
    alone = numpy(model(rows[2][None]))
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(rows[1:3]), [12, 5])
    np.testing.assert_allclose(numpy(ragged_model(ragged))[1], alone[0], rtol=1e-4, atol=1e-5)


def test_fit_takes_batches_of_changing_length():
    """As make_dataset(..., lengths=True) delivers them: a dict, each batch as long as its longest sequence."""
    aware = layers.mask_aware(zoo.build("squeeze_excite"))
    aware.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")

    def batches():
        for lengths in ([8, 3], [5, 5], [11, 2]):
            yield a_batch(lengths, extra=0)[1], np.zeros((2, 4), "float32")

    assert np.isfinite([aware.train_on_batch(*batch) for batch in batches()]).all()


def weighted_model(heads):
    inputs = keras.Input((None, 4))
    x = keras.layers.Conv1D(4, 3, padding="same")(inputs)
    outputs = {"frames": keras.layers.Dense(3)(x), "clip": keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x))}
    return layers.mask_aware(keras.Model(inputs, outputs if heads == "both" else outputs["frames"]))


@pytest.mark.parametrize("frames", [4, 7])
@pytest.mark.parametrize("heads", ["frames", "both"])
def test_a_weight_for_each_sequence_counts_for_all_its_frames(heads, frames):
    """Keras multiplies losses [B, T] by weights [B]: an error, or, in a batch of as many frames as sequences, along the wrong axis."""
    rng = np.random.default_rng(0)
    lengths, weights = np.array([frames, 2, 3, 1]), np.array([1.0, 2.0, 0.5, 0.0], "float32")
    batch = {"features": rng.normal(size=(4, frames, 4)).astype("float32"), "lengths": lengths}
    labels = {"frames": rng.integers(0, 3, (4, frames)), "clip": rng.integers(0, 3, 4)}
    model = weighted_model(heads)
    loss = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in labels}
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if heads == "both":
        model.compile(keras.optimizers.SGD(0.0), loss, weighted_metrics={"frames": [metric], "clip": []})
    else:
        model.compile(keras.optimizers.SGD(0.0), loss["frames"], weighted_metrics=[metric])
    given = labels if heads == "both" else labels["frames"]
    sample_weight = dict.fromkeys(labels, weights) if heads == "both" else weights
    history = model.fit(batch, given, sample_weight=sample_weight, batch_size=4, verbose=0).history

    y = model(batch)
    y = {name: numpy(part).astype("float64") for name, part in (y if heads == "both" else {"frames": y}).items()}
    losses = {
        name: np.log(np.exp(part).sum(-1)) - np.take_along_axis(part, labels[name][..., None], -1)[..., 0] for name, part in y.items()
    }
    real = np.arange(frames) < lengths[:, None]
    want = (losses["frames"] * real * weights[:, None]).sum() / real.sum()
    if heads == "both":
        want += (losses["clip"] * weights).mean()
    np.testing.assert_allclose(history["loss"][0], want, rtol=1e-5)
    if keras.backend.backend() == "jax":
        return  # Keras' metrics get no mask there, with any weights
    right = (y["frames"].argmax(-1) == labels["frames"]) * real * weights[:, None]
    share = right.sum() / (real * weights[:, None]).sum()
    name = "accuracy" if heads == "frames" else next(key for key in history if "accuracy" in key)
    np.testing.assert_allclose(history[name][0], share, rtol=1e-5)

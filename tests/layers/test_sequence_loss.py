"""Losses of one value for each sequence on outputs with frames: CTC counts neither padded frames nor padded labels."""

import itertools

import keras
import numpy as np
import pytest

import vlpipe
from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers
BACKEND = keras.backend.backend()
rng = np.random.default_rng(0)
X = rng.normal(size=(5, 9, 4)).astype("float32")
LENGTHS = np.array([9, 5, 7, 2, 0], "int32")
LABELS = np.array([[1, 2, 2], [3, -1, -1], [4, 1, -1], [1, 1, 2], [-1, -1, -1]])  # the fourth needs 4 frames and has 1


def recognizer(classes=5, strides=2):
    return keras.Sequential([keras.Input((None, 4)), plain.Conv1D(classes, 3, strides=strides, padding="same", bias_initializer="normal")])


def reference(logits, labels, blank):
    """Minus the log of the sum over all paths of classes, one for each frame, that collapse to the labels."""
    logs = logits.astype("float64")
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        collapsed = [c for c, _ in itertools.groupby(path)]
        if [c for c in collapsed if c != blank] == labels:
            total += np.exp(sum(logs[frame, c] for frame, c in enumerate(path)))
    return -np.log(total) if total else 1000.0


def expected(model, labels, blank):
    counts = layers.output_lengths(model, LENGTHS)
    rows = zip(X, LENGTHS, counts, labels, strict=True)
    return [reference(numpy(model(x[None, : max(n, 1)]))[0][:count], [c for c in row if c != -1], blank) for x, n, count, row in rows]


@pytest.mark.parametrize(("blank", "shift"), [(0, 0), (-1, -1)])
@pytest.mark.parametrize("compiled", [False, True])
def test_each_sequence_has_the_loss_that_it_has_alone(blank, shift, compiled):
    model = recognizer()
    labels = np.where(LABELS < 0, LABELS, LABELS + shift)
    want = expected(model, labels, blank % 5)
    aware = layers.mask_aware(model)
    for extra in (0, 6):
        batch = {"features": np.pad(X, [(0, 0), (0, extra), (0, 0)], constant_values=9), "lengths": LENGTHS}
        aware.compile("sgd", layers.CTC(blank), jit_compile=False if BACKEND == "tensorflow" else "auto")
        if compiled:
            got = aware.evaluate(batch, np.pad(labels, [(0, 0), (0, extra)], constant_values=-1), batch_size=5, verbose=0)
        else:
            got = layers.CTC(blank, reduction=None)(labels, aware(batch))
        np.testing.assert_allclose(numpy(got), np.mean(want) if compiled else want, rtol=1e-4)
    alone = layers.CTC(blank, reduction=None).call(labels[:1], model(X[:1]))  # as vlpipe.evaluate calls it
    np.testing.assert_allclose(numpy(alone), want[:1], rtol=1e-4)


def test_labels_padded_with_the_blank():
    aware = layers.mask_aware(recognizer())
    y = aware({"features": X, "lengths": LENGTHS})
    with_zeros = layers.CTC(label_padding=0)(np.where(LABELS < 0, 0, LABELS), y)
    np.testing.assert_allclose(numpy(with_zeros), numpy(layers.CTC()(LABELS, y)), rtol=1e-6)


def test_a_sequence_without_an_alignment_has_no_gradient():
    """Its frames get no gradient, and those of the others get the same as without it."""
    after = []
    for rows in ([0, 1, 3], [0, 1]):
        keras.utils.set_random_seed(0)
        aware = layers.mask_aware(recognizer())
        aware.compile(keras.optimizers.SGD(0.1), layers.CTC(reduction="sum"))
        aware.train_on_batch({"features": X[rows], "lengths": LENGTHS[rows]}, LABELS[rows])
        after.append(aware.get_weights())
    for with_row, without in zip(*after, strict=True):
        np.testing.assert_allclose(with_row, without, rtol=1e-4, atol=1e-6)


@pytest.fixture
def speech(tmp_path):
    """Recordings that spell their label: a burst of three frames for each of the letters 0 to 2."""
    schema = vlpipe.Schema(features=vlpipe.Sequence(4, "float32"), letters=vlpipe.Sequence((), "int64"))
    with vlpipe.Writer(tmp_path / "speech", schema, num_shards=1) as writer:
        for _ in range(6):
            letters = rng.integers(0, 3, rng.integers(1, 4))
            frames = np.concatenate([np.pad(np.tile(np.eye(4)[c], (3, 1)), [(0, rng.integers(1, 4)), (0, 0)]) for c in letters])
            writer.write({"features": frames.astype("float32"), "letters": letters})
    return tmp_path / "speech"


def test_a_model_learns_from_a_dataset_whose_labels_are_padded(speech):
    keras.utils.set_random_seed(0)
    model = layers.mask_aware(
        keras.Sequential([keras.Input((None, 4)), plain.Conv1D(16, 5, padding="same", activation="relu"), plain.Dense(4)])
    )
    model.compile(keras.optimizers.Adam(0.02), layers.CTC(blank=-1))
    ds = vlpipe.make_dataset(speech, label="letters", batch_size=6, lengths=True, label_padding=-1, seed=1)
    losses = model.fit(ds, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.4 * losses[0]
    (x, y), *_ = ds
    one_by_one = numpy(layers.CTC(blank=-1, reduction=None)(y, model(x)))
    together = vlpipe.evaluate(model, speech, label="letters", batch_size=6, label_padding=-1)["loss"]
    np.testing.assert_allclose(together, np.mean(one_by_one), rtol=1e-3)


@pytest.mark.parametrize("labels", [[[1, 0]], [[1, 5]], [[-1, 1]], [[-2, -1]]])
def test_labels_that_cannot_be_labels_are_refused(labels):
    aware = layers.mask_aware(recognizer())
    batch = {"features": X[:1], "lengths": LENGTHS[:1]}
    with pytest.raises(ArgumentError, match=r'CTC "ctc": expected classes from 0 to 4 except the blank, 0, .* Row 0 has the labels \['):
        layers.CTC()(np.array(labels), aware(batch))
    aware.compile("sgd", layers.CTC(), jit_compile=False if BACKEND == "tensorflow" else "auto")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with pytest.raises(tf.errors.InvalidArgumentError, match="expected classes from 0 to 4"):
            aware.test_on_batch(batch, np.array(labels))
    elif BACKEND == "jax":
        assert np.isnan(aware.test_on_batch(batch, np.array(labels)))


def test_answers_without_a_mask_and_other_shapes_are_refused():
    with pytest.raises(ArgumentError, match=r'CTC "ctc": the answers of shape \(5, 5, 5\) carry no mask.*Compile vlpipe.layers.mask_aware'):
        layers.CTC()(LABELS, recognizer()(X))
    aware = layers.mask_aware(recognizer())
    with pytest.raises(ArgumentError, match=r"labels of shape \(5,\) and answers of shape \(5, 5, 5\); expected \[B, U\]"):
        layers.CTC()(LABELS[:, 0], aware({"features": X, "lengths": LENGTHS}))
    with pytest.raises(NotImplementedError, match=r"SequenceLoss has no method per_sequence\(y_true, y_pred, frames\)\. Define it"):
        layers.SequenceLoss().call(np.ones(5), np.ones((5, 3, 2)))


def test_output_lengths_of_tensors_inside_a_loss():
    """A model of its own may ask for the lengths inside `compute_loss`, where they are tensors of a graph."""

    class Counting(layers.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.sum(keras.ops.cast(layers.output_lengths(self, x["lengths"]), "float32")) + 0 * keras.ops.sum(y_pred)

    inner = layers.mask_aware(recognizer())
    model = Counting(inner.input, inner.output)
    model.compile("sgd", "mse")
    got = model.test_on_batch({"features": X, "lengths": LENGTHS}, np.zeros((5, 5, 5)))
    assert float(got) == layers.output_lengths(inner, LENGTHS).sum() == 5 + 3 + 4 + 1 + 0
    merged = keras.Input((None, 4))
    shorter = keras.Model(merged, plain.Add()([plain.Conv1D(4, 1, strides=2, padding="same")(merged), plain.MaxPooling1D(2)(merged)]))
    tensor = layers.output_lengths(shorter, keras.ops.convert_to_tensor(LENGTHS))
    np.testing.assert_array_equal(numpy(tensor), layers.output_lengths(shorter, LENGTHS))


def test_settings_are_saved():
    loss = keras.losses.deserialize(keras.losses.serialize(layers.CTC(blank=-1, label_padding=9, name="letters")))
    assert (loss.blank, loss.label_padding, loss.name) == (-1, 9, "letters")


def whole(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred), axis=(1, 2))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (keras.losses.CTC(), 'the loss "ctc" gives one value for each sequence, .* Use vlpipe.layers.CTC for keras.losses.CTC'),
        (whole, 'the loss "whole" gives one value for each sequence'),
        (lambda y_true, y_pred: keras.ops.mean(y_pred), 'the loss "lambda" gives one value for the whole batch'),
    ],
)
@pytest.mark.parametrize("rows", [5, 1])
def test_losses_that_count_the_padding_are_refused(loss, message, rows):
    aware = layers.mask_aware(recognizer())
    aware.compile("sgd", loss)
    with pytest.raises(ArgumentError, match=rf'Model "{aware.name}": {message}'):
        aware.fit({"features": X[:rows], "lengths": LENGTHS[:rows]}, np.ones((rows, 2), "int32"), verbose=0)


def test_answers_of_two_axes_need_a_third_for_a_loss_per_frame():
    inputs = keras.Input((None, 4))
    flat = layers.mask_aware(keras.Model(inputs, plain.Dense(1)(inputs)[:, :, 0]))
    last = layers.mask_aware(keras.Model(inputs, plain.Dense(1)(inputs)))
    batch, targets = {"features": X, "lengths": LENGTHS}, np.zeros(X.shape[:2], "float32")
    flat.compile("sgd", "mse")
    with pytest.raises(ArgumentError, match=r"keep a last axis, \[B, T, 1\], of answers and labels \[B, T\]"):
        flat.test_on_batch(batch, targets)
    last.compile("sgd", "mse")
    assert np.isfinite(last.test_on_batch(batch, targets[..., None]))


def test_a_loss_of_whole_sequences():
    class SquaredMean(layers.SequenceLoss):
        def per_sequence(self, y_true, y_pred, frames):
            return keras.ops.square(
                keras.ops.sum(y_pred[:, :, 0], axis=1) / keras.ops.cast(keras.ops.maximum(frames, 1), "float32") - y_true
            )

    model = recognizer()
    aware = layers.mask_aware(model)
    aware.compile("sgd", SquaredMean())
    got = aware.test_on_batch({"features": X[:4], "lengths": LENGTHS[:4]}, np.ones(4, "float32"))
    means = [numpy(model(x[None, :n]))[0, :, 0].mean() for x, n in zip(X[:4], LENGTHS[:4], strict=True)]
    np.testing.assert_allclose(got, np.mean((np.array(means) - 1) ** 2), rtol=1e-4)

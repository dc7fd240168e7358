"""`mask_aware` on a zoo of models: padding never changes the output, and weights are shared."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers import zoo
from tests.layers.layers_tools import few, gradients, numpy
from vlpipe import layers

# Keras warns about a softmax over a single frame, which the plain model computes for a short sequence.
ONE_FRAME = pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning")
pytestmark = [ONE_FRAME, pytest.mark.parametrize("name", zoo.ZOO)]

DRAWS = st.builds(zoo.Draw, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.sampled_from(["same", "valid"]))


def features(model):
    return model.inputs[0].shape[-1]


def lengths_for(name, model, extra):
    """Return lengths from the shortest one that gives every layer a frame, so that the plain model runs too."""
    step, shortest = zoo.TOTAL_STRIDE.get(name, 1), layers.check_model(model).shortest
    return [step * (-(-shortest // step) + more) for more in extra]


@few(3)
@given(DRAWS, st.lists(st.integers(0, 40), min_size=2, max_size=2), st.integers(1, 20))
def test_padding_never_changes_the_output(name, draw, extra, padding):
    model = zoo.build(name, draw)
    lengths = lengths_for(name, model, extra)
    padding = zoo.TOTAL_STRIDE.get(name, 1) * padding
    aware = layers.mask_aware(model)
    layers.assert_padding_invariant(aware, features(model), lengths=lengths, padding=[padding], tolerance=1e-5)
    assert layers.check_model(aware).ok
    x = np.random.default_rng(1).normal(size=(1, lengths[0], features(model))).astype("float32")
    alone, theirs = numpy(aware({"features": x, "lengths": np.array(lengths[:1])})), numpy(model(x))
    assert np.max(np.abs(alone - theirs)) <= 1e-6 * np.max(np.abs(theirs))


def test_without_mask_aware_the_check_fails(name):
    model = zoo.build(name)
    lengths = lengths_for(name, model, (3, 20))
    with pytest.raises(
        AssertionError, match=r"the output differs by .* of its largest value from that of the sequence alone; tolerance=1e-05"
    ):
        layers.assert_padding_invariant(model, features(model), lengths=lengths, padding=[8])
    assert not layers.check_model(model).ok


def test_too_short_and_empty_sequences_have_a_finite_output(name):
    model = zoo.build(name, zoo.Draw(padding="valid"))
    aware = layers.mask_aware(model)
    lengths = [0, 1, 2] if name not in zoo.TOTAL_STRIDE else [0, 4]
    layers.assert_padding_invariant(aware, features(model), lengths=[n for n in lengths if n], padding=[4, 12])
    y = numpy(aware({"features": np.ones((len(lengths), 12, features(model)), "float32"), "lengths": np.array(lengths)}))
    assert np.isfinite(y).all()


def test_weights_are_shared(name):
    model = zoo.build(name)
    aware = layers.mask_aware(model)
    assert {id(w) for w in aware.weights} == {id(w) for w in model.weights}
    assert len(aware.trainable_weights) == len(model.trainable_weights)


def test_saves_and_loads_without_custom_objects(name, tmp_path):
    aware = layers.mask_aware(zoo.build(name))
    batch = {"features": np.ones((2, 24, features(zoo.ZOO[name](zoo.Draw()))), "float32"), "lengths": np.array([24, 12])}
    aware.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(batch)), numpy(aware(batch)))
    assert layers.check_model(loaded).ok


def test_gradients_are_the_sum_over_single_sequences(name):
    """In training mode if rows are independent, otherwise (batch normalization, dropout) in inference mode."""
    model = zoo.build(name)
    aware = layers.mask_aware(model)
    lengths = lengths_for(name, model, (2, 9))
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, features(model))).astype("float32") for n in lengths]
    training = name in ("unet", "attention")

    def loss(y):  # counts only the real frames of a padded row
        if len(y.shape) == 2:
            return keras.ops.sum(keras.ops.square(y - 0.3))
        real = keras.ops.convert_to_tensor(layers.sample_weight(aware, lengths_now, frames=y.shape[1]))
        return keras.ops.sum(keras.ops.square(y - 0.3) * real[..., None])

    total = 0
    for row in rows:
        lengths_now = np.array([len(row)])
        single = gradients(aware, {"features": row[None], "lengths": lengths_now}, loss, training)
        total = single if total == 0 else [a + b for a, b in zip(total, single, strict=True)]
    lengths_now = np.array(lengths)
    x = 9 * rng.normal(size=(len(rows), max(lengths) + 5, features(model))).astype("float32")
    x = x[:, : max(lengths) + (4 if name in zoo.TOTAL_STRIDE else 5)]
    for b, row in enumerate(rows):
        x[b, : len(row)] = row
    batch = gradients(aware, {"features": x, "lengths": lengths_now}, loss, training)
    assert any(np.any(g) for g in batch)
    scale = max(np.max(np.abs(g)) for g in total)
    for got, want in zip(batch, total, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * scale)

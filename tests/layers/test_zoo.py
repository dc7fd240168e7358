"""`mask_aware` on a zoo of models: padding never changes the output, and weights are shared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers import zoo
from tests.layers.layers_tools import few, numpy
from vlpipe import layers

# Keras warns about a softmax over a single frame, which the plain model computes for a short sequence.
ONE_FRAME = pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning")
pytestmark = [ONE_FRAME, pytest.mark.parametrize("name", zoo.ZOO)]

DRAWS = st.builds(zoo.Draw, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.sampled_from(["same", "valid"]))


QUICK = ("compiled", "gradients", "saved")


def features(model):
    return model.inputs[0].shape[-1]


def lengths_for(name, model, extra):
    """Return lengths from the shortest one that gives every layer a frame, so that the plain model runs too."""
    step, shortest = zoo.TOTAL_STRIDE.get(name, 1), layers.check_model(model).shortest
    return [step * (-(-shortest // step) + more) for more in extra]


@few(2)
@given(DRAWS, st.lists(st.integers(0, 40), min_size=2, max_size=2), st.integers(1, 20))
def test_padding_never_changes_the_output(name, draw, extra, padding):
    model = zoo.build(name, draw)
    lengths = lengths_for(name, model, extra)
    padding = zoo.TOTAL_STRIDE.get(name, 1) * padding
    aware = layers.mask_aware(model)
    layers.assert_padding_invariant(aware, features(model), lengths=lengths, padding=[padding], skip=QUICK)
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
        layers.assert_padding_invariant(model, features(model), lengths=lengths, padding=[8], skip=QUICK)
    assert not layers.check_model(model).ok


def test_too_short_and_empty_sequences_have_a_finite_output(name):
    model = zoo.build(name, zoo.Draw(padding="valid"))
    aware = layers.mask_aware(model)
    lengths = [0, 1, 2] if name not in zoo.TOTAL_STRIDE else [0, 4]
    layers.assert_padding_invariant(aware, features(model), lengths=[n for n in lengths if n], padding=[4, 12], skip=QUICK)
    y = numpy(aware({"features": np.ones((len(lengths), 12, features(model)), "float32"), "lengths": np.array(lengths)}))
    assert np.isfinite(y).all()


def test_weights_are_shared(name):
    model = zoo.build(name)
    aware = layers.mask_aware(model)
    assert {id(w) for w in aware.weights} == {id(w) for w in model.weights}
    assert len(aware.trainable_weights) == len(model.trainable_weights)


def test_the_whole_contract(name):
    """Gradients that are the sum over single sequences, XLA, saving and loading, garbage beside."""
    model = zoo.build(name)
    aware = layers.mask_aware(model)
    lengths = lengths_for(name, model, (0, 9))
    # XLA takes seconds: tests/layers/test_training.py compiles three models, and tests/layers/test_contract.py each kind of layer.
    skip = [] if name in ("xvector", "spectrogram") else ["compiled"]
    layers.assert_padding_invariant(aware, lengths=lengths, padding=[4], plain=model, skip=skip)

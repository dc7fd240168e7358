"""`assert_padding_invariant` by itself tries lengths that leave padding for the layers behind long strides and long windows."""

import keras
import numpy as np
import pytest
from keras import ops

from vlpipe import layers
from vlpipe.layers import testing
from vlpipe.layers.testing import LENGTHS, assert_padding_invariant, default_lengths

plain = keras.layers
FEWER = 1 if keras.backend.backend() == "jax" else 2  # JAX compiles anew for each length
QUICK = {"padding": (5,), "skip": ("compiled", "gradients", "saved")}


def squeeze_excite_network(padding, stages=3, per_frame=True):
    """A small SE-ResNet: stages of stride 4, zeros before `valid` windows, and a gate for each sequence in the last stage."""
    x = inputs = keras.Input((None, 3))
    for _ in range(stages):
        if padding == "zeros":
            x = plain.ZeroPadding1D(2)(x)
        x = plain.Conv1D(4, 5, strides=4, padding="valid" if padding == "zeros" else padding, activation="tanh")(x)
    gate = plain.GlobalAveragePooling1D()(x)
    gate = plain.Conv1D(4, 1, activation="sigmoid")(ops.expand_dims(gate, 1))
    x = plain.Add()([plain.Multiply()([x, gate]), plain.Conv1D(4, 1)(x)])
    return keras.Model(inputs, x if per_frame else plain.GlobalMaxPooling1D()(x))


class Leaky(layers.Reduction, plain.Layer):
    """The mean over all frames, padding too: a planted fault."""

    def call(self, inputs, mask=None):
        return ops.mean(ops.where(mask[..., None], inputs, 0.0) if mask is not None else inputs, axis=1)


@pytest.mark.parametrize(("padding", "per_frame"), [("zeros", True), ("same", False)][:FEWER])
def test_a_fault_behind_strides_is_found(padding, per_frame, monkeypatch):
    monkeypatch.setattr(testing, "LENGTHS", LENGTHS[-2:])
    model = squeeze_excite_network(padding, per_frame=per_frame)
    aware = layers.mask_aware(model)
    assert_padding_invariant(aware, plain=model, **QUICK)
    monkeypatch.setattr(layers.GlobalAveragePooling1D, "call", Leaky.call)
    assert_padding_invariant(aware, lengths=testing.LENGTHS, **QUICK)  # the lengths that were tried before show nothing
    with pytest.raises(AssertionError, match="the output differs by"):
        assert_padding_invariant(aware, **QUICK)


def test_which_lengths():
    """One that leaves each layer two frames, and one that leaves it four and some over; none for layers that never have four."""
    inputs = keras.Input((None, 3))
    assert default_lengths(keras.Model(inputs, plain.Conv1D(4, 3, padding="same")(inputs))) == LENGTHS
    assert default_lengths(squeeze_excite_network("same")) == (*LENGTHS, 65, 225)
    assert default_lengths(keras.Model(inputs, plain.Conv1D(4, 50)(inputs))) == (*LENGTHS, 51, 53)
    assert default_lengths(keras.Model(inputs, plain.Conv1D(4, 3)(inputs[:, :3]))) == LENGTHS

    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    assert default_lengths(Subclassed()) == LENGTHS


@pytest.mark.parametrize("stages", [5, 3][:FEWER])
def test_an_answer_of_one_frame_beside_a_longer_one(stages):
    """A row of one output frame beside rows of two and of four; in float64 where a backend has it, because rounding hides nothing there."""
    policy = keras.config.dtype_policy()
    dtype, tolerance = ("float32", 1e-5) if keras.backend.backend() == "jax" else ("float64", 1e-12)
    keras.config.set_dtype_policy(dtype)
    try:
        model = squeeze_excite_network("zeros", stages)
        aware = layers.mask_aware(model)
    finally:
        keras.config.set_dtype_policy(policy)
    stride = 4**stages
    lengths = np.array([stride, stride + stride // 2, 3 * stride + 1, stride - 1])
    x = np.full((4, 4 * stride, 3), np.nan, dtype)
    for row, n in enumerate(lengths):
        x[row, :n] = np.random.default_rng(n).normal(size=(n, 3))
    counts = layers.output_lengths(aware, lengths)
    together = ops.convert_to_numpy(aware({"features": x, "lengths": lengths}))
    for row, n in enumerate(lengths):
        want = ops.convert_to_numpy(model(x[row : row + 1, :n]))[0]
        assert want.shape == (counts[row], 4)
        np.testing.assert_allclose(together[row, : counts[row]], want, rtol=tolerance, atol=tolerance)
    assert counts.tolist() == [1, 2, 4, 1]

"""Helpers shared by the tests of the layers."""

from __future__ import annotations

import os

import keras
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

WIDTH = 3
LENGTHS = st.lists(st.integers(0, 14), min_size=1, max_size=5)
EXTRA = st.integers(0, 5)

numpy = keras.ops.convert_to_numpy


SWEEP = int(os.environ.get("VLPIPE_SWEEP", "1"))  # factor on the number of hypothesis examples; raise it for a longer run by hand


def few(examples):
    """Limit hypothesis to this many examples; to a tenth on JAX, which compiles every operation for every shape."""
    fewer = max(examples // 10, 1) if keras.backend.backend() == "jax" else examples
    return settings(max_examples=SWEEP * fewer, deadline=None)


@keras.saving.register_keras_serializable(package="vlpipe-tests")
class ExtractMask(keras.layers.Layer):
    """Return the mask of the input as a tensor."""

    def call(self, inputs, mask=None):
        return mask

    def compute_mask(self, inputs, mask=None):
        return None


def padded(lengths, extra=0, seed=0):
    """Return random sequences and a batch of them, padded with noise."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(n, WIDTH)).astype("float32") for n in lengths]
    x = rng.normal(size=(len(rows), max([*lengths, 1]) + extra, WIDTH)).astype("float32") * 9
    for b, row in enumerate(rows):
        x[b, : len(row)] = row
    return rows, {"features": x, "lengths": np.array(lengths, "int32")}


def gradients(model, batch, loss, training):
    """Return the gradient of `loss(model(batch))` for each trainable weight, without changing the model, on any backend."""
    backend = keras.backend.backend()
    weights = model.trainable_variables
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(model(batch, training=training))
        values = tape.gradient(value, [w.value for w in weights])
    elif backend == "jax":
        import jax

        def pure(trainable):
            y, _ = model.stateless_call(trainable, [w.value for w in model.non_trainable_variables], batch, training=training)
            return loss(y)

        values = jax.grad(pure)([w.value for w in weights])
    else:
        for w in weights:
            w.value.grad = None
        loss(model(batch, training=training)).backward()
        values = [w.value.grad for w in weights]
    return [np.zeros(tuple(w.shape)) if g is None else numpy(keras.ops.convert_to_tensor(g)) for w, g in zip(weights, values, strict=True)]

"""What the networks of this folder share: blocks, the kinds of their inputs, and the list that they enter by `@network`."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

FEATURES = 8
TOKENS = 30
INPUTS = {"frames": (FEATURES,), "waveform": (1,), "spectrogram": (FEATURES, 1), "tokens": ()}
NETWORKS = {}


def network(origin, takes="frames", frames=None):
    """Enter a function of the input into `NETWORKS` under its name: where it was published, the kind of input, frames if they are fixed."""

    def enter(body):
        NETWORKS[body.__name__.replace("_", "-")] = (origin, takes, lambda: made(body, takes, frames))
        return body

    return enter


def made(body, takes, frames):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((frames, *INPUTS[takes]), dtype="int32" if takes == "tokens" else "float32")
    return randomized(keras.Model(inputs, body(inputs)))


def randomized(model, seed=0):
    """Return the model with random biases, scales and statistics: zeros would hide leaks."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("bias", "beta", "mean")):
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def conv(x, width, kernel, **options):
    return layers.Conv1D(width, kernel, padding="same", **options)(x)


def normed(x, width, kernel, activation="relu", **options):
    return layers.Activation(activation)(layers.BatchNormalization()(conv(x, width, kernel, **options)))


def plane(x, width, kernel, activation="relu", padding="same", **options):
    x = layers.Conv2D(width, kernel, padding=padding, use_bias=False, **options)(x)
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def squeeze_excite(x, width, keepdims=True):
    gate = layers.Dense(width // 4, activation="relu")(layers.GlobalAveragePooling1D(keepdims=keepdims)(x))
    return layers.Multiply()([x, layers.Dense(width, activation="sigmoid")(gate)])


def feed_forward(x, width, activation="relu"):
    return layers.Dense(x.shape[-1])(layers.Dense(width, activation=activation)(x))


def self_attention(x, heads=2, **options):
    return layers.MultiHeadAttention(heads, x.shape[-1] // heads)(x, x, **options)


def encoder_block(x, activation="gelu", **options):
    """A Transformer block with normalization first."""
    x = layers.Add()([x, self_attention(layers.LayerNormalization()(x), **options)])
    return layers.Add()([x, feed_forward(layers.LayerNormalization()(x), 2 * x.shape[-1], activation)])


def averaged(x, classes=5):
    return layers.Dense(classes)(layers.GlobalAveragePooling1D()(x))


def flat(x):
    """[B, T, F, C] as frames of F * C features."""
    return layers.Reshape((-1, x.shape[2] * x.shape[3]))(x)


def attentive_mean(x):
    weights = ops.softmax(layers.Dense(1)(layers.Dense(8, activation="tanh")(x)), axis=1)
    return ops.sum(weights * x, axis=1)


class Positions(layers.Layer):
    """Adds sines of the number of the frame, as a layer that nobody at vlpipe wrote."""

    def call(self, inputs):
        frame = ops.expand_dims(ops.arange(ops.shape(inputs)[1], dtype="float32"), 1)
        wave = frame * ops.convert_to_tensor(0.5 ** np.arange(inputs.shape[-1], dtype="float32"))
        return inputs + ops.sin(wave)

    def compute_output_shape(self, input_shape):
        return input_shape

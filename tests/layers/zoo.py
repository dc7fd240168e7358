"""Small models of the kinds used for sequences, with sizes that hypothesis draws.

Each function takes a `Draw` and returns a built Keras model of ordinary layers. Weights, moving statistics and biases are
random: with zero biases, many leaks would not show.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

FEATURES = 5
# Of an average of two frames: `mask_aware` refuses "same" on PyTorch, where Keras repeats the last frame.
UNEVEN = "valid" if keras.backend.backend() == "torch" else "same"


@dataclass(frozen=True)
class Draw:
    kernel: int = 3
    stride: int = 2
    dilation: int = 2
    padding: str = "same"
    width: int = 8


def sequence(features=FEATURES):
    return keras.Input((None, features))


def wav2letter(d):
    """Letters per frame: a strided convolution, then convolutions of growing size."""
    blocks = [layers.Conv1D(d.width, d.kernel + grow, padding=d.padding, activation="relu") for grow in (0, 2)]
    first = layers.Conv1D(d.width, d.kernel, strides=d.stride, padding=d.padding, activation="relu")
    return keras.Sequential([sequence(), first, *blocks, layers.Dropout(0.1), layers.Conv1D(6, 1)])


def tcn(d):
    """Causal dilated residual blocks, averaged over time."""
    x = inputs = sequence()
    x = layers.Conv1D(d.width, 1)(x)
    for level in range(3):
        y = layers.Conv1D(d.width, d.kernel, dilation_rate=d.dilation**level, padding="causal", activation="relu")(x)
        y = layers.SpatialDropout1D(0.1)(y)
        y = layers.Conv1D(d.width, d.kernel, dilation_rate=d.dilation**level, padding="causal")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))))


def xvector(d):
    """Dilated TDNN, then mean and standard deviation over time written with keras.ops."""
    x = inputs = sequence()
    for dilation in (1, d.dilation, d.dilation + 1):
        x = layers.Conv1D(d.width, d.kernel, dilation_rate=dilation, padding=d.padding, activation="relu")(x)
        x = layers.BatchNormalization()(x)
    mean = ops.mean(x, axis=1, keepdims=True)
    spread = ops.sqrt(ops.mean(ops.square(x - mean), axis=1) + 1e-3)
    x = layers.Concatenate()([ops.squeeze(mean, axis=1), spread])
    return keras.Model(inputs, layers.Dense(4)(layers.Dense(d.width, activation="relu")(x)))


def speaker(d):
    """Residual blocks with a strided shortcut, and an embedding."""
    x = inputs = sequence()
    for stride in (1, d.stride):
        y = layers.Conv1D(d.width, d.kernel, strides=stride, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv1D(d.width, d.kernel, padding="same")(y))
        x = layers.ReLU()(layers.Add()([y, layers.Conv1D(d.width, 1, strides=stride, padding="same")(x)]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.UnitNormalization()(layers.Dense(6)(x)))


def mobilenet(d):
    """Separable convolutions with strides."""
    stack = [sequence(), layers.Conv1D(d.width, d.kernel, strides=d.stride, padding=d.padding)]
    for stride in (1, d.stride):
        stack += [
            layers.DepthwiseConv1D(d.kernel, strides=stride, padding=d.padding),
            layers.BatchNormalization(),
            layers.ReLU(max_value=6),
        ]
        stack += [layers.SeparableConv1D(d.width, d.kernel, padding=d.padding), layers.GroupNormalization(2), layers.Activation("relu")]
    return keras.Sequential([*stack, layers.GlobalMaxPooling1D(), layers.Dense(4)])


def m5(d):
    """Raw waveform: a long first kernel with a long stride, then alternating batch normalization, pooling and convolution."""
    stack = [sequence(1), layers.Conv1D(d.width, 8 * d.kernel, strides=4, padding=d.padding)]
    for _ in range(2):
        stack += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling1D(d.stride, padding=d.padding)]
        stack += [layers.Conv1D(d.width, d.kernel, padding="same")]
    return keras.Sequential([*stack, layers.AveragePooling1D(2, padding=UNEVEN), layers.GlobalAveragePooling1D(), layers.Dense(4)])


def squeeze_excite(d):
    """A residual network whose blocks are gated by the mean over the whole sequence."""
    x = inputs = sequence()
    x = layers.ZeroPadding1D(d.kernel // 2)(layers.Conv1D(d.width, d.kernel, padding="same")(x))
    for _ in range(2):
        y = layers.BatchNormalization()(layers.Conv1D(d.width, d.kernel, padding="same", activation="relu")(x))
        gate = layers.Dense(d.width, activation="sigmoid")(layers.Dense(4, activation="relu")(layers.GlobalAveragePooling1D()(y)))
        y = layers.Multiply()([y, layers.Reshape((1, d.width))(gate)])
        x = ops.relu(x + y)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalMaxPooling1D()(x)))


def crnn(d):
    """Convolution and pooling in a nested model, then recurrence in both directions."""
    front = [sequence(), layers.Conv1D(d.width, d.kernel, padding="same", activation="relu"), layers.MaxPooling1D(d.stride, padding="same")]
    front = keras.Sequential([*front, layers.BatchNormalization()])
    x = inputs = sequence()
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(front(x))
    x = layers.LSTM(4)(layers.Dropout(0.1)(x))
    return keras.Model(inputs, layers.Dense(4)(x))


def unet(d):
    """Output per frame: halve the frames twice, double them by transposed convolution and by repetition, with skip connections."""
    x = inputs = sequence()
    skips = []
    for _ in range(2):
        x = layers.Conv1D(d.width, d.kernel, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.Conv1D(d.width, max(d.kernel, 2), strides=2, padding="same", activation="relu")(x)
    x = layers.Conv1D(d.width, d.kernel, padding="same", activation="relu")(x)
    x = layers.Conv1DTranspose(d.width, d.kernel + 1, strides=2, padding="same")(x)
    x = layers.Conv1D(d.width, d.kernel, padding="same", activation="relu")(layers.Concatenate()([x, skips[1]]))
    x = layers.Concatenate()([layers.UpSampling1D(2)(x), skips[0]])
    return keras.Model(inputs, layers.Conv1D(3, 1)(layers.Cropping1D((1, 1))(layers.ZeroPadding1D(1)(x))))


def spectrogram(d):
    """Two-dimensional convolutions over frames and bins, then the last frame, the deviation and the mean."""
    inputs = sequence()
    x = layers.Reshape((-1, FEATURES, 1))(inputs)
    x = layers.Conv2D(d.width, (d.kernel, 3), strides=(d.stride, 1), padding=d.padding)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D((d.kernel, 1), padding="same")(layers.MaxPooling2D((d.stride, 1), padding=d.padding)(x))
    x = layers.AveragePooling2D((2, 2), padding=UNEVEN)(layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x))
    frames = layers.Reshape((-1, x.shape[2] * x.shape[3]))(x)
    x = layers.Concatenate()([frames[:, -1], ops.std(frames, axis=1), layers.GlobalAveragePooling2D()(x)])
    return keras.Model(inputs, layers.Dense(4)(x))


def attention(d):
    """Self-attention, then attention pooling: a softmax over time and a weighted sum."""
    x = inputs = sequence()
    x = layers.Conv1D(d.width, d.kernel, strides=d.stride, padding=d.padding, activation="relu")(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    weights = layers.Softmax(axis=1)(layers.Dense(1)(layers.Dense(4, activation="tanh")(x)))
    first = ops.sum(weights * x, axis=1)
    second = layers.Flatten()(layers.Dot(axes=1)([weights, x]))
    return keras.Model(inputs, layers.Dense(4)(layers.Concatenate()([first, second])))


ZOO = {
    model.__name__: model
    for model in (wav2letter, tcn, xvector, speaker, mobilenet, m5, squeeze_excite, crnn, unet, attention, spectrogram)
}
TOTAL_STRIDE = {"unet": 4}  # lengths must be multiples of it
PER_FRAME = ("wav2letter", "unet")


def build(name, draw=Draw(), seed=0):
    """Return the model with random weights, chosen so that every layer affects the output."""
    keras.utils.set_random_seed(seed)
    model = ZOO[name](draw)
    rng = np.random.default_rng(seed)
    values = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        if len(shape) > 1 or "seed" in variable.path:
            values.append(keras.ops.convert_to_numpy(variable))
        else:  # biases, scales and moving statistics; a variance must be positive
            values.append(np.abs(rng.normal(0.8, 0.3, shape)) + 0.1)
    model.set_weights(values)
    return model

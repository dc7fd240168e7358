"""Networks for waveforms, music and the sounds around us, small ones of the architecture of each paper."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops

from benchmarks.networks.parts import attentive_mean, averaged, conv, encoder_block, flat, network, normed, plane


def waveform_stack(x, depths, pool=4):
    """Dai et al.: a long first kernel, then blocks of convolutions and a pooling after each."""
    x = layers.MaxPooling1D(pool, padding="same")(normed(x, 8, 40, strides=4))
    for depth in depths:
        for _ in range(depth):
            x = normed(x, 8, 3)
        x = layers.MaxPooling1D(pool, padding="same")(x)
    return layers.Dense(5)(layers.GlobalAveragePooling1D()(x))


@network("Dai et al. 2017", "waveform")
def m5(x):
    return waveform_stack(x, (1, 1))


@network("Dai et al. 2017", "waveform")
def m11(x):
    return waveform_stack(x, (2, 2, 3, 2), pool=2)


@network("Dai et al. 2017", "waveform")
def m18(x):
    return waveform_stack(x, (4, 4, 4, 4), pool=2)


@network("Lee et al. 2017", "waveform")
def sample_cnn(x):
    """Strides and pools of three samples all the way."""
    x = normed(x, 8, 3, strides=3)
    for _ in range(3):
        x = layers.MaxPooling1D(3)(normed(x, 8, 3))
    return layers.Dense(5)(layers.GlobalMaxPooling1D()(x))


@network("Tokozume and Harada 2017", "waveform")
def env_net(x):
    """What a convolution finds in the waveform is an image for two-dimensional ones."""
    x = layers.MaxPooling1D(4)(normed(normed(x, 8, 8), 8, 8))
    x = layers.Reshape((-1, 8, 1))(x)
    x = layers.MaxPooling2D((3, 2))(plane(x, 6, (8, 3), padding="valid"))
    return layers.Dense(5)(layers.GlobalMaxPooling2D()(x))


class Sinc(layers.Layer):
    """A bank of band-pass filters whose edges are learned, as in SincNet."""

    def __init__(self, filters, size, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride = filters, size, stride

    def build(self, shape):
        low = keras.initializers.Constant(np.linspace(0.01, 0.3, self.filters))
        self.low = self.add_weight(shape=(self.filters,), initializer=low, name="low")
        self.band = self.add_weight(shape=(self.filters,), initializer=keras.initializers.Constant(0.05), name="band")

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "size": self.size, "stride": self.stride}

    def call(self, inputs):
        times = ops.convert_to_tensor(np.arange(self.size, dtype="float32")[:, None] - (self.size - 1) / 2 + 1e-4)
        edges = [ops.abs(self.low), ops.abs(self.low) + ops.abs(self.band)]
        lower, upper = (ops.sin(2 * math.pi * times * edge) / (math.pi * times) for edge in edges)
        window = ops.convert_to_tensor(np.hamming(self.size).astype("float32")[:, None])
        kernel = ops.expand_dims((upper - lower) * window, 1)
        return self.convolved(inputs, kernel)

    def convolved(self, inputs, kernel):
        return ops.conv(inputs, kernel, strides=self.stride, padding="valid")


def behind_filters(x):
    """Absolute values, pooling, and layer normalization, as in SincNet."""
    x = layers.LayerNormalization()(layers.MaxPooling1D(3)(ops.abs(x)))
    x = layers.LeakyReLU()(layers.LayerNormalization()(layers.MaxPooling1D(3)(layers.Conv1D(12, 5)(x))))
    return averaged(x)


@network("Ravanelli and Bengio 2018", "waveform")
def sinc_net(x):
    """Learned band-pass filters in a layer of the author's own."""
    return behind_filters(Sinc(8, 31)(x))


class TensorFlowSinc(Sinc):
    """The same filters applied by a function of TensorFlow, which cannot be called on the symbolic tensors of Keras."""

    def convolved(self, inputs, kernel):
        import tensorflow as tf

        return tf.nn.conv1d(inputs, kernel, self.stride, "VALID")


if keras.backend.backend() == "tensorflow":

    @network("Ravanelli and Bengio 2018, with `layers={TensorFlowSinc: AwareSinc}`", "waveform")
    def sinc_net_in_tensorflow(x):
        return behind_filters(TensorFlowSinc(8, 31)(x))


@network("Jung et al. 2020", "waveform")
def raw_net_2(x):
    """Residual blocks whose maps are scaled by a gate from their means, then a GRU."""
    x = layers.MaxPooling1D(3)(normed(x, 8, 9, "leaky_relu"))
    for _ in range(2):
        y = conv(normed(layers.LeakyReLU()(layers.BatchNormalization()(x)), 8, 3, "leaky_relu"), 8, 3)
        y = layers.MaxPooling1D(3)(layers.Add()([x, y]))
        scale = layers.Reshape((1, 8))(layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling1D()(y)))
        x = y * scale + scale
    return layers.Dense(6)(layers.GRU(8)(layers.LeakyReLU()(layers.BatchNormalization()(x))))


@network("Stoller et al. 2018")
def wave_u_net(x):
    """Decimate, double by repetition, join the skip connections."""
    skips = []
    for _ in range(3):
        x = conv(x, 12, 15, activation="leaky_relu")
        skips.append(x)
        x = x[:, ::2]
    for skip in reversed(skips):
        x = conv(layers.Concatenate()([layers.UpSampling1D(2)(conv(x, 12, 15)), skip]), 12, 5, activation="leaky_relu")
    return layers.Conv1D(2, 1, activation="tanh")(x)


@network("Luo and Mesgarani 2019", "waveform")
def conv_tasnet(x):
    """Encoder, masks from dilated blocks with global layer normalization, decoder by transposed convolution."""
    encoded = layers.Conv1D(12, 16, strides=8, padding="same", activation="relu")(x)
    y = layers.Conv1D(8, 1)(layers.GroupNormalization(1)(encoded))
    for dilation in (1, 2, 4):
        z = layers.GroupNormalization(1)(layers.PReLU(shared_axes=[1])(layers.Conv1D(16, 1)(y)))
        z = layers.PReLU(shared_axes=[1])(layers.DepthwiseConv1D(3, dilation_rate=dilation, padding="same")(z))
        y = y + layers.Conv1D(8, 1)(layers.GroupNormalization(1)(z))
    sources = encoded * layers.Conv1D(12, 1, activation="sigmoid")(y)
    return layers.Conv1DTranspose(1, 16, strides=8, padding="same")(sources)


@network("Luo et al. 2020")
def dual_path_rnn(x):
    """Recurrence inside chunks of ten frames, then across the chunks."""
    x = layers.Reshape((-1, 10, 8))(x)
    x = x + layers.TimeDistributed(layers.Bidirectional(layers.LSTM(4, return_sequences=True)))(x)
    y = layers.TimeDistributed(layers.LSTM(8, return_sequences=True))(layers.Permute((2, 1, 3))(x))
    return layers.Reshape((-1, 8))(x + layers.Permute((2, 1, 3))(y))


@network("Prenger et al. 2019", "waveform")
def wave_glow(x):
    """An affine coupling: half of the channels scale and shift the others, by gated convolutions."""
    x = layers.Dense(8, use_bias=False)(layers.Reshape((-1, 8))(x))
    first, second = ops.split(x, 2, axis=-1)
    y = layers.Dense(8)(first)
    for dilation in (1, 2, 4):
        z = conv(y, 16, 3, dilation_rate=dilation)
        y = y + layers.Conv1D(8, 1)(ops.tanh(z[..., :8]) * ops.sigmoid(z[..., 8:]))
    scale, shift = ops.split(layers.Dense(8)(y), 2, axis=-1)
    return ops.concatenate([first, ops.exp(0.1 * scale) * second + shift], axis=-1)


@network("Kong et al. 2020a")
def hifi_gan(x):
    """Transposed convolutions, each followed by residual blocks of several kernels."""
    x = conv(x, 16, 7)
    for width in (12, 8):
        x = layers.Conv1DTranspose(width, 8, strides=4, padding="same")(layers.LeakyReLU()(x))
        parts = []
        for kernel in (3, 7):
            y = x
            for dilation in (1, 3):
                y = y + conv(layers.LeakyReLU()(y), width, kernel, dilation_rate=dilation)
            parts.append(y)
        x = layers.Average()(parts)
    return conv(layers.LeakyReLU()(x), 1, 7, activation="tanh")


@network("Kumar et al. 2019", "waveform")
def mel_gan_discriminator(x):
    """Grouped strided convolutions, a verdict for each stretch."""
    x = conv(x, 8, 15, activation="leaky_relu")
    for width in (16, 32):
        x = layers.Conv1D(width, 21, strides=4, groups=4, padding="same", activation="leaky_relu")(x)
    return conv(conv(x, 16, 5, activation="leaky_relu"), 1, 3)


@network("Defossez et al. 2022", "waveform")
def encodec_encoder(x):
    """Causal strided convolutions with ELU, then an LSTM with a residual connection."""
    x = layers.Conv1D(6, 7, padding="causal")(x)
    for width, stride in ((8, 2), (12, 4)):
        y = layers.Conv1D(x.shape[-1], 3, padding="causal")(layers.ELU()(x))
        x = x + layers.Conv1D(x.shape[-1], 1)(layers.ELU()(y))
        x = layers.Conv1D(width, 2 * stride, strides=stride, padding="causal")(layers.ELU()(x))
    return layers.Conv1D(8, 7, padding="causal")(x + layers.LSTM(12, return_sequences=True)(x))


@network("an autoencoder that removes noise")
def denoising_autoencoder(x):
    for width in (12, 16):
        x = normed(x, width, 5, strides=2)
    for width in (12, 8):
        x = layers.Conv1DTranspose(width, 4, strides=2, padding="same", activation="relu")(x)
    return layers.Dense(8)(x)


@network("Cakir et al. 2017", "spectrogram")
def sound_event_crnn(x):
    """Events for each frame: pooling along the bands alone, recurrence."""
    for _ in range(2):
        x = layers.Dropout(0.2)(layers.MaxPooling2D((1, 2))(plane(x, 6, 3)))
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(flat(x))
    return layers.Dense(4, activation="sigmoid")(x)


@network("Wang et al. 2019 (linear softmax)", "spectrogram")
def weak_labels(x):
    """Events of a recording from those of its frames, each weighted by itself."""
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(flat(layers.AveragePooling2D((1, 2))(plane(x, 6, 3))))
    y = layers.Dense(4, activation="sigmoid")(x)
    return ops.sum(ops.square(y), axis=1) / (ops.sum(y, axis=1) + 1e-6)


@network("Kong et al. 2018", "spectrogram")
def attention_pooling(x):
    """Attention and classes for each frame, normalized over the frames."""
    x = flat(layers.MaxPooling2D((2, 2), padding="same")(plane(x, 6, 3)))
    weights = layers.Dense(4, activation="sigmoid")(x)
    return ops.sum(layers.Dense(4, activation="sigmoid")(x) * weights, axis=1) / ops.sum(weights, axis=1)


@network("Kong et al. 2020b", "spectrogram")
def panns(x):
    """Blocks of two-dimensional convolutions; mean over the bands, mean and maximum over time."""
    x = layers.BatchNormalization()(x)
    for width in (4, 6):
        x = layers.AveragePooling2D(2)(plane(plane(x, width, 3), width, 3))
    x = ops.mean(x, axis=2)
    return layers.Dense(5, activation="sigmoid")(layers.Dense(8, activation="relu")(ops.max(x, axis=1) + ops.mean(x, axis=1)))


@network("Hershey et al. 2017", "spectrogram")
def vggish(x):
    for width in (4, 6):
        x = layers.MaxPooling2D(2, padding="same")(layers.Conv2D(width, 3, padding="same", activation="relu")(x))
    return averaged(flat(x))


@network("Howard et al. 2017, as in YAMNet", "spectrogram")
def yamnet(x):
    x = plane(x, 6, 3, strides=2)
    for stride in (1, 2):
        x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
        x = plane(layers.ReLU()(layers.BatchNormalization()(x)), 8, 1)
    return layers.Dense(5, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))


@network("Gong et al. 2021, without a class token", "spectrogram")
def patch_transformer(x):
    """Patches of a spectrogram are the tokens of a Transformer; their mean is classified."""
    x = layers.Conv2D(16, 4, strides=4)(x)
    x = layers.Reshape((-1, 16))(x)
    return averaged(layers.LayerNormalization()(encoder_block(encoder_block(x))))


@network("Pons and Serra 2019", "spectrogram")
def musicnn(x):
    """Kernels as high as many bands and as long as many frames, side by side."""
    tall = ops.max(plane(x, 6, (3, 6), padding="same"), axis=2)
    wide = normed(ops.mean(x, axis=2), 6, 17)
    x = layers.Concatenate()([tall, wide])
    x = layers.Concatenate()([x, normed(x, 12, 7)])
    return layers.Dense(5)(layers.Concatenate()([layers.GlobalMaxPooling1D()(x), attentive_mean(x)]))

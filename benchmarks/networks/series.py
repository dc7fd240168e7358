"""Networks for time series, genomes and text, small ones of the architecture of each paper."""

from __future__ import annotations

import keras
from keras import layers, ops

from benchmarks.networks.parts import (
    TOKENS,
    Positions,
    averaged,
    conv,
    encoder_block,
    feed_forward,
    flat,
    network,
    normed,
    self_attention,
)


@network("Wang et al. 2017 (FCN)")
def fully_convolutional(x):
    return averaged(normed(normed(normed(x, 8, 8), 16, 5), 8, 3))


@network("Wang et al. 2017 (ResNet)")
def resnet_series(x):
    for width in (8, 16):
        y = layers.BatchNormalization()(conv(normed(normed(x, width, 8), width, 5), width, 3))
        x = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(layers.Conv1D(width, 1)(x))]))
    return averaged(x)


@network("Fawaz et al. 2020")
def inception_time(x):
    """Parallel kernels of three sizes and a pooling."""
    for _ in range(2):
        narrow = conv(x, 8, 1)
        branches = [conv(narrow, 8, kernel) for kernel in (10, 20, 40)] + [conv(layers.MaxPooling1D(3, strides=1, padding="same")(x), 8, 1)]
        x = layers.ReLU()(layers.BatchNormalization()(layers.Concatenate()(branches)))
    return averaged(x)


@network("Tang et al. 2022")
def omni_scale(x):
    """Kernels of every prime size side by side."""
    for _ in range(2):
        x = layers.Concatenate()([normed(x, 3, kernel) for kernel in (1, 2, 3, 5, 7, 11)])
    return averaged(layers.Concatenate()([normed(x, 6, 1), normed(x, 6, 2)]))


@network("Karim et al. 2018", frames=320)
def lstm_fcn(x):
    """A convolutional branch, and an LSTM that takes time as features ("dimension shuffle")."""
    y = layers.GlobalAveragePooling1D()(normed(normed(x, 16, 8), 16, 5))
    return layers.Dense(5)(layers.Concatenate()([y, layers.LSTM(8)(layers.Permute((2, 1))(x))]))


@network("Karim et al. 2018, without the dimension shuffle")
def lstm_beside_fcn(x):
    y = layers.GlobalAveragePooling1D()(normed(normed(x, 16, 8), 16, 5))
    return layers.Dense(5)(layers.Concatenate()([y, layers.Dropout(0.8)(layers.LSTM(8)(x))]))


@network("Bai et al. 2018")
def bai_tcn(x):
    """Residual blocks of dilated causal convolutions; the answer is that of the last frame."""
    for dilation in (1, 2, 4):
        y = x
        for _ in range(2):
            y = layers.ReLU()(layers.Conv1D(12, 3, padding="causal", dilation_rate=dilation)(y))
        x = layers.ReLU()(layers.Add()([y, layers.Conv1D(12, 1)(x)]))
    return layers.Dense(5)(x[:, -1])


@network("Farha and Gall 2019")
def ms_tcn(x):
    """Stages of dilated convolutions, each of which refines the classes of the one before."""
    for _ in range(2):
        x = layers.Conv1D(12, 1)(x)
        for dilation in (1, 2, 4):
            x = x + layers.Conv1D(12, 1)(conv(x, 12, 3, dilation_rate=dilation, activation="relu"))
        x = layers.Softmax()(layers.Conv1D(5, 1)(x))
    return x


@network("Lea et al. 2017")
def encoder_decoder_tcn(x):
    for _ in range(2):
        x = layers.MaxPooling1D(2)(layers.Activation("relu")(conv(layers.SpatialDropout1D(0.3)(x), 12, 9)))
        x = x / (ops.max(ops.abs(x), axis=-1, keepdims=True) + 1e-5)
    for _ in range(2):
        x = conv(layers.UpSampling1D(2)(x), 12, 9, activation="relu")
    return layers.TimeDistributed(layers.Dense(5, activation="softmax"))(x)


@network("Liu et al. 2022, in one dimension")
def convnext(x):
    x = layers.LayerNormalization()(layers.Conv1D(8, 4, strides=4)(x))
    for width in (8, 16):
        if width > 8:
            x = layers.Conv1D(width, 2, strides=2)(layers.LayerNormalization()(x))
        y = layers.LayerNormalization()(layers.DepthwiseConv1D(7, padding="same")(x))
        x = x + 0.1 * feed_forward(y, 4 * width, "gelu")
    return averaged(x)


@network("Tolstikhin et al. 2021, over the features alone")
def feature_mixer(x):
    for _ in range(2):
        x = x + feed_forward(layers.LayerNormalization()(x), 16, "gelu")
        x = x + feed_forward(conv(layers.LayerNormalization()(x), 8, 3), 16, "gelu")
    return averaged(x)


@network("Tolstikhin et al. 2021", frames=320)
def mlp_mixer(x):
    """A dense layer over time, which is for one number of frames."""
    y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    x = x + layers.Permute((2, 1))(feed_forward(y, 16, "gelu"))
    return averaged(x + feed_forward(layers.LayerNormalization()(x), 16, "gelu"))


@network("Ronneberger et al. 2015, in one dimension")
def u_net(x):
    skips = []
    for width in (8, 12):
        x = normed(normed(x, width, 3), width, 3)
        skips.append(x)
        x = layers.MaxPooling1D(2)(x)
    x = normed(x, 16, 3)
    for width, skip in ((12, skips[1]), (8, skips[0])):
        x = layers.Conv1DTranspose(width, 2, strides=2)(x)
        x = normed(layers.Concatenate()([x, skip]), width, 3)
    return layers.Conv1D(3, 1, activation="softmax")(x)


@network("Perslev et al. 2019")
def u_time(x):
    """A U-Net whose answers are averaged over stretches."""
    x = normed(x, 8, 5, dilation_rate=9)
    y = conv(layers.UpSampling1D(4)(normed(layers.MaxPooling1D(4)(x), 12, 5)), 8, 4, activation="relu")
    y = layers.Dense(4, activation="tanh")(layers.Concatenate()([x, y]))
    return layers.Dense(4, activation="softmax")(layers.AveragePooling1D(20)(y))


@network("Supratak et al. 2017", "waveform")
def deep_sleep_net(x):
    """Small and large kernels side by side, then recurrence with a shortcut."""
    small = layers.MaxPooling1D(8, padding="same")(normed(x, 8, 50, strides=6))
    large = layers.MaxPooling1D(2, padding="same")(normed(x, 8, 200, strides=24))
    x = layers.Concatenate()([normed(small, 8, 8), normed(large, 8, 6)])
    x = layers.Add()([layers.Dense(12)(x), layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)])
    return layers.Dense(5)(x)


@network("Ordonez and Roggen 2016", "spectrogram")
def deep_conv_lstm(x):
    """Convolutions along time for every sensor, two LSTMs, the last frame."""
    for _ in range(2):
        x = layers.Conv2D(6, (5, 1), activation="relu")(x)
    return layers.Dense(5)(layers.LSTM(8)(layers.LSTM(8, return_sequences=True)(flat(x))))


@network("Lawhern et al. 2018", "spectrogram")
def eeg_net(x):
    x = layers.BatchNormalization()(layers.Conv2D(4, (32, 1), padding="same", use_bias=False)(x))
    x = layers.ELU()(layers.BatchNormalization()(layers.DepthwiseConv2D((1, 8), depth_multiplier=2, use_bias=False)(x)))
    x = layers.AveragePooling2D((4, 1))(x)
    x = layers.ELU()(layers.BatchNormalization()(layers.SeparableConv2D(8, (16, 1), padding="same", use_bias=False)(x)))
    return layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.AveragePooling2D((8, 1))(x)))


@network("Hannun et al. 2019")
def ecg_net(x):
    """Residual blocks with normalization first and a pooled shortcut; a rhythm for each stretch."""
    x = normed(x, 8, 16)
    for stride in (1, 2, 2):
        shortcut = layers.MaxPooling1D(stride, padding="same")(x)
        y = layers.Dropout(0.2)(layers.ReLU()(layers.BatchNormalization()(conv(x, 8, 16, strides=stride))))
        x = layers.Add()([shortcut, conv(y, 8, 16)])
    return layers.TimeDistributed(layers.Dense(4, activation="softmax"))(layers.ReLU()(layers.BatchNormalization()(x)))


@network("Zhou et al. 2021 (Informer)")
def distilling_encoder(x):
    """Attention, then a convolution and a pooling that halve the frames."""
    x = layers.Dense(16)(x)
    for _ in range(2):
        x = layers.LayerNormalization()(x + self_attention(x))
        x = layers.ELU()(layers.BatchNormalization()(conv(x, 16, 3)))
        x = layers.MaxPooling1D(3, strides=2, padding="same")(x)
    return averaged(encoder_block(x))


@network("Katharopoulos et al. 2020")
def linear_attention(x):
    query, key, value = (layers.Dense(8)(x) for _ in range(3))
    query, key = ops.elu(query) + 1, ops.elu(key) + 1
    total = ops.einsum("btd,bte->bde", key, value)
    scale = ops.einsum("btd,bd->bt", query, ops.sum(key, axis=1))
    return layers.Dense(4)(ops.einsum("btd,bde->bte", query, total) / ops.expand_dims(scale, -1))


@network("Jaegle et al. 2021")
def perceiver(x):
    """A few learned vectors attend to all frames, and then to themselves."""
    latents = layers.Reshape((4, 16))(layers.Dense(64)(ops.zeros_like(x[:, 0])))
    for _ in range(2):
        latents = latents + layers.MultiHeadAttention(2, 8)(latents, layers.Dense(16)(x))
        latents = encoder_block(latents)
    return averaged(latents)


@network("Sutskever et al. 2014, the encoder")
def encoder_states(x):
    """The states that an LSTM leaves to a decoder, here of three steps."""
    _, *states = layers.LSTM(8, return_state=True)(x)
    steps = layers.RepeatVector(3)(layers.Dense(8)(states[0]))
    return layers.Dense(4)(layers.LSTM(8, return_sequences=True)(steps, initial_state=states))


@network("Zhou and Troyanskaya 2015", frames=320)
def deep_sea(x):
    for width in (8, 12):
        x = layers.Dropout(0.2)(layers.MaxPooling1D(4)(layers.Conv1D(width, 8, activation="relu")(x)))
    return layers.Dense(5, activation="sigmoid")(layers.Flatten()(x))


@network("Kelley et al. 2016, with a global maximum")
def basset(x):
    for kernel in (19, 11, 7):
        x = layers.MaxPooling1D(3)(normed(x, 8, kernel))
    return layers.Dense(5, activation="sigmoid")(layers.Dense(8, activation="relu")(layers.GlobalMaxPooling1D()(x)))


@network("Kelley et al. 2018")
def basenji(x):
    """Convolutions and pools, then dilated blocks with residuals; an answer for each stretch."""
    x = layers.MaxPooling1D(2)(normed(x, 8, 15, "gelu"))
    for dilation in (1, 2, 4):
        x = x + layers.Dropout(0.3)(layers.BatchNormalization()(conv(normed(x, 4, 3, "gelu", dilation_rate=dilation), 8, 1)))
    return layers.Dense(3, activation="softplus")(x)


@network("Jaganathan et al. 2019")
def splice_ai(x):
    """Dilated residual blocks; the frames whose context is not whole are cut off at the end."""
    x = layers.Conv1D(8, 1)(x)
    skip = layers.Conv1D(8, 1)(x)
    for kernel, dilation in ((11, 1), (11, 4)):
        y = x
        for _ in range(2):
            y = conv(layers.ReLU()(layers.BatchNormalization()(y)), 8, kernel, dilation_rate=dilation)
        x = x + y
        skip = skip + layers.Conv1D(8, 1)(x)
    return layers.Conv1D(3, 1, activation="softmax")(layers.Cropping1D(50)(skip))


@network("Quang and Xie 2016, with a global maximum")
def dan_q(x):
    x = layers.Dropout(0.2)(layers.MaxPooling1D(13)(layers.Conv1D(12, 26, activation="relu")(x)))
    return layers.Dense(5)(layers.GlobalMaxPooling1D()(layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)))


def embedded(x, width=8):
    return layers.Embedding(TOKENS, width)(x)


@network("Kim 2014", "tokens")
def text_cnn(x):
    x = embedded(x)
    x = layers.Concatenate()([layers.GlobalMaxPooling1D()(layers.Conv1D(6, size, activation="relu")(x)) for size in (3, 4, 5)])
    return layers.Dense(4)(layers.Dropout(0.5)(x))


@network("Johnson and Zhang 2017", "tokens")
def dpcnn(x):
    """Blocks with a shortcut, each after a pooling that halves the frames."""
    x = conv(embedded(x), 8, 3)
    for _ in range(3):
        x = layers.MaxPooling1D(3, strides=2, padding="same")(x)
        x = x + conv(ops.relu(conv(ops.relu(x), 8, 3)), 8, 3)
    return layers.Dense(4)(layers.GlobalMaxPooling1D()(x))


@network("Zhang et al. 2015, with a global maximum", "tokens")
def char_cnn(x):
    """Bytes, one-hot, through convolutions and pools."""
    x = layers.Lambda(lambda t: ops.one_hot(t, TOKENS))(x)
    for kernel in (7, 7):
        x = layers.MaxPooling1D(3)(layers.Conv1D(8, kernel, activation="relu")(x))
    return layers.Dense(4)(layers.GlobalMaxPooling1D()(layers.Conv1D(8, 3, activation="relu")(x)))


@network("Lai et al. 2015", "tokens")
def text_rcnn(x):
    words = embedded(x)
    x = layers.Concatenate()([words, layers.Bidirectional(layers.LSTM(6, return_sequences=True))(words)])
    return layers.Dense(4)(layers.GlobalMaxPooling1D()(layers.Dense(8, activation="tanh")(x)))


@network("Joulin et al. 2017", "tokens")
def fast_text(x):
    return averaged(embedded(x))


@network("Lin et al. 2017", "tokens")
def structured_self_attention(x):
    """Several weighted sums of the states of an LSTM."""
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(embedded(x))
    weights = layers.Softmax(axis=1)(layers.Dense(3, use_bias=False)(layers.Dense(8, activation="tanh", use_bias=False)(x)))
    return layers.Dense(4)(layers.Flatten()(ops.einsum("btr,btd->brd", weights, x)))


@network("Kalchbrenner et al. 2016", "tokens")
def byte_net(x):
    """Dilated residual blocks with layer normalization, for each byte."""
    x = embedded(x, 12)
    for dilation in (1, 2, 4):
        y = layers.Conv1D(6, 1)(layers.ReLU()(layers.LayerNormalization()(x)))
        y = conv(layers.ReLU()(layers.LayerNormalization()(y)), 6, 5, dilation_rate=dilation)
        x = x + layers.Conv1D(12, 1)(layers.ReLU()(layers.LayerNormalization()(y)))
    return layers.Dense(TOKENS)(x)


@network("Gehring et al. 2017", "tokens")
def conv_s2s_encoder(x):
    x = Positions()(embedded(x, 12))
    for _ in range(2):
        x = (x + ops.glu(conv(x, 24, 3), axis=-1)) * 0.5**0.5
    return x


@network("Devlin et al. 2019, without a class token", "tokens")
def bert(x):
    x = layers.LayerNormalization()(Positions()(embedded(x, 16)))
    for _ in range(2):
        x = layers.LayerNormalization()(x + self_attention(x))
        x = layers.LayerNormalization()(x + feed_forward(x, 32, "gelu"))
    return layers.Dense(4)(layers.Dense(16, activation="tanh")(x[:, 0]))


@network("Radford et al. 2018", "tokens")
def gpt(x):
    x = Positions()(embedded(x, 16))
    for _ in range(2):
        x = encoder_block(x, use_causal_mask=True)
    return layers.Dense(TOKENS)(layers.LayerNormalization()(x))


@network("Bengio et al. 2003, over the last words", "tokens")
def last_words(x):
    """A fixed number of words before the end, as features."""
    return layers.Dense(TOKENS)(layers.GlobalAveragePooling1D()(layers.Dense(8, activation="tanh")(embedded(x)[:, -4:])))


@network("an autoencoder of LSTMs", "frames")
def lstm_autoencoder(x):
    hidden = layers.LSTM(8, return_sequences=True)(x)
    hidden = layers.LSTM(6, return_sequences=True)(hidden)
    return layers.TimeDistributed(layers.Dense(8))(layers.LSTM(8, return_sequences=True)(hidden))


@network("a Siamese encoder", "frames")
def siamese(x):
    """One nested model for two parts of the features."""
    part = keras.Input((None, 4))
    encoder = keras.Model(part, layers.GlobalAveragePooling1D()(normed(normed(part, 8, 5), 8, 5, strides=2)))
    return ops.abs(encoder(x[..., :4]) - encoder(x[..., 4:]))

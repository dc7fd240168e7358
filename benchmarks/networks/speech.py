"""Networks for speech, small ones of the architecture of each paper."""

from __future__ import annotations

from keras import layers, ops

from benchmarks.networks.parts import (
    FEATURES,
    Positions,
    attentive_mean,
    averaged,
    conv,
    encoder_block,
    feed_forward,
    flat,
    network,
    normed,
    plane,
    self_attention,
    squeeze_excite,
)


@network("van den Oord et al. 2016")
def wavenet(x):
    """Gated causal convolutions, residual and skip connections."""
    x, skips = layers.Conv1D(16, 2, padding="causal")(x), []
    for dilation in (1, 2, 4, 8):
        halves = [layers.Conv1D(16, 2, padding="causal", dilation_rate=dilation, activation=name)(x) for name in ("tanh", "sigmoid")]
        y = halves[0] * halves[1]
        skips.append(layers.Conv1D(16, 1)(y))
        x = x + layers.Conv1D(16, 1)(y)
    return layers.Conv1D(4, 1)(ops.relu(layers.Add()(skips)))


@network("Collobert et al. 2016")
def wav2letter(x):
    for kernel, stride in ((13, 2), (7, 1), (7, 1)):
        x = conv(x, 16, kernel, strides=stride, activation="relu")
    return layers.Conv1D(6, 1)(x)


@network("Li et al. 2019")
def jasper(x):
    """Residual blocks, each of which gets the outputs of all earlier ones."""
    x = normed(x, 16, 11, strides=2)
    outputs = [x]
    for kernel in (11, 13):
        y = normed(x, 16, kernel)
        y = layers.BatchNormalization()(conv(y, 16, kernel))
        residuals = [layers.BatchNormalization()(layers.Conv1D(16, 1)(z)) for z in outputs]
        x = layers.Dropout(0.2)(layers.ReLU()(layers.Add()([y, *residuals])))
        outputs.append(x)
    return layers.Conv1D(6, 1)(normed(x, 16, 29, dilation_rate=2))


@network("Kriman et al. 2020")
def quartznet(x):
    """Residual blocks of time-channel separable convolutions."""
    x = normed(x, 16, 33, strides=2)
    for kernel in (33, 39):
        y = x
        for _ in range(2):
            y = layers.ReLU()(layers.BatchNormalization()(layers.SeparableConv1D(16, kernel, padding="same")(y)))
        x = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(layers.Conv1D(16, 1)(x))]))
    return layers.Conv1D(6, 1)(x)


@network("Majumdar et al. 2021")
def citrinet(x):
    """QuartzNet with squeeze-and-excitation and strides inside."""
    for stride in (1, 2, 2):
        y = layers.BatchNormalization()(layers.SeparableConv1D(16, 11, strides=stride, padding="same")(x))
        residual = layers.BatchNormalization()(layers.Conv1D(16, 1, strides=stride, padding="same")(x))
        x = layers.ReLU()(layers.Add()([squeeze_excite(y, 16), residual]))
    return layers.Conv1D(6, 1)(x)


@network("Han et al. 2020")
def contextnet(x):
    """Separable convolutions with squeeze-and-excitation over the whole sequence, swish, and strides."""
    for stride in (1, 2):
        y = x
        for step in (1, stride):
            y = layers.BatchNormalization()(layers.SeparableConv1D(16, 5, strides=step, padding="same")(y))
            y = layers.Activation("silu")(y)
        residual = layers.BatchNormalization()(layers.Conv1D(16, 1, strides=stride, padding="same")(x))
        x = layers.Activation("silu")(layers.Add()([squeeze_excite(y, 16), residual]))
    return layers.Dense(6)(x)


@network("Amodei et al. 2016")
def deep_speech_2(x):
    """Convolutions over time and frequency, then bidirectional recurrence."""
    x = layers.Reshape((-1, FEATURES, 1))(x)
    for stride in ((2, 2), (1, 2)):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, (11, 5), strides=stride, padding="same")(x)))
    x = flat(x)
    for _ in range(2):
        x = layers.BatchNormalization()(layers.Bidirectional(layers.GRU(8, return_sequences=True))(x))
    return layers.Dense(6)(x)


@network("Chan et al. 2016")
def listener(x):
    """The pyramidal encoder of Listen, Attend and Spell: each level joins two frames."""
    for _ in range(2):
        x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
        x = layers.Reshape((-1, 24))(x)
    return layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)


@network("Ravanelli et al. 2021 (SpeechBrain)", "spectrogram")
def crdnn(x):
    for width in (4, 6):
        x = layers.LeakyReLU()(layers.LayerNormalization()(layers.Conv2D(width, 3, padding="same")(x)))
        x = layers.MaxPooling2D((1, 2))(x)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(layers.MaxPooling1D(2)(flat(x)))
    return layers.Dense(6, activation="log_softmax")(layers.BatchNormalization()(layers.Dense(12, activation="leaky_relu")(x)))


@network("Vaswani et al. 2017")
def transformer(x):
    """The encoder, after normalization, without positions."""
    x = layers.Dense(16)(x)
    for _ in range(2):
        x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 4)(x, x)]))
        x = layers.LayerNormalization()(layers.Add()([x, feed_forward(x, 32)]))
    return layers.Dense(6)(layers.GlobalAveragePooling1D()(x))


@network("Gulati et al. 2020")
def conformer(x):
    """Half feed-forward, attention, gated convolution, half feed-forward."""
    x = layers.Conv1D(16, 3, strides=2, padding="same")(x)
    for _ in range(2):
        x = x + 0.5 * feed_forward(layers.LayerNormalization()(x), 32, "silu")
        x = layers.Add()([x, self_attention(layers.LayerNormalization()(x))])
        y = ops.glu(layers.Conv1D(32, 1)(layers.LayerNormalization()(x)), axis=-1)
        y = ops.silu(layers.BatchNormalization()(layers.DepthwiseConv1D(15, padding="same")(y)))
        x = layers.Add()([x, layers.Conv1D(16, 1)(y)])
        x = layers.LayerNormalization()(x + 0.5 * feed_forward(layers.LayerNormalization()(x), 32, "silu"))
    return layers.Dense(6)(x)


@network("Kim et al. 2022")
def squeezeformer(x):
    """Half of the frames between a strided convolution and a repetition, with a skip connection; modules of attention and convolution."""

    def block(x):
        x = layers.LayerNormalization()(x + self_attention(x))
        x = layers.LayerNormalization()(x + feed_forward(x, 32, "silu"))
        y = layers.BatchNormalization()(layers.DepthwiseConv1D(7, padding="same")(layers.Dense(16, activation="silu")(x)))
        return layers.LayerNormalization()(x + layers.Dense(16)(ops.silu(y)))

    x = block(layers.Conv1D(16, 3, strides=2, padding="same")(x))
    y = block(layers.SeparableConv1D(16, 3, strides=2, padding="same")(x))
    return layers.Dense(6)(block(x + layers.Dense(16)(layers.UpSampling1D(2)(y))))


@network("Kim et al. 2023")
def e_branchformer(x):
    """Attention and a gated MLP with convolution side by side, merged by a depthwise convolution."""
    x = layers.Dense(16)(x)
    x = x + 0.5 * feed_forward(layers.LayerNormalization()(x), 32, "silu")
    attended = self_attention(layers.LayerNormalization()(x))
    first, second = ops.split(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x)), 2, axis=-1)
    local = layers.Dense(16)(first * layers.DepthwiseConv1D(15, padding="same")(layers.LayerNormalization()(second)))
    both = ops.concatenate([attended, local], axis=-1)
    x = x + layers.Dense(16)(both + layers.DepthwiseConv1D(15, padding="same")(both))
    return layers.Dense(6)(layers.LayerNormalization()(x + 0.5 * feed_forward(layers.LayerNormalization()(x), 32, "silu")))


@network("Baevski et al. 2020", "waveform")
def wav2vec_2(x):
    """Strided convolutions, normalized over the whole waveform; convolutional positions; Transformer."""
    x = layers.Activation("gelu")(layers.GroupNormalization(16)(layers.Conv1D(16, 10, strides=5, use_bias=False)(x)))
    for kernel in (3, 2):
        x = layers.Conv1D(16, kernel, strides=2, activation="gelu")(x)
    x = layers.Dense(16)(layers.LayerNormalization()(x))
    x = layers.LayerNormalization()(x + conv(x, 16, 8, groups=4, activation="gelu"))
    return encoder_block(encoder_block(x))


@network("Radford et al. 2022")
def whisper_encoder(x):
    """Two convolutions, sinusoidal positions in a layer of the author's own, Transformer."""
    x = conv(conv(x, 16, 3, activation="gelu"), 16, 3, strides=2, activation="gelu")
    return layers.LayerNormalization()(encoder_block(encoder_block(Positions()(x))))


@network("Snyder et al. 2018")
def x_vector(x):
    for kernel, dilation in ((5, 1), (3, 2), (3, 3), (1, 1)):
        x = layers.BatchNormalization()(layers.Conv1D(16, kernel, dilation_rate=dilation, activation="relu")(x))
    x = ops.concatenate([ops.mean(x, axis=1), ops.std(x, axis=1)], axis=-1)
    return layers.Dense(8)(layers.BatchNormalization()(layers.Dense(16, activation="relu")(x)))


@network("Povey et al. 2018")
def factorized_tdnn(x):
    """A narrow convolution, a wide one, and a scaled shortcut."""
    x = layers.Dense(16)(x)
    for dilation in (1, 3):
        y = layers.Conv1D(16, 2, padding="causal", dilation_rate=dilation, activation="relu")(
            layers.Conv1D(4, 2, padding="causal", dilation_rate=dilation, use_bias=False)(x)
        )
        x = 0.66 * x + layers.BatchNormalization(scale=False)(y)
    mean, variance = ops.moments(x, axes=[1])
    return layers.Dense(8)(ops.concatenate([mean, ops.sqrt(variance + 1e-5)], axis=-1))


@network("Desplanques et al. 2020")
def ecapa_tdnn(x):
    """Res2Net blocks with squeeze-and-excitation, attentive statistics pooling."""
    x, outputs = normed(x, 16, 5), []
    for dilation in (2, 3):
        parts = ops.split(normed(x, 16, 1), 4, axis=-1)
        mixed = [parts[0], normed(parts[1], 4, 3, dilation_rate=dilation)]
        for part in parts[2:]:
            mixed.append(normed(part + mixed[-1], 4, 3, dilation_rate=dilation))
        x = layers.Add()([x, squeeze_excite(normed(ops.concatenate(mixed, axis=-1), 16, 1), 16)])
        outputs.append(x)
    x = conv(layers.Concatenate()(outputs), 24, 1, activation="relu")
    weights = ops.softmax(conv(conv(x, 8, 1, activation="tanh"), 24, 1), axis=1)
    mean = ops.sum(weights * x, axis=1)
    spread = ops.sqrt(ops.maximum(ops.sum(weights * ops.square(x), axis=1) - ops.square(mean), 1e-4))
    return layers.Dense(8)(layers.BatchNormalization()(ops.concatenate([mean, spread], axis=-1)))


@network("Wan et al. 2018")
def d_vector(x):
    """LSTMs, the last frame, a projection of length one."""
    for _ in range(2):
        x = layers.LSTM(8, return_sequences=True)(x)
    return layers.UnitNormalization()(layers.Dense(6)(x[:, -1]))


@network("Zeinali et al. 2019", "spectrogram")
def resnet_speaker(x):
    """Two-dimensional residual blocks, then mean and deviation over time of every band."""
    x = plane(x, 4, 3)
    for stride, width in ((1, 4), (2, 6)):
        y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(plane(x, width, 3, strides=stride)))
        shortcut = layers.BatchNormalization()(layers.Conv2D(width, 1, strides=stride, padding="same")(x))
        x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = flat(x)
    return layers.Dense(8)(ops.concatenate([ops.mean(x, axis=1), ops.std(x, axis=1)], axis=-1))


@network("Xie et al. 2019", "spectrogram")
def ghost_vlad(x):
    """Features assigned to clusters, whose residuals are summed over time; the last cluster is dropped."""
    x = flat(plane(x, 4, 3, strides=2))
    assigned = ops.softmax(layers.Dense(4)(x), axis=-1)
    total = ops.einsum("btk,btd->bkd", assigned, x) - ops.expand_dims(ops.sum(assigned, axis=1), -1) * 0.3
    return layers.Dense(6)(layers.Flatten()(layers.UnitNormalization()(total[:, :3])))


@network("Majumdar and Ginsburg 2020")
def matchbox(x):
    """Keyword spotting with separable convolutions, dilated at the end."""
    x = normed(x, 16, 11, strides=2)
    y = layers.BatchNormalization()(layers.SeparableConv1D(16, 13, padding="same")(x))
    x = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(layers.Conv1D(16, 1)(x))]))
    return layers.Dense(5)(layers.GlobalAveragePooling1D()(normed(x, 16, 29, dilation_rate=2)))


@network("Jia et al. 2021")
def marblenet(x):
    """Voice activity, for each frame."""
    x = normed(x, 16, 11)
    y = layers.BatchNormalization()(layers.SeparableConv1D(16, 13, padding="same")(x))
    x = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(layers.Conv1D(16, 1)(x))]))
    return layers.Conv1D(2, 1, activation="softmax")(normed(x, 16, 29, dilation_rate=2))


@network("Zhang et al. 2017", "spectrogram")
def ds_cnn(x):
    x = plane(x, 8, (10, 4), strides=(2, 2))
    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
        x = plane(x, 8, 1)
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


@network("Choi et al. 2019")
def tc_resnet(x):
    x = conv(x, 8, 3, use_bias=False)
    for width in (12, 16):
        y = layers.BatchNormalization()(conv(normed(x, width, 9, strides=2), width, 9))
        x = layers.ReLU()(y + normed(x, width, 1, strides=2))
    return averaged(layers.Dropout(0.5)(x))


@network("Kim et al. 2021", "spectrogram")
def bc_resnet(x):
    """A mean over the bands, convolved over time, is added back to every band."""
    x = plane(x, 6, 5, strides=(1, 2))
    for dilation in (1, 2):
        y = layers.BatchNormalization()(layers.DepthwiseConv2D((1, 3), padding="same")(x))
        mean = ops.mean(y, axis=2, keepdims=True)
        mean = layers.DepthwiseConv2D((3, 1), dilation_rate=(dilation, 1), padding="same")(mean)
        mean = layers.Conv2D(6, 1)(ops.silu(layers.BatchNormalization()(mean)))
        x = layers.ReLU()(x + y + mean)
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


@network("Arik et al. 2017", "spectrogram")
def crnn_keyword(x):
    x = layers.Conv2D(8, (20, 5), strides=(8, 2), padding="same", activation="relu")(x)
    for _ in range(2):
        x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(flat(x) if len(x.shape) == 4 else x)
    return layers.Dense(5)(layers.Dense(8, activation="relu")(x[:, -1]))


@network("de Andrade et al. 2018", "spectrogram")
def attention_rnn(x):
    """Keyword spotting: the last frame is the query of an attention over all."""
    x = flat(plane(x, 4, (5, 1)))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    scores = layers.Dot(axes=(1, 2))([layers.Dense(12)(x[:, -1]), x])
    return layers.Dense(5)(layers.Dot(axes=(1, 1))([layers.Softmax()(scores), x]))


@network("Tang and Lin 2018", "spectrogram")
def res15(x):
    x = layers.Conv2D(6, 3, padding="same", use_bias=False)(x)
    for dilation in (1, 2, 4):
        x = x + plane(plane(x, 6, 3, dilation_rate=dilation), 6, 3, dilation_rate=dilation)
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


@network("Wang et al. 2017")
def cbhg(x):
    """A bank of convolutions, a pooling of stride one, highways and a GRU, as in Tacotron."""
    bank = layers.Concatenate()([normed(x, 8, kernel) for kernel in range(1, 6)])
    x = x + conv(normed(layers.MaxPooling1D(2, strides=1, padding="same")(bank), 8, 3), 8, 3)
    for _ in range(2):
        gate = layers.Dense(8, activation="sigmoid")(x)
        x = gate * layers.Dense(8, activation="relu")(x) + (1 - gate) * x
    return layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)


@network("Ren et al. 2021")
def fastspeech_encoder(x):
    """Transformer blocks whose feed-forward part is convolutional."""
    x = layers.Dense(16)(x)
    for _ in range(2):
        x = layers.LayerNormalization()(x + self_attention(x))
        x = layers.LayerNormalization()(x + layers.Conv1D(16, 1)(conv(x, 32, 9, activation="relu")))
    return layers.Dense(4)(x)


@network("Zhou et al. 2016")
def attentive_bilstm(x):
    """Recurrence in both directions, then an attentive mean."""
    return layers.Dense(2)(attentive_mean(layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)))

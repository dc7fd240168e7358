"""Which published networks `mask_aware` makes exact, and why it refuses the others.

    python -m benchmarks.models [--models NAME ...]     # writes benchmarks/MODELS.md; other rows stay

Rows of the packages classification-models-1D (with keras-applications) and keras-tcn are made where these are installed, by
pip install --no-deps. Each network gets random weights, biases and statistics. The figure is the largest difference of a batch of padded
sequences from the plain network on each sequence alone, relative to its largest output (float32).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from rich.console import Console

from vlpipe import ArgumentError
from vlpipe.layers import MaskAware, Reach, SelectFrame, mask_aware

LENGTHS = (320, 200, 257)
LONGER = 5  # times as long, for the networks of the library, whose strides multiply to 1024
FEATURES = 8
FILE = Path(__file__).parent / "MODELS.md"
LIBRARY = {  # its EfficientNets import modules that Keras 3 no longer has
    "ResNet-18": ("resnet", "ResNet18"), "MobileNet": ("mobilenet", "MobileNet"), "MobileNet-v2": ("mobilenet_v2", "MobileNetV2"),
    "VGG-16": ("vgg16", "VGG16"), "SE-ResNet-18": ("resnet", "SEResNet18"), "Inception-v3": ("inception_v3", "InceptionV3"),
    "DenseNet-121": ("densenet", "DenseNet121"), "SE-ResNet-50": ("senet", "SEResNet50"), "ResNeXt-50": ("resnext", "ResNeXt50"),
}  # fmt: skip


def conv(x, width, kernel, **options):
    return layers.Conv1D(width, kernel, padding="same", **options)(x)


def normed(x, width, kernel, activation="relu", **options):
    return layers.Activation(activation)(layers.BatchNormalization()(conv(x, width, kernel, **options)))


def squeeze_excite(x, width):
    gate = layers.Dense(width // 4, activation="relu")(layers.GlobalAveragePooling1D(keepdims=True)(x))
    return layers.Multiply()([x, layers.Dense(width, activation="sigmoid")(gate)])


def wavenet(x):
    """van den Oord et al. 2016: gated causal convolutions, residual and skip connections."""
    x, skips = layers.Conv1D(16, 2, padding="causal")(x), []
    for dilation in (1, 2, 4, 8):
        halves = [layers.Conv1D(16, 2, padding="causal", dilation_rate=dilation, activation=name)(x) for name in ("tanh", "sigmoid")]
        y = halves[0] * halves[1]
        skips.append(layers.Conv1D(16, 1)(y))
        x = x + layers.Conv1D(16, 1)(y)
    return layers.Conv1D(4, 1)(ops.relu(layers.Add()(skips)))


def quartznet(x):
    """Kriman et al. 2020: residual blocks of time-channel separable convolutions."""
    x = normed(x, 16, 33, strides=2)
    for kernel in (33, 39):
        y = x
        for _ in range(2):
            y = layers.ReLU()(layers.BatchNormalization()(layers.SeparableConv1D(16, kernel, padding="same")(y)))
        x = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(layers.Conv1D(16, 1)(x))]))
    return layers.Conv1D(6, 1)(x)


def citrinet(x):
    """Majumdar et al. 2021: QuartzNet with squeeze-and-excitation and strides inside."""
    for stride in (1, 2, 2):
        y = layers.BatchNormalization()(layers.SeparableConv1D(16, 11, strides=stride, padding="same")(x))
        residual = layers.BatchNormalization()(layers.Conv1D(16, 1, strides=stride, padding="same")(x))
        x = layers.ReLU()(layers.Add()([squeeze_excite(y, 16), residual]))
    return layers.Conv1D(6, 1)(x)


def conformer(x):
    """Gulati et al. 2020: half feed-forward, attention, gated convolution, half feed-forward."""
    x = layers.Conv1D(16, 3, strides=2, padding="same")(x)
    for _ in range(2):
        x = x + 0.5 * layers.Dense(16)(layers.Dense(32, activation="silu")(layers.LayerNormalization()(x)))
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        y = ops.glu(layers.Conv1D(32, 1)(layers.LayerNormalization()(x)), axis=-1)
        y = ops.silu(layers.BatchNormalization()(layers.DepthwiseConv1D(15, padding="same")(y)))
        x = layers.Add()([x, layers.Conv1D(16, 1)(y)])
        x = layers.LayerNormalization()(x + 0.5 * layers.Dense(16)(layers.Dense(32, activation="silu")(layers.LayerNormalization()(x))))
    return layers.Dense(6)(x)


def ecapa_tdnn(x):
    """Desplanques et al. 2020: Res2Net blocks with squeeze-and-excitation, attentive statistics pooling."""
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


def transformer(x):
    """Vaswani et al. 2017: the encoder, after normalization, without positions."""
    x = layers.Dense(16)(x)
    for _ in range(2):
        x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 4)(x, x)]))
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="relu")(x))]))
    return layers.Dense(6)(layers.GlobalAveragePooling1D()(x))


def deep_speech_2(x):
    """Amodei et al. 2016: convolutions over time and frequency, then bidirectional recurrence."""
    x = layers.Reshape((-1, FEATURES, 1))(x)
    for stride in ((2, 2), (1, 2)):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, (11, 5), strides=stride, padding="same")(x)))
    x = layers.Reshape((-1, FEATURES))(x)
    for _ in range(2):
        x = layers.BatchNormalization()(layers.Bidirectional(layers.GRU(8, return_sequences=True))(x))
    return layers.Dense(6)(x)


def wave_u_net(x):
    """Stoller et al. 2018: decimate, double by repetition, join the skip connections."""
    skips = []
    for _ in range(3):
        x = conv(x, 12, 15, activation="leaky_relu")
        skips.append(x)
        x = x[:, ::2]
    for skip in reversed(skips):
        x = conv(layers.Concatenate()([layers.UpSampling1D(2)(conv(x, 12, 15)), skip]), 12, 5, activation="leaky_relu")
    return layers.Conv1D(2, 1, activation="tanh")(x)


def inception_time(x):
    """Fawaz et al. 2020: parallel kernels of three sizes and a pooling."""
    for _ in range(2):
        narrow = conv(x, 8, 1)
        branches = [conv(narrow, 8, kernel) for kernel in (10, 20, 40)] + [conv(layers.MaxPooling1D(3, strides=1, padding="same")(x), 8, 1)]
        x = layers.ReLU()(layers.BatchNormalization()(layers.Concatenate()(branches)))
    return layers.Dense(5)(layers.GlobalAveragePooling1D()(x))


def bai_tcn(x):
    """Bai et al. 2018: weight-free residual blocks of dilated causal convolutions; the answer is that of the last frame."""
    for dilation in (1, 2, 4):
        y = x
        for _ in range(2):
            y = layers.ReLU()(layers.Conv1D(12, 3, padding="causal", dilation_rate=dilation)(y))
        x = layers.ReLU()(layers.Add()([y, layers.Conv1D(12, 1)(x)]))
    return layers.Dense(5)(x[:, -1])


def matchbox(x):
    """Majumdar and Ginsburg 2020: keyword spotting with separable convolutions, dilated at the end."""
    x = normed(x, 16, 11, strides=2)
    y = layers.BatchNormalization()(layers.SeparableConv1D(16, 13, padding="same")(x))
    x = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(layers.Conv1D(16, 1)(x))]))
    return layers.Dense(5)(layers.GlobalAveragePooling1D()(normed(x, 16, 29, dilation_rate=2)))


def lstm_fcn(x):
    """Karim et al. 2018: a convolutional branch, and an LSTM that takes time as features ("dimension shuffle")."""
    y = layers.GlobalAveragePooling1D()(normed(normed(x, 16, 8), 16, 5))
    return layers.Dense(5)(layers.Concatenate()([y, layers.LSTM(8)(layers.Permute((2, 1))(x))]))


PAPERS = [
    wavenet, quartznet, citrinet, conformer, ecapa_tdnn, transformer, deep_speech_2, wave_u_net,
    inception_time, bai_tcn, matchbox, lstm_fcn,
]  # fmt: skip


def built(inputs, outputs, seed=0):
    """Return the model with random biases, scales and statistics: zeros would hide leaks."""
    model, rng = keras.Model(inputs, outputs), np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("bias", "beta", "mean")):
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def from_paper(function):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((320 if function is lstm_fcn else None, FEATURES))
    return built(inputs, function(inputs)), {}


class LayersWithPlainNames:
    """`keras.layers` for code of Keras 2, whose names have slashes."""

    def __getattr__(self, kind):
        made = getattr(layers, kind)
        return lambda *args, **options: made(*args, **{k: v.replace("/", "_") if k == "name" and v else v for k, v in options.items()})


def from_library(module, name):
    from tensorflow.keras import backend

    keras.utils.set_random_seed(0)
    make = getattr(importlib.import_module(f"classification_models_1D.models.{module}"), name)
    parts = {"backend": backend, "layers": LayersWithPlainNames(), "models": keras.models, "utils": keras.utils}
    model = make(input_shape=(None, FEATURES), include_top=False, weights=None, pooling="avg", **parts)
    return built(model.input, model.output), {}


def from_keras_tcn(return_sequences):
    from tcn import TCN

    class AwareTCN(MaskAware, TCN):
        def call(self, inputs, training=None, mask=None):
            self.return_sequences, whole = True, self.return_sequences
            x = super().call(inputs if mask is None else ops.where(mask[..., None], inputs, 0.0), training=training)
            self.return_sequences = whole
            return x if whole else x[:, -1] if mask is None else SelectFrame(-1).call(x, mask)

        def compute_mask(self, inputs, mask=None):
            return super().compute_mask(inputs, mask) if self.return_sequences else None

        def reach(self):
            return Reach(self.receptive_field)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, FEATURES))
    return built(inputs, TCN(16, 3, dilations=(1, 2, 4), return_sequences=return_sequences)(inputs)), {"layers": {TCN: AwareTCN}}


def networks():
    """Yield name, origin and maker of each network."""
    for function in PAPERS:
        yield function.__name__.replace("_", "-"), function.__doc__.partition(":")[0], lambda function=function: from_paper(function)
    if importlib.util.find_spec("classification_models_1D"):
        for name, key in LIBRARY.items():
            yield name, "classification-models-1D", lambda key=key: from_library(*key)
    if importlib.util.find_spec("tcn"):
        yield "TCN, last frame", "keras-tcn, with `layers={TCN: AwareTCN}`", lambda: from_keras_tcn(False)
        yield "TCN, all frames", "keras-tcn, with `layers={TCN: AwareTCN}`", lambda: from_keras_tcn(True)


def difference(model, options, lengths):
    """Return the largest relative difference of padded rows from the plain model on each alone, and how many were compared."""
    aware = mask_aware(model, **options)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, FEATURES)).astype("float32") for n in lengths]
    x = np.stack([np.pad(row, [(0, max(lengths) + 7 - len(row)), (0, 0)]) for row in rows])
    together = ops.convert_to_numpy(aware({"features": x, "lengths": np.array(lengths)}))
    worst, compared = 0.0, 0
    for got, row in zip(together, rows, strict=True):
        try:
            want = ops.convert_to_numpy(model(row[None]))[0]
        except Exception:  # branches of unequal lengths: the plain network has no answer for this number of frames
            continue
        got = got[: len(want)] if want.ndim > 1 else got
        worst, compared = max(worst, float(np.abs(got - want).max() / np.abs(want).max())), compared + 1
    return worst, compared


def outcome(make, lengths):
    try:
        model, options = make()
        worst, compared = difference(model, options, lengths)
    except ArgumentError as error:
        return "refused", str(error).removeprefix("mask_aware: ")
    rest = "" if compared == len(LENGTHS) else f" (at {compared} of {len(LENGTHS)} lengths; the plain network fails at the others)"
    return ("not run" if not compared else "exact" if worst <= 1e-5 else "NOT EXACT"), f"{worst:.1e}{rest}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+")
    chosen = parser.parse_args().models
    rows = dict(read()) if chosen else {}
    for name, origin, make in networks():
        if chosen and name not in chosen:
            continue
        verdict, detail = outcome(make, [n * LONGER for n in LENGTHS] if name in LIBRARY else LENGTHS)
        rows[name] = f"| {name} | {origin} | {verdict} | {detail} |"
        Console(width=200).print(rows[name], markup=False)
        keras.backend.clear_session()
        write(rows)


def read():
    """Yield the rows of the last run, by name."""
    for line in FILE.read_text().splitlines() if FILE.exists() else []:
        name, *rest = line.strip("| ").split(" | ")
        if len(rest) == 3 and name != "network":
            yield name, line


def write(rows):
    verdicts = [row.split(" | ")[2] for row in rows.values()]
    total = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
    text = f"""# Published networks under `mask_aware`

Made by `python -m benchmarks.models` (Keras {keras.__version__}, {keras.backend.backend()}): random weights; sequences of
{", ".join(map(str, LENGTHS))} frames ({LONGER} times as many for the library) in one batch with 7 frames more, against
the plain network on each sequence alone. The figure is the largest difference, relative to the largest output; "exact" is at most
1e-5. The networks named by a paper are small ones of its architecture.

{len(rows)} networks: {total}.

| network | from | verdict | largest difference, or the reason |
|---|---|---|---|
"""
    FILE.write_text(text + "\n".join(rows.values()) + "\n")


if __name__ == "__main__":
    main()

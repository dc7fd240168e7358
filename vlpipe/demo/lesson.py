"""Train a model on sequences of different lengths, and score it on sequences that it has not seen. Copy what you need.

The datasets are directories that `vlpipe ingest` or `vlpipe.write` has written, with "features" `[T, d]`, or with waveforms and a
`transform` that makes features of them, and a number for each class as the label.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import vlpipe


def build_model(d: int, classes: int, mean: np.ndarray, variance: np.ndarray) -> keras.Model:
    """A Conv1D classifier for sequences of any length: the time axis is None, and global pooling replaces Flatten."""
    layers = keras.layers
    inputs = keras.Input((None, d))
    x = layers.Normalization(mean=mean, variance=np.maximum(variance, 1e-2))(inputs)
    x = layers.SpatialDropout1D(0.1)(x)
    for filters in (64, 96, 128):
        x = layers.Conv1D(filters, 5, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)  # 0.99 needs more steps than a small folder has
        x = layers.Activation("relu")(x)
        x = layers.MaxPooling1D(2, padding="same")(x)
        x = layers.Dropout(0.2)(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])
    outputs = layers.Dense(classes)(layers.Dropout(0.3)(x))
    return vlpipe.layers.mask_aware(keras.Model(inputs, outputs))  # padding changes no answer


def train(source: str, classes: int, epochs: int, augment: list[Any] | None = None, **features: Any) -> keras.Model:
    """Train a model on all records of a dataset.

    Args:
        augment: as for `make_dataset`, such as [vlpipe.SpecAugment()].
        **features: `transform`, if the dataset holds waveforms.
    """
    keras.utils.set_random_seed(0)
    few = keras.backend.backend() == "jax"  # which compiles the model for each shape
    batches = vlpipe.make_dataset(source, lengths=True, seed=0, shapes="static" if few else "any", augment=augment, **features)
    mean, variance = moments(source, **features)
    model = build_model(len(mean), classes, mean, variance)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, epochs * len(batches))),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(batches, epochs=epochs, shuffle=False, verbose=2)
    return model


def score(model: keras.Model, source: str, **features: Any) -> float:
    """The share of the records of a dataset whose class a model recognises; padding is not counted."""
    return float(vlpipe.evaluate(model, source, **features)["accuracy"])


def moments(source: str, **features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each of the d dimensions, over all frames of a dataset."""
    if not features:  # they were computed while the dataset was written
        known = vlpipe.open(source).statistics["features"]
        return known.mean, known.variance
    ragged = vlpipe.make_dataset(source, batching="ragged", label=False, shuffle=False, **features)
    frames = np.concatenate([x.values for (x,) in ragged])
    return frames.mean(axis=0), frames.var(axis=0)


def count_classes(*sources: str) -> int:
    """The number of classes: of the names that the datasets list, or from the largest label."""
    opened = vlpipe.open(list(sources))
    return len(opened.classes) if opened.classes else 1 + int(opened.table()["label"].max())

"""A program that trains with input that sleeps, and prints what `InputMonitor` says of it beside the truth."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import vlpipe


class Working(keras.callbacks.Callback):
    """A model that takes longer for each batch."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        time.sleep(self.seconds)


def sleeping(dataset: tf.data.Dataset, seconds: float, slept: list[float]) -> tf.data.Dataset:
    """The same batches, each after a sleep whose true length is recorded."""

    def sleep() -> np.int64:
        began = time.perf_counter()
        time.sleep(seconds)
        slept.append(time.perf_counter() - began)
        return np.int64(0)

    def step(*batch: Any) -> Any:
        with tf.control_dependencies([tf.numpy_function(sleep, [], tf.int64)]):
            return tf.nest.map_structure(tf.identity, batch)

    return dataset.map(step)


def train(dataset: tf.data.Dataset, batches: tf.data.Dataset, seconds: float, **compile_: Any) -> dict[str, list[float]]:
    """The history of two epochs of a model that takes `seconds` longer for each batch."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((None, 2)), layers.GlobalAveragePooling1D(), layers.Dense(1)])
    model.compile("sgd", "mse", **compile_)
    callbacks = [vlpipe.callbacks.InputMonitor(dataset), Working(seconds)]
    return dict(model.fit(batches, epochs=2, callbacks=callbacks, verbose=0).history)


def main(source: str) -> None:
    """Print a history without a prefetch, with the seconds slept in its last epoch, and one with a prefetch that leaves no waiting."""
    dataset = vlpipe.make_dataset(source, batch_size=4, buckets=1, pad_to="boundary", shuffle=False)
    slept: list[float] = []
    serial = train(dataset, sleeping(dataset, 0.06, slept), 0.04)
    steps = len(dataset)
    hidden = train(dataset, sleeping(dataset, 0.01, []).prefetch(4), 0.06)
    print(json.dumps({"serial": serial, "slept": sum(slept[-steps:]), "steps": steps, "hidden": hidden}))


if __name__ == "__main__":
    main(sys.argv[1])

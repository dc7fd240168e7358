"""A program that trains a model from a backup, if there is one; the weights depend on the batches and their order."""

from __future__ import annotations

import sys

import keras
import numpy as np

import vlpipe

ARGUMENTS = {"batch_size": 4, "seed": 3}


class StopAfter(keras.callbacks.Callback):
    """A crash after some batches of this run."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def main(source: str, directory: str, epochs: int, stop_after: int) -> None:
    """Print the weights and the number of optimizer steps."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, 2))
    hidden = keras.layers.Conv1D(4, 3, padding="same", activation="tanh")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(hidden)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    plan = vlpipe.plan(source, **ARGUMENTS)
    backup = vlpipe.callbacks.Backup(directory, plan, save_every=5)
    dataset = vlpipe.make_dataset(source, repeat=True, resume=backup.state, **ARGUMENTS)
    callbacks = [backup, *([StopAfter(stop_after)] if stop_after else [])]
    try:
        model.fit(dataset, epochs=epochs, initial_epoch=backup.epoch, steps_per_epoch=plan.steps_per_epoch, callbacks=callbacks, verbose=0)
    except KeyboardInterrupt:
        print("stopped", backup.state)
        return
    print(np.concatenate([np.ravel(weight) for weight in model.get_weights()]).tobytes().hex(), int(model.optimizer.iterations))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

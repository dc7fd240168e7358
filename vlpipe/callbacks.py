"""Keras callbacks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras

from vlpipe.arguments import integer
from vlpipe.errors import DatasetError
from vlpipe.files.atomic_directory import AtomicDirectory
from vlpipe.planning.plan import Plan

STATE_NAME = "state.json"
WEIGHTS_NAME = "model.weights.h5"


class Backup(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the weights and the place in the data, together, while `fit` runs; a run that stops goes on from there, in mid-epoch.

    Both are in one directory that is replaced in a single step, so that a kill at any moment leaves the old pair or the new one. When
    training begins, the saved weights (and the optimizer's variables) are put into the model. It ends when `epochs` epochs of the plan
    have been trained in all, this run and those before together.

    Args:
        directory: where to save; whatever is saved there is where training goes on.
        plan: the plan of the dataset, made with the same arguments (`seed` among them).
        save_every: batches between two saves; None: once an epoch.

    Attributes:
        state: what to pass to `make_dataset` as `resume`: a dict, or None where nothing was saved yet.
        epoch: what to pass to `fit` as `initial_epoch`.

    Raises:
        ArgumentError: the plan cannot be resumed (it has no seed, or the engine is "stream"), or `save_every` is no positive integer.
        DatasetError: what is saved there cannot be read, or the directory holds something else.

    Example:
        >>> arguments = {"batch_size": 32, "seed": 1}
        >>> plan = vlpipe.plan("data/train", **arguments)
        >>> backup = vlpipe.callbacks.Backup("backup", plan, save_every=100)
        >>> dataset = vlpipe.make_dataset("data/train", repeat=True, resume=backup.state, **arguments)
        >>> model.fit(dataset, epochs=10, initial_epoch=backup.epoch, steps_per_epoch=plan.steps_per_epoch, callbacks=[backup])
    """

    def __init__(self, directory: str | os.PathLike[str], plan: Plan, save_every: int | None = None) -> None:
        super().__init__()
        plan.state(0, 0)  # says at once what would fail at the first save
        self._directory, self._plan = Path(directory), plan
        self._every = plan.steps_per_epoch if save_every is None else integer("save_every", save_every, 1)
        self.state = self._read()
        self.epoch = 0 if self.state is None else int(self.state["epoch"])
        self._last = -1  # batch of the epoch that `fit` is in
        self._trained = 0 if self.state is None else self.epoch * plan.steps_per_epoch + int(self.state["batch"])

    def _read(self) -> dict[str, Any] | None:
        reason = _not_a_backup(self._directory)
        if reason:
            raise DatasetError(f"{self._directory}: {reason}, so it is no backup. Choose another directory.")
        if not self._directory.exists():
            return None
        try:
            state = json.loads((self._directory / STATE_NAME).read_text("utf-8"))
            integer("epoch", state["epoch"], 0)
            integer("batch", state["batch"], 0)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{self._directory / STATE_NAME}: cannot be read as a saved state ({error}). Remove the directory."
            ) from error
        return state

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the saved weights into the model."""
        if self.state is None:
            return
        if self.model.optimizer is not None and not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)  # or its variables would not be there to be loaded
        self.model.load_weights(self._directory / WEIGHTS_NAME)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Batches are counted from 0 again."""
        self._last = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves, if it is time, and ends training when all epochs are done."""
        before = self._trained
        self._trained += batch - self._last  # more than one, with compile(steps_per_execution=...)
        self._last = batch
        done = self._trained >= self.params["epochs"] * self._plan.steps_per_epoch
        if done or self._trained // self._every > before // self._every:
            self.save()
        if done:
            self.model.stop_training = True

    def save(self) -> None:
        """Save now.

        Raises:
            DatasetError: the directory cannot be written.
        """
        state = self._plan.state(*divmod(self._trained, self._plan.steps_per_epoch))
        staged = AtomicDirectory(self._directory, overwrite=True, replaceable=_not_a_backup)
        try:
            self.model.save_weights(staged.path / WEIGHTS_NAME)
            (staged.path / STATE_NAME).write_text(json.dumps(state), "utf-8")
            staged.commit()
        except BaseException:
            staged.abort()
            raise
        self.state = state


def _not_a_backup(path: Path) -> str | None:
    """Why a path that exists is not to be replaced."""
    if not path.exists():
        return None
    if not path.is_dir():
        return "it is a file"
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in (STATE_NAME, WEIGHTS_NAME))
    return f"it holds {others[:3]}" if others else None

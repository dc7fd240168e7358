"""Keras callbacks."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from vlpipe.arguments import integer
from vlpipe.engines.waiting import Waiting
from vlpipe.errors import ArgumentError, DatasetError, counted
from vlpipe.files.atomic_directory import AtomicDirectory, os_errors_as_dataset_errors, put_back, refuse_address_as_target
from vlpipe.files.json_files import read_json
from vlpipe.planning.plan import Plan
from vlpipe.regular_files import create

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["Backup", "InputMonitor", "SkippedRecords"]


def __dir__() -> list[str]:
    return list(__all__)


STATE_NAME = "state.json"
WEIGHTS_NAME = "model.weights.h5"
MUCH_WAITING = 0.05  # share of the time; below it, no change of the input is worth the work

_log = logging.getLogger("vlpipe")


class Backup(keras.callbacks.Callback):  # type: ignore[misc]
    """Save the weights together with the position in the data while `fit` runs; a run that stopped resumes there, also in mid-epoch.

    Both are files of one directory that is replaced in a single step: a kill at any moment leaves the previous save or the new one. When
    training begins, the saved weights and optimizer variables are loaded into the model. Training ends after `epochs` epochs of the plan
    in total, over this run and the previous ones.

    Of several ranks, each has a `Backup` of the same directory, which all of them see, with the plan of its own `shard`: all ranks read the
    state and the weights, and only rank 0 writes them. (Weights of a model whose ranks train alike are those of any rank.)

    Args:
        directory: the directory of the backup; where it holds one, training resumes from it.
        plan: the plan of the dataset, made with the same arguments (`seed` and `shard` among them).
        save_every: batches between two saves; None: save once per epoch.

    Attributes:
        state: pass it to `make_dataset` as `resume`: a dict, or None where nothing was saved yet. On ranks above 0, what
            was read.
        epoch: pass it to `fit` as `initial_epoch`.

    Raises:
        ArgumentError: the plan cannot be resumed (it has no seed, or the engine is "stream"), `save_every` is not a positive integer, or
            the directory is an address.
        DatasetError: the saved state cannot be read, or the directory holds other files.

    Example:
        >>> import os, tempfile
        >>> directory = tempfile.mkdtemp()
        >>> source, arguments = os.path.join(directory, "train"), {"batch_size": 4, "seed": 1}
        >>> vlpipe.write(source, ({"features": np.ones((n, 2), "f4"), "label": n % 2} for n in range(1, 17)))
        >>> layers = keras.layers
        >>> model = keras.Sequential([keras.Input((None, 2)), layers.GlobalAveragePooling1D(), layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> plan = vlpipe.plan(source, **arguments)
        >>> backup = vlpipe.callbacks.Backup(os.path.join(directory, "backup"), plan, save_every=2)
        >>> dataset = vlpipe.make_dataset(source, repeat=True, resume=backup.state, **arguments)
        >>> fit = {"initial_epoch": backup.epoch, "steps_per_epoch": plan.steps_per_epoch, "callbacks": [backup]}
        >>> history = model.fit(dataset, epochs=2, verbose=0, **fit)
        >>> vlpipe.callbacks.Backup(os.path.join(directory, "backup"), plan).epoch  # after a crash, run all of this again
        2
    """

    def __init__(self, directory: str | os.PathLike[str], plan: Plan, save_every: int | None = None) -> None:
        super().__init__()
        plan.state(0, 0)  # raises now, not at the first save
        refuse_address_as_target(directory)  # likewise
        self._directory, self._plan = Path(directory), plan
        self._every = plan.steps_per_epoch if save_every is None else integer("save_every", save_every, 1)
        self.state = self._read()
        self.epoch = 0 if self.state is None else int(self.state["epoch"])
        self._last = -1  # the latest batch of the epoch that `fit` has reported
        self._trained = 0 if self.state is None else self.epoch * plan.steps_per_epoch + int(self.state["batch"])

    def __repr__(self) -> str:
        position = "nothing saved yet" if self.state is None else f"epoch {self.state['epoch']}, batch {self.state['batch']}"
        return f"Backup({str(self._directory)!r}): {position}, every {counted(self._every, 'batch')}"

    def _read(self) -> dict[str, Any] | None:
        put_back(self._directory)
        reason = _not_a_backup(self._directory)
        if reason:
            raise DatasetError(f"{self._directory}: {reason}, so it is not a backup. Choose another directory.")
        if not self._directory.exists():
            return None
        try:
            state = read_json(self._directory / STATE_NAME)
            integer("epoch", state["epoch"], 0)
            integer("batch", state["batch"], 0)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{self._directory / STATE_NAME}: cannot be read as a saved state ({error}). Remove the directory."
            ) from error
        return state

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Load the saved weights into the model."""
        if self.state is None:
            return
        if self.model.optimizer is not None and not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)  # creates the variables to load
        self.model.load_weights(self._directory / WEIGHTS_NAME)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restart the count of batches: Keras counts them from 0 in every epoch."""
        self._last = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save when due, and end training when all epochs are done."""
        before = self._trained
        self._trained += batch - self._last  # more than one batch with compile(steps_per_execution=...)
        self._last = batch
        done = self._trained >= self.params["epochs"] * self._plan.steps_per_epoch
        if done or self._trained // self._every > before // self._every:
            self.save()
        if done:
            self.model.stop_training = True

    def save(self) -> None:
        """Save the weights and the position in the data now; on ranks above 0, do nothing: rank 0 writes the directory of all.

        Raises:
            DatasetError: the directory cannot be written.
        """
        if self._plan.options.shard[0] > 0:
            return
        state = self._plan.state(*divmod(self._trained, self._plan.steps_per_epoch))
        staged = AtomicDirectory(self._directory, overwrite=True, replaceable=_not_a_backup)
        try:
            with os_errors_as_dataset_errors(os.fspath(self._directory)):
                self.model.save_weights(staged.path / WEIGHTS_NAME)
                with create(staged.path / STATE_NAME) as file:
                    file.write(json.dumps(state).encode())
            staged.commit()
        except BaseException:
            staged.abort()
            raise
        self.state = state


class SkippedRecords(keras.callbacks.Callback):  # type: ignore[misc]
    """The damaged records that a run has left out, of a dataset made with `on_damage=vlpipe.Skip(...)`.

    At the end of each epoch of `fit` their number is the entry "skipped_records" of its logs and history. Batches are made ahead of the
    model: a record counts when its batch is made. Each rank knows those of its own batches.

    Args:
        dataset: what `make_dataset` returned (not what `map` or `prefetch` made of it).

    Raises:
        ArgumentError: it is something else, or has no such `on_damage`.

    Example:
        >>> vlpipe.write("data/train", ({"features": np.ones((n, 2), "f4"), "label": n % 2} for n in range(1, 17)))
        >>> dataset = vlpipe.make_dataset("data/train", remainder="pad", on_damage=vlpipe.Skip(most=10))
        >>> model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> skipped = vlpipe.callbacks.SkippedRecords(dataset)
        >>> history = model.fit(dataset, epochs=2, verbose=0, callbacks=[skipped])
        >>> skipped.places, history.history["skipped_records"]
        ([], [0, 0])
    """

    def __init__(self, dataset: tf.data.Dataset) -> None:
        super().__init__()
        skipped = getattr(dataset, "vlpipe_skipped", None)
        if skipped is None:
            raise ArgumentError(
                f"SkippedRecords: came with {type(dataset).__name__}, expected the dataset that make_dataset(on_damage=vlpipe.Skip(...)) "
                "returned, before any map or prefetch."
            )
        self._skipped = skipped

    def __repr__(self) -> str:
        return f"SkippedRecords: {counted(len(self.places), 'record')} skipped so far"

    @property
    def places(self) -> list[str]:
        """Where the records are, such as "train-00003-of-00016.tfrecord, record 17 at byte 88120", in the order in which they were met."""
        return list(self._skipped.places)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the number of records to the logs."""
        if logs is not None:
            logs["skipped_records"] = len(self.places)


class InputMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """How much of its time `fit` waits for input, on each backend of Keras, whatever the input is.

    At the end of each epoch these are entries of its logs and history:

    - "input_wait": share of the epoch that the model waited for the next batch, from 0 to 1. The time of an epoch ends with its last batch:
      validation is not in it, compiling is. It is left out where Keras fetches batches while the model trains, so that no clock can
      tell: under a `tf.distribute` strategy of several replicas, and with compile(steps_per_execution=...).
    - "batches_per_second".
    - With `dataset`: "frames_per_second", without padding, and "padding", the share of the delivered frames that are padding. Both follow
      from the plan: a batch counts as the average one of its epoch, and frames of damaged records that were left out are counted.
    - With `dataset` made with `on_damage=vlpipe.Skip(...)`: "skipped_records", as of `SkippedRecords`.

    At the end of training one warning (logger "vlpipe") says what to change where the model waited more than 5 % of the time, the first of
    several epochs left out. Batches and their order stay the same. Like each callback that is called after every batch, it makes Keras wait
    for the device there. The time of other callbacks between two batches counts as waiting on PyTorch, so put it last but for
    `CSVLogger` and `TensorBoard`, which log its entries if they come after it.

    Args:
        dataset: what `make_dataset` returned (not what `map` or `prefetch` made of it: `fit` may get that); None: any other input.

    Raises:
        ArgumentError: the dataset is something else.

    Example:
        >>> vlpipe.write("data/train", ({"features": np.ones((n, 2), "f4"), "label": n % 2} for n in range(1, 17)))
        >>> dataset = vlpipe.make_dataset("data/train", batch_size=4)
        >>> model = keras.Sequential([keras.Input((None, 2)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(dataset, epochs=2, verbose=0, callbacks=[vlpipe.callbacks.InputMonitor(dataset)]).history
        >>> sorted(history)
        ['batches_per_second', 'frames_per_second', 'input_wait', 'loss', 'padding']
        >>> 0 <= history["input_wait"][1] <= 1
        True
    """

    def __init__(self, dataset: tf.data.Dataset | None = None) -> None:
        super().__init__()
        self._plan: Plan | None = getattr(dataset, "vlpipe_plan", None)
        self._skipped = getattr(dataset, "vlpipe_skipped", None)
        if dataset is not None and self._plan is None:
            raise ArgumentError(
                f"InputMonitor: came with {type(dataset).__name__}, expected the dataset that make_dataset returned, before any map or "
                "prefetch. For other input write InputMonitor()."
            )
        self._waiting = Waiting()
        self._epochs: list[tuple[float, float]] = []  # seconds of waiting, and all seconds
        self._began = self._ended = self._before = self._between = 0.0
        self._batches = 0

    def __repr__(self) -> str:
        return f"InputMonitor: {counted(len(self._epochs), 'epoch')} measured"

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Measure inside the train function, which fetches the batches on TensorFlow and JAX."""
        self._epochs, self._waiting = [], Waiting()
        self.model.train_function = self._waiting.watched(self.model.train_function)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._began = self._ended = time.perf_counter()
        self._before = self._between = 0.0
        self._batches = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the time since the last batch; before the first one, Keras creates the iterator."""
        seconds = time.perf_counter() - self._ended
        if self._batches:
            self._between += seconds
        else:
            self._before = seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the batches: several at once with compile(steps_per_execution=...)."""
        self._ended = time.perf_counter()
        self._batches = min(batch + 1, self.params.get("steps") or batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the entries to the logs."""
        inside, seconds = self._waiting.seconds(), self._ended - self._began
        if logs is None or not self._batches:
            return
        if self._waiting.is_measured and self.model.steps_per_execution == 1:
            waited = self._before + (inside if self._waiting.is_inside else self._between)
            self._epochs.append((waited, seconds))
            logs["input_wait"] = min(1.0, waited / seconds)  # the two come from different clocks
        logs["batches_per_second"] = self._batches / seconds
        if self._plan is not None:
            batches = self._plan.steps_per_epoch * self._plan.options.shard[1]
            logs["frames_per_second"] = self._plan.valid_frames / batches * self._batches / seconds
            logs["padding"] = 1 - self._plan.valid_ratio
        if self._skipped is not None:
            logs["skipped_records"] = len(self._skipped.places)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Say what to change where the model waited long."""
        self.model.train_function = self._waiting.unwatched(self.model.train_function)
        epochs = self._epochs[1:] or self._epochs  # the first one compiles, and its files may not be in memory yet
        waited, seconds = (sum(times) for times in zip(*epochs, strict=True)) if epochs else (0.0, 0.0)
        if waited > MUCH_WAITING * seconds:
            _log.warning(
                "the model waited for its input %.0f %% of the time (%.3g of %.3g s): %s",
                100 * waited / seconds,
                waited,
                seconds,
                _advice(self._plan),
            )


def _advice(plan: Plan | None) -> str:
    """What makes the input of a model faster, by what makes it slow."""
    own = "if map steps of your own follow make_dataset, give them num_parallel_calls=tf.data.AUTOTUNE and end with prefetch(2)"
    if plan is None:
        return "give the map steps of the input num_parallel_calls=tf.data.AUTOTUNE, and end it with prefetch(2)."
    if plan.engine == "stream":
        return f"the stream engine reads every record in order: `vlpipe convert` the files, so that the mapped engine can read them; {own}."
    if plan.engine == "graph":
        return f'copy the files to a local disk, so that engine="mapped" can read them; {own}.'
    if plan.frame_plan.has_transforms:
        return (
            "the pipeline computes on the frames (transform, normalize, augment, decoding): store what is the same in every epoch, with "
            f"`vlpipe ingest` or vlpipe.write; {own}."
        )
    return f"the first epoch also reads the files into memory; if later ones wait as long, put them on a faster disk; {own}."


def _not_a_backup(path: Path) -> str | None:
    """Return why an existing path must not be replaced; None where it may be."""
    if not path.exists():
        return None
    if not path.is_dir():
        return "it is a file"
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in (STATE_NAME, WEIGHTS_NAME))
    return f"it holds {others[:3]}" if others else None

"""`vlpipe.batches`: an iterable of batches as NumPy arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.engines.batch_reader import AHEAD
from vlpipe.engines.element import element_of
from vlpipe.errors import ArgumentError
from vlpipe.numpy_batches.ahead import Ahead, guarded
from vlpipe.numpy_batches.class_weights import sample_weights
from vlpipe.numpy_batches.finite import Flat
from vlpipe.numpy_batches.flat import FlatBatches
from vlpipe.numpy_batches.served import check_options, check_plan
from vlpipe.planning.begin_run import begin_run, with_seed
from vlpipe.planning.class_weights import tables
from vlpipe.planning.make_plan import make_plan
from vlpipe.planning.options import Options
from vlpipe.planning.plan import Plan
from vlpipe.planning.resume import ENDLESS, last_epoch
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.paths import Source

if TYPE_CHECKING:
    import keras
    from typing_extensions import Unpack

    from vlpipe.planning.argument_types import Arguments

THREADS = 4  # at most: copying takes no interpreter lock, but all else of a batch does
MAX_AHEAD = 1 << 16


def batches(source: Source, *, prefetch: int = AHEAD, **arguments: Unpack[Arguments]) -> Batches:
    """The batches of `make_dataset` as NumPy arrays, for loops in Python: without tf.data, and without loading TensorFlow.

    Elements have the same structure, order and bytes as those of `make_dataset` with the same arguments. Each iteration is the next epoch;
    with repeat=True, an endless run from its first batch, or from that of `resume`. A batch that you keep stays as it is: its memory is
    used again only when nothing refers to it. Texts are bytes in arrays of objects.

    Threads make the batches, as long as an iterator is used; they end with it. The files must be local and not compressed. What needs
    a graph is refused: `transform`, augmentations of waveforms, batching="ragged", engines other than "mapped", values that are parsed
    (encoded audio, integers of third-party files, custom layouts).

    Args:
        source: as for `make_dataset`.
        prefetch: batches that are made ahead of the loop; 0: none, and no threads.
        **arguments: as for `make_dataset`; `num_parallel_calls` is the number of threads.

    Raises:
        VlpipeError: one of its subclasses, as `make_dataset`, also while iterating: a damaged record is a `DatasetError`.

    Example:
        >>> vlpipe.write("data/train", ({"features": np.ones((t, 8), np.float32), "label": t % 2} for t in range(1, 101)))
        >>> train = vlpipe.batches("data/train", batch_size=10, seed=1)
        >>> len(train), sum(len(x) for x, y in train)
        (10, 100)
    """
    prefetch = integer("prefetch", prefetch, 0, MAX_AHEAD)
    options = with_seed(Options.of(**arguments))
    check_options(options)
    plan = make_plan(open_anywhere(source, options.layout, options.label_classes, options.label), options)
    check_plan(plan)
    return Batches(plan, prefetch)


class Batches:
    """What `vlpipe.batches` returns: every iteration over it is an epoch, or with repeat=True an endless run.

    Attributes:
        plan: the forecast of an epoch, whose `state` makes the states for `resume`.
    """

    def __init__(self, plan: Plan, prefetch: int) -> None:
        self.plan = plan
        self._prefetch = prefetch
        self._threads = plan.options.num_parallel_calls or min(THREADS, os.cpu_count() or 1)
        self._start, skipped = begin_run(plan)
        self._flat = FlatBatches(plan, skipped, max(prefetch, self._threads))
        self._class_weights = tables(plan.index, plan.selection.labels, plan.options.class_weight)
        self._next_epoch, self._lock = 0, threading.Lock()
        self.vlpipe_skipped = skipped  # for `callbacks.SkippedRecords`

    def __len__(self) -> int:
        if self.plan.options.repeat:
            raise TypeError("batches: with repeat=True there is no end, so no length; plan.steps_per_epoch has the batches of an epoch")
        return self.plan.steps_per_epoch

    def __iter__(self) -> BatchIterator:
        return BatchIterator(self)

    def __repr__(self) -> str:
        return f"<vlpipe.batches: {self.plan.steps_per_epoch} an epoch, of {self.plan.records} {self.plan.unit}>"

    def batch(self, epoch: int, batch: int) -> tuple[Any, ...]:
        """One batch, made at once.

        Args:
            epoch: its epoch, from 0.
            batch: its position in the epoch, from 0.

        Raises:
            ArgumentError: there is no such batch.
        """
        epoch, batch = self._checked_epoch(epoch), integer("batch", batch, 0, self.plan.steps_per_epoch - 1)
        element: tuple[Any, ...] = guarded(self._make, epoch * self.plan.steps_per_epoch + batch)
        return element

    def as_py_dataset(self, *, epoch: int = 0) -> keras.utils.PyDataset:
        """The batches as a `keras.utils.PyDataset`, for `model.fit(data, shuffle=False)` on JAX, PyTorch or TensorFlow.

        An epoch of Keras is one of the run. Pass shuffle=False to `fit`: the batches are shuffled already, and they are made ahead only
        if Keras asks for them in their order. An epoch that was interrupted begins again.

        Args:
            epoch: the first one, such as `initial_epoch` of a `fit` that is continued.

        Raises:
            ArgumentError: with repeat=True: `fit` counts the epochs.
        """
        from vlpipe.numpy_batches.keras_dataset import BatchesOfEpochs

        if self.plan.options.repeat:
            raise ArgumentError("as_py_dataset: came with repeat=True, but fit counts the epochs itself. Leave repeat out.")
        return BatchesOfEpochs(self.plan.steps_per_epoch, self.batch, self._ahead, self._larger, self._checked_epoch(epoch))

    def _checked_epoch(self, epoch: int) -> int:
        return integer("epoch", epoch, 0, last_epoch(self.plan.steps_per_epoch))

    def _make(self, number: int) -> tuple[Any, ...]:
        return self._element(self._flat(number))

    def _larger(self) -> tuple[Any, ...]:
        """A batch like the first one, but with one more row and frame where batches differ."""
        rows, frames = self.plan.static_shape
        key = f"x:{self.plan.selection.key}"

        def larger(name: str, array: np.ndarray) -> np.ndarray:
            more_frames = name in self.plan.least_by_part and (frames is None or name != key)
            shape = (array.shape[0] + (rows is None), *(size + more_frames for size in array.shape[1:2]), *array.shape[2:])
            return np.resize(array, shape)

        return self._element({name: larger(name, array) for name, array in self._flat(0).items()})

    def _element(self, batch: Flat) -> tuple[Any, ...]:
        weights = sample_weights(batch, self.plan.selection, self._class_weights) if self._class_weights else None
        return element_of(batch, self.plan, weights)

    def _ahead(self, numbers: range) -> Ahead:
        return Ahead(self._make, numbers, self._threads, self._prefetch)

    def _draw(self) -> tuple[int, int]:
        """The epoch and the batch at which an iterator starts, drawn under the lock."""
        if self.plan.options.repeat:
            return self._start
        self._next_epoch += 1
        return self._next_epoch - 1, 0


class BatchIterator(Iterator[tuple[Any, ...]]):
    """An iterator over batches. It draws the number of its epoch, and starts its threads, when its first batch is requested."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._ahead: Ahead | None = None
        self._first = (0, 0)

    def __next__(self) -> tuple[Any, ...]:
        element: tuple[Any, ...] = next(self._begun())
        return element

    def _begun(self) -> Ahead:
        """The batches of the epoch, whose number is drawn by the first call."""
        if self._ahead is None:
            plan = self._batches.plan
            with self._batches._lock:  # several threads may begin at the same time
                if self._ahead is None:
                    self._first = self._batches._draw()
                    first = self._first[0] * plan.steps_per_epoch + self._first[1]
                    numbers = range(first, ENDLESS if plan.options.repeat else first + plan.steps_per_epoch)
                    self._ahead = self._batches._ahead(numbers)
        return self._ahead

    @property
    def position(self) -> tuple[int, int]:
        """The epoch and the batch in it that come next."""
        taken = self._begun().taken
        steps = self._batches.plan.steps_per_epoch
        epochs, batch = divmod(self._first[1] + taken, steps) if steps else (0, 0)
        return self._first[0] + epochs, batch

    def state(self) -> dict[str, Any]:
        """The state with which `vlpipe.batches(..., repeat=True, resume=state)`, or `make_dataset`, delivers what comes next.

        Raises:
            ArgumentError: as `Plan.state`.
        """
        return self._batches.plan.state(*self.position)

    def close(self) -> None:
        """End the threads; there are no further batches."""
        self._begun().close()

"""Batches for `model.fit` as Keras takes them on every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from vlpipe.errors import ArgumentError

if TYPE_CHECKING:
    from vlpipe.numpy_batches.ahead import Ahead
    from vlpipe.numpy_batches.batches import Batches


def py_dataset(batches: Batches, epoch: int) -> keras.utils.PyDataset:
    """The `keras.utils.PyDataset` of `Batches.as_py_dataset`.

    Raises:
        ArgumentError: the run is endless.
    """
    if batches.plan.options.repeat:
        raise ArgumentError("as_py_dataset: came with repeat=True, but fit counts the epochs itself. Leave repeat out.")
    return _BatchesOfEpochs(batches, epoch)


class _BatchesOfEpochs(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """The batches of one epoch after another, by their positions.

    Keras looks at some batches before it trains, so that asking twice for one changes nothing: an epoch is over when each of its batches
    was asked for. Those that come in order are made ahead.
    """

    def __init__(self, batches: Batches, epoch: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._batches, self._epoch = batches, epoch
        self._asked: set[int] = set()
        self._stream: Ahead | None = None
        self._next = 0  # the position that the stream delivers next

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self._batches.plan.steps_per_epoch

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if len(self._asked) == self.num_batches:
            self._epoch, self._asked = self._epoch + 1, set()
        self._asked.add(index)
        if index == 0:
            first = self._epoch * self.num_batches
            self._close()
            self._stream, self._next = self._batches._ahead(iter(range(first, first + self.num_batches))), 0
        if self._stream is None or index != self._next:
            return self._batches.batch(self._epoch, index)
        self._next += 1
        element: tuple[Any, ...] = next(self._stream)
        if self._next == self.num_batches:
            self._close()
        return element

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

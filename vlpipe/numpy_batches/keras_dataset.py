"""Batches for `model.fit` as Keras takes them on every backend."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import keras

from vlpipe.errors import ArgumentError
from vlpipe.numpy_batches.ahead import Ahead


class BatchesOfEpochs(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """The batches of one epoch after another, by their positions.

    Keras looks at some batches before it trains, so that asking twice for one changes nothing: an epoch is over when each of its batches
    was asked for. Those that come in order are made ahead.

    Args:
        steps: batches in an epoch.
        batch: makes the batch with an epoch and a position.
        ahead: makes the batches with these numbers, counted from the first one of epoch 0, ahead.
        larger: makes a batch like the first one, but with one more row and frame where batches differ.
        epoch: the first one.
    """

    def __init__(
        self,
        steps: int,
        batch: Callable[[int, int], tuple[Any, ...]],
        ahead: Callable[[range], Ahead],
        larger: Callable[[], tuple[Any, ...]],
        epoch: int,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._steps, self._batch, self._ahead, self._larger, self._epoch = steps, batch, ahead, larger, epoch
        self._asked: set[int] = set()
        self._stream: Ahead | None = None
        self._next = 0  # the position that the stream delivers next
        self._lock = threading.Lock()  # Keras asks from several threads if its user sets `workers`

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self._steps

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """The batch at a position of the epoch.

        Raises:
            ArgumentError: in processes of Keras, each of which would count epochs of its own, so that all epochs would have one order.
        """
        if self.use_multiprocessing:
            raise ArgumentError(
                "as_py_dataset: came with use_multiprocessing=True, expected False: threads make the batches. Leave it out."
            )
        if _is_for_shapes():
            return self._larger() if index else self._batch(0, 0)
        with self._lock:
            return self._batch_at(index)

    def _batch_at(self, index: int) -> tuple[Any, ...]:
        if len(self._asked) == self._steps:
            self._epoch, self._asked = self._epoch + 1, set()
        self._asked.add(index)
        if index == 0:
            first = self._epoch * self._steps
            self._close()
            self._stream, self._next = self._ahead(range(first, first + self._steps)), 0
        if self._stream is None or index != self._next:
            return self._batch(self._epoch, index)
        self._next += 1
        element: tuple[Any, ...] = next(self._stream)
        if self._next == self._steps:
            self._close()
        return element

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def _is_for_shapes() -> bool:
    """Whether Keras, on TensorFlow, asks for the two batches from whose shapes it infers those of all.

    Where these two have as many frames, or rows, by chance, it would refuse the first batch with another number, in the middle of an epoch.
    """
    frame = sys._getframe(2)  # the caller of `__getitem__`
    return any(code.co_name == "get_tf_dataset" for code in (frame.f_code, *([frame.f_back.f_code] if frame.f_back else [])))

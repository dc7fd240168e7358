"""How long the training of Keras waits for its batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf


class Waiting:
    """The seconds that a train function of Keras waits for the next batch of the iterator that it is called with.

    On TensorFlow Keras calls `get_next` inside a tf.function, on JAX `next` inside the train function, and with compile(
    steps_per_execution=...) several times, where no callback is called. So the train function is given another iterator, whose every
    batch is the next one of the first iterator, and which reads the clock before and after. Compiling and training are outside of it.

    Attributes:
        is_inside: whether the train function fetches its batches; on PyTorch it is called with one batch.
        is_measured: whether its waiting can be measured: not under a `tf.distribute` strategy that fetches batches in threads of its own.
    """

    def __init__(self) -> None:
        self.is_inside = self.is_measured = True
        self._seconds = 0.0
        self._in_graph: tf.Variable | None = None
        self._timed: tuple[Any, Any] = (None, None)  # the iterator of the epoch, and the one that takes from it

    def seconds(self) -> float:
        """The seconds since the last call."""
        seconds = self._seconds
        if self._in_graph is not None:
            seconds += float(self._in_graph.numpy())
            self._in_graph.assign(0.0)
        self._seconds = 0.0
        return seconds

    def watched(self, train_function: Callable[..., Any]) -> Callable[..., Any]:
        """The train function that measures; one that already does, because the `fit` before ended with an error, is replaced."""
        function = self.unwatched(train_function)

        def watching(*arguments: Any) -> Any:  # (iterator), or on JAX (state, iterator)
            return function(*arguments[:-1], self._timed_iterator(arguments[-1]))

        watching.vlpipe_unwatched = function  # type: ignore[attr-defined]
        return watching

    @staticmethod
    def unwatched(train_function: Callable[..., Any]) -> Callable[..., Any]:
        """The train function without the measurement."""
        function: Callable[..., Any] = getattr(train_function, "vlpipe_unwatched", train_function)
        return function

    def _timed_iterator(self, batches: Any) -> Any:
        if self._timed[0] is not batches:
            self._timed = (batches, self._wrapped(batches))
        return self._timed[1]

    def _wrapped(self, batches: Any) -> Any:
        import keras

        self.is_inside = hasattr(batches, "__next__")
        if not self.is_inside:
            return batches
        if keras.backend.backend() != "tensorflow":
            return _TimedIterator(batches, self._add)
        import tensorflow as tf

        self.is_measured = isinstance(batches, tf.data.Iterator)
        if not self.is_measured:
            return batches
        if self._in_graph is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._in_graph = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        return iter(_timed_dataset(batches, self._in_graph))

    def _add(self, seconds: float) -> None:
        self._seconds += seconds


class _TimedIterator:
    """The batches of an iterator in Python; `add` gets the seconds that each takes."""

    def __init__(self, batches: Iterator[Any], add: Callable[[float], None]) -> None:
        self._batches, self._add = batches, add

    def __iter__(self) -> _TimedIterator:
        return self

    def __next__(self) -> Any:
        asked = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._add(time.perf_counter() - asked)


def _timed_dataset(iterator: tf.data.Iterator, seconds: tf.Variable) -> tf.data.Dataset:
    """The batches of an iterator of tf.data; the seconds that each takes are added to a variable."""
    import tensorflow as tf

    as_it_is = tf.autograph.experimental.do_not_convert

    @as_it_is
    def take(_: tf.Tensor) -> tf.experimental.Optional:
        asked = tf.timestamp()
        with tf.control_dependencies([asked]):
            batch = iterator.get_next_as_optional()  # `get_next` would make the end of the data an error here
            is_there = batch.has_value()
        with tf.control_dependencies([is_there]):
            came = tf.timestamp()
        seconds.assign_add(came - asked)
        return batch

    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False  # no stage may run ahead of the model: it would hide the waiting
    batches = tf.data.Dataset.counter().map(take)
    batches = batches.take_while(as_it_is(lambda batch: batch.has_value())).map(as_it_is(lambda batch: batch.get_value()))
    return batches.with_options(options)

"""The two ways to consume batches, and what an iterator costs beside them.

A loop in Python takes each batch, as loops on JAX and PyTorch do. A graph, a `tf.function` over the dataset, takes them without Python
between two batches, as Keras' `fit` on TensorFlow does. Only datasets of tf.data can be consumed so.

    python -m benchmarks.consuming WAY NATIVE PLAIN BATCH_SIZE FEATURES [LABEL]

makes the first batch of a way in this process and prints the time (seconds since 1970) when it was there.
"""

from __future__ import annotations

import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.pipelines import Task

ROOT = Path(__file__).parents[1]
ARRAYS = "vlpipe batches"  # the way that needs no TensorFlow


def arrays(native: str | Path, batch_size: int, features: str, label: str | None) -> Any:
    """The batches of `vlpipe.batches`, with the arguments of the other ways of vlpipe (`pipelines.engine`)."""
    import vlpipe

    fields: dict[str, Any] = {"features": features, "label": label or False}
    return vlpipe.batches(native, batch_size=batch_size, lengths=True, seed=1, length_range=(0, None), **fields)


def is_for_graphs(epochs: Any) -> bool:
    """Whether a graph can consume the batches."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(epochs, tensorflow.data.Dataset)


def in_graph(dataset: Any) -> Callable[[], object]:
    """A function that consumes an epoch in a graph; it is traced once."""
    import tensorflow as tf

    @tf.function
    def consume() -> tf.Tensor:
        rows = tf.constant(0, tf.int64)
        for batch in dataset:
            rows += tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]
        return rows

    return lambda: consume().numpy()


class SeenInGraph:
    """The batches of an epoch as a graph gets them: each is handed to Python from inside it."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self._structure = dataset, dataset.element_spec

    def __iter__(self) -> Iterator[Any]:
        import tensorflow as tf

        seen: queue.Queue[list[Any] | None] = queue.Queue(4)  # not all: an epoch may exceed the memory

        def see(*parts: Any) -> np.int64:
            seen.put([part.copy() if isinstance(part, np.ndarray) else part for part in parts])
            return np.int64(1)

        @tf.function
        def consume() -> tf.Tensor:
            count = tf.constant(0, tf.int64)
            for batch in self._dataset:
                there = [part for part in tf.nest.flatten(batch) if part is not None]
                count += tf.numpy_function(see, there, tf.int64)
            return count

        def run() -> None:
            try:
                consume()
            finally:
                seen.put(None)

        threading.Thread(target=run).start()
        while (parts := seen.get()) is not None:
            rest = iter(parts)
            yield tf.nest.map_structure(lambda part, rest=rest: next(rest) if isinstance(part, tf.TensorSpec) else None, self._structure)


def iterator_costs(epochs: Iterable[Any], rounds: int) -> dict[str, list[float]]:
    """The seconds from the creation of an iterator to its first batch, and those that it takes to delete it, in each round."""
    costs: dict[str, list[float]] = {"first_batch_seconds": [], "delete_seconds": []}
    for _ in range(rounds):
        start = time.perf_counter()
        iterator = iter(epochs)
        batch = next(iterator)
        there = time.perf_counter()
        del batch
        middle = time.perf_counter()
        del iterator
        costs["first_batch_seconds"].append(there - start)
        costs["delete_seconds"].append(time.perf_counter() - middle)
    return costs


def process_seconds(task: Task, way: str, times: int) -> list[float]:
    """The seconds from the start of a process to its first batch: imports, plan and all."""
    place = [str(task.native), str(task.plain), str(task.batch_size), task.features, *([task.label] if task.label else [])]
    taken = []
    for _ in range(times):
        start = time.time()
        command = [sys.executable, "-m", "benchmarks.consuming", way, *place]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        taken.append(float(run.stdout.split()[-1]) - start)
    return taken


def summary(figures: dict[str, Any]) -> list[str]:
    """Cells of a table: frames per second in a graph, ratio, first batch of a process and of an epoch, deletion of an iterator."""
    graph = figures.get("graph")

    def median(key: str, factor: float, digits: int) -> str:
        return f"{statistics.median(figures[key]) * factor:.{digits}f}" if figures.get(key) else ""

    speed = ["", ""] if graph is None else [f"{graph['frames_per_second'] / 1e6:.1f}", f"{graph['ratio']:.1f}"]
    return [*speed, median("process_seconds", 1, 1), median("first_batch_seconds", 1e3, 1), median("delete_seconds", 1e3, 1)]


HEADINGS = ["in a graph, M frames/s", "x", "first batch of a process, s", "of an epoch, ms", "deleting the iterator, ms"]


def main() -> None:
    way, native, plain, batch_size, features, *label = sys.argv[1:]
    if way == ARRAYS:
        epochs = arrays(native, int(batch_size), features, label[0] if label else None)
    else:
        from benchmarks import pipelines

        epochs = pipelines.WAYS[way](pipelines.Task.of(Path(native), Path(plain), int(batch_size), features, label[0] if label else None))
    next(iter(epochs))
    print(time.time())


if __name__ == "__main__":
    main()

"""The input of `benchmarks.training`: records whose class can be learnt, and the ways to batch them. Does not import Keras.

An element is (features, label), or the same with a sample weight; hand-written pipelines deliver a dict with the lengths, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import vlpipe
from benchmarks.pipelines import Task, best_by_hand, padded
from benchmarks.workloads import Workload

CLASSES = 10


class Learnable(Workload):
    """A workload with the same lengths, whose frames are noise around the mean of their class; lengths do not depend on the class."""

    def records(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield every record: a random section of noise, plus the small mean of its class in every frame."""
        random = np.random.default_rng(1)
        longest = int(self.lengths.max())
        noise = random.standard_normal((4 * longest, self.d), np.float32)
        means = 0.3 * random.standard_normal((CLASSES, self.d), np.float32)
        for length in self.lengths.tolist():
            start, label = int(random.integers(3 * longest)), int(random.integers(CLASSES))
            yield noise[start : start + length] + means[label], label


def learnable(workload: Workload) -> Learnable:
    """Return the workload with classes that can be learnt. Its name has the number of records, as a kept folder may hold other sizes."""
    name = f"training-{workload.name}-{len(workload.lengths)}"
    return Learnable(name, workload.lengths, workload.d, workload.batch_size)


VLPIPE: dict[str, dict[str, Any]] = {
    "vlpipe, longest": {},
    "vlpipe, static shapes": {"shapes": "static"},
}
ARRAYS = "vlpipe batches, static shapes"  # without tf.data: for loops on JAX and PyTorch


def arguments_of(way: str, workload: Workload, frames_per_batch: int | None) -> dict[str, Any]:
    """The arguments that a way of vlpipe passes to `make_dataset`."""
    size = {"batch_size": workload.batch_size} if frames_per_batch is None else {"frames_per_batch": frames_per_batch}
    return {**VLPIPE[way], **size, "seed": 1}


# (workload, dataset on disk, maximum of frames per batch or None) -> batches; every iteration over them is an epoch.
Make = Callable[[Workload, Path, "int | None"], Any]


def by_vlpipe(way: str) -> Make:
    """A way of vlpipe, by its name."""
    return lambda workload, native, frames_per_batch: vlpipe.make_dataset(native, **arguments_of(way, workload, frames_per_batch))


def by_hand(make: Callable[[Task], tf.data.Dataset]) -> Make:
    """A hand-written pipeline, which has no maximum of frames: it gets the number of records that hold as many frames on average."""

    def dataset(workload: Workload, native: Path, frames_per_batch: int | None) -> tf.data.Dataset:
        records = round((frames_per_batch or 0) / float(workload.lengths.mean())) or 1
        return make(Task.of(native, native, workload.batch_size if frames_per_batch is None else records))

    return dataset


def arrays(workload: Workload, native: Path, frames_per_batch: int | None) -> Iterable[Any]:
    """The batches of the static way as NumPy arrays."""
    return vlpipe.batches(native, **arguments_of("vlpipe, static shapes", workload, frames_per_batch))


# Each delivers every record once per epoch.
WAYS: dict[str, Make] = {
    "padded_batch": by_hand(padded),
    "hand-written buckets": by_hand(best_by_hand),
    **{way: by_vlpipe(way) for way in VLPIPE},
    ARRAYS: arrays,
}


def inputs(element: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert an element, or an element_spec, to the arguments of `train_on_batch`: features, labels, and weights if present."""
    x, *rest = element
    return x["features"] if isinstance(x, dict) else x, *rest

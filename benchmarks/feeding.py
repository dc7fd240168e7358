"""What `benchmarks.training` feeds a model with: records whose class can be learnt, and the ways to batch them. Loads no Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import vlpipe
from benchmarks.pipelines import Task, best_by_hand, padded
from benchmarks.workloads import Workload

CLASSES = 10


class Learnable(Workload):
    """The lengths of a workload; frames of noise about the mean of their class, which says nothing by its length."""

    def records(self) -> Iterator[tuple[np.ndarray, int]]:
        """Every record: a stretch of noise of its own, and the mean of its class weakly in every frame."""
        random = np.random.default_rng(1)
        longest = int(self.lengths.max())
        noise = random.standard_normal((4 * longest, self.d), np.float32)
        means = 0.3 * random.standard_normal((CLASSES, self.d), np.float32)
        for length in self.lengths.tolist():
            start, label = int(random.integers(3 * longest)), int(random.integers(CLASSES))
            yield noise[start : start + length] + means[label], label


def learnable(workload: Workload) -> Learnable:
    """The same lengths, with classes that can be learnt; under a name of its own, as a folder that is kept may hold other sizes."""
    name = f"training-{workload.name}-{len(workload.lengths)}"
    return Learnable(name, workload.lengths, workload.d, workload.batch_size)


VLPIPE: dict[str, dict[str, Any]] = {
    "vlpipe, longest": {},
    "vlpipe, static shapes": {"pad_to": "boundary", "remainder": "pad", "buckets": 8},
}


def arguments_of(way: str, workload: Workload, frames_per_batch: int | None) -> dict[str, Any]:
    """What a way of vlpipe passes to `make_dataset`."""
    size = {"batch_size": workload.batch_size} if frames_per_batch is None else {"frames_per_batch": frames_per_batch}
    return {**VLPIPE[way], **size, "lengths": True, "seed": 1}


# From the workload, the dataset on disk and a budget of frames a batch.
Make = Callable[[Workload, Path, "int | None"], tf.data.Dataset]


def by_vlpipe(way: str) -> Make:
    """This way of vlpipe."""
    return lambda workload, native, frames_per_batch: vlpipe.make_dataset(native, **arguments_of(way, workload, frames_per_batch))


def by_hand(make: Callable[[Task], tf.data.Dataset]) -> Make:
    """A pipeline without a budget of frames: instead of one it gets as many records a batch as hold so many frames on average."""

    def dataset(workload: Workload, native: Path, frames_per_batch: int | None) -> tf.data.Dataset:
        records = round((frames_per_batch or 0) / float(workload.lengths.mean())) or 1
        return make(Task.of(native, native, workload.batch_size if frames_per_batch is None else records))

    return dataset


# Each delivers every record once an epoch, as ({"features", "lengths"}, label) or the same with a sample weight.
WAYS: dict[str, Make] = {
    "padded_batch": by_hand(padded),
    "hand-written buckets": by_hand(best_by_hand),
    **{way: by_vlpipe(way) for way in VLPIPE},
}


def inputs(element: tuple[Any, ...]) -> tuple[Any, ...]:
    """An element, or a dataset's element_spec, as `train_on_batch` takes it: features, labels, and weights if there are any."""
    x, *rest = element
    return x["features"], *rest

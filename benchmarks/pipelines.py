"""The ways to read a dataset through tf.data: vlpipe's engines, and the pipelines of TensorFlow's guides.

A way converts a task to a `tf.data.Dataset` (`vlpipe batches`: to an iterable of arrays) of ({"features": float32 `[B, T, d]`, "lengths":
`[B]`}, label); the label is omitted where the task has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import vlpipe
from benchmarks.consuming import ARRAYS, arrays

AUTOTUNE = tf.data.AUTOTUNE
SHUFFLED = 1000  # records in the shuffle buffer of the pipelines without vlpipe


@dataclass(frozen=True)
class Task:
    """The records of a vlpipe dataset, and the fields to deliver.

    Attributes:
        native: the dataset.
        plain: a folder with the same records, but frames in a FloatList, as in TensorFlow's guides.
        batch_size: records per batch.
        features: name of the sequence.
        label: name of the label; None: no label.
        schema: the fields of a record.
        lengths: frames of each record.
    """

    native: Path
    plain: Path
    batch_size: int
    features: str
    label: str | None
    schema: vlpipe.Schema
    lengths: np.ndarray

    @classmethod
    def of(cls, native: Path, plain: Path, batch_size: int, features: str | None = None, label: str | None = None) -> Task:
        """Return the task with the fields of the dataset, without a label that is a sequence: tf.data has no single way to batch it."""
        plan = vlpipe.plan(native, batch_size=batch_size, features=features, label=label, length_range=(0, None))
        schema, chosen = plan.index.schema, plan.selection
        labels = [name for name in chosen.labels if name not in schema.sequences]
        return cls(native, plain, batch_size, chosen.key, labels[0] if labels else None, schema, plan.frames)

    @property
    def sequence(self) -> vlpipe.Sequence:
        """The schema's field of the frames."""
        return self.schema.sequences[self.features]

    @property
    def d(self) -> int:
        """Numbers per frame."""
        return int(np.prod(self.sequence.dimensions, dtype=np.int64))

    @property
    def shards(self) -> list[str]:
        """Paths of the files of the dataset."""
        return [str(self.native / shard["name"]) for shard in json.loads((self.native / "vlpipe.json").read_text("utf-8"))["shards"]]

    @property
    def label_spec(self) -> dict[str, tf.io.FixedLenFeature]:
        """The feature specification that parses the label."""
        if self.label is None:
            return {}
        field = self.schema.fields[self.label]
        if isinstance(field, vlpipe.Text):
            return {self.label: tf.io.FixedLenFeature([], tf.string)}
        return {self.label: tf.io.FixedLenFeature(field.dimensions, tf.float32 if np.dtype(field.dtype).kind == "f" else tf.int64)}

    def parser(self, spec: object, numbers: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        """Return a function from a serialized Example to (x, n, y), or (x, n) without a label.

        Args:
            spec: the feature specification that parses the frames.
            numbers: converts the parsed frames to a vector.
        """

        def parse(data):
            example = tf.io.parse_single_example(data, {self.features: spec} | self.label_spec)
            x = tf.reshape(tf.cast(numbers(example[self.features]), tf.float32), [-1, *self.sequence.dimensions])
            fields = self.schema.fields
            return x, tf.shape(x)[0], *(tf.cast(example[name], getattr(fields[name], "dtype", tf.string)) for name in self.label_spec)

        return parse

    @property
    def parse_bytes(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        """The parser of the dataset itself, whose frames are bytes."""
        return self.parser(tf.io.FixedLenFeature([], tf.string), lambda data: tf.io.decode_raw(data, self.sequence.dtype))

    @property
    def parse_floats(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        """The parser of the folder of FloatLists."""
        return self.parser(tf.io.VarLenFeature(tf.float32), lambda sparse: sparse.values)

    @property
    def padded_shapes(self) -> tuple[object, ...]:
        """Shapes of a parsed record, for `padded_batch`."""
        return [None, *self.sequence.dimensions], [], *(spec.shape for spec in self.label_spec.values())

    def records(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Read every record in order, by TensorFlow alone: (x, n, y) or (x, n)."""
        return tf.data.TFRecordDataset(self.shards).map(self.parse_bytes).as_numpy_iterator()

    def write_floats(self) -> None:
        """Write the folder of FloatLists."""
        self.plain.mkdir()
        dtype = np.dtype(self.sequence.dtype).newbyteorder("<")
        for shard in self.shards:
            with tf.io.TFRecordWriter(str(self.plain / Path(shard).name)) as writer:
                for data in tf.data.TFRecordDataset(shard).as_numpy_iterator():
                    example = tf.train.Example.FromString(data)
                    frames = example.features.feature[self.features]
                    numbers = np.frombuffer(frames.bytes_list.value[0], dtype).astype(np.float32)
                    frames.CopyFrom(tf.train.Feature(float_list=tf.train.FloatList(value=numbers)))
                    writer.write(example.SerializeToString())


def shuffled(files: list[str], parse: Callable[[tf.Tensor], tuple[tf.Tensor, ...]]) -> tf.data.Dataset:
    """Parse records in the order of a shuffle buffer."""
    records = tf.data.TFRecordDataset(files, num_parallel_reads=AUTOTUNE).shuffle(SHUFFLED)
    return records.map(parse, num_parallel_calls=AUTOTUNE)


def bucketed(records: tf.data.Dataset, task: Task) -> tf.data.Dataset:
    """Batch as documented, in eight buckets by quantiles, as the guides choose them."""
    boundaries = sorted({int(boundary) for boundary in np.quantile(task.lengths, np.linspace(0, 1, 9)[1:-1])})
    sizes = [task.batch_size] * (len(boundaries) + 1)
    return records.bucket_by_sequence_length(lambda x, n, *y: n, boundaries, sizes, padded_shapes=task.padded_shapes)


def delivered(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Convert batches of (x, n, y) to the elements that every way delivers."""
    return batches.map(lambda x, n, *y: ({"features": x, "lengths": n}, *y)).prefetch(AUTOTUNE)


def recipe(task: Task) -> tf.data.Dataset:
    """FloatList, parse_single_example, bucket_by_sequence_length, AUTOTUNE everywhere, as in TensorFlow's guides."""
    files = sorted(str(path) for path in task.plain.glob("*.tfrecord"))
    return delivered(bucketed(shuffled(files, task.parse_floats), task))


def best_by_hand(task: Task) -> tf.data.Dataset:
    """The best pipeline without vlpipe: bytes and decode_raw instead of a FloatList, the same buckets."""
    return delivered(bucketed(shuffled(task.shards, task.parse_bytes), task))


def padded(task: Task) -> tf.data.Dataset:
    """padded_batch in the order of the shuffle buffer."""
    return delivered(shuffled(task.shards, task.parse_bytes).padded_batch(task.batch_size, task.padded_shapes))


def engine(**arguments: object) -> Callable[[Task], tf.data.Dataset]:
    """Return the way of vlpipe with these arguments."""

    def make(task: Task) -> tf.data.Dataset:
        fields = {"features": task.features, "label": task.label or False}
        return vlpipe.make_dataset(
            task.native, batch_size=task.batch_size, lengths=True, seed=1, length_range=(0, None), **fields, **arguments
        )

    return make


def without_tf_data(task: Task) -> Iterable[Any]:
    """`vlpipe.batches`: NumPy arrays, which only a loop in Python consumes."""
    batches: Iterable[Any] = arrays(task.native, task.batch_size, task.features, task.label)
    return batches


WAYS: dict[str, Callable[[Task], Any]] = {
    "recipe": recipe,
    "by hand, bytes": best_by_hand,
    "padded_batch": padded,
    "vlpipe mapped": engine(),
    "vlpipe mapped, verify=always": engine(verify="always"),
    "vlpipe mapped, verify=never": engine(verify="never"),
    "vlpipe mapped, 8 static shapes": engine(pad_to="boundary", remainder="pad", buckets=8),
    "vlpipe graph": engine(engine="graph"),
    "vlpipe stream": engine(engine="stream"),
    ARRAYS: without_tf_data,
}

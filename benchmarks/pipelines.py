"""The ways to read a dataset through tf.data: vlpipe's engines, what the guides of TensorFlow show, and the bare copy that bounds them all.

A way makes a `tf.data.Dataset` of ({"features": float32 `[B, T, d]`, "lengths": `[B]`}, label) of a task; the label is left out where the
task has none.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

import vlpipe

AUTOTUNE = tf.data.AUTOTUNE
SHUFFLED = 1000  # records in the shuffle buffer of the pipelines without vlpipe


@dataclass(frozen=True)
class Task:
    """The records of a vlpipe dataset, and what is to be delivered of them.

    Attributes:
        native: the dataset.
        plain: a folder with the same records, but frames in a FloatList, as the TensorFlow guides show.
        features: name of the sequence.
        label: name of the label, None for none.
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
        """With what the dataset says of itself. A label that is a sequence is left out: there is no one way to batch it without vlpipe."""
        plan = vlpipe.plan(native, batch_size=batch_size, features=features, label=label, length_range=(0, None))
        schema, chosen = plan.index.schema, plan.selection
        labels = [name for name in chosen.labels if name not in schema.sequences]
        return cls(native, plain, batch_size, chosen.key, labels[0] if labels else None, schema, plan.frames)

    @property
    def sequence(self) -> vlpipe.Sequence:
        """The frames, as the schema describes them."""
        return self.schema.sequences[self.features]

    @property
    def d(self) -> int:
        """Numbers in a frame."""
        return int(np.prod(self.sequence.dimensions, dtype=np.int64))

    @property
    def shards(self) -> list[str]:
        """The files of the dataset."""
        return [str(self.native / shard["name"]) for shard in json.loads((self.native / "vlpipe.json").read_text("utf-8"))["shards"]]

    @property
    def label_spec(self) -> dict[str, tf.io.FixedLenFeature]:
        """What parses the label."""
        if self.label is None:
            return {}
        field = self.schema.fields[self.label]
        if isinstance(field, vlpipe.Text):
            return {self.label: tf.io.FixedLenFeature([], tf.string)}
        return {self.label: tf.io.FixedLenFeature(field.dimensions, tf.float32 if np.dtype(field.dtype).kind == "f" else tf.int64)}

    def parser(self, spec: object, numbers: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        """From a serialized Example to (x, n, y), or (x, n) without a label.

        Args:
            spec: what parses the frames.
            numbers: from what was parsed to a vector.
        """

        def parse(data):
            example = tf.io.parse_single_example(data, {self.features: spec} | self.label_spec)
            x = tf.reshape(tf.cast(numbers(example[self.features]), tf.float32), [-1, *self.sequence.dimensions])
            fields = self.schema.fields
            return x, tf.shape(x)[0], *(tf.cast(example[name], getattr(fields[name], "dtype", tf.string)) for name in self.label_spec)

        return parse

    @property
    def parse_bytes(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        """For the dataset itself: frames are bytes."""
        return self.parser(tf.io.FixedLenFeature([], tf.string), lambda data: tf.io.decode_raw(data, self.sequence.dtype))

    @property
    def parse_floats(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        """For the folder of FloatLists."""
        return self.parser(tf.io.VarLenFeature(tf.float32), lambda sparse: sparse.values)

    @property
    def padded_shapes(self) -> tuple[object, ...]:
        """Of a parsed record."""
        return [None, *self.sequence.dimensions], [], *(spec.shape for spec in self.label_spec.values())

    def records(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Every record, plainly read: (x, n, y) or (x, n)."""
        return tf.data.TFRecordDataset(self.shards).map(self.parse_bytes).as_numpy_iterator()

    def write_floats(self) -> None:
        """Make the folder of FloatLists."""
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
    """Parsed records in the order of a shuffle buffer."""
    records = tf.data.TFRecordDataset(files, num_parallel_reads=AUTOTUNE).shuffle(SHUFFLED)
    return records.map(parse, num_parallel_calls=AUTOTUNE)


def bucketed(records: tf.data.Dataset, task: Task) -> tf.data.Dataset:
    """The documented way to batch, in eight buckets by quantiles, as the guides choose them."""
    boundaries = sorted({int(boundary) for boundary in np.quantile(task.lengths, np.linspace(0, 1, 9)[1:-1])})
    sizes = [task.batch_size] * (len(boundaries) + 1)
    return records.bucket_by_sequence_length(lambda x, n, *y: n, boundaries, sizes, padded_shapes=task.padded_shapes)


def delivered(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Batches of (x, n, y) as every way delivers them."""
    return batches.map(lambda x, n, *y: ({"features": x, "lengths": n}, *y)).prefetch(AUTOTUNE)


def recipe(task: Task) -> tf.data.Dataset:
    """FloatList, parse_single_example, bucket_by_sequence_length, AUTOTUNE everywhere: what the guides show."""
    files = sorted(str(path) for path in task.plain.glob("*.tfrecord"))
    return delivered(bucketed(shuffled(files, task.parse_floats), task))


def best_by_hand(task: Task) -> tf.data.Dataset:
    """The best pipeline without vlpipe: bytes and decode_raw instead of a FloatList, the same buckets."""
    return delivered(bucketed(shuffled(task.shards, task.parse_bytes), task))


def padded(task: Task) -> tf.data.Dataset:
    """padded_batch of whatever comes next."""
    return delivered(shuffled(task.shards, task.parse_bytes).padded_batch(task.batch_size, task.padded_shapes))


def engine(**arguments: object) -> Callable[[Task], tf.data.Dataset]:
    """vlpipe with these arguments."""

    def make(task: Task) -> tf.data.Dataset:
        fields = {"features": task.features, "label": task.label or False}
        return vlpipe.make_dataset(
            task.native, batch_size=task.batch_size, lengths=True, seed=1, length_range=(0, None), **fields, **arguments
        )

    return make


WAYS: dict[str, Callable[[Task], tf.data.Dataset]] = {
    "recipe": recipe,
    "by hand, bytes": best_by_hand,
    "padded_batch": padded,
    "vlpipe mapped": engine(),
    "vlpipe mapped, verify=always": engine(verify="always"),
    "vlpipe mapped, verify=never": engine(verify="never"),
    "vlpipe mapped, 8 static shapes": engine(pad_to="boundary", remainder="pad", buckets=8),
    "vlpipe graph": engine(engine="graph"),
    "vlpipe stream": engine(engine="stream"),
}


class CopyFloor:
    """The same batches copied from the mapped files into one warm padded buffer: no framework, no checksums, nobody to hand them to.

    Frames are copied as they are stored, whatever their dtype.
    """

    def __init__(self, task: Task) -> None:
        rows = np.load(task.native / "index.npy")
        files = [os.open(shard, os.O_RDONLY) for shard in task.shards]
        self._maps = [np.frombuffer(mmap.mmap(file, 0, access=mmap.ACCESS_READ), np.uint8) for file in files]
        for file in files:
            os.close(file)
        self._views = [memoryview(mapped) for mapped in self._maps]
        start = "start" if task.features == next(iter(task.schema.sequences)) else f"start:{task.features}"
        self._shard, self._frames = rows["shard"].tolist(), task.lengths
        self._start = rows["offset"].astype(np.int64) + 12 + rows[start]
        self._width = task.sequence.frame_bytes
        order = np.argsort(self._frames, kind="stable")
        batches = [order[first : first + task.batch_size] for first in range(0, len(order), task.batch_size)]
        self._batches = [batches[number] for number in np.random.default_rng(0).permutation(len(batches))]
        largest = max(len(batch) * int(self._frames[batch].max()) for batch in batches) * self._width
        self._buffer = np.zeros(largest, np.uint8)
        self._zeros = memoryview(bytes(int(self._frames.max()) * self._width))

    def numpy(self) -> None:
        """By slices of arrays."""
        for batch in self._batches:
            frames = self._frames[batch] * self._width
            room = int(frames.max())
            out = self._buffer[: len(batch) * room].reshape(len(batch), room)
            for row, (record, size, start) in enumerate(zip(batch.tolist(), frames.tolist(), self._start[batch].tolist(), strict=True)):
                out[row, :size] = self._maps[self._shard[record]][start : start + size]
                out[row, size:] = 0

    def memoryview(self) -> None:
        """By slices of memoryviews."""
        out = memoryview(self._buffer)
        for batch in self._batches:
            frames = self._frames[batch] * self._width
            room = int(frames.max())
            place = 0
            for record, size, start in zip(batch.tolist(), frames.tolist(), self._start[batch].tolist(), strict=True):
                out[place : place + size] = self._views[self._shard[record]][start : start + size]
                out[place + size : place + room] = self._zeros[: room - size]
                place += room

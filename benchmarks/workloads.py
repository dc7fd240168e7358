"""Synthetic workloads with the lengths of real ones, as vlpipe datasets and as users write them without vlpipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

import vlpipe


@dataclass(frozen=True)
class Workload:
    """Records of features [T, d] and a class.

    Attributes:
        name: its name, also of the dataset.
        lengths: frames of each record.
        d: numbers per frame.
        batch_size: records per batch.
    """

    name: str
    lengths: np.ndarray
    d: int
    batch_size: int

    def records(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield every record, each different."""
        noise = np.random.default_rng(1).standard_normal((int(self.lengths.max()), self.d)).astype(np.float32)
        for number, length in enumerate(self.lengths.tolist()):
            yield noise[:length] + np.float32(number % 1000), number % 10

    def write_native(self, directory: Path, shards: int = 8) -> Path:
        """Write the vlpipe dataset, unless it exists; return its path."""
        native = directory / self.name
        if not native.exists():
            vlpipe.write(native, ({"features": x, "label": y} for x, y in self.records()), num_shards=shards)
        return native

    def write(self, directory: Path, shards: int = 8) -> tuple[Path, Path]:
        """Write the vlpipe dataset, and TFRecord files with a FloatList as in TensorFlow's guides, unless they exist."""
        native, plain = self.write_native(directory, shards), directory / f"{self.name}-floatlist"
        if not plain.exists():
            plain.mkdir()
            writers = [tf.io.TFRecordWriter(str(plain / f"{shard:02d}.tfrecord")) for shard in range(shards)]
            for number, (x, y) in enumerate(self.records()):
                feature = {
                    "features": tf.train.Feature(float_list=tf.train.FloatList(value=x.ravel())),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[y])),
                }
                writers[number % shards].write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
            for writer in writers:
                writer.close()
        return native, plain


def speech(count: int = 2500) -> Workload:
    """Utterances of 120 to 3,500 frames x 80, bimodal like read speech: short answers, full sentences, and a few long ones."""
    random = np.random.default_rng(0)
    short = random.random(count) < 0.33
    lengths = np.where(short, random.normal(430, 130, count), random.normal(1430, 150, count))
    lengths = np.where(random.random(count) < 0.025, random.uniform(1800, 3500, count), lengths)
    return Workload("speech", np.clip(lengths, 120, 3500).astype(np.int64), 80, 32)


def events(count: int = 40_000) -> Workload:
    """Sound events of 10 to 800 frames x 40, log-normal."""
    lengths = np.random.default_rng(0).lognormal(np.log(140), 0.75, count)
    return Workload("events", np.clip(lengths, 10, 800).astype(np.int64), 40, 128)

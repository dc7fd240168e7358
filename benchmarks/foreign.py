"""How fast third-party TFRecord files are read and indexed, compared with the pipeline that their publishers document.

    python -m benchmarks.foreign [--sources floats audioset samples] [--rounds 5] [--quick] [--json PATH]

`floats`: sound events with their frames in a FloatList; `audioset`: SequenceExamples of ten frames of 128 bytes, as AudioSet is published;
`samples`: recordings as the integers of an Int64List, which have to be parsed. The documented pipeline shuffles and parses record by record
and batches by `bucket_by_sequence_length`, all with AUTOTUNE. The ways take turns. A figure is the median of the rounds: records per second
over whole epochs in a Python loop. Before that, one untimed epoch of each way is compared record by record with what was written.

Indexing: records per second of `vlpipe.build_index` in one process, with files in the page cache and no earlier index; and the seconds of a
second run over 1,000 unchanged files.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import vlpipe
from benchmarks import results
from benchmarks.racing import iterate, race, seconds, speed_ratio
from benchmarks.throughput import check, digest
from benchmarks.workloads import events
from vlpipe import layouts

AUTOTUNE = tf.data.AUTOTUNE
SHUFFLED = 1000  # records in the shuffle buffer of the documented pipeline
FILES = 8
Feature = tf.train.Feature


@dataclass(frozen=True)
class Source:
    """Records as a third party publishes them.

    Attributes:
        batch_size: records per batch.
        records: yields the frames and the label of each record.
        encode: serializes a record.
        parse: the documented parser: from a serialized record to float32 frames and label.
        layout: how vlpipe reads the records.
    """

    batch_size: int
    records: Callable[[], Iterator[tuple[np.ndarray, int]]]
    encode: Callable[[np.ndarray, int], bytes]
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    layout: layouts.Layout


def _ints(*values: int) -> Feature:
    return Feature(int64_list=tf.train.Int64List(value=values))


def _example(**features: Feature) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _floats(count: int) -> Source:
    def parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        spec = {"mel": tf.io.VarLenFeature(tf.float32), "label": tf.io.FixedLenFeature([], tf.int64)}
        parsed = tf.io.parse_single_example(data, spec)
        return tf.reshape(parsed["mel"].values, [-1, 40]), parsed["label"]

    def encode(x: np.ndarray, label: int) -> bytes:
        return _example(mel=Feature(float_list=tf.train.FloatList(value=x.ravel())), label=_ints(label))

    return Source(128, events(count).records, encode, parse, layouts.float_list("mel", d=40, label="label"))


def _audioset(count: int) -> Source:
    def records() -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng(0)
        for number in range(count):
            frames = 10 if random.random() < 0.9 else int(random.integers(1, 10))
            yield random.integers(0, 256, (frames, 128)).astype(np.uint8), number % 527

    def encode(x: np.ndarray, label: int) -> bytes:
        frames = [Feature(bytes_list=tf.train.BytesList(value=[row.tobytes()])) for row in x]
        context = {"video_id": Feature(bytes_list=tf.train.BytesList(value=[b"v"])), "label": _ints(label)}
        lists = {"audio_embedding": tf.train.FeatureList(feature=frames)}
        return tf.train.SequenceExample(
            context=tf.train.Features(feature=context), feature_lists=tf.train.FeatureLists(feature_list=lists)
        ).SerializeToString()

    def parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        context, lists = tf.io.parse_single_sequence_example(
            data, {"label": tf.io.FixedLenFeature([], tf.int64)}, {"audio_embedding": tf.io.FixedLenSequenceFeature([], tf.string)}
        )
        x = tf.cast(tf.io.decode_raw(lists["audio_embedding"], tf.uint8), tf.float32)
        return tf.reshape(x, [-1, 128]), context["label"]

    return Source(128, records, encode, parse, layouts.byte_frames("audio_embedding", dtype="uint8", d=128, label="label"))


def _samples(count: int) -> Source:
    def records() -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng(0)
        for number, length in enumerate(random.integers(4_000, 16_000, count).tolist()):
            yield random.normal(0, 2000, (length, 1)).astype(np.int16), number % 10

    def parse(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        spec = {"audio": tf.io.VarLenFeature(tf.int64), "label": tf.io.FixedLenFeature([], tf.int64)}
        parsed = tf.io.parse_single_example(data, spec)
        return tf.cast(parsed["audio"].values, tf.float32)[:, None], parsed["label"]

    def encode(x: np.ndarray, label: int) -> bytes:
        return _example(audio=_ints(*x.ravel().tolist()), label=_ints(label))

    return Source(32, records, encode, parse, layouts.int_list("audio", d=1, dtype="int16", label="label"))


SOURCES = {"floats": (_floats, 40_000), "audioset": (_audioset, 40_000), "samples": (_samples, 3_000)}
QUICK = {"floats": 300, "audioset": 300, "samples": 60}


def write(source: Source, directory: Path) -> list[str]:
    """Write the files of a source; return their paths."""
    paths = [str(directory / f"{number}.tfrecord") for number in range(FILES)]
    writers = [tf.io.TFRecordWriter(path) for path in paths]
    for number, record in enumerate(source.records()):
        writers[number % FILES].write(source.encode(*record))
    for writer in writers:
        writer.close()
    return paths


def documented(source: Source, paths: list[str], lengths: np.ndarray) -> tf.data.Dataset:
    """The documented pipeline: parsed record by record, in eight buckets by quantiles."""

    def parse(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
        x, label = source.parse(data)
        return x, tf.shape(x)[0], label

    boundaries = sorted({int(boundary) for boundary in np.quantile(lengths, np.linspace(0, 1, 9)[1:-1])})
    records = tf.data.TFRecordDataset(paths, num_parallel_reads=AUTOTUNE).shuffle(SHUFFLED).map(parse, num_parallel_calls=AUTOTUNE)
    batches = records.bucket_by_sequence_length(lambda x, n, y: n, boundaries, [source.batch_size] * (len(boundaries) + 1))
    return batches.map(lambda x, n, y: ({"features": x, "lengths": n}, y)).prefetch(AUTOTUNE)


def measure(source: Source, directory: Path, rounds: int, status: Callable[[str], None]) -> dict[str, Any]:
    """Measure one source: all its figures."""
    paths = write(source, directory)
    indexing = [index_seconds(source, paths) for _ in range(rounds)]
    lengths = np.array([len(x) for x, _ in source.records()])
    expected = Counter(digest(x.astype(np.float32), np.int64(label)) for x, label in source.records())
    arguments = {"layout": source.layout, "batch_size": source.batch_size, "lengths": True, "seed": 1}
    ways = {"documented": documented(source, paths, lengths), "vlpipe mapped": vlpipe.make_dataset(paths, **arguments)}
    ways |= {f"vlpipe {engine}": vlpipe.make_dataset(paths, engine=engine, **arguments) for engine in ("graph", "stream")}
    for name, dataset in ways.items():
        status(f"checking {name}")
        check(name, dataset, expected)
    first = vlpipe.make_dataset(paths, **arguments)
    first_seconds = seconds(lambda: iterate(first))
    times = race({name: lambda dataset=dataset: iterate(dataset) for name, dataset in ways.items()}, rounds, status)
    base = times["documented"]
    return {
        "records": len(lengths),
        "bytes": sum(os.path.getsize(path) for path in paths),
        "indexed_per_second": len(lengths) / statistics.median(indexing),
        "index_seconds": indexing,
        "first_epoch_ratio": statistics.median(base) / first_seconds,
        "ways": {
            name: {
                "records_per_second": len(lengths) / statistics.median(taken),
                "ratio": speed_ratio(base, taken),
                "seconds": taken,
            }
            for name, taken in times.items()
        },
    }


def index_seconds(source: Source, paths: list[str]) -> float:
    """Time `build_index` in one process, without an earlier index."""
    shutil.rmtree(Path(paths[0]).parent / ".vlpipe-index", ignore_errors=True)
    return seconds(lambda: vlpipe.build_index(paths, source.layout, workers=1))


def again_seconds(files: int, directory: Path) -> float:
    """Time a second run of `build_index` over small files, which have not changed."""
    source = _audioset(10)
    data = [source.encode(*record) for record in source.records()]
    for number in range(files):
        with tf.io.TFRecordWriter(str(directory / f"{number}.tfrecord")) as writer:
            for record in data:
                writer.write(record)
    vlpipe.build_index(directory, source.layout)
    return seconds(lambda: vlpipe.build_index(directory, source.layout))


def make_table(figures: dict[str, Any]) -> Table:
    """Return the figures as a table for the terminal."""
    table = Table(title="records/s, and ratios to the documented pipeline (x)")
    for heading in ("source", "documented", "mapped", "x", "first epoch x", "graph x", "stream x", "indexed/s"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for name, result in figures["sources"].items():
        ways = result["ways"]
        cells = [f"{ways[way]['records_per_second']:,.0f}" for way in ("documented", "vlpipe mapped")]
        ratios = [
            ways["vlpipe mapped"]["ratio"],
            result["first_epoch_ratio"],
            ways["vlpipe graph"]["ratio"],
            ways["vlpipe stream"]["ratio"],
        ]
        table.add_row(name, *cells, *(f"{ratio:.1f}" for ratio in ratios), f"{result['indexed_per_second']:,.0f}")
    return table


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    console = Console()
    figures: dict[str, Any] = {"sources": {}}
    for name in arguments.sources:
        make, count = SOURCES[name]
        with tempfile.TemporaryDirectory() as scratch, console.status(name) as status:
            source = make(QUICK[name] if arguments.quick else count)
            rounds = 1 if arguments.quick else arguments.rounds
            figures["sources"][name] = measure(source, Path(scratch), rounds, lambda text, name=name: status.update(f"{name}: {text}"))
    with tempfile.TemporaryDirectory() as scratch:
        files = 20 if arguments.quick else 1000
        figures["again"] = {"files": files, "seconds": again_seconds(files, Path(scratch))}
    results.save("foreign", arguments, figures)
    console.print(make_table(figures))
    console.print(f"a second run over {figures['again']['files']:,} unchanged files: {figures['again']['seconds']:.2f} s")


if __name__ == "__main__":
    main()

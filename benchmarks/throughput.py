"""How fast batches are delivered: vlpipe's engines beside what the guides of TensorFlow show, and beside a bare copy.

    python -m benchmarks.throughput [--workloads speech events] [--rounds 5] [--data DIR] [--json PATH] [--ways NAME ...]

Every way delivers the same records as (x, lengths), label. They take turns, so that a slow moment of the machine meets all, and a
figure is the median of the rounds: valid frames (padding is not counted) a second, for one whole epoch, from asking for an iterator to its
end. Before that, one untimed epoch of each warms the page cache and is compared record by record with what was written.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import statistics
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import vlpipe
from benchmarks.workloads import Workload, events, speech

AUTOTUNE = tf.data.AUTOTUNE
SHUFFLED = 1000  # records in the shuffle buffer of the pipelines without vlpipe


def boundaries_of(workload: Workload) -> list[int]:
    """Eight buckets by quantiles, as the guides choose them."""
    return sorted({int(boundary) for boundary in np.quantile(workload.lengths, np.linspace(0, 1, 9)[1:-1])})


def bucketed(records: tf.data.Dataset, workload: Workload) -> tf.data.Dataset:
    """The documented way to batch."""
    boundaries = boundaries_of(workload)
    batches = records.bucket_by_sequence_length(
        lambda x, n, y: n, boundaries, [workload.batch_size] * (len(boundaries) + 1), padded_shapes=([None, workload.d], [], [])
    )
    return batches.map(lambda x, n, y: ({"features": x, "lengths": n}, y)).prefetch(AUTOTUNE)


def recipe(workload: Workload, native: Path, plain: Path) -> tf.data.Dataset:
    """FloatList, parse_single_example, bucket_by_sequence_length, AUTOTUNE everywhere: what the guides show."""

    def parse(data):
        features = {"features": tf.io.VarLenFeature(tf.float32), "label": tf.io.FixedLenFeature([], tf.int64)}
        example = tf.io.parse_single_example(data, features)
        x = tf.reshape(example["features"].values, [-1, workload.d])
        return x, tf.shape(x)[0], example["label"]

    files = sorted(str(path) for path in plain.glob("*.tfrecord"))
    records = tf.data.TFRecordDataset(files, num_parallel_reads=AUTOTUNE).shuffle(SHUFFLED)
    return bucketed(records.map(parse, num_parallel_calls=AUTOTUNE), workload)


def by_hand(workload: Workload, native: Path) -> tf.data.Dataset:
    """Records whose frames are bytes, read by decode_raw: (x, n, y)."""

    def parse(data):
        features = {"features": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        example = tf.io.parse_single_example(data, features)
        x = tf.reshape(tf.io.decode_raw(example["features"], tf.float32), [-1, workload.d])
        return x, tf.shape(x)[0], example["label"]

    files = sorted(str(path) for path in native.glob("*.tfrecord"))
    records = tf.data.TFRecordDataset(files, num_parallel_reads=AUTOTUNE).shuffle(SHUFFLED)
    return records.map(parse, num_parallel_calls=AUTOTUNE)


def best_by_hand(workload: Workload, native: Path, plain: Path) -> tf.data.Dataset:
    """The best pipeline without vlpipe: bytes instead of a FloatList, the same buckets."""
    return bucketed(by_hand(workload, native), workload)


def padded(workload: Workload, native: Path, plain: Path) -> tf.data.Dataset:
    """padded_batch of whatever comes next."""
    batches = by_hand(workload, native).padded_batch(workload.batch_size, ([None, workload.d], [], []))
    return batches.map(lambda x, n, y: ({"features": x, "lengths": n}, y)).prefetch(AUTOTUNE)


def engine(**arguments) -> Callable[[Workload, Path, Path], tf.data.Dataset]:
    """vlpipe with these arguments."""
    return lambda workload, native, plain: vlpipe.make_dataset(native, batch_size=workload.batch_size, lengths=True, seed=1, **arguments)


WAYS: dict[str, Callable[[Workload, Path, Path], tf.data.Dataset]] = {
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


def check(name: str, dataset: tf.data.Dataset, expected: Counter[int]) -> float:
    """Every record once and bit by bit; returns the share of frames that are no padding."""
    found: Counter[int] = Counter()
    valid = total = 0
    for x, *rest in dataset:
        features, lengths = x["features"].numpy(), x["lengths"].numpy()
        counts = rest[1].numpy() > 0 if len(rest) > 1 else np.ones(len(lengths), bool)
        found.update(zlib.crc32(row[:length].tobytes()) for row, length in zip(features[counts], lengths[counts], strict=True))
        valid += int(lengths[counts].sum())
        total += features.shape[0] * features.shape[1]
    if found != expected:
        raise SystemExit(f"{name}: delivered {sum(found.values())} records that are not those that were written")
    return valid / total


class CopyFloor:
    """The same batches copied from the mapped files into one warm padded buffer: no framework, no checksums, nobody to hand them to."""

    def __init__(self, workload: Workload, native: Path) -> None:
        rows = np.load(native / "index.npy")
        names = [shard["name"] for shard in json.loads((native / "vlpipe.json").read_text("utf-8"))["shards"]]
        self._maps = [np.frombuffer(mmap.mmap(os.open(native / name, os.O_RDONLY), 0, access=mmap.ACCESS_READ), np.uint8) for name in names]
        self._views = [memoryview(mapped) for mapped in self._maps]
        self._shard, self._frames = rows["shard"].tolist(), rows["frames"].astype(np.int64)
        self._start = rows["offset"].astype(np.int64) + 12 + rows["start"]
        self._width = workload.d * 4
        order = np.argsort(self._frames, kind="stable")
        batches = [order[first : first + workload.batch_size] for first in range(0, len(order), workload.batch_size)]
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


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def iterate(dataset: tf.data.Dataset) -> None:
    """One epoch, as a training loop without a model."""
    for _ in dataset:
        pass


def measure(workload: Workload, directory: Path, rounds: int, names: list[str], console: Console) -> dict:
    """Medians and ratios of every way."""
    native, plain = workload.write(directory)
    expected = Counter(zlib.crc32(x.tobytes()) for x, _ in workload.records())
    datasets = {name: WAYS[name](workload, native, plain) for name in names}
    valid = {name: check(name, dataset, expected) for name, dataset in datasets.items()}
    floor = CopyFloor(workload, native)
    runs: dict[str, Callable[[], object]] = {name: (lambda dataset=dataset: iterate(dataset)) for name, dataset in datasets.items()}
    runs |= {"copy floor, NumPy": floor.numpy, "copy floor, memoryview": floor.memoryview}
    floor.numpy()
    times: dict[str, list[float]] = {name: [] for name in runs}
    with console.status(f"{workload.name}: measuring") as status:
        for turn in range(rounds):
            for name, run in runs.items():
                status.update(f"{workload.name}: round {turn + 1} of {rounds}, {name}")
                times[name].append(seconds(run))
    frames, records = int(workload.lengths.sum()), len(workload.lengths)
    base = names[0]
    ways = {
        name: {
            "frames_per_second": frames / statistics.median(taken),
            "records_per_second": records / statistics.median(taken),
            "ratio": statistics.median(first / own for first, own in zip(times[base], taken, strict=True)),
            "valid_ratio": valid.get(name),
            "seconds": taken,
        }
        for name, taken in times.items()
    }
    fastest = max(ways[name]["frames_per_second"] for name in ways if name.startswith("copy floor"))
    for way in ways.values():
        way["share_of_floor"] = way["frames_per_second"] / fastest
    return {"records": records, "frames": frames, "d": workload.d, "batch_size": workload.batch_size, "base": base, "ways": ways}


def table(name: str, result: dict) -> Table:
    """The figures of one workload."""
    size = f"{result['records']:,} records, {result['frames'] / 1e6:.1f} M frames x {result['d']}"
    found = Table(title=f"{name}: {size}, batches of {result['batch_size']}")
    for heading in ("way", "M frames/s", "k records/s", f"x {result['base']}", "of the floor", "valid"):
        found.add_column(heading, justify="left" if heading == "way" else "right")
    for way, figures in result["ways"].items():
        found.add_row(
            way,
            f"{figures['frames_per_second'] / 1e6:.1f}",
            f"{figures['records_per_second'] / 1e3:.1f}",
            f"{figures['ratio']:.1f}",
            f"{figures['share_of_floor']:.0%}",
            "" if figures["valid_ratio"] is None else f"{figures['valid_ratio']:.1%}",
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=["speech", "events"], default=["speech", "events"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, help="so many instead of all, for a quick look")
    parser.add_argument("--data", type=Path, help="where to keep the data for the next run; default: a folder that is removed")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    console = Console(width=100)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = arguments.data or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        for name in arguments.workloads:
            make = {"speech": speech, "events": events}[name]
            workload = make() if arguments.records is None else make(arguments.records)
            results[name] = measure(workload, directory, arguments.rounds, arguments.ways, console)
            console.print(table(name, results[name]))
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    document = {
        "machine": machine | {"tensorflow": tf.__version__, "numpy": np.__version__, "vlpipe": vlpipe.__version__},
        "workloads": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Log-mel features for training: computed from waveforms in every epoch, by vlpipe and by hand, or stored beforehand.

    python -m benchmarks.audio [--workloads words sentences] [--data DIR] [--records N] [--rounds 5] [--json PATH]

Waveforms in int16: `words` of 0.2 to 0.75 s at 8 kHz, as the spoken digits are, and `sentences` of 1 to 10 s at 16 kHz; with `--data`
also the `recordings` of a folder, of one sample rate. Every way delivers padded batches of 32 log-mel sequences `[B, T, 80]` of similar
length:

tf.signal                parse, `tf.signal.stft` and a mel matrix for each element in a parallel map, then `bucket_by_sequence_length`
vlpipe, from waveforms   make_dataset(transform=vlpipe.audio.LogMel()) of the dataset that `vlpipe ingest --raw` would write
vlpipe, with noise       the same with augment=[AddNoise(...), SpecAugment()]; no other way augments
vlpipe, stored features  make_dataset of a dataset of features
NumPy loop               vlpipe.audio.LogMel for each record in a Python loop
PyTorch DataLoader       the same in worker processes, where torch is installed

The ways take turns in every round. Ratios are those of one round: to `tf.signal`, of records per second and of core-seconds, those of
worker processes included (of workers that live on, by /proc, so that they count on Linux only). Takes about four minutes on two
cores that do nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import vlpipe
from benchmarks import racing, results

BATCH, BUCKETS = 32, 8
BASE = "tf.signal"


@dataclass(frozen=True)
class Workload:
    """Waveforms.

    Attributes:
        rate: sample rate in Hz.
        waves: int16, of one channel.
    """

    rate: int
    waves: list[np.ndarray]

    @property
    def features(self) -> vlpipe.audio.LogMel:
        """What is computed of them."""
        return vlpipe.audio.LogMel(sample_rate=self.rate)

    @property
    def seconds(self) -> list[float]:
        """Their durations."""
        return [len(wave) / self.rate for wave in self.waves]

    @property
    def boundaries(self) -> list[int]:
        """Frames, at equal steps, between the buckets of a pipeline that is written by hand."""
        shortest, longest = (100 * seconds for seconds in (min(self.seconds), max(self.seconds)))
        return [int(shortest + (longest - shortest) * step / BUCKETS) for step in range(1, BUCKETS)]


def noises(rate: int, seconds: tuple[float, float], records: int) -> Workload:
    """Noise, whose durations have a uniform distribution."""
    rng = np.random.default_rng(1)
    return Workload(rate, [rng.integers(-9000, 9000, n, "int16") for n in rng.integers(*(int(s * rate) for s in seconds), records)])


def recorded(folder: Path, records: int | None) -> Workload:
    """The audio files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac", ".ogg", ".mp3"))
    loaded = [vlpipe.audio.load(path) for path in files[:records]]
    rates = {rate for _, rate in loaded}
    if len(rates) != 1:
        raise SystemExit(f"audio: the recordings in {folder} have the sample rates {sorted(rates)}, expected one. Pass another folder.")
    return Workload(rates.pop(), [np.round(32768 * samples).clip(-32768, 32767).astype(np.int16) for samples, _ in loaded])


WORKLOADS: dict[str, tuple[int, tuple[float, float], int]] = {"words": (8000, (0.2, 0.75), 4000), "sentences": (16000, (1, 10), 400)}


def write(workload: Workload, directory: Path) -> None:
    """Write the waveforms and their features as datasets, the waveforms as plain TFRecords too, and a minute of noise."""
    with vlpipe.Writer(directory / "raw") as raw, vlpipe.Writer(directory / "features") as features:
        for number, wave in enumerate(workload.waves):
            raw.write({"audio": wave[:, None], "label": number % 10})
            features.write({"features": workload.features((wave / 32768).astype(np.float32)), "label": number % 10})
    with tf.io.TFRecordWriter(str(directory / "plain.tfrecord")) as writer:
        for number, wave in enumerate(workload.waves):
            example = tf.train.Example()
            example.features.feature["audio"].bytes_list.value.append(wave.tobytes())
            example.features.feature["label"].int64_list.value.append(number % 10)
            writer.write(example.SerializeToString())
    vlpipe.write(directory / "noise", ({"audio": wave[:, None]} for wave in noises(workload.rate, (5, 7), 10).waves))


def megabytes(dataset: Path) -> float:
    """Of the records, with their framing, and of their index."""
    return sum(path.stat().st_size for path in dataset.iterdir() if path.is_file()) / 1e6


def by_tf_signal(workload: Workload, directory: Path) -> tf.data.Dataset:
    """The pipeline that TensorFlow's guides lead to."""
    rate, window, hop = workload.rate, workload.features.window, workload.features.hop
    points = 1 << (window - 1).bit_length()
    mel = tf.signal.linear_to_mel_weight_matrix(workload.features.mels, points // 2 + 1, rate, 20.0, rate / 2)
    keys = {"audio": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def features(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        record = tf.io.parse_single_example(data, keys)
        samples = tf.cast(tf.io.decode_raw(record["audio"], tf.int16), tf.float32) / 32768
        beyond = tf.maximum(tf.size(samples) - window, 0)
        samples = tf.pad(samples, [[0, window + -(-beyond // hop) * hop - tf.size(samples)]])
        spectrum = tf.abs(tf.signal.stft(samples, window, hop, points))
        return tf.math.log(tf.maximum(tf.square(spectrum) @ mel, 1e-6)), record["label"]

    dataset = tf.data.TFRecordDataset(str(directory / "plain.tfrecord")).shuffle(10_000)
    dataset = dataset.map(features, num_parallel_calls=tf.data.AUTOTUNE)
    bucketed = dataset.bucket_by_sequence_length(lambda x, _: tf.shape(x)[0], workload.boundaries, [BATCH] * BUCKETS)
    return bucketed.prefetch(tf.data.AUTOTUNE)


def batches_of_rows(directory: Path) -> list[np.ndarray]:
    """Rows of similar length, 32 to a batch."""
    order = np.argsort(vlpipe.open(directory / "raw").table()["frames"], kind="stable")
    return np.split(order, range(BATCH, len(order), BATCH))


def padded(items: list[np.ndarray]) -> np.ndarray:
    """`[B, T, 80]`."""
    batch = np.zeros((len(items), max(map(len, items)), items[0].shape[1]), np.float32)
    for row, item in enumerate(items):
        batch[row, : len(item)] = item
    return batch


class Items:
    """The features of each record, computed by NumPy when it is asked for."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        self._source, self._features = vlpipe.open(directory / "raw"), workload.features

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        record = self._source[int(row)]
        return self._features(record["audio"][:, 0] / np.float32(32768)), int(record["label"])


def collated(items: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    """A batch of items."""
    return padded([x for x, _ in items]), np.array([y for _, y in items])


def in_a_loop(workload: Workload, directory: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches that a Python loop makes."""
    items = Items(workload, directory)
    for rows in batches_of_rows(directory):
        yield collated([items[row] for row in rows])


def by_torch(workload: Workload, directory: Path) -> Iterable[Any] | None:
    """PyTorch's DataLoader, with a process for each core; None where torch is not installed."""
    try:
        from torch.utils.data import DataLoader
    except ImportError:
        return None
    rows = [batch.tolist() for batch in batches_of_rows(directory)]
    workers = os.cpu_count() or 1
    return DataLoader(Items(workload, directory), batch_sampler=rows, collate_fn=collated, num_workers=workers, persistent_workers=True)


def ways(workload: Workload, directory: Path) -> dict[str, Callable[[], Iterable[Any]]]:
    """What each way iterates over in an epoch."""
    raw = vlpipe.make_dataset(directory / "raw", transform=workload.features, batch_size=BATCH, seed=1)
    stored = vlpipe.make_dataset(directory / "features", batch_size=BATCH, seed=1)
    signal, torch = by_tf_signal(workload, directory), by_torch(workload, directory)
    augment = [vlpipe.AddNoise(directory / "noise", snr_db=(5, 20)), vlpipe.SpecAugment(time_width=20, frequency_width=8)]
    noisy = vlpipe.make_dataset(directory / "raw", transform=workload.features, augment=augment, batch_size=BATCH, seed=1)
    found: dict[str, Callable[[], Iterable[Any]]] = {
        BASE: lambda: signal,
        "vlpipe, from waveforms": lambda: raw,
        "vlpipe, with noise": lambda: noisy,
        "vlpipe, stored features": lambda: stored,
        "NumPy loop": lambda: in_a_loop(workload, directory),
    }
    return found if torch is None else {**found, "PyTorch DataLoader": lambda: torch}


def core_seconds() -> float:
    """Of this process, and of its worker processes: those that ended, and those that live on."""
    alive = [Path(f"/proc/{child.pid}/stat") for child in multiprocessing.active_children()]  # which joins those that ended
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ticks = [path.read_text().rpartition(")")[2].split()[11:13] for path in alive if path.exists()]
    return sum(own.ru_utime + own.ru_stime for own in used) + sum(int(n) for both in ticks for n in both) / os.sysconf("SC_CLK_TCK")


def epoch(batches: Iterable[Any], records: int) -> tuple[float, float]:
    """Wall-clock seconds and core-seconds of an epoch."""
    used, start, delivered = core_seconds(), time.perf_counter(), 0
    for x, _ in batches:
        delivered += len(x)
    taken = time.perf_counter() - start
    if delivered != records:
        raise SystemExit(f"audio: delivered {delivered} records, expected {records}")
    return taken, core_seconds() - used


def race(workload: Workload, directory: Path, rounds: int) -> dict[str, Any]:
    """The sizes, and the figures of each way, with every round."""
    write(workload, directory)
    entered, records, hours = ways(workload, directory), len(workload.waves), sum(workload.seconds) / 3600
    for make in entered.values():
        epoch(make(), records)
    times = racing.race(entered, rounds, lambda text: None, lambda make: epoch(make(), records))
    base = times[BASE]
    figures = {
        name: {
            "records_per_second": statistics.median(records / wall for wall, _ in taken),
            "core_seconds_per_hour": statistics.median(cores / hours for _, cores in taken),
            "ratio": statistics.median(first[0] / own[0] for first, own in zip(base, taken, strict=True)),
            "core_ratio": statistics.median(first[1] / own[1] for first, own in zip(base, taken, strict=True)),
            "rounds": taken,
        }
        for name, taken in times.items()
    }
    return {
        "rate": workload.rate,
        "records": records,
        "hours": hours,
        "seconds": [min(workload.seconds), max(workload.seconds)],
        "megabytes": {"waveforms": megabytes(directory / "raw"), "features": megabytes(directory / "features")},
        "ways": figures,
    }


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--workloads", nargs="*", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--data", type=Path, help="a folder of audio files, of one sample rate")
    parser.add_argument("--records", type=int, help="instead of 4,000 words, 400 sentences and all recordings")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.workloads, arguments.records, arguments.rounds = arguments.workloads[:1], 40, 1
    figures = {}
    for name in [*arguments.workloads, *(["recordings"] if arguments.data else [])]:
        if name == "recordings":
            workload = recorded(arguments.data, arguments.records)
        else:
            rate, seconds, records = WORKLOADS[name]
            workload = noises(rate, seconds, arguments.records or records)
        with tempfile.TemporaryDirectory() as directory:
            figures[name] = race(workload, Path(directory), arguments.rounds)
        table = Table(f"{name}", "records/s", "core-s/hour", f"x {BASE}", "x core-s")
        for way, measured in figures[name]["ways"].items():
            numbers = [f"{measured['records_per_second']:,.0f}", f"{measured['core_seconds_per_hour']:.2f}"]
            table.add_row(way, *numbers, f"{measured['ratio']:.2f}", f"{measured['core_ratio']:.2f}")
        Console().print(table)
    arguments.data = None if arguments.data is None else arguments.data.name  # the report does not need to know the machine's folders
    results.save("audio", arguments, figures)


if __name__ == "__main__":
    main()

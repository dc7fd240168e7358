"""What grows with the data, and what does not: cost against the number of records, their shape, the batch, the shards and the cores.

    python -m benchmarks.scaling [--most 10000000] [--rounds 3] [--quick] [--json PATH]

`records`: datasets of 10^3 to 10^7 tiny records, each measured in a fresh process: seconds of `vlpipe.plan`; until the first batch of
`make_dataset`; until the first batch in the middle of epoch 3, with `resume`; of making the state, and its bytes as JSON; and the longest
wait at the change to the next epoch, which is its order. Memory is what the process has beyond a warmed-up one (Linux).

`d`, `length`, `batch_size`, `shards`: valid frames a second over whole epochs, where one of these differs from the base case. Every
dataset has as many bytes, is in the page cache, and was read once and counted before. `cores`: the base case in a process that may use
only so many (Linux). The points take turns; a figure is the median of the rounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

import vlpipe
from benchmarks import results
from benchmarks.many import PATTERNS, patterns, write_many

# TensorFlow is imported by the processes that measure, and by no other: it takes three seconds.
ARGUMENTS = {"batch_size": 32, "seed": 1, "lengths": True, "dtype": "uint8"}
NEAR = 8  # batches before the end of an epoch: more than are made ahead, so that the next one is not begun at once


def check_batch(batch: tuple[Any, Any]) -> None:
    """The records of a batch are those that their labels name."""
    x, labels = batch
    known = patterns()
    for row, length, label in zip(x["features"].numpy(), x["lengths"].numpy(), labels.numpy(), strict=True):
        if not np.array_equal(row[:length], known[label]):
            raise SystemExit(f"scaling: a record of {length} frames is not the one of label {label} that was written")


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, which inherits nothing but the cores it may use."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """What a function returns, and the seconds it took."""
    start = time.perf_counter()
    found = function(*arguments, **options)
    return found, time.perf_counter() - start


def memory() -> dict[str, int]:
    """Bytes of this process: anonymous, of mapped files, and both together at their highest; nothing where there is no /proc."""
    status = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines()) if status.exists() else {}
    names = {"anonymous_bytes": "RssAnon", "file_bytes": "RssFile", "peak_bytes": "VmHWM"}
    return {key: int(lines[name].split()[0]) * 1024 for key, name in names.items() if name in lines}


def begin(directory: str, resume: dict[str, Any] | None = None) -> tuple[Iterator, Any]:
    """An iterator and its first batch."""
    iterator = iter(vlpipe.make_dataset(directory, repeat=resume is not None, resume=resume, **ARGUMENTS))
    return iterator, next(iterator)


def cost_of_records(directory: str, warm_up: str) -> dict[str, Any]:
    """What opening, beginning, resuming and going on to the next epoch take, once."""
    begin(warm_up)  # TensorFlow is loaded, its threads run
    before = memory()
    (iterator, first), first_batch_seconds = timed(begin, directory)
    held = {name: size - before[name] for name, size in memory().items()}
    del iterator
    plan, plan_seconds = timed(vlpipe.plan, directory, **ARGUMENTS)
    state, state_seconds = timed(plan.state, 3, plan.steps_per_epoch // 2)
    (iterator, resumed), resume_seconds = timed(begin, directory, state)
    del iterator
    iterator, last = begin(directory, plan.state(3, plan.steps_per_epoch - NEAR))
    waits = [timed(next, iterator)[1] for _ in range(2 * NEAR)]
    for batch in (first, resumed, last):
        check_batch(batch)
    return {
        "plan_seconds": plan_seconds,
        "first_batch_seconds": first_batch_seconds,
        "resume_seconds": resume_seconds,
        "state_seconds": state_seconds,
        "order_seconds": max(waits),
        "state_bytes": len(json.dumps(state)),
        **held,
    }


def measure_records(counts: list[int], rounds: int, status: Callable[[str], None]) -> list[dict[str, Any]]:
    """The series over the number of records: each figure a list of its rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        places = {count: Path(scratch) / f"records-{count}" for count in counts}
        for count, place in places.items():
            status(f"writing {count:,} records")
            write_many(place, count)
        found: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
        for turn in range(rounds):
            for count, place in places.items():
                status(f"round {turn + 1} of {rounds}: {count:,} records")
                found[count].append(fresh(cost_of_records, str(place), str(places[counts[0]])))
        sizes = {count: sum(file.stat().st_size for file in place.iterdir()) for count, place in places.items()}
    return [
        {"records": count, "disk_bytes": sizes[count]} | {name: [turn[name] for turn in turns] for name in turns[0]}
        for count, turns in found.items()
    ]


@dataclass(frozen=True)
class Case:
    """A dataset and how it is batched: records [T, d] of float32, T log-normal around `length`."""

    d: int = 40
    length: int = 100
    batch_size: int = 32
    shards: int = 16

    def write(self, directory: Path, size: int) -> None:
        """So many bytes of frames, unless they are there."""
        if self.place(directory).exists():
            return
        random = np.random.default_rng(0)
        lengths = random.lognormal(np.log(self.length) - 0.08, 0.4, max(8, size // (4 * self.d * self.length)))
        lengths = np.clip(lengths, 1, 3 * self.length).astype(int).tolist()
        noise = random.standard_normal((3 * self.length, self.d)).astype(np.float32)
        vlpipe.write(self.place(directory), ({"features": noise[:length]} for length in lengths), num_shards=self.shards)

    def place(self, directory: Path) -> Path:
        """Where its dataset is."""
        return directory / f"d{self.d}-length{self.length}-shards{self.shards}"


SERIES = {"d": (8, 40, 80, 320), "length": (20, 100, 400, 1600), "batch_size": (8, 32, 128, 512), "shards": (1, 16, 256)}


def epoch_seconds(cases: list[Case], directory: Path, rounds: int, epochs: int) -> list[tuple[int, list[float]]]:
    """Frames of each case, and seconds of an epoch: the mean of some epochs, once a round."""
    datasets = [vlpipe.make_dataset(case.place(directory), batch_size=case.batch_size, seed=1, lengths=True) for case in cases]
    frames = [int(vlpipe.plan(case.place(directory)).frames.sum()) for case in cases]
    for case, dataset, expected in zip(cases, datasets, frames, strict=True):
        if (delivered := sum(int(x["lengths"].numpy().sum()) for (x,) in dataset)) != expected:
            raise SystemExit(f"scaling: {case} delivered {delivered} frames of {expected}")
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for taken, dataset in zip(seconds, datasets, strict=True):
            taken.append(timed(iterate, dataset, epochs)[1] / epochs)
    return list(zip(frames, seconds, strict=True))


def iterate(dataset: Any, epochs: int) -> None:
    """Some epochs, as a training loop without a model."""
    for _ in range(epochs):
        for _ in dataset:
            pass


def speed(case: Case, frames: int, seconds: list[float]) -> dict[str, Any]:
    """The figures of a case."""
    rate = frames / statistics.median(seconds)
    return {"frames": frames, "seconds": seconds, "frames_per_second": rate, "gigabytes_per_second": rate * case.d * 4 / 1e9}


def measure_cases(series: dict[str, list[int]], directory: Path, rounds: int, epochs: int) -> dict[str, list[dict[str, Any]]]:
    """The series in which one thing of the base case varies, all in one process."""
    cases = {(name, value): dataclasses.replace(Case(), **{name: value}) for name, values in series.items() for value in values}
    different = list(dict.fromkeys(cases.values()))  # the base case belongs to every series, and is measured once
    found = dict(zip(different, fresh(epoch_seconds, different, directory, rounds, epochs), strict=True))
    return {name: [{name: value} | speed(case, *found[case]) for (of, value), case in cases.items() if of == name] for name in series}


def measure_cores(counts: list[int], directory: Path, rounds: int, epochs: int) -> list[dict[str, Any]]:
    """The base case on so many cores, each round in a process of its own."""
    turns: dict[int, list[tuple[int, list[float]]]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            with on_cores(count):
                turns[count] += fresh(epoch_seconds, [Case()], directory, 1, epochs)
    return [{"cores": count} | speed(Case(), found[0][0], [taken for _, (taken,) in found]) for count, found in turns.items()]


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Processes that begin meanwhile may use only so many cores, and TensorFlow in them makes as many threads."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def core_counts() -> list[int]:
    """1, 2, 4, ... and all; none where a process cannot be kept to some."""
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else 0
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)} - {0})


COLUMNS = {
    "plan, s": "plan_seconds",
    "first batch, s": "first_batch_seconds",
    "resume, s": "resume_seconds",
    "next epoch, s": "order_seconds",
    "state, s": "state_seconds",
    "state, bytes": "state_bytes",
    "anonymous, MB": "anonymous_bytes",
    "files, MB": "file_bytes",
    "peak, MB": "peak_bytes",
}


def records_table(points: list[dict[str, Any]]) -> Table:
    """Medians of the series over the number of records."""
    found = Table(title="cost against the number of records")
    columns = {heading: key for heading, key in COLUMNS.items() if key in points[0]}
    for heading in ("records", *columns):
        found.add_column(heading, justify="right")
    for point in points:
        medians = [statistics.median(point[key]) for key in columns.values()]
        scaled = [f"{value / 1e6:.0f}" if "MB" in heading else f"{value:.3g}" for heading, value in zip(columns, medians, strict=True)]
        found.add_row(f"{point['records']:,}", *scaled)
    return found


def speed_table(series: dict[str, list[dict[str, Any]]]) -> Table:
    """Speeds of the series in which one thing of the base case varies."""
    found = Table(title=f"speed around {Case()}")
    for heading in ("", "", "M frames/s", "GB/s", "ms an epoch"):
        found.add_column(heading, justify="right")
    for name, points in series.items():
        for point in points:
            milliseconds = 1000 * statistics.median(point["seconds"])
            rates = f"{point['frames_per_second'] / 1e6:.2f}", f"{point['gigabytes_per_second']:.2f}"
            found.add_row(name if point is points[0] else "", str(point[name]), *rates, f"{milliseconds:.1f}")
        found.add_section()
    return found


def measure(arguments: Any, console: Console) -> dict[str, list[dict[str, Any]]]:
    """All series."""
    quick = arguments.quick
    most = min(arguments.most, 10_000) if quick else arguments.most
    rounds, epochs, size = (1, 1, 2_000_000) if quick else (arguments.rounds, 5, 128_000_000)
    series = {name: list(values[:2] if quick else values) for name, values in SERIES.items()}
    cores = core_counts()[-1:] if quick else core_counts()
    with console.status("") as status, tempfile.TemporaryDirectory() as scratch:
        found = {"records": measure_records([10**power for power in range(3, len(str(most)))], rounds, status.update)}
        for name, values in series.items():
            for value in values:
                status.update(f"writing the dataset of {name} {value}")
                dataclasses.replace(Case(), **{name: value}).write(Path(scratch), size)
        status.update(f"measuring {', '.join(series)}")
        found |= measure_cases(series, Path(scratch), rounds, epochs)
        status.update("measuring cores")
        found["cores"] = measure_cores(cores, Path(scratch), rounds, epochs)
    return found


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--most", type=int, default=10_000_000, help="records of the largest dataset: a power of ten from 1,000 on")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.most < PATTERNS:
        parser.error(f"--most: came as {arguments.most}, expected at least {PATTERNS}")
    console = Console(width=120)
    found = measure(arguments, console)
    console.print(records_table(found["records"]))
    console.print(speed_table({name: points for name, points in found.items() if name != "records"}))
    results.save("scaling", arguments, found)


if __name__ == "__main__":
    main()

"""How cost grows with the number of records, their shape, the batch size, the shards and the cores.

    python -m benchmarks.scaling [--most 10000000] [--rounds 3] [--quick] [--json PATH]

`records`: datasets of 10^3 to 10^7 tiny records, each measured in a fresh process. Seconds of `vlpipe.plan`; seconds to the first batch of
`make_dataset`; seconds to the first batch in the middle of epoch 3, with `resume`; seconds to create the state, and its bytes as JSON; and
the longest wait at the change to the next epoch, which computes its order. Memory is the increase over a warmed-up process (Linux).

`d`, `length`, `batch_size`, `shards`: valid frames per second over whole epochs, where one of these differs from the base case. All
datasets have the same number of bytes, are in the page cache, and were read and counted once before. `cores`: the base case in a process
that is restricted to that number of cores (Linux). The points take turns; a figure is the median of the rounds.
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
from benchmarks.racing import orders

# Only the processes that measure import TensorFlow, which takes three seconds.
ARGUMENTS = {"batch_size": 32, "seed": 1, "lengths": True, "dtype": "uint8"}
NEAR = 8  # batches before the end of an epoch: more than are prefetched, so that the next epoch does not begin at once


def check_batch(batch: tuple[Any, Any]) -> None:
    """Check that each record of a batch is the pattern of its label."""
    x, labels = batch
    known = patterns()
    for row, length, label in zip(x["features"].numpy(), x["lengths"].numpy(), labels.numpy(), strict=True):
        if not np.array_equal(row[:length], known[label]):
            raise SystemExit(f"scaling: a record of {length} frames with label {label} differs from the one that was written")


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, which inherits only the allowed cores; return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """Call a function; return its result and the seconds that it took."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - start


def memory() -> dict[str, int]:
    """Memory of this process in bytes: anonymous, mapped files, and the peak of both together; empty without /proc."""
    status = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines()) if status.exists() else {}
    names = {"anonymous_bytes": "RssAnon", "file_bytes": "RssFile", "peak_bytes": "VmHWM"}
    return {key: int(lines[name].split()[0]) * 1024 for key, name in names.items() if name in lines}


def begin(directory: str, resume: dict[str, Any] | None = None) -> tuple[Iterator, Any]:
    """Return an iterator and its first batch."""
    iterator = iter(vlpipe.make_dataset(directory, repeat=resume is not None, resume=resume, **ARGUMENTS))
    return iterator, next(iterator)


def cost_of_records(directory: str, warm_up: str) -> dict[str, Any]:
    """Measure once: planning, the first batch, resuming, and the change to the next epoch."""
    begin(warm_up)  # loads TensorFlow and starts its threads
    before = memory()
    (iterator, first), first_batch_seconds = timed(begin, directory)
    memory_growth = {name: size - before[name] for name, size in memory().items()}
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
        **memory_growth,
    }


def measure_records(counts: list[int], rounds: int, status: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the series over the number of records; each figure is the list of its rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        directories = {count: Path(scratch) / f"records-{count}" for count in counts}
        for count, directory in directories.items():
            status(f"writing {count:,} records")
            write_many(directory, count)
        points: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
        for turn in range(rounds):
            for count, directory in directories.items():
                status(f"round {turn + 1} of {rounds}: {count:,} records")
                points[count].append(fresh(cost_of_records, str(directory), str(directories[counts[0]])))
        sizes = {count: sum(file.stat().st_size for file in directory.iterdir()) for count, directory in directories.items()}
    return [
        {"records": count, "disk_bytes": sizes[count]} | {name: [turn[name] for turn in turns] for name in turns[0]}
        for count, turns in points.items()
    ]


@dataclass(frozen=True)
class Case:
    """A dataset of float32 records [T, d], T log-normal around `length`, and its batch size."""

    d: int = 40
    length: int = 100
    batch_size: int = 32
    shards: int = 16

    def write(self, directory: Path, size: int) -> None:
        """Write a dataset of `size` bytes of frames, unless it exists."""
        if self.path(directory).exists():
            return
        random = np.random.default_rng(0)
        lengths = random.lognormal(np.log(self.length) - 0.08, 0.4, max(8, size // (4 * self.d * self.length)))
        lengths = np.clip(lengths, 1, 3 * self.length).astype(int).tolist()
        noise = random.standard_normal((3 * self.length, self.d)).astype(np.float32)
        vlpipe.write(self.path(directory), ({"features": noise[:length]} for length in lengths), num_shards=self.shards)

    def path(self, directory: Path) -> Path:
        """Path of the dataset."""
        return directory / f"d{self.d}-length{self.length}-shards{self.shards}"


SERIES = {"d": (8, 40, 80, 320), "length": (20, 100, 400, 1600), "batch_size": (8, 32, 128, 512), "shards": (1, 16, 256)}


def epoch_seconds(cases: list[Case], directory: Path, rounds: int, epochs: int) -> list[tuple[int, list[float]]]:
    """Measure each case: its frames, and in each round the mean seconds per epoch."""
    datasets = [vlpipe.make_dataset(case.path(directory), batch_size=case.batch_size, seed=1, lengths=True) for case in cases]
    frames = [int(vlpipe.plan(case.path(directory)).frames.sum()) for case in cases]
    for case, dataset, expected in zip(cases, datasets, frames, strict=True):
        if (delivered := sum(int(x["lengths"].numpy().sum()) for (x,) in dataset)) != expected:
            raise SystemExit(f"scaling: {case} delivered {delivered} frames of {expected}")
    seconds: list[list[float]] = [[] for _ in cases]
    for numbers in orders(range(len(cases)), rounds):
        for number in numbers:
            seconds[number].append(timed(iterate, datasets[number], epochs)[1] / epochs)
    return list(zip(frames, seconds, strict=True))


def iterate(dataset: Any, epochs: int) -> None:
    """Iterate over epochs, as a training loop without a model does."""
    for _ in range(epochs):
        for _ in dataset:
            pass


def speed(case: Case, frames: int, seconds: list[float]) -> dict[str, Any]:
    """Return the figures of a case."""
    rate = frames / statistics.median(seconds)
    return {"frames": frames, "seconds": seconds, "frames_per_second": rate, "gigabytes_per_second": rate * case.d * 4 / 1e9}


def measure_cases(series: dict[str, list[int]], directory: Path, rounds: int, epochs: int) -> dict[str, list[dict[str, Any]]]:
    """Measure the series in which one property of the base case varies, in one process."""
    cases = {(name, value): dataclasses.replace(Case(), **{name: value}) for name, values in series.items() for value in values}
    different = list(dict.fromkeys(cases.values()))  # the base case belongs to every series, and is measured once
    measured = dict(zip(different, fresh(epoch_seconds, different, directory, rounds, epochs), strict=True))
    return {
        name: [{name: value} | speed(cases[name, value], *measured[cases[name, value]]) for value in values]
        for name, values in series.items()
    }


def measure_cores(counts: list[int], directory: Path, rounds: int, epochs: int) -> list[dict[str, Any]]:
    """Measure the base case on different numbers of cores, each round in a fresh process."""
    turns: dict[int, list[tuple[int, list[float]]]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            with on_cores(count):
                turns[count] += fresh(epoch_seconds, [Case()], directory, 1, epochs)
    return [{"cores": count} | speed(Case(), measured[0][0], [taken for _, (taken,) in measured]) for count, measured in turns.items()]


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Restrict processes that start inside to `count` cores; TensorFlow then creates as many threads."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def core_counts() -> list[int]:
    """1, 2, 4, ... and all cores; empty where a process cannot be restricted to some."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else 0
    return sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)} - {0})


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
    """Return the medians of the series over the number of records as a table."""
    table = Table(title="cost by number of records")
    columns = {heading: key for heading, key in COLUMNS.items() if key in points[0]}
    for heading in ("records", *columns):
        table.add_column(heading, justify="right")
    for point in points:
        medians = [statistics.median(point[key]) for key in columns.values()]
        scaled = [f"{value / 1e6:.0f}" if "MB" in heading else f"{value:.3g}" for heading, value in zip(columns, medians, strict=True)]
        table.add_row(f"{point['records']:,}", *scaled)
    return table


def speed_table(series: dict[str, list[dict[str, Any]]]) -> Table:
    """Return the speeds of the series in which one property of the base case varies as a table."""
    table = Table(title=f"speed around {Case()}")
    for heading in ("", "", "M frames/s", "GB/s", "ms/epoch"):
        table.add_column(heading, justify="right")
    for name, points in series.items():
        for point in points:
            milliseconds = 1000 * statistics.median(point["seconds"])
            rates = f"{point['frames_per_second'] / 1e6:.2f}", f"{point['gigabytes_per_second']:.2f}"
            table.add_row(name if point is points[0] else "", str(point[name]), *rates, f"{milliseconds:.1f}")
        table.add_section()
    return table


def measure(arguments: Any, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Measure all series."""
    quick = arguments.quick
    max_records = min(arguments.most, 10_000) if quick else arguments.most
    rounds, epochs, size = (1, 1, 2_000_000) if quick else (arguments.rounds, 5, 128_000_000)
    series = {name: list(values[:2] if quick else values) for name, values in SERIES.items()}
    cores = core_counts()[-1:] if quick else core_counts()
    with console.status("") as status, tempfile.TemporaryDirectory() as scratch:
        figures = {"records": measure_records([10**power for power in range(3, len(str(max_records)))], rounds, status.update)}
        for name, values in series.items():
            for value in values:
                status.update(f"writing the dataset of {name} {value}")
                dataclasses.replace(Case(), **{name: value}).write(Path(scratch), size)
        status.update(f"measuring {', '.join(series)}")
        figures |= measure_cases(series, Path(scratch), rounds, epochs)
        status.update("measuring cores")
        figures["cores"] = measure_cores(cores, Path(scratch), rounds, epochs)
    return figures


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--most", type=int, default=10_000_000, help="records of the largest dataset: a power of ten, at least 1,000")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.most < PATTERNS:
        parser.error(f"--most: came as {arguments.most}, expected at least {PATTERNS}")
    console = Console(width=120)
    figures = measure(arguments, console)
    console.print(records_table(figures["records"]))
    console.print(speed_table({name: points for name, points in figures.items() if name != "records"}))
    results.save("scaling", arguments, figures)


if __name__ == "__main__":
    main()

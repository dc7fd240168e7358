"""How fast batches are delivered: vlpipe, what the guides of TensorFlow show, what users pick instead of tf.data, and a bare copy.

    python -m benchmarks.throughput [--workloads speech events] [--rounds 5] [--keep DIR] [--ways NAME ...] [--peers NAME ...] [--json PATH]
    python -m benchmarks.throughput --data DIR [--batch-size 32] [--features NAME] [--label NAME]

Every way delivers the same records as features, lengths and label. They take turns, so that a slow moment of the machine meets all, and a
figure is the median of the rounds: valid frames (padding is not counted) a second, for one whole epoch, from asking for an iterator to its
end. Before that, one untimed epoch of each warms the page cache and is compared record by record with what was written.

Peers (PyTorch, Lhotse, Grain, Hugging Face; benchmarks/peers.py) run where their packages are installed, each with the number of worker
processes, of those in `--workers`, that was fastest in one epoch before the rounds. With `--data DIR`, a vlpipe dataset of one's own, the
ways of tf.data alone run: the peers would each need a copy of it in their own format. A label that is a sequence is then left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peers import PEERS
from benchmarks.results import parser, save

if TYPE_CHECKING:  # and at run time in `main`: the peers' processes import this module anew, and would each load TensorFlow
    from benchmarks.pipelines import Task
    from benchmarks.workloads import Workload

Arguments = argparse.Namespace
QUICK = {"speech": 60, "events": 300}
FLOOR = "copy floor"


@dataclass
class Way:
    """One that takes part: every iteration is an epoch.

    Attributes:
        valid_ratio: share of the delivered frames that are no padding.
        notes: what else to say of it in the JSON.
    """

    epochs: Iterable[Any]
    valid_ratio: float
    notes: dict[str, Any] = field(default_factory=dict)


def digest(x: np.ndarray, label: Any) -> int:
    """Tells one record from another, to the last bit."""
    return zlib.crc32(label if isinstance(label, bytes) else np.asarray(label).tobytes(), zlib.crc32(x.tobytes()))


def rows(batch: Any) -> Iterator[tuple[np.ndarray, Any, Any, Any]]:
    """Padded features, length, label and weight of each row; of tf.data's batches or a peer's."""
    if isinstance(batch[0], dict):
        x, *rest = batch
        batch = x["features"], x["lengths"], *rest
    features, lengths, *rest = (None if part is None else np.asarray(part) for part in batch)
    labels = rest[0] if rest and rest[0] is not None else [b""] * len(lengths)
    weights = rest[1] if len(rest) > 1 else np.ones(len(lengths))
    return zip(features, lengths, labels, weights, strict=True)


def check(name: str, epochs: Iterable[Any], expected: Counter[int]) -> float:
    """Every record once and bit by bit; returns the share of frames that are no padding."""
    found: Counter[int] = Counter()
    valid = total = 0
    for batch in epochs:
        for x, length, label, weight in rows(batch):
            total += len(x)
            if weight:  # else a row that completes a batch
                found[digest(x[:length], label)] += 1
                valid += int(length)
    if found != expected:
        missing, strange = (expected - found).total(), (found - expected).total()
        raise SystemExit(f"{name}: {missing} of {expected.total()} records did not come as they were written, {strange} others came")
    return valid / total if total else 1.0


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def iterate(epochs: Iterable[Any]) -> None:
    """One epoch, as a training loop without a model."""
    for _ in epochs:
        pass


def enter_peer(name: str, workload: Workload, directory: Path, workers: list[int], expected: Counter[int]) -> Way:
    """A peer with its best number of processes; its first epoch, which starts them, is the one that is checked."""
    tried: dict[int, float] = {}
    best = None
    for count in workers:
        epochs = PEERS[name].make(workload, directory, count)
        valid = check(f"{name}, {count} workers", epochs, expected)
        tried[count] = seconds(lambda epochs=epochs: iterate(epochs))
        if tried[count] == min(tried.values()):
            best = Way(epochs, valid, {"workers": count, "tried": tried})
    return best


def race(runs: dict[str, Callable[[], object]], rounds: int, status: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds of each in every round, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            status(f"round {turn + 1} of {rounds}, {name}")
            times[name].append(seconds(run))
    return times


def summary(times: dict[str, list[float]], lengths: np.ndarray, ways: dict[str, Way]) -> dict[str, dict]:
    """The figures of each; ratios to the first are taken round by round."""
    base = next(iter(times.values()))
    figures = {
        name: {
            "frames_per_second": int(lengths.sum()) / statistics.median(taken),
            "records_per_second": len(lengths) / statistics.median(taken),
            "ratio": statistics.median(first / own for first, own in zip(base, taken, strict=True)),
            "valid_ratio": ways[name].valid_ratio if name in ways else None,
            "seconds": taken,
        }
        | (ways[name].notes if name in ways else {})
        for name, taken in times.items()
    }
    fastest = max(found["frames_per_second"] for name, found in figures.items() if name.startswith(FLOOR))
    for found in figures.values():
        found["share_of_floor"] = found["frames_per_second"] / fastest
    return figures


def measure(task: Task, expected: Counter[int], enter: dict[str, Callable[[], Way]], arguments: Arguments, console: Console) -> dict:
    """All ways of tf.data that are asked for, and what else `enter` gives, in turns."""
    from benchmarks import pipelines

    with console.status(task.native.name) as status:

        def say(text: str) -> None:
            status.update(f"{task.native.name}: {text}")

        ways = {}
        for name in arguments.ways:
            say(f"checking {name}")
            dataset = pipelines.WAYS[name](task)
            ways[name] = Way(dataset, check(name, dataset, expected))
        for name, make in enter.items():
            say(f"checking {name}")
            ways[name] = make()
        floor = pipelines.CopyFloor(task)
        floor.numpy()
        runs: dict[str, Callable[[], object]] = {name: (lambda way=way: iterate(way.epochs)) for name, way in ways.items()}
        runs |= {f"{FLOOR}, NumPy": floor.numpy, f"{FLOOR}, memoryview": floor.memoryview}
        times = race(runs, arguments.rounds, say)
    result = {
        "records": len(task.lengths),
        "frames": int(task.lengths.sum()),
        "d": task.d,
        "batch_size": task.batch_size,
        "base": next(iter(times)),
        "ways": summary(times, task.lengths, ways),
    }
    console.print(table(task.native.name, result))
    return result


def measure_workload(workload: Workload, directory: Path, arguments: Arguments, console: Console) -> dict:
    """A synthetic workload, the peers too."""
    from benchmarks.pipelines import Task

    directory = directory / f"{len(workload.lengths)}-records"
    directory.mkdir(parents=True, exist_ok=True)
    native, plain = workload.write(directory)
    expected = Counter(digest(x, np.int64(y)) for x, y in workload.records())
    enter = {
        name: (lambda name=name: enter_peer(name, workload, directory, arguments.workers, expected))
        for name in arguments.peers
        if PEERS[name].missing is None
    }
    return measure(Task.of(native, plain, workload.batch_size), expected, enter, arguments, console)


def measure_data(scratch: Path, arguments: Arguments, console: Console) -> dict:
    """A dataset of one's own."""
    import vlpipe
    from benchmarks.pipelines import Task

    try:
        task = Task.of(arguments.data, scratch / "floatlist", arguments.batch_size, arguments.features, arguments.label)
    except vlpipe.VlpipeError as error:
        raise SystemExit(f"throughput: {error}") from error
    task.write_floats()
    expected = Counter(digest(x, label[0] if label else b"") for x, _, *label in task.records())
    return measure(task, expected, {}, arguments, console)


def table(name: str, result: dict) -> Table:
    """The figures of one workload."""
    size = f"{result['records']:,} records, {result['frames'] / 1e6:.1f} M frames x {result['d']}"
    found = Table(title=f"{name}: {size}, batches of {result['batch_size']}")
    for heading in ("way", "M frames/s", "k records/s", f"x {result['base']}", "of the floor", "valid", "workers"):
        found.add_column(heading, justify="left" if heading == "way" else "right")
    for way, figures in result["ways"].items():
        found.add_row(
            way,
            f"{figures['frames_per_second'] / 1e6:.1f}",
            f"{figures['records_per_second'] / 1e3:.1f}",
            f"{figures['ratio']:.1f}",
            f"{figures['share_of_floor']:.0%}",
            "" if figures["valid_ratio"] is None else f"{figures['valid_ratio']:.1%}",
            str(figures.get("workers", "")),
        )
    return found


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """The command line, with the defaults that depend on others."""
    from benchmarks.pipelines import WAYS

    found = parser(__doc__)
    found.add_argument("--workloads", nargs="+", choices=list(QUICK), default=list(QUICK))
    found.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="of tf.data; ratios are to the first")
    found.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS), help="default: all that are installed")
    found.add_argument("--workers", nargs="+", type=int, help="processes of a peer to choose from; default: 0 1 2, quick: 0")
    found.add_argument("--rounds", type=int, help="default: 5, quick: 1")
    found.add_argument("--records", type=int, help="so many instead of all")
    found.add_argument("--keep", type=Path, help="where to keep the data for the next run; default: a folder that is removed")
    found.add_argument("--data", type=Path, help="a vlpipe dataset of one's own, instead of the workloads")
    found.add_argument("--batch-size", type=int, default=32, help="with --data")
    found.add_argument("--features", help="with --data: the sequence to deliver, where there are several")
    found.add_argument("--label", help="with --data: the label to deliver, where there are several")
    arguments = found.parse_args(given)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.workers = arguments.workers or ([0] if arguments.quick else [0, 1, 2])
    return arguments


def main(given: list[str] | None = None) -> dict[str, Any]:
    arguments = arguments_of(given)
    from benchmarks import workloads

    console = Console(width=110)
    skipped = {} if arguments.data else {name: PEERS[name].missing for name in arguments.peers if PEERS[name].missing}
    for name, packages in skipped.items():
        console.print(f"{name} is skipped: {packages} is not installed")
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.data:
            results[arguments.data.name] = measure_data(Path(scratch), arguments, console)
        for name in [] if arguments.data else arguments.workloads:
            count = arguments.records or (QUICK[name] if arguments.quick else None)
            make = {"speech": workloads.speech, "events": workloads.events}[name]
            workload = make() if count is None else make(count)
            results[name] = measure_workload(workload, arguments.keep or Path(scratch), arguments, console)
    return save("throughput", arguments, {"workloads": results, "skipped": skipped})


if __name__ == "__main__":
    main()

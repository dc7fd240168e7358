"""How fast batches are delivered: vlpipe, the pipelines of TensorFlow's guides, alternatives to tf.data, and bare copies.

    python -m benchmarks.throughput [--workloads speech events] [--rounds 5] [--keep DIR] [--ways NAME ...] [--peers NAME ...] [--json PATH]
    python -m benchmarks.throughput --data DIR [--batch-size 32] [--features NAME] [--label NAME]

Every way delivers the same records as features, lengths and label, in a process of its own (all in one with `--quick`). The ways take
turns, so that a slow moment of the machine affects all; a turn is as many epochs as take a second, at most eight. A figure is the median of
the rounds: valid frames (padding is not counted) per second over whole epochs, from the creation of an iterator to its end. Before that,
one untimed epoch of each way warms the page cache and is compared record by record with what was written. Each timed epoch begins with the
data in memory, but not in the caches of the processor (benchmarks/racing.py).
Datasets of tf.data are also consumed by a graph, as `fit` does (benchmarks/consuming.py), and each such epoch is compared in the same way.

Windows of long recordings, and a mix, are compared with whole records of the length of a window (benchmarks/pieces.py).

Peers (PyTorch, Lhotse, Grain, Hugging Face, LitData, DALI; benchmarks/peers.py) run where their packages are installed, each with that
number of worker processes of `--workers` which was fastest in one epoch before the rounds. With `--data DIR`, a vlpipe dataset of your own,
only the ways of tf.data and vlpipe run: each peer would need a copy of the dataset in its own format. A label that is a sequence is then
omitted.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import consuming, pieces
from benchmarks.copying import CopyFloor, CopyOnEveryCore, Frames
from benchmarks.own_process import Way, own_process
from benchmarks.peers import PEERS
from benchmarks.racing import iterate, mean_seconds, race, seconds, speed_ratio
from benchmarks.results import parser, save

if TYPE_CHECKING:  # at run time imported in `main`: the peers' processes import this module again, and would each load TensorFlow
    from benchmarks.pipelines import Task
    from benchmarks.workloads import Workload

Arguments = argparse.Namespace
QUICK = {"speech": 60, "events": 300}
FLOOR = "copy floor"
EVERY_CORE = "copy on every core"
IN_GRAPH = ", in a graph"


def digest(x: np.ndarray, label: Any) -> int:
    """Return a checksum of a record, which distinguishes records bit by bit."""
    return zlib.crc32(label if isinstance(label, bytes) else np.asarray(label).tobytes(), zlib.crc32(x.tobytes()))


def rows(batch: Any) -> Iterator[tuple[np.ndarray, Any, Any, Any]]:
    """Yield padded features, length, label and weight of each row of a batch of tf.data or of a peer."""
    if isinstance(batch[0], dict):
        x, *rest = batch
        batch = x["features"], x["lengths"], *rest
    features, lengths, *rest = (None if part is None else np.asarray(part) for part in batch)
    labels = rest[0] if rest and rest[0] is not None else [b""] * len(lengths)
    weights = rest[1] if len(rest) > 1 else np.ones(len(lengths))
    return zip(features, lengths, labels, weights, strict=True)


def check(name: str, epochs: Iterable[Any], expected: Counter[int]) -> float:
    """Check that an epoch has every record once, bit by bit; return the share of frames that are not padding."""
    delivered: Counter[int] = Counter()
    valid = total = 0
    for batch in epochs:
        for x, length, label, weight in rows(batch):
            total += len(x)
            if weight:  # otherwise a row that fills up the batch
                delivered[digest(x[:length], label)] += 1
                valid += int(length)
    if delivered != expected:
        missing, unexpected = (expected - delivered).total(), (delivered - expected).total()
        raise SystemExit(
            f"{name}: {missing} of {expected.total()} records were not delivered as written, {unexpected} unexpected records were"
        )
    return valid / total if total else 1.0


def enter_dataset(task: Task, name: str, expected: Counter[int], rounds: int) -> Way:
    """Return a way of `pipelines.WAYS`; an epoch in a loop, and one in a graph where that is possible, are checked."""
    from benchmarks import pipelines

    dataset = pipelines.WAYS[name](task)
    way = Way({name: partial(iterate, dataset)}, check(name, dataset, expected), consuming.iterator_costs(dataset, rounds))
    if consuming.is_for_graphs(dataset):
        check(f"{name}{IN_GRAPH}", consuming.SeenInGraph(dataset), expected)
        consume = way.runs[f"{name}{IN_GRAPH}"] = consuming.in_graph(dataset)
        consume()  # traces it
    return way


def enter_peer(name: str, workload: Workload, directory: Path, workers: list[int], expected: Counter[int]) -> Way:
    """Return a peer with its fastest number of processes; its first epoch, which starts them, is checked."""
    tried: dict[int, float] = {}
    best = None
    for count in workers:
        epochs = PEERS[name].make(workload, directory, count)
        valid = check(f"{name}, {count} workers", epochs, expected)
        tried[count] = seconds(partial(iterate, epochs))
        if tried[count] == min(tried.values()):
            best = Way({name: partial(iterate, epochs)}, valid, {"workers": count, "tried": tried})
    return best


def enter_floor(frames: Frames) -> Way:
    """Return the two bare copies in one thread."""
    floor = CopyFloor(frames)
    floor.numpy()
    return Way({f"{FLOOR}, NumPy": floor.numpy, f"{FLOOR}, memoryview": floor.memoryview})


def summary(times: dict[str, list[float]], lengths: np.ndarray, ways: dict[str, Way]) -> dict[str, dict]:
    """Return the figures of each way; ratios to the first way that is consumed alike are computed round by round."""
    in_graph = {name.removesuffix(IN_GRAPH): taken for name, taken in times.items() if name.endswith(IN_GRAPH)}
    times = {name: taken for name, taken in times.items() if not name.endswith(IN_GRAPH)}
    base = next(iter(times.values()))
    figures: dict[str, dict] = {
        name: {
            "frames_per_second": int(lengths.sum()) / statistics.median(taken),
            "records_per_second": len(lengths) / statistics.median(taken),
            "ratio": speed_ratio(base, taken),
            "valid_ratio": ways[name].valid_ratio if name in ways else None,
            "seconds": taken,
        }
        | (ways[name].notes if name in ways else {})
        for name, taken in times.items()
    }
    for name, taken in in_graph.items():
        figures[name]["graph"] = {
            "frames_per_second": int(lengths.sum()) / statistics.median(taken),
            "ratio": speed_ratio(next(iter(in_graph.values())), taken),
            "seconds": taken,
        }
    fastest = max(way["frames_per_second"] for name, way in figures.items() if name.startswith(FLOOR))
    for way in figures.values():
        way["share_of_floor"] = way["frames_per_second"] / fastest
    return figures


def measure(task: Task, expected: Counter[int], peers: dict[str, Callable[[], Way]], arguments: Arguments, console: Console) -> dict:
    """Measure the requested ways of tf.data, the peers and the bare copies, in turns."""
    frames = Frames.of(task)
    datasets = {name: partial(enter_dataset, task, name, expected, arguments.rounds) for name in arguments.ways}
    with console.status(task.native.name) as status, contextlib.ExitStack() as processes:

        def show(text: str) -> None:
            status.update(f"{task.native.name}: {text}")

        ways: dict[str, Way] = {}
        for name, enter in {**datasets, **peers, FLOOR: partial(enter_floor, frames)}.items():
            show(f"checking {name}")
            ways[name] = enter() if arguments.quick else processes.enter_context(own_process(name, enter))
            if name in datasets:
                ways[name].notes["process_seconds"] = consuming.process_seconds(task, name, arguments.starts)
        runs = {name: run for way in ways.values() for name, run in way.runs.items()}
        runs[EVERY_CORE] = processes.enter_context(CopyOnEveryCore(frames))
        times = race(runs, arguments.rounds, show, seconds if arguments.quick else mean_seconds)
    result = {
        "records": len(task.lengths),
        "frames": int(task.lengths.sum()),
        "d": task.d,
        "batch_size": task.batch_size,
        "base": next(iter(times)),
        "ways": summary(times, task.lengths, ways),
    }
    console.print(make_table(task.native.name, result))
    return result


def measure_workload(workload: Workload, directory: Path, arguments: Arguments, console: Console) -> dict:
    """Measure a synthetic workload, including the peers."""
    from benchmarks.pipelines import Task

    directory = directory / f"{len(workload.lengths)}-records"
    directory.mkdir(parents=True, exist_ok=True)
    native, plain = workload.write(directory)
    expected = Counter(digest(x, np.int64(y)) for x, y in workload.records())
    peers = {
        name: partial(enter_peer, name, workload, directory, arguments.workers, expected)
        for name in arguments.peers
        if PEERS[name].missing is None
    }
    return measure(Task.of(native, plain, workload.batch_size), expected, peers, arguments, console)


def measure_data(scratch: Path, arguments: Arguments, console: Console) -> dict:
    """Measure the dataset of `--data`."""
    import vlpipe
    from benchmarks.pipelines import Task

    try:
        task = Task.of(arguments.data, scratch / "floatlist", arguments.batch_size, arguments.features, arguments.label)
    except vlpipe.VlpipeError as error:
        raise SystemExit(f"throughput: {error}") from error
    task.write_floats()
    expected = Counter(digest(x, label[0] if label else b"") for x, _, *label in task.records())
    return measure(task, expected, {}, arguments, console)


def measure_pieces(scratch: Path, arguments: Arguments, console: Console) -> dict[str, Any]:
    """Measure windows and a mix against whole records of their length."""
    figures = pieces.measure(scratch, 100 if arguments.quick else 3000, arguments.rounds)
    for name, of_one in figures.items():
        console.print(f"{name}: {of_one['frames_per_second'] / 1e6:.1f} M frames/s, x {of_one['ratio']:.2f}")
    return figures


def make_table(name: str, result: dict) -> Table:
    """Return the figures of one workload as a table."""
    size = f"{result['records']:,} records, {result['frames'] / 1e6:.1f} M frames x {result['d']}"
    table = Table(title=f"{name}: {size}, batches of {result['batch_size']}")
    for heading in ("way", "M frames/s", "k records/s", f"x {result['base']}", "of bare copy", "valid", "workers", *consuming.HEADINGS):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for way, figures in result["ways"].items():
        table.add_row(
            way,
            f"{figures['frames_per_second'] / 1e6:.1f}",
            f"{figures['records_per_second'] / 1e3:.1f}",
            f"{figures['ratio']:.1f}",
            f"{figures['share_of_floor']:.0%}",
            "" if figures["valid_ratio"] is None else f"{figures['valid_ratio']:.1%}",
            str(figures.get("workers", "")),
            *consuming.summary(figures),
        )
    return table


def parse_arguments(command_line: list[str] | None) -> argparse.Namespace:
    """Parse the command line, with the defaults that depend on other arguments."""
    from benchmarks.pipelines import WAYS

    options = parser(__doc__)
    options.add_argument("--workloads", nargs="+", choices=list(QUICK), default=list(QUICK))
    options.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="ways of tf.data; ratios are relative to the first"
    )
    options.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS), help="default: all installed ones")
    options.add_argument(
        "--workers", nargs="+", type=int, help="numbers of worker processes to try for each peer; default: 0 1 2, quick: 0"
    )
    options.add_argument("--rounds", type=int, help="default: 5, quick: 1")
    options.add_argument("--starts", type=int, help="processes that each way of tf.data and of vlpipe starts; default: 3, quick: 0")
    options.add_argument("--records", type=int, help="number of records instead of all")
    options.add_argument("--keep", type=Path, help="folder in which the data are kept for the next run; default: a temporary one")
    options.add_argument("--data", type=Path, help="a vlpipe dataset to read instead of the workloads")
    options.add_argument("--batch-size", type=int, default=32, help="with --data")
    options.add_argument("--features", help="with --data: the sequence to deliver, where there are several")
    options.add_argument("--label", help="with --data: the label to deliver, where there are several")
    arguments = options.parse_args(command_line)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.starts = (0 if arguments.quick else 3) if arguments.starts is None else arguments.starts
    arguments.workers = arguments.workers or ([0] if arguments.quick else [0, 1, 2])
    return arguments


def main(command_line: list[str] | None = None) -> dict[str, Any]:
    arguments = parse_arguments(command_line)
    from benchmarks import workloads

    console = Console(width=160)
    skipped = {} if arguments.data else {name: PEERS[name].missing for name in arguments.peers if PEERS[name].missing}
    for name, packages in skipped.items():
        console.print(f"{name} is skipped: {packages} is not installed")
    results: dict[str, dict] = {}
    for name in [] if arguments.data else arguments.workloads:
        count = arguments.records or (QUICK[name] if arguments.quick else None)
        make = {"speech": workloads.speech, "events": workloads.events}[name]
        workload = make() if count is None else make(count)
        with tempfile.TemporaryDirectory() as scratch:  # a folder each: the next workload needs the memory of its files
            results[name] = measure_workload(workload, arguments.keep or Path(scratch), arguments, console)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.data:
            results[arguments.data.name] = measure_data(Path(scratch), arguments, console)
        found = {} if arguments.data else measure_pieces(Path(scratch), arguments, console)
    return save("throughput", arguments, {"workloads": results, "skipped": skipped, "pieces": found})


if __name__ == "__main__":
    main()

"""Whether memory grows in a long run, and how long a new epoch takes to begin: memory, page faults and waits over many epochs.

    python -m benchmarks.memory [--epochs 50] [--workloads speech events] [--engines mapped graph] [--quick] [--json PATH]

Each engine reads each workload in its own process (the graph engine, which is slower, for two fifths of the epochs): first with one
iterator per epoch, then as one endless run (`repeat=True`). Measured after every epoch: resident memory, and the anonymous part of it (the
rest are mapped files, mostly shards, which are page cache that the system reclaims when it needs memory); minor page faults per batch; the
wait from the last batch of an epoch to the first batch of the next, including a new iterator. Finally, the time to delete an iterator in
the middle of an epoch, while batches are being prepared. Growth is the slope of the anonymous memory over the second half of the epochs:
in the first half, buffers still grow when longer batches arrive. Linux only.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import vlpipe
from benchmarks import results
from benchmarks.scaling import fresh
from benchmarks.workloads import events, speech

ROLLUP = Path("/proc/self/smaps_rollup")


def memory() -> tuple[int, int]:
    """Resident bytes of this process, and the anonymous ones among them, which belong to no file."""
    lines = (line.split() for line in ROLLUP.read_text("utf-8").splitlines()[1:])
    sizes = {words[0]: int(words[1]) * 1024 for words in lines}
    return sizes["Rss:"], sizes["Anonymous:"]


def faults() -> int:
    """Minor page faults of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def arrivals(batches: Iterable[Any]) -> np.ndarray:
    """Iterate over batches and return the time at which each arrived."""
    return np.array([time.perf_counter() for _ in batches])


def one_by_one(dataset: tf.data.Dataset, epochs: int) -> dict[str, list[float]]:
    """Iterate over epochs, with one iterator each; return the figures after each epoch."""
    figures: dict[str, list[float]] = {
        "faults_per_batch": [],
        "resident_bytes": [],
        "anonymous_bytes": [],
        "gap_seconds": [],
        "step_seconds": [],
    }
    ending = None
    for _ in range(epochs):
        before, start = faults(), time.perf_counter()
        times = arrivals(dataset)
        end, after = time.perf_counter(), faults()
        if ending is not None:
            figures["gap_seconds"].append(ending + times[0] - start)
        ending = end - times[-1]  # reading the memory takes milliseconds, which count in no gap
        resident, anonymous = memory()
        figures["faults_per_batch"].append((after - before) / len(times))
        figures["resident_bytes"].append(resident)
        figures["anonymous_bytes"].append(anonymous)
        figures["step_seconds"].append(float(np.median(np.diff(times))))
    return figures


def delete_seconds(dataset: tf.data.Dataset, times: int) -> list[float]:
    """Time the deletion of an iterator at random positions of an epoch; it waits for the batches that are being prepared."""
    random = np.random.default_rng(0)
    seconds = []
    for taken in random.integers(1, len(dataset), times).tolist():
        iterator = iter(dataset)
        arrivals(islice(iterator, taken))
        start = time.perf_counter()
        del iterator
        seconds.append(time.perf_counter() - start)
    return seconds


def repeat_gap_seconds(directory: str, epochs: int, **arguments: Any) -> list[float]:
    """Time the same wait within an endless run, where the next epoch begins before the last one ends."""
    steps = vlpipe.plan(directory, **arguments).steps_per_epoch
    dataset = vlpipe.make_dataset(directory, repeat=True, **arguments)
    waits = np.diff(arrivals(islice(iter(dataset), epochs * steps)))
    return waits[steps - 1 :: steps].tolist()


def observe(directory: str, batch_size: int, engine: str, epochs: int, deletions: int) -> dict[str, Any]:
    """Measure one engine in this process: all its figures."""
    arguments = {"batch_size": batch_size, "lengths": True, "seed": 1, "engine": engine}
    arrivals(tf.data.Dataset.range(8).map(lambda number: number + 1, num_parallel_calls=4))  # allocates TensorFlow's own threads and memory
    plan = vlpipe.plan(directory, **arguments)
    _, before = memory()
    dataset = vlpipe.make_dataset(directory, **arguments)
    figures: dict[str, Any] = one_by_one(dataset, epochs)
    figures["delete_seconds"] = delete_seconds(dataset, deletions)
    figures["repeat_gap_seconds"] = repeat_gap_seconds(directory, epochs, **arguments)
    anonymous = figures["anonymous_bytes"]
    second_half = anonymous[epochs // 2 :]
    return figures | {
        "epochs": epochs,
        "steps_per_epoch": plan.steps_per_epoch,
        "batch_bytes": plan.peak_batch_bytes,
        "anonymous_bytes_before": before,
        "anonymous_bytes_at_end": memory()[1],
        "growth_bytes_per_epoch": float(np.polyfit(np.arange(len(second_half)), second_half, 1)[0]),
        "batches_held": (anonymous[0] - before) / plan.peak_batch_bytes,
    }


def make_table(workloads: dict[str, dict[str, Any]]) -> Table:
    """Return the figures of all workloads and engines as a table, one column each."""
    table = Table(title="memory and waits over many epochs")
    table.add_column("")
    rows: dict[str, list[str]] = {}
    for name, engines in workloads.items():
        for engine, figures in engines.items():
            table.add_column(f"{name}, {engine}", justify="right")
            for heading, text in summarise(figures).items():
                rows.setdefault(heading, []).append(text)
    for heading, texts in rows.items():
        table.add_row(heading, *texts)
    return table


def summarise(figures: dict[str, Any]) -> dict[str, str]:
    """Return the figures of one engine as text, by heading."""
    anonymous, resident = figures["anonymous_bytes"], figures["resident_bytes"]
    return {
        "epochs": str(figures["epochs"]),
        "largest batch, MB": f"{figures['batch_bytes'] / 1e6:.1f}",
        "anonymous memory before the first epoch, MB": f"{figures['anonymous_bytes_before'] / 1e6:.0f}",
        "after the first epoch, MB": f"{anonymous[0] / 1e6:.0f}",
        "after the last epoch, MB": f"{anonymous[-1] / 1e6:.0f}",
        "mapped files after the last epoch, MB": f"{(resident[-1] - anonymous[-1]) / 1e6:.0f}",
        "growth, KB per epoch": f"{figures['growth_bytes_per_epoch'] / 1e3:.1f}",
        "batches held": f"{figures['batches_held']:.1f}",
        "page faults per batch": f"{statistics.median(figures['faults_per_batch']):.1f}",
        "from batch to batch, ms": f"{1000 * statistics.median(figures['step_seconds']):.2f}",
        "to the next epoch, ms": f"{1000 * statistics.median(figures['gap_seconds']):.2f}",
        "to the next epoch with repeat=True, ms": f"{1000 * statistics.median(figures['repeat_gap_seconds']):.2f}",
        "deleting an iterator, ms (median)": f"{1000 * statistics.median(figures['delete_seconds']):.2f}",
        "deleting an iterator, ms (maximum)": f"{1000 * max(figures['delete_seconds']):.2f}",
    }


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=50, help="epochs of the mapped engine; the graph engine runs two fifths of them")
    parser.add_argument("--workloads", nargs="+", choices=["speech", "events"], default=["speech", "events"])
    parser.add_argument("--engines", nargs="+", choices=["mapped", "graph"], default=["mapped", "graph"])
    arguments = parser.parse_args()
    if not ROLLUP.exists():
        sys.exit(f"memory: needs {ROLLUP}, which only Linux has. Run it on Linux.")
    quick, console = arguments.quick, Console(width=120)
    epochs = {"mapped": 6, "graph": 4} if quick else {"mapped": arguments.epochs, "graph": max(4, arguments.epochs * 2 // 5)}
    workloads = {"speech": speech(64 if quick else 600), "events": events(512 if quick else 8000)}
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, console.status("") as status:
        for name in arguments.workloads:
            status.update(f"{name}: writing")
            directory = workloads[name].write_native(Path(scratch))
            for engine in arguments.engines:
                status.update(f"{name}: {epochs[engine]} epochs of the {engine} engine")
                sizes = workloads[name].batch_size, engine, epochs[engine], 5 if quick else 50
                figures.setdefault(name, {})[engine] = fresh(observe, str(directory), *sizes)
    console.print(make_table(figures))
    results.save("memory", arguments, figures)


if __name__ == "__main__":
    main()

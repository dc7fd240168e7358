"""Does a long run grow, and does it stop where an epoch ends: memory, page faults and waits over many epochs.

    python -m benchmarks.memory [--epochs 50] [--workloads speech events] [--engines mapped graph] [--quick] [--json PATH]

Each engine reads each workload in a process of its own (the graph engine, which is slower, for two fifths of the epochs): with an
iterator an epoch, and then as one endless run (`repeat=True`). After every epoch, its resident memory, and how much of that is anonymous:
the rest are mapped files, most of it shards, which are page cache that the system takes back when it needs it. Further, minor page faults
a batch, and the wait from the last batch of an epoch to the first of the next, a new iterator included. At last, how long it takes to
delete an iterator in the middle of an epoch, while batches are being made. Growth is the slope of the anonymous memory over the second
half of the epochs: until then the buffers of the batches meet longer and longer ones. Linux.
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
    """Resident bytes of this process, and those of them that belong to no file."""
    lines = (line.split() for line in ROLLUP.read_text("utf-8").splitlines()[1:])
    sizes = {words[0]: int(words[1]) * 1024 for words in lines}
    return sizes["Rss:"], sizes["Anonymous:"]


def faults() -> int:
    """Minor page faults of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def arrivals(batches: Iterable[Any]) -> np.ndarray:
    """When each batch came; the loop does nothing else with it."""
    return np.array([time.perf_counter() for _ in batches])


def one_by_one(dataset: tf.data.Dataset, epochs: int) -> dict[str, list[float]]:
    """Epochs of an iterator each, and what is seen after each of them."""
    found: dict[str, list[float]] = {
        "faults_per_batch": [],
        "resident_bytes": [],
        "anonymous_bytes": [],
        "gap_seconds": [],
        "step_seconds": [],
    }
    ending = None
    for _ in range(epochs):
        before, start = faults(), time.perf_counter()
        came = arrivals(dataset)
        end, after = time.perf_counter(), faults()
        if ending is not None:
            found["gap_seconds"].append(ending + came[0] - start)
        ending = end - came[-1]  # the look at memory, which takes milliseconds, is in no gap
        resident, anonymous = memory()
        found["faults_per_batch"].append((after - before) / len(came))
        found["resident_bytes"].append(resident)
        found["anonymous_bytes"].append(anonymous)
        found["step_seconds"].append(float(np.median(np.diff(came))))
    return found


def delete_seconds(dataset: tf.data.Dataset, times: int) -> list[float]:
    """How long deleting an iterator takes at random places of an epoch: it waits for the batches that are being made."""
    random = np.random.default_rng(0)
    found = []
    for taken in random.integers(1, len(dataset), times).tolist():
        iterator = iter(dataset)
        arrivals(islice(iterator, taken))
        start = time.perf_counter()
        del iterator
        found.append(time.perf_counter() - start)
    return found


def repeat_gap_seconds(directory: str, epochs: int, **arguments: Any) -> list[float]:
    """The same wait within an endless run, where the next epoch is begun before the last one ends."""
    steps = vlpipe.plan(directory, **arguments).steps_per_epoch
    dataset = vlpipe.make_dataset(directory, repeat=True, **arguments)
    waits = np.diff(arrivals(islice(iter(dataset), epochs * steps)))
    return waits[steps - 1 :: steps].tolist()


def observe(directory: str, batch_size: int, engine: str, epochs: int, deletions: int) -> dict[str, Any]:
    """All figures of one engine, in this process."""
    arguments = {"batch_size": batch_size, "lengths": True, "seed": 1, "engine": engine}
    arrivals(tf.data.Dataset.range(8).map(lambda number: number + 1, num_parallel_calls=4))  # TensorFlow's own threads and memory
    plan = vlpipe.plan(directory, **arguments)
    _, before = memory()
    dataset = vlpipe.make_dataset(directory, **arguments)
    found: dict[str, Any] = one_by_one(dataset, epochs)
    found["delete_seconds"] = delete_seconds(dataset, deletions)
    found["repeat_gap_seconds"] = repeat_gap_seconds(directory, epochs, **arguments)
    anonymous = found["anonymous_bytes"]
    second_half = anonymous[epochs // 2 :]
    return found | {
        "epochs": epochs,
        "steps_per_epoch": plan.steps_per_epoch,
        "batch_bytes": plan.peak_batch_bytes,
        "anonymous_bytes_before": before,
        "anonymous_bytes_at_end": memory()[1],
        "growth_bytes_per_epoch": float(np.polyfit(np.arange(len(second_half)), second_half, 1)[0]),
        "batches_held": (anonymous[0] - before) / plan.peak_batch_bytes,
    }


def table(found: dict[str, dict[str, Any]]) -> Table:
    """Medians of all workloads and engines, and what is held and grows; one column each."""
    shown = Table(title="memory and waits over many epochs")
    shown.add_column("")
    rows: dict[str, list[str]] = {}
    for name, engines in found.items():
        for engine, figures in engines.items():
            shown.add_column(f"{name}, {engine}", justify="right")
            for heading, text in described(figures).items():
                rows.setdefault(heading, []).append(text)
    for heading, texts in rows.items():
        shown.add_row(heading, *texts)
    return shown


def described(figures: dict[str, Any]) -> dict[str, str]:
    """The figures of one engine, for a reader."""
    anonymous, resident = figures["anonymous_bytes"], figures["resident_bytes"]
    return {
        "epochs": str(figures["epochs"]),
        "largest batch, MB": f"{figures['batch_bytes'] / 1e6:.1f}",
        "before the first epoch: anonymous, MB": f"{figures['anonymous_bytes_before'] / 1e6:.0f}",
        "after the first": f"{anonymous[0] / 1e6:.0f}",
        "after the last": f"{anonymous[-1] / 1e6:.0f}",
        "of files, MB": f"{(resident[-1] - anonymous[-1]) / 1e6:.0f}",
        "growth, KB an epoch": f"{figures['growth_bytes_per_epoch'] / 1e3:.1f}",
        "batches held": f"{figures['batches_held']:.1f}",
        "page faults a batch": f"{statistics.median(figures['faults_per_batch']):.1f}",
        "from batch to batch, ms": f"{1000 * statistics.median(figures['step_seconds']):.2f}",
        "to the next epoch, ms": f"{1000 * statistics.median(figures['gap_seconds']):.2f}",
        "to the next epoch with repeat, ms": f"{1000 * statistics.median(figures['repeat_gap_seconds']):.2f}",
        "deleting an iterator, ms": f"{1000 * statistics.median(figures['delete_seconds']):.2f}",
        "at most": f"{1000 * max(figures['delete_seconds']):.2f}",
    }


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=50, help="of the mapped engine")
    parser.add_argument("--workloads", nargs="+", choices=["speech", "events"], default=["speech", "events"])
    parser.add_argument("--engines", nargs="+", choices=["mapped", "graph"], default=["mapped", "graph"])
    arguments = parser.parse_args()
    if not ROLLUP.exists():
        sys.exit(f"memory: reads {ROLLUP}, which only Linux has; run it there.")
    quick, console = arguments.quick, Console(width=120)
    epochs = {"mapped": 6, "graph": 4} if quick else {"mapped": arguments.epochs, "graph": max(4, arguments.epochs * 2 // 5)}
    workloads = {"speech": speech(64 if quick else 600), "events": events(512 if quick else 8000)}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, console.status("") as status:
        for name in arguments.workloads:
            status.update(f"{name}: writing")
            directory = workloads[name].write_native(Path(scratch))
            for engine in arguments.engines:
                status.update(f"{name}: {epochs[engine]} epochs of the {engine} engine")
                sizes = workloads[name].batch_size, engine, epochs[engine], 5 if quick else 50
                found.setdefault(name, {})[engine] = fresh(observe, str(directory), *sizes)
    console.print(table(found))
    results.save("memory", arguments, found)


if __name__ == "__main__":
    main()

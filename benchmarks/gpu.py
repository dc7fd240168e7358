"""Train on a GPU, with Keras on JAX and on PyTorch: `make bench-gpu`.

    python -m benchmarks.gpu [--backends jax torch] [--results DIR] [--quick]

Each backend first runs everything in small on the CPU, so that a mistake shows before time on a GPU is spent. Then each run of `RUNS`
writes its JSON into `--results`, and one table of all ends the output. TensorFlow only reads the data here, on the CPU. With `--quick` the
runs are those on the CPU alone, and nothing is written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.tables import training_cells

FIGURES = ("s/epoch", "k frames/s", "waiting", "in fit", "compiled", "loss")
STATIC = ["vlpipe, static shapes", "vlpipe batches, static shapes"]
EVERY = ["padded_batch", "hand-written buckets", "vlpipe, longest", *STATIC]
# The first run has few records, because nearly every batch of two of its ways has a new shape, which JAX compiles for a second. An epoch of
# the second takes 5 s on an H100, long enough for a share of waiting; hand-written buckets would take 20 s and more.
RUNS: dict[str, list[str]] = {
    "training-jax-gpu": ["--workloads", "events", "--records", "1000", "--width", "64", "--epochs", "2", "--ways", *EVERY],
    "training-jax-gpu-static": ["--workloads", "events", "--records", "160000", "--epochs", "2", "--ways", *STATIC],
    "training-torch-gpu": ["--workloads", "events", "--records", "10000", "--epochs", "2", "--ways", *EVERY],
}


def backend_of(name: str) -> str:
    """The backend of a run, from its name."""
    return name.split("-")[1]


def train(backend: str, *arguments: str) -> None:
    """Run `benchmarks.training`, or end with its status."""
    status = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "--backend", backend, *arguments], cwd=results.ROOT, check=False
    ).returncode
    if status:
        sys.exit(f"gpu: training on {backend} ended with {status} for: {' '.join(arguments)}")


def make_table(documents: dict[str, dict[str, Any]]) -> Table:
    """What each run of training measured, a way in a row."""
    table = Table(title="Training on a GPU: an epoch, and the share of it that the model waited for its input")
    for heading in ("run", "device", "way"):
        table.add_column(heading)
    for heading in FIGURES:
        table.add_column(heading, justify="right")
    for name, document in documents.items():
        for workload, result in document["results"]["workloads"].items():
            for way, figures in result["ways"].items():
                cells = training_cells(figures)
                table.add_row(f"{name}, {workload}", result["device"], way, *(cells[heading] for heading in FIGURES))
    return table


def main(command_line: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=["jax", "torch"], default=["jax", "torch"])
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="folder of the JSON")
    parser.add_argument("--quick", action="store_true", help="only the runs in small on the CPU")
    arguments = parser.parse_args(command_line)
    runs = {name: options for name, options in RUNS.items() if backend_of(name) in arguments.backends}
    with tempfile.TemporaryDirectory() as scratch:
        for backend in arguments.backends:
            train(backend, "--quick", "--device", "cpu", "--json", f"{scratch}/training-{backend}-cpu.json")
        if not arguments.quick:
            for name, options in runs.items():
                train(backend_of(name), "--device", "gpu", "--json", str(arguments.results.resolve() / f"{name}.json"), *options)
        folder = Path(scratch) if arguments.quick else arguments.results
        names = [f"training-{backend}-cpu" for backend in arguments.backends] if arguments.quick else list(runs)
        Console(width=140).print(make_table({name: document for name in names if (document := results.load(name, folder))}))


if __name__ == "__main__":
    main()

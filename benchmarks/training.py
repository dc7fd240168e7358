"""Train a Keras Conv1D classifier for whole epochs, with input from vlpipe and from hand-written tf.data pipelines.

    python -m benchmarks.training [--backend tensorflow|jax|torch] [--device cpu|gpu] [--workloads speech events] [--epochs 5]
                                  [--frames-per-batch N] [--width 256] [--xla] [--data DIR] [--json PATH] [--ways NAME ...]

Every way runs in its own process, so that memory and compilations can be attributed to it. The processes take turns, one epoch each, while
the others sleep. One warm-up epoch is followed by `--epochs` measured ones; a figure is their median. In the JSON, and in the table under
the names in parentheses:

seconds            per epoch, from creating the iterator until it is deleted (s/epoch)
frames_per_second  without padding (k frames/s); valid_ratio is the share of frames that are no padding (valid)
wait_share         share of these seconds in `next(iterator)` (waiting)
free_input_ratio   seconds of the epoch relative to the same number of steps on batches that are already on the device (x free): a second
                   estimate, without the timer around `next`. Above 1, input or compiling costs time; free_input_ratio_compiled excludes
                   compiling
compiles           number of compilations of the step (compiled), which took compile_seconds (compilation, s). JAX, and TensorFlow with XLA
                   (its default on a GPU, or `--xla`), compile each shape. When padding to the longest, nearly every batch has a new shape,
                   which costs about a second: start with few `--records`
monitor            what `vlpipe.callbacks.InputMonitor` says of one more epoch, by `fit`; the share of waiting (in fit)
loss               over all records after training, in the same batches for all ways, which start from the same weights
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.feeding import ARRAYS, CLASSES, WAYS, Learnable, learnable
from benchmarks.tables import training_cells
from benchmarks.workloads import events, speech

WORKLOADS = {"speech": speech, "events": events}
TOLERANCE = 0.1  # of the losses, in nats; a model that has learnt nothing has a loss of 2.3


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = results.parser(__doc__)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default=os.environ.get("KERAS_BACKEND", "tensorflow"))
    parser.add_argument("--device", choices=["cpu", "gpu"], help="default: the choice of the backend")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help=f"default: all, and `{ARRAYS}` on JAX and PyTorch only")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs, after one warm-up epoch")
    parser.add_argument("--width", type=int, default=256, help="filters of each convolution: 1.1 million parameters with 256")
    parser.add_argument("--frames-per-batch", type=int, help="maximum of frames per batch, instead of the workload's batch size")
    parser.add_argument("--records", type=int, help="number of records instead of all")
    parser.add_argument("--xla", action="store_true", help="TensorFlow: compile with XLA on the CPU too")
    parser.add_argument("--data", type=Path, help="folder in which the data are kept for the next run; default: a temporary one")
    parser.add_argument(
        "--one",
        choices=list(WAYS),
        help="run as the process of this way, which reads the requests `epoch` and `finish` from standard input",
    )
    arguments = parser.parse_args()
    arguments.ways = arguments.ways or [way for way in WAYS if way != ARRAYS or arguments.backend != "tensorflow"]
    if arguments.one and not arguments.data:
        parser.error("--one needs --data")
    if arguments.quick:
        arguments.workloads, arguments.records, arguments.width, arguments.epochs = arguments.workloads[-1:], arguments.records or 48, 8, 2
    return arguments


def workload_of(name: str, arguments: argparse.Namespace) -> Learnable:
    """Return a workload with the requested number of records."""
    workload = WORKLOADS[name]() if arguments.records is None else WORKLOADS[name](arguments.records)
    return learnable(dataclasses.replace(workload, batch_size=8) if arguments.quick else workload)


class Way:
    """The process that trains with one way."""

    def __init__(self, way: str, name: str, native: Path, arguments: argparse.Namespace) -> None:
        self.way = way
        location = ["--workloads", name, "--data", str(native.parent)]
        command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], *location, "--one", way]
        # The processes share the GPU; without these settings JAX would allocate three quarters of it at the start, and TensorFlow all.
        share = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        hide = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"} if arguments.device == "cpu" else {}
        environment = {**os.environ, "KERAS_BACKEND": arguments.backend, **share, **hide}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=results.ROOT, env=environment, stdin=pipe, stdout=pipe, text=True, encoding="utf-8")

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and return the answer."""
        with contextlib.suppress(BrokenPipeError):  # `answer` reports that the process ended
            print(request, file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next line of the process, and return it."""
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"{self.way}: the process ended with status {self._process.wait()}"}
        if "error" in answer:
            raise SystemExit(answer["error"])
        return answer

    def close(self) -> None:
        """Close its standard input, which ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve(way: str, arguments: argparse.Namespace) -> None:
    """Run as the process of a way."""
    replies, sys.stdout = sys.stdout, sys.stderr  # libraries may print, which would mix with the answers
    if arguments.backend != "tensorflow":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # it would allocate GPU memory, and put batches there
    from benchmarks import fitting  # imports Keras and the backend

    if arguments.device == "gpu" and fitting.gpu() is None:
        print(json.dumps({"error": f"--device gpu: {arguments.backend} finds no GPU that it can use"}), file=replies, flush=True)
        return
    workload = workload_of(arguments.workloads[0], arguments)
    native = workload.write_native(arguments.data)
    model = fitting.build_model(workload.d, arguments.width, xla=arguments.xla)
    trainer = fitting.Trainer(model, WAYS[way](workload, native, arguments.frames_per_batch))
    fitting.serve(trainer, workload, native, sys.stdin, replies)


def summarise(way: dict[str, Any], frames: int) -> dict[str, Any]:
    """Return the figures of a way from the answers of its process: medians first, then every epoch."""
    all_epochs = [way["warm_up"], *way["epochs"]]
    free_step = statistics.median(way["free_step_seconds"])
    for epoch in all_epochs:
        free = free_step * epoch["steps"]
        epoch["compile_seconds"] = max(0.0, epoch["compiling_step_seconds"] - free_step * epoch["compiles"])
        epoch["wait_share"] = epoch["wait_seconds"] / epoch["seconds"]
        epoch["free_input_ratio"] = epoch["seconds"] / free
        epoch["free_input_ratio_compiled"] = (epoch["seconds"] - epoch["compile_seconds"]) / free
        epoch["frames_per_second"] = frames / epoch["seconds"]
        epoch["valid_ratio"] = frames / epoch["delivered_frames"]
    medians = ("seconds", "frames_per_second", "steps", "valid_ratio", "wait_share", "free_input_ratio", "free_input_ratio_compiled")
    return {
        **{name: statistics.median(epoch[name] for epoch in way["epochs"]) for name in medians},
        "compiles": sum(epoch["compiles"] for epoch in all_epochs),
        "compile_seconds": sum(epoch["compile_seconds"] for epoch in all_epochs),
        "distinct_shapes": sum(epoch["new_shapes"] for epoch in all_epochs),
        **way,
    }


def measure(name: str, directory: Path, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure all ways on one workload."""
    workload = workload_of(name, arguments)
    frames = int(workload.lengths.sum())
    with console.status(f"{name}: writing") as status:
        native = workload.write_native(directory)
        processes = {way: Way(way, name, native, arguments) for way in arguments.ways}
        answers: dict[str, dict[str, Any]] = {way: {"warm_up": {}, "epochs": []} for way in processes}
        try:
            setup = [process.answer() for process in processes.values()].pop()
            for turn in range(1 + arguments.epochs):
                for way, process in processes.items():
                    status.update(f"{name}: epoch {turn} of {arguments.epochs}, {way}")
                    epoch = process.ask("epoch")
                    if turn:
                        answers[way]["epochs"].append(epoch)
                    else:
                        answers[way]["warm_up"] = epoch
            for way, process in processes.items():
                status.update(f"{name}: steps with free input, {way}")
                answers[way] |= process.ask("finish")
                process.close()  # frees the device before the batches of the next way are put there
        finally:
            for process in processes.values():
                process.close()
    ways = {way: summarise(answer, frames) for way, answer in answers.items()}
    losses = [way["loss"] for way in ways.values()]
    return {
        "records": len(workload.lengths),
        "frames": frames,
        "d": workload.d,
        "batch_size": workload.batch_size,
        "frames_per_batch": arguments.frames_per_batch,
        **setup,
        "ways": ways,
        "losses_agree": max(losses) - min(losses) <= TOLERANCE,
        "losses_tolerance": TOLERANCE,
        "chance_loss": math.log(CLASSES),
    }


def make_table(name: str, result: dict[str, Any]) -> Table:
    """Return the figures of one workload as a table."""
    model = f"{result['parameters'] / 1e6:.2f} M parameters, {result['backend']} on {result['device']}"
    table = Table(title=f"{name}: {result['records']:,} records, {result['frames'] / 1e6:.2f} M frames x {result['d']}; {model}")
    peaks = {"host_peak_bytes": "GB host", "device_peak_bytes": "GB device"}
    peaks = {peak: heading for peak, heading in peaks.items() if any(way[peak] is not None for way in result["ways"].values())}
    for heading in (
        "way",
        "s/epoch",
        "k frames/s",
        "valid",
        "waiting",
        "in fit",
        "x free",
        "compiled",
        "compilation, s",
        "loss",
        *peaks.values(),
    ):
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for way, figures in result["ways"].items():
        table.add_row(
            way,
            *training_cells(figures).values(),
            *(f"{figures[peak] / 1e9:.2f}" for peak in peaks),
        )
    return table


def main() -> None:
    arguments = parse_arguments()
    if arguments.one:
        serve(arguments.one, arguments)
        return
    console = Console(width=160)
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = (arguments.data or Path(scratch)).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        for name in arguments.workloads:
            figures[name] = measure(name, directory, arguments, console)
    results.save("training", arguments, {"workloads": figures})
    for name, result in figures.items():
        console.print(make_table(name, result))


if __name__ == "__main__":
    main()

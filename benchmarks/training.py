"""What a user feels: whole epochs of training a Keras Conv1D classifier, fed by vlpipe and by hand-written tf.data.

    python -m benchmarks.training [--backend tensorflow|jax|torch] [--device cpu|gpu] [--workloads speech events] [--epochs 5]
                                  [--frames-per-batch N] [--width 256] [--xla] [--data DIR] [--json PATH] [--ways NAME ...]

Every way has a process of its own, so that its memory and what it compiled are its own. The processes take turns, one epoch each, while
the others sleep. After one epoch to warm up come `--epochs` that count: a figure is their median. Reported of each way:

seconds            of an epoch, from asking for an iterator until it is gone
wait_share         share of that in `next(iterator)`
free_input_ratio   the epoch, compared with as many steps on batches that are on the device already: a second opinion, without the timer
                   in `next`. Above 1 the input costs something, or compiling does: free_input_ratio_compiled leaves that out
compiles           how often the step was compiled, counted. JAX, and TensorFlow with XLA (its default on a GPU, or `--xla`), do it for each
                   shape. Padded to the longest, nearly every batch has a new one, for a second or so: begin with few `--records`
loss               over all records after training, in the same batches for all ways; they start from the same weights
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
from benchmarks.feeding import CLASSES, WAYS, Learnable, learnable
from benchmarks.workloads import events, speech

WORKLOADS = {"speech": speech, "events": events}
TOLERANCE = 0.1  # of the losses, in nats; a model that learnt nothing has 2.3


def arguments_of_run() -> argparse.Namespace:
    """The command line."""
    parser = results.parser(__doc__)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default=os.environ.get("KERAS_BACKEND", "tensorflow"))
    parser.add_argument("--device", choices=["cpu", "gpu"], help="default: what the backend takes")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--epochs", type=int, default=5, help="that count, after one to warm up")
    parser.add_argument("--width", type=int, default=256, help="filters of each convolution: 1.1 million parameters with 256")
    parser.add_argument("--frames-per-batch", type=int, help="instead of the workload's number of records a batch")
    parser.add_argument("--records", type=int, help="so many instead of all")
    parser.add_argument("--xla", action="store_true", help="TensorFlow: compile with XLA on the processor too")
    parser.add_argument("--data", type=Path, help="where to keep the data for the next run; default: a folder that is removed")
    parser.add_argument("--one", choices=list(WAYS), help="be the process of this way: reads `epoch` and `finish` from its standard input")
    arguments = parser.parse_args()
    if arguments.one and not arguments.data:
        parser.error("--one needs --data")
    if arguments.quick:
        arguments.workloads, arguments.records, arguments.width, arguments.epochs = arguments.workloads[-1:], arguments.records or 48, 8, 2
    return arguments


def workload_of(name: str, arguments: argparse.Namespace) -> Learnable:
    """Its records, so many as are asked for."""
    found = WORKLOADS[name]() if arguments.records is None else WORKLOADS[name](arguments.records)
    return learnable(dataclasses.replace(found, batch_size=8) if arguments.quick else found)


class Way:
    """The process that trains in one way."""

    def __init__(self, way: str, name: str, native: Path, arguments: argparse.Namespace) -> None:
        self.way = way
        place = ["--workloads", name, "--data", str(native.parent)]
        command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], *place, "--one", way]
        # The processes share the GPU, of which JAX and TensorFlow would otherwise take three quarters or all at the start.
        share = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        hide = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"} if arguments.device == "cpu" else {}
        environment = {**os.environ, "KERAS_BACKEND": arguments.backend, **share, **hide}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=results.ROOT, env=environment, stdin=pipe, stdout=pipe, text=True, encoding="utf-8")

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        with contextlib.suppress(BrokenPipeError):  # `answer` says that it ended
            print(request, file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line that it writes."""
        line = self._process.stdout.readline()
        found = json.loads(line) if line else {"error": f"{self.way}: the process ended with {self._process.wait()}"}
        if "error" in found:
            raise SystemExit(found["error"])
        return found

    def close(self) -> None:
        """End the process: it has read all there is."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve(way: str, arguments: argparse.Namespace) -> None:
    """Be the process of a way."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    if arguments.backend != "tensorflow":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # it would take memory there, and put batches there
    from benchmarks import fitting  # loads Keras, and with it the backend

    if arguments.device == "gpu" and fitting.gpu() is None:
        print(json.dumps({"error": f"--device gpu: there is no GPU that {arguments.backend} can use"}), file=replies, flush=True)
        return
    workload = workload_of(arguments.workloads[0], arguments)
    native = workload.write_native(arguments.data)
    model = fitting.build_model(workload.d, arguments.width, xla=arguments.xla)
    trainer = fitting.Trainer(model, WAYS[way](workload, native, arguments.frames_per_batch))
    fitting.serve(trainer, workload, native, sys.stdin, replies)


def summarise(way: dict[str, Any], frames: int) -> dict[str, Any]:
    """The figures of a way, from what its process answered: medians first, then every epoch."""
    every = [way["warm_up"], *way["epochs"]]
    free_step = statistics.median(way["free_step_seconds"])
    for epoch in every:
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
        "compiles": sum(epoch["compiles"] for epoch in every),
        "compile_seconds": sum(epoch["compile_seconds"] for epoch in every),
        "distinct_shapes": sum(epoch["new_shapes"] for epoch in every),
        **way,
    }


def measure(name: str, directory: Path, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All ways on one workload."""
    workload = workload_of(name, arguments)
    frames = int(workload.lengths.sum())
    with console.status(f"{name}: writing") as status:
        native = workload.write_native(directory)
        processes = {way: Way(way, name, native, arguments) for way in arguments.ways}
        found: dict[str, dict[str, Any]] = {way: {"warm_up": {}, "epochs": []} for way in processes}
        try:
            known = [process.answer() for process in processes.values()].pop()
            for turn in range(1 + arguments.epochs):
                for way, process in processes.items():
                    status.update(f"{name}: epoch {turn} of {arguments.epochs}, {way}")
                    epoch = process.ask("epoch")
                    if turn:
                        found[way]["epochs"].append(epoch)
                    else:
                        found[way]["warm_up"] = epoch
            for way, process in processes.items():
                status.update(f"{name}: steps with free input, {way}")
                found[way] |= process.ask("finish")
                process.close()  # its batches leave the device before the next way's come
        finally:
            for process in processes.values():
                process.close()
    ways = {way: summarise(answers, frames) for way, answers in found.items()}
    losses = [way["loss"] for way in ways.values()]
    return {
        "records": len(workload.lengths),
        "frames": frames,
        "d": workload.d,
        "batch_size": workload.batch_size,
        "frames_per_batch": arguments.frames_per_batch,
        **known,
        "ways": ways,
        "losses_agree": max(losses) - min(losses) <= TOLERANCE,
        "losses_tolerance": TOLERANCE,
        "chance_loss": math.log(CLASSES),
    }


def table(name: str, result: dict[str, Any]) -> Table:
    """The figures of one workload."""
    model = f"{result['parameters'] / 1e6:.2f} M parameters, {result['backend']} on {result['device']}"
    found = Table(title=f"{name}: {result['records']:,} records, {result['frames'] / 1e6:.2f} M frames x {result['d']}; {model}")
    peaks = {"host_peak_bytes": "GB host", "device_peak_bytes": "GB device"}
    peaks = {peak: heading for peak, heading in peaks.items() if any(way[peak] is not None for way in result["ways"].values())}
    for heading in ("way", "s/epoch", "k frames/s", "valid", "waiting", "x free", "compiled", "s", "loss", *peaks.values()):
        found.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for way, figures in result["ways"].items():
        found.add_row(
            way,
            f"{figures['seconds']:.2f}",
            f"{figures['frames_per_second'] / 1e3:.0f}",
            f"{figures['valid_ratio']:.0%}",
            f"{figures['wait_share']:.1%}",
            f"{figures['free_input_ratio']:.2f}",
            f"{figures['compiles']}",
            f"{figures['compile_seconds']:.1f}",
            f"{figures['loss']:.3f}",
            *(f"{figures[peak] / 1e9:.2f}" for peak in peaks),
        )
    return found


def main() -> None:
    arguments = arguments_of_run()
    if arguments.one:
        serve(arguments.one, arguments)
        return
    console = Console(width=120)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = (arguments.data or Path(scratch)).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        for name in arguments.workloads:
            found[name] = measure(name, directory, arguments, console)
    results.save("training", arguments, {"workloads": found})
    for name, result in found.items():
        console.print(table(name, result))


if __name__ == "__main__":
    main()

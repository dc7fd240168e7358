"""Measure where each microsecond of a batch is spent in the mapped engine.

    python -m benchmarks.anatomy [--workloads speech events] [--seconds 8] [--json PATH]

A child process iterates over a dataset, as a training loop without a model does. Linux's `perf` samples the call chains of all processes
(it needs root, or `kernel.perf_event_paranoid` below 1), and each sample of the child is assigned to a part of the work. The shares are
scaled to the processor time that the kernel charged to the child. For the rest of the time of a batch the cores were idle: threads waited
for each other.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.workloads import Workload, events, speech

FREQUENCY = 4000
PARTS = {
    "copying": "frames are copied from the mapped files into the batch",
    "finding pages": "the kernel looks up the memory pages of the batch",
    "page faults": "first access to a page",
    "Python": "vlpipe's Python code: plan, index, memory of the batch",
    "hand-over": "TensorFlow's threads and functions around the call of that code",
    "consumer, Python": "the loop over the batches: Python code of next()",
    "consumer, TensorFlow": "the loop over the batches: TensorFlow code of next()",
    "waking and waiting": "the kernel suspends and wakes threads that hand over work",
    "other": "the rest of the kernel",
}


def part_of(main_thread: bool, chain: list[tuple[str, str]]) -> str:
    """Return the part of the work to which a sample belongs, one of `PARTS`.

    Args:
        main_thread: whether the thread is the one that iterates.
        chain: (symbol, file) of each stack frame, innermost first.
    """
    symbols = [symbol for symbol, _ in chain]
    if any("page_fault" in symbol for symbol in symbols):
        return "page faults"
    if any(symbol.startswith("process_vm_rw") for symbol in symbols):
        return "copying" if "copy" in symbols[0] else "finding pages"
    if any(symbol in ("do_futex", "schedule", "try_to_wake_up") or symbol.startswith("finish_task_switch") for symbol in symbols):
        return "waking and waiting"
    for _, file in chain:
        name = os.path.basename(file)
        if "tensorflow" in name or "_pywrap" in name:
            return "consumer, TensorFlow" if main_thread else "hand-over"
        if name.startswith(("libpython", "python", "_multiarray", "_ctypes", "libffi")):
            return "consumer, Python" if main_thread else "Python"
    if chain and "kernel" in chain[0][1]:
        return "other"
    return "consumer, TensorFlow" if main_thread else "hand-over"


def samples(text: str, pid: int) -> Counter[str]:
    """Count the samples of a process by part, in the output of `perf script -F pid,tid,ip,sym,dso`."""
    counts: Counter[str] = Counter()
    for block in text.split("\n\n"):
        head, *frames = block.strip("\n").splitlines() or [""]
        process, _, thread = head.strip().partition("/")
        if process.strip() != str(pid):
            continue
        chain = []
        for frame in frames:
            _, _, rest = frame.strip().partition(" ")
            symbol, _, file = rest.rpartition(" (")
            chain.append((symbol.partition("+")[0], file.rstrip(")")))
        counts[part_of(int(thread) == pid, chain)] += 1
    return counts


def child(directory: str, batch_size: int) -> None:
    """Iterate over epochs until standard input ends; print when the measurement begins, and then its figures."""
    import vlpipe

    dataset = vlpipe.make_dataset(directory, batch_size=batch_size, lengths=True, seed=1)
    for _ in range(2):  # the first epoch also verifies checksums
        for _ in dataset:
            pass
    print("ready", flush=True)
    before, start, batches = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in dataset:
            batches += 1
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    switches = after.ru_nvcsw - before.ru_nvcsw
    print(batches, wall / batches * 1e6, cpu / batches * 1e6, (after.ru_minflt - before.ru_minflt) / batches, switches / batches)


def dissect(workload: Workload, directory: Path, seconds: float) -> dict:
    """Measure a workload: microseconds per batch, by part."""
    native = workload.write_native(directory)
    command = [sys.executable, "-m", "benchmarks.anatomy", "--child", str(native), str(workload.batch_size)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, cwd=results.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    if process.stdout.readline().strip() != "ready":
        raise SystemExit("anatomy: the child process ended before it began to iterate; its error message is above.")
    # perf may take seconds to begin on a busy machine: the child iterates until perf is done, and not for a time of its own.
    record = directory / "perf.data"
    # All processes (`samples` chooses): perf on a single one fails, or polls, where a thread ends, as those of an iterator do.
    perf = ["perf", "record", "-q", "-F", str(FREQUENCY), "-g", "-a", "-o", str(record), "sleep", str(seconds)]
    recorded = subprocess.run(perf, capture_output=True, text=True, check=False)
    figures, _ = process.communicate()
    if recorded.returncode or process.returncode:
        raise SystemExit(f"anatomy: perf ended with {recorded.returncode}, the child process with {process.returncode}: {recorded.stderr}")
    batches, wall, cpu, faults, switches = map(float, figures.split())
    script = ["perf", "script", "-i", str(record), "--no-inline", "--no-demangle", "-F", "pid,tid,ip,sym,dso"]
    counts = samples(subprocess.run(script, check=True, capture_output=True, text=True).stdout, process.pid)
    total = sum(counts.values())
    return {
        "batch_size": workload.batch_size,
        "batch_bytes": int(workload.lengths.sum()) * workload.d * 4 // -(-len(workload.lengths) // workload.batch_size),
        "batches": int(batches),
        "samples": total,
        "wall_us": wall,
        "cpu_us": cpu,
        "idle_us": max(0.0, wall * (os.cpu_count() or 1) - cpu),
        "faults": faults,
        "switches": switches,
        "parts_us": {name: cpu * counts[name] / total for name in PARTS},
    }


def make_table(name: str, result: dict) -> Table:
    """Return the parts of one workload as a table."""
    megabytes = result["batch_bytes"] / 1e6
    table = Table(
        title=f"{name}: a batch of {result['batch_size']} ({megabytes:.1f} MB) takes {result['wall_us']:.0f} us on {os.cpu_count()} cores"
    )
    for heading in ("part", "us", "share of CPU time"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part, microseconds in sorted(result["parts_us"].items(), key=lambda item: -item[1]):
        table.add_row(f"{part}: {PARTS[part]}", f"{microseconds:.0f}", f"{microseconds / result['cpu_us']:.0%}")
    table.add_row("idle cores", f"{result['idle_us']:.0f}", "")
    return table


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--workloads", nargs="+", choices=["speech", "events"], default=["speech", "events"])
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of sampling per workload")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child[0], int(arguments.child[1]))
    del arguments.child
    if not shutil.which("perf"):
        raise SystemExit("anatomy: perf is not installed. On Debian: apt-get install linux-perf")
    console, figures = Console(width=120), {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.workloads:
            make = {"speech": speech, "events": events}[name]
            workload = make(200 if name == "speech" else 2000) if arguments.quick else make()
            figures[name] = dissect(workload, Path(scratch), 1.5 if arguments.quick else arguments.seconds)
            console.print(make_table(name, figures[name]))
    results.save("anatomy", arguments, figures)
    return None


if __name__ == "__main__":
    main()

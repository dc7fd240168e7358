"""The JSON that every benchmark writes, from which the report and the tables of README.md and docs/ are generated.

    {"script": "throughput", "commit": "1a2b3c4", "date": "2026-11-24", "machine": {...}, "versions": {...},
     "arguments": {...}, "results": {...}, "previous": {...}}

`results` differs from script to script; it has every round, not only medians. `previous` has the main figures of the last committed run in
the same file, where that measured the same on the same kind of machine (benchmarks/changes.py).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import vlpipe
from benchmarks import changes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "vlpipe",
    "tensorflow",
    "keras",
    "numpy",
    "jax",
    "torch",
    "lhotse",
    "grain",
    "array-record",
    "datasets",
    "litdata",
    "nvidia-dali-cuda120",
)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every script has."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a minimal run that only shows that everything works, in at most a minute")
    options.add_argument("--json", type=Path, help="write the figures to this file")
    return options


def save(script: str, arguments: argparse.Namespace, results: Any) -> dict[str, Any]:
    """Return the document of a run, and write it to the file of `--json`."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items() if name != "json"}
    document = {
        "script": script,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {name: version for name in PACKAGES if (version := _version(name))},
        "arguments": options,
        "results": results,
    }
    if arguments.json:
        if replaced := changes.previous(arguments.json, document):
            document["previous"] = replaced
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")
    return document


def load(script: str, directory: Path = RESULTS) -> dict[str, Any] | None:
    """Load the latest run of a script; None if there is none."""
    path = directory / f"{script}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": round(memory / 2**30, 1), "system": platform.system()}
    return machine | ({"accelerator": name} if (name := _accelerator()) else {})


def _accelerator() -> str | None:
    """The names of the NVIDIA GPUs; None without any."""
    try:
        names = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ", ".join(names.stdout.split("\n")).strip(", ") or None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    for name in (package, f"{package}-cpu"):  # tensorflow-cpu is TensorFlow without its GPU code
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return vlpipe.__version__ if package == "vlpipe" else None  # a checkout that is not installed


def _commit() -> str:
    """The commit of the checkout, with "+" if files of the package or the benchmarks were changed."""
    try:
        run = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*run, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*run, "status", "--porcelain", "vlpipe", "benchmarks/*.py"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed.strip() else "")

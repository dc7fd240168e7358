"""By how much the main figures of a benchmark moved since the last commit of its results."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Of each script: its main figures, by their names in the JSON, with unit and factor.
MAIN: dict[str, dict[str, tuple[str, float]]] = {
    "throughput": {"frames_per_second": ("M frames/s", 1e-6)},
    "training": {"seconds": ("s/epoch", 1), "wait_share": ("% waiting", 100)},
    "scaling": {"plan_seconds": ("s, plan", 1), "first_batch_seconds": ("s, first batch", 1), "gigabytes_per_second": ("GB/s", 1)},
    "memory": {"gap_seconds": ("ms between epochs", 1e3), "growth_bytes_per_epoch": ("KB more per epoch", 1e-3)},
    "foreign": {"indexed_per_second": ("k records indexed/s", 1e-3), "first_epoch_ratio": ("x publisher's pipeline, first epoch", 1)},
    "layers": {"ratio": ("x plain step", 1), "median_ratio": ("x plain step, median", 1)},
    "audio": {"records_per_second": ("records/s", 1), "core_seconds_per_hour": ("core-s per hour of audio", 1)},
    "anatomy": {"wall_us": ("us a batch", 1), "cpu_us": ("us of CPU a batch", 1)},
}
# Arguments that choose which figures there are, or how often each is measured, but not what they are.
_FREE = ("workloads", "ways", "peers", "workers", "rounds", "starts", "epochs", "seconds", "keep", "data")
_GROUPS = ("workloads", "ways", "sources", "models", "base", "d", "rounds_ms")  # names that say nothing in a row of a table


def figures(document: dict[str, Any]) -> dict[str, float]:
    """The main figures of a run, in their units, by what was measured; the median where the JSON has rounds."""
    return dict(_walk(document["results"], (), MAIN.get(document["script"], {})))


def _walk(node: Any, path: tuple[str, ...], main: dict[str, tuple[str, float]]) -> Iterator[tuple[str, float]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _walk(value, (*path, name), main)
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for point in node:  # of a series: the entry with the name of the series is what varies
            yield from _walk(point, (*path[:-1], f"{path[-1]} = {point.get(path[-1])}"), main)
    elif path and path[-1] in main:
        unit, factor = main[path[-1]]
        value = statistics.median(node) if isinstance(node, list) and node else node
        if isinstance(value, int | float):
            yield ", ".join([*(part for part in path[:-1] if part not in _GROUPS), unit]), value * factor


def previous(path: Path, document: dict[str, Any]) -> dict[str, Any] | None:
    """What a document replaces: the figures of the last committed run; None where none is committed, or it measured something else."""
    committed = _committed(path)
    if committed is None or _what(committed) != _what(document, like=committed):
        return None
    return {"commit": committed["commit"], "date": committed["date"], "figures": figures(committed)}


def _what(document: dict[str, Any], like: dict[str, Any] | None = None) -> list[Any]:
    """What a run measured, and on which machine; of the arguments those that another run has, too."""
    arguments = {name: document["arguments"].get(name) for name in (like or document)["arguments"] if name not in _FREE}
    return [document["script"], arguments, *(document["machine"].get(name) for name in ("cpu", "cores", "accelerator"))]


def _committed(path: Path) -> dict[str, Any] | None:
    if not path.resolve().is_relative_to(ROOT):
        return None
    command = ["git", "-C", str(ROOT), "show", f"HEAD:{path.resolve().relative_to(ROOT).as_posix()}"]
    try:
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return None

"""What all sections of REPORT.md have: Markdown tables, and the line that says where figures come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Documents = dict[str, Any]


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def origin(document: dict[str, Any]) -> str:
    """Return where and when the figures of a section were measured."""
    machine, versions = document["machine"], document["versions"]
    names = ("python", "tensorflow", "keras", "jax", "torch", "numpy")
    known = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    hardware = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB"
    hardware += f", {machine['accelerator']}" if "accelerator" in machine else ""
    return f"{hardware}; {known}; commit {document['commit']}, {document['date']}."


def training_cells(way: dict[str, Any]) -> dict[str, str]:
    """The cells of a row on a way of training, by their headings: in the report, and in what the scripts print."""
    monitor = way.get("monitor", {})  # runs before there was one have none
    return {
        "s/epoch": f"{way['seconds']:.2f}",
        "k frames/s": f"{way['frames_per_second'] / 1e3:.0f}",
        "valid": f"{way['valid_ratio']:.0%}",
        "waiting": f"{way['wait_share']:.1%}",
        "in fit": f"{monitor['input_wait']:.1%}" if "input_wait" in monitor else "",
        "x free": f"{way['free_input_ratio']:.2f}",
        "compiled": str(way["compiles"]),
        "compilation, s": f"{way['compile_seconds']:.1f}",
        "loss": f"{way['loss']:.3f}",
    }

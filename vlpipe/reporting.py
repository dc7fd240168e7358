"""A plan as a table for a terminal and as a picture."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vlpipe.planning import Plan

_WIDTH = 88
_MOST_ROWS = 20


def table(plan: Plan) -> str:
    """The plan as text: totals first, then a row a bucket."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=io.StringIO(), width=_WIDTH, force_terminal=False, color_system=None)
    totals = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _totals(plan):
        totals.add_row(name, value)
    console.print(totals)
    buckets = Table(box=None, pad_edge=False, header_style="")
    for heading in ("frames up to", "batch size", "records", "steps"):
        buckets.add_column(heading, justify="right")
    for bucket in plan.buckets[:_MOST_ROWS]:
        buckets.add_row(*(f"{number:,}" for number in (bucket.upper, bucket.batch_size, bucket.records, bucket.steps)))
    console.print()
    console.print(buckets)
    if len(plan.buckets) > _MOST_ROWS:
        console.print(f"… and {len(plan.buckets) - _MOST_ROWS} more")
    output: Any = console.file
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())


def _totals(plan: Plan) -> list[tuple[str, str]]:
    options = plan.options
    refused = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in plan.refused.items())
    ranks = f" of each of {options.shard[1]} ranks" if options.shard[1] > 1 else ""
    rows = [
        ("batching", f"{options.batching}, padded to {'the longest of the batch' if options.pad_to == 'longest' else 'the boundary'}"),
        ("engine", plan.engine),
        ("records", f"{plan.records:,} of {plan.total:,} an epoch"),
        ("refused", refused or "none"),
        ("steps", f"{plan.steps_per_epoch:,} an epoch{ranks}, remainder: {options.remainder}"),
        ("valid frames", f"{plan.valid_ratio:.1%} (the rest is padding)"),
        ("largest batch", f"{plan.peak_batch_bytes / 2**20:,.1f} MiB of features"),
    ]
    if options.batching in ("ragged", "same_length"):
        rows[0] = ("batching", options.batching)
    if plan.truncated:
        rows.insert(4, ("truncated", f"{plan.truncated:,} to {options.length_range[1]:,} frames"))
    if plan.cropped and options.crop:
        rows.insert(4, ("cropped", f"{plan.cropped:,} to {options.crop.frames:,} frames"))
    if plan.over_budget:
        rows.insert(
            4, ("over the budget", f"{plan.over_budget:,} records of more than {options.frames_per_batch:,} frames, alone in their batch")
        )
    return rows


def plot(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Draw the histogram of lengths with the buckets over it, and below each bucket's padding."""
    # The object interface: pyplot would choose a window system and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.hist(plan.frames, bins=min(80, max(10, len(plan.frames) // 20)), color="#4878a8")
    for boundary in plan.boundaries if len(plan.boundaries) <= 64 else ():
        upper.axvline(boundary, color="#c05020", linewidth=0.8)
    upper.set_ylabel("records")
    upper.set_title(
        f"{plan.records:,} records in {plan.steps_per_epoch:,} batches, {plan.valid_ratio:.1%} valid frames ({plan.options.batching})"
    )
    edges = np.array([0, *plan.boundaries])
    padding = _padding_to_boundary(plan)
    lower.bar(edges[:-1], padding, width=np.diff(edges), align="edge", color="#c05020", alpha=0.5, edgecolor="#c05020", linewidth=0.5)
    lower.set_ylabel("padding to the\nboundary, %")
    lower.set_xlabel("frames (lines: upper lengths of the buckets)")
    figure.savefig(path, dpi=120)


def _padding_to_boundary(plan: Plan) -> list[float]:
    """Percent of each bucket's frames that would be padding if all were padded to its boundary."""
    bucket_of = np.searchsorted(plan.boundaries, plan.frames, side="left")
    real = np.bincount(bucket_of, weights=plan.frames, minlength=len(plan.buckets))
    return [100 * (1 - real[k] / max(1, bucket.upper * bucket.records)) for k, bucket in enumerate(plan.buckets)]

"""What the library found, as tables for a terminal and as pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vlpipe.planning import Plan
    from vlpipe.verification import Report

_WIDTH = 88
_WIDE = 140
_MOST_ROWS = 20


def table(plan: Plan) -> str:
    """The plan as text: totals first, then a row a bucket."""
    rows = [(bucket.upper, bucket.batch_size, bucket.records, bucket.steps) for bucket in plan.buckets]
    return text(named(_totals(plan)), columns("frames up to", "batch size", "records", "steps", rows=rows))


def text(*parts: Any, width: int = _WIDTH) -> str:
    """Tables and lines of text, one below the other, as they stand on a terminal."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None, markup=False, emoji=False, highlight=False)
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(part)
    output: Any = console.file
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())


def named(rows: list[tuple[str, str]]) -> Any:
    """A table of names and values."""
    from rich.table import Table

    grid = Table(show_header=False, box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*map(printable, row))
    return grid


def columns(*headings: str, rows: Sequence[tuple[Any, ...]], most: int = _MOST_ROWS) -> Any:
    """A table of numbers (to the right) and texts (to the left), of which at most so many rows are shown."""
    from rich.console import Group
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="")
    for place, heading in enumerate(headings):
        is_text = bool(rows) and isinstance(rows[0][place], str)
        grid.add_column(printable(heading), justify="left" if is_text else "right", overflow="fold")
    for row in rows[:most]:
        grid.add_row(*map(_cell, row))
    return Group(grid, f"… and {len(rows) - most:,} more") if len(rows) > most else grid


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return printable(value) if isinstance(value, str) else f"{value:,}"


def printable(text: str) -> str:
    """The text with escapes in place of what could move a terminal's cursor or colour it."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def verification_table(report: Report) -> str:
    """What `vlpipe.verify` found: a line of totals, then the problems, then what to do about them."""
    read = f"{report.records:,} records in {report.shards:,} shards, {report.bytes / 1e6:,.1f} MB read"
    if report.ok:
        return f"{read}: all as they were written"
    problems = len(report.problems) + report.unlisted
    rows = [
        (os.path.basename(problem.shard), problem.record, problem.offset, problem.kind, problem.found, problem.expected)
        for problem in report.problems
    ]
    grid = columns("shard", "record", "at byte", "problem", "found", "expected", rows=rows, most=len(rows))
    kinds: dict[str, list[str]] = {}
    for problem in report.problems:
        kinds.setdefault(problem.action, []).append(problem.kind)
    actions = [f"{', '.join(dict.fromkeys(of))}: {action}" for action, of in kinds.items()]
    more = [f"… and {report.unlisted:,} more problems"] if report.unlisted else []
    total = f"{read}: {report.damaged:,} records are damaged or lost, {problems:,} problems"
    return text(total, grid, *more, "\n".join(actions), width=_WIDE)


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

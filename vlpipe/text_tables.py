"""What the library found, as tables for a terminal and as pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import indent
from typing import TYPE_CHECKING, Any

import numpy as np

from vlpipe.errors import ArgumentError, import_extra
from vlpipe.planning.buckets import Bins

if TYPE_CHECKING:
    from vlpipe.inspection.head import FieldView, RecordView
    from vlpipe.inspection.summary import LabelSummary, SequenceSummary, Summary
    from vlpipe.planning.make_plan import Plan
    from vlpipe.verification import Report

_WIDTH = 88
_WIDE = 140
_MOST_LETTERS = 200
_BLUE, _RED = "#4878a8", "#c05020"
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


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(value) if isinstance(value, str) else value


def printable(text: str) -> str:
    """The text with escapes in place of what could move a terminal's cursor or colour it."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def summary_table(summary: Summary) -> str:
    """What a dataset holds: totals, then a table for the sequences and one for each label."""
    totals = [("records", f"{summary.records:,}"), ("shards", f"{summary.shards:,}"), ("bytes", f"{summary.bytes:,}")]
    parts = [named(totals)]
    for name, sequence in summary.sequences.items():
        parts.append(named(_sequence_rows(name, sequence)))
    for name, label in summary.labels.items():
        parts += [f"label {printable(name)}: {len(label.classes):,} classes", _class_table(label)]
        if label.class_weight and len(label.class_weight) <= _MOST_ROWS:
            parts.append(f"class_weight={ {key: float(f'{weight:.4g}') for key, weight in label.class_weight.items()} }")
    return text(*parts, width=_WIDE)


def _sequence_rows(name: str, sequence: SequenceSummary) -> list[tuple[str, str]]:
    shape = ", ".join(["T", *map(str, sequence.shape)])
    rows = [(name, f"[{shape}] {sequence.dtype}")]
    if sequence.lengths:
        of = sequence.lengths
        hours = "" if of.hours is None else f", {of.hours:,.2f} hours"
        quartet = f"min {of.min:,}, median {of.median:,.0f}, mean {of.mean:,.1f}, 95 % {of.p95:,.0f}, max {of.max:,}"
        rows += [("frames", f"{of.frames:,}{hours}"), ("lengths", quartet)]
    for heading, numbers in (("mean", sequence.mean), ("deviation", sequence.std)):
        known = [number for number in numbers or () if number is not None]
        if known:
            rows.append((heading, f"{min(known):.4g} to {max(known):.4g} over {len(known):,} dimensions"))
    if sequence.statistics is None and sequence.shape and sequence.lengths:
        rows.append(("mean", "not known; --compute reads the frames"))
    if sequence.not_finite:
        rows.append(("not finite", f"{sequence.not_finite:,} numbers, which mean and deviation leave out"))
    return rows


def _class_table(label: LabelSummary) -> Any:
    total = sum(entry.records for entry in label.classes)
    weights = label.class_weight or {}
    rows = []
    for entry in label.classes:
        of = entry.lengths
        more = () if of is None else (of.frames, of.hours, of.min, of.median, of.max)
        rows.append((entry.label, entry.name or "", entry.records, f"{entry.records / total:.1%}", weights.get(entry.label), *more))
    headings = ["class", "name", "records", "share", "weight"]
    if rows and len(rows[0]) > len(headings):
        headings += ["frames", "hours", "shortest", "median", "longest"]
    return columns(*headings, rows=rows)


def preview_table(record: RecordView) -> str:
    """A record: a line of what it is, then a line a field."""
    rows = [(name, _shape_of(view), _values_of(view)) for name, view in record.fields.items()]
    where = f"record {record.id}: {printable(record.shard)}, record {record.record} at byte {record.offset}, {record.bytes:,} bytes"
    return f"{where}\n{indent(text(columns('', '', '', rows=rows, most=len(rows)), width=_WIDE).lstrip(), '  ')}"


def _shape_of(view: FieldView) -> str:
    return f"{list(view.shape)} {view.dtype}" if view.shape else view.dtype


def _values_of(view: FieldView) -> str:
    if view.dtype == "bytes":
        return printable(view.text or "")
    if view.text is not None:
        return repr(view.text if len(view.text) <= _MOST_LETTERS else f"{view.text[:_MOST_LETTERS]}…")
    shown = " ".join("not finite" if number is None else _short(number) for number in view.first)
    if not view.shape:
        return shown
    size = int(np.prod(view.shape, dtype=np.int64))
    more = " …" if size > len(view.first) else ""
    lost = f", {view.not_finite:,} not finite" if view.not_finite else ""
    extremes = [f"{heading} {_short(number)}" for heading in ("min", "max", "mean") if (number := getattr(view, heading)) is not None]
    return f"{shown}{more}  ({', '.join(extremes)}{lost})" if size else "no frames"


def _short(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.4g}"


def verification_table(report: Report) -> str:
    """What `vlpipe.verify` found: a line of totals, then the problems, then what to do about them."""
    read = f"{report.records:,} records in {report.shards:,} shards, {report.bytes / 1e6:,.1f} MB read"
    if report.ok:
        return f"{read}: {_compared(report.layout)}"
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
    actions += [f"note: {_NOT_COMPARED}"] if report.layout is None else []
    lost = f" and {report.lost:,} bytes that cannot be reached" if report.lost else ""
    total = f"{read}: {report.damaged:,} records{lost} are damaged or lost, {problems:,} problems"
    return text(total, grid, *more, "\n".join(actions), width=_WIDE)


_NOT_COMPARED = (
    "what the records hold was not compared, as their layout is not known (`vlpipe inspect` shows what it could be; then pass --layout)"
)


def _compared(layout: str | None) -> str:
    """What is known of records in which nothing is wrong."""
    if layout == "vlpipe":
        return "all as they were written"
    return "every checksum is right" + (f"; {_NOT_COMPARED}" if layout is None else f", and every record as the layout {layout} says")


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


@contextmanager
def _picture(path: str | os.PathLike[str], height: float, needed_for: str) -> Iterator[Any]:
    """A figure that is written when the block ends."""
    import_extra("matplotlib", extra="plot", needed_for=needed_for)
    # The object interface: pyplot would choose a window system and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"plot: {path} cannot be written ({error}). Pass a .png, .svg or .pdf in a folder that exists.") from error


def plot(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Draw the histogram of lengths with the buckets over it, and below each bucket's padding.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ArgumentError: the file cannot be written.
    """
    with _picture(path, 5, "Plan.plot") as figure:
        _draw_plan(figure, plan)


def _draw_plan(figure: Any, plan: Plan) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.hist(plan.frames, bins=min(80, max(10, len(plan.frames) // 20)), color=_BLUE)
    for boundary in plan.boundaries if len(plan.boundaries) <= 64 else ():
        upper.axvline(boundary, color=_RED, linewidth=0.8)
    upper.set_ylabel("records")
    upper.set_title(
        f"{plan.records:,} records in {plan.steps_per_epoch:,} batches, {plan.valid_ratio:.1%} valid frames ({plan.options.batching})"
    )
    edges = np.array([0, *plan.boundaries])
    padding = _padding_to_boundary(plan)
    lower.bar(edges[:-1], padding, width=np.diff(edges), align="edge", color=_RED, alpha=0.5, edgecolor=_RED, linewidth=0.5)
    lower.set_ylabel("padding to the\nboundary, %")
    lower.set_xlabel("frames (lines: upper lengths of the buckets)")


def plot_lengths(name: str, bins: Bins, path: str | os.PathLike[str]) -> None:
    """Draw a histogram of lengths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ArgumentError: the file cannot be written.
    """
    with _picture(path, 4, "A picture of lengths") as figure:
        axes = figure.subplots()
        axes.bar(bins.first, bins.records, width=bins.width, align="edge", color=_BLUE)
        axes.set_ylabel("records")
        axes.set_xlabel(f"frames of {_literal(name)}")
        axes.set_title(f"{sum(bins.records):,} records")


def _literal(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads mathematics between two of these


def lengths_table(bins: Bins) -> str:
    """A histogram of lengths as bars of text."""
    from rich.bar import Bar

    most = max(bins.records, default=1)
    last = bins.width - 1
    rows = [
        (f"{first:,} to {first + last:,}" if last else first, count, Bar(most, 0, count, width=50))
        for first, count in zip(bins.first, bins.records, strict=True)
    ]
    return text(columns("frames", "records", "", rows=rows, most=len(rows)))


def _padding_to_boundary(plan: Plan) -> list[float]:
    """Percent of each bucket's frames that would be padding if all were padded to its boundary."""
    bucket_of = np.searchsorted(plan.boundaries, plan.frames, side="left")
    real = np.bincount(bucket_of, weights=plan.frames, minlength=len(plan.buckets))
    return [100 * (1 - real[k] / max(1, bucket.upper * bucket.records)) for k, bucket in enumerate(plan.buckets)]

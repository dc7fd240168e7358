"""Two sources beside each other: lengths, classes, texts, statistics, and records that are in both."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlpipe.errors import counted
from vlpipe.inspection.histogram import Bins, bin_lengths
from vlpipe.inspection.summary import LabelSummary, Summary
from vlpipe.reporting.charts import figure, histogram
from vlpipe.reporting.columns import MAX_VALUES, value_name
from vlpipe.reporting.dataset import repeated
from vlpipe.reporting.markup import Headings, Html, join, note, number, table
from vlpipe.reporting.repeated import repeated_across
from vlpipe.sources.record_set import RecordSet

_BINS = 60


def differences(
    names: tuple[str, str],
    sources: tuple[RecordSet, RecordSet],
    summaries: tuple[Summary, Summary],
    columns: tuple[dict[str, LabelSummary], dict[str, LabelSummary]],
    headings: Headings,
) -> Html:
    """What two sources have in common, and what only one has.

    Args:
        names: how the page calls them.
        sources: the two.
        summaries: of them.
        columns: the values of their labels and texts, by field.
        headings: of the page.
    """
    parts = [_fields(names, sources)]
    for name in [name for name in summaries[0].sequences if name in summaries[1].sequences]:
        parts.append(headings.section(3, f"Lengths of {name}", _lengths(name, names, sources, summaries)))
    for field in [field for field in columns[0] if field in columns[1]]:
        parts.append(headings.section(3, f"Column {field}", _values(field, names, (columns[0][field], columns[1][field]))))
    first, second = sources[0].index, sources[1].index
    common = repeated(repeated_across(first, second), first, second, names=names)
    return join([*parts, headings.section(3, "Records in both", common)])


def _fields(names: tuple[str, str], sources: tuple[RecordSet, RecordSet]) -> Html:
    first, second = (source.schema.fields for source in sources)
    rows = [
        (name, *(repr(fields[name]) if name in fields else "absent" for fields in (first, second)))
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]
    if not rows:
        return note("Both have the same fields.", kind="good")
    return table("Fields that differ", ("field", *names), rows)


def _lengths(name: str, names: tuple[str, str], sources: tuple[RecordSet, RecordSet], summaries: tuple[Summary, Summary]) -> Html:
    first, second = (summary.sequences[name].lengths for summary in summaries)
    if first is None or second is None:
        return note("One of them has no records.")
    pairs = [
        ("shortest", "min"),
        ("median", "median"),
        ("mean", "mean"),
        ("95 % are at most", "p95"),
        ("longest", "max"),
        ("frames", "frames"),
    ]
    rows = [("records", len(sources[0]), len(sources[1])), *((row, getattr(first, key), getattr(second, key)) for row, key in pairs)]
    rows += [row for row in _statistics(name, summaries) if row is not None]
    lengths = [source.index.frames(name) for source in sources]
    bins = bin_lengths(np.concatenate(lengths), _BINS)
    counts = [np.bincount((each - bins.first[0]) // bins.width, minlength=len(bins.first)) for each in lengths]
    scaled = counts[1] * (len(lengths[0]) / len(lengths[1]))
    bars = Bins(bins.width, bins.first, tuple(counts[0].tolist()))
    what = f"Lengths of {name}: bars for {names[0]}, a line for {names[1]}, scaled to the same number of records."
    chart = figure(histogram(bars, what, other=scaled.tolist()), what)
    beyond = int(np.count_nonzero((lengths[1] < first.min) | (lengths[1] > first.max)))
    has = "is" if beyond == 1 else "are"
    outside = note(f"{counted(beyond, 'record')} of {names[1]} {has} shorter or longer than all of {names[0]}.")
    return join([chart, table(f"Lengths of {name}, in frames", ("", *names), rows), outside])


def _statistics(name: str, summaries: tuple[Summary, Summary]) -> list[tuple[str, str, Any]]:
    """The dimension whose mean differs most, in deviations of the first source."""
    first, second = (summary.sequences[name] for summary in summaries)
    if first.mean is None or first.std is None or second.mean is None or len(first.mean) != len(second.mean):
        return []
    arrays = [np.array([np.nan if value is None else value for value in values]) for values in (first.mean, first.std, second.mean)]
    with np.errstate(all="ignore"):
        shift = np.abs(arrays[2] - arrays[0]) / arrays[1]
    if not np.isfinite(shift).any():
        return []
    worst = int(np.nanargmax(np.where(np.isfinite(shift), shift, np.nan)))
    return [("greatest shift of a mean", "", f"{number(float(shift[worst]))} deviations, dimension {worst}")]


def _values(field: str, names: tuple[str, str], labels: tuple[LabelSummary, LabelSummary]) -> Html:
    first, second = ({value_name(entry): entry.records for entry in label.classes} for label in labels)
    both = first.keys() & second.keys()
    shared = [sum(counts[name] for name in both) for counts in (first, second)]
    rows = [
        ("in both", len(both), shared[0], shared[1]),
        (f"only in {names[0]}", len(first) - len(both), sum(first.values()) - shared[0], 0),
        (f"only in {names[1]}", len(second) - len(both), 0, sum(second.values()) - shared[1]),
    ]
    headings = ("values", "number", f"records of {names[0]}", f"records of {names[1]}")
    totals = [max(1, sum(counts.values())) for counts in (first, second)]
    shares = sorted(
        ((name, first.get(name, 0) / totals[0], second.get(name, 0) / totals[1]) for name in first.keys() | second.keys()),
        key=lambda row: (-abs(row[1] - row[2]), row[0]),
    )
    listed = [(name, f"{one:.1%}", f"{other:.1%}", f"{100 * (other - one):+.1f}") for name, one, other in shares]
    parts = [table(f"Values of {field} in both", headings, rows)]
    if both and len(both) <= MAX_VALUES:
        parts.append(note(f"In both: {', '.join(sorted(both))}."))
    captions = (f"Shares of {field}, the greatest difference first", ("value", *names, "difference, %"))
    return join([*parts, table(*captions, listed, most=MAX_VALUES)])

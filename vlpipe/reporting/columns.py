"""The columns of a source: classes, texts and numbers, each with how often its values come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vlpipe.inspection.summary import ClassCount, LabelSummary, summarize
from vlpipe.reporting.markup import Headings, Html, join, note, table
from vlpipe.sources.classes import class_labels
from vlpipe.sources.record_set import RecordSet
from vlpipe.sources.table import ID, Table
from vlpipe.storage.field_access import Location
from vlpipe.storage.schema import Text

MAX_VALUES = 50  # in a table
_QUANTILES = (0, 5, 50, 95, 100)


def columns(source: RecordSet, labels: dict[str, LabelSummary], by: tuple[str, ...], headings: Headings) -> Html:
    """A section for each column: integer labels and texts as tables of their values, other numbers as quantiles.

    Args:
        labels: the integer labels.
        by: fields of which the lengths of each value are shown too.
        headings: of the page.

    Raises:
        SchemaError: a field of `by` is neither a scalar integer nor a text.
    """
    counted = labels | {name: summarize(source, name).labels[name] for name in by}
    counted |= {name: counts for name, counts in text_counts(source).items() if name not in counted}
    parts = [headings.section(4, f"Column {name}", _values(name, label)) for name, label in counted.items()]
    parts += [headings.section(4, f"Column {name}", content) for name, content in _others(source, set(counted))]
    return join(parts) if parts else note("There are no scalars and no texts.")


def text_counts(source: RecordSet) -> dict[str, LabelSummary]:
    """The values of the texts that are in the index, and how often each comes."""
    index, found = source.index, {}
    for name, values in index.texts.items():
        counts = np.bincount(index.codes(name), minlength=len(values)).tolist()
        entries = [ClassCount(value, None, count) for value, count in zip(values.tolist(), counts, strict=True) if count]
        found[name] = LabelSummary(tuple(entries), None)
    return found


def value_name(entry: ClassCount) -> str:
    """How the page calls a value."""
    return str(entry.label) if entry.name is None else f"{entry.label} {entry.name}"


def _values(name: str, label: LabelSummary) -> Html:
    total = sum(entry.records for entry in label.classes)
    weights: dict[Any, float] = dict(label.class_weight or {})
    frequent = sorted(label.classes, key=lambda entry: -entry.records)
    chosen = frequent[:MAX_VALUES]
    rows = [[value_name(entry), entry.records, f"{entry.records / total:.1%}"] for entry in chosen]
    headings = ["value", "records", "share"]
    if weights:
        headings.append("class weight")
        rows = [[*row, weights.get(entry.label)] for row, entry in zip(rows, chosen, strict=True)]
    if any(entry.lengths for entry in chosen):
        headings += ["frames", "hours", "shortest", "median", "longest"]
        rows = [[*row, *_lengths(entry)] for row, entry in zip(rows, chosen, strict=True)]
    once = sum(entry.records == 1 for entry in frequent)
    singles = f", {once:,} of them in one record only" if once else ""
    more = f" The {MAX_VALUES} most frequent are listed." if len(frequent) > MAX_VALUES else ""
    return join([note(f"{len(frequent):,} different values{singles}.{more}"), table(f"Values of {name}", headings, rows)])


def _lengths(entry: ClassCount) -> list[Any]:
    lengths = entry.lengths
    return [None] * 5 if lengths is None else [lengths.frames, lengths.hours, lengths.min, lengths.median, lengths.max]


def _others(source: RecordSet, done: set[str]) -> Iterator[tuple[str, Html]]:
    """Scalars that are no class numbers, and what is only in the records."""
    columns, index = Table(source.index), source.index
    labels = class_labels(index)
    for shown, field in columns.fields().items():
        if field in done or field in labels or shown == ID:
            continue
        if index.access(field).location is not Location.ROW:
            what = f"--by {field} reads it and counts its values." if isinstance(index.schema.fields[field], Text) else ""
            yield field, note(f"Not in the index, only in the records. {what}".strip())
            continue
        values = columns[shown].astype(np.float64)
        finite = values[np.isfinite(values)]
        rows = [["not finite", len(values) - len(finite)]]
        if len(finite):
            quantiles = zip(_QUANTILES, np.percentile(finite, _QUANTILES).tolist(), strict=True)
            rows = [[f"{percent} %", value] for percent, value in quantiles] + rows
        yield field, table(f"Quantiles of {field}", ("", "value"), rows)

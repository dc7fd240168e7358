"""The sections about one source: totals, lengths, the plan of its batches, columns, statistics, repeated and damaged records."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import vlpipe
from vlpipe.errors import VlpipeError, counted
from vlpipe.inspection.histogram import bin_lengths
from vlpipe.inspection.summary import SequenceSummary, Summary
from vlpipe.planning.plan import Plan
from vlpipe.reporting.charts import curve, figure, histogram
from vlpipe.reporting.markup import Headings, Html, join, note, number, pairs, table
from vlpipe.reporting.repeated import Pair, Repeated
from vlpipe.sources.record_set import RecordSet
from vlpipe.storage.index import Index
from vlpipe.verification import Report

_BINS = 60
_MAX_PAIRS = 20
_MAX_SHAPES = 64


def totals(source: RecordSet, summary: Summary) -> Html:
    """Records, files, bytes, and the fields of a record."""
    rows: list[tuple[str, Any]] = [("records", summary.records), ("files", summary.shards), ("bytes of the files", summary.bytes)]
    if source.selected:
        rows.append(("selected", f"{source.selected}; {len(source.index.whole):,} records are in the files"))
    rows += [(f"part {name}", f"{count:,} an epoch") for name, count in list(source.parts.items())[:_MAX_SHAPES]]
    for name, sequence in summary.sequences.items():
        if sequence.lengths is not None:
            hours = "" if sequence.lengths.hours is None else f", {sequence.lengths.hours:,.2f} hours"
            rows.append((f"frames of {name}", f"{sequence.lengths.frames:,}{hours}"))
    fields = [(name, repr(field)) for name, field in source.schema.fields.items()]
    return join([pairs("Totals", rows), table("Fields of a record", ("field", "kind"), fields)])


def lengths(index: Index, name: str, sequence: SequenceSummary) -> Html:
    """The lengths of one sequence."""
    found = sequence.lengths
    if found is None:
        return note("There are no records.")
    bins = bin_lengths(index.frames(name), _BINS)
    what = f"Histogram of the lengths of {name}: from {found.min:,} to {found.max:,} frames, median {found.median:,.0f}."
    rows = [
        ("shortest", found.min),
        ("median", found.median),
        ("mean", found.mean),
        ("95 % are at most", found.p95),
        ("longest", found.max),
    ]
    wide = f", {bins.width:,} lengths in a bar" if bins.width > 1 else ""
    empty = int(np.count_nonzero(index.frames(name) == 0))
    warning = [note(f"{counted(empty, 'record')} without a frame.", kind="bad")] if empty else []
    return join([*warning, figure(histogram(bins, what), f"Records by frames{wide}."), pairs(f"Lengths of {name}, in frames", rows)])


def forecast(source: RecordSet) -> Html:
    """The batches that `make_dataset` makes with its defaults."""
    try:
        plan = vlpipe.plan(source, label=False, out_of_range="drop")
    except VlpipeError as error:
        return note(f"There is no plan: {error}", kind="bad")
    refused = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in plan.refused.items())
    rows: list[tuple[str, Any]] = [
        ("engine", plan.engine),
        ("records in an epoch", plan.records),
        ("refused", refused or "none"),
        ("batches in an epoch", plan.steps_per_epoch),
        ("valid frames", f"{plan.valid_ratio:.1%}; the rest is padding"),
        ("largest batch", f"{plan.peak_batch_bytes / 2**20:,.1f} MiB of features"),
    ]
    shares = zip(plan.buckets, _padding_to_boundary(plan), strict=True)
    buckets = [(f"{bucket.upper:,}", bucket.records, bucket.batch_size, bucket.steps, f"{share:.1f} %") for bucket, share in shares]
    headings = ("frames up to", "records", "batch size", "batches", "padding at most")
    parts = [note(f"As vlpipe.make_dataset(...) with its defaults: {plan.options.batching}."), pairs("An epoch", rows), *_marked(plan)]
    return join([*parts, table("Buckets", headings, buckets, most=_MAX_SHAPES)])


def _marked(plan: Plan) -> list[Html]:
    if not len(plan.frames):
        return []
    what = f"Lengths of the {counted(len(plan.frames), 'sequence')}; lines: the upper lengths of {counted(len(plan.buckets), 'bucket')}."
    return [figure(histogram(bin_lengths(plan.frames, _BINS), what, marks=plan.boundaries), what)]


def _padding_to_boundary(plan: Plan) -> list[float]:
    """Percent of each bucket's frames that would be padding if every sequence were padded to its boundary."""
    bucket_of = np.searchsorted(plan.boundaries, np.maximum(plan.frames, plan.frame_plan.least), side="left")
    real = np.bincount(bucket_of, weights=plan.frames, minlength=len(plan.buckets))
    return [100 * (1 - real[k] / max(1, bucket.upper * bucket.records)) for k, bucket in enumerate(plan.buckets)]


def statistics(name: str, sequence: SequenceSummary) -> Html:
    """Mean and deviation of each dimension of a sequence."""
    if sequence.mean is None or sequence.std is None:
        return note("Mean and deviation are unknown: --compute computes them from all frames.")
    mean, deviation = (np.array([np.nan if value is None else value for value in values]) for values in (sequence.mean, sequence.std))
    known = np.isfinite(mean) & np.isfinite(deviation)
    constant = known & (deviation == 0)
    rows: list[tuple[str, Any]] = [("dimensions", len(mean)), ("values that are not finite", sequence.not_finite)]
    if known.any():
        rows.append(("mean", f"{number(float(mean[known].min()))} to {number(float(mean[known].max()))}"))
        rows.append(("deviation", f"{number(float(deviation[known].min()))} to {number(float(deviation[known].max()))}"))
    if constant.any():
        rows.append(("constant dimensions", f"{int(constant.sum()):,}, the first is {int(constant.argmax())}"))
    what = f"Mean of each dimension of {name}, in a band of one standard deviation: {counted(len(mean), 'dimension')}."
    chart = [figure(curve(mean, deviation, what), what)] if known.any() and len(mean) > 1 else []
    warning = [note(f"{counted(sequence.not_finite, 'value')} not finite.", kind="bad")] if sequence.not_finite else []
    return join([*warning, *chart, pairs(f"Statistics of {name}", rows)])


def repeated(found: Repeated, first: Index, second: Index, *, names: tuple[str, str] | None = None) -> Html:
    """Records that are there twice.

    Args:
        found: which they are.
        first, second: the sources of the pairs; the same for one source.
        names: of the two sources; None: of one.
    """
    where = "an earlier record" if names is None else f"a record of {names[0]}"
    of_others = "" if names is None else f" of {names[1]}"
    if not found.records:
        text = f"No record{of_others} has the checksum and the number of bytes of {where}."
        return join([note(text, kind="good"), *_by_chance(found)])
    has = "has" if found.records == 1 else "have"
    text = f"{counted(found.records, 'record')}{of_others} {has} the checksum and the number of bytes of {where}."
    rows = [_pair(pair, first, second) for pair in found.pairs[:_MAX_PAIRS]]
    headings = ("record", "is the same as", "compared")
    caption = "The first repeated records" if names is None else f"The first records of {names[1]} that are also in {names[0]}"
    return join([note(text, kind="bad"), *_by_chance(found), table(caption, headings, rows)])


def _by_chance(found: Repeated) -> list[Html]:
    parts = ["A copy with another text, such as its path, is a different record and not among these."]
    if found.compared:
        equal = found.compared - found.different
        parts.insert(0, f"{counted(found.compared, 'pair')} compared byte by byte: {equal:,} equal, {found.different:,} different.")
    if found.by_chance >= 0.5:
        parts.append(f"Of different records, about {counted(round(found.by_chance), 'pair')} would have equal checksums by chance.")
    return [note(" ".join(parts))]


def _pair(pair: Pair, first: Index, second: Index) -> tuple[str, str, str]:
    compared = "all bytes are equal" if pair.is_equal else "not compared"
    return _place(second, pair.second), _place(first, pair.first), compared


def _place(index: Index, row: int) -> str:
    shard = index.shards[int(index.rows["shard"][row])].name
    return f"{int(index.ids[row]):,} ({shard}, byte {int(index.rows['offset'][row]):,})"


def damage(report: Report) -> Html:
    """What `vlpipe verify` found."""
    read = f"{counted(report.records, 'record')} in {counted(report.shards, 'file')}, {report.bytes / 1e6:,.1f} MB read"
    if report.ok:
        return note(f"{read}: no problem found.", kind="good")
    lost = f" and {counted(report.lost, 'byte')} that cannot be reached" if report.lost else ""
    more = f", {report.unlisted:,} of them not listed" if report.unlisted else ""
    text = f"{read}: {counted(len(report.problems) + report.unlisted, 'problem')}{more}; {counted(report.damaged, 'record')} damaged{lost}."
    headings = ("file", "record", "at byte", "problem", "found", "expected", "what to do")
    rows = [
        (os.path.basename(entry.shard), entry.record, entry.offset, entry.kind, entry.found, entry.expected, entry.action)
        for entry in report.problems
    ]
    return join([note(text, kind="bad"), table("Problems", headings, rows)])


def by_sequence(summary: Summary, headings: Headings, make: Callable[[str, SequenceSummary], Html]) -> Html:
    """The same section for each sequence, with a heading where there are several."""
    names = list(summary.sequences)
    if len(names) == 1:
        return make(names[0], summary.sequences[names[0]])
    return join(headings.section(4, name, make(name, summary.sequences[name])) for name in names)

"""What a dataset holds, from its index and metadata: lengths, statistics, classes and their weights. Records are read only on request."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.errors import ArgumentError, DatasetError, SchemaError
from vlpipe.planning.selection import only_candidate
from vlpipe.sources.compute_statistics import with_statistics
from vlpipe.sources.open import open_anywhere, open_local
from vlpipe.storage.index import Index
from vlpipe.storage.paths import Source
from vlpipe.storage.schema import Fixed
from vlpipe.storage.statistics import Moments
from vlpipe.text_tables import MAX_ROWS, WIDE, columns, named, printable, text

# Keras wants a weight of every class up to the greatest; a label beyond this is a number of something else.
MAX_CLASSES = 1 << 20


@dataclass(frozen=True)
class Lengths:
    """Lengths of one or more sequences, in frames.

    Attributes:
        frames: all frames together.
        hours: their duration, where the metadata tell the hop from one frame to the next.
        min, median, mean, p95, max: of the lengths; p95 is the 95th percentile.
    """

    frames: int
    hours: float | None
    min: int
    median: float
    mean: float
    p95: float
    max: int

    @classmethod
    def of(cls, frames: np.ndarray, hop_ms: float | None) -> Lengths | None:
        """Of int64 `[records]` lengths; None if there are none."""
        if not len(frames):
            return None
        total = int(frames.sum())
        median, p95 = np.percentile(frames, [50, 95]).tolist()
        hours = None if hop_ms is None else total * hop_ms / 3.6e6
        return cls(total, hours, int(frames.min()), median, total / len(frames), p95, int(frames.max()))


@dataclass(frozen=True)
class ClassCount:
    """One class of a label.

    Attributes:
        label: the value of the label.
        name: what `metadata["classes"]` calls it.
        records: how many records have it.
        lengths: of the first sequence of these records, where that was asked for.
    """

    label: int
    name: str | None
    records: int
    lengths: Lengths | None = None


@dataclass(frozen=True)
class LabelSummary:
    """The classes of a label that have records, and what `class_weights` gives of it; None where its values are no class numbers."""

    classes: tuple[ClassCount, ...]
    class_weight: dict[int, float] | None


@dataclass(frozen=True)
class SequenceSummary:
    """One sequence of the schema: shape and dtype of a frame, lengths, and mean and deviation (None where they are not known).

    Attributes:
        statistics: what mean and deviation are made of, exact and in the form of `vlpipe.json` (`Moments.to_json`).
    """

    shape: tuple[int, ...]
    dtype: str
    lengths: Lengths | None
    mean: tuple[float | None, ...] | None
    std: tuple[float | None, ...] | None
    not_finite: int | None
    statistics: dict[str, Any] | None


@dataclass(frozen=True)
class Summary:
    """What `vlpipe stats` shows."""

    records: int
    shards: int
    bytes: int
    sequences: dict[str, SequenceSummary]
    labels: dict[str, LabelSummary]

    def report(self) -> str:
        """The summary as tables: totals, then one for each sequence and one for each label."""
        totals = [("records", f"{self.records:,}"), ("shards", f"{self.shards:,}"), ("bytes", f"{self.bytes:,}")]
        parts = [named(totals)]
        for name, sequence in self.sequences.items():
            parts.append(named(_sequence_rows(name, sequence)))
        for name, label in self.labels.items():
            parts += [f"label {printable(name)}: {len(label.classes):,} classes", _class_table(label)]
            if label.class_weight and len(label.class_weight) <= MAX_ROWS:
                parts.append(f"class_weight={ {key: float(f'{weight:.4g}') for key, weight in label.class_weight.items()} }")
        return text(*parts, width=WIDE)


def summarize(
    source: Source,
    by: str | None = None,
    layout: Any = None,
    *,
    compute: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Count what the index of a dataset tells.

    Args:
        source, layout: as for `make_dataset`.
        by: a label that is a scalar integer: only its classes are listed, each with the lengths of its records; None: all such labels.
        compute: read the frames whose mean and deviation are not known, and keep these (`with_statistics`).
        progress: called with the bytes that are read for that and those that there are.

    Raises:
        SchemaError: `by` is no such label.
        DatasetError: the source is no dataset, or a record that is read is damaged.
        ArgumentError: `compute`, and the source is an address.
    """
    index = with_statistics(open_local(source, layout), progress=progress) if compute else open_anywhere(source, layout)
    names = _class_labels(index) if by is None else [_class_label(index, by)]
    return Summary(
        records=len(index),
        shards=len(index.shards),
        bytes=sum(shard.bytes for shard in index.shards),
        sequences={name: _sequence(index, name) for name in index.counted},
        labels={name: _label(index, name, with_lengths=by is not None) for name in names},
    )


def class_weights(source: Source, label: str | None = None, layout: Any = None) -> dict[int, float]:
    """Weights for `model.fit(class_weight=)` by which every class counts the same, however rare: n / (classes * records of the class).

    As scikit-learn's "balanced". From the index alone; no record is read. Keras wants every class from 0 on: one that has no record here
    gets the weight 1, which has no effect.

    Args:
        source: as for `make_dataset`.
        label: name of a scalar integer in the schema; None: the label of the layout, the field `label`, or the only one that can be meant.
        layout: how the records are laid out that vlpipe did not write, as for `make_dataset`.

    Returns:
        The weight of each class from 0 to the greatest.

    Raises:
        SchemaError: the schema has no such label, or several that could be meant.
        ArgumentError: the label's values are no class numbers: one is negative, or 1,048,576 or more.
        DatasetError: the source is no dataset, or has no records.

    Example:
        >>> weights = vlpipe.class_weights("data/train")  # {0: 0.6, 1: 3.0}
        >>> model.fit(vlpipe.make_dataset("data/train"), class_weight=weights)
    """
    index = open_anywhere(source, layout)
    name = _class_label(index, label)
    values, counts = _counts(index, name)
    if not len(values):
        raise DatasetError(f"{source}: has no records, so that no class has a weight. Write some first.")
    weights = _balanced(values, counts)
    if weights is None:
        wrong = values[0] if values[0] < 0 else values[-1]
        raise ArgumentError(
            f'label: "{name}" has the value {wrong}, expected class numbers from 0 to {MAX_CLASSES - 1}, which is what fit(class_weight=) '
            "takes. Number the classes from 0 on."
        )
    return weights


def _balanced(values: np.ndarray, counts: np.ndarray) -> dict[int, float] | None:
    """The weight of each class; None where the values are no numbers of classes."""
    if not len(values) or values[0] < 0 or values[-1] >= MAX_CLASSES:
        return None
    weights = dict.fromkeys(range(int(values[-1]) + 1), 1.0)
    return weights | dict(zip(values.tolist(), (counts.sum() / (len(counts) * counts)).tolist(), strict=True))


def _counts(index: Index, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of a label in ascending order, and how many records have each."""
    return np.unique(index.rows[f"value:{name}"], return_counts=True)


def _class_labels(index: Index) -> list[str]:
    """The scalar integers of which the index has the values: all, but for those that only the user's own function gives."""
    return [name for name in index.schema.fields if _is_class(index, name)]


def _is_class(index: Index, name: str) -> bool:
    field = index.schema.fields[name]
    return index.is_inline(name) and isinstance(field, Fixed) and field.dimensions == () and np.dtype(field.dtype).kind in "iu"


def _class_label(index: Index, label: str | None) -> str:
    """The name of the scalar integer that is meant."""
    schema = index.schema
    if label is None:
        label = index.label
    if label is None:
        label = "label" if "label" in schema.fields else only_candidate("label", schema, _class_labels(index))
    field = schema.fields.get(label) if isinstance(label, str) else None
    if label is None or field is None or not _is_class(index, label):
        found = "no such field" if field is None else repr(field)
        known = _class_labels(index) or "none"
        raise SchemaError(f"label: {label!r} is {found}, expected a Fixed scalar of integers; of that kind the index has {known}.")
    return label


def _label(index: Index, name: str, with_lengths: bool) -> LabelSummary:
    values, counts = _counts(index, name)
    names = _class_names(index, name)
    lengths: list[Lengths | None] = [None] * len(values)
    if with_lengths and len(values):
        first = next(iter(index.schema.sequences))
        order = np.argsort(index.rows[f"value:{name}"], kind="stable")
        parts = np.split(index.frames(first)[order], np.cumsum(counts)[:-1])
        lengths = [Lengths.of(part, _hop_ms(index, first)) for part in parts]
    classes = tuple(
        ClassCount(value, names[value] if 0 <= value < len(names) else None, count, of)
        for value, count, of in zip(values.tolist(), counts.tolist(), lengths, strict=True)
    )
    return LabelSummary(classes, _balanced(values, counts))


def _class_names(index: Index, name: str) -> list[str]:
    """What the metadata call the classes of this label: `vlpipe ingest` notes those of the only one, which it calls "label"."""
    names = index.metadata.get("classes")
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        return []
    return names if name == "label" or _class_labels(index) == [name] else []


def _hop_ms(index: Index, name: str) -> float | None:
    """Milliseconds from one frame to the next, of the first sequence: as `vlpipe ingest` notes it, or of the samples of recordings."""
    features, rate = index.metadata.get("features"), index.metadata.get("sample_rate")
    hop = features.get("hop_ms") if isinstance(features, dict) else None
    if type(rate) is int and rate > 0:
        hop = 1000 / rate
    if isinstance(hop, bool) or not isinstance(hop, (int, float)) or not 0 < hop < math.inf:
        return None
    return float(hop) if name == next(iter(index.schema.sequences)) else None


def _sequence(index: Index, name: str) -> SequenceSummary:
    field, moments = index.schema.sequences[name], index.statistics.get(name)
    lengths = Lengths.of(index.frames(name), _hop_ms(index, name))
    if moments is None:
        return SequenceSummary(field.dimensions, field.dtype, lengths, None, None, None, None)
    mean, std = _seen(moments, moments.mean), _seen(moments, np.sqrt(moments.variance))
    return SequenceSummary(field.dimensions, field.dtype, lengths, mean, std, moments.not_finite, moments.to_json())


def _seen(moments: Moments, numbers: np.ndarray) -> tuple[float | None, ...]:
    """The number of each dimension; None where no finite value was seen, or where it is beyond a float64."""
    pairs: Any = zip(moments.count.tolist(), numbers.tolist(), strict=True)
    return tuple(number if count and math.isfinite(number) else None for count, number in pairs)


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
